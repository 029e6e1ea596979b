"""The append-only ledger of use, how far each spool is in it, and what could not be booked.

Revises 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from metering.columns import BigInt, Flag, Json, Moment, Text
from migrations.guards import append_only
from migrations.months import drop_function, make_function, make_months

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "usage_events",
        sa.Column("tenant_id", Text, nullable=False),
        sa.Column("event_day", Text, nullable=False),
        sa.Column("event_id", Text, nullable=False),
        sa.Column("source", Text, nullable=False),
        sa.Column("event_type", Text, nullable=False),
        sa.Column("channel", Text, nullable=False),
        sa.Column("direction", Text, nullable=True),
        sa.Column("endpoint", Text, nullable=False),
        sa.Column("resource", Text, nullable=True),
        sa.Column("external_id", Text, nullable=True),
        sa.Column("units", BigInt, nullable=True),
        sa.Column("quantities", Json(), nullable=False),
        sa.Column("completeness", Text, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("corrects", Text, nullable=True),
        sa.Column("category", Text, nullable=False),
        sa.Column("tags", Json(), nullable=False),
        sa.Column("description", Text, nullable=True),
        sa.Column("metadata", Json(), nullable=False),
        sa.Column("key_id", Text, nullable=True),
        sa.Column("call_id", Text, nullable=True),
        sa.Column("status", BigInt, nullable=True),
        sa.Column("duration_ms", BigInt, nullable=True),
        sa.Column("metered", Flag, nullable=False),
        sa.Column("occurred_at", Moment(), nullable=False),
        sa.Column("recorded_at", Moment(), nullable=False),
        sa.Column("digest", Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "event_day", "event_id", name=op.f("pk_usage_events")),
        sqlite_strict=True,
        postgresql_partition_by="RANGE (event_day)",
    )
    op.create_index(
        op.f("ix_usage_events_occurred_at_event_id"), "usage_events", ["occurred_at", "event_id"], unique=False
    )
    op.create_index(
        op.f("ix_usage_events_tenant_id_external_id"), "usage_events", ["tenant_id", "external_id"], unique=False
    )
    op.create_index(
        op.f("ix_usage_events_tenant_id_occurred_at_event_id"),
        "usage_events",
        ["tenant_id", "occurred_at", "event_id"],
        unique=False,
    )
    op.create_table(
        "spool_positions",
        sa.Column("spool_id", Text, nullable=False),
        sa.Column("segment", BigInt, nullable=False),
        sa.Column("sequence", BigInt, nullable=False),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("spool_id", name=op.f("pk_spool_positions")),
        sqlite_strict=True,
    )
    op.create_table(
        "quarantine",
        sa.Column("quarantine_id", Text, nullable=False),
        sa.Column("reason", Text, nullable=False),
        sa.Column("tenant_id", Text, nullable=True),
        sa.Column("record", Text, nullable=False),
        sa.Column("set_aside_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("quarantine_id", name=op.f("pk_quarantine")),
        sqlite_strict=True,
    )
    append_only("usage_events")
    append_only("quarantine")
    make_function()
    make_months()


def downgrade() -> None:
    op.drop_index(op.f("ix_usage_events_tenant_id_occurred_at_event_id"), table_name="usage_events")
    op.drop_index(op.f("ix_usage_events_tenant_id_external_id"), table_name="usage_events")
    op.drop_index(op.f("ix_usage_events_occurred_at_event_id"), table_name="usage_events")
    op.drop_table("usage_events")
    op.drop_table("spool_positions")
    op.drop_table("quarantine")
    drop_function()
