"""The line between a gateway and its Postgres, on which goes wrong what is told to.

A thread of its own, so that it goes on whatever the test waits for. What was swallowed is gone for good: a connection that
has lost bytes never carries any again, as one whose state a firewall has forgotten.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

UP, DOWN = "up", "down"
"""To the server, and back."""

COMMIT = b"Q\x00\x00\x00\x0cCOMMIT;\x00"
"""What asyncpg sends: a simple query."""

COMMITTED = b"COMMIT\x00"

LOOK_S = 0.02


def _nothing() -> None:
    pass


@dataclass
class Commit:
    """What befalls one commit. The connection is cut afterwards, and the server's answer never arrives."""

    before: Callable[[], None] = _nothing
    """Called when it has not been passed on yet."""
    passed: Callable[[], None] = _nothing
    """Called when it has just been."""
    answered: Callable[[], None] = _nothing
    """Called when the server has answered."""


class Line:
    """Listens on a port of its own, and leads to another. A context manager."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.port = 0
        self.swallows: Collection[str] = ()
        """The directions in which everything is lost."""
        self.refuses = False
        """Nobody is at its other end: new connections are reset."""
        self.answer_delay_s = 0.0
        self.bytes_per_s: float | None = None
        """How fast either direction is, at most."""
        self.commits: deque[Commit] = deque()
        """What befalls the next commits, one after the other."""
        self.committed = 0
        """Commits whose answers were passed on."""
        self._open: set[asyncio.StreamWriter] = set()
        self._listens = threading.Event()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), name="line")

    def __enter__(self) -> Self:
        self._thread.start()
        self._listens.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def cut(self) -> None:
        """Reset every connection."""
        self._loop.call_soon_threadsafe(self._abort)

    async def _listen(self) -> None:
        self._loop = asyncio.get_running_loop()
        listening = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = listening.sockets[0].getsockname()[1]
        self._listens.set()
        await self._over.wait()
        listening.close()
        self.swallows = ()
        self._abort()
        while self._open:  # noqa: ASYNC110  Emptied by many.
            await asyncio.sleep(LOOK_S)

    def _abort(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            self._open.remove(writer)
            return
        self._open.add(to_server)
        befalls: deque[Commit] = deque()
        ways = [
            asyncio.create_task(self._up(reader, to_server, befalls)),
            asyncio.create_task(self._down(from_server, writer, befalls)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        # Where nothing arrives, the end of a connection does not either.
        while self.swallows:  # noqa: ASYNC110  A test sets it, in another thread.
            await asyncio.sleep(LOOK_S)
        for end in (writer, to_server):
            end.transport.abort()
            self._open.remove(end)
        await asyncio.wait(ways)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, befalls: deque[Commit]) -> None:
        lost = False
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                lost |= UP in self.swallows
                if lost:
                    continue
                if COMMIT in data and self.commits:
                    commit = self.commits.popleft()
                    befalls.append(commit)
                    commit.before()
                await self._pass_on(writer, data)
                if befalls:
                    befalls[0].passed()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, befalls: deque[Commit]) -> None:
        lost = False
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if befalls:
                    befalls[0].answered()
                    return
                lost |= DOWN in self.swallows
                if lost:
                    continue
                await asyncio.sleep(self.answer_delay_s)
                await self._pass_on(writer, data)
                self.committed += COMMITTED in data

    async def _pass_on(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self.bytes_per_s is not None:
            await asyncio.sleep(len(data) / self.bytes_per_s)
        writer.write(data)
        await writer.drain()
