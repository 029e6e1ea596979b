"""The database in Postgres: a few connections for changes, a few that can only read, and a bound on every wait.

The two kinds do not share connections, so that no number of people looking at dashboards keeps facts from being booked.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import DataError, DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from metering.columns import as_json, from_json
from metering.database import NEVER, WAIT_S_MAX, DatabaseUnavailable, RightMissing

WRITERS_MAX = 4
READERS_MAX = 4
"""Connections of one process; further transactions and questions wait for one."""

CONNECT_S_MAX = 5
STATEMENT_S_MAX = 30
"""What takes longer is given up by the server."""
ANSWER_S_GRACE = 5
"""So much longer the server is waited for: one that can not be reached any more gives nothing up."""
LOCK_S_MAX = 10
IDLE_IN_TRANSACTION_S_MAX = 60
"""A transaction whose process hangs is ended, since its locks would stop every other host."""
CONNECTION_AGE_S_MAX = 600
"""After that a connection is replaced, so that what balances or fails over between servers gets to."""

VERSION_MIN = 14

DATA = ("22", "54")
"""The classes of SQLSTATE that are about values: one that a type, or an index, does not take."""

RIGHTS = "42501"
"""What the role may not do."""

NOT_THERE = ("3F000", "42703", "42883", "42P01")
"""No such schema, column, function or table. The statement is right: somebody is at the database, and will be done."""


class PostgresDatabase:
    """A Postgres database, named by its URL. Connects when it is first asked something, not before.

    `statement_s_max` is for what may take long, such as a migration; None is no bound.
    """

    def __init__(self, url: str, *, statement_s_max: int | None = STATEMENT_S_MAX) -> None:
        self._url = url
        self._statement_s_max = statement_s_max
        self.name = named(url)
        self._writers: AsyncEngine
        self._readers: AsyncEngine

    def __repr__(self) -> str:
        return f"PostgresDatabase({self.name})"

    async def open(self) -> None:
        self._writers = self._engine(connections=WRITERS_MAX)
        # One state for all statements, as SQLite's readers see it.
        self._readers = self._engine(
            connections=READERS_MAX,
            isolation_level="REPEATABLE READ",
            execution_options={"postgresql_readonly": True},
        )

    async def close(self) -> None:
        await self._readers.dispose()
        await self._writers.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """As the contract says. Several run at once, and each statement sees what others have committed before it."""
        async with self._begun(self._writers) as connection:
            yield connection
            await connection.commit()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        async with self._begun(self._readers) as connection:
            yield connection

    @asynccontextmanager
    async def _begun(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction that is rolled back unless committed; foreign failures told in our words."""
        try:
            async with engine.connect() as connection:
                await connection.begin()
                yield connection
        except NoConnectionFree as error:
            raise DatabaseUnavailable(f"{self.name}: no connection became free in {WAIT_S_MAX} s") from error
        except DBAPIError as error:
            translated = self._translated(error)
            if translated is error:
                raise
            raise translated from error
        except TimeoutError as error:
            raise DatabaseUnavailable(f"{self.name} does not answer") from error
        except OSError as error:
            # Event loops word the same number differently; a name that is not known has no number of the system's.
            number = error.errno or 0
            reason = os.strerror(number) if number > 0 else error.strerror or str(error)
            raise DatabaseUnavailable(f"{self.name} can not be reached: {reason}") from error

    def _translated(self, error: DBAPIError) -> Exception:
        """Whose failure it is, by SQLSTATE: SQLAlchemy goes by the driver's classes, which are coarser."""
        cause = error.orig.__cause__ if error.orig is not None else None
        state = getattr(cause, "sqlstate", None) or ""
        # The first line alone: details repeat values.
        said = f"{self.name}: {cause.args[0] if cause is not None and cause.args else type(error).__name__}"
        if state == RIGHTS:
            return RightMissing(said)
        if isinstance(error, NEVER) and state not in NOT_THERE:
            return error
        if state[:2] in DATA:
            return DataError(error.statement, None, error.orig or error, hide_parameters=True)
        return DatabaseUnavailable(said)

    def _engine(self, *, connections: int, **options: Any) -> AsyncEngine:
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=WAIT_S_MAX,
            pool_recycle=CONNECTION_AGE_S_MAX,
            hide_parameters=True,
            json_serializer=as_json,
            json_deserializer=from_json,
            **options,
        )

        @event.listens_for(engine.sync_engine, "checkout")
        def look(connection: Any, _: object, __: object) -> None:
            # A server that went in order has closed it, and the next use need not be what finds out.
            if connection.driver_connection.is_closed():
                raise InvalidatePoolError("closed by the server")

        return engine

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        limit_s = self._statement_s_max
        try:
            connection = await asyncpg.connect(
                self._url,
                timeout=CONNECT_S_MAX,
                command_timeout=None if limit_s is None else limit_s + ANSWER_S_GRACE,
                server_settings={
                    "application_name": "tollkeeper",
                    "statement_timeout": f"{limit_s or 0}s",
                    "lock_timeout": f"{LOCK_S_MAX}s",
                    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S_MAX}s",
                    # Its statements are short, and compiling them takes longer than running them.
                    "jit": "off",
                },
            )
        except asyncpg.InterfaceError as error:
            raise DatabaseUnavailable(f"{self.name}: {error.args[0]}") from error
        version = connection.get_server_version().major
        if version < VERSION_MIN:
            await connection.close()
            raise DatabaseUnavailable(f"{self.name} is Postgres {version}, and {VERSION_MIN} or newer is needed")
        return connection


def named(url: str) -> str:
    """What people call the database of a URL: its name and where it is, without who asks and the password."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    host = parts.netloc.rpartition("@")[2] or query.get("host", ["the local server"])[0]
    return f"database {unquote(parts.path.lstrip('/')) or '(default)'} at {host}"
