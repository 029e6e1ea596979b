"""Appending charges to SQLite, and adding to the daily sums there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.usage import UsageEvent
from pricing.rating import Rated
from pricing.rollups import Key, Sums
from pricing.tables import ROLLUP_COUNTS, ROLLUP_KEY, ROLLUP_SUMS, charges, rollups

_INSERT = f"INSERT INTO charges ({', '.join(c.name for c in charges.columns)}) VALUES ({', '.join('?' * 12)})"  # noqa: S608
_ADD = (
    f"INSERT INTO rollups ({', '.join(column.name for column in rollups.columns)}) "  # noqa: S608
    f"VALUES ({', '.join('?' * len(rollups.columns))}) ON CONFLICT ({', '.join(ROLLUP_KEY)}) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in ROLLUP_COUNTS)
    + ", "
    # A sum stays null until something was added to it.
    + ", ".join(f"{name} = COALESCE({name} + excluded.{name}, {name}, excluded.{name})" for name in ROLLUP_SUMS)
)

_json = msgspec.json.Encoder().encode


async def append(connection: AsyncConnection, judged: Sequence[tuple[UsageEvent, Rated]]) -> None:
    """Add the charge of each event. Only for events that were new to the ledger in this transaction."""
    await connection.exec_driver_sql(
        _INSERT,
        [
            (
                event.tenant_id,
                event.event_day,
                event.event_id,
                int(rated.priced),
                rated.currency,
                rated.charge_nano,
                rated.credits,
                rated.cost_currency,
                rated.cost_nano,
                rated.price_book,
                rated.cost_book,
                _json(rated.lines).decode(),
            )
            for event, rated in judged
        ],
    )


async def add(connection: AsyncConnection, folded: Mapping[Key, Sums]) -> None:
    """Add to the daily sums. In the order of their keys, as every writer does."""
    await connection.exec_driver_sql(_ADD, [(*key, *folded[key]) for key in sorted(folded)])
