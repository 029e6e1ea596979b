"""The past can not be edited, by whatever statement."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

import gateway.tables
import metering.tables
import pricing.tables
from metering.database import RightMissing
from metering.months import Months
from tests.builders import NOON

APPEND_ONLY = [table for module in (metering.tables, pricing.tables, gateway.tables) for table in module.APPEND_ONLY]


def some(column, number):
    """A value that the column takes."""
    if column.name == "event_day":
        return f"2026-11-{number:02}"
    by_type = {int: number, str: str(number), bool: bool(number), dt.datetime: NOON + dt.timedelta(hours=number)}
    return by_type.get(_python_type(column), {})


def _python_type(column):
    name = type(column.type).__name__
    return {"Moment": dt.datetime, "Json": dict, "Text": str, "BigInteger": int, "Flag": bool}[name]


def row(table, number):
    return {column.name: some(column, number) for column in table.c}


@pytest.fixture(params=APPEND_ONLY, ids=lambda table: table.name)
async def guarded(request, database):
    """An append-only table that holds one row."""
    async with database.transaction() as connection:
        await connection.execute(insert(request.param), row(request.param, 1))
    return request.param


async def rows(database, table):
    async with database.reading() as connection:
        return (await connection.execute(select(table))).all()


async def refused(database, *statements):
    for statement in statements:
        with pytest.raises(IntegrityError, match="is append-only"):
            async with database.transaction() as connection:
                await connection.execute(statement)


async def test_a_row_can_not_be_changed_by_whoever_owns_the_database(database, owner, guarded):
    """Watches the trigger against UPDATE."""
    before = await rows(database, guarded)

    for column in guarded.c:
        await refused(owner, update(guarded).values({column.name: some(column, 2)}))

    assert await rows(database, guarded) == before


async def test_a_row_can_not_be_removed_by_whoever_owns_the_database(database, owner, guarded):
    """Watches the trigger against DELETE."""
    before = await rows(database, guarded)

    await refused(owner, delete(guarded), delete(guarded).where(guarded.c[guarded.c[0].name] == some(guarded.c[0], 1)))

    assert len(before) == 1
    assert await rows(database, guarded) == before


async def test_a_row_can_not_be_replaced(ledgers, database, owner, guarded):
    """Watches `recursive_triggers`: else SQLite removes what REPLACE replaces without asking the trigger."""
    before = await rows(database, guarded)
    names = ", ".join(f'"{column.name}"' for column in guarded.c)
    if ledgers.engine == "sqlite":
        ways = [f"{verb} INTO {guarded.name} ({names}) SELECT {names} FROM {guarded.name}" for verb in REPLACING]
    else:
        key = ", ".join(f'"{column.name}"' for column in guarded.primary_key)
        last = next(reversed(list(guarded.c))).name
        instead = f"ON CONFLICT ({key}) DO UPDATE SET {last} = excluded.{last}"
        ways = [f"INSERT INTO {guarded.name} ({names}) SELECT {names} FROM {guarded.name} {instead}"]

    await refused(owner, *map(text, ways))

    assert await rows(database, guarded) == before


REPLACING = ("INSERT OR REPLACE", "REPLACE")


async def test_a_further_row_can_be_added(database, guarded):
    async with database.transaction() as connection:
        await connection.execute(insert(guarded), row(guarded, 2))

    assert len(await rows(database, guarded)) == 2


# ---------------------------------------------------------------------------------------------------------------------
# In Postgres


@pytest.fixture(params=APPEND_ONLY, ids=lambda table: table.name)
async def in_postgres(request, postgres_ledgers):
    """An append-only table that holds one row: (table, ledger as the service sees it, as its owner does)."""
    async with postgres_ledgers.new() as database, postgres_ledgers.owned(database) as owner:
        async with database.transaction() as connection:
            await connection.execute(insert(request.param), row(request.param, 1))
        yield request.param, database, owner


async def test_a_table_can_not_be_emptied_by_whoever_owns_the_database(in_postgres):
    """Watches the trigger against TRUNCATE, which asks no trigger for rows."""
    table, database, owner = in_postgres

    await refused(owner, text(f"TRUNCATE {table.name}"), text(f"TRUNCATE {table.name} CASCADE"))

    assert len(await rows(database, table)) == 1


@pytest.mark.parametrize("name", ["usage_events", "charges"])
@pytest.mark.parametrize("month", ["2026_11", "2031_07"])
async def test_the_table_of_a_month_is_guarded_as_the_whole_is_whenever_it_was_made(postgres_ledgers, name, month):
    """Watches the months: made one by one, each brings its triggers along, and that against TRUNCATE not by itself."""
    table = next(table for table in APPEND_ONLY if table.name == name)
    day = f"{month}_07".replace("_", "-")
    async with postgres_ledgers.new() as database, postgres_ledgers.owned(database) as owner:
        await Months(database).ensure([day])
        async with database.transaction() as connection:
            await connection.execute(insert(table), row(table, 1) | {"event_day": day})

        part = f"{name}_{month}"
        await refused(
            owner,
            text(f"UPDATE {part} SET event_id = 'another'"),
            text(f"DELETE FROM {part}"),
            text(f"TRUNCATE {part}"),
        )

        assert len(await rows(database, table)) == 1


async def test_the_service_role_is_not_even_allowed_to_try(in_postgres):
    """Watches the grants, which are there if a trigger should ever be missing."""
    table, database, _ = in_postgres
    column = table.c[0].name

    for statement in (
        f"UPDATE {table.name} SET {column} = {column}",
        f"DELETE FROM {table.name}",
        f"TRUNCATE {table.name}",
        f"DROP TRIGGER {table.name}_no_update ON {table.name}",
        f"ALTER TABLE {table.name} DISABLE TRIGGER ALL",
        f"ALTER TABLE {table.name} ADD COLUMN more text",
        f"DROP TABLE {table.name}",
        f"CREATE INDEX ON {table.name} ({column})",
        f"CREATE TRIGGER mine AFTER INSERT ON {table.name} FOR EACH ROW EXECUTE FUNCTION refuse()",
    ):
        with pytest.raises(RightMissing):
            async with database.transaction() as connection:
                await connection.execute(text(statement))

    assert len(await rows(database, table)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (a int)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SELECT * FROM usage_events_2026_11",
        "INSERT INTO charges_2026_11 SELECT * FROM charges",
        "UPDATE alembic_version SET version_num = '0001'",
        "DELETE FROM tenants",
        "DELETE FROM rollups",
        "UPDATE installation SET value = 'another secret'",
        "ALTER FUNCTION make_month(text) SECURITY INVOKER",
        "DROP FUNCTION make_month(text)",
        "DROP FUNCTION refuse() CASCADE",
        "ALTER TABLE usage_events DETACH PARTITION usage_events_2026_11",
        "SET ROLE keeper",
        "SET session_replication_role = replica",
    ],
)
async def test_the_service_role_has_no_way_around(postgres_ledgers, statement):
    async with postgres_ledgers.new() as database:
        with pytest.raises(RightMissing):
            async with database.transaction() as connection:
                await connection.execute(text(statement))
