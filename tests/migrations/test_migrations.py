"""The schema's history leads from nothing to the tables that the code has, and back."""

from __future__ import annotations

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from gateway import schema
from metering.database import Database
from metering.tables import metadata


@pytest.fixture
async def empty(tmp_path):
    """A database without a table."""
    database = Database(tmp_path / "ledger.db")
    await database.open()
    yield database
    await database.close()


def alembic(function, *arguments):
    """An Alembic command for `run_sync`."""
    return lambda connection: function(schema.alembic_config(connection), *arguments)


async def layout(database):
    """Every table, index and trigger, as it was made."""
    question = text(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version' ORDER BY name"
    )
    async with database.reading() as connection:
        return [tuple(row) for row in await connection.execute(question)]


async def revisions(database):
    """From the first to the newest."""
    async with database.transaction() as connection:
        return await connection.run_sync(
            lambda connection: [
                script.revision
                for script in ScriptDirectory.from_config(schema.alembic_config(connection)).walk_revisions()
            ][::-1]
        )


async def test_the_newest_migration_is_the_schema_that_this_release_is_for(empty):
    """Watches `schema.HEAD`, which is written down so that a database is recognised without Alembic."""
    known = await revisions(empty)

    assert known[-1] == schema.HEAD
    assert known == sorted(known)


async def test_the_migrations_make_the_tables_that_the_code_has(database):
    """Watches for a column or index that was added to a table and not to a migration, or the other way round."""
    async with database.transaction() as connection:
        await connection.run_sync(alembic(command.check))

    made = {name for name, sql in await layout(database) if sql.startswith("CREATE TABLE")}
    assert made == set(metadata.tables)


async def test_every_table_that_was_made_keeps_to_its_types(database):
    """Watches STRICT, which the comparison of tables and migrations does not see: without it a column takes anything."""
    tables = [(name, sql) for name, sql in await layout(database) if sql.startswith("CREATE TABLE")]

    assert [name for name, sql in tables if not sql.rstrip().endswith("STRICT")] == []


async def test_every_migration_goes_down_again_and_up_to_the_same(empty):
    for revision in await revisions(empty):
        before = await layout(empty)
        async with empty.transaction() as connection:
            await connection.run_sync(alembic(command.upgrade, revision))
        up = await layout(empty)
        async with empty.transaction() as connection:
            await connection.run_sync(alembic(command.downgrade, "-1"))
        down = await layout(empty)
        async with empty.transaction() as connection:
            await connection.run_sync(alembic(command.upgrade, revision))

        assert down == before, revision
        assert await layout(empty) == up != before, revision


async def test_from_the_newest_schema_to_nothing_and_back(database):
    newest = await layout(database)
    async with database.transaction() as connection:
        await connection.run_sync(alembic(command.downgrade, "base"))
    nothing = await layout(database)

    await schema.prepare(database)

    assert nothing == []
    assert await layout(database) == newest
