"""What an event is: its day, its headline number, and what can not be a fact."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.event_types import DIMENSIONS
from metering.facts import validated
from metering.usage import AMOUNT_MAX, MOMENT_MS_END, Completeness, Kind, event_id_of
from tests.builders import DAY_MS, NOON, NOON_MS, usage_event


def test_the_event_of_the_design_has_its_units_its_channel_and_its_day():
    event = usage_event()

    assert (event.units, event.channel, event.event_day) == (163, "ai", "2026-11-20")
    assert event.occurred_at == NOON


def test_the_headline_number_is_absent_where_nobody_knows_it_and_zero_where_it_is_zero():
    unknown = usage_event(quantities={}, completeness=Completeness.UNKNOWN)
    nothing = usage_event(quantities={"input_tokens": 0})
    another = usage_event(quantities={"messages": 3})

    assert (unknown.units, nothing.units, another.units) == (None, 0, None)


def test_an_event_type_of_an_applications_own_counts_requests_in_the_channel_other():
    event = usage_event(event_type="pdf_rendered", quantities={"requests": 2, "seconds": 9})

    assert (event.channel, event.units) == ("other", 2)


@given(st.integers(1, MOMENT_MS_END - 1))
def test_the_day_is_the_utc_day_of_the_moment(moment_ms):
    event = usage_event(occurred_at_ms=moment_ms)

    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=moment_ms)
    assert event.event_day == moment.date().isoformat()
    assert abs(event.occurred_at - moment) < dt.timedelta(milliseconds=1)


@pytest.mark.parametrize(("offset_ms", "day"), [(-1, "2026-11-19"), (0, "2026-11-20"), (DAY_MS - 1, "2026-11-20")])
def test_a_day_begins_with_its_first_millisecond(offset_ms, day):
    midnight = NOON_MS - DAY_MS // 2

    assert usage_event(occurred_at_ms=midnight + offset_ms).event_day == day


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"event_id": ""}, "must not be empty"),
        ({"tenant_id": ""}, "must not be empty"),
        ({"source": ""}, "must not be empty"),
        ({"event_id": "a\0"}, "must not hold NUL"),
        ({"tenant_id": "\0a"}, "must not hold NUL"),
        ({"dedupe_key": ""}, "dedupe_key"),
        ({"dedupe_key": "x" * 513}, "dedupe_key"),
        ({"occurred_at_ms": 0}, "occurred_at_ms"),
        ({"occurred_at_ms": -1}, "occurred_at_ms"),
        ({"occurred_at_ms": MOMENT_MS_END}, "occurred_at_ms"),
        ({"quantities": {"tokens": 1}}, "no such dimension: tokens"),
        ({"quantities": {"messages": -1}}, "messages is negative"),
        ({"quantities": {"messages": -1}, "kind": Kind.BACKFILL}, "messages is negative"),
        ({"quantities": {"messages": AMOUNT_MAX + 1}}, "messages is more"),
        ({"quantities": {"messages": -AMOUNT_MAX - 1}, "kind": Kind.REVERSAL}, "messages is more"),
    ],
)
def test_what_can_not_be_a_fact_is_refused_by_name(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        validated(usage_event(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"quantities": {}},
        {"quantities": {"messages": -1}, "kind": Kind.CORRECTION},
        {"quantities": {"messages": -AMOUNT_MAX}, "kind": Kind.REVERSAL},
        {"quantities": dict.fromkeys(DIMENSIONS, AMOUNT_MAX)},
        {"occurred_at_ms": MOMENT_MS_END - 1},
        {"dedupe_key": "x" * 512},
    ],
)
def test_whatever_else_there_is_can_be_a_fact(changes):
    event = usage_event(**changes)

    assert validated(event) is event


@given(st.integers(1, MOMENT_MS_END - 1))
def test_the_moment_of_an_event_is_its_milliseconds_to_the_last(milliseconds):
    """Watches the way there: over a float, moments centuries away are microseconds off."""
    moment = usage_event(occurred_at_ms=milliseconds).occurred_at

    assert (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(milliseconds=1) == milliseconds
    assert moment.microsecond % 1000 == 0


def test_the_id_of_a_fact_without_a_call_is_always_the_same():
    """Watches the namespace: another would book again all that is booked."""
    assert event_id_of("object-1:final") == "98f9a4ee-fd64-5e20-bf70-50087fd4af1e"
