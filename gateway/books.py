"""The price books of an installation: those that are shipped, and what its settings say that further providers charge."""

from __future__ import annotations

from gateway.settings import Settings, environment_name
from pricing.book import PriceList
from pricing.book_files import BookError, load_prices
from pricing.catalogue import Books, load_books
from pricing.list_prices import load_list


def books_of(settings: Settings) -> Books:
    """Raises BookError, with every problem that the settings are to blame for."""
    lists: dict[str, PriceList] = {}
    problems: list[str] = []
    for name, provider in settings.providers.items():
        listed: PriceList | None = None
        if provider.list_prices is not None:
            try:
                listed = load_list("genai-prices", provider.list_prices)
            except ValueError as error:
                problems.append(f"{environment_name(f'providers.{name}.list_prices')}: {error}")
        if provider.prices is not None:
            try:
                listed = load_prices(provider.prices, name, listed)
            except BookError as error:
                problems += [f"{environment_name(f'providers.{name}.prices')}: {problem}" for problem in error.problems]
        if listed is not None:
            lists[name] = listed
    if problems:
        raise BookError(problems)
    return load_books(lists=lists)
