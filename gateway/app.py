"""The composition root: the only module that constructs, and the order in which things start and stop.

Start: secret, database, books, snapshot, spool, proxy, control. Stop, the other way round: no new calls, calls under way
end, the spool is closed, what it holds is booked, the database is closed. Nothing that was answered is lost by stopping,
nor by not getting to stop.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypeVar

from aiohttp import web

from gateway import api, errors, http1, installation, schema
from gateway.accounts import Accounts, NotAcceptable, SecretChanged
from gateway.api.parts import Health
from gateway.api.server import ControlRunner
from gateway.call_ids import new_call_id
from gateway.callers import Callers
from gateway.idempotency import Claims
from gateway.keys import Secrets
from gateway.listener import Listener
from gateway.objects import LedgerObjects
from gateway.providers import PROVIDERS
from gateway.proxy import Proxy, Rules
from gateway.recorder import Recorder
from gateway.routing import Routes
from gateway.settings import LogFormat, OnDisconnect, Settings, Unlisted
from gateway.shipper import Shipper
from gateway.snapshot import SnapshotFile
from gateway.telemetry import AccessLog, configure, log
from gateway.upstream import Origin, Upstream
from metering import spool_reader
from metering.database import Database, DatabaseInUse, DatabaseUnavailable
from metering.spool import Spool, SpoolFull
from pricing.catalogue import Books, load_books

T = TypeVar("T")

SNAPSHOT_LOOK_S = 0.25
"""Between two looks at the snapshot file: a change by another process is in force within a second."""

GRACE_S = 30
"""When told to stop, so long is waited for calls under way; orchestrators commonly kill after 30 s or more."""

BACKLOG_AGE_MAX_S = 60
"""With events older than this that the ledger does not have, the gateway says it is not ready; calls go on."""


class StartRefused(Exception):
    """The gateway can not start; the message says why, and what to do."""


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


async def serve(settings: Settings) -> None:
    """Run the gateway until SIGTERM or SIGINT. Raises StartRefused."""
    async with running(settings) as gateway:
        await gateway.stopped.wait()


async def upgrade(settings: Settings) -> str:
    """Bring the database to this release's schema; return the revision. Raises StartRefused."""
    database = await _opened(settings)
    try:
        return await schema.upgrade(database)
    except schema.SchemaMismatch as error:
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
        await _book_what_is_left(office)

        async def healthy() -> list[str]:
            return []

        port = await stack.enter_async_context(_control(office, healthy, "127.0.0.1", 0))
        yield f"http://127.0.0.1:{port}"


async def _book_what_is_left(office: Office) -> None:
    """Book what a server that is gone has recorded, so that no question is answered without it."""
    spool_directory, _ = installation.paths(office.settings)
    if spool_reader.spools(spool_directory):
        shipper = Shipper(spool_directory, office.database, await asyncio.to_thread(load_books), now)
        shipper.stop()
        await shipper.run()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that is running."""

    office: Office
    proxy_port: int
    control_port: int
    stopped: asyncio.Event
    """Set when it was told to stop."""


# ---------------------------------------------------------------------------------------------------------------------
# Parts, in the order they start


async def _opened(settings: Settings) -> Database:
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(settings.database_file)
    try:
        await database.open()
    except DatabaseInUse as error:
        raise LedgerInUse(f"{error}: one process at a time; stop it, or give this one another data_dir.") from error
    except OSError as error:
        raise StartRefused(f"{settings.database_file} can not be opened: {error.strerror}.") from error
    return database


@asynccontextmanager
async def _office(settings: Settings) -> AsyncIterator[Office]:
    try:
        secrets = installation.installation_secrets(settings)
    except installation.SecretMissing as error:
        raise StartRefused(str(error)) from error
    database = await _opened(settings)
    _, snapshot_path = installation.paths(settings)
    try:
        await schema.prepare(database)
        accounts = Accounts(database, secrets, snapshot_path, now)
        await accounts.check_secret()
        snapshot = SnapshotFile(snapshot_path)
        accounts.when_published = snapshot.refresh
        await accounts.publish()
        yield Office(settings, secrets, database, accounts, snapshot)
    except (schema.SchemaMismatch, SecretChanged) as error:
        raise StartRefused(str(error)) from error
    finally:
        await database.close()


@asynccontextmanager
async def _control(office: Office, healthy: Health, host: str, port: int) -> AsyncIterator[int]:
    application = api.application(
        accounts=office.accounts,
        database=office.database,
        secrets=office.secrets,
        health=healthy,
        version=version("tollkeeper"),
        now=now,
    )
    runner = ControlRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await _listening(site.start(), "control", host, port)
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _proxy(office: Office, spool: Spool) -> AsyncIterator[int]:
    settings = office.settings
    as_json = _as_json(settings)
    access_log = AccessLog(sys.stdout.fileno(), as_json=as_json)
    objects = LedgerObjects(office.database)
    upstream = Upstream()

    async def create_tenant(tenant_id: str) -> None:
        try:
            await office.accounts.ensure_tenant(tenant_id)
        except NotAcceptable as error:
            raise errors.TenantUnknown(
                "X-Tenant-ID can not be a tenant's id: letters, digits and . _ - are allowed."
            ) from error
        except DatabaseUnavailable as error:
            raise errors.NotRecordable("The tenant can not be created right now. Try again shortly.") from error

    proxy = Proxy(
        routes=Routes(PROVIDERS),
        callers=Callers(office.snapshot, office.secrets, create_tenant if settings.auto_create_tenants else None),
        objects=objects,
        claims=Claims(office.database, now),
        recorder=Recorder(spool, objects, now_ms),
        upstream=upstream,
        origins={name: Origin.parsed(provider.base_url) for name, provider in settings.providers.items()},
        credentials={
            name: {field: secret.get_secret_value() for field, secret in provider.credential.items()}
            for name, provider in settings.providers.items()
            if provider.credential is not None
        },
        secrets=office.secrets,
        rules=Rules(
            unlisted_forwarded=settings.unlisted is Unlisted.FORWARD,
            drain_on_disconnect=settings.on_disconnect is OnDisconnect.DRAIN,
            shared_reads=settings.shared_reads,
        ),
        access_log=access_log,
    )
    listener = Listener(proxy)
    await upstream.open()
    opening = listener.open(settings.proxy.host, settings.proxy.port, _tls(settings))
    try:
        yield await _listening(opening, "proxy", settings.proxy.host, settings.proxy.port)
        if not await listener.close(GRACE_S):
            log.warning("calls_cut", reason="still under way after the grace period")
    finally:
        await upstream.close()
        access_log.flush()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Gateway]:
    """Everything in one process, from start to stop."""
    configure(as_json=_as_json(settings), level=settings.log_level)
    try:
        http1.check_parsers()
    except RuntimeError as error:
        raise StartRefused(str(error)) from error
    spool_directory, _ = installation.paths(settings)
    async with AsyncExitStack() as stack:
        loading = asyncio.ensure_future(asyncio.to_thread(load_books))
        office = await stack.enter_async_context(_office(settings))
        given = settings.admin_key
        new_admin_key = await office.accounts.ensure_admin_key(None if given is None else given.get_secret_value())
        if new_admin_key is not None:
            # Shown once, and kept nowhere: not a log line, which would be kept.
            sys.stderr.write(f"Admin key, shown this once: {new_admin_key}\n")
        books: Books = await loading
        shipper = Shipper(spool_directory, office.database, books, now)
        spool = Spool(spool_directory, f"w0-{new_call_id()}", fsync=settings.durability == "fsync")
        try:
            spool.open()
        except (OSError, SpoolFull) as error:
            raise StartRefused(f"the spool in {spool_directory} can not be written: {error}") from error
        stopped = asyncio.Event()
        shipping = asyncio.create_task(shipper.run())
        # Without its shipper the gateway would take calls and book none: it stops, and what it recorded waits.
        shipping.add_done_callback(lambda _: stopped.set())
        stack.push_async_callback(_finished, shipper, shipping)
        stack.callback(spool.close)
        watching = asyncio.create_task(_watch(office.snapshot))
        stack.callback(watching.cancel)

        async def healthy() -> list[str]:
            reasons = []
            if shipper.failing is not None:
                reasons.append(f"the ledger can not be written: {shipper.failing}")
            behind_s = (now() - shipper.last_shipped).total_seconds()
            if behind_s > BACKLOG_AGE_MAX_S:
                reasons.append(f"the ledger is {behind_s:.0f} s behind")
            if spool.failed:
                reasons.append("the spool can not be written")
            if stopped.is_set():
                reasons.append("stopping")
            return reasons

        control_port = await stack.enter_async_context(
            _control(office, healthy, settings.control.host, settings.control.port)
        )
        proxy_port = await stack.enter_async_context(_proxy(office, spool))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _told_to_stop, stopped)
        log.info(
            "serving",
            proxy=f"{settings.proxy.host}:{proxy_port}",
            control=f"{settings.control.host}:{control_port}",
            data_dir=str(settings.data_dir),
            providers={name: provider.base_url for name, provider in settings.providers.items()},
            durability=settings.durability,
        )
        yield Gateway(office, proxy_port, control_port, stopped)
        log.info("stopping")
    log.info("stopped")


async def _finished(shipper: Shipper, shipping: asyncio.Task[None]) -> None:
    """Have everything booked. Raises StartRefused if booking has failed for good."""
    shipper.stop()
    try:
        await shipping
    except Exception as error:
        log.critical("shipper_failed", error=type(error).__name__, exc_info=True)
        raise StartRefused("booking has failed; the log says why. What was recorded is kept: start again.") from error


async def _watch(snapshot: SnapshotFile) -> None:
    while True:
        await asyncio.sleep(SNAPSHOT_LOOK_S)
        try:
            snapshot.refresh()
        except (OSError, ValueError) as error:
            log.error("snapshot_unreadable", reason=type(error).__name__)


def _told_to_stop(stopped: asyncio.Event) -> None:
    if stopped.is_set():
        # Told twice: whoever asks does not want to wait. What was recorded is shipped at the next start.
        os._exit(1)
    stopped.set()


async def _listening(opening: Awaitable[T], name: str, host: str, port: int) -> T:
    try:
        return await opening
    except OSError as error:
        raise StartRefused(
            f"{host}:{port} can not be listened on ({os.strerror(error.errno or 0)}): free the port, or choose another with "
            f"TOLLKEEPER_{name.upper()}__PORT."
        ) from error


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.proxy.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.proxy.tls_cert, settings.proxy.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StartRefused(f"the certificate and key of the proxy can not be used: {type(error).__name__}.") from error
    return context


def _as_json(settings: Settings) -> bool:
    if settings.log_format is LogFormat.AUTO:
        return not sys.stdout.isatty()
    return settings.log_format is LogFormat.JSON
