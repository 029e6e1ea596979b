"""Headers that a client sends to have others cut, added or believed."""

import asyncio

import pytest

from tests.edge.between import OURS, get, marker, post, problem
from tests.gateway.proxied import ACME, OTHER, OWN_KEY, PLATFORM_KEY

HOP_BY_HOP = (
    *(b"Connection: X-Private", b"Connection: x-private , X-Other", b"Connection: keep-alive, X-Private"),
    *(b"Keep-Alive: timeout=5", b"TE: trailers", b"Trailer: X-Private", b"Proxy-Authorization: Basic eA=="),
    *(b"Proxy-Authenticate: Basic", b"Proxy-Connection: keep-alive"),
)


@pytest.mark.parametrize("header", HOP_BY_HOP, ids=bytes.decode)
async def test_what_is_between_two_neighbours_goes_no_further(edge, header):
    told = await edge.tell(post(header, b"X-Kept: yes", b"X-Private: secret") + marker())

    assert problem(edge, told) is None
    names = {name.lower() for name, _ in told.seen[0].request.headers}
    assert b"x-kept" in names
    assert header.partition(b":")[0].lower() not in names
    if header.startswith(b"Connection"):
        assert b"x-private" not in names


@pytest.mark.parametrize(
    "named",
    [
        b"Authorization",
        b"authorization",
        b"X-Gateway-Key",
        b"X-Tenant-ID",
        b"Content-Length",
        b"Host",
        b"X-Gateway-Category",
        b"Content-Length, Host, Authorization",
        b"Transfer-Encoding",
        b"Connection",
    ],
    ids=bytes.decode,
)
async def test_a_client_can_not_have_cut_what_we_send_or_decide_by(edge, named):
    told = await edge.tell(
        post(b"Connection: keep-alive, " + named, b"X-Tenant-ID: own", b"X-Gateway-Category: rag") + marker()
    )

    assert problem(edge, told) is None
    assert [answer.status for answer in told.answers] == [200, 200]
    request = told.seen[0].request
    assert request.all(b"authorization") == [b"Bearer " + OWN_KEY.encode()]
    assert request.all(b"host") == [b"127.0.0.1:%d" % edge.provider.port]
    assert request.body == b"{}"
    assert [event.category for event in edge.proxied.events if event.tenant_id == "own"] == ["rag"]


async def test_a_key_that_connection_names_is_still_the_one_that_counts(edge):
    told = await edge.tell(
        post(b"Connection: X-Gateway-Key, Authorization", b"X-Gateway-Key: " + OTHER.encode()) + marker()
    )

    assert problem(edge, told) is None
    assert told.seen[0].request.all(b"authorization") == [b"Bearer " + PLATFORM_KEY.encode()]
    assert {event.tenant_id for event in edge.proxied.events} == {"other"}


CLAIMS = (
    *(
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Host: evil.example",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Port: 1",
    ),
    *(b"X-Forwarded-Prefix: /v1/admin", b"Forwarded: for=127.0.0.1;host=evil.example", b"X-Real-IP: 127.0.0.1"),
    *(
        b"X-Original-URL: /v1/tenants",
        b"X-Rewrite-URL: /v1/tenants",
        b"X-Host: evil.example",
        b"True-Client-IP: 127.0.0.1",
    ),
    *(b"X-Tenant: other", b"X-Tollkeeper-Tenant: other", b"X-User: admin", b"X-Role: admin", b"Tenant-ID: other"),
    *(b"x-tollkeeper-call-id: 1", b"x-tollkeeper-error: none", b"X-Request-ID: " + b"a" * 10_000),
)


@pytest.mark.parametrize("header", CLAIMS, ids=lambda header: header.partition(b":")[0].decode())
async def test_what_a_client_says_of_itself_changes_nothing(edge, header):
    told = await edge.tell(post(header) + marker())

    assert problem(edge, told) is None
    assert [answer.status for answer in told.answers] == [200, 200]
    assert told.seen[0].request.target == b"/v1/chat/completions"
    assert told.seen[0].request.all(b"authorization") == [b"Bearer " + OWN_KEY.encode()]
    identifiers = [answer.get(b"x-tollkeeper-call-id") for answer in told.answers]
    assert identifiers == [str(event.event_id).encode() for event in edge.proxied.events]
    await edge.recorded()


OWN_HEADERS = (
    b"X-Gateway-Category",
    b"X-Gateway-Tags",
    b"X-Gateway-Metering",
    b"X-Gateway-Key",
    b"X-Tenant-ID",
    b"X-Request-ID",
)
VALUES = (
    *(b"a\rX-Injected: yes", b"a\nX-Injected: yes", b"a\r\n X-Injected: yes", b"a\0b", b"a\x7fb", b"\xe4", b"a\x85b"),
    *("a\u2028X-Injected: yes".encode(), b"a%0d%0aX-Injected: yes", b"a\\r\\nX-Injected: yes", b"a\x0bb", b"a" * 5000),
)


@pytest.mark.parametrize("name", OWN_HEADERS, ids=bytes.decode)
async def test_no_value_of_a_header_becomes_a_header(edge, name):
    told = await asyncio.gather(*(edge.tell(post(name + b": " + value) + marker()) for value in VALUES))

    for value, one in zip(VALUES, told, strict=True):
        assert problem(edge, one) is None, value
        assert one.ended, value
        sides = [*(seen.request.headers for seen in one.seen), *(answer.headers for answer in one.answers)]
        assert not any(found.lower() == b"x-injected" for headers in sides for found, _ in headers), value
    await edge.recorded()


ALIASES = (
    b"X_Gateway_Key",
    b"X-Gateway_Key",
    b"x_gateway-key",
    b"X_Tenant_ID",
    b"X-Tenant_ID",
    b"X_GATEWAY_METERING",
    b"X_Gateway_Tags",
)


@pytest.mark.parametrize("name", ALIASES, ids=bytes.decode)
async def test_an_alias_of_a_header_of_ours_is_not_believed_and_goes_nowhere(edge, name):
    """Behind some servers the two are one: what is cut under one name must not arrive under the other."""
    told = await edge.tell(get(name + b": " + ACME.encode()) + marker())

    assert problem(edge, told) is None
    assert not any(OURS.fullmatch(found) for seen in told.seen for found, _ in seen.request.headers)
    assert {event.tenant_id for event in edge.proxied.events} <= {"own", "other"}
