"""The ledger has one verb: a fact is added once, whoever adds it and however often. There is no way to change one.

Any number of writers on any number of hosts may add the same facts at the same time. Who takes a key first has it; the
others wait until it is known whether that one is kept, and then see that it is the same fact, or another.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec
from sqlalchemy import Table, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.claims import gives_way, is_report, seconded
from metering.columns import NUL, NUL_INSTEAD
from metering.facts import Fact, apart, fact, fact_known_by
from metering.intents import late_outcome
from metering.moments import iso
from metering.rows import Key, Values, rows_in
from metering.tables import dedupe, quarantine, spool_positions, usage_events
from metering.usage import Completeness

CONFLICT = "another content under the key of an event in the ledger"


class Aside(NamedTuple):
    """A record that can not be booked, and why."""

    quarantine_id: str
    """Made from the record itself, so that setting it aside again changes nothing."""
    reason: str
    record: str
    tenant_id: str | None = None


class Appended(NamedTuple):
    """What became of some facts."""

    new: list[Fact]
    """Of each piece that was added in the order in which they were given, since so they lie in memory, which is read several
    times as fast in its own order; corrections that were made of late outcomes after the others."""
    repeated: int
    """Facts that the ledger had already: the same key and content, or an unknown where more is known."""
    conflicting: list[Fact]
    """Facts whose key, or dedupe key, the ledger has with another content; set aside, never booked."""
    waiting: int = 0
    """Facts that are about an event which the ledger does not have yet (:mod:`metering.late`)."""

    def with_those_of(self, other: Appended) -> Appended:
        """What became of these facts and of others."""
        return Appended(
            self.new + other.new,
            self.repeated + other.repeated,
            self.conflicting + other.conflicting,
            self.waiting + other.waiting,
        )


class Moved(NamedTuple):
    """How far a spool is in the ledger."""

    spool_id: str
    segment: int
    """The first that must be read again to find the calls that are open."""
    sequence: int
    """The last record that is in the ledger."""


async def append(connection: AsyncConnection, facts: Sequence[Fact], recorded_at: dt.datetime) -> Appended:
    """Add those of the facts that the ledger does not have. The same facts again add nothing, and no object is counted
    twice (:mod:`metering.claims`). An outcome that comes after its call was booked as unknown is added as the correction
    of that. Of several in one batch that cannot all be, the one given first is.
    """
    return await settle_conflicts(connection, await add(connection, facts, recorded_at), recorded_at)


async def add(connection: AsyncConnection, facts: Sequence[Fact], recorded_at: dt.datetime) -> Appended:
    """The first part of that, which may be done for one piece of the facts after another: what conflicts is not looked at.

    Every writer takes keys in one order, else two that add the same facts would wait for each other in a circle: dedupe
    keys, events of facts that have one, events of others, and at last what becomes of conflicts; each as they sort.
    """
    rows = rows_in(connection)
    at = iso(recorded_at)

    async def add_keys(keyed: Sequence[Fact]) -> set[int]:
        return await rows.add(connection, dedupe, [_dedupe_row(fact, at) for fact in keyed])

    unkeyed, keyed = apart(facts)
    first, known = await _taken(connection, dedupe, _dedupe_key_of, add_keys, keyed)
    seconds, known = await _claims_settled(connection, first, known)
    new = []
    for some in ([*first, *seconds], unkeyed):
        added, known_too = await _added(connection, some, at)
        new += added
        known += known_too
    conflicting = [fact for fact, digest in known if fact.digest != digest]
    return Appended(new, len(facts) - len(new) - len(conflicting), conflicting)


async def settle_conflicts(connection: AsyncConnection, added: Appended, recorded_at: dt.datetime) -> Appended:
    """The second: late outcomes among what conflicts are added as corrections, the others set aside."""
    if not added.conflicting:
        return added
    late, conflicting = await _told_apart(connection, added.conflicting)
    corrections, known = await _added(connection, late, iso(recorded_at))
    conflicting += [fact for fact, digest in known if fact.digest != digest]
    await set_aside(connection, [aside(fact, CONFLICT) for fact in conflicting], recorded_at)
    repeated = added.repeated + len(added.conflicting) - len(corrections) - len(conflicting)
    return Appended(added.new + corrections, repeated, conflicting)


async def _added(
    connection: AsyncConnection, facts: Sequence[Fact], recorded_at: str
) -> tuple[list[Fact], list[tuple[Fact, str]]]:
    """Add events: those that are new, and the others with the digest that is there."""

    async def add_events(first: Sequence[Fact]) -> set[int]:
        return await rows_in(connection).add_events(connection, first, recorded_at)

    return await _taken(connection, usage_events, _key_of, add_events, facts)


async def _claims_settled(
    connection: AsyncConnection, first: Sequence[Fact], known: list[tuple[Fact, str]]
) -> tuple[list[Fact], list[tuple[Fact, str]]]:
    """Of facts whose key is taken, by one of `first` or before, those that are booked all the same, and the others."""
    contested = [one for one, digest in known if digest != one.digest]
    if not contested:
        return [], known
    at, of_event = dedupe.c, usage_events.c
    question = (
        select(at.tenant_id, at.key, of_event.event_id, of_event.kind)
        .join(
            usage_events,
            (of_event.tenant_id == at.tenant_id)
            & (of_event.event_day == at.event_day)
            & (of_event.event_id == at.event_id),
        )
        .where(tuple_(at.tenant_id, at.key).in_(sorted(map(_dedupe_key_of, contested))))
    )
    found = await connection.execute(question)
    counted = {(row.tenant_id, row.key): row.event_id for row in found if gives_way(row.kind, row.event_id, row.key)}
    for one in first:
        tenant_id, key = _dedupe_key_of(one)
        if gives_way(one.event.kind, one.event.event_id, key):
            counted[tenant_id, key] = one.event.event_id
    seconds, others = [], []
    for one, digest in known:
        event = one.event
        if digest == one.digest or is_report(event):
            others.append((one, one.digest))
            continue
        by = counted.get(_dedupe_key_of(one))
        if event.dedupe_key is not None:
            others.append((one, digest))
        elif by is None:
            seconds.append(one)
        else:
            event = seconded(event, by)
            seconds.append(fact_known_by(one.digest, event, msgspec.json.encode(event), one.recorded))
    return seconds, others


async def _told_apart(connection: AsyncConnection, facts: Sequence[Fact]) -> tuple[list[Fact], list[Fact]]:
    """Of facts whose key is taken by another content: the corrections that late outcomes are, and true conflicts.

    A call that nobody had ended in time is in the ledger as unknown. Its outcome, when it comes, is the correction of
    that; the other way round, an unknown says nothing of a call whose outcome is known.
    """
    at = usage_events.c
    key = (at.tenant_id, at.event_day, at.event_id)
    question = select(*key, at.source, at.endpoint, at.completeness).where(
        tuple_(*key).in_([_key_of(fact) for fact in facts])
    )
    there = {tuple(row[:5]): row.completeness for row in await connection.execute(question)}
    late, conflicting = [], []
    for one in facts:
        event = one.event
        known_as = there.get((*event.key, event.source, event.endpoint))
        if known_as is None or (known_as != Completeness.UNKNOWN and event.completeness is not Completeness.UNKNOWN):
            conflicting.append(one)
        elif event.completeness is not Completeness.UNKNOWN:
            correction = late_outcome(event)
            late.append(fact(correction, msgspec.json.encode(correction)))
    return late, conflicting


async def _taken(
    connection: AsyncConnection,
    table: Table,
    key_of: Callable[[Fact], Key],
    add: Callable[[Sequence[Fact]], Awaitable[set[int]]],
    facts: Sequence[Fact],
) -> tuple[list[Fact], list[tuple[Fact, str]]]:
    """Take the facts' keys in a table: the facts that have theirs now, and the others with the digest that is there.

    `add` is given facts in the order of their keys, and returns the places of those that came too late.
    """
    first: dict[Key, Fact] = {}
    again: list[tuple[Key, Fact]] = []
    for key, one in zip(map(key_of, facts), facts, strict=True):
        if key in first:
            again.append((key, one))
        else:
            first[key] = one
    if not first:
        return [], []
    # No name holds NUL, so that these texts sort as the keys do, in a third of the time.
    in_order = sorted(first, key="\0".join)
    late = await add([first[key] for key in in_order])
    if not late and not again:
        return list(first.values()), []
    there = [in_order[place] for place in sorted(late)]
    digests = {key: fact.digest for key, fact in first.items()}
    if there:
        digests |= await rows_in(connection).digests(connection, table, there)
    again += [(key, first[key]) for key in there]
    taken = set(there)
    new = [one for key, one in first.items() if key not in taken]
    return new, [(one, one.digest if one.is_known_by(digests[key]) else digests[key]) for key, one in again]


_key_of: Callable[[Fact], Key] = attrgetter("key")


def _dedupe_key_of(fact: Fact) -> Key:
    return fact.key[0], fact.claim


def _dedupe_row(fact: Fact, recorded_at: str) -> Values:
    tenant_id, event_day, event_id = fact.key
    return (tenant_id, fact.claim, event_day, event_id, fact.digest, recorded_at)


def aside(fact: Fact, reason: str) -> Aside:
    """A fact as what is set aside of it."""
    tenant_id, _, event_id = fact.key
    # As it came: what can not be booked may not even be read.
    return Aside(f"{event_id}:{fact.digest}", reason, fact.said.decode(), tenant_id)


async def set_aside(connection: AsyncConnection, asides: Sequence[Aside], at: dt.datetime) -> None:
    """Keep records that can not be booked; the same ones again change nothing."""
    if asides:
        kept = [
            (one.quarantine_id, one.reason, one.tenant_id, one.record.replace(NUL, NUL_INSTEAD), iso(at))
            for one in sorted(asides, key=lambda one: one.quarantine_id)
        ]
        await rows_in(connection).insert(connection, quarantine, kept, "ON CONFLICT DO NOTHING")


async def move(connection: AsyncConnection, moved: Iterable[Moved], at: dt.datetime) -> None:
    """Keep how far spools are, never less far than before. In the transaction that books what was read of them."""
    rows = [(*one, iso(at)) for one in sorted(moved)]
    if rows:
        await rows_in(connection).insert(connection, spool_positions, rows, _MOVED)


# Another shipper of the same spool may be ahead, and may have let go of what lies before.
_MOVED = (
    "ON CONFLICT (spool_id) DO UPDATE "
    "SET segment = excluded.segment, sequence = excluded.sequence, updated_at = excluded.updated_at "
    "WHERE spool_positions.sequence <= excluded.sequence"
)
