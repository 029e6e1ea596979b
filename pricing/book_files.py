"""Reading price books from TOML. All problems of a file are reported together, each with its line and key.

    name = "example"
    version = 1                      # with the name, what the file is called: example-v1.toml
    unit = "USD"                     # or "credits"

    [[price]]
    event_types = ["call_minutes"]   # or ["*"]
    dimensions = ["seconds"]         # "tokens" and "*" stand for several; left out: the price of the event as a whole
    resource = "US*"                 # what else it is for: source, direction, resource, tier, context_over,
    since = 2026-11-01               # since, until; what is left out does not restrict
    kind = "per_unit"                # the rate (see pricing/rates), and its own fields
    price = "0.015"
    per = 60
    increment = 60

    [[list]]                         # whatever this source has no line for, here, has the price of this list
    source = "example"
    catalogue = "genai-prices"
    provider = "example"

The shipped books are the examples to copy.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pricing.book import ALWAYS_MS, Book, Price, PriceList, instant_ms
from pricing.list_prices import load_list
from pricing.money import parse_amount
from pricing.rates import RATES, Markup

COST_UNIT = "USD"
"""What the shipped book of costs counts."""


class BookError(ValueError):
    """What is wrong with book files, all of it."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def load_book(path: Path) -> Book:
    """Read one book. Raises BookError."""
    problems: list[str] = []
    try:
        head = _read(tomllib.loads(path.read_text(encoding="utf-8")), BOOK, "book", problems)
    except (OSError, ValueError) as error:
        raise BookError([f"{path.name}: {error}"]) from error
    prices = [_price(table, f"price {number}", problems) for number, table in enumerate(head.get("price", ()), 1)]
    lists = [_list(table, f"list {number}", problems) for number, table in enumerate(head.get("list", ()), 1)]
    name, version = head.get("name"), head.get("version")
    if path.stem != f"{name}-v{version}":
        problems.append(f"book: name, version: they say that the file is called {name}-v{version}.toml")
    try:
        book = Book(
            name=str(name),
            version=version or 0,
            unit=head.get("unit", ""),
            prices=tuple(filter(None, prices)),
            lists=dict(filter(None, lists)),
        )
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise BookError(f"{path.name}: {problem}" for problem in problems)
    return book


class OwnPrices:
    """What somebody wrote down of a source's prices, and the list that holds where they wrote nothing."""

    def __init__(self, book: Book, source: str, listed: PriceList | None) -> None:
        self.edition = book.edition if listed is None else f"{book.edition}+{listed.edition}"
        # They say more about this source than its list does, which names none: whatever else both say, they win.
        self._prices = tuple(dataclasses.replace(price, source=source) for price in book.prices)
        self._listed = listed

    def prices(self, resource: str) -> tuple[Price, ...]:
        return self._prices if self._listed is None else (*self._prices, *self._listed.prices(resource))


def load_prices(path: Path, source: str, listed: PriceList | None) -> OwnPrices:
    """Read a book of what one source charges. Raises BookError."""
    book = load_book(path)
    problems = [
        f"{path.name}: {price.line}: is for {price.source}, and this file for {source}"
        for price in book.prices
        if price.source not in (None, source)
    ]
    if any(isinstance(price.rate, Markup) for price in book.prices):
        problems.append(f"{path.name}: a cost cannot be a markup on itself")
    if book.unit != COST_UNIT:
        problems.append(f"{path.name}: unit: costs are in {COST_UNIT}, not in {book.unit}")
    if book.lists:
        problems.append(f"{path.name}: list: name the list in the settings, as list_prices")
    if problems:
        raise BookError(problems)
    return OwnPrices(book, source, listed)


def _price(table: Mapping[str, object], line: str, problems: list[str]) -> Price | None:
    before = len(problems)
    rate_class = RATES.get(str(table.get("kind")))
    own_fields = () if rate_class is None else dataclasses.fields(rate_class)
    own = {field.name.removesuffix("_nano"): field for field in own_fields}
    own_keys = {
        key: Key(_amount if field.name.endswith("_nano") else _whole, required=field.default is dataclasses.MISSING)
        for key, field in own.items()
    }
    fields = _read(table, PRICE | own_keys, line, problems)
    if rate_class is None or len(problems) > before:
        return None
    del fields["kind"]
    try:
        rate = rate_class(**{field.name: fields.pop(key) for key, field in own.items() if key in fields})
        since_ms, until_ms = fields.pop("since", 0), fields.pop("until", ALWAYS_MS)
        return Price(rate=rate, line=line, since_ms=since_ms, until_ms=until_ms, **fields)
    except ValueError as error:
        problems.append(f"{line}: {error}")
    return None


def _list(table: Mapping[str, object], line: str, problems: list[str]) -> tuple[str, PriceList] | None:
    fields = _read(table, LIST, line, problems)
    if fields.keys() != LIST.keys():
        return None
    try:
        return fields["source"], load_list(fields["catalogue"], fields["provider"])
    except ValueError as error:
        problems.append(f"{line}: {error}")
    return None


class Key(NamedTuple):
    """A key of a table: how its value is read, and whether it may be missing."""

    read: Callable[[object], object]
    required: bool = False


def _read(table: Mapping[str, object], keys: Mapping[str, Key], line: str, problems: list[str]) -> dict[str, Any]:
    """The values that could be read, by key; whatever is wrong with the others joins the problems."""
    problems.extend(f"{line}: {key}: no such key" for key in table if key not in keys)
    problems.extend(f"{line}: {key}: missing" for key in keys if keys[key].required and key not in table)
    found: dict[str, Any] = {}
    for key in keys.keys() & table.keys():
        try:
            found[key] = keys[key].read(table[key])
        except ValueError as error:
            problems.append(f"{line}: {key}: {error}")
    return found


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"needs a text, not {value!r}")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"needs a list of texts, not {value!r}")
    return tuple(map(_text, value))


def _tables(value: object) -> list[Mapping[str, object]]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ValueError("needs to be written as tables in double brackets")
    return value


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"needs a whole number, not {value!r}")
    return value


def _amount(value: object) -> int:
    return parse_amount(_text(value))


def _moment(value: object) -> int:
    if isinstance(value, dt.date):
        return instant_ms(value)
    raise ValueError(f"needs a date, or a moment with its offset, not {value!r}")


def _kind(value: object) -> str:
    if value not in RATES:
        raise ValueError(f"needs to be one of {', '.join(RATES)}, not {value!r}")
    return str(value)


BOOK = {
    "name": Key(_text, required=True),
    "version": Key(_whole, required=True),
    "unit": Key(_text, required=True),
    "price": Key(_tables),
    "list": Key(_tables),
}
PRICE = {
    "event_types": Key(_texts, required=True),
    "dimensions": Key(_texts),
    "source": Key(_text),
    "direction": Key(_text),
    "resource": Key(_text),
    "tier": Key(_text),
    "context_over": Key(_whole),
    "since": Key(_moment),
    "until": Key(_moment),
    "kind": Key(_kind, required=True),
}
LIST = {
    "source": Key(_text, required=True),
    "catalogue": Key(_text, required=True),
    "provider": Key(_text, required=True),
}
