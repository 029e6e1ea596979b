"""Holding an answer until it is over, within a bound. Pure."""

from __future__ import annotations

from collections.abc import Callable

from gateway.providers.learnt import Usage


class Gathered:
    """The bytes of one body; beyond the bound none are held any more, and the body is not known."""

    __slots__ = ("_bytes_max", "_chunks", "_size")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._chunks: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= self._bytes_max:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()

    @property
    def known(self) -> bytes | None:
        """All of it, or None where it was too large."""
        return b"".join(self._chunks) if self._size <= self._bytes_max else None


class WhenOver:
    """The meter of an answer that is read once, when it is over. Of one that broke off or was too large, its judge gets None."""

    __slots__ = ("_body", "_judge", "concluded")

    def __init__(self, judge: Callable[[bytes | None], Usage], bytes_max: int) -> None:
        self.concluded = False
        self._judge = judge
        self._body = Gathered(bytes_max)

    def feed(self, chunk: bytes) -> bytes:
        self._body.feed(chunk)
        return chunk

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        return b"", self._judge(self._body.known if whole else None)
