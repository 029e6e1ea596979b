"""The events that a provider will say more of, and what it said of events that are not there yet.

Fine-tuning is counted in a dimension of its own, since no price of a token that is read or written is its price. What is
pending already is asked for from now on like what comes.

Revises 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from metering.columns import BigInt, Moment, Text

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "pending_events",
        sa.Column("tenant_id", Text, nullable=False),
        sa.Column("external_id", Text, nullable=False),
        sa.Column("event_id", Text, nullable=False),
        sa.Column("event_day", Text, nullable=False),
        sa.Column("source", Text, nullable=False),
        sa.Column("endpoint", Text, nullable=False),
        sa.Column("occurred_at", Moment(), nullable=False),
        sa.Column("ask_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "external_id", "event_id", name=op.f("pk_pending_events")),
        sqlite_strict=True,
    )
    op.create_index(
        op.f("ix_pending_events_source_endpoint_ask_at"),
        "pending_events",
        ["source", "endpoint", "ask_at"],
        unique=False,
    )
    op.create_table(
        "late_facts",
        sa.Column("tenant_id", Text, nullable=False),
        sa.Column("key", Text, nullable=False),
        sa.Column("source", Text, nullable=False),
        sa.Column("external_id", Text, nullable=False),
        sa.Column("record", Text, nullable=False),
        sa.Column("digest", Text, nullable=False),
        sa.Column("found_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "key", name=op.f("pk_late_facts")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_late_facts_found_at"), "late_facts", ["found_at"], unique=False)
    op.add_column("rollups", sa.Column("trained_tokens", BigInt))
    op.execute(
        "INSERT INTO pending_events "
        "(tenant_id, external_id, event_id, event_day, source, endpoint, occurred_at, ask_at) "
        "SELECT tenant_id, external_id, event_id, event_day, source, endpoint, occurred_at, occurred_at "
        "FROM usage_events WHERE completeness = 'pending' AND kind = 'usage' AND external_id IS NOT NULL"
    )


def downgrade() -> None:
    op.drop_column("rollups", "trained_tokens")
    op.drop_table("late_facts")
    op.drop_table("pending_events")
