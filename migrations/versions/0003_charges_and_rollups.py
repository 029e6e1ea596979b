"""Charges, daily sums, and which plan a tenant had when.

Revises 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from metering.columns import BigInt, Flag, Json, Moment, Text
from migrations.guards import append_only
from migrations.months import make_months

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "charges",
        sa.Column("tenant_id", Text, nullable=False),
        sa.Column("event_day", Text, nullable=False),
        sa.Column("event_id", Text, nullable=False),
        sa.Column("priced", Flag, nullable=False),
        sa.Column("currency", Text, nullable=False),
        sa.Column("charge_nano", BigInt, nullable=True),
        sa.Column("credits", BigInt, nullable=True),
        sa.Column("cost_currency", Text, nullable=False),
        sa.Column("cost_nano", BigInt, nullable=True),
        sa.Column("price_book", Text, nullable=False),
        sa.Column("cost_book", Text, nullable=False),
        sa.Column("lines", Json(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "event_day", "event_id", name=op.f("pk_charges")),
        sqlite_strict=True,
        postgresql_partition_by="RANGE (event_day)",
    )
    op.create_table(
        "rollups",
        sa.Column("tenant_id", Text, nullable=False),
        sa.Column("day", Text, nullable=False),
        sa.Column("source", Text, nullable=False),
        sa.Column("event_type", Text, nullable=False),
        sa.Column("channel", Text, nullable=False),
        sa.Column("direction", Text, nullable=False),
        sa.Column("endpoint", Text, nullable=False),
        sa.Column("resource", Text, nullable=False),
        sa.Column("category", Text, nullable=False),
        sa.Column("key_id", Text, nullable=False),
        sa.Column("currency", Text, nullable=False),
        sa.Column("cost_currency", Text, nullable=False),
        sa.Column("events", BigInt, nullable=False),
        sa.Column("unknown_events", BigInt, nullable=False),
        sa.Column("unpriced_events", BigInt, nullable=False),
        sa.Column("units", BigInt, nullable=True),
        sa.Column("input_tokens", BigInt, nullable=True),
        sa.Column("input_tokens_cached", BigInt, nullable=True),
        sa.Column("input_tokens_cache_write", BigInt, nullable=True),
        sa.Column("input_tokens_audio", BigInt, nullable=True),
        sa.Column("input_tokens_image", BigInt, nullable=True),
        sa.Column("input_tokens_audio_cached", BigInt, nullable=True),
        sa.Column("input_tokens_image_cached", BigInt, nullable=True),
        sa.Column("output_tokens", BigInt, nullable=True),
        sa.Column("output_tokens_audio", BigInt, nullable=True),
        sa.Column("output_tokens_image", BigInt, nullable=True),
        sa.Column("output_tokens_reasoning", BigInt, nullable=True),
        sa.Column("messages", BigInt, nullable=True),
        sa.Column("segments", BigInt, nullable=True),
        sa.Column("media", BigInt, nullable=True),
        sa.Column("seconds", BigInt, nullable=True),
        sa.Column("recipients", BigInt, nullable=True),
        sa.Column("characters", BigInt, nullable=True),
        sa.Column("images", BigInt, nullable=True),
        sa.Column("web_searches", BigInt, nullable=True),
        sa.Column("file_searches", BigInt, nullable=True),
        sa.Column("containers", BigInt, nullable=True),
        sa.Column("requests", BigInt, nullable=True),
        sa.Column("charge_nano", BigInt, nullable=True),
        sa.Column("credits", BigInt, nullable=True),
        sa.Column("cost_nano", BigInt, nullable=True),
        sa.PrimaryKeyConstraint(
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
            name=op.f("pk_rollups"),
        ),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_rollups_day"), "rollups", ["day"], unique=False)
    op.create_table(
        "tenant_plans",
        sa.Column("tenant_id", Text, nullable=False),
        sa.Column("effective_at", Moment(), nullable=False),
        sa.Column("plan", Text, nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "effective_at", name=op.f("pk_tenant_plans")),
        sqlite_strict=True,
    )
    append_only("charges")
    append_only("tenant_plans")
    make_months()


def downgrade() -> None:
    op.drop_table("tenant_plans")
    op.drop_index(op.f("ix_rollups_day"), table_name="rollups")
    op.drop_table("rollups")
    op.drop_table("charges")
