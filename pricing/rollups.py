"""Folding events and their charges into daily sums. Pure."""

from __future__ import annotations

from typing import Final

from metering.facts import Alike, Fact
from metering.usage import COUNTED_KINDS, REVERSES, Completeness, Kind
from pricing.judgement import Rated
from pricing.tables import ROLLUP_COUNTS, ROLLUP_KEY, ROLLUP_SUMS

_KEY: Final[tuple[str, ...]] = ROLLUP_KEY
_COUNTS: Final[tuple[str, ...]] = ROLLUP_COUNTS
_SUMS: Final[tuple[str, ...]] = ROLLUP_SUMS
_UNKNOWN: Final = Completeness.UNKNOWN
_REVERSAL: Final = Kind.REVERSAL
_COUNTED: Final = COUNTED_KINDS


class _Group:
    """The sums of events that share a key."""

    def __init__(self, key: tuple[str, ...]) -> None:
        self.key = key
        self.events = 0
        self.unknown_events = 0
        self.unpriced_events = 0
        self.sums: dict[str, int] = {}
        """Those to which something was added: absent is not zero."""

    def add(self, name: str, amount: int | None) -> None:
        if amount is not None:
            before = self.sums.get(name)
            self.sums[name] = amount if before is None else before + amount


class DailySums:
    """Sums of events by the key of rollups. What is added in two goes is added in one."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, ...], _Group] = {}
        # By what is there already: the key itself is made once for all that are alike.
        self._groups: dict[tuple[Alike, str, str, str], _Group] = {}

    def columns(self) -> tuple[str, ...]:
        """Those of the rows: of the sums, the ones to which something was added."""
        used = {name for group in self._by_key.values() for name in group.sums}
        return (*_KEY, *_COUNTS, *[name for name in _SUMS if name in used])

    def rows(self, columns: tuple[str, ...]) -> list[tuple[object, ...]]:
        """The values of these columns, in the order of their keys."""
        summed = columns[len(_KEY) + len(_COUNTS) :]
        rows: list[tuple[object, ...]] = []
        for key in sorted(self._by_key):
            group = self._by_key[key]
            counts = (group.events, group.unknown_events, group.unpriced_events)
            rows.append((*key, *counts, *[group.sums.get(name) for name in summed]))
        return rows

    def add(self, fact: Fact, rated: Rated) -> None:
        """Count one event in; without its metering, in no sum."""
        alike = fact.alike
        if not alike.metered:
            return
        summed_by = (alike, fact.key[1], rated.currency, rated.cost_currency)
        group = self._groups.get(summed_by)
        if group is None:
            group = self._groups[summed_by] = self._group(*summed_by)
        if alike.kind in _COUNTED:
            group.events += 1
            if fact.completeness is _UNKNOWN:
                group.unknown_events += 1
            if not rated.priced:
                group.unpriced_events += 1
        elif alike.kind is _REVERSAL and fact.event.metadata.get(REVERSES) in _COUNTED:
            group.events -= 1
            if not rated.priced:
                group.unpriced_events -= 1
        group.add("units", fact.units)
        group.add("charge_nano", rated.charge_nano)
        group.add("credits", rated.credits)
        group.add("cost_nano", rated.cost_nano)
        for dimension, amount in fact.quantities.items():
            group.add(dimension, amount)

    def _group(self, alike: Alike, day: str, currency: str, cost_currency: str) -> _Group:
        key: tuple[str, ...] = (
            alike.tenant_id,
            day,
            alike.source,
            alike.event_type,
            alike.channel,
            alike.direction or "",
            alike.endpoint,
            alike.resource or "",
            alike.category,
            alike.key_id or "",
            currency,
            cost_currency,
        )
        group = self._by_key.get(key)
        if group is None:
            group = self._by_key[key] = _Group(key)
        return group
