"""Where requests arrive and answers leave: the proxy's side towards its clients.

The life of a connection is `Connection`: bytes come in, a head makes an exchange, the exchange is handled by one
coroutine, and when that has ended the next head is looked for. The coroutine outlives the client, since a call that a
client has left is still to be metered. A request that is not well-formed gets a fixed answer in which no byte of it
appears, and the connection is closed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, cast

from gateway.acceptor import Acceptor, Balance, Share
from gateway.departures import Departures, Sender
from gateway.http1 import (
    BODILESS,
    HEAD_END,
    Alike,
    Chunked,
    Counted,
    Framing,
    Malformed,
    Request,
    RequestHeads,
    UntilClose,
    check_begun,
    chunks,
)
from gateway.limits import NEVER, ClientLimits
from gateway.strand import PARK, Strand
from gateway.telemetry import log
from gateway.ticks import until_tick_s
from gateway.tls import Tls

READ_AHEAD_BYTES: Final = 64 << 10
"""So much of a body, or of the requests behind one, is kept that nobody has asked for; then the client is not read from."""

CUT_S: Final = 2
"""After calls were cut at the end, so long is waited for them to record what they had."""

ACCEPTED_S: Final = 0.05
"""So long after the last connection was accepted it may not have begun yet; under TLS it may still be shaking hands."""

LINGER_BYTES_MAX: Final = 16 << 20

NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
UNSENT_BYTES: Final = 64 << 10
"""So much of an answer waits in the system's buffer besides what is on its way to the client (tcp(7))."""

TURN_REQUESTS_MAX: Final = 16
"""So many requests of one connection are answered before others get their turn: one read can hold thousands."""

BLANK_LINES_MAX: Final = 4
"""So many empty lines before a request are overlooked at a time (RFC 9112 section 2.2 speaks of one)."""

SWEEP_S: Final = 1.0
CLOSED_AT_ONCE: Final = 4
"""So many connections, and so many handshakes, are closed in one turn: a thousand that are slow together are late together,
too, and the end of a call under way costs as much as its beginning."""

# These two are not Final, which would make them part of the compiled code: tests set them.
CLOSING_PAUSE_S = 0.002
"""Until the next few are: a call of others takes several turns, and in each it would else meet a few more of them."""

CLOSING_TURNS_MAX = 250
"""In so many turns all that are late are closed, if need be more in each: within a second, however many there are."""

LAG_TICK_S: Final = 0.05
"""While calls are under way."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols"


def _refusal(status: int, message: str) -> bytes:
    body = b'{"error":{"message":"%b","type":"invalid_request_error"}}' % message.encode()
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nConnection: close\r\nx-tollkeeper-error: malformed_request\r\n"
        b"x-should-retry: false\r\nContent-Length: %d\r\n\r\n%b"
        % (status, HTTPStatus(status).phrase.encode(), len(body), body)
    )


REFUSALS: Final = {
    400: _refusal(400, "The request is not well-formed HTTP/1.1."),
    417: _refusal(417, "Of expectations, 100-continue is the only one that can be met."),
    501: _refusal(501, "Of transfer codings, chunked is the only one that is known here, and in HTTP/1.1 alone."),
    505: _refusal(505, "The versions spoken here are HTTP/1.1 and HTTP/1.0."),
}
"""What the sender of a malformed request is told; whose API it was meant for is not known."""


class ClientGone(Exception):
    """The client closed its connection, or stopped sending, before its request was whole."""


class Exchange:
    """One request, and the answer to it."""

    # Most exchanges leave most of these as they are, which then costs them nothing.
    started = False
    """True once a byte of the answer may have left."""
    status = 0
    strand: Strand
    """What handles it: there before anything can wake it."""
    gone = False
    """True once the client can not get an answer any more; writing then does nothing."""
    whole = False
    """True once the whole request has arrived."""
    behind = b""
    """What has arrived behind the request."""
    malformed = False
    _size = 0
    _taken = 0
    _answer_chunked = False
    _until_close = False
    _head: bytes | None = None
    """The answer's, until it leaves."""
    _when_gone: Callable[[], None] | None = None

    def __init__(self, connection: Connection, request: Request, length: int, begun: bytes) -> None:
        """`begun` is what has arrived behind the head."""
        self.head = request.head
        self.length = None if request.chunked else length
        """Of the body; None where it comes in chunks."""
        self.websocket = request.websocket
        self.keep_alive = request.persistent
        self._connection = connection
        self._http10 = request.http10
        self._continue = request.expects_continue
        self._patience_s = connection.limits.body_idle_timeout_s
        self._chunks: list[bytes] = []
        if request.chunked or len(begun) < length:
            self._framing: Framing = Chunked() if request.chunked else Counted(length)
            if begun:
                self.arrived(begun)
        else:
            # Most requests come in one piece.
            self.whole = True
            if length:
                self._chunks.append(begun[:length])
            self.behind = begun[length:]

    # -- the request

    def call_when_gone(self, told: Callable[[], None]) -> None:
        """Call back if the client goes before this exchange is over, or has gone already."""
        if self.gone:
            told()
        else:
            self._when_gone = told

    def left(self) -> None:
        """The client has ended its side, and the connection ends with it: a part of an answer must not look whole."""
        if self.started and self._until_close:
            self.abort()

    def lost(self) -> None:
        """The client is gone."""
        self.gone = True
        if self._when_gone is not None:
            self._when_gone()
        self.strand.wake()

    @property
    def overloaded(self) -> bool:
        """True where the worker has more to do than it can: this call should be refused."""
        return self._connection.listener.overloaded

    @property
    def readable(self) -> bool:
        """True if reading would not wait."""
        return bool(self._chunks) or self.whole or self.malformed or self.gone

    @property
    def body_read(self) -> bool:
        """True once the whole request body was read, or there is none."""
        return self.whole and not self._chunks

    async def read(self) -> bytes:
        """The next bytes of the request body; empty at its end. Raises ClientGone if the end never comes."""
        if not self._chunks and not self.whole:
            await self.arrival()
        return self.take()

    def take(self) -> bytes:
        """The bytes of the request body that have arrived."""
        chunks, self._chunks = self._chunks, []
        self._size = 0
        if self._connection.reading_paused:
            self._connection.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def arrival(self, unless: Callable[[], bool] = lambda: False) -> None:
        """Wait for more of the body, or for something else, with a patience that only bytes at the least rate renew.
        Raises ClientGone."""
        connection = self._connection
        if self._continue:
            self._continue = False
            connection.write(CONTINUE)
        connection.deadline = connection.now() + self._patience_s
        while not self._chunks and not self.whole and not unless():
            if self.malformed or self.gone:
                connection.deadline = NEVER
                raise ClientGone
            await PARK
        self._patience_s = max(0.0, connection.deadline - connection.now())
        connection.deadline = NEVER

    def arrived(self, data: bytes) -> None:
        """Take bytes of the body from the connection."""
        if self.malformed:
            return  # What follows could be read as the end of a whole body.
        framing = self._framing
        try:
            chunk = framing.feed(data)
        except Malformed:
            self.malformed = True
            self.keep_alive = False
        else:
            self.whole = framing.ended
            self.behind = framing.rest
            if chunk:
                self._continue = False
                self._chunks.append(chunk)
                size = len(chunk)
                self._size += size
                self._taken += size
                if self._size > READ_AHEAD_BYTES:
                    self._connection.pause_reading()

    def slow(self, now: float, limits: ClientLimits) -> bool:
        """True where the body that is waited for comes too slowly; else the client has another while."""
        if self._taken < limits.body_rate_min * limits.body_idle_timeout_s:
            return True
        self._taken = 0
        self._connection.deadline = now + limits.body_idle_timeout_s
        return False

    # -- the answer

    def start(self, status: int, reason: bytes, lines: bytes, *, length: int | None) -> None:
        """Begin an answer whose body has `length` bytes, or as many as will be written. Leaves with the first bytes.

        `lines` are header lines, each behind a line end."""
        head = b"HTTP/1.1 %d %b%b" % (status, reason, lines)
        self._answer_chunked = self._until_close = False
        if length is not None and status != 204:  # A 204 has no body and no length (RFC 9110 section 8.6).
            head += b"\r\nContent-Length: %d" % length
        elif status not in BODILESS and self.head.method != "HEAD":
            if self._http10:
                self._until_close = True
                self.keep_alive = False
            else:
                self._answer_chunked = True
                head += b"\r\nTransfer-Encoding: chunked"
        if not self.whole or self._connection.listener.leaving:
            # What is left of the request body would be read as the next request.
            self.keep_alive = False
        if not self.keep_alive:
            head += b"\r\nConnection: close"
        elif self._http10:
            head += b"\r\nConnection: keep-alive"
        self.status = status
        self._head = head

    def send(self, chunk: bytes) -> None:
        """Send bytes of the body; of the connection, if this exchange has become one."""
        self._send(chunk, last=False)

    async def writable(self) -> None:
        """Wait until the client has taken enough, or is gone."""
        connection = self._connection
        while connection.writing_paused and connection.transport is not None:
            await PARK

    @property
    def writing_paused(self) -> bool:
        """True while the client takes bytes more slowly than they are sent."""
        return self._connection.writing_paused

    def finish(self, chunk: bytes = b"") -> None:
        """Send the last bytes, and what tells the client that they are the last."""
        self._send(chunk, last=True)

    def answer(self, status: int, reason: bytes, lines: bytes, body: bytes) -> None:
        """Send a whole answer."""
        self.start(status, reason, lines, length=len(body))
        self.finish(b"" if self.head.method == "HEAD" else body)

    def switch(self, lines: bytes) -> None:
        """Go on as a WebSocket: from here on, what is read and sent are the bytes of the connection."""
        self.started = True
        self.status = 101
        self.keep_alive = False
        self._connection.write(b"%b%b\r\n\r\n" % (SWITCHING, lines))
        behind = self._connection.taken_over()
        # It may rest for as long as both sides like; a peer that is gone without a word is found out by the system.
        self._connection.keep_alive()
        self._framing = UntilClose()
        self.whole = False
        if behind:
            self.arrived(behind)

    def refuse(self) -> None:
        """Answer a request whose body has turned out not to be well-formed."""
        self.started = True
        self.status = 400
        self.keep_alive = False
        self._connection.write(REFUSALS[400])

    def abort(self) -> None:
        """End the connection so that what was sent can not be taken for a whole answer."""
        self.keep_alive = False
        if self._until_close:
            self._connection.refuse_orderly_end()
        self._connection.abort()

    def _send(self, chunk: bytes, *, last: bool) -> None:
        self.started = True
        if self._answer_chunked:
            chunk = chunks(chunk, last=last)
        head = self._head
        if head is not None:
            self._head = None
            chunk = b"%b\r\n\r\n%b" % (head, chunk)
        if chunk:
            self._connection.write(chunk)


Handler = Callable[[Exchange], Coroutine[Any, Any, None]]


def by_prefix(prefix: str, its: Handler, others: Handler) -> Handler:
    """Hands requests whose target begins so to a handler of its own, and all others to another."""

    def handle(exchange: Exchange) -> Coroutine[Any, Any, None]:
        return its(exchange) if exchange.head.target.startswith(prefix) else others(exchange)

    return handle


class Connection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_alike",
        "_begun",
        "_dropped",
        "_exchange",
        "_head_begun",
        "_lingering",
        "_loop",
        "_proceeding",
        "_received",
        "_searched",
        "_sender",
        "_unsent",
        "deadline",
        "limits",
        "listener",
        "now",
        "reading_paused",
        "transport",
        "writing_paused",
    )

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self.listener = listener
        self.limits = listener.limits
        self.transport: asyncio.Transport | None = None
        self._sender: Sender | None = None
        self.reading_paused = False
        self.writing_paused = False
        self.now = loop.time
        self.deadline = NEVER
        self._loop = loop
        self._received = b""
        """What is not of the exchange that is under way."""
        self._begun = bytearray()
        """A head that is not whole, and how far its end was looked for."""
        self._searched = 0
        self._head_begun = False
        self._exchange: Exchange | None = None
        self._alike: Alike | None = None
        """The head that came last."""
        self._proceeding = False
        self._lingering = False
        self._dropped = 0
        self._unsent = 0

    # -- its life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by name.
        self._sender = Sender(self.transport, self.listener.departures, self.transport.abort)
        self.deadline = self.now() + self.limits.head_timeout_s
        if NOTSENT_LOWAT is not None:
            # The system's own buffer would take megabytes before we saw that nobody reads them.
            self._set_option(socket.IPPROTO_TCP, NOTSENT_LOWAT, UNSENT_BYTES)
        if not self.listener.admitted(self):
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if self._lingering:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES_MAX:
                self.abort()
        elif exchange is None and not self.writing_paused:
            self._received = self._received + data if self._received else data
            self._proceed()
        elif exchange is None or exchange.whole:
            self._received += data
            if len(self._received) > READ_AHEAD_BYTES:
                self.pause_reading()
        else:
            exchange.arrived(data)
            self._received = exchange.behind
            exchange.strand.wake()

    def _proceed(self) -> None:
        """Handle one request after another, as far as they have arrived and have been answered."""
        self._proceeding = True
        turns = TURN_REQUESTS_MAX
        while self._exchange is None and self._received and not self._lingering and not self.writing_paused:
            if not turns:
                self.pause_reading()
                self._loop.call_soon(self._next_turn)
                break
            turns -= 1
            data, self._received = self._received, b""
            alike = self._alike
            found = None if alike is None or self._begun else alike.found(data)
            if alike is not None and found is not None:
                request = alike.request
                length, body_at = found
                rest = data[body_at:]
            else:
                head_and_rest = self._head_whole(data)
                if head_and_rest is None:
                    break
                head, rest = head_and_rest
                try:
                    request, length = self.listener.heads.read(head)
                except Malformed as malformed:
                    self._refuse(malformed.status)
                    break
                self._alike = Alike.of(head, request)
            self.limits = self.listener.limits
            exchange = self._exchange = Exchange(self, request, length, rest)
            self.deadline = NEVER
            self._received = exchange.behind
            self.listener.begin(self)
            exchange.strand = Strand(self.listener.handler(exchange), self._loop, self._ended)
            exchange.strand.wake()
        self._proceeding = False

    def _next_turn(self) -> None:
        """Go on with the requests that were left for others' sake."""
        if self._exchange is None and self.transport is not None and not self.transport.is_closing():
            self.resume_reading()
            self._proceed()

    def _head_whole(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The next head, and what is behind it; None where it has not come whole."""
        begun = self._begun
        if not begun:
            end = data.find(HEAD_END) + 4
            if end > 4:
                return data[:end], data[end:]
        begun += data
        blank_lines = 0
        while begun[:2] == b"\r\n" and blank_lines < BLANK_LINES_MAX:
            del begun[:2]
            blank_lines += 1
        end = begun.find(HEAD_END, max(0, self._searched - 3)) + 4
        if end >= 4:
            whole = bytes(begun)
            begun.clear()
            self._searched = 0
            self._head_begun = False
            return whole[:end], whole[end:]
        try:
            check_begun(begun, checked=self._searched)
        except Malformed as malformed:
            self._refuse(malformed.status)
            return None
        if not self._head_begun:
            # Also by an empty line: nothing that comes bit by bit gives it more time.
            self._head_begun = True
            self.deadline = self.now() + self.limits.head_timeout_s
        self._searched = len(begun)
        return None

    def _ended(self, error: BaseException | None) -> None:
        """The exchange is over: go on to the next request, or end."""
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        self.listener.free(self)
        transport = self.transport
        if error is not None:
            log.error("call_failed", error=type(error).__name__)
            self.abort()
        elif transport is None:
            pass
        elif not exchange.keep_alive:
            if exchange.whole:
                self._close()
            else:
                self._linger()
        else:
            if self.reading_paused:
                self.resume_reading()
            if not self.writing_paused:
                self.deadline = self.listener.now + self.listener.limits.keepalive_timeout_s
            if self._received:
                if not self._proceeding:
                    self._proceed()
            elif self.listener.draining:
                self._close()

    def taken_over(self) -> bytes:
        """What has arrived behind the request that is under way, and is then no longer kept here."""
        received, self._received = self._received, b""
        return received

    def _close(self) -> None:
        """End the connection when the client has taken what was sent; requests behind that are not handled."""
        self._received = b""
        transport = self.transport
        if transport is not None:
            if not transport.is_closing():
                self._flush()
                transport.close()
            # It ends when the client has taken everything, which is waited for as long as for any answer.
            self.pause_writing()

    def eof_received(self) -> bool:
        exchange = self._exchange
        if exchange is not None:
            exchange.left()
        self._flush()  # The transport closes when this returns.
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._sender is not None:
            self._sender.drop()
        self.transport = self._sender = None
        self.listener.lost(self)
        self._received = b""
        exchange = self._exchange
        if exchange is not None:
            exchange.lost()

    def _refuse(self, status: int) -> None:
        self.write(REFUSALS[status])
        self._linger()

    def _linger(self) -> None:
        """Read what the client still sends and drop it, until it closes or for a while: closing on it at once would
        reset the connection, and the answer could be lost with it (RFC 9112 section 9.6)."""
        if self.transport is not None:
            self._flush()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._lingering = True
            self._received = b""
            self.deadline = self.now() + self.limits.linger_s
            self.resume_reading()

    def expired(self, now: float) -> None:
        """What was waited for has not come in time."""
        if self.writing_paused and self.transport is not None:
            taken = self._unsent - self.transport.get_write_buffer_size()
            if taken >= self.limits.body_rate_min * self.limits.write_idle_timeout_s:
                self.pause_writing()
                return
        elif self._exchange is not None and not self._exchange.slow(now, self.limits):
            return
        self.abort()

    # -- flow

    def pause_reading(self) -> None:
        if self.transport is not None and not self.reading_paused:
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.transport is not None and self.reading_paused:
            self.reading_paused = False
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        """The client takes bytes more slowly than they are sent: give it a while to take some."""
        self.writing_paused = True
        if self.transport is not None:
            self._unsent = self.transport.get_write_buffer_size()
            self.deadline = self.now() + self.limits.write_idle_timeout_s

    def resume_writing(self) -> None:
        self.writing_paused = False
        exchange = self._exchange
        if exchange is None:
            if not self._lingering:
                self.deadline = self.now() + self.listener.limits.keepalive_timeout_s
                self.resume_reading()
                self._proceed()
        else:
            self.deadline = NEVER
            exchange.strand.wake()

    def write(self, data: bytes) -> None:
        if self._sender is not None:
            self._sender.write(data)

    def _flush(self) -> None:
        """Send what waits for the end of the turn."""
        if self._sender is not None:
            self._sender.flush()

    def keep_alive(self) -> None:
        """Have the system ask from time to time whether the client is still there."""
        self._set_option(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def refuse_orderly_end(self) -> None:
        """Make the end of the connection a reset: for an answer that ends by the close, an orderly one means success."""
        self._set_option(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _set_option(self, level: int, option: int, value: int | bytes) -> None:
        end: socket.socket | None = None if self.transport is None else self.transport.get_extra_info("socket")
        if end is not None:
            end.setsockopt(level, option, value)

    def abort(self) -> None:
        if self.transport is not None:
            self._flush()
            self.transport.abort()

    def close_if_idle(self) -> None:
        """End a connection on which nothing is under way."""
        if self._exchange is None:
            self._close()

    def wait_no_longer_than(self, deadline: float) -> None:
        """Wait for a next request up to then, where none is under way."""
        if self._exchange is None:
            self.deadline = min(self.deadline, deadline)


class Listener:
    """Accepts connections and hands their requests to the handler."""

    heads: RequestHeads

    def __init__(
        self, handler: Handler, limits: ClientLimits | None = None, departures: Departures | None = None
    ) -> None:
        self.handler = handler
        self.limits = ClientLimits() if limits is None else limits
        self.departures = departures or Departures()
        self.connections: set[Connection] = set()
        self._handshakes: dict[Tls, float] = {}
        """What will be connections, each with its deadline."""
        self.busy: set[Connection] = set()
        """Those with a call under way, whose client may be gone."""
        self.leaving = False
        """True once each answer is to be the last of its connection."""
        self.draining = False
        """True once no further request is to be taken."""
        self.now = 0.0
        """The time of the loop, no older than a sweep."""
        self._lagging = False
        self._turn: asyncio.TimerHandle | None = None
        """What its turn is waited for, while calls are under way."""
        self._quiet = asyncio.Event()
        self._share = Balance(1).share(0)
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self, listening: socket.socket, tls: ssl.SSLContext | None, share: Share | None = None) -> None:
        """Accept connections on a socket; with a share, other processes do as well."""
        loop = asyncio.get_running_loop()
        self.heads = RequestHeads(loop)
        self.now = loop.time()
        self._tls = tls
        self._share = share or self._share
        self._acceptor = Acceptor(listening, self._share, lambda: self._new(loop))
        self._sweeping = loop.create_task(self._sweep())

    def _new(self, loop: asyncio.AbstractEventLoop) -> asyncio.Protocol | None:
        """What a connection becomes; None where there are too many."""
        if len(self.connections) + len(self._handshakes) >= self.limits.connections_max:
            return None
        connection = Connection(self, loop)
        if self._tls is None:
            self.connections.add(connection)
            self._tell()
            return connection

        def over(shaken: Tls, error: Exception | None) -> None:
            self._handshakes.pop(shaken, None)
            if error is not None:
                self._tell()

        shaking = Tls(self._tls, connection, over)
        self._handshakes[shaking] = loop.time() + self.limits.head_timeout_s
        self._tell()
        return shaking

    def _tell(self) -> None:
        """Show the other processes how many connections there are here."""
        self._share.tell(len(self.connections) + len(self._handshakes))

    def change(self, handler: Handler, limits: ClientLimits) -> None:
        """Have what begins from here on handled by another handler, within other limits; what has begun goes on."""
        self.handler, self.limits = handler, limits

    @property
    def overloaded(self) -> bool:
        """True while there is more to do than can be done in time."""
        return self._lagging or len(self.busy) > self.limits.calls_max

    def admitted(self, connection: Connection) -> bool:
        """Take note of a connection that can be used from now on; False where none is to be any more."""
        self.connections.add(connection)
        return not self.draining

    def begin(self, connection: Connection) -> None:
        """A connection's call begins."""
        self.busy.add(connection)
        if self._turn is None:
            self._wait_turn(late_before=False)

    def free(self, connection: Connection) -> None:
        """A connection's call is over."""
        self.busy.discard(connection)
        self._look()

    def lost(self, connection: Connection) -> None:
        """A connection has ended; a call of its may go on."""
        self.connections.discard(connection)
        self._tell()
        self._look()

    def _look(self) -> None:
        if self.leaving and not self.busy:
            self._quiet.set()

    async def close(self, grace_s: float, next_within_s: float = 0) -> bool:
        """Stop accepting, let calls under way end, and cut those off that have not after the grace; True if none was.

        Connections on which nothing is under way are closed at once, or else may bring one more request within a while:
        to close them under a request that is on its way would fail it."""
        self.leaving = True
        self._acceptor.close()
        try:
            if next_within_s:
                await self._last_requests(grace_s, next_within_s)
                grace_s = 0.0
            self.draining = True
            for connection in tuple(self.connections):
                connection.close_if_idle()
            if await self.quiet(grace_s):
                for connection in tuple(self.connections):
                    connection.close_if_idle()
                return True
            for connection in tuple(self.connections):
                connection.abort()
            return False
        finally:
            for shaking in tuple(self._handshakes):
                shaking.abort()
            for one in (self._sweeping, self._turn):
                if one is not None:
                    one.cancel()

    async def _last_requests(self, grace_s: float, next_within_s: float) -> None:
        """Answer one more request on each connection, those included that were accepted and have not begun."""
        loop = asyncio.get_running_loop()
        self.limits = replace(self.limits, keepalive_timeout_s=next_within_s)
        for connection in self.connections:
            connection.wait_no_longer_than(loop.time() + next_within_s)
        began = loop.time()
        await asyncio.sleep(next_within_s if self._tls else ACCEPTED_S)
        await self.quiet(max(grace_s, next_within_s) - (loop.time() - began), self.connections)

    async def quiet(self, within_s: float, also: Collection[Connection] = ()) -> bool:
        """Wait until no call is under way, and none of those connections left; False if that takes longer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.busy or also:
                    self._quiet.clear()
                    await self._quiet.wait()
        return not self.busy

    async def _sweep(self) -> None:
        """Close what has passed its deadline. One task for all connections: a timer for each would cost every call."""
        loop = asyncio.get_running_loop()
        while True:
            limits = self.limits
            shortest_s = min(limits.head_timeout_s, limits.body_idle_timeout_s, limits.write_idle_timeout_s)
            await asyncio.sleep(until_tick_s(min(SWEEP_S, shortest_s / 4, limits.keepalive_timeout_s / 4)))
            now = self.now = loop.time()
            late = [connection for connection in self.connections if connection.deadline <= now]
            unshaken = [shaking for shaking, deadline in self._handshakes.items() if deadline <= now]
            count = max(len(late), len(unshaken))
            at_once = max(CLOSED_AT_ONCE, -(-count // CLOSING_TURNS_MAX))
            for start in range(0, count, at_once):
                # Anew: a byte that comes meanwhile moves the deadline of a body to its own moment.
                now = self.now = loop.time()
                for connection in late[start : start + at_once]:
                    if connection.deadline <= now:
                        connection.expired(now)
                for shaking in unshaken[start : start + at_once]:
                    if self._handshakes.pop(shaking, None) is not None:
                        shaking.abort()
                await asyncio.sleep(CLOSING_PAUSE_S)

    def _wait_turn(self, *, late_before: bool) -> None:
        """Find out how long what has arrived waits for its turn: as long as this does. Once is no measure, since what has
        waited through a pause of the whole process is done with at the next turn."""
        loop = asyncio.get_running_loop()
        due = loop.time() + LAG_TICK_S

        def turn() -> None:
            late = loop.time() - due > self.limits.lag_max_s
            self._lagging = late and late_before
            if late or self.busy:
                self._wait_turn(late_before=late)
            else:
                self._turn = None

        self._turn = loop.call_at(due, turn)
