"""What a book says of an event: the judgement, line by line. Pure.

Apart from the judging, since structs do not compile (hatch_build.py).
"""

from __future__ import annotations

import msgspec


class Line(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What one dimension of an event comes to, with all it takes to check it by hand.

    charge = R(rated_from + quantity) - R(rated_from), where R(q) is q times the rate, rounded half to even; the cost
    likewise. A rate is written `nanos/units`, with ` by n` where q is first rounded up to whole n, or `nanos flat`.
    """

    dimension: str
    """One of metering's, or `event`: the event as a whole."""
    quantity: int
    rated_from: int = 0
    price: str | None = None
    """The rate of the charge, in credits under a book that counts them. None where the dimension has none itself."""
    charge_nano: int | None = None
    credits: int | None = None
    cost: str | None = None
    """The rate of the cost."""
    cost_nano: int | None = None


class Rated(msgspec.Struct, frozen=True):
    """The judgement on one event."""

    priced: bool
    currency: str
    """The unit of the price book: a currency code, or `credits`."""
    charge_nano: int | None
    """None where unpriced, and under a book that counts credits."""
    credits: int | None
    cost_nano: int | None
    """None where unknown."""
    cost_currency: str
    price_book: str
    """The edition: `standard-v1`."""
    cost_book: str
    lines: tuple[Line, ...]

    def taken_back(self) -> Rated:
        """The same amounts the other way, to the last nano."""
        return msgspec.structs.replace(
            self,
            charge_nano=_less(self.charge_nano),
            credits=_less(self.credits),
            cost_nano=_less(self.cost_nano),
            lines=tuple(
                msgspec.structs.replace(
                    line,
                    quantity=-line.quantity,
                    rated_from=line.rated_from + line.quantity,
                    charge_nano=_less(line.charge_nano),
                    credits=_less(line.credits),
                    cost_nano=_less(line.cost_nano),
                )
                for line in self.lines
            ),
        )


def _less(amount: int | None) -> int | None:
    return None if amount is None else -amount
