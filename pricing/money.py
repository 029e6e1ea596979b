"""Exact money: integers of nanos (10⁻⁹ of a currency unit) inside, decimal strings outside. Pure; knows no float."""

from __future__ import annotations

import re

NANO_DIGITS = 9
NANO = 10**NANO_DIGITS

_AMOUNT = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]+))?")


def parse_amount(text: str) -> int:
    """Read a decimal string, `"0.0075"`, as nanos. Raises ValueError for what is not an exact number of nanos."""
    found = _AMOUNT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f'not an amount: {text!r}; write it as a decimal string, "0.0075"')
    sign, whole, decimals = found[1], found[2], (found[3] or "").rstrip("0")
    if len(decimals) > NANO_DIGITS:
        raise ValueError(f"not an exact number of nanos: {text!r} has more than {NANO_DIGITS} decimals")
    nano = int(whole + decimals.ljust(NANO_DIGITS, "0"))
    return -nano if sign == "-" else nano


def format_amount(nano: int) -> str:
    """Write nanos as the shortest plain decimal string: `"0.000837"`, `"-12"`, `"0"`."""
    if type(nano) is not int:
        raise _inexact(nano)
    whole, rest = divmod(abs(nano), NANO)
    decimals = f".{rest:0{NANO_DIGITS}}".rstrip("0") if rest else ""
    return f"{'-' if nano < 0 else ''}{whole}{decimals}"


def divide_half_even(numerator: int, denominator: int) -> int:
    """Divide by a positive denominator, rounding to the nearest integer and a tie to the even one.

    Half to even, because it favours nobody over many charges, and because it is odd: the quotient of the negated
    numerator is the exact negation, so a reversal gives back what was charged.
    """
    if type(numerator) is not int:
        raise _inexact(numerator)
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    if twice > denominator or (twice == denominator and quotient & 1):
        quotient += 1
    return quotient


def _inexact(number: object) -> TypeError:
    return TypeError(f"money is counted in integers, not {type(number).__name__}")
