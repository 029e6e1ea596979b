"""/v1/collections: what is read of providers' own lists, how far it is, and having more of it read."""

from __future__ import annotations

import datetime as dt
from typing import Any

from aiohttp import web
from sqlalchemy import select

from gateway.api.answers import json_answer, list_answer, newest_jobs
from gateway.api.identity import Principal
from gateway.api.parts import ACCOUNTS, COLLECTOR, DATABASE, NOW
from gateway.api.problems import Problem, invalid
from gateway.api.requests import DaysBody, JobsQuery, Query, body, query
from gateway.collector import ASKED, COUNTS, NoScope, Wanted
from gateway.tables import collections
from metering.moments import iso

DAYS_MAX = 400
"""Providers keep their lists for about as long."""


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
    wanted, collector = await body(request, DaysBody), request.app[COLLECTOR]
    known = sorted(name for name, source in collector.sources.items() if source.records)
    if wanted.source not in known:
        raise invalid([("source", f"has no lists to read; there are {', '.join(known)}")])
    last = wanted.last(request.app[NOW]().astimezone(dt.UTC).date(), DAYS_MAX)
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
    wanted = query(request, JobsQuery)
    data, cursor = await newest_jobs(request, principal, wanted, collections, "created_at", "collection_id")
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
