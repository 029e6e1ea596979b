"""What a call cost, where the provider says it beside the usage, as OpenRouter does (its page on usage accounting). Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import cache

from gateway.messages import ResponseHead
from gateway.providers.api import Meter
from gateway.providers.learnt import Prepared, Usage
from gateway.providers.revised import Revised
from metering.usage import TOLD_COST

COST_MAX = 1_000_000
"""No call costs more, in whole units of the currency: a larger figure is a mistake."""


def _with_cost(usage: Usage) -> Usage:
    """The same usage, which also names the cost, where there is one."""
    told = usage.metadata.get("usage")
    cost = told.get("cost") if isinstance(told, dict) else None
    if not isinstance(cost, int | float) or isinstance(cost, bool) or not 0 <= cost <= COST_MAX:
        return usage
    # The shortest text that reads as this number is what the provider wrote: it has no more than 15 digits.
    text = format(Decimal(repr(cost)), "f")
    return replace(usage, metadata={**usage.metadata, TOLD_COST: text})


@cache
def told_cost(meter: Callable[[ResponseHead, Prepared], Meter]) -> Callable[[ResponseHead, Prepared], Meter]:
    """That meter, reading the cost as well: one for each, however many endpoints share it."""
    return lambda head, prepared: Revised(meter(head, prepared), _with_cost)
