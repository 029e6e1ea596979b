"""Bringing the database to the schema that this release was written for, and knowing whether it is there.

In Postgres two roles may use it: the owner, who migrates, and the service role, which owns nothing and is granted what
the product does with each table and no more. Alembic takes half a second to import, so a database that is up to date is
recognised without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Table, func, inspect, select, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

import gateway.tables
import metering.tables
import pricing.tables
from metering.database import Database, RightMissing
from metering.tables import metadata

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0010"
"""The revision that this release reads and writes. A test holds it against the migrations. Later ones sort after it."""

VERSION_TABLE = "alembic_version"

LOCK = 0x7A11_0000
"""Held by whoever migrates a Postgres database: of two servers that start at once before an empty one, one migrates."""

CHANGES: dict[Table, tuple[str, ...]] = {
    **metering.tables.CHANGES,
    **pricing.tables.CHANGES,
    **gateway.tables.CHANGES,
}


class SchemaMismatch(Exception):
    """The database can not be used as it is; the message says what to do."""


async def prepare(database: Database, owner: Database | None = None) -> None:
    """Migrate an empty database; accept one that is up to date; raise SchemaMismatch for any other.

    `owner` is the same database, opened by the role that may change its schema, where that is not the one that uses it.
    """
    try:
        async with database.reading() as connection:
            found = await connection.run_sync(_revision)
    except RightMissing as error:
        raise SchemaMismatch(f"{error}: run `tollkeeper db upgrade`, which grants the role what it needs") from error
    if found is None:
        await upgrade(database, owner)
    elif found < HEAD:
        raise SchemaMismatch(
            f"the database has schema {found} and this release needs {HEAD}: stop the server, back the database up "
            "and run `tollkeeper db upgrade`"
        )


async def upgrade(database: Database, owner: Database | None = None) -> str:
    """Bring the database to this release's schema; return the revision. Raises SchemaMismatch where there is no way."""
    role = await _role(database)
    try:
        async with (owner or database).transaction() as connection:
            if role is not None:
                await connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
            await connection.run_sync(_revision)
            await connection.run_sync(_upgrade)
            if role is not None:
                await _grant(connection, role)
    except RightMissing as error:
        raise SchemaMismatch(
            f"{error}: the role of TOLLKEEPER_DATABASE_MIGRATE_URL must own the database, or else every table in it"
        ) from error
    except ProgrammingError as error:
        raise SchemaMismatch(f"a migration failed, and nothing was changed: {error.orig}") from error
    return HEAD


async def _role(database: Database) -> str | None:
    """The role that uses a Postgres database; None in SQLite, which has none."""
    async with database.reading() as connection:
        if connection.dialect.name == "sqlite":
            return None
        return (await connection.execute(text("SELECT quote_ident(current_user)"))).scalar()


async def _grant(connection: AsyncConnection, role: str) -> None:
    """Give the role what it needs, and take what it has beyond that. Again is the same."""
    names = "SELECT quote_ident(current_user), quote_ident(current_schema())"
    owner, schema = (await connection.execute(text(names))).one()
    if role != owner:
        for statement in _grants(role, schema):
            await connection.execute(text(statement))


def _grants(role: str, schema: str) -> Iterator[str]:
    """Months need no grants: who goes through the table that they are part of is asked for its rights there."""
    # Before Postgres 15 everybody may make tables in `public`.
    yield f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC"
    yield f"GRANT USAGE ON SCHEMA {schema} TO {role}"
    for table in metadata.sorted_tables:
        yield f"REVOKE ALL ON {table.name} FROM {role}"
        yield f"GRANT {', '.join(('SELECT', 'INSERT', *CHANGES.get(table, ())))} ON {table.name} TO {role}"
    yield f"GRANT SELECT ON {VERSION_TABLE} TO {role}"
    yield f"GRANT EXECUTE ON FUNCTION make_month(text) TO {role}"


def _revision(connection: Connection) -> str | None:
    """What the database has; None if it is empty. Raises SchemaMismatch for what this release knows nothing of."""
    tables = set(inspect(connection).get_table_names())
    found: str | None = None
    if VERSION_TABLE in tables:
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
    if found is None and tables - {VERSION_TABLE}:
        raise SchemaMismatch(
            "the database holds tables and is no ledger of this gateway's: give the gateway one of its own"
        )
    if found is not None and found > HEAD:
        raise SchemaMismatch(
            f"the database has schema {found}, of a later release, and this one needs {HEAD}: go back to that release"
        )
    return found


def _upgrade(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415  As the module says.

    command.upgrade(alembic_config(connection), "head")


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for the migrations of this installation, on an open connection."""
    from alembic.config import Config  # noqa: PLC0415  As the module says.

    spec = find_spec("migrations")
    assert spec is not None
    assert spec.origin is not None
    config = Config()
    # Alembic reads options through ConfigParser, to which a percent sign begins a reference.
    config.set_main_option("script_location", str(Path(spec.origin).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
