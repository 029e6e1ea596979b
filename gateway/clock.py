"""The time of day in the ledger's unit. Apart, since every call asks for it and this compiles."""

from __future__ import annotations

import time


def now_ms() -> int:
    """In milliseconds since 1970."""
    # Not kept from the first import on: a whole process may live at another time of day (tests/month).
    return time.time_ns() // 1_000_000
