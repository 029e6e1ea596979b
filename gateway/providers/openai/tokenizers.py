"""How many tokens a text has. The only module here that reads files, and none is read before a text is counted, which only
the process for estimates does.

The rank files are those that the package bpe-openai carries, held against the hashes that tiktoken has for them; nothing
is ever downloaded.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.providers.api import CanNotCount

if TYPE_CHECKING:
    import tiktoken

RANKS_PACKAGE = "bpe_openai"

PIECE_CHARACTERS = 32 << 10
"""A longer text is counted in pieces, which takes time in proportion to its length whatever it holds, and the depth of
one piece. Each cut can be wrong by a token or two, and is made before a space where there is one."""


def ranks(url: str, expected_hash: str | None = None) -> dict[bytes, int]:
    """In the place of tiktoken's download: the ranks of the installed file of that name. Raises CanNotCount."""
    package = find_spec(RANKS_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise CanNotCount(f"the package {RANKS_PACKAGE} is not installed")
    path = Path(package.submodule_search_locations[0], "data", url.rpartition("/")[2] + ".gz")
    try:
        written = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise CanNotCount(f"{path.name} can not be read") from error
    if hashlib.sha256(written).hexdigest() != expected_hash:
        raise CanNotCount(f"{path.name} is not the file that tiktoken knows")
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, written.splitlines())}


@lru_cache
def _encoding(name: str) -> tiktoken.Encoding:
    import tiktoken  # noqa: PLC0415 - workers import this module, and never count
    from tiktoken_ext import openai_public as published  # noqa: PLC0415

    published.load_tiktoken_bpe = ranks
    return tiktoken.Encoding(**published.ENCODING_CONSTRUCTORS[name]())


def tokens_of(encoding: str, text: str) -> int:
    """How many tokens a text has. What looks like a special token in it is text, as it is to the provider."""
    count = _encoding(encoding).encode_ordinary
    return sum(len(count(piece)) for piece in _pieces(text))


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = text.rfind(" ", start + 1, start + PIECE_CHARACTERS)
        if end < 0:
            end = start + PIECE_CHARACTERS
        yield text[start:end]
        start = end
    yield text[start:]
