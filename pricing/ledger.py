"""Booking: facts, their charges and the daily sums go into the ledger in one transaction, or not at all."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from metering import ledger
from metering.claims import keeps_off, made_key, taken_back
from metering.facts import Fact, fact, is_late
from metering.late import PRICE, meet, of_objects, phase_of, remember, settle
from metering.ledger import Appended
from metering.usage import UsageEvent, event_id_of
from pricing import charges
from pricing.book import EVENT
from pricing.catalogue import Books
from pricing.judgement import Rated
from pricing.judging import Plans, judge, judge_all
from pricing.rating import rate, told, without_cost
from pricing.rollups import fold
from pricing.tables import tenant_plans

SLICE_FACTS = 50
"""Judged at a time: calls, and what is on its way to the database, do not wait for more."""


async def book(connection: AsyncConnection, facts: Sequence[Fact], books: Books, now: dt.datetime) -> Appended:
    """Book some facts inside the caller's transaction; those that the ledger has already change nothing."""
    if not facts:
        return Appended([], 0, [])
    plans = await _plans(connection, {one.event.tenant_id for one in facts}, books)
    late = [one for one in facts if is_late(one.event)]
    calls = [one for one in facts if not is_late(one.event)] if late else facts
    # To judge them takes us two thirds of the time that the database is busy with them.
    appended, rated = await asyncio.gather(ledger.append(connection, calls, now), _rated(calls, plans, books))
    judged = [(one.event, rated.get(id(one)) or judge(one, plans, books)) for one in appended.new]
    await remember(connection, appended.new, now)
    if late:
        # After the calls, among which may be those that they are about.
        settled, corrected = await _settled(connection, late, judged, plans, books, now)
        appended, judged = appended.with_those_of(settled), judged + corrected
    judged += await _taken_back(connection, judged, now)
    if judged:
        await charges.append(connection, judged)
        folded = fold(judged)
        if folded:
            await charges.add(connection, folded)
    return appended


async def _settled(
    connection: AsyncConnection,
    late: Sequence[Fact],
    calls: Sequence[tuple[UsageEvent, Rated]],
    plans: Plans,
    books: Books,
    now: dt.datetime,
) -> tuple[Appended, list[tuple[UsageEvent, Rated]]]:
    """Book facts that come later as corrections of their events; those that have none yet are kept until they do.

    Each is rated on top of what its event and earlier corrections hold: by the plan, and at the prices, of its day. `calls`
    are those of this transaction, whose charges are not there yet.
    """
    met = await meet(connection, late)
    appended = await ledger.append(connection, [*(one.fact for one in met.corrections), *met.known], now)
    of_event = {one.fact.event.event_id: one for one in met.corrections}
    costs = await charges.costs(
        connection, {key for one in met.corrections if phase_of(one.fact.event)[0] == PRICE for key in one.before}
    )
    costs |= {event.key: rated.cost_nano or 0 for event, rated in calls}
    judged = []
    # What is left of a cost is known when the rest is judged.
    for event in sorted((new.event for new in appended.new), key=lambda event: phase_of(event)[0] == PRICE):
        one = of_event[event.event_id]
        price_book = plans.price_book(event)
        if phase_of(event)[0] == PRICE:
            rated = told(event, price_book, books.cost_book, sum(costs.get(key, 0) for key in one.before))
        else:
            rated = rate(event, price_book, books.cost_book, {**one.held, EVENT: 0} if one.begins else one.held)
            rated = without_cost(rated) if one.cost_told == books.cost_book.unit else rated
        costs[event.key] = rated.cost_nano or 0
        judged.append((event, rated))
    await settle(connection, met, now)
    unbooked = len(met.waiting) + len(met.heard) + len(met.open) + len(met.stale)
    repeated = len(late) - len(appended.new) - len(appended.conflicting) - unbooked
    return appended._replace(repeated=repeated, waiting=len(met.waiting)), judged


async def _taken_back(
    connection: AsyncConnection, judged: Sequence[tuple[UsageEvent, Rated]], now: dt.datetime
) -> list[tuple[UsageEvent, Rated]]:
    """Take back what a list or a webhook had booked of what calls with their metering off have made. What `judged` says is
    of this transaction."""
    off = {(event.tenant_id, event.external_id or "") for event, _ in judged if keeps_off(event)}
    if not off:
        return []
    rows = []
    for (_, external_id, source), of_object in (await of_objects(connection, off)).items():
        reported = event_id_of(made_key(source, external_id))
        rows += [row for row in of_object if row.metered and reported in (row.event_id, row.corrects)]
    known = {event.key: rated for event, rated in judged}
    key_of = {row.event_id: (row.tenant_id, row.event_day, row.event_id) for row in rows}
    known |= await charges.judgements(connection, {key for key in key_of.values() if key not in known})
    facts = [fact(event, msgspec.json.encode(event)) for event in map(taken_back, rows)]
    appended = await ledger.append(connection, facts, now)
    return [(one.event, known[key_of[one.event.corrects or ""]].taken_back()) for one in appended.new]


async def _rated(facts: Sequence[Fact], plans: Plans, books: Books) -> dict[int, Rated]:
    """Judgements by the facts' identities. Leaves out what can not be judged: the ledger may have it already."""
    rated: dict[int, Rated] = {}
    for start in range(0, len(facts), SLICE_FACTS):
        await asyncio.sleep(0)
        judge_all(facts[start : start + SLICE_FACTS], plans, books, rated)
    return rated


_PLANS = (
    select(tenant_plans.c.tenant_id, tenant_plans.c.effective_at, tenant_plans.c.plan)
    .where(tenant_plans.c.tenant_id.in_(bindparam("tenant_ids", expanding=True)))
    .order_by(tenant_plans.c.tenant_id, tenant_plans.c.effective_at)
)


async def _plans(connection: AsyncConnection, tenant_ids: Iterable[str], books: Books) -> Plans:
    rows = await connection.execute(_PLANS, {"tenant_ids": sorted(tenant_ids)})
    return Plans(books, map(tuple, rows))
