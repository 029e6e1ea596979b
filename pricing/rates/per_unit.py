"""So much for each unit. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pricing.money import divide_half_even


@dataclass(frozen=True)
class PerUnit:
    """A price per so many units, such as $2.50 per million tokens, or $0.015 per started minute."""

    price_nano: int
    per: int = 1
    increment: int = 1
    """The quantity is first rounded up to whole increments: at 60, a call of 61 s is 120 s, each leg by itself."""

    def __post_init__(self) -> None:
        if self.price_nano < 0 or self.per < 1 or self.increment < 1:
            raise ValueError("a price per unit must not be negative; per and increment must be positive")

    def amount(self, quantity: int) -> int:
        if self.per == 1 == self.increment and type(quantity) is int:
            # Most prices are written per million, and come to whole nanos for one.
            return self.price_nano * quantity
        if self.increment != 1:
            quantity = started(quantity, self.increment) * self.increment
        return divide_half_even(self.price_nano * quantity, self.per)

    @property
    def text(self) -> str:
        """The exact rate as a charge line keeps it: nanos/units, and the increment where there is one."""
        return f"{self.price_nano}/{self.per}" + (f" by {self.increment}" if self.increment != 1 else "")


def started(quantity: int, size: int) -> int:
    """How many units of a size a quantity has begun. Away from zero, so that a reversal gives back what was charged."""
    return -(-quantity // size) if quantity > 0 else quantity // size
