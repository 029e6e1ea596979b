"""Ways of charging, one file each. Pure.

A rate's `amount(quantity)` is R(q): what the first q units come to together, in nanos (or whole credits), rounded half
to even, once. An event adds R(rated_from + q) - R(rated_from), so that the parts sum to the whole whatever the split;
for the rates below, which charge each event by itself, `rated_from` is zero except in corrections.

Adding one: a file with a frozen class, and its line in `RATES`. The class checks itself when built; a field that ends
in `_nano` is written in book files without that ending, as a decimal string; the others are whole numbers. Packages and
graduated and volume tiers belong here too.
"""

from __future__ import annotations

from collections.abc import Mapping

from pricing.rates.credits import Credits
from pricing.rates.flat import Flat
from pricing.rates.markup import Markup
from pricing.rates.per_unit import PerUnit

__all__ = ["RATES", "AnyRate", "Credits", "Flat", "Markup", "PerUnit", "Rate"]

Rate = PerUnit | Flat | Credits
"""What turns a quantity into an amount by itself."""

AnyRate = Rate | Markup
"""What a book may hold: a rate, or a markup, which becomes one together with the cost."""

RATES: Mapping[str, type[AnyRate]] = {
    "per_unit": PerUnit,
    "flat": Flat,
    "credits": Credits,
    "markup": Markup,
}
"""The `kind` that a book file writes → the class."""
