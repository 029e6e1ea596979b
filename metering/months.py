"""The months that the ledger has a place for. In Postgres every month of events and charges is a table of its own.

The tables of the months to come are made ahead, and that of any other month when the first fact of it is to be booked.
They are made by a function that belongs to the database's owner: the role that books owns no table and can make none.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.database import Database
from metering.tables import usage_events

AHEAD = 3
"""So many months after this one are made ahead. A server that is not started for longer makes them when they come."""

_TABLES = text(
    "SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid "
    "WHERE i.inhparent = CAST(:table AS regclass)"
).bindparams(table=usage_events.name)
_MAKE = text("SELECT make_month(:month)")


class Months:
    """Makes the months that are missing, each once. In SQLite none can be."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._there: set[str] = set()

    async def ensure(self, days: Iterable[str]) -> None:
        """Make the months of these days (`2026-11-20`), in a transaction that is over before they are booked in another.

        Raises DatabaseUnavailable.
        """
        wanted = {day[:7] for day in days}
        if wanted <= self._there:
            return
        async with self._database.reading() as connection:
            self._there |= wanted if connection.dialect.name == "sqlite" else await _there(connection)
        if missing := sorted(wanted - self._there):
            async with self._database.transaction() as connection:
                for month in missing:
                    await connection.execute(_MAKE, {"month": month})
            self._there |= wanted

    async def ensure_ahead(self, now: dt.datetime) -> None:
        """Make this month and those that come next. Raises DatabaseUnavailable."""
        await self.ensure(ahead(now))

    def forget(self) -> None:
        """Look again at the next booking: somebody may have taken a month away."""
        self._there.clear()


async def _there(connection: AsyncConnection) -> set[str]:
    names = (await connection.execute(_TABLES)).scalars()
    return {name.removeprefix(f"{usage_events.name}_").replace("_", "-") for name in names}


def ahead(now: dt.datetime) -> list[str]:
    """This month and those that come next: `2026-11`, `2026-12`, …"""
    first = now.year * 12 + now.month - 1
    return [f"{month // 12:04}-{month % 12 + 1:02}" for month in range(first, first + AHEAD + 1)]
