"""Judging what is to be booked: which book each event is charged by, and what that comes to. Pure.

Apart from the booking, which talks to the database: this runs for each event.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final

import msgspec

from metering.claims import LISTED
from metering.facts import Alike, Fact
from pricing.book import Book, instant_ms
from pricing.catalogue import Books
from pricing.judgement import Rated
from pricing.rating import Terms, judge, terms_of
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

    def price_book(self, fact: Fact) -> Book:
        """The book of the plan that the event's tenant had when it happened. Raises ValueError where there is none."""
        plan = None
        for since_ms, named in self._since_ms.get(fact.alike.tenant_id, ()):
            if since_ms > fact.occurred_at_ms:
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
        self.off: set[tuple[str, str]] = set()
        """Tenant and name of what calls with their metering off have made, which somebody may have booked as if none had."""
        self._terms: dict[tuple[Alike, str | None, Book], Terms] = {}

    def charges(self, facts: Iterable[Fact]) -> list[str]:
        """Judge facts and sum them; their charges. Raises ValueError and others where there can be none."""
        rows = []
        for fact in facts:
            price_book = self.plans.price_book(fact)
            terms = self._terms_of(fact, price_book)
            rows.append(self.charge(fact, judge(fact, terms, price_book, self.books.cost_book)))
        return rows

    def _terms_of(self, fact: Fact, price_book: Book) -> Terms:
        if fact.provider_cost is not None:
            return terms_of(fact, price_book, self.books.cost_book)
        alike = (fact.alike, fact.service_tier, price_book)
        terms = self._terms.get(alike)
        if terms is None:
            terms = self._terms[alike] = terms_of(fact, price_book, self.books.cost_book)
        return terms

    def charge(self, fact: Fact, rated: Rated) -> str:
        """The charge of one event, which is summed."""
        self.sums.add(fact, rated)
        alike = fact.alike
        if not alike.metered and fact.external_id and alike.event_type in LISTED:
            self.off.add((alike.tenant_id, fact.external_id))
        return charge_row(fact, rated)


def charge_row(fact: Fact, rated: Rated) -> str:
    """A charge as JSON: the event's key, and the judgement, whose fields are named as the columns."""
    _, day, event_id = fact.key
    id_json: bytes = _encode(event_id)
    judged: bytes = _encode(rated)
    return f'{{"tenant_id":{fact.alike.tenant_json},"event_day":"{day}","event_id":{id_json.decode()},{judged[1:].decode()}'


_encode: Final = msgspec.json.Encoder().encode
