"""Moments as text: as the API shows them, sorting as they follow each other, each on its own day."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from metering.moments import day_of, iso, iso_ms
from tests.builders import NOON, NOON_MS

MOMENTS_MS = st.integers(0, 253_402_300_799_999)


def test_moments_are_written_as_the_api_shows_them():
    assert iso(NOON) == iso_ms(NOON_MS) == "2026-11-20T12:00:00.000Z"
    assert iso_ms(NOON_MS + 852) == "2026-11-20T12:00:00.852Z"


@given(MOMENTS_MS, MOMENTS_MS)
def test_moments_as_text_sort_as_moments_do(first, second):
    assert (iso_ms(first) < iso_ms(second)) == (first < second)


@given(MOMENTS_MS)
def test_both_ways_to_write_a_moment_agree_and_begin_with_its_day(moment_ms):
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=moment_ms)

    assert iso_ms(moment_ms) == iso(moment) == f"{moment:%Y-%m-%dT%H:%M:%S}.{moment_ms % 1000:03d}Z"
    assert iso_ms(moment_ms)[:10] == day_of(moment_ms) == moment.date().isoformat()
