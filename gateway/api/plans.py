"""/v1/plans: what a tenant may be on."""

from __future__ import annotations

from aiohttp import web

from gateway.api.answers import list_answer
from gateway.api.identity import Principal
from gateway.api.requests import Query, query
from pricing.plans import plans


async def index(request: web.Request, _: Principal) -> web.Response:
    query(request, Query)
    return list_answer(
        {
            "plan": plan.id,
            "name": plan.name,
            "aliases": plan.aliases,
            "book": plan.book,
            "monthly_fee": plan.monthly_fee,
            "monthly_credit": plan.monthly_credit,
            "credit_once": plan.credit_once,
            "enforcement": plan.enforcement,
        }
        for plan in plans()
    )
