"""One process on SQLite is killed, at random and at named points, with 200 calls under way."""

from __future__ import annotations

import pytest

from tests.chaos import short
from tests.chaos.run import Variant

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("fsync", [False, True], ids=["flush", "fsync"])
async def test_whatever_moment_it_is_killed_at_what_clients_saw_is_in_the_ledger_once(tmp_path, fsync):
    await short.killed(tmp_path, Variant("sqlite", fsync), {})
