"""The only HTTP client of the path of a call: connections to providers, kept and used again.

The life of a connection is `Connection`: a request is written to it once, its answer comes in, and when both are over and
in order the connection waits for the next. What went wrong is told apart by what the provider may have done:
`Unreachable` (nothing was sent), `NoAnswer` (it may have acted), `BrokenAnswer` (it answered, in part).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

from gateway import http1
from gateway.departures import Departures, Sender
from gateway.http1 import Framing, Malformed, UntilClose
from gateway.limits import NEVER, UpstreamLimits
from gateway.messages import Field, ResponseHead
from gateway.strand import PARK, Strand
from gateway.ticks import until_tick_s
from gateway.tls import Tls

READ_AHEAD_BYTES: Final = 64 << 10
"""So much of an answer is kept that nobody has taken; then the provider is not read from."""

INTERIM_MAX: Final = 16
"""Interim (1xx) answers to one request, dropped; with more, the provider is not making sense."""

CLOSE_S: Final = 10
"""A provider that has not taken so long after the end of a connection what was sent to it is cut off."""

SWEEP_S: Final = 1.0


class UpstreamError(Exception):
    """Something between us and a provider went wrong."""


class Unreachable(UpstreamError):
    """No connection came about; nothing was sent."""


class ConnectTimeout(Unreachable):
    """No connection came about within the time limit."""


class NotSent(UpstreamError):
    """The request was held back, in whole or in part; the provider can not have acted on it."""


class NoAnswer(UpstreamError):
    """The connection ended before an answer began; the provider may have acted on the request."""


class TooSlow(NoAnswer):
    """No answer began within the time limit; the provider may have acted on the request."""


class BrokenAnswer(UpstreamError):
    """The answer ended before it was whole, or made no sense."""


class Origin(NamedTuple):
    """Where a provider is: from the settings alone, never from a request."""

    host: str
    port: int
    tls: bool
    prefix: str
    """The path of the base URL, put before the path of each call; without a trailing slash."""
    authority: bytes
    """The value of the Host header (RFC 9110 section 7.2)."""

    @classmethod
    def parsed(cls, base_url: str) -> Origin:
        url = urlsplit(base_url)
        assert url.hostname is not None
        tls = url.scheme == "https"
        port = url.port or (443 if tls else 80)
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        default = port == (443 if tls else 80)
        return cls(url.hostname, port, tls, url.path.rstrip("/"), (host if default else f"{host}:{port}").encode())

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        return f"{'https' if self.tls else 'http'}://{self.authority.decode()}{self.prefix}"


class Connection(asyncio.Protocol):
    """One connection to a provider, carrying one request at a time."""

    __slots__ = (
        "_begun",
        "_chunks",
        "_error",
        "_fields_before",
        "_framing",
        "_interim",
        "_pool",
        "_reading_paused",
        "_sender",
        "_sent",
        "_size",
        "_strand",
        "_to_head",
        "_untaken_bytes",
        "_waiting",
        "arrived",
        "deadline",
        "ended",
        "head",
        "idle_since",
        "reusable",
        "transport",
        "upgrading",
        "used",
        "writing_paused",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.transport: asyncio.Transport | None = None
        self._sender: Sender | None = None
        self.writing_paused = False
        self.used = False
        """True once a request before the current one was answered here."""
        self.reusable = True
        self.idle_since = 0.0
        self.head: ResponseHead | None = None
        """The answer's, once it has begun."""
        self._fields_before: list[Field] = []
        """Those of the answer before."""
        self.upgrading = False
        self.arrived = False
        """True if there is something of the body to take without waiting, or nothing more to come."""
        self.ended = False
        """True once the whole body was taken, or there is none."""
        self.deadline = NEVER
        self._waiting = True
        """True while no request is under way: whatever comes then was not asked for."""
        self._strand: Strand | None = None
        self._begun = bytearray()
        """The head of an answer that is not whole."""
        self._framing: Framing | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._interim = 0
        self._to_head = False
        self._sent = False
        """True once the whole request was written: before, another one would be read as a part of it."""
        self._untaken_bytes = 0
        """So much waited to be taken when its deadline was set; 0 where nobody waits for that."""
        self._error: UpstreamError | None = None
        self._reading_paused = False

    # -- a request

    def send(
        self, head_and_body: bytes, strand: Strand | None, *, method: str, whole: bool, upgrading: bool = False
    ) -> None:
        """Write a request, or its head and the beginning of its body, and begin to expect the answer.

        The strand is woken whenever something is there that was not before."""
        self._waiting = False
        self._strand = strand
        self._to_head = method == "HEAD"
        self._sent = whole
        self._interim = 0
        self.upgrading = upgrading
        if self.head is not None:
            self._fields_before = self.head.fields
            self.head = None
        self._framing = None
        self.arrived = self._error is not None
        self.ended = False
        self.deadline = self._pool.now() + self._pool.limits.first_byte_timeout_s if whole else NEVER
        if self._sender is None:
            self._fail(NoAnswer("connection closed"))
        else:
            self._sender.write(head_and_body)

    def send_more(self, chunk: bytes, *, last: bool) -> None:
        """Write more of the body."""
        if self._sender is not None:
            self._sender.write(chunk)
            self._sent = last
            if last and self.head is None:
                self.deadline = self._pool.now() + self._pool.limits.first_byte_timeout_s

    @property
    def answered(self) -> bool:
        """True once the answer has begun, or never will."""
        return self.head is not None or self._error is not None

    async def answer(self) -> ResponseHead:
        """Wait for the head of the answer. Raises NoAnswer, TooSlow or BrokenAnswer."""
        while self.head is None:
            if self._error is not None:
                raise self._error
            await PARK
        return self.head

    async def writable(self, unless: Callable[[], bool] = lambda: False) -> None:
        """Wait until the provider has taken enough of the request, or has answered, or for something else."""
        if self.writing_paused:
            self._wait_for_taking()
            while self.writing_paused and not self.answered and not unless():
                await PARK
            self._untaken_bytes = 0
        if self.head is None:
            self.deadline = self._pool.now() + self._pool.limits.first_byte_timeout_s if self._sent else NEVER

    def _wait_for_taking(self) -> None:
        """The provider may be idle so long before it takes some of what waits."""
        self._untaken_bytes = 0 if self.transport is None else self.transport.get_write_buffer_size()
        self.deadline = self._pool.now() + self._pool.limits.idle_timeout_s

    # -- its answer

    def expect(self) -> None:
        """More is waited for, and then taken; it may take no longer to come than a provider may be idle."""
        self.read_on()
        self.deadline = self._pool.now() + self._pool.limits.idle_timeout_s

    async def arrival(self) -> None:
        """Wait until there is something to take, or nothing more will come; then take it."""
        if not self.arrived:
            self.expect()
            while not self.arrived:
                await PARK

    def take(self) -> bytes:
        """The bytes of the body that have arrived; empty at its end. Raises BrokenAnswer if the end never comes."""
        self.deadline = NEVER  # Whoever takes may wait as long as a client does.
        chunks, over = self._chunks, self._framing is not None and self._framing.ended
        if not chunks:
            if self._error is not None and not over:
                raise BrokenAnswer("the answer broke off") from self._error
            return b""
        self._chunks = []
        self._size = 0
        self.ended = over
        self.arrived = over or self._error is not None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def read_on(self) -> None:
        """Go on reading from the provider, where what had arrived was enough. Left until more is waited for: a client that
        does not take what there is has no use for more."""
        if self._reading_paused and self.transport is not None:
            self._reading_paused = False
            self.transport.resume_reading()

    # -- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by name.
        self._sender = Sender(self.transport, self._pool.departures, self._refused)
        self._pool.made(self)

    def data_received(self, data: bytes) -> None:
        if self._waiting:
            self.abort()  # It speaks without having been asked.
            return
        if self._error is not None:
            return  # What follows could be read as the end of a whole answer.
        try:
            if self._framing is None:
                self._head_received(data)
            else:
                self._body_received(data)
        except Malformed:
            self._fail(BrokenAnswer("the answer is not well-formed"))
        self._wake()

    def _head_received(self, data: bytes) -> None:
        begun = self._begun
        if begun:
            checked = len(begun)
            begun += data
            if begun.find(http1.HEAD_END, max(0, checked - 3)) < 0:
                http1.check_begun(begun, checked=checked)
                return
            data = bytes(begun)
            begun.clear()
        end = data.find(http1.HEAD_END) + 4
        while end >= 4:
            response = http1.response(data[:end], self._fields_before, to_head=self._to_head)
            head = response.head
            data = data[end:]
            if head.status >= 200 or (self.upgrading and response.websocket):
                self._framing = response.framing if head.status >= 200 else UntilClose()
                self.reusable = response.persistent and head.status >= 200
                self.head = head
                self.deadline = NEVER
                self.arrived = self.ended = self._framing.ended
                if data:
                    self._body_received(data)
                return
            self._interim += 1
            if head.status == 101 or self._interim > INTERIM_MAX:
                raise Malformed
            end = data.find(http1.HEAD_END) + 4
        http1.check_begun(data)
        begun += data

    def _body_received(self, data: bytes) -> None:
        framing = self._framing
        assert framing is not None
        if framing.ended:
            self.abort()  # It speaks without having been asked. What came before stays.
            return
        chunk = framing.feed(data)
        if framing.rest:
            self.reusable = False
        if framing.ended:
            self.arrived = True
            self.ended = not chunk and not self._chunks
        if chunk:
            self.arrived = True
            self._chunks.append(chunk)
            self._size += len(chunk)
            # Never once the answer is over: that the provider ends the connection behind it must be seen.
            too_much = self._size > READ_AHEAD_BYTES and not framing.ended
            if too_much and self.transport is not None and not self._reading_paused:
                self._reading_paused = True
                self.transport.pause_reading()

    def eof_received(self) -> bool:
        framing = self._framing
        if framing is not None and framing.ends_by_close and self._error is None:
            framing.ended = self.arrived = True
            self.ended = not self._chunks
        elif framing is None or not framing.ended:
            # The transport ends only when all that was written has left, which may be never.
            self._fail(self._broken())
        self._wake()
        self._flush()  # The transport closes when this returns.
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._sender is not None:
            self._sender.drop()
        self.transport = self._sender = None
        self.reusable = False
        self._pool.forget(self)
        if self._error is None and not (self._framing is not None and self._framing.ended):
            self._error = self._broken()
            self.arrived = True
        self._wake()

    def _broken(self) -> UpstreamError:
        kind = NoAnswer if self.head is None else BrokenAnswer
        return kind("the provider closed the connection")

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._wake()

    def _wake(self) -> None:
        """Something is there that was not before: let whoever waits look."""
        if self._strand is not None:
            self._strand.wake()

    # -- its end

    def rest(self, now: float) -> bool:
        """The answer is done with: wait for the next request, or end here if there can be none; True if it waits."""
        self._strand = None
        transport, sender = self.transport, self._sender
        # What of the request has not left would be followed by the next one.
        sent = (
            self._sent
            and sender is not None
            and not sender.holds
            and transport is not None
            and not transport.get_write_buffer_size()
        )
        if not (sent and self.reusable and self.ended):
            if transport is not None:
                if transport.is_closing():
                    self.deadline = min(self.deadline, now + CLOSE_S)
                else:
                    self.abort()
            return False
        self._waiting = True
        self.used = True
        self.idle_since = now
        self.deadline = NEVER
        return True

    def expire(self) -> None:
        """The provider has taken too long; unless it has been taking."""
        if self.transport is not None and self.transport.get_write_buffer_size() < self._untaken_bytes:
            self._wait_for_taking()
            return
        self._fail(TooSlow("too slow") if self.head is None else BrokenAnswer("too slow"))

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""
        self._fail(BrokenAnswer("nobody waits for it"))

    def _fail(self, error: UpstreamError) -> None:
        if self._error is None:
            self._error = error
            self.arrived = True
        self.abort()

    def close(self) -> None:
        """Send what is to be sent, within a while, and end the connection."""
        self.reusable = False
        self.deadline = self._pool.now() + CLOSE_S
        if self.transport is not None:
            self._flush()
            self.transport.close()

    def abort(self) -> None:
        """End the connection at once: what has not left is not sent any more."""
        self.reusable = False
        if self._sender is not None:
            self._sender.drop()
        if self.transport is not None:
            self.transport.abort()

    def _refused(self) -> None:
        """What was to be sent may not leave: a request, or the rest of one, that the provider then does not act on."""
        self._fail(NotSent("what it depends on is not recorded"))

    def _flush(self) -> None:
        """Send what waits for the end of the turn."""
        if self._sender is not None:
            self._sender.flush()


class Pool:
    """Connections to one origin."""

    def __init__(
        self, origin: Origin, limits: UpstreamLimits, tls: ssl.SSLContext | None, departures: Departures
    ) -> None:
        self.origin = origin
        self.departures = departures
        self.limits = limits
        self._tls = tls
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self.now: Callable[[], float] = time.monotonic
        """The time of the loop."""

    def kept(self) -> Connection | None:
        """A connection that is kept from before, or None."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if (
                connection.transport is not None
                and not connection.transport.is_closing()
                and self.now() - connection.idle_since < self.limits.keepalive_timeout_s
            ):
                return connection
            connection.abort()
        return None

    async def connected(self) -> Connection:
        """A new connection. Raises Unreachable."""
        # In a task of its own, which the timeout needs.
        return await asyncio.ensure_future(self._connected())

    async def _connected(self) -> Connection:
        connection, origin = Connection(self), self.origin
        try:
            async with asyncio.timeout(self.limits.connect_timeout_s):
                if origin.tls:
                    await self._connect_securely(connection)
                else:
                    loop = asyncio.get_running_loop()
                    await loop.create_connection(lambda: connection, origin.host, origin.port)
        except TimeoutError as slow:
            raise ConnectTimeout("too slow") from slow
        except OSError as error:
            raise Unreachable(type(error).__name__) from error
        return connection

    async def _connect_securely(self, connection: Connection) -> None:
        """Raises OSError, as each ssl.SSLError is one."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.options |= ssl.OP_NO_RENEGOTIATION
        context, origin, loop = self._tls, self.origin, asyncio.get_running_loop()
        shaken: asyncio.Future[None] = loop.create_future()

        def over(_: Tls, error: Exception | None) -> None:
            if shaken.done():
                return  # Nobody waits any more.
            if error is None:
                shaken.set_result(None)
            else:
                shaken.set_exception(error)

        transport, _ = await loop.create_connection(
            lambda: Tls(context, connection, over, server_hostname=origin.host), origin.host, origin.port
        )
        try:
            await shaken
        except BaseException:
            transport.abort()
            raise

    def release(self, connection: Connection) -> None:
        """Take a connection back: kept if its answer was read to the end and it may carry another request."""
        if connection.rest(self.now()):
            self._idle.append(connection)
            if len(self._idle) > self.limits.idle_connections_max:
                self._idle.popleft().abort()

    def made(self, connection: Connection) -> None:
        """A connection has begun."""
        self._all.add(connection)

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self._all.discard(connection)

    def sweep(self, now: float) -> None:
        """Close what has passed its deadline, or has not been used for too long."""
        idle = self._idle
        while idle and (idle[0].transport is None or now - idle[0].idle_since > self.limits.keepalive_timeout_s):
            idle.popleft().abort()
        for connection in tuple(self._all):
            if connection.deadline <= now:
                connection.expire()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._all)

    def close(self) -> None:
        for connection in tuple(self._all):
            connection.abort()


class Upstream:
    """The pools of all origins."""

    def __init__(
        self,
        limits: UpstreamLimits | None = None,
        tls: ssl.SSLContext | None = None,
        departures: Departures | None = None,
    ) -> None:
        self.limits = UpstreamLimits() if limits is None else limits
        """May change; a pool keeps those that it was made with."""
        self._tls = tls
        self._departures = departures or Departures()
        self._pools: dict[tuple[Origin, UpstreamLimits], Pool] = {}
        self._sweeper: asyncio.Task[None] | None = None

    def pool(self, origin: Origin) -> Pool:
        """The connections to an origin, within the limits of now."""
        place = origin, self.limits
        pool = self._pools.get(place)
        if pool is None:
            pool = self._pools[place] = Pool(origin, self.limits, self._tls, self._departures)
        return pool

    @property
    def connections(self) -> int:
        """How many are open, to all origins."""
        return sum(pool.connections for pool in self._pools.values())

    async def open(self) -> None:
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for pool in self._pools.values():
            pool.close()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            limits = self.limits
            shortest_s = min(limits.first_byte_timeout_s, limits.idle_timeout_s, limits.keepalive_timeout_s)
            await asyncio.sleep(until_tick_s(min(SWEEP_S, shortest_s / 4)))
            now = loop.time()
            for pool in self._pools.values():
                pool.sweep(now)
