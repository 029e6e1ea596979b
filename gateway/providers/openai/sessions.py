"""The meter of OpenAI's sessions over WebSockets: realtime, transcription, live, and Responses. Pure.

Each response is billed by itself, when it is over, whatever became of it: `response.done` in a realtime session, the
events that end a stream in one of Responses. What the transcription of input costs is told apart, at the price of the
model that made it, before or after the response. A live session tells its seconds so far again and again, and how many
they were in all when it is closed (all of it by the types of OpenAI's SDK 3.54, and its API reference).

Of the events that a session consists of, a handful matter. The others, nearly all of them audio, are known by their
beginning, and are not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from gateway.messages import ResponseHead
from gateway.providers.api import Billed
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.learnt import Prepared, Usage
from gateway.providers.openai.answers import CONCLUDING, read_usage
from gateway.providers.openai.documents import COUNT_MAX
from gateway.providers.openai.requests import text
from gateway.providers.openai.usage import counted, mapping, whole_seconds
from gateway.providers.websocket import Messages, agreed
from metering.usage import Completeness

_TRANSCRIPTION = "conversation.item.input_audio_transcription."
_TELLING = frozenset(
    kind.encode()
    for kind in (
        *("session.created", "session.updated", "transcription_session.created", "transcription_session.updated"),
        *("session.started", "session.usage.updated", "session.closed"),
        *("response.created", "response.done", *CONCLUDING, "response.event", "error"),
        *("input_audio_buffer.committed", f"{_TRANSCRIPTION}completed", f"{_TRANSCRIPTION}failed"),
    )
)
"""The provider's events that are read."""

_TYPE = re.compile(rb'\s*+\{\s*+(?:"event_id"\s*+:\s*+"[^"\\]{0,80}"\s*+,\s*+)?"type"\s*+:\s*+"([^"\\]{1,64})"')
"""The beginning of an event, as it is sent. One that begins otherwise is read to see what it is."""

UNDER_WAY_MAX = 64
"""So many responses and transcriptions of one session are known to be under way; real ones have a few."""

BILLED_MAX = 4096
"""So many names are remembered, so that what is told twice is billed once."""


class _Response(msgspec.Struct):
    id: object = None
    model: object = None


class _Event(msgspec.Struct):
    """What is read of an event; everything else is skipped undecoded."""

    type: object = None
    session: msgspec.Raw = msgspec.Raw(b"")
    response: msgspec.Raw = msgspec.Raw(b"")
    event: msgspec.Raw = msgspec.Raw(b"")
    item_id: object = None
    content_index: object = None
    usage: msgspec.Raw = msgspec.Raw(b"")


_read_event = msgspec.json.Decoder(_Event).decode
_read_session = msgspec.json.Decoder(dict[str, object]).decode
_read_response = msgspec.json.Decoder(_Response).decode


def _telling(beginning: bytes) -> bool:
    found = _TYPE.match(beginning)
    return found is None or found[1] in _TELLING


def _asking(beginning: bytes) -> bool:
    """True for what asks a model for a response."""
    found = _TYPE.match(beginning)
    return found is None or found[1] == b"response.create"


def _no_audio(beginning: bytes) -> bool:
    found = _TYPE.match(beginning)
    return found is None or found[1] not in _AUDIO


_AUDIO = frozenset({b"input_audio_buffer.append", b"session.input_audio.append"})
"""What a client says that holds sound, and no name of anything."""


class Session:
    """Reads one session of whichever kind."""

    def __init__(self, head: ResponseHead, prepared: Prepared, *, refers: bool) -> None:
        """`refers` where what the client says may refer to what others made, and can be looked through."""
        extensions = head.values(b"sec-websocket-extensions")
        self._said = Messages(agreed(extensions, of_server=True), _telling)
        self._asked = Messages(agreed(extensions, of_server=False), _no_audio if refers else _asking)
        self._refers = refers
        self._prepared = prepared
        self._model: str | None = None
        self._transcribed_by: str | None = None
        self._billed: dict[str, None] = {}
        self.under_way: dict[str, None] = {}
        self._awaiting = False
        """True while the client has asked for a response, and the provider has said nothing to that."""
        self._so_far = 0
        """The seconds that a live session was last told to have had, which are told anew when it is closed."""
        self._open_ended = False
        """True while the session itself uses what has not been told."""

    # -- the client's side

    def heard(self, chunk: bytes) -> Sequence[bytes] | None:
        messages = self._asked.feed(chunk)
        for message in messages:
            if _asks(message):
                self._awaiting = True
        if not self._refers:
            return ()
        return None if self._asked.lost or self._asked.overlong else messages

    # -- the provider's

    def told(self, chunk: bytes) -> Sequence[Billed]:
        messages = self._said.feed(chunk)
        if not messages:
            return ()
        return [billed for message in messages if (billed := self._read(message)) is not None]

    def _read(self, message: bytes) -> Billed | None:
        """Read one event; what it bills, if it was not billed before."""
        try:
            event = _read_event(message)
        except UNREADABLE:
            return None
        billed = self._told(event)
        if billed is None:
            return None
        self.under_way.pop(billed.name, None)
        if billed.name in self._billed:
            return None
        self._billed[billed.name] = None
        if len(self._billed) > BILLED_MAX:
            del self._billed[next(iter(self._billed))]
        return billed

    def _told(self, event: _Event) -> Billed | None:
        match event.type:
            case "response.created":
                self._awaiting = False
                self._begun(_response(event.response).id)
            case "error":
                self._awaiting = False
            case "response.done" | "response.completed" | "response.incomplete" | "response.failed":
                self._awaiting = False
                return self._response(event.response)
            case "input_audio_buffer.committed":
                if self._transcribed_by is not None:
                    self._begun(_transcription(event.item_id, 0))
            case "conversation.item.input_audio_transcription.failed":
                self.under_way.pop(_transcription(event.item_id, event.content_index), None)
            case "conversation.item.input_audio_transcription.completed":
                return self._transcription(event)
            case "response.event":
                return self._delegated(event.event)
            case "session.usage.updated":
                self._open_ended = True
                self._so_far = max(self._so_far, _duration(event.usage).get("seconds", 0))
            case "session.closed":
                return self._closed(event)
            case "session.created" | "session.updated" | "session.started":
                self._configured(event)
            case "transcription_session.created" | "transcription_session.updated":
                self._configured(event)
            case _:
                pass
        return None

    def _begun(self, name: object) -> None:
        begun = text(name)
        if begun is not None and begun not in self._billed and len(self.under_way) < UNDER_WAY_MAX:
            self.under_way[begun] = None

    def _configured(self, event: _Event) -> None:
        try:
            session = _read_session(event.session)
        except UNREADABLE:
            return
        self._model = text(session.get("model")) or self._model
        hearing = mapping(mapping(mapping(session, "audio"), "input"), "transcription")
        transcription = hearing or mapping(session, "input_audio_transcription")
        self._transcribed_by = text(transcription.get("model")) or self._transcribed_by
        if session.get("type") == "translation" or event.type == "session.started":
            # What these use is told at their end, or not at all.
            self._open_ended = True

    def _response(self, said: msgspec.Raw) -> Billed:
        usage = read_usage(bytes(said), self._prepared)
        response = _response(said)
        resource = text(response.model) or self._model or self._prepared.resource
        return Billed(text(response.id) or f"response {len(self._billed)}", replace(usage, resource=resource))

    def _delegated(self, said: msgspec.Raw) -> Billed | None:
        """A live session has another model do what it is asked, and passes on what that one says."""
        try:
            event = _read_event(said)
        except UNREADABLE:
            return None
        if event.type == "response.created" or event.type in CONCLUDING:
            billed = self._told(event)
            if billed is not None:
                return billed._replace(usage=replace(billed.usage, event_type="llm_call"))
        return None

    def _transcription(self, event: _Event) -> Billed:
        found, kept = counted(event.usage) if event.usage else ({}, {})
        usage = Usage(
            quantities=found or _duration(event.usage),
            completeness=Completeness.REPORTED,
            resource=self._transcribed_by,
            external_id=text(event.item_id),
            event_type="audio_transcription",
            metadata={"usage": kept},
        )
        if not usage.quantities:
            usage = replace(usage, completeness=Completeness.UNKNOWN)
        return Billed(_transcription(event.item_id, event.content_index), usage)

    def _closed(self, event: _Event) -> Billed | None:
        """A live session is over, and says how long it was."""
        self._configured(event)
        seconds = _duration(event.usage)
        if not seconds:
            return None
        self._open_ended = False
        self._so_far = 0
        usage = Usage(
            quantities=seconds,
            completeness=Completeness.REPORTED,
            resource=self._model or self._prepared.resource,
            metadata={"usage": counted(event.usage)[1]},
        )
        return Billed("session", usage)

    # -- its end

    def finish(self) -> Usage:
        unread = self._said.lost or self._said.overlong or self._said.midway or self._asked.lost
        known = not (unread or self.under_way or self._awaiting or self._open_ended)
        if self._so_far:
            # It broke off. What it had until then it was told; what came after, if anything, is missing.
            return Usage(
                quantities={"seconds": self._so_far},
                completeness=Completeness.ESTIMATED,
                resource=self._model or self._prepared.resource,
            )
        return Usage(
            quantities={},
            completeness=Completeness.REPORTED if known else Completeness.UNKNOWN,
            resource=self._model or self._prepared.resource,
            # What was used has events of its own; the session costs nothing besides.
            event_type="api_call" if known else None,
        )


def _asks(message: bytes) -> bool:
    found = _TYPE.match(message)
    if found is not None:
        return found[1] == b"response.create"
    try:
        return _read_event(message).type == "response.create"
    except UNREADABLE:
        return False


def _response(said: msgspec.Raw) -> _Response:
    try:
        return _read_response(said)
    except UNREADABLE:
        return _Response()


def _transcription(item_id: object, content_index: object) -> str:
    """The name of what writing down a part of an item costs."""
    part = content_index if type(content_index) is int and 0 <= content_index < COUNT_MAX else 0
    return f"{text(item_id) or 'item'}:{part}:transcription"


class _Duration(msgspec.Struct):
    seconds: object = None


_read_duration = msgspec.json.Decoder(_Duration).decode


def _duration(usage: msgspec.Raw) -> dict[str, int]:
    """The seconds that a usage object of a duration holds, begun ones counted; empty if it holds none."""
    try:
        seconds = _read_duration(usage).seconds
    except UNREADABLE:
        return {}
    whole_s = whole_seconds(seconds)
    return {} if whole_s is None else {"seconds": whole_s}


def realtime(head: ResponseHead, prepared: Prepared) -> Session:
    """The meter of a session in which somebody speaks."""
    return Session(head, prepared, refers=False)


def referring(head: ResponseHead, prepared: Prepared) -> Session:
    """The meter of a session of Responses, or a live one, whose requests may name what is stored."""
    return Session(head, prepared, refers=True)
