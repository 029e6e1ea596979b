"""The simulator as a test sees it: requests over bare sockets, and the truth about them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.simulator.process import RunningSimulator
from gateway.simulator.truth import Billed, Exchange, read_billed, read_truth

KEY = "simulator-openai-key"
LIVENESS_S_MAX = 30
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Who keeps the gate?"}]}


class RawAnswer(NamedTuple):
    """An answer as a socket gives it."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    """All that came after the head, chunks joined."""
    whole: bool
    """Whether framing says that nothing is missing."""
    chunks: tuple[bytes, ...]


class Simulated:
    """The running simulator, as one test sees it."""

    def __init__(self, running: RunningSimulator, truth_log: Path) -> None:
        self.base_url = f"{running.base_urls['openai']}/v1"
        address = urlsplit(self.base_url)
        assert address.hostname is not None
        assert address.port is not None
        self.host, self.port = address.hostname, address.port
        self._truth_log = truth_log
        self._before = len(read_truth(truth_log))

    def truth(self) -> list[Exchange]:
        """What happened since the test began."""
        return read_truth(self._truth_log)[self._before :]

    def billed(self) -> list[Billed]:
        """What was billed within the sessions that began since."""
        begun = {(exchange.run, exchange.n) for exchange in self.truth()}
        return [bill for bill in read_billed(self._truth_log) if (bill.run, bill.n) in begun]

    async def settled(self, count: int = 1) -> list[Exchange]:
        """The same, once so many exchanges are over."""
        return await self._once(lambda truth: sum(exchange.completed is not None for exchange in truth) >= count)

    async def begun(self, count: int = 1) -> Exchange:
        """The last of so many exchanges, once it is in the log."""
        return (await self._once(lambda truth: len(truth) >= count))[count - 1]

    async def _once(self, holds: Callable[[list[Exchange]], bool]) -> list[Exchange]:
        async with asyncio.timeout(LIVENESS_S_MAX):
            while not holds(truth := self.truth()):  # noqa: ASYNC110 - a file of another process has no event
                await asyncio.sleep(0.01)
        return truth

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            async with asyncio.timeout(LIVENESS_S_MAX):
                yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(self, path: str, body: object, *lines: str, method: str = "POST", version: str = "1.1") -> RawAnswer:
        """Send one request over a connection of its own, and read until that ends."""
        async with self.connection() as (reader, writer):
            writer.write(request(path, body, "Connection: close", *lines, method=method, version=version))
            return parsed(await reader.read(-1))


def request(path: str, body: object, *lines: str, method: str = "POST", version: str = "1.1") -> bytes:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"{method} /openai/v1{path} HTTP/{version}",
        "Host: simulator",
        f"Authorization: Bearer {KEY}",
        f"Content-Length: {len(payload)}",
        *lines,
    )
    return "\r\n".join((*head, "", "")).encode("latin-1") + payload


def parsed(raw: bytes) -> RawAnswer:
    head, _, rest = raw.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    status = int(status_line.split()[1])
    if "transfer-encoding" not in headers:
        length = int(headers.get("content-length", len(rest)))
        return RawAnswer(status, headers, rest, len(rest) == length, (rest,))
    chunks: list[bytes] = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            return RawAnswer(status, headers, b"".join(chunks), rest == b"\r\n", tuple(chunks))
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return RawAnswer(status, headers, b"".join(chunks), whole=False, chunks=tuple(chunks))
