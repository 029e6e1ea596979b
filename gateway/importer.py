"""What was written down elsewhere, into the ledger: calls that no provider of ours made, and logs of AI calls.

Each record is told by itself what became of it, so that a bad one stops no other. A record is known by the name of its
call: told again it is a duplicate, and told otherwise a conflict, of which the ledger keeps what it has. What the gateway
has recorded of a call itself is not counted again.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum

import msgspec
from sqlalchemy import select, tuple_

from gateway.call_details import NotARecord, record_of
from gateway.recorder import late_event, made_event
from metering.database import Database
from metering.facts import Fact, fact, validated
from metering.ledger import Appended
from metering.tables import dedupe, usage_events
from metering.usage import Kind

RECORDS_MAX = 1000
"""So many at once; whoever has more sends them one after the other."""

IMPORTED = "imported"


class Status(StrEnum):
    """What became of a record."""

    CREATED = "created"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    INVALID = "invalid"


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one record; of one that is invalid, which field is wrong, and how."""

    status: Status
    field: str | None = None
    problem: str | None = None


class Importer:
    """Books records of what happened elsewhere."""

    def __init__(
        self,
        database: Database,
        book: Callable[[Sequence[Fact]], Awaitable[Sequence[Appended]]],
        reference: Callable[[str], str],
        now: Callable[[], dt.datetime],
    ) -> None:
        """`book` books facts in one transaction and raises DatabaseUnavailable. `reference` makes the keyed hash that stands
        for a number."""
        self._database = database
        self._book = book
        self._reference = reference
        self._now = now

    async def book(self, tenant_id: str, source: str, records: Sequence[Mapping[str, object]]) -> list[Result]:
        """Book records of a tenant's; what became of each, in their order. Raises DatabaseUnavailable."""
        results: list[Result | None] = [None] * len(records)
        facts: dict[str, list[Fact]] = {}
        places: dict[str, int] = {}
        for place, fields in enumerate(records):
            try:
                key, made = self._facts(tenant_id, source, fields)
            except NotARecord as error:
                results[place] = Result(Status.INVALID, error.field, error.problem)
            else:
                if key not in facts:
                    facts[key], places[key] = made, place
                else:
                    results[place] = Result(_again([one.digest for one in made], [one.digest for one in facts[key]]))
        known = await self._known(tenant_id, source, facts)
        new = [one for key, made in facts.items() if key not in known for one in made]
        appended = await self._book(new) if new else []
        conflicting = {one.event.dedupe_key for part in appended for one in part.conflicting}
        created = {one.event.dedupe_key for part in appended for one in part.new if one.event.kind is Kind.BACKFILL}
        for key, place in places.items():
            if key in known:
                status = known[key]
            elif conflicting.intersection(one.event.dedupe_key for one in facts[key]):
                status = Status.CONFLICT
            else:
                status = Status.CREATED if key in created else Status.DUPLICATE
            results[place] = Result(status)
        return [result for result in results if result is not None]

    def _facts(self, tenant_id: str, source: str, fields: Mapping[str, object]) -> tuple[str, list[Fact]]:
        """What is booked of a record, and the key that it is known by. Raises NotARecord."""
        record = record_of(fields)
        made = made_event(tenant_id, source, record, self._reference, IMPORTED)
        if made.occurred_at > self._now() + _AHEAD_MAX:
            raise NotARecord("time", "lies ahead")
        late = [late_event(tenant_id, source, one) for one in record.late]
        try:
            facts = [fact(validated(event), msgspec.json.encode(event)) for event in (made, *late)]
        except ValueError as error:
            raise NotARecord("record", str(error)) from error
        return made.dedupe_key or "", facts

    async def _known(self, tenant_id: str, source: str, facts: Mapping[str, Sequence[Fact]]) -> dict[str, Status]:
        """Those that the ledger has, and whether it has them so."""
        if not facts:
            return {}
        names = {one.event.dedupe_key or "": one.digest for made in facts.values() for one in made}
        ids = {made[0].event.external_id or "": key for key, made in facts.items()}
        at, of_event = dedupe.c, usage_events.c
        calls = select(of_event.external_id).where(
            tuple_(of_event.tenant_id, of_event.external_id).in_([(tenant_id, one) for one in sorted(ids)]),
            of_event.source == source,
            of_event.kind == Kind.USAGE,
        )
        told = select(at.key, at.digest).where(
            tuple_(at.tenant_id, at.key).in_([(tenant_id, name) for name in sorted(names)])
        )
        async with self._database.reading() as connection:
            digests = {row.key: row.digest for row in await connection.execute(told)}
            recorded = {ids[row.external_id] for row in await connection.execute(calls)}
        found = {}
        for key, made in facts.items():
            there = [(digests[name], one.digest) for one in made if (name := one.event.dedupe_key or "") in digests]
            if key in recorded:
                found[key] = Status.DUPLICATE
            elif key in digests and len(there) == len(made):
                found[key] = _again([digest for digest, _ in there], [digest for _, digest in there])
            elif any(digest != mine for digest, mine in there):
                found[key] = Status.CONFLICT
        return found


_AHEAD_MAX = dt.timedelta(days=1)
"""Clocks differ, and so do the zones that nobody named."""


def _again(told: Sequence[str], before: Sequence[str]) -> Status:
    return Status.DUPLICATE if list(told) == list(before) else Status.CONFLICT


def counted(results: Sequence[Result]) -> dict[str, int]:
    """How many records became what."""
    counts = Counter(result.status.value for result in results)
    return {status.value: counts[status.value] for status in Status}
