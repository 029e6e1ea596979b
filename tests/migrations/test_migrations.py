"""The schema's history leads from nothing to the tables that the code has, and back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text

from gateway import schema
from gateway.tables import tenants
from metering.database_sqlite import SqliteDatabase
from metering.months import Months
from metering.tables import metadata, usage_events
from pricing.catalogue import load_books
from pricing.ledger import book
from pricing.tables import rollups
from tests.builders import NOON, call_id, fact, usage_event


@pytest.fixture
async def blank(ledgers, empty):
    """A database without a table, as who may make one opens it."""
    async with ledgers.owned(empty) as owner:
        yield owner


def alembic(function, *arguments):
    """An Alembic command for `run_sync`."""
    return lambda connection: function(schema.alembic_config(connection), *arguments)


IN_SQLITE = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version' ORDER BY name"
IN_POSTGRES = """
SELECT 'table ' || c.relname, c.relkind::text || ' ' || COALESCE(pg_get_partkeydef(c.oid), '') || string_agg(
    a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || ' ' || COALESCE(l.collname, ''),
    ', ' ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND c.relname <> 'alembic_version' GROUP BY c.oid, c.relname, c.relkind
UNION ALL SELECT 'index ' || c.relname, pg_get_indexdef(c.oid) FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('i', 'I') AND NOT c.relispartition
  AND c.relname NOT LIKE 'alembic_version%'
UNION ALL SELECT 'constraint ' || conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conparentid = 0 AND contype <> 'n' AND conname NOT LIKE 'alembic_version%'
UNION ALL SELECT 'trigger ' || tgname, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
WHERE NOT tgisinternal AND NOT c.relispartition
UNION ALL SELECT 'function ' || proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
ORDER BY 1
"""


async def layout(database):
    """Every table, index, trigger and function, as it was made, but for the tables of single months."""
    async with database.reading() as connection:
        question = IN_SQLITE if connection.dialect.name == "sqlite" else IN_POSTGRES
        return [tuple(row) for row in await connection.execute(text(question.replace(":", r"\:")))]


async def revisions(database):
    """From the first to the newest."""
    async with database.transaction() as connection:
        return await connection.run_sync(
            lambda connection: [
                script.revision
                for script in ScriptDirectory.from_config(schema.alembic_config(connection)).walk_revisions()
            ][::-1]
        )


async def test_the_newest_migration_is_the_schema_that_this_release_is_for(blank):
    """Watches `schema.HEAD`, which is written down so that a database is recognised without Alembic."""
    known = await revisions(blank)

    assert known[-1] == schema.HEAD
    assert known == sorted(known)


async def test_the_migrations_make_the_tables_that_the_code_has(owner):
    """Watches for a column or index that was added to a table and not to a migration, or the other way round."""
    async with owner.transaction() as connection:
        await connection.run_sync(alembic(command.check))
        made = await connection.run_sync(lambda connection: inspect(connection).get_table_names())

    assert {name for name in made if not name[-1].isdigit()} - {"alembic_version"} == set(metadata.tables)


async def test_every_table_that_was_made_keeps_to_its_types(sqlite_ledgers):
    """Watches STRICT, which the comparison of tables and migrations does not see: without it a column takes anything."""
    async with sqlite_ledgers.new() as database:
        tables = [(name, sql) for name, sql in await layout(database) if sql.startswith("CREATE TABLE")]

    assert [name for name, sql in tables if not sql.rstrip().endswith("STRICT")] == []


async def test_every_migration_goes_down_again_and_up_to_the_same(blank):
    for revision in await revisions(blank):
        before = await layout(blank)
        async with blank.transaction() as connection:
            await connection.run_sync(alembic(command.upgrade, revision))
        up = await layout(blank)
        async with blank.transaction() as connection:
            await connection.run_sync(alembic(command.downgrade, "-1"))
        down = await layout(blank)
        async with blank.transaction() as connection:
            await connection.run_sync(alembic(command.upgrade, revision))

        assert down == before, revision
        assert await layout(blank) == up != before, revision


async def test_from_the_newest_schema_to_nothing_and_back(database, owner):
    newest = await layout(database)
    async with owner.transaction() as connection:
        await connection.run_sync(alembic(command.downgrade, "base"))
    nothing = await layout(database)

    await schema.prepare(database, owner)

    assert nothing == []
    assert await layout(database) == newest


async def test_a_tenant_s_calls_are_not_tagged_until_that_is_asked_for(database, owner):
    """Watches tenants that were there before the setting was, and those that the release before goes on making."""
    make = (
        "INSERT INTO tenants (tenant_id, name, status, currency, account_sid, created_at) "
        "VALUES ('{0}', '{0}', 'active', 'USD', '{0}', '2026-11-20T12:00:00.000Z')"
    )
    async with owner.transaction() as connection:
        await connection.run_sync(alembic(command.downgrade, "0006"))
        await connection.execute(text(make.format("before").replace(":", r"\:")))

    await schema.upgrade(database, owner)
    async with database.transaction() as connection:
        await connection.execute(text(make.format("beside").replace(":", r"\:")))
        found = (await connection.execute(select(tenants.c.tenant_id, tenants.c.request_tags))).all()

    assert sorted(map(tuple, found)) == [("before", "off"), ("beside", "off")]


async def test_every_text_in_postgres_compares_as_its_bytes(postgres_ledgers):
    """Watches the collation, which the comparison of tables and migrations does not see: without it lists of the two
    engines page differently, and an index may be read in another order than it was written in."""
    question = (
        "SELECT c.relname || '.' || a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "JOIN pg_collation l ON l.oid = a.attcollation WHERE c.relnamespace = 'public'::regnamespace "
        "AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND l.collname <> 'C' AND c.relname <> 'alembic_version'"
    )
    async with postgres_ledgers.new() as database, database.reading() as connection:
        assert (await connection.execute(text(question.replace(":", r"\:")))).all() == []


async def test_a_ledger_that_the_release_before_made_is_upgraded_with_all_it_holds(sqlite_ledgers, tmp_path):
    """Watches that nothing was put into a migration that ledgers in use have behind them."""
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as file:
        file.executescript((Path(__file__).parent / "ledger_0004.sql").read_text())
    async with sqlite_ledgers.new() as fresh:
        expected = await layout(fresh)
    database = SqliteDatabase(tmp_path / "ledger.db")
    await database.open()
    try:
        upgraded = await schema.upgrade(database)
        async with database.transaction() as connection:
            events = [usage_event(), usage_event(event_id=call_id(2))]
            again = await book(connection, [fact(event) for event in events], load_books(), NOON)
            rows = (await connection.execute(select(usage_events.c.metered, usage_events.c.occurred_at))).all()
            (sums,) = (await connection.execute(select(rollups.c.events))).all()
        now = await layout(database)
    finally:
        await database.close()

    assert upgraded == schema.HEAD
    assert (len(again.new), again.repeated, sums.events) == (1, 1, 2)
    assert rows == [(True, NOON), (True, NOON)]
    assert now == expected


async def test_a_further_table_that_is_kept_by_month_gets_the_months_that_the_others_have(postgres_ledgers):
    """Watches `make_months`: an event of an old month would have a place, and its charge none."""
    async with postgres_ledgers.new() as database, postgres_ledgers.owned(database) as owner:
        await Months(database).ensure(["2001-02-03"])
        async with owner.transaction() as connection:
            await connection.run_sync(alembic(command.downgrade, "0002"))
            await connection.run_sync(alembic(command.upgrade, "0003"))
            tables = await connection.run_sync(lambda connection: inspect(connection).get_table_names())

    assert {"usage_events_2001_02", "charges_2001_02"} <= set(tables)
