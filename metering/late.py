"""Facts that come later: what a provider says in the end of something that a call of before has made.

The call itself is in the ledger as `pending`. The late fact is a correction with a dedupe key that does not say which event
it corrects, since whoever found it can not know: it came past in another call's answer, was asked for, or was told by the
provider. Its content is the same whoever found it. Here it meets the event that it is about, which tells it tenant, day,
category and key, and takes from it what was counted before. One whose event is not in the ledger waits aside until it is.

What a fact says is told by its phase. `final`, and `final:<part>` of several, are what was used in all; `ended` is over, and
nobody says what it used; `price` is what it cost, and nothing else; `less:<part>` is what the provider did not do after all,
of what it had taken on. `heard` and `open` are no facts, and never booked: something has changed, so that it is worth asking
at once; more will be said, so that it is asked again though the end is known. `lost` is said by whoever gives up asking.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Row, delete, exists, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.facts import Fact, fact_known_by
from metering.moments import iso, iso_ms
from metering.rows import rows_in
from metering.tables import dedupe, late_facts, pending_events, usage_events
from metering.usage import AS_ORDERED, EPOCH, TOLD_COST, WAS, Completeness, Kind, UsageEvent, event_id_of

PART = "part"
"""In the metadata of a correction: which of several disjoint parts of what was used it is, as the phase named it."""

PRICE, LESS, HEARD, OPEN, LOST = "price", "less", "heard", "open", "lost"
"""The phases that are more than a name."""

MOMENT_MS = 1
"""When a late fact happened is when its call did, which its finder does not know: until it meets its event it says this."""

AnyRow = Row[Any]


def late_fact(
    tenant_id: str,
    source: str,
    external_id: str,
    phase: str,
    completeness: Completeness,
    quantities: dict[str, int],
    resource: str | None = None,
    event_type: str = "",
    metadata: Mapping[str, object] | None = None,
) -> UsageEvent:
    """What a provider says of one phase (`final`) of something it made. `quantities` are what was used in all, not what is
    new; an empty event type, and no resource, mean those of the event that it is about."""
    key = f"{source}:{external_id}:{phase}"
    return UsageEvent(
        event_id=event_id_of(key),
        tenant_id=tenant_id,
        source=source,
        event_type=event_type,
        endpoint="",
        occurred_at_ms=MOMENT_MS,
        completeness=completeness,
        quantities=quantities,
        resource=resource,
        external_id=external_id,
        kind=Kind.CORRECTION,
        metadata=dict(metadata or {}),
        dedupe_key=key,
    )


def phase_of(event: UsageEvent) -> tuple[str, str]:
    """Which phase a late fact is of, and which of its parts."""
    phase = (event.dedupe_key or "").removeprefix(f"{event.source}:{event.external_id}:")
    name, _, part = phase.partition(":")
    return name, part


class Correction(NamedTuple):
    """A late fact that has met its event."""

    fact: Fact
    held: Mapping[str, int]
    """What the event, and the corrections of it before, hold of what this is about: it is rated on top of that."""
    corrected: AnyRow
    """The event as the ledger has it."""
    begins: bool
    """True where nothing of this type of event was booked of it before: it is one more, where events are counted."""
    cost_told: str | None
    """The currency in which the provider has said before what all of it cost; None where it has not."""
    before: tuple[tuple[str, str, str], ...]
    """The keys of the events that were booked of it before: its own, and the corrections of that."""


class Met(NamedTuple):
    """What became of late facts."""

    corrections: list[Correction]
    known: list[Fact]
    """The ledger has their keys."""
    moot: list[Fact]
    """Their event says already all that was used, as that of a stream which was read to its end."""
    waiting: list[Fact]
    """Their event is not in the ledger."""
    heard: list[Fact]
    """Something has changed: it is to be asked."""
    open: list[tuple[Fact, AnyRow]]
    """More will be said of this event, whatever is known already."""
    stale: list[Fact]
    """More was to be said, and has been."""
    over: list[Correction]
    """The corrections after which nothing is left to be said, but for what is open."""


async def meet(connection: AsyncConnection, facts: Iterable[Fact]) -> Met:
    """Find the events that late facts are about, and make corrections of them. In the transaction that books them."""
    by_key: dict[tuple[str, str], Fact] = {}
    again = []
    for one in facts:
        key = one.event.tenant_id, one.event.dedupe_key or ""
        if by_key.setdefault(key, one) is not one:
            again.append((key, one))
    there = await rows_in(connection).digests(connection, dedupe, sorted(by_key))
    found = Met([], [one for key, one in by_key.items() if key in there], [], [], [], [], [], [])
    asked = [by_key[key] for key in sorted(by_key) if key not in there]
    objects = {(one.event.tenant_id, one.event.external_id or "") for one in asked}
    there_of = await of_objects(connection, objects) if objects else {}
    for one in asked:
        event = one.event
        rows = there_of.get((event.tenant_id, event.external_id or "", event.source), [])
        if not rows:
            found.waiting.append(one)
            continue
        phase, _ = phase_of(event)
        corrected = min(rows, key=_first)
        if phase == HEARD:
            found.heard.append(one)
            continue
        if phase == OPEN:
            if any(_tells_price(row) for row in rows) and any(_tells_end(row) for row in rows):
                found.stale.append(one)
            else:
                found.open.append((one, corrected))
            continue
        if _is_moot(phase, corrected, rows):
            found.moot.append(one)
            continue
        correction = _correction(one, corrected, rows)
        rows.append(correction.fact.event)
        found.corrections.append(correction)
        # What it cost, or what was not done of it, is not what was used.
        ended = correction.fact.event.completeness is not Completeness.PENDING
        if ended and (phase not in (PRICE, LESS) or any(_tells_end(row) for row in rows)):
            found.over.append(correction)
    booked = {*there, *((one.fact.event.tenant_id, one.fact.event.dedupe_key) for one in found.corrections)}
    # Whether it is the same once more, or a contradiction, the ledger tells.
    found.known.extend(one for key, one in again if key in booked)
    return found


async def of_objects(
    connection: AsyncConnection, objects: set[tuple[str, str]]
) -> dict[tuple[str, str, str], list[Any]]:
    """The events of some objects, those that correct others included. Of two writers that correct the same event, the
    second waits here for the first, and then sees what it has booked."""
    pending = pending_events.c
    this = tuple_(pending.tenant_id, pending.external_id).in_(sorted(objects))
    order = (pending.tenant_id, pending.external_id, pending.event_id)
    await connection.execute(select(pending.event_id).where(this).order_by(*order).with_for_update())
    at = usage_events.c
    question = select(usage_events).where(
        tuple_(at.tenant_id, at.external_id).in_(sorted(objects)),
        at.kind.in_((Kind.USAGE.value, Kind.BACKFILL.value, Kind.CORRECTION.value)),
    )
    found: dict[tuple[str, str, str], list[Any]] = {}
    for row in await connection.execute(question):
        found.setdefault((row.tenant_id, row.external_id, row.source), []).append(row)
    return found


def _first(row: Any) -> tuple[object, ...]:
    """Which of an object's events a late fact is about: the one that is pending, else the first. It may be a correction
    itself, of a call whose outcome came late."""
    return row.completeness != Completeness.PENDING, row.kind == Kind.CORRECTION, row.occurred_at, row.event_id


def _is_moot(phase: str, corrected: Any, rows: Sequence[Any]) -> bool:
    """True where all that was used is known already. What it cost, or what was not done of it, is said later still."""
    if phase == LOST and any(_tells_end(row) for row in rows):
        return True
    return phase not in (PRICE, LESS) and corrected.completeness == Completeness.REPORTED


def _correction(late: Fact, corrected: Any, rows: Sequence[Any]) -> Correction:
    event = late.event
    event_type, resource = event.event_type or corrected.event_type, event.resource or corrected.resource
    phase, part = phase_of(event)
    less: dict[str, object] = {}
    if phase == LESS:
        part, less = "", {LESS: True}
    held: dict[str, int] = {}
    for row in () if part else rows:
        # What is told in parts was not counted before, and no part is in another, nor in the whole.
        if (phase == LESS or PART not in row.metadata) and (row.event_type, row.resource) == (event_type, resource):
            for dimension, amount in row.quantities.items():
                held[dimension] = held.get(dimension, 0) + amount
    used, completeness = event.quantities, event.completeness
    if used and phase != LESS and corrected.metadata.get(AS_ORDERED):
        # What was ordered and not understood is not nothing.
        used, completeness = held, completeness if held else Completeness.UNKNOWN
    added = {}
    if phase == LESS:
        # Nobody gives back more than there was.
        added = {name: max(amount, -held.get(name, 0)) for name, amount in used.items()}
    elif phase != PRICE and completeness is not Completeness.UNKNOWN:
        added = {name: used.get(name, 0) - held.get(name, 0) for name in {**used, **held}}
    root = corrected.corrects or corrected.event_id
    made = UsageEvent(
        event_id=event.event_id,
        tenant_id=event.tenant_id,
        source=event.source,
        event_type=event_type,
        endpoint=corrected.endpoint,
        occurred_at_ms=(corrected.occurred_at - EPOCH) // _MILLISECOND,
        completeness=completeness,
        quantities=added,
        resource=resource,
        external_id=event.external_id,
        kind=Kind.CORRECTION,
        corrects=root,
        category=corrected.category,
        # One that was booked before its call was known to have its metering off is taken back, and no more is charged.
        metered=all(row.metered for row in rows if root in (row.event_id, row.corrects)),
        dedupe_key=event.dedupe_key,
    )
    made = msgspec.structs.replace(
        made,
        direction=corrected.direction,
        tags=corrected.tags,
        description=corrected.description,
        metadata=event.metadata | {WAS: corrected.completeness} | ({PART: part} if part else {}) | less,
        key_id=corrected.key_id,
        call_id=corrected.call_id,
    )
    # The digest stays that of what was found, so that finding it again is no contradiction.
    begins = phase != PRICE and all(row.event_type != event_type for row in rows)
    before = tuple(_key_of(row) for row in rows)
    cost_told = next((_currency(row) for row in rows if _tells_price(row)), None)
    one = fact_known_by(late.digest, made, msgspec.json.encode(made))
    return Correction(one, held, corrected, begins, cost_told, before)


def _tells_price(row: Any) -> bool:
    """True for a correction that says what something cost, and nothing else."""
    return row.kind == Kind.CORRECTION and TOLD_COST in row.metadata and not row.quantities


def _tells_end(row: Any) -> bool:
    """True for a correction that says what was used in the end."""
    known = row.kind == Kind.CORRECTION and row.completeness == Completeness.REPORTED
    return known and not _tells_price(row) and LESS not in row.metadata


def _currency(row: Any) -> str:
    return str(row.metadata.get("currency", ""))


def _key_of(row: Any) -> tuple[str, str, str]:
    """Of a row of the ledger, or of an event that is about to be one."""
    return row.tenant_id, row.event_day, row.event_id


_MILLISECOND = dt.timedelta(milliseconds=1)


async def remember(connection: AsyncConnection, facts: Iterable[Fact], at: dt.datetime) -> None:
    """Note those new events of which the provider will say more."""
    pending = [one.event for one in facts if one.pending]
    await _remember(connection, [_pending_row(event, at) for event in pending if event.external_id])


def _pending_row(event: Any, at: dt.datetime) -> tuple[object, ...]:
    """Of an event, or of its row."""
    occurred_at = iso_ms((event.occurred_at - EPOCH) // _MILLISECOND)
    names = (event.tenant_id, event.external_id, event.event_id, event.event_day, event.source, event.endpoint)
    return (*names, occurred_at, iso(at))


async def _remember(connection: AsyncConnection, rows: Sequence[tuple[object, ...]]) -> None:
    if rows:
        await rows_in(connection).insert(connection, pending_events, sorted(rows), "ON CONFLICT DO NOTHING")


async def settle(connection: AsyncConnection, met: Met, at: dt.datetime) -> None:
    """Keep the facts that wait, let go of what does not wait any more, and have asked what has changed."""
    if met.waiting:
        rows = [_waiting_row(one, iso(at)) for one in met.waiting]
        await rows_in(connection).insert(connection, late_facts, rows, "ON CONFLICT DO NOTHING")
    pending = pending_events.c
    still_open = {_object_of(one.event) for one, _ in met.open}
    settled = sorted(
        {
            (one.corrected.tenant_id, one.corrected.external_id, one.corrected.event_id)
            for one in met.over
            if _object_of(one.fact.event) not in still_open
        }
    )
    if settled:
        await connection.execute(
            delete(pending_events).where(tuple_(pending.tenant_id, pending.external_id, pending.event_id).in_(settled))
        )
    # Its end may have come before, and ended the asking.
    await _remember(connection, [_pending_row(row, at) for _, row in met.open if row.endpoint])
    this = tuple_(pending.tenant_id, pending.source, pending.external_id)
    given_up = sorted({_object_of(one.event) for one in met.moot if phase_of(one.event)[0] == LOST})
    if given_up:
        await connection.execute(delete(pending_events).where(this.in_(given_up)))
    heard = sorted({_object_of(one.event) for one in met.heard})
    if heard:
        await connection.execute(update(pending_events).where(this.in_(heard), pending.ask_at > at).values(ask_at=at))
    opened = (one for one, _ in met.open)
    ended = [*(one.fact for one in met.corrections), *met.known, *met.moot, *met.heard, *met.stale, *opened]
    if ended:
        keys = sorted({(one.event.tenant_id, one.event.dedupe_key or "") for one in ended})
        await connection.execute(delete(late_facts).where(tuple_(late_facts.c.tenant_id, late_facts.c.key).in_(keys)))


def _object_of(event: UsageEvent) -> tuple[str, str, str]:
    return event.tenant_id, event.source, event.external_id or ""


def _waiting_row(one: Fact, at: str) -> tuple[object, ...]:
    event = one.event
    said = one.said.decode()
    return event.tenant_id, event.dedupe_key, event.source, event.external_id or "", said, one.digest, at


async def ready(connection: AsyncConnection, facts_max: int) -> list[Fact]:
    """Facts that wait and whose event is in the ledger by now."""
    at, of_event = late_facts.c, usage_events.c
    there = exists().where(
        of_event.tenant_id == at.tenant_id, of_event.external_id == at.external_id, of_event.source == at.source
    )
    question = select(at.record, at.digest).where(there).order_by(at.tenant_id, at.key).limit(facts_max)
    found = (await connection.execute(question)).all()
    return [fact_known_by(row.digest, _as_event(row.record), row.record.encode()) for row in found]


_as_event = msgspec.json.Decoder(UsageEvent).decode


async def let_go(connection: AsyncConnection, before: dt.datetime) -> int:
    """Forget facts that have waited since before then; return how many there were."""
    return (await connection.execute(delete(late_facts).where(late_facts.c.found_at < before))).rowcount
