"""What further providers charge: by the settings, and by nothing else."""

from pathlib import Path

import pytest

from gateway.books import books_of
from gateway.settings import load_settings
from pricing.book_files import BookError
from pricing.money import format_amount
from pricing.rating import rate
from tests.builders import fact, usage_event

OWN_PRICES = """
name = "groq"
version = 3
unit = "USD"

[[price]]
event_types = ["*"]
dimensions = ["tokens"]
resource = "llama*"
kind = "per_unit"
price = "0.001"
"""


def settings_with(**fields):
    given = {"kind": "openai", "base_url": "https://groq.test"} | fields
    return load_settings(
        {f"TOLLKEEPER_PROVIDERS__GROQ__{name.upper()}": text for name, text in given.items()}, {}, None
    )


def rated(books, resource, source="groq"):
    event = usage_event(source=source, resource=resource, quantities={"input_tokens": 1000, "output_tokens": 10})
    found = rate(fact(event), books.price_book("starter"), books.cost_book)
    cost = None if found.cost_nano is None else format_amount(found.cost_nano)
    return found.priced, None if found.charge_nano is None else format_amount(found.charge_nano), cost


@pytest.fixture
def own_prices(tmp_path):
    path = tmp_path / "groq-v3.toml"
    path.write_text(OWN_PRICES)
    return path


def test_without_prices_its_events_are_unpriced_and_not_at_openai_s_list_price():
    """Guards the tenant's bill: sabotaged (OpenAI's list for every source), another's model has OpenAI's price."""
    books = books_of(settings_with())

    assert rated(books, "gpt-4o") == (False, None, None)
    assert rated(books, "gpt-4o", source="openai") == (True, "0.00312", "0.0026")


def test_a_list_of_the_catalogue_prices_the_models_that_it_names():
    books = books_of(settings_with(list_prices="groq"))

    # genai-prices 0.0.x, groq: llama-3.3-70b-versatile 0.59 and 0.79 dollars a million tokens.
    assert rated(books, "llama-3.3-70b-versatile") == (True, "0.00071748", "0.0005979")
    assert rated(books, "no-such-model") == (False, None, None)
    assert rated(books, "gpt-4o", source="openai") == (True, "0.00312", "0.0026")


def test_prices_of_one_s_own_go_before_the_list(own_prices):
    books = books_of(settings_with(list_prices="groq", prices=str(own_prices)))

    assert rated(books, "llama-3.3-70b-versatile") == (True, "1.212", "1.01")
    assert rated(books, "gemma2-9b-it")[0]
    assert "groq-v3" in books.cost_book.edition


def test_what_is_wrong_with_prices_names_the_setting_and_the_line(own_prices):
    own_prices.write_text(
        OWN_PRICES.replace('"USD"', '"EUR"').replace('resource = "llama*"', 'source = "openai"')
        + '\n[[list]]\nsource = "groq"\ncatalogue = "genai-prices"\nprovider = "groq"\n'
    )

    with pytest.raises(BookError) as refused:
        books_of(settings_with(list_prices="grok-of-nobody", prices=str(own_prices)))

    assert refused.value.problems == (
        "TOLLKEEPER_PROVIDERS__GROQ__LIST_PRICES: no such provider in genai-prices: 'grok-of-nobody'",
        "TOLLKEEPER_PROVIDERS__GROQ__PRICES: groq-v3.toml: price 1: is for openai, and this file for groq",
        "TOLLKEEPER_PROVIDERS__GROQ__PRICES: groq-v3.toml: unit: costs are in USD, not in EUR",
        "TOLLKEEPER_PROVIDERS__GROQ__PRICES: groq-v3.toml: list: name the list in the settings, as list_prices",
    )


def test_a_file_that_can_not_be_read_is_named(tmp_path):
    path = Path(tmp_path / "prices.toml")
    path.write_text("not = [toml")

    with pytest.raises(BookError, match=r"PROVIDERS__GROQ__PRICES: prices\.toml: "):
        books_of(settings_with(prices=str(path)))
