"""The ledger has one verb: a fact is added once, and what contradicts it is set aside."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from metering import rows_postgres
from metering.facts import fact_known_by
from metering.ledger import Aside, Moved, append, move, set_aside
from metering.months import Months
from metering.tables import dedupe, quarantine, spool_positions, usage_events
from metering.usage import Completeness, Kind, UsageEvent, event_id_of
from tests.builders import DAY_MS, NOON, NOON_MS, call_id, fact, payload, usage_event

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


@pytest.mark.parametrize("number", [rows_postgres.UNKNOWN_FACTS_MIN - 1, rows_postgres.UNKNOWN_FACTS_MIN, 300])
@pytest.mark.parametrize("known", [0, 1, 3])
async def test_many_facts_at_once_are_added_but_for_those_that_are_there(database, number, known):
    """Guards what is added as if none was there: sabotaged (taken for added where one is), the others are not."""
    events = [usage_event(event_id=call_id(one)) for one in range(number)]
    there = events[:known]
    if there:
        await appended(database, *there[:-1], usage_event(event_id=there[-1].event_id, status=201))

    found = await appended(database, *events, at=LATER)

    assert [one.event for one in found.new] == events[known:]
    assert [one.event for one in found.conflicting] == there[-1:]
    assert found.repeated == len(there[:-1])
    kept = await rows(database, usage_events)
    assert len(kept) == number
    assert sum(row.recorded_at == LATER for row in kept) == number - known


UNKNOWN = {"completeness": Completeness.UNKNOWN, "quantities": {}, "external_id": None, "status": None}


async def test_an_outcome_that_comes_after_its_call_was_booked_as_unknown_is_its_correction_once(database):
    """Guards what was used: set aside as a conflict it would never be charged, and booked again it would be twice."""
    outcome = usage_event(event_id=call_id(1), metadata={"usage": {"prompt_tokens": 117}})
    await appended(database, usage_event(event_id=call_id(1), resource="gpt-4o", **UNKNOWN))

    late = await appended(database, outcome, at=LATER)
    again = await appended(database, outcome, outcome, at=LATER)

    correction = late.new[0].event
    assert ([one.event.kind for one in late.new], late.repeated, late.conflicting) == (["correction"], 0, [])
    assert (correction.corrects, correction.call_id) == (call_id(1), call_id(1))
    assert (correction.quantities, correction.completeness) == (outcome.quantities, "reported")
    assert correction.metadata == {"usage": {"prompt_tokens": 117}, "was": "unknown"}
    assert (again.new, again.repeated, again.conflicting) == ([], 2, [])
    assert len(await rows(database, usage_events)) == 2
    assert await rows(database, quarantine) == []


async def test_an_outcome_may_come_late_together_with_the_unknown(database):
    outcome = usage_event(event_id=call_id(1))

    found = await appended(database, usage_event(event_id=call_id(1), **UNKNOWN), outcome)

    assert [one.event.kind for one in found.new] == ["usage", "correction"]
    assert (found.repeated, found.conflicting) == (0, [])


async def test_an_unknown_says_nothing_of_a_call_whose_outcome_is_known(database):
    """Guards a replay of a spool that lost the outcome: it is no contradiction."""
    await appended(database, usage_event(event_id=call_id(1)))

    found = await appended(database, usage_event(event_id=call_id(1), **UNKNOWN))

    assert (found.new, found.repeated, found.conflicting) == ([], 1, [])
    assert await rows(database, quarantine) == []


@pytest.mark.parametrize("other", [{"source": "twilio"}, {"endpoint": "responses"}])
async def test_what_is_of_another_endpoint_is_no_late_outcome_but_a_contradiction(database, other):
    await appended(database, usage_event(event_id=call_id(1), **UNKNOWN))
    contradiction = usage_event(event_id=call_id(1), **other)

    found = await appended(database, contradiction)

    assert (found.new, [one.event for one in found.conflicting]) == ([], [contradiction])
    assert len(await rows(database, quarantine)) == 1


async def test_whatever_text_an_event_holds_comes_back(database):
    """Ids and texts are values and never part of a statement, and none ends at a character that ends strings elsewhere."""
    key = "'; DROP TABLE usage_events; -- \" \\ \n \u2028 😀 %s ? :x"
    odd = key + key
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


async def test_what_an_event_leaves_unsaid_is_in_the_ledger_as_what_it_means(database):
    """Watches the JSON of events, which does not name what is usual: what it leaves out is no null."""
    event = UsageEvent(
        event_id=call_id(1),
        tenant_id="acme",
        source="openai",
        event_type="llm_call",
        endpoint="chat.completions",
        occurred_at_ms=NOON_MS + 7,
        completeness=Completeness.UNKNOWN,
    )

    await appended(database, event)

    (row,) = await rows(database, usage_events)
    unsaid = {"event_id", "occurred_at_ms", "dedupe_key"}
    said = {name: getattr(event, name) for name in UsageEvent.__struct_fields__ if name not in unsaid}
    assert {name: getattr(row, name) for name in said} == said
    assert (row.event_day, row.channel, row.units) == ("2026-11-20", "ai", None)
    assert (row.occurred_at, row.recorded_at) == (NOON + dt.timedelta(milliseconds=7), NOON)


async def test_where_a_text_has_a_nul_the_ledger_says_that_something_was_there(database):
    """Watches `fact`: Postgres holds no NUL, and a fact that a provider put one into would not be booked at all."""
    odd, kept = "a\0b\\u0000", "a\ufffdb\\u0000"
    event = usage_event(resource=odd, external_id=odd, category=odd, tags={odd: odd}, metadata={odd: [odd, "\0\0"]})

    first = await appended(database, event)
    again = await appended(database, event)
    async with database.transaction() as connection:
        await set_aside(connection, [Aside("spool:7", "a record that is no event", "\0{")], NOON)

    (row,) = await rows(database, usage_events)
    (aside,) = await rows(database, quarantine)
    assert (len(first.new), again.repeated) == (1, 1)
    assert first.new[0].event.resource == kept
    assert (row.resource, row.external_id, row.category, row.tags) == (kept, kept, kept, {kept: kept})
    assert row.metadata == {kept: [kept, "\ufffd\ufffd"]}
    assert aside.record == "\ufffd{"


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


# ---------------------------------------------------------------------------------------------------------------------
# Facts without a call


def heard_of(key="object-1:final", **changes):
    """A fact that is known by a key."""
    return usage_event(**{"event_id": event_id_of(key), "dedupe_key": key, "call_id": None} | changes)


@pytest.mark.parametrize("batches", ["one", "two"])
async def test_a_fact_without_a_call_is_added_once_however_often_it_is_heard_of(database, batches):
    """Watches the dedupe key, in one batch and across batches."""
    if batches == "one":
        first = again = await appended(database, heard_of(), heard_of())
    else:
        first, again = await appended(database, heard_of()), await appended(database, heard_of(), at=LATER)

    assert (len(first.new), again.repeated, again.conflicting) == (1, 1, [])
    assert len(await rows(database, usage_events)) == 1
    (known,) = await rows(database, dedupe)
    assert known._asdict() | {"digest": None} == {
        "tenant_id": "acme",
        "key": "object-1:final",
        "event_day": "2026-11-20",
        "event_id": event_id_of("object-1:final"),
        "digest": None,
        "recorded_at": NOON,
    }


@pytest.mark.parametrize("batches", ["one", "two"])
@pytest.mark.parametrize(
    "other",
    [{"status": 201}, {"status": 201, "occurred_at_ms": NOON_MS + 40 * DAY_MS}, {"event_id": call_id(7)}],
    ids=["content", "month", "event"],
)
async def test_another_content_under_the_same_dedupe_key_is_set_aside(database, batches, other):
    """Watches that the key decides, whatever day or event it comes with: the events' own keys would let it in."""
    await Months(database).ensure(["2026-12-30"])
    first, second = heard_of(), heard_of(**other)
    if batches == "one":
        found = await appended(database, first, second)
    else:
        await appended(database, first)
        found = await appended(database, second)
    repeated = await appended(database, first)

    assert [one.event for one in found.conflicting] == [second]
    assert (repeated.repeated, repeated.conflicting) == (1, [])
    (event,) = await rows(database, usage_events)
    (aside,) = await rows(database, quarantine)
    assert (event.status, event.event_day) == (200, "2026-11-20")
    assert "another content" in aside.reason


async def test_a_dedupe_key_is_its_tenants_own(database):
    found = await appended(database, heard_of(), heard_of(tenant_id="umbrella"), heard_of("object-2:final"))

    assert len(found.new) == 3


async def test_facts_with_and_without_a_call_come_in_one_batch(database):
    events = [heard_of(f"object-{n}:final") if n % 2 else usage_event(event_id=call_id(n)) for n in range(10)]

    first = await appended(database, *events)
    again = await appended(database, *reversed(events))

    assert (len(first.new), again.repeated) == (10, 10)
    assert len(await rows(database, dedupe)) == 5


async def test_how_far_a_spool_is_moves_with_what_is_booked(database):
    for moved in ([Moved("w1", 2, 7), Moved("w0", 0, 3)], [], [Moved("w1", 5, 90)]):
        async with database.transaction() as connection:
            await move(connection, moved, LATER)

    assert sorted(map(tuple, await rows(database, spool_positions))) == [("w0", 0, 3, LATER), ("w1", 5, 90, LATER)]


async def test_a_spool_is_never_less_far_in_the_ledger_than_before(database):
    """Guards two who ship the same spool: what the one ahead has let go of would be missed by whoever begins again."""
    for moved in (Moved("w0", 5, 90), Moved("w0", 6, 90), Moved("w0", 2, 70)):
        async with database.transaction() as connection:
            await move(connection, [moved], LATER)

    assert [tuple(row) for row in await rows(database, spool_positions)] == [("w0", 6, 90, LATER)]


BATCHES = st.lists(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["acme", "umbrella"]), st.integers(200, 202))))


@settings(max_examples=50, deadline=None)
@given(BATCHES)
def test_the_first_content_under_a_key_is_the_one_that_stays(ledgers, batches):
    """A18, against a plain dictionary."""

    async def append_all():
        async with ledgers.reused() as database:
            for batch in batches:
                events = [usage_event(event_id=call_id(n), tenant_id=tenant, status=s) for n, tenant, s in batch]
                await appended(database, *events)
            return await rows(database, usage_events), await rows(database, quarantine)

    kept, aside = asyncio.run(append_all())

    first: dict[tuple[str, str], int] = {}
    contradictions = set()
    for number, tenant, status in [one for batch in batches for one in batch]:
        if first.setdefault((tenant, call_id(number)), status) != status:
            contradictions.add((tenant, number, status))
    assert {(row.tenant_id, row.event_id): row.status for row in kept} == first
    assert len(aside) == len(contradictions)


def as_an_earlier_release_knew_it(event):
    """By the digest that releases before xxHash gave to what was recorded."""
    one, recorded = fact(event), payload(event)
    return fact_known_by(hashlib.blake2b(recorded, digest_size=8).hexdigest(), one.event, one.said, recorded)


SENT = {"event_type": "sms_outbound", "source": "twilio", "quantities": {"messages": 1}, "external_id": "SM1"}


@pytest.mark.parametrize(
    "changes",
    [{}, {"description": "a\0b"}, SENT, {"description": "a\0b", **SENT}],
    ids=["plain", "nul", "sent", "sent-nul"],
)
@pytest.mark.parametrize("listed", [False, True])
async def test_what_an_earlier_release_has_booked_is_the_same_when_it_is_shipped_again(database, changes, listed):
    """Guards a replay after an update: what is there would be set aside as a contradiction."""
    one = usage_event(event_id=call_id(1), **changes)
    if listed:
        found = {"kind": Kind.BACKFILL, "dedupe_key": "twilio:SM1:made", "event_id": call_id(2), "external_id": "SM1"}
        await appended(database, msgspec.structs.replace(one, **found))
    async with database.transaction() as connection:
        await append(connection, [as_an_earlier_release_knew_it(one)], NOON)

    again = await appended(database, one, at=LATER)
    other = await appended(database, msgspec.structs.replace(one, status=201), at=LATER)

    assert (again.new, again.repeated, again.conflicting) == ([], 1, [])
    assert [one.event.status for one in other.conflicting] == [201]
