"""Facts that come later: booked once as the correction of their event, whoever finds them and whatever comes first."""

from __future__ import annotations

import asyncio
import datetime as dt
from itertools import permutations

import pytest
from sqlalchemy import select

from metering.late import late_fact, let_go, ready
from metering.tables import dedupe, late_facts, pending_events, quarantine, usage_events
from metering.usage import Completeness
from pricing.ledger import book
from pricing.tables import charges, rollups, tenant_plans
from tests.builders import DAY_MS, NOON, NOON_MS, call_id, fact, usage_event
from tests.pricing.conftest import LATER

USED = {"input_tokens": 73, "input_tokens_cached": 44, "output_tokens": 46}
PENDING = {"completeness": Completeness.PENDING, "quantities": {}, "external_id": "resp_1", "endpoint": "responses"}


def pending(number=1, **changes):
    return usage_event(event_id=call_id(number), **PENDING | changes)


def final(external_id="resp_1", phase="final", quantities=USED, **changes):
    values = {
        "tenant_id": "acme",
        "source": "openai",
        "completeness": Completeness.REPORTED,
        "resource": "gpt-4o-2024-08-06",
    }
    return late_fact(external_id=external_id, phase=phase, quantities=quantities, **values | changes)


@pytest.fixture
def swept(database, books):
    """Book the facts that waited and can be booked now."""

    async def swept(at=LATER):
        async with database.reading() as connection:
            facts = await ready(connection, 100)
        async with database.transaction() as connection:
            return await book(connection, facts, books, at)

    return swept


async def rows(database, table):
    async with database.reading() as connection:
        return (await connection.execute(select(table).order_by(*table.primary_key.columns))).all()


async def everything(database):
    """All that booking writes, but for when it was written."""
    tables = usage_events, charges, rollups, quarantine, dedupe, pending_events, late_facts
    unseen = {"recorded_at": None, "ask_at": None}
    return [[row._asdict() | unseen for row in await rows(database, table)] for table in tables]


async def sums(database):
    """Events and charge over all days."""
    found = await rows(database, rollups)
    return sum(row.events for row in found), sum(row.charge_nano or 0 for row in found)


async def test_a_late_fact_is_the_correction_of_its_event_and_charged_as_a_call_that_was_told_at_once(database, booked):
    await booked(usage_event(event_id=call_id(9)))
    at_once = await sums(database)
    its = {"category": "search", "tags": {"team": "a"}, "key_id": "k7", "occurred_at_ms": NOON_MS - DAY_MS}
    await booked(pending(**its))
    assert await sums(database) == (2, at_once[1])

    found = await booked(final())

    (correction,) = [row for row in await rows(database, usage_events) if row.kind == "correction"]
    assert [one.event.event_id for one in found.new] == [correction.event_id]
    assert (correction.corrects, correction.quantities, correction.completeness) == (call_id(1), USED, "reported")
    assert (correction.category, correction.tags, correction.key_id) == ("search", {"team": "a"}, "k7")
    assert (correction.event_day, correction.endpoint, correction.call_id) == ("2026-11-19", "responses", call_id(1))
    assert correction.metadata == {"was": "pending"}
    assert await sums(database) == (2, 2 * at_once[1])
    assert await rows(database, pending_events) == []


async def test_a_late_fact_that_is_found_a_hundred_times_is_booked_once(database, booked):
    """Guards money: a response that is polled 50 times, streamed again and asked for by us has one correction."""
    await booked(pending())

    first = await booked(*[final()] * 50)
    again = [await booked(final()) for _ in range(50)]

    assert (len(first.new), first.repeated) == (1, 49)
    assert {(len(one.new), one.repeated, one.waiting) for one in again} == {(0, 1, 0)}
    assert len(await rows(database, usage_events)) == 2
    assert await rows(database, quarantine) == []


async def test_two_that_book_the_same_fact_at_once_book_it_once(database, booked):
    """Guards money: two back offices ask the provider, and both get an answer."""
    await booked(pending())

    both = await asyncio.gather(*[booked(final()) for _ in range(8)])

    assert sorted(len(one.new) for one in both) == [0] * 7 + [1]
    assert len(await rows(database, usage_events)) == 2


async def test_two_phases_that_are_booked_at_once_do_not_both_carry_the_whole_difference(database, booked, books):
    """Guards money: each writer must see what the one before it has booked, or 2 segments become 3."""
    await booked(pending(quantities={"segments": 1}, resource="x"))
    said = {"quantities": {"segments": 2}, "resource": "x"}
    sent = final(phase="sent", completeness=Completeness.PENDING, **said)

    async with database.transaction() as connection:
        await book(connection, [fact(sent)], books, LATER)
        # By now it would have read what the event held, if it did not wait for this transaction.
        second = asyncio.create_task(booked(final(**said)))
        await asyncio.sleep(0.2)
    await second

    amounts = [row.quantities["segments"] for row in await rows(database, usage_events)]
    assert sorted(amounts) == [0, 1, 1]
    assert await rows(database, pending_events) == []


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_the_tables_are_the_same_whatever_comes_first(ledgers, books, order):
    """Guards what was used: the call may be in another worker's spool when its end is heard of."""
    facts = [pending(), final(), final(phase="final:1", resource="gpt-4o-mini", quantities={"input_tokens": 9})]
    tables = []
    for taken in (range(3), order):
        async with ledgers.reused() as database:
            for index in taken:
                for _ in range(2):
                    async with database.transaction() as connection:
                        await book(connection, [fact(facts[index])], books, LATER)
                async with database.reading() as connection:
                    there = await ready(connection, 100)
                async with database.transaction() as connection:
                    await book(connection, there, books, LATER)
            tables.append(await everything(database))

    assert len(tables[0][0]) == 3
    assert tables[0] == tables[1]


async def test_a_fact_about_something_made_around_the_gateway_waits_is_never_billed_and_let_go_of(
    database, booked, swept
):
    """Guards that reading back never bills: also another tenant's call of the same id is not its call."""
    await booked(pending(tenant_id="other"))

    found = await booked(final(), final())
    await swept()

    assert (found.new, found.waiting) == ([], 1)
    assert await sums(database) == (1, 0)
    (waits,) = await rows(database, late_facts)
    assert (waits.key, waits.found_at) == ("openai:resp_1:final", LATER)
    async with database.transaction() as connection:
        assert await let_go(connection, LATER) == 0
        assert await let_go(connection, LATER + dt.timedelta(seconds=1)) == 1
    assert await rows(database, late_facts) == []


async def test_a_fact_about_a_call_whose_use_is_known_adds_nothing(database, booked):
    """A background response that was streamed to its end has said it all: reading it back adds nothing."""
    await booked(usage_event(event_id=call_id(1), external_id="resp_1"))
    before = await sums(database)

    found = await booked(final())

    assert (found.new, found.repeated) == ([], 1)
    assert await sums(database) == before
    assert await rows(database, late_facts) == []


async def test_the_same_phase_with_another_content_is_set_aside(database, booked):
    await booked(pending())
    await booked(final())

    found = await booked(final(quantities={"input_tokens": 74}))

    assert (found.new, len(found.conflicting)) == ([], 1)
    assert len(await rows(database, quarantine)) == 1


async def test_a_correction_is_rated_on_top_of_what_its_event_held(database, booked):
    """Guards money: a call of 61 seconds that was 59 in the end gives back the minute that it had begun."""
    said = {"event_type": "call_minutes", "external_id": "CA1", "source": "twilio", "resource": "US"}
    await booked(pending(**said, quantities={"seconds": 61}))

    await booked(late_fact("acme", "twilio", "CA1", "final", Completeness.REPORTED, {"seconds": 59}, resource="US"))

    events = {row.event_id: row for row in await rows(database, usage_events)}
    (line,) = next(row.lines for row in await rows(database, charges) if events[row.event_id].kind == "correction")
    assert (line["quantity"], line["rated_from"]) == (-2, 61)


async def test_what_the_provider_does_not_say_in_the_end_is_unknown_and_can_still_be_said(database, booked):
    await booked(pending())
    await booked(final(phase="ended", completeness=Completeness.UNKNOWN, quantities={}))
    assert await rows(database, pending_events) == []

    await booked(final())

    kinds = sorted((row.kind, row.completeness) for row in await rows(database, usage_events))
    assert kinds == [("correction", "reported"), ("correction", "unknown"), ("usage", "pending")]
    assert (await sums(database))[1] > 0


async def test_a_call_whose_outcome_came_late_and_is_pending_is_settled_like_any_other(database, booked):
    await booked(
        usage_event(
            event_id=call_id(1),
            completeness=Completeness.UNKNOWN,
            quantities={},
            external_id=None,
            endpoint="responses",
        )
    )
    await booked(pending())

    await booked(final())

    corrections = [row for row in await rows(database, usage_events) if row.kind == "correction"]
    assert {row.corrects for row in corrections} == {call_id(1)}
    assert {row.completeness for row in corrections} == {"pending", "reported"}
    assert await rows(database, pending_events) == []


async def test_a_batch_of_small_requests_does_not_pay_the_price_of_a_large_context(database, booked):
    """Guards money: what one request of it read decides the price, not what all of them read together."""
    batch = {"event_type": "batch", "resource": None, "endpoint": "batches", "external_id": "batch_1"}
    used = {"input_tokens": 10_000_000}
    asked = {"event_type": "batch", "resource": "gpt-5.4", "quantities": used}
    for number, largest in ((1, 1000), (2, 300_000)):
        await booked(pending(number, **batch | {"external_id": f"batch_{number}"}))
        await booked(final(f"batch_{number}", metadata={"context_tokens": largest}, **asked))

    small, large = sorted(row.charge_nano for row in await rows(database, charges) if row.charge_nano)
    assert large == 2 * small


async def test_parts_of_one_object_add_up_in_whatever_order_they_come(database, booked):
    """Guards money: a batch is told in parts, small and large requests of one model apart, and none is in another."""
    await booked(pending(1, event_type="batch", resource=None, endpoint="batches", external_id="batch_1"))
    small = final(
        "batch_1", "final:gpt-5.4", event_type="batch", resource="gpt-5.4", quantities={"input_tokens": 1_000}
    )
    large = final(
        "batch_1", "final:gpt-5.4:large", event_type="batch", resource="gpt-5.4", quantities={"input_tokens": 300_000}
    )
    for part in (large, small, large):
        await booked(part)

    corrections = [row for row in await rows(database, usage_events) if row.kind == "correction"]
    assert sorted(row.quantities["input_tokens"] for row in corrections) == [1_000, 300_000]
    assert {row.corrects for row in corrections} == {call_id(1)}


MAIL = {
    "source": "sendgrid",
    "event_type": "email_outbound",
    "endpoint": "mail.send",
    "external_id": "m1",
    "resource": "transactional",
    "quantities": {"recipients": 2},
}
CALL = {
    "source": "twilio",
    "event_type": "call_outbound",
    "endpoint": "calls.create",
    "external_id": "CA1",
    "resource": "US:long_code",
    "completeness": Completeness.PENDING,
    "quantities": {"requests": 1},
}
TOLD = {"source": "twilio", "external_id": "CA1", "resource": None, "event_type": "call_minutes"}


def price(amount="0.05", **changes):
    metadata = {"provider_cost": amount, "currency": "USD"}
    return final(phase="price", quantities={}, metadata=metadata, **TOLD | changes)


async def costs(database):
    return sum(row.cost_nano or 0 for row in await rows(database, rollups))


async def test_what_was_not_done_after_all_is_taken_off_what_was_reported_and_never_more_than_there_was(
    database, booked
):
    """Guards money: a recipient whose mail is dropped is not sent to, however often and by however many events it is told."""
    await booked(usage_event(event_id=call_id(1), **MAIL))
    less = [final("m1", f"less:{number}", {"recipients": -1}, source="sendgrid", resource=None) for number in range(3)]
    for _ in range(3):
        await booked(*less)

    changes = [row.quantities for row in await rows(database, usage_events) if row.kind == "correction"]
    assert sorted(change["recipients"] for change in changes) == [-1, -1, 0]
    assert sum(row.recipients for row in await rows(database, rollups)) == 0
    assert (await sums(database))[1] == 0


async def test_what_was_not_done_is_taken_off_what_was_told_in_parts(database, booked):
    """Guards money: the recipients of a mail that was found in a list are parts of it, one for each."""
    await booked(pending(1, **MAIL | {"quantities": {}, "completeness": Completeness.PENDING}))
    its = {"source": "sendgrid", "resource": None}
    parts = [final("m1", f"final:{number}", {"recipients": 1}, **its) for number in range(2)]
    less = [final("m1", f"less:{number}", {"recipients": -1}, **its) for number in (1, 2, 3)]

    await booked(*parts)
    await booked(less[0])
    one_left = sum(row.recipients for row in await rows(database, rollups))
    await booked(*less)

    assert one_left == 1
    assert sum(row.recipients for row in await rows(database, rollups)) == 0


@pytest.mark.parametrize("together", ["all", "late", "price first", "none"])
@pytest.mark.parametrize("amount", ["0.05", "0.0", "0.000000001"])
async def test_what_the_provider_says_it_cost_is_the_cost_whatever_the_list_made_of_it(
    database, booked, together, amount
):
    """Guards the margin: the list price of a call and the price that is told must not both be booked."""
    sent = usage_event(event_id=call_id(1), **CALL | {"quantities": {"requests": 1, "seconds": 1}})
    ended = final(phase="final", quantities={"seconds": 61}, **TOLD)
    if together == "all":
        await booked(sent, price(amount), ended)
    else:
        await booked(sent)
        if together == "late":
            await booked(price(amount), ended)
        for one in (price(amount), ended) if together == "price first" else (ended, price(amount)):
            await booked(one)
    await booked(price(amount), ended)

    assert await costs(database) == round(float(amount) * 10**9)
    assert await rows(database, quarantine) == []
    assert await rows(database, pending_events) == []


async def test_a_price_in_a_currency_that_is_not_the_books_changes_nothing(database, booked):
    await booked(usage_event(event_id=call_id(1), **CALL), final(quantities={"seconds": 61}, **TOLD))
    before = await costs(database)

    await booked(final(phase="price", quantities={}, metadata={"provider_cost": "9", "currency": "EUR"}, **TOLD))

    assert await costs(database) == before


async def test_what_is_open_is_asked_again_until_its_price_is_told(database, booked):
    """Guards the margin: a message is delivered minutes before its price is known."""
    await booked(usage_event(event_id=call_id(1), **CALL))
    opened = final(phase="open", quantities={}, **TOLD | {"event_type": ""}, completeness=Completeness.PENDING)

    await booked(final(quantities={"seconds": 61}, **TOLD), opened)
    assert len(await rows(database, pending_events)) == 1
    await booked(final(quantities={"seconds": 61}, **TOLD), opened)
    assert len(await rows(database, pending_events)) == 1
    await booked(price())

    assert await rows(database, pending_events) == []
    assert await rows(database, late_facts) == []


async def test_a_price_that_is_never_told_does_not_make_a_known_end_unknown(database, booked):
    await booked(usage_event(event_id=call_id(1), **CALL), final(quantities={"seconds": 61}, **TOLD))

    await booked(final(phase="lost", quantities={}, **TOLD, completeness=Completeness.UNKNOWN))

    assert [row.completeness for row in await rows(database, usage_events)] == ["pending", "reported"]
    assert await rows(database, pending_events) == []


async def test_what_was_heard_of_is_asked_about_at_once_and_booked_nowhere(database, booked):
    await booked(usage_event(event_id=call_id(1), **CALL))
    heard = final(phase="heard", quantities={}, **TOLD | {"event_type": ""}, completeness=Completeness.PENDING)
    async with database.transaction() as connection:
        await connection.execute(pending_events.update().values(ask_at=LATER + dt.timedelta(hours=1)))

    await booked(heard, heard)

    [row] = await rows(database, pending_events)
    assert row.ask_at == LATER
    assert len(await rows(database, usage_events)) == 1
    assert await rows(database, dedupe) == [row for row in await rows(database, dedupe) if row.key.endswith(":made")]


async def test_what_is_heard_of_before_its_call_waits_for_it(database, booked, swept):
    heard = final(phase="heard", quantities={}, **TOLD | {"event_type": ""}, completeness=Completeness.PENDING)

    await booked(heard)
    assert len(await rows(database, late_facts)) == 1
    await booked(usage_event(event_id=call_id(1), **CALL))
    await swept()

    assert await rows(database, late_facts) == []


async def test_a_price_alone_is_not_the_end_of_asking_and_more_that_is_told_apart_begins_it_again(database, booked):
    """Guards the margin: what one answer says may be booked in two transactions, in whatever order."""
    still_open = final(phase="open", quantities={}, **TOLD | {"event_type": ""}, completeness=Completeness.PENDING)
    await booked(usage_event(event_id=call_id(1), **CALL))

    await booked(price())
    assert len(await rows(database, pending_events)) == 1

    await booked(final(quantities={"seconds": 61}, **TOLD))
    assert await rows(database, pending_events) == []
    await booked(still_open)
    assert await rows(database, pending_events) == []


async def test_what_is_open_is_asked_again_though_its_end_was_booked_before(database, booked):
    """Guards the margin: the end ends the asking, unless somebody says that the price is still to come."""
    still_open = final(phase="open", quantities={}, **TOLD | {"event_type": ""}, completeness=Completeness.PENDING)
    await booked(usage_event(event_id=call_id(1), **CALL))

    await booked(final(quantities={"seconds": 61}, **TOLD))
    await booked(still_open)

    [row] = await rows(database, pending_events)
    assert (row.external_id, row.endpoint) == ("CA1", "calls.create")


async def test_what_failed_after_all_gives_back_what_was_asked_for_it_as_a_whole(database, booked):
    """Guards whoever pays in credits: a message is a credit, and one that failed is none."""
    async with database.transaction() as connection:
        plan = {"tenant_id": "acme", "effective_at": NOON - dt.timedelta(days=30), "plan": "credits"}
        await connection.execute(tenant_plans.insert().values(plan))
    sent = CALL | {
        "event_type": "sms_outbound", "external_id": "SM1", "endpoint": "messages.create",
        "quantities": {"messages": 1, "segments": 2},
    }  # fmt: skip
    await booked(usage_event(event_id=call_id(1), **sent))
    assert sum(row.credits for row in await rows(database, rollups)) == 1

    await booked(final("SM1", quantities={}, source="twilio", resource=None, metadata={"status": "failed"}))

    assert sum(row.credits for row in await rows(database, rollups)) == 0


async def test_an_end_that_is_told_in_other_words_is_the_same(database, booked):
    """Guards the alarm: a carrier took it, and says weeks later that it arrived, or did not."""
    await booked(usage_event(event_id=call_id(1), **CALL))
    for status in ("sent", "delivered", "undelivered"):
        await booked(final(quantities={"seconds": 61}, metadata={"status": status}, **TOLD))

    assert await rows(database, quarantine) == []
