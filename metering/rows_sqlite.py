"""Many rows at once in SQLite, where one connection writes: what is looked up first is still so when rows are added."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Table, text
from sqlalchemy.exc import DataError
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.columns import as_json


async def insert(
    connection: AsyncConnection, table: Table, rows: Sequence[tuple[object, ...]], on_conflict: str = ""
) -> None:
    names = [column.name for column in table.columns]
    statement = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) {on_conflict}"  # noqa: S608
    try:
        await connection.exec_driver_sql(statement, list(rows))
    except OverflowError as error:
        # The driver's own word for a number that no column holds.
        raise DataError(statement, None, error, hide_parameters=True) from error


async def add(connection: AsyncConnection, table: Table, rows: Sequence[tuple[object, ...]]) -> set[tuple[Any, ...]]:
    width = len(table.primary_key.columns)
    by_key = {row[:width]: row for row in rows}
    for key in await digests(connection, table, list(by_key)):
        del by_key[key]
    if by_key:
        await insert(connection, table, list(by_key.values()))
    return set(by_key)


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
