"""Runs migrations on the connection that the caller gives; `gateway.schema` is the caller."""

from __future__ import annotations

from alembic import context

import gateway.tables
import pricing.tables
from metering.tables import metadata

# Importing a module of tables adds them to the metadata.
TABLES = (gateway.tables.tenants, pricing.tables.charges)

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
