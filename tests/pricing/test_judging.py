"""Judging many at once: each by the plan of its day, and what each comes to is written down and summed."""

from __future__ import annotations

import datetime as dt
import json

import msgspec
import pytest

from metering.facts import read_fact
from metering.usage import Completeness
from pricing.judgement import Rated
from pricing.judging import Judging, Plans
from pricing.rating import rate
from tests.builders import NOON, call_id, fact, payload, usage_event


@pytest.fixture
def facts():
    events = [usage_event(event_id=call_id(number)) for number in (1, 2)]
    return [fact(event) for event in events]


def test_an_event_is_charged_by_the_plan_that_its_tenant_had_then(facts, books):
    tenant_id, later = facts[0].event.tenant_id, NOON + dt.timedelta(days=1)

    before = Plans(books, [(tenant_id, later, "no-such-plan")])
    after = Plans(books, [(tenant_id, NOON, "no-such-plan")])
    assert before.price_book(facts[0]) is books.price_book(None)
    with pytest.raises(ValueError):
        after.price_book(facts[0])


def test_a_charge_is_the_key_of_its_event_and_the_judgement_on_it(facts, books):
    judging = Judging(Plans(books, []), books)
    event = facts[0].event

    charge, _ = map(json.loads, judging.charges(facts))

    assert (charge.pop("tenant_id"), charge.pop("event_day"), charge.pop("event_id")) == event.key
    rated = rate(facts[0], books.price_book(None), books.cost_book)
    assert msgspec.convert(charge, Rated) == rated


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"metadata": {"service_tier": "flex", "usage": {"total_tokens": 3}}},
        {"metadata": {"provider_cost": "0.25"}},
        {"metadata": {"context_tokens": 300_000}, "resource": "gpt-5.4"},
        {"completeness": Completeness.UNKNOWN, "quantities": {}},
        {"metered": False},
        {"event_type": "batch"},
    ],
)
def test_what_was_read_of_an_event_is_judged_as_the_event_is(changes, books):
    event = usage_event(**changes)
    read, whole = read_fact(payload(event)), fact(event)
    judging = [Judging(Plans(books, []), books) for _ in range(2)]

    assert judging[0].charges([read]) == judging[1].charges([whole])
    columns = judging[1].sums.columns()
    assert judging[0].sums.rows(columns) == judging[1].sums.rows(columns)


def test_what_is_charged_is_summed_and_what_was_not_to_be_metered_is_remembered(facts, books):
    judging = Judging(Plans(books, []), books)
    off = fact(usage_event(event_id=call_id(3), event_type="sms_outbound", metered=False, external_id="made"))

    charges = judging.charges([*facts, off])

    columns = judging.sums.columns()
    (row,) = (dict(zip(columns, values, strict=True)) for values in judging.sums.rows(columns))
    assert (len(charges), row["events"]) == (3, 2)
    assert row["charge_nano"] == sum(json.loads(charge)["charge_nano"] for charge in charges)
    assert judging.off == {("acme", "made")}
