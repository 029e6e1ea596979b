"""A gateway between raw clients and a provider that notes every byte, and what may have come of what was sent.

The judge has four witnesses: what a client sent, as `wire` reads it; what it got; what the provider got; the spool.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gateway.limits import ClientLimits
from tests.edge import wire
from tests.edge.wire import Answer, Malformed, Request
from tests.gateway.peers import PATIENCE_S, client, eventually
from tests.gateway.proxied import (
    ALL_KEYS,
    COMPLETION,
    OTHER,
    OWN,
    OWN_KEY,
    OWN_MAIL_KEY,
    OWN_SID,
    PLATFORM_KEY,
    PLATFORM_MAIL_KEY,
    Proxied,
    chat,
    proxied,
    sid_of,
)

CHAT = b"/openai/v1/chat/completions"
BODY = chat()
COMPLETED = json.dumps(COMPLETION).encode()

MARK = b"mark#########"
"""Stands in what is to be sent for the mark of its conversation."""
_MARK = re.compile(rb"mark[0-9a-f]{9}")

QUIET_S = 0.3
"""Where a request is left half sent, its connection is left after so long without a byte: it would never end."""

CONVERSATIONS_MAX = 64
"""So many at once."""

SEGMENT_BYTES = 8 << 20
"""Of the spool: holds the records of so many calls at once."""

OURS = re.compile(rb"(?i)x[-_]gateway[-_].*|x[-_]tenant[-_]id")
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"te",
        b"trailer",
        b"upgrade",
        b"expect",
    )
)


def marker(*, close: bool = True) -> bytes:
    """An ordinary call of another tenant, which follows on the same connection."""
    return (
        b"POST " + CHAT + b" HTTP/1.1\r\nHost: gateway.example\r\nX-Mark: " + MARK + b"z\r\n"
        b"Authorization: Bearer " + OTHER.encode() + (b"\r\nConnection: close" if close else b"") + b"\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    )


class Seen(NamedTuple):
    """A request as the provider got it."""

    number: int
    """Told in the answer, so that it is known whose answer went to whom."""
    request: Request


class RecordingProvider:
    """Answers everything with a completion, and reads nothing leniently."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: dict[bytes, list[Seen]] = {}
        """By mark."""
        self.count = 0
        self.wrong: list[bytes] = []
        """What came that is no request, or came where none was awaited, or of which nobody knows whose it is."""
        self.connections = 0

    def take(self, request: Request, raw: bytes) -> int:
        self.count += 1
        found = _MARK.search(raw)
        if found is None:
            self.wrong.append(raw)
        else:
            self.seen.setdefault(found[0], []).append(Seen(self.count, request))
        return self.count


class _ProviderSide(asyncio.Protocol):
    def __init__(self, provider: RecordingProvider) -> None:
        self._provider = provider
        self._transport: asyncio.WriteTransport
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._provider.connections += 1

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            read = None if self._data[:1] in b"\r\n" else wire.read_request(self._data)
        except Malformed:
            self._provider.wrong.append(self._data)
            self._transport.abort()
            return
        if read is None:
            return
        request, end = read
        if end < len(self._data):
            self._provider.wrong.append(self._data)  # Nothing may follow a request before it is answered.
        number = self._provider.take(request, self._data[:end])
        self._data = b""
        body = b"" if request.method == b"HEAD" else COMPLETED
        head = b"HTTP/1.1 200 OK\r\nX-Number: %d\r\nContent-Length: %d\r\n\r\n" % (number, len(COMPLETED))
        self._transport.write(head + body)


class _ClientSide(asyncio.Protocol):
    def __init__(self, mark: bytes, said: bytes) -> None:
        self.mark = mark
        self.said = said
        self.got = bytearray()
        self.transport: asyncio.WriteTransport
        self._sent = 0
        self._ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def send(self, end: int | None) -> None:
        """Send up to there, unless all is over; what was sent before is not sent again."""
        if not self._ended.done():
            self.transport.write(self.said[self._sent : end])
        self._sent = end or len(self.said)

    async def end(self, quiet_s: float) -> bool:
        """Wait for the end of the connection; False if it has been quiet for so long."""
        size = -1
        while not self._ended.done():
            if size == len(self.got):
                return False
            size = len(self.got)
            await asyncio.wait((self._ended,), timeout=quiet_s)
        return True


class Told(NamedTuple):
    """What came of a conversation."""

    sent: bytes
    answers: list[Answer]
    ended: bool
    """True if the gateway ended the connection, False if the client had to."""
    seen: list[Seen]
    raw: bytes


@dataclass
class Edge:
    """A gateway between two raw sides."""

    proxied: Proxied
    provider: RecordingProvider
    told: int = 0
    crowd: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONVERSATIONS_MAX))

    @property
    def port(self) -> int:
        return self.proxied.port

    async def tell(self, template: bytes, *, quiet_s: float = PATIENCE_S) -> Told:
        """Send this on a connection of its own, and wait until the connection ends, or has been quiet for so long."""
        async with self.crowd:
            conversation = await self._begun(template)
            conversation.send(None)
            return await self._end(conversation, quiet_s)

    async def tell_cut(self, template: bytes, cuts: Sequence[int]) -> list[Told]:
        """Send this in two pieces, cut at each of these places; the gateway has read the first before the second leaves."""
        told = []
        for start in range(0, len(cuts), CONVERSATIONS_MAX):
            some = cuts[start : start + CONVERSATIONS_MAX]
            conversations = [await self._begun(template) for _ in some]
            for conversation, cut in zip(conversations, some, strict=True):
                conversation.send(cut)
            # Whoever has answered what came later has read what came before.
            for _ in range(2):
                async with client(self.port) as peer:
                    await peer.send(b"GET /healthz HTTP/1.1\r\nHost: gateway.example\r\n\r\n")
                    await peer.message()
            for conversation in conversations:
                conversation.send(None)
            told += await asyncio.gather(*(self._end(conversation, PATIENCE_S) for conversation in conversations))
        return told

    async def _begun(self, template: bytes) -> _ClientSide:
        self.told += 1
        mark = b"mark%09x" % self.told
        loop = asyncio.get_running_loop()
        _, side = await loop.create_connection(
            lambda: _ClientSide(mark, template.replace(MARK, mark)), "127.0.0.1", self.port
        )
        return side

    async def _end(self, side: _ClientSide, quiet_s: float) -> Told:
        reading = wire.read_requests(side.said)
        ended = await side.end(QUIET_S if reading.waiting else quiet_s)
        side.transport.abort()
        got = bytes(side.got)
        try:
            answers = wire.read_answers(got, tuple(request.method for request in reading.requests))
        except Malformed as error:
            raise AssertionError(f"no sequence of answers ({error}): {got!r} to {side.said!r}") from error
        return Told(side.said, answers, ended, self.provider.seen.get(side.mark, []), got)

    async def recorded(self) -> None:
        """Wait until all is recorded, and check that the spool has what the provider answered, and nothing else is wrong."""
        spooled = self.proxied.order
        await eventually(lambda: spooled.count("outcome") + spooled.count("closed") >= spooled.count("intent"))
        tenants = Counter(event.tenant_id for event in self.proxied.events)

        assert self.provider.wrong == [], self.provider.wrong[:1]
        assert tenants.total() == self.provider.count, (tenants, self.provider.count)
        owned = sum(
            (name, value) in _OWN_CREDENTIALS
            for conversation in self.provider.seen.values()
            for seen in conversation
            for name, value in seen.request.headers
        )
        assert tenants["own"] == owned, (tenants, owned)
        log = json.dumps(self.proxied.lines)
        assert not _MARK.search(log.encode())
        assert not any(key in log for key in ALL_KEYS)


@asynccontextmanager
async def standing(directory: Path) -> AsyncIterator[Edge]:
    """A gateway before a recording provider."""
    provider = RecordingProvider()
    server = await asyncio.get_running_loop().create_server(lambda: _ProviderSide(provider), "127.0.0.1", 0)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        # A machine that is busy is no defect: nothing is shed here for coming late.
        limits = ClientLimits(lag_max_s=PATIENCE_S)
        async with proxied(
            directory,
            provider,  # type: ignore[arg-type]  Its port is all that is asked of it.
            segment_bytes=SEGMENT_BYTES,
            client_limits=limits,
        ) as made:
            yield Edge(made, provider)
    finally:
        server.close()


def sent_on(target: bytes) -> bytes | None:
    """What the provider is to see of a target: its very bytes after the mount; None if no provider may see it."""
    _, _, rest = target.partition(b"/")
    name, slash, rest = rest.partition(b"/")
    if not slash or name not in (b"openai", b"twilio", b"sendgrid"):
        return None
    rest = b"/" + rest
    if name == b"twilio":
        product = re.match(rb"/[^/?]*", rest)
        assert product is not None
        if product[0] != b"/2010-04-01":
            rest = rest[product.end() :]
            rest = rest if rest.startswith(b"/") else b"/" + rest
        rest = rest.replace(sid_of("own").encode(), OWN_SID.encode())
    return rest


_OWN_CREDENTIALS = (
    (b"Authorization", b"Bearer " + OWN_KEY.encode()),
    (b"Authorization", b"Bearer " + OWN_MAIL_KEY.encode()),
    (b"Authorization", b"Basic " + base64.b64encode(f"{OWN_SID}:its-token".encode())),
)
_CREDENTIALS = frozenset(
    (b"Authorization", b"Bearer " + key.encode()) for key in (OWN_KEY, PLATFORM_KEY, OWN_MAIL_KEY, PLATFORM_MAIL_KEY)
)


def problem(edge: Edge, told: Told) -> str | None:
    """What is wrong with a conversation, whatever was sent; None if nothing is."""
    asked = list(wire.read_requests(told.sent).requests)
    for seen in told.seen:
        found = f"the provider got what was not sent: {seen.request}"
        while found and asked:
            candidate = asked.pop(0)
            if _same(candidate, seen.request):
                found = _added(edge, candidate, seen.request)
        if found:
            return found
    numbers = [int(number) for answer in told.answers if (number := answer.get(b"x-number")) is not None]
    expected = [seen.number for seen in told.seen]
    if numbers != (expected if told.ended else expected[: len(numbers)]):
        return f"answers {numbers} to requests {expected}"
    for position, answer in enumerate(told.answers, 1):
        if not (answer.status < 500 or answer.status in (501, 505)):
            return f"status {answer.status}"
        # The head of a HEAD may be answered before its body turns out to be none: then there is no request here.
        if not answer.whole and told.ended and (answer.body or b"HEAD " not in told.sent):
            return "half an answer"
        if answer.get(b"connection") == b"close" and position < len(told.answers):
            return "an answer after the last one"
        if answer.status >= 400 and (_MARK.search(answer.body) or _holds_key(told.raw)):
            return "an answer that quotes the request"
    return None


def _same(asked: Request, seen: Request) -> bool:
    # A header in which a key of ours stands is cut.
    marks = [mark for mark in asked.all(b"x-mark") if not _holds_key(mark)]
    return (asked.method, asked.body, marks, sent_on(asked.target)) == (
        *(seen.method, seen.body, seen.all(b"x-mark"), seen.target),
    )


def _holds_key(value: bytes) -> bool:
    return any(key.encode() in value for key in ALL_KEYS)


def _added(edge: Edge, asked: Request, seen: Request) -> str:
    """What a forwarded request has that it may not have; empty if there is nothing."""
    own = {(b"Host", b"127.0.0.1:%d" % edge.provider.port), (b"Content-Length", b"%d" % len(seen.body))}
    own |= {(b"Transfer-Encoding", b"chunked"), (b"Accept-Encoding", b"identity")} | _CREDENTIALS
    came = set(asked.headers)
    for header in seen.headers:
        name = header[0].lower()
        if header in own:
            continue
        if header not in came and not header[1].startswith(b"Basic "):
            return f"a header that was not sent: {header}"
        if name in HOP_BY_HOP or OURS.fullmatch(name):
            return f"a header that was not to cross: {header}"
        if name in (b"host", b"authorization", b"content-length", b"transfer-encoding") and header not in own:
            if name == b"authorization" and header[1].startswith(b"Basic "):
                continue
            # Beside a gateway key stands the application's own credential, and what is no key of ours is one.
            if name == b"authorization" and asked.all(b"x-gateway-key") and not _holds_key(header[1]):
                continue
            return f"a header of the client's where ours belongs: {header}"
        if _holds_key(header[1]):
            return f"a key of ours: {header[0]!r}"
    return ""


def post(
    *headers: bytes,
    target: bytes = CHAT,
    body: bytes = b"{}",
    length: bool = True,
    host: bytes | None = b"gateway.example",
    version: bytes = b"HTTP/1.1",
    method: bytes = b"POST",
) -> bytes:
    """A request of a tenant that has credentials of its own: nothing keeps it from being forwarded but its form."""
    lines = [b"%b %b %b" % (method, target, version)]
    if host is not None:
        lines.append(b"Host: " + host)
    lines += [b"X-Mark: " + MARK + b"a", b"Authorization: Bearer " + OWN.encode(), *headers]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(*headers: bytes, target: bytes = b"/openai/v1/models", **more: bytes | None) -> bytes:
    return post(*headers, target=target, body=b"", length=False, method=b"GET", **more)  # type: ignore[arg-type]
