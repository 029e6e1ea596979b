"""What is published about OpenAI's models that a count of tokens depends on: tokenizer, overheads, images. Pure.

Tokenizers by the model table of tiktoken 0.14; overheads of messages and functions by OpenAI's cookbook, "How to count
tokens with tiktoken"; images by the guide "Images and vision", section "Calculating costs".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil, floor, sqrt
from typing import NamedTuple

CL100K, O200K = "cl100k_base", "o200k_base"

TILE_PX = 512
TILED_LONG_PX, TILED_SHORT_PX = 2048, 768
"""An image that is cut into tiles is first made to fit into a square of the one, then its shorter side into the other."""

PATCH_PX = 32


class Size(NamedTuple):
    """Of an image, in pixels."""

    width: int
    height: int


def tiles(base: int, each: int, size: Size, detail: str) -> int:
    """The tokens of an image that costs `base`, and in high detail so much more for `each` tile."""
    if detail == "low":
        return base
    width, height = float(size.width), float(size.height)
    shrink = min(1.0, TILED_LONG_PX / max(width, height))
    width, height = width * shrink, height * shrink
    shrink = min(1.0, TILED_SHORT_PX / min(width, height))
    width, height = width * shrink, height * shrink
    return base + each * ceil(round(width, 6) / TILE_PX) * ceil(round(height, 6) / TILE_PX)


def patches(hundredths: int, patches_max: int, size: Size, detail: str) -> int:
    """The tokens of an image that is cut into patches, each of which counts so many hundredths of a token.

    One with too many patches is first made smaller, so that a whole number of them fits. Less detail costs no less.
    """
    width, height = size
    count = ceil(width / PATCH_PX) * ceil(height / PATCH_PX)
    if count > patches_max:
        shrink = sqrt(PATCH_PX * PATCH_PX * patches_max / (width * height))
        across, down = width * shrink / PATCH_PX, height * shrink / PATCH_PX
        # An image many times as long as it is wide may be less than one patch across, and is one.
        shrink *= min(max(1, floor(across)) / across, max(1, floor(down)) / down)
        across, down = width * shrink / PATCH_PX, height * shrink / PATCH_PX
        count = min(patches_max, ceil(round(across, 6)) * ceil(round(down, 6)))
    return count * hundredths // 100


class Family(NamedTuple):
    """Models that count alike."""

    encoding: str = O200K
    """The tokenizer's name."""
    reasons: bool = False
    """True where most of the output may be hidden."""
    image: Callable[[Size, str], int] = partial(tiles, 85, 170)
    function_tokens: int = 7
    """What each function that is offered costs besides its texts: 10 with the older tokenizer, 7 with the newer."""
    published: bool = True
    """False where no tokenizer is published for the model, and the family's newest known one is taken."""


_OLD = Family(CL100K, function_tokens=10)
_GPT_4O = Family()
_GPT_5 = Family(reasons=True, image=partial(tiles, 70, 140))
_O_SERIES = Family(reasons=True, image=partial(tiles, 75, 150))
_UNPUBLISHED = Family(published=False)

_FAMILIES: tuple[tuple[str, Family], ...] = (
    ("gpt-4o-mini", Family(image=partial(tiles, 2833, 5667))),
    ("gpt-4o", _GPT_4O),
    ("chatgpt-4o", _GPT_4O),
    ("gpt-4.1-mini", Family(image=partial(patches, 162, 1536))),
    ("gpt-4.1-nano", Family(image=partial(patches, 246, 1536))),
    ("gpt-4.1", _GPT_4O),
    ("gpt-4.5", _GPT_4O),
    ("gpt-5-chat", _GPT_5._replace(reasons=False)),
    ("gpt-5-mini", _GPT_5._replace(image=partial(patches, 162, 1536))),
    ("gpt-5-nano", _GPT_5._replace(image=partial(patches, 246, 1536))),
    ("gpt-5.4-mini", _GPT_5._replace(image=partial(patches, 162, 1536))),
    ("gpt-5.4-nano", _GPT_5._replace(image=partial(patches, 246, 1536))),
    ("gpt-5", _GPT_5),
    ("gpt-oss", Family(reasons=True)),
    ("o1", _O_SERIES),
    ("o3", _O_SERIES),
    ("o4-mini", _O_SERIES._replace(image=partial(patches, 172, 1536))),
    ("computer-use-preview", Family(image=partial(tiles, 65, 129), published=False)),
    ("gpt-4", _OLD),
    ("gpt-3.5", _OLD),
    ("gpt-35", _OLD),
    ("davinci-002", _OLD),
    ("davinci:", _OLD),
    ("babbage-002", _OLD),
    ("babbage:", _OLD),
    ("text-embedding-", _OLD),
    ("gpt-", _GPT_5._replace(published=False)),
    ("codex", _GPT_5._replace(published=False)),
)
"""By how the model's name begins; the first that fits. `davinci:` is what davinci-002 answers as, `gpt-35` its name at
Azure."""


def family_of(model: str | None) -> Family:
    """How a model counts; one that nobody has heard of counts like the newest that is known."""
    if model is None:
        return _UNPUBLISHED
    name = model.lower().rpartition("/")[2].removeprefix("ft:")
    return next((family for beginning, family in _FAMILIES if name.startswith(beginning)), _UNPUBLISHED)
