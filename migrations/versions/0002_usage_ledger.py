"""The append-only ledger of use, how far each spool is in it, and what could not be booked.

Revises 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from metering.columns import BigInt, Flag, Json, Moment
from migrations.guards import append_only

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "usage_events",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("event_day", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=True),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=True),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("units", BigInt, nullable=True),
        sa.Column("quantities", Json(), nullable=False),
        sa.Column("completeness", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("corrects", sa.Text(), nullable=True),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("tags", Json(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("metadata", Json(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("call_id", sa.Text(), nullable=True),
        sa.Column("status", BigInt, nullable=True),
        sa.Column("duration_ms", BigInt, nullable=True),
        sa.Column("metered", Flag, nullable=False),
        sa.Column("occurred_at", Moment(), nullable=False),
        sa.Column("recorded_at", Moment(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "event_day", "event_id", name=op.f("pk_usage_events")),
        sqlite_strict=True,
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
        sa.Column("spool_id", sa.Text(), nullable=False),
        sa.Column("segment", BigInt, nullable=False),
        sa.Column("sequence", BigInt, nullable=False),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("spool_id", name=op.f("pk_spool_positions")),
        sqlite_strict=True,
    )
    op.create_table(
        "quarantine",
        sa.Column("quarantine_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=True),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("set_aside_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("quarantine_id", name=op.f("pk_quarantine")),
        sqlite_strict=True,
    )
    append_only("usage_events")
    append_only("quarantine")


def downgrade() -> None:
    op.drop_index(op.f("ix_usage_events_tenant_id_occurred_at_event_id"), table_name="usage_events")
    op.drop_index(op.f("ix_usage_events_tenant_id_external_id"), table_name="usage_events")
    op.drop_index(op.f("ix_usage_events_occurred_at_event_id"), table_name="usage_events")
    op.drop_table("usage_events")
    op.drop_table("spool_positions")
    op.drop_table("quarantine")
