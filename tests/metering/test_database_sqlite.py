"""One process has the file, one connection writes it, and the disk has what was committed."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from metering.database import DatabaseInUse, DatabaseUnavailable
from metering.database_sqlite import SqliteDatabase
from metering.spool import LOCK_SUFFIX

PATIENCE_S = 30
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
async def database(tmp_path):
    """One with a table `kept(number)`."""
    database = SqliteDatabase(tmp_path / "ledger.db")
    await database.open()
    async with database.transaction() as connection:
        await connection.execute(text("CREATE TABLE kept (number INTEGER NOT NULL PRIMARY KEY) STRICT"))
    yield database
    await database.close()


async def keep(connection, number):
    await connection.execute(text("INSERT INTO kept VALUES (:number)"), {"number": number})


async def kept(database):
    async with database.reading() as connection:
        return list((await connection.execute(text("SELECT number FROM kept ORDER BY number"))).scalars())


# ---------------------------------------------------------------------------------------------------------------------
# One process


OPENING = """
import asyncio, sys
from pathlib import Path
from metering.database import DatabaseInUse
from metering.database_sqlite import SqliteDatabase
try:
    asyncio.run(SqliteDatabase(Path(sys.argv[1])).open())
    print("opened")
except DatabaseInUse as error:
    print(error)
"""


async def another_process_opens(path):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OPENING, path, cwd=REPOSITORY, stdout=subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return said.decode().strip()


async def test_a_second_process_is_refused_and_told_why(database):
    """Watches the lock: two processes that write one file can corrupt it."""
    said = await another_process_opens(database.path)

    assert said == f"another process uses {database.path}"


async def test_the_next_process_may_open_what_the_first_has_closed(tmp_path):
    path = tmp_path / "ledger.db"
    first = SqliteDatabase(path)
    await first.open()
    with pytest.raises(DatabaseInUse):
        await SqliteDatabase(path).open()
    await first.close()

    assert await another_process_opens(path) == "opened"


async def test_nobody_else_can_read_the_ledgers_files(database, tmp_path):
    async with database.transaction() as connection:
        await keep(connection, 1)

    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}

    assert set(modes.values()) == {"0o600"}
    assert {"ledger.db", f"ledger{LOCK_SUFFIX}"} <= set(modes)


@pytest.mark.parametrize("name", ["plain", "two words", "what?", "#1", "100%", "a%20b", "a&b=c", "ö", "file:x"])
async def test_a_ledger_is_where_it_was_told_to_be_however_the_directory_is_named(tmp_path, name):
    """Watches the path being a path: put into a URL as text, `?` and `#` would end it."""
    directory = tmp_path / name
    directory.mkdir()
    database = SqliteDatabase(directory / "ledger.db")
    await database.open()
    async with database.transaction() as connection:
        await connection.execute(text("CREATE TABLE kept (number INTEGER)"))
        await keep(connection, 7)

    found = await kept(database)
    await database.close()

    assert found == [7]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {path.name for path in directory.iterdir()} == {"ledger.db", "ledger.lock"}


# ---------------------------------------------------------------------------------------------------------------------
# Writing


async def test_transactions_at_once_come_one_after_the_other(database):
    """Watches the one connection that writes: each reads the last number and writes the next one, with others wanting to
    in between."""

    async def count_up():
        async with database.transaction() as connection:
            last = (await connection.execute(text("SELECT COALESCE(MAX(number), 0) FROM kept"))).scalar()
            await asyncio.sleep(0)
            await keep(connection, last + 1)

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(count_up() for _ in range(20)))

    assert await kept(database) == list(range(1, 21))


async def test_a_commit_is_on_the_disk_before_it_is_done(database):
    """Watches the two settings that a crash of the machine depends on. (That they work is SQLite's own claim.)"""
    async with database.transaction() as connection:
        mode = (await connection.execute(text("PRAGMA journal_mode"))).scalar()
        synchronous = (await connection.execute(text("PRAGMA synchronous"))).scalar()

    assert (mode, synchronous) == ("wal", 2)


async def test_a_database_that_can_not_be_written_now_is_unavailable_and_later_it_is_not(database):
    async with database.transaction() as connection:
        await connection.execute(text("PRAGMA busy_timeout = 10"))
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(DatabaseUnavailable, match="locked"):
        async with database.transaction() as connection:
            await keep(connection, 1)
    other.execute("ROLLBACK")
    other.close()
    async with database.transaction() as connection:
        await keep(connection, 2)

    assert await kept(database) == [2]


async def test_a_full_disk_is_unavailable_and_costs_only_what_did_not_fit(database):
    """Watches the rollback after a failure in the middle: SQLite may have kept the first rows of the transaction."""
    async with database.transaction() as connection:
        await keep(connection, 1)
        pages = (await connection.execute(text("PRAGMA page_count"))).scalar()
        await connection.execute(text(f"PRAGMA max_page_count = {pages + 2}"))

    async def fill():
        async with database.transaction() as connection:
            for number in range(2, 10_000):
                await keep(connection, number)

    with pytest.raises(DatabaseUnavailable, match="full"):
        await fill()
    async with database.transaction() as connection:
        await keep(connection, 10_000)

    assert await kept(database) == [1, 10_000]


async def test_a_file_that_is_no_database_is_unavailable(tmp_path):
    path = tmp_path / "ledger.db"
    path.write_bytes(b"something else altogether, and long enough to be one" * 100)
    database = SqliteDatabase(path)
    await database.open()

    with pytest.raises(DatabaseUnavailable, match="not a database"):
        async with database.transaction():
            pass

    await database.close()
