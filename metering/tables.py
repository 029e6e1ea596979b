"""The tables of facts: the ledger, how far each spool is in it, and what could not be booked."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, MetaData, Table

from metering.columns import BigInt, Flag, Json, Moment, Text

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

STRICT: dict[str, Any] = {"sqlite_strict": True}

MONTHLY: dict[str, Any] = {"postgresql_partition_by": "RANGE (event_day)"}
"""In Postgres, a table for each month, named after it. SQLite keeps all months in one."""

usage_events = Table(
    "usage_events",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("event_day", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("direction", Text),
    Column("endpoint", Text, nullable=False),
    Column("resource", Text),
    Column("external_id", Text),
    Column("units", BigInt),
    Column("quantities", Json, nullable=False),
    Column("completeness", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("corrects", Text),
    Column("category", Text, nullable=False),
    Column("tags", Json, nullable=False),
    Column("description", Text),
    Column("metadata", Json, nullable=False),
    Column("key_id", Text),
    Column("call_id", Text),
    Column("status", BigInt),
    Column("duration_ms", BigInt),
    Column("metered", Flag, nullable=False),
    Column("occurred_at", Moment, nullable=False),
    Column("recorded_at", Moment, nullable=False),
    Column("digest", Text, nullable=False),
    Index(None, "tenant_id", "occurred_at", "event_id"),
    Index(None, "tenant_id", "external_id"),
    Index(None, "occurred_at", "event_id"),
    **STRICT,
    **MONTHLY,
)
"""The append-only ledger of use. `digest` tells a repetition of an event from another event under the same key."""

dedupe = Table(
    "dedupe",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("event_day", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("recorded_at", Moment, nullable=False),
    **STRICT,
)
"""What facts without a call are known by, each with the event it was booked as. Not by month, as the events are: what is
heard of again a month later, under another moment, is still the same."""

spool_positions = Table(
    "spool_positions",
    metadata,
    Column("spool_id", Text, primary_key=True),
    Column("segment", BigInt, nullable=False),
    Column("sequence", BigInt, nullable=False),
    Column("updated_at", Moment, nullable=False),
    **STRICT,
)
"""How far each spool is in the ledger: its last record that is, and the first segment that must be read again to find the
calls that are open. Moved in the transaction that books the facts."""

quarantine = Table(
    "quarantine",
    metadata,
    Column("quarantine_id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("tenant_id", Text),
    Column("record", Text, nullable=False),
    Column("set_aside_at", Moment, nullable=False),
    **STRICT,
)
"""Records that could not be booked, kept and counted until somebody has looked at them."""

pending_events = Table(
    "pending_events",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("external_id", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("event_day", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("occurred_at", Moment, nullable=False),
    Column("ask_at", Moment, nullable=False),
    Index(None, "source", "endpoint", "ask_at"),
    **STRICT,
)
"""The events in the ledger of which the provider will say more, until it has; `ask_at` is when it is asked next. What is
open comes and goes here, in the transactions that book, so that nobody has to look for it in all that ever was open."""

late_facts = Table(
    "late_facts",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("external_id", Text, nullable=False),
    Column("record", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("found_at", Moment, nullable=False),
    Index(None, "found_at"),
    **STRICT,
)
"""What a provider said of something that no event in the ledger made, or none yet: its call may be in another worker's
spool. Booked when that comes; let go of when it does not, since something that was made around the gateway is not billed."""

APPEND_ONLY = (usage_events, dedupe, quarantine)
"""The tables that refuse UPDATE and DELETE, whoever asks."""

CHANGES = {spool_positions: ("UPDATE",), pending_events: ("UPDATE", "DELETE"), late_facts: ("DELETE",)}
"""What the product does with rows of the other tables, besides reading and adding: its role in Postgres may do no more."""
