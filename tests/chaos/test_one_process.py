"""One process on SQLite is killed, at random and at named points, with 200 calls under way."""

from __future__ import annotations

import pytest

from tests.chaos import short
from tests.chaos.run import Variant

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("fsync", [False, True], ids=["flush", "fsync"])
async def test_whatever_moment_it_is_killed_at_what_clients_saw_is_in_the_ledger_once(tmp_path, fsync):
    """Guards, each seen to fail when taken out: the outcome that is written before the last byte leaves, not after it; a
    spool that is marked finished only once it is booked; how far it was read, which is kept in the transaction that books
    (fsync); intents that stay open until their outcome comes; the question whether a worker is gone, here with the answer
    that it never is; and the look at what SQLite's ledger has before anything is added (flush)."""
    await short.killed(tmp_path, Variant("sqlite", fsync), {})
