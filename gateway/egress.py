"""The only way to a URL that an application gave us. Where it leads is a tenant's choice, so it is judged before it is taken.

A host is looked up once for each request, and the addresses that were judged are those that are connected to: a name
that leads elsewhere a moment later leads nowhere. All of them must be public, unless the operator named the host in
`callback_hosts`; and none may be the gateway itself, which would be calling itself for ever. No redirect is followed, no
proxy and no cookie is used, and nothing is inflated: what an application answers is bounded in bytes and in time.

Each request has a connection of its own. That costs a handshake, and no POST meets a connection that its server is just
closing, after which nobody could say whether it arrived.
"""

from __future__ import annotations

import asyncio
import io
import posixpath
import re
import socket
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias
from urllib.parse import unquote
from weakref import WeakValueDictionary

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

ANSWER_BYTES_MAX = 256 << 10
"""Of an answer so much is read; of what comes back to a provider, TwiML of 64 KiB is the longest."""

URL_CHARACTERS_MAX = 8000
"""A longer URL leads nowhere: common servers refuse it."""

AT_ONCE_MAX = 256
AT_ONCE_OF_HOST_MAX = 64
"""Further requests wait for one of these to end, within their own time; one slow host leaves most to the others."""

LOOKUPS_AT_ONCE_MAX = 32
"""Names are looked up in threads, which nothing can stop: beyond so many, further ones wait."""

LOOKUPS_OF_DOMAIN_MAX = 4
"""Of one domain, whose name server may never answer: further ones wait, and leave the threads to others."""

_NOT_PUBLIC = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
"""Why not `is_global`: what it answers has changed from one patch release of Python to the next."""

_PUBLIC_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_TRANSLATED = IPv6Network("64:ff9b::/96")
"""What stands for an IPv4 address where a network has none, which is its last 32 bits."""

Lookup: TypeAlias = Callable[[str, int], Sequence[str]]
"""(host, port) → its addresses. Blocks. Raises OSError."""


class EgressError(Exception):
    """A request that got no answer. The message holds nothing of the URL."""


class Forbidden(EgressError):
    """The URL is none that is called; the message says why, and what helps."""


class Unreachable(EgressError):
    """Nobody answers there, or what answers is not HTTP."""


class TooSlow(EgressError):
    """No answer began in time."""


class Answer(NamedTuple):
    """What an application answered."""

    status: int
    headers: Mapping[str, str]
    """By any spelling; of a repeated one, the first."""
    body: bytes
    """As it came: compressed, if the application does so unasked."""
    whole: bool
    """False where the body is longer than ANSWER_BYTES_MAX, broke off, or was too slow to end."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Which URLs are called."""

    callback_hosts: tuple[str, ...] = ()
    """Hosts, exactly and with a port or without, that may have any address."""
    public_url: str | None = None
    """Where the gateway itself is reached from outside."""
    own_ports: frozenset[int] = frozenset()
    """Where it listens on this machine."""

    def read(self, url: str) -> URL:
        """A URL that may be called, as far as it says so itself. Raises Forbidden."""
        if len(url) > URL_CHARACTERS_MAX:
            raise Forbidden(f"the URL is longer than {URL_CHARACTERS_MAX} characters")
        if not re.fullmatch(r"[\x21-\x7e]+", url) or "\\" in url:
            raise Forbidden("the URL holds a space, a backslash or a character outside ASCII")
        try:
            read = URL(url, encoded=True)
            host, port = read.raw_host, read.port
        except ValueError:
            raise Forbidden("it is not a URL") from None
        if read.scheme not in ("http", "https") or not host or not port:
            raise Forbidden("it is not an http or https URL")
        if "@" in read.raw_authority:
            raise Forbidden("the URL holds a user name or password; give it without")
        if self._is_ours(read):
            raise Forbidden("the URL is the gateway's own; give the application's")
        address = _literal(host)
        if address is not None:
            self.judge(host, port, [address])
        return read

    def judge(self, host: str, port: int, addresses: Sequence[str]) -> None:
        """Raises Forbidden where one of a host's addresses may not be connected to."""
        if port in self.own_ports and any(_is_of_this_machine(address) for address in addresses):
            raise Forbidden("the URL leads to the gateway itself; give the application's")
        if not self._named(host, port) and not all(is_public(address) for address in addresses):
            raise Forbidden(
                "its host has an address that is not public; the operator can name the host in "
                "TOLLKEEPER_CALLBACK_HOSTS"
            )

    def _named(self, host: str, port: int) -> bool:
        host = host.lower()
        shown = f"[{host}]" if ":" in host else host
        named = {one.lower() for one in self.callback_hosts}
        return not named.isdisjoint((host, shown, f"{shown}:{port}"))

    def _is_ours(self, url: URL) -> bool:
        if self.public_url is None:
            return False
        ours = URL(self.public_url, encoded=True)
        if (_bare(ours), ours.port) != (_bare(url), url.port):
            return False
        prefix = _plain_path(ours).rstrip("/")
        return f"{_plain_path(url)}/".startswith(f"{prefix}/")


def is_public(address: str) -> bool:
    """Whether everybody means the same by an address, and it is no group's."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        if found in _TRANSLATED:
            found = IPv4Address(int(found) & 0xFFFFFFFF)
        else:
            return found in _PUBLIC_V6 and not any(found in network for network in _NOT_PUBLIC_V6)
    return not any(found in network for network in _NOT_PUBLIC)


def looked_up(host: str, port: int) -> Sequence[str]:
    """All addresses of a host, in the system's order. Blocks. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Egress:
    """Sends to URLs of applications, and brings back what they answer."""

    def __init__(self, policy: Policy, lookup: Lookup = looked_up, tls: ssl.SSLContext | None = None) -> None:
        self.policy = policy
        """May change; what is under way keeps what it began with."""
        self._lookup = lookup
        self._tls = tls
        self._session: ClientSession | None = None
        self._threads: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE_MAX, thread_name_prefix="egress")
        self._session = ClientSession(
            timeout=ClientTimeout(),  # One of its own would not count the time that a name is looked up.
            connector=TCPConnector(
                resolver=_Judged(self, self._threads),
                use_dns_cache=False,
                limit=AT_ONCE_MAX,
                limit_per_host=AT_ONCE_OF_HOST_MAX,
                force_close=True,
                ssl=True if self._tls is None else self._tls,
            ),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def send(
        self, url: str, method: str, headers: Collection[tuple[str, str]], body: bytes, timeout_s: float
    ) -> Answer:
        """What is answered there. Raises Forbidden, Unreachable or TooSlow."""
        to = self.policy.read(url)
        assert self._session is not None
        answer: ClientResponse | None = None
        read = bytearray()
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    method,
                    to,
                    headers=[*headers, ("Accept-Encoding", "identity"), ("User-Agent", "Tollkeeper")],
                    data=io.BytesIO(body) if body else None,  # In pieces, so that a large one keeps nobody waiting.
                    allow_redirects=False,
                ) as answer,
            ):
                async for chunk in answer.content.iter_any():
                    read += chunk
                    if len(read) > ANSWER_BYTES_MAX:
                        break
                whole = len(read) <= ANSWER_BYTES_MAX
        except EgressError:
            raise
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            if answer is None:
                raise _as_ours(error) from error
            whole = False  # It has said what became of the request, and that is what counts.
        return Answer(answer.status, answer.headers, bytes(read[:ANSWER_BYTES_MAX]), whole)


class _Judged(AbstractResolver):
    """Looks up a name, and gives back none but judged addresses: those that are then connected to."""

    def __init__(self, egress: Egress, threads: ThreadPoolExecutor) -> None:
        self._egress = egress
        self._threads = threads
        self._of_domains: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """Room for look-ups, as long as somebody looks up there."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = await self._looked_up(host, port)
        if not addresses:
            raise OSError("no address")
        self._egress.policy.judge(host, port, addresses)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def _looked_up(self, host: str, port: int) -> Sequence[str]:
        domain = ".".join(host.lower().rstrip(".").rsplit(".", 2)[-2:])
        room = self._of_domains.setdefault(domain, asyncio.Semaphore(LOOKUPS_OF_DOMAIN_MAX))
        await room.acquire()
        looking = asyncio.get_running_loop().run_in_executor(self._threads, self._egress._lookup, host, port)  # noqa: SLF001
        # The thread goes on though nobody waits for it any more.
        looking.add_done_callback(lambda _: room.release())
        return await asyncio.shield(looking)

    async def close(self) -> None:
        """There is nothing to close; the threads are the egress'."""


def _as_ours(error: Exception) -> EgressError:
    if isinstance(error, TimeoutError):
        return TooSlow("no answer began in time")
    if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return Unreachable("its certificate is not valid, or it does not speak TLS")
    if isinstance(error, ValueError):
        return Forbidden("the URL or a header can not be sent")
    return Unreachable("nobody answers there, or what answers is not HTTP")


def _literal(host: str) -> str | None:
    try:
        return str(ip_address(host))
    except ValueError:
        return None


def _bare(url: URL) -> str:
    return (url.raw_host or "").lower().rstrip(".")


def _plain_path(url: URL) -> str:
    """The path as a server understands it that decodes it and does away with its dots."""
    return posixpath.normpath("/" + unquote(url.raw_path).lstrip("/"))


def _is_of_this_machine(address: str) -> bool:
    """Whether something that listens here can be reached at this address: only such can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
