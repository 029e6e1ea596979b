"""What the ledger holds of one provider, as it is compared with the provider's own figures. One function and one statement
each, by UTC day; they only read.

Sums come from the rollups. What was corrected, is pending or unknown is told by events alone: those of the days in
question are read through once, by the database, and what comes back are sums.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    and_,
    cast,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.columns import BigInt, Moment, Text, from_json
from metering.event_types import DIMENSIONS, EVENT_TYPES
from metering.reconciliation import COST, COUNT, Amounts, Cause, added
from metering.tables import pending_events, usage_events
from metering.usage import CONTEXT_TOKENS, Completeness, Kind
from pricing.tables import charges, rollups

PROVIDER_COST = "provider_cost"
"""The type of events that are a cost without use; their resource is what it is for."""


NONE: ColumnElement[str] = literal_column("''")
"""Stands for what an event does not have. Not a parameter, of which Postgres does not know that each is the same."""

IN_SECONDS = tuple(name for name, one in EVENT_TYPES.items() if one.units == ("seconds",))
"""The types of event whose units are seconds."""

IDS_MAX = 500
"""Asked about in one statement."""


class Whose(NamedTuple):
    """The events that are compared."""

    source: str
    first_day: str
    last_day: str
    """Included."""
    tenant_id: str | None = None
    """None for everybody on the account that tenants share."""
    apart: Collection[str] = ()
    """Those who have an account of their own, and are not on that one."""
    among: Collection[str] = ()
    """Where there are any: these tenants, whichever account they are on."""

    def of(self, table: FromClause, day: str) -> tuple[ColumnElement[bool], ...]:
        """What a row of a table has to be; `day` names the column of its day."""
        at = table.c
        whose: ColumnElement[bool]
        if self.among:
            whose = at.tenant_id.in_(sorted(self.among))
        elif self.tenant_id is not None:
            whose = at.tenant_id == self.tenant_id
        else:
            whose = at.tenant_id.not_in(sorted(self.apart))
        return at.source == self.source, at[day] >= self.first_day, at[day] <= self.last_day, whose

    def of_events(self, table: FromClause) -> tuple[ColumnElement[bool], ...]:
        """The same for events, of which few are looked at where their moment is given too."""
        first, last = (dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC) for day in (self.first_day, self.last_day))
        moment = table.c.occurred_at
        return *self.of(table, "event_day"), moment >= first, moment < last + dt.timedelta(days=1)


class Part(NamedTuple):
    """What the ledger holds of one type of event on one day."""

    day: str
    event_type: str
    direction: str
    resource: str
    currency: str
    """Of the cost."""
    amounts: Amounts


class StepPart(NamedTuple):
    """What was booked of it beside the calls themselves."""

    part: Part
    cause: Cause
    corrects: bool
    """False where it is in no sum."""


ROLLED_BY = ("day", "event_type", "direction", "resource", "cost_currency")


async def sums(connection: AsyncConnection, whose: Whose, *, apart_from: str | None = None) -> list[Part]:
    """All that is booked, or all that is not of an endpoint."""
    at = rollups.c
    keys = [at[name] for name in ROLLED_BY]
    measures = {COUNT: at.events, **{name: at[name] for name in DIMENSIONS}, COST: at.cost_nano}
    statement = (
        select(*keys, *(cast(func.sum(column), BigInt) for column in measures.values()))
        .where(*whose.of(rollups, "day"), *([] if apart_from is None else [at.endpoint != apart_from]))
        .group_by(*keys)
        .order_by(*keys)
    )
    found = (await connection.execute(statement)).all()
    return [_part(row, measures) for row in found]


def _part(row: Any, measures: Collection[str]) -> Part:
    amounts = zip(measures, row[len(ROLLED_BY) :], strict=True)
    return Part(row[0], row[1], row[2], row[3], row[4], {name: amount for name, amount in amounts if amount})


async def steps(connection: AsyncConnection, whose: Whose, since: dt.datetime) -> list[StepPart]:
    """What of it was booked to correct the ledger: all that was backfilled or resolved whenever that was, and what else was
    corrected since a moment. With it what is in no sum, since its metering was turned off."""
    event, base, charge = usage_events.alias("event"), usage_events.alias("base"), charges.c
    at = event.c
    of_base = and_(base.c.tenant_id == at.tenant_id, base.c.event_day == at.event_day, base.c.event_id == at.corrects)
    of_charge = and_(charge.tenant_id == at.tenant_id, charge.event_day == at.event_day, charge.event_id == at.event_id)
    keys = (
        at.event_day,
        at.event_type,
        func.coalesce(at.direction, NONE).label("way"),
        func.coalesce(at.resource, NONE).label("what"),
        func.coalesce(charge.cost_currency, NONE).label("cost_currency"),
        at.kind,
        at.metered,
        func.coalesce(base.c.kind, NONE).label("base_kind"),
        func.coalesce(base.c.completeness, NONE).label("base_completeness"),
        cast(at.quantities, Text).label("quantities"),
    )
    statement = (
        select(*keys, func.count().label("events"), cast(func.sum(charge.cost_nano), BigInt).label("cost_nano"))
        .select_from(event.outerjoin(base, of_base).outerjoin(charges, of_charge))
        .where(
            *whose.of_events(event),
            at.kind.in_((Kind.USAGE, Kind.BACKFILL, Kind.CORRECTION, Kind.REVERSAL)),
            or_(
                at.kind == Kind.REVERSAL,
                at.kind == Kind.BACKFILL,
                base.c.kind == Kind.BACKFILL,
                base.c.completeness == Completeness.UNKNOWN,
                at.recorded_at >= since,
                not_(at.metered),
            ),
        )
        .group_by(*keys)
    )
    return [step for row in (await connection.execute(statement)).all() for step in _steps(row)]


def _steps(row: Any) -> Iterator[StepPart]:
    one = _step(row)
    yield one
    if row.kind == Kind.REVERSAL:
        # It is used all the same, by a call that nobody is charged for.
        amounts = {name: -amount for name, amount in one.part.amounts.items()}
        yield StepPart(one.part._replace(amounts=amounts), Cause.NOT_ATTRIBUTED, corrects=False)


def _step(row: Any) -> StepPart:
    quantities: Mapping[str, int] = from_json(row.quantities)
    amounts = {name: amount * row.events for name, amount in quantities.items()}
    if row.kind in (Kind.USAGE, Kind.BACKFILL):
        amounts[COUNT] = row.events
    elif row.kind == Kind.REVERSAL and row.base_kind in (Kind.USAGE, Kind.BACKFILL):
        amounts[COUNT] = -row.events
    if row.cost_nano:
        amounts[COST] = row.cost_nano
    part = Part(row.event_day, row.event_type, row.way, row.what, row.cost_currency, amounts)
    if not row.metered:
        return StepPart(part, Cause.NOT_ATTRIBUTED, corrects=False)
    if row.kind == Kind.REVERSAL:
        return StepPart(part, Cause.NOT_ATTRIBUTED, corrects=True)
    if Kind.BACKFILL in (row.kind, row.base_kind):
        return StepPart(part, Cause.NOT_PROXIED, corrects=True)
    if row.base_completeness == Completeness.UNKNOWN:
        return StepPart(part, Cause.UNKNOWN_OUTCOME, corrects=True)
    if row.kind == Kind.USAGE:
        return StepPart(part, Cause.LATE, corrects=True)
    cause = Cause.STATUS_CHANGED if quantities else Cause.PRICED_DIFFERENTLY
    return StepPart(part, cause, corrects=True)


class Legs(NamedTuple):
    """What the legs of calls come to."""

    day: str
    event_type: str
    direction: str
    rounded_up_s: int
    """What rounding each up to the minute would add."""


async def legs(connection: AsyncConnection, whose: Whose) -> list[Legs]:
    """The seconds of whatever is told in seconds, each object by itself: those of a call are one leg."""
    at = usage_events.c
    of_object = (at.event_day, at.event_type, func.coalesce(at.direction, NONE).label("way"))
    one = (
        select(*of_object, cast(func.sum(at.units), BigInt).label("seconds"))
        .where(*whose.of_events(usage_events), at.event_type.in_(IN_SECONDS), at.metered)
        .group_by(at.event_day, at.event_type, func.coalesce(at.direction, NONE), at.tenant_id, at.external_id)
        .subquery()
    )
    seconds = one.c.seconds
    # What was given back is less than nothing nowhere: an object holds at least none.
    rounded = cast(func.sum((seconds + 59) // 60 * 60 - seconds), BigInt)
    statement = select(one.c.event_day, one.c.event_type, one.c.way, rounded).group_by(
        one.c.event_day, one.c.event_type, one.c.way
    )
    return [Legs(row[0], row[1], row[2], row[3] or 0) for row in (await connection.execute(statement)).all()]


class Waiting(NamedTuple):
    """Events that are not over."""

    day: str
    event_type: str
    direction: str
    resource: str
    events: int


async def pending(connection: AsyncConnection, whose: Whose) -> list[Waiting]:
    """Events of which the provider will say more."""
    at, open_ = usage_events.c, pending_events
    same = and_(open_.c.tenant_id == at.tenant_id, open_.c.event_day == at.event_day, open_.c.event_id == at.event_id)
    keys = (at.event_day, at.event_type, func.coalesce(at.direction, NONE), func.coalesce(at.resource, NONE))
    statement = (
        select(*keys, func.count())
        .select_from(open_.join(usage_events, same))
        .where(*whose.of(open_, "event_day"))
        .group_by(*keys)
    )
    return [Waiting(*row) for row in (await connection.execute(statement)).all()]


async def unknown(connection: AsyncConnection, whose: Whose) -> list[Waiting]:
    """Calls of which nobody has said what became of them."""
    event, correction = usage_events.alias("event"), usage_events.alias("correction")
    at = event.c
    of_event = and_(
        correction.c.tenant_id == at.tenant_id,
        correction.c.event_day == at.event_day,
        correction.c.corrects == at.event_id,
    )
    keys = (at.event_day, at.event_type, func.coalesce(at.direction, NONE), func.coalesce(at.resource, NONE))
    statement = (
        select(*keys, func.count())
        .where(
            *whose.of_events(event),
            at.kind == Kind.USAGE,
            at.completeness == Completeness.UNKNOWN,
            at.metered,
            ~select(correction.c.event_id).where(of_event).exists(),
        )
        .group_by(*keys)
    )
    return [Waiting(*row) for row in (await connection.execute(statement)).all()]


async def days_of(connection: AsyncConnection, whose: Whose, external_ids: Collection[str]) -> dict[str, str]:
    """Of some objects of one tenant, those that the ledger has in these days, each with its day."""
    at = usage_events.c
    found: dict[str, str] = {}
    ids = sorted(external_ids)
    for start in range(0, len(ids), IDS_MAX):
        statement = select(at.external_id, at.event_day).where(
            *whose.of(usage_events, "event_day"), at.external_id.in_(ids[start : start + IDS_MAX]), at.metered
        )
        found |= {row.external_id: row.event_day for row in await connection.execute(statement)}
    return found


class OfObject(NamedTuple):
    """What one event holds of an object that the provider has a name for."""

    occurred_at: dt.datetime
    event_id: str
    tenant_id: str
    external_id: str
    part: Part


async def of_these(connection: AsyncConnection, whose: Whose, external_ids: Collection[str]) -> list[OfObject]:
    """Events of some objects."""
    at = usage_events.c
    found: list[OfObject] = []
    ids = sorted(external_ids)
    for start in range(0, len(ids), IDS_MAX):
        statement = _objects().where(*whose.of_events(usage_events), at.external_id.in_(ids[start : start + IDS_MAX]))
        found += [_of_object(row) for row in (await connection.execute(statement)).all()]
    return found


async def of_objects(
    connection: AsyncConnection, whose: Whose, rows_max: int, after: OfObject | None = None
) -> list[OfObject]:
    """Events of objects, in the order of time; `after` is where the page before ended."""
    at = usage_events.c
    order = (at.occurred_at, at.event_id, at.tenant_id)
    statement = _objects().where(*whose.of_events(usage_events)).order_by(*order).limit(rows_max)
    if after is not None:
        last = literal(after.occurred_at, Moment), literal(after.event_id, Text), literal(after.tenant_id, Text)
        statement = statement.where(tuple_(*order) > tuple_(*last))
    return [_of_object(row) for row in (await connection.execute(statement)).all()]


def _objects() -> Select[Any]:
    """Events that are about an object, with their costs."""
    at, charge = usage_events.c, charges.c
    of_charge = and_(charge.tenant_id == at.tenant_id, charge.event_day == at.event_day, charge.event_id == at.event_id)
    return (
        select(
            at.occurred_at,
            at.event_id,
            at.tenant_id,
            at.external_id,
            at.event_day,
            at.event_type,
            at.direction,
            at.resource,
            charge.cost_currency,
            at.kind,
            at.quantities,
            charge.cost_nano,
        )
        .select_from(usage_events.outerjoin(charges, of_charge))
        .where(at.external_id.is_not(None), at.metered, at.kind != Kind.COST)
    )


def _of_object(row: Any) -> OfObject:
    amounts = dict(row.quantities)
    if row.kind in (Kind.USAGE, Kind.BACKFILL):
        amounts[COUNT] = 1
    if row.cost_nano:
        amounts[COST] = row.cost_nano
    part = Part(
        row.event_day, row.event_type, row.direction or "", row.resource or "", row.cost_currency or "", amounts
    )
    return OfObject(row.occurred_at, row.event_id, row.tenant_id, row.external_id, part)


class Lump(NamedTuple):
    """What is booked of use that a provider tells in one sum."""

    events: int
    quantities: Mapping[str, int]
    context_tokens: int
    """What decides its price, as its first event says."""


async def lumps(
    connection: AsyncConnection, source: str, tenant_id: str, external_ids: Collection[str]
) -> dict[str, Lump]:
    """What is booked of some sums of use, by their names."""
    at = usage_events.c
    found: dict[str, Lump] = {}
    ids = sorted(external_ids)
    for start in range(0, len(ids), IDS_MAX):
        statement = select(at.external_id, at.kind, at.quantities, at.metadata).where(
            at.tenant_id == tenant_id,
            at.external_id.in_(ids[start : start + IDS_MAX]),
            at.source == source,
            at.kind.in_((Kind.BACKFILL, Kind.CORRECTION)),
        )
        for row in await connection.execute(statement):
            before = found.get(row.external_id, Lump(0, {}, 0))
            names = {**before.quantities, **row.quantities}
            summed = {name: before.quantities.get(name, 0) + row.quantities.get(name, 0) for name in names}
            context = row.metadata.get(CONTEXT_TOKENS, 0) if row.kind == Kind.BACKFILL else before.context_tokens
            found[row.external_id] = Lump(before.events + 1, summed, context)
    return found


async def lumps_of_others(
    connection: AsyncConnection, source: str, tenant_id: str, names: Mapping[str, str]
) -> dict[str, Amounts]:
    """What is booked of some sums of use for other tenants than this one. `names` are theirs, with the day of each: what is
    booked of a sum is dated at the first moment of it."""
    at = usage_events.c
    found: dict[str, Amounts] = {}
    ids = sorted(names)
    for start in range(0, len(ids), IDS_MAX):
        some = ids[start : start + IDS_MAX]
        moments = {dt.datetime.fromisoformat(names[name]).replace(tzinfo=dt.UTC) for name in some}
        statement = select(at.external_id, at.quantities).where(
            at.occurred_at.in_(sorted(moments)),
            at.external_id.in_(some),
            at.tenant_id != tenant_id,
            at.source == source,
            at.kind.in_((Kind.BACKFILL, Kind.CORRECTION)),
        )
        for row in await connection.execute(statement):
            found[row.external_id] = added([found.get(row.external_id, {}), row.quantities])
    return found


class Booked(NamedTuple):
    """What is booked of one cost without use."""

    events: int
    cost_nano: int


async def costs(connection: AsyncConnection, source: str, tenant_id: str, external_id: str) -> Booked:
    """The events of one cost without use, which their own name for it tells, and their sum."""
    at, charge = usage_events.c, charges.c
    of_charge = and_(charge.tenant_id == at.tenant_id, charge.event_day == at.event_day, charge.event_id == at.event_id)
    statement = (
        select(func.count(), cast(func.coalesce(func.sum(charge.cost_nano), 0), BigInt))
        .select_from(usage_events.outerjoin(charges, of_charge))
        .where(at.tenant_id == tenant_id, at.external_id == external_id, at.source == source, at.kind == Kind.COST)
    )
    row = (await connection.execute(statement)).one()
    return Booked(row[0], row[1])
