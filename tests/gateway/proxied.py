"""A proxy for a test: real listener, real connections to a scripted provider, a real spool that can be made to refuse."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from gateway import keys, snapshot
from gateway.acceptor import bound
from gateway.access_log import AccessLog
from gateway.callback_addresses import CallbackAddresses
from gateway.callers import Callers
from gateway.cost_estimates import CostEstimates
from gateway.counters import Counters
from gateway.departures import Departures
from gateway.estimator import Estimator
from gateway.keys import Secrets
from gateway.limits import ClientLimits, UpstreamLimits
from gateway.listener import Listener
from gateway.providers import PROVIDERS
from gateway.proxy import Proxy, Rules
from gateway.recorder import Recorder
from gateway.request_body import HeldBodies
from gateway.routing import Routes
from gateway.snapshot import KeyRecord, Snapshot, SnapshotFile, TenantRecord
from gateway.upstream import Origin, Upstream
from metering.database import DatabaseUnavailable
from metering.intents import Closed, Intent
from metering.spool import Spool, SpoolFailed, SpoolFull
from metering.spool_records import RecordKind, scan, seed_of
from metering.usage import UsageEvent
from pricing.catalogue import load_books
from tests.gateway.peers import Message, Provider, answer, client, eventually, soon

SECRETS = Secrets.derived("the secret of these tests")
PLATFORM_KEY = "sk-platform-0123456789"
OWN_KEY = "sk-of-the-tenant-itself"

REAL_SID = "AC" + "5eed" * 8
"""The platform's account with the provider, which no tenant may ever see."""
REAL_TOKEN = "the-auth-token-of-the-platform"
OWN_SID = "AC" + "0cafe0" * 5 + "00"
PLATFORM_MAIL_KEY = "SG.of-the-platform"
OWN_MAIL_KEY = "SG.of-the-tenant-itself"


def sid_of(tenant_id: str) -> str:
    """The account that a tenant knows."""
    return "AC" + tenant_id.encode().hex().rjust(32, "1")


def made_up_key(name: str) -> tuple[str, str]:
    """A key of the form that they have, the same in each run: its id, and the whole key."""
    told = hashlib.sha256(name.encode()).hexdigest()
    return told[:12], f"tk_{told[:12]}_{told[-43:]}"


ACME_ID, ACME = made_up_key("acme")
OTHER_ID, OTHER = made_up_key("other")
OWN_ID, OWN = made_up_key("own")
SERVICE_ID, SERVICE = made_up_key("service")
UNMETERED_ID, UNMETERED = made_up_key("unmetered")
EXPIRED_ID, EXPIRED = made_up_key("expired")
SUSPENDED_ID, SUSPENDED = made_up_key("suspended")
ALL_KEYS = (ACME, OTHER, OWN, SERVICE, UNMETERED, EXPIRED, SUSPENDED)

CHAT = "/openai/v1/chat/completions"
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
COMPLETION = {
    "id": "chatcmpl-1",
    "model": "gpt-4o-2024-08-06",
    "choices": [{"message": {"content": "Hi"}}],
    "usage": USAGE,
}
QUANTITIES = {"input_tokens": 7, "output_tokens": 2}
JSON = b"Content-Type: application/json"
WHOLE = json.dumps(COMPLETION).encode()
COMPLETED = answer(WHOLE, JSON)


def held() -> Snapshot:
    """The tenants and keys of these tests."""

    def key(key_id: str, text: str, tenant_id: str | None, *scopes: str, **more: Any) -> KeyRecord:
        digest = SECRETS.digest(text).hex()
        return KeyRecord(
            key_id=key_id, digest=digest, tenant_id=tenant_id, scopes=frozenset(scopes or ("proxy",)), **more
        )

    def tenant(tenant_id: str, status: str = "active", **credentials: str) -> TenantRecord:
        return TenantRecord(tenant_id=tenant_id, status=status, account_sid=sid_of(tenant_id), credentials=credentials)

    records = (
        key(ACME_ID, ACME, "acme"),
        key(OTHER_ID, OTHER, "other"),
        key(OWN_ID, OWN, "own"),
        key(SERVICE_ID, SERVICE, None),
        key(UNMETERED_ID, UNMETERED, "acme", "proxy", "metering:off"),
        key(EXPIRED_ID, EXPIRED, "acme", expires_at_ms=1),
        key(SUSPENDED_ID, SUSPENDED, "suspended"),
    )
    tenants = (
        tenant("acme"),
        tenant("other"),
        tenant(
            "own",
            openai=SECRETS.seal({"api_key": OWN_KEY}, owner="own"),
            twilio=SECRETS.seal({"account_sid": OWN_SID, "auth_token": "its-token"}, owner="own"),
            sendgrid=SECRETS.seal({"api_key": OWN_MAIL_KEY}, owner="own"),
        ),
        tenant("moved", openai=SECRETS.seal({"api_key": OWN_KEY}, owner="own")),
        tenant("suspended", "suspended"),
    )
    return Snapshot(
        version=snapshot.VERSION,
        keys={record.key_id: record for record in records},
        tenants={made.tenant_id: made for made in tenants},
    )


class Remembered:
    """Who made what, in memory."""

    def __init__(self) -> None:
        self.owned: set[tuple[str, str, str]] = set()
        self.unavailable = False

    def made(self, tenant_id: str, source: str, object_id: str) -> None:
        self.owned.add((tenant_id, source, object_id))

    async def owns(self, tenant_id: str, source: str, object_id: str) -> bool:
        if self.unavailable:
            raise DatabaseUnavailable("down")
        return (tenant_id, source, object_id) in self.owned


hashed = partial(keys.reference, SECRETS.reference)
"""What stands in records for a number or an address."""


class WatchedSpool:
    """A spool that tells when something is recorded, and refuses or waits when the test wants it to."""

    def __init__(self, spool: Spool, order: list[str]) -> None:
        self._spool = spool
        self._order = order
        self.fsync = False
        self.refusing: set[str] = set()
        self.refused: Callable[[str], None] = print
        """What is told when a turn ends badly."""
        self.refusing_then: set[str] = set()
        """What is refused once an outcome was taken."""
        self.syncs: asyncio.Semaphore | None = None
        """How often the disk may still sync; None for as often as it is asked to."""

    def _told(self, what: str) -> None:
        if what in self.refusing:
            raise SpoolFailed("refused by the test")
        self._order.append(what)

    def admit(self, payload: bytes) -> int:
        self._told("intent")
        return self._spool.admit(payload)

    def settle(self, intent: int, kind: RecordKind, payload: bytes) -> None:
        self._told(kind.name.lower())
        self._spool.settle(intent, kind, payload)
        if kind is RecordKind.OUTCOME:
            self.refusing |= self.refusing_then

    def note(self, payload: bytes) -> None:
        self._told("note")
        self._spool.note(payload)

    def keep_room(self) -> None:
        if "room" in self.refusing:
            raise SpoolFull("refused by the test")
        self._spool.keep_room()

    def note_kept(self, payload: bytes) -> None:
        self._told("note")
        self._spool.note_kept(payload)

    def give_back_room(self) -> None:
        self._spool.give_back_room()

    def ensure_room(self) -> None:
        self._spool.ensure_room()

    def write_gathered(self) -> None:
        if "write" in self.refusing:
            raise SpoolFailed("refused by the test")
        self._spool.write_gathered()

    def end_turn(self) -> None:
        self._spool.write_gathered()
        if "turn" in self.refusing:
            # Only once: in the next one, nothing is recorded that could be refused.
            self.refusing.discard("turn")
            self.refused("refused by the test")
            raise SpoolFailed("refused by the test")

    async def durable(self) -> None:
        if self.syncs is not None:
            await self.syncs.acquire()
        self._order.append("durable")


@dataclass
class Proxied:
    """What a test has in hand."""

    provider: Provider
    directory: Path
    order: list[str] = field(default_factory=list)
    """What happened, in order: records of the spool, and what the scripts of client and provider add."""
    objects: Remembered = field(default_factory=Remembered)
    held: HeldBodies = field(default_factory=HeldBodies)
    port: int = 0
    spool: WatchedSpool = field(init=False)
    listener: Listener = field(init=False)
    proxy: Proxy = field(init=False)
    published: SnapshotFile = field(init=False)
    access_log: AccessLog = field(init=False)

    def publish(self, tenant: TenantRecord) -> None:
        """A tenant as it is from now on; the worker has looked."""
        current = self.published.current
        tenants = {**current.tenants, tenant.tenant_id: tenant}
        snapshot.write(self.directory.parent / "snapshot.json", msgspec.structs.replace(current, tenants=tenants))
        self.published.refresh()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The access log, as far as it goes."""
        self.access_log.flush()
        return [json.loads(line) for line in self.logged.read_bytes().splitlines()]

    @property
    def logged(self) -> Path:
        return self.directory.parent / "access-log"

    @property
    def spooled(self) -> bytes:
        return b"".join(path.read_bytes().rstrip(b"\0") for path in sorted(self.directory.glob("*.spool")))

    @property
    def records(self) -> list[Any]:
        types = {RecordKind.INTENT: Intent, RecordKind.OUTCOME: UsageEvent, RecordKind.CLOSED: Closed}
        records = [record for record in scan(self.spooled + bytes(64), 0, seed_of("test")) if hasattr(record, "kind")]
        return [
            msgspec.json.decode(record.payload, type=types[RecordKind(record.kind)])
            for record in records
            if record.kind in types
        ]

    @property
    def events(self) -> list[UsageEvent]:
        return [record for record in self.records if isinstance(record, UsageEvent)]

    @property
    def closed(self) -> list[str]:
        return [record.reason for record in self.records if isinstance(record, Closed)]

    async def ask(self, request: bytes, *, bodiless: bool = False) -> Message:
        """Send one request on a connection of its own, and read the answer."""
        async with client(self.port) as peer:
            peer.writer.write(request)
            return await peer.message(bodiless=bodiless)


def request(
    path: str = CHAT,
    body: bytes = b"{}",
    *headers: str,
    key: str | None = ACME,
    method: str = "POST",
    close: bool = False,
) -> bytes:
    """One request, as an SDK would send it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway.example", *headers]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if close:
        lines.append("Connection: close")
    if body or method not in ("GET", "HEAD", "DELETE"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]} | fields).encode()


def snapshot_in(directory: Path) -> SnapshotFile:
    """These tenants and keys, published."""
    directory.mkdir(parents=True, exist_ok=True)
    snapshot.write(directory / "snapshot.json", held())
    file = SnapshotFile(directory / "snapshot.json")
    file.refresh()
    return file


UNHURRIED = ClientLimits(lag_max_s=60)
"""What this machine does besides is no reason to refuse a call."""


@asynccontextmanager
async def proxied(
    directory: Path,
    provider: Provider,
    *,
    drain: bool = True,
    unlisted: bool = True,
    shared_reads: bool = False,
    segment_bytes: int = 1 << 20,
    credentials: bool = True,
    account_sid: str = REAL_SID,
    port: int | None = None,
    client_limits: ClientLimits | None = None,
    upstream_limits: UpstreamLimits | None = None,
    estimator: Estimator | None = None,
    public_url: str | None = None,
    held_bytes_max: int = 256 << 20,
) -> AsyncIterator[Proxied]:
    """A proxy before the provider; or before a port on which nobody listens. Without an estimator nothing is estimated."""
    made = Proxied(provider, directory / "spool")
    spool = Spool(made.directory, "test", fsync=False, segment_bytes=segment_bytes)
    spool.open()
    made.spool = WatchedSpool(spool, made.order)
    departures = Departures(made.spool.end_turn)
    spool.gather(departures.begin, departures.refuse)
    made.spool.refused = departures.refuse
    pool = Upstream(upstream_limits, departures=departures)
    await pool.open()

    def now_ms() -> int:
        return 1_800_000_000_000

    counters = Counters()
    made.held.bytes_max = held_bytes_max
    if estimator is None:
        estimator = Estimator()
        await estimator.close()
    made.published = snapshot_in(directory)
    logging = os.open(made.logged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    made.access_log = AccessLog(logging, as_json=True)
    made.proxy = Proxy(
        routes=Routes(PROVIDERS),
        callers=Callers(made.published, SECRETS, None),
        objects=made.objects,
        claims=None,  # type: ignore[arg-type]  No test of this folder's claims a call.
        recorder=Recorder(made.spool, made.objects, now_ms, hashed, counters),  # type: ignore[arg-type]
        upstream=pool,
        origins={
            (known.name, product): Origin.parsed(f"http://127.0.0.1:{port or provider.port}")
            for known in PROVIDERS
            for product in known.products
        },
        credentials={
            "openai": {"api_key": PLATFORM_KEY},
            "twilio": {"account_sid": account_sid, "auth_token": REAL_TOKEN},
            "sendgrid": {"api_key": PLATFORM_MAIL_KEY},
        }
        if credentials
        else {},
        secrets=SECRETS,
        rules=Rules(
            unlisted_forwarded=unlisted,
            drain_on_disconnect=drain,
            shared_reads=shared_reads,
        ),
        access_log=made.access_log,
        counters=counters,
        cost_estimates=CostEstimates(load_books),
        estimator=estimator,
        held=made.held,
        addresses=None if public_url is None else CallbackAddresses(public_url, SECRETS),
    )
    made.listener = Listener(made.proxy, client_limits or UNHURRIED, departures)
    listening = bound("127.0.0.1", 0)
    made.port = listening.getsockname()[1]
    await made.listener.open(listening, None)
    try:
        yield made
    finally:
        await made.listener.close(0)
        await pool.close()
        await eventually(lambda: not made.listener.busy)
        spool.close()
        made.access_log.flush()
        os.close(logging)


def sent(peer):
    """The one request that the provider got on a connection."""
    head, _, body = bytes(peer.seen).partition(b"\r\n\r\n")
    start, *lines = head.split(b"\r\n")
    return start, lines, body


def following(*steps):
    """A script of one connection: bytes are sent; an Event is waited for; a callable is called with the peer."""

    async def script(peer):
        await peer.message()
        for step in steps:
            if isinstance(step, bytes):
                await peer.send(step)
            elif isinstance(step, asyncio.Event):
                await soon(step.wait())
            else:
                step(peer)
        if not steps or isinstance(steps[-1], bytes):
            await peer.ended()

    return script


def frame(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST = b"0\r\n\r\n"


def shown(made, *answers):
    """Everything that a tenant or an operator gets to see of calls, and everything that is kept of them."""
    return made.spooled + str(made.lines).encode() + b"".join(got.raw for got in answers)
