"""Holding the ledger against a provider's figures, and naming why they differ."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.reconciliation import (
    AFTER_MS,
    BEFORE_MS,
    Beyond,
    Candidate,
    Cause,
    Held,
    Resolution,
    Step,
    Subject,
    Told,
    Unknown,
    added,
    beyond,
    compared,
    minutes_up_s,
    resolved,
)

DAY = Subject("2026-11-20", "acme", "sms_outbound")

CORRECTED, EXPLAINED, OPEN = Resolution.CORRECTED, Resolution.EXPLAINED, Resolution.OPEN

NOON_MS = 1_795_176_000_000


def causes(comparison):
    return [(one.cause, one.resolution, one.amounts) for one in comparison.differences]


def differences(told, held, **more):
    more_told = {name: more.pop(name) for name in ("settled", "listed") if name in more}
    return causes(compared(DAY, Told(amounts=told, **more_told), Held(amounts=held, **more)))


def test_what_is_equal_has_no_difference():
    assert differences({"messages": 5, "segments": 7}, {"messages": 5, "segments": 7, "media": 3}) == []


def test_only_what_the_provider_speaks_of_is_compared():
    found = compared(DAY, Told(amounts={"messages": 5}), Held(amounts={"messages": 5, "cost_nano": 9}))

    assert (found.held, found.differences) == ({"messages": 5}, ())


def test_what_was_backfilled_is_a_difference_that_was_corrected():
    steps = [Step(Cause.NOT_PROXIED, {"messages": 2, "segments": 3}, "e1")]

    found = compared(DAY, Told(amounts={"messages": 5}), Held(amounts={"messages": 5, "segments": 7}, steps=steps))

    assert causes(found) == [(Cause.NOT_PROXIED, CORRECTED, {"messages": 2})]
    assert found.differences[0].event_id == "e1"


def test_begun_minutes_of_each_leg_are_rounding_and_nothing_else():
    legs_s = [1, 59, 60, 61, 0]
    billed_s, used_s = sum(map(minutes_up_s, legs_s)), sum(legs_s)

    found = differences({"seconds": billed_s}, {"seconds": used_s}, rounded_up_s=billed_s - used_s)

    assert [minutes_up_s(leg) for leg in legs_s] == [60, 60, 60, 120, 0]
    assert found == [(Cause.ROUNDING, EXPLAINED, {"seconds": 119})]


def test_figures_that_still_move_are_late():
    assert differences({"messages": 9, "cost_nano": 5}, {"messages": 10, "cost_nano": 7}, settled=False) == [
        (Cause.LATE, EXPLAINED, {"messages": -1, "cost_nano": -2})
    ]


def test_pending_events_account_for_no_more_objects_than_they_are():
    assert differences({"messages": 8, "segments": 30}, {"messages": 10, "segments": 20}, pending=2) == [
        (Cause.LATE, EXPLAINED, {"messages": -2, "segments": 10})
    ]
    assert differences({"messages": 8}, {"messages": 10}, pending=1) == [(Cause.UNEXPLAINED, OPEN, {"messages": -2})]


def test_calls_of_unknown_outcome_account_for_what_the_provider_has_more_and_for_nothing_that_it_has_less():
    found = differences({"messages": 11, "segments": 9}, {"messages": 10, "segments": 10}, unknown=1, listed=True)

    assert found == [(Cause.UNKNOWN_OUTCOME, OPEN, {"messages": 1}), (Cause.UNEXPLAINED, OPEN, {"segments": -1})]


def test_another_cost_of_equal_use_is_another_price():
    assert differences({"segments": 7, "cost_nano": 70}, {"segments": 7, "cost_nano": 60}) == [
        (Cause.PRICED_DIFFERENTLY, EXPLAINED, {"cost_nano": 10})
    ]


def test_what_the_provider_does_not_list_is_open():
    assert differences({"messages": 9}, {"messages": 10}, missing={"messages": 1, "segments": 2}) == [
        (Cause.MISSING_AT_PROVIDER, OPEN, {"messages": -1})
    ]


def test_what_the_provider_dates_to_another_day_is_late_on_both():
    assert differences({"messages": 1}, {"messages": 2}, elsewhere={"messages": -1}) == [
        (Cause.LATE, EXPLAINED, {"messages": -1})
    ]
    assert differences({"messages": 2}, {"messages": 1}, elsewhere={"messages": 1}) == [
        (Cause.LATE, EXPLAINED, {"messages": 1})
    ]


def test_what_is_nobodys_is_explained():
    assert differences({"messages": 12}, {"messages": 10}, not_attributed={"messages": 2}) == [
        (Cause.NOT_ATTRIBUTED, EXPLAINED, {"messages": 2})
    ]


def test_where_nothing_can_be_listed_what_the_provider_has_more_was_not_proxied():
    more = {"requests": 3, "input_tokens": 100}

    assert differences(more, {"requests": 2, "input_tokens": 120}) == [
        (Cause.NOT_PROXIED, OPEN, {"requests": 1}),
        (Cause.UNEXPLAINED, OPEN, {"input_tokens": -20}),
    ]
    assert differences(more, {"requests": 2, "input_tokens": 90}, listed=True) == [
        (Cause.UNEXPLAINED, OPEN, {"requests": 1, "input_tokens": 10})
    ]


# ---------------------------------------------------------------------------------------------------------------------
# What always holds

MEASURED = st.dictionaries(
    st.sampled_from(["count", "messages", "segments", "seconds", "requests", "cost_nano"]), st.integers(-50, 50)
)
HELD = st.builds(
    Held,
    amounts=MEASURED,
    steps=st.lists(st.builds(Step, st.sampled_from(list(Cause)), MEASURED), max_size=4),
    pending=st.integers(0, 5),
    unknown=st.integers(0, 5),
    rounded_up_s=st.integers(0, 50),
    missing=MEASURED,
    elsewhere=MEASURED,
    not_attributed=MEASURED,
)
TOLD = st.builds(Told, amounts=MEASURED, settled=st.booleans(), listed=st.booleans())


@given(told=TOLD, held=HELD)
def test_the_sum_over_all_causes_is_the_whole_difference_in_every_measure(told, held):
    found = compared(DAY, told, held)

    summed = added(one.amounts for one in found.differences)
    corrected = added(step.amounts for step in held.steps)
    for name, amount in told.amounts.items():
        before = held.amounts.get(name, 0) - corrected.get(name, 0)
        assert summed.get(name, 0) == amount - before
    assert summed.keys() <= told.amounts.keys()


@given(told=TOLD, held=HELD)
def test_nothing_is_said_of_zero_and_each_explanation_is_given_once(told, held):
    found = compared(DAY, told, held).differences

    explained = [one.cause for one in found if one.resolution is not CORRECTED]
    assert all(one.amounts and all(one.amounts.values()) for one in found)
    assert len(set(explained)) == len(explained)


@given(told=TOLD, held=HELD)
def test_a_second_comparison_explains_what_the_first_has_explained(told, held):
    first = compared(DAY, told, held)
    again = compared(DAY, told, Held(**{name: getattr(held, name) for name in held.__struct_fields__} | {"steps": ()}))

    assert again.differences == tuple(one for one in first.differences if one.resolution is not CORRECTED)


@given(told=TOLD, held=HELD)
def test_nothing_is_beyond_a_tolerance_that_is_not_open(told, held):
    found = compared(DAY, told, held)

    left = {name for one in found.differences if one.resolution is OPEN for name in one.amounts}
    assert {one.measure for one in beyond([found], Fraction(0))} == left


# ---------------------------------------------------------------------------------------------------------------------
# Beyond a tolerance


def days(*pairs):
    return [
        compared(
            DAY._replace(day=f"2026-11-{n:02}"), Told(amounts={"segments": told}), Held(amounts={"segments": held})
        )
        for n, (told, held) in enumerate(pairs, 1)
    ]


def test_days_do_not_make_up_for_each_other():
    assert beyond(days((100, 99), (100, 101)), Fraction(1, 200)) == [Beyond("acme", "sms_outbound", "segments", 2, 200)]


def test_a_difference_as_large_as_the_tolerance_is_tolerated():
    assert beyond(days((100, 99), (100, 100)), Fraction(1, 200)) == []
    assert beyond(days((100, 98), (100, 100)), Fraction(1, 200)) != []


def test_what_the_provider_says_nothing_was_used_of_is_not_tolerated():
    assert beyond(days((0, 1)), Fraction(1, 2)) == [Beyond("acme", "sms_outbound", "segments", 1, 0)]


# ---------------------------------------------------------------------------------------------------------------------
# Calls whose outcome nobody recorded


def unknown(event_id="u1", at_ms=NOON_MS, **parties):
    return Unknown(event_id, frozenset({"sms_outbound"}), at_ms, parties or {"to": "h1", "from": "h2"})


def candidate(external_id="SM1", at_ms=NOON_MS, event_type="sms_outbound", **parties):
    return Candidate(external_id, event_type, at_ms, parties or {"to": "h1", "from": "h2"})


def test_a_call_has_made_the_only_object_that_it_can_have_made():
    others = [candidate("SM2", to="h3", **{"from": "h2"}), candidate("SM3", event_type="sms_inbound")]

    assert resolved([unknown()], [candidate(), *others]) == {"u1": "SM1"}


def test_a_sender_that_the_request_did_not_name_is_not_asked_for():
    assert resolved([unknown(to="h1")], [candidate()]) == {"u1": "SM1"}


@pytest.mark.parametrize(
    ("unknowns", "candidates"),
    [
        ([unknown()], [candidate("SM1"), candidate("SM2", NOON_MS + 1000)]),
        ([unknown("u1"), unknown("u2", NOON_MS + 1000)], [candidate()]),
        ([unknown("u1"), unknown("u2")], [candidate("SM1"), candidate("SM2")]),
        ([Unknown("u1", frozenset({"sms_outbound"}), NOON_MS, {})], [candidate()]),
        ([], [candidate()]),
        ([unknown()], []),
    ],
    ids=["two objects", "two calls", "two of each", "no party", "no call", "no object"],
)
def test_nothing_is_guessed(unknowns, candidates):
    assert resolved(unknowns, candidates) == {}


@pytest.mark.parametrize(
    ("later_ms", "made"), [(-BEFORE_MS - 1, False), (-BEFORE_MS, True), (AFTER_MS, True), (AFTER_MS + 1, False)]
)
def test_an_object_is_of_the_calls_moment(later_ms, made):
    assert bool(resolved([unknown()], [candidate(at_ms=NOON_MS + later_ms)])) is made
