"""The past can not be edited, by whatever statement."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

import gateway.tables
import metering.tables
import pricing.tables
from tests.builders import NOON

APPEND_ONLY = [table for module in (metering.tables, pricing.tables, gateway.tables) for table in module.APPEND_ONLY]


def some(column, number):
    """A value that the column takes."""
    by_type = {int: number, str: str(number), bool: bool(number), dt.datetime: NOON + dt.timedelta(hours=number)}
    return by_type.get(_python_type(column), {})


def _python_type(column):
    name = type(column.type).__name__
    return {"Moment": dt.datetime, "Json": dict, "Text": str, "BigInteger": int, "Boolean": bool}[name]


@pytest.fixture(params=APPEND_ONLY, ids=lambda table: table.name)
async def guarded(request, database):
    """An append-only table that holds one row."""
    async with database.transaction() as connection:
        await connection.execute(insert(request.param), {column.name: some(column, 1) for column in request.param.c})
    return request.param


async def rows(database, table):
    async with database.reading() as connection:
        return (await connection.execute(select(table))).all()


async def refused(database, *statements):
    for statement in statements:
        with pytest.raises(IntegrityError, match="is append-only"):
            async with database.transaction() as connection:
                await connection.execute(statement)


async def test_a_row_can_not_be_changed(database, guarded):
    """Watches the trigger against UPDATE."""
    before = await rows(database, guarded)

    for column in guarded.c:
        await refused(database, update(guarded).values({column.name: some(column, 2)}))

    assert await rows(database, guarded) == before


async def test_a_row_can_not_be_removed(database, guarded):
    """Watches the trigger against DELETE."""
    before = await rows(database, guarded)

    await refused(
        database, delete(guarded), delete(guarded).where(guarded.c[guarded.c[0].name] == some(guarded.c[0], 1))
    )

    assert len(before) == 1
    assert await rows(database, guarded) == before


async def test_a_row_can_not_be_replaced(database, guarded):
    """Watches `recursive_triggers`: else SQLite removes what REPLACE replaces without asking the trigger."""
    before = await rows(database, guarded)
    names = ", ".join(f'"{column.name}"' for column in guarded.c)

    await refused(
        database,
        text(f"INSERT OR REPLACE INTO {guarded.name} ({names}) SELECT {names} FROM {guarded.name}"),
        text(f"REPLACE INTO {guarded.name} ({names}) SELECT {names} FROM {guarded.name}"),
    )

    assert await rows(database, guarded) == before


async def test_a_further_row_can_be_added(database, guarded):
    async with database.transaction() as connection:
        await connection.execute(insert(guarded), {column.name: some(column, 2) for column in guarded.c})

    assert len(await rows(database, guarded)) == 2
