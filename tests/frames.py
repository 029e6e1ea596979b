"""WebSocket frames, written by hand (RFC 6455 section 5.2)."""

from __future__ import annotations

import struct

MASK = b"\x37\xfa\x21\x3d"
CONTINUED, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(
    payload: bytes = b"", kind: int = TEXT, *, last: bool = True, masked: bool = True, coded: bool = False
) -> bytes:
    """One frame (RFC 6455 section 5.2): a client's is masked, a server's is not."""
    first = kind | (0x80 if last else 0) | (0x40 if coded else 0)
    size = len(payload)
    flag = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", first, flag | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, flag | 126, size)
    else:
        head = struct.pack("!BBQ", first, flag | 127, size)
    if not masked:
        return head + payload
    key = int.from_bytes((MASK * (size // 4 + 1))[:size], "big")
    return head + MASK + (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


def close(code: int | None, reason: bytes = b"", *, masked: bool) -> bytes:
    return frame(b"" if code is None else struct.pack("!H", code) + reason, CLOSE, masked=masked)
