"""/v1/imports: records of what happened elsewhere, so many at once, each told by itself what became of it."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import Field, StringConstraints

from gateway.api.answers import json_answer
from gateway.api.identity import Principal
from gateway.api.parts import ACCOUNTS, IMPORTER
from gateway.api.requests import Body, Query, body, query
from gateway.call_details import SOURCE
from gateway.importer import RECORDS_MAX, Status, counted

Source = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


class NewImport(Body):
    tenant_id: str
    source: Source = SOURCE
    records: list[dict[str, Any]] = Field(min_length=1, max_length=RECORDS_MAX)


async def create(request: web.Request, principal: Principal) -> web.Response:
    """Book records. Those that are in the ledger already, and those that say nothing, stop no other."""
    query(request, Query)
    wanted = await body(request, NewImport)
    await request.app[ACCOUNTS].tenant(wanted.tenant_id)
    results = await request.app[IMPORTER].book(wanted.tenant_id, wanted.source, wanted.records)
    counts = counted(results)
    if counts[Status.CREATED]:
        async with request.app[ACCOUNTS].changing(principal.actor) as change:
            await change.import_records(wanted.tenant_id, {"source": wanted.source, **counts})
    return json_answer({**counts, "results": results})
