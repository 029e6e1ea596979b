"""Fixtures of all tests: ledgers of this release's schema. A test that asks for one runs on SQLite and on Postgres."""

from __future__ import annotations

import gc
import gzip
import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import hypothesis
import pytest

from tests import canaries, postgres
from tests.ledgers import Ledgers, PostgresLedgers, SqliteLedgers

TESTS = Path(__file__).parent

# What is packed twice is the same, whatever second it is: tests that run side by side must have the same names.
gzip.compress = partial(gzip.compress, mtime=0)

# A machine that is busy is no defect: nothing fails for having taken long.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


LONG = ("chaos", "month", "simulation", "outages", "walks", "surface", "edge")
"""Folders of files that have few tests and take long, the longest first."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Twice as many as there are processors: who starts a gateway waits for it, and for what it does at intervals."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where files are handed out to several processes, begin with those that take longest: nobody waits for the last one.

    pytest-randomly has shuffled them by now, and what is alike stays as it was shuffled.
    """
    if not hasattr(config, "workerinput"):
        return
    tests = Counter(item.path for item in items)

    def begins(item: pytest.Item) -> tuple[int, int]:
        folder = item.path.relative_to(TESTS).parts[0]
        return LONG.index(folder) if folder in LONG else len(LONG), -tests[item.path]

    items.sort(key=begins)


def pytest_collection_finish() -> None:
    """What has been collected stays until the end: who looks for garbage need not look through it."""
    gc.collect()
    gc.freeze()


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
        # Some gateways are shown a database that they never make, and some are started again and again on the same one.
        shown = there & {watched.database for watched in canaries.WATCHED}
        rows = {name: canaries.rows_of(partial(server.execute, database=name)) for name in shown}
        for watched in canaries.WATCHED:
            watched.rows = rows.get(watched.database, b"")


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
