"""Folding events and their charges into daily sums. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from metering.event_types import channel_of, units_of
from metering.moments import DAY_MS, day_of
from metering.usage import COUNTED_KINDS, REVERSES, Completeness, UsageEvent
from pricing.judgement import Rated
from pricing.tables import ROLLUP_COUNTS, ROLLUP_SUMS

Key = tuple[str, ...]
"""The values of ROLLUP_KEY, in its order."""

Sums = list[Any]
"""Integers: the values of ROLLUP_COUNTS and then of ROLLUP_SUMS, in their order; None where nothing was added."""

_AT: Final = {name: index for index, name in enumerate((*ROLLUP_COUNTS, *ROLLUP_SUMS))}
_EVENTS: Final = _AT["events"]
_UNKNOWN: Final = _AT["unknown_events"]
_UNPRICED: Final = _AT["unpriced_events"]
_UNITS: Final = _AT["units"]
_CHARGE: Final = _AT["charge_nano"]
_CREDITS: Final = _AT["credits"]
_COST: Final = _AT["cost_nano"]

NOTHING: Final[Sums] = [0] * len(ROLLUP_COUNTS) + [None] * len(ROLLUP_SUMS)


def fold(judged: Iterable[tuple[UsageEvent, Rated]]) -> dict[Key, Sums]:
    """Sum events by the key of rollups. Adding the result of two folds is folding both."""
    found: dict[Key, Sums] = {}
    # By what the key is made of, which is there already: the key itself is made once for each group.
    groups: dict[tuple[object, ...], Sums] = {}
    for event, rated in judged:
        if not event.metered:
            continue
        alike = (
            event.tenant_id,
            event.occurred_at_ms // DAY_MS,
            event.source,
            event.event_type,
            event.direction,
            event.endpoint,
            event.resource,
            event.category,
            event.key_id,
            rated.currency,
            rated.cost_currency,
        )
        sums = groups.get(alike)
        if sums is None:
            sums = groups[alike] = found.setdefault(_key(event, rated), [*NOTHING])
        if event.kind in COUNTED_KINDS:
            sums[_EVENTS] += 1
            if event.completeness is Completeness.UNKNOWN:
                sums[_UNKNOWN] += 1
            if not rated.priced:
                sums[_UNPRICED] += 1
        elif event.metadata.get(REVERSES) in COUNTED_KINDS:
            sums[_EVENTS] -= 1
            sums[_UNPRICED] -= not rated.priced
        quantities = event.quantities
        _add(sums, _UNITS, units_of(event.event_type, quantities))
        _add(sums, _CHARGE, rated.charge_nano)
        _add(sums, _CREDITS, rated.credits)
        _add(sums, _COST, rated.cost_nano)
        for dimension, amount in quantities.items():
            _add(sums, _AT[dimension], amount)
    return found


def _add(sums: Sums, at: int, amount: int | None) -> None:
    if amount is not None:
        before: int | None = sums[at]
        sums[at] = amount if before is None else before + amount


def _key(event: UsageEvent, rated: Rated) -> Key:
    return (
        event.tenant_id,
        day_of(event.occurred_at_ms),
        event.source,
        event.event_type,
        channel_of(event.event_type),
        event.direction or "",
        event.endpoint,
        event.resource or "",
        event.category,
        event.key_id or "",
        rated.currency,
        rated.cost_currency,
    )
