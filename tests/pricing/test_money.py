from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.money import divide_half_even, format_amount, parse_amount

AMOUNTS = st.integers(-(10**24), 10**24)


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0", 0),
        ("0.0075", 7_500_000),
        ("0.000837", 837_000),
        ("29", 29_000_000_000),
        ("-1.5", -1_500_000_000),
        ("+0.000000001", 1),
        ("0.00750000000000", 7_500_000),
        ("-0", 0),
    ],
)
def test_a_decimal_string_is_read_exactly(text, nano):
    assert parse_amount(text) == nano


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".5",
        "5.",
        "1e3",
        "1,5",
        " 1",
        "1 ",
        "NaN",
        "Infinity",
        "٣",
        "1_000",
        "--1",
        "0.0000000001",
        1,
        0.5,
        None,
        b"1",
    ],
)
def test_what_is_not_an_exact_number_of_nanos_is_refused(text):
    with pytest.raises(ValueError, match="not a"):
        parse_amount(text)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0"),
        (837_000, "0.000837"),
        (697_500, "0.0006975"),
        (1, "0.000000001"),
        (-1, "-0.000000001"),
        (50_000_000_000, "50"),
        (-12_340_000_000, "-12.34"),
        (10**27, "1" + "0" * 18),
    ],
)
def test_an_amount_is_written_plainly_and_without_needless_zeros(nano, text):
    assert format_amount(nano) == text


@given(AMOUNTS)
def test_what_was_written_is_read_back(nano):
    assert parse_amount(format_amount(nano)) == nano


@given(AMOUNTS, st.integers(1, 10**12))
def test_division_is_to_the_nearest_and_a_tie_goes_to_the_even_number(numerator, denominator):
    assert divide_half_even(numerator, denominator) == round(Fraction(numerator, denominator))


@given(AMOUNTS, st.integers(1, 10**12))
def test_division_of_the_negated_is_the_exact_negation(numerator, denominator):
    assert divide_half_even(-numerator, denominator) == -divide_half_even(numerator, denominator)


@pytest.mark.parametrize("refuse", [format_amount, lambda number: divide_half_even(number, 2)])
@pytest.mark.parametrize("number", [1.0, True, "1"])
def test_floats_and_other_things_than_integers_are_refused(refuse, number):
    with pytest.raises(TypeError, match="counted in integers"):
        refuse(number)
