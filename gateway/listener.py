"""Where bytes become requests and answers become bytes: the proxy's side towards its clients.

The life of a connection is `Connection.serve`: requests are handled one after another in one task, which outlives the
client, since a call that a client has left is still to be metered. A request that is not well-formed gets a fixed
answer in which no byte of it appears, and the connection is closed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from gateway import http1
from gateway.messages import RequestHead

HEAD_BYTES_MAX = 512 << 10
"""Of a head that is not whole, no more than this is kept: the limits of its single fields add up to far more."""

PIPELINED_MAX = 8
"""Requests parsed ahead on one connection; more wait unread in the socket."""

HEAD_TIMEOUT_S = 15
"""A request head takes no longer than this from its first byte to its last; slower clients are holding a connection."""

IDLE_TIMEOUT_S = 75
"""A connection without a request is closed after this time, as common servers do."""

BODY_IDLE_TIMEOUT_S = 60
"""While a request body is read, so long may pass without a byte of it."""

WRITE_IDLE_TIMEOUT_S = 300
"""A client that takes nothing of its answer for so long is given up; the call itself goes on."""

CUT_S = 2
"""After calls were cut at the end, so long is waited for them to record what they had."""

LINGER_S = 2
LINGER_BYTES_MAX = 16 << 20
"""A client that was refused while it was still sending is listened to so long, so that it hears the refusal."""

SWEEP_S = 1.0

BAD_REQUEST_BODY = b'{"error":{"message":"The request is not well-formed HTTP/1.1.","type":"invalid_request_error"}}'
BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"x-tollkeeper-error: malformed_request\r\nContent-Length: %d\r\n\r\n" % len(BAD_REQUEST_BODY)
) + BAD_REQUEST_BODY

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientGone(Exception):
    """The client closed its connection, or stopped sending, before its request was whole."""


class Exchange:
    """One request, and the answer to it."""

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_continue",
        "_head",
        "_http10",
        "_until_close",
        "head",
        "keep_alive",
        "started",
        "status",
    )

    def __init__(self, connection: Connection, message: Any, body: http1.Body) -> None:
        self.head = RequestHead(message.method, message.path, message.headers, message.raw_headers)
        # After a chunked body the parser would put a trailer into the next head; after an upgrade nothing is ours to read.
        self.keep_alive = not (message.should_close or message.chunked or message.upgrade)
        self.started = False
        """True once a byte of the answer may have left."""
        self.status = 0
        self._connection = connection
        self._body = body
        self._http10 = message.version.minor == 0
        self._continue = not self._http10 and message.headers.get("Expect", "").lower() == "100-continue"
        self._chunked = False
        self._until_close = False
        self._head = b""

    @property
    def gone(self) -> bool:
        """True once the client can not get an answer any more; writing then does nothing."""
        return self._connection.transport is None

    @property
    def body_read(self) -> bool:
        """True once the whole request body was read, or there is none."""
        return self._body.at_eof()

    async def read(self) -> bytes:
        """The next bytes of the request body; empty at its end. Raises ClientGone if the end never comes."""
        if self._body.at_eof():
            return b""
        if self._continue:
            self._continue = False
            self._connection.write(CONTINUE)
        chunk = http1.available(self._body)
        if chunk:
            return chunk
        self._connection.deadline = self._connection.loop_time() + BODY_IDLE_TIMEOUT_S
        try:
            return await self._body.readany()
        except (http1.BrokenBody, http1.Malformed, ConnectionError, RuntimeError) as error:
            raise ClientGone from error
        finally:
            self._connection.deadline = http1.NEVER

    def start(self, status: int, reason: str, headers: Iterable[tuple[bytes, bytes]], *, length: int | None) -> None:
        """Begin an answer whose body has `length` bytes, or as many as will be written. Leaves with the first bytes."""
        lines = [b"HTTP/1.1 %d %s\r\n" % (status, reason.encode("latin-1", "replace"))]
        for name, value in headers:
            lines.append(name + b": " + value + b"\r\n")
        self._chunked = False
        if status == 204:
            pass  # It has no body and no length (RFC 9110 section 8.6).
        elif length is not None:
            lines.append(b"Content-Length: %d\r\n" % length)
        elif status != 304 and self.head.method != "HEAD":
            if self._http10:
                self._until_close = True
                self.keep_alive = False
            else:
                self._chunked = True
                lines.append(b"Transfer-Encoding: chunked\r\n")
        if self._body.is_eof():
            http1.available(self._body)  # A body that has come whole is out of the way, read or not.
        if not self.body_read or self._connection.draining:
            # What is left of the request body would be read as the next request.
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"Connection: close\r\n")
        elif self._http10:
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        self.status = status
        self._head = b"".join(lines)

    async def write(self, chunk: bytes) -> None:
        """Send bytes of the body and wait while the client is slower than we are."""
        self._send(chunk, last=False)
        if self._connection.writing_paused:
            await self._connection.writable()

    def finish(self, chunk: bytes = b"") -> None:
        """Send the last bytes, and what tells the client that they are the last."""
        self._send(chunk, last=True)

    def answer(self, status: int, reason: str, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole answer."""
        self.start(status, reason, headers, length=len(body))
        self.finish(b"" if self.head.method == "HEAD" else body)

    def when_gone(self, told: Callable[[], None]) -> None:
        """Call back if the client goes before this exchange is over, or has gone already."""
        if self.gone:
            told()
        else:
            self._connection.when_lost = told

    def abort(self) -> None:
        """End the connection so that what was sent can not be taken for a whole answer."""
        self.keep_alive = False
        if self._until_close:
            self._connection.refuse_orderly_end()
        self._connection.abort()

    def _send(self, chunk: bytes, *, last: bool) -> None:
        self.started = True
        if self._chunked:
            if chunk:
                chunk = b"%x\r\n%b\r\n" % (len(chunk), chunk)
            if last:
                chunk += b"0\r\n\r\n"
        if self._head:
            chunk = self._head + chunk
            self._head = b""
        if chunk:
            self._connection.write(chunk)


Handler = Callable[[Exchange], Awaitable[None]]


class Connection(http1.BaseProtocol):
    """One client connection."""

    __slots__ = (
        "_body",
        "_dropped",
        "_head_bytes",
        "_latest",
        "_listener",
        "_pending",
        "_task",
        "_wake",
        "busy",
        "deadline",
        "loop_time",
        "when_lost",
    )

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._parser = http1.request_parser(self, loop, PIPELINED_MAX)
        self._listener = listener
        self._pending: deque[tuple[Any, http1.Body] | None] = deque()
        self._body: http1.Body = http1.NO_BODY
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._dropped = 0
        self._head_bytes = 0
        self._latest: http1.Body = http1.NO_BODY
        self.busy = False
        self.when_lost: Callable[[], None] | None = None
        """Called when the client goes during the exchange that is under way."""
        self.loop_time = loop.time
        self.deadline = loop.time() + HEAD_TIMEOUT_S

    # -- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.began(self)
        self._task = self._loop.create_task(self.serve())

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES_MAX:
                self.abort()
            return
        try:
            parsed, upgraded, _ = self._parser.feed_data(data)
            messages: list[tuple[Any, http1.Body] | None] = list(parsed)
        except http1.Malformed as error:
            self._fail_bodies(error)
            messages, upgraded = [None], False
        if messages:
            self._head_bytes = 0
            self._latest = messages[-1][1] if messages[-1] is not None else http1.NO_BODY
        elif self._latest.is_eof():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                messages = [None]
        for message in messages:
            if message is not None and http1.plain(message[0]):
                self._pending.append(message)
            else:
                self._pending.append(None)
                upgraded = True
                break
        if upgraded:
            # What follows is no request, or a request in a protocol that is not spoken here.
            self._parser = None
            self._pause_transport_reading()
        if messages:
            self._wake_up()
            if len(self._pending) + self.busy >= PIPELINED_MAX and not self._buffer_paused:
                # The parser stops by itself at the same number, and goes on when one is consumed.
                self._pause_reading_for_buffer()
        elif not self.busy and self.deadline > (latest := self.loop_time() + HEAD_TIMEOUT_S):
            self.deadline = latest

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(None)
        self._listener.connections.discard(self)
        self._fail_bodies(ConnectionResetError())
        self._parser = None
        self._pending.clear()
        self._wake_up()
        if self.when_lost is not None:
            self.when_lost()

    # -- the life of a connection

    async def serve(self) -> None:
        """Handle requests one after another until the client, an error or a shutdown ends the connection."""
        try:
            while self.transport is not None:
                if not self._pending:
                    if self._listener.draining:
                        break
                    self.busy = False
                    self.deadline = self.loop_time() + IDLE_TIMEOUT_S
                    self._wake = self._loop.create_future()
                    await self._wake
                    continue
                message = self._pending.popleft()
                if message is None:
                    self.write(BAD_REQUEST)
                    await self._linger()
                    break
                self.busy = True
                self.deadline = http1.NEVER
                self._body = message[1]
                exchange = Exchange(self, *message)
                await self._listener.handler(exchange)
                self.when_lost = None
                if not exchange.keep_alive:
                    if not exchange.body_read:
                        await self._linger()
                    break
                if self.writing_paused:
                    await self.writable()
                self._consumed()
        finally:
            self.busy = False
            self._listener.ended(self)
            if self.transport is not None:
                self.transport.close()

    async def _linger(self) -> None:
        """Read what the client still sends and drop it, until it closes or for a while: closing on it at once would
        reset the connection, and the answer could be lost with it (RFC 9112 section 9.6)."""
        if self.transport is None:
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._parser = None
        self._resume_transport_reading()
        self._wake = self._loop.create_future()
        try:
            async with asyncio.timeout(LINGER_S):
                await self._wake
        except TimeoutError:
            return

    def _consumed(self) -> None:
        """One request is done: the parser may go on to one more."""
        parser = self._parser
        if parser is not None:
            parser.message_consumed()
            if self._buffer_paused:
                self.data_received(b"")
                if len(self._pending) < PIPELINED_MAX:
                    self._resume_reading_for_buffer()

    def _fail_bodies(self, error: BaseException) -> None:
        bodies = [self._body, *(message[1] for message in self._pending if message is not None)]
        for body in bodies:
            if not body.is_eof():
                body.set_exception(http1.BrokenBody(), error)

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # -- towards the client

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    async def writable(self) -> None:
        """Wait until the client has taken enough, or is gone."""
        if self.transport is None:
            return
        self.deadline = self.loop_time() + WRITE_IDLE_TIMEOUT_S
        await self._drain_helper()
        self.deadline = http1.NEVER

    def refuse_orderly_end(self) -> None:
        """Make the end of the connection a reset: for an answer that ends by the close, an orderly one means success."""
        if self.transport is not None:
            end: socket.socket = self.transport.get_extra_info("socket")
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    @property
    def draining(self) -> bool:
        """True once no further request is to be taken."""
        return self._listener.draining

    def close_if_idle(self) -> None:
        """End a connection on which nothing is under way."""
        if not self.busy and not self._pending:
            self._wake_up()
            if self.transport is not None:
                self.transport.close()


BACKLOG_MAX = 1024
"""Connections that the system has accepted and we have not; beyond them it lets clients try again."""


def bound(host: str, port: int) -> socket.socket:
    """A socket on this address; 0 lets the system choose the port. Raises OSError."""
    (family, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return socket.create_server(address[:2], family=family, backlog=BACKLOG_MAX)


class Listener:
    """Accepts connections and hands their requests to the handler."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.connections: set[Connection] = set()
        self.draining = False
        self._serving: set[Connection] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._server: asyncio.Server
        self._sweeper: asyncio.Task[None]

    async def open(self, bound: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept connections on a socket, which other processes may accept on as well."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, sock=bound, ssl=tls, backlog=BACKLOG_MAX)
        self._sweeper = asyncio.create_task(self._sweep())

    def _accept(self) -> Connection:
        return Connection(self, asyncio.get_running_loop())

    def began(self, connection: Connection) -> None:
        self.connections.add(connection)
        self._serving.add(connection)
        self._idle.clear()

    def ended(self, connection: Connection) -> None:
        self._serving.discard(connection)
        if not self._serving:
            self._idle.set()

    async def close(self, grace_s: float) -> bool:
        """Stop accepting, let calls under way end, cut those that have not after the grace; True if none was cut."""
        self.draining = True
        self._server.close()
        for connection in tuple(self.connections):
            connection.close_if_idle()
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            for connection in tuple(self.connections):
                connection.abort()
            # What they were cut off from is still to be recorded.
            with suppress(TimeoutError):
                async with asyncio.timeout(CUT_S):
                    await self._idle.wait()
            return False
        finally:
            self._sweeper.cancel()
        return True

    async def _sweep(self) -> None:
        """Close what has passed its deadline. One task for all connections: a timer for each would cost every call."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = loop.time()
            for connection in tuple(self.connections):
                if connection.deadline <= now:
                    connection.abort()
