"""Whole credits, for plans that count credits instead of money. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pricing.rates.per_unit import started


@dataclass(frozen=True)
class Credits:
    """So many credits for an event, or for each started so-many units of a dimension."""

    credits: int
    per: int = 1

    def __post_init__(self) -> None:
        if self.credits < 0 or self.per < 1:
            raise ValueError("credits must not be negative, and per must be positive")

    def amount(self, quantity: int) -> int:
        return self.credits * started(quantity, self.per)

    @property
    def text(self) -> str:
        """The exact rate as a charge line keeps it, in the grammar of a price per unit."""
        return f"{self.credits}/{self.per}" + (f" by {self.per}" if self.per != 1 else "")
