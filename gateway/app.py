"""The processes of the gateway: which there are, and the order in which their parts start and stop.

Everything that runs is constructed here and in three modules that this one begins with: `office`, an open installation;
`worker`, what takes calls; `back_office`, what books, asks and answers. Nothing else constructs.

Start: secret, database, books, snapshot, shipper, spool, control, proxy. Stop, the other way round: not ready any more, no
new calls, calls under way end, the spool is closed, what it holds is booked, the database is closed. Nothing that was
answered is lost by stopping, nor by not getting to stop.

New settings (SIGHUP) come into force by new processes, where there are several; in one, by a new `Proxy` for the calls
that begin from then on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from gateway.acceptor import Balance, bound
from gateway.back_office import (
    BackOffice,
    answering,
    booked_what_is_left,
    collecting,
    connecting,
    open_back_office,
    reconciling,
    shipping,
)
from gateway.egress import Egress
from gateway.office import Office, as_json, check_process, first_admin, open_office, policy, settle_apart
from gateway.settings import ControlSettings, ProxySettings, Settings, restart_needed
from gateway.shipper import APART
from gateway.supervisor import Life, Plan, ReloadRefused, Role, StartRefused, Supervisor
from gateway.telemetry import configure, log
from gateway.worker import Front, counting, first_snapshot, open_spool, tls, watching

NICE = 10
"""The back office steps behind the workers where they share a processor (nice(2)): somebody waits for each call, and for
its booking nobody does."""


RELOAD_GAP_S = 0.25
"""Between two reloads in one process: however often it is told to, calls have nearly all of its time."""


Read: TypeAlias = Callable[[], Settings]
"""Reads the settings again, from where they were read at the start. Raises ReloadRefused."""


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
    # Here and not in each fork: they share it, and one that follows later would import what an upgrade has put there since.
    from metering import database_postgres  # noqa: F401, PLC0415 - SQLite does without

    check_process(settings)
    # Bound here, so that processes can follow one another on the same ports.
    proxy = None if role == "backoffice" else _bound("proxy", settings.proxy)
    control = None if role == "proxy" else _bound("control", settings.control)
    sockets = {name: one for name, one in (("proxy", proxy), ("control", control)) if one is not None}

    def planned(settings: Settings) -> Plan:
        stages = []
        if control is not None:
            stages.append([Role("backoffice", partial(_backoffice, settings, control, proxy))])
        if proxy is not None:
            # Those of one plan look at each other alone: during a reload the others are about to go, or not there yet.
            balance = Balance(settings.workers)

            def worker(number: int) -> Role:
                main = partial(_worker, settings, number, proxy, balance, control)
                return Role(f"worker-{number}", main, balance.share(number).leave)

            stages.append([worker(number) for number in range(settings.workers)])

        def in_force(event: str) -> None:
            configure(as_json=as_json(settings), level=settings.log_level)
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
        tls(wanted)
    except StartRefused as error:
        raise ReloadRefused([str(error)]) from error
    return wanted


@asynccontextmanager
async def control_listener(settings: Settings) -> AsyncIterator[str]:
    """The control API alone, on a port of this machine's that the system chooses; yields its base URL.

    Raises LedgerInUse where another process has the ledger, and StartRefused.
    """
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(open_office(settings))
        shipper = await booked_what_is_left(office)
        collector = await stack.enter_async_context(collecting(office, shipper, plans=False))
        reconciler = await stack.enter_async_context(reconciling(office, shipper, collector, plans=False))

        async def healthy() -> list[str]:
            return []

        listening = bound("127.0.0.1", 0)
        connector = connecting(office)
        await stack.enter_async_context(
            answering(office, shipper, collector, reconciler, connector, healthy, None, None, listening)
        )
        yield f"http://{_address('127.0.0.1', listening)}"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that is running."""

    office: Office
    proxy_port: int
    control_port: int
    life: Life


# ---------------------------------------------------------------------------------------------------------------------
# The processes


@asynccontextmanager
async def running(settings: Settings, read: Read | None = None) -> AsyncIterator[Gateway]:
    """Everything in one process, from start to stop; told to by SIGHUP, it reads its settings again."""
    check_process(settings)
    life = Life()
    sockets = {"proxy": _bound("proxy", settings.proxy), "control": _bound("control", settings.control)}
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(open_office(settings))
        await first_admin(office)
        shipper = await stack.enter_async_context(shipping(office, life))
        spool = stack.enter_context(open_spool(settings, 0))
        counters = await stack.enter_async_context(counting(settings, 0))
        await stack.enter_async_context(watching(office.snapshot))
        egress = await stack.enter_async_context(Egress(policy(settings)))
        back_office = await stack.enter_async_context(
            open_back_office(office, shipper, egress, life, sockets["control"], expects_workers=True)
        )
        front = Front(office, spool, counters, egress)
        await stack.enter_async_context(front.open(sockets["proxy"], life))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _told_to_stop, life)
        if read is not None:
            await stack.enter_async_context(_reloading(front, back_office, read, sockets))
        _say_serving("serving", settings, sockets, workers=1)
        ports = {name: one.getsockname()[1] for name, one in sockets.items()}
        yield Gateway(office, ports["proxy"], ports["control"], life)
        log.info("stopping")
        front.leave()
        if not life.stopped.is_set():
            await asyncio.sleep(front.settings.drain.delay_s)
    log.info("stopped")


async def _backoffice(settings: Settings, control: socket.socket, proxy: socket.socket | None, life: Life) -> None:
    """The back office, in a process of its own."""
    configure(as_json=as_json(settings), level=settings.log_level)
    if proxy is not None:
        proxy.close()
    os.nice(NICE)
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(open_office(settings))
        await first_admin(office)
        shipper = await stack.enter_async_context(shipping(office, life, APART))
        egress = await stack.enter_async_context(Egress(policy(settings)))
        await stack.enter_async_context(
            open_back_office(office, shipper, egress, life, control, expects_workers=proxy is not None)
        )
        settle_apart()
        life.ready()
        await life.stopped.wait()


async def _worker(
    settings: Settings,
    number: int,
    proxy: socket.socket,
    balance: Balance,
    control: socket.socket | None,
    life: Life,
) -> None:
    """One worker of the proxy, in a process of its own."""
    configure(as_json=as_json(settings), level=settings.log_level)
    if control is not None:
        control.close()
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(open_office(settings, prepares=False))
        await first_snapshot(office.snapshot, life.stopped)
        if life.stopped.is_set():
            return
        spool = stack.enter_context(open_spool(settings, number))
        counters = await stack.enter_async_context(counting(settings, number))
        await stack.enter_async_context(watching(office.snapshot))
        egress = await stack.enter_async_context(Egress(policy(settings)))
        front = Front(office, spool, counters, egress)
        await stack.enter_async_context(front.open(proxy, life, balance.share(number)))
        life.ready()
        await life.stopping.wait()
        front.leave()
        await life.stopped.wait()


@asynccontextmanager
async def _reloading(
    front: Front, back_office: BackOffice, read: Read, sockets: Mapping[str, socket.socket]
) -> AsyncIterator[None]:
    """New settings come into force when a SIGHUP says so, as long as one process does everything."""
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
                back_office.change(settings)
            except (ReloadRefused, StartRefused) as refused:
                log.error("reload_refused", reasons=str(refused).splitlines())
            else:
                configure(as_json=as_json(settings), level=settings.log_level)
                _say_serving("reloaded", settings, sockets, workers=1)
            await asyncio.sleep(RELOAD_GAP_S)

    task = asyncio.create_task(reload())
    try:
        yield
    finally:
        task.cancel()


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
