"""What a simulated answer of OpenAI used, in the API's own usage objects. Pure.

It is an estimate that follows from the request alone: the provider that is simulated bills what it says here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.simulator import prose
from gateway.simulator.api import Asked
from gateway.simulator.openai_asked import Tool, tools_of

REASONING = ("o3", "o4", "gpt-5", "gpt-6")
"""Models whose names start so think before they answer, and bill it."""
CACHE_WRITES = ("gpt-5.6", "gpt-6")
"""Models whose names start so bill what they write to the prompt cache."""

IMAGE_TOKENS, AUDIO_TOKENS, MESSAGE_TOKENS = 85, 40, 4


def chat_usage(model: str, seed: int, messages: Sequence[object], prompt: int, visible: int) -> dict[str, Any]:
    reasoning = reasoning_tokens(model, seed)
    cached, written = cache_tokens(model, seed, prompt)
    images, sounds = media_of(messages)
    completion = visible + reasoning
    return {
        **counts(prompt, completion),
        "prompt_tokens_details": {
            "cached_tokens": cached,
            "cache_write_tokens": written,
            "audio_tokens": sounds * AUDIO_TOKENS,
            "image_tokens": images * IMAGE_TOKENS,
            "text_tokens": prompt - sounds * AUDIO_TOKENS - images * IMAGE_TOKENS,
        },
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "text_tokens": visible,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def response_usage(model: str, seed: int, prompt: int, output: int, reasoning: int) -> dict[str, Any]:
    cached, written = cache_tokens(model, seed, prompt)
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + output,
    }


def counts(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def reasoning_tokens(model: str, seed: int) -> int:
    """Three requests in four make a reasoning model think."""
    return (seed >> 8) % 256 if model.startswith(REASONING) and seed % 4 else 0


def cache_tokens(model: str, seed: int, prompt: int) -> tuple[int, int]:
    """Of the prompt, what was read from the cache and what was written to it: one request in three finds half of it."""
    cached = prompt // 2 if seed % 3 == 0 else 0
    written = (prompt - cached) // 3 if model.startswith(CACHE_WRITES) and seed % 5 else 0
    return cached, written


def prompt_tokens(item: object) -> int:
    """A message, or an item of a response's input, as part of a prompt."""
    if not isinstance(item, Mapping):
        return MESSAGE_TOKENS
    images, sounds = media_of([item])
    texts = (part if isinstance(part, str) else part.get("text") for part in content_parts(item))
    text = sum(prose.tokens(text) for text in texts if isinstance(text, str))
    rest = sum(prose.tokens(item[name]) for name in ("arguments", "output", "name") if isinstance(item.get(name), str))
    return MESSAGE_TOKENS + text + rest + images * IMAGE_TOKENS + sounds * AUDIO_TOKENS


def media_of(items: Iterable[object]) -> tuple[int, int]:
    """How many images and how many sounds these messages hold."""
    parts = [part for item in items if isinstance(item, Mapping) for part in content_parts(item)]
    kinds = [part.get("type") for part in parts if isinstance(part, Mapping)]
    return sum(kind in ("image_url", "input_image") for kind in kinds), kinds.count("input_audio")


def content_parts(item: Mapping[str, Any]) -> list[str | Mapping[str, Any]]:
    content = item.get("content")
    parts = content if isinstance(content, list) else [content]
    return [part for part in parts if isinstance(part, (str, Mapping))]


def offered_tokens(body: Mapping[str, Any]) -> int:
    """What the tools add to a prompt."""
    tools = tools_of(body)
    return len(msgspec.json.encode(tools)) // 4 if tools else 0


def output_tokens(words: int, tool: Tool | None) -> int:
    return prose.tokens(tool.arguments) + 8 if tool else words


def input_tokens(item: object) -> int:
    """An input of the embeddings and completions endpoints: a text, or tokens already."""
    return max(1, prose.tokens(item)) if isinstance(item, str) else len(item) if isinstance(item, list) else 1


def reported(asked: Asked, usage: Callable[[], object]) -> object:
    """The usage to report: what the request dictates, else what it has used. UNSET where it is to be left out."""
    if asked.controls.usage_left_out:
        return msgspec.UNSET
    return usage() if asked.controls.usage is None else asked.controls.usage


def said(usage: object) -> object:
    return None if usage is msgspec.UNSET else usage


def with_usage(answer: dict[str, Any], usage: object) -> dict[str, Any]:
    return answer if usage is msgspec.UNSET else {**answer, "usage": usage}
