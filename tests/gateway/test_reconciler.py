"""The ledger held against a provider, and made to meet it: on either engine, against one that lists what the test wants."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fractions import Fraction
from itertools import permutations
from uuid import uuid4

import msgspec
import pytest
from sqlalchemy import insert, select

from gateway.providers import openai, twilio
from gateway.providers.api import Record, Total
from gateway.providers.learnt import Late, Usage
from gateway.reconciler import Account, NotReconciled, Reconciler, Wanted
from gateway.recorder import late_event
from gateway.tables import audit_log
from metering.claims import made_key
from metering.intents import Intent
from metering.late import PRICE
from metering.ledger import Appended
from metering.reconciliation import PLATFORM, Cause, Resolution
from metering.tables import quarantine, usage_events
from metering.usage import Completeness, Kind, UsageEvent, event_id_of
from pricing.ledger import book
from pricing.queries import EventFilter, summary
from tests.builders import NOON, NOON_MS, call_id, fact, usage_event

DAY = dt.date(2026, 11, 20)
A_WEEK_LATER = NOON + dt.timedelta(days=7)

CORRECTED, EXPLAINED, OPEN = Resolution.CORRECTED, Resolution.EXPLAINED, Resolution.OPEN


def hashed(party):
    return f"hash of {party}"


class Provider:
    """A provider: its objects, and what it charges besides. It bills 0.0079 a segment and 0.014 a begun minute."""

    def __init__(self):
        self.objects = {}
        self.fees = {}
        self.as_of = "2026-11-27T00:00:00+00:00"
        self.hidden = set()
        self.rcs = set()

    def sends(self, number, segments=1, at_ms=NOON_MS, to="+1", sender="+2"):
        sid = f"SM{number:032x}"
        self.objects[sid] = ("sms", at_ms, segments, {"to": to, "from": sender})
        return sid

    def calls(self, number, seconds, at_ms=NOON_MS):
        sid = f"CA{number:032x}"
        self.objects[sid] = ("call", at_ms, seconds, {"to": "+1", "from": "+2"})
        return sid

    def record(self, sid):
        kind, at_ms, used, parties = self.objects[sid]
        sms = kind == "sms"
        metadata = {"status": "delivered" if sms else "completed"}
        quantities = {"messages": 1, "segments": used} if sms else {"seconds": used}
        final = Usage(
            quantities=quantities,
            completeness=Completeness.REPORTED,
            event_type="sms_outbound" if sms else "call_minutes",
            metadata=metadata,
        )
        cost = {"provider_cost": str(self.cost(sid)), "currency": "USD"}
        price = Usage(quantities={}, completeness=Completeness.REPORTED, metadata=cost)
        return Record(
            external_id=sid,
            occurred_at_ms=at_ms,
            account="AC1",
            endpoint="messages.create" if sms else "calls.create",
            made=Usage(
                quantities={"messages": 1} if sms else {"requests": 1},
                completeness=Completeness.PENDING,
                resource="US",
                event_type="message_outbound" if sid in self.rcs else "sms_outbound" if sms else "call_outbound",
                parties=parties,
            ),
            late=(
                Late(external_id=sid, usage=final),
                Late(external_id=sid, phase=PRICE, usage=price),
            ),
        )

    def cost(self, sid):
        kind, _, used, _ = self.objects[sid]
        return used * Decimal("0.0079") if kind == "sms" else -(-used // 60) * Decimal("0.014")

    def of_day(self, day):
        return [sid for sid, (_, at_ms, _, _) in self.objects.items() if day_of(at_ms) == day]

    def totals(self, day):
        def total(category, **said):
            return Total(day=day, account="AC1", category=category, currency="USD", as_of=self.as_of, **said)

        sids = self.of_day(day)
        messages = [sid for sid in sids if self.objects[sid][0] == "sms" and sid not in self.rcs]
        others = [sid for sid in sids if sid in self.rcs]
        calls = [sid for sid in sids if self.objects[sid][0] == "call"]
        fees = {category: cost for (on, category), cost in self.fees.items() if on == day}
        yield total(
            "sms-outbound",
            count=len(messages),
            usage=Decimal(sum(self.objects[sid][2] for sid in messages)),
            cost=sum(map(self.cost, messages), Decimal(0)),
        )
        yield total(
            "calls-outbound",
            count=len(calls),
            usage=Decimal(sum(-(-self.objects[sid][2] // 60) for sid in calls)),
            cost=sum(map(self.cost, calls), Decimal(0)),
        )
        if others:
            yield total("channels-rcs-outbound", count=len(others), cost=sum(map(self.cost, others), Decimal(0)))
        for category, cost in fees.items():
            yield total(category, count=1, usage=Decimal(1), cost=cost)
        yield total("totalprice", cost=sum(map(self.cost, sids), Decimal(0)) + sum(fees.values(), Decimal(0)))


def day_of(at_ms):
    return dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC).date()


class FakeLists:
    """Reads the provider, and books as the collector does: what was made, what became of it, what it cost."""

    def __init__(self, provider, booked):
        self.provider, self._booked = provider, booked
        self.account = Account("twilio", "acme")
        self.collected = 0

    async def accounts(self, source, tenant_id):
        return [self.account]

    async def collect(self, account, first, last, asked_by):
        self.collected += 1
        day = first
        while day <= last:
            for sid in self.provider.of_day(day):
                await self._booked(backfilled(self.provider.record(sid)))
            day += dt.timedelta(days=1)
        return True

    async def records(self, account, day):
        sids = [sid for sid in self.provider.of_day(day) if sid not in self.provider.hidden]
        for start in range(0, len(sids), 3):
            yield [self.provider.record(sid) for sid in sids[start : start + 3]]

    async def totals(self, account, day):
        return list(self.provider.totals(day))

    async def nobodys(self, account, first, last):
        return []


def backfilled(record, tenant_id="acme"):
    key = made_key("twilio", record.external_id)
    made = UsageEvent(
        event_id=event_id_of(key),
        tenant_id=tenant_id,
        source="twilio",
        event_type=record.made.event_type,
        endpoint=record.endpoint,
        occurred_at_ms=record.occurred_at_ms,
        completeness=Completeness.PENDING,
        quantities=record.made.quantities,
        resource=record.made.resource,
        external_id=record.external_id,
        kind=Kind.BACKFILL,
        direction="outbound",
        dedupe_key=key,
    )
    return [fact(made), *(fact(late_event(tenant_id, "twilio", one)) for one in record.late)]


class Clock:
    def __init__(self):
        self.now = A_WEEK_LATER

    def __call__(self):
        # Two moments are two.
        self.now += dt.timedelta(milliseconds=1)
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def booked(database, books, clock):
    async def booked(facts):
        async with database.transaction() as connection:
            return [await book(connection, facts, books, clock())]

    return booked


@pytest.fixture
def provider():
    return Provider()


@pytest.fixture
def lists(provider, booked):
    return FakeLists(provider, booked)


@pytest.fixture
def reconcile(database, booked, lists, clock):
    reconciler = Reconciler(database, booked, lists, {"twilio": twilio.PROVIDER.figures}, hashed, clock)

    async def reconcile(first=DAY, last=DAY, tenant_id="acme", tolerance=Fraction(0), source="twilio"):
        return await reconciler.reconcile(Wanted(source, tenant_id, first, last, tolerance, "test"))

    return reconcile


@pytest.fixture
def rows(database):
    async def rows():
        async with database.reading() as connection:
            found = await connection.execute(select(usage_events).order_by(usage_events.c.event_id))
            return [tuple(row) for row in found]

    return rows


def sent(provider, sid, number, **changes):
    """The event of a call that sent a message, as its answer tells it."""
    record = provider.record(sid)
    values = {
        "event_id": call_id(number),
        "source": "twilio",
        "event_type": record.made.event_type,
        "endpoint": record.endpoint,
        "occurred_at_ms": record.occurred_at_ms - 300,
        "completeness": Completeness.PENDING,
        "quantities": record.made.quantities,
        "resource": "US",
        "external_id": sid,
        "direction": "outbound",
    }
    return fact(usage_event(**values | changes))


def lost(number, to="+1", sender="+2", at_ms=NOON_MS):
    """A call whose worker was killed."""
    intent = Intent(
        call_id=call_id(number),
        tenant_id="acme",
        source="twilio",
        event_type="sms_outbound",
        endpoint="messages.create",
        occurred_at_ms=at_ms,
        direction="outbound",
        category="campaign",
        key_id="k7",
        metadata={"to": hashed(to), "from": hashed(sender)},
    )
    return fact(intent.unknown())


def causes(report, category=None):
    return [
        (one.cause, one.resolution, one.amounts)
        for comparison in report.comparisons
        for one in comparison.differences
        if category in (None, comparison.subject.category)
    ]


async def total(database, **wanted):
    async with database.reading() as connection:
        found = await summary(connection, EventFilter(**wanted), ())
    return {
        name: sum(getattr(row, name) or 0 for row in found)
        for name in ("events", "messages", "segments", "seconds", "cost_nano")
    }


async def test_a_day_whose_calls_all_went_through_the_gateway_has_no_difference(reconcile, provider, lists, booked):
    for number in range(5):
        sid = provider.sends(number, segments=number + 1)
        await booked([sent(provider, sid, number)])
    await lists.collect(None, DAY, DAY, "schedule")

    report = await reconcile()

    assert causes(report) == []
    assert report.matched
    [messages] = [one for one in report.comparisons if one.subject.category == "sms-outbound"]
    assert messages.told == messages.held == {"messages": 5, "segments": 15, "cost_nano": 118_500_000}


async def test_what_went_around_the_gateway_is_booked_and_named(database, reconcile, provider, booked):
    await booked([sent(provider, provider.sends(1, segments=2), 1)])
    provider.sends(2, segments=3)

    report = await reconcile()

    found = {cause: amounts for cause, _, amounts in causes(report, "sms-outbound")}
    assert found[Cause.NOT_PROXIED] == {"messages": 1, "segments": 3, "cost_nano": 23_700_000}
    assert found[Cause.STATUS_CHANGED]["segments"] == 2
    assert all(resolution is CORRECTED for _, resolution, _ in causes(report))
    assert await total(database) == {
        "events": 2,
        "messages": 2,
        "segments": 5,
        "seconds": 0,
        "cost_nano": 39_500_000,
    }


async def test_what_was_listed_before_its_call_said_that_its_metering_was_off_is_taken_back_and_named(
    database, reconcile, provider, lists, booked, rows
):
    sid = provider.sends(1, segments=2)
    await lists.collect(None, DAY, DAY, "schedule")
    assert (await total(database))["segments"] == 2
    await booked([sent(provider, sid, 1, metered=False)])

    report = await reconcile()

    assert set((await total(database)).values()) == {0}
    [messages] = [one for one in report.comparisons if one.subject.category == "sms-outbound"]
    whole = {"messages": 1, "segments": 2, "cost_nano": 15_800_000}
    assert (messages.told, messages.held) == (whole, dict.fromkeys(whole, 0))
    assert causes(report, "sms-outbound") == [
        (Cause.NOT_PROXIED, CORRECTED, whole),
        (Cause.NOT_ATTRIBUTED, CORRECTED, {name: -amount for name, amount in whole.items()}),
        (Cause.NOT_ATTRIBUTED, EXPLAINED, whole),
    ]
    assert report.matched
    once = await rows()
    await reconcile()
    assert await rows() == once


async def test_a_second_run_changes_nothing_in_the_ledger(reconcile, provider, booked, rows):
    provider.sends(1, segments=3)
    provider.calls(2, seconds=61)
    provider.fees[DAY, "phonenumbers"] = Decimal("1.15")
    await booked([lost(3)])
    await reconcile()
    after_one = await rows()

    report = await reconcile()

    assert await rows() == after_one
    assert report.matched


async def test_begun_minutes_are_rounding_and_each_leg_is_rounded_by_itself(reconcile, provider):
    for number, seconds in enumerate((1, 59, 60, 61)):
        provider.calls(number, seconds)

    report = await reconcile()

    assert (Cause.ROUNDING, EXPLAINED, {"seconds": 119}) in causes(report, "calls-outbound")
    assert report.matched


# ---------------------------------------------------------------------------------------------------------------------
# Costs without use


async def test_what_costs_money_and_nobody_used_is_booked_so_that_the_totals_meet(database, reconcile, provider):
    sid = provider.sends(1)
    provider.fees[DAY, "phonenumbers"] = Decimal("1.15")
    provider.fees[DAY, "sms-messages-carrierfees"] = Decimal("0.0030")
    provider.fees[DAY, "some-new-fee"] = Decimal("0.5")

    report = await reconcile()

    fees = [(one.cause, one.resolution) for one in _differences(report, "phonenumbers")]
    assert fees == [(Cause.NOT_USAGE, CORRECTED)]
    assert _differences(report, "other")[0].amounts == {"cost_nano": 500_000_000}
    whole = provider.cost(sid) + sum(provider.fees.values())
    assert (await total(database))["cost_nano"] == whole * 10**9
    assert (await total(database))["events"] == 1


@pytest.mark.parametrize("early", [True, False])
async def test_what_it_costs_is_booked_once_though_no_category_that_is_known_has_it(
    database, reconcile, provider, booked, early
):
    """Guards money: the price of a message is on the message, whatever the provider calls its category by now."""
    provider.sends(1)
    provider.fees[DAY, "carrier-pigeons"] = Decimal("0.5")
    provider.fees[DAY, "channels-messenger-outbound"] = Decimal("0.25")
    whole = 10**9 * sum((provider.cost(sid) for sid in provider.objects), sum(provider.fees.values()))
    if early:
        # Its price is told after the totals were booked.
        await reconcile()
        assert (await total(database))["cost_nano"] == whole - 250_000_000
    for number, event_type, cost in ((7, "pigeon", "0.5"), (8, "message_outbound", "0.25")):
        sid = f"SM{number:032x}"
        told = {"provider_cost": cost, "currency": "USD"}
        price = Usage(quantities={}, completeness=Completeness.REPORTED, metadata=told)
        call = usage_event(
            event_id=call_id(number),
            source="twilio",
            event_type=event_type,
            external_id=sid,
            completeness=Completeness.PENDING,
            quantities={"messages": 1},
            occurred_at_ms=NOON_MS,
        )
        late = Late(external_id=sid, phase=PRICE, usage=price)
        await booked([fact(call), fact(late_event("acme", "twilio", late))])

    report = await reconcile()

    assert (await total(database))["cost_nano"] == whole
    assert report.matched
    assert (await reconcile()).matched
    assert (await total(database))["cost_nano"] == whole


def _differences(report, category):
    return [one for found in report.comparisons if found.subject.category == category for one in found.differences]


@pytest.mark.parametrize(("now", "more"), [("2.30", 1_150_000_000), ("0.40", -750_000_000), ("0", -1_150_000_000)])
async def test_another_figure_of_the_same_day_books_what_is_new_of_it(database, reconcile, provider, rows, now, more):
    provider.fees[DAY, "phonenumbers"] = Decimal("1.15")
    await reconcile()
    provider.fees[DAY, "phonenumbers"] = Decimal(now)

    report = await reconcile()
    twice = await rows()
    await reconcile()

    assert _differences(report, "phonenumbers")[-1].amounts == {"cost_nano": more}
    assert (await total(database))["cost_nano"] == Decimal(now) * 10**9
    assert await rows() == twice


async def test_costs_on_the_account_that_tenants_share_are_nobodys(database, reconcile, provider, lists):
    lists.account = Account("twilio", None)
    provider.fees[DAY, "phonenumbers"] = Decimal("1.15")

    await reconcile(tenant_id=None)

    assert (await total(database, tenant_id=PLATFORM))["cost_nano"] == 1_150_000_000


# ---------------------------------------------------------------------------------------------------------------------
# Unknown outcomes


async def test_a_call_that_was_killed_is_found_again_and_keeps_what_the_call_said(
    database, reconcile, provider, booked
):
    provider.sends(1, segments=2, at_ms=NOON_MS + 700)
    await booked([lost(1)])

    report = await reconcile()

    assert await total(database, category="campaign", key_id="k7") == {
        "events": 1,
        "messages": 1,
        "segments": 2,
        "seconds": 0,
        "cost_nano": 15_800_000,
    }
    assert (await total(database))["events"] == 1
    assert causes(report, "sms-outbound") == [
        (Cause.UNKNOWN_OUTCOME, CORRECTED, {"messages": 1, "segments": 2, "cost_nano": 15_800_000})
    ]


async def test_of_two_that_it_can_have_made_neither_is_its(database, reconcile, provider, booked):
    provider.sends(1, segments=2, at_ms=NOON_MS + 700)
    provider.sends(2, segments=3, at_ms=NOON_MS + 900)
    await booked([lost(1)])

    await reconcile()

    assert (await total(database, category="campaign"))["messages"] == 0
    assert (await total(database))["segments"] == 5


async def test_what_another_call_has_made_is_not_looked_at(database, reconcile, provider, booked):
    known, lost_one = provider.sends(1, at_ms=NOON_MS + 400), provider.sends(2, segments=3, at_ms=NOON_MS + 700)
    await booked([sent(provider, known, 5), lost(1)])

    await reconcile()

    async with database.reading() as connection:
        at = usage_events.c
        found = await connection.execute(select(at.external_id).where(at.corrects == call_id(1)).distinct())
        assert found.scalars().all() == [lost_one]
        assert (await connection.execute(select(quarantine))).all() == []


async def test_on_a_shared_account_one_tenants_calls_are_not_told_apart_by_themselves(
    database, provider, lists, booked, clock
):
    """Guards both tenants: another's killed call can have made the message just as well, and is not looked at here."""
    provider.sends(1, at_ms=NOON_MS + 700)
    other = lost(2)
    await booked([lost(1), fact(msgspec.structs.replace(other.event, tenant_id="globex"))])
    reconciler = Reconciler(database, booked, lists, {}, hashed, clock)

    alone = await reconciler.resolve_unknown(Account("twilio", "acme", shared=True), DAY, DAY)
    together = await reconciler.resolve_unknown(Account("twilio", None), DAY, DAY)

    assert (alone, together) == (0, 0)


@pytest.mark.parametrize("account", [Account("twilio", None), Account("twilio", "acme")])
async def test_what_another_tenants_call_has_made_is_not_looked_at(database, provider, lists, booked, clock, account):
    """Guards both tenants: what one has sent would be found to be what the other's killed call has made."""
    sid = provider.sends(1, at_ms=NOON_MS + 700)
    await booked([sent(provider, sid, 2, tenant_id="globex"), lost(1)])
    reconciler = Reconciler(database, booked, lists, {}, hashed, clock)

    assert await reconciler.resolve_unknown(account, DAY, DAY) == 0
    assert (await total(database, tenant_id="acme"))["messages"] == 0


async def test_a_call_that_never_reached_the_provider_stays_unknown(database, reconcile, provider, booked):
    await booked([sent(provider, provider.sends(1, at_ms=NOON_MS + 400), 5), lost(1)])

    await reconcile()

    assert (await total(database))["messages"] == 1
    assert (await total(database, category="campaign"))["messages"] == 0
    async with database.reading() as connection:
        assert (await connection.execute(select(quarantine))).all() == []


async def test_an_outcome_that_is_recorded_after_all_is_not_counted_twice(database, reconcile, provider, booked):
    sid = provider.sends(1, segments=2, at_ms=NOON_MS + 700)
    await booked([lost(1)])
    await reconcile()

    late = sent(provider, sid, 1, occurred_at_ms=NOON_MS, category="campaign", key_id="k7")
    await booked([late])
    await booked([late])

    assert await total(database) == {"events": 1, "messages": 1, "segments": 2, "seconds": 0, "cost_nano": 15_800_000}
    async with database.reading() as connection:
        assert (await connection.execute(select(quarantine))).all() == []


# ---------------------------------------------------------------------------------------------------------------------
# Objects that are not on the day, or not at all


async def test_what_was_sent_before_midnight_and_is_dated_after_it_is_late_on_both_days(reconcile, provider, booked):
    midnight_ms = NOON_MS + 12 * 3_600_000
    message, leg = provider.sends(1, segments=2, at_ms=midnight_ms + 100), provider.calls(2, 61, at_ms=midnight_ms + 50)
    for number, sid in enumerate((message, leg)):
        await booked([sent(provider, sid, number)])

    report = await reconcile(last=DAY + dt.timedelta(days=1))

    late = [one for _, resolution, one in causes(report) if resolution is EXPLAINED]
    assert {"messages": 1, "segments": 2, "cost_nano": 15_800_000} in late
    assert {"messages": -1, "segments": -2, "cost_nano": -15_800_000} in late
    assert Cause.UNEXPLAINED not in {cause for cause, _, _ in causes(report)}
    assert report.matched


async def test_a_message_for_which_a_messaging_service_picked_another_channel_is_explained_in_both(
    reconcile, provider, booked, rows
):
    """It was taken on as an SMS, and its list calls it RCS: it is counted once, under what its call was told."""
    await booked([sent(provider, provider.sends(1), 1)])
    picked = provider.sends(2, segments=2)
    await booked([sent(provider, picked, 2)])
    provider.rcs.add(picked)

    report = await reconcile()

    found = {
        one.subject.category: [
            (each.cause, each.resolution, each.amounts) for each in one.differences if each.resolution is not CORRECTED
        ]
        for one in report.comparisons
    }
    cost = provider.cost(picked) * 10**9
    assert found["sms-outbound"] == [
        (Cause.STATUS_CHANGED, EXPLAINED, {"messages": -1, "segments": -2, "cost_nano": -cost}),
    ]
    assert found["channels-others-outbound"] == [(Cause.STATUS_CHANGED, EXPLAINED, {"messages": 1, "cost_nano": cost})]
    assert report.matched
    once = await rows()
    await reconcile()
    assert await rows() == once


async def test_what_the_ledger_has_and_the_provider_does_not_list_is_open(reconcile, provider, booked):
    sid = provider.sends(1, segments=2)
    await booked(backfilled(provider.record(sid)))
    del provider.objects[sid]

    report = await reconcile()

    assert (Cause.MISSING_AT_PROVIDER, OPEN, {"messages": -1, "segments": -2, "cost_nano": -15_800_000}) in causes(
        report
    )
    assert not report.matched


# ---------------------------------------------------------------------------------------------------------------------
# One tenant on a shared account


async def test_a_tenant_on_a_shared_account_is_compared_with_its_own_objects(reconcile, provider, lists, booked):
    lists.account = Account("twilio", "acme", shared=True)
    await booked(backfilled(provider.record(provider.sends(1, segments=2))))
    await booked(backfilled(provider.record(provider.calls(2, seconds=30))))
    await booked(backfilled(provider.record(provider.sends(3, segments=9)), "globex"))
    lists.collect = _nothing

    report = await reconcile()

    told = {one.subject.category: one.told for one in report.comparisons}
    assert told == {
        "sms_outbound": {"messages": 1, "segments": 2, "cost_nano": 15_800_000},
        "call_outbound": {"seconds": 30, "cost_nano": 14_000_000},
    }
    assert report.matched


async def _nothing(*_):
    return True


# ---------------------------------------------------------------------------------------------------------------------
# What can not be done


async def test_a_source_without_figures_of_its_own_is_refused(reconcile):
    with pytest.raises(NotReconciled, match="no figures"):
        await reconcile(source="elsewhere")


@pytest.mark.parametrize("days", [-1, 62])
async def test_a_run_takes_some_days_and_not_any_number(reconcile, days):
    with pytest.raises(NotReconciled, match="1 to 62 days"):
        await reconcile(last=DAY + dt.timedelta(days=days))


async def test_an_account_that_is_not_over_is_late_and_not_alarming(reconcile, provider, clock):
    clock.now = NOON + dt.timedelta(hours=1)
    provider.as_of = "2026-11-20T12:30:00+00:00"
    provider.sends(1)
    provider.totals = lambda day: [
        Total(day=day, account="AC1", category="sms-outbound", count=0, usage=Decimal(0), as_of=provider.as_of)
    ]

    report = await reconcile()

    assert (Cause.LATE, EXPLAINED, {"messages": -1, "segments": -1}) in causes(report)
    assert report.matched


# ---------------------------------------------------------------------------------------------------------------------
# A provider that lists no single calls


DAY_BEFORE = DAY - dt.timedelta(days=1)


class Totals:
    """A provider that says how much was used of which model on which day, and not by whom."""

    def __init__(self):
        self.used = {}
        self.account = Account("openai", "acme", named_in="openai_project")

    def say(self, model="gpt-4o", day=DAY, kind="completions", calls=1, **amounts):
        self.used[day, f"{kind}:{model}"] = (calls, amounts)

    async def accounts(self, source, tenant_id):
        return [self.account]

    async def collect(self, account, first, last, asked_by):
        return False

    async def totals(self, account, day):
        return [
            Total(day=on, account="proj_1", category=category, count=calls, usage=Decimal(amount), usage_unit=unit)
            for (on, category), (calls, amounts) in self.used.items()
            for unit, amount in amounts.items()
            if on == day
        ]

    async def nobodys(self, account, first, last):
        return []


@pytest.fixture
def totals():
    return Totals()


@pytest.fixture
def meet(database, booked, totals, clock):
    reconciler = Reconciler(database, booked, totals, {"openai": openai.PROVIDER.figures}, hashed, clock)

    async def meet(first=DAY, last=DAY, tenant_id="acme"):
        return await reconciler.reconcile(Wanted("openai", tenant_id, first, last, Fraction(0), "test"))

    return meet


def chat(number, model="gpt-4o", day=DAY, **quantities):
    """The event of a call through the gateway."""
    at_ms = NOON_MS + (day - DAY).days * 86_400_000
    values = {"source": "openai", "event_type": "llm_call", "endpoint": "chat.completions", "resource": model}
    return fact(usage_event(event_id=call_id(number), occurred_at_ms=at_ms, quantities=quantities, **values))


async def used(database, **wanted):
    async with database.reading() as connection:
        found = await summary(connection, EventFilter(**wanted), ())
    names = ("events", "input_tokens", "output_tokens", "charge_nano", "cost_nano")
    return {name: sum(getattr(row, name) or 0 for row in found) for name in names}


async def of_kind(database, kind):
    async with database.reading() as connection:
        at = usage_events.c
        return (await connection.execute(select(usage_events).where(at.kind == kind).order_by(at.event_id))).all()


async def test_use_of_a_model_around_the_gateway_is_booked_as_what_calls_leave_of_the_whole(
    database, meet, totals, booked
):
    await booked([chat(1, input_tokens=600, output_tokens=50)])
    totals.say(calls=4, input_tokens=1600, output_tokens=80)

    report = await meet()

    [event] = await of_kind(database, Kind.BACKFILL)
    assert (event.tenant_id, event.event_type, event.resource, event.event_day) == (
        "acme",
        "llm_call",
        "gpt-4o",
        DAY.isoformat(),
    )
    assert event.quantities == {"input_tokens": 1000, "output_tokens": 30}
    # The list price, which is 2.50 USD and 10 USD for a million.
    assert (await used(database))["cost_nano"] == 1600 * 2500 + 80 * 10_000
    assert (await used(database))["charge_nano"] > 0
    assert causes(report) == [(Cause.NOT_PROXIED, CORRECTED, {"input_tokens": 1000, "output_tokens": 30})]
    assert report.matched


async def test_a_second_run_books_nothing_and_one_that_sees_more_books_the_rest(meet, totals, booked, rows, database):
    totals.say(input_tokens=1000)
    await meet()
    once = await rows()
    assert (await meet()).matched
    assert await rows() == once

    totals.say(input_tokens=1200, output_tokens=5)
    report = await meet()
    twice = await rows()
    await meet()

    assert len(twice) == len(once) + 1
    assert await rows() == twice
    assert {name: (await used(database))[name] for name in ("events", "input_tokens", "output_tokens")} == {
        "events": 1,
        "input_tokens": 1200,
        "output_tokens": 5,
    }
    assert report.matched


async def test_calls_that_are_booked_later_take_back_what_was_booked_in_their_place(
    database, meet, totals, booked, rows
):
    totals.say(calls=2, input_tokens=1000, output_tokens=70)
    await meet()
    await booked([chat(1, input_tokens=400, output_tokens=70)])
    before = await used(database)
    assert before["input_tokens"] == 1400

    report = await meet()

    whole = 1000 * 2500 + 70 * 10_000
    assert {**await used(database), "events": 0, "charge_nano": 0} == {
        "events": 0,
        "input_tokens": 1000,
        "output_tokens": 70,
        "charge_nano": 0,
        "cost_nano": whole,
    }
    assert report.matched

    await booked([chat(2, input_tokens=600)])
    assert (await meet()).matched
    nothing_around = await used(database)
    assert (nothing_around["input_tokens"], nothing_around["cost_nano"]) == (1000, whole)
    after = await rows()
    await meet()
    assert await rows() == after


@pytest.mark.parametrize("earlier_ms", [0, 86_400_000])
async def test_what_a_batch_that_is_not_over_may_have_used_did_not_go_around(
    database, meet, totals, booked, rows, earlier_ms
):
    """Guards a batch's end, which would be booked besides: until then its event names no model."""
    values = {"source": "openai", "event_type": "batch", "endpoint": "batches.create", "resource": None}
    pending = {"quantities": {}, "completeness": Completeness.PENDING, "external_id": "batch_1"}
    await booked([fact(usage_event(occurred_at_ms=NOON_MS - earlier_ms, **values, **pending))])
    totals.say(kind="completions.batch", input_tokens=1000)
    before = await rows()

    await meet()

    assert await rows() == before


async def test_calls_with_their_metering_off_did_not_go_around(database, meet, totals, booked):
    """Guards what an operator promised not to charge: it is in no sum, and was used through the gateway all the same."""
    values = {"source": "openai", "event_type": "llm_call", "endpoint": "chat.completions", "resource": "gpt-4o"}
    await booked([fact(usage_event(occurred_at_ms=NOON_MS, quantities={"input_tokens": 700}, metered=False, **values))])
    totals.say(input_tokens=1000)

    await meet()

    [event] = await of_kind(database, Kind.BACKFILL)
    assert event.quantities == {"input_tokens": 300}


async def test_what_a_project_was_used_for_before_it_was_the_tenants_is_not_the_tenants(database, meet, totals, rows):
    """Guards a project that goes from one tenant to another, who would pay once more for what the first one used."""
    await moved(database, "acme", NOON + dt.timedelta(days=2))
    totals.say(input_tokens=1000)
    before = await rows()

    report = await meet(tenant_id=None)

    assert await rows() == before
    assert (Cause.NOT_PROXIED, OPEN, {"input_tokens": 1000}) in causes(report)

    # Who names the tenant says that it is.
    await meet()
    assert await rows() != before


async def moved(database, tenant_id, at, action="integration.change", subject=None, fields=("openai_project",)):
    """As the audit log tells it."""
    row = {"audit_id": str(uuid4()), "at": at, "actor": "test", "action": action, "tenant_id": tenant_id}
    async with database.transaction() as connection:
        values = row | {"subject": subject or tenant_id, "detail": {"fields": list(fields)}}
        await connection.execute(insert(audit_log).values(values))


async def test_another_field_of_its_integration_says_nothing_of_whose_a_project_was(database, meet, totals):
    await moved(database, "acme", NOON + dt.timedelta(days=2), fields=("sms_url",))
    totals.say(input_tokens=1000)

    await meet(tenant_id=None)

    [event] = await of_kind(database, Kind.BACKFILL)
    assert event.quantities == {"input_tokens": 1000}


async def tokens(database, tenants, day):
    """What tenants pay for of a day."""
    async with database.reading() as connection:
        at = usage_events.c
        statement = select(at.quantities).where(at.tenant_id.in_(tenants), at.event_day == day.isoformat())
        return sum(row.quantities.get("input_tokens", 0) for row in await connection.execute(statement))


@pytest.mark.parametrize("named", [False, True])
async def test_on_the_day_on_which_a_project_changes_hands_nothing_is_booked_twice(
    database, meet, totals, booked, rows, named
):
    """The project is the first tenant's until noon and the second's from then on. Whatever is booked in whichever order, what
    both pay for is never more than OpenAI says, and a run after a run changes nothing."""

    async def step(what, number, day, first, second):
        at_ms = NOON_MS + (day - DAY).days * 86_400_000
        amounts = {"first": 100, "second": 30, "at_night": 7, "off": 3}
        values = {"source": "openai", "event_type": "llm_call", "endpoint": "chat.completions", "resource": "gpt-4o"}
        if what == "around":
            return 1000
        if what == "before":
            # Before anybody moves, the project is compared with the first tenant.
            totals.account = Account("openai", first, name=f"project of {first}", named_in="openai_project")
            await meet(day, day, first)
            return 0
        if what == "met":
            totals.account = Account("openai", second, name=f"project of {first}", named_in="openai_project")
            await meet(day, day, second if named else None)
            return 0
        event = usage_event(
            event_id=call_id(number),
            tenant_id=second if what == "second" else first,
            # One that begins before midnight is told after it.
            occurred_at_ms=at_ms - (12 * 3_600_000 + 1000 if what == "at_night" else 0),
            quantities={"input_tokens": amounts[what]},
            metered=what != "off",
            **values,
        )
        await booked([fact(event)])
        return amounts[what]

    orders = list(permutations(["around", "first", "second", "at_night", "met"]))
    orders += permutations(["around", "off", "before", "first", "met"])
    number = 0
    for at, order in enumerate(orders[13 * named :: 27]):
        # Each has tenants of its own, whom nobody else is taken for, since all before have moved days before.
        day, first, second = DAY - dt.timedelta(days=2 * at), f"first{at}", f"second{at}"
        noon = NOON + (day - DAY)
        await moved(database, first, noon)
        await moved(database, second, noon)
        told = 0
        for what in [*order, "met"]:
            number += 1
            told += await step(what, number, day, first, second)
            totals.used.clear()
            if told:
                totals.say(day=day, input_tokens=told)
        before = await rows()
        await step("met", at, day, first, second)
        assert await rows() == before, order
        paid = await tokens(database, [first, second], day) + await tokens(
            database, [first, second], day - dt.timedelta(days=1)
        )
        assert paid <= told, order
        if "around" in order:
            assert paid >= 1000, order


async def test_two_who_move_on_one_day_are_each_booked_what_went_around_on_their_own(database, meet, totals, rows):
    """Guards sums that would be taken for each other's, and never come to rest."""
    for tenant_id in ("acme", "globex"):
        await moved(database, tenant_id, NOON)

    async def both():
        for tenant_id, amount in (("acme", 500), ("globex", 300)):
            totals.account = Account("openai", tenant_id, name=f"of {tenant_id}", named_in="openai_project")
            totals.say(input_tokens=amount)
            await meet(tenant_id=None)

    await both()
    once = await rows()
    await both()

    assert await rows() == once
    assert [await tokens(database, [one], DAY) for one in ("acme", "globex")] == [500, 300]


async def test_what_whoever_had_the_project_before_is_still_to_be_told_of_is_not_booked(
    database, meet, totals, booked, rows
):
    for tenant_id in ("acme", "globex"):
        await moved(database, tenant_id, NOON, "credential.set", "openai")
    values = {"source": "openai", "event_type": "llm_call", "endpoint": "responses.create", "resource": "gpt-4o"}
    pending = {"quantities": {}, "completeness": Completeness.PENDING, "external_id": "resp_1"}
    await booked([fact(usage_event(tenant_id="globex", occurred_at_ms=NOON_MS, **values, **pending))])
    totals.say(input_tokens=1000)
    before = await rows()

    await meet(tenant_id=None)

    assert await rows() == before


async def test_what_is_told_as_completions_and_as_pictures_is_booked_as_one_of_them(database, meet, totals, rows):
    totals.say(model="gpt-image-1", input_tokens=1000, output_tokens=5000)
    totals.say(model="gpt-image-1", kind="images", images=5)
    await meet()
    once = await rows()

    await meet()

    assert await rows() == once
    [event] = await of_kind(database, Kind.BACKFILL)
    assert event.quantities == {"input_tokens": 1000, "output_tokens": 5000}


async def test_a_day_that_is_not_over_is_left_alone(database, meet, totals, clock):
    clock.now = NOON + dt.timedelta(hours=13)
    totals.say(input_tokens=1000)

    report = await meet()

    assert await of_kind(database, Kind.BACKFILL) == []
    assert causes(report) == [(Cause.LATE, EXPLAINED, {"input_tokens": 1000})]


async def test_on_an_account_that_tenants_share_it_is_nobodys_and_stays_open(database, meet, totals):
    totals.account = Account("openai", None)
    totals.say(input_tokens=1000)

    report = await meet(tenant_id=None)

    assert await of_kind(database, Kind.BACKFILL) == []
    assert causes(report) == [(Cause.NOT_PROXIED, OPEN, {"input_tokens": 1000})]


async def test_a_call_that_began_before_midnight_is_not_booked_again(database, meet, totals, booked):
    await booked([chat(1, day=DAY_BEFORE, input_tokens=100)])
    totals.say(input_tokens=130)

    report = await meet()

    [event] = await of_kind(database, Kind.BACKFILL)
    assert event.quantities == {"input_tokens": 30}
    assert (Cause.LATE, EXPLAINED, {"input_tokens": 100}) in causes(report)
    assert report.matched


async def test_what_the_ledger_is_still_to_be_told_is_not_booked(database, meet, totals, booked):
    await booked([
        fact(
            usage_event(
                event_id=call_id(1),
                source="openai",
                event_type="llm_call",
                endpoint="responses.create",
                resource="gpt-4o",
                occurred_at_ms=NOON_MS,
                completeness=Completeness.PENDING,
                quantities={},
                external_id="resp_1",
            )
        )
    ])  # fmt: skip
    totals.say(input_tokens=100)

    await meet()

    assert await of_kind(database, Kind.BACKFILL) == []


async def test_batches_are_booked_at_the_price_of_batches(database, meet, totals):
    totals.say(kind="completions.batch", input_tokens=1000)

    await meet()

    [event] = await of_kind(database, Kind.BACKFILL)
    assert event.event_type == "batch"
    assert (await used(database))["cost_nano"] == 1000 * 1250


async def test_speech_that_is_billed_by_what_it_is_told_in_is_booked_as_calls_of_it_are(
    database, meet, totals, booked, rows
):
    values = {"source": "openai", "event_type": "audio_speech", "endpoint": "audio.speech", "resource": "tts-1"}
    heard = {"source": "openai", "event_type": "audio_transcription", "resource": "whisper-1"}
    await booked(
        [
            fact(usage_event(event_id=call_id(1), occurred_at_ms=NOON_MS, quantities={"characters": 100}, **values)),
            fact(usage_event(event_id=call_id(2), occurred_at_ms=NOON_MS, quantities={"seconds": 60}, **heard)),
        ]
    )
    totals.say(kind="audio_speeches", model="tts-1", characters=1100)
    totals.say(kind="audio_transcriptions", model="whisper-1", seconds=360)
    # One that is billed by the token, of which this does not tell how many.
    totals.say(kind="audio_speeches", model="gpt-4o-mini-tts", characters=50)

    report = await meet()

    found = {(one.event_type, one.resource): one.quantities for one in await of_kind(database, Kind.BACKFILL)}
    assert found == {
        ("audio_speech", "tts-1"): {"characters": 1000},
        ("audio_transcription", "whisper-1"): {"seconds": 300},
    }
    assert (Cause.NOT_PROXIED, OPEN, {"characters": 50}) in causes(report)
    # The list price, which is 15 USD for a million characters and 0.006 USD for a minute.
    assert (await used(database, event_type="audio_speech"))["cost_nano"] == 1100 * 15_000
    assert (await used(database, event_type="audio_transcription"))["cost_nano"] == 6 * 6_000_000
    once = await rows()
    await meet()
    assert await rows() == once


async def test_many_small_calls_are_not_priced_as_one_large_one(database, meet, totals):
    totals.say(model="gpt-6.1-sol", calls=1000, input_tokens=1_000_000)

    await meet()

    assert (await used(database))["cost_nano"] == 1_000_000 * 2000


# ---------------------------------------------------------------------------------------------------------------------
# Two at once


async def test_a_cost_that_somebody_else_books_at_the_same_time_is_in_the_report_as_the_ledger_has_it(
    database, provider, lists, booked, clock
):
    """Another run reads the same, finds another figure, and books it first."""
    provider.fees[DAY, "phonenumbers"] = Decimal("1.15")
    others = []

    async def second(facts):
        [one] = facts
        if one.event.kind is Kind.COST and not others:
            others.append(one)
            metadata = {**one.event.metadata, "provider_cost": "1.00"}
            await booked([fact(msgspec.structs.replace(one.event, metadata=metadata))])
        return await booked(facts)

    reconciler = Reconciler(database, second, lists, {"twilio": twilio.PROVIDER.figures}, hashed, clock)
    report = await reconciler.reconcile(Wanted("twilio", "acme", DAY, DAY, Fraction(0), "test"))

    [fees] = [one for one in report.comparisons if one.subject.category == "phonenumbers"]
    assert fees.held == fees.told == {"cost_nano": 1_150_000_000}
    assert sum(one.amounts["cost_nano"] for one in fees.differences) == 1_150_000_000
    assert (await total(database))["cost_nano"] == 1_150_000_000


async def test_a_cost_that_can_not_be_booked_is_open(database, provider, lists, booked, clock):
    provider.fees[DAY, "phonenumbers"] = Decimal("1.15")

    async def refused(facts):
        return [Appended([], 0, list(facts))] if facts[0].event.kind is Kind.COST else await booked(facts)

    reconciler = Reconciler(database, refused, lists, {"twilio": twilio.PROVIDER.figures}, hashed, clock)
    report = await reconciler.reconcile(Wanted("twilio", "acme", DAY, DAY, Fraction(0), "test"))

    [fees] = [one for one in report.comparisons if one.subject.category == "phonenumbers"]
    assert (fees.held, fees.told) == ({"cost_nano": 0}, {"cost_nano": 1_150_000_000})
    assert not any(one.resolution is CORRECTED for one in fees.differences)
