"""Appending charges, and adding to the daily sums."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.rows import Key, rows_in
from pricing.judgement import Rated
from pricing.rollups import DailySums
from pricing.tables import ROLLUP_COUNTS, ROLLUP_KEY, ROLLUP_SUMS, charges, rollups

_ADDED = (
    f"ON CONFLICT ({', '.join(ROLLUP_KEY)}) DO UPDATE SET "
    + ", ".join(f"{name} = rollups.{name} + excluded.{name}" for name in ROLLUP_COUNTS)
    + ", "
    # A sum stays null until something was added to it.
    + ", ".join(
        f"{name} = COALESCE(rollups.{name} + excluded.{name}, rollups.{name}, excluded.{name})" for name in ROLLUP_SUMS
    )
)


async def append(connection: AsyncConnection, rows: Sequence[str]) -> None:
    """Add charges, as :func:`pricing.judging.charge_row` writes them. Only of events that were new in this transaction."""
    if rows:
        await rows_in(connection).insert_json(connection, charges, f"[{','.join(rows)}]")


_KEY = (charges.c.tenant_id, charges.c.event_day, charges.c.event_id)


async def costs(connection: AsyncConnection, keys: Collection[Key]) -> dict[Key, int]:
    """What events cost us, in nanos, as far as that is known. Of those that were booked."""
    if not keys:
        return {}
    found = await connection.execute(select(*_KEY, charges.c.cost_nano).where(tuple_(*_KEY).in_(sorted(keys))))
    return {tuple(row[:3]): row.cost_nano or 0 for row in found}


async def judgements(connection: AsyncConnection, keys: Collection[Key]) -> dict[Key, Rated]:
    """What was said of events. Of those that were booked."""
    if not keys:
        return {}
    found = await connection.execute(select(charges).where(tuple_(*_KEY).in_(sorted(keys))))
    return {(row.tenant_id, row.event_day, row.event_id): msgspec.convert(_said(row), Rated) for row in found}


def _said(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Rated.__struct_fields__} | {"priced": bool(row.priced)}


async def add(connection: AsyncConnection, sums: DailySums) -> None:
    """Add to the daily sums. In the order of their keys, as every writer does."""
    columns = sums.columns()
    rows = sums.rows(columns)
    if rows:
        await rows_in(connection).insert(connection, rollups, rows, _ADDED, columns)
