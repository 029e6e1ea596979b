"""Judging what is to be booked: which book each event is charged by, and what that comes to. Pure.

Apart from the booking, which talks to the database: this runs for each event.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final

import msgspec

from metering.facts import Fact
from metering.usage import Outline, UsageEvent
from pricing.book import Book, instant_ms
from pricing.catalogue import Books
from pricing.judgement import Rated
from pricing.rating import rate
from pricing.rollups import DailySums


class Plans:
    """Which book each of some tenants is charged by, and from when on."""

    def __init__(self, books: Books, plans: Iterable[tuple[str, dt.datetime, str | None]]) -> None:
        """`plans` are rows of tenant, moment and plan, each tenant's in the order of time."""
        self._books = books
        self._since_ms: dict[str, list[tuple[int, str | None]]] = {}
        for tenant_id, effective_at, plan in plans:
            self._since_ms.setdefault(tenant_id, []).append((instant_ms(effective_at), plan))
        self._known: dict[str | None, Book] = {}

    def price_book(self, event: UsageEvent | Outline) -> Book:
        """The book of the plan that the event's tenant had when it happened. Raises ValueError where there is none."""
        plan = None
        for since_ms, named in self._since_ms.get(event.tenant_id, ()):
            if since_ms > event.occurred_at_ms:
                break
            plan = named
        book = self._known.get(plan)
        if book is None:
            book = self._known[plan] = self._books.price_book(plan)
        return book


class Judging:
    """What facts come to that are booked together. Each is judged, written down and summed while it is at hand: some
    thousand of them are in no cache of a processor any more when the last one is judged."""

    def __init__(self, plans: Plans, books: Books) -> None:
        self.plans = plans
        self.books = books
        self.sums = DailySums()
        self.unmetered: list[UsageEvent | Outline] = []
        """Those of calls with their metering off."""

    def charges(self, facts: Iterable[Fact]) -> list[str]:
        """Judge facts and sum them; their charges. Raises ValueError and others where there can be none."""
        rows = []
        for fact in facts:
            event = fact.outline
            rows.append(self.charge(fact, rate(event, self.plans.price_book(event), self.books.cost_book)))
        return rows

    def charge(self, fact: Fact, rated: Rated) -> str:
        """The charge of one event, which is summed."""
        self.sums.add(fact, rated)
        if not fact.outline.metered:
            self.unmetered.append(fact.outline)
        return charge_row(fact, rated)


def charge_row(fact: Fact, rated: Rated) -> str:
    """A charge as JSON: the event's key, and the judgement, whose fields are named as the columns."""
    tenant_id, day, event_id = fact.key
    key = f'{{"tenant_id":{_quoted(tenant_id)},"event_day":"{day}","event_id":{_quoted(event_id)},'
    return key + _encode(rated)[1:].decode()


def _quoted(text: str) -> str:
    quoted: bytes = _encode(text)
    return quoted.decode()


_encode: Final = msgspec.json.Encoder().encode
