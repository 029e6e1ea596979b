"""What OpenAI's usage and costs are in the ledger. Pure.

Usage is told by model, costs are told by line items that name no model, so both are compared by themselves. OpenAI counts
within input and output tokens what the ledger tells apart of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.providers.api import Total, nanos
from gateway.providers.openai.media import CHARACTER_MODELS, SECOND_MODELS
from gateway.providers.openai.records import BATCHED
from metering.event_types import EVENT_TYPES
from metering.reconciliation import COST, Figure

EVENT_TYPES_OF: Mapping[str, tuple[str, ...]] = {
    # Whatever a model made of tokens: which of them OpenAI counts as completions, it does not say.
    "completions": ("llm_call", "realtime", "image", "audio_speech", "audio_transcription"),
    BATCHED: ("batch",),
    "embeddings": ("embedding", "batch"),
    "images": ("image",),
    "audio_speeches": ("audio_speech",),
    "audio_transcriptions": ("audio_transcription",),
}
"""By kind of usage; what went around the gateway is booked as the first. Moderations cost nothing, and what tools use is not
told by model."""

BOOKED: Mapping[str, str] = {
    "completions": "",
    BATCHED: "",
    "embeddings": "",
    "audio_speeches": CHARACTER_MODELS,
    "audio_transcriptions": SECOND_MODELS,
}
"""The kinds of which what went around the gateway is booked, each with how the names of the models begin of which it is. What
speaks and writes down for tokens may be told as completions as well: booked as both, it would be paid for twice. A picture's
price is by its quality, or by tokens, and OpenAI tells neither with how many there were."""

WITHIN: Mapping[str, tuple[str, ...]] = {
    "input_tokens": ("input_tokens_image", "input_tokens_cache_write"),
    "input_tokens_cached": ("input_tokens_image_cached", "input_tokens_audio_cached"),
    "output_tokens": ("output_tokens_image", "output_tokens_reasoning"),
}

COSTS = "costs"


def figures(totals: Sequence[Total]) -> list[Figure]:
    """The figures of one account, of any number of days."""
    used: dict[tuple[str, str], dict[str, int]] = {}
    calls: dict[tuple[str, str], dict[str, int]] = {}
    costs: dict[tuple[str, str], int] = {}
    for one in totals:
        day, kind = one.day.isoformat(), one.category.partition(":")[0]
        if kind == COSTS and one.cost is not None:
            costs[day, one.currency] = costs.get((day, one.currency), 0) + nanos(one.cost)
        elif kind in EVENT_TYPES_OF and one.usage is not None:
            amounts = used.setdefault((day, one.category), {})
            amounts[one.usage_unit] = amounts.get(one.usage_unit, 0) + int(one.usage)
            # Each of a project's dimensions tells the same number of calls.
            of_units = calls.setdefault((day, one.category), {})
            of_units[one.usage_unit] = of_units.get(one.usage_unit, 0) + (one.count or 0)
    found = [
        Figure(
            day=day,
            category=category,
            amounts=amounts,
            event_types=EVENT_TYPES_OF[category.partition(":")[0]],
            resource=category.partition(":")[2] or None,
            within=WITHIN,
            booked_as=_booked_as(category),
            calls=max(calls[day, category].values()),
        )
        for (day, category), amounts in used.items()
    ]
    ai = tuple(name for name, one in EVENT_TYPES.items() if one.channel == "ai")
    return found + [
        Figure(day=day, category=COSTS, amounts={COST: amount}, currency=currency, event_types=ai)
        for (day, currency), amount in costs.items()
    ]


def _booked_as(category: str) -> str | None:
    kind, _, model = category.partition(":")
    return EVENT_TYPES_OF[kind][0] if model and kind in BOOKED and model.startswith(BOOKED[kind]) else None
