"""There is a table for every month that something is booked in, and nobody but its owner makes one by hand."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError

from metering.ledger import append
from metering.months import Months, ahead
from tests.builders import NOON, fact, usage_event
from tests.ledgers import execute
from tests.postgres import OWNER


@pytest.fixture
async def in_postgres(postgres_ledgers):
    async with postgres_ledgers.new() as database:
        yield database


async def made(database):
    """The months that there are, of events and of charges, in year 2031 and later."""
    question = text(
        "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' "
        "AND relname ~ '_(20[3-9]|[3-9])[0-9]+_' ORDER BY relname"
    )
    async with database.reading() as connection:
        return list((await connection.execute(question)).scalars())


@pytest.mark.parametrize(
    ("now", "months"),
    [
        (dt.datetime(2026, 11, 30, 23, 59, tzinfo=dt.UTC), ["2026-11", "2026-12", "2027-01", "2027-02"]),
        (dt.datetime(2026, 12, 1, tzinfo=dt.UTC), ["2026-12", "2027-01", "2027-02", "2027-03"]),
    ],
)
def test_this_month_and_the_three_after_it_are_made_ahead(now, months):
    assert ahead(now) == months


async def test_an_event_of_any_month_is_kept_once_its_month_was_made(database):
    event = usage_event(occurred_at_ms=253_402_300_799_999)
    await Months(database).ensure([event.event_day])

    async with database.transaction() as connection:
        found = await append(connection, [fact(event)], NOON)

    assert (event.event_day, len(found.new)) == ("9999-12-31", 1)


async def test_an_event_of_a_month_that_was_not_made_is_refused_and_kept_nowhere_else(in_postgres):
    """Watches that there is no table for everything else: what lay there would be in the way of its month."""
    event = usage_event(occurred_at_ms=2_000_000_000_000)

    with pytest.raises(IntegrityError, match="no partition"):
        async with in_postgres.transaction() as connection:
            await append(connection, [fact(event)], NOON)


async def test_a_month_is_made_for_events_and_charges_and_made_once(in_postgres):
    for _ in range(2):
        await Months(in_postgres).ensure(["2031-07-01", "2031-07-31", "2032-01-01"])

    assert await made(in_postgres) == [
        "charges_2031_07",
        "charges_2032_01",
        "usage_events_2031_07",
        "usage_events_2032_01",
    ]


async def test_what_was_made_is_not_asked_for_again_until_it_is_to_be_forgotten(in_postgres, postgres_ledgers):
    months = Months(in_postgres)
    await months.ensure(["2031-07-01"])
    async with postgres_ledgers.owned(in_postgres) as owner:
        await execute(owner, "DROP TABLE usage_events_2031_07, charges_2031_07")
    await months.ensure(["2031-07-01"])
    before = await made(in_postgres)

    months.forget()
    await months.ensure(["2031-07-01"])

    assert before == []
    assert len(await made(in_postgres)) == 2


@pytest.mark.parametrize(
    "month",
    ["", "2031", "2031-7", "2031-13", "2031-00", "20311-01", "2031-07-01", "2031-07\n", "x'; DROP TABLE charges; --"],
)
async def test_the_function_takes_nothing_but_a_month(in_postgres, month):
    """Watches its check: whoever may call it could otherwise have it run what they like with its owner's rights."""
    with pytest.raises(DataError, match="no month"):
        async with in_postgres.transaction() as connection:
            await connection.execute(text("SELECT make_month(:month)"), {"month": month})

    assert await made(in_postgres) == []


async def test_the_function_uses_no_name_that_its_caller_can_bend(in_postgres, postgres_ledgers):
    """Watches its search path: a table or function of the caller's, found first, would run with the owner's rights."""
    async with in_postgres.transaction() as connection:
        for statement in (
            'CREATE TEMP TABLE pg_class (oid oid, relname name, relkind "char", relnamespace oid)',
            "CREATE TEMP TABLE usage_events (event_day text)",
            "SET LOCAL search_path = pg_temp, pg_catalog, public",
            "SELECT public.make_month('2031-07')",
        ):  # fmt: skip
            await connection.execute(text(statement))

    assert await made(in_postgres) == ["charges_2031_07", "usage_events_2031_07"]
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename LIKE '%2031%'"
    assert [row[0] for row in postgres_ledgers.server.execute(owners, database=in_postgres.name.split()[1])] == [OWNER]


async def test_nobody_but_the_service_may_have_a_month_made(in_postgres, postgres_ledgers):
    """Watches that the function was taken from the public, which may call any function it is not kept from."""
    may = "SELECT has_function_privilege('public', 'make_month(text)', 'execute')"

    assert postgres_ledgers.server.execute(may, database=in_postgres.name.split()[1])[0][0] is False
