"""An event and two books → what its tenant owes for it, and what it cost us. Pure, and quick: it runs for each event.

A price that is missing is a state, never a zero: an event any of whose quantities lacks a price is `priced: false`, has
no charge, and can be rated again once there is one. The cost is found by itself, and may be unknown where the charge is
known.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import msgspec

from metering.event_types import INPUT_TOKENS
from metering.facts import Fact
from metering.usage import TOLD_COST, Completeness, Kind, UsageEvent
from pricing.book import ANY, BATCH, CREDITS, EVENT, TARIFFS_MAX, Book, Price, applicable
from pricing.judgement import Line, Rated
from pricing.money import NANO, divide_half_even
from pricing.rates import Credits, Flat, Markup, Rate

NOTHING: Final[Mapping[str, int]] = MappingProxyType({})

MONEY_ONLY: Final = (Kind.RERATE, Kind.COST)
"""The kinds of event that bring their amounts with them. No set, which would ask an enum for its hash: a function of Python's."""

CHANGES: Final = (Kind.CORRECTION, Kind.REVERSAL)
"""The kinds that carry a difference. One without quantities is a difference of nothing, and needs no price."""

_INPUT: Final = frozenset(INPUT_TOKENS)

# Looked up once: an enum asks a function of Python's for each of its members.
_COST: Final = Kind.COST
_CORRECTION: Final = Kind.CORRECTION
_REVERSAL: Final = Kind.REVERSAL
_REPORTED: Final = Completeness.REPORTED
_UNKNOWN: Final = Completeness.UNKNOWN
_EVENT: Final = EVENT
_BATCH: Final = BATCH
_TOLD_COST: Final = TOLD_COST


def rate(fact: Fact, price_book: Book, cost_book: Book, rated_from: Mapping[str, int] = NOTHING) -> Rated:
    """Work out the charge and the cost of an event.

    `rated_from` is for corrections and reversals: the quantities that the corrected event and its earlier corrections
    hold. With it, a call corrected from 61 to 59 seconds gives back one minute; without, the 2 seconds are rated by
    themselves. Its `event` is 0 where the corrected event has not been charged as a whole, else 1; the default is what the
    correction says of it: an unknown has not been charged.
    """
    return judge(fact, terms_of(fact, price_book, cost_book), price_book, cost_book, rated_from)


def judge(
    fact: Fact, terms: Terms, price_book: Book, cost_book: Book, rated_from: Mapping[str, int] = NOTHING
) -> Rated:
    """The same, where it is known already what the books ask of such an event."""
    kind, quantities = fact.alike.kind, fact.quantities
    if kind is _COST:
        return _brought(fact.event, price_book, cost_book)
    if not fact.alike.metered or kind in MONEY_ONLY:
        return _rated(price_book, cost_book, 0, None, ())
    if fact.completeness is _UNKNOWN:
        return _rated(price_book, cost_book, None, None, ())

    asked = terms.asked(fact.occurred_at_ms, _context_tokens(fact, rated_from) if terms.contexts else 0)
    whole = asked.get(_EVENT, NOTHING_ASKED)

    # A price of the event as a whole covers the quantities that have none of their own, and so does a cost.
    # A message whose segments the provider has not counted yet is no message without segments.
    changes = kind in CHANGES
    counted = not fact.pending or fact.units is not None
    known = (counted and bool(quantities)) or changes
    whole_priced, whole_costed = whole.price is not None, whole.cost is not None
    priced, costed = known or whole_priced, known or whole_costed
    charge = cost_nano = 0
    lines = []
    if whole_priced or whole_costed:
        before = rated_from.get(_EVENT, int(not fact.event.adds_to_unknown)) if changes else 0
        after = 0 if kind is _REVERSAL or _is_nothing(fact, rated_from, before) else 1
        if before != after:
            lines.append(_line(_EVENT, after - before, before, whole))
    for dimension, quantity in quantities.items():
        if quantity:
            of_this = asked.get(dimension, NOTHING_ASKED)
            if of_this.price is None and not whole_priced:
                priced = False
            if of_this.cost is None and not whole_costed:
                costed = False
            lines.append(_line(dimension, quantity, rated_from.get(dimension, 0) if rated_from else 0, of_this))
    for line in lines:
        charge += line.charge_nano or line.credits or 0
        cost_nano += line.cost_nano or 0
    return _rated(price_book, cost_book, charge if priced else None, cost_nano if costed else None, tuple(lines))


def _is_nothing(fact: Fact, rated_from: Mapping[str, int], before: int) -> bool:
    """True for a correction after which nothing was used: it failed after all, or nobody answered."""
    if fact.alike.kind is not _CORRECTION or fact.completeness is not _REPORTED:
        return False
    if not before:
        return EVENT in rated_from and not any(fact.quantities.values())
    counted = {name: amount for name, amount in rated_from.items() if name != EVENT}
    if not counted or not any(fact.quantities.values()):
        return False
    return not any(counted.get(name, 0) + fact.quantities.get(name, 0) for name in {*counted, *fact.quantities})


def told(event: UsageEvent, price_book: Book, cost_book: Book, cost_nano: int) -> Rated:
    """What is left of the cost, where the provider has said in the end what it was, and `cost_nano` is booked of it.

    A currency that is not the cost book's is not converted: what was booked stays.
    """
    in_our_unit = event.metadata.get("currency", cost_book.unit) == cost_book.unit
    told_nano = _as_nano(event.metadata.get(_TOLD_COST)) if in_our_unit else None
    if not event.metered or told_nano is None:
        return _rated(price_book, cost_book, 0, None, ())
    left_nano = told_nano - cost_nano
    line = Line(EVENT, 0, cost=f"{told_nano} flat", cost_nano=left_nano)
    return _rated(price_book, cost_book, 0, left_nano, (line,))


def without_cost(rated: Rated) -> Rated:
    """The same judgement where the provider has said already what all of it cost."""
    lines = tuple(msgspec.structs.replace(line, cost=None, cost_nano=None) for line in rated.lines)
    return msgspec.structs.replace(rated, cost_nano=0, lines=lines)


class Asked:
    """What is asked for one dimension."""

    def __init__(self, price: Rate | None, cost: Rate | None) -> None:
        self.price = price
        """The rate of the charge."""
        self.cost = cost
        """The rate of the cost."""
        self.in_credits = isinstance(price, Credits)
        self.price_text = None if price is None else price.text
        self.cost_text = None if cost is None else cost.text


NOTHING_ASKED: Final = Asked(None, None)


class Terms:
    """What two books ask of one kind of event: at any moment, whatever the size of its context."""

    def __init__(
        self, prices: Mapping[str, tuple[Price, ...]], costs: Mapping[str, tuple[Price, ...]], *, comparable: bool
    ) -> None:
        """`comparable` says that both books are of one unit, so that a markup on the cost is a price."""
        self._prices = prices
        self._costs = costs
        self._comparable = comparable
        each = [price for tariff in (prices, costs) for candidates in tariff.values() for price in candidates]
        self._moments_ms = sorted({moment for price in each for moment in (price.since_ms, price.until_ms)})
        self.contexts = sorted({price.context_over for price in each if price.context_over is not None})
        """The sizes above which other prices apply."""
        self._known: dict[tuple[int, int], dict[str, Asked]] = {}

    def asked(self, at_ms: int, context_tokens: int) -> dict[str, Asked]:
        """What is asked for each dimension for which something is."""
        # Between two of the moments, and of the sizes, nothing changes: there are only so many different answers.
        span = bisect_right(self._moments_ms, at_ms), bisect_left(self.contexts, context_tokens)
        known = self._known.get(span)
        if known is None:
            known = self._known[span] = {
                dimension: self._of(dimension, at_ms, context_tokens) for dimension in {*self._prices, *self._costs}
            }
        return known

    def _of(self, dimension: str, at_ms: int, context_tokens: int) -> Asked:
        """A markup on a cost that is unknown, or in another unit, is no price."""
        price = applicable(self._prices.get(dimension, ()), at_ms, context_tokens)
        cost = applicable(self._costs.get(dimension, ()), at_ms, context_tokens)
        cost_rate = None if cost is None or isinstance(cost.rate, Markup) else cost.rate
        price_rate = None if price is None else price.rate
        if not isinstance(price_rate, Markup):
            return Asked(price_rate, cost_rate)
        if not self._comparable or cost_rate is None or isinstance(cost_rate, Credits):
            return Asked(None, cost_rate)
        return Asked(price_rate.on(cost_rate), cost_rate)


@lru_cache(TARIFFS_MAX)
def _terms(
    price_book: Book,
    cost_book: Book,
    event_type: str,
    source: str,
    direction: str | None,
    resource: str | None,
    tier: str | None,
) -> Terms:
    alike = (event_type, source, direction, resource, tier)
    return Terms(price_book.tariff(*alike), cost_book.tariff(*alike), comparable=price_book.unit == cost_book.unit)


def terms_of(fact: Fact, price_book: Book, cost_book: Book) -> Terms:
    """What two books ask of an event. Where its provider has said what it cost, that is its cost as a whole, whatever a list
    would have made of it."""
    of = fact.alike
    tier = _BATCH if of.event_type == _BATCH else fact.service_tier
    alike = (of.event_type, of.source, of.direction, of.resource, tier)
    told_nano = None if fact.provider_cost is None else _as_nano(fact.provider_cost)
    if told_nano is None:
        terms: Terms = _terms(price_book, cost_book, *alike)
        return terms
    cost = Price(rate=Flat(told_nano), event_types=(ANY,))
    return Terms(price_book.tariff(*alike), {EVENT: (cost,)}, comparable=price_book.unit == cost_book.unit)


def _brought(event: UsageEvent, price_book: Book, cost_book: Book) -> Rated:
    """What costs us money and nobody used: no charge, and the cost that the provider says, in its own currency. A figure
    that the provider has taken back is told as less than nothing."""
    text = event.metadata.get(_TOLD_COST)
    sign, digits = (-1, text[1:]) if isinstance(text, str) and text.startswith("-") else (1, text)
    cost_nano = _as_nano(digits)
    rated = _rated(price_book, cost_book, 0, None if cost_nano is None else sign * cost_nano, ())
    currency = event.metadata.get("currency")
    return rated if not isinstance(currency, str) else msgspec.structs.replace(rated, cost_currency=currency)


_TOLD: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,400})?")


def _as_nano(told: object) -> int | None:
    if not isinstance(told, str) or not _TOLD.fullmatch(told):
        return None
    exact = Fraction(told) * NANO
    return divide_half_even(exact.numerator, exact.denominator)


def _line(dimension: str, quantity: int, rated_from: int, asked: Asked) -> Line:
    charge, cost_nano = _added(asked.price, rated_from, quantity), _added(asked.cost, rated_from, quantity)
    return Line(
        dimension,
        quantity,
        rated_from,
        asked.price_text,
        None if asked.in_credits else charge,
        charge if asked.in_credits else None,
        asked.cost_text,
        cost_nano,
    )


def _added(rate: Rate | None, rated_from: int, quantity: int) -> int | None:
    """What a quantity adds to the amount of those before it."""
    if rate is None:
        return None
    amount = rate.amount(rated_from + quantity)
    return amount - rate.amount(rated_from) if rated_from else amount


def _context_tokens(fact: Fact, rated_from: Mapping[str, int]) -> int:
    """The size of the context: all input tokens, unless the event is the sum of many requests and says how large the
    largest was. Taking back a large one is rated as the large one was."""
    told = fact.context_tokens
    if type(told) is int:
        return told
    added = sum([amount for dimension, amount in fact.quantities.items() if dimension in _INPUT])
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
