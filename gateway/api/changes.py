"""Handlers that change something: in one transaction with the audit log, and once for each `Idempotency-Key`.

The answer to a request with such a key is kept, sealed, in the transaction of the change that it tells of. The same
request again gets the same answer and changes nothing; another request under the same key is refused. A request that
was refused has changed nothing, so nothing of it is kept, and it may be sent again corrected.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiohttp import web

from gateway.accounts import Answer, Change
from gateway.api.identity import Handler, Principal
from gateway.api.parts import ACCOUNTS, SECRETS
from gateway.api.problems import Problem
from gateway.api.requests import Query, content, query

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")

ChangeHandler: TypeAlias = Callable[[web.Request, Change], Awaitable[web.Response]]


def changing(handler: ChangeHandler) -> Handler:
    """Give a handler a change to make, and answer once the change is in force."""

    async def answer(request: web.Request, principal: Principal) -> web.Response:
        query(request, Query)
        # The whole body first: a slow client must not hold the one connection that writes.
        body = await content(request)
        async with request.app[ACCOUNTS].changing(principal.actor) as change:
            key = request.headers.get("Idempotency-Key")
            if key is None or request.method != "POST":
                return await handler(request, change)
            if not IDEMPOTENCY_KEY.fullmatch(key):
                raise Problem(
                    400, "invalid-idempotency-key", "An Idempotency-Key is 1 to 255 printable ASCII characters."
                )
            # Keyed, because the body may hold a credential.
            asked = request.app[SECRETS].digest(f"POST {request.path}\n" + body.decode("latin-1")).hex()
            first = await change.answered(key)
            if first is None:
                made = await handler(request, change)
                await change.remember(key, Answer(request_digest=asked, status=made.status, body=made.text or ""))
                return made
            if first.request_digest != asked:
                raise Problem(
                    422, "idempotency-key-reused", "This Idempotency-Key came with another request; use a new one."
                )
            return web.Response(
                status=first.status,
                body=first.body.encode(),
                content_type="application/json",
                headers={"Idempotency-Replayed": "true"},
            )

    return answer
