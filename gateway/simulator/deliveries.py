"""What providers send by themselves: status callbacks and webhooks, each after its delay, and what follows from an answer.

Only loopback and private addresses are called: what is simulated never leaves the machine or its network. A delivery
elsewhere goes into the truth log as one that was not sent, and nobody else is told.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.simulator.api import Delivery, Reply
from gateway.simulator.truth import Delivered, TruthLog, fingerprint

CONCURRENT_MAX = 16
WAITING_MAX = 200_000
WAITING_BYTES_MAX = 256 << 20
"""Beyond either bound a delivery is not sent, and the truth log says so."""
DELIVERY_S_MAX = 15
"""How long an application may take to answer, as real providers have it."""
ANSWER_BYTES_MAX = 64 << 10
"""So much of an answer is read, where it is listened to."""
ANSWER_CHARACTERS_MAX = 4096
URL_CHARACTERS_MAX = 4096
"""So much of a URL the truth log holds."""

NETWORKS = tuple(
    map(ip_network, ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7"))
)
LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".test")
"""Names that end so, and those without a dot, are looked up; others are refused without asking any server."""

ELSEWHERE = "not sent: only loopback and private addresses are called"
LOST = "not sent: it was asked to be lost"
TOO_MANY = "not sent: too much is waiting to be sent"
STOPPED = "the simulator stopped before it was answered"


class Deliveries:
    """Sends what answers leave behind. Those that tell of one object are sent in order, each once its time has come.

    What still waits when the simulator stops is forgotten, and is not in the truth log.
    """

    def __init__(self, truth: TruthLog) -> None:
        self._truth = truth
        self._session: aiohttp.ClientSession | None = None
        self._free = asyncio.Semaphore(CONCURRENT_MAX)
        self._waiting: set[asyncio.Task[None]] = set()
        self._waiting_bytes = 0
        self._last: dict[str, asyncio.Task[None]] = {}
        """By object, the last delivery of those that wait."""

    def take(self, n: int, later: Sequence[Delivery]) -> None:
        """Send these after their delays, from now on; `n` is the exchange that caused them."""
        for delivery in later:
            size = len(delivery.body) + len(delivery.url)
            if len(self._waiting) >= WAITING_MAX or self._waiting_bytes + size > WAITING_BYTES_MAX:
                self._log(n, delivery, error=TOO_MANY)
                continue
            key = delivery.object_id or f"exchange {n}"
            task = asyncio.create_task(self._deliver(n, delivery, self._last.get(key)))
            self._waiting.add(task)
            self._waiting_bytes += size
            self._last[key] = task
            task.add_done_callback(partial(self._forget, key, size))

    def lose(self, n: int, lost: Sequence[Delivery]) -> None:
        """Send none of these, and say so."""
        for delivery in lost:
            self._log(n, delivery, error=LOST)

    def _forget(self, key: str, size: int, task: asyncio.Task[None]) -> None:
        self._waiting.discard(task)
        self._waiting_bytes -= size
        if self._last.get(key) is task:
            del self._last[key]

    async def _deliver(self, n: int, delivery: Delivery, previous: asyncio.Task[None] | None) -> None:
        await asyncio.sleep(delivery.after_ms / 1000)
        if previous is not None:
            await asyncio.wait([previous])
        async with self._free:
            if not delivery.still_so():
                return
            at_ms = int(time.time() * 1000)
            status, error, answer = None, None, b""
            try:
                status, answer = await self._send(delivery)
            except asyncio.CancelledError:
                error = STOPPED
                raise
            # ValueError is how yarl and aiohttp say that a URL makes no sense.
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as failed:
                # Its text may hold the URL, and that a password.
                error = ELSEWHERE if ELSEWHERE in str(failed) else type(failed).__name__
            finally:
                self._log(n, delivery, at_ms=at_ms, status=status, error=error, answer=answer)
        if delivery.answered is not None:
            self.take(n, delivery.answered(Reply(status, answer, error)))

    async def _send(self, delivery: Delivery) -> tuple[int, bytes]:
        """The status, and the body where somebody listens to it."""
        url = URL(delivery.url, encoded=True)
        if not is_near(url.host or ""):
            raise ValueError(ELSEWHERE)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=NearResolver(), force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=DELIVERY_S_MAX),
                auto_decompress=False,
            )
        async with self._session.request(
            delivery.method,
            url,
            data=delivery.body or None,
            headers=(*delivery.headers, *(delivery.signed(time.time()) if delivery.signed else ())),
            allow_redirects=False,
        ) as answer:
            listens = delivery.answered is not None
            return answer.status, await beginning(answer.content) if listens else b""

    def _log(
        self,
        n: int,
        delivery: Delivery,
        *,
        at_ms: int | None = None,
        status: int | None = None,
        error: str | None = None,
        answer: bytes = b"",
    ) -> None:
        self._truth.write(
            Delivered(
                run=self._truth.run,
                n=n,
                at_ms=int(time.time() * 1000) if at_ms is None else at_ms,
                object_id=delivery.object_id,
                method=delivery.method,
                url=without_credentials(delivery.url)[:URL_CHARACTERS_MAX],
                body=delivery.body.decode("utf-8", "replace"),
                status=status,
                error=error,
                answer=answer.decode("utf-8", "replace")[:ANSWER_CHARACTERS_MAX]
                if delivery.answered
                else msgspec.UNSET,
                fallback=delivery.fallback or msgspec.UNSET,
            )
        )

    async def close(self) -> None:
        """Send nothing more."""
        waiting = list(self._waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if self._session is not None:
            await self._session.close()


async def beginning(content: aiohttp.StreamReader) -> bytes:
    """As much of a body as is listened to."""
    read = bytearray()
    async for piece in content.iter_any():
        read += piece[: ANSWER_BYTES_MAX - len(read)]
        if len(read) == ANSWER_BYTES_MAX:
            break
    return bytes(read)


class NearResolver(AbstractResolver):
    """Looks names up, and finds only what is near."""

    def __init__(self) -> None:
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        near = [address for address in found if is_near_address(address["host"])]
        if not near:
            raise OSError(ELSEWHERE)
        return near

    async def close(self) -> None:
        await self._system.close()


def is_near(host: str) -> bool:
    """Whether a host may be called, or at least looked up."""
    try:
        return is_near_address(host)
    except ValueError:
        name = host.lower().rstrip(".")
        return bool(name) and ("." not in name or name.endswith(LOCAL_SUFFIXES))


def is_near_address(address: str) -> bool:
    """Whether an address is loopback or private. Raises ValueError where it is none."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in NETWORKS)


def without_credentials(url: str) -> str:
    """A URL as the truth log shows it: a user name and password in it are replaced by their fingerprint."""
    try:
        authority = urlsplit(url).netloc
    except ValueError:
        return f"no URL: {fingerprint(url)}"
    secret, at, host = authority.rpartition("@")
    return url.replace(authority, f"{fingerprint(secret)}@{host}", 1) if at else url
