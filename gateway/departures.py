"""Bytes on their way out: what one turn of the loop brings leaves together, at its end.

A turn commonly brings many calls. Whoever is written to in the middle of it wakes up, takes what there is, finds nothing
more and sleeps again, once for each call; written to in one go, it finds the next call there when it is done with one.
To wake and to be displaced by who was woken is a tenth of what a call costs a busy worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.telemetry import log
from metering.spool import SpoolFailed

HELD_BYTES_MAX: Final = 64 << 10
"""More than that of one connection does not wait. So much can be written to a transport that has sent all before without its
asking for a pause (asyncio's limit is as high), so that it asks only while somebody looks whether it does."""


class Departures:
    """What is to leave at the end of this turn: first the records of it, in one piece, then the bytes that depend on them.
    One for each worker."""

    __slots__ = ("_begun", "_senders", "_write_records")

    def __init__(self, write_records: Callable[[], None] = lambda: None) -> None:
        """`write_records` raises SpoolFailed where that can not be; it has then called `refuse`."""
        self._write_records = write_records
        self._senders: list[Sender] = []
        self._begun = False

    def begin(self) -> None:
        """Something is to leave, or to be recorded: have it done at the end of the turn."""
        if not self._begun:
            self._begun = True
            asyncio.get_running_loop().call_soon(self.leave)

    def expect(self, sender: Sender) -> None:
        """Have this one send at the end of the turn."""
        self.begin()
        self._senders.append(sender)

    def leave(self) -> None:
        """The turn is over."""
        self._begun = False
        try:
            self._write_records()
        except SpoolFailed:
            return
        senders, self._senders = self._senders, []
        for sender in senders:
            try:
                sender.send()
            except Exception as error:  # noqa: BLE001  Whoever is behind does not wait for ever on its account.
                log.error("not_sent", error=type(error).__name__)

    def refuse(self, reason: str) -> None:
        """Records of this turn are not safe: let nothing leave of what waits."""
        senders, self._senders = self._senders, []
        if senders:
            log.critical("usage_not_recorded", connections=len(senders), reason=reason)
        for sender in senders:
            sender.refuse()


class Sender:
    """The end of one connection that sends."""

    __slots__ = ("_departures", "_held", "_refused", "_transport")

    def __init__(self, transport: asyncio.Transport, departures: Departures, refused: Callable[[], None]) -> None:
        """`refused` is called when what was written may not leave, and has been dropped."""
        self._transport = transport
        self._departures = departures
        self._refused = refused
        self._held = b""

    @property
    def holds(self) -> bool:
        """True while there is something that has not left."""
        return bool(self._held)

    def write(self, data: bytes) -> None:
        """Send these bytes, at the end of the turn at the latest. Where the peer has not taken what was sent before, now:
        that it is to be waited for must be known when this returns."""
        if self._held:
            self._held += data
        else:
            self._held = data
            self._departures.expect(self)
        if len(self._held) > HELD_BYTES_MAX or self._transport.get_write_buffer_size():
            self._departures.leave()

    def flush(self) -> None:
        """Have the turn end here if something is held: before anything else is done with the transport."""
        if self._held:
            self._departures.leave()

    def drop(self) -> None:
        """Nobody is there any more who could take what is held."""
        self._held = b""

    def send(self) -> None:
        """The turn is over."""
        held, self._held = self._held, b""
        if held:
            self._transport.write(held)

    def refuse(self) -> None:
        """What the turn has brought is not recorded."""
        if self._held:
            self._held = b""
            self._refused()
