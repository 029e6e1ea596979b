"""The ledger has one verb: a fact is added once, and what contradicts it is set aside."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from metering.database import Database
from metering.ledger_sqlite import Aside, append, set_aside
from metering.tables import quarantine, usage_events
from tests.builders import NOON, call_id, fact, usage_event

LATER = NOON + dt.timedelta(hours=1)


async def appended(database, *events, at=NOON):
    async with database.transaction() as connection:
        return await append(connection, [fact(event) for event in events], at)


async def rows(database, table):
    async with database.reading() as connection:
        return (await connection.execute(select(table))).all()


async def test_facts_are_told_apart_by_their_key_and_repetitions_by_their_content(database):
    known, new = usage_event(event_id=call_id(1)), usage_event(event_id=call_id(2))
    contradiction = usage_event(event_id=call_id(1), status=201)
    await appended(database, known)

    found = await appended(database, contradiction, new, known, new, at=LATER)

    assert [one.event for one in found.new] == [new]
    assert found.repeated == 2
    assert [one.event for one in found.conflicting] == [contradiction]
    assert {(row.event_id, row.recorded_at) for row in await rows(database, usage_events)} == {
        (call_id(1), NOON),
        (call_id(2), LATER),
    }


async def test_whatever_text_an_event_holds_comes_back(database):
    """Ids and texts are values and never part of a statement, and none ends at a character that ends strings elsewhere."""
    key = "'; DROP TABLE usage_events; -- \" \\ \n \u2028 😀 %s ? :x"
    odd = key + "\0" + key
    event = usage_event(
        event_id="id" + key,
        tenant_id="tenant" + key,
        endpoint=odd,
        resource=odd,
        external_id=odd,
        category=odd,
        description=odd,
        tags={odd: odd},
        metadata={odd: [odd, None, 1 << 70, 0.1]},
    )

    first = await appended(database, event)
    again = await appended(database, event)

    (row,) = await rows(database, usage_events)
    assert (len(first.new), again.repeated) == (1, 1)
    assert (row.event_id, row.tenant_id) == ("id" + key, "tenant" + key)
    assert {row.endpoint, row.resource, row.external_id, row.category, row.description} == {odd}
    assert (row.tags, row.metadata) == ({odd: odd}, {odd: [odd, None, 1 << 70, 0.1]})


async def test_what_is_set_aside_is_kept_with_its_reason_and_once(database):
    record = Aside("spool:7", "a record that is no event", "{", "acme")

    for at in (NOON, LATER):
        async with database.transaction() as connection:
            await set_aside(connection, [record, record, Aside("spool:8", "another", "")], at)
            await set_aside(connection, [], at)

    assert sorted(map(tuple, await rows(database, quarantine))) == [
        ("spool:7", "a record that is no event", "acme", "{", NOON),
        ("spool:8", "another", None, "", NOON),
    ]


async def test_a_thousand_facts_are_one_question_and_no_more_than_a_thousand_rows(database):
    events = [usage_event(event_id=call_id(number)) for number in range(1_000)]
    await appended(database, *events[::2])

    found = await appended(database, *events)

    async with database.reading() as connection:
        count = (await connection.execute(select(func.count()).select_from(usage_events))).scalar()
    assert (len(found.new), found.repeated, count) == (500, 500, 1_000)


BATCHES = st.lists(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["acme", "umbrella"]), st.integers(200, 202))))


@settings(max_examples=50, deadline=None)
@given(BATCHES)
def test_the_first_content_under_a_key_is_the_one_that_stays(migrated, tmp_path_factory, batches):
    """A18, against a plain dictionary."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    shutil.copyfile(migrated, path)

    async def append_all():
        database = Database(path)
        await database.open()
        try:
            for batch in batches:
                events = [usage_event(event_id=call_id(n), tenant_id=tenant, status=s) for n, tenant, s in batch]
                await appended(database, *events)
            return await rows(database, usage_events), await rows(database, quarantine)
        finally:
            await database.close()

    kept, aside = asyncio.run(append_all())

    first: dict[tuple[str, str], int] = {}
    contradictions = set()
    for number, tenant, status in [one for batch in batches for one in batch]:
        if first.setdefault((tenant, call_id(number)), status) != status:
            contradictions.add((tenant, number, status))
    assert {(row.tenant_id, row.event_id): row.status for row in kept} == first
    assert len(aside) == len(contradictions)
