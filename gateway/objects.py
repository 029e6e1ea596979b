"""Who made what on a shared account: what a tenant made through the gateway, it may read, change and delete."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

from sqlalchemy import select

from metering.database import Database
from metering.tables import usage_events

RECENT_MAX = 20_000
"""Objects remembered here until the ledger has them; the ledger is asked for all others."""


class Objects(Protocol):
    """Remembers which tenant made which object."""

    def made(self, tenant_id: str, source: str, object_id: str) -> None:
        """A call of this tenant's has made this object."""

    async def owns(self, tenant_id: str, source: str, object_id: str) -> bool:
        """True if this tenant made this object through the gateway. Raises DatabaseUnavailable."""


LOOK_S = 0.05
"""Before the second question after an object that another worker may just have made; each further wait is twice as long."""

WAITING_MAX = 32
"""So many calls of a worker wait for objects at once; further ones get what the ledger says right away. Whoever asks for
what is not there costs no more than that."""

BOOKED_S = 3.0
"""So long the ledger is given to have what another worker recorded. It takes it a few tenths of a second, and longer where
the back office, which steps behind the workers, gets no processor."""


class LedgerObjects:
    """What was made lately, and before that what the ledger says. Not on the path of a call that names no object."""

    def __init__(self, database: Database, patience_s: float) -> None:
        """`patience_s` is how long an object that the ledger does not have is asked for again; 0 where there is no other
        process that could have made it."""
        self._database = database
        self._patience_s = patience_s
        self._waiting = 0
        self._recent: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def made(self, tenant_id: str, source: str, object_id: str) -> None:
        self._recent[tenant_id, source, object_id] = None
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)

    async def owns(self, tenant_id: str, source: str, object_id: str) -> bool:
        if (tenant_id, source, object_id) in self._recent:
            return True
        if await self._in_ledger(tenant_id, source, object_id):
            return True
        if self._waiting >= WAITING_MAX:
            return False
        self._waiting += 1
        try:
            waited_s, look_s = 0.0, LOOK_S
            while waited_s < self._patience_s:
                await asyncio.sleep(look_s)
                if await self._in_ledger(tenant_id, source, object_id):
                    return True
                waited_s, look_s = waited_s + look_s, look_s * 2
            return False
        finally:
            self._waiting -= 1

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
