"""Many rows at once in SQLite, where one connection writes: what is looked up first is still so when rows are added."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Table, text
from sqlalchemy.exc import DataError
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.columns import Json, as_json, from_json
from metering.facts import Fact
from metering.moments import iso_ms
from metering.tables import usage_events


async def insert(
    connection: AsyncConnection,
    table: Table,
    rows: Sequence[tuple[object, ...]],
    on_conflict: str = "",
    names: Sequence[str] = (),
) -> None:
    names = names or [column.name for column in table.columns]
    documents = [place for place, name in enumerate(names) if isinstance(table.columns[name].type, Json)]
    statement = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) {on_conflict}"  # noqa: S608
    try:
        await connection.exec_driver_sql(statement, [_texts(row, documents) for row in rows])
    except OverflowError as error:
        # The driver's own word for a number that no column holds.
        raise DataError(statement, None, error, hide_parameters=True) from error


async def insert_json(connection: AsyncConnection, table: Table, rows: str, on_conflict: str = "") -> None:
    names = [column.name for column in table.columns]
    values = [tuple(map(row.get, names)) for row in from_json(rows)]
    await insert(connection, table, values, on_conflict)


async def add(connection: AsyncConnection, table: Table, rows: Sequence[tuple[object, ...]]) -> set[int]:
    width = len(table.primary_key.columns)
    keys = [row[:width] for row in rows]
    there = await digests(connection, table, keys)
    if len(there) < len(rows):
        await insert(connection, table, [row for key, row in zip(keys, rows, strict=True) if key not in there])
    return {place for place, key in enumerate(keys) if key in there}


async def add_events(connection: AsyncConnection, facts: Sequence[Fact], recorded_at: str) -> set[int]:
    return await add(connection, usage_events, [_event_row(fact, recorded_at) for fact in facts])


async def digests(
    connection: AsyncConnection, table: Table, keys: Sequence[tuple[Any, ...]]
) -> dict[tuple[Any, ...], str]:
    found = await connection.execute(text(_digests(table)), {"keys": as_json(keys)})
    return {tuple(row[:-1]): row[-1] for row in found}


@cache
def _digests(table: Table) -> str:
    names = [column.name for column in table.primary_key]
    wanted = " AND ".join(f"t.{name} = k.value ->> {at}" for at, name in enumerate(names))
    listed = ", ".join(f"t.{name}" for name in names)
    return f"SELECT {listed}, t.digest FROM json_each(:keys) AS k JOIN {table.name} AS t ON {wanted}"  # noqa: S608


def _texts(row: tuple[object, ...], documents: Sequence[int]) -> tuple[object, ...]:
    """A row with its JSON as text."""
    if not documents:
        return row
    values = list(row)
    for place in documents:
        values[place] = as_json(values[place])
    return tuple(values)


def _event_row(fact: Fact, recorded_at: str) -> tuple[object, ...]:
    """The values of the ledger's columns, in their order."""
    event = fact.event
    return (
        *fact.key,
        event.source,
        event.event_type,
        fact.alike.channel,
        event.direction,
        event.endpoint,
        event.resource,
        event.external_id,
        fact.units,
        event.quantities,
        event.completeness.value,
        event.kind.value,
        event.corrects,
        event.category,
        event.tags,
        event.description,
        event.metadata,
        event.key_id,
        event.call_id,
        event.status,
        event.duration_ms,
        event.metered,
        iso_ms(event.occurred_at_ms),
        recorded_at,
        fact.digest,
    )
