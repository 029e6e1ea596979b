"""WebSockets through the gateway: every byte both ways, who pays for a session, and what is never taken for one.

On both sides are sockets that speak bytes; the official SDK and the simulated provider come at the end.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from gateway.limits import ClientLimits, UpstreamLimits
from gateway.request_body import LOOK_BYTES
from gateway.simulator.truth import fingerprint, read_billed
from metering.usage import Completeness
from tests.frames import BINARY, CONTINUED, PING, PONG, close, frame
from tests.gateway.peers import (
    Message,
    Peer,
    answer,
    answers,
    chunked,
    client,
    eventually,
    provider,
    sending_without_end,
    settled,
    soon,
    stalled_client,
)
from tests.gateway.proxied import (
    ACME,
    ALL_KEYS,
    CHAT,
    COMPLETION,
    EXPIRED,
    OTHER,
    OWN,
    OWN_KEY,
    PLATFORM_KEY,
    SUSPENDED,
    chat,
    proxied,
    request,
    sid_of,
)
from tests.walks.harness import PROVIDER_KEY, installation

REALTIME = "/openai/v1/realtime?model=gpt-realtime"
JSON = b"Content-Type: application/json"
WHOLE = json.dumps(COMPLETION).encode()

NONCE = "dGhlIHNhbXBsZSBub25jZQ=="
OFFERED = "openai-insecure-api-key."
"""What stands before the key where it is one of the subprotocols: a browser can send no header."""
MARKER = b"GET /openai/v1/models HTTP/1.1\r\nHost: gateway.example\r\nX-Marker: smuggled\r\n\r\n"
"""What stands behind an upgrade that is none, and must never reach anybody."""

HELD_BYTES_MAX = 48 << 20
"""What a gateway and the four socket buffers around it may hold; on a loopback, buffers grow to some 6 MiB each."""


def told(kind: str, *, masked: bool = False, **fields: object) -> bytes:
    """An event of a session, the provider's where it is not masked."""
    return frame(json.dumps({"type": kind, "event_id": "event_1", **fields}).encode(), masked=masked)


CREATE = told("response.create", masked=True)


def upgrade(path: str = REALTIME, *headers: str, key: str | None = ACME, method: str = "GET") -> bytes:
    """A request to go on as a WebSocket."""
    asked = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {NONCE}", "Sec-WebSocket-Version: 13")
    return request(path, b"", *asked, *headers, key=key, method=method)


def switching(asked: Message | None = None, *headers: bytes) -> bytes:
    """The answer that agrees."""
    nonce = NONCE if asked is None else asked["sec-websocket-key"] or ""
    accept = base64.b64encode(hashlib.sha1(nonce.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    lines = (b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade")
    return b"\r\n".join((*lines, b"Sec-WebSocket-Accept: " + accept, *headers)) + b"\r\n\r\n"


class Realtime:
    """A provider's side: agrees to every upgrade, then does what the test says, one session for each connection."""

    def __init__(self, *headers: bytes, behind: bytes = b"") -> None:
        self.headers = headers
        self.behind = behind
        self.asked: list[Message] = []
        self.sessions: asyncio.Queue[Peer] = asyncio.Queue()
        self.over = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        self.asked.append(await peer.message())
        await peer.send(switching(self.asked[-1], *self.headers) + self.behind)
        self.sessions.put_nowait(peer)
        await self.over.wait()

    async def session(self) -> Peer:
        return await soon(self.sessions.get())


async def taken(peer: Peer, size: int) -> bytes:
    return await soon(peer.reader.readexactly(size))


@pytest.fixture
def gateway(tmp_path):
    """A proxy before a provider that does what the script says."""

    @asynccontextmanager
    async def made(script, **options):
        async with provider(script) as serving, proxied(tmp_path, serving, **options) as found:
            yield found

    return made


@asynccontextmanager
async def opened(made, *headers: str, path: str = REALTIME, key: str | None = ACME) -> AsyncIterator[Peer]:
    """A client whose session has begun."""
    async with client(made.port) as peer:
        await peer.send(upgrade(path, *headers, key=key))
        head = await peer.message(bodiless=True)
        assert head.status == 101, head.raw
        yield peer


@asynccontextmanager
async def both(gateway, **options):
    """A session's two ends, with the proxy between them."""
    realtime = Realtime()
    async with gateway(realtime, **options) as made, opened(made) as here:
        yield made, here, await realtime.session()


async def ended(made, count: int = 1) -> list:
    """The events, once so many sessions are recorded."""
    await eventually(lambda: len(made.events) >= count and len(made.lines) >= count)
    return made.events


# ---------------------------------------------------------------------------------------------------------------------
# Opening a session


async def test_an_upgrade_reaches_the_provider_as_it_came_but_for_the_credential(gateway):
    realtime = Realtime(
        b"Sec-WebSocket-Extensions: permessage-deflate", b"X-Request-Id: req_1", b"openai-organization: org-real"
    )
    path = "/openai/v1/realtime?model=gpt-realtime&a=b%2Fc&&x"
    extras = ("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", "X-Gateway-Category: support")
    async with gateway(realtime) as made, client(made.port) as peer:
        await peer.send(upgrade(path, *extras, "OpenAI-Safety-Identifier: u1"))
        head = await peer.message(bodiless=True)
        await realtime.session()
    (asked,) = realtime.asked
    assert (asked.start, asked.body) == (b"GET /v1/realtime?model=gpt-realtime&a=b%2Fc&&x HTTP/1.1", b"")
    assert asked["upgrade"].lower() == "websocket"
    assert [option.strip().lower() for option in asked["connection"].split(",")] == ["upgrade"]
    assert (asked["sec-websocket-key"], asked["sec-websocket-version"]) == (NONCE, "13")
    assert asked["sec-websocket-extensions"] == "permessage-deflate; client_max_window_bits"
    assert asked["openai-safety-identifier"] == "u1"
    assert asked.all("authorization") == [f"Bearer {PLATFORM_KEY}"]
    assert asked["x-gateway-category"] is None
    assert asked["content-length"] is None
    assert asked["transfer-encoding"] is None
    assert asked["host"] == f"127.0.0.1:{made.provider.port}"

    assert head.start == b"HTTP/1.1 101 Switching Protocols"
    assert head["upgrade"].lower() == "websocket"
    assert head["connection"].lower() == "upgrade"
    assert head["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert head["sec-websocket-extensions"] == "permessage-deflate"
    assert head["x-request-id"] == "req_1"
    assert head["openai-organization"] is None
    assert (head["content-length"], head["transfer-encoding"]) == (None, None)
    assert PLATFORM_KEY.encode() not in bytes(peer.seen)


@pytest.mark.parametrize(
    "lines",
    [
        (f"Sec-WebSocket-Protocol: realtime, {OFFERED}{ACME}, openai-beta.realtime-v1",),
        (f"Sec-WebSocket-Protocol: realtime,{OFFERED}{ACME},openai-beta.realtime-v1",),
        (f"sec-websocket-protocol: {OFFERED}{ACME} ,realtime, openai-beta.realtime-v1",),
        (
            "Sec-WebSocket-Protocol: realtime",
            f"Sec-WebSocket-Protocol: {OFFERED}{ACME}",
            "Sec-WebSocket-Protocol: openai-beta.realtime-v1",
        ),
    ],
    ids=["as-browsers-do", "no-spaces", "first", "lines-of-their-own"],
)
async def test_a_key_among_the_subprotocols_is_exchanged_and_the_others_are_offered_on(gateway, lines):
    realtime = Realtime(b"Sec-WebSocket-Protocol: realtime")
    async with gateway(realtime) as made, client(made.port) as peer:
        await peer.send(upgrade(REALTIME, *lines, key=None))
        head = await peer.message(bodiless=True)
        await realtime.session()
        peer.reset()
        (event,) = await ended(made)
    (asked,) = realtime.asked
    offered = [one.strip() for line in asked.all("sec-websocket-protocol") for one in line.split(",")]
    assert offered == ["realtime", "openai-beta.realtime-v1"]
    assert asked.all("authorization") == [f"Bearer {PLATFORM_KEY}"]
    assert (head.status, head["sec-websocket-protocol"]) == (101, "realtime")
    assert event.tenant_id == "acme"
    assert not [key for key in ALL_KEYS if key.encode() in made.provider.seen]


async def test_of_two_keys_among_the_subprotocols_none_is_taken(gateway):
    """Guards that nobody's call is billed to whoever's key happens to stand first."""
    async with gateway(Realtime()) as made, client(made.port) as peer:
        line = f"Sec-WebSocket-Protocol: realtime, {OFFERED}{ACME}, {OFFERED}{OTHER}"
        await peer.send(upgrade(REALTIME, line, key=None))

        assert (await peer.message()).status == 401
        assert not made.provider.seen


@pytest.mark.parametrize(
    ("key", "lines", "credential", "tenant_id"),
    [
        (ACME, (), PLATFORM_KEY, "acme"),
        (OWN, (), OWN_KEY, "own"),
        (ACME, (f"Sec-WebSocket-Protocol: realtime, {OFFERED}{OTHER}",), PLATFORM_KEY, "acme"),
        ("sk-of-the-application", (f"X-Gateway-Key: {ACME}",), "sk-of-the-application", "acme"),
    ],
    ids=["platform's", "tenant's-own", "header-before-subprotocol", "application's"],
)
async def test_the_credential_is_the_one_that_any_call_of_this_caller_has(gateway, key, lines, credential, tenant_id):
    realtime = Realtime()
    async with gateway(realtime) as made:
        async with opened(made, *lines, key=key):
            await realtime.session()
        (event,) = await ended(made)
    assert realtime.asked[0].all("authorization") == [f"Bearer {credential}"]
    assert event.tenant_id == tenant_id
    assert not [key for key in ALL_KEYS if key.encode() in made.provider.seen]


async def test_where_nothing_but_the_key_is_offered_no_subprotocol_is(gateway):
    realtime = Realtime()
    offered = f"Sec-WebSocket-Protocol: {OFFERED}{ACME}"
    async with gateway(realtime) as made, opened(made, offered, key=None):
        await realtime.session()
    assert realtime.asked[0]["sec-websocket-protocol"] is None


@pytest.mark.parametrize("protocol", [ACME, f"key.{ACME}", f"{OFFERED}SG.{ACME}"])
async def test_no_key_of_ours_is_offered_on_whatever_stands_before_it(gateway, protocol):
    realtime = Realtime(b"Sec-WebSocket-Protocol: realtime")
    offered = f"Sec-WebSocket-Protocol: realtime, {protocol}"
    async with gateway(realtime) as made, opened(made, offered, f"X-Gateway-Key: {ACME}"):
        await realtime.session()
    assert realtime.asked[0]["sec-websocket-protocol"] == "realtime"
    assert ACME.encode() not in made.provider.seen


async def test_an_application_may_bring_its_own_credential_among_the_subprotocols(gateway):
    realtime = Realtime(b"Sec-WebSocket-Protocol: realtime")
    offered = f"realtime, {OFFERED}sk-of-the-application"
    async with gateway(realtime) as made:
        async with opened(made, f"Sec-WebSocket-Protocol: {offered}", f"X-Gateway-Key: {ACME}", key=None):
            await realtime.session()
        await ended(made)
    (asked,) = realtime.asked
    assert (asked["sec-websocket-protocol"], asked["authorization"]) == (offered, None)
    assert ACME.encode() not in made.provider.seen
    assert PLATFORM_KEY.encode() not in made.provider.seen


@pytest.mark.parametrize(
    ("key", "lines", "path", "status", "code"),
    [
        (None, (), REALTIME, 401, "missing_key"),
        (ACME[:-1] + "x", (), REALTIME, 401, "invalid_key"),
        (EXPIRED, (), REALTIME, 401, "expired_key"),
        (SUSPENDED, (), REALTIME, 403, "tenant_suspended"),
        (
            None,
            (f"Sec-WebSocket-Protocol: realtime, {OFFERED}{ACME[:-1]}x",),
            REALTIME,
            401,
            "invalid_key",
        ),
        (None, (f"Sec-WebSocket-Protocol: realtime, {OFFERED}sk-real",), REALTIME, 401, "invalid_key"),
        (None, ("Sec-WebSocket-Protocol: realtime",), REALTIME, 401, "missing_key"),
        (None, (), f"{REALTIME}&api_key={ACME}", 401, "missing_key"),
    ],
    ids=[
        "none",
        "wrong",
        "expired",
        "suspended",
        "wrong-offered",
        "provider's-offered",
        "none-offered",
        "in-the-query",
    ],
)
async def test_without_a_good_key_there_is_no_session_and_the_sdk_understands_why(
    gateway, key, lines, path, status, code
):
    async with gateway(Realtime()) as made:
        refused = await made.ask(upgrade(path, *lines, key=key) + frame(b"{}"))
        assert (refused.status, refused["x-tollkeeper-error"]) == (status, code)
        assert json.loads(refused.body)["error"]["message"]
        assert made.provider.peers == []
        assert (made.events, made.closed) == ([], [])
        assert [line["status"] for line in made.lines] == [status]


async def test_without_a_record_of_the_intent_nothing_is_sent(gateway):
    async with gateway(Realtime()) as made:
        made.spool.refusing.add("intent")
        refused = await made.ask(upgrade())
        assert refused.status == 503
        assert made.provider.peers == []


# ---------------------------------------------------------------------------------------------------------------------
# What is said in it

MEBIBYTE = random.Random(6455).randbytes(1 << 20)

SAID = {
    "a text": (frame(b'{"type":"response.create"}'), frame(b'{"type":"session.created"}', masked=False)),
    "an empty text": (frame(), frame(masked=False)),
    "bytes": (frame(bytes(range(256)), BINARY), frame(bytes(range(256)), BINARY, masked=False)),
    "a ping and its pong": (frame(b"here?", PING), frame(b"here?", PONG, masked=False)),
    "a ping of the provider's": (frame(b"there?", PONG), frame(b"there?", PING, masked=False)),
    "pieces with a ping between them": (
        frame(b"{", last=False) + frame(b"", PING) + frame(b'"a"', CONTINUED, last=False) + frame(b":1}", CONTINUED),
        frame(b"a", BINARY, last=False, masked=False) + frame(b"b", CONTINUED, masked=False),
    ),
    "what is compressed": (
        frame(b"\xaaV*\xa9,HU\xb2R*J-.\xc8\xcf+N\xd5K.JM,IU\xaa\x05\x00", coded=True),
        frame(b"\xaaV*\xa9,HU\xb2R*N-.\xce\xcc\xcf\xd3K.JM,IMQ\xaa\x05\x00", coded=True, masked=False),
    ),
    "65535 bytes and one more": (
        frame(MEBIBYTE[:65535], BINARY) + frame(MEBIBYTE[:65536], BINARY),
        frame(MEBIBYTE[:65535], BINARY, masked=False) + frame(MEBIBYTE[:65536], BINARY, masked=False),
    ),
    "a mebibyte": (frame(MEBIBYTE, BINARY), frame(MEBIBYTE, BINARY, masked=False)),
    "a hundred at once": (frame(b"{}") * 100, frame(b"{}", masked=False) * 100),
}


@pytest.mark.parametrize("what", SAID)
async def test_what_either_side_says_reaches_the_other_byte_for_byte(gateway, what):
    up, down = SAID[what]
    async with both(gateway) as (_, here, there):
        sending = asyncio.gather(here.send(up), there.send(down))
        assert await taken(there, len(up)) == up
        assert await taken(here, len(down)) == down
        await sending


async def test_where_the_network_cuts_does_not_matter(gateway):
    up = frame(b'{"type":"a"}') + close(1000, b"done", masked=True)
    down = frame(b"x" * 126, masked=False) + close(1000, b"done", masked=False)
    realtime = Realtime()
    async with gateway(realtime) as made:
        for cut in range(max(len(up), len(down))):
            async with opened(made) as here:
                there = await realtime.session()
                for end, said, other in ((here, up, there), (there, down, here)):
                    await end.send(said[:cut])
                    assert await taken(other, len(said[:cut])) == said[:cut]
                    await end.send(said[cut:])
                    assert await taken(other, len(said[cut:])) == said[cut:]


async def test_a_byte_at_a_time_arrives_too(gateway):
    up, down = frame(b'{"type":"response.create"}'), frame(b'{"type":"response.done"}', masked=False)
    async with both(gateway) as (_, here, there):
        for at in range(max(len(up), len(down))):
            await here.send(up[at : at + 1])
            await there.send(down[at : at + 1])
            assert await taken(there, len(up[at : at + 1])) == up[at : at + 1]
            assert await taken(here, len(down[at : at + 1])) == down[at : at + 1]


async def test_what_a_client_says_before_the_provider_has_agreed_is_delivered(gateway):
    said = frame(b'{"type":"session.update"}') + frame(MEBIBYTE[:100_000], BINARY)
    asked_for, agreed = asyncio.Event(), asyncio.Event()

    async def script(peer):
        await peer.message()
        asked_for.set()
        await agreed.wait()
        await peer.send(switching())
        peer.after = await taken(peer, len(said))
        await peer.send(frame(b"heard", masked=False))

    async with gateway(script) as made, client(made.port) as peer:
        peer.writer.write(upgrade() + said[:40])
        await soon(asked_for.wait())
        peer.writer.write(said[40:])
        agreed.set()
        assert (await peer.message(bodiless=True)).status == 101
        assert await taken(peer, 7) == frame(b"heard", masked=False)
        assert made.provider.peers[0].after == said


@pytest.mark.parametrize("size", [0, 10, 200_000])
async def test_what_a_provider_says_right_behind_its_head_is_delivered(gateway, size):
    said = frame(b'{"type":"session.created"}', masked=False) + frame(MEBIBYTE[:size], BINARY, masked=False)
    realtime = Realtime(behind=said)
    async with gateway(realtime) as made, opened(made) as here:
        assert await taken(here, len(said)) == said


@pytest.mark.parametrize("waits", [True, False], ids=["after-its-answer", "pipelined"])
async def test_a_connection_that_served_calls_can_become_a_session(gateway, waits):
    said = frame(b"early")
    sessions = []

    async def script(peer):
        while not (asked := await peer.message())["upgrade"]:
            await peer.send(answer(WHOLE, JSON))
        sessions.append(peer)
        await peer.send(switching(asked))
        await peer.rest()

    async with gateway(script) as made, client(made.port) as peer:
        await peer.send(request(CHAT, chat()) + (b"" if waits else upgrade() + said))
        assert (await peer.message()).body == WHOLE
        if waits:
            await peer.send(upgrade() + said)
        assert (await peer.message(bodiless=True)).status == 101
        peer.writer.write_eof()
        assert await peer.ended()
        await eventually(lambda: bytes(sessions[0].seen).endswith(said))
        assert [event.event_type for event in await ended(made, 2)] == ["llm_call", "api_call"]


async def test_sessions_side_by_side_do_not_mix(gateway):
    realtime = Realtime()
    async with gateway(realtime, segment_bytes=4 << 20) as made:

        async def converse(number: int) -> None:
            mine = frame(b"session %d" % number)
            async with opened(made, path=f"{REALTIME}&number={number}") as here:
                for _ in range(20):
                    await here.send(mine)
                    assert await taken(here, len(mine)) == mine

        async def echo() -> None:
            while True:
                there = await realtime.sessions.get()
                echoing.append(asyncio.ensure_future(returned(there)))

        async def returned(there: Peer) -> None:
            while said := await there.reader.read(65536):
                await there.send(said)

        echoing = [asyncio.ensure_future(echo())]
        try:
            await soon(asyncio.gather(*(converse(number) for number in range(40))))
        finally:
            for task in echoing:
                task.cancel()
            await asyncio.gather(*echoing, return_exceptions=True)
        assert len(await ended(made, 40)) == 40


async def test_a_session_is_not_cut_for_being_silent(gateway):
    limits = ClientLimits(
        head_timeout_s=0.2, keepalive_timeout_s=0.2, body_idle_timeout_s=0.2, write_idle_timeout_s=0.2, linger_s=0.2
    )
    hurried = UpstreamLimits(first_byte_timeout_s=0.2, idle_timeout_s=0.2, keepalive_timeout_s=0.2)
    async with both(gateway, client_limits=limits, upstream_limits=hurried) as (_, here, there):
        await asyncio.sleep(1.5)  # Every limit has passed several times, and whoever looks for them has looked.
        await here.send(frame(b"still here"))
        assert await taken(there, 16) == frame(b"still here")
        await asyncio.sleep(1.5)
        await there.send(frame(b"so am I", masked=False))
        assert await taken(here, 9) == frame(b"so am I", masked=False)


# ---------------------------------------------------------------------------------------------------------------------
# A reader that is slower than its writer

BLOCK = frame(MEBIBYTE[: 1 << 18], BINARY, masked=False)


async def test_a_client_that_does_not_read_stops_the_provider_and_misses_nothing(gateway):
    sent = 0

    async def script(peer):
        nonlocal sent
        await peer.message()
        await peer.send(switching())
        while True:
            peer.writer.write(BLOCK)
            await peer.writer.drain()
            sent += len(BLOCK)

    async with gateway(script) as made:
        with stalled_client(made.port) as end:
            end.sendall(upgrade())
            found = await settled(lambda: sent)
            assert found < HELD_BYTES_MAX
            # What was held arrives in its order once somebody reads, and the provider goes on.
            end.setblocking(False)
            loop = asyncio.get_running_loop()
            came = bytearray()
            while len(came) < found + (4 << 20):
                came += await soon(loop.sock_recv(end, 1 << 18))
            head, _, body = bytes(came).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert body == (BLOCK * (len(body) // len(BLOCK) + 1))[: len(body)]


async def test_a_provider_that_does_not_read_stops_the_client_and_misses_nothing(gateway):
    said = frame(MEBIBYTE[: 1 << 18], BINARY)
    realtime = Realtime()
    async with gateway(realtime) as made:
        with stalled_client(made.port) as end:
            end.sendall(upgrade())
            there = await realtime.session()
            there.writer.transport.pause_reading()
            async with sending_without_end(end, said) as sent:
                found = await settled(sent)
                assert found < HELD_BYTES_MAX
                there.writer.transport.resume_reading()
                came = await taken(there, found + (4 << 20))
            assert came == (said * (len(came) // len(said) + 1))[: len(came)]


async def test_a_client_that_never_pauses_hears_the_provider_all_the_same(gateway):
    """Guards what is told meanwhile, and with it what was used: sabotaged (read on only where there is nothing else to do),
    nothing more comes from the provider while there is always something to be looked through."""
    realtime = Realtime()
    said = frame(json.dumps({"type": "response.create", "input": "a b " * (2 * LOOK_BYTES)}).encode())
    async with gateway(realtime) as made, opened(made, path=RESPONSES) as here:
        there = await realtime.session()

        async def flood(peer: Peer, data: bytes) -> None:
            while True:
                peer.writer.write(data)
                await peer.writer.drain()

        async def swallow() -> None:
            while await there.reader.read(1 << 20):
                pass

        moving = [asyncio.ensure_future(one) for one in (flood(here, said), flood(there, BLOCK), swallow())]
        try:
            assert await taken(here, 16 * len(BLOCK)) == 16 * BLOCK
        finally:
            for one in moving:
                one.cancel()
            await asyncio.gather(*moving, return_exceptions=True)


async def test_while_one_direction_stands_still_the_other_moves(gateway):
    realtime = Realtime()
    async with gateway(realtime) as made:
        with stalled_client(made.port) as end:
            end.sendall(upgrade())
            there = await realtime.session()
            sent = 0

            async def flood() -> None:
                nonlocal sent
                while True:
                    there.writer.write(BLOCK)
                    await there.writer.drain()
                    sent += len(BLOCK)

            flooding = asyncio.ensure_future(flood())
            try:
                await settled(lambda: sent)
                for number in range(20):
                    said = frame(b"stop %d" % number)
                    end.sendall(said)
                    assert await taken(there, len(said)) == said
            finally:
                flooding.cancel()
                await asyncio.gather(flooding, return_exceptions=True)


# ---------------------------------------------------------------------------------------------------------------------
# The end of it

CODES = [
    (1000, b""),
    (1001, b"going away"),
    (1011, "hata: köprü".encode()),
    (3000, b"x" * 123),
    (4000, b"own"),
    (None, b""),
]


@pytest.mark.parametrize(("code", "reason"), CODES)
async def test_the_client_closes_and_the_provider_learns_the_code_and_the_reason(gateway, code, reason):
    said, reply = close(code, reason, masked=True), close(code, b"", masked=False)
    async with both(gateway) as (made, here, there):
        await here.send(said)
        assert await taken(there, len(said)) == said
        await there.send(reply)
        there.close()
        assert await here.rest() == reply
        (event,) = await ended(made)
    assert event.status == 101


@pytest.mark.parametrize(("code", "reason"), CODES)
async def test_the_provider_closes_and_the_client_learns_the_code_and_the_reason(gateway, code, reason):
    said, reply = close(code, reason, masked=False), close(code, b"", masked=True)
    async with both(gateway) as (made, here, there):
        await there.send(frame(b"last words", masked=False) + said)
        assert await taken(here, 12) == frame(b"last words", masked=False)
        assert await taken(here, len(said)) == said
        await here.send(reply)
        assert await taken(there, len(reply)) == reply
        there.close()
        assert await here.ended()
        assert len(await ended(made)) == 1


@pytest.mark.parametrize("drain", [True, False])
@pytest.mark.parametrize("how", ["resets", "leaves"])
async def test_a_client_that_goes_without_a_close_ends_the_providers_side(gateway, how, drain):
    async with both(gateway, drain=drain) as (made, here, there):
        await here.send(CREATE)
        assert await taken(there, len(CREATE)) == CREATE
        if how == "resets":
            here.reset()
        else:
            here.close()
        assert await there.rest() == b""
        (event,) = await ended(made)
    assert (event.event_type, event.completeness) == ("realtime", Completeness.UNKNOWN)
    assert made.lines[0].get("error") in (None, "client_gone")


@pytest.mark.parametrize("how", ["resets", "leaves"])
async def test_a_provider_that_goes_without_a_close_ends_the_clients_side(gateway, how):
    async with both(gateway) as (made, here, there):
        created = told("response.created", response={"id": "resp_1"})
        await there.send(created)
        assert await taken(here, len(created)) == created
        if how == "resets":
            there.reset()
        else:
            there.close()
        assert await here.rest() == b""
        (event,) = await ended(made)
    assert (event.event_type, event.completeness) == ("realtime", Completeness.UNKNOWN)


@pytest.mark.parametrize("who", ["provider", "client"])
async def test_what_was_said_last_arrives_before_the_end(gateway, who):
    last = frame(MEBIBYTE, BINARY, masked=who == "client")
    async with both(gateway) as (_, here, there):
        end, other = (there, here) if who == "provider" else (here, there)
        end.writer.write(last)
        end.close()
        assert await other.rest() == last


async def test_a_client_that_goes_while_the_provider_thinks_ends_the_upgrade(gateway):
    asked = asyncio.Event()
    over = asyncio.Event()

    async def script(peer):
        await peer.message()
        asked.set()
        await peer.rest()
        over.set()

    async with gateway(script, drain=False) as made:
        async with client(made.port) as peer:
            await peer.send(upgrade())
            await soon(asked.wait())
            peer.reset()
        await soon(over.wait())


async def test_the_connection_of_a_session_serves_no_other_call(gateway):
    sessions = []

    async def script(peer):
        while True:
            asked = await peer.message()
            if asked["upgrade"]:
                sessions.append(peer)
                await peer.send(switching(asked))
                await peer.rest()
                return
            await peer.send(answer(WHOLE, JSON))

    async with gateway(script) as made:
        assert (await made.ask(request(CHAT, chat()))).status == 200
        async with opened(made) as here:
            await here.send(close(1000, masked=True))
        await eventually(lambda: len(made.events) == 2)
        assert (await made.ask(request(CHAT, chat()))).status == 200
        (session,) = sessions
        await eventually(lambda: bytes(session.seen).endswith(close(1000, masked=True)))


async def test_sessions_under_way_may_end_by_themselves_when_the_gateway_does_and_are_cut_after_the_grace(gateway):
    async with both(gateway) as (made, here, there):
        closing = asyncio.ensure_future(made.listener.close(1.5))
        await asyncio.sleep(0)
        await here.send(CREATE)
        assert await taken(there, len(CREATE)) == CREATE
        await there.send(frame(b"one more", masked=False))
        assert await taken(here, 10) == frame(b"one more", masked=False)
        assert await soon(closing) is False
        assert await here.rest() == b""
        assert await there.rest() == b""
        (event,) = await ended(made)
    assert (event.event_type, event.completeness) == ("realtime", Completeness.UNKNOWN)


# ---------------------------------------------------------------------------------------------------------------------
# What is recorded


async def test_a_session_in_which_nothing_was_used_is_one_event_and_one_line_in_the_log(gateway):
    realtime = Realtime(b"x-request-id: req_123")
    async with gateway(realtime) as made:
        async with client(made.port) as here:
            await here.send(upgrade(f"{REALTIME}&intent=x", "X-Gateway-Category: support", "X-Gateway-Tags: team=blue"))
            head = await here.message(bodiless=True)
            there = await realtime.session()
            assert made.order == ["intent"]
            assert (made.events, made.lines) == ([], [])
            await here.send(frame(b"canary-of-a-prompt"))
            await there.send(frame(b"canary-of-an-answer", masked=False) + close(1000, masked=False))
            await taken(here, 25)
            await here.send(close(1000, masked=True))
            await taken(there, len(frame(b"canary-of-a-prompt") + close(1000, masked=True)))
            there.close()
            assert await here.ended()
        (event,) = await ended(made)
        (line,) = made.lines
    assert (event.source, event.event_type, event.resource) == ("openai", "api_call", "gpt-realtime")
    assert (event.completeness, event.quantities) == (Completeness.REPORTED, {})
    assert (event.tenant_id, event.category, event.tags) == ("acme", "support", {"team": "blue"})
    assert (event.status, event.event_id) == (101, head["x-tollkeeper-call-id"])
    assert event.duration_ms is not None
    assert (line["status"], line["call_id"], line["tenant_id"]) == (101, event.event_id, "acme")
    assert (line["provider"], line["event_type"], line["completeness"]) == ("openai", "api_call", "reported")
    assert "error" not in line
    written = made.spooled + json.dumps(made.lines).encode()
    assert not [key for key in (*ALL_KEYS, PLATFORM_KEY, "canary") if key.encode() in written]


REALTIME_USAGE = {
    "total_tokens": 30,
    "input_tokens": 20,
    "output_tokens": 10,
    "input_token_details": {"text_tokens": 8, "audio_tokens": 12},
    "output_token_details": {"text_tokens": 3, "audio_tokens": 7},
}
BEGUN = told("response.created", response={"id": "resp_1"})
DONE = told("response.done", response={"id": "resp_1", "status": "completed", "output": [], "usage": REALTIME_USAGE})


async def test_what_a_response_used_is_recorded_before_the_client_can_see_that_it_is_over(gateway):
    """Guards the order: sabotaged (recorded behind the frame), the frame is there while the disk still syncs."""
    async with both(gateway) as (made, here, there):
        made.spool.fsync = True
        made.spool.syncs = asyncio.Semaphore(0)
        await there.send(BEGUN + DONE[:-1])
        assert await taken(here, len(BEGUN + DONE) - 1) == BEGUN + DONE[:-1]
        assert made.order == ["intent"]

        await there.send(DONE[-1:])
        await eventually(lambda: made.order == ["intent", "note"])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(here.reader.readexactly(1), 0.2)
        made.spool.syncs.release()

        assert await taken(here, 1) == DONE[-1:]
        (event,) = made.events
    assert (event.event_type, event.resource, event.external_id) == ("realtime", "gpt-realtime", "resp_1")
    assert event.quantities == {
        "input_tokens": 8,
        "input_tokens_audio": 12,
        "output_tokens": 3,
        "output_tokens_audio": 7,
    }
    assert (event.tenant_id, event.status, event.completeness) == ("acme", 101, Completeness.REPORTED)


async def test_where_what_was_used_can_not_be_recorded_it_is_not_told_and_the_session_ends(gateway):
    async with both(gateway) as (made, here, there):
        await there.send(BEGUN)
        assert await taken(here, len(BEGUN)) == BEGUN
        made.spool.refusing = {"note"}

        await there.send(DONE)

        assert await here.rest() == b""
        assert await there.rest() == b""
        (event,) = await ended(made)
        await eventually(lambda: made.lines)
    assert (event.event_type, event.completeness) == ("realtime", Completeness.UNKNOWN)
    assert made.lines[0]["error"] == "usage_not_recorded"


async def test_a_session_for_whose_responses_there_is_no_room_does_not_begin(gateway):
    realtime = Realtime()
    async with gateway(realtime) as made:
        made.spool.refusing = {"room"}
        refused = await made.ask(upgrade())
        await eventually(lambda: made.closed)
        assert (refused.status, refused["x-tollkeeper-error"]) == (503, "usage_not_recordable")
        assert made.events == []


async def test_a_session_ends_when_its_next_response_could_not_be_recorded_and_what_it_had_is_told(gateway):
    """Guards that no response runs whose record has no room: sabotaged (the room is not kept anew), the session goes on."""
    async with both(gateway) as (made, here, there):
        await there.send(BEGUN)
        assert await taken(here, len(BEGUN)) == BEGUN
        made.spool.refusing = {"room"}

        await there.send(told("response.created", response={"id": "resp_2"}))
        await eventually(lambda: made.lines)
        assert await there.rest() == b""
        (event,) = await ended(made)
    assert made.lines[0]["error"] == "usage_not_recordable"
    assert (event.event_type, event.completeness) == ("realtime", Completeness.UNKNOWN)


async def test_what_a_provider_has_said_when_the_client_leaves_is_still_counted(gateway):
    async with both(gateway) as (made, here, there):
        made.spool.fsync = True
        made.spool.syncs = asyncio.Semaphore(0)
        await there.send(DONE)
        await eventually(lambda: made.order == ["intent", "note"])
        await there.send(DONE.replace(b"resp_1", b"resp_2"))
        here.reset()
        for _ in range(3):  # By then the gateway has been told of both.
            await made.ask(request("/healthz", b"", method="GET"))
        made.spool.syncs.release()
        made.spool.syncs.release()
        await ended(made)
        first, second, session = made.events
    assert [first.external_id, second.external_id] == ["resp_1", "resp_2"]
    assert (session.event_type, session.completeness) == ("api_call", Completeness.REPORTED)


async def test_a_session_of_frames_that_nobody_understands_goes_on_and_is_unknown(gateway):
    nonsense = b"\xf3\x05hello" + frame(b"x", coded=True, masked=False)
    async with both(gateway) as (made, here, there):
        await there.send(nonsense + DONE)
        assert await taken(here, len(nonsense + DONE)) == nonsense + DONE
        await here.send(nonsense)
        assert await taken(there, len(nonsense)) == nonsense
        there.close()
        (event,) = await ended(made)
    assert (event.event_type, event.completeness) == ("realtime", Completeness.UNKNOWN)


RESPONSES = "/openai/v1/responses"
PREVIOUS = told("response.create", masked=True, previous_response_id="resp_" + "0123456789abcdef" * 3)


@pytest.mark.parametrize(
    ("said", "error"),
    [(PREVIOUS, "not_found"), (frame(b"x", coded=True), "encoded_body")],
    ids=["of-another", "unreadable"],
)
async def test_on_a_shared_account_nothing_goes_to_the_provider_that_may_refer_to_what_is_not_the_clients(
    gateway, said, error
):
    realtime = Realtime()
    async with gateway(realtime) as made, opened(made, path=RESPONSES) as here:
        there = await realtime.session()
        await here.send(CREATE + said)
        assert await here.rest() == b""
        assert await there.rest() == b""
        await ended(made)
        assert made.lines[0]["error"] == error


@pytest.mark.parametrize("whose", ["its-own-account", "its-own-response"])
async def test_a_client_may_refer_to_what_is_its_own(gateway, whose):
    realtime = Realtime()
    key = OWN if whose == "its-own-account" else ACME
    made_before = told(
        "response.completed",
        response={"id": "resp_" + "0123456789abcdef" * 3, "model": "gpt-5", "usage": USAGE_OF_TEXT},
    )
    async with gateway(realtime) as made, opened(made, path=RESPONSES, key=key) as here:
        there = await realtime.session()
        if whose == "its-own-response":
            await there.send(made_before)
            assert await taken(here, len(made_before)) == made_before
        await here.send(PREVIOUS)
        assert await taken(there, len(PREVIOUS)) == PREVIOUS


USAGE_OF_TEXT = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}


async def test_on_a_shared_account_what_is_a_websocket_is_not_read_as_a_list(gateway):
    """Guards a shared account: what lies under this path for a plain GET would be everybody's."""
    async with gateway(Realtime()) as made:
        refused = await made.ask(request(RESPONSES, b"", method="GET"))
        assert (refused.status, refused["x-tollkeeper-error"]) == (403, "not_on_shared_account")
        assert made.provider.peers == []


async def test_on_an_account_of_its_own_a_plain_get_of_such_a_path_is_a_call_that_costs_nothing(gateway):
    body = json.dumps({"object": "list", "data": [], "usage": USAGE_OF_TEXT}).encode()
    async with gateway(answers(answer(body, JSON))) as made:
        relayed = await made.ask(request(RESPONSES, b"", method="GET", key=OWN))
        assert (relayed.status, relayed.body) == (200, body)
        (event,) = await ended(made)
    assert (event.event_type, event.completeness, event.quantities) == ("api_call", Completeness.REPORTED, {})


async def test_a_session_that_names_no_model_is_of_no_known_model(gateway):
    realtime = Realtime()
    async with gateway(realtime) as made:
        async with opened(made, path="/openai/v1/realtime?call_id=rtc_1", key=OWN):
            await realtime.session()
        (event,) = await ended(made)
    assert (event.event_type, event.resource) == ("api_call", None)


# ---------------------------------------------------------------------------------------------------------------------
# What is no session


@pytest.mark.parametrize(
    "reply",
    [
        answer(b'{"error":{"message":"no"}}', JSON, status=b"403 Forbidden"),
        answer(b'{"error":{"message":"slow"}}', JSON, b"Retry-After: 7", status=b"429 Too Many Requests"),
        answer(b"", status=b"404 Not Found"),
        answer(b"<html>", b"Content-Type: text/html", status=b"500 Internal Server Error"),
        b"HTTP/1.1 426 Upgrade Required\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"of version", b" 13"),
        b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nuntil the end",
    ],
    ids=["403", "429", "404", "500", "426-chunked", "503-until-the-end"],
)
async def test_a_provider_that_refuses_the_upgrade_is_relayed_as_any_answer_is(gateway, reply):
    asked = []

    async def script(peer):
        asked.append(await peer.message())
        await peer.send(reply)
        if b"Connection: close" not in reply:
            await peer.rest()

    async with gateway(script) as made, client(made.port) as peer:
        # Nothing behind such a request is a request: the client meant it for the session.
        await peer.send(upgrade() + frame(b"early") + MARKER)
        relayed = await peer.message()
        assert await peer.ended()
        await eventually(lambda: made.closed)
        assert b"smuggled" not in made.provider.seen
        assert b"early" not in made.provider.seen
    parsed_status = int(reply.split()[1])
    assert relayed.status == parsed_status
    assert relayed.whole
    assert relayed.body in reply or relayed.body == b"of version 13"
    assert relayed.body or parsed_status == 404
    assert relayed["retry-after"] == ("7" if parsed_status == 429 else None)
    assert made.events == []
    assert [line["status"] for line in made.lines] == [parsed_status]
    assert len(asked) == 1


async def test_a_provider_that_answers_an_upgrade_as_any_request_is_relayed_so(gateway):
    async with gateway(answers(answer(b'{"not":"a session"}', JSON))) as made:
        relayed = await made.ask(upgrade())
        assert (relayed.status, relayed.body) == (200, b'{"not":"a session"}')


ELSEWHERE = {
    "a read": upgrade("/openai/v1/models/gpt-4o"),
    "an unlisted path": upgrade("/openai/v1/anything/else", key=OWN),
    "a path below": upgrade("/openai/v1/realtime/sessions?model=gpt-realtime", key=OWN),
    "another provider": upgrade("/sendgrid/v3/mail/send", key=OWN),
    "Twilio": upgrade(f"/twilio/2010-04-01/Accounts/{sid_of('own')}/Messages.json", key=OWN),
    "no provider": upgrade("/elsewhere"),
    "a path that is spelt otherwise": upgrade("/openai/v1/%72ealtime?model=gpt-realtime", key=OWN),
    "a path with a slash more": upgrade("/openai/v1/realtime/?model=gpt-realtime", key=OWN),
    "a path that only looks like it": upgrade("/openai/v1/x/../realtime?model=gpt-realtime"),
}


@pytest.mark.parametrize("what", ELSEWHERE)
async def test_there_are_no_sessions_elsewhere(gateway, what):
    realtime = Realtime()
    async with gateway(realtime) as made, client(made.port) as peer:
        await peer.send(ELSEWHERE[what] + MARKER)
        refused = await peer.message()
        assert 400 <= refused.status < 500
        assert await peer.ended()
        assert made.provider.seen == b""
        assert made.events == []


def asking(*lines: str, method: str = "GET", version: str = "1.1", body: bytes = b"") -> bytes:
    head = (f"{method} {REALTIME} HTTP/{version}", "Host: gateway.example", f"Authorization: Bearer {ACME}", *lines)
    nonce = (f"Sec-WebSocket-Key: {NONCE}", "Sec-WebSocket-Version: 13")
    return "\r\n".join((*head, *nonce)).encode() + b"\r\n\r\n" + body


OTHERWISE = {
    "h2c": asking("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    "TLS": asking("Upgrade: TLS/1.0", "Connection: Upgrade"),
    "h2c or a WebSocket": asking("Upgrade: h2c, websocket", "Connection: Upgrade"),
    "a WebSocket or h2c, in two lines": asking("Upgrade: websocket", "Upgrade: h2c", "Connection: Upgrade"),
    "a name that begins like it": asking("Upgrade: websocketx", "Connection: Upgrade"),
    "not said in Connection": asking("Upgrade: websocket"),
    "HTTP/1.0": asking("Upgrade: websocket", "Connection: Upgrade", version="1.0"),
    "a POST": asking("Upgrade: websocket", "Connection: Upgrade", "Content-Length: 0", method="POST"),
    "a body": asking("Upgrade: websocket", "Connection: Upgrade", "Content-Length: 5", body=b"hello"),
    "a chunked body": asking(
        "Upgrade: websocket", "Connection: Upgrade", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "a chat": request(
        CHAT,
        chat(),
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {NONCE}",
        "Sec-WebSocket-Version: 13",
    ),
}


@pytest.mark.parametrize("what", OTHERWISE)
async def test_nothing_but_a_websocket_is_upgraded_to(gateway, what):
    """The provider here would agree to anything: were it asked, there would be a tunnel."""
    realtime = Realtime()
    async with gateway(realtime) as made, client(made.port) as peer:
        await peer.send(OTHERWISE[what] + frame(b"early", masked=False))
        answered = await peer.message()
        assert answered.status >= 400
        assert await peer.ended()
        assert not [asked for asked in realtime.asked if asked["upgrade"] is not None]
        assert b"early" not in made.provider.seen


UNSOLICITED = {
    "a WebSocket": switching(),
    "nothing named": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "h2c": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
}


@pytest.mark.parametrize("what", UNSOLICITED)
@pytest.mark.parametrize("call", ["POST", "GET"])
async def test_a_101_that_nobody_asked_for_is_a_502(gateway, what, call):
    ordinary = request(CHAT, chat()) if call == "POST" else request("/openai/v1/models", b"", key=OWN, method="GET")
    script = answers(UNSOLICITED[what] + answer(WHOLE, JSON))
    async with gateway(script) as made, client(made.port) as peer:
        await peer.send(ordinary)
        refused = await peer.message()
        assert refused.status == 502
        assert refused["upgrade"] is None
        assert WHOLE not in bytes(peer.seen)
        assert len(made.provider.peers) == 1
        assert await made.provider.peers[0].ended()


SWITCHED_WRONG = {
    "without Upgrade": switching().replace(b"Upgrade: websocket\r\n", b"", 1),
    "without Connection": switching().replace(b"Connection: Upgrade\r\n", b"", 1),
    "to h2c": switching().replace(b"Upgrade: websocket", b"Upgrade: h2c", 1),
    "to more than that": switching().replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c", 1),
}


@pytest.mark.parametrize("what", SWITCHED_WRONG)
async def test_a_101_to_something_else_is_a_502(gateway, what):
    assert SWITCHED_WRONG[what] != switching()
    said = frame(b"not to be seen", masked=False)
    async with gateway(answers(SWITCHED_WRONG[what] + said)) as made, client(made.port) as peer:
        await peer.send(upgrade())
        refused = await peer.message()
        assert refused.status == 502
        assert await peer.ended()
        assert b"not to be seen" not in bytes(peer.seen)
        # It was sent, and what the provider made of it nobody knows.
        assert [(event.event_type, event.completeness) for event in await ended(made)] == [
            ("realtime", Completeness.UNKNOWN)
        ]


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: webso", b"\x81\x02{}"])
async def test_a_provider_that_breaks_off_instead_of_agreeing_is_a_502(gateway, reply):
    async def script(peer):
        await peer.message()
        await peer.send(reply)

    async with gateway(script) as made:
        refused = await made.ask(upgrade())
        assert (refused.status, refused["upgrade"]) == (502, None)


async def test_a_401_for_the_platforms_own_credential_does_not_name_it(gateway):
    told = b'{"error":{"message":"Incorrect API key provided: %b."}}' % PLATFORM_KEY.encode()
    async with gateway(answers(answer(told, JSON, status=b"401 Unauthorized"))) as made:
        refused = await made.ask(upgrade())
        assert refused.status == 401
        assert PLATFORM_KEY.encode() not in refused.raw


# ---------------------------------------------------------------------------------------------------------------------
# The official SDK, a gateway and a simulated provider in processes of their own

TEXT_SESSION = {"type": "realtime", "output_modalities": ["text"]}
QUESTION = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Who keeps the gate?"}]}
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with installation(tmp_path_factory.mktemp("realtime")) as found:
        yield found


@pytest.fixture
def tenant(running):
    tenant_id = f"talks-{next(NUMBERS)}"
    return tenant_id, running.tenant(tenant_id)


async def conversation(base_url: str, key: str, **controls: str) -> list[dict]:
    """Two questions asked by the SDK, as a list of what it was told."""
    told = []
    headers = {f"x-simulator-{name.replace('_', '-')}": value for name, value in controls.items()}
    async with (
        openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as sdk,
        sdk.realtime.connect(model="gpt-realtime", extra_headers=headers) as session,
    ):
        await session.session.update(session=TEXT_SESSION)
        for _ in range(2):
            await session.conversation.item.create(item=QUESTION)
            await session.response.create()
            async for event in session:
                told.append(event.to_dict())
                if event.type == "response.done":
                    break
    return told


def without_names(told: list[dict]) -> str:
    """What differs between any two conversations is what their parts are called."""
    text = json.dumps(told)
    return re.sub(r"(event|item|resp|sess|conv)_\w{21}|\"expires_at\": \d+", r"\1", text)


async def test_the_sdk_is_told_through_the_gateway_what_it_is_told_directly(running, tenant):
    tenant_id, key = tenant
    direct = await soon(conversation(running.direct, PROVIDER_KEY))
    through = await soon(conversation(running.openai, key))
    assert without_names(through) == without_names(direct)
    assert [event["response"]["usage"] for event in through if event["type"] == "response.done"]
    events = await asyncio.to_thread(running.events_of, tenant_id, 3)
    assert sorted((event["event_type"], event["completeness"]) for event in events) == [
        ("api_call", "reported"),
        ("realtime", "reported"),
        ("realtime", "reported"),
    ]
    assert {event["resource"] for event in events} == {"gpt-realtime-2025-08-28"}
    seen = running.truth()[-1]
    assert seen.credential == fingerprint(PROVIDER_KEY)
    assert key not in (running.directory / "truth.jsonl").read_text()
    billed = [bill for bill in read_billed(running.directory / "truth.jsonl") if bill.n == seen.n]
    assert len(billed) == 2


async def test_a_browsers_client_is_served_too(running, tenant):
    _, key = tenant
    url = running.openai.replace("http", "ws", 1) + "/realtime?model=gpt-realtime"
    offered = ["realtime", f"{OFFERED}{key}", "openai-beta.realtime-v1"]
    async with asyncio.timeout(30), connect(url, subprotocols=offered) as session:
        assert session.subprotocol == "realtime"
        assert json.loads(await session.recv())["type"] == "session.created"
    assert key not in (running.directory / "truth.jsonl").read_text()


async def test_audio_of_a_mebibyte_goes_up_and_comes_down(running, tenant):
    _, key = tenant
    audio = base64.b64encode(b"\x01\x02" * 400_000).decode()
    manual = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    spoken, usage = 0, None
    async with (
        asyncio.timeout(60),
        openai.AsyncOpenAI(base_url=running.openai, api_key=key) as sdk,
        sdk.realtime.connect(model="gpt-realtime", extra_headers={"x-simulator-words": "60"}) as session,
    ):
        await session.session.update(session=manual)
        await session.input_audio_buffer.append(audio=audio)
        await session.input_audio_buffer.commit()
        await session.response.create()
        async for event in session:
            if event.type == "response.output_audio.delta":
                spoken += len(base64.b64decode(event.delta))
            elif event.type == "response.done":
                usage = event.response.usage
                break
    assert usage.input_token_details.audio_tokens == -(-800_000 // 48 // 100)
    assert (usage.output_token_details.audio_tokens, spoken) == (240, 240 * 2400)


async def test_how_the_provider_ends_a_session_is_how_it_ends_for_the_sdk(running, tenant):
    tenant_id, key = tenant
    with pytest.raises(ConnectionClosedError) as closed:
        await soon(conversation(running.openai, key, close_code="4321"))
    assert closed.value.rcvd.code == 4321
    assert closed.value.rcvd.reason == "This session asked to be closed."
    with pytest.raises(ConnectionClosedError) as broken:
        await soon(conversation(running.openai, key, fault="cut-stream"))
    assert broken.value.rcvd is None
    events = await asyncio.to_thread(running.events_of, tenant_id, 3)
    assert sorted((event["event_type"], event["completeness"]) for event in events) == [
        ("api_call", "reported"),
        ("realtime", "reported"),
        ("realtime", "unknown"),
    ]


async def test_how_the_sdk_ends_a_session_is_how_it_ends_for_the_provider(running, tenant):
    _, key = tenant
    async with asyncio.timeout(30), openai.AsyncOpenAI(base_url=running.openai, api_key=key) as sdk:
        session = await sdk.realtime.connect(model="gpt-realtime").enter()
        await session.recv()
        await session.close(code=4007, reason="enough")
    await eventually(lambda: running.truth()[-1].completed is not None)
    assert running.truth()[-1].close_code == 4007


async def test_a_refused_upgrade_is_what_it_is_directly_for_the_sdk(running, tenant):
    tenant_id, key = tenant
    with pytest.raises(InvalidStatus) as refused:
        await soon(conversation(running.openai, key, status="429"))
    assert refused.value.response.status_code == 429
    assert refused.value.response.headers["retry-after"] == "1"
    assert json.loads(refused.value.response.body)["error"]["code"] == "rate_limit_exceeded"
    with pytest.raises(InvalidStatus) as unknown:
        await soon(conversation(running.openai, "tk_000000000000_" + "x" * 43))
    assert unknown.value.response.status_code == 401
    assert json.loads(unknown.value.response.body)["error"]["code"] == "invalid_key"
    assert await asyncio.to_thread(running.events, tenant_id) == []


async def test_a_gateway_that_is_told_to_stop_lets_a_session_end_and_books_it(tmp_path):
    with installation(tmp_path) as running:
        key = running.tenant("acme")
        async with asyncio.timeout(90), openai.AsyncOpenAI(base_url=running.openai, api_key=key) as sdk:
            async with sdk.realtime.connect(model="gpt-realtime") as session:
                await session.recv()
                stopping = asyncio.ensure_future(asyncio.to_thread(running.gateway.stop))
                await asyncio.to_thread(running.gateway.said, "stopping")
                await session.session.update(session=TEXT_SESSION)
                await session.response.create()
                kinds = set()
                async for event in session:
                    kinds.add(event.type)
                    if event.type == "response.done":
                        break
            assert "response.output_text.delta" in kinds
            assert await stopping == 0
        await asyncio.to_thread(running.start_gateway)
        events = await asyncio.to_thread(running.events_of, "acme", 2)
        assert sorted((event["event_type"], event["completeness"]) for event in events) == [
            ("api_call", "reported"),
            ("realtime", "reported"),
        ]
