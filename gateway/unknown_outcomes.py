"""Calls whose outcome nobody recorded, found again in their provider's own lists.

A worker that is killed while a message is under way leaves an event of which nobody knows what became of it. The list has
the message, if there is one. Where one object alone can be that call's, and one call alone can have made that object, it is
booked as what was made by the call, with its tenant, key and category, before anybody books it as something that was made
around the gateway. Anything else is left alone: nothing is guessed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import select

from gateway.providers.api import Record
from gateway.telemetry import log
from metering.claims import made_key
from metering.database import Database
from metering.event_types import EVENT_TYPES, OTHER
from metering.facts import Fact, fact, validated
from metering.reconciliation import AFTER_MS, BEFORE_MS, Candidate, Unknown, resolved
from metering.tables import usage_events
from metering.usage import EPOCH, WAS, Completeness, Kind, UsageEvent, event_id_of
from pricing.held import Whose

UNKNOWN_MAX = 2000
"""So many calls are looked for at once. Where there are more, the first are: a provider that failed for an hour leaves
calls that it never took on."""

CANDIDATES_MAX = 20_000
"""Where the lists have more objects than this that some call may have made, they are not told apart."""

MILLISECOND = dt.timedelta(milliseconds=1)

ROLES = ("to", "from")
"""Who takes part, as metadata names it."""


async def resolve(
    database: Database,
    book: Callable[[Sequence[Fact]], Awaitable[object]],
    whose: Whose,
    records: Callable[[dt.date], AsyncIterator[Sequence[Record]]],
    reference: Callable[[str], str],
) -> int:
    """Book what calls of unknown outcome have made, as far as the provider's lists tell; return of how many. The lists are
    read only where there are such calls. Raises what reading and booking raise."""
    rows = {row.event_id: row for row in await _unknown(database, whose)}
    if not rows:
        return 0
    unknowns = [_as_unknown(row) for row in rows.values()]
    found: dict[str, tuple[Candidate, Record]] = {}
    day, last = (dt.date.fromisoformat(one) for one in (whose.first_day, whose.last_day))
    while day <= last:
        async for page in records(day):
            for record in page:
                candidate = _as_candidate(record, reference)
                if any(_may_be(call, candidate) for call in unknowns):
                    found[record.external_id] = candidate, record
            if len(found) > CANDIDATES_MAX:
                log.warning("unknown_outcomes_too_many", source=whose.source, calls=len(rows), objects=len(found))
                return 0
        day += dt.timedelta(days=1)
    known = await _known(database, whose, list(found))
    made = resolved(unknowns, [candidate for name, (candidate, _) in found.items() if name not in known])
    facts = [
        _made(rows[event_id], found[external_id][1], found[external_id][0].parties)
        for event_id, external_id in made.items()
    ]
    if facts:
        await book(facts)
        log.info("unknown_outcomes_resolved", source=whose.source, calls=len(facts), of=len(rows))
    return len(facts)


def _may_be(call: Unknown, candidate: Candidate) -> bool:
    return candidate.event_type in call.event_types and -BEFORE_MS <= candidate.at_ms - call.at_ms <= AFTER_MS


async def _unknown(database: Database, whose: Whose) -> Sequence[Any]:
    """Calls of unknown outcome that nothing was booked of since."""
    at = usage_events.c
    correction = usage_events.alias("correction")
    of_event = (
        (correction.c.tenant_id == at.tenant_id)
        & (correction.c.event_day == at.event_day)
        & (correction.c.corrects == at.event_id)
    )
    statement = (
        select(usage_events)
        .where(
            *whose.of_events(usage_events),
            at.kind == Kind.USAGE,
            at.completeness == Completeness.UNKNOWN,
            at.external_id.is_(None),
            ~select(correction.c.event_id).where(of_event).exists(),
        )
        .order_by(at.occurred_at, at.event_id)
        .limit(UNKNOWN_MAX)
    )
    async with database.reading() as connection:
        return (await connection.execute(statement)).all()


async def _known(database: Database, whose: Whose, external_ids: Sequence[str]) -> set[str]:
    """Those of the objects that the ledger has, whoever's they are: a call may be booked a day before its object."""
    at = usage_events.c
    found: set[str] = set()
    for start in range(0, len(external_ids), 500):
        these = external_ids[start : start + 500]
        first = dt.date.fromisoformat(whose.first_day) - dt.timedelta(days=1)
        statement = select(at.external_id).where(
            at.source == whose.source,
            at.event_day >= first.isoformat(),
            at.occurred_at >= dt.datetime.combine(first, dt.time(), dt.UTC),
            at.external_id.in_(these),
        )
        async with database.reading() as connection:
            found.update((await connection.execute(statement)).scalars())
    return found


def _as_unknown(row: Any) -> Unknown:
    parties = {role: row.metadata[role] for role in ROLES if role in row.metadata}
    at_ms = (row.occurred_at - EPOCH) // MILLISECOND
    return Unknown(row.event_id, frozenset({row.event_type}), at_ms, parties)


def _as_candidate(record: Record, reference: Callable[[str], str]) -> Candidate:
    parties = {role: reference(party) for role, party in record.made.parties.items()}
    return Candidate(record.external_id, record.made.event_type or "", record.occurred_at_ms, parties)


def _made(row: Any, record: Record, parties: Mapping[str, str]) -> Fact:
    """What the call has made, as the correction of it: the same whoever finds it."""
    made, key = record.made, made_key(row.source, record.external_id)
    event_type = made.event_type or row.event_type
    event = UsageEvent(
        event_id=event_id_of(key),
        tenant_id=row.tenant_id,
        source=row.source,
        event_type=event_type,
        endpoint=row.endpoint,
        occurred_at_ms=(row.occurred_at - EPOCH) // MILLISECOND,
        completeness=made.completeness,
        quantities=dict(made.quantities),
        resource=made.resource,
        external_id=record.external_id,
        kind=Kind.CORRECTION,
        corrects=row.event_id,
        category=row.category,
        metered=row.metered,
        dedupe_key=key,
    )
    event = msgspec.structs.replace(
        event,
        direction=EVENT_TYPES.get(event_type, OTHER).direction,
        tags=row.tags,
        description="outcome found in the provider's list",
        metadata={**made.metadata, **parties, WAS: Completeness.UNKNOWN.value},
        key_id=row.key_id,
        call_id=row.call_id,
    )
    return fact(validated(event), msgspec.json.encode(event))
