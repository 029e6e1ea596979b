"""Folding events and their charges into daily sums. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from metering.usage import COUNTED_KINDS, DIMENSIONS, Completeness, UsageEvent
from pricing.rating import Rated
from pricing.tables import ROLLUP_COUNTS, ROLLUP_SUMS

Key = tuple[str, ...]
"""The values of ROLLUP_KEY, in its order."""

Sums = list[int | None]
"""The values of ROLLUP_COUNTS and then of ROLLUP_SUMS, in their order; None where nothing was added."""

_EVENTS, _UNKNOWN, _UNPRICED = (ROLLUP_COUNTS.index(name) for name in ("events", "unknown_events", "unpriced_events"))
_AT = {name: index for index, name in enumerate((*ROLLUP_COUNTS, *ROLLUP_SUMS))}
_UNITS, _CHARGE, _CREDITS, _COST = (_AT[name] for name in ("units", "charge_nano", "credits", "cost_nano"))
_DIMENSION_AT = {name: _AT[name] for name in DIMENSIONS}


def fold(judged: Iterable[tuple[UsageEvent, Rated]]) -> dict[Key, Sums]:
    """Sum events by the key of rollups. Adding the result of two folds is folding both."""
    found: dict[Key, Sums] = {}
    for event, rated in judged:
        if not event.metered:
            continue
        key = (
            event.tenant_id,
            event.event_day,
            event.source,
            event.event_type,
            event.channel,
            event.direction or "",
            event.endpoint,
            event.resource or "",
            event.category,
            event.key_id or "",
            rated.currency,
            rated.cost_currency,
        )
        sums = found.get(key)
        if sums is None:
            sums = found[key] = [0] * len(ROLLUP_COUNTS) + [None] * len(ROLLUP_SUMS)
        if event.kind in COUNTED_KINDS:
            _add(sums, _EVENTS, 1)
            _add(sums, _UNKNOWN, int(event.completeness is Completeness.UNKNOWN))
            _add(sums, _UNPRICED, int(not rated.priced))
        _add(sums, _UNITS, event.units)
        for dimension, amount in event.quantities.items():
            _add(sums, _DIMENSION_AT[dimension], amount)
        _add(sums, _CHARGE, rated.charge_nano)
        _add(sums, _CREDITS, rated.credits)
        _add(sums, _COST, rated.cost_nano)
    return found


def _add(sums: Sums, at: int, amount: int | None) -> None:
    if amount is not None:
        sums[at] = (sums[at] or 0) + amount
