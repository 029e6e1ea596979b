"""Questions asked of the ledger and the rollups."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import insert

from metering.tables import usage_events
from pricing import queries
from pricing.queries import GROUPS, EventFilter, Position, TooManyGroups
from tests.ledgers import execute
from tests.pricing.ledger_rows import NOON, put, used

SECOND = dt.timedelta(seconds=1)
NOVEMBER = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
DECEMBER = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)


async def events(database, wanted=EventFilter(), limit=1000, after=None):  # noqa: B008 - frozen
    async with database.reading() as connection:
        return await queries.events(connection, wanted, limit, after)


async def summary(database, *group_by, **wanted):
    async with database.reading() as connection:
        return await queries.summary(connection, EventFilter(**wanted), group_by)


def position(row):
    return Position(row.occurred_at, row.event_id, row.tenant_id)


async def test_events_come_newest_first_with_their_charges(database):
    await put(database, used("a", charge_nano=1), used("b", occurred_at=NOON + SECOND, charge_nano=2), used("c"))

    found = await events(database)

    assert [(row.event_id, row.charge_nano) for row in found] == [("b", 2), ("c", 837_000), ("a", 1)]


async def test_an_event_without_a_charge_is_listed_too(database):
    event = {name: value for name, value in used("a").items() if name in usage_events.c}
    async with database.transaction() as connection:
        await connection.execute(insert(usage_events), event)

    [row] = await events(database)

    assert (row.event_id, row.priced, row.charge_nano, row.cost_nano) == ("a", None, None, None)


async def test_a_window_has_its_start_and_not_its_end(database):
    await put(database, *(used(str(n), occurred_at=NOON + n * SECOND) for n in range(4)))

    found = await events(database, EventFilter(start=NOON + SECOND, end=NOON + 3 * SECOND))

    assert [row.event_id for row in found] == ["2", "1"]


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("tenant_id", "globex"),
        ("source", "twilio"),
        ("event_type", "sms_outbound"),
        ("channel", "sms"),
        ("category", "campaign"),
        ("key_id", "k2"),
    ],
)
async def test_each_filter_shows_what_has_the_value_in_the_list_and_in_the_sums(database, attribute, value):
    await put(database, used("other"), used("wanted", **{attribute: value}))

    found = await events(database, EventFilter(**{attribute: value}))
    [sums] = await summary(database, attribute, **{attribute: value})

    assert [row.event_id for row in found] == ["wanted"]
    assert (getattr(sums, attribute), sums.events) == (value, 1)


async def test_paging_visits_every_event_once_while_others_are_booked(database):
    # Many share a moment, two tenants even an id, and what is booked meanwhile lies before, between and after.
    there = [
        used(f"{n:03}", tenant_id=tenant, occurred_at=NOON + (n // 7) * SECOND)
        for n in range(60)
        for tenant in ("acme", "globex")
    ]
    await put(database, *there)
    seen: list[tuple[str, str]] = []
    after = None

    for page in range(1000):
        found = await events(database, EventFilter(), 7, after)
        if not found:
            break
        seen += [(row.tenant_id, row.event_id) for row in found]
        after = position(found[-1])
        await put(
            database,
            *(used(f"late-{page}-{n}", occurred_at=NOON + dt.timedelta(seconds=n * 3)) for n in range(-1, 5)),
        )

    assert max(Counter(seen).values()) == 1
    assert {(row["tenant_id"], row["event_id"]) for row in there} <= set(seen)


async def asked_for(database, engine, *page):
    """The statement that asks for a page, and its parameters."""
    asked = []
    listened = getattr(database, engine).sync_engine
    sqlalchemy_event.listen(listened, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    await events(database, *page)
    return next(call for call in asked if call[0].startswith("SELECT"))


IN_NOVEMBER = EventFilter(start=NOVEMBER, end=DECEMBER)


@pytest.mark.parametrize("tenant_id", ["acme", None])
async def test_a_page_is_found_through_an_index_and_not_sorted(ledgers, database, tenant_id):
    wanted = replace(IN_NOVEMBER, tenant_id=tenant_id)
    statement, parameters = await asked_for(database, "_readers", wanted, 10, Position(NOON, "e", "acme"))

    async with database.reading() as connection:
        if ledgers.engine == "sqlite":
            plan = [row[3] for row in (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters))]
        else:
            # Tables this small would be read whole.
            for way in ("seqscan", "sort", "bitmapscan", "hashjoin", "mergejoin"):
                await connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
            plan = list((await connection.exec_driver_sql(f"EXPLAIN (COSTS OFF) {statement}", parameters)).scalars())

    # Events of one moment, at most, are left to sort.
    if ledgers.engine == "sqlite":
        assert any("USING INDEX ix_usage_events_" in step for step in plan)
        assert "USE TEMP B-TREE FOR ORDER BY" not in plan
    else:
        assert any("Index Scan" in step and "_occurred_at_event_id_idx" in step for step in plan)
        assert not [
            step for step in plan if "Sort" in step and "Incremental Sort" not in step and "Sort Key" not in step
        ]


async def test_a_page_looks_into_no_month_that_can_hold_nothing_of_it(postgres_ledgers):
    """Watches the days in the question: without them, a page of one month would look into every month there is."""
    async with postgres_ledgers.new() as database:
        pages = [(IN_NOVEMBER, 10), (EventFilter(start=NOVEMBER), 10, Position(NOON, "e", "acme")), (EventFilter(), 10)]
        plans = []
        for page in pages:
            statement, parameters = await asked_for(database, "_readers", *page)
            async with database.reading() as connection:
                plan = (await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)).scalars()
                plans.append({month for step in plan for month in re.findall(r"usage_events_(\d{4}_\d\d)", step)})

    assert plans[0] == {"2026_11", "2026_12"}
    assert plans[1] == {"2026_11"}
    assert len(plans[2]) > 2


async def test_sums_are_exact_and_what_was_never_counted_has_none(database):
    await put(
        database,
        used("a", charge_nano=1, cost_nano=None),
        used("b", charge_nano=10**15, cost_nano=None, quantities={"input_tokens": 2, "images": 1}, units=2),
        used("c", completeness="unknown", priced=False, charge_nano=None, cost_nano=None, quantities={}, units=None),
    )

    [sums] = await summary(database)

    assert (sums.events, sums.unknown_events, sums.unpriced_events, sums.units) == (3, 1, 1, 165)
    assert (sums.charge_nano, sums.cost_nano, sums.credits) == (10**15 + 1, None, None)
    assert (sums.input_tokens, sums.images, sums.seconds) == (75, 1, None)
    assert {type(amount) for amount in sums} == {int, str, type(None)}


async def test_groups_stand_in_their_order_and_each_currency_by_itself(database):
    await put(
        database,
        used("a", source="twilio", currency="EUR"),
        used("b", source="openai"),
        used("c", source="twilio", currency="USD"),
        used("d", source="twilio", currency="EUR"),
    )

    found = await summary(database, "source")

    assert [(row.source, row.currency, row.events) for row in found] == [
        ("openai", "USD", 1),
        ("twilio", "EUR", 2),
        ("twilio", "USD", 1),
    ]


async def test_a_month_is_the_sum_of_its_days(database):
    days = [dt.datetime(2026, month, day, 23, 59, tzinfo=dt.UTC) for month, day in ((10, 31), (11, 1), (11, 30))]
    await put(database, *(used(str(day), occurred_at=day) for day in days))

    by_month = await summary(database, "month")
    by_day = await summary(database, "day", start=NOVEMBER, end=DECEMBER)

    assert [(row.month, row.events) for row in by_month] == [("2026-10", 1), ("2026-11", 2)]
    assert [(row.day, row.events) for row in by_day] == [("2026-11-01", 1), ("2026-11-30", 1)]


async def test_sums_over_part_of_a_day_are_refused(database):
    with pytest.raises(ValueError, match="no UTC day begins at"):
        await summary(database, start=NOON)


async def test_a_zone_in_which_a_utc_day_begins_at_another_hour_is_understood(database):
    await put(database, used())
    istanbul = dt.timezone(dt.timedelta(hours=3))

    assert len(await summary(database, start=dt.datetime(2026, 11, 20, 3, tzinfo=istanbul))) == 1


async def test_a_summary_of_too_many_groups_is_refused(database, monkeypatch):
    monkeypatch.setattr(queries, "GROUPS_MAX", 2)
    await put(database, *(used(str(n), key_id=f"k{n}") for n in range(3)))

    assert len(await summary(database, "source")) == 1
    with pytest.raises(TooManyGroups):
        await summary(database, "key_id")


async def test_summing_reads_no_event(database, owner):
    await put(database, used())
    await execute(owner, "DROP TABLE usage_events")

    assert len(await summary(database, *GROUPS)) == 1


EVENTS = st.builds(
    used,
    event_id=st.uuids().map(str),
    tenant_id=st.sampled_from(["acme", "globex"]),
    source=st.sampled_from(["openai", "twilio"]),
    category=st.sampled_from(["rag", "uncategorised"]),
    key_id=st.sampled_from(["k1", None]),
    units=st.none() | st.integers(0, 10**12),
    priced=st.booleans(),
    charge_nano=st.none() | st.integers(-(10**12), 10**12),
    currency=st.sampled_from(["USD", "EUR"]),
    metered=st.sampled_from([True, True, True, False]),
    occurred_at=st.integers(-2 * 86_400, 32 * 86_400).map(lambda second: NOVEMBER + second * SECOND),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(EVENTS, min_size=1, max_size=30, unique_by=lambda row: row["event_id"]),
    group_by=st.lists(st.sampled_from(GROUPS), unique=True, max_size=4),
    wanted=st.fixed_dictionaries(
        {"start": st.sampled_from([None, NOVEMBER]), "end": st.sampled_from([None, DECEMBER])},
        optional={"tenant_id": st.just("acme"), "source": st.just("openai"), "category": st.just("rag")},
    ),
)
def test_a_summary_is_the_sum_of_the_events_that_the_same_filter_lists(ledgers, rows, group_by, wanted):
    async def both():
        async with ledgers.reused() as database:
            await put(database, *rows)
            return await summary(database, *group_by, **wanted), await events(database, EventFilter(**wanted))

    sums, listed = asyncio.run(both())

    def of(row, name):
        values = {"day": row.event_day, "month": row.event_day[:7]}
        return (values[name] if name in values else getattr(row, name)) or ""

    expected: dict[tuple[str, ...], list[int | None]] = {}
    for row in listed:
        if row.metered:
            found = expected.setdefault(tuple(of(row, name) for name in (*group_by, "currency")), [0, None, None])
            found[0] += 1
            for at, amount in ((1, row.units), (2, row.charge_nano)):
                if amount is not None:
                    found[at] = (found[at] or 0) + amount
    assert {
        tuple(getattr(row, name) for name in (*group_by, "currency")): [row.events, row.units, row.charge_nano]
        for row in sums
    } == expected
