"""Everything there is to rate with, loaded once: the price books by plan, and the cost book."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from pricing.book import Book, PriceList
from pricing.book_files import BookError, load_book
from pricing.plans import NO_PLAN, plans, resolve_plan
from pricing.rates import Markup

BOOKS_DIRECTORY = Path(__file__).with_name("books")
COSTS = "costs"
"""The name of the book of what providers charge us; every other book says what tenants are charged."""


@dataclass(frozen=True, slots=True)
class Books:
    """The price books by edition, and the cost book."""

    price_books: Mapping[str, Book]
    cost_book: Book

    def price_book(self, plan: str | None) -> Book:
        """The book that a plan names; the standard book for no plan. Raises ValueError where there is no such plan."""
        return self.price_books[resolve_plan(plan).book]


def load_books(directory: Path = BOOKS_DIRECTORY, lists: Mapping[str, PriceList] = MappingProxyType({})) -> Books:
    """Read all books of a directory and check that they fit together; `lists` say what further sources charge.

    Raises BookError, with all there are.
    """
    loaded: list[Book] = []
    problems: list[str] = []
    for path in sorted(directory.glob("*.toml")):
        try:
            loaded.append(load_book(path))
        except BookError as error:
            problems.extend(error.problems)
    cost_book = max((book for book in loaded if book.name == COSTS), key=lambda book: book.version, default=None)
    price_books = {book.edition: book for book in loaded if book.name != COSTS}
    if cost_book is None:
        raise BookError([*problems, f"{directory}: no readable book is named {COSTS}"])
    if lists:
        cost_book = replace(cost_book, lists={**cost_book.lists, **lists})
    problems.extend(_mismatches(price_books, cost_book))
    if problems:
        raise BookError(problems)
    return Books(price_books, cost_book)


def _mismatches(price_books: Mapping[str, Book], cost_book: Book) -> Iterator[str]:
    if _marks_up(cost_book):
        yield f"{cost_book.edition}: a cost cannot be a markup on itself"
    for edition, book in price_books.items():
        if _marks_up(book) and book.unit != cost_book.unit:
            yield f"{edition}: a markup needs costs in {book.unit}, and they are in {cost_book.unit}"
    for plan in (NO_PLAN, *plans()):
        if plan.book not in price_books:
            yield f"plan {plan.id}: no book {plan.book}"


def _marks_up(book: Book) -> bool:
    return any(isinstance(price.rate, Markup) for price in book.prices)
