"""Many rows in one statement: the one thing that SQLite and Postgres do differently enough to need code of its own.

Rows hold the values of a table's columns, in their order: moments as `iso` and `iso_ms` write them, JSON as the values
that it is of. Whoever adds rows does so in the order of their keys: then no two writers ever wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from metering import rows_postgres, rows_sqlite
from metering.facts import Fact

Values: TypeAlias = tuple[object, ...]
Key: TypeAlias = tuple[Any, ...]
"""The values of a table's primary key, in the order of its columns."""


class Rows(Protocol):
    """What is asked of an engine. A module is one."""

    async def insert(
        self,
        connection: AsyncConnection,
        table: Table,
        rows: Sequence[Values],
        on_conflict: str = "",
        names: Sequence[str] = (),
    ) -> None:
        """Add rows, at least one. Where a key is taken, do what `on_conflict` says, or raise IntegrityError. `names` are
        those of the columns, where not of all."""

    async def insert_json(self, connection: AsyncConnection, table: Table, rows: str, on_conflict: str = "") -> None:
        """The same for rows that are told as a JSON list of objects; a column that one does not name is null there."""

    async def add(self, connection: AsyncConnection, table: Table, rows: Sequence[Values]) -> set[int]:
        """Add those rows whose key is free, and return the places of the others. No two of the rows have the same.

        A key that another transaction is about to take is waited for.
        """

    async def add_events(self, connection: AsyncConnection, facts: Sequence[Fact], recorded_at: str) -> set[int]:
        """The same for facts, into the ledger: the most frequent rows, each in the form that its engine takes best."""

    async def digests(self, connection: AsyncConnection, table: Table, keys: Sequence[Key]) -> dict[Key, str]:
        """The digests of those rows that are there."""


def rows_in(connection: AsyncConnection) -> Rows:
    """How this connection's engine does it."""
    return rows_postgres if connection.dialect.name == "postgresql" else rows_sqlite
