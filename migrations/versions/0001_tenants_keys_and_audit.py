"""Tenants, gateway keys, sealed credentials, and the log of every change.

Revises nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from metering.columns import Json, Moment, Text
from migrations.guards import append_only, drop_refusal, make_refusal

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("tenant_id", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("status", Text, nullable=False),
        sa.Column("plan", Text, nullable=True),
        sa.Column("currency", Text, nullable=False),
        sa.Column("account_sid", Text, nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("account_sid", name=op.f("uq_tenants_account_sid")),
        sqlite_strict=True,
    )
    op.create_table(
        "gateway_keys",
        sa.Column("key_id", Text, nullable=False),
        sa.Column("tenant_id", Text, nullable=True),
        sa.Column("name", Text, nullable=False),
        sa.Column("digest", Text, nullable=False),
        sa.Column("scopes", Json(), nullable=False),
        sa.Column("category", Text, nullable=True),
        sa.Column("tags", Json(), nullable=False),
        sa.Column("expires_at", Moment(), nullable=True),
        sa.Column("revoked_at", Moment(), nullable=True),
        sa.Column("created_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_gateway_keys")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_gateway_keys_tenant_id"), "gateway_keys", ["tenant_id"], unique=False)
    op.create_table(
        "credentials",
        sa.Column("tenant_id", Text, nullable=False),
        sa.Column("provider", Text, nullable=False),
        sa.Column("sealed", Text, nullable=False),
        sa.Column("fields", Json(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "provider", name=op.f("pk_credentials")),
        sqlite_strict=True,
    )
    op.create_table(
        "admin_keys",
        sa.Column("name", Text, nullable=False),
        sa.Column("digest", Text, nullable=False),
        sa.Column("role", Text, nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_admin_keys")),
        sqlite_strict=True,
    )
    op.create_table(
        "installation",
        sa.Column("name", Text, nullable=False),
        sa.Column("value", Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_installation")),
        sqlite_strict=True,
    )
    op.create_table(
        "audit_log",
        sa.Column("audit_id", Text, nullable=False),
        sa.Column("at", Moment(), nullable=False),
        sa.Column("actor", Text, nullable=False),
        sa.Column("action", Text, nullable=False),
        sa.Column("tenant_id", Text, nullable=True),
        sa.Column("subject", Text, nullable=True),
        sa.Column("detail", Json(), nullable=False),
        sa.PrimaryKeyConstraint("audit_id", name=op.f("pk_audit_log")),
        sqlite_strict=True,
    )
    op.create_table(
        "idempotent_answers",
        sa.Column("actor", Text, nullable=False),
        sa.Column("idempotency_key", Text, nullable=False),
        sa.Column("request_digest", Text, nullable=False),
        sa.Column("status", Text, nullable=False),
        sa.Column("sealed", Text, nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("actor", "idempotency_key", name=op.f("pk_idempotent_answers")),
        sqlite_strict=True,
    )
    make_refusal()
    append_only("audit_log")


def downgrade() -> None:
    op.drop_table("tenants")
    op.drop_table("installation")
    op.drop_table("idempotent_answers")
    op.drop_index(op.f("ix_gateway_keys_tenant_id"), table_name="gateway_keys")
    op.drop_table("gateway_keys")
    op.drop_table("credentials")
    op.drop_table("audit_log")
    op.drop_table("admin_keys")
    drop_refusal()
