"""What went around the gateway, where a provider tells sums alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metering.around import around, over_midnight
from metering.event_types import INPUT_TOKENS

NOTHING = {}


def test_what_no_call_accounts_for_went_around():
    told = {"gpt-5": {"input_tokens": 100, "output_tokens": 30}, "gpt-4o": {"input_tokens": 7}}
    calls = {"gpt-5": {"count": 2, "input_tokens": 60, "output_tokens": 30}}

    assert around(told, calls, NOTHING, NOTHING) == {"gpt-5": {"input_tokens": 40}, "gpt-4o": {"input_tokens": 7}}


def test_what_the_ledger_has_too_much_of_is_not_below_zero():
    assert around({"m": {"input_tokens": 5}}, {"m": {"count": 1, "input_tokens": 9}}, NOTHING, NOTHING) == {}


def test_a_call_that_began_before_midnight_is_not_booked_once_more_after_it():
    told_before, calls_before = {"m": {"input_tokens": 10}}, {"m": {"count": 2, "input_tokens": 25}}

    assert around({"m": {"input_tokens": 15}}, NOTHING, told_before, calls_before) == {}
    assert around({"m": {"input_tokens": 16}}, NOTHING, told_before, calls_before) == {"m": {"input_tokens": 1}}
    assert over_midnight({"m": {"input_tokens": 16}}, NOTHING, told_before, calls_before) == {"m": {"input_tokens": 15}}
    assert over_midnight({"m": {"input_tokens": 16}}, NOTHING, NOTHING, NOTHING) == {}


def test_a_model_whose_answers_name_it_otherwise_is_not_booked_once_more():
    told = {"dall-e-3": {"images": 3}, "gpt-4o-2024-08-06": {"images": 2}, "gpt-5": {"images": 1}}
    calls = {"dall-e-3/hd/1024x1792": {"count": 1, "images": 2}, "gpt-4o": {"count": 5, "images": 5}}

    assert around(told, calls, NOTHING, NOTHING) == {"dall-e-3": {"images": 1}, "gpt-5": {"images": 1}}


def test_what_calls_count_in_other_terms_is_not_booked():
    told = {"gpt-4o-transcribe": {"seconds": 60}}

    assert around(told, {"gpt-4o-transcribe": {"count": 3, "input_tokens": 900}}, NOTHING, NOTHING) == {}
    assert around(told, {"gpt-4o-transcribe": {"count": 3, "seconds": 50}}, NOTHING, NOTHING) == {
        "gpt-4o-transcribe": {"seconds": 10}
    }
    # What nobody has counted was counted in no terms, and of what both count, calls need not have used everything.
    assert around(told, {"gpt-4o-transcribe": {"count": 3}}, NOTHING, NOTHING) == told
    cached = {"gpt-5": {"input_tokens": 9, "input_tokens_cached": 4}}
    assert around(cached, {"gpt-5": {"count": 1, "input_tokens": 9}}, NOTHING, NOTHING) == {
        "gpt-5": {"input_tokens_cached": 4}
    }


def test_input_that_was_estimated_is_not_booked_once_more_as_cached():
    """Guards calls whose usage nobody told: they are estimated as plain input, of which the provider has found some cached."""
    told = {"m": {"input_tokens": 40, "input_tokens_cached": 60, "output_tokens": 5, "output_tokens_audio": 9}}

    assert around(told, {"m": {"count": 1, "input_tokens": 100, "output_tokens": 5}}, NOTHING, NOTHING) == {
        "m": {"output_tokens_audio": 9}
    }
    assert around(told, {"m": {"count": 1, "input_tokens": 70, "output_tokens": 14}}, NOTHING, NOTHING) == {
        "m": {"input_tokens_cached": 30}
    }


def test_nor_where_it_began_before_midnight_or_under_another_name():
    told, estimated = {"gpt-5": {"input_tokens": 40, "input_tokens_cached": 60}}, {"count": 1, "input_tokens": 90}

    assert around(told, NOTHING, NOTHING, {"gpt-5": estimated}) == {"gpt-5": {"input_tokens_cached": 10}}
    assert around(told, {"gpt-5-2026": estimated}, NOTHING, NOTHING) == {"gpt-5": {"input_tokens_cached": 10}}


AMOUNTS = st.dictionaries(
    st.sampled_from(["input_tokens", "input_tokens_cached", "input_tokens_audio", "output_tokens", "images"]),
    st.integers(0, 1000),
)
BY_NAME = st.dictionaries(st.sampled_from(["gpt-4o", "gpt-4o-2024", "gpt-5", "tts-1"]), AMOUNTS, max_size=4)


@given(told=BY_NAME, calls=BY_NAME, told_before=BY_NAME, calls_before=BY_NAME)
def test_with_what_is_booked_the_ledger_has_no_more_than_is_told(told, calls, told_before, calls_before):
    for name, amounts in around(told, calls, told_before, calls_before).items():
        for measure, amount in amounts.items():
            assert 0 < amount <= told[name][measure] - calls.get(name, {}).get(measure, 0)
        inputs = [one for one in INPUT_TOKENS if one in amounts]
        if inputs:
            assert inputs_of(amounts) <= inputs_of(told[name]) - inputs_of(calls.get(name, {}))


def inputs_of(amounts):
    return sum(amounts.get(one, 0) for one in INPUT_TOKENS)


@given(
    used=st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 500), st.integers(0, 500)), max_size=12),
    name=st.sampled_from(["m", "m-2026"]),
)
def test_what_the_ledger_estimated_is_not_booked_in_another_dimension(used, name):
    """Calls that cross the gateway or not, of which it has to estimate some."""
    told, calls = (
        {"input_tokens": 0, "input_tokens_cached": 0},
        {"count": 1, "input_tokens": 0, "input_tokens_cached": 0},
    )
    went_around = 0
    for crossed, estimated, plain, cached in used:
        told["input_tokens"] += plain
        told["input_tokens_cached"] += cached
        if not crossed:
            went_around += plain + cached
        else:
            calls["input_tokens"] += plain + cached if estimated else plain
            calls["input_tokens_cached"] += 0 if estimated else cached

    booked = around({"m": told}, {name: calls}, NOTHING, NOTHING)

    assert inputs_of(booked.get("m", {})) <= went_around


@given(used=st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.booleans(), st.integers(1, 500)), max_size=12))
def test_over_two_days_nothing_that_crossed_the_gateway_is_booked_again(used):
    """Calls that cross or not, of which some of the first day end on the second."""
    told, calls, went_around = [0, 0], [0, 0], 0
    for day, crossed, late, amount in used:
        told[1 if late else day] += amount
        if crossed:
            calls[day] += amount
        else:
            went_around += amount

    def of(amounts, day):
        return {"m": {"input_tokens": amounts[day]}}

    booked = [
        around(of(told, 0), of(calls, 0), NOTHING, NOTHING),
        around(of(told, 1), of(calls, 1), of(told, 0), of(calls, 0)),
    ]

    assert sum(one.get("m", {}).get("input_tokens", 0) for one in booked) <= went_around
