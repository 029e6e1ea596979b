"""Timers that fire together."""

from __future__ import annotations

import asyncio

import pytest

from gateway.ticks import until_tick_s


@pytest.fixture
def at(monkeypatch):
    """Sets the loop's clock."""
    return lambda time_s: monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: time_s)


@pytest.mark.parametrize(
    ("now_s", "wait_s"),
    [(100.0, 0.25), (100.05, 0.2), (100.2, 0.05), (100.24, 0.26), (100.2499, 0.2501), (100.2501, 0.2499)],
)
async def test_a_tick_is_a_multiple_of_its_interval_and_never_follows_another_at_once(at, now_s, wait_s):
    at(now_s)

    assert until_tick_s(0.25) == pytest.approx(wait_s)


async def test_intervals_that_divide_each_other_tick_together(at):
    at(12.34)

    assert until_tick_s(1.0) == pytest.approx(12.34 // 1 + 1 - 12.34)
    assert (12.34 + until_tick_s(0.25)) % 0.25 == pytest.approx(0)
