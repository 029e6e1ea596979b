"""/v1/tenants: who is metered."""

from __future__ import annotations

from typing import Literal, TypeAlias

from aiohttp import web

from gateway.accounts import Change, Tenant
from gateway.api.answers import json_answer, list_answer, listing, position_of
from gateway.api.identity import Principal
from gateway.api.parts import ACCOUNTS
from gateway.api.problems import invalid
from gateway.api.requests import Body, Line, PageQuery, Query, body, query
from metering.moments import iso

RequestTags: TypeAlias = Literal["off", "hashed", "plain"]


class NewTenant(Body):
    tenant_id: str
    name: Line | None = None
    plan: str | None = None
    request_tags: RequestTags = "off"


class ChangedTenant(Body):
    name: Line = ""
    status: Literal["active", "suspended", "closed"] = "active"
    plan: str | None = None
    request_tags: RequestTags = "off"


def shown(tenant: Tenant) -> dict[str, object]:
    return {
        "tenant_id": tenant.tenant_id,
        "name": tenant.name,
        "status": tenant.status,
        "plan": tenant.plan,
        "currency": tenant.currency,
        "twilio_account_sid": tenant.account_sid,
        "request_tags": tenant.request_tags,
        "created_at": iso(tenant.created_at),
    }


async def create(request: web.Request, change: Change) -> web.Response:
    wanted = await body(request, NewTenant)
    return json_answer(shown(await change.create_tenant(**wanted.model_dump())), 201)


async def index(request: web.Request, principal: Principal) -> web.Response:
    page = query(request, PageQuery)
    [after] = position_of(request, principal, page) or [""]
    found = await request.app[ACCOUNTS].tenants(page.limit + 1, after)
    data, cursor = listing(request, principal, page, found, lambda tenant: [tenant.tenant_id])
    return list_answer(map(shown, data), cursor)


async def show(request: web.Request, _: Principal) -> web.Response:
    query(request, Query)
    return json_answer(shown(await request.app[ACCOUNTS].tenant(request.match_info["tenant_id"])))


async def update(request: web.Request, change: Change) -> web.Response:
    wanted = await body(request, ChangedTenant)
    given = wanted.model_dump(include=wanted.model_fields_set)
    if not given:
        raise invalid([("body", f"changes nothing; give {', '.join(ChangedTenant.model_fields)}")])
    return json_answer(shown(await change.change_tenant(request.match_info["tenant_id"], **given)))
