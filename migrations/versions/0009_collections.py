"""What is read of providers' own lists, how far, and what in them nobody can be found for.

Revises 0008.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from metering.columns import BigInt, Json, Moment, Text

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "collections",
        sa.Column("collection_id", Text, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("source", Text, nullable=False),
        sa.Column("tenant_id", Text),
        sa.Column("first_day", Text, nullable=False),
        sa.Column("last_day", Text, nullable=False),
        sa.Column("status", Text, nullable=False),
        sa.Column("reason", Text),
        sa.Column("asked_by", Text, nullable=False),
        sa.Column("position", Json()),
        sa.Column("pages", BigInt, nullable=False),
        sa.Column("counts", Json(), nullable=False),
        sa.Column("held_by", Text),
        sa.Column("held_until", Moment()),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("collection_id", name=op.f("pk_collections")),
        sqlite_strict=True,
    )
    op.create_index(
        op.f("ix_collections_source_status_created_at"),
        "collections",
        ["source", "status", "created_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_collections_created_at_collection_id"), "collections", ["created_at", "collection_id"], unique=False
    )
    op.create_table(
        "unattributed",
        sa.Column("source", Text, nullable=False),
        sa.Column("external_id", Text, nullable=False),
        sa.Column("account", Text, nullable=False),
        sa.Column("event_day", Text, nullable=False),
        sa.Column("event_type", Text, nullable=False),
        sa.Column("quantities", Json(), nullable=False),
        sa.Column("cost", Text),
        sa.Column("currency", Text),
        sa.Column("found_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("source", "external_id", name=op.f("pk_unattributed")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_unattributed_source_event_day"), "unattributed", ["source", "event_day"], unique=False)
    op.create_index(op.f("ix_unattributed_found_at"), "unattributed", ["found_at"], unique=False)


def downgrade() -> None:
    op.drop_table("unattributed")
    op.drop_table("collections")
