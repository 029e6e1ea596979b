"""Meters of OpenAI's answers: one JSON value, or a stream of server-sent events. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

import msgspec

from gateway.messages import ResponseHead
from gateway.providers import decoding, sse
from gateway.providers.api import Meter
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.learnt import Prepared, Usage
from gateway.providers.openai.documents import Answer, Documented, OddAnswer
from gateway.providers.openai.requests import text
from gateway.providers.openai.tools import Tools, tools_used
from gateway.providers.openai.usage import counted, unseen
from gateway.providers.revised import Revised
from metering.usage import Completeness


def _told(answer: Answer | OddAnswer) -> Documented | msgspec.Raw | None:
    """The usage object of an answer, whatever it holds; None where there is none."""
    usage = answer.usage
    if usage is None or type(usage) is Documented:
        return usage
    return usage if bytes(usage).startswith(b"{") else None


_REPORTED: Final = Completeness.REPORTED  # Looking it up in the enumeration is a call.


class _Findings:
    """What an answer has said so far, and the usage that this makes."""

    model: str | None = None
    external_id: str | None = None
    service_tier: str | None = None
    usage: Documented | msgspec.Raw | None = None
    tools: Tools | None = None
    background = False
    failed = False

    def __init__(self, prepared: Prepared) -> None:
        self.requested = prepared.resource

    def see(self, answer: Answer | OddAnswer) -> None:
        self.external_id = text(answer.id) or self.external_id
        self.model = text(answer.model) or self.model
        self.service_tier = text(answer.service_tier) or self.service_tier
        usage = _told(answer)
        if usage is not None:
            self.usage = usage
            output = answer.output
            # Most outputs are words alone; looking for a call among them costs less than reading the items.
            called = answer.tool_usage or (output and bytes(output).rfind(b'_call"') >= 0)
            self.tools = tools_used(output, answer.tool_usage, answer.tools) if called else None
        # A background response is queued when it is created and runs on; what it uses is known when it is done. A
        # stream that is not of one begins as `in_progress`, too.
        status = answer.status
        if status is not None:
            self.failed = status == "failed"
            self.background = status == "queued" or (status == "in_progress" and answer.background is True)

    def result(self, *, whole: bool) -> Usage:
        metadata: dict[str, object] = {}
        if self.requested is not None:
            metadata["model"] = self.requested
        if self.service_tier is not None:
            metadata["service_tier"] = self.service_tier
        found: dict[str, int] = {}
        usage, tools = self.usage, self.tools
        if usage is not None:
            found, kept = counted(usage)
            metadata["usage"] = kept
            if kept is usage:
                usage = None  # It is as it is documented: nothing is in it that nobody knows.
            if tools is not None:
                found.update(tools.quantities)
        if found:
            completeness = _REPORTED
        else:
            # One that is made in the background goes on though its stream broke off.
            completeness = Completeness.PENDING if self.background and self.external_id else Completeness.UNKNOWN
        fields = () if usage is None else unseen(usage)
        return Usage(
            quantities=found,
            completeness=completeness,
            resource=self.model or self.requested,
            external_id=self.external_id,
            metadata=metadata,
            further=() if tools is None else tools.further,
            failed=self.failed,
            unseen=fields if tools is None else fields + tools.unseen,
        )


_read_answer: Final = msgspec.json.Decoder(Answer).decode
_read_odd_answer: Final = msgspec.json.Decoder(OddAnswer).decode


def _read_one(text: bytes | bytearray | msgspec.Raw) -> Answer | OddAnswer | None:
    try:
        return _read_answer(text)
    except UNREADABLE:
        pass
    try:
        return _read_odd_answer(text)
    except UNREADABLE:
        return None


def _read(text: bytes | bytearray) -> Answer | OddAnswer | None:
    answer = _read_one(text)
    if answer is not None and answer.response:
        # An event of a Responses stream holds the response, and says in its own `type` how far it is.
        inner = _read_one(answer.response)
        if inner is not None:
            inner.type = answer.type
            return inner
    return answer


BODY_BYTES_MAX: Final = 4 << 20
"""An answer up to this size is read whole; of a larger one, only its two ends."""

BODY_END_BYTES: Final = 64 << 10


class JsonMeter:
    """Reads one JSON answer, once, when it is over."""

    concluded = False
    _size = 0
    cut = False

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._chunks: list[bytes] = []

    def feed(self, chunk: bytes) -> bytes:
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > BODY_BYTES_MAX:
            held = b"".join(self._chunks)
            self._chunks = [held[:BODY_END_BYTES], held[-BODY_END_BYTES:]]
            self._size = 2 * BODY_END_BYTES
            self.cut = True
        return chunk

    @property
    def held(self) -> bytes:
        """All of the body, or where it was `cut` its two ends."""
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        findings = _Findings(self._prepared)
        if whole:
            body = self.held
            answer = read_ends(body) if self.cut else _read(body)
            if answer is not None:
                findings.see(answer)
        return b"", findings.result(whole=whole)


def read_usage(body: bytes, prepared: Prepared) -> Usage:
    """What one whole answer says was used."""
    reading = JsonMeter(prepared)
    reading.feed(body)
    return reading.finish(whole=True)[1]


_END_FIELD: Final = re.compile(rb'"(id|model|service_tier)"\s*:\s*"([^"\\]{1,200})"')
_OBJECT: Final = rb'(\{(?:[^{}"]|"[^"\\]*"|\{(?:[^{}"]|"[^"\\]*"|\{[^{}]*\})*\})*\})'
_END_USAGE: Final = re.compile(rb'"usage"\s*:\s*' + _OBJECT)
_END_TOOL_USAGE: Final = re.compile(rb'"tool_usage"\s*:\s*' + _OBJECT)
_END_IMAGE_TOOL: Final = re.compile(rb"\{[^{}]{0,500}\"type\"\s*:\s*\"image_generation\"[^{}]{0,500}\}")
"""What a picture in a response makes it large for is told beside its usage."""


def read_ends(body: bytes) -> OddAnswer:
    """Find the fields in a body whose middle was not kept: the usage last, the names first, as the provider writes them."""
    answer = OddAnswer()
    for name, value in _END_FIELD.findall(body[:BODY_END_BYTES]) + _END_FIELD.findall(body[BODY_END_BYTES:]):
        if getattr(answer, name.decode()) is None:
            setattr(answer, name.decode(), value.decode("utf-8", "replace"))
    found = _END_USAGE.findall(body)
    if found:
        answer.usage = msgspec.Raw(found[-1])
    told = _END_TOOL_USAGE.findall(body)
    if told:
        answer.tool_usage = msgspec.Raw(told[-1])
        answer.tools = msgspec.Raw(b"[%b]" % b",".join(_END_IMAGE_TOOL.findall(body)[-1:]))
    return answer


CONCLUDING: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
"""The events that end a Responses stream; it never sends `[DONE]` (79 of 79 recorded streams)."""


HELD_BYTES_MAX: Final = 1 << 20
"""Of a stream out of which a chunk is to be taken, no more than this is held back: a longer event is none of ours, and is
passed on as it comes."""


class StreamMeter:
    """Reads a stream of server-sent events as it goes by."""

    __slots__ = ("_bare", "_findings", "_frames", "_left", "_strip", "concluded")

    def __init__(self, prepared: Prepared) -> None:
        self.concluded = False
        self._findings = _Findings(prepared)
        self._frames = sse.Frames()
        self._strip = prepared.usage_injected
        self._bare = False
        """True for a stream of chunks with choices, none of which holds a response."""
        self._left = 0
        """So many bytes of the event that is not over have been passed on."""

    def feed(self, chunk: bytes) -> bytes:
        if self._strip:
            return self._feed_and_strip(chunk)
        for event in self._frames.feed(chunk):
            self._see(event)
        rest = self._frames.rest
        if rest and rest.endswith((b"\n", b"\r", b"[DONE]")):
            # A client may act on a line before the blank one that ends the event has come.
            self._see(bytes(rest))
        return chunk

    def _feed_and_strip(self, chunk: bytes) -> bytes:
        frames = self._frames
        if len(frames.rest) + len(chunk) > sse.EVENT_BYTES_MAX:
            # What is larger than that is not kept, so that nothing could be taken out of it either.
            self._strip = False
            return bytes(frames.rest[self._left :]) + self.feed(chunk)
        events = frames.feed(chunk)
        if len(events) == 1 and not self._left and not frames.rest:
            # Most events come by themselves.
            return b"" if self._see(events[0]) else events[0]
        kept = []
        for event in events:
            ours = self._see(event)
            if self._left:
                kept.append(event[self._left :])
                self._left = 0
            elif not ours:
                kept.append(event)
        if len(frames.rest) - self._left > HELD_BYTES_MAX or (self._left and len(frames.rest) > self._left):
            kept.append(bytes(frames.rest[self._left :]))
            self._left = len(frames.rest)
        return kept[0] if len(kept) == 1 else b"".join(kept)

    def _see(self, event: bytes) -> bool:
        """Take notice of one event; True if it is the usage chunk that a chat stream ends with when asked."""
        # `rfind` looks for texts in half the time that `in` takes, and how an event ends is seen in a tenth of it; what
        # begins with an object is no `[DONE]`.
        if not event.startswith(b"data: {") and event.rfind(b"[DONE]") >= 0:
            self.concluded = self.concluded or sse.data(event).strip() == b"[DONE]"
        if (
            self._findings.external_id is not None
            and (
                event.endswith(b'"usage":null}\n\n') or event.rfind(b'"usage"') < 0 or event.rfind(b'"usage":null') >= 0
            )
            and (self._bare or event.rfind(b'"response"') < 0)
        ):
            return False
        answer = _read(sse.data(event))
        if answer is None:
            return False
        self._findings.see(answer)
        self._bare = self._bare or bool(answer.choices)
        if isinstance(answer.type, str) and answer.type in CONCLUDING:
            self.concluded = True
        return _told(answer) is not None and bytes(answer.choices).strip() == b"[]"

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        rest = bytes(self._frames.rest)
        ours = bool(rest) and self._see(rest)
        held = rest[self._left :] if self._strip and (self._left or not ours) else b""
        return held, self._findings.result(whole=whole)


def meter(head: ResponseHead, prepared: Prepared) -> Meter:
    """The meter for an answer, by what the answer says it is."""
    inner: Meter = StreamMeter(prepared) if head.media_type == "text/event-stream" else JsonMeter(prepared)
    return decoding.plain_for(inner, head)


def _as_model_call(usage: Usage) -> Usage:
    return replace(usage, event_type="llm_call") if usage.quantities else usage


def by_shape(head: ResponseHead, prepared: Prepared) -> Meter:
    """The meter of a path that no endpoint lists: where the answer holds a usage object, it was a model's."""
    return Revised(meter(head, prepared), _as_model_call)
