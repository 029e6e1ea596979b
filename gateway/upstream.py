"""The only HTTP client of the path of a call: connections to providers, kept and used again.

A request is written to a connection at most once. What went wrong is told apart by what the provider may have done:
`Unreachable` (nothing was sent), `NoAnswer` (it may have acted), `BrokenAnswer` (it answered, in part).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict, deque
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from gateway import http1
from gateway.messages import ResponseHead

CONNECT_TIMEOUT_S = 10
"""Longer than two retransmissions of a lost SYN, shorter than the patience of any SDK's connection timeout retries."""

HEAD_TIMEOUT_S = 900
"""Until the head of the answer. A reasoning model thinks for minutes before it says a word; SDKs give up after 600 s."""

BODY_IDLE_TIMEOUT_S = 600
"""Between two pieces of an answer. There is no limit on the whole: streams run for as long as they run."""

IDLE_MAX_S = 15
"""A connection unused for longer is not used again: the longer it lies, the likelier the provider has just closed it."""

IDLE_CONNECTIONS_MAX = 512
"""For each origin; beyond it, the connection that has waited longest is closed."""

INTERIM_MAX = 16
"""Interim (1xx) answers to one request, dropped; with more, the provider is not making sense."""

SWEEP_S = 1.0


class UpstreamError(Exception):
    """Something between us and a provider went wrong."""


class Unreachable(UpstreamError):
    """No connection came about; nothing was sent."""


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


class Connection(http1.BaseProtocol):
    """One connection to a provider, carrying one request at a time."""

    __slots__ = (
        "_aborted",
        "_answered",
        "_body",
        "_error",
        "_interim",
        "_sent",
        "_with_body",
        "deadline",
        "idle_since",
        "loop_time",
        "origin",
        "reusable",
        "used",
    )

    def __init__(self, origin: Origin, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.origin = origin
        self.loop_time = loop.time
        self.deadline = http1.NEVER
        self.idle_since = 0.0
        self.used = False
        """True once a request before the current one was answered here."""
        self.reusable = True
        self._parser: Any = None
        self._with_body: bool | None = None
        """What the parser expects; None if there is none that can read another answer."""
        self._answered: asyncio.Future[tuple[Any, http1.Body]] | None = None
        self._body: http1.Body = http1.NO_BODY
        self._interim = 0
        self._sent = False
        """True once the whole request was written: before, another one would be read as a part of it."""
        self._aborted = False
        self._error: type[UpstreamError] | None = None

    # -- a request

    def send(self, head_and_body: bytes, *, method: str, whole: bool) -> None:
        """Write a request, or its head and the beginning of its body, and begin to expect the answer."""
        with_body = method != "HEAD"
        if with_body != self._with_body:
            self._parser = http1.response_parser(self, self._loop, with_body=with_body)
            self._with_body = with_body
        self._interim = 0
        self._body = http1.NO_BODY
        self._sent = whole
        self._answered = self._loop.create_future()
        self.deadline = self.loop_time() + HEAD_TIMEOUT_S
        if self.transport is None:
            self._answered.set_exception(NoAnswer("connection closed"))
        else:
            self.transport.write(head_and_body)

    async def send_more(self, chunk: bytes, *, last: bool) -> None:
        """Write more of the body, and wait while the provider is slower than we are and has not answered yet."""
        if self.transport is None or self.answering.done():
            return
        self.deadline = self.loop_time() + HEAD_TIMEOUT_S
        self.transport.write(chunk)
        self._sent = last
        if self.writing_paused:
            await self._drain_helper()

    @property
    def answering(self) -> asyncio.Future[tuple[Any, http1.Body]]:
        """Done when the answer has begun, or never will."""
        assert self._answered is not None
        return self._answered

    async def answer(self) -> Answer:
        """Wait for the head of the answer. Raises NoAnswer, TooSlow or BrokenAnswer."""
        message, body = await self.answering
        return Answer(self, message, body)

    # -- from the transport

    def data_received(self, data: bytes) -> None:
        if self._answered is None:
            self.abort()  # It speaks without having been asked.
            return
        try:
            messages, upgraded, _ = self._parser.feed_data(data)
        except http1.Malformed:
            self._fail(BrokenAnswer)
            return
        for message, body in messages:
            if message.code < 200:
                self._interim += 1
                if message.code == 101 or self._interim > INTERIM_MAX:
                    self._fail(BrokenAnswer)
                    return
            elif self._answered is None or self._answered.done() or not http1.framed(message):
                self._fail(BrokenAnswer)
                return
            else:
                self._body = body
                self.deadline = http1.NEVER
                self.reusable = not message.should_close and not upgraded
                if message.chunked:
                    # This parser would put a trailer of the body into the head of the next answer, another tenant's.
                    self._with_body = None
                self._answered.set_result((message, body))
                self._stop_sending()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(None)
        self.reusable = False
        error = self._error or (NoAnswer if self._answered is None or not self._answered.done() else BrokenAnswer)
        if exc is None and not self._aborted and self._answered is not None and self._answered.done():
            try:
                self._parser.feed_eof()  # The end of a body that ends by the close.
            except http1.Malformed:
                error = BrokenAnswer
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error("the provider closed the connection"))
            self._answered.exception()  # Whoever waits gets it; nobody may be waiting.
        if not self._body.is_eof():
            self._body.set_exception(error("the provider closed the connection"))

    def _stop_sending(self) -> None:
        """Let go whoever waits for the provider to read on: it has answered, and may never."""
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: type[UpstreamError]) -> None:
        self._error = error
        self.abort()

    def rest(self, now: float) -> bool:
        """The answer is done with: wait for the next request, or end here if there can be none; True if it waits."""
        answered = self._answered is not None and self._answered.done()
        if not (answered and self._sent and self.reusable and self._body.at_eof()) or self.transport is None:
            self.abort()
            return False
        self._answered = None
        self.used = True
        self.idle_since = now
        return True

    def expire(self) -> None:
        """The provider has taken too long."""
        self._fail(TooSlow)

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""
        self._fail(BrokenAnswer)

    def abort(self) -> None:
        self.reusable = False
        self._aborted = True
        if self.transport is not None:
            self.transport.abort()


class Answer:
    """The answer to one request: its head, and its body as it arrives."""

    __slots__ = ("_body", "_connection", "head")

    def __init__(self, connection: Connection, message: Any, body: http1.Body) -> None:
        self.head = ResponseHead(message.code, message.reason, message.headers, message.raw_headers)
        self._connection = connection
        self._body = body

    @property
    def ended(self) -> bool:
        """True once the whole body was read, or there is none."""
        return self._body.at_eof()

    @property
    def arrived(self) -> bool:
        """True if there is something to read without waiting, or nothing more to come."""
        return http1.readable(self._body)

    async def read(self) -> bytes:
        """The next bytes of the body; empty at its end. Raises BrokenAnswer if the end never comes."""
        chunk = http1.available(self._body)
        if chunk or self._body.at_eof():
            return chunk
        connection = self._connection
        connection.deadline = connection.loop_time() + BODY_IDLE_TIMEOUT_S
        try:
            return await self._body.readany()
        except (http1.BrokenBody, http1.Malformed, UpstreamError, ConnectionError, RuntimeError) as error:
            connection.abort()
            raise BrokenAnswer("the answer broke off") from error
        finally:
            connection.deadline = http1.NEVER


class Upstream:
    """Gives out connections to providers and takes them back."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._idle: defaultdict[Origin, deque[Connection]] = defaultdict(deque)
        self._all: set[Connection] = set()
        self._sweeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in tuple(self._all):
            connection.abort()

    async def connection(self, origin: Origin, *, fresh: bool = False) -> Connection:
        """A connection to the origin, kept from before or new. Raises Unreachable."""
        loop = asyncio.get_running_loop()
        idle = self._idle[origin]
        while idle and not fresh:
            kept = idle.pop()
            if kept.transport is not None and loop.time() - kept.idle_since < IDLE_MAX_S:
                return kept
            kept.abort()
        if origin.tls and self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(
                    lambda: Connection(origin, loop), origin.host, origin.port, ssl=self._tls if origin.tls else None
                )
        except (OSError, TimeoutError, ssl.SSLError) as error:
            raise Unreachable(type(error).__name__) from error
        self._all.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """Take a connection back: kept if its answer was read to the end and it may carry another request."""
        if not connection.rest(asyncio.get_running_loop().time()):
            self._all.discard(connection)
            return
        idle = self._idle[connection.origin]
        idle.append(connection)
        if len(idle) > IDLE_CONNECTIONS_MAX:
            idle.popleft().abort()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = loop.time()
            for idle in self._idle.values():
                while idle and (idle[0].transport is None or now - idle[0].idle_since > IDLE_MAX_S):
                    idle.popleft().abort()
            for connection in tuple(self._all):
                if connection.transport is None:
                    self._all.discard(connection)
                elif connection.deadline <= now:
                    connection.expire()
