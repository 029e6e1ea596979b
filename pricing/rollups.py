"""Folding events and their charges into daily sums. Pure."""

from __future__ import annotations

from typing import Any, Final

from metering.event_types import channel_of, units_of
from metering.moments import DAY_MS, day_of
from metering.usage import COUNTED_KINDS, REVERSES, Completeness, Outline, UsageEvent
from pricing.judgement import Rated
from pricing.tables import ROLLUP_COUNTS, ROLLUP_KEY

Row = dict[str, Any]
"""The key of rollups, and the sums to which something was added: absent is not zero."""

_KEY: Final[tuple[str, ...]] = ROLLUP_KEY
_COUNTS: Final[tuple[str, ...]] = ROLLUP_COUNTS
_UNKNOWN: Final = Completeness.UNKNOWN
_COUNTED: Final = COUNTED_KINDS


class DailySums:
    """Sums of events by the key of rollups. What is added in two goes is added in one."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, ...], Row] = {}
        # By what the key is made of, which is there already: the key itself is made once for each group.
        self._groups: dict[tuple[object, ...], Row] = {}

    def rows(self) -> list[Row]:
        """In the order of their keys."""
        return [self._rows[key] for key in sorted(self._rows)]

    def add(self, event: UsageEvent | Outline, rated: Rated) -> None:
        """Count one event in; without its metering, in no sum."""
        if not event.metered:
            return
        event_type: str = event.event_type
        alike = (
            event.tenant_id,
            event.occurred_at_ms // DAY_MS,
            event.source,
            event_type,
            event.direction,
            event.endpoint,
            event.resource,
            event.category,
            event.key_id,
            rated.currency,
            rated.cost_currency,
        )
        row = self._groups.get(alike)
        if row is None:
            row = self._groups[alike] = self._row(event, rated)
        if event.kind in _COUNTED:
            row["events"] += 1
            if event.completeness is _UNKNOWN:
                row["unknown_events"] += 1
            if not rated.priced:
                row["unpriced_events"] += 1
        elif isinstance(event, UsageEvent) and event.metadata.get(REVERSES) in _COUNTED:
            row["events"] -= 1
            row["unpriced_events"] -= not rated.priced
        quantities = event.quantities
        _add(row, "units", units_of(event_type, quantities))
        _add(row, "charge_nano", rated.charge_nano)
        _add(row, "credits", rated.credits)
        _add(row, "cost_nano", rated.cost_nano)
        for dimension, amount in quantities.items():
            _add(row, dimension, amount)

    def _row(self, event: UsageEvent | Outline, rated: Rated) -> Row:
        key: tuple[str, ...] = (
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
        row = self._rows.get(key)
        if row is None:
            row = {}
            for name, value in zip(_KEY, key, strict=True):
                row[name] = value
            for name in _COUNTS:
                row[name] = 0
            self._rows[key] = row
        return row


def _add(row: Row, name: str, amount: int | None) -> None:
    if amount is not None:
        row[name] = row.get(name, 0) + amount
