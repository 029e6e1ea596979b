"""How OpenAI tells its answers: completions and responses, at once or in events. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from gateway.simulator import prose
from gateway.simulator.api import SSE, Answer
from gateway.simulator.openai_asked import Tool
from gateway.simulator.openai_usage import said, with_usage

encode = msgspec.json.encode
decode = msgspec.json.decode

FINGERPRINT = "fp_5104a70d1e"
DONE = b"data: [DONE]\n\n"


class Made(NamedTuple):
    """One chat or text completion, thought out; how it is told is another matter."""

    id: str
    created: int
    model: str
    tier: str
    seed: int
    texts: int
    """How many choices there are."""
    words: int
    """How many words each has."""
    finish: str
    tool: Tool | None
    call_ids: tuple[str, ...]
    usage: object
    """UNSET where the answer is to say nothing."""
    usage_in_stream: bool
    """Whether a stream is asked to end with it."""

    def text(self, index: int) -> str:
        return "".join(self.pieces(index))

    def pieces(self, index: int) -> Iterator[str]:
        return prose.words(self.seed + index, self.words)


def told(made: Made, body: bytes) -> Answer:
    """A completion, at once."""
    return Answer(body=body, object_id=made.id, model=made.model, usage=said(made.usage))


def streamed(made: Made, tell: Callable[[Made], Iterator[bytes]]) -> Answer:
    """A completion, in events."""
    return Answer(
        content_type=SSE,
        events=lambda: tell(made),
        object_id=made.id,
        model=made.model,
        billed=said(made.usage),
        usage=said(made.usage) if made.usage_in_stream else None,
    )


def whole_chat(made: Made) -> dict[str, Any]:
    choices = []
    for index in range(made.texts):
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
        if made.tool:
            message["tool_calls"] = [tool_call(made.call_ids[index], made.tool.name, made.tool.arguments)]
        else:
            message["content"] = made.text(index)
        choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": made.finish})
    return with_usage(
        {
            "id": made.id,
            "object": "chat.completion",
            "created": made.created,
            "model": made.model,
            "choices": choices,
            "service_tier": made.tier,
            "system_fingerprint": FINGERPRINT,
        },
        made.usage,
    )


def chat_events(made: Made) -> Iterator[bytes]:
    head: dict[str, Any] = {
        "id": made.id,
        "object": "chat.completion.chunk",
        "created": made.created,
        "model": made.model,
        "service_tier": made.tier,
        "system_fingerprint": FINGERPRINT,
    }
    tail = {"usage": None} if made.usage_in_stream else {}

    def chunk(index: int, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return data({**head, "choices": [choice]} | tail)

    for index in range(made.texts):
        if made.tool:
            opening = {"index": 0, **tool_call(made.call_ids[index], made.tool.name, "")}
            yield chunk(index, {"role": "assistant", "content": None, "tool_calls": [opening], "refusal": None})
            for part in fragments(made.tool.arguments):
                yield chunk(index, {"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        else:
            yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
    if not made.tool:
        for row in zip(*map(made.pieces, range(made.texts)), strict=True):
            for index, piece in enumerate(row):
                yield chunk(index, {"content": piece})
    for index in range(made.texts):
        yield chunk(index, {}, made.finish)
    if made.usage_in_stream and made.usage is not msgspec.UNSET:
        yield data({**head, "choices": [], "usage": made.usage})
    yield DONE


def whole_text(made: Made) -> dict[str, Any]:
    choices = [
        {"text": made.text(index), "index": index, "logprobs": None, "finish_reason": made.finish}
        for index in range(made.texts)
    ]
    head = {"id": made.id, "object": "text_completion", "created": made.created, "model": made.model}
    return with_usage({**head, "choices": choices}, made.usage)


def text_events(made: Made) -> Iterator[bytes]:
    head = {"id": made.id, "object": "text_completion", "created": made.created, "model": made.model}
    tail = {"usage": None} if made.usage_in_stream else {}

    def chunk(index: int, text: str, finish: str | None = None) -> bytes:
        choice = {"text": text, "index": index, "logprobs": None, "finish_reason": finish}
        return data({**head, "choices": [choice], **tail})

    for row in zip(*map(made.pieces, range(made.texts)), strict=True):
        for index, piece in enumerate(row):
            yield chunk(index, piece)
    for index in range(made.texts):
        yield chunk(index, "", made.finish)
    if made.usage_in_stream and made.usage is not msgspec.UNSET:
        yield data({**head, "choices": [], "usage": made.usage})
    yield DONE


def response_stream(final: Mapping[str, Any], since: int) -> Answer:
    """A response in events, without those before number `since`."""
    return Answer(
        content_type=SSE,
        events=lambda: itertools.islice(response_events(final), since, None),
        usage_in_last_event=True,
        object_id=final["id"],
        model=final["model"],
        usage=final.get("usage"),
        tool_usage=final.get("tool_usage"),
    )


def response_events(final: Mapping[str, Any]) -> Iterator[bytes]:
    numbers = itertools.count()

    def event(kind: str, **fields: object) -> bytes:
        told = {"type": f"response.{kind}", "sequence_number": next(numbers), **fields}
        return b"event: response.%b\ndata: %b\n\n" % (kind.encode(), encode(told))

    started = {**waiting(final, "in_progress"), "service_tier": "auto"}
    yield event("created", response=started)
    yield event("in_progress", response=started)
    for index, item in enumerate(final["output"]):
        of = {"item_id": item["id"], "output_index": index}
        match item["type"]:
            case "message":
                part = item["content"][0]
                text, at = part["text"], {**of, "content_index": 0}
                begun = item | {"status": "in_progress", "content": []}
                yield event("output_item.added", output_index=index, item=begun)
                yield event("content_part.added", **at, part=part | {"text": ""})
                for piece in re.finditer(r"\s*\S+", text):
                    yield event("output_text.delta", **at, delta=piece[0], logprobs=[])
                yield event("output_text.done", **at, text=text, logprobs=[])
                yield event("content_part.done", **at, part=part)
            case "function_call":
                begun = item | {"status": "in_progress", "arguments": ""}
                yield event("output_item.added", output_index=index, item=begun)
                for fragment in fragments(item["arguments"]):
                    yield event("function_call_arguments.delta", **of, delta=fragment)
                whole = {"arguments": item["arguments"], "name": item["name"]}
                yield event("function_call_arguments.done", **of, **whole)
            case "web_search_call":
                yield event("output_item.added", output_index=index, item=item | {"status": "in_progress"})
                for stage in ("in_progress", "searching", "completed"):
                    yield event(f"web_search_call.{stage}", **of)
            case _:
                yield event("output_item.added", output_index=index, item=item)
        yield event("output_item.done", output_index=index, item=item)
    yield event(final["status"], response=final)


def waiting(final: Mapping[str, Any], status: str) -> dict[str, Any]:
    """A response that has made nothing, yet or for ever."""
    nothing: dict[str, Any] = {"status": status, "output": [], "usage": None, "completed_at": None}
    waiting = {**final, **nothing, "error": None, "incomplete_details": None}
    waiting.pop("tool_usage", None)
    return waiting


def read_back(stored: bytes) -> Answer:
    """A stored object; it repeats the usage that it was made with."""
    fields = decode(stored)
    usage, tool_usage = fields.get("usage"), fields.get("tool_usage")
    return Answer(body=stored, object_id=fields["id"], model=fields["model"], usage=usage, tool_usage=tool_usage)


def data(value: object) -> bytes:
    return b"data: %b\n\n" % encode(value)


def tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def fragments(text: str) -> Iterator[str]:
    return (text[start : start + 8] for start in range(0, len(text), 8))
