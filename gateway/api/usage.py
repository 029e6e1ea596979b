"""/v1/usage: the events of the ledger, and their sums.

Amounts leave as exact decimal strings. What is not known is null, in JSON, and empty, in CSV; it is never zero.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BeforeValidator

from gateway.api.answers import (
    csv_answer,
    csv_lines,
    csv_stream,
    json_answer,
    list_answer,
    listing,
    position_of,
    wants_csv,
)
from gateway.api.identity import Principal
from gateway.api.parts import DATABASE, NOW
from gateway.api.problems import Problem, invalid
from gateway.api.requests import PageQuery, WindowQuery, query
from metering.database import DatabaseUnavailable
from metering.event_types import DIMENSIONS, TOKENS
from metering.moments import iso
from pricing import queries
from pricing.book import CREDITS
from pricing.money import format_amount
from pricing.queries import GROUPS, GROUPS_MAX, AnyRow, EventFilter, Position, TooManyGroups
from pricing.tables import ROLLUP_COUNTS

COUNTED = (*ROLLUP_COUNTS, "units", "tokens")

EVENT_COLUMNS = (
    "event_id",
    "tenant_id",
    "source",
    "event_type",
    "channel",
    "direction",
    "endpoint",
    "resource",
    "external_id",
    "units",
    "quantities",
    "completeness",
    "priced",
    "kind",
    "corrects",
    "charge",
    "cost",
    "category",
    "tags",
    "description",
    "metadata",
    "key_id",
    "call_id",
    "status",
    "duration_ms",
    "metered",
    "occurred_at",
    "recorded_at",
)
"""The members of an event, in their order."""

FLATTENED = {
    "quantities": DIMENSIONS,
    "charge": ("charge_amount", "charge_currency", "charge_credits"),
    "cost": ("cost_amount", "cost_currency"),
}
"""What takes several columns of a table."""


def _listed(value: object) -> tuple[str, ...]:
    names = tuple(str(value).split(",")) if value else ()
    if not set(names) <= set(GROUPS) or len(set(names)) < len(names):
        raise ValueError(f"must be some of {','.join(GROUPS)}, each once, with commas between them")
    return names


class UsageQuery(WindowQuery):
    """Which usage."""

    tenant_id: str | None = None
    source: str | None = None
    event_type: str | None = None
    channel: str | None = None
    category: str | None = None
    key_id: str | None = None
    format: Literal["json", "csv"] | None = None


class EventsQuery(UsageQuery, PageQuery):
    """Which events, and which page of them."""


class SummaryQuery(UsageQuery):
    """Which sums."""

    group_by: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()


PAGE_ROWS = 1000
"""Rows of a whole table that are read at once."""


async def events(request: web.Request, principal: Principal) -> web.StreamResponse:
    wanted = query(request, EventsQuery)
    if wanted.start and wanted.end and wanted.start > wanted.end:
        raise invalid([("from", "lies after `to`")])
    selected = _filter(wanted, principal)
    if wants_csv(request, wanted.format) and not {"limit", "cursor"} & request.query.keys():
        return await _whole_table(request, principal, selected)
    after = position_of(request, principal, wanted)
    async with request.app[DATABASE].reading() as connection:
        found = await queries.events(
            connection,
            selected,
            wanted.limit + 1,
            None if after is None else Position(dt.datetime.fromisoformat(after[0]), after[1], after[2]),
        )
    data, cursor = listing(
        request, principal, wanted, found, lambda row: [iso(row.occurred_at), row.event_id, row.tenant_id]
    )
    shown = [_event(row, principal) for row in data]
    if wants_csv(request, wanted.format):
        return csv_answer("usage-events", _flat(EVENT_COLUMNS), map(_flattened, shown), cursor)
    return list_answer(shown, cursor)


async def _whole_table(request: web.Request, principal: Principal, selected: EventFilter) -> web.StreamResponse:
    """Every event that is selected, as one file: whoever saves a table and is not told otherwise takes it for whole.

    The file leaves in pieces, so its size is no matter; if the database fails in the middle, the transfer breaks off.
    """
    columns = _flat(EVENT_COLUMNS)
    response = csv_stream("usage-events")
    await response.prepare(request)
    await response.write(csv_lines([columns]))
    after: Position | None = None
    while True:
        try:
            async with request.app[DATABASE].reading() as connection:
                found = await queries.events(connection, selected, PAGE_ROWS, after)
        except DatabaseUnavailable:
            if request.transport is not None:
                request.transport.abort()
            raise
        rows = (_flattened(_event(row, principal)) for row in found)
        await response.write(csv_lines([row.get(column) for column in columns] for row in rows))
        if len(found) < PAGE_ROWS:
            await response.write_eof()
            return response
        last = found[-1]
        after = Position(last.occurred_at, last.event_id, last.tenant_id)


async def summary(request: web.Request, principal: Principal) -> web.Response:
    wanted = query(request, SummaryQuery)
    start, end = _days(wanted, request.app[NOW]())
    try:
        async with request.app[DATABASE].reading() as connection:
            found = await queries.summary(connection, _filter(wanted, principal, start, end), wanted.group_by)
    except TooManyGroups:
        raise invalid(
            [("group_by", f"makes more than {GROUPS_MAX} groups; ask for less time or fewer columns")]
        ) from None
    groups = [{name: getattr(row, name) or None for name in wanted.group_by} | _sums([row], principal) for row in found]
    if wants_csv(request, wanted.format):
        columns = _flat((*wanted.group_by, *COUNTED, "quantities", "charge", "cost"))
        return csv_answer("usage-summary", columns, map(_flattened, groups))
    return json_answer({"from": iso(start), "to": iso(end), "groups": groups, "total": _sums(found, principal)})


def _filter(
    wanted: UsageQuery, principal: Principal, start: dt.datetime | None = None, end: dt.datetime | None = None
) -> EventFilter:
    if principal.tenant_id is not None and wanted.tenant_id not in (None, principal.tenant_id):
        raise Problem(403, "forbidden", "A tenant's key shows that tenant alone; leave tenant_id out.")
    return EventFilter(
        start=start or wanted.start,
        end=end or wanted.end,
        tenant_id=principal.tenant_id or wanted.tenant_id,
        source=wanted.source,
        event_type=wanted.event_type,
        channel=wanted.channel,
        category=wanted.category,
        key_id=wanted.key_id,
    )


def _days(wanted: UsageQuery, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """The window in whole UTC days: the current month, or from or up to what is given of it."""
    end = wanted.end or (_month(now) + dt.timedelta(days=32)).replace(day=1)
    start = wanted.start or _month(end - dt.timedelta.resolution)
    if start > end:
        raise invalid([("from", "lies after `to`, or, without it, after the current month")])
    for name, moment in (("from", start), ("to", end)):
        if moment.time() != dt.time():
            raise invalid([(name, "must be a date, or midnight in UTC: sums are kept by UTC day")])
    return start, end


def _month(moment: dt.datetime) -> dt.datetime:
    return moment.astimezone(dt.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _event(row: AnyRow, principal: Principal) -> dict[str, Any]:
    plain = {name: getattr(row, name) for name in EVENT_COLUMNS if name not in ("charge", "cost")}
    special = {
        "priced": bool(row.priced),
        "metered": bool(row.metered),
        "charge": _charge(row.charge_nano, row.currency, row.credits),
        "cost": _cost(row.cost_nano, row.cost_currency, principal),
        "occurred_at": iso(row.occurred_at),
        "recorded_at": iso(row.recorded_at),
    }
    return {name: special.get(name, plain.get(name)) for name in EVENT_COLUMNS}


def _sums(rows: Iterable[AnyRow], principal: Principal) -> dict[str, Any]:
    """The sums of some groups. Money in several currencies has no sum: its amount and currency are null."""
    rows = list(rows)

    def total(name: str) -> int | None:
        known = [value for row in rows if (value := getattr(row, name)) is not None]
        return sum(known) if known else None

    def money(amount: str, currency: str) -> tuple[int | None, str | None]:
        known = [row for row in rows if getattr(row, amount) is not None]
        currencies = {getattr(row, currency) for row in known or rows}
        return (total(amount), currencies.pop()) if len(currencies) == 1 else (None, None)

    quantities = {name: value for name in DIMENSIONS if (value := total(name)) is not None}
    tokens = [quantities[name] for name in TOKENS if name in quantities]
    return {
        **{name: total(name) or 0 for name in ROLLUP_COUNTS},
        "units": total("units"),
        "tokens": sum(tokens) if tokens else None,
        "quantities": quantities,
        "charge": _charge(*money("charge_nano", "currency"), total("credits")),
        "cost": _cost(*money("cost_nano", "cost_currency"), principal),
    }


def _charge(nano: int | None, currency: str | None, credits_: int | None) -> dict[str, object]:
    return _money(nano, currency) | {"credits": credits_}


def _cost(nano: int | None, currency: str | None, principal: Principal) -> dict[str, object]:
    """What the provider charges the platform: the margin is the platform's business, so tenants see null."""
    return _money(nano, currency) if principal.tenant_id is None else _money(None, None)


def _money(nano: int | None, currency: str | None) -> dict[str, object]:
    # Credits are counted beside money and have no currency.
    return {
        "amount": None if nano is None else format_amount(nano),
        "currency": None if currency in (None, "", CREDITS) else currency,
    }


def _flat(columns: Iterable[str]) -> list[str]:
    return [name for column in columns for name in FLATTENED.get(column, (column,))]


def _flattened(one: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {**one, **one["quantities"]}
    for money in ("charge", "cost"):
        flat |= {f"{money}_{name}": value for name, value in one[money].items()}
    return flat
