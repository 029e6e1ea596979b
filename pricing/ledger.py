"""Booking: facts, their charges and the daily sums go into the ledger in one transaction, or not at all."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from metering import ledger
from metering.claims import made_key, taken_back
from metering.facts import Fact, fact
from metering.late import PRICE, meet, of_objects, phase_of, remember, settle
from metering.ledger import Appended
from metering.pieces import WHOLE, Pieces
from metering.usage import event_id_of
from pricing import charges
from pricing.book import EVENT
from pricing.catalogue import Books
from pricing.judging import Judging, Plans
from pricing.rating import rate, told, without_cost
from pricing.tables import tenant_plans

SLICE_FACTS = 50
"""Judged at a time: calls, and what is on its way to the database, do not wait for more."""


async def book(
    connection: AsyncConnection,
    facts: Sequence[Fact],
    books: Books,
    now: dt.datetime,
    pieces: Pieces = WHOLE,
) -> Appended:
    """Book some facts inside the caller's transaction; those that the ledger has already change nothing.

    The daily sums come last of all, since whoever else adds to them waits for us from then on.
    """
    if not facts:
        return Appended([], 0, [])
    judging = Judging(await _plans(connection, {one.key[0] for one in facts}, books), books)
    late = [one for one in facts if one.late]
    calls = [one for one in facts if not one.late] if late else facts
    appended = Appended([], 0, [])
    for number, piece in enumerate(pieces.of(calls)):
        if number:
            await asyncio.sleep(pieces.rest_s)
        added = await ledger.add(connection, piece, now)
        await _charge(connection, added.new, judging)
        appended = appended.with_those_of(added)
    in_order = len(appended.new)
    appended = await ledger.settle_conflicts(connection, appended, now)
    await _charge(connection, appended.new[in_order:], judging)
    await remember(connection, appended.new, now)
    if late:
        # After the calls, among which may be those that they are about.
        appended = appended.with_those_of(await _settled(connection, late, judging, now))
    await _take_back(connection, judging, now)
    await charges.add(connection, judging.sums)
    return appended


async def _charge(connection: AsyncConnection, facts: Sequence[Fact], judging: Judging) -> None:
    """Judge facts that are new in the ledger, and keep their charges."""
    rows: list[str] = []
    for start in range(0, len(facts), SLICE_FACTS):
        await asyncio.sleep(0)
        rows += judging.charges(facts[start : start + SLICE_FACTS])
    await charges.append(connection, rows)


async def _settled(
    connection: AsyncConnection,
    late: Sequence[Fact],
    judging: Judging,
    now: dt.datetime,
) -> Appended:
    """Book facts that come later as corrections of their events; those that have none yet are kept until they do.

    Each is rated on top of what its event and earlier corrections hold: by the plan, and at the prices, of its day.
    """
    met = await meet(connection, late)
    appended = await ledger.append(connection, [*(one.fact for one in met.corrections), *met.known], now)
    of_event = {one.fact.event.event_id: one for one in met.corrections}
    costs = await charges.costs(
        connection, {key for one in met.corrections if phase_of(one.fact.event)[0] == PRICE for key in one.before}
    )
    rows = []
    cost_book = judging.books.cost_book
    # What is left of a cost is known when the rest is judged.
    for new in sorted(appended.new, key=lambda new: phase_of(new.event)[0] == PRICE):
        event = new.event
        one = of_event[event.event_id]
        price_book = judging.plans.price_book(new)
        if phase_of(event)[0] == PRICE:
            rated = told(event, price_book, cost_book, sum(costs.get(key, 0) for key in one.before))
        else:
            rated = rate(new, price_book, cost_book, {**one.held, EVENT: 0} if one.begins else one.held)
            rated = without_cost(rated) if one.cost_told == cost_book.unit else rated
        costs[event.key] = rated.cost_nano or 0
        rows.append(judging.charge(new, rated))
    await charges.append(connection, rows)
    await settle(connection, met, now)
    unbooked = len(met.waiting) + len(met.heard) + len(met.open) + len(met.stale)
    repeated = len(late) - len(appended.new) - len(appended.conflicting) - unbooked
    return appended._replace(repeated=repeated, waiting=len(met.waiting))


async def _take_back(connection: AsyncConnection, judging: Judging, now: dt.datetime) -> None:
    """Take back what a list or a webhook had booked of what calls with their metering off have made."""
    if not judging.off:
        return
    rows = []
    for (_, external_id, source), of_object in (await of_objects(connection, judging.off)).items():
        reported = event_id_of(made_key(source, external_id))
        rows += [row for row in of_object if row.metered and reported in (row.event_id, row.corrects)]
    key_of = {row.event_id: (row.tenant_id, row.event_day, row.event_id) for row in rows}
    known = await charges.judgements(connection, set(key_of.values()))
    facts = [fact(event, msgspec.json.encode(event)) for event in map(taken_back, rows)]
    new = (await ledger.append(connection, facts, now)).new
    await charges.append(
        connection, [judging.charge(one, known[key_of[one.event.corrects or ""]].taken_back()) for one in new]
    )


_PLANS = (
    select(tenant_plans.c.tenant_id, tenant_plans.c.effective_at, tenant_plans.c.plan)
    .where(tenant_plans.c.tenant_id.in_(bindparam("tenant_ids", expanding=True)))
    .order_by(tenant_plans.c.tenant_id, tenant_plans.c.effective_at)
)


async def _plans(connection: AsyncConnection, tenant_ids: Iterable[str], books: Books) -> Plans:
    rows = await connection.execute(_PLANS, {"tenant_ids": sorted(tenant_ids)})
    return Plans(books, map(tuple, rows))
