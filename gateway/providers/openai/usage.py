"""OpenAI's usage objects, of every shape in use, turned into disjoint quantities. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, Final, cast

import msgspec

from gateway.providers.json_scan import UNREADABLE
from gateway.providers.openai.documents import COUNT_MAX, Documented


def quantities(usage: Mapping[str, object]) -> dict[str, int]:
    """Turn a usage object, of either of the two shapes in use, into disjoint quantities; empty if it holds none.

    Chat completions say `prompt_tokens` and `completion_tokens`, newer endpoints `input_tokens` and `output_tokens`. In
    both, cached, cache-write, audio and image tokens are counted inside the input, reasoning and audio inside the output
    (held in all of 950 recorded answers); we take them out, because dimensions never overlap. The sum of the result is
    the provider's own total.
    """
    found: dict[str, int] = {}
    whole = count(usage, "prompt_tokens", "input_tokens")
    if whole is not None:
        found["input_tokens"] = whole
        details = mapping(
            usage, "prompt_tokens_details", "input_tokens_details", "prompt_token_details", "input_token_details"
        )
        parts = _positive(details)
        if parts:
            apart: Mapping[str, int] = _NONE
            if "cached_tokens_details" in details:
                # Of what is cached, audio and images are counted by themselves.
                of_cached = _positive(mapping(details, "cached_tokens_details"))
                audio, image = of_cached.get("audio_tokens", 0), of_cached.get("image_tokens", 0)
                _take("input_tokens", "input_tokens_audio_cached", audio, found)
                _take("input_tokens", "input_tokens_image_cached", image, found)
                apart = {"cached_tokens": audio + image, "audio_tokens": audio, "image_tokens": image}
            for name, part in _INPUT_PARTS:
                if name in parts:
                    _take("input_tokens", part, parts[name] - apart.get(name, 0), found)
    whole = count(usage, "completion_tokens", "output_tokens")
    if whole is not None:
        found["output_tokens"] = whole
        parts = _positive(
            mapping(
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
    if not found and usage.get("type") == "duration":
        # Models that are billed by the duration of what they heard say that instead.
        heard_s = whole_seconds(usage.get("seconds"))
        if heard_s is not None:
            found["seconds"] = heard_s
    return found


def pictured(quantities: dict[str, int]) -> dict[str, int]:
    """What a model of pictures used: all it put out are pictures, unless its answer tells text and pictures apart.

    Older models' answers have one number, which the API reference calls that of the image tokens.
    """
    if "output_tokens" in quantities and "output_tokens_image" not in quantities:
        quantities["output_tokens_image"] = quantities.pop("output_tokens")
    return quantities


def whole_seconds(value: object) -> int | None:
    """A duration in whole seconds, a begun one counting as one; None where there is none.

    Where an answer holds both (verbose transcriptions), `usage` has the exact `duration` rounded up.
    """
    if type(value) not in _NUMBERS:
        return None
    seconds = cast("float", value)
    return math.ceil(seconds) if 0 <= seconds <= COUNT_MAX else None


_INPUT_PARTS: Final = (
    ("cached_tokens", "input_tokens_cached"),
    ("cache_write_tokens", "input_tokens_cache_write"),
    ("audio_tokens", "input_tokens_audio"),
    ("image_tokens", "input_tokens_image"),
)
_OUTPUT_PARTS: Final = (
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


def mapping(holder: Mapping[str, object], *names: str) -> Mapping[str, object]:
    for name in names:
        value = holder.get(name)
        if type(value) is dict:
            return value
    return _NOTHING


_NOTHING: Mapping[str, object] = {}


def _positive(holder: Mapping[str, object]) -> dict[str, int]:
    """The counts that are not zero."""
    return {name: value for name, value in holder.items() if type(value) is int and 0 < value <= COUNT_MAX}


def count(holder: Mapping[str, object], *names: str) -> int | None:
    """The first of the names that holds a count, or None. Whatever else stands there is no count."""
    for name in names:
        value = holder.get(name)
        if type(value) is int and 0 <= value <= COUNT_MAX:
            return value
    return None


_FIELD: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


@lru_cache(maxsize=1024)
def is_field(name: str) -> bool:
    """True for the name of a field, as opposed to a text that stands in the place of one."""
    return _FIELD.fullmatch(name) is not None


_NUMBERS: Final = frozenset({int, float})


def numbers_only(holder: Mapping[str, object], depth: int = 4) -> dict[str, object]:
    """The numbers of a usage object in their places, and nothing else: no text of a provider's can reach the ledger."""
    kept: dict[str, object] = {}
    for name, value in holder.items():
        kind = type(value)
        if kind in _NUMBERS:
            if is_field(name):
                kept[name] = value
        elif kind is dict and depth > 1 and is_field(name):
            kept[name] = numbers_only(cast("dict[str, object]", value), depth - 1)
    return kept


_UNSET: Final = msgspec.UNSET
_fields: Final = msgspec.structs.astuple  # One call for all of them costs less than asking for two of them by name.


def _documented_quantities(usage: Documented) -> dict[str, int]:
    """What :func:`quantities` makes of it, at a fifth of the cost."""
    found: dict[str, int] = {}
    prompt, completion, _, of_prompt, of_completion, input_, of_input, output, of_output = _fields(usage)
    if prompt is _UNSET:
        prompt = input_
    if prompt is not _UNSET:
        _count_parts("input_tokens", prompt, of_prompt or of_input, _INPUT_DIMENSIONS, found)
    if completion is _UNSET:
        completion = output
    if completion is not _UNSET:
        _count_parts("output_tokens", completion, of_completion or of_output, _OUTPUT_DIMENSIONS, found)
    return found


_INPUT_DIMENSIONS: Final = [part for _, part in _INPUT_PARTS]
_OUTPUT_DIMENSIONS: Final = [part for _, part in _OUTPUT_PARTS]
"""What the first fields of the details are, in their order."""


def _count_parts(name: str, whole: int, details: Any, dimensions: list[str], found: dict[str, int]) -> None:
    """Count the parts that the details tell, each by itself, and under `name` what is left, as :func:`_take` does."""
    found[name] = whole
    if not details:
        return
    left = whole
    told: tuple[Any, ...] = _fields(details)
    for place, part in enumerate(dimensions):
        amount = told[place]
        if amount:
            taken = min(cast("int", amount), left)
            if taken:
                found[part] = taken
                left -= taken
    if left != whole:
        found[name] = left


def is_documented(kept: object) -> bool:
    """True for what :func:`counted` keeps of a usage object that has no other fields than the documented."""
    return type(kept) is Documented


_read_documented: Final = msgspec.json.Decoder(Documented).decode


def counted(usage: Documented | msgspec.Raw) -> tuple[dict[str, int], object]:
    """What a usage object counts, and what of it is kept as it came."""
    if type(usage) is Documented:
        return _documented_quantities(usage), usage
    try:
        documented = _read_documented(usage)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Something is there, or is written, as nobody has documented it: look at each field by itself.
        pass
    else:
        return _documented_quantities(documented), documented
    try:
        fields = msgspec.json.decode(usage)
    except UNREADABLE:
        return {}, {}
    return (quantities(fields), numbers_only(fields)) if type(fields) is dict else ({}, {})


_INPUT_NAMES: Final = frozenset(
    {
        *("text_tokens", "cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens"),
        *(
            "cached_tokens_details.text_tokens",
            "cached_tokens_details.audio_tokens",
            "cached_tokens_details.image_tokens",
        ),
        *("cache_write_tokens_details.ttl_30m_tokens", "cache_write_tokens_details.ttl_12h_tokens"),
    }
)
_OUTPUT_NAMES: Final = frozenset(
    {
        *("text_tokens", "reasoning_tokens", "audio_tokens", "image_tokens"),
        *("accepted_prediction_tokens", "rejected_prediction_tokens"),
    }
)
_KNOWN: Final = frozenset(
    {
        *("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens", "type", "seconds"),
        *(f"{side}_{of}.{name}" for side in ("prompt", "input") for of in ("tokens_details", "token_details") for name in _INPUT_NAMES),
        *(f"{side}_{of}.{name}" for side in ("completion", "output") for of in ("tokens_details", "token_details") for name in _OUTPUT_NAMES),
    }
)  # fmt: skip
"""Every field that a usage object has been seen or documented with."""

UNSEEN_MAX: Final = 8
"""So many are named of one answer."""


def unseen(usage: Documented | msgspec.Raw) -> tuple[str, ...]:
    """The fields of a usage object that nobody here knows, by their paths; those that hold nothing are none.

    A new kind of use comes to light by its field: it is said, and not counted, since whether it is a part of what is
    counted nobody knows.
    """
    if type(usage) is Documented:
        return ()
    try:
        fields = msgspec.json.decode(usage)
    except UNREADABLE:
        return ()
    return tuple(path for path in islice(_leaves(fields, ""), LEAVES_MAX) if path not in _KNOWN)[:UNSEEN_MAX]


LEAVES_MAX: Final = 64
"""So many fields are looked at; the largest usage object seen has 14."""


def _leaves(holder: object, above: str, depth: int = 3) -> Iterator[str]:
    """The paths of the fields that hold something, and are called as fields are."""
    if type(holder) is dict:
        for name, value in holder.items():
            if value is None or value == {} or not is_field(name):
                continue
            if type(value) is dict and depth > 1:
                yield from _leaves(value, f"{above}{name}.", depth - 1)
            else:
                yield f"{above}{name}"
