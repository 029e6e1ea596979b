"""Worlds in which processes die, disks refuse and the ledger comes and goes: what was acknowledged is there, once."""

from __future__ import annotations

from collections import Counter

import pytest

WORLDS = 1_000
BATCH = 50


@pytest.mark.parametrize("first", range(0, WORLDS, BATCH))
def test_whatever_dies_and_refuses_every_call_is_in_the_ledger_once_as_its_worker_was_told(lived, first):
    """A20. Guards, each seen to fail without: the position that is moved with the events, the order of booking and finishing,
    the lock that says who lives and is let go last, what the disk refused and is carried into a new segment, the count that
    a write returns, the sign that a segment was begun, the segment of the oldest open call, keys that are taken once, and
    conflicts that are set aside."""
    lived(range(first, first + BATCH), power=False)


def test_the_same_seed_is_the_same_world(lived):
    """Guards the replay of a failure: nothing in a world may depend on real time, on real files' order or on an address."""
    once, again = (lived(range(900_000, 900_010), power=True) for _ in range(2))

    assert [world.digest for world in once] == [world.digest for world in again]
    assert len({world.digest for world in once}) == 10


def test_worlds_have_what_they_are_for(lived):
    """Guards the worlds themselves: one in which nothing is acknowledged, or nothing goes wrong, shows nothing."""
    worlds = lived(range(910_000, 910_040), power=True)

    states = Counter(state for world in worlds for state in world.states.values())
    refused = sum(call.refused_at > 0 for world in worlds for call in world.calls)
    lost = sum("power_fails" in step for world in worlds for step in world.trace)
    assert min(states["outcome"], states["unknown"], states["set aside"], refused, lost) > 5
