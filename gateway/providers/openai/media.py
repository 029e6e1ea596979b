"""Meters of what is not billed by text tokens alone: pictures, speech, videos, searches, and what goes on elsewhere. Pure.

An answer is one JSON value, a stream of server-sent events of which the last one counts, or bytes that say nothing. Each
endpoint has a judgement: what was asked for, and what was told → usage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import msgspec

from gateway.messages import ResponseHead
from gateway.providers import decoding, sse
from gateway.providers.api import Meter
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.learnt import Prepared, Usage
from gateway.providers.openai.answers import JsonMeter, read_ends
from gateway.providers.openai.documents import COUNT_MAX
from gateway.providers.openai.requests import text, whole_number, word
from gateway.providers.openai.tools import CONTAINER, drawn_as_svg
from gateway.providers.openai.usage import counted, is_documented, pictured, unseen, whole_seconds
from metering.usage import AS_ORDERED, Completeness


class Told(msgspec.Struct):
    """What is read of an answer, or of the event that ends a stream."""

    id: object = None
    type: object = None
    model: object = None
    usage: msgspec.Raw = msgspec.Raw(b"")
    svg_usage: msgspec.Raw = msgspec.Raw(b"")
    data: msgspec.Raw = msgspec.Raw(b"")
    size: object = None
    quality: object = None
    duration: object = None
    seconds: object = None
    memory_limit: object = None
    session: msgspec.Raw = msgspec.Raw(b"")
    metadata: msgspec.Raw = msgspec.Raw(b"")
    file: msgspec.Raw = msgspec.Raw(b"")


_read_told = msgspec.json.Decoder(Told).decode

CONCLUDING = frozenset(
    {
        *("image_generation.completed", "image_edit.completed", "transcript.text.done", "speech.audio.done"),
    }
)
"""The events that end a stream, by their `type`."""

ENDS_MAX = 16
"""So many concluding events are kept of one stream: there is one for each picture, of which at most 10 can be asked for."""

Judgement: TypeAlias = Callable[[Prepared, Sequence[Told]], Usage]
"""(what was asked, what was told) → usage. An answer of bytes tells nothing, nor does one that broke off before its end."""


def _read(value: bytes) -> Told | None:
    try:
        return _read_told(value)
    except UNREADABLE:
        return None


def _concludes(told: Told) -> bool:
    return isinstance(told.type, str) and told.type in CONCLUDING


class WholeAnswer:
    """Judges one JSON value, once, when it is over."""

    __slots__ = ("_held", "_judge", "_prepared", "concluded")

    def __init__(self, judge: Judgement, prepared: Prepared) -> None:
        self.concluded = False
        self._judge = judge
        self._prepared = prepared
        self._held = JsonMeter(prepared)

    def feed(self, chunk: bytes) -> bytes:
        return self._held.feed(chunk)

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        told = None
        if whole and self._held.cut:
            begun = read_ends(self._held.held)
            told = Told(id=begun.id, model=begun.model, usage=begun.usage)
        elif whole:
            told = _read(self._held.held)
        return b"", self._judge(self._prepared, () if told is None else (told,))


class EndsOfStream:
    """Judges the events that end a stream, and none before them."""

    __slots__ = ("_ends", "_expected", "_frames", "_judge", "_prepared", "concluded")

    def __init__(self, judge: Judgement, prepared: Prepared) -> None:
        self.concluded = False
        self._judge = judge
        self._prepared = prepared
        self._frames = sse.Frames()
        self._ends: list[Told] = []
        self._expected = (prepared.quantities or {}).get("images", 1)
        """So many pictures, or other things, were asked for: the stream has an end for each."""

    def feed(self, chunk: bytes) -> bytes:
        for event in self._frames.feed(chunk):
            end = self._end(event)
            if end is not None and len(self._ends) < ENDS_MAX:
                self._ends.append(end)
            self.concluded = self.concluded or self._is_last(event, end)
        rest = self._frames.rest
        if rest.endswith((b"\n", b"\r", b"[DONE]")) and not self.concluded:
            # A client may act on a line before the blank one that ends the event has come.
            beginning = bytes(rest)
            end = self._end(beginning)
            self.concluded = self._is_last(beginning, end, begun=int(end is not None))
        return chunk

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        begun = self._end(bytes(self._frames.rest)) if len(self._ends) < ENDS_MAX else None
        return b"", self._judge(self._prepared, self._ends if begun is None else [*self._ends, begun])

    def _is_last(self, event: bytes, end: Told | None, *, begun: int = 0) -> bool:
        """True for what a client takes for the end of all; `begun` is 1 where it is not among the ends yet."""
        if end is None:
            return sse.data(event).strip() == b"[DONE]"
        return len(self._ends) + begun >= min(self._expected, ENDS_MAX)

    @staticmethod
    def _end(event: bytes) -> Told | None:
        """What an event says that ends its stream; other events, of which some hold pictures, are not read."""
        if event.find(b"completed") < 0 and event.find(b".done") < 0:
            return None
        told = _read(sse.data(event))
        return told if told is not None and _concludes(told) else None


def _judged_by(judge: Judgement) -> Callable[[ResponseHead, Prepared], Meter]:
    def meter(head: ResponseHead, prepared: Prepared) -> Meter:
        of_stream = head.media_type == "text/event-stream"
        inner: Meter = EndsOfStream(judge, prepared) if of_stream else WholeAnswer(judge, prepared)
        return decoding.plain_for(inner, head)

    return meter


def _usage(
    prepared: Prepared,
    told: Told | None,
    quantities: dict[str, int],
    metadata: dict[str, object] | None = None,
    *,
    pending: bool = False,
) -> Usage:
    """What was found, under the names that an answer says; the model that was asked for where it names none."""
    asked = {} if prepared.resource is None else {"model": prepared.resource}
    completeness = Completeness.REPORTED if quantities else Completeness.UNKNOWN
    return Usage(
        quantities=quantities,
        completeness=Completeness.PENDING if pending else completeness,
        resource=(None if told is None else text(told.model)) or prepared.resource,
        external_id=None if told is None else text(told.id),
        metadata=asked | (metadata or {}),
    )


def _counted(told: Told | None) -> tuple[dict[str, int], dict[str, object], tuple[str, ...]]:
    """The quantities of a usage object, what is kept of it, and what of it nobody knows."""
    if told is None or not bytes(told.usage).startswith(b"{"):
        return {}, {}, ()
    quantities, kept = counted(told.usage)
    return quantities, {"usage": kept}, () if is_documented(kept) else unseen(told.usage)


def _of_tokens(prepared: Prepared, ends: Sequence[Told]) -> Usage:
    last = ends[-1] if ends else None
    quantities, kept, unknown = _counted(last)
    return replace(_usage(prepared, last, quantities, kept), unseen=unknown)


# ---------------------------------------------------------------------------------------------------------------------
# Judgements


def _images(prepared: Prepared, ends: Sequence[Told]) -> Usage:
    """Pictures: by their tokens, where the model tells them, else by number, size and quality.

    Those of DALL·E have their price by size and quality, which therefore stand in the resource: `dall-e-3/hd/1024x1792`.
    A stream has one concluding event for each picture, with what that one used.
    """
    if not ends:
        return _usage(prepared, None, {})
    found: dict[str, int] = {}
    metadata: dict[str, object] = {}
    unknown: tuple[str, ...] = ()
    for told in ends:
        quantities, kept, unseen_fields = _counted(told)
        metadata |= kept
        unknown += unseen_fields
        for name, amount in pictured(quantities).items():
            found[name] = min(found.get(name, 0) + amount, COUNT_MAX)
    last = ends[-1]
    streamed = isinstance(last.type, str)
    number = len(ends) if streamed else _number(last.data)
    if number is None:
        # Of a large answer the middle was not kept: there are as many pictures as were asked for.
        number = (prepared.quantities or {}).get("images", 1) if found else 0
    if number:
        found["images"] = number
    size = word(last.size) or prepared.asked.get("size")
    quality = word(last.quality) or prepared.asked.get("quality")
    metadata |= {name: value for name, value in (("size", size), ("quality", quality)) if value is not None}
    usage = _usage(prepared, last, found, metadata)
    by_picture = found.keys() == {"images"}
    model = usage.resource or (DEFAULT_MODEL if by_picture else None)
    if by_picture:
        model = f"{model}/{quality or 'standard'}/{size or '1024x1024'}"
    drawn = [told.svg_usage for told in ends if bytes(told.svg_usage).startswith(b"{")]
    return replace(usage, resource=text(model), unseen=unknown, further=tuple(drawn_as_svg(svg) for svg in drawn))


DEFAULT_MODEL = "dall-e-2"
"""Draws where a request names no model (API reference of the images)."""

_read_number = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _number(data: msgspec.Raw) -> int | None:
    try:
        return len(_read_number(data)) if data else None
    except UNREADABLE:
        return None


def _transcription(prepared: Prepared, ends: Sequence[Told]) -> Usage:
    """Speech that was written down: tokens or seconds, as the usage says; else the length that a verbose answer names.

    Plain texts and subtitles say nothing.
    """
    usage = _of_tokens(prepared, ends)
    if usage.quantities or not ends:
        return usage
    heard_s = whole_seconds(ends[-1].duration)
    return usage if heard_s is None else _usage(prepared, ends[-1], {"seconds": heard_s})


CHARACTER_MODELS = "tts-"
"""The names of the models that are billed by the character of what they speak begin so; the others by the token."""

SECOND_MODELS = "whisper-"
"""The names of the models that are billed by the second of what they hear begin so; the others by the token."""


def _speech(prepared: Prepared, ends: Sequence[Told]) -> Usage:
    """Speech: by the characters that were sent or, where the stream ends with a usage, by its tokens."""
    usage = _of_tokens(prepared, ends)
    if usage.quantities:
        spoken = usage.quantities.pop("output_tokens", None)
        return usage if spoken is None else _with(usage, output_tokens_audio=spoken)
    characters = (prepared.quantities or {}).get("characters")
    if characters and prepared.resource is not None and prepared.resource.startswith(CHARACTER_MODELS):
        return _usage(prepared, None, {"characters": characters})
    return usage


def _with(usage: Usage, **quantities: int) -> Usage:
    return replace(usage, quantities=usage.quantities | quantities)


def _moderation(prepared: Prepared, ends: Sequence[Told]) -> Usage:
    """One request, which costs nothing."""
    return _usage(prepared, ends[-1] if ends else None, {"requests": 1})


def _video(prepared: Prepared, ends: Sequence[Told]) -> Usage:
    """A video is begun: its length is known, and whether it comes to be is not. A failed one is not billed."""
    told = ends[-1] if ends else None
    asked_s = (prepared.quantities or {}).get("seconds")
    long_s = asked_s if told is None else whole_number(told.seconds) or asked_s
    size = None if told is None else word(told.size)
    return _usage(prepared, told, seconds_of_video(long_s), {} if size is None else {"size": size}, pending=True)


VIDEO_S_MAX = 1_000_000
"""No video is as long."""


def seconds_of_video(long_s: int | None) -> dict[str, int]:
    """A length as quantities; empty where it is none that a video can have."""
    return {"seconds": long_s} if long_s is not None and 0 < long_s < VIDEO_S_MAX else {}


def _extension(prepared: Prepared, ends: Sequence[Told]) -> Usage:
    """A video that is made longer: what was ordered is billed. Answers say how long the whole is then (types of the SDK)."""
    usage = _video(prepared, ends)
    known = seconds_of_video((prepared.quantities or {}).get("seconds"))
    return replace(usage, quantities=known, metadata=usage.metadata | {AS_ORDERED: True})


def _container(prepared: Prepared, ends: Sequence[Told]) -> Usage:
    """A container, whose price is by its memory: `container-1g`."""
    told = ends[-1] if ends else None
    memory = None if told is None else word(told.memory_limit)
    usage = _usage(prepared, told, {"containers": 1})
    return replace(usage, resource=f"{CONTAINER}-{memory}" if memory else CONTAINER)


def _search(prepared: Prepared, ends: Sequence[Told]) -> Usage:
    return _usage(prepared, None, {"file_searches": 1})


class _Session(msgspec.Struct):
    id: object = None
    model: object = None


_read_session = msgspec.json.Decoder(_Session).decode


def _past_the_gateway(prepared: Prepared, ends: Sequence[Told]) -> Usage:
    """What goes on between client and provider alone: that it began is known, and what it uses is not."""
    told = ends[-1] if ends else Told()
    try:
        session = _read_session(told.session) if told.session else None
    except UNREADABLE:
        session = None
    made = told.id if session is None else session.id or told.id
    model = told.model if session is None else session.model or told.model
    return _usage(prepared, Told(id=made, model=model), {}, {"media": "past the gateway"})


def _upload(prepared: Prepared, ends: Sequence[Told]) -> Usage:
    """An upload that was completed is a file from then on: it is the file that whoever sent it will ask for."""
    made = _read(ends[-1].file) if ends and ends[-1].file else None
    return Usage(quantities={}, completeness=Completeness.REPORTED, external_id=None if made is None else text(made.id))


class _Grading(msgspec.Struct):
    model_grader_token_usage_per_model: dict[str, msgspec.Raw] = {}


_read_grading = msgspec.json.Decoder(_Grading).decode

GRADERS_MAX = 16


def _grader(prepared: Prepared, ends: Sequence[Told]) -> Usage:
    """A grader used what its models did; the first of them is the call's own."""
    try:
        graded = _read_grading(ends[-1].metadata).model_grader_token_usage_per_model if ends else None
    except UNREADABLE:
        graded = None
    if graded is None:
        return _usage(prepared, None, {})
    used = [
        _usage(Prepared(body=b""), Told(model=model), *_counted(Told(usage=usage))[:2])
        for model, usage in list(graded.items())[:GRADERS_MAX]
    ]
    if not used:
        # Graders that compare texts or run code ask no model.
        return Usage(quantities={}, completeness=Completeness.REPORTED, event_type="api_call")
    return replace(used[0], further=tuple(used[1:]))


images = _judged_by(_images)
transcription = _judged_by(_transcription)
speech = _judged_by(_speech)
moderation = _judged_by(_moderation)
video = _judged_by(_video)
extension = _judged_by(_extension)
container = _judged_by(_container)
search = _judged_by(_search)
past_the_gateway = _judged_by(_past_the_gateway)
upload = _judged_by(_upload)
grader = _judged_by(_grader)
