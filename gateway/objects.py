"""Who made what on a shared account: what a tenant made through the gateway, it may read, change and delete."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

from sqlalchemy import select

from metering.database import Database
from metering.tables import usage_events

RECENT_MAX = 100_000
"""Objects remembered here until the ledger has them; the ledger is asked for all others."""


class Objects(Protocol):
    """Remembers which tenant made which object."""

    def made(self, tenant_id: str, source: str, object_id: str) -> None:
        """A call of this tenant's has made this object."""

    async def owns(self, tenant_id: str, source: str, object_id: str) -> bool:
        """True if this tenant made this object through the gateway. Raises DatabaseUnavailable."""


LOOK_S = 0.05
"""Between two questions after an object that another worker may just have made."""

BOOKED_S = 1.0
"""So long the ledger is given to have what another worker recorded; it takes it a few tenths of a second."""


class LedgerObjects:
    """What was made lately, and before that what the ledger says. Not on the path of a call that names no object."""

    def __init__(self, database: Database, patience_s: float) -> None:
        """`patience_s` is how long an object that the ledger does not have is asked for again; 0 where there is no other
        process that could have made it."""
        self._database = database
        self._patience_s = patience_s
        self._recent: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def made(self, tenant_id: str, source: str, object_id: str) -> None:
        self._recent[tenant_id, source, object_id] = None
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)

    async def owns(self, tenant_id: str, source: str, object_id: str) -> bool:
        if (tenant_id, source, object_id) in self._recent:
            return True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while not await self._in_ledger(tenant_id, source, object_id):
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(LOOK_S)
        return True

    async def _in_ledger(self, tenant_id: str, source: str, object_id: str) -> bool:
        question = (
            select(usage_events.c.event_id)
            .where(
                usage_events.c.tenant_id == tenant_id,
                usage_events.c.external_id == object_id,
                usage_events.c.source == source,
            )
            .limit(1)
        )
        async with self._database.reading() as connection:
            return (await connection.execute(question)).first() is not None
