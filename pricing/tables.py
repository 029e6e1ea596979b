"""The tables of judgements: what each event was charged, the daily sums, and which plan a tenant had when."""

from __future__ import annotations

from sqlalchemy import Column, Index, Table

from metering.columns import BigInt, Flag, Json, Moment, Text
from metering.event_types import DIMENSIONS
from metering.tables import MONTHLY, STRICT, metadata

charges = Table(
    "charges",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("event_day", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("priced", Flag, nullable=False),
    Column("currency", Text, nullable=False),
    Column("charge_nano", BigInt),
    Column("credits", BigInt),
    Column("cost_currency", Text, nullable=False),
    Column("cost_nano", BigInt),
    Column("price_book", Text, nullable=False),
    Column("cost_book", Text, nullable=False),
    Column("lines", Json, nullable=False),
    **STRICT,
    **MONTHLY,
)
"""One row for each event: what the tenant owes for it and what it cost us, in 10⁻⁹ of the currency, with every line's
quantity and rate, so that each can be checked by itself. Append-only."""

ROLLUP_KEY = (
    "tenant_id",
    "day",
    "source",
    "event_type",
    "channel",
    "direction",
    "endpoint",
    "resource",
    "category",
    "key_id",
    "currency",
    "cost_currency",
)
"""What rollups are kept by; empty text stands for what an event does not have."""

ROLLUP_COUNTS = ("events", "unknown_events", "unpriced_events")
"""Sums that are zero where nothing was counted."""

ROLLUP_SUMS = ("units", *DIMENSIONS, "charge_nano", "credits", "cost_nano")
"""Sums that are null where no event had the quantity: absent is not zero."""

rollups = Table(
    "rollups",
    metadata,
    *(Column(name, Text, primary_key=True) for name in ROLLUP_KEY),
    *(Column(name, BigInt, nullable=False) for name in ROLLUP_COUNTS),
    *(Column(name, BigInt) for name in ROLLUP_SUMS),
    Index(None, "day"),
    **STRICT,
)
"""Daily sums by everything a summary may group by, kept in the transaction that books the events. Rebuildable."""

tenant_plans = Table(
    "tenant_plans",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("effective_at", Moment, primary_key=True),
    Column("plan", Text),
    **STRICT,
)
"""Which plan a tenant has from when on. Append-only: a change of plan is a further row."""

APPEND_ONLY = (charges, tenant_plans)
CHANGES = {rollups: ("UPDATE",)}
