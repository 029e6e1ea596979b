"""Words, arguments and vectors out of nothing but a seed, and how many tokens a text has. Pure.

The same request always gets the same answer, so that a test can say beforehand what it will be.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

VOCABULARY = (
    "a", "toll", "is", "due", "where", "two", "roads", "meet", "and", "someone", "keeps", "the", "gate", "all", "night",
    "counting", "carts", "wheels", "lanterns", "against", "snow", "until", "morning", "brings", "another", "ledger",
    "naïve", "café", "köprü", "şehir", "gümüş", "橋", "料金", "🚦", "coins", "of", "brass", "with", "edges", "worn", "by",
    "hands", "that", "never", "rest", "for", "long", "in", "quiet", "weather", "under", "stone", "arches", "across",
    "river", "it", "writes", "down", "every", "crossing", "once", "no", "more",
)  # fmt: skip
"""Some of more than one byte, so that wherever a stream is cut, it is sometimes cut inside a character."""

DEPTH_MAX = 8
"""How deep an example of a JSON schema goes, since a schema may refer to itself."""


def words(seed: int, count: int) -> Iterator[str]:
    """Words, each but the first with the space before it; joined, they are a text."""
    state = seed & 0x7FFFFFFF
    for index in range(count):
        state = (state * 1_103_515_245 + 12_345) & 0x7FFFFFFF
        word = VOCABULARY[(state >> 8) % len(VOCABULARY)]
        yield f" {word}" if index else word


def tokens(text: str) -> int:
    """An estimate that is good enough to be billed in a simulation: a token is four characters."""
    return (len(text) + 3) // 4


def example(schema: object, depth: int = 0) -> Any:
    """A value that fits a JSON schema of the kind that tools have, for arguments of calls."""
    if not isinstance(schema, Mapping) or depth > DEPTH_MAX:
        return {}
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    kind = schema.get("type")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "string":
            return "toll"
        case "integer":
            return 7
        case "number":
            return 7.5
        case "boolean":
            return True
        case "null":
            return None
        case "array":
            return [example(schema["items"], depth + 1)] if isinstance(schema.get("items"), Mapping) else []
        case _:
            properties = schema.get("properties")
            if not isinstance(properties, Mapping):
                return {}
            return {name: example(inner, depth + 1) for name, inner in properties.items()}


def vector(seed: int, dimensions: int) -> list[float]:
    """A direction of length one."""
    raw = [byte - 127.5 for byte in random.Random(seed).randbytes(dimensions)]  # noqa: S311 - no secret
    length = math.sqrt(sum(value * value for value in raw))
    return [value / length for value in raw]
