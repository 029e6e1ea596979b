"""Calls that are not to be forwarded twice.

Revises 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from metering.columns import Moment, Text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "idempotent_calls",
        sa.Column("tenant_id", Text, nullable=False),
        sa.Column("idempotency_key", Text, nullable=False),
        sa.Column("call_id", Text, nullable=False),
        sa.Column("request_digest", Text, nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "idempotency_key", name=op.f("pk_idempotent_calls")),
        sqlite_strict=True,
    )


def downgrade() -> None:
    op.drop_table("idempotent_calls")
