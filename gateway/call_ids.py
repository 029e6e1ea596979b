"""Our own ids, made before the deed: UUIDs of version 7 (RFC 9562 section 5.7), which sort by time."""

from __future__ import annotations

import time
from random import getrandbits


def new_call_id(now_ms: int | None = None) -> str:
    """A new id for a call that arrives now, or at the given milliseconds since 1970."""
    milliseconds = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    # Seeded from the system, and in every forked process anew. It has to tell ids apart, not to keep them secret.
    noise = getrandbits(80) & 0x0FFF_3FFF_FFFF_FFFF_FFFF
    text = (milliseconds << 80 | noise | 0x7000_8000_0000_0000_0000).to_bytes(16, "big").hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
