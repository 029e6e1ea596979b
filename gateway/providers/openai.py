"""OpenAI: its endpoints, and how its answers tell what they used.

Sources: the API reference's usage objects, the official SDKs' requests as captured on a socket, and recorded traffic
(figures in the docstrings below name which).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, TypeAlias, cast
from urllib.parse import parse_qs

import msgspec

from gateway.messages import ResponseHead
from gateway.providers import decoding, sse
from gateway.providers.api import Endpoint, ErrorBody, FirstSteps, Meter, Prepared, Provider, Usage
from gateway.providers.bearer import authorize, presented_key_or
from gateway.providers.free import reads_back, unlisted_by
from metering.usage import Completeness

# ---------------------------------------------------------------------------------------------------------------------
# Usage objects


def quantities(usage: Mapping[str, object]) -> dict[str, int]:
    """Turn a usage object, of either of the two shapes in use, into disjoint quantities; empty if it holds none.

    Chat completions say `prompt_tokens` and `completion_tokens`, newer endpoints `input_tokens` and `output_tokens`. In
    both, cached, cache-write, audio and image tokens are counted inside the input, reasoning and audio inside the output
    (held in all of 950 recorded answers); we take them out, because dimensions never overlap. The sum of the result is
    the provider's own total.
    """
    found: dict[str, int] = {}
    whole = _count(usage, "prompt_tokens", "input_tokens")
    if whole is not None:
        found["input_tokens"] = whole
        details = _mapping(
            usage, "prompt_tokens_details", "input_tokens_details", "prompt_token_details", "input_token_details"
        )
        parts = _positive(details)
        if parts:
            apart: Mapping[str, int] = _NONE
            if "cached_tokens_details" in details:
                # Of what is cached, audio and images are counted by themselves.
                of_cached = _positive(_mapping(details, "cached_tokens_details"))
                audio, image = of_cached.get("audio_tokens", 0), of_cached.get("image_tokens", 0)
                _take("input_tokens", "input_tokens_audio_cached", audio, found)
                _take("input_tokens", "input_tokens_image_cached", image, found)
                apart = {"cached_tokens": audio + image, "audio_tokens": audio, "image_tokens": image}
            for name, part in _INPUT_PARTS:
                if name in parts:
                    _take("input_tokens", part, parts[name] - apart.get(name, 0), found)
    whole = _count(usage, "completion_tokens", "output_tokens")
    if whole is not None:
        found["output_tokens"] = whole
        parts = _positive(
            _mapping(
                usage,
                "completion_tokens_details",
                "output_tokens_details",
                "completion_token_details",
                "output_token_details",
            )
        )
        for name, part in _OUTPUT_PARTS:
            if name in parts:
                _take("output_tokens", part, parts[name], found)
    return found


_INPUT_PARTS = (
    ("cached_tokens", "input_tokens_cached"),
    ("cache_write_tokens", "input_tokens_cache_write"),
    ("audio_tokens", "input_tokens_audio"),
    ("image_tokens", "input_tokens_image"),
)
_OUTPUT_PARTS = (
    ("reasoning_tokens", "output_tokens_reasoning"),
    ("audio_tokens", "output_tokens_audio"),
    ("image_tokens", "output_tokens_image"),
)
"""The parts of the input and of the output, in the order in which they are taken out of it."""

_NONE: Mapping[str, int] = {}


def _take(name: str, part: str, amount: int, found: dict[str, int]) -> None:
    """Count a part by itself, and no longer in what it is a part of.

    Parts that together exceed the whole overlap in a way that the provider did not tell; each then gets what is left, so
    that the sum stays the provider's.
    """
    if amount > 0:
        taken = min(amount, found[name])
        if taken:
            found[part] = taken
            found[name] -= taken


def _mapping(holder: Mapping[str, object], *names: str) -> Mapping[str, object]:
    for name in names:
        value = holder.get(name)
        if type(value) is dict:
            return value
    return _NOTHING


_NOTHING: Mapping[str, object] = {}


def _positive(holder: Mapping[str, object]) -> dict[str, int]:
    """The counts that are not zero."""
    return {name: value for name, value in holder.items() if type(value) is int and 0 < value <= COUNT_MAX}


COUNT_MAX = 1 << 53
"""No count is larger than what every JSON reader can hold exactly (RFC 8259 section 6); one that is, is a mistake."""


def _count(holder: Mapping[str, object], *names: str) -> int | None:
    """The first of the names that holds a count, or None. Whatever else stands there is no count."""
    for name in names:
        value = holder.get(name)
        if type(value) is int and 0 <= value <= COUNT_MAX:
            return value
    return None


_FIELD = re.compile(r"[a-z][a-z0-9_]{0,63}")


@lru_cache(maxsize=1024)
def _is_field(name: str) -> bool:
    """True for the name of a field, as opposed to a text that stands in the place of one."""
    return _FIELD.fullmatch(name) is not None


_NUMBERS = frozenset({int, float})


def numbers_only(holder: Mapping[str, object], depth: int = 4) -> dict[str, object]:
    """The numbers of a usage object in their places, and nothing else: no text of a provider's can reach the ledger."""
    kept: dict[str, object] = {}
    for name, value in holder.items():
        kind = type(value)
        if kind in _NUMBERS:
            if _is_field(name):
                kept[name] = value
        elif kind is dict and depth > 1 and _is_field(name):
            kept[name] = numbers_only(cast("dict[str, object]", value), depth - 1)
    return kept


_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)] | msgspec.UnsetType


class _InputDetails(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    cached_tokens: _Count = msgspec.UNSET
    cache_write_tokens: _Count = msgspec.UNSET
    audio_tokens: _Count = msgspec.UNSET
    image_tokens: _Count = msgspec.UNSET


class _OutputDetails(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    reasoning_tokens: _Count = msgspec.UNSET
    audio_tokens: _Count = msgspec.UNSET
    image_tokens: _Count = msgspec.UNSET
    accepted_prediction_tokens: _Count = msgspec.UNSET
    rejected_prediction_tokens: _Count = msgspec.UNSET


class _Documented(msgspec.Struct, forbid_unknown_fields=True):
    """A usage object as it is documented: nothing but counts, under the names of either of the two shapes."""

    prompt_tokens: _Count = msgspec.UNSET
    completion_tokens: _Count = msgspec.UNSET
    total_tokens: _Count = msgspec.UNSET
    prompt_tokens_details: _InputDetails | msgspec.UnsetType = msgspec.UNSET
    completion_tokens_details: _OutputDetails | msgspec.UnsetType = msgspec.UNSET
    input_tokens: _Count = msgspec.UNSET
    input_tokens_details: _InputDetails | msgspec.UnsetType = msgspec.UNSET
    output_tokens: _Count = msgspec.UNSET
    output_tokens_details: _OutputDetails | msgspec.UnsetType = msgspec.UNSET

    def quantities(self) -> dict[str, int]:
        """What :func:`quantities` makes of it, at a third of the cost."""
        found: dict[str, int] = {}
        whole = self.prompt_tokens
        if whole is msgspec.UNSET:
            whole = self.input_tokens
        if whole is not msgspec.UNSET:
            found["input_tokens"] = whole
            _take_parts(self.prompt_tokens_details or self.input_tokens_details, "input_tokens", _INPUT_PARTS, found)
        whole = self.completion_tokens
        if whole is msgspec.UNSET:
            whole = self.output_tokens
        if whole is not msgspec.UNSET:
            found["output_tokens"] = whole
            parts = self.completion_tokens_details or self.output_tokens_details
            _take_parts(parts, "output_tokens", _OUTPUT_PARTS, found)
        return found


def _take_parts(
    details: _InputDetails | _OutputDetails | msgspec.UnsetType,
    whole: str,
    parts: Iterable[tuple[str, str]],
    found: dict[str, int],
) -> None:
    if details:
        for name, part in parts:
            amount = getattr(details, name)
            if amount:
                _take(whole, part, amount, found)


_read_documented = msgspec.json.Decoder(_Documented).decode


def _counted(usage: msgspec.Raw) -> tuple[dict[str, int], object]:
    """What a usage object counts, and what of it is kept as it came."""
    try:
        documented = _read_documented(usage)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Something is there, or is written, as nobody has documented it: look at each field by itself.
        pass
    else:
        return documented.quantities(), documented
    try:
        fields = msgspec.json.decode(usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}, {}
    return quantities(fields), numbers_only(fields)


# ---------------------------------------------------------------------------------------------------------------------
# Requests


class _ModelRequest(msgspec.Struct):
    """The fields of a request that matter here; a field of another type than documented counts as not there."""

    model: object = None
    stream: object = None
    stream_options: msgspec.Raw = msgspec.Raw(b"")
    background: object = None


class _StreamOptions(msgspec.Struct):
    include_usage: object = None


_read_request = msgspec.json.Decoder(_ModelRequest).decode
_read_stream_options = msgspec.json.Decoder(_StreamOptions).decode


def read_model_request(body: bytes) -> Prepared:
    """Learn what a body asks for and leave it as it is. What is not JSON is the provider's to refuse."""
    try:
        request = _read_request(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Prepared(body=body)
    return Prepared(body=body, resource=_text(request.model), stream=request.stream is True)


def read_model_query(query: bytes) -> Prepared:
    """Learn which model a session is asked for: it stands in the query."""
    asked = parse_qs(query.decode("latin-1")).get("model", [""])[0]
    return Prepared(body=query, resource=_text(asked))


def ask_for_usage(body: bytes) -> Prepared:
    """Learn what a body asks for; where it asks for a stream but not for its usage, ask for that.

    A streamed chat says what it used only if `stream_options.include_usage` is set, in a last chunk with empty `choices`
    (42 of 42 recorded streams that asked, 0 of 65 that did not). The edit is the smallest that does it, and bodies whose
    `stream_options` are of an unexpected shape are left for the provider to refuse.
    """
    try:
        request = _read_request(body)
        options = bytes(request.stream_options)
        asked = _read_stream_options(options).include_usage if options.startswith(b"{") else None
        prepared = Prepared(body=body, resource=_text(request.model), stream=request.stream is True)
        if not prepared.stream or not (asked is None or asked is False):
            return prepared
        if not options:
            brace = body.index(b"{") + 1
            changed = body[:brace] + b'"stream_options":{"include_usage":true},' + body[brace:]
        elif options == b"null":
            changed = _with_value(body, "stream_options", b'{"include_usage":true}')
        elif options.startswith(b"{"):
            changed = _with_value(body, "stream_options", _with_value(options, "include_usage", b"true"))
        else:
            return prepared
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Prepared(body=body)
    return Prepared(body=changed, resource=prepared.resource, stream=True, usage_injected=True)


def _with_value(written: bytes, name: str, value: bytes) -> bytes:
    """Write an object anew with one other value, every other one kept as the bytes it came in."""
    fields = msgspec.json.decode(written, type=dict[str, msgspec.Raw])
    fields[name] = msgspec.Raw(value)
    return msgspec.json.encode(fields)


def _text(value: object) -> str | None:
    return value[:NAME_CHARACTERS_MAX] if isinstance(value, str) and value else None


NAME_CHARACTERS_MAX = 200
"""Of a provider's or an application's name for something, so much is kept: the longest model id seen has 60."""


# ---------------------------------------------------------------------------------------------------------------------
# Answers


class _Answer(msgspec.Struct):
    """What is read of an answer, or of one event of a stream; everything else is skipped undecoded."""

    id: object = None
    model: object = None
    service_tier: object = None
    status: object = None
    background: object = None
    usage: msgspec.Raw = msgspec.Raw(b"")
    choices: msgspec.Raw = msgspec.Raw(b"")
    response: msgspec.Raw = msgspec.Raw(b"")
    type: object = None
    tool_usage: object = None
    output: msgspec.Raw = msgspec.Raw(b"")


def _holds(value: msgspec.Raw) -> bool:
    """True for an object, whatever it holds."""
    return bytes(value).startswith(b"{")


class _Item(msgspec.Struct):
    """One item of a response's output."""

    type: object = None


_read_items = msgspec.json.Decoder(list[_Item]).decode
_read_answer = msgspec.json.Decoder(_Answer).decode


_REPORTED = Completeness.REPORTED  # Looking it up in the enumeration is a call.


class _Findings:
    """What an answer has said so far, and the usage that this makes."""

    model: str | None = None
    external_id: str | None = None
    service_tier: str | None = None
    usage: msgspec.Raw | None = None
    background = False
    tools: Mapping[str, int] = {}

    def __init__(self, prepared: Prepared) -> None:
        self.requested = prepared.resource

    def see(self, answer: _Answer) -> None:
        self.external_id = _text(answer.id) or self.external_id
        self.model = _text(answer.model) or self.model
        self.service_tier = _text(answer.service_tier) or self.service_tier
        if _holds(answer.usage):
            self.usage = answer.usage
            self.tools = _tools(answer)
        # A background response is queued when it is created and runs on; what it uses is known when it is done. A
        # stream that is not of one begins as `in_progress`, too.
        if answer.status is not None:
            self.background = answer.status == "queued" or (
                answer.status == "in_progress" and answer.background is True
            )

    def result(self, *, whole: bool) -> Usage:
        metadata: dict[str, object] = {}
        if self.requested is not None:
            metadata["model"] = self.requested
        if self.service_tier is not None:
            metadata["service_tier"] = self.service_tier
        found: dict[str, int] = {}
        if self.usage is not None:
            found, metadata["usage"] = _counted(self.usage)
            found.update(self.tools)
        if found:
            completeness = _REPORTED
        else:
            completeness = Completeness.PENDING if self.background and whole else Completeness.UNKNOWN
        return Usage(
            quantities=found,
            completeness=completeness,
            resource=self.model or self.requested,
            external_id=self.external_id,
            metadata=metadata,
        )


def _tools(answer: _Answer) -> dict[str, int]:
    """How often a response used tools that are billed by the call."""
    if not answer.output and answer.tool_usage is None:
        return {}
    try:
        items = [item.type for item in _read_items(answer.output)] if answer.output else []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        items = []
    told = answer.tool_usage if isinstance(answer.tool_usage, dict) else {}
    web_searches = _count(_mapping(told, "web_search"), "num_requests")
    found = {
        "web_searches": items.count("web_search_call") if web_searches is None else web_searches,
        "file_searches": items.count("file_search_call"),
    }
    return {name: amount for name, amount in found.items() if amount}


def _read(text: bytes | bytearray) -> _Answer | None:
    try:
        answer = _read_answer(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if answer.response:
        # An event of a Responses stream holds the response, and says in its own `type` how far it is.
        try:
            inner = _read_answer(answer.response)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return answer
        inner.type = answer.type
        return inner
    return answer


BODY_BYTES_MAX = 4 << 20
"""An answer up to this size is read whole; of a larger one, only its two ends."""

BODY_END_BYTES = 64 << 10


class JsonMeter:
    """Reads one JSON answer, once, when it is over."""

    concluded = False
    _size = 0
    _cut = False

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
            self._cut = True
        return chunk

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        findings = _Findings(self._prepared)
        if whole:
            body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            answer = _read_ends(body) if self._cut else _read(body)
            if answer is not None:
                findings.see(answer)
        return b"", findings.result(whole=whole)


_END_FIELD = re.compile(rb'"(id|model|service_tier)"\s*:\s*"([^"\\]{1,200})"')
_END_USAGE = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}"]|"[^"\\]*"|\{(?:[^{}"]|"[^"\\]*"|\{[^{}]*\})*\})*\})')


def _read_ends(body: bytes) -> _Answer | None:
    """Find the fields in a body whose middle was not kept: the usage last, the names first, as the provider writes them."""
    answer = _Answer()
    for name, value in _END_FIELD.findall(body[:BODY_END_BYTES]) + _END_FIELD.findall(body[BODY_END_BYTES:]):
        if getattr(answer, name.decode()) is None:
            setattr(answer, name.decode(), value.decode("utf-8", "replace"))
    found = _END_USAGE.findall(body)
    if found:
        answer.usage = msgspec.Raw(found[-1])
    return answer


CONCLUDING = frozenset({"response.completed", "response.incomplete", "response.failed"})
"""The events that end a Responses stream; it never sends `[DONE]` (79 of 79 recorded streams)."""


HELD_BYTES_MAX = 1 << 20
"""Of a stream out of which a chunk is to be taken, no more than this is held back; a longer event is none of ours, and
from it on the stream is passed on as it comes."""


class StreamMeter:
    """Reads a stream of server-sent events as it goes by."""

    __slots__ = ("_findings", "_frames", "_strip", "concluded")

    def __init__(self, prepared: Prepared) -> None:
        self.concluded = False
        self._findings = _Findings(prepared)
        self._frames = sse.Frames()
        self._strip = prepared.usage_injected

    def feed(self, chunk: bytes) -> bytes:
        if self._strip:
            return self._feed_and_strip(chunk)
        for event in self._frames.feed(chunk):
            self._see(event)
        rest = self._frames.rest
        if rest.endswith((b"\n", b"\r", b"[DONE]")):
            # A client may act on a line before the blank one that ends the event has come.
            self._see(bytes(rest))
        return chunk

    def _feed_and_strip(self, chunk: bytes) -> bytes:
        held = self._frames.rest
        if len(held) + len(chunk) > HELD_BYTES_MAX:
            self._strip = False
            return bytes(held) + self.feed(chunk)
        kept = [event for event in self._frames.feed(chunk) if not self._see(event)]
        return kept[0] if len(kept) == 1 else b"".join(kept)

    def _see(self, event: bytes) -> bool:
        """Take notice of one event; True if it is the usage chunk that a chat stream ends with when asked."""
        # `rfind` looks for texts in half the time that `in` takes.
        if event.rfind(b"[DONE]") >= 0:
            self.concluded = self.concluded or sse.data(event).strip() == b"[DONE]"
        if (
            self._findings.external_id is not None
            and event.rfind(b'"response"') < 0
            and (event.rfind(b'"usage":null') >= 0 or event.rfind(b'"usage"') < 0)
        ):
            return False
        answer = _read(sse.data(event))
        if answer is None:
            return False
        self._findings.see(answer)
        if isinstance(answer.type, str) and answer.type in CONCLUDING:
            self.concluded = True
        return _holds(answer.usage) and bytes(answer.choices).strip() == b"[]"

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        rest = bytes(self._frames.rest)
        ours = bool(rest) and self._see(rest)
        held = rest if self._strip and not ours else b""
        return held, self._findings.result(whole=whole)


def meter(head: ResponseHead, prepared: Prepared) -> Meter:
    """The meter for an answer, by what the answer says it is."""
    inner: Meter = StreamMeter(prepared) if head.media_type == "text/event-stream" else JsonMeter(prepared)
    return decoding.plain_for(inner, head)


class ByShape:
    """The meter of a path that no endpoint lists: where the answer holds a usage object, it was a model's."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Meter) -> None:
        self._inner = inner

    @property
    def concluded(self) -> bool:
        return self._inner.concluded

    def feed(self, chunk: bytes) -> bytes:
        return self._inner.feed(chunk)

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        held, usage = self._inner.finish(whole=whole)
        return held, msgspec.structs.replace(usage, event_type="llm_call") if usage.quantities else usage


def by_shape(head: ResponseHead, prepared: Prepared) -> Meter:
    return ByShape(meter(head, prepared))


# ---------------------------------------------------------------------------------------------------------------------
# Who is asking, and what it may ask


ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


def refusal(path: str, status: int, code: str, message: str) -> ErrorBody:
    error = {"message": message, "type": ERROR_TYPES.get(status, "server_error"), "param": None, "code": code}
    return ErrorBody(b"application/json", msgspec.json.encode({"error": error}))


def missing(path: str, object_id: str) -> ErrorBody:
    error = {"message": f"No object found with id '{object_id}'.", "type": "invalid_request_error", "param": None}
    return ErrorBody(b"application/json", msgspec.json.encode({"error": {**error, "code": None}}))


unlisted = unlisted_by(by_shape)


_OBJECTS = (
    "asst|batch|cfile|chatcmpl|cmpl|cntr|conv|eval|evalrun|file|ft|ftckpt|ftjob|part|pmpt|rec|resp|run|sess|skill|step"
    "|thread|upload|video|vs|vsfb"
)
_ITEMS = "call|fc|msg|rs|ws"
"""Parts of one conversation. Clients that keep the history themselves send them back with every turn, content and all."""

_OBJECT_ID = re.compile(rf"(?:{_OBJECTS}|{_ITEMS})[-_][A-Za-z0-9_-]{{8,}}")

_WHOLE_ID = rb'(?=[a-z]{2,8}+[-_][A-Za-z0-9]{16})((?:%s)[-_][A-Za-z0-9]{16,})["\r]' % _OBJECTS.encode()
_REFERENCES = (re.compile(rb'"' + _WHOLE_ID), re.compile(rb"\n" + _WHOLE_ID))
"""A whole JSON string, or a whole part of a form. Ids are long and of one piece (24 to 50 characters in recordings), so
that the names which applications give to their tools, `run_python_code`, are none."""

KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""Before the key, among the subprotocols that a realtime client in a browser offers (OpenAI's realtime reference)."""

PROVIDER = Provider(
    name="openai",
    base_url="https://api.openai.com",
    credential_fields=("api_key",),
    endpoints=(
        Endpoint(
            name="chat.completions",
            method="POST",
            path="/v1/chat/completions",
            event_type="llm_call",
            describes="chat completion",
            meter=meter,
            prepare=ask_for_usage,
        ),
        Endpoint(
            name="completions",
            method="POST",
            path="/v1/completions",
            event_type="llm_call",
            describes="completion",
            meter=meter,
            prepare=ask_for_usage,
        ),
        Endpoint(
            name="responses",
            method="POST",
            path="/v1/responses",
            event_type="llm_call",
            describes="response",
            meter=meter,
            prepare=read_model_request,
        ),
        Endpoint(
            name="embeddings",
            method="POST",
            path="/v1/embeddings",
            event_type="embedding",
            describes="embedding",
            meter=meter,
            prepare=read_model_request,
        ),
        Endpoint(
            name="realtime",
            method="GET",
            path="/v1/realtime",
            event_type="realtime",
            describes="realtime session",
            meter=meter,
            prepare=read_model_query,
            websocket=True,
        ),
        reads_back("chat.completions.retrieve", "GET", "/v1/chat/completions/{id}"),
        reads_back("chat.completions.update", "POST", "/v1/chat/completions/{id}"),
        reads_back("chat.completions.delete", "DELETE", "/v1/chat/completions/{id}"),
        reads_back("chat.completions.messages", "GET", "/v1/chat/completions/{id}/messages"),
        reads_back("responses.retrieve", "GET", "/v1/responses/{id}"),
        reads_back("responses.delete", "DELETE", "/v1/responses/{id}"),
        reads_back("responses.cancel", "POST", "/v1/responses/{id}/cancel"),
        reads_back("responses.input_items", "GET", "/v1/responses/{id}/input_items"),
    ),
    unlisted=unlisted,
    presented_key=presented_key_or(KEY_SUBPROTOCOL),
    key_subprotocol=KEY_SUBPROTOCOL,
    authorize=authorize,
    credential_headers=frozenset({b"authorization", b"openai-organization", b"openai-project"}),
    account_headers=frozenset({b"openai-organization", b"openai-project"}),
    # The last two hand out a key with which a client goes to the provider past the gateway; a session itself does not.
    administration=re.compile(r"/v1/(?:(?:organizations?|projects|dashboard|me|chatkit)(?:/.*)?|realtime/.*)"),
    object_id=_OBJECT_ID,
    references=_REFERENCES,
    refusal=refusal,
    missing=missing,
    first_steps=FirstSteps(
        exports="OPENAI_BASE_URL={proxy}/openai/v1 OPENAI_API_KEY={key}",
        path="{proxy}/openai/v1/chat/completions",
        body='{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}',
        sdk_package="openai",
        sdk_call="from openai import OpenAI; print(OpenAI().responses.create(model='gpt-4o', input='Hello').output_text)",
    ),
)
