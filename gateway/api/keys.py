"""/v1/tenants/{tenant_id}/keys and /v1/service-keys: what applications call with.

A service key has no tenant in its path, and that is all that tells the two apart here.
"""

from __future__ import annotations

import datetime as dt

from aiohttp import web
from pydantic import AwareDatetime, Field

from gateway.accounts import Change, Key, NewKey
from gateway.api.answers import json_answer, list_answer, listing, position_of
from gateway.api.identity import Principal
from gateway.api.parts import ACCOUNTS
from gateway.api.requests import Body, Line, PageQuery, Query, body, query
from gateway.keys import DEFAULT_SCOPES
from metering.moments import iso

GRACE_S_MAX = 7 * 86_400
"""How long a key may work on beside the one that takes its place."""


class NewKeyWanted(Body):
    name: Line
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    expires_at: AwareDatetime | None = None
    category: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)


class Rotation(Body):
    grace_s: int = Field(default=0, ge=0, le=GRACE_S_MAX)


def shown(key: Key) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "tenant_id": key.tenant_id,
        "name": key.name,
        "scopes": key.scopes,
        "expires_at": None if key.expires_at is None else iso(key.expires_at),
        "category": key.category,
        "tags": key.tags,
        "created_at": iso(key.created_at),
    }


def shown_later(key: Key) -> dict[str, object]:
    return shown(key) | {"revoked_at": None if key.revoked_at is None else iso(key.revoked_at)}


def shown_once(new: NewKey) -> web.Response:
    return json_answer({"key_id": new.key.key_id, "key": new.secret} | shown(new.key), 201)


async def create(request: web.Request, change: Change) -> web.Response:
    wanted = await body(request, NewKeyWanted)
    return shown_once(
        await change.create_key(
            request.match_info.get("tenant_id"),
            name=wanted.name,
            scopes=wanted.scopes,
            expires_at=wanted.expires_at,
            category=wanted.category,
            tags=wanted.tags,
        )
    )


async def index(request: web.Request, principal: Principal) -> web.Response:
    page = query(request, PageQuery)
    after = position_of(request, principal, page)
    found = await request.app[ACCOUNTS].keys(
        request.match_info.get("tenant_id"),
        page.limit + 1,
        None if after is None else (dt.datetime.fromisoformat(after[0]), after[1]),
    )
    data, cursor = listing(request, principal, page, found, lambda key: [iso(key.created_at), key.key_id])
    return list_answer(map(shown_later, data), cursor)


async def show(request: web.Request, _: Principal) -> web.Response:
    query(request, Query)
    named = request.match_info
    return json_answer(shown_later(await request.app[ACCOUNTS].key(named["tenant_id"], named["key_id"])))


async def revoke(request: web.Request, change: Change) -> web.Response:
    await change.revoke_key(request.match_info.get("tenant_id"), request.match_info["key_id"])
    return web.Response(status=204)


async def rotate(request: web.Request, change: Change) -> web.Response:
    wanted = await body(request, Rotation) if await request.read() else Rotation()
    named = request.match_info
    grace = dt.timedelta(seconds=wanted.grace_s)
    return shown_once(await change.rotate_key(named["tenant_id"], named["key_id"], grace=grace))
