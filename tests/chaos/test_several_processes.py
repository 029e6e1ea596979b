"""Workers, back office and all of them together are killed, at random and at named points, with 200 calls under way."""

from __future__ import annotations

import pytest

from tests.chaos import short
from tests.chaos.run import Variant
from tests.walks.harness import on_postgres

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("fsync", [False, True], ids=["flush", "fsync"])
async def test_whichever_process_is_killed_what_clients_saw_is_in_the_ledger_once(tmp_path, postgres_server, fsync):
    """Guards, each seen to fail when taken out: the event's id, which is the call's however often it is booked, and
    ON CONFLICT in Postgres (both flush, where everything is booked again after a kill)."""
    await short.killed(tmp_path, Variant("postgres", fsync), on_postgres(postgres_server))
