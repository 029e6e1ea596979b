"""What a telephone number says about its price: the country it is in, and the kind of number it is. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneNumber, PhoneNumberType

E164 = re.compile(r"\+[1-9][0-9]{6,14}")
"""ITU-T E.164: at most fifteen digits, the country's first."""

SHORT_CODE = re.compile(r"\+?[0-9]{3,6}")
ALPHANUMERIC = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 _&+-]{1,11}")
"""Names in the place of a number, as the networks carry them: 3GPP TS 23.040 section 9.1.2.5 has room for eleven."""


def country(number: str) -> str | None:
    """The ISO 3166 code of the country a number is in, or None where it can not be told."""
    return _country(number) if E164.fullmatch(number) else None


def sender_type(sender: str) -> str | None:
    """What messages from this sender are billed as: `long_code`, `toll_free`, `short_code` or `alphanumeric`."""
    if E164.fullmatch(sender):
        return "toll_free" if _is_toll_free(sender) else "long_code"
    if SHORT_CODE.fullmatch(sender):
        return "short_code"
    return "alphanumeric" if ALPHANUMERIC.fullmatch(sender) else None


@lru_cache(maxsize=4096)
def _country(number: str) -> str | None:
    """Cached, since an answer repeats the number of its request, and a look-up costs as much as the rest of a call."""
    parsed = _parsed(number)
    if parsed is None or parsed.country_code is None:
        return None
    regions = COUNTRY_CODE_TO_REGION_CODE[parsed.country_code]
    # Numbers in ranges that nobody has been given belong to the calling code's main country, its first.
    region = (len(regions) > 1 and phonenumbers.region_code_for_number(parsed)) or regions[0]
    return region if region.isalpha() else None  # "001" stands for no country.


@lru_cache(maxsize=4096)
def _is_toll_free(sender: str) -> bool:
    parsed = _parsed(sender)
    return parsed is not None and phonenumbers.number_type(parsed) == PhoneNumberType.TOLL_FREE


def _parsed(number: str) -> PhoneNumber | None:
    """What phonenumbers.parse makes of a number in E.164, which is all digits that count, in a tenth of the time."""
    for end in (2, 3, 4):
        code = int(number[1:end])
        if code in COUNTRY_CODE_TO_REGION_CODE:
            rest = number[end:]
            zeros = len(rest) - len(rest.lstrip("0"))
            return PhoneNumber(
                country_code=code,
                national_number=int(rest),
                italian_leading_zero=zeros > 0 or None,
                number_of_leading_zeros=zeros if zeros > 1 else None,
            )
    return None
