"""Counting tokens: the rank files, texts that tokenizers are known to fail at, and how long it takes."""

from __future__ import annotations

import gzip
import hashlib
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from gateway.providers.api import CanNotCount
from gateway.providers.openai import tokenizers
from gateway.providers.openai.tokenizers import PIECE_CHARACTERS, ranks, tokens_of

URL = "https://ranks.example/encodings/{}.tiktoken"
HASHES = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}


@pytest.mark.parametrize("name", HASHES)
def test_the_installed_ranks_are_those_that_were_published(name):
    spec = find_spec(tokenizers.RANKS_PACKAGE)
    written = gzip.decompress(Path(spec.submodule_search_locations[0], "data", f"{name}.tiktoken.gz").read_bytes())

    assert hashlib.sha256(written).hexdigest() == HASHES[name]
    assert len(ranks(URL.format(name), HASHES[name])) == {"o200k_base": 199_998, "cl100k_base": 100_256}[name]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL.format("o200k_base"), HASHES["cl100k_base"]),
        (URL.format("o200k_base"), None),
        (URL.format("p50k_base"), ""),
    ],
)
def test_ranks_that_are_not_those_are_not_used(url, expected):
    """Guards against counting with whatever a package may hold one day, and against a download."""
    with pytest.raises(CanNotCount):
        ranks(url, expected)


@pytest.mark.parametrize(
    ("text", "o200k", "cl100k"),
    [("hello world", 2, 2), ("<|endoftext|> not special", 9, 9), ("a" * 500, 63, 63), ("", 0, 0), ("\ud800", 1, 1)],
)
def test_texts_that_others_have_counted(text, o200k, cl100k):
    """The first three were counted by four implementations, two of them in JavaScript; half of a pair of surrogates, which
    is no text, becomes the character that says so."""
    assert (tokens_of("o200k_base", text), tokens_of("cl100k_base", text)) == (o200k, cl100k)


@pytest.mark.parametrize("unit", ["a", "ab", "é", "好", " ", "\n", "! ", "\t ", "0", "<|endoftext|>"])
def test_a_megabyte_of_anything_is_counted_and_takes_no_more_than_its_length(unit):
    """Guards the pieces: 1 MiB of spaces overflows the stack of the expression that splits words, and takes the process
    with it."""
    text = unit * ((1 << 20) // len(unit))
    began = time.monotonic()

    counted = tokens_of("o200k_base", text)

    assert 0 < counted <= len(text) * 3
    assert time.monotonic() - began < 60


def test_a_text_that_is_counted_in_pieces_has_as_many_tokens_as_one_that_is_not(monkeypatch):
    text = "Somewhere in a text of this length there is a place to cut it. " * 4000
    assert len(text) > 4 * PIECE_CHARACTERS
    in_pieces = tokens_of("o200k_base", text)
    monkeypatch.setattr(tokenizers, "PIECE_CHARACTERS", len(text))

    assert in_pieces == tokens_of("o200k_base", text)
