"""A real SQLite ledger, asked in the loop's own thread, over a line that fails when the world wants it to."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager
from random import Random

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from metering.database import DatabaseUnavailable
from metering.database_sqlite import _unavailable
from tests.simulation.disk import ACTOR, Killed

PLACES = ("read", "before", "within", "after")
"""Where the line fails: before a question, before a transaction, before its commit, and before its answer."""


_fresh: list[sqlite3.Connection] = []
_engine = create_engine("sqlite://", creator=_fresh.pop, poolclass=NullPool)
"""One for all worlds: what SQLAlchemy knows of the statements stays."""


class _Connection:
    """What the product asks of SQLAlchemy's asynchronous connection, without a thread behind it."""

    def __init__(self, connection):
        self._connection = connection
        self.dialect = connection.dialect

    async def execute(self, *asked):
        return self._connection.execute(*asked)

    async def exec_driver_sql(self, *asked):
        return self._connection.exec_driver_sql(*asked)


class Ledger:
    """The database as the shippers see it. What was committed stays, whatever happens."""

    def __init__(self, image: bytes, chance: Random) -> None:
        """`image` is the file of an empty ledger."""
        self._raw = sqlite3.connect(":memory:", isolation_level=None)
        # In memory there is no write-ahead log, and the file's header asks for one.
        self._raw.deserialize(image[:18] + b"\1\1" + image[20:])
        _fresh.append(self._raw)
        self._sync = _engine.connect()
        self._connection = _Connection(self._sync)
        self._chance = chance
        self._turn = asyncio.Lock()
        self.odds: dict[str, float] = {}
        """How likely the line is to fail at each place."""
        self.next_fails: str | None = None
        """The place at which it fails once, when it comes."""
        self.stalls = 0.0
        """How likely it is to take its time."""

    def refuses_nothing(self) -> None:
        self.odds.clear()
        self.next_fails = None
        self.stalls = 0.0

    def close(self) -> None:
        self._sync.close()

    def rows(self, question: str) -> list[tuple]:
        """What the world looks at."""
        return self._raw.execute(question).fetchall()

    def forget_positions(self) -> None:
        self._raw.execute("DELETE FROM spool_positions")

    @asynccontextmanager
    async def transaction(self):
        await self._line("before")
        async with self._turn:
            self._raw.execute("BEGIN IMMEDIATE")
            try:
                with _unavailable():
                    yield self._connection
                await self._line("within")
            except BaseException:
                self._raw.execute("ROLLBACK")
                raise
            self._raw.execute("COMMIT")
        await self._line("after")

    @asynccontextmanager
    async def reading(self):
        await self._line("read")
        async with self._turn:
            with _unavailable():
                yield self._connection

    async def _line(self, place: str) -> None:
        actor = ACTOR.get()
        if not actor.may_go_on():
            actor.die()
            raise Killed
        if self._chance.random() < self.stalls:
            await asyncio.sleep(self._chance.choice([0, 0.05, 1]))
        if self.next_fails == place:
            self.next_fails = None
        elif place not in self.odds or self._chance.random() >= self.odds[place]:
            return
        raise DatabaseUnavailable(f"the line is cut {place}")
