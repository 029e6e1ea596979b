"""The ledger has one verb: a fact is added once, whoever adds it and however often. There is no way to change one.

Any number of writers on any number of hosts may add the same facts at the same time. Who takes a key first has it; the
others wait until it is known whether that one is kept, and then see that it is the same fact, or another.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Table, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.columns import NUL, NUL_INSTEAD, Moment, as_json, iso, iso_ms
from metering.rows import Key, Rows, Values, rows_in
from metering.tables import dedupe, quarantine, usage_events
from metering.usage import UsageEvent


class Fact(NamedTuple):
    """An event, and what tells it from another event under the same key."""

    event: UsageEvent
    digest: str


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
    """In the order of their keys."""
    repeated: int
    """Facts that the ledger had already: the same key, the same content."""
    conflicting: list[Fact]
    """Facts whose key, or dedupe key, the ledger has with another content; set aside, never booked."""


class Moved(NamedTuple):
    """How far a spool is in the ledger."""

    spool_id: str
    segment: int
    """The first that must be read again to find the calls that are open."""
    sequence: int
    """The last record that is in the ledger."""


async def append(connection: AsyncConnection, facts: Sequence[Fact], recorded_at: dt.datetime) -> Appended:
    """Add those of the facts that the ledger does not have. The same facts again add nothing.

    Every writer takes keys in one order, dedupe keys before events and each as they sort: else two that add the same
    facts would wait for each other in a circle.
    """
    rows = rows_in(connection)
    at = iso(recorded_at)
    facts = [_keepable(fact) for fact in facts]
    keyed = [fact for fact in facts if fact.event.dedupe_key is not None]
    unkeyed = [fact for fact in facts if fact.event.dedupe_key is None]

    def dedupe_row(fact: Fact) -> Values:
        event = fact.event
        return (event.tenant_id, event.dedupe_key, event.event_day, event.event_id, fact.digest, at)

    def event_row(fact: Fact) -> Values:
        return _event_row(fact, at)

    first, known = await _taken(connection, rows, dedupe, _dedupe_key_of, dedupe_row, keyed)
    new, known_too = await _taken(connection, rows, usage_events, _key_of, event_row, unkeyed + first)
    known += known_too
    conflicting = [fact for fact, digest in known if fact.digest != digest]
    asides = [aside(fact, "another content under the key of an event in the ledger") for fact in conflicting]
    await set_aside(connection, asides, recorded_at)
    return Appended(new, len(known) - len(conflicting), conflicting)


async def _taken(
    connection: AsyncConnection,
    rows: Rows,
    table: Table,
    key_of: Callable[[Fact], Key],
    row_of: Callable[[Fact], Values],
    facts: Sequence[Fact],
) -> tuple[list[Fact], list[tuple[Fact, str]]]:
    """Take the facts' keys in a table: the facts that have theirs now, and the others with the digest that is there."""
    first: dict[Key, Fact] = {}
    again: list[tuple[Key, Fact]] = []
    for fact in facts:
        key = key_of(fact)
        if key in first:
            again.append((key, fact))
        else:
            first[key] = fact
    if not first:
        return [], []
    in_order = sorted(first)
    new = await rows.add(connection, table, [row_of(first[key]) for key in in_order])
    there = [key for key in in_order if key not in new]
    digests = {key: first[key].digest for key in new}
    if there:
        digests |= await rows.digests(connection, table, there)
    again += [(key, first[key]) for key in there]
    return [first[key] for key in in_order if key in new], [(fact, digests[key]) for key, fact in again]


def key_of(event: UsageEvent) -> tuple[str, str, str]:
    """The event's primary key."""
    return event.tenant_id, event.event_day, event.event_id


def _key_of(fact: Fact) -> Key:
    return key_of(fact.event)


def _dedupe_key_of(fact: Fact) -> Key:
    return fact.event.tenant_id, fact.event.dedupe_key


def aside(fact: Fact, reason: str) -> Aside:
    """A fact as what is set aside of it."""
    event = fact.event
    return Aside(f"{event.event_id}:{fact.digest}", reason, as_json(event), event.tenant_id)


async def set_aside(connection: AsyncConnection, asides: Sequence[Aside], at: dt.datetime) -> None:
    """Keep records that can not be booked; the same ones again change nothing."""
    if asides:
        kept = [
            (one.quarantine_id, one.reason, one.tenant_id, one.record.replace(NUL, NUL_INSTEAD), iso(at))
            for one in sorted(asides, key=lambda one: one.quarantine_id)
        ]
        await rows_in(connection).insert(connection, quarantine, kept, "ON CONFLICT DO NOTHING")


async def move(connection: AsyncConnection, moved: Iterable[Moved], at: dt.datetime) -> None:
    """Keep how far spools are. In the transaction that books what was read of them."""
    for one in sorted(moved):
        await connection.execute(_MOVE, {**one._asdict(), "updated_at": at})


# Both engines understand it.
_MOVE = text(
    "INSERT INTO spool_positions (spool_id, segment, sequence, updated_at) "
    "VALUES (:spool_id, :segment, :sequence, :updated_at) ON CONFLICT (spool_id) DO UPDATE "
    "SET segment = excluded.segment, sequence = excluded.sequence, updated_at = excluded.updated_at"
).bindparams(bindparam("updated_at", type_=Moment))


_NUL_IN_JSON = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
_as_event = msgspec.json.Decoder(UsageEvent).decode


def _keepable(fact: Fact) -> Fact:
    """The fact as both engines can keep it; the digest stays that of what was said."""
    said = as_json(fact.event)
    if "\\u0000" not in said:
        return fact
    return Fact(_as_event(_NUL_IN_JSON.sub(r"\1\\ufffd", said)), fact.digest)


def _event_row(fact: Fact, recorded_at: str) -> Values:
    """The values of the ledger's columns, in their order."""
    event = fact.event
    return (
        event.tenant_id,
        event.event_day,
        event.event_id,
        event.source,
        event.event_type,
        event.channel,
        event.direction,
        event.endpoint,
        event.resource,
        event.external_id,
        event.units,
        as_json(event.quantities),
        event.completeness.value,
        event.kind.value,
        event.corrects,
        event.category,
        as_json(event.tags),
        event.description,
        as_json(event.metadata),
        event.key_id,
        event.call_id,
        event.status,
        event.duration_ms,
        event.metered,
        iso_ms(event.occurred_at_ms),
        recorded_at,
        fact.digest,
    )
