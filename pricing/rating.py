"""An event and two books → what its tenant owes for it, and what it cost us. Pure, and quick: it runs for each event.

A price that is missing is a state, never a zero: an event any of whose quantities lacks a price is `priced: false`, has
no charge, and can be rated again once there is one. The cost is found by itself, and may be unknown where the charge is
known.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from metering.usage import INPUT_TOKENS, Completeness, Kind, UsageEvent
from pricing.book import BATCH, CREDITS, EVENT, Book, applicable
from pricing.rates import Credits, Markup, Rate

NOTHING: Mapping[str, int] = MappingProxyType({})

MONEY_ONLY = frozenset({Kind.RERATE, Kind.COST})
"""The kinds of event that bring their amounts with them."""

CHANGES = frozenset({Kind.CORRECTION, Kind.REVERSAL})
"""The kinds that carry a difference. One without quantities is a difference of nothing, and needs no price."""

_INPUT = frozenset(INPUT_TOKENS)


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
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


def rate(event: UsageEvent, price_book: Book, cost_book: Book, rated_from: Mapping[str, int] = NOTHING) -> Rated:
    """Work out the charge and the cost of an event.

    `rated_from` is for corrections and reversals: the quantities that the corrected event and its earlier corrections
    hold. With it, a call corrected from 61 to 59 seconds gives back one minute; without, the 2 seconds are rated by
    themselves. Its `event` is 0 where the corrected event has not been charged as a whole, else 1, the default.
    """
    if not event.metered or event.kind in MONEY_ONLY:
        return _rated(price_book, cost_book, 0, None, ())
    if event.completeness is Completeness.UNKNOWN:
        return _rated(price_book, cost_book, None, None, ())

    tier = BATCH if event.event_type == BATCH else event.metadata.get("service_tier")
    alike = (event.event_type, event.source, event.direction, event.resource, tier if isinstance(tier, str) else None)
    prices, costs = price_book.tariff(*alike), cost_book.tariff(*alike)
    at_ms, context = event.occurred_at_ms, _context_tokens(event.quantities, rated_from)
    comparable = price_book.unit == cost_book.unit

    def rates_of(dimension: str) -> tuple[Rate | None, Rate | None]:
        """The rates of the charge and of the cost. A markup on a cost that is unknown, or in another unit, is none."""
        price = applicable(prices.get(dimension, ()), at_ms, context)
        cost = applicable(costs.get(dimension, ()), at_ms, context)
        cost_rate = None if cost is None or isinstance(cost.rate, Markup) else cost.rate
        price_rate = None if price is None else price.rate
        if not isinstance(price_rate, Markup):
            return price_rate, cost_rate
        if not comparable or cost_rate is None or isinstance(cost_rate, Credits):
            return None, cost_rate
        return price_rate.on(cost_rate), cost_rate

    # A price of the event as a whole covers the quantities that have none of their own, and so does a cost.
    whole_price, whole_cost = rates_of(EVENT)
    # A message whose segments the provider has not counted yet is no message without segments.
    counted = event.completeness is not Completeness.PENDING or event.units is not None
    known = (counted and bool(event.quantities)) or event.kind in CHANGES
    priced, costed = known or whole_price is not None, known or whole_cost is not None
    before = rated_from.get(EVENT, 1) if event.kind in CHANGES else 0
    after = 0 if event.kind is Kind.REVERSAL else 1
    lines = []
    if before != after and (whole_price is not None or whole_cost is not None):
        lines.append(_line(EVENT, after - before, before, whole_price, whole_cost))
    for dimension, quantity in event.quantities.items():
        if quantity:
            price, cost = rates_of(dimension)
            priced = priced and not (price is None and whole_price is None)
            costed = costed and not (cost is None and whole_cost is None)
            lines.append(_line(dimension, quantity, rated_from.get(dimension, 0), price, cost))
    charge = sum([line.charge_nano or line.credits or 0 for line in lines]) if priced else None
    cost_nano = sum([line.cost_nano or 0 for line in lines]) if costed else None
    return _rated(price_book, cost_book, charge, cost_nano, tuple(lines))


def _line(dimension: str, quantity: int, rated_from: int, price: Rate | None, cost: Rate | None) -> Line:
    charge = None if price is None else _added(price, rated_from, quantity)
    in_credits = isinstance(price, Credits)
    return Line(
        dimension,
        quantity,
        rated_from,
        None if price is None else price.text,
        None if in_credits else charge,
        charge if in_credits else None,
        None if cost is None else cost.text,
        None if cost is None else _added(cost, rated_from, quantity),
    )


def _added(rate: Rate, rated_from: int, quantity: int) -> int:
    """What a quantity adds to the amount of those before it."""
    if not rated_from:
        return rate.amount(quantity)
    return rate.amount(rated_from + quantity) - rate.amount(rated_from)


def _context_tokens(quantities: Mapping[str, int], rated_from: Mapping[str, int]) -> int:
    """The size of the context: all input tokens. Taking back a large one is rated as the large one was."""
    added = sum([amount for dimension, amount in quantities.items() if dimension in _INPUT])
    before = sum([amount for dimension, amount in rated_from.items() if dimension in _INPUT]) if rated_from else 0
    return max(abs(before), abs(before + added))


def _rated(
    price_book: Book, cost_book: Book, charge: int | None, cost_nano: int | None, lines: tuple[Line, ...]
) -> Rated:
    in_credits = price_book.unit == CREDITS
    return Rated(
        charge is not None,
        price_book.unit,
        None if in_credits else charge,
        charge if in_credits else None,
        cost_nano,
        cost_book.unit,
        price_book.edition,
        cost_book.edition,
        lines,
    )
