"""Fixtures of all tests: ledgers of this release's schema. A test that asks for one runs on SQLite and on Postgres."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from functools import partial

import hypothesis
import pytest

from tests import canaries, postgres
from tests.ledgers import Ledgers, PostgresLedgers, SqliteLedgers

# What is packed twice is the same, whatever second it is: tests that run side by side must have the same names.
gzip.compress = partial(gzip.compress, mtime=0)

# A machine that is busy is no defect: nothing fails for having taken long.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def nothing_secret_was_left_anywhere(tmp_path_factory) -> Iterator[None]:
    """After the last test, and after every other fixture's end: no gateway of these tests wrote a secret of its own down.

    A fixture, because what fails in its end is an error of a test, also where tests run in several processes.
    """
    yield
    assert canaries.leaks(canaries.WATCHED) + canaries.leaks_of_records(tmp_path_factory.getbasetemp()) == []


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A Postgres of these tests' own, started when the first of them needs it."""
    with postgres.running() as server:
        yield server
        there = {row["datname"] for row in server.execute("SELECT datname FROM pg_database")}
        for watched in canaries.WATCHED:
            # Some gateways are shown a database that they never make.
            if watched.database in there:
                watched.rows = canaries.rows_of(partial(server.execute, database=watched.database))


@pytest.fixture(scope="session")
def sqlite_ledgers(tmp_path_factory) -> SqliteLedgers:
    return SqliteLedgers(lambda: tmp_path_factory.mktemp("ledger"))


@pytest.fixture(scope="session")
def postgres_ledgers(postgres_server) -> PostgresLedgers:
    return PostgresLedgers(postgres_server)


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def ledgers(request) -> Ledgers:
    """Both engines, one after the other."""
    return request.getfixturevalue(f"{request.param}_ledgers")


@pytest.fixture
async def database(ledgers):
    """An empty ledger, open."""
    async with ledgers.reused() as database:
        yield database


@pytest.fixture
async def empty(ledgers):
    """A database without a table, open."""
    async with ledgers.blank() as database:
        yield database


@pytest.fixture
async def owner(ledgers, database):
    """The same ledger as who may change its schema opens it."""
    async with ledgers.owned(database) as owner:
        yield owner
