"""/v1/collections: what is read of providers' own lists, how far it is, and having more of it read."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from aiohttp import web
from pydantic import BeforeValidator, Field
from sqlalchemy import literal, select, tuple_

from gateway.api.answers import json_answer, list_answer, listing, position_of
from gateway.api.identity import Principal
from gateway.api.parts import ACCOUNTS, COLLECTOR, DATABASE, NOW
from gateway.api.problems import Problem, invalid
from gateway.api.requests import Body, PageQuery, Query, body, query
from gateway.collector import ASKED, COUNTS, NoScope, Wanted
from gateway.tables import collections
from metering.columns import Moment, Text, iso

DAYS_MAX = 400
"""Providers keep their lists for about as long."""


def day(value: object) -> dt.date:
    """A date in UTC. Raises ValueError."""
    try:
        found = dt.date.fromisoformat(str(value))
    except ValueError:
        raise ValueError("is not a date such as 2026-11-20") from None
    if found.year < 2000:
        raise ValueError("lies before the year 2000")
    return found


Day = Annotated[dt.date, BeforeValidator(day)]


class NewCollection(Body):
    source: str
    tenant_id: str | None = None
    start: Day = Field(alias="from")
    end: Day = Field(alias="to")


class CollectionQuery(PageQuery):
    source: str | None = None
    tenant_id: str | None = None
    status: str | None = None


def shown(row: Any, lists: int) -> dict[str, object]:
    """`done_steps` of `steps` lists, one for each list and day, were read to their end."""
    first, last = dt.date.fromisoformat(row.first_day), dt.date.fromisoformat(row.last_day)
    step = 0 if row.position is None else row.position["step"]
    return {
        "collection_id": row.collection_id,
        "kind": row.kind,
        "source": row.source,
        "tenant_id": row.tenant_id,
        "from": row.first_day,
        "to": (last + dt.timedelta(days=1)).isoformat(),
        "status": row.status,
        "reason": row.reason,
        "steps": ((last - first).days + 1) * lists,
        "done_steps": step,
        "pages": row.pages,
        "counts": {name: row.counts.get(name, 0) for name in COUNTS},
        "asked_by": row.asked_by,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
    }


async def create(request: web.Request, principal: Principal) -> web.Response:
    """Have lists read. Asked for the same again, what was not done goes on."""
    query(request, Query)
    wanted, collector = await body(request, NewCollection), request.app[COLLECTOR]
    known = sorted(name for name, source in collector.sources.items() if source.records)
    if wanted.source not in known:
        raise invalid([("source", f"has no lists to read; there are {', '.join(known)}")])
    last = min(wanted.end - dt.timedelta(days=1), request.app[NOW]().date())
    if last < wanted.start:
        raise invalid(
            [("to", "must lie after from, which must not lie ahead; both are days in UTC, and to is not included")]
        )
    if (last - wanted.start).days >= DAYS_MAX:
        raise invalid([("from", f"lies more than {DAYS_MAX} days before to; ask for a part")])
    if wanted.tenant_id is not None:
        await request.app[ACCOUNTS].tenant(wanted.tenant_id)
    asked = Wanted(ASKED, wanted.source, wanted.tenant_id, wanted.start, last, principal.actor)
    try:
        collection_id = await collector.ask(asked)
    except NoScope as error:
        raise Problem(409, "nothing-to-read", str(error)) from error
    async with request.app[ACCOUNTS].changing(principal.actor) as change:
        detail = {"source": wanted.source, "from": wanted.start.isoformat(), "to": wanted.end.isoformat()}
        await change.collect(collection_id, wanted.tenant_id, detail)
    return json_answer(await _found(request, collection_id), 202)


async def index(request: web.Request, principal: Principal) -> web.Response:
    """Newest first."""
    wanted = query(request, CollectionQuery)
    after = position_of(request, principal, wanted)
    at = collections.c
    statement = select(collections).order_by(at.created_at.desc(), at.collection_id.desc())
    for column, value in ((at.source, wanted.source), (at.tenant_id, wanted.tenant_id), (at.status, wanted.status)):
        if value is not None:
            statement = statement.where(column == value)
    if after is not None:
        moment = dt.datetime.fromisoformat(after[0])
        key = tuple_(literal(moment, Moment), literal(after[1], Text))
        statement = statement.where(tuple_(at.created_at, at.collection_id) < key)
    async with request.app[DATABASE].reading() as connection:
        found = (await connection.execute(statement.limit(wanted.limit + 1))).all()
    data, cursor = listing(request, principal, wanted, found, lambda row: [iso(row.created_at), row.collection_id])
    return list_answer((shown(row, _lists(request, row.source)) for row in data), cursor)


async def show(request: web.Request, _: Principal) -> web.Response:
    query(request, Query)
    return json_answer(await _found(request, request.match_info["collection_id"]))


async def cancel(request: web.Request, principal: Principal) -> web.Response:
    """End a collection where it is; what it has booked stays. Asked for again, it goes on from there."""
    query(request, Query)
    collection_id = request.match_info["collection_id"]
    await _found(request, collection_id)
    if not await request.app[COLLECTOR].cancel(collection_id):
        raise Problem(409, "collection-over", "The collection is over already.")
    async with request.app[ACCOUNTS].changing(principal.actor) as change:
        await change.cancel_collection(collection_id)
    return web.Response(status=204)


async def _found(request: web.Request, collection_id: str) -> dict[str, object]:
    async with request.app[DATABASE].reading() as connection:
        found = await connection.execute(select(collections).where(collections.c.collection_id == collection_id))
        row = found.first()
    if row is None:
        raise Problem(404, "no-such-collection", "There is no such collection; GET /v1/collections lists them.")
    return shown(row, _lists(request, row.source))


def _lists(request: web.Request, source: str) -> int:
    known = request.app[COLLECTOR].sources.get(source)
    return 0 if known is None else len(known.records)
