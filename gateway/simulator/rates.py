"""How often each credential may call in a second, and how often it did. Pure.

A second is any second, and not that of a clock: what was asked for within the last one counts.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import msgspec

SECOND = 1.0


class Spell(NamedTuple):
    """What one credential has done."""

    calls: int
    refused: int
    peak: int
    """The most that was asked for within a second and not refused."""


class Rate(msgspec.Struct):
    """One credential."""

    recent: deque[float]
    calls: int = 0
    refused: int = 0
    peak: int = 0


class Rates:
    """All of them. Without a limit nothing is refused, and everything is counted."""

    def __init__(self, calls_per_s_max: int | None) -> None:
        self._max = calls_per_s_max
        self._rates: dict[str, Rate] = {}

    def admits(self, caller: str, now: float) -> bool:
        """Count a call, and say whether it may go on; one that may not does not count for the next."""
        rate = self._rates.setdefault(caller, Rate(deque()))
        while rate.recent and rate.recent[0] <= now - SECOND:
            rate.recent.popleft()
        rate.calls += 1
        if self._max is not None and len(rate.recent) >= self._max:
            rate.refused += 1
            return False
        rate.recent.append(now)
        rate.peak = max(rate.peak, len(rate.recent))
        return True

    def told(self) -> dict[str, Spell]:
        return {caller: Spell(rate.calls, rate.refused, rate.peak) for caller, rate in self._rates.items()}
