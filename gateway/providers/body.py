"""Holding an answer until it is over, within a bound. Pure."""

from __future__ import annotations


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
