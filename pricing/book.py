"""Price and Book: the one price that applies to one dimension of one event. Pure.

A price says what it applies to; where several apply, the most specific wins, compared in this order: the source is
named; the event type is named; the direction is named; the resource is named (whole before prefix, longer prefix before
shorter); the dimension is named (before the group `tokens`, before `*`); the service tier is named; the higher context
threshold. Two prices that this order cannot tell apart, and that apply at the same time, are refused when the book is
built. So every look-up has one answer, or none.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import chain, combinations, product
from typing import Protocol

from metering.event_types import DIMENSIONS, TOKENS
from pricing.rates import AnyRate, Credits, Flat

EVENT = "event"
"""The dimension of prices for the event as a whole, whose quantity is one whatever else was used."""

ANY = "*"
"""Every event type; every dimension (but not the event as a whole)."""

GROUPS: Mapping[str, tuple[str, ...]] = {"tokens": TOKENS, ANY: DIMENSIONS}
"""What may stand for several dimensions."""

CREDITS = "credits"
"""The unit of a book that counts credits; every other unit is a currency code."""

BATCH = "batch"
"""The service tier of whatever was processed as a batch."""

ALWAYS_MS = 1 << 62
"""After every moment that an event can have."""

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

TARIFFS_MAX = 4_096
"""How many kinds of event a book remembers its prices for. One more, and the least used is looked up again (50 µs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One line of a book: a rate, and what it applies to. A field that is None does not restrict."""

    rate: AnyRate
    event_types: tuple[str, ...]
    dimensions: tuple[str, ...] = (EVENT,)
    source: str | None = None
    direction: str | None = None
    resource: str | None = None
    """A name, or a prefix of names followed by `*`."""
    tier: str | None = None
    """The service tier in which the provider answered."""
    context_over: int | None = None
    """Applies to events with more input tokens than this, and then to all of them."""
    since_ms: int = 0
    """From this instant on, in milliseconds since 1970…"""
    until_ms: int = ALWAYS_MS
    """… and before this one."""
    line: str = ""
    """Where it is written, for messages about it."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.dimensions if name not in (EVENT, *GROUPS, *DIMENSIONS)]
        if unknown:
            raise ValueError(f"no such dimension: {', '.join(unknown)}")
        if self.since_ms >= self.until_ms:
            raise ValueError("until must lie after since")
        if isinstance(self.rate, Flat) and self.dimensions != (EVENT,):
            raise ValueError("a flat price is for the event as a whole: it has no dimensions")
        if "*" in (self.resource or "")[:-1]:
            raise ValueError("a resource may hold * only at its end")

    def concerns(
        self, event_type: str, source: str, direction: str | None, resource: str | None, tier: str | None
    ) -> bool:
        return (
            (ANY in self.event_types or event_type in self.event_types)
            and self.source in (None, source)
            and self.direction in (None, direction)
            and self.tier in (None, tier)
            and (self.resource in (None, resource) or (resource is not None and self._has_prefix_of(resource)))
        )

    def _has_prefix_of(self, resource: str) -> bool:
        return self.resource is not None and self.resource[-1:] == "*" and resource.startswith(self.resource[:-1])

    def rank(self, dimension: str) -> tuple[int, ...]:
        """How specific it is about a dimension of an event that it concerns, by the order of this module."""
        resource = self.resource
        return (
            self.source is not None,
            ANY not in self.event_types,
            self.direction is not None,
            -1 if resource is None else len(resource) - 1 if resource.endswith("*") else 1 << 30,
            2 if dimension in self.dimensions else 1 if "tokens" in self.dimensions and dimension in TOKENS else 0,
            self.tier is not None,
            -1 if self.context_over is None else self.context_over,
        )


Tariff = Mapping[str, tuple[Price, ...]]
"""What a book asks of one kind of event: dimension → the prices that may apply, the most specific first."""


class PriceList(Protocol):
    """A provider's own price list."""

    @property
    def edition(self) -> str:
        """Which list, in which version: part of the name of each book that refers to it."""

    def prices(self, resource: str) -> tuple[Price, ...]:
        """What the list says about a resource; empty where it does not know it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Book:
    """A named, immutable version of a set of prices.

    Raises ValueError, naming the lines, when built of prices that contradict each other or do not belong to its unit.
    """

    name: str
    version: int
    unit: str
    """A currency code, or `credits`."""
    prices: tuple[Price, ...]
    lists: Mapping[str, PriceList] = field(default_factory=dict)
    """Source → the list that holds where this book has no line of its own."""
    edition: str = field(init=False)
    """Name and version, its own and those of its lists, as charges keep them: the same edition rates alike for ever."""
    tariff: Callable[[str, str, str | None, str | None, str | None], Tariff] = field(init=False, repr=False)
    """(event type, source, direction, resource, tier) → the prices that may apply. Remembered, as rating asks often."""

    def __post_init__(self) -> None:
        problems = [*_contradictions(self.prices), *_misfits(self.prices, self.unit)]
        if problems:
            raise ValueError("; ".join(problems))
        editions = sorted({listed.edition for listed in self.lists.values()})
        object.__setattr__(self, "edition", "+".join([f"{self.name}-v{self.version}", *editions]))
        object.__setattr__(self, "tariff", lru_cache(TARIFFS_MAX)(self._tariff))

    def find(
        self,
        event_type: str,
        source: str,
        dimension: str,
        resource: str | None,
        at_ms: int,
        *,
        tier: str | None = None,
        context_tokens: int = 0,
        direction: str | None = None,
    ) -> Price | None:
        """The price of one dimension of an event, or None where the book has none."""
        candidates = self.tariff(event_type, source, direction, resource, tier).get(dimension, ())
        return applicable(candidates, at_ms, context_tokens)

    def _tariff(
        self, event_type: str, source: str, direction: str | None, resource: str | None, tier: str | None
    ) -> Tariff:
        listed = self.lists[source].prices(resource) if source in self.lists and resource is not None else ()
        tariff: dict[str, tuple[Price, ...]] = {}
        for prices in (self.prices, listed):
            found: defaultdict[str, list[Price]] = defaultdict(list)
            for price in prices:
                if price.concerns(event_type, source, direction, resource, tier):
                    for dimension in _covered(price.dimensions):
                        found[dimension].append(price)
            for dimension, fitting in found.items():
                fitting.sort(key=lambda price: price.rank(dimension), reverse=True)
                tariff[dimension] = (*tariff.get(dimension, ()), *fitting)
        return tariff


@cache  # As many as books write down.
def _covered(written: tuple[str, ...]) -> frozenset[str]:
    return frozenset(chain.from_iterable(GROUPS.get(name, (name,)) for name in written))


def instant_ms(moment: dt.date) -> int:
    """The instant at which a day begins in UTC, or an aware moment, in milliseconds since 1970."""
    if not isinstance(moment, dt.datetime):
        moment = dt.datetime.combine(moment, dt.time(), dt.UTC)
    if moment.utcoffset() is None:
        raise ValueError(f"a moment needs its offset from UTC: {moment.isoformat()}")
    return (moment - EPOCH) // dt.timedelta(milliseconds=1)


def applicable(candidates: tuple[Price, ...], at_ms: int, context_tokens: int) -> Price | None:
    """The first of the candidates that applies at a moment and to a context of so many input tokens."""
    for price in candidates:
        if price.since_ms <= at_ms < price.until_ms and (
            price.context_over is None or context_tokens > price.context_over
        ):
            return price
    return None


def _contradictions(prices: tuple[Price, ...]) -> list[str]:
    """Pairs of prices of the same specificity for the same thing at the same time."""
    alike: defaultdict[tuple[object, ...], list[Price]] = defaultdict(list)
    for price in prices:
        for event_type, dimension in product(price.event_types, price.dimensions):
            alike[
                event_type, dimension, price.source, price.direction, price.resource, price.tier, price.context_over
            ].append(price)
    pairs = {
        (one.line, other.line)
        for group in alike.values()
        for one, other in combinations(group, 2)
        if one.since_ms < other.until_ms and other.since_ms < one.until_ms
    }
    return [f"{one} and {other} are for the same thing at the same time" for one, other in sorted(pairs)]


def _misfits(prices: tuple[Price, ...], unit: str) -> list[str]:
    return [
        f"{price.line}: this book counts {unit}, and the price does not"
        for price in prices
        if isinstance(price.rate, Credits) != (unit == CREDITS)
    ]
