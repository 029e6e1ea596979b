"""The database in an SQLite file: one read-write connection, a few that can only read.

SQLite before 3.51.3 can corrupt a write-ahead log that two connections write or checkpoint, so exactly one connection
of one process writes, and a file lock keeps a second process out. Readers are opened read-only and can do neither.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from metering.database import NEVER, WAIT_S_MAX, DatabaseInUse, DatabaseUnavailable

READERS_MAX = 4
"""Read-only connections; further questions wait for one."""

CACHE_KIB = 16 << 10

DRIVER = "sqlite+aiosqlite"


class SqliteDatabase:
    """An SQLite file. Raises DatabaseInUse from `open` if another process has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_file = path.with_suffix(".lock")
        self._lock_fd = -1
        self._writer: AsyncEngine
        self._readers: AsyncEngine

    async def open(self) -> None:
        self._lock_fd = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock_fd)
            raise DatabaseInUse(f"another process uses {self.path}") from error
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        # Put together from parts, since a path may hold what would end it in a URL.
        self._writer = _engine(URL.create(DRIVER, database=str(self.path)), connections=1, read_only=False)
        read_only = URL.create(DRIVER, database="file:" + quote(str(self.path)), query={"mode": "ro", "uri": "true"})
        self._readers = _engine(read_only, connections=READERS_MAX, read_only=True)

    async def close(self) -> None:
        await self._readers.dispose()
        await self._writer.dispose()
        os.close(self._lock_fd)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """As the contract says, on the one connection that writes: whoever wants the next transaction waits for it."""
        with _unavailable():
            async with self._writer.begin() as connection:
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        with _unavailable():
            async with self._readers.connect() as connection:
                yield connection


@contextmanager
def _unavailable() -> Iterator[None]:
    """Tell the database's own failures from those of whoever asks."""
    try:
        yield
    except NEVER:
        raise
    except NoConnectionFree as error:
        raise DatabaseUnavailable(f"no connection became free in {WAIT_S_MAX} s") from error
    except DBAPIError as error:
        raise DatabaseUnavailable(f"{type(error.orig).__name__}: {error.orig}") from error


def _engine(target: URL, *, connections: int, read_only: bool) -> AsyncEngine:
    engine = create_async_engine(
        target,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=WAIT_S_MAX,
        hide_parameters=True,
        connect_args={"isolation_level": None},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 5000")
        cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB // connections}")
        if not read_only:
            cursor.execute("PRAGMA journal_mode = WAL")
            # The ledger outlives the machine: a commit is on the disk before the spool may let go of its records.
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA foreign_keys = ON")
            # Else INSERT OR REPLACE would delete the row it replaces without asking the triggers that refuse it.
            cursor.execute("PRAGMA recursive_triggers = ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        # The driver's own idea of transactions starts them late and ends them at schema changes.
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
