"""What facts without a call are known by, and a way to find the calls that may be forgotten.

Revises 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from metering.columns import Moment, Text
from migrations.guards import append_only

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "dedupe",
        sa.Column("tenant_id", Text, nullable=False),
        sa.Column("key", Text, nullable=False),
        sa.Column("event_day", Text, nullable=False),
        sa.Column("event_id", Text, nullable=False),
        sa.Column("digest", Text, nullable=False),
        sa.Column("recorded_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "key", name=op.f("pk_dedupe")),
        sqlite_strict=True,
    )
    append_only("dedupe")
    op.create_index(op.f("ix_idempotent_calls_created_at"), "idempotent_calls", ["created_at"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_idempotent_calls_created_at"), table_name="idempotent_calls")
    op.drop_table("dedupe")
