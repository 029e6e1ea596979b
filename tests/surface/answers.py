"""What the provider answers to a call: of the type that the SDK awaits, in every form in which HTTP lets it come."""

from __future__ import annotations

import gzip
import json
import typing
from typing import Any

import pydantic
import typing_extensions

from tests.surface.made_up import MadeUp
from tests.surface.upstream import DONE, ODD, Answer

BINARY = bytes(range(256)) * 200
ERROR_EVENT = "error"
"""An event of this type makes the SDKs raise, and hides what comes after it."""

USAGE_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795305600,"model":"gpt-4o","choices":[],'
    b'"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}'
)


def answer_to(made_up: MadeUp, kind: Any, stream_of: Any, fields: typing.Mapping[str, Any]) -> Answer:
    """An answer of that type, or a stream of such events; these fields are as given."""
    if stream_of is not None:
        return _stream(made_up, stream_of)
    if kind is type(None):
        return Answer(b"", media_type=b"", status=b"204 No Content", framing="none")
    framing = made_up.chosen(("length", "chunked", "close"), "framing")
    if "Binary" in getattr(kind, "__name__", ""):
        return Answer(BINARY, b"audio/mpeg", framing=framing, headers=(*ODD, (b"Content-Disposition", b"attachment")))
    if kind is str:
        return Answer(
            "WEBVTT\n\n00:00.000 --> 00:01.000\nGrüße\n".encode(), b"text/plain; charset=utf-8", framing=framing
        )
    value = made_up.value(kind, "answer")
    if isinstance(value, dict):
        value |= fields
    body = json.dumps(value, ensure_ascii=made_up.chosen((True, False), "ascii"), indent=2).encode()
    if made_up.chosen((True, False), "packed"):
        coded = (b"Content-Encoding", b"gzip")
        return Answer(gzip.compress(body, mtime=0), headers=(*ODD, coded), framing=framing)
    return Answer(body, framing=framing)


def _stream(made_up: MadeUp, kind: Any) -> Answer:
    """One event of each type that the stream may have, framed as each of them may be."""
    while typing.get_origin(kind) is typing.Annotated or isinstance(kind, typing_extensions.TypeAliasType):
        kind = kind.__value__ if isinstance(kind, typing_extensions.TypeAliasType) else typing.get_args(kind)[0]
    kinds = typing.get_args(kind) if typing.get_origin(kind) is typing.Union else (kind, kind, kind)
    end = made_up.chosen((b"\n", b"\r\n"), "line end")
    told = []
    for number, event_kind in enumerate(kinds):
        name, data = _event(made_up, event_kind, f"event.{number}")
        if name == ERROR_EVENT:
            continue
        text = json.dumps(data, ensure_ascii=False).encode()
        lines = [b"event: " + name.encode()] if name else []
        forms = ([b"data: " + text], [b"data:" + text], [b": a comment", b"data: " + text])
        told.append(end.join((*lines, *made_up.chosen(forms, f"form.{number}"))))
    told.insert(1, b": keep-alive")
    body = b"".join(event + end + end for event in (*told, DONE))
    framing = made_up.chosen(("chunked", "close"), "framing")
    media_type = made_up.chosen((b"text/event-stream", b"text/event-stream; charset=utf-8"), "media type")
    return Answer(body, media_type, framing=framing, usage_event=USAGE_EVENT + end + end)


def _event(made_up: MadeUp, kind: type[pydantic.BaseModel], place: str) -> tuple[str, Any]:
    value = made_up.value(kind, place)
    if set(kind.model_fields) >= {"event", "data"}:
        return value["event"], value["data"]
    name = value.get("type", "") if isinstance(value, dict) else ""
    return name, value
