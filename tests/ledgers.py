"""Ledgers for tests, on either engine: whoever asks for one does not see which.

On Postgres a test uses its ledger as the service role does, which may do what the product does and no more.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import text

from gateway import schema
from metering.database import Database
from metering.database_postgres import PostgresDatabase
from metering.database_sqlite import SqliteDatabase
from metering.months import Months
from metering.tables import metadata
from tests.postgres import OWNER, SERVICE, Server

MONTHS = ("2026-10", "2026-11", "2026-12")
"""What most tests are about; whatever else is booked has its month made."""


class Ledgers(Protocol):
    """Makes ledgers of one engine."""

    engine: str

    def new(self) -> AbstractAsyncContextManager[Database]:
        """An empty ledger of this release's schema."""

    def blank(self) -> AbstractAsyncContextManager[Database]:
        """A database without a table."""

    def reused(self) -> AbstractAsyncContextManager[Database]:
        """An empty ledger that others may have used before: quick, for whoever leaves the schema alone."""

    def owned(self, database: Database) -> AbstractAsyncContextManager[Database]:
        """The same database as the role opens it that may change its schema. Nobody uses it afterwards."""


class SqliteLedgers:
    """In files."""

    engine = "sqlite"

    def __init__(self, new_directory: Callable[[], Path]) -> None:
        self._new_directory = new_directory
        self._migrated: Path | None = None

    @asynccontextmanager
    async def new(self) -> AsyncIterator[Database]:
        path = self._new_directory() / "ledger.db"
        shutil.copyfile(await self.migrated(), path)
        async with _open(SqliteDatabase(path)) as database:
            yield database

    reused = new

    @asynccontextmanager
    async def blank(self) -> AsyncIterator[Database]:
        async with _open(SqliteDatabase(self._new_directory() / "ledger.db")) as database:
            yield database

    @asynccontextmanager
    async def owned(self, database: Database) -> AsyncIterator[Database]:
        yield database

    async def migrated(self) -> Path:
        """The file of an empty ledger, closed. Copy it."""
        if self._migrated is None:
            async with self.blank() as database:
                await schema.prepare(database)
                assert isinstance(database, SqliteDatabase)
            self._migrated = database.path
        return self._migrated


class PostgresLedgers:
    """On one server, a database for each; each a copy of one that was migrated once."""

    engine = "postgres"

    def __init__(self, server: Server) -> None:
        self.server = server
        self._migrated: str | None = None
        self._free: list[str] = []
        """Ledgers that somebody has used and left as they were, but for their rows."""
        self._changed: set[str] = set()

    @asynccontextmanager
    async def new(self) -> AsyncIterator[Database]:
        async with self._named(self.server.create(await self.migrated())) as database:
            yield database

    @asynccontextmanager
    async def reused(self) -> AsyncIterator[Database]:
        name = self._free.pop() if self._free else self.server.create(await self.migrated())
        # A replica is not asked by triggers what it may do.
        emptied = [f"DELETE FROM {table.name}" for table in metadata.sorted_tables]
        self.server.execute("; ".join(["SET session_replication_role = replica", *emptied]), "SELECT 1", database=name)
        async with _open(PostgresDatabase(self.server.url(name))) as database:
            yield database
        if name in self._changed:
            self.server.drop(name)
        else:
            self._free.append(name)

    @asynccontextmanager
    async def blank(self) -> AsyncIterator[Database]:
        async with self._named(self.server.create()) as database:
            yield database

    @asynccontextmanager
    async def owned(self, database: Database) -> AsyncIterator[Database]:
        self._changed.add(_name(database))
        async with _open(PostgresDatabase(self.url(database, OWNER), statement_s_max=None)) as owner:
            yield owner

    def url(self, database: Database, role: str = SERVICE) -> str:
        return self.server.url(_name(database), role)

    async def migrated(self) -> str:
        """The name of an empty ledger that nobody is connected to."""
        if self._migrated is None:
            name = self.server.create()
            async with _open(PostgresDatabase(self.server.url(name))) as database, self.owned(database) as owner:
                await schema.prepare(database, owner)
                await Months(database).ensure(MONTHS)
            self._migrated = name
        return self._migrated

    @asynccontextmanager
    async def _named(self, name: str) -> AsyncIterator[Database]:
        async with _open(PostgresDatabase(self.server.url(name))) as database:
            yield database
        self.server.drop(name)


def _name(database: Database) -> str:
    assert isinstance(database, PostgresDatabase)
    return database.name.split()[1]


@asynccontextmanager
async def _open(database: Database) -> AsyncIterator[Database]:
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def execute(database: Database, *statements: str) -> None:
    """Run statements in one transaction."""
    async with database.transaction() as connection:
        for statement in statements:
            await connection.execute(text(statement))
