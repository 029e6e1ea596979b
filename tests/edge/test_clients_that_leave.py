"""Clients that leave, at every moment of a call: before it is sent nothing happens, after it there is one record of it.

Client and provider are scripts over sockets, and wait for each other, so that each leaves where the test says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from metering.usage import Completeness
from tests.gateway.peers import Peer, answer, answers, chunked, client, eventually, provider, soon
from tests.gateway.proxied import ACME, CHAT, OWN, Proxied, chat, proxied, request

POINTS = 200
AT_ONCE = 20

RESPONSES = "/openai/v1/responses"
MAIL = "/sendgrid/v3/mail/send"


async def left(gateway: Proxied, peer: Peer, how: str) -> None:
    """Leave by closing or by a reset, and wait until the gateway must have noticed."""
    if how == "reset":
        peer.reset()
    else:
        peer.close()
    with suppress(ConnectionError):
        await soon(peer.writer.wait_closed())
    await behind_everything(gateway)


async def behind_everything(gateway: Proxied) -> None:
    """Ask something that is answered: what came before it was heard before it."""
    assert (await gateway.ask(request("/healthz", b"", key=None, method="GET", close=True))).status == 200


HOW = pytest.mark.parametrize("how", ["close", "reset"])


# ---------------------------------------------------------------------------------------------------------------------
# C01: before, during and after the request


def unfinished() -> dict[str, bytes]:
    """Requests that no provider may hear of: they were left before they were whole."""
    whole = request(CHAT, chat())
    head_end = whole.index(b"\r\n\r\n") + 4
    framed = request(CHAT, b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    return {
        "nothing": b"",
        "the first byte": whole[:1],
        "half a request line": whole[:9],
        "half a head": whole[: head_end // 2],
        "a head but for its last byte": whole[: head_end - 1],
        "a head and no body": whole[:head_end],
        "a head and half a body": whole[: -len(chat()) // 2],
        "a head and all but a byte of its body": whole[:-1],
        "half a chunk": framed + b"20\r\n" + chat()[:9],
        "chunks and no last one": framed + b"%x\r\n%b\r\n" % (len(chat()), chat()),
        "chunks and half of the last one": framed + chunked(chat())[:-2],
    }


@HOW
@pytest.mark.parametrize("sent", unfinished())
async def test_of_a_client_that_leaves_before_its_request_is_whole_no_provider_hears(tmp_path, sent, how):
    async with provider(answers(answer(b"{}"))) as upstream, proxied(tmp_path, upstream) as gateway:
        async with client(gateway.port) as leaving:
            leaving.writer.write(unfinished()[sent])
            await soon(leaving.writer.drain())
            await left(gateway, leaving, how)
        await gateway.ask(request())
        await closed(gateway)

        assert upstream.seen.count(b"HTTP/1.1\r\n") == 1
        assert len(gateway.events) + len(gateway.closed) == 1


async def closed(gateway: Proxied) -> None:
    """Wait until every call that began has ended in the records."""
    await eventually(lambda: ended(gateway) >= len(intents(gateway)))


def intents(gateway: Proxied) -> list[Any]:
    return [record for record in gateway.records if type(record).__name__ == "Intent"]


def ended(gateway: Proxied) -> int:
    return len({event.event_id for event in gateway.events}) + len(gateway.closed)


@HOW
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("key", [OWN, ACME], ids=["forwarded as it comes", "held and looked through"])
async def test_a_client_that_leaves_during_its_upload_has_one_record_and_its_request_is_never_whole(
    tmp_path, how, framing, key
):
    """A mail that is larger than what is held: the provider has a part of it when its client leaves."""
    begun, over = asyncio.Event(), asyncio.Event()
    heard: list[bool] = []

    async def hears(peer: Peer) -> None:
        await soon(peer.reader.readuntil(b"\r\n\r\n"))
        peer.seen += await soon(peer.reader.read(65536))
        begun.set()
        heard.append(await ends_in_order(peer))
        over.set()

    size = 12 << 20
    mail = json.dumps({"content": [{"type": "text/plain", "value": "x" * size}]}).encode()[: size // 4 * 3]
    length = f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked"
    head = f"POST {MAIL} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{length}\r\n\r\n".encode()

    async with provider(hears) as upstream, proxied(tmp_path, upstream) as gateway:
        async with client(gateway.port) as leaving:
            leaving.writer.write(head + (mail if framing == "length" else b"%x\r\n%b\r\n" % (len(mail), mail)))
            await soon(begun.wait())
            await left(gateway, leaving, how)
            await soon(over.wait())
        await closed(gateway)

        assert len(upstream.peers) == 1
        assert (len(intents(gateway)), ended(gateway)) == (1, 1)
        # What a length or a last chunk declared has not come, so that the provider can not take it for a whole mail.
        assert b"\r\n0\r\n\r\n" not in upstream.seen
        assert len(upstream.seen) < size


async def ends_in_order(peer: Peer) -> bool:
    """Read until the connection ends, and keep what came."""
    try:
        while data := await soon(peer.reader.read(1 << 16)):
            peer.seen += data
    except ConnectionError:
        return False
    return True


class Answering(NamedTuple):
    """A provider's answer in two parts: the client leaves between them."""

    first: bytes
    rest: bytes


TOLD = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
BODY = json.dumps({"id": "chatcmpl-1", "model": "gpt-4o", "choices": [], "usage": TOLD}).encode()
WHOLE = answer(BODY, b"Content-Type: application/json")
IN_CHUNKS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"

PARTS = {
    "before the answer": Answering(b"", WHOLE),
    "after its head": Answering(WHOLE[: -len(BODY)], BODY),
    "after half of its body": Answering(WHOLE[:-40], WHOLE[-40:]),
    "after all but a byte": Answering(WHOLE[:-1], WHOLE[-1:]),
    "after the head of chunks": Answering(IN_CHUNKS, chunked(BODY)),
    "after a chunk": Answering(IN_CHUNKS + chunked(BODY[:20])[:-5], chunked(BODY[20:])),
}


@HOW
@pytest.mark.parametrize("where", PARTS)
async def test_a_client_that_leaves_once_its_request_is_sent_has_one_event_with_what_was_used(tmp_path, where, how):
    sent, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(PARTS[where].first)
        sent.set()
        await soon(gone.wait())
        await peer.send(PARTS[where].rest)

    async with provider(script) as upstream, proxied(tmp_path, upstream) as gateway:
        async with client(gateway.port) as leaving:
            leaving.writer.write(request(CHAT, chat()))
            await soon(sent.wait())
            await left(gateway, leaving, how)
            gone.set()
        await eventually(lambda: gateway.events)

        (event,) = gateway.events
        assert event.completeness is Completeness.REPORTED
        assert event.quantities == {"input_tokens": 7, "output_tokens": 2}
        assert gateway.closed == []
        assert len(upstream.peers) == 1


# ---------------------------------------------------------------------------------------------------------------------
# C02: at every point of a stream


def of_chat(number: int) -> list[bytes]:
    """A streamed chat that used as many tokens as the number says."""
    chunk = {"id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "model": "gpt-4o", "choices": []}
    words = [chunk | {"choices": [{"index": 0, "delta": {"content": f"word {word} "}}]} for word in range(20)]
    usage = {"prompt_tokens": 1000 + number, "completion_tokens": number, "total_tokens": 1000 + 2 * number}
    told = [*words, chunk | {"usage": usage}]
    return [b"data: %b\n\n" % json.dumps(event).encode() for event in told] + [b"data: [DONE]\n\n"]


def of_responses(number: int) -> list[bytes]:
    """The same of the Responses API."""
    words = [{"type": "response.output_text.delta", "delta": f"word {word} "} for word in range(20)]
    usage = {"input_tokens": 1000 + number, "output_tokens": number, "total_tokens": 1000 + 2 * number}
    made = {"id": f"resp_{number}", "model": "gpt-4o", "status": "completed", "output": [], "usage": usage}
    told = [*words, {"type": "response.completed", "response": made}]
    return [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode()) for event in told]


STREAMS: dict[str, tuple[str, Callable[[int], list[bytes]]]] = {
    "chat": (CHAT, of_chat),
    "responses": (RESPONSES, of_responses),
}
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def point(number: int, length: int) -> int:
    """Where in a stream of that length the client of that number leaves: from before its first byte to behind its last."""
    return number * length // (POINTS - 1)


class Meeting:
    """One client and the provider's side of its call, which wait for each other."""

    def __init__(self) -> None:
        self.sent = asyncio.Event()
        self.left = asyncio.Event()
        self.went_on = asyncio.Event()
        self.noticed = asyncio.Event()


def streaming(meetings: list[Meeting], events_of: Callable[[int], list[bytes]]) -> Callable[[Peer], Awaitable[None]]:
    """A provider that sends as much as the client is to see, waits until it has left, and sends the rest in two parts."""

    async def script(peer: Peer) -> None:
        while True:
            asked = await peer.message()
            number = int(json.loads(asked.body)["user"])
            stream = b"".join(events_of(number))
            cut = point(number, len(stream))
            await peer.send(STREAM_HEAD + chunked(stream[:cut])[:-5])
            meetings[number].sent.set()
            await soon(meetings[number].left.wait())
            middle = (cut + len(stream)) // 2
            with suppress(ConnectionError):  # Where calls end with their clients, nobody may be listening any more.
                await peer.send(chunked(stream[cut:middle])[:-5])
            meetings[number].went_on.set()
            await soon(meetings[number].noticed.wait())
            await peer.send(chunked(stream[middle:]))

    return script


async def left_at(gateway: Proxied, meeting: Meeting, number: int, path: str, events_of: Any) -> None:
    """Be the client of that number: read all whole events before its point, and leave."""
    stream = b"".join(events_of(number))
    whole = stream.rfind(b"\n\n", 0, point(number, len(stream))) + 2
    seen_last = stream[:whole][-40:].strip() if whole > 1 else b"\r\n\r\n"
    body = chat(stream=True, user=str(number), stream_options={"include_usage": True})
    async with client(gateway.port) as peer:
        peer.writer.write(request(path, body))
        await soon(meeting.sent.wait())
        received = b""
        while seen_last not in received:
            received += (chunk := await soon(peer.reader.read(65536)))
            assert chunk, received
        await left(gateway, peer, "reset" if number % 2 else "close")
    meeting.left.set()
    await soon(meeting.went_on.wait())
    await behind_everything(gateway)
    meeting.noticed.set()


@pytest.mark.parametrize("drain", [True, False], ids=["read to its end", "given up"])
@pytest.mark.parametrize("kind", STREAMS)
async def test_wherever_in_a_stream_its_client_leaves_there_is_one_event_of_it(tmp_path, kind, drain):
    path, events_of = STREAMS[kind]
    meetings = [Meeting() for _ in range(POINTS)]

    async with (
        provider(streaming(meetings, events_of)) as upstream,
        proxied(tmp_path, upstream, drain=drain) as gateway,
    ):
        for first in range(0, POINTS, AT_ONCE):
            numbers = range(first, first + AT_ONCE)
            await asyncio.gather(*(left_at(gateway, meetings[one], one, path, events_of) for one in numbers))
        await eventually(lambda: len(gateway.lines) >= POINTS)
        events, began, closed = gateway.events, intents(gateway), gateway.closed

    assert {event.event_id for event in events} == {intent.call_id for intent in began}
    assert (len(events), len(began), closed) == (POINTS, POINTS, [])
    used = {event.quantities.get("output_tokens"): event for event in events}
    if drain:
        assert {event.completeness for event in events} == {Completeness.REPORTED}
        assert [used[number].quantities["input_tokens"] for number in range(POINTS)] == [
            1000 + number for number in range(POINTS)
        ]
    else:
        known = [event for event in events if event.completeness is Completeness.REPORTED]
        # Whoever leaves at the very end has seen what was used.
        assert {event.completeness for event in events} == {Completeness.REPORTED, Completeness.UNKNOWN}
        assert all(event.quantities["input_tokens"] == 1000 + event.quantities["output_tokens"] for event in known)
