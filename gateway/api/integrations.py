"""/v1/tenants/{tenant_id}/integrations: how a tenant's applications are reached, and what of a provider's is its own.

One document for each tenant. The signing secret is shown when it is made, and never again.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec
from aiohttp import web
from pydantic import Field, StringConstraints

from gateway.accounts import Change, TenantIntegration
from gateway.api.answers import json_answer
from gateway.api.identity import Principal
from gateway.api.parts import ACCOUNTS
from gateway.api.requests import Body, Query, body, query
from gateway.integrations import OURS, Integration
from metering.moments import iso

GRACE_S_DEFAULT, GRACE_S_MAX = 86_400, 7 * 86_400
"""How long what is passed on is signed with the secret before as well."""

Url = Annotated[str, StringConstraints(max_length=2000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=400)]


class ChangedIntegration(Body):
    sms_url: Url | None = None
    voice_url: Url | None = None
    voice_fallback_url: Url | None = None
    status_url: Url | None = None
    events_url: Url | None = None
    inbound_url: Url | None = None
    phone_numbers: list[Name] | None = None
    twilio_messaging_services: list[Name] | None = None
    twilio_subaccount: Name | None = None
    sendgrid_subuser: Name | None = None
    sendgrid_categories: list[Name] | None = None
    sendgrid_verification_key: Name | None = None
    openai_project: Name | None = None
    on_behalf_of: list[Name] | None = None


class Rotation(Body):
    grace_s: int = Field(default=GRACE_S_DEFAULT, ge=0, le=GRACE_S_MAX)


def shown(tenant_id: str, found: TenantIntegration | None) -> dict[str, object]:
    integration = Integration() if found is None else found.integration
    values = {name: getattr(integration, name) for name in Integration.__struct_fields__ if name not in OURS}
    updated_at = None if found is None else iso(found.updated_at)
    return {"tenant_id": tenant_id, **msgspec.to_builtins(values), "updated_at": updated_at}


async def show(request: web.Request, _: Principal) -> web.Response:
    query(request, Query)
    tenant_id = request.match_info["tenant_id"]
    return json_answer(shown(tenant_id, await request.app[ACCOUNTS].integration(tenant_id)))


async def update(request: web.Request, change: Change) -> web.Response:
    wanted = await body(request, ChangedIntegration)
    tenant_id = request.match_info["tenant_id"]
    found, secret = await change.change_integration(tenant_id, wanted.model_dump(include=wanted.model_fields_set))
    answer = shown(tenant_id, found)
    return json_answer(answer if secret is None else {**answer, "signing_secret": secret})


async def rotate(request: web.Request, change: Change) -> web.Response:
    wanted = await body(request, Rotation)
    tenant_id = request.match_info["tenant_id"]
    secret = await change.rotate_signing_secret(tenant_id, grace=dt.timedelta(seconds=wanted.grace_s))
    return json_answer({"tenant_id": tenant_id, "signing_secret": secret, "grace_s": wanted.grace_s})


async def remove(request: web.Request, change: Change) -> web.Response:
    await change.remove_integration(request.match_info["tenant_id"])
    return web.Response(status=204)
