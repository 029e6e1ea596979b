"""An answer in bytes: framed, coded, and spoilt where the request asks for it. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from http import HTTPStatus
from typing import NamedTuple

from gateway.simulator import codings
from gateway.simulator.api import JSON, Answer
from gateway.simulator.controls import NEVER_ANSWERED, OF_FRAMING, OF_STREAMS, PREFIX, Controls, Fault, Framing, Sse

CODED_BYTES_MIN = 1024
"""JSON shorter than this is not worth coding."""
CHUNK_BYTES_MAX = 16 << 10
NO_CONTENT = 204
"""Such an answer ends with its head: it has neither a length nor chunks."""


class Ending(Enum):
    """What happens once the last byte is out."""

    KEPT = "kept"
    """The answer is complete, and the connection is good for another."""
    CLOSED = "closed"
    """The answer is complete, and the connection ends."""
    BROKEN_OFF = "broken off"
    """The connection ends, though the answer is not complete."""
    STALLED = "stalled"
    """Nothing more happens until the client goes."""


WHOLE = frozenset({Ending.KEPT, Ending.CLOSED})


class Plan(NamedTuple):
    """All that is to be written, in order."""

    head: bytes
    head_alone: bool
    """Whether the head is written before the first piece is there."""
    pieces: Iterable[bytes]
    """The body as it is coded. Each piece of it is one write; the pause between events goes in between."""
    byte_by_byte: bool
    """Whether each byte of a piece is a write of its own."""
    chunked: bool
    """Whether each write is a chunk."""
    ending: Ending

    def writes(self, piece: bytes) -> Iterable[bytes]:
        return (bytes((byte,)) for byte in piece) if self.byte_by_byte else (piece,)

    def framed(self, write: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(write), write) if self.chunked else write

    @property
    def last(self) -> bytes:
        """What says that the body is complete, where framing has something to say it with."""
        return b"0\r\n\r\n" if self.chunked and self.ending in WHOLE else b""


class Client(NamedTuple):
    """What the request says about how it can be answered."""

    method: str
    headers: Mapping[str, str]
    http_1_1: bool
    keep_alive: bool


def objection(answer: Answer, controls: Controls) -> str | None:
    """Why this answer cannot be as it is asked for, or None. An error cannot be streamed, and is answered whole instead."""
    if answer.status >= 400:
        return None
    fault = controls.fault
    if controls.of_life and not answer.lives:
        return f"{controls.of_life}: nothing was made here that goes on to change by itself."
    if answer.session is not None:
        return objection_to_session(controls)
    if controls.close_code is not None:
        return "x-simulator-close-code needs a session, and this is none."
    if fault in OF_FRAMING and answer.status == NO_CONTENT:
        return f"x-simulator-fault: {fault} needs an answer with a body, and this one has none."
    if fault in OF_STREAMS and answer.events is None:
        return f"x-simulator-fault: {fault} needs an answer that is streamed, and this one is not."
    if fault is Fault.RESPONSE_FAILED and not (answer.object_id or "").startswith("resp_"):
        return f"x-simulator-fault: {fault} needs a response of the Responses API."
    return None


def objection_to_session(controls: Controls) -> str | None:
    """Why a session cannot be as it is asked for, or None."""
    of_bodies = {
        "fault": controls.fault if controls.fault in OF_FRAMING else None,
        "framing": controls.framing,
        "sse": controls.sse,
        "encoding": controls.encoding if controls.encoding not in ("identity", "deflate") else None,
    }
    given = next((f"{PREFIX}{name}: {value}" for name, value in of_bodies.items() if value is not None), None)
    return given and f"{given} needs an answer with a body, and this one is a session."


def says_usage(answer: Answer, fault: Fault | None) -> bool:
    """Whether the answer, were it to arrive whole, says what was used."""
    return fault not in NEVER_ANSWERED and not (fault is Fault.NO_DONE and answer.usage_in_last_event)


def plan(answer: Answer, controls: Controls, client: Client, date: str) -> Plan:
    """Lay an answer out. The fault is one that it can have, and not one of those that prevent it."""
    fault = controls.fault
    coding = coding_of(answer, controls, client)
    framing = framing_of(answer, controls, client)
    ending = ending_of(answer, fault, framing, client)
    # What stops half-way through its events has no end to its coding either.
    stops = answer.events is not None and fault in (Fault.CUT_STREAM, Fault.STALL_STREAM)
    pieces = coded(told(answer, controls), coding, ends=not stops)
    length = None
    if framing is Framing.LENGTH:
        gathered = list(pieces)
        length, pieces = sum(map(len, gathered)), iter(gathered)
    elif framing is Framing.CHUNKED and answer.events is None:
        pieces = in_chunks(b"".join(pieces))
    if fault in (Fault.CUT_BODY, Fault.CUT_CHUNKED):
        pieces = half(list(pieces))
    if client.method == "HEAD":
        pieces = iter(())
    return Plan(
        head=head_of(
            answer,
            client,
            coding=coding,
            framing=framing,
            length=length,
            date=date,
            closes=ending is Ending.CLOSED,
        ),
        head_alone=answer.events is not None and controls.sse is not Sse.ONE_WRITE,
        pieces=pieces,
        byte_by_byte=answer.events is not None and controls.sse is Sse.BYTE_BY_BYTE,
        chunked=framing is Framing.CHUNKED and client.method != "HEAD",
        ending=ending,
    )


def coding_of(answer: Answer, controls: Controls, client: Client) -> str:
    if answer.status == NO_CONTENT:
        return "identity"
    if controls.encoding is not None:
        return controls.encoding
    if answer.content_type != JSON or len(answer.body) < CODED_BYTES_MIN:
        return "identity"
    return codings.preferred(client.headers.get("Accept-Encoding", ""))


def framing_of(answer: Answer, controls: Controls, client: Client) -> Framing | None:
    """How the body is framed; None where there is none, and where it ends with the connection."""
    if answer.status == NO_CONTENT:
        return None
    match controls.fault:
        case Fault.CLOSE_DELIMITED:
            return None
        case Fault.CUT_BODY:
            return Framing.LENGTH
        case Fault.CUT_CHUNKED:
            framing = Framing.CHUNKED
        case _:
            framing = controls.framing or (Framing.LENGTH if answer.events is None else Framing.CHUNKED)
    return None if framing is Framing.CHUNKED and not client.http_1_1 else framing


def ending_of(answer: Answer, fault: Fault | None, framing: Framing | None, client: Client) -> Ending:
    match fault:
        case Fault.CUT_BODY | Fault.CUT_CHUNKED:
            return Ending.BROKEN_OFF
        case Fault.CUT_STREAM if answer.events is not None:
            return Ending.BROKEN_OFF
        case Fault.STALL_STREAM if answer.events is not None:
            return Ending.STALLED
        case _:
            has_end = framing is not None or answer.status == NO_CONTENT
            return Ending.KEPT if has_end and client.keep_alive else Ending.CLOSED


def told(answer: Answer, controls: Controls) -> Iterator[bytes]:
    """The body in the pieces in which it is said: as it is, or event by event."""
    if answer.events is None:
        return iter((answer.body,))
    events = answer.events()
    match controls.fault:
        case Fault.CUT_STREAM:
            events = half_of_events(answer.events, and_half_an_event=True)
        case Fault.STALL_STREAM:
            events = half_of_events(answer.events, and_half_an_event=False)
        case Fault.NO_DONE:
            events = all_but_last(events)
    match controls.sse:
        case Sse.CRLF:
            return (event.replace(b"\n", b"\r\n") for event in events)
        case Sse.ONE_WRITE:
            return iter((b"".join(events),))
        case _:
            return events


def half_of_events(events: Callable[[], Iterator[bytes]], *, and_half_an_event: bool) -> Iterator[bytes]:
    count = sum(1 for _ in events())
    shown = events()
    yield from itertools.islice(shown, count // 2)
    if and_half_an_event:
        event = next(shown)
        yield event[: len(event) // 2]


def all_but_last(events: Iterator[bytes]) -> Iterator[bytes]:
    previous = next(events)
    for event in events:
        yield previous
        previous = event


def coded(pieces: Iterator[bytes], coding: str, *, ends: bool) -> Iterator[bytes]:
    if coding == "identity":
        yield from pieces
        return
    coder = codings.coder(coding)
    for piece in pieces:
        yield coder.piece(piece)
    if ends:
        yield coder.end()


def in_chunks(body: bytes) -> Iterator[bytes]:
    """At least two, so that what the end of a body says comes apart from its beginning."""
    size = max(1, min(CHUNK_BYTES_MAX, (len(body) + 1) // 2))
    return (body[start : start + size] for start in range(0, len(body), size))


def half(pieces: list[bytes]) -> Iterator[bytes]:
    left = sum(map(len, pieces)) // 2
    for piece in pieces:
        if left:
            yield piece[:left]
        left = max(0, left - len(piece))


def head_of(
    answer: Answer,
    client: Client,
    *,
    coding: str,
    framing: Framing | None,
    length: int | None,
    date: str,
    closes: bool,
) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {reason(answer.status)}", f"Date: {date}"]
    if answer.content_type:
        lines.append(f"Content-Type: {answer.content_type}")
    if length is not None:
        lines.append(f"Content-Length: {length}")
    elif framing is Framing.CHUNKED:
        lines.append("Transfer-Encoding: chunked")
    if coding != "identity":
        lines.append(f"Content-Encoding: {coding}")
    if closes:
        lines.append("Connection: close")
    elif not client.http_1_1:
        lines.append("Connection: keep-alive")
    lines.extend(f"{name}: {value}" for name, value in answer.headers)
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unassigned"
