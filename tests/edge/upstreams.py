"""Providers that answer badly, and clients that believe nothing.

A provider here answers each call that names a case with the bytes of that case, and every other call with a marker of
its own. A client reads what it gets by the letter of RFC 9112, so that only what is whole beyond doubt looks whole.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from metering.intents import Closed, Intent
from metering.usage import UsageEvent
from tests.gateway.peers import Message, Peer, answer, client, provider, soon
from tests.gateway.proxied import ACME, CHAT, COMPLETION, OWN, Proxied, chat, proxied, request, sid_of

JSON = b"Content-Type: application/json"
WHOLE = json.dumps(COMPLETION).encode()
READ = "/openai/v1/responses/resp_abc"

Then = Literal["stay", "close", "reset"]
"""What a provider does after its answer: listen on, end the connection in order, or reset it."""


# ---------------------------------------------------------------------------------------------------------------------
# Calls


def _basic(user: str, password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def completion(*headers: str, **fields: object) -> bytes:
    return request(CHAT, chat(**fields), *headers)


def message(*headers: str) -> bytes:
    account = sid_of("acme")
    form = "Content-Type: application/x-www-form-urlencoded"
    path = f"/twilio/2010-04-01/Accounts/{account}/Messages.json"
    return request(
        path, b"To=%2B12025550143&From=%2B18005550199&Body=Hi", _basic(account, ACME), form, *headers, key=None
    )


def mail(*headers: str) -> bytes:
    told = {
        "personalizations": [{"to": [{"email": "ada@example.com"}]}],
        "from": {"email": "toll@example.com"},
        "subject": "Hi",
        "content": [{"type": "text/plain", "value": "Hi"}],
    }
    return request("/sendgrid/v3/mail/send", json.dumps(told).encode(), *headers)


def read(*headers: str, method: str = "GET") -> bytes:
    return request(READ, b"", *headers, key=OWN, method=method)


CALLS = {"a chat completion": completion, "a message": message, "a mail": mail, "a read": read}

_markers = itertools.count()


def marked(marker: str, *, close: bool = True) -> bytes:
    """A read whose answer is this marker."""
    return request(READ, b"", f"X-Marker: {marker}", key=OWN, method="GET", close=close)


def as_http10(call: bytes) -> bytes:
    return call.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)


# ---------------------------------------------------------------------------------------------------------------------
# The provider


@dataclass
class Telling:
    """A script: a call that names no marker gets this answer, in these pieces, and then the connection does as told."""

    pieces: Sequence[bytes]
    then: Then = "stay"
    calls: int = 0
    """How many calls without a marker came."""
    spoilt: dict[Peer, asyncio.Event] = field(default_factory=dict)
    """The connections on which the answer was given; set once the gateway has ended them."""
    misused: int = 0
    """How many further requests came on those."""
    at_rest: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once all pieces were sent. What comes later than the next request is, for all that anybody can know, its answer."""

    async def __call__(self, peer: Peer) -> None:
        try:
            while True:
                asked = await peer._message(bodiless=False)
                self.misused += peer in self.spoilt
                marker = asked["x-marker"]
                if marker is not None:
                    await peer.send(answer(marker.encode(), JSON))
                elif not await self._tell(peer):
                    return
        finally:
            if peer in self.spoilt:
                self.spoilt[peer].set()

    async def _tell(self, peer: Peer) -> bool:
        self.calls += 1
        self.spoilt[peer] = asyncio.Event()
        self.at_rest.clear()
        try:
            for number, piece in enumerate(self.pieces):
                if number:
                    await turns()
                await peer.send(piece)
        finally:
            self.at_rest.set()
        if self.then == "reset":
            await turns()  # A reset overtakes what was sent at the same moment.
            peer.reset()
        return self.then == "stay"

    async def ended(self) -> None:
        """Wait until the gateway has ended each connection on which the answer was given."""
        for ending in self.spoilt.values():
            await soon(ending.wait())


async def turns(number: int = 4) -> None:
    """Let everything that shares this loop take what was sent to it: over loopback it has arrived when `send` returns."""
    for _ in range(number):
        await asyncio.sleep(0)


@asynccontextmanager
async def before(directory: Path, script: Telling) -> AsyncIterator[Proxied]:
    """A gateway before a provider that follows the script."""
    async with provider(script) as serving, proxied(directory, serving) as made:
        yield made


# ---------------------------------------------------------------------------------------------------------------------
# The client

STATUS_LINE = re.compile(rb"HTTP/1\.1 [2-9][0-9]{2} [\t\x20-\x7e\x80-\xff]*")
FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: ?[\x21-\x7e\x80-\xff]?[\t\x20-\x7e\x80-\xff]*")
CHUNK = re.compile(rb"[0-9A-Fa-f]{1,16}\r\n")


@dataclass(frozen=True)
class Got:
    """What a client got, read by the letter."""

    head: Message
    body: bytes
    whole: bool
    """True if nothing about it tells that something is missing."""

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def refused(self) -> bool:
        """True if the gateway itself said that the provider's answer is of no use."""
        return self.whole and self.status == 502 and self.head["x-tollkeeper-error"] == "upstream_broke"


class BadAnswer(AssertionError):
    """The gateway itself sent what is no HTTP."""


async def got(peer: Peer, *, method: str = "POST", version: str = "1.1") -> Got | None:
    """The next answer, read by the letter; None if the connection ended before its head."""
    try:
        head = await soon(peer.message(bodiless=True))
    except (EOFError, ConnectionError):
        return None
    lines = head.raw[:-4].split(b"\r\n")
    if not STATUS_LINE.fullmatch(lines[0]) or not all(FIELD.fullmatch(line) for line in lines[1:]):
        raise BadAnswer(head.raw[:200])
    lengths, codings = head.all("content-length"), head.all("transfer-encoding")
    if len(lengths) > 1 or (codings and (codings != ["chunked"] or lengths or version == "1.0")):
        raise BadAnswer(head.raw[:200])
    if head.status == 204 and (lengths or codings):
        raise BadAnswer(head.raw[:200])
    if method == "HEAD" or head.status in (204, 304):
        return Got(head, b"", whole=True)
    if codings:
        return Got(head, *await _chunks(peer))
    if lengths:
        if re.fullmatch(r"0|[1-9][0-9]*", lengths[0]) is None:
            raise BadAnswer(head.raw[:200])
        return Got(head, *await _length(peer, int(lengths[0])))
    if head["connection"] != "close":
        raise BadAnswer(head.raw[:200])
    return Got(head, *await _until_close(peer))


async def _length(peer: Peer, length: int) -> tuple[bytes, bool]:
    body = b""
    try:
        while len(body) < length and (piece := await soon(peer.reader.read(length - len(body)))):
            body += piece
    except ConnectionError:
        return body, False
    return body, len(body) == length


async def _until_close(peer: Peer) -> tuple[bytes, bool]:
    body = b""
    try:
        while piece := await soon(peer.reader.read(1 << 16)):
            body += piece
    except ConnectionError:
        return body, False
    return body, True


async def _chunks(peer: Peer) -> tuple[bytes, bool]:
    body: list[bytes] = []
    try:
        while True:
            line = await soon(peer.reader.readuntil(b"\r\n"))
            if not CHUNK.fullmatch(line):
                raise BadAnswer(line)
            size = int(line, 16)
            data = await soon(peer.reader.readexactly(size + 2))
            if data[-2:] != b"\r\n":
                raise BadAnswer(data[-20:])
            if not size:
                return b"".join(body), True
            body.append(data[:-2])
    except (asyncio.IncompleteReadError, ConnectionError):
        return b"".join(body), False


async def asked(made: Proxied, call: bytes) -> Got | None:
    """Ask on a new connection, and then for a marker: on the same connection as long as it is open, and on a new one.

    Whatever became of the call, each marker is answered by itself alone, and after it the connection ends.
    """
    method, version = call.split(b" ", 1)[0].decode(), "1.0" if b" HTTP/1.0\r\n" in call else "1.1"
    marker = f"marker-{next(_markers)}"
    async with client(made.port) as peer:
        peer.writer.write(call)
        answered = await got(peer, method=method, version=version)
        script = made.provider.script
        if isinstance(script, Telling):
            await soon(script.at_rest.wait())
            await turns()
        open_still = (
            answered is not None
            and answered.whole
            and answered.head["connection"] == ("keep-alive" if version == "1.0" else None)
        )
        if open_still:
            peer.writer.write(marked(marker))
            await expect(peer, marker)
        elif await peer.rest():
            raise BadAnswer(bytes(peer.seen[-200:]))
    async with client(made.port) as peer:
        peer.writer.write(marked(marker + "-apart"))
        await expect(peer, marker + "-apart")
    return answered


async def expect(peer: Peer, marker: str) -> None:
    """The next answer is this marker and nothing else, and it is the last one."""
    answered = await got(peer, method="GET")
    if answered is None or (answered.status, answered.body, answered.whole) != (200, marker.encode(), True):
        raise BadAnswer(answered)
    if await peer.rest():
        raise BadAnswer(bytes(peer.seen[-200:]))


# ---------------------------------------------------------------------------------------------------------------------
# The ledger's side


def ends(made: Proxied) -> Counter[str]:
    """How often each call that was begun was ended: once, if all is well."""
    found: Counter[str] = Counter()
    for record in made.records:
        if isinstance(record, Intent):
            found[record.call_id] += 0
        elif isinstance(record, Closed) or record.call_id in found:
            found[record.call_id] += 1
    return found


def billed(made: Proxied) -> list[UsageEvent]:
    """The events of calls that could be billed: reads and markers are none."""
    begun = ends(made)
    return [event for event in made.events if event.call_id in begun]


def ended_once(made: Proxied, calls: int) -> bool:
    """True if so many billable calls were begun, and each was ended once."""
    return sorted(ends(made).values()) == [1] * calls
