"""Folding events and their charges into daily sums. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from metering.usage import COUNTED_KINDS, DAY_MS, REVERSES, Completeness, UsageEvent
from pricing.judgement import Rated
from pricing.tables import ROLLUP_COUNTS, ROLLUP_SUMS

Key = tuple[str, ...]
"""The values of ROLLUP_KEY, in its order."""

Sums = list[Any]
"""Integers: the values of ROLLUP_COUNTS and then of ROLLUP_SUMS, in their order; None where nothing was added."""

_EVENTS, _UNKNOWN, _UNPRICED = (ROLLUP_COUNTS.index(name) for name in ("events", "unknown_events", "unpriced_events"))
_AT: Final = {name: index for index, name in enumerate((*ROLLUP_COUNTS, *ROLLUP_SUMS))}
_UNITS, _CHARGE, _CREDITS, _COST = (_AT[name] for name in ("units", "charge_nano", "credits", "cost_nano"))

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
        amounts = (
            (_UNITS, event.units),
            (_CHARGE, rated.charge_nano),
            (_CREDITS, rated.credits),
            (_COST, rated.cost_nano),
        )
        for at, amount in amounts:
            if amount is not None:
                sums[at] = amount + (sums[at] or 0)
        for dimension, amount in event.quantities.items():
            at = _AT[dimension]
            sums[at] = amount + (sums[at] or 0)
    return found


def _key(event: UsageEvent, rated: Rated) -> Key:
    return (
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
