"""What a worker consists of: the proxy and the webhooks behind one listener, the spool they record in, and its counters.

A worker asks the database nothing unless a call makes it: whom it may serve it reads from the snapshot.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from gateway import errors, installation
from gateway.acceptor import Share
from gateway.access_log import AccessLog
from gateway.accounts import NotAcceptable, NotPublished
from gateway.books import books_of
from gateway.call_ids import new_call_id
from gateway.callback_addresses import PREFIX, CallbackAddresses
from gateway.callers import Callers
from gateway.clock import now_ms
from gateway.cost_estimates import CostEstimates
from gateway.counters import WRITE_S, Counters
from gateway.departures import Departures
from gateway.doubts import Doubts
from gateway.egress import Egress
from gateway.estimator import Estimator
from gateway.idempotency import Claims
from gateway.keys import reference
from gateway.listener import CUT_S, Handler, Listener, by_prefix
from gateway.objects import BOOKED_S, LedgerObjects
from gateway.office import Office, as_json, inbox, policy, settle
from gateway.open_files import granted
from gateway.provider_access import origins, platform_credentials
from gateway.providers import PROVIDERS
from gateway.proxy import Proxy, Rules
from gateway.recorder import Recorder
from gateway.request_body import HeldBodies
from gateway.routing import Routes
from gateway.settings import OnDisconnect, ProxySettings, Settings, Unlisted
from gateway.snapshot import EMPTY, SnapshotFile
from gateway.supervisor import Life, StartRefused
from gateway.telemetry import log
from gateway.ticks import until_tick_s
from gateway.upstream import Upstream
from gateway.webhooks import Webhooks
from metering.database import DatabaseUnavailable
from metering.spool import Spool, SpoolFull

SNAPSHOT_LOOK_S = 0.25
"""Between two looks at the snapshot file: a change by another process is in force within a second."""

NEXT_REQUEST_S = 5.0
"""A worker that is replaced waits so long for one more request on each connection that is kept, to say that it is the
last there. Clients that keep connections for longer without using them know that they may find them closed."""


class Front:
    """The proxy with all it consists of, which new settings replace for the calls that begin from then on."""

    def __init__(self, office: Office, spool: Spool, counters: Counters, egress: Egress) -> None:
        settings = self.settings = office.settings
        self._office = office
        self._spool = spool
        self._counters = counters
        self._access_log = AccessLog(sys.stdout.fileno(), as_json=as_json(settings))
        self._objects = LedgerObjects(office.database, BOOKED_S if settings.postgres_url is not None else 0)
        self._recorder = Recorder(spool, self._objects, now_ms, partial(reference, office.secrets.reference), counters)
        departures = Departures(spool.write_gathered)
        spool.gather(departures.begin, departures.refuse)
        self._upstream = Upstream(departures=departures)
        self._estimator = Estimator()
        self._held = HeldBodies()
        self._tls = tls(settings)
        self._inbox = inbox(office)
        self._egress = egress
        limits = granted(settings.client_limits, settings.upstream_limits)
        self._listener = Listener(self._handler(settings), limits, departures)
        self._refused: str | None = None
        """Why the spool takes no call, as the log has it."""
        counters.look = self._look

    def _look(self) -> None:
        """Have it counted what is there now, and say it when the spool takes no calls, or takes them again."""
        self._spool.recover()
        if self._spool.refused != self._refused:
            self._refused = self._spool.refused
            if self._refused is None:
                log.info("spool_takes_calls_again", spool=self._spool.spool_id)
            else:
                log.error("spool_refuses_calls", spool=self._spool.spool_id, reason=self._refused)
        self._counters.saw(
            log_dropped=self._access_log.dropped,
            segments_given_up=self._spool.given_up,
            spool_failed=self._spool.refused is not None,
            under_way=len(self._listener.busy),
            open_calls=self._recorder.open_calls,
            clients=len(self._listener.connections),
            upstreams=self._upstream.connections,
        )

    def _handler(self, settings: Settings) -> Handler:
        """What handles requests: those of applications, and of providers that tell something by themselves."""
        public_url = settings.public_url
        addresses = None if public_url is None else CallbackAddresses(public_url, self._office.secrets)
        proxy = self._proxy(settings, addresses)
        webhooks = Webhooks(
            PROVIDERS,
            self._office.snapshot,
            addresses,
            platform_credentials(settings),
            self._office.secrets,
            self._objects,
            self._recorder,
            self._inbox,
            self._egress,
            self._counters,
            Doubts(installation.doubts_directory(settings)),
            shared_reads=settings.shared_reads,
        )
        self._egress.policy = policy(settings)
        return by_prefix(PREFIX, webhooks, proxy)

    def _proxy(self, settings: Settings, addresses: CallbackAddresses | None) -> Proxy:
        self._upstream.limits = settings.upstream_limits
        self._held.bytes_max = settings.proxy.held_mib_max << 20
        return Proxy(
            routes=Routes(settings.known_providers),
            callers=Callers(
                self._office.snapshot,
                self._office.secrets,
                self._create_tenant if settings.auto_create_tenants else None,
            ),
            objects=self._objects,
            claims=Claims(self._office.database, self._office.now),
            recorder=self._recorder,
            upstream=self._upstream,
            origins=origins(settings),
            credentials=platform_credentials(settings),
            secrets=self._office.secrets,
            cost_estimates=CostEstimates(partial(books_of, settings)),
            rules=Rules(
                unlisted_forwarded=settings.unlisted is Unlisted.FORWARD,
                drain_on_disconnect=settings.on_disconnect is OnDisconnect.DRAIN,
                shared_reads=settings.shared_reads,
                tls=settings.proxy.tls_cert is not None,
                public_url=settings.public_url,
            ),
            access_log=self._access_log,
            counters=self._counters,
            estimator=self._estimator,
            held=self._held,
            addresses=addresses,
        )

    async def _create_tenant(self, tenant_id: str) -> None:
        try:
            await self._office.accounts.ensure_tenant(tenant_id)
        except NotAcceptable as error:
            raise errors.TenantUnknown(
                "X-Tenant-ID can not be a tenant's id: letters, digits and . _ - are allowed."
            ) from error
        except (DatabaseUnavailable, NotPublished) as error:
            raise errors.NotRecordable("The tenant can not be created right now. Try again shortly.") from error

    def change(self, settings: Settings) -> None:
        """Put other settings in force. What has begun goes on as it began."""
        limits = granted(settings.client_limits, settings.upstream_limits)
        if self._tls is not None:
            _load_certificate(self._tls, settings.proxy)
        self._listener.change(self._handler(settings), limits)
        self._office.accounts.providers = settings.known_providers
        self.settings = settings

    def leave(self) -> None:
        """Say with each answer that it is the last of its connection."""
        self._listener.leaving = True

    @asynccontextmanager
    async def open(self, listening: socket.socket, life: Life, share: Share | None = None) -> AsyncIterator[None]:
        """Take calls there, until it is told to end; with a share, other workers do as well."""
        await self._upstream.open()
        await self._listener.open(listening, self._tls, share)
        settle()
        try:
            yield
            grace_s = self.settings.drain.timeout_s
            if not await self._listener.close(grace_s, NEXT_REQUEST_S if life.replaced else 0):
                log.warning("calls_cut", reason=f"still under way after {grace_s:g} s")
        finally:
            await self._upstream.close()
            # What they were cut off from is still to be recorded: as estimated, or where that takes too long as unknown.
            await self._listener.quiet(CUT_S)
            await self._estimator.close()
            await self._listener.quiet(CUT_S)
            self._access_log.flush()


@contextmanager
def open_spool(settings: Settings, number: int) -> Iterator[Spool]:
    """What a worker records in. Raises StartRefused."""
    spool_directory, _ = installation.paths(settings)
    spool = Spool(spool_directory, f"w{number}-{new_call_id()}", fsync=settings.durability == "fsync")
    try:
        spool.open()
    except (OSError, SpoolFull) as error:
        raise StartRefused(f"the spool in {spool_directory} can not be written: {error}") from error
    try:
        yield spool
    finally:
        spool.close()


@asynccontextmanager
async def counting(settings: Settings, number: int) -> AsyncIterator[Counters]:
    """A worker's counters, shown to the back office from time to time."""
    directory = installation.counters_directory(settings)
    counters = Counters()
    try:
        counters.open(directory, number)
    except OSError as error:
        raise StartRefused(f"{directory} can not be written: {error.strerror}.") from error
    task = asyncio.create_task(_show(counters))
    try:
        yield counters
    finally:
        task.cancel()
        counters.close()


async def _show(counters: Counters) -> None:
    while True:
        await asyncio.sleep(until_tick_s(WRITE_S))
        counters.write()


@asynccontextmanager
async def watching(snapshot: SnapshotFile) -> AsyncIterator[None]:
    """Reads the snapshot when it is a new one."""
    task = asyncio.create_task(_watch(snapshot))
    try:
        yield
    finally:
        task.cancel()


async def _watch(snapshot: SnapshotFile) -> None:
    while True:
        await asyncio.sleep(until_tick_s(SNAPSHOT_LOOK_S))
        try:
            snapshot.refresh()
        except (OSError, ValueError) as error:
            log.error("snapshot_unreadable", reason=type(error).__name__)


async def first_snapshot(snapshot: SnapshotFile, stopped: asyncio.Event) -> None:
    """Wait until a back office has published whom a worker may serve: else it would know no key and say so."""
    if snapshot.current is EMPTY:
        log.warning("waiting_for_snapshot", reason="no back office has published in this data directory yet")
    while snapshot.current is EMPTY and not stopped.is_set():
        await asyncio.sleep(SNAPSHOT_LOOK_S)
        snapshot.refresh()


def tls(settings: Settings) -> ssl.SSLContext | None:
    """What clients are served with. Raises StartRefused."""
    if settings.proxy.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load_certificate(context, settings.proxy)
    return context


def _load_certificate(context: ssl.SSLContext, settings: ProxySettings) -> None:
    """Use this certificate in every handshake from here on."""
    assert settings.tls_cert is not None
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StartRefused(f"the certificate and key of the proxy can not be used: {type(error).__name__}.") from error
