"""Reading a compressed answer without touching it: the meter sees plain bytes, the client those that came. Pure."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import brotli

from gateway.providers.api import Meter, Usage

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PLAIN_BYTES_MAX = 16 << 20
"""So much is decompressed of one answer for the meter; more is passed on unread, and the usage is then not known.
A gzip body can hold a thousand times its size: the bound is what such a body may cost."""

RATIO_MAX = 16
"""So many times its size a body may have beyond the bound: numbers and base64 stay far below, and a bomb far above."""

STEP_BYTES_MAX = 1 << 20
"""So much comes out of one decompression step, so that a small chunk can not become a large one in memory."""


class Decoded:
    """Another meter, fed with the plain form of a compressed body."""

    __slots__ = ("_decompress", "_left", "_meter", "concluded")

    def __init__(self, meter: Meter, encoding: str) -> None:
        self.concluded = False
        self._meter = meter
        self._left = PLAIN_BYTES_MAX
        self._decompress: Callable[[bytes, int], list[bytes]] | None = _DECODERS[encoding]()

    def feed(self, chunk: bytes) -> bytes:
        if chunk and self._decompress is not None:
            self._left += RATIO_MAX * len(chunk)
            try:
                pieces = self._decompress(chunk, self._left)
            except (zlib.error, brotli.error, zstd.ZstdError, EOFError):
                # Not what the header says, or cut: what was read so far stands.
                self._decompress = None
                return chunk
            for plain in pieces:
                self._left -= len(plain)
                self._meter.feed(plain)
            self.concluded = self._meter.concluded
            if self._left <= 0:
                self._decompress = None
        return chunk

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        return b"", self._meter.finish(whole=whole and self._decompress is not None)[1]


class _Stepwise(Protocol):
    @property
    def needs_input(self) -> bool: ...
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _zlib(window_bits: int) -> Callable[[bytes, int], list[bytes]]:
    decoder = zlib.decompressobj(window_bits)

    def decompress(chunk: bytes, left: int) -> list[bytes]:
        pieces = []
        while chunk and left > 0 and not decoder.eof:
            pieces.append(decoder.decompress(chunk, min(left, STEP_BYTES_MAX)))
            left -= len(pieces[-1])
            chunk = decoder.unconsumed_tail
        return pieces

    return decompress


def _deflate() -> Callable[[bytes, int], list[bytes]]:
    """`deflate` is the zlib format (RFC 9110 section 8.4.1.2); some senders leave its header out."""
    chosen: Callable[[bytes, int], list[bytes]] | None = None

    def decompress(chunk: bytes, left: int) -> list[bytes]:
        nonlocal chosen
        if chosen is None:
            has_header = chunk[:1] and chunk[0] & 0x0F == zlib.DEFLATED
            chosen = _zlib(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        return chosen(chunk, left)

    return decompress


def _brotli() -> Callable[[bytes, int], list[bytes]]:
    decoder: Any = brotli.Decompressor()

    def decompress(chunk: bytes, left: int) -> list[bytes]:
        if decoder.is_finished():
            return []
        pieces = [decoder.process(chunk, output_buffer_limit=min(left, STEP_BYTES_MAX))]
        left -= len(pieces[-1])
        while left > 0 and not decoder.can_accept_more_data():
            pieces.append(decoder.process(b"", output_buffer_limit=min(left, STEP_BYTES_MAX)))
            left -= len(pieces[-1])
        return pieces

    return decompress


def _zstd() -> Callable[[bytes, int], list[bytes]]:
    decoder: _Stepwise = zstd.ZstdDecompressor()

    def decompress(chunk: bytes, left: int) -> list[bytes]:
        if decoder.eof:
            return []
        pieces = [decoder.decompress(chunk, min(left, STEP_BYTES_MAX))]
        left -= len(pieces[-1])
        while left > 0 and not decoder.needs_input and not decoder.eof:
            pieces.append(decoder.decompress(b"", min(left, STEP_BYTES_MAX)))
            left -= len(pieces[-1])
        return pieces

    return decompress


_DECODERS: dict[str, Callable[[], Callable[[bytes, int], list[bytes]]]] = {
    "gzip": lambda: _zlib(16 + zlib.MAX_WBITS),
    "x-gzip": lambda: _zlib(16 + zlib.MAX_WBITS),
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}

ENCODINGS = frozenset(_DECODERS)
