import pytest

from pricing.rates import Flat


@pytest.mark.parametrize(("quantity", "nano"), [(1, 500), (1_000_000, 500), (0, 0), (-3, -500)])
def test_much_costs_as_much_as_little_and_nothing_costs_nothing(quantity, nano):
    assert Flat(500).amount(quantity) == nano


def test_zero_is_a_price():
    assert Flat(0).amount(7) == 0


def test_a_negative_price_cannot_be_built():
    with pytest.raises(ValueError, match="must not be negative"):
        Flat(-1)


def test_a_rate_is_written_exactly():
    assert Flat(500).text == "500 flat"
