"""The composition root: the only module that constructs, and the order in which things start and stop.

Start: secret, database, books, snapshot, spool, proxy, control. Stop, the other way round: not ready any more, no new
calls, calls under way end, the spool is closed, what it holds is booked, the database is closed. Nothing that was answered
is lost by stopping, nor by not getting to stop.

New settings (SIGHUP) come into force by new processes, where there are several; in one, by a new `Proxy` for the calls
that begin from then on.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, TypeAlias

from aiohttp import web

from gateway import api, errors, http1, installation, schema
from gateway.accounts import Accounts, NotAcceptable, NotPublished, SecretChanged
from gateway.api.parts import Health
from gateway.api.server import ControlRunner
from gateway.books import books_of
from gateway.call_ids import new_call_id
from gateway.callback_addresses import PREFIX, CallbackAddresses
from gateway.callers import Callers
from gateway.collector import Collector, Credential, Owned, Scope
from gateway.collector import Source as Lists
from gateway.connector import Connector
from gateway.connector import Source as Numbered
from gateway.cost_estimates import CostEstimates
from gateway.counters import WRITE_S, Counters
from gateway.deliverer import Deliverer, Destination
from gateway.egress import Egress, Policy
from gateway.estimator import Estimator
from gateway.idempotency import Claims
from gateway.importer import Importer
from gateway.inbox import Inbox, Waiting
from gateway.integrations import EXCLUSIVE, values_of
from gateway.keys import NotSealedHere, Secrets, reference
from gateway.listener import CUT_S, Exchange, Handler, Listener, bound
from gateway.monitor import Monitor
from gateway.objects import BOOKED_S, LedgerObjects
from gateway.open_files import granted
from gateway.poller import AsksAs, Poller, Source
from gateway.provider_lists import ProviderLists
from gateway.providers import PROVIDERS
from gateway.providers.api import Provider
from gateway.proxy import Proxy, Rules
from gateway.reconciler import Reconciler
from gateway.reconciliations import Reconciliations
from gateway.recorder import Recorder
from gateway.routing import Routes
from gateway.settings import (
    ControlSettings,
    LogFormat,
    OnDisconnect,
    ProviderSettings,
    ProxySettings,
    Reconcile,
    Settings,
    Unlisted,
    restart_needed,
)
from gateway.shipper import APART, BESIDE_CALLS, Pace, Shipper
from gateway.snapshot import EMPTY, SigningSecrets, SnapshotFile
from gateway.subaccounts import Subaccounts
from gateway.supervisor import Life, Plan, ReloadRefused, Role, StartRefused, Supervisor
from gateway.telemetry import AccessLog, configure, log
from gateway.upstream import Origin, Upstream
from gateway.webhooks import Webhooks
from metering import spool_reader
from metering.columns import iso
from metering.database import Database, DatabaseInUse, DatabaseUnavailable
from metering.database_sqlite import SqliteDatabase
from metering.facts import Fact
from metering.ledger import Appended
from metering.spool import Spool, SpoolFull
from pricing.book_files import BookError
from pricing.catalogue import Books

NICE = 10
"""The back office steps behind the workers where they share a processor (nice(2)): somebody waits for each call, and for
its booking nobody does."""

GC_THRESHOLD = 20_000
"""So many more objects than before are there when Python looks for garbage; with the 700 that it begins with, it looks
every few calls. Calls under way hold some 50 each."""

SNAPSHOT_LOOK_S = 0.25
"""Between two looks at the snapshot file: a change by another process is in force within a second."""

PUBLISH_AGAIN_S = 1.0
"""After a snapshot could not be written it is tried again this often."""

NEXT_REQUEST_S = 5.0
"""A worker that is replaced waits so long for one more request on each connection that is kept, to say that it is the
last there. Clients that keep connections for longer without using them know that they may find them closed."""

RELOAD_GAP_S = 0.25
"""Between two reloads in one process: however often it is told to, calls have nearly all of its time."""

CONTROL_GRACE_S = 10
"""What questions to the control API that are under way have to end."""

BACKLOG_AGE_MAX_S = 60
"""With events older than this that the ledger does not have, the gateway says it is not ready; calls go on."""


Read: TypeAlias = Callable[[], Settings]
"""Reads the settings again, from where they were read at the start. Raises ReloadRefused."""


class LedgerInUse(StartRefused):
    """Another process has the ledger."""


@dataclass(frozen=True, slots=True)
class Office:
    """What both the server and a single command need: an open, checked installation."""

    settings: Settings
    secrets: Secrets
    database: Database
    accounts: Accounts
    snapshot: SnapshotFile


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# ---------------------------------------------------------------------------------------------------------------------
# What the command line calls


async def serve(settings: Settings, read: Read) -> None:
    """Run the gateway in this one process until SIGTERM or SIGINT. Raises StartRefused."""
    async with running(settings, read) as gateway:
        await gateway.life.stopping.wait()


def supervise(
    settings: Settings, read: Read, role: str, new_event_loop: Callable[[], asyncio.AbstractEventLoop] | None
) -> None:
    """Run the gateway, or one role of it, in processes of their own until SIGTERM or SIGINT. Raises StartRefused."""
    _prepared(settings)
    # Bound here, so that processes can follow one another on the same ports.
    proxy = None if role == "backoffice" else _bound("proxy", settings.proxy)
    control = None if role == "proxy" else _bound("control", settings.control)
    sockets = {name: one for name, one in (("proxy", proxy), ("control", control)) if one is not None}

    def planned(settings: Settings) -> Plan:
        stages = []
        if control is not None:
            stages.append([Role("backoffice", partial(_backoffice, settings, control, proxy))])
        if proxy is not None:
            workers = range(settings.workers)
            stages.append([Role(f"worker-{n}", partial(_worker, settings, n, proxy, control)) for n in workers])

        def in_force(event: str) -> None:
            configure(as_json=_as_json(settings), level=settings.log_level)
            _say_serving(event, settings, sockets, workers=settings.workers)

        return Plan(stages, settings.drain.delay_s, settings.drain.timeout_s, in_force)

    def replanned() -> Plan:
        return planned(_reread(settings, read, processes=True))

    def stopping() -> None:
        for one in sockets.values():
            one.close()

    Supervisor(planned(settings), replanned, stopping, new_event_loop).run()


def _reread(settings: Settings, read: Read, *, processes: bool) -> Settings:
    """The settings as they are given now. Raises ReloadRefused."""
    wanted = read()
    fixed = restart_needed(settings, wanted, processes=processes)
    if fixed:
        raise ReloadRefused([f"{name} can not change in a gateway that runs; restart it." for name in fixed])
    try:
        _tls(wanted)
    except StartRefused as error:
        raise ReloadRefused([str(error)]) from error
    return wanted


async def upgrade(settings: Settings) -> str:
    """Bring the database to this release's schema; return the revision. Raises StartRefused."""
    database = await _opened(settings)
    try:
        async with _owned(settings, database) as owner:
            return await schema.upgrade(database, owner)
    except (schema.SchemaMismatch, DatabaseUnavailable) as error:
        raise StartRefused(str(error)) from error
    finally:
        await database.close()


@asynccontextmanager
async def control_listener(settings: Settings) -> AsyncIterator[str]:
    """The control API alone, on a port of this machine's that the system chooses; yields its base URL.

    Raises LedgerInUse where another process has the ledger, and StartRefused.
    """
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(_office(settings))
        shipper = await _booked_what_is_left(office)
        collector = await stack.enter_async_context(_collecting(office, shipper, plans=False))
        reconciler = await stack.enter_async_context(_reconciling(office, shipper, collector, plans=False))

        async def healthy() -> list[str]:
            return []

        listening = bound("127.0.0.1", 0)
        control = _control(office, shipper, collector, reconciler, _connecting(office), healthy, None, None, listening)
        await stack.enter_async_context(control)
        yield f"http://{_address('127.0.0.1', listening)}"


async def _booked_what_is_left(office: Office) -> Shipper:
    """Book what a server that is gone has recorded, so that no question is answered without it."""
    spool_directory, _ = installation.paths(office.settings)
    shipper = Shipper(spool_directory, office.database, await _books(office.settings), now)
    if spool_reader.spools(spool_directory):
        shipper.stop()
        await shipper.run()
    return shipper


async def _books(settings: Settings) -> Books:
    """Raises StartRefused."""
    try:
        return await asyncio.to_thread(books_of, settings)
    except BookError as error:
        raise StartRefused("\n".join(error.problems)) from error


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that is running."""

    office: Office
    proxy_port: int
    control_port: int
    life: Life


# ---------------------------------------------------------------------------------------------------------------------
# Parts, in the order they start


async def _opened(settings: Settings) -> Database:
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database: Database
    if settings.database_file is None:
        database = _postgres(settings.postgres_url)
    else:
        database = SqliteDatabase(settings.database_file)
    try:
        await database.open()
    except DatabaseInUse as error:
        raise LedgerInUse(f"{error}: one process at a time; stop it, or give this one another data_dir.") from error
    except OSError as error:
        raise StartRefused(f"{settings.database_file} can not be opened: {error.strerror}.") from error
    return database


def _postgres(url: str | None, *, migrates: bool = False) -> Database:
    from metering.database_postgres import STATEMENT_S_MAX, PostgresDatabase  # noqa: PLC0415 - SQLite does without

    assert url is not None
    return PostgresDatabase(url, statement_s_max=None if migrates else STATEMENT_S_MAX)


@asynccontextmanager
async def _owned(settings: Settings, database: Database) -> AsyncIterator[Database]:
    """The database as the role opens it that may change its schema."""
    if settings.database_file is not None:
        yield database
        return
    owner = _postgres(settings.postgres_owner_url, migrates=True)
    await owner.open()
    try:
        yield owner
    finally:
        await owner.close()


@asynccontextmanager
async def _office(settings: Settings, *, prepares: bool = True) -> AsyncIterator[Office]:
    """An open installation: prepared, checked and published here, or by another process before. Raises StartRefused."""
    try:
        secrets = installation.installation_secrets(settings)
    except installation.SecretMissing as error:
        raise StartRefused(str(error)) from error
    database = await _opened(settings)
    _, snapshot_path = installation.paths(settings)
    try:
        accounts = Accounts(database, secrets, snapshot_path, now, settings.known_providers)
        snapshot = SnapshotFile(snapshot_path)
        accounts.when_published = snapshot.refresh
        if prepares:
            try:
                async with _owned(settings, database) as owner:
                    await schema.prepare(database, owner)
                await accounts.check_secret()
                await accounts.publish()
            except (schema.SchemaMismatch, SecretChanged, DatabaseUnavailable) as error:
                raise StartRefused(str(error)) from error
            except NotPublished as error:
                raise StartRefused(f"{snapshot_path} can not be written: {error}.") from error
        snapshot.refresh()
        yield Office(settings, secrets, database, accounts, snapshot)
    finally:
        await database.close()


@asynccontextmanager
async def _control(
    office: Office,
    shipper: Shipper,
    collector: Collector,
    reconciler: Reconciliations,
    connector: Connector,
    healthy: Health,
    monitor: Monitor | None,
    deliverer: Deliverer | None,
    listening: socket.socket,
) -> AsyncIterator[None]:
    application = api.application(
        accounts=office.accounts,
        database=office.database,
        shipper=shipper,
        collector=collector,
        reconciler=reconciler,
        connector=connector,
        importer=Importer(office.database, _booking(shipper), partial(reference, office.secrets.reference), now),
        secrets=office.secrets,
        health=healthy,
        monitor=monitor,
        deliverer=deliverer,
        version=version("tollkeeper"),
        now=now,
    )
    runner = ControlRunner(application, shutdown_timeout=CONTROL_GRACE_S)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        yield
    finally:
        await runner.cleanup()


class _Front:
    """The proxy with all it consists of, which new settings replace for the calls that begin from then on."""

    def __init__(self, office: Office, spool: Spool, counters: Counters, egress: Egress) -> None:
        settings = self.settings = office.settings
        self._office = office
        self._spool = spool
        self._counters = counters
        self._access_log = AccessLog(sys.stdout.fileno(), as_json=_as_json(settings))
        self._objects = LedgerObjects(office.database, BOOKED_S if settings.postgres_url is not None else 0)
        self._recorder = Recorder(spool, self._objects, now_ms, partial(reference, office.secrets.reference), counters)
        self._upstream = Upstream()
        self._estimator = Estimator()
        self._tls = _tls(settings)
        self._inbox = _inbox(office)
        self._egress = egress
        self._listener = Listener(self._handler(settings), granted(settings.client_limits, settings.upstream_limits))
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
            _credentials(settings),
            self._office.secrets,
            self._objects,
            self._recorder,
            self._inbox,
            self._egress,
            self._counters,
            shared_reads=settings.shared_reads,
        )
        self._egress.policy = _policy(settings)

        def handle(exchange: Exchange) -> Coroutine[Any, Any, None]:
            return webhooks(exchange) if exchange.head.target.startswith(PREFIX) else proxy(exchange)

        return handle

    def _proxy(self, settings: Settings, addresses: CallbackAddresses | None) -> Proxy:
        self._upstream.limits = settings.upstream_limits
        return Proxy(
            routes=Routes(settings.known_providers),
            callers=Callers(
                self._office.snapshot,
                self._office.secrets,
                self._create_tenant if settings.auto_create_tenants else None,
            ),
            objects=self._objects,
            claims=Claims(self._office.database, now),
            recorder=self._recorder,
            upstream=self._upstream,
            origins=_origins(settings),
            credentials=_credentials(settings),
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
    async def open(self, listening: socket.socket, life: Life) -> AsyncIterator[None]:
        async with self._egress, self._listening(listening, life):
            yield

    @asynccontextmanager
    async def _listening(self, listening: socket.socket, life: Life) -> AsyncIterator[None]:
        await self._upstream.open()
        await self._listener.open(listening, self._tls)
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


@asynccontextmanager
async def _shipping(office: Office, life: Life, pace: Pace = BESIDE_CALLS) -> AsyncIterator[Shipper]:
    """Books what the spools hold; at the end, all of it. Raises StartRefused if booking has failed for good."""
    spool_directory, _ = installation.paths(office.settings)
    books = await _books(office.settings)
    shipper = Shipper(spool_directory, office.database, books, now, pace)
    task = asyncio.create_task(shipper.run())
    # Without its shipper the gateway would take calls and book none: it stops, and what it recorded waits.
    task.add_done_callback(lambda _: life.stop())
    try:
        yield shipper
    finally:
        shipper.stop()
        try:
            await task
        except Exception as error:
            log.critical("shipper_failed", error=type(error).__name__, exc_info=True)
            raise StartRefused(
                "booking has failed; the log says why. What was recorded is kept: start again."
            ) from error


@asynccontextmanager
async def _polling(office: Office, shipper: Shipper) -> AsyncIterator[Poller]:
    """Asks providers what became of what is pending."""

    poller = Poller(office.database, _booking(shipper), _sources(office, office.settings), now)
    task = asyncio.create_task(poller.run())
    try:
        yield poller
    finally:
        task.cancel()
        await asyncio.wait((task,))


def _sources(office: Office, settings: Settings) -> dict[str, Source]:
    """The providers that say later what was used, and how each is asked on behalf of a tenant."""
    found = {}
    for provider in PROVIDERS:
        settles = {one.name: one.settles for one in provider.endpoints if one.settles is not None}
        if settles:
            configured = settings.providers[provider.name]
            base_url = configured.base_url.replace("{product}", provider.products[0]).rstrip("/")
            found[provider.name] = Source(base_url, settles, partial(_asks_as, office, provider, configured))
    return found


def _asks_as(office: Office, provider: Provider, configured: ProviderSettings, tenant_id: str) -> AsksAs | None:
    """With the tenant's own credential, or else the platform's, in its subaccount where it has one."""
    tenant = office.snapshot.current.tenants.get(tenant_id)
    own = tenant is not None and provider.name in tenant.credentials
    credential = _credential(office, provider, configured, tenant_id if own else None)
    if credential is None:
        return None
    account = None if provider.account_field is None else credential[provider.account_field]
    if tenant is not None and not own:
        account = provider.subaccount_of(tenant.integration) or account
    return AsksAs(_carrying(provider, credential), account)


def _credential(
    office: Office, provider: Provider, configured: ProviderSettings, tenant_id: str | None
) -> Mapping[str, str] | None:
    """A tenant's own, or for None the platform's; None where there is none that opens."""
    if tenant_id is None:
        if configured.credential is None:
            return None
        return {field: secret.get_secret_value() for field, secret in configured.credential.items()}
    tenant = office.snapshot.current.tenants.get(tenant_id)
    sealed = None if tenant is None else tenant.credentials.get(provider.name)
    if sealed is None:
        return None
    try:
        return office.secrets.unseal(sealed, owner=tenant_id)
    except NotSealedHere:
        return None


def _carrying(provider: Provider, credential: Mapping[str, str]) -> dict[str, str]:
    """The headers that carry a credential."""
    return {name.decode(): value.decode() for name, value in provider.authorize(credential)}


def _booking(shipper: Shipper) -> Callable[[Sequence[Fact]], Awaitable[Sequence[Appended]]]:
    """Books facts that no spool holds."""

    async def book(facts: Sequence[Fact]) -> Sequence[Appended]:
        return await shipper.book(facts, [])

    return book


@asynccontextmanager
async def _collecting(office: Office, shipper: Shipper, *, plans: bool = True) -> AsyncIterator[Collector]:
    """Reads providers' own lists. Unless it `plans`, only when it is asked to."""

    async def owned() -> Owned:
        tenants = office.snapshot.current.tenants
        return {
            one.tenant_id: {}
            if one.integration is None
            else {name: values_of(one.integration, name) for name in EXCLUSIVE}
            for one in tenants.values()
        }

    collector = Collector(
        office.database,
        _booking(shipper),
        _lists(office, office.settings),
        owned,
        partial(reference, office.secrets.reference),
        lambda: shipper.last_shipped,
        now,
        office.settings.collect,
    )
    task = asyncio.create_task(collector.run(plans=plans))
    try:
        yield collector
    finally:
        task.cancel()
        await asyncio.wait((task,))


def _lists(office: Office, settings: Settings) -> dict[str, Lists]:
    """The providers that have lists of what they did, and how each is asked."""
    return {
        provider.name: Lists(
            settings.providers[provider.name].base_url,
            provider.records,
            provider.totals,
            provider.account_of,
            partial(_credential_for_lists, office, provider, settings.providers[provider.name]),
        )
        for provider in PROVIDERS
        if provider.records or provider.totals
    }


def _connecting(office: Office) -> Connector:
    """Leads numbers here, when it is asked to."""
    return Connector(office.accounts, _numbered(office, office.settings), office.settings.public_url)


@asynccontextmanager
async def _knowing_subaccounts(office: Office, connector: Connector) -> AsyncIterator[None]:
    """Asks for what tenants' accounts within the platform's sign with, where providers are told to come here."""

    def sources() -> Mapping[str, Numbered]:
        return {} if connector.public_url is None else connector.sources

    task = asyncio.create_task(Subaccounts(office.accounts, office.secrets, office.snapshot, sources).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


def _numbered(office: Office, settings: Settings) -> dict[str, Numbered]:
    """The providers that have phone numbers, and how each is asked."""
    return {
        provider.name: Numbered(
            provider,
            settings.providers[provider.name].base_url,
            partial(_credential_for_lists, office, provider, settings.providers[provider.name]),
        )
        for provider in PROVIDERS
        if provider.numbers is not None
    }


def _credential_for_lists(
    office: Office, provider: Provider, configured: ProviderSettings, tenant_id: str | None
) -> Credential | None:
    """The tenant's own, or for None the platform's."""
    credential = _credential(office, provider, configured, tenant_id)
    if credential is None:
        return None
    return Credential(_carrying(provider, credential), credential.get(provider.account_field or "", ""))


@asynccontextmanager
async def _delivering(office: Office, egress: Egress) -> AsyncIterator[Deliverer]:
    """Passes on to applications what providers told by themselves."""
    deliverer = Deliverer(_inbox(office), egress, partial(_destination, office), now_ms)
    task = asyncio.create_task(deliverer.run())
    try:
        yield deliverer
    finally:
        task.cancel()
        await asyncio.wait((task,))


@asynccontextmanager
async def _reconciling(
    office: Office, shipper: Shipper, collector: Collector, *, plans: bool = True
) -> AsyncIterator[Reconciliations]:
    """Holds the ledger against providers' own figures. Unless it `plans`, only when it is asked to."""

    lists = ProviderLists(office.database, collector)
    figures = {provider.name: provider.figures for provider in PROVIDERS if provider.figures is not None}
    secret = office.secrets.reference
    reconciler = Reconciler(office.database, _booking(shipper), lists, figures, partial(reference, secret), now)

    async def resolve(scope: Scope, first: dt.date, last: dt.date) -> None:
        account = await lists.account_of(scope)
        if account is not None:
            await reconciler.resolve_unknown(account, first, last)

    collector.before = resolve
    settings = office.settings
    nightly = settings.reconcile is Reconcile.NIGHTLY
    runs = Reconciliations(office.database, reconciler, now, settings.reconcile_tolerance, nightly=nightly)
    task = asyncio.create_task(runs.run(plans=plans))
    try:
        yield runs
    finally:
        task.cancel()
        await asyncio.wait((task,))


def _inbox(office: Office) -> Inbox:
    settings = office.settings
    return Inbox(installation.inbox_directory(settings), office.secrets, now_ms, fsync=settings.durability == "fsync")


def _destination(office: Office, waiting: Waiting) -> Destination | None:
    """Where something goes on to, and what it is signed with, as the tenant has it now."""
    tenant = office.snapshot.current.tenants.get(waiting.tenant_id)
    found = [
        webhook
        for provider in PROVIDERS
        for webhook in provider.webhooks
        if (provider.name, webhook.name) == (waiting.source, waiting.webhook)
    ]
    if tenant is None or tenant.signing is None or not found:
        return None
    try:
        unsealed = office.secrets.unseal(tenant.signing, owner=tenant.tenant_id)
    except NotSealedHere:
        return None
    signing = SigningSecrets.of(unsealed, iso(now()))
    url = waiting.url
    if url is None and tenant.integration is not None:
        url = found[0].application(tenant.integration)
    secrets = (signing.current,) if signing.previous is None else (signing.current, signing.previous)
    return None if url is None else Destination(url, secrets, found[0].sign)


@asynccontextmanager
async def _monitoring(
    office: Office, shipper: Shipper, poller: Poller, deliverer: Deliverer, *, expects_workers: bool
) -> AsyncIterator[Monitor]:
    """Watches over how far the ledger is behind, and answers who asks."""
    spool_directory, _ = installation.paths(office.settings)
    # There before the first worker is: how much room is left can be asked at once.
    spool_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = installation.counters_directory(office.settings)
    monitor = Monitor(
        shipper,
        poller.polls,
        office.database,
        spool_directory,
        directory,
        now,
        BACKLOG_AGE_MAX_S,
        expects_workers=expects_workers,
        deliverer=deliverer,
    )
    tasks = [asyncio.create_task(monitor.watch()), asyncio.create_task(_publish_again(office.accounts))]
    try:
        yield monitor
    finally:
        for task in tasks:
            task.cancel()


async def _publish_again(accounts: Accounts) -> None:
    """Put in force what was changed while the snapshot could not be written: a key that was revoked then must stop."""
    failing = False
    while True:
        await asyncio.sleep(PUBLISH_AGAIN_S)
        if not accounts.unpublished:
            continue
        try:
            await accounts.publish()
        except (NotPublished, DatabaseUnavailable) as error:
            if not failing:
                log.error("snapshot_not_published", reason=str(error))
            failing = True
        else:
            failing = False
            log.info("snapshot_published")


@contextmanager
def _spool(settings: Settings, number: int) -> Iterator[Spool]:
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
async def _counting(settings: Settings, number: int) -> AsyncIterator[Counters]:
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
        await asyncio.sleep(WRITE_S)
        counters.write()


@asynccontextmanager
async def _watching(snapshot: SnapshotFile) -> AsyncIterator[None]:
    """Reads the snapshot when it is a new one."""
    task = asyncio.create_task(_watch(snapshot))
    try:
        yield
    finally:
        task.cancel()


async def _first_admin(office: Office) -> None:
    given = office.settings.admin_key
    new_admin_key = await office.accounts.ensure_admin_key(None if given is None else given.get_secret_value())
    if new_admin_key is not None:
        # Shown once, and kept nowhere: not a log line, which would be kept.
        sys.stderr.write(f"Admin key, shown this once: {new_admin_key}\n")


def _health(shipper: Shipper, life: Life) -> Health:
    async def healthy() -> list[str]:
        reasons = []
        if shipper.failing is not None:
            reasons.append(f"the ledger can not be written: {shipper.failing}")
        behind_s = (now() - shipper.last_shipped).total_seconds()
        if behind_s > BACKLOG_AGE_MAX_S:
            reasons.append(f"the ledger is {behind_s:.0f} s behind")
        if life.stopping.is_set():
            reasons.append("stopping")
        return reasons

    return healthy


# ---------------------------------------------------------------------------------------------------------------------
# The processes


@asynccontextmanager
async def running(settings: Settings, read: Read | None = None) -> AsyncIterator[Gateway]:
    """Everything in one process, from start to stop; told to by SIGHUP, it reads its settings again."""
    _prepared(settings)
    life = Life()
    sockets = {"proxy": _bound("proxy", settings.proxy), "control": _bound("control", settings.control)}
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(_office(settings))
        await _first_admin(office)
        shipper = await stack.enter_async_context(_shipping(office, life))
        spool = stack.enter_context(_spool(settings, 0))
        counters = await stack.enter_async_context(_counting(settings, 0))
        await stack.enter_async_context(_watching(office.snapshot))
        poller = await stack.enter_async_context(_polling(office, shipper))
        collector = await stack.enter_async_context(_collecting(office, shipper))
        reconciler = await stack.enter_async_context(_reconciling(office, shipper, collector))
        egress = await stack.enter_async_context(Egress(_policy(settings)))
        deliverer = await stack.enter_async_context(_delivering(office, egress))
        watching = _monitoring(office, shipper, poller, deliverer, expects_workers=True)
        monitor = await stack.enter_async_context(watching)
        monitor.reconciled = reconciler.done
        health = _health(shipper, life)
        connector = _connecting(office)
        await stack.enter_async_context(_knowing_subaccounts(office, connector))
        control = _control(
            office, shipper, collector, reconciler, connector, health, monitor, deliverer, sockets["control"]
        )
        await stack.enter_async_context(control)
        front = _Front(office, spool, counters, egress)
        await stack.enter_async_context(front.open(sockets["proxy"], life))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _told_to_stop, life)
        if read is not None:
            await stack.enter_async_context(
                _reloading(office, front, poller, collector, reconciler, connector, read, sockets)
            )
        _say_serving("serving", settings, sockets, workers=1)
        ports = {name: one.getsockname()[1] for name, one in sockets.items()}
        yield Gateway(office, ports["proxy"], ports["control"], life)
        log.info("stopping")
        front.leave()
        if not life.stopped.is_set():
            await asyncio.sleep(front.settings.drain.delay_s)
    log.info("stopped")


@asynccontextmanager
async def _reloading(
    office: Office,
    front: _Front,
    poller: Poller,
    collector: Collector,
    reconciler: Reconciliations,
    connector: Connector,
    read: Read,
    sockets: Mapping[str, socket.socket],
) -> AsyncIterator[None]:
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)

    async def reload() -> None:
        while True:
            await asked.wait()
            asked.clear()
            log.info("reloading")
            try:
                settings = _reread(front.settings, read, processes=False)
                front.change(settings)
                poller.sources = _sources(office, settings)
                collector.sources, collector.schedules = _lists(office, settings), settings.collect
                connector.sources, connector.public_url = _numbered(office, settings), settings.public_url
                reconciler.tolerance = settings.reconcile_tolerance
                reconciler.nightly = settings.reconcile is Reconcile.NIGHTLY
            except (ReloadRefused, StartRefused) as refused:
                log.error("reload_refused", reasons=str(refused).splitlines())
            else:
                configure(as_json=_as_json(settings), level=settings.log_level)
                _say_serving("reloaded", settings, sockets, workers=1)
            await asyncio.sleep(RELOAD_GAP_S)

    task = asyncio.create_task(reload())
    try:
        yield
    finally:
        task.cancel()


async def _backoffice(settings: Settings, control: socket.socket, proxy: socket.socket | None, life: Life) -> None:
    """The back office, in a process of its own."""
    configure(as_json=_as_json(settings), level=settings.log_level)
    if proxy is not None:
        proxy.close()
    os.nice(NICE)
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(_office(settings))
        await _first_admin(office)
        shipper = await stack.enter_async_context(_shipping(office, life, APART))
        poller = await stack.enter_async_context(_polling(office, shipper))
        collector = await stack.enter_async_context(_collecting(office, shipper))
        reconciler = await stack.enter_async_context(_reconciling(office, shipper, collector))
        egress = await stack.enter_async_context(Egress(_policy(settings)))
        deliverer = await stack.enter_async_context(_delivering(office, egress))
        watching = _monitoring(office, shipper, poller, deliverer, expects_workers=proxy is not None)
        monitor = await stack.enter_async_context(watching)
        monitor.reconciled = reconciler.done
        health = _health(shipper, life)
        connector = _connecting(office)
        await stack.enter_async_context(_knowing_subaccounts(office, connector))
        controlling = _control(office, shipper, collector, reconciler, connector, health, monitor, deliverer, control)
        await stack.enter_async_context(controlling)
        settle()
        life.ready()
        await life.stopped.wait()


async def _worker(
    settings: Settings, number: int, proxy: socket.socket, control: socket.socket | None, life: Life
) -> None:
    """One worker of the proxy, in a process of its own. It asks the database nothing unless a call makes it."""
    configure(as_json=_as_json(settings), level=settings.log_level)
    if control is not None:
        control.close()
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(_office(settings, prepares=False))
        await _first_snapshot(office.snapshot, life.stopped)
        if life.stopped.is_set():
            return
        spool = stack.enter_context(_spool(settings, number))
        counters = await stack.enter_async_context(_counting(settings, number))
        await stack.enter_async_context(_watching(office.snapshot))
        egress = await stack.enter_async_context(Egress(_policy(settings)))
        front = _Front(office, spool, counters, egress)
        await stack.enter_async_context(front.open(proxy, life))
        life.ready()
        await life.stopping.wait()
        front.leave()
        await life.stopped.wait()


def settle() -> None:
    """What is here now stays: it need not be looked through for garbage again and again, and a call leaves none."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def _prepared(settings: Settings) -> None:
    """What is the same for every process. Raises StartRefused."""
    configure(as_json=_as_json(settings), level=settings.log_level)
    try:
        http1.check_parser()
    except RuntimeError as error:
        raise StartRefused(str(error)) from error


def _say_serving(event: str, settings: Settings, sockets: Mapping[str, socket.socket], *, workers: int) -> None:
    hosts = {"proxy": settings.proxy.host, "control": settings.control.host}
    log.info(
        event,
        **{name: _address(hosts[name], listening) for name, listening in sockets.items()},
        workers=workers,
        data_dir=str(settings.data_dir),
        providers={name: provider.base_url for name, provider in settings.providers.items()},
        durability=settings.durability,
    )


async def _first_snapshot(snapshot: SnapshotFile, stopped: asyncio.Event) -> None:
    """Wait until a back office has published whom a worker may serve: else it would know no key and say so."""
    if snapshot.current is EMPTY:
        log.warning("waiting_for_snapshot", reason="no back office has published in this data directory yet")
    while snapshot.current is EMPTY and not stopped.is_set():
        await asyncio.sleep(SNAPSHOT_LOOK_S)
        snapshot.refresh()


async def _watch(snapshot: SnapshotFile) -> None:
    while True:
        await asyncio.sleep(SNAPSHOT_LOOK_S)
        try:
            snapshot.refresh()
        except (OSError, ValueError) as error:
            log.error("snapshot_unreadable", reason=type(error).__name__)


def _told_to_stop(life: Life) -> None:
    if life.stopping.is_set():
        # Told twice: whoever asks does not want to wait. What was recorded is shipped at the next start.
        os._exit(1)
    life.stopping.set()


def _bound(name: str, settings: ProxySettings | ControlSettings) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        return bound(host, port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else "no such address"
        raise StartRefused(
            f"{host}:{port} can not be listened on ({reason}): free the port, or choose another with "
            f"TOLLKEEPER_{name.upper()}__PORT."
        ) from error


def _address(host: str, listening: socket.socket) -> str:
    return f"{host}:{listening.getsockname()[1]}"


def _origins(settings: Settings) -> dict[tuple[str, str], Origin]:
    """Every host that calls are sent to, by provider and product. No request can reach another."""
    return {
        (provider.name, product): Origin.parsed(
            settings.providers[provider.name].base_url.replace("{product}", product)
        )
        for provider in settings.known_providers
        for product in provider.products
    }


def _credentials(settings: Settings) -> dict[str, dict[str, str]]:
    """The platform's own, by provider."""
    return {
        name: {field: secret.get_secret_value() for field, secret in provider.credential.items()}
        for name, provider in settings.providers.items()
        if provider.credential is not None
    }


def _policy(settings: Settings) -> Policy:
    """Which URLs of applications are called."""
    own_ports = frozenset((settings.proxy.port, settings.control.port))
    return Policy(settings.callback_hosts, settings.public_url, own_ports)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.proxy.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load_certificate(context, settings.proxy)
    return context


def _load_certificate(context: ssl.SSLContext, settings: ProxySettings) -> None:
    """Use this certificate in every handshake from here on."""
    assert settings.tls_cert is not None
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StartRefused(f"the certificate and key of the proxy can not be used: {type(error).__name__}.") from error


def _as_json(settings: Settings) -> bool:
    if settings.log_format is LogFormat.AUTO:
        return not sys.stdout.isatty()
    return settings.log_format is LogFormat.JSON
