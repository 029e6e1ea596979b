"""Every wait has a bound, what fails is told apart, and a server that comes back is found again."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

from metering import database_postgres
from metering.database import DatabaseUnavailable, RightMissing
from metering.database_postgres import WRITERS_MAX, PostgresDatabase, named
from tests.ledgers import execute
from tests.postgres import OWNER, PASSWORD, URL_PASSWORD, Line

PATIENCE_S = 30
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def server(postgres_server):
    return postgres_server


@pytest.fixture
def name(server):
    """A database with a table `kept(number)`, by name."""
    name = server.create()
    server.execute("CREATE TABLE kept (number integer PRIMARY KEY)", database=name, role=OWNER)
    yield name
    server.drop(name)


@asynccontextmanager
async def opened(url, **options):
    database = PostgresDatabase(url, **options)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(server, name):
    async with opened(server.url(name, OWNER)) as database:
        yield database


async def keep(database, number):
    async with database.transaction() as connection:
        await connection.execute(text("INSERT INTO kept VALUES (:number)"), {"number": number})


async def kept(database):
    async with database.reading() as connection:
        return list((await connection.execute(text("SELECT number FROM kept ORDER BY number"))).scalars())


@pytest.fixture
async def line(server):
    async with Line(server.port) as line:
        yield line


# ---------------------------------------------------------------------------------------------------------------------
# Connecting


async def test_opening_connects_to_nothing(server, name):
    """Watches that a gateway whose ledger is away starts all the same, and that a process may fork after it was named."""
    async with opened(server.url(name, port=1)):
        pass


FORKING = """
import asyncio, os, sys
from sqlalchemy import text
from metering.database_postgres import PostgresDatabase

database = PostgresDatabase(sys.argv[1])
number = 0
children = []
while number < 2 and 0 not in children:
    children.append(os.fork())
    number += children[-1] != 0

async def use(number):
    await database.open()
    async with database.transaction() as connection:
        await connection.execute(text(f"INSERT INTO kept VALUES ({number})"))
    await database.close()

asyncio.run(use(number))
if 0 not in children:
    sys.exit(sum(os.waitpid(child, 0)[1] for child in children))
"""


async def test_processes_that_fork_after_it_was_named_each_use_it(server, name, database):
    command = [sys.executable, "-c", FORKING, server.url(name, OWNER)]
    await asyncio.to_thread(subprocess.run, command, cwd=REPOSITORY, timeout=PATIENCE_S, check=True)

    assert await kept(database) == [0, 1, 2]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"database": "none"}, 'database none at 127.0.0.1:{port}: database "none" does not exist'),
        ({"role": "nobody"}, 'database {name} at 127.0.0.1:{port}: password authentication failed for user "nobody"'),
        ({"port": 1}, "database {name} at 127.0.0.1:1 can not be reached: Connection refused"),
    ],
)
async def test_what_can_not_be_connected_to_is_named_with_the_reason_and_without_the_password(
    server, name, wrong, said
):
    url = server.url(**{"database": name} | wrong)
    async with opened(url) as database:
        with pytest.raises(DatabaseUnavailable) as refusal:
            await kept(database)

    shown = f"{refusal.value} {refusal.value!r} {database!r} {database}"
    assert str(refusal.value).startswith(said.format(name=name, port=server.port))
    assert PASSWORD not in shown
    assert URL_PASSWORD not in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hunter2@db.example:6432/ledger", "database ledger at db.example:6432"),
        ("postgres://db/a%20b?sslmode=require", "database a b at db"),
        ("postgresql://u:hunter2@/ledger?host=/run/postgresql", "database ledger at /run/postgresql"),
        ("postgresql://u:hunter2@[::1]/ledger", "database ledger at [::1]"),
    ],
)
def test_a_database_is_called_by_its_name_and_place(url, shown):
    assert named(url) == shown


async def test_a_server_that_is_too_old_is_refused(server, name, monkeypatch):
    monkeypatch.setattr(database_postgres, "VERSION_MIN", 99)
    async with opened(server.url(name)) as database:
        with pytest.raises(DatabaseUnavailable, match=r"is Postgres \d+, and 99 or newer is needed"):
            await kept(database)


async def test_a_socket_serves_as_well(server, name):
    url = f"postgresql://{OWNER}:{URL_PASSWORD}@/{name}?host={server.directory}&port={server.port}"
    async with opened(url) as database:
        assert await kept(database) == []


async def test_a_url_that_the_driver_does_not_understand_is_no_crash_and_shows_nothing(server, name):
    async with opened(server.url(name) + "?sslmode=hunter2") as database:
        with pytest.raises(DatabaseUnavailable) as refusal:
            await kept(database)

    assert PASSWORD not in str(refusal.value)


# ---------------------------------------------------------------------------------------------------------------------
# Bounds


async def test_transactions_run_beside_each_other_up_to_their_bound(server, database, name):
    together = asyncio.Barrier(WRITERS_MAX)

    async def begin(number):
        async with database.transaction() as connection:
            await connection.execute(text("INSERT INTO kept VALUES (:number)"), {"number": number})
            await together.wait()

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(begin(number) for number in range(WRITERS_MAX)))

    connected = server.execute(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'")
    assert await kept(database) == list(range(WRITERS_MAX))
    assert connected[0][0] == WRITERS_MAX


async def test_a_statement_that_takes_too_long_is_given_up_by_the_server(server, name):
    async with opened(server.url(name, OWNER), statement_s_max=1) as database:
        with pytest.raises(DatabaseUnavailable, match="statement timeout"):
            await execute(database, "SELECT pg_sleep(60)")
        assert await kept(database) == []


async def test_who_waits_too_long_for_a_lock_gives_up(server, name, database, monkeypatch):
    monkeypatch.setattr(database_postgres, "LOCK_S_MAX", 1)
    async with opened(server.url(name, OWNER)) as other, database.transaction() as connection:
        await connection.execute(text("LOCK TABLE kept"))

        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            await keep(other, 1)


@pytest.mark.parametrize("when", ["before", "within"])
async def test_a_server_that_has_fallen_silent_is_given_up_and_found_again(server, name, line, monkeypatch, when):
    """A05. Watches the bound that needs no server: without it, a line that is cut in silence holds a connection for ever."""
    monkeypatch.setattr(database_postgres, "ANSWER_S_GRACE", 0)
    async with opened(server.url(name, OWNER, port=line.listens_on), statement_s_max=1) as database:

        async def begin():
            async with database.transaction() as connection:
                line.silent = when == "before"
                await connection.execute(text("INSERT INTO kept VALUES (1)"))
                line.silent = True
                await connection.execute(text("INSERT INTO kept VALUES (2)"))

        await keep(database, 0)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(DatabaseUnavailable, match="does not answer"):
                await begin()
        line.silent = False

        await keep(database, 3)
        assert await kept(database) == [0, 3]


# ---------------------------------------------------------------------------------------------------------------------
# Coming and going


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
async def test_a_server_that_went_and_came_back_is_found_again(server, database, number):
    """Watches the look at a connection before it is used: those that the server has closed would each fail once."""
    await keep(database, 1)
    await kept(database)

    await asyncio.to_thread(server.stop, number)
    with pytest.raises(DatabaseUnavailable):
        await keep(database, 2)
    await asyncio.to_thread(server.start)

    await keep(database, 3)
    assert await kept(database) == [1, 3]


async def test_a_server_that_was_away_between_two_transactions_was_never_away(server, database):
    await keep(database, 1)
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)

    await keep(database, 2)

    assert await kept(database) == [1, 2]


async def test_a_transaction_whose_connection_is_cut_is_unavailable_and_leaves_nothing(server, database):
    async def begin():
        async with database.transaction() as connection:
            await connection.execute(text("INSERT INTO kept VALUES (1)"))
            pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar()
            server.execute(f"SELECT pg_terminate_backend({pid})")
            await connection.execute(text("INSERT INTO kept VALUES (2)"))

    with pytest.raises(DatabaseUnavailable):
        await begin()
    await keep(database, 3)

    assert await kept(database) == [3]


async def test_a_commit_whose_answer_never_came_is_unavailable_though_it_may_have_been_done(server, name, line):
    """What asks again must be such that twice is once: here, the row is there."""
    async with opened(server.url(name, OWNER, port=line.listens_on)) as database:
        line.breaks_after = b"COMMIT"
        with pytest.raises(DatabaseUnavailable):
            await keep(database, 1)
        line.breaks_after, line.broke = b"", False

        assert await kept(database) == [1]


# ---------------------------------------------------------------------------------------------------------------------
# Whose failure it is


LONG = "string_agg(md5(n::text), '') FROM generate_series(1, 300) AS n"
"""A text that is too long for an index."""


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("SELECT 1 / 0", DataError),
        ("SELECT 'x'::integer", DataError),
        ("INSERT INTO kept VALUES (99999999999)", DataError),
        ("INSERT INTO kept VALUES (NULL)", IntegrityError),
        ("SELECT FROM WHERE", ProgrammingError),
        ("CREATE TABLE kept (number integer)", ProgrammingError),
        ("SELECT nothing FROM kept", DatabaseUnavailable),
        ("SELECT * FROM nowhere", DatabaseUnavailable),
        ("SELECT * FROM nowhere.kept", DatabaseUnavailable),
        ("SELECT make_month('2026-11')", DatabaseUnavailable),
        (f"CREATE TABLE long (t text PRIMARY KEY); INSERT INTO long SELECT {LONG}", DataError),
        ("SELECT * FROM pg_authid", RightMissing),
        ("SELECT pg_terminate_backend(pg_backend_pid())", DatabaseUnavailable),
        ("SET LOCAL transaction_read_only = on; INSERT INTO kept VALUES (1)", DatabaseUnavailable),
    ],
)  # fmt: skip
async def test_a_failure_is_the_statements_the_values_or_the_databases(database, statement, fault):
    """Watches SQLSTATE: SQLAlchemy calls an overflow and a lost connection by the same name. What is not there, or may not
    be done, is the database's: were it the event's, a table that is gone for a minute would have all events set aside."""
    with pytest.raises(fault) as refusal:
        await execute(database, *statement.split("; "))

    assert isinstance(refusal.value, DatabaseUnavailable) == issubclass(fault, DatabaseUnavailable)


@pytest.mark.parametrize("value", [1 << 70, "one", b"1"])
async def test_a_value_that_the_driver_refuses_is_the_values_failure(database, value):
    with pytest.raises(DataError):
        async with database.transaction() as connection:
            await connection.exec_driver_sql("INSERT INTO kept VALUES ($1)", (value,))


async def test_what_the_database_says_is_told_without_the_rows_it_is_about(database):
    await keep(database, 4711)
    with pytest.raises(IntegrityError) as refusal:
        await keep(database, 4711)

    assert "4711" not in str(refusal.value)
