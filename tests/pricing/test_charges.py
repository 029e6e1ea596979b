"""Charges and daily sums as the ledger keeps them."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from pricing.charges import add, append
from pricing.judging import charge_row
from pricing.rating import rate
from pricing.rollups import DailySums
from pricing.tables import ROLLUP_COUNTS, ROLLUP_KEY, ROLLUP_SUMS, charges, rollups
from tests.builders import call_id, fact, usage_event

SUMS = (*ROLLUP_COUNTS, *ROLLUP_SUMS)
KEY = ("acme", "2026-11-20", "openai", "llm_call", "ai", "", "chat.completions", "gpt-4o", "rag", "k1", "USD", "USD")


class Given:
    """The daily sums of one key."""

    def __init__(self, sums):
        self._sums = dict.fromkeys(ROLLUP_COUNTS, 0) | sums

    def columns(self):
        return (*ROLLUP_KEY, *self._sums)

    def rows(self, columns):
        return [(*KEY, *self._sums.values())]


@pytest.fixture
def judged(books):
    """Events with their judgements, numbered."""

    def judged(count, **event):
        events = [usage_event(event_id=call_id(number), **event) for number in range(count)]
        return [(event, rate(fact(event), books.price_book(None), books.cost_book)) for event in events]

    return judged


async def rows(database, table):
    async with database.reading() as connection:
        return (await connection.execute(select(table))).all()


async def test_a_charge_is_kept_with_all_it_takes_to_check_it(database, judged):
    ((event, rated),) = judged(1)
    async with database.transaction() as connection:
        await append(connection, [charge_row(fact(event), rated)])

    (row,) = await rows(database, charges)

    assert (row.tenant_id, row.event_day, row.event_id) == ("acme", "2026-11-20", event.event_id)
    assert (bool(row.priced), row.currency, row.charge_nano, row.credits) == (True, "USD", 837_000, None)
    assert (row.cost_currency, row.cost_nano) == ("USD", 697_500)
    assert (row.price_book, row.cost_book) == ("standard-v1", rated.cost_book)
    assert [(line["dimension"], line["quantity"], line["charge_nano"]) for line in row.lines] == [
        ("input_tokens", 73, 219_000),
        ("input_tokens_cached", 44, 66_000),
        ("output_tokens", 46, 552_000),
    ]
    assert sum(line["charge_nano"] for line in row.lines) == row.charge_nano


async def test_an_event_is_charged_once(database, judged):
    """Watches the key of charges: whoever charges an event again gets an error, and not a second charge."""
    charge = [charge_row(fact(event), rated) for event, rated in judged(1)]
    async with database.transaction() as connection:
        await append(connection, charge)

    with pytest.raises(IntegrityError):
        async with database.transaction() as connection:
            await append(connection, charge)

    assert len(await rows(database, charges)) == 1


async def added(database, *all_sums):
    """The daily sums after adding each of these in a transaction of its own."""
    for values in all_sums:
        async with database.transaction() as connection:
            await add(connection, Given(values))
    (row,) = await rows(database, rollups)
    return {name: getattr(row, name) for name in SUMS}


async def test_sums_add_up_from_transaction_to_transaction(database):
    found = await added(
        database,
        {"events": 1, "units": 5, "charge_nano": 7},
        {"events": 2, "unknown_events": 1, "units": 6, "charge_nano": -3},
    )

    assert (found["events"], found["unknown_events"], found["units"], found["charge_nano"]) == (3, 1, 11, 4)


@pytest.mark.parametrize(
    ("first", "second", "total"), [(None, None, None), (None, 2, 2), (2, None, 2), (0, None, 0), (2, 3, 5)]
)
async def test_a_sum_is_absent_until_something_was_added_and_never_again(database, first, second, total):
    found = await added(database, {"segments": first}, {"segments": second})

    assert found["segments"] == total


async def test_what_is_added_is_what_was_summed(database, judged):
    sums = DailySums()
    for event, rated in judged(3) + judged(2, category="summary"):
        sums.add(fact(event), rated)
    async with database.transaction() as connection:
        await add(connection, sums)

    found = await rows(database, rollups)

    columns = sums.columns()
    assert [tuple(getattr(row, name) for name in columns) for row in found] == sums.rows(columns)
    assert {name for row in found for name, value in row._asdict().items() if value is not None} == {*columns}


async def test_any_text_of_an_event_is_its_charge_s_key(database, books):
    """Watches the text that charges are written as: what ends a string there, or a statement, is no part of it."""
    odd = "'; DROP TABLE charges; -- \" \\ \n \u2028 😀 %s ? :x"
    event = usage_event(event_id="id" + odd, tenant_id="tenant" + odd)
    async with database.transaction() as connection:
        await append(connection, [charge_row(fact(event), rate(fact(event), books.price_book(None), books.cost_book))])

    (row,) = await rows(database, charges)

    assert (row.tenant_id, row.event_day, row.event_id) == event.key
