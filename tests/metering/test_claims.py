"""What is made is counted once: by its call, by a webhook or by its provider's list, whichever comes first."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from metering.claims import is_report, made_key, seconded
from metering.ledger import append
from metering.tables import quarantine, usage_events
from metering.usage import Completeness, Kind, event_id_of
from tests.builders import NOON, call_id, fact, usage_event

SMS = {
    "source": "twilio",
    "event_type": "sms_outbound",
    "endpoint": "messages.create",
    "external_id": "SM1",
    "resource": "US",
    "completeness": Completeness.PENDING,
    "quantities": {"messages": 1},
}


def sent(number=1, **changes):
    """The event of a call that has sent a message."""
    return usage_event(event_id=call_id(number), **SMS | changes)


def listed(external_id="SM1", **changes):
    """The same message, out of its provider's list."""
    key = made_key("twilio", external_id)
    fields = SMS | {"kind": Kind.BACKFILL, "dedupe_key": key, "external_id": external_id, "endpoint": "messages"}
    return usage_event(event_id=event_id_of(key), **fields | changes)


def told(**changes):
    """The same message, as its provider told it by itself when it came in."""
    return listed(**{"kind": Kind.USAGE, "event_type": "sms_inbound"} | changes)


def step(**changes):
    """A question about a call, which its provider told by itself."""
    key = "twilio:CA1:ivr:token"
    fields = {"external_id": None, "event_type": "ivr_step", "quantities": {"requests": 1}, "dedupe_key": key}
    return usage_event(event_id=event_id_of(key), **SMS | fields | changes)


@pytest.fixture
def added(database):
    async def added(*events):
        async with database.transaction() as connection:
            return await append(connection, [fact(event) for event in events], NOON)

    return added


async def booked(database):
    async with database.reading() as connection:
        rows = (await connection.execute(select(usage_events).order_by(usage_events.c.event_id))).all()
        assert (await connection.execute(select(quarantine))).all() == []
    return sorted((row.kind, row.quantities.get("messages", 0), row.key_id) for row in rows)


@pytest.mark.parametrize(
    ("event", "claim"),
    [
        (sent(), "twilio:SM1:made"),
        (sent(external_id=None), None),
        (sent(event_type="message_outbound"), "twilio:SM1:made"),
        (sent(event_type="message_inbound"), "twilio:SM1:made"),
        (sent(event_type="verification"), None),
        (sent(event_type="api_call"), None),
        (sent(kind=Kind.CORRECTION), None),
        (usage_event(event_id=call_id(1), external_id="resp_1"), None),
        (listed(), "twilio:SM1:made"),
        (sent(dedupe_key="twilio:SM1:final", kind=Kind.CORRECTION), "twilio:SM1:final"),
    ],
)
def test_calls_claim_what_their_provider_lists_one_by_one(event, claim):
    assert fact(event).claim == claim


def test_a_report_of_what_is_counted_says_nothing_new():
    assert is_report(listed())
    assert not is_report(sent())
    assert not is_report(listed(dedupe_key="cdr:1:made"))
    assert is_report(told())


def test_what_comes_second_says_whose_it_was_and_adds_nothing():
    found = seconded(sent(key_id="k1", category="campaign"), "other")

    assert (found.corrects, found.quantities, found.kind) == ("other", {}, Kind.CORRECTION)
    assert (found.key_id, found.category, found.event_id) == ("k1", "campaign", call_id(1))
    assert fact(found).claim is None


async def added_once(events, added, *, together):
    """Add events in this order, in one transaction or each in its own; again, they add nothing and contradict nothing."""
    if together:
        await added(*events)
    else:
        for event in events:
            await added(event)
    for event in events * 2:
        again = await added(event)
        assert (again.new, again.conflicting) == ([], [])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("event_type", ["sms_outbound", "message_outbound"])
async def test_a_message_counts_once_whether_its_call_or_the_list_is_read_first(
    database, added, order, together, event_type
):
    """Guards money: without the claim, what a collector finds before the spool is read is billed twice."""
    both = sent(key_id="k1", event_type=event_type), listed(event_type=event_type)
    await added_once([both[place] for place in order], added, together=together)

    found = await booked(database)
    assert sum(amount for _, amount, _ in found) == 1
    assert sum(kind in ("usage", "backfill") for kind, _, _ in found) == 1
    assert any(key_id == "k1" for _, _, key_id in found)


async def test_both_at_once_count_once(database, added):
    """Guards money: the shipper and a collector commit at the same time."""
    pairs = [(sent(n, external_id=f"SM{n}"), listed(f"SM{n}")) for n in range(1, 21)]

    await asyncio.gather(*(added(event) for pair in pairs for event in pair))

    found = await booked(database)
    assert sum(amount for _, amount, _ in found) == 20
    assert sum(kind in ("usage", "backfill") for kind, _, _ in found) == 20


async def test_a_provider_that_repeats_a_name_has_still_taken_on_two_calls(database, added):
    await added(sent(1))
    await added(sent(2))
    await added(sent(2))

    assert [amount for _, amount, _ in await booked(database)] == [1, 1]


async def test_what_a_list_says_later_of_what_is_there_is_no_contradiction(database, added):
    await added(listed())

    again = await added(listed(resource="GB"))

    assert (again.new, again.conflicting, again.repeated) == ([], [], 1)


LATER = NOON.timestamp() * 1000 + 90_000_000


@pytest.mark.parametrize("event", [told, step])
async def test_what_is_told_again_at_another_moment_is_the_same(database, added, event):
    """Guards money, and the operator's peace: a webhook is repeated when its answer was lost."""
    await added(event())

    again = await added(event(occurred_at_ms=int(LATER)), event(occurred_at_ms=int(LATER) + 1))

    assert (again.new, again.conflicting) == ([], [])
    assert len(await booked(database)) == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_what_comes_in_counts_once_whether_it_is_told_or_listed_first(database, added, order):
    events = [(told(), listed())[place] for place in order]
    for event in (*events, *events):
        assert (await added(event)).conflicting == []

    assert sum(amount for _, amount, _ in await booked(database)) == 1


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_what_a_call_began_counts_once_though_a_webhook_tells_of_it_first(database, added, order, together):
    """Guards money: the callback of a short recording may be booked before the call that began it."""
    recording = {"event_type": "recording", "quantities": {}}
    both = sent(key_id="k1", **recording), told(**recording)
    await added_once([both[place] for place in order], added, together=together)

    found = await booked(database)
    assert sum(kind in ("usage", "backfill") for kind, _, _ in found) == 1
    assert any(key_id == "k1" for _, _, key_id in found)


async def test_another_content_under_one_key_is_still_set_aside(added):
    await added(step())

    again = await added(step(quantities={"requests": 2}))

    assert len(again.conflicting) == 1


async def test_each_tenant_has_its_own(database, added):
    await added(listed(), listed(tenant_id="other"))

    assert len(await booked(database)) == 2
