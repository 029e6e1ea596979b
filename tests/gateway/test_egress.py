"""Where requests to applications may lead, and that they lead nowhere else."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.egress import (
    ANSWER_BYTES_MAX,
    LOOKUPS_AT_ONCE_MAX,
    LOOKUPS_OF_DOMAIN_MAX,
    Egress,
    Forbidden,
    Policy,
    TooSlow,
    Unreachable,
    is_public,
)
from tests.certificates import made_certificate

PATIENCE_S = 30

HOST = "app.example"


class Application:
    """Somebody's application, on this machine."""

    def __init__(self, answer: Callable[[web.Request], web.StreamResponse] | None = None) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.port = 0
        self._answer = answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        found = web.Response(text="thanks") if self._answer is None else self._answer(request)
        return await found if asyncio.iscoroutine(found) else found


@asynccontextmanager
async def application(answer=None, tls=None) -> AsyncIterator[Application]:
    one = Application(answer)
    server = web.Application(client_max_size=64 << 20)
    server.router.add_route("*", "/{path:.*}", one.handle)
    runner = web.AppRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    one.port = site._server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        await runner.cleanup()


class Names:
    """A name server, which may change its mind."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers) or [["127.0.0.1"]]
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


OPEN = Policy(callback_hosts=(HOST,))


async def sent(
    url, policy=OPEN, lookup=None, *, method="POST", headers=(), body=b"a=1", timeout_s=PATIENCE_S, tls=None
):
    async with Egress(policy, lookup or Names(), tls) as egress:
        return await egress.send(url, method, headers, body, timeout_s)


# ---------------------------------------------------------------------------------------------------------------------
# Which addresses


PUBLIC = [
    "93.184.216.34",
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.0",
    "172.32.0.1",
    "2606:4700::1111",
    "64:ff9b::101:101",
]
NOT_PUBLIC = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.170",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:93.184.216.34",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_everybodys_is_not_public(address):
    assert not is_public(address)


@given(st.ip_addresses())
def test_what_python_knows_not_to_be_global_is_not_public(address):
    if not address.is_global or address.is_multicast:
        assert not is_public(str(address)) or address in ipaddress.ip_network("64:ff9b::/96")


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_a_name_that_leads_to_such_an_address_is_not_called(address):
    with pytest.raises(Forbidden, match="not public"):
        await sent("http://rebound.example/", lookup=Names([address]))


async def test_a_name_of_whose_addresses_one_is_not_public_is_not_called():
    with pytest.raises(Forbidden, match="TOLLKEEPER_CALLBACK_HOSTS"):
        await sent("https://rebound.example/", lookup=Names([*PUBLIC, "127.0.0.1"]))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "0.0.0.0",
        "2130706433",
        "127.1",
        "0x7f.0.0.1",
        "017700000001",
        "localhost",
        "LOCALHOST.",
        "[fe80::1%25lo]",
    ],
)
async def test_this_machine_is_not_called_however_it_is_spelled(host):
    async with application() as application_here:
        with pytest.raises((Forbidden, Unreachable)):
            async with Egress(Policy()) as egress:
                await egress.send(f"http://{host}:{application_here.port}/", "GET", (), b"", PATIENCE_S)

    assert application_here.asked == []


async def test_the_addresses_that_were_judged_are_those_that_are_called():
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    async with application() as application_here:
        await sent(f"http://{HOST}:{application_here.port}/", lookup=names)

    assert names.asked == [HOST]
    assert len(application_here.asked) == 1


async def test_a_name_is_judged_anew_for_each_request():
    names = Names(["127.0.0.1"], ["127.0.0.1", "::1"])
    policy = Policy()
    async with application() as application_here, Egress(OPEN, names) as egress:
        url = f"http://{HOST}:{application_here.port}/"
        await egress.send(url, "GET", (), b"", PATIENCE_S)
        egress.policy = policy
        with pytest.raises(Forbidden):
            await egress.send(url, "GET", (), b"", PATIENCE_S)

    assert len(application_here.asked) == 1


@pytest.mark.parametrize(
    ("named", "url", "allowed"),
    [
        ("app.example", "http://app.example:{port}/", True),
        ("APP.example", "http://app.EXAMPLE:{port}/", True),
        ("app.example:{port}", "http://app.example:{port}/", True),
        ("app.example:1", "http://app.example:{port}/", False),
        ("app.example", "http://a.app.example:{port}/", False),
        ("app.example", "http://app.example.org:{port}/", False),
        ("example", "http://app.example:{port}/", False),
        ("127.0.0.1", "http://127.0.0.1:{port}/", True),
        ("127.0.0.1", "http://app.example:{port}/", False),
    ],
)
async def test_a_host_that_the_operator_names_may_have_any_address_and_no_other_host_may(named, url, allowed):
    async with application() as application_here:
        policy = Policy(callback_hosts=(named.format(port=application_here.port),))
        asking = sent(url.format(port=application_here.port), policy)
        if allowed:
            assert (await asking).status == 200
        else:
            with pytest.raises(Forbidden):
                await asking

    assert len(application_here.asked) == allowed


def test_an_address_of_version_6_can_be_named():
    for named in ("::1", "[::1]", "[::1]:9000"):
        Policy(callback_hosts=(named,)).read("http://[::1]:9000/")
    with pytest.raises(Forbidden):
        Policy(callback_hosts=("[::1]:9001",)).read("http://[::1]:9000/")


# ---------------------------------------------------------------------------------------------------------------------
# Which URLs


@pytest.mark.parametrize(
    "url",
    [
        "",
        "app.example",
        "/hooks",
        "//app.example/",
        "ftp://app.example/",
        "file:///etc/passwd",
        "gopher://app.example/",
        "unix:///var/run/docker.sock",
        "http://",
        "http:///hooks",
        "http://app.example:0/",
        "http://app.example:99999/",
        "http://app.example:port/",
        "http://ada:secret@app.example/",
        "http://ada@app.example/",
        "http://@app.example/",
        "http://127.0.0.1@app.example/",
        "http://app.example\\@127.0.0.1/",
        "http://app.example/a b",
        "http://app.example/\r\nX: 1",
        "http://app.example/ä",
        "http://[::1/",
        "http://app.example/" + "a" * 8000,
    ],
)
def test_what_is_no_url_of_the_web_is_not_called(url):
    with pytest.raises(Forbidden) as refused:
        OPEN.read(url)

    assert "secret" not in str(refused.value)


@given(st.text(max_size=40), st.sampled_from(["", "http://", "https://", "http://[", "http://a:"]))
def test_whatever_is_given_as_a_url_is_judged(text, before):
    with suppress(Forbidden):
        Policy().read(before + text)


@pytest.mark.parametrize(
    ("public_url", "url", "ours"),
    [
        ("https://toll.example", "https://toll.example/twilio/acme", True),
        ("https://toll.example", "https://TOLL.example.:443", True),
        ("https://toll.example", "http://toll.example/hooks", False),
        ("https://toll.example", "https://toll.example:8443/hooks", False),
        ("https://example.com/toll", "https://example.com/toll", True),
        ("https://example.com/toll/", "https://example.com/toll/twilio", True),
        ("https://example.com/toll", "https://example.com/%74oll/twilio", True),
        ("https://example.com/toll", "https://example.com/hooks/../toll/", True),
        ("https://example.com/toll", "https://example.com//toll/", True),
        ("https://example.com/toll", "https://example.com/tollhouse", False),
        ("https://example.com/toll", "https://example.com/hooks", False),
    ],
)
def test_the_gateway_does_not_call_itself(public_url, url, ours):
    policy = Policy(public_url=public_url)
    if ours:
        with pytest.raises(Forbidden, match="the gateway's own"):
            policy.read(url)
    else:
        assert str(policy.read(url)) == url


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
async def test_the_gateway_does_not_call_its_own_port_though_the_host_is_named(address):
    async with application() as application_here:
        policy = Policy(callback_hosts=(HOST, address), own_ports=frozenset({application_here.port}))
        for host in (HOST, address):
            with pytest.raises(Forbidden, match="leads to the gateway"):
                await sent(f"http://{host}:{application_here.port}/", policy, Names([address]))

    assert application_here.asked == []


# ---------------------------------------------------------------------------------------------------------------------
# What is sent, and what is answered


async def test_what_is_sent_arrives_as_it_is():
    headers = [("Content-Type", "application/json; charset=x"), ("X-Tollkeeper-Delivery-Id", "d1")]
    async with application() as application_here:
        answer = await sent(
            f"http://{HOST}:{application_here.port}/a%2Fb?q=%20+'&&x", headers=headers, body=b'{"a": 1}'
        )

    assert (answer.status, answer.body, answer.whole) == (200, b"thanks", True)
    ((method, path, received, body),) = application_here.asked
    assert (method, path, body) == ("POST", "/a%2Fb?q=%20+'&&x", b'{"a": 1}')
    assert received == {
        "Host": f"{HOST}:{application_here.port}",
        "Content-Type": "application/json; charset=x",
        "X-Tollkeeper-Delivery-Id": "d1",
        "Accept-Encoding": "identity",
        "User-Agent": "Tollkeeper",
        "Content-Length": "8",
        "Connection": "close",
    }


async def test_thirty_mebibytes_arrive():
    body = bytes(range(256)) * (30 << 12)
    async with application() as application_here:
        await sent(f"http://{HOST}:{application_here.port}/", body=body)

    assert application_here.asked[0][3] == body


async def test_a_redirect_is_not_followed():
    async with application(lambda request: web.Response(status=301, headers={"Location": "/elsewhere"})) as elsewhere:
        answer = await sent(f"http://{HOST}:{elsewhere.port}/")

    assert (answer.status, answer.headers["location"]) == (301, "/elsewhere")
    assert len(elsewhere.asked) == 1


async def test_no_cookie_is_kept():
    def answer(request: web.Request) -> web.Response:
        response = web.Response()
        response.set_cookie("session", "1")
        return response

    async with application(answer) as application_here, Egress(OPEN, Names()) as egress:
        for _ in range(2):
            await egress.send(f"http://{HOST}:{application_here.port}/", "GET", (), b"", PATIENCE_S)

    assert not any("Cookie" in headers for _, _, headers, _ in application_here.asked)


async def test_a_proxy_that_the_environment_names_is_not_used(monkeypatch):
    async with application() as proxy, application() as application_here:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        await sent(f"http://{HOST}:{application_here.port}/")

    assert (len(proxy.asked), len(application_here.asked)) == (0, 1)


async def test_an_answer_is_not_inflated():
    packed = b"\x1f\x8b not even gzip"
    async with application(lambda request: web.Response(body=packed, headers={"Content-Encoding": "gzip"})) as one:
        answer = await sent(f"http://{HOST}:{one.port}/")

    assert (answer.status, answer.body) == (200, packed)


@pytest.mark.parametrize(
    ("size", "whole"), [(ANSWER_BYTES_MAX, True), (ANSWER_BYTES_MAX + 1, False), (64 << 20, False)]
)
async def test_of_a_long_answer_the_beginning_is_kept(size, whole):
    async with application(lambda request: web.Response(body=bytes(size))) as application_here:
        answer = await sent(f"http://{HOST}:{application_here.port}/")

    assert (answer.status, len(answer.body), answer.whole) == (200, min(size, ANSWER_BYTES_MAX), whole)


async def test_an_answer_whose_body_does_not_end_in_time_says_its_status():
    released = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=202)
        await response.prepare(request)
        await response.write(b"begun")
        await released.wait()
        return response

    async with application(answer) as application_here:
        found = await sent(f"http://{HOST}:{application_here.port}/", timeout_s=1)
        released.set()

    assert (found.status, found.body, found.whole) == (202, b"begun", False)


async def test_one_who_does_not_answer_in_time_is_not_waited_for():
    released = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    async with application(answer) as application_here:
        with pytest.raises(TooSlow):
            await sent(f"http://{HOST}:{application_here.port}/", timeout_s=0.3)
        released.set()


async def test_a_name_server_that_does_not_answer_in_time_is_not_waited_for():
    released = threading.Event()

    def lookup(host: str, port: int) -> Sequence[str]:
        released.wait(PATIENCE_S)
        return ["127.0.0.1"]

    with pytest.raises(TooSlow):
        await sent(f"http://{HOST}/", lookup=lookup, timeout_s=0.3)
    released.set()


async def test_a_name_server_that_never_answers_leaves_the_threads_to_other_domains():
    """Guards everybody's callbacks: one tenant could name a thousand hosts whose name server is its own."""
    released, lock, looking, peaks = threading.Event(), threading.Lock(), Counter(), Counter()

    def lookup(host: str, port: int) -> Sequence[str]:
        domain = host.partition(".")[2]
        with lock:
            looking[domain] += 1
            peaks[domain] = max(peaks[domain], looking[domain])
        if domain == "silent.example":
            released.wait(PATIENCE_S)
        with lock:
            looking[domain] -= 1
        return ["127.0.0.1"]

    silent = [f"{number}.silent.example" for number in range(LOOKUPS_AT_ONCE_MAX * 2)]
    policy = Policy(callback_hosts=(*silent, "app.other.example"))

    async with application() as application_here, Egress(policy, lookup) as egress:

        async def asked(host, timeout_s):
            return await egress.send(f"http://{host}:{application_here.port}/", "POST", (), b"", timeout_s)

        # Those whose time is over leave their threads behind, which still count.
        given_up = await asyncio.gather(*(asked(host, 0.2) for host in silent[::2]), return_exceptions=True)
        waiting = [asyncio.create_task(asked(host, PATIENCE_S)) for host in silent[1::2]]
        other = await asked("app.other.example", PATIENCE_S)
        peak = peaks["silent.example"]
        released.set()
        answers = await asyncio.gather(*waiting)

    assert {type(one) for one in given_up} == {TooSlow}
    assert other.status == 200
    assert peak == LOOKUPS_OF_DOMAIN_MAX
    assert {one.status for one in answers} == {200}


async def test_where_nobody_listens_nobody_is_reached():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable):
            await sent(f"http://{HOST}:{free.getsockname()[1]}/")


async def test_a_name_that_is_not_known_is_not_reached():
    def lookup(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, f"unknown {host}")

    with pytest.raises(Unreachable) as failed:
        await sent("http://secret.example/", lookup=lookup)

    assert "secret" not in str(failed.value)


async def test_what_does_not_speak_http_is_not_taken_for_an_answer():
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        with pytest.raises(Unreachable):
            await sent(f"http://{HOST}:{server.sockets[0].getsockname()[1]}/")


async def test_a_header_with_a_line_break_is_not_sent():
    async with application() as application_here:
        with pytest.raises(Forbidden):
            await sent(f"http://{HOST}:{application_here.port}/", headers=[("X-A", "1\r\nX-B: 2")])

    assert application_here.asked == []


async def test_a_certificate_is_asked_for_the_name_that_was_given(tmp_path):
    certificate = made_certificate(tmp_path, HOST)
    trusting = certificate.trusted()
    other = "other.example"
    async with application(tls=certificate.served()) as application_here:
        url = f"https://{HOST}:{application_here.port}/"
        assert (await sent(url, tls=trusting)).status == 200
        with pytest.raises(Unreachable, match="certificate"):
            await sent(url)
        with pytest.raises(Unreachable, match="certificate"):
            await sent(url.replace(HOST, other), Policy(callback_hosts=(other,)), tls=trusting)

    assert len(application_here.asked) == 1
