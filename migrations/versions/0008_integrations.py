"""How tenants' applications are reached, and claims of what was made by calls before.

Each message, call and mail is counted by whoever claims it first. Those of calls that are in the ledger already are claimed
here, so that no provider's list counts them again.

Revises 0007.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from metering.columns import Json, Moment, Text

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "integrations",
        sa.Column("tenant_id", Text, nullable=False),
        sa.Column("document", Json, nullable=False),
        sa.Column("sealed", Text, nullable=False),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_integrations")),
        sqlite_strict=True,
    )
    op.execute(
        "INSERT INTO dedupe (tenant_id, key, event_day, event_id, digest, recorded_at) "
        "SELECT tenant_id, source || ':' || external_id || '\\:made', event_day, event_id, digest, recorded_at "
        "FROM usage_events WHERE kind = 'usage' AND external_id IS NOT NULL AND external_id <> '' "
        "AND channel IN ('sms', 'whatsapp', 'voice', 'email') ON CONFLICT DO NOTHING"
    )


def downgrade() -> None:
    op.drop_table("integrations")
