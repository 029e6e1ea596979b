"""Clients and providers that are slow, and clients that are many: what each gets, and that nobody else notices.

The limits are those of the settings with the seconds made small; what is generous in them is so for busy machines.
"""

from __future__ import annotations

import asyncio
import base64
import json
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace

import pytest

from gateway.limits import ClientLimits, UpstreamLimits
from metering.usage import Completeness
from tests.bench.load import body_of
from tests.gateway.peers import (
    Peer,
    answer,
    answers,
    chunked,
    client,
    eventually,
    headers_of,
    provider,
    soon,
    sse,
    stalled_client,
)
from tests.gateway.proxied import ACME, CHAT, COMPLETION, OTHER, OWN, QUANTITIES, USAGE, chat, proxied, request, sid_of

WHOLE = json.dumps(COMPLETION).encode()
OK = answer(WHOLE, b"Content-Type: application/json")

FILES = "/openai/v1/files"
"""Where a body of any size goes, and is not held; with a credential of the tenant's own it is not looked into either."""

WORDS = b'data: {"id":"chatcmpl-1","model":"gpt-4o","choices":[{"delta":{"content":"%b"}}]}\n\n'
USED = b'data: {"id":"chatcmpl-1","model":"gpt-4o","choices":[],"usage":%b}\n\n' % json.dumps(USAGE).encode()
DONE = b"data: [DONE]\n\n"
STREAMING = chat(stream=True, stream_options={"include_usage": True})

LARGE = 8 << 20
LARGE_EVENTS = [WORDS % (b"metered " * 8192)] * (LARGE >> 16) + [USED, DONE]
LARGE_STREAM, LARGE_BODY = sse(*LARGE_EVENTS), b"".join(LARGE_EVENTS)

SLOW_CLIENTS = 20
PAUSE_S = 0.05
"""Between two bytes of a client that drips, and between two pieces of one that is slow and honest."""

FOREVER_S = 3600
"""Longer than any test."""

UNHURRIED = ClientLimits(lag_max_s=FOREVER_S)
"""The default limits, for a loop that client, gateway and provider share: it may well be behind for a moment."""

SHORT = replace(
    UNHURRIED,
    head_timeout_s=1,
    keepalive_timeout_s=1,
    body_idle_timeout_s=1,
    body_rate_min=256,
    write_idle_timeout_s=1,
    linger_s=0.2,
)
HURRIED = UpstreamLimits(connect_timeout_s=0.3, first_byte_timeout_s=0.3, idle_timeout_s=0.3)


@pytest.fixture
def gateway(tmp_path):
    """A proxy before a provider that does what the script says."""

    @asynccontextmanager
    async def made(script=None, **options):
        options = {"client_limits": UNHURRIED, **options}
        async with provider(script or answers(OK)) as serving, proxied(tmp_path, serving, **options) as found:
            yield found

    return made


async def cut_off(peer: Peer, dripping: bytes = b"") -> bytes:
    """Wait until the gateway has ended a connection on which this is sent again and again; return what it said."""

    async def drip() -> None:
        with suppress(ConnectionError):
            while dripping:
                await peer.send(dripping)
                await asyncio.sleep(PAUSE_S)

    sending = asyncio.ensure_future(drip())
    try:
        return await peer.rest()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


@asynccontextmanager
async def another_is_served(port: int) -> AsyncIterator[None]:
    """Another client makes calls all the while, and every one of them succeeds."""
    over = False
    calls = 0

    async def call_again_and_again() -> None:
        nonlocal calls
        while not over:
            async with client(port) as peer:
                await peer.send(request())
                got = await peer.message()
            assert (got.status, got.body) == (200, WHOLE)
            calls += 1
            await asyncio.sleep(PAUSE_S)

    calling = asyncio.ensure_future(call_again_and_again())
    try:
        yield
        await eventually(lambda: calls >= 3 or calling.done())
        over = True
        await calling
    finally:
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)


# ---------------------------------------------------------------------------------------------------------------------
# Slow requests

SLOW_HEADS = {
    "nothing at all": (b"", b""),
    "half a head, then nothing": (b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: gateway.example\r\nX-A: ", b""),
    "a line that drips": (b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: gateway.example\r\nX-A: ", b"b"),
    "headers that drip": (b"GET /openai/v1/models HTTP/1.1\r\nHost: gateway.example\r\n", b"X-A: b\r\n"),
    "empty lines before a request": (b"\r\n", b"\r\n"),
}


@pytest.mark.parametrize("what", SLOW_HEADS)
async def test_a_head_that_does_not_come_ends_its_connection_and_nobody_else_notices(gateway, what):
    begun, dripping = SLOW_HEADS[what]
    async with gateway(client_limits=SHORT) as made, AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(client(made.port)) for _ in range(SLOW_CLIENTS)]
        async with another_is_served(made.port):
            for peer in slow:
                await peer.send(begun)
            said = await asyncio.gather(*(cut_off(peer, dripping) for peer in slow))

        assert not any(b" 200 " in one for one in said)
        assert b"X-A" not in made.provider.seen


async def test_the_next_head_on_a_kept_connection_has_no_more_time_than_the_first(gateway):
    async with gateway(client_limits=SHORT) as made, client(made.port) as peer:
        await peer.send(request())
        assert (await peer.message()).status == 200
        await peer.send(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: gateway.example\r\nX-A: ")

        assert b" 200 " not in await cut_off(peer, dripping=b"b")


FRAMINGS = {
    "a length": ("Content-Length: 8192", b"x"),
    "chunks": ("Transfer-Encoding: chunked", b"1\r\nx\r\n"),
}
SLOW_BODIES = {
    f"{framing}, {'dripped' if dripped else 'silent'}, {kept}": (header, piece if dripped else b"", target, key)
    for framing, (header, piece) in FRAMINGS.items()
    for dripped in (False, True)
    for kept, target, key in (("held", CHAT, ACME), ("passed on", FILES, OWN))
}


@pytest.mark.parametrize("what", SLOW_BODIES)
async def test_a_body_that_does_not_come_ends_its_connection_and_nobody_else_notices(gateway, what):
    """Guards the least rate too: one that is silent is easily noticed, one that drips never pauses for long."""
    header, dripping, target, key = SLOW_BODIES[what]
    begun = (
        f"POST {target} HTTP/1.1\r\nHost: gateway.example\r\nAuthorization: Bearer {key}\r\n{header}\r\n\r\n".encode()
    )
    async with gateway(client_limits=SHORT) as made, AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(client(made.port)) for _ in range(SLOW_CLIENTS)]
        async with another_is_served(made.port):
            for peer in slow:
                await peer.send(begun)
            said = await asyncio.gather(*(cut_off(peer, dripping) for peer in slow))

        assert not any(b" 200 " in one for one in said)
        await eventually(lambda: sum("error" in line for line in made.lines) == SLOW_CLIENTS)
        # What was sent in part was used by nobody: the ledger has the other client's calls, and none of these.
        assert {event.endpoint for event in made.events} == {"chat.completions"}
        assert {event.quantities["input_tokens"] for event in made.events} == {7}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_body_that_is_slow_and_comes_is_waited_for(gateway, framing):
    """Guards what the limits are for: a telephone line is slower than this client, and its upload takes as long."""
    header, _ = FRAMINGS[framing]
    pieces = [b"%04d" % number * 50 for number in range(100)]
    limits = replace(UNHURRIED, head_timeout_s=1, keepalive_timeout_s=1, body_idle_timeout_s=3, body_rate_min=256)
    bodies = []

    async def script(peer):
        bodies.append((await peer.message()).body)
        await peer.send(OK)

    async with gateway(script, client_limits=limits) as made, client(made.port) as peer:
        length = f"Content-Length: {sum(map(len, pieces))}"
        begun = request(FILES, b"", length if framing == "a length" else header, key=OWN)
        await peer.send(begun.replace(b"Content-Length: 0\r\n", b""))
        for piece in pieces:
            await asyncio.sleep(PAUSE_S)
            await peer.send(piece if framing == "a length" else b"%x\r\n%b\r\n" % (len(piece), piece))
        if framing == "chunks":
            await peer.send(b"0\r\n\r\n")
        got = await peer.message()

        assert (got.status, bodies) == (200, [b"".join(pieces)])


async def test_an_upload_that_the_provider_is_slow_to_take_is_not_the_clients_fault(gateway):
    """Guards counting only time in which the body is awaited: here nobody reads what the client has long been sending."""
    taken = []

    async def script(peer):
        peer.writer.transport.pause_reading()
        await asyncio.sleep(2.5 * SHORT.body_idle_timeout_s)
        peer.writer.transport.resume_reading()
        taken.append(len((await peer.message()).body))
        await peer.send(OK)

    async with gateway(script, client_limits=SHORT) as made, client(made.port) as peer:
        sending = asyncio.ensure_future(peer.send(request(FILES, bytes(2 * LARGE), key=OWN)))
        got = await peer.message()
        await asyncio.gather(sending, return_exceptions=True)

        assert (got.status, taken) == (200, [2 * LARGE])


def large_chat(size):
    """A question of about so many bytes, which is held since it must be read before it is sent."""
    return chat(messages=[{"role": "user", "content": "x" * size}])


async def answered(port, asking):
    """What a new client gets for this request, which it sends in two pieces."""
    async with client(port) as peer:
        await peer.send(asking[:-1])
        await asyncio.sleep(PAUSE_S)
        await peer.send(asking[-1:])
        return await peer.message()


@pytest.mark.parametrize("left", [False, True], ids=["sends the rest", "leaves"])
async def test_no_more_of_bodies_is_held_than_all_calls_together_may(gateway, left):
    """Guards the memory of a worker: each of thousands of calls may hold 8 MiB."""
    async with gateway(answers(OK), held_bytes_max=1 << 20) as made, client(made.port) as first:
        begun = request(CHAT, large_chat(1_040_000))
        await first.send(begun[:1_030_000])
        await eventually(lambda: made.held.bytes_held > 1_020_000)

        refused = await answered(made.port, request(CHAT, large_chat(600_000)))
        assert (refused.status, refused["x-tollkeeper-error"], refused["retry-after"]) == (503, "overloaded", "1")
        brief = await answered(made.port, request(CHAT, large_chat(60_000)))

        if left:
            first.reset()
        else:
            await first.send(begun[1_030_000:])
            assert (await first.message()).status == 200
        await eventually(lambda: made.held.bytes_held == 0)
        later = await answered(made.port, request(CHAT, large_chat(900_000)))
        assert (brief.status, later.status) == (200, 200)
        assert len(made.events) == made.provider.seen.count(b"POST ") == (2 if left else 3)


async def test_a_provider_that_has_taken_a_held_body_and_says_nothing_is_not_waited_for_for_ever(gateway):
    async def silent(peer):
        await peer.message()
        await peer.ended()

    limits = UpstreamLimits(first_byte_timeout_s=0.3)
    async with gateway(silent, upstream_limits=limits) as made:
        assert (await answered(made.port, request(CHAT, large_chat(7 << 20)))).status == 504


async def test_a_body_is_held_until_its_provider_has_taken_it_and_no_longer(gateway):
    """Guards both: what waits for a slow provider is in our memory, and a model may think for minutes about what it took."""
    take, speak = asyncio.Event(), asyncio.Event()

    async def thinking(peer):
        if not take.is_set():
            peer.writer.transport.pause_reading()
            await take.wait()
            peer.writer.transport.resume_reading()
        body = (await peer.message()).body
        if len(body) > 6 << 20:
            await speak.wait()
        await peer.send(OK)

    async with gateway(thinking, held_bytes_max=8 << 20) as made, client(made.port) as first:
        sending = asyncio.ensure_future(first.send(request(CHAT, large_chat(7 << 20))))
        await eventually(lambda: made.provider.peers)
        assert (await answered(made.port, request(CHAT, large_chat(2 << 20)))).status == 503

        take.set()
        await eventually(lambda: made.held.bytes_held == 0)
        assert (await answered(made.port, request(CHAT, large_chat(2 << 20)))).status == 200
        speak.set()
        await sending
        assert (await first.message()).status == 200
        assert len(made.events) == 2


async def test_a_body_that_comes_at_once_counts_as_what_is_held(gateway):
    async with gateway(answers(OK), held_bytes_max=65 << 10) as made, client(made.port) as peer:
        await peer.send(request(CHAT, large_chat(66 << 10)))
        refused = await peer.message()

        assert (refused.status, refused["x-tollkeeper-error"]) == (503, "overloaded")
        assert made.held.bytes_held == 0


async def test_where_the_most_that_is_held_of_one_body_may_be_held_a_larger_body_goes_through(gateway):
    async with gateway(answers(OK), held_bytes_max=LARGE) as made:
        got = await answered(made.port, request(CHAT, large_chat(LARGE + (2 << 20))))

        assert (got.status, made.held.bytes_held) == (200, 0)


@asynccontextmanager
async def takes_nothing() -> AsyncIterator[tuple[Callable[[Peer], Awaitable[None]], asyncio.Event]]:
    """A provider that takes nothing until it is let, and then answers."""
    let = asyncio.Event()

    async def stuck(peer):
        peer.writer.transport.pause_reading()
        await let.wait()
        peer.writer.transport.resume_reading()
        await peer.message()
        await peer.send(OK)

    yield stuck, let
    let.set()


@pytest.mark.parametrize("sent", [None, LARGE + (200 << 10)], ids=["whole", "in part"])
async def test_a_provider_that_takes_no_more_of_a_held_body_is_given_up(gateway, sent):
    """Guards the memory of a worker: that a client has left is not seen while there is much of its body to read."""
    limits = UpstreamLimits(idle_timeout_s=0.2)
    async with (
        takes_nothing() as (stuck, _),
        gateway(stuck, upstream_limits=limits) as made,
        client(made.port) as peer,
    ):
        asking = request(CHAT, large_chat(LARGE - 100 if sent is None else 3 * LARGE >> 1))
        sending = asyncio.ensure_future(peer.send(asking[:sent]))
        await eventually(lambda: made.provider.peers)
        assert made.held.bytes_held > LARGE - 200
        if sent is not None:
            peer.reset()
        await eventually(lambda: made.held.bytes_held == 0 and not made.listener.busy)
        await asyncio.gather(sending, return_exceptions=True)


@pytest.mark.parametrize("left", ["in the middle", "at the end", "then at the end"])
async def test_a_body_whose_client_has_left_is_held_while_there_is_a_call(gateway, left):
    """Guards the memory of a worker: a part would be held for as long as a provider takes nothing, and a whole one, which is
    still sent, would not be counted."""
    asking = request(CHAT, large_chat(LARGE - 100 if left == "at the end" else LARGE + 2000))
    async with takes_nothing() as (stuck, let), gateway(stuck, drain=True) as made, client(made.port) as peer:
        sending = asyncio.ensure_future(peer.send(asking[: LARGE + 1000]))
        await eventually(lambda: made.provider.peers)
        held = made.held.bytes_held
        await sending
        if left == "then at the end":
            await peer.send(asking[LARGE + 1000 :])
            await asyncio.sleep(PAUSE_S)
        peer.reset()
        if left != "in the middle":
            await eventually(lambda: not made.listener.connections)
            assert made.held.bytes_held == held > LARGE - 200
            let.set()
        await eventually(lambda: made.held.bytes_held == 0 and not made.listener.busy)
        assert made.provider.seen.endswith(b"]}") is (left != "in the middle")


async def test_one_tenant_holds_half_at_most_and_leaves_the_other_half_to_others(gateway):
    asking = large_chat(6 << 20)
    async with (
        takes_nothing() as (stuck, _),
        gateway(stuck, held_bytes_max=20 << 20) as made,
        client(made.port) as first,
        client(made.port) as second,
    ):
        await first.send(request(CHAT, asking))
        await eventually(lambda: made.provider.peers)
        refused = await answered(made.port, request(CHAT, asking))
        assert (refused.status, refused["x-tollkeeper-error"]) == (503, "overloaded")

        await second.send(request(CHAT, asking, key=OTHER))
        await eventually(lambda: len(made.provider.peers) == 2)
        assert made.held.bytes_held > 12 << 20


async def test_a_client_that_was_refused_and_goes_on_sending_is_heard_for_a_while_only(gateway):
    begun = request(FILES, b"", "Transfer-Encoding: chunked", key="tk_unknown").replace(b"Content-Length: 0\r\n", b"")
    async with gateway(client_limits=SHORT) as made, client(made.port) as peer, another_is_served(made.port):
        await peer.send(begun)
        got = await peer.message()

        assert (got.status, got["connection"]) == (401, "close")
        await cut_off(peer, dripping=b"400\r\n" + bytes(1024) + b"\r\n")


# ---------------------------------------------------------------------------------------------------------------------
# Slow readers


async def streaming(peer):
    """A provider that answers streams with more than a connection holds, and everything else at once."""
    while True:
        asked = await peer.message()
        await peer.send(LARGE_STREAM if b'"stream": true' in asked.body else OK)


@pytest.mark.parametrize("read_bytes", [0, 64])
async def test_a_client_that_does_not_take_its_answer_is_let_go_and_the_call_is_metered(gateway, read_bytes):
    """A reader of 64 bytes, 20 times a second, is far below the least rate; one that reads nothing is simply stuck."""
    limits = replace(UNHURRIED, write_idle_timeout_s=1, body_rate_min=64 << 10)
    async with gateway(streaming, client_limits=limits) as made:
        with stalled_client(made.port) as end:
            end.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(end, request(CHAT, STREAMING))
            came = b""
            async with another_is_served(made.port):

                def metered() -> bool:
                    return any(line.get("error") == "client_gone" for line in made.lines)

                if read_bytes == 0:
                    await eventually(metered)
                else:
                    async with asyncio.timeout(60):
                        while not metered():
                            with suppress(BlockingIOError, ConnectionError):
                                came += end.recv(read_bytes)
                            await asyncio.sleep(PAUSE_S)
            # Whatever it would still read, it is not all of it, and does not end as if it were.
            with suppress(ConnectionError):
                while data := await soon(loop.sock_recv(end, 1 << 16)):
                    came += data

        (line,) = [line for line in made.lines if "error" in line]
        assert (line["usage"], line["completeness"]) == (QUANTITIES, Completeness.REPORTED)
        assert len(made.events) == len(made.lines)
        assert len(came) < LARGE
        assert not came.endswith(b"0\r\n\r\n")


async def test_a_client_that_is_slow_and_takes_its_answer_gets_all_of_it(gateway):
    """Guards looking at what the client has taken rather than at what the system has taken off us: its buffers hold
    megabytes and give way in leaps, between which an honest client on a slow line was cut off."""
    limits = replace(UNHURRIED, write_idle_timeout_s=1.5, body_rate_min=64 << 10)
    rate, slow_for_bytes = 400_000, 2_000_000
    async with gateway(streaming, client_limits=limits) as made:
        with stalled_client(made.port) as end:
            end.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(end, request(CHAT, STREAMING))
            came = bytearray()
            while not came.endswith(b"\r\n0\r\n\r\n"):
                data = await soon(loop.sock_recv(end, 64 << 10))
                assert data, f"cut off after {len(came)} bytes"
                came += data
                if len(came) < slow_for_bytes:
                    await asyncio.sleep(len(data) / rate)

        assert body_of(bytes(came)) == LARGE_BODY


# ---------------------------------------------------------------------------------------------------------------------
# Idle connections


async def test_a_connection_without_a_call_is_closed_in_order(gateway):
    async with gateway(client_limits=SHORT) as made, client(made.port) as never_used, client(made.port) as used:
        await used.send(request())
        assert (await used.message()).status == 200
        async with another_is_served(made.port):
            assert await used.ended_in_order()
            assert await never_used.ended_in_order()


async def test_a_connection_in_use_is_not_idle_however_old_it_is(gateway):
    limits = replace(UNHURRIED, keepalive_timeout_s=2)
    async with gateway(client_limits=limits) as made, client(made.port) as peer:
        for _ in range(9):
            await peer.send(request())
            assert (await peer.message()).status == 200
            await asyncio.sleep(limits.keepalive_timeout_s / 4)


# ---------------------------------------------------------------------------------------------------------------------
# What is no client's fault


@pytest.mark.parametrize("where", ["before the answer", "within a stream", "within an answer with a length"])
async def test_however_long_the_provider_pauses_a_client_that_waits_is_not_cut_off(gateway, where):
    """Guards the limits that are for clients: none of their times runs while it is the provider's turn."""
    pause_s = 3 * SHORT.head_timeout_s
    split = {"before the answer": 0, "within a stream": sse(WORDS % b"Hi").index(b"\r\n0\r\n") + 2}.get(where, 100)

    async def script(peer):
        asked = await peer.message()
        told = sse(WORDS % b"Hi", USED, DONE) if b"stream" in asked.body else answer(WHOLE * 100)
        await peer.send(told[:split])
        await asyncio.sleep(pause_s)
        await peer.send(told[split:])

    async with gateway(script, client_limits=SHORT) as made:
        got = await made.ask(request(CHAT, STREAMING if where == "within a stream" else chat()))

        assert (got.status, got.whole) == (200, True)
        assert got.body == (WORDS % b"Hi" + USED + DONE if where == "within a stream" else WHOLE * 100)


# ---------------------------------------------------------------------------------------------------------------------
# Many


async def test_a_connection_too_many_is_closed_at_once_and_the_others_go_on(gateway):
    limits = replace(UNHURRIED, connections_max=3, head_timeout_s=FOREVER_S, keepalive_timeout_s=FOREVER_S)
    async with gateway(client_limits=limits) as made, AsyncExitStack() as stack:
        first, *others = [await stack.enter_async_context(client(made.port)) for _ in range(limits.connections_max)]
        for peer in (first, *others):
            await peer.send(request())
            assert (await peer.message()).status == 200
        for _ in range(5):
            async with client(made.port) as one_too_many:
                with suppress(ConnectionError):
                    await one_too_many.send(request())
                assert b" 200 " not in await one_too_many.rest()
        for peer in (first, *others):
            await peer.send(request())
            assert (await peer.message()).status == 200
        assert len(made.events) == 2 * limits.connections_max

        first.close()
        await first.writer.wait_closed()

        async def served() -> bool:
            with suppress(ConnectionError, EOFError):
                return (await made.ask(request())).status == 200
            return False

        async with asyncio.timeout(60):
            while not await served():  # noqa: ASYNC110  The place of one that has gone is free once the gateway knows.
                await asyncio.sleep(PAUSE_S)


def basic(tenant_id: str, key: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{sid_of(tenant_id)}:{key}".encode()).decode()


SHAPES = {
    "openai": (request(), lambda document: document["error"]["message"]),
    "sendgrid": (
        request("/sendgrid/v3/mail/send", b'{"personalizations":[]}'),
        lambda document: document["errors"][0]["message"],
    ),
    "twilio": (
        request(
            f"/twilio/2010-04-01/Accounts/{sid_of('acme')}/Messages.json", b"To=%2B1", basic("acme", ACME), key=None
        ),
        lambda document: (document["code"], document["status"] == 503, document["message"])[2],
    ),
}


@asynccontextmanager
async def full(gateway, calls_max: int) -> AsyncIterator[tuple[object, list[Peer], asyncio.Event]]:
    """A gateway with as many calls under way as it takes; they are answered when the event is set."""
    let_go = asyncio.Event()

    async def script(peer):
        while True:
            await peer.message()
            await let_go.wait()
            await peer.send(OK)

    async with (
        gateway(script, client_limits=replace(UNHURRIED, calls_max=calls_max)) as made,
        AsyncExitStack() as stack,
    ):
        waiting = [await stack.enter_async_context(client(made.port)) for _ in range(calls_max)]
        for peer in waiting:
            await peer.send(request())
        await eventually(lambda: made.provider.seen.count(b"POST ") == calls_max)
        yield made, waiting, let_go


@pytest.mark.parametrize("of", SHAPES)
async def test_a_call_too_many_is_told_to_come_back_and_nothing_of_it_is_sent(gateway, of):
    asked, message_in = SHAPES[of]
    async with full(gateway, 2) as (made, waiting, let_go):
        for _ in range(3):
            got = await made.ask(asked)

            assert got.status == 503
            assert int(got["retry-after"] or "") >= 1
            assert got["x-tollkeeper-error"]
            assert got["x-should-retry"] != "false"
            assert message_in(json.loads(got.body))
        let_go.set()
        assert [(await peer.message()).status for peer in waiting] == [200, 200]
        got = await made.ask(request())

        assert (got.status, got.body) == (200, WHOLE)
        assert made.provider.seen.count(b" HTTP/1.1\r\n") == len(made.events) == 3


async def test_a_client_whose_call_was_one_too_many_hears_it_while_it_still_sends(gateway):
    async with full(gateway, 1) as (made, _, _), client(made.port) as peer:
        begun = request(FILES, b"", f"Content-Length: {LARGE}", key=OWN).replace(b"Content-Length: 0\r\n", b"")
        await peer.send(begun + bytes(LARGE // 2))
        got = await peer.message()

        assert (got.status, bool(got["retry-after"])) == (503, True)
        assert made.provider.seen.count(b" HTTP/1.1\r\n") == 1


async def test_a_gateway_that_takes_no_more_calls_is_alive(gateway):
    """Guards not being restarted for being busy, by whoever asks whether it is alive, and losing the calls under way."""
    async with full(gateway, 1) as (made, _, _):
        got = await made.ask(request("/healthz", b"", key=None, method="GET"))

        assert (got.status, got.body) == (200, b'{"status":"ok"}')


# ---------------------------------------------------------------------------------------------------------------------
# Slow providers


@contextmanager
def unanswering_port() -> Iterator[int]:
    """A port at which connections are neither accepted nor refused: the queue before it is full."""
    with ExitStack() as ends:
        listening = ends.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(16):
            end = ends.enter_context(socket.socket())
            end.setblocking(False)
            end.connect_ex(listening.getsockname())
            if not select.select([], [end], [], 0.3)[1]:
                yield listening.getsockname()[1]
                return
        raise AssertionError("this system's queues have no end")


async def test_a_provider_that_takes_no_connection_is_a_504_and_nothing_was_used(gateway):
    with unanswering_port() as port:
        async with gateway(upstream_limits=HURRIED, port=port) as made:
            got = await made.ask(request())

            assert (got.status, got["x-should-retry"]) == (504, None)
            assert (made.events, len(made.closed)) == ([], 1)


async def test_a_provider_that_does_not_answer_is_a_504_and_the_call_is_in_the_ledger_as_unknown(gateway):
    async def script(peer):
        await peer.message()
        await peer.ended()

    async with gateway(script, upstream_limits=HURRIED) as made:
        got = await made.ask(request())

        assert (got.status, got["x-tollkeeper-error"], got["x-should-retry"]) == (504, "upstream_timeout", "false")
        assert "message" in json.loads(got.body)["error"]
        assert [event.completeness for event in made.events] == [Completeness.UNKNOWN]


async def test_a_provider_that_never_ends_its_interim_answers_does_not_gain_time_by_them(gateway):
    async def script(peer):
        await peer.message()
        for _ in range(3):
            await peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        await peer.ended()

    async with gateway(script, upstream_limits=HURRIED) as made:
        assert (await made.ask(request())).status == 504


async def test_a_provider_that_stops_taking_a_body_is_a_504_and_the_call_is_in_the_ledger_as_unknown(gateway):
    async def script(peer):
        peer.writer.transport.pause_reading()
        await asyncio.sleep(FOREVER_S)

    async with gateway(script, upstream_limits=HURRIED) as made, client(made.port) as peer:
        sending = asyncio.ensure_future(peer.send(request(FILES, bytes(2 * LARGE), key=OWN)))
        got = await peer.message()
        await asyncio.gather(sending, return_exceptions=True)

        assert (got.status, got["x-should-retry"]) == (504, "false")
        assert [event.completeness for event in made.events] == [Completeness.UNKNOWN]


BROKEN_OFF = {
    "a length": answer(WHOLE)[:-10],
    "a length, nothing of it": answer(WHOLE)[: -len(WHOLE)],
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(WHOLE)[: -len(b"0\r\n\r\n")],
    "the close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + WHOLE,
    "a stream": sse(WORDS % b"Hi")[: -len(b"0\r\n\r\n")],
}


@pytest.mark.parametrize("framing", BROKEN_OFF)
async def test_an_answer_that_comes_to_a_halt_does_not_look_whole_and_is_in_the_ledger_as_unknown(gateway, framing):
    async def script(peer):
        await peer.message()
        await peer.send(BROKEN_OFF[framing])
        await peer.ended()

    async with gateway(script, upstream_limits=HURRIED) as made, client(made.port) as peer:
        await peer.send(request(CHAT, STREAMING if framing == "a stream" else chat()))
        raw = bytearray()
        with suppress(ConnectionError):
            while data := await soon(peer.reader.read(1 << 16)):
                raw += data
        await eventually(lambda: made.lines and made.events)

        head, _, body = bytes(raw).partition(b"\r\n\r\n")
        told = dict(headers_of(head.split(b"\r\n")[1:]))
        if head.startswith(b"HTTP/1.1 200 "):
            assert "content-length" in told or "transfer-encoding" in told
            assert len(body) < int(told.get("content-length", LARGE))
            assert not body.endswith(b"0\r\n\r\n")
        else:
            assert head == b"" or head.startswith((b"HTTP/1.1 502 ", b"HTTP/1.1 504 "))
        assert [event.completeness for event in made.events] == [Completeness.UNKNOWN]


async def test_a_provider_that_is_slow_and_moves_is_waited_for(gateway):
    """Guards that no limit is one on the whole: a stream runs for as long as it runs."""
    limits = UpstreamLimits(first_byte_timeout_s=2, idle_timeout_s=2)
    events = [WORDS % b"Hi"] * 30

    async def script(peer):
        await peer.message()
        told = sse(*events, USED, DONE)
        for at in range(0, len(told), 1 + len(told) // 40):
            await peer.send(told[at : at + 1 + len(told) // 40])
            await asyncio.sleep(0.1)

    async with gateway(script, client_limits=SHORT, upstream_limits=limits) as made:
        got = await made.ask(request(CHAT, STREAMING))

        assert (got.whole, got.body) == (True, b"".join((*events, USED, DONE)))


async def test_a_connection_to_the_provider_that_lay_for_long_is_not_used_again(gateway):
    async with gateway(upstream_limits=UpstreamLimits(keepalive_timeout_s=0.2)) as made:
        for _ in range(2):
            assert (await made.ask(request())).status == 200
            await eventually(made.provider.peers[-1].reader.at_eof)

        assert len(made.provider.peers) == 2


async def test_no_more_connections_to_a_provider_are_kept_than_the_limit(gateway):
    async with gateway(upstream_limits=UpstreamLimits(idle_connections_max=2)) as made:
        gate = asyncio.Event()

        async def script(peer):
            await peer.message()
            await gate.wait()
            await peer.send(OK)
            await peer.message()

        made.provider.script = script
        asking = [asyncio.ensure_future(made.ask(request())) for _ in range(6)]
        await eventually(lambda: len(made.provider.peers) == 6)
        gate.set()

        assert {(await one).status for one in asking} == {200}
        await eventually(lambda: sum(not peer.reader.at_eof() for peer in made.provider.peers) == 2)
