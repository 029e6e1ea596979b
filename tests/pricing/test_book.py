import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.event_types import DIMENSIONS, TOKENS
from pricing.book import ALWAYS_MS, EVENT, TARIFFS_MAX, Book, Price, instant_ms
from pricing.rates import Credits, Flat, PerUnit


def price(nano, **applies_to):
    return Price(
        **{"rate": PerUnit(nano), "event_types": ("*",), "dimensions": ("*",), "line": f"price {nano}"} | applies_to
    )


def book(*prices, unit="USD", lists=None):
    return Book(name="test", version=1, unit=unit, prices=prices, lists=lists or {})


def found(book, **event):
    asked = {
        "event_type": "llm_call",
        "source": "acme-ai",
        "dimension": "input_tokens",
        "resource": "m-1",
        "at_ms": 1_000,
    }
    price = book.find(**asked | event)
    return price and price.rate.amount(1)


def test_what_no_line_is_for_has_no_price():
    sms = book(price(1, event_types=("sms_outbound",), dimensions=("segments",)))
    assert found(sms, event_type="sms_outbound", dimension="segments") == 1
    assert found(sms, event_type="sms_outbound", dimension="messages") is None
    assert found(sms, event_type="sms_inbound", dimension="segments") is None


SPECIFIC_FIRST = [
    {"source": "acme-ai"},
    {"event_types": ("llm_call", "batch")},
    {"direction": "outbound"},
    {"resource": "m-1"},
    {"resource": "m-*"},
    {"resource": "m*"},
    {"dimensions": ("input_tokens",)},
    {"dimensions": ("tokens",)},
    {"tier": "flex"},
    {"context_over": 200},
    {"context_over": 100},
    {},
]
"""Each of these beats all that follow it, alone or together with them."""


@pytest.mark.parametrize("position", range(len(SPECIFIC_FIRST) - 1))
def test_the_more_specific_line_wins(position):
    winner, *others = SPECIFIC_FIRST[position:]
    both = book(price(1, **winner), *(price(2 + number, **other) for number, other in enumerate(others)))
    assert found(both, direction="outbound", tier="flex", context_tokens=201) == 1


def test_the_event_as_a_whole_is_no_dimension_that_a_star_stands_for():
    star = book(price(1))
    assert found(star, dimension=EVENT) is None
    assert {dimension for dimension in DIMENSIONS if found(star, dimension=dimension) == 1} == set(DIMENSIONS)


def test_tokens_stand_for_every_token_dimension_and_for_nothing_else():
    tokens = book(price(1, dimensions=("tokens",)))
    assert {dimension for dimension in DIMENSIONS if found(tokens, dimension=dimension) == 1} == set(TOKENS)


def test_a_price_holds_from_its_first_instant_until_before_its_last():
    dated = book(price(1, until_ms=1_000), price(2, since_ms=1_000, until_ms=2_000))
    assert [found(dated, at_ms=at_ms) for at_ms in (999, 1_000, 1_999, 2_000)] == [1, 2, 2, None]


def test_a_long_context_is_one_with_more_tokens_than_the_threshold():
    cliff = book(price(1), price(2, context_over=272_000))
    assert [found(cliff, context_tokens=tokens) for tokens in (0, 272_000, 272_001)] == [1, 1, 2]


def test_a_resource_prefix_is_no_price_for_events_without_a_resource():
    prefixed = book(price(1, resource="US*"))
    assert [found(prefixed, resource=resource) for resource in ("US", "US/toll-free", "DE", None)] == [1, 1, None, None]


@pytest.mark.parametrize(
    "twin",
    [
        {},
        {"since_ms": 5},
        {"event_types": ("*", "batch")},
        {"dimensions": ("*", "segments")},
    ],
)
def test_lines_for_the_same_thing_at_the_same_time_are_refused_and_both_named(twin):
    with pytest.raises(ValueError, match="price 1 and price 2 are for the same thing at the same time"):
        book(price(1), price(2, **twin))


def test_lines_for_the_same_thing_one_after_the_other_are_no_contradiction():
    book(price(1, until_ms=5), price(2, since_ms=5))


def test_money_has_no_place_in_a_book_of_credits_nor_credits_in_one_of_money():
    with pytest.raises(ValueError, match="price 1: this book counts credits"):
        book(price(1), unit="credits")
    with pytest.raises(ValueError, match="price 2: this book counts USD"):
        book(price(2, rate=Credits(2)))


@pytest.mark.parametrize(
    ("applies_to", "sentence"),
    [
        ({"dimensions": ("tokns",)}, "no such dimension: tokns"),
        ({"since_ms": 5, "until_ms": 5}, "until must lie after since"),
        ({"rate": Flat(1), "dimensions": ("segments",)}, "event as a whole"),
        ({"resource": "gpt-*-mini"}, "only at its end"),
    ],
)
def test_a_price_that_makes_no_sense_cannot_be_built(applies_to, sentence):
    with pytest.raises(ValueError, match=sentence):
        price(1, **applies_to)


PRICES = st.builds(
    Price,
    rate=st.just(PerUnit(1)),
    event_types=st.sampled_from([("*",), ("llm_call",), ("llm_call", "batch")]),
    dimensions=st.sampled_from([("*",), ("tokens",), ("input_tokens",), ("input_tokens", "seconds"), (EVENT, "*")]),
    source=st.sampled_from([None, "acme-ai"]),
    direction=st.sampled_from([None, "outbound"]),
    resource=st.sampled_from([None, "m-1", "m-*", "m*"]),
    tier=st.sampled_from([None, "flex"]),
    context_over=st.sampled_from([None, 100, 200]),
    since_ms=st.sampled_from([0, 500]),
    until_ms=st.sampled_from([900, ALWAYS_MS]),
)


@given(st.lists(PRICES, min_size=1, max_size=6), st.sampled_from([EVENT, "input_tokens", "seconds"]))
def test_every_look_up_has_one_answer_or_none(prices, dimension):
    try:
        accepted = book(*prices)
    except ValueError:
        return
    candidates = accepted.tariff("llm_call", "acme-ai", "outbound", "m-1", "flex").get(dimension, ())
    ranks = [price.rank(dimension) for price in candidates if price.since_ms <= 700 < price.until_ms]
    assert ranks == sorted(set(ranks), reverse=True)


class OneModelList:
    edition = "list-7"

    def prices(self, resource):
        listed = Price(rate=PerUnit(9), event_types=("*",), dimensions=("tokens",))
        return (listed,) if resource == "m-1" else ()


def test_a_list_holds_where_the_book_has_no_line_of_its_own_however_general():
    both = book(price(1, dimensions=("input_tokens",)), lists={"acme-ai": OneModelList()})
    assert found(both) == 1
    assert found(both, dimension="output_tokens") == 9
    assert found(both, dimension="output_tokens", source="other") is None
    assert found(both, dimension="output_tokens", resource="m-2") is None
    assert found(both, dimension="output_tokens", resource=None) is None


def test_the_edition_names_the_version_of_the_book_and_of_its_lists():
    assert book().edition == "test-v1"
    assert book(lists={"acme-ai": OneModelList(), "other": OneModelList()}).edition == "test-v1+list-7"


def test_what_a_book_remembers_is_bounded():
    many = book(price(1))
    for number in range(TARIFFS_MAX + 10):
        found(many, resource=f"m-{number}")
    assert many.tariff.cache_info().currsize == TARIFFS_MAX


def test_a_day_begins_at_midnight_utc():
    midnight = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
    assert instant_ms(dt.date(2026, 11, 1)) == instant_ms(midnight) == int(midnight.timestamp()) * 1_000
    assert instant_ms(dt.datetime(2026, 11, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))) == instant_ms(midnight)


def test_a_moment_without_its_offset_is_refused():
    with pytest.raises(ValueError, match="offset"):
        instant_ms(dt.datetime(2026, 11, 1))  # noqa: DTZ001 - that is the point.
