"""Booking: facts, their charges and the daily sums go into the ledger in one transaction, or not at all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from metering import ledger
from metering.ledger import Appended, Fact
from metering.usage import UsageEvent
from pricing import charges
from pricing.catalogue import Books
from pricing.rating import Rated, rate
from pricing.rollups import fold
from pricing.tables import tenant_plans


async def book(connection: AsyncConnection, facts: Sequence[Fact], books: Books, now: dt.datetime) -> Appended:
    """Book some facts inside the caller's transaction; those that the ledger has already change nothing."""
    appended = await ledger.append(connection, facts, now)
    if appended.new:
        plans = await _plans(connection, {fact.event.tenant_id for fact in appended.new})
        judged = [(fact.event, _rated(fact.event, plans, books)) for fact in appended.new]
        await charges.append(connection, judged)
        folded = fold(judged)
        if folded:
            await charges.add(connection, folded)
    return appended


Plans = dict[str, list[tuple[dt.datetime, str | None]]]


async def _plans(connection: AsyncConnection, tenant_ids: Iterable[str]) -> Plans:
    question = (
        select(tenant_plans.c.tenant_id, tenant_plans.c.effective_at, tenant_plans.c.plan)
        .where(tenant_plans.c.tenant_id.in_(sorted(tenant_ids)))
        .order_by(tenant_plans.c.tenant_id, tenant_plans.c.effective_at)
    )
    found: Plans = {}
    for tenant_id, effective_at, plan in await connection.execute(question):
        found.setdefault(tenant_id, []).append((effective_at, plan))
    return found


def _rated(event: UsageEvent, plans: Plans, books: Books) -> Rated:
    """Rate an event by the plan that its tenant had when it happened."""
    plan = None
    for effective_at, named in plans.get(event.tenant_id, ()):
        if effective_at > event.occurred_at:
            break
        plan = named
    return rate(event, books.price_book(plan), books.cost_book)
