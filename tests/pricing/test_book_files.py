import textwrap

import pytest

from pricing.book import CREDITS
from pricing.book_files import BookError, load_book
from pricing.rates import Credits, Flat, Markup, PerUnit

HEAD = 'name = "example"\nversion = 1\nunit = "USD"\n'


@pytest.fixture
def read(tmp_path):
    def read(text, name="example-v1.toml"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return load_book(path)

    return read


def test_a_book_is_read_whole(read):
    book = read(
        HEAD
        + """
        [[price]]
        event_types = ["call_minutes"]
        dimensions = ["seconds"]
        source = "acme"
        direction = "outbound"
        resource = "US*"
        tier = "flex"
        context_over = 5
        since = 2026-11-01
        until = 2026-12-01T00:00:00+01:00
        kind = "per_unit"
        price = "0.015"
        per = 60
        increment = 60

        [[price]]
        event_types = ["api_call"]
        kind = "flat"
        price = "0"

        [[price]]
        event_types = ["llm_call"]
        dimensions = ["*"]
        kind = "markup"
        percent = "12.5"
        """.replace("        ", "")
    )
    call, free, markup = book.prices
    assert book.edition == "example-v1"
    assert call.rate == PerUnit(15_000_000, per=60, increment=60)
    assert (call.dimensions, call.source, call.direction, call.resource) == (("seconds",), "acme", "outbound", "US*")
    assert (call.tier, call.context_over, call.line) == ("flex", 5, "price 1")
    assert call.since_ms == 1_793_491_200_000
    assert call.until_ms == call.since_ms + 30 * 86_400_000 - 3_600_000
    assert (free.rate, free.dimensions) == (Flat(0), ("event",))
    assert markup.rate == Markup(12_500_000_000)


def test_a_book_may_count_credits(read):
    book = read(
        """
        name = "example"
        version = 1
        unit = "credits"
        [[price]]
        event_types = ["llm_call"]
        kind = "credits"
        credits = 2
        """
    )
    assert book.unit == CREDITS
    assert book.prices[0].rate == Credits(2)


def test_all_problems_are_reported_at_once_each_with_its_file_and_line_and_key(read):
    with pytest.raises(BookError) as refusal:
        read(
            """
            nam = "example"
            version = "1"
            unit = "USD"

            [[price]]
            event_types = "llm_call"
            kind = "per_unit"
            price = 0.0075
            per = 1.5
            color = "red"

            [[price]]
            kind = "lottery"
            since = 2026-11-01T12:00:00
            until = "tomorrow"

            [[price]]
            event_types = ["llm_call"]
            dimensions = ["tokns"]
            kind = "per_unit"
            price = "1"

            [[price]]
            event_types = ["llm_call"]
            dimensions = ["tokens"]
            kind = "per_unit"
            price = "-1"

            [[price]]
            event_types = ["sms_outbound", 7]
            kind = "flat"
            price = "0.00000000001"
            per = 2

            [[price]]
            event_types = ["job"]
            kind = "flat"
            price = "1"

            [[price]]
            event_types = ["job"]
            kind = "flat"
            price = "2"

            [[list]]
            source = "acme"
            catalogue = "yellow-pages"
            provider = "acme"

            [[list]]
            source = "acme"
            """
        )
    expected = [
        "book: name: missing",
        "book: nam: no such key",
        "book: version: needs a whole number, not '1'",
        "price 1: event_types: needs a list of texts, not 'llm_call'",
        "price 1: price: needs a text, not 0.0075",
        "price 1: per: needs a whole number, not 1.5",
        "price 1: color: no such key",
        "price 2: kind: needs to be one of per_unit, flat, credits, markup, not 'lottery'",
        "price 2: event_types: missing",
        "price 2: since: a moment needs its offset from UTC: 2026-11-01T12:00:00",
        "price 2: until: needs a date, or a moment with its offset, not 'tomorrow'",
        "price 3: no such dimension: tokns",
        "price 4: a price per unit must not be negative; per and increment must be positive",
        "price 5: event_types: needs a text, not 7",
        "price 5: price: not an exact number of nanos: '0.00000000001' has more than 9 decimals",
        "price 5: per: no such key",
        "price 6 and price 7 are for the same thing at the same time",
        "list 1: no such catalogue: 'yellow-pages'; there is genai-prices",
        "list 2: catalogue: missing",
        "list 2: provider: missing",
    ]
    problems = refusal.value.problems
    assert {f"example-v1.toml: {problem}" for problem in expected} <= set(problems)
    assert len(problems) == len(expected) + 1  # The name is missing, so the file's name cannot be right either.


def test_a_file_that_is_no_toml_is_one_problem(read):
    with pytest.raises(BookError, match=r"example-v1\.toml: Invalid value"):
        read("name = ")


def test_a_file_that_is_not_there_is_one_problem(tmp_path):
    with pytest.raises(BookError, match=r"gone-v1\.toml"):
        load_book(tmp_path / "gone-v1.toml")


def test_a_book_that_is_called_otherwise_than_its_file_is_refused(read):
    with pytest.raises(BookError, match=r"is called example-v1\.toml"):
        read(HEAD, "example-v2.toml")


def test_prices_need_double_brackets(read):
    with pytest.raises(BookError, match="price: needs to be written as tables in double brackets"):
        read(HEAD + '[price]\nkind = "flat"\n')


def test_a_provider_that_the_catalogue_does_not_have_is_refused(read):
    with pytest.raises(BookError, match="list 1: no such provider in genai-prices: 'acme'"):
        read(HEAD + '[[list]]\nsource = "acme"\ncatalogue = "genai-prices"\nprovider = "acme"\n')
