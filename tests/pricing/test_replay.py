"""Writers that book the same events over and over, at once and in any order, leave what one leaves that books them once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from metering.tables import dedupe, quarantine, usage_events
from pricing.ledger import book
from pricing.tables import charges, rollups
from tests.builders import NOON
from tests.forms import form
from tests.pricing.replays import batches, facts, replay

pytestmark = pytest.mark.timeout(form(300, 3600))

EVENTS = form(5_000, 100_000)
TIMES = 5
WRITERS = 8
PROCESSES = 2

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
async def expected(ledgers, books):
    """What the ledger holds after every event was booked once, in order."""
    async with ledgers.new() as alone:
        for batch in batches(facts(EVENTS), random.Random(0)):
            async with alone.transaction() as connection:
                await book(connection, batch, books, NOON)
        return await hashes(alone)


async def hashes(database):
    """Tells the contents of tables from others."""
    found = {}
    for table in (usage_events, charges, rollups, dedupe, quarantine):
        async with database.reading() as connection:
            rows = (await connection.execute(select(table).order_by(*table.primary_key.columns))).all()
        found[table.name] = len(rows), hashlib.sha256(repr(rows).encode()).hexdigest()
    return found


@pytest.mark.parametrize("ledgers", ["postgres"], indirect=True)
async def test_eight_writers_in_two_processes_leave_what_one_leaves_and_never_deadlock(ledgers, expected):
    """A06 in full. Guards the one order in which keys are taken, of facts: shuffled, writers wait for each
    other in circles, which Postgres ends by failing one of them."""
    async with ledgers.new() as database:
        seeds = [str(seed) for seed in range(WRITERS)]
        given = [ledgers.url(database), str(EVENTS), str(TIMES)]
        running = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.pricing.replays", *given, *seeds[number::PROCESSES]),
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for number in range(PROCESSES)
        ]
        said = await asyncio.gather(*(process.communicate() for process in running))

        # Nobody tried anything twice: a writer ends with its first failure.
        assert [process.returncode for process in running] == [0] * PROCESSES, said[0][1][-2000:] + said[1][1][-2000:]
        told = [one for out, _ in said for one in json.loads(out)]
        assert sum(new for new, _ in told) == EVENTS
        assert sum(repeated for _, repeated in told) == (WRITERS * TIMES - 1) * EVENTS
        assert await hashes(database) == expected
        statistics = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        async with database.reading() as connection:
            assert (await connection.exec_driver_sql(statistics)).scalar() == 0


@pytest.mark.parametrize("ledgers", ["sqlite"], indirect=True)
async def test_eight_writers_that_take_turns_leave_what_one_leaves(ledgers, expected, books):
    """Guards the keys: what is there already is told from what is new, whoever brought it."""
    async with ledgers.new() as database:
        told = await asyncio.gather(*(replay(database, books, facts(EVENTS), TIMES, seed) for seed in range(WRITERS)))

        assert sum(new for new, _ in told) == EVENTS
        assert sum(repeated for _, repeated in told) == (WRITERS * TIMES - 1) * EVENTS
        assert await hashes(database) == expected
