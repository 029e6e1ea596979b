"""Who made what on a shared account: what a tenant made through the gateway, it may read, change and delete."""

from __future__ import annotations

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


class LedgerObjects:
    """What was made lately, and before that what the ledger says. Not on the path of a call that names no object."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recent: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def made(self, tenant_id: str, source: str, object_id: str) -> None:
        self._recent[tenant_id, source, object_id] = None
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)

    async def owns(self, tenant_id: str, source: str, object_id: str) -> bool:
        if (tenant_id, source, object_id) in self._recent:
            return True
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
