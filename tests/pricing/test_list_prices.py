"""The catalogue itself is the oracle: what it works out for the usage as a whole, our compiled prices must come to."""

import datetime as dt
from fractions import Fraction

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers
from genai_prices.types import ClauseEquals, ClauseOr, ClauseStartsWith
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.event_types import INPUT_TOKENS, OUTPUT_TOKENS
from pricing.book import BATCH, Book, instant_ms
from pricing.list_prices import FIELDS, load_list
from pricing.money import NANO, parse_amount

PROVIDER = "openai"
MODELS = next(provider.models for provider in providers if provider.id == PROVIDER)
BOOK = Book(name="test", version=1, unit="USD", prices=(), lists={"acme": load_list("genai-prices", PROVIDER)})


def names(clause):
    if isinstance(clause, ClauseEquals):
        return [clause.equals]
    if isinstance(clause, ClauseStartsWith):
        return [clause.starts_with + "2026"]
    return [name for part in clause.or_ for name in names(part)] if isinstance(clause, ClauseOr) else []


NAMES = sorted({name for model in MODELS for name in names(model.match)})
DATED_BY_PATTERN = [
    "gpt-5.6-sol-2026-09-01",
    "gpt-6.1-sol-2026-09-29",
    "GPT-4o",
    "gpt-4o-20240806",
    "omni-moderation-latest",
]
DAYS = [dt.date(2024, 1, 1), dt.date(2026, 11, 20)] + [
    day + dt.timedelta(days=days)
    for day in (
        dt.date(2025, 6, 10),
        dt.date(2026, 7, 30),
        dt.date(2026, 8, 21),
        dt.date(2026, 10, 12),
        dt.date(2026, 10, 19),
    )
    for days in (-1, 0, 2)
]
DECIMAL_ERROR_NANO = Fraction(1, 10**9)
"""The catalogue divides in decimals of 28 digits: a price for an hour is not exact by the second there."""

TIERS = [None, "default", "flex", "priority", "fast", BATCH, "auto", "scale"]


def context_of(tier):
    return {"processing": "batch"} if tier == BATCH else {"service_tier": tier} if tier else None


def as_the_catalogue_counts(quantities):
    """Our disjoint quantities as its usage, in which the special kinds are counted within the general ones."""

    def total(*dimensions):
        return sum(quantities.get(dimension, 0) for dimension in dimensions)

    return Usage(
        input_tokens=total(*INPUT_TOKENS),
        cache_read_tokens=total("input_tokens_cached", "input_tokens_audio_cached", "input_tokens_image_cached"),
        cache_write_tokens=total("input_tokens_cache_write"),
        input_audio_tokens=total("input_tokens_audio", "input_tokens_audio_cached"),
        input_image_tokens=total("input_tokens_image", "input_tokens_image_cached"),
        cache_audio_read_tokens=total("input_tokens_audio_cached"),
        cache_image_read_tokens=total("input_tokens_image_cached"),
        output_tokens=total(*OUTPUT_TOKENS),
        output_audio_tokens=total("output_tokens_audio"),
        output_image_tokens=total("output_tokens_image"),
        output_reasoning_tokens=total("output_tokens_reasoning"),
        audio_seconds=total("seconds"),
        input_audio_seconds=total("seconds"),
        input_characters=total("characters"),
        web_searches=total("web_searches"),
        storage_searches=total("file_searches"),
    )


def rates_of(model, quantities, at, tier=None):
    context = sum(quantities.get(dimension, 0) for dimension in INPUT_TOKENS)
    found = {
        dimension: BOOK.find("llm_call", "acme", dimension, model, instant_ms(at), tier=tier, context_tokens=context)
        for dimension in quantities
    }
    return {dimension: price.rate for dimension, price in found.items() if price is not None}


@settings(max_examples=400)
@given(
    model=st.sampled_from(NAMES + DATED_BY_PATTERN),
    day=st.sampled_from(DAYS),
    tier=st.sampled_from(TIERS),
    quantities=st.dictionaries(
        st.sampled_from([name for name in FIELDS if name != "requests"]), st.integers(1, 400_000), min_size=1
    ),
)
def test_the_compiled_prices_come_to_what_the_catalogue_works_out_itself(model, day, tier, quantities):
    at = dt.datetime.combine(day, dt.time(), dt.UTC)
    rates = rates_of(model, quantities, at, tier)
    priced = {dimension: quantity for dimension, quantity in quantities.items() if dimension in rates}
    theirs = calc_price(
        as_the_catalogue_counts(priced),
        model,
        provider_id=PROVIDER,
        genai_request_timestamp=at,
        price_context=context_of(tier),
    )
    exact = {name: Fraction(rates[name].price_nano * quantity, rates[name].per) for name, quantity in priced.items()}
    assert abs(sum(exact.values()) - Fraction(theirs.total_price) * NANO) < DECIMAL_ERROR_NANO
    assert [rates[name].amount(quantity) for name, quantity in priced.items()] == [
        round(amount) for amount in exact.values()
    ]


def test_no_price_that_the_catalogue_has_for_a_model_is_left_out():
    compiled = {name for _, fields in FIELDS.values() for name in fields}
    for model in MODELS:
        for prices in model.prices if isinstance(model.prices, list) else [model]:
            assert {name for name, price in vars(prices.prices).items() if price is not None} <= compiled, model.id


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_each_model_has_the_dimensions_that_the_catalogue_has_prices_for(model):
    at = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    offered = {name for name, price in vars(model.get_prices(at)).items() if price is not None}
    expected = {dimension for dimension, (_, fields) in FIELDS.items() if offered & set(fields)}
    name = next(iter(names(model.match)), model.id)
    assert rates_of(name, dict.fromkeys(FIELDS, 0), at).keys() == expected


BY_HAND = [
    # From the tables of prices collected for this project: dollars for a million tokens.
    ("gpt-4o-2024-08-06", {"input_tokens": "2.5", "input_tokens_cached": "1.25", "output_tokens": "10"}),
    ("gpt-4o-mini", {"input_tokens": "0.15", "input_tokens_cached": "0.075", "output_tokens": "0.6"}),
    ("gpt-5-nano", {"input_tokens": "0.05", "input_tokens_cached": "0.005", "output_tokens_reasoning": "0.4"}),
    ("gpt-6.1-sol", {"input_tokens": "2", "input_tokens_cached": "0.1", "input_tokens_cache_write": "2.5"}),
    ("o3", {"input_tokens": "2", "input_tokens_cached": "0.5", "output_tokens": "8"}),
    ("gpt-realtime", {"input_tokens_audio": "32", "output_tokens_audio": "64", "input_tokens_image": "5"}),
    ("gpt-image-1.5", {"input_tokens_image": "8", "output_tokens_image": "32", "output_tokens": "10"}),
    ("text-embedding-3-small", {"input_tokens": "0.02"}),
    ("gpt-4o", {"input_tokens_cache_write": "2.5", "input_tokens_audio_cached": "1.25"}),
]


@pytest.mark.parametrize(("model", "dollars_for_a_million"), BY_HAND)
def test_a_million_tokens_cost_what_the_price_table_says(model, dollars_for_a_million):
    for dimension, dollars in dollars_for_a_million.items():
        rates = rates_of(model, {dimension: 1}, dt.datetime(2026, 11, 20, tzinfo=dt.UTC))
        assert rates[dimension].amount(1_000_000) == parse_amount(dollars), dimension


@pytest.mark.parametrize(
    ("model", "dimension", "quantity", "dollars"),
    [
        ("whisper-1", "seconds", 3_600, "0.36"),
        ("tts-1", "characters", 1_000_000, "15"),
        ("gpt-4o", "web_searches", 1_000, "10"),
        ("gpt-4o", "file_searches", 1_000, "2.5"),
    ],
)
def test_what_is_not_counted_in_tokens_has_its_price_too(model, dimension, quantity, dollars):
    rates = rates_of(model, {dimension: 1}, dt.datetime(2026, 11, 20, tzinfo=dt.UTC))
    assert rates[dimension].amount(quantity) == parse_amount(dollars)


@pytest.mark.parametrize(
    ("tier", "dollars"),
    [(None, "2"), ("default", "2"), ("flex", "1"), ("priority", "4"), ("fast", "4"), (BATCH, "1"), ("scale", "2")],
)
def test_the_service_tier_decides_the_price(tier, dollars):
    rates = rates_of("gpt-6.1-sol", {"input_tokens": 1}, dt.datetime(2026, 11, 20, tzinfo=dt.UTC), tier)
    assert rates["input_tokens"].amount(1_000_000) == parse_amount(dollars)


@pytest.mark.parametrize(("tokens", "dollars"), [(272_000, "10"), (272_001, "15")])
def test_a_long_prompt_makes_every_token_dearer(tokens, dollars):
    at = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    rates = rates_of("gpt-6.1-sol", {"input_tokens": tokens, "output_tokens": 1}, at)
    assert rates["output_tokens"].amount(1_000_000) == parse_amount(dollars)


@pytest.mark.parametrize(("day", "dollars"), [(20, "5"), (21, "4")])
def test_a_cut_in_price_holds_from_its_day_on(day, dollars):
    rates = rates_of("gpt-5.6-sol", {"input_tokens": 1}, dt.datetime(2026, 8, day, 23, 59, tzinfo=dt.UTC))
    assert rates["input_tokens"].amount(1_000_000) == parse_amount(dollars)


def test_a_model_that_nobody_knows_has_no_price():
    assert rates_of("davinci:2023-07-21-v2", {"input_tokens": 1}, dt.datetime(2026, 11, 20, tzinfo=dt.UTC)) == {}


def test_a_model_may_be_named_with_its_provider_in_front():
    at = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    assert rates_of(f"{PROVIDER}/gpt-4o", {"input_tokens": 1}, at) == rates_of("gpt-4o", {"input_tokens": 1}, at)


@pytest.mark.parametrize("provider", providers, ids=lambda provider: provider.id)
def test_every_provider_of_the_catalogue_compiles(provider):
    assert load_list("genai-prices", provider.id).edition.startswith("genai-prices-")
