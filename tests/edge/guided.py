"""Mutation that is guided by coverage: what goes where nothing went before is kept, and mutated further.

Why not a fuzzer from a package: the one for Python, atheris, is built for few platforms, and these tests run on all. What
is looked at here is small and pure, so the interpreter's own tracing is fast enough.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any, TypeVar

T = TypeVar("T")

BYTES_MAX = 4096
"""Nothing that is made is larger: what matters is told apart long before."""

VALUES = tuple(
    b'0|-1|1|1.5|1e400|9007199254740993|18446744073709551616|NaN|null|true|""|"x"|[]|{}|[[]]|{"a":1}'.split(b"|")
)
PIECES = (b"\n", b"\n\n", b"\r\n\r\n", b"\r\r", b"data: ", b"data:", b": ", b"event: ", b"[DONE]", b"\xef\xbb\xbf")
PIECES += (b"\xff", b"\\u0000", b"\\ud800", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"<", b">", b"&", b"=")


_SCALAR = re.compile(rb'(?<=:)(?:-?[0-9][0-9.]*|null|true|false|"[^"\\]*")')
"""A value as JSON has it behind a name."""


class Coverage:
    """Which ways through some code have been gone."""

    def __init__(self, part_of_path: str) -> None:
        self._part_of_path = part_of_path
        self.gone: set[tuple[CodeType, int, int]] = set()
        """Function, line, and the line after it."""

    def goes_further(self, run: Callable[[], T]) -> tuple[T, bool]:
        """What it gives, and whether it went a way that none before it went."""
        before, known = sys.gettrace(), len(self.gone)
        sys.settrace(self._called)
        try:
            found = run()
        finally:
            sys.settrace(before)
        return found, len(self.gone) > known

    def _called(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        code = frame.f_code
        if self._part_of_path not in code.co_filename:
            return None
        gone, last = self.gone, 0

        def went(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal last
            gone.add((code, last, frame.f_lineno))
            last = frame.f_lineno
            return went

        return went


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """This with something changed, or with a part of another."""
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((0, 1, 2, 8, 64)))
        kind = rng.randrange(10)
        if kind == 0:
            piece = bytes((rng.randrange(256),))
        elif kind == 1:
            piece = rng.choice(words)
        elif kind == 2:
            piece = rng.choice(VALUES)
        elif kind == 3:
            piece = rng.choice(PIECES)
        elif kind == 4:
            piece = data[start:end] * 2
        elif kind == 5:
            piece = b""
        elif kind == 6:
            other = rng.choice(others)
            begin = rng.randrange(len(other) + 1)
            piece = other[begin : begin + rng.choice((8, 64, 512))]
        elif kind == 7:
            piece = b'"%b":%b,' % (rng.choice(words), rng.choice(VALUES))
        else:
            spans = [found.span() for found in _SCALAR.finditer(data)] or [(start, end)]
            start, end = rng.choice(spans)
            data = data[:start] + rng.choice(VALUES) + data[end:]
            continue
        data = data[:start] + piece + data[end if rng.random() < 0.5 else start :]
    return data[:BYTES_MAX]
