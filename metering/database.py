"""The contract of the database, whichever engine keeps it: SQLite in a file, or Postgres.

What asks a database sees this and SQLAlchemy. What goes wrong in the database itself is DatabaseUnavailable on both; what
is wrong with a statement or a value is SQLAlchemy's DataError, IntegrityError or ProgrammingError on both.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

WAIT_S_MAX = 10
"""How long a question or a transaction waits for a connection before it fails."""


class DatabaseInUse(Exception):
    """Another process holds the database's lock."""


class DatabaseUnavailable(Exception):
    """The database did not do what it was asked; asking again later is safe. Says why, and holds no secret."""


class RightMissing(DatabaseUnavailable):
    """The role that asked may not do that. Whoever owns the database can grant it."""


NEVER = (DataError, IntegrityError, ProgrammingError)
"""What asking again later does not change: a value, a constraint or a statement that the database will not have."""


class Database(Protocol):
    """A database that can be read and changed. Opened once, in the process that uses it."""

    async def open(self) -> None:
        """Raises DatabaseInUse where another process has it alone."""

    async def close(self) -> None:
        """Let go of every connection."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction; committed at the end, rolled back on an exception.

        Raises DatabaseUnavailable for the database's own failures. What was to be written is then not there, unless it
        failed in the commit itself: whoever writes again must write so that twice is once.
        """

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection that sees one state of the database and can not change it. Raises DatabaseUnavailable."""
