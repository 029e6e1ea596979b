"""Content codings: undoing a request's, choosing and applying an answer's. Pure."""

from __future__ import annotations

import sys
import zlib
from typing import Protocol

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODINGS = ("identity", "br", "zstd", "gzip", "deflate")
"""What answers can be coded in; among those that a client likes equally, the first but identity is taken."""

GZIP_WBITS = 31
DEFLATE_WBITS = 15
"""RFC 9110 means the zlib format by `deflate`."""


class Coder(Protocol):
    """Codes one body, piece by piece, so that each piece can be read as soon as it has arrived."""

    def piece(self, data: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class Identity:
    def piece(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""


class Zlib:
    def __init__(self, wbits: int) -> None:
        self._deflate = zlib.compressobj(wbits=wbits)

    def piece(self, data: bytes) -> bytes:
        return self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._deflate.flush()


class Brotli:
    def __init__(self) -> None:
        self._brotli = brotli.Compressor(quality=4)

    def piece(self, data: bytes) -> bytes:
        coded: bytes = self._brotli.process(data) + self._brotli.flush()
        return coded

    def end(self) -> bytes:
        coded: bytes = self._brotli.finish()
        return coded


class Zstd:
    def __init__(self) -> None:
        self._zstd = zstd.ZstdCompressor()

    def piece(self, data: bytes) -> bytes:
        return self._zstd.compress(data, zstd.ZstdCompressor.FLUSH_BLOCK)

    def end(self) -> bytes:
        return self._zstd.flush()


def coder(coding: str) -> Coder:
    """A coder for one body, in one of CODINGS."""
    match coding:
        case "gzip":
            return Zlib(GZIP_WBITS)
        case "deflate":
            return Zlib(DEFLATE_WBITS)
        case "br":
            return Brotli()
        case "zstd":
            return Zstd()
        case _:
            return Identity()


def preferred(accept_encoding: str) -> str:
    """The coding that an Accept-Encoding header likes best, of CODINGS; identity where it likes none."""
    liked: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        coding, _, parameters = item.partition(";")
        weight = parameters.replace(" ", "").removeprefix("q=")
        try:
            liked[coding.strip()] = float(weight) if weight else 1.0
        except ValueError:
            continue
    best = max(CODINGS[1:], key=lambda coding: liked.get(coding, liked.get("*", 0.0)))
    return best if liked.get(best, liked.get("*", 0.0)) > 0 else "identity"


def decoded(body: bytes, content_encoding: str) -> bytes:
    """Undo a Content-Encoding header. Raises ValueError where the body is not what the header says."""
    for coding in reversed([name.strip() for name in content_encoding.lower().split(",") if name.strip()]):
        try:
            match coding:
                case "identity":
                    pass
                case "gzip" | "x-gzip":
                    body = zlib.decompress(body, GZIP_WBITS)
                case "deflate":
                    body = zlib.decompress(body, DEFLATE_WBITS)
                case "br":
                    body = brotli.decompress(body)
                case "zstd":
                    body = zstd.decompress(body)
                case _:
                    raise ValueError(f"unknown content coding {coding!r}")
        except ValueError:
            raise
        except Exception as error:  # Each library has an error of its own.
            raise ValueError(f"the body is not {coding}") from error
    return body
