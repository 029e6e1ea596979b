"""Judging many at once: each by the plan of its day, and one that can not be judged is no other's fault."""

from __future__ import annotations

import datetime as dt

import pytest

from pricing.judging import Plans, charge_rows, judge, judge_all
from tests.builders import NOON, call_id, fact, usage_event


@pytest.fixture
def facts():
    events = [usage_event(event_id=call_id(number)) for number in (1, 2)]
    return [fact(event) for event in events]


def test_an_event_is_charged_by_the_plan_that_its_tenant_had_then(facts, books):
    tenant_id, later = facts[0].event.tenant_id, NOON + dt.timedelta(days=1)

    before = Plans(books, [(tenant_id, later, "no-such-plan")])
    after = Plans(books, [(tenant_id, NOON, "no-such-plan")])
    assert judge(facts[0], before, books).price_book == books.price_book(None).edition
    with pytest.raises(ValueError):
        judge(facts[0], after, books)


def test_what_can_not_be_judged_is_left_out_and_stops_nothing_else(facts, books):
    other = usage_event(event_id=call_id(3), tenant_id="globex")
    facts.append(fact(other))
    plans = Plans(books, [(facts[0].event.tenant_id, NOON, "no-such-plan")])
    rated = {}

    judge_all(facts, plans, books, rated)

    assert set(rated) == {id(facts[2])}


def test_a_charge_begins_with_the_key_of_its_event(facts, books):
    plans = Plans(books, [])
    rows = charge_rows((one.event, judge(one, plans, books)) for one in facts)

    assert [row[:3] for row in rows] == [one.event.key for one in facts]
