"""So many percent on top of what it costs us. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd

from pricing.money import NANO
from pricing.rates.flat import Flat
from pricing.rates.per_unit import PerUnit

RESOLVED_MAX = 4_096
"""Far more than the cost rates in use at a time; the least used beyond it is worked out again."""


@dataclass(frozen=True)
class Markup:
    """A percentage on the cost of the same dimension of the same event."""

    percent_nano: int
    """In 10⁻⁹ of a percent."""

    def __post_init__(self) -> None:
        if self.percent_nano < 0:
            raise ValueError("a markup must not be negative")

    def on(self, cost: PerUnit | Flat) -> PerUnit:
        """The rate that this makes of a cost rate: from its exact rational, so that nothing is rounded twice."""
        return _marked_up(self.percent_nano, cost)


@lru_cache(RESOLVED_MAX)
def _marked_up(percent_nano: int, cost: PerUnit | Flat) -> PerUnit:
    per, increment = (cost.per, cost.increment) if isinstance(cost, PerUnit) else (1, 1)
    price_nano, per = cost.price_nano * (100 * NANO + percent_nano), per * 100 * NANO
    common = gcd(price_nano, per)
    return PerUnit(price_nano // common, per // common, increment)
