"""Runs of the reconciliation: what is asked for waits its turn, is held by whoever runs it, and leaves a report.

One run at a time in a process: providers are asked at one pace anyway. A run that was broken off is begun again by whoever
finds it let go of; what it has booked is found booked. Nights, the days of the week before are held against the providers,
since prices come late and states still change.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import and_, delete, insert, or_, select, update

from gateway.reconciler import NotReconciled, Reconciler, Report, Wanted
from gateway.tables import reconciliation_differences, reconciliations
from gateway.telemetry import log
from metering.database import Database, DatabaseUnavailable
from metering.moments import iso
from metering.reconciliation import COST, COUNT, Amounts, Comparison, Resolution, added, tolerance_of
from metering.rows import rows_in

PROGRESS_S = 1.0
"""Until a run first says how far it is."""

SEARCH_S = 5.0
"""Between two looks at what is to be done. What this process is asked for is begun at once; so long waits what another host
was asked for, or held, and did not end."""

HELD_S = 60.0
"""So long a run belongs to whoever runs it, who says four times as often that it still does."""

NIGHT_HOUR = 4
"""From this hour on, UTC, the week before is reconciled: the lists of the night are read by then."""

NIGHT_DAYS = 7

PLAN_S = 900.0
"""So often it is looked at whether it is night. Not before the process has run for so long."""

KEPT_DAYS = 400
"""Reports are forgotten after so long."""

DIFFERENCES_MAX = 100_000
"""A report keeps no more; beyond it, what is open is kept first."""

WAITING, RUNNING, MATCHED, BEYOND, FAILED = "waiting", "running", "matched", "beyond_tolerance", "failed"
NOT_OVER = (WAITING, RUNNING)
OUTCOMES = (MATCHED, BEYOND, FAILED)

SCHEDULE = "schedule"
"""Who asks for what nobody asked for."""


class Reconciled(NamedTuple):
    """What was done since this process began."""

    runs: Counter[str]
    """By outcome."""
    differences: Counter[tuple[str, str]]
    """By cause and resolution."""

    def copied(self) -> Reconciled:
        return Reconciled(self.runs.copy(), self.differences.copy())


class Reconciliations:
    """Runs what is asked for."""

    def __init__(
        self,
        database: Database,
        reconciler: Reconciler,
        now: Callable[[], dt.datetime],
        tolerance: str,
        *,
        nightly: bool,
    ) -> None:
        self._database = database
        self._reconciler = reconciler
        self._now = now
        self.tolerance = tolerance
        """Where nobody says another: the part of what a provider says that may be open."""
        self.nightly = nightly
        self._planned = float("-inf")
        self._wake = asyncio.Event()
        self.done = Reconciled(
            Counter(dict.fromkeys(OUTCOMES, 0)),
            Counter(),
        )

    @property
    def sources(self) -> Sequence[str]:
        """Those that can be reconciled."""
        return sorted(self._reconciler.figures)

    async def ask(self, wanted: Wanted, tolerance: str) -> str:
        """Have something reconciled; the id of the run. Raises DatabaseUnavailable."""
        row = _row(uuid4().hex, wanted, tolerance, self._now())
        async with self._database.transaction() as connection:
            await connection.execute(insert(reconciliations).values(row))
        self._wake.set()
        return str(row["reconciliation_id"])

    async def run(self, *, plans: bool = True) -> None:
        """Reconcile for ever what is asked for and, if it `plans`, what nobody has to ask for."""
        self._planned = asyncio.get_running_loop().time()
        while True:
            self._wake.clear()
            more = False
            try:
                if plans:
                    await self._plan()
                more = await self.look()
            except DatabaseUnavailable:
                pass  # Whoever books says it.
            except Exception as error:  # noqa: BLE001  The last line of defence: the next look may go well.
                log.error("reconciliations_failed", error=type(error).__name__)
            if not more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(SEARCH_S):
                        await self._wake.wait()

    async def look(self) -> bool:
        """Run what has waited longest; False where nothing waits. Raises DatabaseUnavailable."""
        row = await self._taken()
        if row is None:
            return False
        holding = asyncio.create_task(self._hold(row.reconciliation_id))
        try:
            await self._reconcile(row)
        finally:
            holding.cancel()
        return True

    async def _reconcile(self, row: Any) -> None:
        wanted = Wanted(
            row.source,
            row.tenant_id,
            dt.date.fromisoformat(row.first_day),
            dt.date.fromisoformat(row.last_day),
            tolerance_of(row.tolerance),
            row.asked_by,
        )

        def told(what: str, done: int, total: int) -> None:
            self._progress = {"account": what, "done": done, "total": total}

        self._progress: Mapping[str, object] = {}
        try:
            report = await self._reconciler.reconcile(wanted, told)
        except NotReconciled as error:
            await self._failed(row, str(error))
        except DatabaseUnavailable:
            # It stays held until its time is over, and is then begun again.
            raise
        except Exception as error:  # noqa: BLE001  The last line of defence: it is said, and no other is stopped.
            await self._failed(row, f"a fault in the gateway: {type(error).__name__}")
        else:
            await self._keep(row, report)

    async def _failed(self, row: Any, reason: str) -> None:
        await self._set(row.reconciliation_id, status=FAILED, reason=reason, finished_at=self._now(), held_until=None)
        self.done.runs[FAILED] += 1
        log.warning("reconciliation_failed", reconciliation_id=row.reconciliation_id, source=row.source, reason=reason)

    async def _keep(self, row: Any, report: Report) -> None:
        """Keep the report in the place of one that an earlier try may have left, and say where too much is open."""
        rows = _difference_rows(row.reconciliation_id, report.comparisons)
        status = MATCHED if report.matched else BEYOND
        values = {
            "status": status,
            "reason": None,
            "totals": _totals(report.comparisons),
            "beyond": [one._asdict() for one in report.beyond],
            "currency": report.currency,
            "finished_at": self._now(),
            "held_until": None,
        }
        at = reconciliations.c
        async with self._database.transaction() as connection:
            this = reconciliation_differences.c.reconciliation_id == row.reconciliation_id
            await connection.execute(delete(reconciliation_differences).where(this))
            if rows:
                await rows_in(connection).insert(connection, reconciliation_differences, rows)
            done = update(reconciliations).where(at.reconciliation_id == row.reconciliation_id)
            await connection.execute(done.values(values))
        self.done.runs[status] += 1
        for comparison in report.comparisons:
            for one in comparison.differences:
                self.done.differences[one.cause, one.resolution] += 1
        if report.beyond:
            worst = max(report.beyond, key=lambda one: Fraction(one.open, one.told or 1))
            log.error(
                "reconciliation_beyond_tolerance",
                reconciliation_id=row.reconciliation_id,
                source=row.source,
                figures=len(report.beyond),
                tenant_id=worst.tenant_id,
                category=worst.category,
                measure=worst.measure,
                open=worst.open,
                told=worst.told,
                tolerance=row.tolerance,
            )
        else:
            log.info("reconciliation_matched", reconciliation_id=row.reconciliation_id, source=row.source)

    async def _taken(self) -> Any:
        """The run that has waited longest, held from now on; None where none waits."""
        at, now = reconciliations.c, self._now()
        free = or_(at.status == WAITING, and_(at.status == RUNNING, at.held_until < now))
        oldest = select(at.reconciliation_id).where(free).order_by(at.asked_by == SCHEDULE, at.started_at).limit(1)
        async with self._database.reading() as connection:
            found = (await connection.execute(oldest)).scalar()
        if found is None:
            return None
        mine = update(reconciliations).where(at.reconciliation_id == found, free)
        async with self._database.transaction() as connection:
            taken = await connection.execute(mine.values(status=RUNNING, held_until=now + dt.timedelta(seconds=HELD_S)))
            if not taken.rowcount:
                return None
            return (await connection.execute(select(reconciliations).where(at.reconciliation_id == found))).one()

    async def _hold(self, reconciliation_id: str) -> None:
        while True:
            await asyncio.sleep(HELD_S / 4 if self._progress else PROGRESS_S)
            with suppress(DatabaseUnavailable):
                until = self._now() + dt.timedelta(seconds=HELD_S)
                await self._set(reconciliation_id, progress=self._progress, held_until=until)

    _progress: Mapping[str, object] = {}

    async def _set(self, reconciliation_id: str, **values: object) -> None:
        at = reconciliations.c
        mine = update(reconciliations).where(at.reconciliation_id == reconciliation_id, at.status == RUNNING)
        async with self._database.transaction() as connection:
            await connection.execute(mine.values(values))

    async def _plan(self) -> None:
        time_s = asyncio.get_running_loop().time()
        if time_s - self._planned >= PLAN_S:
            self._planned = time_s
            await self.plan(self._now())

    async def plan(self, now: dt.datetime) -> None:
        """Note what is due at this moment, once however many back offices do; forget what is old."""
        at = reconciliations.c
        old = at.started_at < now - dt.timedelta(days=KEPT_DAYS)
        async with self._database.transaction() as connection:
            these = select(at.reconciliation_id).where(old)
            gone = reconciliation_differences.c.reconciliation_id.in_(these)
            await connection.execute(delete(reconciliation_differences).where(gone))
            await connection.execute(delete(reconciliations).where(old))
        if not self.nightly or now.hour < NIGHT_HOUR:
            return
        today = now.astimezone(dt.UTC).date()
        first, last = today - dt.timedelta(days=NIGHT_DAYS), today - dt.timedelta(days=1)
        due = []
        for source in self.sources:
            wanted = Wanted(source, None, first, last, tolerance_of(self.tolerance), SCHEDULE)
            with suppress(NotReconciled):
                # Where nobody has a credential, there is nothing to say every night.
                await self._reconciler.accounts(source)
                due.append(_row(f"night:{source}:{today}", wanted, self.tolerance, now))
        at_id = reconciliations.c.reconciliation_id
        async with self._database.transaction() as connection:
            question = select(at_id).where(at_id.in_([row["reconciliation_id"] for row in due]))
            there = set((await connection.execute(question)).scalars())
            rows = [
                tuple(_as_value(row[column.name]) for column in reconciliations.columns)
                for row in due
                if row["reconciliation_id"] not in there
            ]
            if rows:
                await rows_in(connection).insert(connection, reconciliations, rows, "ON CONFLICT DO NOTHING")


def _row(reconciliation_id: str, wanted: Wanted, tolerance: str, now: dt.datetime) -> dict[str, Any]:
    return {
        "reconciliation_id": reconciliation_id,
        "source": wanted.source,
        "tenant_id": wanted.tenant_id,
        "first_day": wanted.first_day.isoformat(),
        "last_day": wanted.last_day.isoformat(),
        "tolerance": tolerance,
        "status": WAITING,
        "reason": None,
        "asked_by": wanted.asked_by,
        "progress": {},
        "totals": [],
        "beyond": [],
        "currency": "",
        "held_until": None,
        "started_at": now,
        "finished_at": None,
    }


def _as_value(value: object) -> object:
    return iso(value) if isinstance(value, dt.datetime) else value


def _difference_rows(reconciliation_id: str, comparisons: Sequence[Comparison]) -> list[tuple[object, ...]]:
    found = [difference for one in comparisons for difference in one.differences]
    found.sort(key=lambda one: (one.subject, one.cause, one.event_id or ""))
    if len(found) > DIFFERENCES_MAX:
        found = sorted(found, key=lambda one: one.resolution is not Resolution.OPEN)[:DIFFERENCES_MAX]
    return [
        (
            reconciliation_id,
            number,
            *one.subject,
            one.cause.value,
            one.resolution.value,
            {name: amount for name, amount in one.amounts.items() if name not in (COUNT, COST)},
            one.amounts.get(COUNT),
            one.amounts.get(COST),
            one.event_id,
        )
        for number, one in enumerate(found)
    ]


def _totals(comparisons: Sequence[Comparison]) -> list[dict[str, object]]:
    """By tenant and category, over all days: what the provider says, what the ledger holds, and what became of the rest."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for one in comparisons:
        groups.setdefault((one.subject.tenant_id, one.subject.category), []).append(one)

    def left(many: Sequence[Comparison], resolution: Resolution) -> Amounts:
        return added(
            difference.amounts for one in many for difference in one.differences if difference.resolution is resolution
        )

    return [
        {
            "tenant_id": tenant_id,
            "category": category,
            "told": added(one.told for one in many),
            "held": added(one.held for one in many),
            **{resolution.value: left(many, resolution) for resolution in Resolution},
        }
        for (tenant_id, category), many in sorted(groups.items())
    ]
