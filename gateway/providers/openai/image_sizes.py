"""The size of an image out of its first bytes, of the four formats that models take. Pure.

Formats: PNG (W3C PNG section 11.2.2), GIF (GIF89a section 18), WebP (RFC 9649 section 2), JPEG (ITU-T T.81 annex B).
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode

from gateway.providers.openai.models import Size

LOOKED_THROUGH_CHARACTERS = 256 << 10
"""Of a picture so much is looked through for its size: what cameras write before it in a JPEG has up to 64 KiB a piece."""

_DATA_URL = re.compile(r"data:[a-zA-Z0-9.+/-]*(?:;[^,;]{1,64})*;base64,")


def size_of_url(url: str) -> Size | None:
    """The size of the image that a `data:` URL holds, None where it is elsewhere or not to be found."""
    head = _DATA_URL.match(url[:512])
    if head is None:
        return None
    text = url[head.end() : head.end() + LOOKED_THROUGH_CHARACTERS]
    try:
        return size_of(b64decode(text[: len(text) // 4 * 4]))
    except (binascii.Error, ValueError):
        return None


def size_of(data: bytes) -> Size | None:
    """The size of an image, by its beginning."""
    size = None
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        size = Size(int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))
    elif data.startswith((b"GIF87a", b"GIF89a")) and len(data) >= 10:
        size = Size(int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little"))
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        size = _webp(data)
    elif data.startswith(b"\xff\xd8"):
        size = _jpeg(data)
    return size if size is not None and size.width > 0 and size.height > 0 else None


def _webp(data: bytes) -> Size | None:
    match data[12:16]:
        case b"VP8X":
            return Size(int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        case b"VP8 ":
            return Size(int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF)
        case _:
            return None


_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""The markers that begin a frame, which says the size; the others in this range are tables."""


def _jpeg(data: bytes) -> Size | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            return Size(int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7]))
        # 0xFF may be repeated before a marker; each other piece says how long it is.
        at += 1 if marker == 0xFF else 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    return None
