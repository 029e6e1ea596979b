"""Judging what is to be booked: which book each event is charged by, and what that comes to. Pure.

Apart from the booking, which talks to the database: this runs for each event.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from metering.facts import Fact, key_of
from metering.usage import UsageEvent
from pricing.book import Book, instant_ms
from pricing.catalogue import Books
from pricing.judgement import Rated
from pricing.rating import rate


class Plans:
    """Which book each of some tenants is charged by, and from when on."""

    def __init__(self, books: Books, plans: Iterable[tuple[str, dt.datetime, str | None]]) -> None:
        """`plans` are rows of tenant, moment and plan, each tenant's in the order of time."""
        self._books = books
        self._since_ms: dict[str, list[tuple[int, str | None]]] = {}
        for tenant_id, effective_at, plan in plans:
            self._since_ms.setdefault(tenant_id, []).append((instant_ms(effective_at), plan))
        self._known: dict[str | None, Book] = {}

    def price_book(self, event: UsageEvent) -> Book:
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


def judge(fact: Fact, plans: Plans, books: Books) -> Rated:
    """The judgement on one fact. Raises ValueError and others where there can be none."""
    return rate(fact.event, plans.price_book(fact.event), books.cost_book)


def judge_all(facts: Iterable[Fact], plans: Plans, books: Books, rated: dict[int, Rated]) -> None:
    """Add the judgements by the facts' identities. Leaves out what can not be judged: the ledger may have it already."""
    for fact in facts:
        try:
            rated[id(fact)] = judge(fact, plans, books)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            continue


def charge_rows(judged: Iterable[tuple[UsageEvent, Rated]]) -> list[tuple[object, ...]]:
    """The charge of each event as the values of its columns, in their order."""
    return [
        (
            *key_of(event),
            rated.priced,
            rated.currency,
            rated.charge_nano,
            rated.credits,
            rated.cost_currency,
            rated.cost_nano,
            rated.price_book,
            rated.cost_book,
            rated.lines,
        )
        for event, rated in judged
    ]
