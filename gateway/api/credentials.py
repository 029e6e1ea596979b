"""/v1/tenants/{tenant_id}/credentials: the accounts that a tenant has with providers itself. Their values go in only."""

from __future__ import annotations

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from gateway.accounts import Change, Credential, NotAcceptable
from gateway.api.answers import json_answer, list_answer
from gateway.api.identity import Principal
from gateway.api.parts import ACCOUNTS
from gateway.api.requests import Query, json_content, problem_of, query
from metering.moments import iso

FIELDS: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])


def shown(credential: Credential) -> dict[str, object]:
    return {
        "provider": credential.provider,
        "fields": credential.fields,
        "created_at": iso(credential.created_at),
    }


async def create(request: web.Request, change: Change) -> web.Response:
    text = await json_content(request)
    try:
        values = FIELDS.validate_json(text, strict=True)
    except ValidationError as error:
        raise problem_of(error, []) from None
    if "provider" not in values:
        raise NotAcceptable("provider", "is missing")
    provider = values.pop("provider")
    return json_answer(shown(await change.set_credential(request.match_info["tenant_id"], provider, values)), 201)


async def index(request: web.Request, _: Principal) -> web.Response:
    query(request, Query)
    return list_answer(map(shown, await request.app[ACCOUNTS].credentials(request.match_info["tenant_id"])))


async def remove(request: web.Request, change: Change) -> web.Response:
    await change.remove_credential(request.match_info["tenant_id"], request.match_info["provider"])
    return web.Response(status=204)
