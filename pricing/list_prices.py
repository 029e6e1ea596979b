"""Providers' own price lists, compiled into prices of ours when the books are loaded.

There is one catalogue so far, the package `genai-prices`: what AI models cost, by date, service tier and size of
context. Its usage fields contain each other (cached tokens are part of the input) and our dimensions do not; so each of
ours takes the price of the narrowest field that the model has a price for, which comes to what the package works out by
subtraction. As with the package, a tier without prices of its own costs the standard price.

Why compiled: the package takes 60 µs for a call and raises for models it does not know, and rating happens for each
event and must not fail.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING

from pricing.book import ALWAYS_MS, ANY, BATCH, EPOCH, Price, instant_ms
from pricing.money import NANO
from pricing.rates import PerUnit

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

MILLION, THOUSAND, HOUR_S = 1_000_000, 1_000, 3_600

FIELDS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "input_tokens": (MILLION, ("input_mtok",)),
    "input_tokens_cached": (MILLION, ("cache_read_mtok", "input_mtok")),
    "input_tokens_cache_write": (MILLION, ("cache_write_mtok", "input_mtok")),
    "input_tokens_audio": (MILLION, ("input_audio_mtok", "input_mtok")),
    "input_tokens_image": (MILLION, ("input_image_mtok", "input_mtok")),
    "input_tokens_audio_cached": (
        MILLION,
        ("cache_audio_read_mtok", "cache_read_mtok", "input_audio_mtok", "input_mtok"),
    ),
    "input_tokens_image_cached": (
        MILLION,
        ("cache_image_read_mtok", "cache_read_mtok", "input_image_mtok", "input_mtok"),
    ),
    "output_tokens": (MILLION, ("output_mtok",)),
    "output_tokens_audio": (MILLION, ("output_audio_mtok", "output_mtok")),
    "output_tokens_image": (MILLION, ("output_image_mtok", "output_mtok")),
    "output_tokens_reasoning": (MILLION, ("output_reasoning_mtok", "output_mtok")),
    "seconds": (HOUR_S, ("input_audio_hours", "audio_hours")),
    "characters": (MILLION, ("input_mchars",)),
    "web_searches": (THOUSAND, ("web_searches_kcount",)),
    "file_searches": (THOUSAND, ("storage_searches_kcount",)),
    "requests": (THOUSAND, ("requests_kcount",)),
}
"""Dimension → the units its price is per, and the catalogue's prices for it, the narrowest first."""


class CompiledList:
    """One provider's part of the catalogue. The package serves on only to tell which model a name means."""

    def __init__(self, provider: Provider, edition: str) -> None:
        self.edition = edition
        self._provider = provider
        self._prices = {model.id: tuple(_model_prices(model)) for model in provider.models}

    def prices(self, resource: str) -> tuple[Price, ...]:
        """The prices of a model by the name it answered to; a leading `provider/`, as routers write it, is ignored."""
        model = self._provider.find_model(resource.removeprefix(f"{self._provider.id}/"))
        return () if model is None else self._prices.get(model.id, ())


def load_list(catalogue: str, provider_id: str) -> CompiledList:
    """Compile a provider's list out of a catalogue. Raises ValueError where there is no such thing."""
    if catalogue != "genai-prices":
        raise ValueError(f"no such catalogue: {catalogue!r}; there is genai-prices")
    from genai_prices import __version__  # noqa: PLC0415 - a large import, and most processes need no prices.
    from genai_prices.data import providers  # noqa: PLC0415

    for provider in providers:
        if provider.id == provider_id:
            return CompiledList(provider, f"genai-prices-{__version__}")
    raise ValueError(f"no such provider in genai-prices: {provider_id!r}")


def _model_prices(model: ModelInfo) -> Iterator[Price]:
    """What the catalogue says of a model: for each span of time the standard prices, and what tiers have instead."""
    conditional = model.prices if isinstance(model.prices, list) else []
    variants = model.price_variants or []
    starts = {EPOCH}
    for constraint in [entry.constraint for entry in conditional] + [variant.constraint for variant in variants]:
        if constraint is not None:
            day = getattr(constraint, "start_date", None)
            if day is None:
                return  # Prices that change with the time of day: books have no such thing, so this model has no price.
            starts.add(dt.datetime.combine(day, dt.time(), dt.UTC))
    tiers = {tier: variant.when for variant in variants if (tier := _tier(variant.when)) is not None}
    spans = sorted(starts)
    for since, until in zip_longest(spans, spans[1:]):
        standard = _steps(model.get_prices(since))
        yield from _span(standard, None, since, until)
        for tier, when in tiers.items():
            special = _steps(model.get_prices(since, when))
            own = {dimension: steps for dimension, steps in special.items() if steps != standard.get(dimension)}
            yield from _span(own, tier, since, until)


def _tier(when: Mapping[str, str]) -> str | None:
    """The service tier that a variant is for; None for what depends on something else, which events do not tell."""
    if when == {"processing": "batch"}:
        return BATCH
    return when["service_tier"] if when.keys() == {"service_tier"} else None


Steps = tuple[tuple[int | None, PerUnit], ...]
"""(applies above this size of context, rate), the standard one first."""


def _steps(prices: ModelPrice) -> dict[str, Steps]:
    found: dict[str, Steps] = {}
    for dimension, (per, names) in FIELDS.items():
        price = next((price for name in names if (price := getattr(prices, name)) is not None), None)
        if isinstance(price, Decimal):
            found[dimension] = ((None, _rate(price, per)),)
        elif price is not None:
            above = ((tier.start, _rate(tier.price, per)) for tier in price.tiers)
            found[dimension] = ((None, _rate(price.base, per)), *above)
    return found


@cache  # As many as there are different prices in the catalogue.
def _rate(price: Decimal, per: int) -> PerUnit:
    exact = Fraction(price) * NANO / per
    return PerUnit(exact.numerator, exact.denominator)


def _span(
    found: Mapping[str, Steps], tier: str | None, since: dt.datetime, until: dt.datetime | None
) -> Iterator[Price]:
    for dimension, steps in found.items():
        for context_over, rate in steps:
            yield Price(
                rate=rate,
                event_types=(ANY,),
                dimensions=(dimension,),
                tier=tier,
                context_over=context_over,
                since_ms=instant_ms(since),
                until_ms=ALWAYS_MS if until is None else instant_ms(until),
            )
