"""Bringing the database to the schema that this release was written for, and knowing whether it is there.

Alembic takes half a second to import, so a database that is up to date is recognised without it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from metering.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0004"
"""The revision that this release reads and writes. A test holds it against the migrations. Later ones sort after it."""

VERSION_TABLE = "alembic_version"


class SchemaMismatch(Exception):
    """The database has another schema than this release; the message says what to do."""


async def prepare(database: Database) -> None:
    """Migrate an empty database; accept one that is up to date; raise SchemaMismatch for any other."""
    async with database.transaction() as connection:
        found = await connection.run_sync(_revision)
        if found is None:
            await connection.run_sync(_upgrade)
        elif found < HEAD:
            raise SchemaMismatch(
                f"the database has schema {found} and this release needs {HEAD}: stop the server, back the database up "
                "and run `tollkeeper db upgrade`"
            )


async def upgrade(database: Database) -> str:
    """Bring the database to this release's schema; return the revision. Raises SchemaMismatch where there is no way."""
    async with database.transaction() as connection:
        await connection.run_sync(_revision)
        await connection.run_sync(_upgrade)
    return HEAD


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
