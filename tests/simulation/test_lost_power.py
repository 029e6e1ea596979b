"""Worlds in which the power fails too: of what a disk was asked to sync nothing is lost, and of the rest nothing is doubled."""

from __future__ import annotations

import pytest

WORLDS = 1_000
BATCH = 50


@pytest.mark.parametrize("first", range(0, WORLDS, BATCH))
def test_what_was_said_to_be_durable_is_in_the_ledger_once_whatever_the_disk_forgets(lived, first):
    """A20, with A14. Guards, each seen to fail without: that a file whose sync has failed is not synced again, what is not yet
    synced and is carried into a new segment, the sync of a segment before it has its name and of the directory after, and
    waiting for the disk."""
    lived(range(first, first + BATCH), power=True)
