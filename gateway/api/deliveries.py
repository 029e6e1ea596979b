"""/v1/tenants/{tenant_id}/deliveries: what providers delivered for a tenant's applications and these do not have yet.

What is in a delivery is not shown: it lies sealed, and is the application's.
"""

from __future__ import annotations

import datetime as dt

from aiohttp import web

from gateway.accounts import Change
from gateway.api.answers import json_answer, list_answer, listing, position_of
from gateway.api.identity import Principal
from gateway.api.parts import ACCOUNTS, DELIVERER
from gateway.api.problems import Problem
from gateway.api.requests import PageQuery, query
from gateway.deliverer import Deliverer, Shown
from metering.moments import iso


def shown(delivery: Shown) -> dict[str, object]:
    waiting = delivery.waiting
    return {
        "delivery_id": waiting.delivery_id,
        "source": waiting.source,
        "target": waiting.webhook,
        "size_bytes": waiting.size_bytes,
        "received_at": _iso(waiting.received_at_ms),
        "attempts": delivery.attempts,
        "next_attempt_at": None if delivery.next_attempt_ms is None else _iso(delivery.next_attempt_ms),
        "last_outcome": delivery.outcome,
        "last_status": delivery.status,
    }


async def index(request: web.Request, principal: Principal) -> web.Response:
    """Oldest first. Attempts are counted from the start of the gateway; one that waits for another about the same message
    or call has none."""
    page = query(request, PageQuery)
    after = position_of(request, principal, page)
    tenant_id = request.match_info["tenant_id"]
    await request.app[ACCOUNTS].tenant(tenant_id)
    begin = (-1, "") if after is None else (int(after[0]), after[1])
    found = _deliverer(request).shown(tenant_id, page.limit + 1, begin)
    data, cursor = listing(
        request, principal, page, found, lambda one: [str(one.waiting.received_at_ms), one.waiting.delivery_id]
    )
    return list_answer(map(shown, data), cursor)


async def retry(request: web.Request, change: Change) -> web.Response:
    """Try one at once, and what it waits for before it."""
    tenant_id, delivery_id = request.match_info["tenant_id"], request.match_info["delivery_id"]
    await change.retry_delivery(tenant_id, delivery_id)
    deliverer = _deliverer(request)
    found = deliverer.find(tenant_id, delivery_id)
    if found is None:
        raise Problem(404, "no-such-delivery", "There is no such delivery waiting: it has arrived, or was given up.")
    deliverer.retry(tenant_id, delivery_id)
    return json_answer(shown(found), 202)


def _deliverer(request: web.Request) -> Deliverer:
    found = request.app.get(DELIVERER)
    if found is None:
        raise Problem(503, "not-serving", "Deliveries are known to a server that runs; start it and ask again.")
    return found


def _iso(moment_ms: int) -> str:
    return iso(dt.datetime.fromtimestamp(moment_ms / 1000, dt.UTC))
