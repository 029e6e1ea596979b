"""What was not read of one request is never read as another; what one tenant sends never reaches another's answer."""

import asyncio
import json

import pytest

from tests.edge.between import BODY, CHAT, MARK, marker, post, problem
from tests.edge.cases import CASES, SMUGGLED, Verdict, chunked
from tests.gateway.proxied import EXPIRED, OTHER, OWN, SUSPENDED

BODIES = {
    "of a length": (b"Content-Length: %d" % len(SMUGGLED), SMUGGLED),
    "in chunks": (b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
    "that never ends": (b"Content-Length: 1000000", SMUGGLED),
    "in a chunk that never ends": (b"Transfer-Encoding: chunked", b"fffff\r\n" + SMUGGLED),
}
REFUSALS = {
    "without a key": (401, CHAT, ()),
    "with a key that is none": (401, CHAT, (b"Authorization: Bearer sk-not-ours",)),
    "with an expired key": (401, CHAT, (b"Authorization: Bearer " + EXPIRED.encode(),)),
    "of a suspended tenant": (403, CHAT, (b"Authorization: Bearer " + SUSPENDED.encode(),)),
    "for another tenant": (403, CHAT, (b"Authorization: Bearer " + OWN.encode(), b"X-Tenant-ID: other")),
    "to no provider": (404, b"/nowhere/v1/chat/completions", (b"Authorization: Bearer " + OWN.encode(),)),
    "to no host of a provider": (404, b"/twilio/evil/v1/a", (b"Authorization: Bearer " + OWN.encode(),)),
    "with a bad header": (400, CHAT, (b"Authorization: Bearer " + OWN.encode(), b"X-Gateway-Category: \xff")),
    "in a body that can not be read": (
        415,
        b"/openai/v1/nothing-of-this-name",
        (b"Authorization: Bearer " + OTHER.encode(), b"Content-Encoding: br"),
    ),
    "to the health of the gateway": (200, b"/healthz", ()),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_the_body_of_a_refused_request_is_no_request(edge, refusal, body):
    status, target, headers = REFUSALS[refusal]
    framing, sent = BODIES[body]
    head = (b"POST " + target + b" HTTP/1.1", b"Host: gateway.example", b"X-Mark: " + MARK + b"a", *headers, framing)
    data = b"\r\n".join(head) + b"\r\n\r\n" + sent + marker()

    whole, apart = await edge.tell(data), (await edge.tell_cut(data, [data.index(b"\r\n\r\n") + 4]))[0]

    for told in (whole, apart):
        assert problem(edge, told) is None
        assert told.answers[0].status == status
        assert not any(seen.request.all(b"x-smuggled") for seen in told.seen)
    await edge.recorded()


async def test_no_tenant_gets_an_answer_to_what_another_has_sent(edge):
    """Both share the pool of connections to the provider: one attacks, the other asks a thousand times."""
    attacks = [case.data for case in CASES.values() if case.verdict in (Verdict.REFUSED, Verdict.CUT)] * 2

    probes = asyncio.gather(*(edge.tell(marker()) for _ in range(1000)))
    await asyncio.gather(*(edge.tell(data + marker()) for data in attacks))

    for told in await probes:
        assert problem(edge, told) is None
        assert told.ended
        assert [answer.status for answer in told.answers] == [200]
    assert edge.provider.wrong == []


STRANGE = {
    "of a great depth": b'{"model": "gpt-4o", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "of a great depth that never ends": b'{"a":' * 100_000,
    "of a great number": b'{"model": "gpt-4o", "n": ' + b"9" * 100_000 + b"}",
    "of a great fraction": b'{"model": "gpt-4o", "n": 1e' + b"9" * 1000 + b"}",
    "not a number": b'{"model": "gpt-4o", "n": NaN, "m": -Infinity}',
    "with half a surrogate": b'{"model": "\\ud800", "messages": [{"role": "user", "content": "\\udfff"}]}',
    "with a name twice": b'{"model": "gpt-4o", "model": "gpt-4o-mini", "stream": false, "stream": false}',
    "that is no UTF-8": b'{"model": "\xff\xfe"}',
    "with a byte order mark": b"\xef\xbb\xbf" + BODY,
    "of a NUL": b"\0",
    "of nothing": b"",
    "of a list": b"[]",
    "of a word": b"null",
    "of a model that is a list": b'{"model": ["gpt-4o"], "stream": []}',
    "of a stream that is a text": b'{"model": "gpt-4o", "stream": "true"}',
    "larger than what is held": json.dumps({"model": "gpt-4o", "messages": "a" * (9 << 20)}).encode(),
}
PLACES = (
    CHAT,
    b"/openai/v1/responses",
    b"/openai/v1/embeddings",
    b"/twilio/messaging/v1/Services",
    b"/sendgrid/v3/mail/send",
)


@pytest.mark.parametrize("what", STRANGE)
async def test_a_strange_body_is_forwarded_as_it_is_or_refused(edge, what):
    body = STRANGE[what]
    sent = [post(target=target, body=body) for target in PLACES if len(body) < 1 << 20 or target == CHAT]

    told = await asyncio.gather(*(edge.tell(data + marker()) for data in sent))

    for one in told:
        assert problem(edge, one) is None
        assert one.ended
        assert one.answers[0].status == 200 or 400 <= one.answers[0].status < 500
    await edge.recorded()


async def test_requests_of_a_kind_that_providers_do_not_expect_bodies_in_carry_theirs(edge):
    told = await edge.tell(
        post(method=b"GET", target=b"/openai/v1/models", body=SMUGGLED)
        + post(method=b"DELETE", target=b"/openai/v1/files/a", body=SMUGGLED)
        + chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), method=b"GET", target=b"/openai/v1/models")
        + marker()
    )

    assert problem(edge, told) is None
    assert told.ended
    assert [seen.request.body for seen in told.seen[:3]] == [told.seen[0].request.body] * 3
    assert told.seen[0].request.body.endswith(b"{}")
