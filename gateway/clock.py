"""The time of day in the ledger's unit. Apart, since every call asks for it and this compiles."""

from __future__ import annotations

import time
from typing import Final

_time_ns: Final = time.time_ns


def now_ms() -> int:
    """In milliseconds since 1970."""
    return _time_ns() // 1_000_000
