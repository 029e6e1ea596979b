"""Runs migrations on the connection that the caller gives; `gateway.schema` is the caller."""

from __future__ import annotations

import re

from alembic import context

import gateway.tables
import pricing.tables
from metering.tables import metadata

# Importing a module of tables adds them to the metadata.
TABLES = (gateway.tables.tenants, pricing.tables.charges)

# The tables of single months are parts of others, and no model of ours names them.
MONTH = re.compile(r"\w+_[0-9]{4}_[0-9]{2}")


def named_in_models(name: str | None, kind: str, _: object) -> bool:
    return kind != "table" or name is None or not MONTH.fullmatch(name)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
    include_name=named_in_models,
)
with context.begin_transaction():
    context.run_migrations()
