"""A transaction is whole or was never there, who reads sees one state, and a failure says whose it is. On either engine."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import DataError, IntegrityError

from metering import database_postgres, database_sqlite
from metering.database import DatabaseUnavailable
from metering.database_postgres import PostgresDatabase
from metering.database_sqlite import SqliteDatabase
from tests.ledgers import execute

PATIENCE_S = 30


@pytest.fixture
async def database(ledgers, empty):
    """One with a table `kept(number)`."""
    async with ledgers.owned(empty) as database:
        strict = "STRICT" if ledgers.engine == "sqlite" else ""
        await execute(database, f"CREATE TABLE kept (number INTEGER NOT NULL PRIMARY KEY) {strict}")
        yield database


@pytest.fixture
def another(ledgers, database, tmp_path):
    """A database of the same engine that is not open."""
    if ledgers.engine == "sqlite":
        return SqliteDatabase(tmp_path / "another.db")
    return PostgresDatabase(ledgers.url(database))


async def keep(connection, number):
    await connection.execute(text("INSERT INTO kept VALUES (:number)"), {"number": number})


async def kept(database):
    async with database.reading() as connection:
        return list((await connection.execute(text("SELECT number FROM kept ORDER BY number"))).scalars())


# ---------------------------------------------------------------------------------------------------------------------
# Writing


class Interrupted(Exception):
    pass


async def test_a_transaction_that_ends_well_is_kept(database):
    async with database.transaction() as connection:
        await keep(connection, 1)
        await keep(connection, 2)

    assert await kept(database) == [1, 2]


async def test_a_transaction_that_is_interrupted_leaves_nothing(database):
    """Watches the rollback."""

    async def begin():
        async with database.transaction() as connection:
            await keep(connection, 1)
            raise Interrupted

    with pytest.raises(Interrupted):
        await begin()
    async with database.transaction() as connection:
        await keep(connection, 2)

    assert await kept(database) == [2]


async def test_a_transaction_that_is_cancelled_leaves_nothing_and_lets_the_next_begin(database):
    begun = asyncio.Event()

    async def begin():
        async with database.transaction() as connection:
            await keep(connection, 1)
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(begin())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(PATIENCE_S), database.transaction() as connection:
        await keep(connection, 2)

    assert await kept(database) == [2]


async def test_a_change_of_the_schema_is_part_of_its_transaction(database):
    """Watches SQLite's explicit BEGIN: the driver's own transactions end at a change of the schema, and half stays."""

    async def begin():
        async with database.transaction() as connection:
            await keep(connection, 1)
            await connection.execute(text("CREATE TABLE another (number INTEGER)"))
            await keep(connection, 2)
            raise Interrupted

    with pytest.raises(Interrupted):
        await begin()

    async with database.reading() as connection:
        tables = await connection.run_sync(lambda connection: inspect(connection).get_table_names())
    assert tables == ["kept"]
    assert await kept(database) == []


# ---------------------------------------------------------------------------------------------------------------------
# Reading


@pytest.mark.parametrize(
    "statement", ["INSERT INTO kept VALUES (1)", "CREATE TABLE more (number INTEGER)", "DROP TABLE kept"]
)
async def test_who_reads_can_not_write(database, statement):
    """Watches the read-only connections, and the read-only transactions of Postgres."""

    async def write():
        async with database.reading() as connection:
            await connection.execute(text(statement))
            await connection.commit()

    with pytest.raises(DatabaseUnavailable, match=r"read-?only"):
        await write()

    assert await kept(database) == []


async def test_who_reads_leaves_nothing_behind_for_who_writes_next(database):
    for number in range(10):
        assert await kept(database) == list(range(number))
        async with database.transaction() as connection:
            await keep(connection, number)


async def test_who_reads_sees_one_state_while_others_write(database):
    """Watches the isolation of readers in Postgres, whose statements would each see a state of their own."""
    async with database.transaction() as connection:
        await keep(connection, 1)

    async with database.reading() as reading:
        before = (await reading.execute(text("SELECT COUNT(*) FROM kept"))).scalar()
        async with database.transaction() as connection:
            await keep(connection, 2)
        during = (await reading.execute(text("SELECT COUNT(*) FROM kept"))).scalar()

    assert (before, during, len(await kept(database))) == (1, 1, 2)


async def test_who_reads_does_not_see_what_is_not_committed(database):
    async with database.transaction() as connection:
        await keep(connection, 1)
        found = await kept(database)

    assert found == []


@pytest.mark.parametrize("wanted", ["reading", "transaction"])
async def test_who_waits_too_long_for_a_connection_is_told_that_the_database_is_unavailable(
    ledgers, another, monkeypatch, wanted
):
    """Watches the bound on connections, and that reaching it is no other failure than a database that does not answer."""
    module = database_sqlite if ledgers.engine == "sqlite" else database_postgres
    monkeypatch.setattr(module, "WAIT_S_MAX", 0.05)
    connections = module.READERS_MAX if wanted == "reading" else getattr(module, "WRITERS_MAX", 1)
    await another.open()
    want = getattr(another, wanted)
    async with AsyncExitStack() as stack:
        for _ in range(connections):
            await stack.enter_async_context(want())

        with pytest.raises(DatabaseUnavailable, match="no connection became free"):
            async with want():
                pass

    async with want() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    await another.close()


async def test_readers_do_not_keep_a_writer_waiting(another):
    """Watches that they have connections of their own."""
    await another.open()
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(another.reading())
        async with asyncio.timeout(PATIENCE_S), another.transaction() as connection:
            assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    await another.close()


# ---------------------------------------------------------------------------------------------------------------------
# Whose failure it is


@pytest.mark.parametrize(
    ("statements", "fault"),
    [
        (["INSERT INTO kept VALUES (1)", "INSERT INTO kept VALUES (1)"], IntegrityError),
        (["INSERT INTO kept VALUES ('one')"], (DataError, IntegrityError)),
    ],
)
async def test_what_no_later_try_will_change_is_not_called_unavailable(database, statements, fault):
    """Watches the difference: a value that a column does not take would otherwise be tried again for ever."""
    with pytest.raises(fault):
        await execute(database, *statements)

    assert await kept(database) == []


async def test_an_error_does_not_repeat_the_values_it_is_about(database):
    """Watches `hide_parameters`: errors are logged, and values may be anything."""
    async with database.transaction() as connection:
        await keep(connection, 4711)

    with pytest.raises(IntegrityError) as refusal:
        async with database.transaction() as connection:
            await keep(connection, 4711)

    assert "4711" not in str(refusal.value)
