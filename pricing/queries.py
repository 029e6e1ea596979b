"""The questions asked of the ledger and the rollups: one function and one statement each. They only read.

Lists of events page by key and not by offset, so that a page costs the same wherever it is and a row that is booked
meanwhile moves no other. Sums come from the rollups alone: what they cost does not depend on the number of events.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import ColumnElement, Row, Table, and_, cast, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.columns import BigInt, Moment, Text
from metering.moments import iso
from metering.tables import usage_events
from pricing.tables import ROLLUP_COUNTS, ROLLUP_KEY, ROLLUP_SUMS, charges, rollups

AnyRow: TypeAlias = Row[*tuple[Any, ...]]

CURRENCIES = ("currency", "cost_currency")

GROUPS = (*(name for name in ROLLUP_KEY if name not in CURRENCIES), "month")
"""What a summary may be grouped by."""

GROUPS_MAX = 10_000
"""A summary has no more groups than this; one that would have is to be asked for in parts."""

ATTRIBUTES = ("tenant_id", "source", "event_type", "channel", "category", "key_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events: those that all that is given applies to."""

    start: dt.datetime | None = None
    """The first moment that counts."""
    end: dt.datetime | None = None
    """The first moment that does not count any more."""
    tenant_id: str | None = None
    source: str | None = None
    event_type: str | None = None
    channel: str | None = None
    category: str | None = None
    key_id: str | None = None


class Position(NamedTuple):
    """Where in the list of events a page ends. Event ids are each tenant's own, so the tenant belongs to it."""

    occurred_at: dt.datetime
    event_id: str
    tenant_id: str


class TooManyGroups(Exception):
    """The summary would have more than GROUPS_MAX groups."""


async def events(
    connection: AsyncConnection, wanted: EventFilter, limit: int, after: Position | None = None
) -> Sequence[AnyRow]:
    """Events with their charges, newest first; where an event has no charge, the charge's columns are None.

    `after` is the position of an event that the same filter has listed.
    """
    event = usage_events.c
    statement = (
        select(usage_events, *(column for column in charges.c if column.name not in event))
        .outerjoin(charges, and_(*(charges.c[name] == event[name] for name in ("tenant_id", "event_day", "event_id"))))
        .where(*_having(usage_events, wanted))
        .order_by(event.occurred_at.desc(), event.event_id.desc(), event.tenant_id.desc())
        .limit(limit)
    )
    if wanted.start is not None:
        statement = statement.where(event.occurred_at >= wanted.start)
    if after is not None:
        # It lies before the end as well; given both bounds, SQLite would seek to the looser one and read from there.
        last = tuple_(literal(after.occurred_at, Moment), literal(after.event_id, Text), literal(after.tenant_id, Text))
        statement = statement.where(tuple_(event.occurred_at, event.event_id, event.tenant_id) < last)
    elif wanted.end is not None:
        statement = statement.where(event.occurred_at < wanted.end)
    if connection.dialect.name == "postgresql":
        # Months that can hold none are then not looked into. SQLite would think it a better way to the rows, and sort.
        statement = statement.where(
            *_days(event.event_day, wanted.start, wanted.end if after is None else after.occurred_at)
        )
    return (await connection.execute(statement)).all()


async def summary(connection: AsyncConnection, wanted: EventFilter, group_by: Sequence[str]) -> Sequence[AnyRow]:
    """The sums of each group, by currency, in the groups' order; `start` and `end` mean the UTC days they begin.

    Raises ValueError for a start or end inside a day, of which rollups know nothing, and TooManyGroups.
    """
    columns = rollups.c
    keys = [func.substr(columns.day, 1, 7).label("month") if name == "month" else columns[name] for name in group_by]
    keys += [columns[name] for name in CURRENCIES]
    statement = (
        # In Postgres a sum of integers is a decimal.
        select(*keys, *(cast(func.sum(columns[name]), BigInt).label(name) for name in (*ROLLUP_COUNTS, *ROLLUP_SUMS)))
        .where(*_having(rollups, wanted))
        .group_by(*keys)
        .order_by(*keys)
        .limit(GROUPS_MAX + 1)
    )
    if wanted.start is not None:
        statement = statement.where(columns.day >= day_begun(wanted.start))
    if wanted.end is not None:
        statement = statement.where(columns.day < day_begun(wanted.end))
    found = (await connection.execute(statement)).all()
    if len(found) > GROUPS_MAX:
        raise TooManyGroups
    return found


def day_begun(moment: dt.datetime) -> str:
    """The UTC day that begins at this moment; ValueError if none does."""
    utc = moment.astimezone(dt.UTC)
    if utc.time() != dt.time():
        raise ValueError(f"no UTC day begins at {utc}")
    return utc.date().isoformat()


def _days(day: ColumnElement[str], start: dt.datetime | None, end: dt.datetime | None) -> Iterator[ColumnElement[bool]]:
    if start is not None:
        yield day >= iso(start)[:10]
    if end is not None:
        yield day <= iso(end)[:10]


def _having(table: Table, wanted: EventFilter) -> Iterator[ColumnElement[bool]]:
    for name in ATTRIBUTES:
        if (value := getattr(wanted, name)) is not None:
            yield table.c[name] == value
