"""/v1/reconciliations: the ledger held against providers' own figures, what was found, and having it done.

A tenant sees what was found of itself, and never what things cost the platform.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BeforeValidator
from sqlalchemy import or_, select

from gateway.api.answers import (
    csv_answer,
    csv_lines,
    csv_stream,
    json_answer,
    list_answer,
    listing,
    newest_jobs,
    position_of,
    wants_csv,
)
from gateway.api.identity import Principal
from gateway.api.parts import ACCOUNTS, DATABASE, NOW, RECONCILIATIONS
from gateway.api.problems import Problem, invalid
from gateway.api.requests import DaysBody, JobsQuery, PageQuery, Query, body, query
from gateway.reconciler import DAYS_MAX, Wanted
from gateway.tables import reconciliation_differences, reconciliations
from metering.event_types import DIMENSIONS
from metering.moments import iso
from metering.reconciliation import COST, COUNT, tolerance_of
from pricing.money import format_amount

PAGE_ROWS = 1000
"""Rows of a whole table that are read at once."""


def _tolerance(value: object) -> str:
    tolerance_of(str(value))
    return str(value)


class NewReconciliation(DaysBody):
    tolerance: Annotated[str, BeforeValidator(_tolerance)] | None = None


class DifferencesQuery(PageQuery):
    """Which of the differences."""

    tenant_id: str | None = None
    cause: str | None = None
    resolution: str | None = None
    format: Literal["json", "csv"] | None = None


DIFFERENCE_COLUMNS = ("day", "tenant_id", "category", "cause", "resolution", COUNT, *DIMENSIONS, "cost", "event_id")


async def create(request: web.Request, principal: Principal) -> web.Response:
    """Have it done. The answer comes at once; how far it is, the run itself tells."""
    query(request, Query)
    wanted, runs = await body(request, NewReconciliation), request.app[RECONCILIATIONS]
    if wanted.source not in runs.sources:
        raise invalid([("source", f"has no figures of its own to compare with; there are {', '.join(runs.sources)}")])
    last = wanted.last(request.app[NOW]().astimezone(dt.UTC).date(), DAYS_MAX)
    if wanted.tenant_id is not None:
        await request.app[ACCOUNTS].tenant(wanted.tenant_id)
    tolerance = wanted.tolerance or runs.tolerance
    asked = Wanted(wanted.source, wanted.tenant_id, wanted.start, last, tolerance_of(tolerance), principal.actor)
    reconciliation_id = await runs.ask(asked, tolerance)
    async with request.app[ACCOUNTS].changing(principal.actor) as change:
        detail = {"source": wanted.source, "from": wanted.start.isoformat(), "to": wanted.end.isoformat()}
        await change.reconcile(reconciliation_id, wanted.tenant_id, detail)
    return json_answer(_run(await _found(request, principal, reconciliation_id), principal), 202)


async def index(request: web.Request, principal: Principal) -> web.Response:
    """Newest first."""
    wanted, visible = query(request, JobsQuery), _visible(principal)
    data, cursor = await newest_jobs(
        request, principal, wanted, reconciliations, "started_at", "reconciliation_id", *visible
    )
    return list_answer((_run(row, principal) for row in data), cursor)


async def show(request: web.Request, principal: Principal) -> web.StreamResponse:
    """One run, with a page of its differences; as CSV, all of them."""
    wanted = query(request, DifferencesQuery)
    run = await _found(request, principal, request.match_info["reconciliation_id"])
    as_csv = wants_csv(request, wanted.format)
    if as_csv and not {"limit", "cursor"} & request.query.keys():
        return await _whole_table(request, principal, run, wanted)
    after = position_of(request, principal, wanted)
    found = await _differences(
        request, principal, run, wanted, -1 if after is None else int(after[0]), wanted.limit + 1
    )
    data, cursor = listing(request, principal, wanted, found, lambda row: [str(row.number)])
    shown = [_difference(row, run, principal) for row in data]
    if as_csv:
        return csv_answer("reconciliation", _columns(), map(_flattened, shown), cursor)
    return json_answer({**_run(run, principal), "differences": {"data": shown, "next_cursor": cursor}})


async def table(request: web.Request, principal: Principal) -> web.StreamResponse:
    """All differences of a run, as CSV."""
    wanted = query(request, DifferencesQuery)
    run = await _found(request, principal, request.match_info["reconciliation_id"])
    return await _whole_table(request, principal, run, wanted)


async def _whole_table(
    request: web.Request, principal: Principal, run: Any, wanted: DifferencesQuery
) -> web.StreamResponse:
    """As it leaves in pieces, its size is no matter; there are no more rows than a report keeps."""
    columns = _columns()
    response = csv_stream("reconciliation")
    found = await _differences(request, principal, run, wanted, -1, PAGE_ROWS)
    await response.prepare(request)
    await response.write(csv_lines([columns]))
    while True:
        rows = (_flattened(_difference(row, run, principal)) for row in found)
        await response.write(csv_lines([row.get(column) for column in columns] for row in rows))
        if len(found) < PAGE_ROWS:
            await response.write_eof()
            return response
        found = await _differences(request, principal, run, wanted, found[-1].number, PAGE_ROWS)


async def _differences(
    request: web.Request, principal: Principal, run: Any, wanted: DifferencesQuery, after: int, limit: int
) -> Any:
    at = reconciliation_differences.c
    statement = select(reconciliation_differences).where(
        at.reconciliation_id == run.reconciliation_id, at.number > after
    )
    tenant_id = principal.tenant_id or wanted.tenant_id
    for column, value in ((at.tenant_id, tenant_id), (at.cause, wanted.cause), (at.resolution, wanted.resolution)):
        if value is not None:
            statement = statement.where(column == value)
    async with request.app[DATABASE].reading() as connection:
        return (await connection.execute(statement.order_by(at.number).limit(limit))).all()


def _visible(principal: Principal) -> Iterable[Any]:
    """A tenant sees runs for it alone, and those for everybody, as far as they are about it."""
    if principal.tenant_id is not None:
        at = reconciliations.c
        yield or_(at.tenant_id == principal.tenant_id, at.tenant_id.is_(None))


async def _found(request: web.Request, principal: Principal, reconciliation_id: str) -> Any:
    statement = select(reconciliations).where(
        reconciliations.c.reconciliation_id == reconciliation_id, *_visible(principal)
    )
    async with request.app[DATABASE].reading() as connection:
        row = (await connection.execute(statement)).first()
    if row is None:
        raise Problem(
            404, "no-such-reconciliation", "There is no such reconciliation; GET /v1/reconciliations lists them."
        )
    return row


def _run(row: Any, principal: Principal) -> dict[str, object]:
    last = dt.date.fromisoformat(row.last_day)
    mine = principal.tenant_id
    return {
        "reconciliation_id": row.reconciliation_id,
        "source": row.source,
        "tenant_id": row.tenant_id,
        "from": row.first_day,
        "to": (last + dt.timedelta(days=1)).isoformat(),
        "status": row.status if mine is None or row.status != "beyond_tolerance" else _own_status(row, mine),
        "reason": row.reason if mine is None else None,
        "tolerance": row.tolerance,
        "progress": row.progress if mine is None else {},
        "totals": [
            _amounts_shown(one, row.currency, principal) for one in row.totals if mine in (None, one["tenant_id"])
        ],
        "beyond": [one for one in row.beyond if mine is None or (one["tenant_id"] == mine and one["measure"] != COST)],
        "asked_by": row.asked_by if mine is None else None,
        "started_at": iso(row.started_at),
        "finished_at": None if row.finished_at is None else iso(row.finished_at),
    }


def _own_status(row: Any, tenant_id: str) -> str:
    """What it is for a tenant, which others' differences do not concern."""
    mine = [one for one in row.beyond if one["tenant_id"] == tenant_id and one["measure"] != COST]
    return "beyond_tolerance" if mine else "matched"


SIDES = ("told", "held", "corrected", "explained", "open")


def _amounts_shown(one: Mapping[str, Any], currency: str, principal: Principal) -> dict[str, object]:
    return {name: value for name, value in one.items() if name not in SIDES} | {
        side: _amounts(one[side], currency, principal) for side in SIDES
    }


def _amounts(amounts: Mapping[str, int], currency: str, principal: Principal) -> dict[str, object]:
    return {
        "count": amounts.get(COUNT),
        "quantities": {name: amounts[name] for name in DIMENSIONS if name in amounts},
        "cost": _cost(amounts.get(COST), currency, principal),
    }


def _cost(nano: int | None, currency: str, principal: Principal) -> dict[str, object]:
    if nano is None or principal.tenant_id is not None:
        return {"amount": None, "currency": None}
    return {"amount": format_amount(nano), "currency": currency or None}


def _difference(row: Any, run: Any, principal: Principal) -> dict[str, Any]:
    return {
        "day": row.day,
        "tenant_id": row.tenant_id,
        "category": row.category,
        "cause": row.cause,
        "resolution": row.resolution,
        "count": row._mapping["count"],  # noqa: SLF001 - `count` is a tuple's own
        "quantities": row.quantities,
        "cost": _cost(row.cost_nano, run.currency, principal),
        "event_id": row.event_id,
    }


def _columns() -> list[str]:
    columns: list[str] = []
    for name in DIFFERENCE_COLUMNS:
        columns += ("cost_amount", "cost_currency") if name == "cost" else (name,)
    return columns


def _flattened(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **one,
        **one["quantities"],
        "cost_amount": one["cost"]["amount"],
        "cost_currency": one["cost"]["currency"],
    }
