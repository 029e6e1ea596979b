"""Rows of the ledger for tests that ask it questions, written past the code that books them.

The daily sums are folded here once more, in the plainest way, so that they are a second opinion.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select, update

from metering.database import Database
from metering.event_types import DIMENSIONS
from metering.moments import iso
from metering.months import Months
from metering.tables import usage_events
from pricing.tables import ROLLUP_COUNTS, ROLLUP_KEY, ROLLUP_SUMS, charges, rollups

NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


def used(event_id: str = "e1", **changes: Any) -> dict[str, Any]:
    """One event with its charge: DESIGN's example, in everything that the test does not say."""
    row: dict[str, Any] = {
        "tenant_id": "acme",
        "event_id": event_id,
        "source": "openai",
        "event_type": "llm_call",
        "channel": "ai",
        "direction": None,
        "endpoint": "chat.completions",
        "resource": "gpt-4o-2024-08-06",
        "external_id": "chatcmpl-1",
        "units": 163,
        "quantities": {"input_tokens": 73, "input_tokens_cached": 44, "output_tokens": 46},
        "completeness": "reported",
        "kind": "usage",
        "corrects": None,
        "category": "rag",
        "tags": {},
        "description": "gpt-4o chat completion",
        "metadata": {},
        "key_id": "k1",
        "call_id": event_id,
        "status": 200,
        "duration_ms": 812,
        "metered": True,
        "occurred_at": NOON,
        "digest": "",
        "priced": True,
        "currency": "USD",
        "charge_nano": 837_000,
        "credits": None,
        "cost_currency": "USD",
        "cost_nano": 697_500,
        "price_book": "standard-v1",
        "cost_book": "costs-v1",
        "lines": [],
        **changes,
    }
    row["event_day"] = iso(row["occurred_at"])[:10]
    row.setdefault("recorded_at", row["occurred_at"] + dt.timedelta(milliseconds=852))
    return row


async def put(database: Database, *rows: Mapping[str, Any]) -> None:
    """Write events and their charges, and work out all daily sums anew."""
    await Months(database).ensure(row["event_day"] for row in rows)
    async with database.transaction() as connection:
        for table in (usage_events, charges):
            names = [column.name for column in table.c]
            await connection.execute(insert(table), [{name: row[name] for name in names} for row in rows])
        both = select(usage_events, *(column for column in charges.c if column.name not in usage_events.c)).join(
            charges,
            (charges.c.tenant_id == usage_events.c.tenant_id)
            & (charges.c.event_day == usage_events.c.event_day)
            & (charges.c.event_id == usage_events.c.event_id),
        )
        booked = [dict(row._mapping) for row in await connection.execute(both)]
        for sums in folded(booked):
            this = (rollups.c[name] == sums[name] for name in ROLLUP_KEY)
            if not (await connection.execute(update(rollups).where(*this).values(sums))).rowcount:
                await connection.execute(insert(rollups), sums)


def folded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        if not row["metered"]:
            continue
        key = tuple((row["event_day"] if name == "day" else row[name]) or "" for name in ROLLUP_KEY)
        sums = found.setdefault(
            key,
            dict(zip(ROLLUP_KEY, key, strict=True)) | dict.fromkeys(ROLLUP_COUNTS, 0) | dict.fromkeys(ROLLUP_SUMS),
        )
        sums["events"] += 1
        sums["unknown_events"] += row["completeness"] == "unknown"
        sums["unpriced_events"] += not row["priced"]
        amounts = {name: row["quantities"].get(name) for name in DIMENSIONS}
        amounts |= {name: row[name] for name in ("units", "charge_nano", "credits", "cost_nano")}
        for name, amount in amounts.items():
            if amount is not None:
                sums[name] = (sums[name] or 0) + amount
    return list(found.values())
