"""/v1/tenants/{tenant_id}/{provider}/connect: what comes in at a tenant's numbers, led here or back to where it was."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from gateway.api.answers import json_answer
from gateway.api.identity import Principal
from gateway.api.parts import ACCOUNTS, CONNECTOR
from gateway.api.problems import Problem
from gateway.api.requests import Body, Query, body, query
from gateway.connector import Connected, Done, NotConnected, Outcome
from gateway.providers.api import Way


class Connection(Body):
    undo: bool = False
    dry_run: bool = False


async def create(request: web.Request, principal: Principal) -> web.Response:
    """Lead numbers here, or back. Done twice, it does what it does once; what fails for one number stops no other."""
    query(request, Query)
    wanted = await body(request, Connection)
    tenant_id, provider = request.match_info["tenant_id"], request.match_info["provider"]
    await request.app[ACCOUNTS].tenant(tenant_id)
    connector = request.app[CONNECTOR]
    if provider not in connector.sources:
        raise Problem(404, "no-numbers-there", f"Numbers can be led here from: {', '.join(connector.sources)}.")
    try:
        done = await connector.connect(principal.actor, provider, tenant_id, undo=wanted.undo, dry_run=wanted.dry_run)
    except NotConnected as error:
        raise Problem(409, "not-connected", str(error)) from error
    return json_answer({"tenant_id": tenant_id, "undo": wanted.undo, "dry_run": wanted.dry_run, **_shown(done)})


def _shown(done: Connected) -> dict[str, object]:
    counts = {str(outcome): sum(one.outcome is outcome for one in done.numbers) for outcome in Outcome}
    secret = {} if done.signing_secret is None else {"signing_secret": done.signing_secret}
    return {"numbers": [_number(one) for one in done.numbers], "counts": counts, "adopted": dict(done.urls), **secret}


def _number(one: Done) -> dict[str, object]:
    return {
        "phone_number": one.step.number,
        "outcome": one.outcome,
        "was": _ways(one.step.was),
        "is": _ways(one.now),
        "code": one.code,
        "problem": one.problem,
    }


def _ways(ways: Mapping[str, Way]) -> dict[str, object]:
    return {
        f"{name}_{part}": value or None
        for name, way in ways.items()
        for part, value in (("url", way.url), ("method", way.method), ("application_sid", way.application))
    }
