"""Whether a tenant's calls are tagged with what their bodies say of themselves.

Nobody's are until that is asked for: the release before, which does not name the column, goes on making tenants.

Revises 0006.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from metering.columns import Text

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("tenants", sa.Column("request_tags", Text, nullable=False, server_default="off"))


def downgrade() -> None:
    op.drop_column("tenants", "request_tags")
