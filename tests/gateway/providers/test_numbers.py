"""What a telephone number says about its price."""

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneNumberType

from gateway.providers.numbers import country, sender_type

KINDS = (PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE, PhoneNumberType.TOLL_FREE, PhoneNumberType.VOIP)
EXAMPLES = sorted(
    {
        phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.E164)
        for region in phonenumbers.SUPPORTED_REGIONS
        for kind in KINDS
        if (example := phonenumbers.example_number_for_type(region, kind)) is not None
    }
)


@pytest.mark.parametrize(
    ("number", "where"),
    [
        ("+12025550143", "US"),
        ("+14165550143", "CA"),
        ("+18765550143", "JM"),
        ("+15005550006", "US"),
        ("+447400123456", "GB"),
        ("+447781123456", "GG"),
        ("+905321234567", "TR"),
        ("+77011234567", "KZ"),
        ("+79161234567", "RU"),
        ("+390669812345", "VA"),
        ("+390612345678", "IT"),
        ("+3906698", "VA"),
    ],
)
def test_a_number_is_in_one_country_of_those_that_share_its_calling_code(number, where):
    assert country(number) == where


def test_every_number_is_where_the_numbering_plans_say():
    """Guards the short way to a number's parts: the library's own parser is the oracle."""
    assert len(EXAMPLES) > 500
    for number in EXAMPLES:
        parsed = phonenumbers.parse(number)
        kind = phonenumbers.number_type(parsed)

        assert country(number) == phonenumbers.region_code_for_number(parsed), number
        assert sender_type(number) == ("toll_free" if kind == PhoneNumberType.TOLL_FREE else "long_code"), number


@pytest.mark.parametrize("number", ["+88213000000", "+8001234567", "+999123456789", "+2101234567"])
def test_a_number_of_no_country_is_in_none(number):
    assert country(number) is None
    assert sender_type(number) == "long_code"


@pytest.mark.parametrize(
    "odd",
    ["", "+", "12025550143", "+0123456789", "+1", "+1202555014x", "+1 202 555 0143", "+120255501431234567", "+1202\uff15550143",
     "ada@example.com", "client:ada", "\n+12025550143", "+12025550143\n"],
)  # fmt: skip
def test_what_is_no_number_is_in_no_country(odd):
    assert country(odd) is None


@pytest.mark.parametrize(
    ("sender", "kind"),
    [
        ("+12025550143", "long_code"),
        ("+18005550143", "toll_free"),
        ("+448001111111", "toll_free"),
        ("12345", "short_code"),
        ("+40404", "short_code"),
        ("TOLLKEEPER", "alphanumeric"),
        ("My Shop 24", "alphanumeric"),
        ("TWELVELETTER", None),
        ("1234567", None),
        ("", None),
        ("ada@example.com", None),
    ],
)
def test_senders_are_told_apart_by_what_is_billed(sender, kind):
    assert sender_type(sender) == kind


@given(st.text(max_size=20) | st.from_regex(r"\+[0-9]{0,16}", fullmatch=True))
def test_no_number_makes_it_raise(text):
    assert country(text) is None or len(country(text)) == 2
    assert sender_type(text) in (None, "long_code", "toll_free", "short_code", "alphanumeric")
