"""What a back office consists of, in the order in which it starts: it books, asks providers, passes on, watches and answers.

The shipper comes first and ends last: it books what workers record, and what the parts below find.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from aiohttp import web

from gateway import api, installation
from gateway.accounts import Accounts, NotPublished
from gateway.api.parts import Health
from gateway.api.server import ControlRunner
from gateway.clock import now_ms
from gateway.collector import Collector, Owned, Scope
from gateway.connector import Connector
from gateway.connector import Source as Numbered
from gateway.deliverer import Deliverer, Destination
from gateway.doubts import Doubts
from gateway.egress import Egress
from gateway.importer import Importer
from gateway.inbox import Waiting
from gateway.integrations import EXCLUSIVE, values_of
from gateway.keys import NotSealedHere, reference
from gateway.monitor import Monitor
from gateway.office import Office, books, inbox
from gateway.poller import Poller
from gateway.provider_access import listed, numbered, polled
from gateway.provider_lists import ProviderLists
from gateway.providers import PROVIDERS
from gateway.reconciler import Reconciler
from gateway.reconciliations import Reconciliations
from gateway.settings import Reconcile, Settings
from gateway.shipper import BESIDE_CALLS, Pace, Shipper
from gateway.snapshot import SigningSecrets
from gateway.subaccounts import Subaccounts
from gateway.supervisor import Life, StartRefused
from gateway.telemetry import log
from gateway.ticks import until_tick_s
from metering import spool_reader
from metering.database import DatabaseUnavailable
from metering.facts import Fact
from metering.ledger import Appended
from metering.moments import iso

PUBLISH_AGAIN_S = 1.0
"""After a snapshot could not be written it is tried again this often."""

CONTROL_GRACE_S = 10
"""What questions to the control API that are under way have to end."""

BACKLOG_AGE_MAX_S = 60
"""With events older than this that the ledger does not have, the gateway says it is not ready; calls go on."""


@dataclass(frozen=True, slots=True)
class BackOffice:
    """The parts of a back office that runs which new settings change."""

    office: Office
    poller: Poller
    collector: Collector
    connector: Connector
    reconciler: Reconciliations

    def change(self, settings: Settings) -> None:
        """Put other settings in force for what is asked from here on."""
        self.office.accounts.platform_accounts = settings.platform_accounts
        self.poller.sources = polled(self.office, settings)
        self.collector.sources, self.collector.schedules = listed(self.office, settings), settings.collect
        self.connector.sources, self.connector.public_url = numbered(self.office, settings), settings.public_url
        self.reconciler.tolerance = settings.reconcile_tolerance
        self.reconciler.nightly = settings.reconcile is Reconcile.NIGHTLY


@asynccontextmanager
async def open_back_office(
    office: Office, shipper: Shipper, egress: Egress, life: Life, control: socket.socket, *, expects_workers: bool
) -> AsyncIterator[BackOffice]:
    """All of it besides the shipper, which runs for longer: it books what the others have found, and the last calls."""
    async with AsyncExitStack() as stack:
        poller = await stack.enter_async_context(_polling(office, shipper))
        collector = await stack.enter_async_context(collecting(office, shipper))
        reconciler = await stack.enter_async_context(reconciling(office, shipper, collector))
        deliverer = await stack.enter_async_context(_delivering(office, egress))
        watching = _monitoring(office, shipper, poller, deliverer, expects_workers=expects_workers)
        monitor = await stack.enter_async_context(watching)
        monitor.reconciled = reconciler.done
        connector = connecting(office)
        await stack.enter_async_context(_knowing_subaccounts(office, connector))
        health = _health(office, shipper, life)
        await stack.enter_async_context(
            answering(office, shipper, collector, reconciler, connector, health, monitor, deliverer, control)
        )
        yield BackOffice(office, poller, collector, connector, reconciler)


@asynccontextmanager
async def shipping(office: Office, life: Life, pace: Pace = BESIDE_CALLS) -> AsyncIterator[Shipper]:
    """Books what the spools hold; at the end, all of it. Raises StartRefused if booking has failed for good."""
    spool_directory, _ = installation.paths(office.settings)
    shipper = Shipper(spool_directory, office.database, await books(office.settings), office.now, pace)
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


async def booked_what_is_left(office: Office) -> Shipper:
    """Book what a server that is gone has recorded, so that no question is answered without it."""
    spool_directory, _ = installation.paths(office.settings)
    shipper = Shipper(spool_directory, office.database, await books(office.settings), office.now)
    if spool_reader.spools(spool_directory):
        shipper.stop()
        await shipper.run()
    return shipper


def _booking(shipper: Shipper) -> Callable[[Sequence[Fact]], Awaitable[Sequence[Appended]]]:
    """Books facts that no spool holds."""

    async def book(facts: Sequence[Fact]) -> Sequence[Appended]:
        return await shipper.book(facts, [])

    return book


@asynccontextmanager
async def _at_work(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Does something beside what is within, at whose end it is cut off."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


@asynccontextmanager
async def _polling(office: Office, shipper: Shipper) -> AsyncIterator[Poller]:
    """Asks providers what became of what is pending."""
    poller = Poller(office.database, _booking(shipper), polled(office, office.settings), office.now)
    shipper.when_pending = poller.wake.set
    async with _at_work(poller.run()):
        yield poller


@asynccontextmanager
async def collecting(office: Office, shipper: Shipper, *, plans: bool = True) -> AsyncIterator[Collector]:
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
        listed(office, office.settings),
        owned,
        partial(reference, office.secrets.reference),
        shipper.booked_until,
        office.now,
        office.settings.collect,
    )
    async with _at_work(collector.run(plans=plans)):
        yield collector


@asynccontextmanager
async def reconciling(
    office: Office, shipper: Shipper, collector: Collector, *, plans: bool = True
) -> AsyncIterator[Reconciliations]:
    """Holds the ledger against providers' own figures. Unless it `plans`, only when it is asked to."""

    lists = ProviderLists(office.database, collector)
    figures = {provider.name: provider.figures for provider in PROVIDERS if provider.figures is not None}
    secret = office.secrets.reference
    reconciler = Reconciler(office.database, _booking(shipper), lists, figures, partial(reference, secret), office.now)

    async def resolve(scope: Scope, first: dt.date, last: dt.date) -> None:
        account = await lists.account_of(scope)
        if account is not None:
            await reconciler.resolve_unknown(account, first, last)

    collector.before = resolve
    settings = office.settings
    nightly = settings.reconcile is Reconcile.NIGHTLY
    runs = Reconciliations(office.database, reconciler, office.now, settings.reconcile_tolerance, nightly=nightly)
    async with _at_work(runs.run(plans=plans)):
        yield runs


def connecting(office: Office) -> Connector:
    """Leads numbers here, when it is asked to."""
    return Connector(office.accounts, numbered(office, office.settings), office.settings.public_url)


@asynccontextmanager
async def _knowing_subaccounts(office: Office, connector: Connector) -> AsyncIterator[None]:
    """Asks for what tenants' accounts within the platform's sign with, where providers are told to come here."""

    def sources() -> Mapping[str, Numbered]:
        return {} if connector.public_url is None else connector.sources

    doubts = Doubts(installation.doubts_directory(office.settings))
    async with _at_work(Subaccounts(office.accounts, office.secrets, office.snapshot, doubts, sources).run()):
        yield


@asynccontextmanager
async def _delivering(office: Office, egress: Egress) -> AsyncIterator[Deliverer]:
    """Passes on to applications what providers told by themselves."""
    deliverer = Deliverer(inbox(office), egress, partial(_destination, office), now_ms)
    async with _at_work(deliverer.run()):
        yield deliverer


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
    signing = SigningSecrets.of(unsealed, iso(office.now()))
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
        office.now,
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
        await asyncio.sleep(until_tick_s(PUBLISH_AGAIN_S))
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


def _health(office: Office, shipper: Shipper, life: Life) -> Health:
    async def healthy() -> list[str]:
        reasons = []
        if shipper.failing is not None:
            reasons.append(f"the ledger can not be written: {shipper.failing}")
        behind_s = (office.now() - shipper.last_shipped).total_seconds()
        if behind_s > BACKLOG_AGE_MAX_S:
            reasons.append(f"the ledger is {behind_s:.0f} s behind")
        if life.stopping.is_set():
            reasons.append("stopping")
        return reasons

    return healthy


@asynccontextmanager
async def answering(
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
    """The control API, there."""
    application = api.application(
        accounts=office.accounts,
        database=office.database,
        shipper=shipper,
        collector=collector,
        reconciler=reconciler,
        connector=connector,
        importer=Importer(office.database, _booking(shipper), partial(reference, office.secrets.reference), office.now),
        secrets=office.secrets,
        health=healthy,
        monitor=monitor,
        deliverer=deliverer,
        version=version("tollkeeper"),
        now=office.now,
    )
    runner = ControlRunner(application, shutdown_timeout=CONTROL_GRACE_S)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        yield
    finally:
        await runner.cleanup()
