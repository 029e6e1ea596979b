"""The two sides of a gateway in a test: clients and a provider that speak bytes, and say exactly what they mean.

Ordinary HTTP libraries normalise away what is to be tested, so nothing here knows more of HTTP than where a message ends.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from multidict import CIMultiDict, CIMultiDictProxy

T = TypeVar("T")

PATIENCE_S = 60
"""How long anything may take that should take a moment; a machine that is busy is not a defect."""


async def soon(awaitable: Awaitable[T]) -> T:
    """Wait for something that is about to happen."""
    async with asyncio.timeout(PATIENCE_S):
        return await awaitable


async def eventually(true: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110  What is looked at knows nothing of who looks.
            await asyncio.sleep(0.005)


async def settled(measure: Callable[[], int]) -> int:
    """Wait until a number that grew grows no more, or has grown beyond all bounds; return it."""
    async with asyncio.timeout(PATIENCE_S):
        while not measure():  # noqa: ASYNC110  As above.
            await asyncio.sleep(0.005)
    found, unchanged = -1, 0
    while unchanged < 10 and found < 1 << 30:
        await asyncio.sleep(0.02)
        unchanged = unchanged + 1 if measure() == found else 0
        found = measure()
    return found


@asynccontextmanager
async def sending_without_end(end: socket.socket, data: bytes) -> AsyncIterator[Callable[[], int]]:
    """Send the same from a client that does not read, until the test is over; gives how many bytes were taken."""
    taken = 0

    async def send() -> None:
        nonlocal taken
        loop = asyncio.get_running_loop()
        while True:
            await loop.sock_sendall(end, data)
            taken += len(data)
            await asyncio.sleep(0)

    end.setblocking(False)
    sending = asyncio.ensure_future(send())
    try:
        yield lambda: taken
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def headers_of(lines: list[bytes]) -> list[tuple[str, str]]:
    pairs = (line.partition(b": ") for line in lines)
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, _, value in pairs]


@dataclass
class Message:
    """One request or answer, as it came."""

    start: bytes
    headers: list[tuple[str, str]]
    body: bytes
    raw: bytes
    whole: bool = True
    """False if the connection ended before the framing said so."""

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def target(self) -> str:
        return self.start.split(b" ")[1].decode()

    def all(self, name: str) -> list[str]:
        return [value for found, value in self.headers if found == name.lower()]

    def __getitem__(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)

    @property
    def multidict(self) -> CIMultiDictProxy[str]:
        return CIMultiDictProxy(CIMultiDict(self.headers))


class Peer:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.seen = bytearray()
        """Everything that has been read here."""

    async def send(self, data: bytes) -> None:
        """Send; raises ConnectionError once the connection has ended, which one of the loops says in words of its own."""
        try:
            self.writer.write(data)
        except RuntimeError as error:
            raise ConnectionResetError(str(error)) from error
        await soon(self.writer.drain())

    async def _until(self, mark: bytes) -> bytes:
        found = await self.reader.readuntil(mark)
        self.seen += found
        return found

    async def _exactly(self, size: int) -> bytes:
        found = await self.reader.readexactly(size)
        self.seen += found
        return found

    async def message(self, *, bodiless: bool = False) -> Message:
        """Read one request or answer. Raises EOFError if there is none, not even its head."""
        return await soon(self._message(bodiless=bodiless))

    async def _message(self, *, bodiless: bool) -> Message:
        begun = len(self.seen)
        try:
            head = await self._until(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            self.seen += error.partial
            raise EOFError(bytes(error.partial)) from error
        start, *lines = head[:-4].split(b"\r\n")
        message = Message(start, headers_of(lines), b"", head)
        request = not start.startswith(b"HTTP/")
        if not bodiless and (request or message.status not in (204, 304)):
            message.body, message.whole = await self._body(message, request=request)
        message.raw = bytes(self.seen[begun:])
        return message

    async def _body(self, message: Message, *, request: bool) -> tuple[bytes, bool]:
        pieces: list[bytes] = []
        try:
            if message["transfer-encoding"] is not None:
                while size := int(await self._until(b"\r\n"), 16):
                    pieces.append(await self._exactly(size))
                    assert await self._exactly(2) == b"\r\n"
                while await self._until(b"\r\n") != b"\r\n":
                    pass
            elif (length := message["content-length"]) is not None:
                pieces.append(await self._exactly(int(length)))
            elif not request:
                pieces.append(await self.reader.read())
                self.seen += pieces[-1]
        except asyncio.IncompleteReadError as error:
            self.seen += error.partial
            return b"".join((*pieces, error.partial)), False
        except ConnectionError:
            return b"".join(pieces), False
        return b"".join(pieces), True

    async def rest(self) -> bytes:
        """Everything until the connection ends, however it ends."""
        try:
            found = await soon(self.reader.read())
        except ConnectionError:
            found = b""
        self.seen += found
        return found

    async def ended_in_order(self) -> bool:
        """Wait until the other side has ended the connection; False if it was a reset."""
        try:
            while await soon(self.reader.read(65536)):
                pass
        except ConnectionError:
            return False
        return True

    async def ended(self) -> bool:
        """Wait until the other side has ended the connection; True if it said nothing more."""
        return await self.rest() == b""

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """End the connection so that the other side gets a reset."""
        end: socket.socket = self.writer.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def client(port: int, *, read_ahead: int = 1 << 20) -> AsyncIterator[Peer]:
    """A connection to a gateway."""
    peer = Peer(*await asyncio.open_connection("127.0.0.1", port, limit=read_ahead))
    try:
        yield peer
    finally:
        peer.close()


@contextmanager
def stalled_client(port: int) -> Iterator[socket.socket]:
    """A connection that takes nothing until it is read from by hand."""
    with socket.socket() as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end.connect(("127.0.0.1", port))
        yield end


class Provider:
    """A server that does on each connection what the test says."""

    def __init__(self, script: Callable[[Peer], Awaitable[None]]) -> None:
        self.script = script
        self.peers: list[Peer] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def seen(self) -> bytes:
        """Everything that was read on all connections."""
        return b"".join(bytes(peer.seen) for peer in self.peers)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.script(peer)
        except (EOFError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            peer.writer.close()

    async def end(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def provider(
    script: Callable[[Peer], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[Provider]:
    """A provider; the script gets each connection, and the connection ends where the script ends."""
    serving = Provider(script)
    server = await asyncio.start_server(serving.accept, "127.0.0.1", 0, limit=1 << 20, ssl=tls)
    serving.port = server.sockets[0].getsockname()[1]
    try:
        yield serving
    finally:
        server.close()
        await serving.end()


def answers(*replies: bytes) -> Callable[[Peer], Awaitable[None]]:
    """A script: read a request whole, send the next of these, and so on; the last one again and again."""

    async def script(peer: Peer) -> None:
        position = 0
        while True:
            await peer.message()
            await peer.send(replies[min(position, len(replies) - 1)])
            position += 1

    return script


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with a length."""
    lines = (b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*chunks: bytes) -> bytes:
    """A chunked body, whole."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk) + b"0\r\n\r\n"


def sse(*events: bytes) -> bytes:
    """The head of a stream and these events, as providers send them."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + chunked(*events)
