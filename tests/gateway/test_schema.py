"""A database is brought to this release's schema where that is safe, and left alone where it is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text

from gateway import schema
from gateway.schema import HEAD, SchemaMismatch
from metering.database import Database, DatabaseUnavailable

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 30


@pytest.fixture
async def empty(tmp_path):
    """A database without a table."""
    database = Database(tmp_path / "empty.db")
    await database.open()
    yield database
    await database.close()


async def execute(database, *statements):
    async with database.transaction() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def tables(database):
    question = text("SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'alembic_version' ORDER BY name")
    async with database.reading() as connection:
        return list((await connection.execute(question)).scalars())


async def revision(database):
    async with database.reading() as connection:
        return (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar()


async def downgrade(database, revision):
    async with database.transaction() as connection:
        await connection.run_sync(lambda connection: command.downgrade(schema.alembic_config(connection), revision))


async def test_an_empty_database_is_migrated(empty):
    await schema.prepare(empty)

    assert await revision(empty) == HEAD
    assert "usage_events" in await tables(empty)


async def test_a_database_of_this_releases_schema_is_left_as_it_is(database):
    await execute(database, "INSERT INTO installation VALUES ('name', 'value')")

    await schema.prepare(database)
    await schema.prepare(database)

    async with database.reading() as connection:
        assert (await connection.execute(text("SELECT * FROM installation"))).all() == [("name", "value")]


async def test_a_database_whose_every_migration_was_taken_back_counts_as_empty(database):
    await downgrade(database, "base")

    await schema.prepare(database)

    assert await revision(database) == HEAD


@pytest.mark.parametrize("older", ["0001", "0002"])
async def test_an_older_schema_is_refused_by_the_command_that_upgrades_it(database, older):
    """Watches that a server never migrates a ledger that is in use: the operator backs it up first."""
    await downgrade(database, older)
    before = await tables(database)

    with pytest.raises(SchemaMismatch, match="run `tollkeeper db upgrade`") as refusal:
        await schema.prepare(database)

    assert older in str(refusal.value)
    assert HEAD in str(refusal.value)
    assert (await revision(database), await tables(database)) == (older, before)


async def test_the_command_upgrades_an_older_schema_and_an_empty_database(database, empty):
    await downgrade(database, "0001")

    upgraded = [await schema.upgrade(database), await schema.upgrade(empty), await schema.upgrade(empty)]

    assert upgraded == [HEAD, HEAD, HEAD]
    for one in (database, empty):
        await schema.prepare(one)
    assert await tables(database) == await tables(empty)


async def test_a_later_releases_schema_is_refused_and_nobody_is_told_to_upgrade(database):
    """Watches the direction: an upgrade would look for a migration that this release does not have."""
    await execute(database, "UPDATE alembic_version SET version_num = '9999'")

    for bring in (schema.prepare, schema.upgrade):
        with pytest.raises(SchemaMismatch, match="later release") as refusal:
            await bring(database)
        assert "db upgrade" not in str(refusal.value)

    assert await revision(database) == "9999"


async def test_somebody_elses_database_is_not_touched(empty):
    """Watches that only an empty database is taken for a new one."""
    await execute(empty, "CREATE TABLE customers (name TEXT)")

    for bring in (schema.prepare, schema.upgrade):
        with pytest.raises(SchemaMismatch, match="no ledger of this gateway's"):
            await bring(empty)

    assert await tables(empty) == ["customers"]


async def test_a_migration_that_fails_leaves_the_schema_that_was_there(database):
    """Watches that all migrations of an upgrade are one transaction."""
    await downgrade(database, "0001")
    await execute(database, "CREATE TABLE charges (amount TEXT)")
    before = await tables(database)

    with pytest.raises(DatabaseUnavailable, match="charges already exists"):
        await schema.upgrade(database)

    assert (await revision(database), await tables(database)) == ("0001", before)


PREPARING = """
import asyncio, sys
from pathlib import Path
from gateway import schema
from metering.database import Database

async def prepare():
    database = Database(Path(sys.argv[1]))
    await database.open()
    await schema.prepare(database)
    await database.close()

asyncio.run(prepare())
print("alembic" in sys.modules)
"""


def test_a_database_that_is_up_to_date_is_recognised_without_alembic(migrated, tmp_path):
    """Watches the start of every server but the first: importing Alembic would be half of it."""
    path = tmp_path / "ledger.db"
    shutil.copyfile(migrated, path)

    command = [sys.executable, "-c", PREPARING, path]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S, check=True)

    assert ended.stdout == "False\n"
