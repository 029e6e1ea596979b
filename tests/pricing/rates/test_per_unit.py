from fractions import Fraction
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.rates import PerUnit

RATES = st.builds(PerUnit, st.integers(0, 10**12), st.integers(1, 10**7), st.integers(1, 3_600))
LINEAR = st.builds(PerUnit, st.integers(0, 10**12), st.integers(1, 10**7))
QUANTITIES = st.integers(0, 10**9)

DOLLAR = 10**9
PER_MINUTE = PerUnit(15_000_000, per=60, increment=60)


@pytest.mark.parametrize(
    ("seconds", "minutes"), [(0, 0), (1, 1), (59, 1), (60, 1), (61, 2), (120, 2), (121, 3), (-61, -2)]
)
def test_a_call_is_rounded_up_to_the_minute(seconds, minutes):
    assert PER_MINUTE.amount(seconds) == minutes * 15_000_000


def test_a_call_by_the_second_costs_its_seconds():
    assert PerUnit(15_000_000, per=60).amount(61) == 15_250_000


@pytest.mark.parametrize(
    ("tokens", "nano"),
    [
        (1, 2500),
        (73, 182_500),
        (1_000_000, 5 * DOLLAR // 2),
    ],
)
def test_two_dollars_fifty_a_million_is_2500_nanos_a_token(tokens, nano):
    assert PerUnit(5 * DOLLAR // 2, per=1_000_000).amount(tokens) == nano


@pytest.mark.parametrize(("units", "nano"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_half_a_nano_goes_to_the_even_one(units, nano):
    assert PerUnit(1, per=2).amount(units) == nano


@given(RATES, QUANTITIES, QUANTITIES)
def test_more_never_costs_less(rate, one, other):
    low, high = sorted((one, other))
    assert rate.amount(low) <= rate.amount(high)


@given(RATES, QUANTITIES)
def test_a_negative_quantity_gives_back_exactly_what_the_positive_one_cost(rate, quantity):
    assert rate.amount(-quantity) == -rate.amount(quantity)


@given(RATES, st.lists(QUANTITIES, min_size=1, max_size=8))
def test_how_usage_is_split_never_changes_the_total_where_each_part_starts_where_the_last_one_ended(rate, parts):
    ends = [0, *accumulate(parts)]
    assert sum(rate.amount(to) - rate.amount(start) for start, to in pairwise(ends)) == rate.amount(ends[-1])


@given(LINEAR, st.lists(QUANTITIES, min_size=1, max_size=8))
def test_parts_rated_by_themselves_differ_from_the_whole_by_their_own_roundings_alone(rate, parts):
    difference = sum(map(rate.amount, parts)) - rate.amount(sum(parts))
    assert abs(difference) <= Fraction(len(parts) + 1, 2)


@pytest.mark.parametrize("fields", [(-1,), (1, 0), (1, 1, 0), (1, -60)])
def test_a_rate_that_makes_no_sense_cannot_be_built(fields):
    with pytest.raises(ValueError, match="must"):
        PerUnit(*fields)


@pytest.mark.parametrize(
    ("rate", "text"), [(PerUnit(2500), "2500/1"), (PerUnit(1, 3), "1/3"), (PER_MINUTE, "15000000/60 by 60")]
)
def test_a_rate_is_written_exactly(rate, text):
    assert rate.text == text
