"""Runs of the reconciliation: what this process is asked for does not wait for a look."""

from __future__ import annotations

import asyncio

from sqlalchemy import select

from gateway import reconciliations as module
from gateway.reconciler import NotReconciled, Wanted
from gateway.reconciliations import FAILED, Reconciliations
from gateway.tables import reconciliations
from metering.reconciliation import tolerance_of
from tests.builders import NOON

PATIENCE_S = 30


class Nobody:
    """Who has no figures of anybody."""

    figures = ()

    async def reconcile(self, *_):
        raise NotReconciled("nobody has a credential")


async def test_what_is_asked_for_is_begun_at_once(database, monkeypatch):
    """Guards the wake-up: what other hosts were asked for is looked for much less often."""
    monkeypatch.setattr(module, "SEARCH_S", 1e6)
    runs = Reconciliations(database, Nobody(), lambda: NOON, "0.5%", nightly=False)
    running = asyncio.create_task(runs.run())
    await asyncio.sleep(0.1)

    day = NOON.date()
    asked = await runs.ask(Wanted("twilio", None, day, day, tolerance_of("0.5%"), "test"), "0.5%")

    async with asyncio.timeout(PATIENCE_S):
        while not runs.done.runs[FAILED]:  # noqa: ASYNC110  What is looked at knows nothing of who looks.
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait((running,))
    async with database.reading() as connection:
        at = reconciliations.c
        reason = select(at.reason).where(at.reconciliation_id == asked)
        assert (await connection.execute(reason)).scalar() == "nobody has a credential"
