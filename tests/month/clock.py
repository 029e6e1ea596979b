"""A clock for whole processes that runs faster than the day: a month goes by in a minute or two.

Only the time of day is another. What waits (timeouts, intervals) waits as long as ever, by the clock that nobody sets.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import NamedTuple

_real = time.time

AFTERWARDS = 60


class Clock(NamedTuple):
    """When it began, by the real time of day and by its own, how many of its seconds are one, and until when by its own:
    from then on a second is a minute, so that nothing grows old while it is looked at."""

    began_s: float
    from_s: float
    speed: float
    until_s: float

    @classmethod
    def beginning(cls, at: dt.datetime, speed: float, until: dt.datetime) -> Clock:
        return cls(_real(), at.timestamp(), speed, until.timestamp())

    @classmethod
    def read(cls, text: str) -> Clock:
        """As `str` has written it."""
        return cls(*map(float, text.split(":")))

    def __str__(self) -> str:
        return ":".join(map(repr, self))

    def time(self) -> float:
        time_s = self.from_s + (_real() - self.began_s) * self.speed
        return time_s if time_s < self.until_s else self.until_s + (time_s - self.until_s) / self.speed * AFTERWARDS

    def time_ns(self) -> int:
        return int(self.time() * 1_000_000_000)

    def now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.time(), dt.UTC)

    def rule(self) -> None:
        """Be the time of day of this process, and of those that it forks."""
        time.time = self.time
        time.time_ns = self.time_ns
