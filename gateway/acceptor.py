"""Connections out of a listening socket that several processes share, about as many for each.

The system wakes all of them for each connection, and whoever asks first has it: of the 32 that an application keeps, one of
two workers got up to all. So they show each other how many each has, and one that is ahead of another leaves the next to it
for a moment. Then it takes them all the same, a few at a time: a process that hangs keeps none waiting for itself.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import Callable
from typing import Final

from gateway.strand import Strand
from gateway.telemetry import log

AHEAD_MAX: Final = 1
"""So many more than another one may have. With none, every second connection would wait."""

LEFT_S: Final = 0.002
"""So long the next are left to those that have fewer: several turns of theirs."""

LEFT_MAX: Final = 4
"""So many of what was left to others and not taken are then taken at once: while others hang, a process takes up to
2,000 a second."""

FULL_S: Final = 0.05
"""So long others have where there is no room for it here, before one is closed: theirs may have some."""

AGAIN_S: Final = 1.0
"""When the system has no file or no memory for one more, it is asked again after so long."""

PLACE_BYTES: Final = 8

BACKLOG_MAX: Final = 1024
"""Connections that the system has accepted and we have not; beyond them it lets clients try again."""


def bound(host: str, port: int) -> socket.socket:
    """A socket on this address; 0 lets the system choose the port. Raises OSError."""
    (family, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listening = socket.create_server(address[:2], family=family, backlog=BACKLOG_MAX)
    # Its connections have it from here: no answer waits until the one before it was acknowledged.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class Balance:
    """How many connections each of some processes has, in memory that they share: made before they are."""

    def __init__(self, processes: int) -> None:
        self._places = memoryview(mmap.mmap(-1, processes * PLACE_BYTES)).cast("Q")

    def share(self, number: int) -> Share:
        """The part of one of them, counted from 0. One that follows on another of its number takes its place over."""
        return Share(self._places, number)


class Share:
    """One process's part: what it shows the others, and what it sees of them."""

    def __init__(self, places: memoryview[int], number: int) -> None:
        self._places = places
        """Of each one more than its connections, and 0 where nobody takes any. What is read while it is written may be
        anything: it only decides who takes a connection first."""
        self._number = number
        self._others = [other for other in range(len(places)) if other != number]
        self._takes = True

    def tell(self, connections: int) -> None:
        """Show how many there are here."""
        if self._takes:
            self._places[self._number] = connections + 1

    def leave(self) -> None:
        """Show that no more are taken here."""
        self._takes = False
        self._places[self._number] = 0

    @property
    def ahead(self) -> bool:
        """True where another one should take the next."""
        least = self._places[self._number] - AHEAD_MAX
        return any(0 < self._places[other] < least for other in self._others)


class Acceptor:
    """Takes connections until it is closed."""

    def __init__(self, listening: socket.socket, share: Share, new: Callable[[], asyncio.Protocol | None]) -> None:
        """`new` makes what a connection becomes, and has shown the share that there is one more; None where there are too
        many, and this one is to be closed."""
        self._listening = listening
        self._share = share
        self._new = new
        self._loop = asyncio.get_running_loop()
        self._rest: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        share.tell(0)
        self._loop.add_reader(listening, self._take)

    def close(self) -> None:
        """Take no more; the socket is closed here, and in other processes stays as it is."""
        if self._listening.fileno() < 0:
            return
        self._share.leave()
        if self._rest is not None:
            self._rest.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()

    def _take(self) -> None:
        """Take one. If more have come it is the next turn's: each costs as much as a call, and a thousand may come together."""
        if self._share.ahead:
            self._pause(LEFT_S, self._take_what_was_left)
        else:
            self._take_one()

    def _take_what_was_left(self) -> None:
        """Take what the others have not taken in the meantime: they are busy, or worse."""
        for _ in range(LEFT_MAX):
            if not self._take_one():
                break

    def _take_one(self) -> bool:
        """False where there is none, or no room for it."""
        try:
            end, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return False
        except OSError as error:
            self._pause(AGAIN_S, self._take)
            log.error("connections_not_taken", reason=os.strerror(error.errno or 0), again_in_s=AGAIN_S)
            return False
        protocol = self._new()
        if protocol is None:
            end.close()
            if self._share.ahead:
                self._pause(FULL_S, self._take_what_was_left)
            return False
        self._begin(end, protocol)
        return True

    def _pause(self, for_s: float, then: Callable[[], None]) -> None:
        """Look at the socket no more for a while."""

        def over() -> None:
            self._rest = None
            self._loop.add_reader(self._listening, self._take)
            then()

        self._loop.remove_reader(self._listening)
        self._rest = self._loop.call_later(for_s, over)

    def _begin(self, end: socket.socket, protocol: asyncio.Protocol) -> None:
        end.setblocking(False)

        def begun(error: BaseException | None) -> None:
            if error is not None:
                end.close()
                protocol.connection_lost(None)
                log.error("connection_not_begun", error=type(error).__name__)

        Strand(self._connect(end, protocol), self._loop, begun).wake()

    async def _connect(self, end: socket.socket, protocol: asyncio.Protocol) -> None:
        await self._loop.connect_accepted_socket(lambda: protocol, end)
