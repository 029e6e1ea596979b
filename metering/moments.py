"""Moments as they are written: the day that something is billed on, and the text that the databases sort by. Pure.

Apart from the column types, which do not compile (hatch_build.py): this is asked for each event several times.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from typing import Final

EPOCH_DAY: Final = 719_163
"""The ordinal of 1970-01-01."""

DAY_MS: Final = 86_400_000


def day_of(milliseconds: int) -> str:
    """The UTC day of a moment in milliseconds since 1970, as `2026-11-20`."""
    day: str = _day(milliseconds // DAY_MS)
    return day


def iso(moment: dt.datetime) -> str:
    """An aware moment as `2026-11-20T12:00:00.000Z`: what SQLite stores and what the API shows. Sorts as it reads."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def iso_ms(milliseconds: int) -> str:
    """The same for milliseconds since 1970."""
    second: str = _iso_second(milliseconds // 1000)
    # Of four digits the last three: to fill up with zeros takes far longer.
    return f"{second}.{str(1000 + milliseconds % 1000)[1:]}Z"


@lru_cache(maxsize=64)
def _day(days: int) -> str:
    return dt.date.fromordinal(EPOCH_DAY + days).isoformat()


@lru_cache(maxsize=8)
def _iso_second(seconds: int) -> str:
    # Log lines and rows of one moment share all but their milliseconds.
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
