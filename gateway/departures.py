"""Bytes on their way out: what one turn of the loop brings leaves together, at its end.

A turn commonly brings many calls. Whoever is written to in the middle of it wakes up, takes what there is, finds nothing
more and sleeps again, once for each call; written to in one go, it finds the next call there when it is done with one.
To wake and to be displaced by who was woken is a tenth of what a call costs a busy worker.
"""

from __future__ import annotations

import asyncio
from typing import Final

HELD_BYTES_MAX: Final = 64 << 10
"""More than that of one connection does not wait: its peer's slowness must be seen before more is read for it."""


class Departures:
    """What is to leave at the end of this turn. One for each side of the proxy."""

    __slots__ = ("_loop", "_senders")

    def __init__(self) -> None:
        self._senders: list[Sender] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def expect(self, sender: Sender) -> None:
        """Have this one send at the end of the turn."""
        if not self._senders:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self.leave)
        self._senders.append(sender)

    def leave(self) -> None:
        """The turn is over."""
        senders, self._senders = self._senders, []
        for sender in senders:
            sender.flush()


class Sender:
    """The end of one connection that sends."""

    __slots__ = ("_departures", "_held", "_transport")

    def __init__(self, transport: asyncio.Transport, departures: Departures) -> None:
        self._transport = transport
        self._departures = departures
        self._held = b""

    @property
    def holds(self) -> bool:
        """True while there is something that has not left."""
        return bool(self._held)

    def write(self, data: bytes) -> None:
        """Send these bytes, at the end of the turn at the latest."""
        if self._held:
            self._held += data
        else:
            self._held = data
            self._departures.expect(self)
        if len(self._held) > HELD_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Send what is held: before anything else is done with the transport."""
        held, self._held = self._held, b""
        if held:
            self._transport.write(held)
