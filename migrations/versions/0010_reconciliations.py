"""What was found when the ledger was held against providers' own figures.

Revises 0009.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from metering.columns import BigInt, Json, Moment, Text

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "reconciliations",
        sa.Column("reconciliation_id", Text, nullable=False),
        sa.Column("source", Text, nullable=False),
        sa.Column("tenant_id", Text),
        sa.Column("first_day", Text, nullable=False),
        sa.Column("last_day", Text, nullable=False),
        sa.Column("tolerance", Text, nullable=False),
        sa.Column("status", Text, nullable=False),
        sa.Column("reason", Text),
        sa.Column("asked_by", Text, nullable=False),
        sa.Column("progress", Json(), nullable=False),
        sa.Column("totals", Json(), nullable=False),
        sa.Column("beyond", Json(), nullable=False),
        sa.Column("currency", Text, nullable=False),
        sa.Column("held_until", Moment()),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("finished_at", Moment()),
        sa.PrimaryKeyConstraint("reconciliation_id", name=op.f("pk_reconciliations")),
        sqlite_strict=True,
    )
    op.create_index(
        op.f("ix_reconciliations_started_at_reconciliation_id"),
        "reconciliations",
        ["started_at", "reconciliation_id"],
        unique=False,
    )
    op.create_table(
        "reconciliation_differences",
        sa.Column("reconciliation_id", Text, nullable=False),
        sa.Column("number", BigInt, nullable=False),
        sa.Column("day", Text, nullable=False),
        sa.Column("tenant_id", Text, nullable=False),
        sa.Column("category", Text, nullable=False),
        sa.Column("cause", Text, nullable=False),
        sa.Column("resolution", Text, nullable=False),
        sa.Column("quantities", Json(), nullable=False),
        sa.Column("count", BigInt),
        sa.Column("cost_nano", BigInt),
        sa.Column("event_id", Text),
        sa.PrimaryKeyConstraint("reconciliation_id", "number", name=op.f("pk_reconciliation_differences")),
        sqlite_strict=True,
    )
    op.create_index(
        op.f("ix_reconciliation_differences_reconciliation_id_tenant_id_number"),
        "reconciliation_differences",
        ["reconciliation_id", "tenant_id", "number"],
        unique=False,
    )


def downgrade() -> None:
    op.drop_table("reconciliation_differences")
    op.drop_table("reconciliations")
