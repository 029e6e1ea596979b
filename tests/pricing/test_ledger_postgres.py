"""Any number of writers on any number of hosts may book the same facts at the same time: each is booked once."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import select

from metering.database import DatabaseUnavailable
from metering.database_postgres import PostgresDatabase
from metering.months import Months
from metering.tables import dedupe, quarantine, usage_events
from metering.usage import event_id_of
from pricing.ledger import book
from pricing.tables import charges, rollups
from tests.builders import DAY_MS, NOON, NOON_MS, call_id, fact, usage_event
from tests.postgres import Line
from tests.pricing.replays import any_pieces

PATIENCE_S = 60
WRITERS = 8
EVENTS = 1_200


@pytest.fixture
async def database(postgres_ledgers):
    async with postgres_ledgers.new() as database:
        yield database


@pytest.fixture
async def hosts(postgres_ledgers, database):
    """The same ledger, as several hosts have it open."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(WRITERS):
            host = PostgresDatabase(postgres_ledgers.url(database))
            await host.open()
            stack.push_async_callback(host.close)
            found.append(host)
        yield found


async def everything(database):
    async with database.reading() as connection:
        return {
            table.name: (await connection.execute(select(table).order_by(*table.primary_key.columns))).all()
            for table in (usage_events, charges, rollups, dedupe, quarantine)
        }


def facts(count):
    """Events of several tenants and two months; every fifth is a fact without a call."""
    found = []
    for number in range(count):
        known_by = {"event_id": call_id(number)}
        if number % 5 == 0:
            key = f"object-{number}:final"
            known_by = {"event_id": event_id_of(key), "dedupe_key": key, "call_id": None}
        moment = NOON_MS + number % 11 * DAY_MS
        event = usage_event(
            tenant_id=f"tenant-{number % 7}", key_id=f"k{number % 3}", occurred_at_ms=moment, **known_by
        )
        found.append(fact(event))
    return found


async def book_all(host, books, mine, chance):
    """In an order and in batches that chance has made."""
    mine = chance.sample(mine, len(mine))
    repeated = 0
    while mine:
        size = chance.randrange(1, 200)
        batch, mine = mine[:size], mine[size:]
        async with host.transaction() as connection:
            repeated += (await book(connection, batch, books, NOON, any_pieces(chance))).repeated
    return repeated


async def test_writers_that_replay_the_same_events_leave_what_one_writer_leaves(
    postgres_ledgers, hosts, database, books
):
    """A06. Watches the order in which keys are taken: shuffled, they wait for each other in circles, which Postgres ends
    by failing one of them."""
    all_facts = facts(EVENTS)
    async with postgres_ledgers.new() as alone:
        await book_all(alone, books, all_facts, random.Random(0))
        expected = await everything(alone)

    async with asyncio.timeout(PATIENCE_S):
        repeated = await asyncio.gather(
            *(book_all(host, books, all_facts, random.Random(number)) for number, host in enumerate(hosts))
        )

    assert sum(repeated) == (WRITERS - 1) * EVENTS
    found = await everything(database)
    assert found == expected
    assert len(found["usage_events"]) == len(found["charges"]) == EVENTS
    assert sum(row.events for row in found["rollups"]) == EVENTS


@pytest.mark.parametrize("kind", ["call", "without a call"])
@pytest.mark.parametrize(
    ("other_content", "committed", "became"),
    [(False, True, (0, 1, 0)), (True, True, (0, 0, 1)), (False, False, (1, 0, 0)), (True, False, (1, 0, 0))],
)
async def test_whoever_waits_for_another_writer_sees_what_that_one_has_done(
    hosts, database, books, kind, other_content, committed, became
):
    """Watches the look at what is there after waiting for it: looked up before, it would not have been there."""
    keyed = {} if kind == "call" else {"dedupe_key": "object-1:final", "event_id": event_id_of("object-1:final")}
    later = {"occurred_at_ms": NOON_MS + DAY_MS} if keyed else {}
    first = fact(usage_event(**keyed))
    second = fact(usage_event(status=201, **keyed, **later)) if other_content else first

    async def book_second():
        async with hosts[1].transaction() as connection:
            return await book(connection, [second], books, NOON)

    async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as stack:
        connection = await stack.enter_async_context(hosts[0].transaction())
        await book(connection, [first], books, NOON)
        waiting = asyncio.create_task(book_second())
        await until_waiting(database)
        if not committed:
            await connection.rollback()
    found = await asyncio.wait_for(waiting, PATIENCE_S)

    assert (len(found.new), found.repeated, len(found.conflicting)) == became
    tables = await everything(database)
    assert [len(tables[name]) for name in ("usage_events", "charges", "quarantine")] == [1, 1, became[2]]
    assert [row.events for row in tables["rollups"]] == [1]


async def until_waiting(database):
    question = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    waiting = 0
    while not waiting:
        async with database.reading() as connection:
            waiting = (await connection.exec_driver_sql(question)).scalar()
        await asyncio.sleep(0.01)


async def test_a_commit_whose_answer_never_came_is_booked_once_when_it_is_booked_again(
    postgres_ledgers, database, books
):
    """Watches the ids that come from the records: most of what is not known to be committed is."""
    batch = facts(50)
    port = postgres_ledgers.server.port
    async with Line(port) as line:
        far = PostgresDatabase(postgres_ledgers.url(database).replace(f":{port}/", f":{line.listens_on}/"))
        await far.open()
        line.breaks_after = b"COMMIT"
        with pytest.raises(DatabaseUnavailable):
            async with far.transaction() as connection:
                await book(connection, batch, books, NOON)
        line.breaks_after, line.broke = b"", False
        before = await everything(database)

        async with far.transaction() as connection:
            again = await book(connection, batch, books, NOON)
        await far.close()

    assert (len(before["usage_events"]), len(again.new), again.repeated) == (50, 0, 50)
    assert await everything(database) == before


async def test_a_server_that_is_killed_under_its_writers_loses_and_doubles_nothing(
    hosts, database, postgres_ledgers, books
):
    """A07, in short."""
    all_facts = facts(EVENTS)
    acknowledged = set()

    async def ship(host, mine):
        while mine:
            batch = mine[:20]
            try:
                async with host.transaction() as connection:
                    await book(connection, batch, books, NOON)
            except DatabaseUnavailable:
                await asyncio.sleep(0.05)
            else:
                acknowledged.update(one.event.event_id for one in batch)
                mine = mine[20:]

    server = postgres_ledgers.server
    async with asyncio.timeout(PATIENCE_S):
        shipping = [asyncio.create_task(ship(host, all_facts[number::WRITERS])) for number, host in enumerate(hosts)]
        for _ in range(3):
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.stop, signal.SIGQUIT)
            kept_by_then = set(acknowledged)
            await asyncio.to_thread(server.start)
            assert kept_by_then <= await _ids(database)
        await asyncio.gather(*shipping)

    tables = await everything(database)
    assert {row.event_id for row in tables["usage_events"]} == {one.event.event_id for one in all_facts}
    assert len(tables["charges"]) == sum(row.events for row in tables["rollups"]) == EVENTS


async def _ids(database):
    """The events that are there, once the database can be asked."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async with database.reading() as connection:
                    return set((await connection.execute(select(usage_events.c.event_id))).scalars())
            except DatabaseUnavailable:
                await asyncio.sleep(0.05)


async def test_months_that_several_make_at_once_are_made_once(hosts, database):
    """Watches the lock in `make_month`: without it, all but one fail, and with them the batch that needed the month."""
    days = [f"203{year}-{month:02}-15" for year in range(2) for month in range(1, 4)]

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(Months(host).ensure(days) for host in hosts))

    question = (
        "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^(usage_events|charges)_203[01]_0[123]$'"
    )
    async with database.reading() as connection:
        assert (await connection.exec_driver_sql(question)).scalar() == 12
