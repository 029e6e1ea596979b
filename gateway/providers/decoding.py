"""Reading a compressed answer without touching it: the meter sees plain bytes, the client those that came. Pure."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

import brotli

from gateway.messages import ResponseHead
from gateway.providers.api import Meter
from gateway.providers.learnt import Usage

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PLAIN_BYTES_MAX: Final = 16 << 20
"""So much is decompressed of one answer for the meter; more is passed on unread, and the usage is then not known.
A gzip body can hold a thousand times its size: the bound is what such a body may cost."""

RATIO_MAX: Final = 16
"""So many times its size a body may have beyond the bound: numbers and base64 stay far below, and a bomb far above."""

STEP_BYTES_MAX: Final = 1 << 20
"""So much comes out of one decompression step, so that a small chunk can not become a large one in memory."""


class Decoded:
    """Another meter, fed with the plain form of a compressed body."""

    __slots__ = ("_decompress", "_left", "_meter", "concluded")

    def __init__(self, meter: Meter, encoding: str) -> None:
        self.concluded = False
        self._meter = meter
        self._left = PLAIN_BYTES_MAX
        self._decompress: Callable[[bytes, int], list[bytes]] | None = _DECODERS[encoding]().decompress

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


def readable(body: bytes, encoding: str) -> bytes:
    """The plain form of a body, or of as much of it as can be read: it may break off, and may not be coded as it says."""
    if encoding not in _DECODERS:
        return body
    pieces: list[bytes] = []
    with suppress(zlib.error, brotli.error, zstd.ZstdError, EOFError):
        pieces = _DECODERS[encoding]().decompress(body, PLAIN_BYTES_MAX)
    return b"".join(pieces)


def gunzip(step_bytes: int) -> Callable[[bytes], Iterator[bytes]]:
    """Decompress a gzip body of any number of members (RFC 1952 section 2.2), step by step. Raises zlib.error."""
    decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def decompress(chunk: bytes) -> Iterator[bytes]:
        nonlocal decoder
        while chunk:
            if decoder.eof:
                decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
            plain = decoder.decompress(chunk, step_bytes)
            chunk = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            yield plain
            while len(plain) == step_bytes and not chunk and not decoder.eof:
                # All input is in, and output may be left.
                plain = decoder.decompress(b"", step_bytes)
                yield plain

    return decompress


class Plain:
    """A compressed answer turned into its plain form, where it must be changed on its way. Raises UndecodableAnswer."""

    __slots__ = ("_begun", "_decoder", "_left")

    def __init__(self, encoding: str) -> None:
        if encoding not in _DECODERS:
            raise UndecodableAnswer(encoding)
        self._decoder = _DECODERS[encoding]()
        self._left = PLAIN_BYTES_MAX
        self._begun = False

    def feed(self, chunk: bytes) -> bytes:
        if not chunk:
            return b""
        self._begun = True
        self._left += RATIO_MAX * len(chunk)
        try:
            plain = b"".join(self._decoder.decompress(chunk, self._left))
        except (zlib.error, brotli.error, zstd.ZstdError, EOFError) as error:
            raise UndecodableAnswer(type(error).__name__) from error
        self._left -= len(plain)
        if self._left <= 0:
            raise UndecodableAnswer("it is too large")
        return plain

    def finish(self) -> None:
        """The answer is over. What was cut before it was compressed must not look whole for having been unpacked."""
        if self._begun and not self._decoder.ended():
            raise UndecodableAnswer("it is not whole")


class UndecodableAnswer(Exception):
    """An answer that is not coded as it says, or in a way that nobody asked for."""


class _Stepwise(Protocol):
    @property
    def needs_input(self) -> bool: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Decoder(NamedTuple):
    decompress: Callable[[bytes, int], list[bytes]]
    ended: Callable[[], bool]
    unused: Callable[[], bytes] = bytes
    """What came after the end."""


PARTS_MAX: Final = 1024
"""So many parts of one body are read: each costs a decoder, however small it is."""


def _in_parts(new: Callable[[], _Decoder], magic: bytes) -> Callable[[], _Decoder]:
    """Decoders of a body in one or more parts, each of which begins with `magic`; what follows the last is not read."""

    def made() -> _Decoder:
        part = new()
        parts = 1
        between = b""
        over = False

        def decompress(chunk: bytes, left: int) -> list[bytes]:
            nonlocal part, parts, between, over
            pieces: list[bytes] = []
            while left > 0 and not over:
                if part.ended():
                    between += chunk
                    if not between.startswith(magic):
                        over = not magic.startswith(between)
                        break
                    parts += 1
                    if parts > PARTS_MAX:
                        raise EOFError("too many parts")
                    part, chunk, between = new(), between, b""
                plain = part.decompress(chunk, left)
                pieces += plain
                left -= sum(map(len, plain))
                if not part.ended():
                    break
                chunk = part.unused()
            return pieces

        def ended() -> bool:
            return part.ended()  # Of the part that is the last by then.

        return _Decoder(decompress, ended)

    return made


def _zlib(window_bits: int) -> _Decoder:
    decoder = zlib.decompressobj(window_bits)

    def decompress(chunk: bytes, left: int) -> list[bytes]:
        pieces = []
        while left > 0 and not decoder.eof:
            step = min(left, STEP_BYTES_MAX)
            pieces.append(decoder.decompress(chunk, step))
            left -= len(pieces[-1])
            chunk = decoder.unconsumed_tail
            if not chunk and len(pieces[-1]) < step:
                break
        return pieces

    return _Decoder(decompress, lambda: decoder.eof, lambda: decoder.unused_data)


def _deflate() -> _Decoder:
    """`deflate` is the zlib format (RFC 9110 section 8.4.1.2); some senders leave its header out."""
    chosen: _Decoder | None = None

    def decompress(chunk: bytes, left: int) -> list[bytes]:
        nonlocal chosen
        if chosen is None:
            has_header = chunk[:1] and chunk[0] & 0x0F == zlib.DEFLATED
            chosen = _zlib(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        return chosen.decompress(chunk, left)

    return _Decoder(decompress, lambda: chosen is not None and chosen.ended())


def _brotli() -> _Decoder:
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

    return _Decoder(decompress, decoder.is_finished)


def _zstd_frame() -> _Decoder:
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

    return _Decoder(decompress, lambda: decoder.eof, lambda: decoder.unused_data)


# RFC 1952 section 2.2: members of a gzip file follow one another; RFC 8878 section 3: so do the frames of Zstandard.
_gzip = _in_parts(lambda: _zlib(16 + zlib.MAX_WBITS), b"\x1f\x8b")
_zstd = _in_parts(_zstd_frame, b"\x28\xb5\x2f\xfd")

_DECODERS: Final[dict[str, Callable[[], _Decoder]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}


def plain_for(meter: Meter, head: ResponseHead) -> Meter:
    """The meter itself, or before an answer that is compressed one that feeds it the plain form."""
    return Decoded(meter, head.encoding) if head.encoding and head.encoding in _DECODERS else meter


ENCODINGS: Final = frozenset(_DECODERS)
