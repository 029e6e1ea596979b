"""A database is brought to this release's schema where that is safe, and left alone where it is not."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, text

from gateway import schema
from gateway.schema import HEAD, SchemaMismatch
from metering.database import DatabaseUnavailable
from metering.months import Months
from metering.tables import metadata
from tests.ledgers import execute
from tests.postgres import SERVICE

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 30


@pytest.fixture
async def owner_of_empty(ledgers, empty):
    async with ledgers.owned(empty) as owner:
        yield owner


async def tables(database):
    """By name, without those of single months."""
    async with database.reading() as connection:
        found = await connection.run_sync(lambda connection: inspect(connection).get_table_names())
    return sorted(name for name in found if name != "alembic_version" and not name[-1].isdigit())


async def revision(database):
    async with database.reading() as connection:
        return (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar()


async def downgrade(owner, revision):
    async with owner.transaction() as connection:
        await connection.run_sync(lambda connection: command.downgrade(schema.alembic_config(connection), revision))


async def test_an_empty_database_is_migrated(empty, owner_of_empty):
    await schema.prepare(empty, owner_of_empty)

    assert await revision(empty) == HEAD
    assert "usage_events" in await tables(empty)


async def test_a_database_of_this_releases_schema_is_left_as_it_is(database, owner):
    await execute(database, "INSERT INTO installation VALUES ('name', 'value')")

    await schema.prepare(database, owner)
    await schema.prepare(database)

    async with database.reading() as connection:
        assert (await connection.execute(text("SELECT * FROM installation"))).all() == [("name", "value")]


async def test_a_database_whose_every_migration_was_taken_back_counts_as_empty(database, owner):
    await downgrade(owner, "base")

    await schema.prepare(database, owner)

    assert await revision(database) == HEAD


@pytest.mark.parametrize("older", ["0001", "0002", "0004", "0006"])
async def test_an_older_schema_is_refused_by_the_command_that_upgrades_it(database, owner, older):
    """Watches that a server never migrates a ledger that is in use: the operator backs it up first."""
    await downgrade(owner, older)
    before = await tables(database)

    with pytest.raises(SchemaMismatch, match="run `tollkeeper db upgrade`") as refusal:
        await schema.prepare(database, owner)

    assert older in str(refusal.value)
    assert HEAD in str(refusal.value)
    assert (await revision(database), await tables(database)) == (older, before)


async def test_the_command_upgrades_an_older_schema_and_an_empty_database(database, owner, empty, owner_of_empty):
    await downgrade(owner, "0001")
    both = [(database, owner), (empty, owner_of_empty), (empty, owner_of_empty)]

    upgraded = [await schema.upgrade(*one) for one in both]

    assert upgraded == [HEAD, HEAD, HEAD]
    for one in (database, empty):
        await schema.prepare(one)
    assert await tables(database) == await tables(empty)


async def test_a_later_releases_schema_is_refused_and_nobody_is_told_to_upgrade(database, owner):
    """Watches the direction: an upgrade would look for a migration that this release does not have."""
    await execute(owner, "UPDATE alembic_version SET version_num = '9999'")

    for bring in (schema.prepare, schema.upgrade):
        with pytest.raises(SchemaMismatch, match="later release") as refusal:
            await bring(database, owner)
        assert "db upgrade" not in str(refusal.value)

    assert await revision(database) == "9999"


async def test_somebody_elses_database_is_not_touched(empty, owner_of_empty):
    """Watches that only an empty database is taken for a new one."""
    await execute(owner_of_empty, "CREATE TABLE customers (name TEXT)")

    for bring in (schema.prepare, schema.upgrade):
        with pytest.raises(SchemaMismatch, match="no ledger of this gateway's"):
            await bring(empty, owner_of_empty)

    assert await tables(empty) == ["customers"]


async def test_a_migration_that_fails_leaves_the_schema_that_was_there(database, owner):
    """Watches that all migrations of an upgrade are one transaction."""
    await downgrade(owner, "0001")
    await execute(owner, "CREATE TABLE charges (amount TEXT)")
    before = await tables(database)

    with pytest.raises((DatabaseUnavailable, SchemaMismatch), match="already exists"):
        await schema.upgrade(database, owner)

    assert (await revision(database), await tables(database)) == ("0001", before)


PREPARING = """
import asyncio, sys
from pathlib import Path
from gateway import schema
from metering.database_postgres import PostgresDatabase
from metering.database_sqlite import SqliteDatabase

async def prepare(where):
    database = PostgresDatabase(where) if where.startswith("postgres") else SqliteDatabase(Path(where))
    await database.open()
    await schema.prepare(database)
    await database.close()

asyncio.run(prepare(sys.argv[1]))
print("alembic" in sys.modules)
"""


async def test_a_database_that_is_up_to_date_is_recognised_without_alembic(ledgers, database, tmp_path):
    """Watches the start of every server but the first: importing Alembic would be half of it."""
    if ledgers.engine == "sqlite":
        where = shutil.copyfile(database.path, tmp_path / "ledger.db")
    else:
        where = ledgers.url(database)

    command = [sys.executable, "-c", PREPARING, where]
    ended = await asyncio.to_thread(
        subprocess.run, command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )

    assert ended.stdout == "False\n"


# ---------------------------------------------------------------------------------------------------------------------
# Two roles


async def granted(postgres_ledgers, database):
    """What the service role may do with each table."""
    question = (
        "SELECT table_name, string_agg(privilege_type, ' ' ORDER BY privilege_type) "
        f"FROM information_schema.table_privileges WHERE grantee = '{SERVICE}' GROUP BY 1"
    )
    name = database.name.split()[1]
    return dict(postgres_ledgers.server.execute(question, database=name))


async def test_the_service_role_may_do_what_the_product_does_and_no_more(postgres_ledgers):
    """Watches the grants, table by table: one too many is a past that can be edited."""
    async with postgres_ledgers.new() as database:
        found = await granted(postgres_ledgers, database)

    assert found.pop("alembic_version") == "SELECT"
    assert set(found) == set(metadata.tables)
    more = {name: verbs for name, verbs in found.items() if verbs != "INSERT SELECT"}
    assert more == {
        "admin_keys": "DELETE INSERT SELECT",
        "credentials": "DELETE INSERT SELECT",
        "integrations": "DELETE INSERT SELECT UPDATE",
        "collections": "DELETE INSERT SELECT UPDATE",
        "unattributed": "DELETE INSERT SELECT UPDATE",
        "reconciliations": "DELETE INSERT SELECT UPDATE",
        "reconciliation_differences": "DELETE INSERT SELECT",
        "gateway_keys": "INSERT SELECT UPDATE",
        "idempotent_answers": "DELETE INSERT SELECT",
        "idempotent_calls": "DELETE INSERT SELECT",
        "late_facts": "DELETE INSERT SELECT",
        "pending_events": "DELETE INSERT SELECT UPDATE",
        "rollups": "INSERT SELECT UPDATE",
        "spool_positions": "INSERT SELECT UPDATE",
        "tenants": "INSERT SELECT UPDATE",
    }


async def test_a_role_that_was_parted_from_the_owner_later_is_granted_what_it_needs_and_loses_what_it_does_not(
    postgres_ledgers,
):
    """Watches that an upgrade grants even where nothing is left to migrate."""
    async with postgres_ledgers.blank() as database, postgres_ledgers.owned(database) as owner:
        await schema.prepare(owner, owner)
        with pytest.raises(
            SchemaMismatch, match="permission denied for table alembic_version: run `tollkeeper db upgrade`"
        ):
            await schema.prepare(database, owner)
        await execute(owner, f"GRANT ALL ON usage_events TO {SERVICE}")

        await schema.upgrade(database, owner)
        await schema.prepare(database, owner)

        assert (await granted(postgres_ledgers, database))["usage_events"] == "INSERT SELECT"


async def test_one_role_may_be_owner_and_service_at_once(postgres_ledgers):
    async with postgres_ledgers.blank() as database, postgres_ledgers.owned(database) as owner:
        await schema.prepare(owner)
        await schema.prepare(owner)

        assert await revision(owner) == HEAD


async def test_a_role_that_may_not_make_tables_is_refused_in_words(postgres_ledgers):
    async with postgres_ledgers.blank() as database:
        with pytest.raises(
            SchemaMismatch, match="permission denied for schema public: the role of TOLLKEEPER_DATABASE"
        ):
            await schema.prepare(database)


async def test_servers_that_start_at_once_before_an_empty_database_migrate_it_once(postgres_ledgers):
    """Watches the lock: without it they make the same tables, and all but one fail."""
    async with postgres_ledgers.blank() as database:
        async with contextlib.AsyncExitStack() as stack:
            owners = [await stack.enter_async_context(postgres_ledgers.owned(database)) for _ in range(4)]
            await asyncio.gather(*(schema.prepare(database, owner) for owner in owners))

        assert await revision(database) == HEAD
        await Months(database).ensure(["2031-07-01"])
