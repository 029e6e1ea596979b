from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.money import NANO, parse_amount
from pricing.rates import Flat, Markup, PerUnit

TWENTY = Markup(parse_amount("20"))


@pytest.mark.parametrize(
    ("cost", "charge"),
    [
        (PerUnit(2500), PerUnit(3000)),
        (PerUnit(1, per=3), PerUnit(2, per=5)),
        (PerUnit(14_000_000, per=60, increment=60), PerUnit(280_000, per=1, increment=60)),
        (Flat(5), PerUnit(6)),
        (Flat(0), PerUnit(0)),
    ],
)
def test_twenty_percent_on_a_cost_rate_is_an_exact_rate(cost, charge):
    assert TWENTY.on(cost) == charge


def test_a_fraction_of_a_percent_is_exact_too():
    assert Markup(parse_amount("12.5")).on(PerUnit(80)) == PerUnit(90)


@given(st.integers(0, 1000 * NANO), st.integers(0, 10**12), st.integers(1, 10**7), st.integers(-(10**9), 10**9))
def test_the_charge_is_rounded_once_from_the_exact_cost_and_not_from_the_rounded_one(
    percent_nano, price, per, quantity
):
    exact = Fraction(price * quantity, per) * (100 * NANO + percent_nano) / (100 * NANO)
    assert Markup(percent_nano).on(PerUnit(price, per)).amount(quantity) == round(exact)


def test_a_markup_below_zero_cannot_be_built():
    with pytest.raises(ValueError, match="must not be negative"):
        Markup(-1)
