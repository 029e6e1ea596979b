"""Booking: every fact once, charged by the plan of its day, and in the sums; all of it or none."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DataError

from metering import ledger
from metering.claims import made_key
from metering.event_types import DIMENSIONS
from metering.late import late_fact
from metering.pieces import Pieces
from metering.rows import rows_in
from metering.tables import quarantine, usage_events
from metering.usage import Completeness, Kind, event_id_of
from pricing.ledger import book
from pricing.tables import ROLLUP_COUNTS, ROLLUP_KEY, ROLLUP_SUMS, charges, rollups, tenant_plans
from tests.builders import DAY_MS, NOON, NOON_MS, call_id, fact, usage_event
from tests.pricing.conftest import LATER


async def rows(database, table, order="event_id"):
    async with database.reading() as connection:
        return (await connection.execute(select(table).order_by(*([order] if order in table.c else [])))).all()


async def everything(database):
    return [await rows(database, table) for table in (usage_events, charges, rollups, quarantine)]


@pytest.mark.parametrize("plan", ["professional", "credits"])
@pytest.mark.parametrize("event_type", ["llm_call", "email_outbound", "whatsapp_outbound"])
async def test_an_outcome_that_comes_late_is_charged_as_it_would_have_been_in_time(database, booked, event_type, plan):
    """Guards prices of the event as a whole too: the unknown was charged nothing, so the correction is charged all."""
    chosen = [
        {"tenant_id": one, "effective_at": NOON - dt.timedelta(days=9), "plan": plan} for one in ("in-time", "late")
    ]
    async with database.transaction() as connection:
        await connection.execute(insert(tenant_plans), chosen)
    quantities = {
        "llm_call": {"input_tokens": 73, "output_tokens": 46},
        "email_outbound": {"recipients": 3},
        "whatsapp_outbound": {"messages": 1},
    }
    outcome = {"event_type": event_type, "quantities": quantities[event_type], "tenant_id": "in-time"}
    in_time = usage_event(event_id=call_id(1), **outcome)
    late = usage_event(event_id=call_id(2), **outcome | {"tenant_id": "late"})
    unknown = {"completeness": Completeness.UNKNOWN, "quantities": {}, "external_id": None}
    await booked(in_time, usage_event(event_id=call_id(2), **{**outcome, "tenant_id": "late", **unknown}))

    await booked(late)
    await booked(late)

    charged = {(row.tenant_id, row.priced): row for row in await rows(database, charges)}
    assert set(charged) == {("in-time", 1), ("late", 0), ("late", 1)}
    whole, after = charged["in-time", 1], charged["late", 1]
    amounts = whole.charge_nano, whole.credits, whole.cost_nano, whole.lines
    assert (whole.credits if plan == "credits" else whole.charge_nano) > 0
    assert (after.charge_nano, after.credits, after.cost_nano, after.lines) == amounts
    sums = {}
    for row in await rows(database, rollups):
        events, charge, in_credits = sums.get(row.tenant_id, (0, 0, 0))
        sums[row.tenant_id] = events + row.events, charge + (row.charge_nano or 0), in_credits + (row.credits or 0)
    assert sums["late"] == sums["in-time"] == (1, whole.charge_nano or 0, whole.credits or 0)


# ---------------------------------------------------------------------------------------------------------------------
# Once


async def test_the_event_of_the_design_is_in_the_tables_as_the_design_shows_it(database, booked):
    await booked(usage_event(tags={"team": "search"}))

    (event,) = await rows(database, usage_events)
    (charge,) = await rows(database, charges)
    (rollup,) = await rows(database, rollups)
    assert event._asdict() | {"digest": None} == {
        "tenant_id": "acme",
        "event_day": "2026-11-20",
        "event_id": call_id(0),
        "source": "openai",
        "event_type": "llm_call",
        "channel": "ai",
        "direction": None,
        "endpoint": "chat.completions",
        "resource": "gpt-4o-2024-08-06",
        "external_id": "chatcmpl-1",
        "units": 163,
        "quantities": {"input_tokens": 73, "input_tokens_cached": 44, "output_tokens": 46},
        "completeness": "reported",
        "kind": "usage",
        "corrects": None,
        "category": "rag",
        "tags": {"team": "search"},
        "description": "gpt-4o chat completion",
        "metadata": {},
        "key_id": "k1",
        "call_id": call_id(0),
        "status": 200,
        "duration_ms": 812,
        "metered": 1,
        "occurred_at": NOON,
        "recorded_at": LATER,
        "digest": None,
    }
    assert (charge.charge_nano, charge.cost_nano, charge.currency, charge.priced) == (837_000, 697_500, "USD", 1)
    assert (rollup.events, rollup.units, rollup.charge_nano, rollup.cost_nano) == (1, 163, 837_000, 697_500)


async def test_the_same_fact_again_changes_nothing(database, booked):
    """Watches idempotence, in one batch and across batches: whatever is shipped twice is there once."""
    event = usage_event()
    first = await booked(event, event)
    before = await everything(database)

    again = await booked(event, at=LATER + dt.timedelta(hours=1))

    assert (len(first.new), first.repeated, len(again.new), again.repeated) == (1, 1, 0, 1)
    assert await everything(database) == before


@pytest.mark.parametrize("batches", ["one", "two"])
async def test_another_content_under_the_same_key_is_set_aside_and_the_first_stays(database, booked, batches):
    """A18. Watches the digest: without it the second would vanish as a repetition."""
    first, second = usage_event(), usage_event(quantities={"input_tokens": 1})
    if batches == "one":
        appended = await booked(first, second)
    else:
        await booked(first)
        appended = await booked(second)

    assert [one.event for one in appended.conflicting] == [second]
    (event,) = await rows(database, usage_events)
    (charge,) = await rows(database, charges)
    (rollup,) = await rows(database, rollups)
    (aside,) = await rows(database, quarantine)
    assert event.quantities == first.quantities
    assert (charge.charge_nano, rollup.events, rollup.charge_nano) == (837_000, 1, 837_000)
    assert (aside.tenant_id, aside.set_aside_at) == ("acme", LATER)
    assert "another content" in aside.reason
    assert '"input_tokens":1' in aside.record


async def test_a_content_that_was_set_aside_is_set_aside_once(database, booked):
    await booked(usage_event())

    for _ in range(3):
        await booked(usage_event(status=201))
    await booked(usage_event(status=202))

    assert len(await rows(database, quarantine)) == 2


async def test_two_tenants_may_have_an_event_of_the_same_id(database, booked):
    """Watches the whole key: an id alone is one tenant's."""
    events = [
        usage_event(tenant_id="acme"),
        usage_event(tenant_id="umbrella"),
        usage_event(occurred_at_ms=NOON_MS + DAY_MS),
    ]

    together = await booked(*events)
    again = await booked(*events)

    assert (len(together.new), together.conflicting, again.repeated) == (3, [], 3)
    assert len(await rows(database, usage_events)) == 3


async def test_one_batch_is_booked_whole_or_not_at_all(database, books, booked):
    """Watches the one transaction: a charge that no column holds takes the facts beside it back out."""
    await booked(usage_event(event_id=call_id(1)))
    before = await everything(database)
    too_much = usage_event(event_id=call_id(3), quantities={"input_tokens": 1 << 53})

    with pytest.raises(DataError):
        await booked(usage_event(event_id=call_id(2)), too_much)

    assert await everything(database) == before


async def test_nothing_is_nothing(database, booked):
    appended = await booked()

    assert (appended.new, appended.repeated, appended.conflicting) == ([], 0, [])


# ---------------------------------------------------------------------------------------------------------------------
# Charged


async def plans(database, *changes):
    """Give acme these plans, each from a moment on."""
    async with database.transaction() as connection:
        await connection.execute(
            insert(tenant_plans),
            [{"tenant_id": "acme", "effective_at": moment, "plan": plan} for moment, plan in changes],
        )


async def test_the_plan_at_the_time_of_the_event_decides_what_it_is_charged_by(database, booked):
    """Watches the event's own time: an event that arrives after a change of plan is charged by the plan before it."""
    millisecond = dt.timedelta(milliseconds=1)
    await plans(database, (NOON, "credits"), (NOON + dt.timedelta(days=1), "pro"), (NOON + dt.timedelta(days=2), None))
    moments = {
        NOON - millisecond: ("standard-v1", "USD"),
        NOON: ("credits-v1", "credits"),
        NOON + dt.timedelta(days=1) - millisecond: ("credits-v1", "credits"),
        NOON + dt.timedelta(days=1): ("standard-v1", "USD"),
        NOON + dt.timedelta(days=2): ("standard-v1", "USD"),
    }
    events = [
        usage_event(event_id=call_id(number), occurred_at_ms=round(moment.timestamp() * 1000))
        for number, moment in enumerate(moments)
    ]

    await booked(*events, at=NOON + dt.timedelta(days=30))

    found = await rows(database, charges)
    assert [(row.price_book, row.currency) for row in found] == list(moments.values())
    assert [(row.credits, row.charge_nano) for row in found] == [
        (None, 837_000),
        (2, None),
        (2, None),
        (None, 837_000),
        (None, 837_000),
    ]


async def test_a_fact_that_the_ledger_has_needs_no_judgement(database, booked):
    """Guards replays after a plan's book has gone: what can not be judged any more was judged when it was new."""
    await booked(usage_event())
    before = await everything(database)
    await plans(database, (NOON - dt.timedelta(days=1), "a plan that is gone"))

    appended = await booked(usage_event())

    assert appended.repeated == 1
    assert await everything(database) == before
    with pytest.raises(ValueError, match="no such plan"):
        await booked(usage_event(event_id=call_id(1)))


async def test_anothers_plan_is_nothing_to_a_tenant(database, booked):
    await plans(database, (NOON - dt.timedelta(days=1), "credits"))

    await booked(usage_event(tenant_id="umbrella"))

    (charge,) = await rows(database, charges)
    assert charge.price_book == "standard-v1"


async def test_what_was_not_to_be_metered_is_kept_without_a_charge_and_outside_the_sums(database, booked):
    await booked(usage_event(metered=False))

    (event,) = await rows(database, usage_events)
    (charge,) = await rows(database, charges)
    assert (event.metered, event.units, charge.charge_nano) == (0, 163, 0)
    assert await rows(database, rollups) == []


async def test_an_event_without_a_price_is_kept_and_counted_as_such(database, booked):
    await booked(usage_event(resource="a model nobody has heard of"))

    (charge,) = await rows(database, charges)
    (rollup,) = await rows(database, rollups)
    assert (charge.priced, charge.charge_nano) == (0, None)
    assert (rollup.unpriced_events, rollup.charge_nano, rollup.units) == (1, None, 163)


# ---------------------------------------------------------------------------------------------------------------------
# Sums

KINDS = [Kind.USAGE, Kind.USAGE, Kind.BACKFILL, Kind.CORRECTION, Kind.REVERSAL]


@st.composite
def histories(draw):
    """Events of two tenants over two days, and the batches they come in: in any order, some of them again and again."""
    events = []
    for number in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(KINDS))
        lowest = -50 if kind in (Kind.CORRECTION, Kind.REVERSAL) else 0
        event_type, resource, dimensions = draw(
            st.sampled_from(
                [
                    ("llm_call", "gpt-4o", ("input_tokens", "output_tokens", "web_searches")),
                    ("llm_call", "no such model", ("input_tokens",)),
                    ("sms_outbound", "US", ("messages", "segments")),
                    ("call_minutes", None, ("seconds",)),
                    ("of their own", None, DIMENSIONS),
                ]
            )
        )
        events.append(
            usage_event(
                event_id=call_id(number),
                tenant_id=draw(st.sampled_from(["acme", "umbrella"])),
                event_type=event_type,
                resource=resource,
                kind=kind,
                occurred_at_ms=NOON_MS + draw(st.integers(0, 1)) * DAY_MS,
                completeness=draw(st.sampled_from(Completeness)),
                category=draw(st.sampled_from(["rag", "summary"])),
                metered=draw(st.integers(0, 5)) > 0,
                quantities=draw(st.dictionaries(st.sampled_from(dimensions), st.integers(lowest, 1_000), max_size=3)),
            )
        )
    repeated = draw(st.lists(st.sampled_from(events), max_size=12))
    in_order = draw(st.permutations(events + repeated))
    cuts = sorted(draw(st.lists(st.integers(0, len(in_order)), max_size=4)))
    return [in_order[start:end] for start, end in zip([0, *cuts], [*cuts, len(in_order)], strict=True)]


COUNTED = "e.kind IN ('usage', 'backfill')"
SUMMED = [
    f"COUNT(CASE WHEN {COUNTED} THEN 1 END)",
    f"COUNT(CASE WHEN {COUNTED} AND e.completeness = 'unknown' THEN 1 END)",
    f"COUNT(CASE WHEN {COUNTED} AND NOT c.priced THEN 1 END)",
    "SUM(e.units)",
    *(f"SUM(CAST(e.quantities ->> '{name}' AS bigint))" for name in DIMENSIONS),
    *(f"SUM(c.{name})" for name in ("charge_nano", "credits", "cost_nano")),
]
SUMMED_ANEW = f"""
SELECT e.tenant_id, e.event_day, e.source, e.event_type, e.channel, COALESCE(e.direction, ''), e.endpoint,
       COALESCE(e.resource, ''), e.category, COALESCE(e.key_id, ''), c.currency, c.cost_currency,
       {", ".join(f"CAST({one} AS bigint)" for one in SUMMED)}
FROM usage_events e JOIN charges c USING (tenant_id, event_day, event_id)
WHERE e.metered
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
"""
"""The daily sums, by somebody who has never heard of rollups."""

KEPT = (*ROLLUP_KEY, *ROLLUP_COUNTS, *ROLLUP_SUMS)


@settings(max_examples=60, deadline=None)
@given(histories(), st.builds(Pieces, st.integers(1, 4), st.integers(1, 3), st.just(0)))
def test_the_sums_are_those_of_the_ledger_and_its_charges_however_the_events_came(ledgers, books, history, pieces):
    """Watches that sums and facts move together, once for each event. tenant umbrella changes to credits on day two."""

    async def replay():
        async with ledgers.reused() as database:
            async with database.transaction() as connection:
                change = {"tenant_id": "umbrella", "effective_at": NOON + dt.timedelta(hours=1), "plan": "credits"}
                await connection.execute(insert(tenant_plans), change)
            for batch in history:
                async with database.transaction() as connection:
                    await book(connection, [fact(event) for event in batch], books, LATER, pieces)
            async with database.reading() as connection:
                kept = (await connection.execute(text(f"SELECT {', '.join(KEPT)} FROM rollups"))).all()
                anew = (await connection.execute(text(SUMMED_ANEW))).all()
                facts = (await connection.execute(text("SELECT COUNT(*) FROM usage_events"))).scalar()
                charged = (await connection.execute(text("SELECT COUNT(*) FROM charges"))).scalar()
            return kept, anew, facts, charged

    kept, anew, facts, charged = asyncio.run(replay())

    events = {event.event_id for batch in history for event in batch}
    assert facts == charged == len(events)
    assert sorted(map(repr, kept)) == sorted(map(repr, anew))
    assert all(len(row) == len(ROLLUP_KEY) + 3 + len(ROLLUP_SUMS) for row in kept)


# ---------------------------------------------------------------------------------------------------------------------
# In pieces


@pytest.fixture
def taken(monkeypatch):
    """The keys that are taken, in their order, each with its table."""
    found = []

    class Watched:
        def __init__(self, rows):
            self.digests, self._rows = rows.digests, rows

        async def add(self, connection, table, rows):
            found.extend((table.name, *row[:2]) for row in rows)
            return await self._rows.add(connection, table, rows)

        async def add_events(self, connection, facts, recorded_at):
            found.extend(("usage_events", *one.key) for one in facts)
            return await self._rows.add_events(connection, facts, recorded_at)

        async def insert(self, connection, table, rows, *how):
            found.extend((table.name, row[0]) for row in rows)
            await self._rows.insert(connection, table, rows, *how)

    monkeypatch.setattr(ledger, "rows_in", lambda connection: Watched(rows_in(connection)))
    return found


async def test_pieces_take_keys_in_the_order_in_which_the_whole_takes_them(database, books, booked, taken):
    """Guards two writers of the same facts, one in pieces and one not, who would else wait for each other in a circle. Of
    every kind: keys of objects, theirs that give way, outcomes that come late, what is set aside."""
    sms = {"source": "twilio", "event_type": "sms_outbound", "endpoint": "messages.create", "external_id": "SM1"}
    list_key = made_key("twilio", "SM1")
    listed = usage_event(event_id=event_id_of(list_key), dedupe_key=list_key, kind=Kind.BACKFILL, **sms)
    unknown = {"completeness": Completeness.UNKNOWN, "quantities": {}, "external_id": None}
    await booked(listed, *(usage_event(event_id=call_id(number), **unknown) for number in (1, 5)), usage_event())
    events = [
        usage_event(status=201),
        *(usage_event(event_id=call_id(number)) for number in (7, 5, 6, 1, 3)),
        usage_event(event_id=call_id(4), **sms),
        usage_event(event_id=call_id(2), **sms | {"external_id": "SM2"}),
    ]
    taken.clear()
    orders = []
    for pieces in (Pieces(), Pieces(3)):
        with suppress(Again):
            async with database.transaction() as connection:
                await book(connection, [fact(event) for event in events], books, LATER, pieces)
                raise Again
        orders.append(taken[:])
        taken.clear()

    assert orders[0] == orders[1]
    assert {one[0] for one in orders[0]} == {"dedupe", "usage_events", "quarantine"}
    # Each twice: keys of its own, and those of the corrections that two of them are.
    assert len([one for one in orders[0] if one[0] == "usage_events"]) == len(events) + 2


class Again(Exception):
    """The same from the beginning."""


# ---------------------------------------------------------------------------------------------------------------------
# Metering that was off


SMS = {"source": "twilio", "event_type": "sms_outbound", "endpoint": "messages.create", "external_id": "SM1"}
SENT = SMS | {"resource": "US", "direction": "outbound", "quantities": {"messages": 1}}


def listed(**changes):
    """A message that the provider lists, or tells by itself."""
    key = made_key("twilio", "SM1")
    values = {"completeness": Completeness.PENDING, "kind": Kind.BACKFILL, "category": "listed", "dedupe_key": key}
    return usage_event(event_id=event_id_of(key), **SENT | values | changes)


def off(**changes):
    """The event of its call."""
    values = {"event_id": call_id(1), "completeness": Completeness.PENDING, "metered": False}
    return usage_event(**SENT | values | changes)


def final(segments=3):
    quantities = {"messages": 1, "segments": segments}
    return late_fact("acme", "twilio", "SM1", "final", Completeness.REPORTED, quantities, event_type="sms_outbound")


def price():
    told = {"provider_cost": "0.0237", "currency": "USD"}
    return late_fact("acme", "twilio", "SM1", "price", Completeness.REPORTED, {}, metadata=told)


async def left(database):
    """What the sums have that is not nothing."""
    return [
        (name, getattr(row, name))
        for row in await rows(database, rollups)
        for name in (*ROLLUP_COUNTS, *ROLLUP_SUMS)
        if getattr(row, name)
    ]


@pytest.mark.parametrize("plan", ["professional", "credits"])
@pytest.mark.parametrize("kind", [Kind.BACKFILL, Kind.USAGE])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
async def test_what_was_booked_before_its_call_says_that_its_metering_was_off_is_taken_back_whole(
    database, books, booked, at, together, kind, plan
):
    """A list or a webhook was first; what became of it is told before or after."""
    chosen = {"tenant_id": "acme", "effective_at": NOON - dt.timedelta(days=9), "plan": plan}
    async with database.transaction() as connection:
        await connection.execute(insert(tenant_plans), [chosen])
    told = [listed(kind=kind), final(), price()]
    told.insert(at, off())

    for some in [told] if together else [[one] for one in told]:
        async with database.transaction() as connection:
            await book(connection, [fact(event) for event in some], books, NOON)
        if at == 3 and some != told and some[0] in told[:3]:
            assert await left(database) != []

    assert await left(database) == []
    for name in ("charge_nano", "credits", "cost_nano"):
        assert sum(getattr(row, name) or 0 for row in await rows(database, charges)) == 0
    for row in await rows(database, charges):
        lines = row.lines
        assert (row.charge_nano or 0) == sum(line.get("charge_nano") or 0 for line in lines)
    assert await rows(database, quarantine) == []

    before = await everything(database)
    async with database.transaction() as connection:
        await book(connection, [fact(event) for event in told], books, NOON)
    assert await everything(database) == before


async def test_a_call_whose_name_a_provider_repeats_keeps_its_own_charge(database, booked):
    """Guards a mistake of the provider's: only what no call has made gives way."""
    await booked(usage_event(event_id=call_id(2), **SENT | {"quantities": {"messages": 1, "segments": 1}}))
    once = await left(database)

    await booked(off())

    assert await left(database) == once != []
