"""/v1/audit: who changed what, newest first."""

from __future__ import annotations

import datetime as dt

from aiohttp import web

from gateway.accounts import AuditEntry
from gateway.api.answers import list_answer, listing, position_of
from gateway.api.identity import Principal
from gateway.api.parts import ACCOUNTS
from gateway.api.requests import PageQuery, WindowQuery, query
from metering.moments import iso


class AuditQuery(WindowQuery, PageQuery):
    tenant_id: str | None = None


def shown(entry: AuditEntry) -> dict[str, object]:
    return {
        "audit_id": entry.audit_id,
        "at": iso(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "tenant_id": entry.tenant_id,
        "subject": entry.subject,
        "detail": entry.detail,
    }


async def index(request: web.Request, principal: Principal) -> web.Response:
    wanted = query(request, AuditQuery)
    after = position_of(request, principal, wanted)
    found = await request.app[ACCOUNTS].audit(
        wanted.limit + 1,
        None if after is None else (dt.datetime.fromisoformat(after[0]), after[1]),
        tenant_id=wanted.tenant_id,
        start=wanted.start,
        end=wanted.end,
    )
    data, cursor = listing(request, principal, wanted, found, lambda entry: [iso(entry.at), entry.audit_id])
    return list_answer(map(shown, data), cursor)
