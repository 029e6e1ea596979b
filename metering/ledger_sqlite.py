"""Appending facts to the ledger in SQLite: idempotent, and nothing else. There is no way to change one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.columns import iso, iso_ms
from metering.tables import quarantine, usage_events
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
    repeated: int
    """Facts that the ledger had already: the same key, the same content."""
    conflicting: list[Fact]
    """Facts whose key the ledger has with another content; set aside, never booked."""


_COLUMNS = tuple(column.name for column in usage_events.columns)
_INSERT = f"INSERT INTO usage_events ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_KNOWN = text(
    "SELECT e.tenant_id, e.event_day, e.event_id, e.digest FROM json_each(:keys) AS k JOIN usage_events AS e ON e.tenant_id = k.value ->> 0 "
    "AND e.event_day = k.value ->> 1 AND e.event_id = k.value ->> 2"
)
_SET_ASIDE = (
    f"INSERT INTO quarantine ({', '.join(column.name for column in quarantine.columns)}) VALUES (?, ?, ?, ?, ?) "  # noqa: S608
    "ON CONFLICT DO NOTHING"
)

_json = msgspec.json.Encoder().encode


async def append(connection: AsyncConnection, facts: Sequence[Fact], recorded_at: dt.datetime) -> Appended:
    """Add those of the facts that the ledger does not have. The same facts again add nothing.

    One connection writes, so what is looked up first is still so when the rows are written.
    """
    keys = [key_of(fact.event) for fact in facts]
    found = await connection.execute(_KNOWN, {"keys": _json(keys).decode()})
    known: dict[tuple[str, str, str], str] = {(tenant, day, event): digest for tenant, day, event, digest in found}
    new, conflicting, repeated = [], [], 0
    for key, fact in zip(keys, facts, strict=True):
        digest = known.get(key)
        if digest is None:
            known[key] = fact.digest
            new.append(fact)
        elif digest == fact.digest:
            repeated += 1
        else:
            conflicting.append(fact)
    if new:
        now = iso(recorded_at)
        await connection.exec_driver_sql(_INSERT, [_row(fact, now) for fact in new])
    asides = [aside(fact, "another content under the key of an event in the ledger") for fact in conflicting]
    await set_aside(connection, asides, recorded_at)
    return Appended(new, repeated, conflicting)


def key_of(event: UsageEvent) -> tuple[str, str, str]:
    """The event's primary key."""
    return event.tenant_id, event.event_day, event.event_id


def aside(fact: Fact, reason: str) -> Aside:
    """A fact as what is set aside of it."""
    event = fact.event
    return Aside(f"{event.event_id}:{fact.digest}", reason, _json(event).decode(), event.tenant_id)


async def set_aside(connection: AsyncConnection, asides: Sequence[Aside], at: dt.datetime) -> None:
    """Keep records that can not be booked; the same ones again change nothing."""
    rows = [(one.quarantine_id, one.reason, one.tenant_id, one.record, iso(at)) for one in asides]
    if rows:
        await connection.exec_driver_sql(_SET_ASIDE, rows)


def _row(fact: Fact, recorded_at: str) -> tuple[object, ...]:
    """The values of `_COLUMNS`, in their order."""
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
        _json(event.quantities).decode(),
        event.completeness.value,
        event.kind.value,
        event.corrects,
        event.category,
        _json(event.tags).decode(),
        event.description,
        _json(event.metadata).decode(),
        event.key_id,
        event.call_id,
        event.status,
        event.duration_ms,
        int(event.metered),
        iso_ms(event.occurred_at_ms),
        recorded_at,
        fact.digest,
    )
