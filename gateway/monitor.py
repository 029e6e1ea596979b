"""What the back office sees of the whole installation when it is asked: workers, what waits in the spools, what was booked.

It is measured when somebody asks, out of files and with one question to the ledger, and never makes anybody wait: the
files are read in a thread, those who ask at the same time share one look, and a ledger that does not answer soon leaves
its part out.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import func, select

from gateway import counters
from gateway.counters import Counted
from gateway.deliverer import Deliverer
from gateway.providers import PROVIDERS
from gateway.reconciliations import Reconciled
from gateway.shipper import Backlog, Shipped, Shipper
from gateway.telemetry import log
from gateway.ticks import until_tick_s
from metering import spool_reader
from metering.database import Database, DatabaseUnavailable
from metering.tables import late_facts, pending_events, quarantine

LEDGER_S_MAX = 2.0
"""So long the ledger is waited for; who asks for metrics commonly gives up after 10 s."""

LOOK_S = 1.0
"""Between two looks at how old the backlog is."""


class OnDisk(NamedTuple):
    """What files say."""

    workers: Mapping[str, Counted]
    """Those that live, by their slot."""
    backlog: Backlog
    room_bytes: int


class Seen(NamedTuple):
    """Everything that is shown as metrics."""

    on_disk: OnDisk
    shipped: Shipped
    failing: bool
    """True while the ledger can not be written."""
    polls: Mapping[str, int]
    """Questions that providers were asked about what is pending, by what became of them."""
    in_ledger: InLedger | None
    """None where the ledger does not answer."""
    deliveries: Deliveries | None = None
    """None where none are made."""
    reconciled: Reconciled | None = None
    """None where nobody reconciles."""


class Deliveries(NamedTuple):
    """What applications have of what providers delivered for them, and what they do not have."""

    waiting: int
    oldest_s: float
    """How long ago the oldest of them came; 0 where none waits."""
    attempts: Mapping[str, int]
    """By their outcome."""
    given_up: int
    unreadable: int
    """Files that are set aside."""


class InLedger(NamedTuple):
    """What is in the ledger and not done with."""

    quarantined: Mapping[str, int]
    """Records that are set aside, by reason."""
    pending: Mapping[str, int]
    """Events of which the provider will say more, by provider."""
    late_facts: int
    """What providers said of calls that are not in the ledger."""


class Monitor:
    """Looks at one installation."""

    def __init__(
        self,
        shipper: Shipper,
        polls: Mapping[str, int],
        database: Database,
        spool_directory: Path,
        counters_directory: Path,
        now: Callable[[], dt.datetime],
        behind_s_max: float,
        *,
        expects_workers: bool,
        deliverer: Deliverer | None = None,
    ) -> None:
        """With a backlog older than `behind_s_max`, the log says so. `expects_workers` says that without one the
        installation is not ready: a back office that runs alone is."""
        self.expects_workers = expects_workers
        self._shipper = shipper
        self._deliverer = deliverer
        self._polls = polls
        self._database = database
        self._spool_directory = spool_directory
        self._counters_directory = counters_directory
        self._now = now
        self._behind_s_max = behind_s_max
        self._behind = False
        self._looking: asyncio.Future[OnDisk] | None = None
        self._asking: asyncio.Future[InLedger | None] | None = None
        self.reconciled: Reconciled | None = None
        """What reconciliations have found, where somebody reconciles."""

    async def seen(self) -> Seen:
        """Everything. Raises OSError where the data directory can not be read."""
        on_disk, in_ledger = await self.on_disk(), await self._in_ledger()
        shipped = self._shipper.shipped
        # A copy, since it is shown in a thread while more is shipped.
        shipped = replace(shipped, set_aside=shipped.set_aside.copy())
        reconciled = None if self.reconciled is None else self.reconciled.copied()
        failing = self._shipper.failing is not None
        return Seen(on_disk, shipped, failing, dict(self._polls), in_ledger, self._deliveries(), reconciled)

    def _deliveries(self) -> Deliveries | None:
        one = self._deliverer
        if one is None:
            return None
        oldest_ms = one.oldest_ms
        oldest_s = 0.0 if oldest_ms is None else max(0.0, self._now().timestamp() - oldest_ms / 1000)
        return Deliveries(one.waiting, oldest_s, dict(one.attempts), one.given_up, one.unreadable)

    async def on_disk(self) -> OnDisk:
        """What files say. Raises OSError."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(asyncio.to_thread(self._read))
        return await asyncio.shield(self._looking)

    def _read(self) -> OnDisk:
        return OnDisk(
            counters.living(self._counters_directory),
            self._shipper.backlog(),
            spool_reader.room_bytes(self._spool_directory),
        )

    async def _in_ledger(self) -> InLedger | None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask())
        # Not stopped when it takes longer: it ends by the database's own limits, and until then it is the only one.
        done, _ = await asyncio.wait({self._asking}, timeout=LEDGER_S_MAX)
        return self._asking.result() if done else None

    async def _ask(self) -> InLedger | None:
        question = select(quarantine.c.reason, func.count()).group_by(quarantine.c.reason)
        of_source = select(pending_events.c.source, func.count().label("events")).group_by(pending_events.c.source)
        found = Counter(dict.fromkeys(self._shipper.shipped.set_aside, 0))
        try:
            async with self._database.reading() as connection:
                for reason, records in await connection.execute(question):
                    found[reason.partition(":")[0]] += records
                pending = dict.fromkeys((provider.name for provider in PROVIDERS), 0)
                pending |= {row.source: row.events for row in await connection.execute(of_source)}
                waiting = (await connection.execute(select(func.count()).select_from(late_facts))).scalar_one()
        except DatabaseUnavailable:
            return None
        return InLedger(found, pending, waiting)

    async def watch(self) -> None:
        """Look at how old the backlog is, for ever."""
        while True:
            self.look()
            await asyncio.sleep(until_tick_s(LOOK_S))

    def look(self) -> None:
        """Say in the log, once, that the ledger is too far behind; and that it is not any more."""
        behind_s = (self._now() - self._shipper.last_shipped).total_seconds()
        if (behind_s > self._behind_s_max) is self._behind:
            return
        self._behind = not self._behind
        if self._behind:
            log.error("ledger_behind", behind_s=round(behind_s), reason=self._shipper.failing)
        else:
            log.info("ledger_caught_up")
