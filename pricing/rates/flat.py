"""So much for an event, whatever its quantities. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flat:
    """The same price for little and for much. Zero is a price too: it says that the event is free."""

    price_nano: int

    def __post_init__(self) -> None:
        if self.price_nano < 0:
            raise ValueError("a flat price must not be negative")

    def amount(self, quantity: int) -> int:
        return self.price_nano * ((quantity > 0) - (quantity < 0))

    @property
    def text(self) -> str:
        """The exact rate as a charge line keeps it."""
        return f"{self.price_nano} flat"
