"""What a call cost, where the provider says it beside the usage, as OpenRouter does (its page on usage accounting). Pure."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import cache

import msgspec

from gateway.messages import ResponseHead
from gateway.providers.api import Meter, Prepared, Usage
from metering.usage import TOLD_COST

COST_MAX = 1_000_000
"""No call costs more, in whole units of the currency: a larger figure is a mistake."""


class ToldCost:
    """Another meter, whose usage also names the cost."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Meter) -> None:
        self._inner = inner

    @property
    def concluded(self) -> bool:
        return self._inner.concluded

    def feed(self, chunk: bytes) -> bytes:
        return self._inner.feed(chunk)

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        held, usage = self._inner.finish(whole=whole)
        told = usage.metadata.get("usage")
        cost = told.get("cost") if isinstance(told, dict) else None
        if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost <= COST_MAX:
            # The shortest text that reads as this number is what the provider wrote: it has no more than 15 digits.
            text = format(Decimal(repr(cost)), "f")
            usage = msgspec.structs.replace(usage, metadata={**usage.metadata, TOLD_COST: text})
        return held, usage


@cache
def told_cost(meter: Callable[[ResponseHead, Prepared], Meter]) -> Callable[[ResponseHead, Prepared], Meter]:
    """That meter, reading the cost as well: one for each, however many endpoints share it."""
    return lambda head, prepared: ToldCost(meter(head, prepared))
