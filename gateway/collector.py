"""What providers did, out of their own lists: the back office reads them, and books what the gateway did not see.

A message that was sent around the gateway, one that came in while nobody listened, a leg that TwiML dialled: all of it
stands in the provider's list. Each thing in it is booked as made, and with it what became of it; what the ledger has
already gives way (:mod:`metering.claims`), so that it does not matter who comes first, nor how often a list is read.

Whose a thing is: the tenant's for whom the ledger has it; else the tenant's whose account the list is; else that of the one
tenant whose integration names its account, its messaging service or its number; else nobody's. That is counted, kept for
the reconciliation, and never guessed.

A collection is the lists of one source for some days, page by page. How far it is, is kept after each page was booked, so
one that was killed goes on from there, and what it books twice is booked once. No more than a page is held.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import msgspec
from sqlalchemy import ColumnElement, and_, delete, insert, or_, select, update

from gateway.asking import Asker, NotAnswered
from gateway.providers.api import Listing, NotAPage, Page, Record, Total
from gateway.recorder import late_event, made_event
from gateway.settings import Collect as Schedules
from gateway.settings import environment_name
from gateway.tables import collections, unattributed
from gateway.telemetry import log
from metering.database import Database, DatabaseUnavailable
from metering.event_types import OTHER
from metering.facts import Fact, fact, validated
from metering.late import PRICE
from metering.ledger import Appended
from metering.moments import DAY_MS, iso, iso_ms
from metering.rows import rows_in
from metering.tables import usage_events
from metering.usage import EPOCH, TOLD_COST, Kind

Item = TypeVar("Item")

LOOK_S = 1.0
"""After the ledger failed, and before the spools were read once, what is to be collected is looked at again so soon."""

SEARCH_S = 5.0
"""Between two looks otherwise. What this process is asked for is begun at once; so long waits what another host was asked
for, or held, and did not end."""

HELD_S = 20.0
"""So long a collection belongs to whoever runs it, who says four times as often that it still does."""

RECORDS_AT_ONCE = 80
"""Booked in one transaction, with some three facts each: calls in the same process do not wait for more."""

TENANTS_AT_ONCE = 100
"""Asked about in one question to the ledger."""

MADE_DAYS_MAX = 40
"""So long before the day in a list its call may have been: a message can be scheduled for 35 days."""

PUT_OFF_MAX = 2000
"""Legs whose calls come later in the list, as its order is, wait for them; of more than these, their numbers tell."""

YOUNG_S = 120
"""What is younger is left for the next time: the record of its call may be on its way, which alone says whose it is on an
account that several share, and whether it is metered at all; and a call that was killed is not known to be one yet."""

SWEEP_HOUR = 3
"""From this hour on, UTC, the days before are read once more."""

SWEEP_DAYS = 7
"""So many: prices come late, and states still change."""

TODAY_S = 900
"""So often today's lists are read."""

KEPT_DAYS = 100
"""What is done, and what nobody was found for, is forgotten after so long."""

HOUSEKEEPING_S = 3600

ASKED, SWEEP, TODAY = "asked", "sweep", "today"
WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
OPEN = (WAITING, RUNNING)

COUNTS = (
    "requests", "seen", "new", "known", "corrected", "conflicting", "others", "unattributed", "young", "unreadable",
)  # fmt: skip
"""What a collection counts: requests to the provider, and things in its lists, which are newly booked, in the ledger
already, another tenant's than was asked for, nobody's, left for the next time, or not understood. Besides, the facts of
what became of them that were booked, or that contradict what the ledger has and were set aside."""

FINAL = "final"
"""The phase of what was used in all."""

SCHEDULE = "schedule"
"""Who asks for what nobody asked for."""


class Credential(NamedTuple):
    """How a provider is asked on somebody's behalf."""

    headers: Mapping[str, str]
    account: str
    """Which account that is, where the provider's paths name one."""


class Source(NamedTuple):
    """A provider, as far as its lists are read."""

    base_url: str
    """`{product}` stands in it for one of several hosts."""
    records: Sequence[Listing[Record]]
    totals: Sequence[Listing[Total]]
    account_of: str | None
    credential: Callable[[str | None], Credential | None]
    """A tenant's own, or for None the platform's; None where there is none."""
    calls_as_itself: Callable[[str], bool] | None = None
    """Whether a tenant's calls go out with a credential of its own, where its account is the one that this is of: what else
    is done for it is in somebody else's. None where its account does not depend on that."""
    needs: str | None = None
    """The field of a credential that opens the lists, where calls go out with another."""

    def without(self, whose: str, name: str, cure: str) -> str:
        """What is said where there is no credential, or none that opens the lists."""
        if self.needs is None:
            return f"{whose} credential with {name}: {cure}."
        setting = environment_name(f"providers.{name}.{self.needs}")
        return (
            f"{whose} credential with {name} that holds its {self.needs}, which alone opens what was used there: set "
            f"{setting}, or a tenant's own with `tollkeeper credential set TENANT {name} --field {self.needs}=@FILE`."
        )


class Scope(NamedTuple):
    """Whose lists are read."""

    source: str
    tenant_id: str | None
    """The tenant that all of it belongs to; None where it is to be told apart."""
    account: str
    headers: Mapping[str, str]
    only: str | None = None
    """Of what is told apart, only this tenant's is booked."""


class NoScope(Exception):
    """There is nothing to read: says why, and the cure."""


class Wanted(NamedTuple):
    """What somebody wants collected. The days are whole, in UTC, the last one included."""

    kind: str
    source: str
    tenant_id: str | None
    first_day: dt.date
    last_day: dt.date
    asked_by: str


Owned = Mapping[str, Mapping[str, object]]
"""By tenant, its integration: fields, and the name or the names that each holds."""


Before = Callable[[Scope, dt.date, dt.date], Awaitable[None]]


class Collector:
    """Runs collections, one of each source at a time."""

    def __init__(
        self,
        database: Database,
        book: Callable[[Sequence[Fact]], Awaitable[Sequence[Appended]]],
        sources: Mapping[str, Source],
        owned: Callable[[], Awaitable[Owned]],
        reference: Callable[[str], str],
        booked_until: Callable[[str], dt.datetime],
        now: Callable[[], dt.datetime],
        schedules: Schedules = Schedules.OFF,
    ) -> None:
        """`book` books facts in one transaction and raises DatabaseUnavailable. `reference` makes the keyed hash that stands
        for a number. `booked_until` is the moment before which the record of every call to a source is in the ledger."""
        self._database = database
        self._book = book
        self.sources = sources
        self.owned = owned
        self._reference = reference
        self._booked_until = booked_until
        self._now = now
        self.schedules = schedules
        self.before: Before | None = None
        """Asked before anything of a collection is booked: what is known better must be booked first."""
        self._askers: dict[str, Asker] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._me = uuid4().hex
        self._housekept = float("-inf")
        self._planned = float("-inf")
        self.wake = asyncio.Event()
        """Set when there is something new to collect."""

    # -- what is asked for

    async def ask(self, wanted: Wanted) -> str:
        """Have something collected; the collection's id. What was asked for before, and is not done, goes on instead.

        Raises NoScope and DatabaseUnavailable.
        """
        self.scope(wanted.source, wanted.tenant_id, await self.owned())
        if not self.sources[wanted.source].records:
            raise NoScope(
                f"{wanted.source} lists no single calls. What went around the gateway is booked by its totals of whole days: "
                f"run `tollkeeper reconcile --source {wanted.source}`."
            )
        at, now = collections.c, self._now()
        async with self._database.transaction() as connection:
            same = select(at.collection_id).where(
                at.kind == wanted.kind,
                at.source == wanted.source,
                at.tenant_id == wanted.tenant_id if wanted.tenant_id is not None else at.tenant_id.is_(None),
                at.first_day == wanted.first_day.isoformat(),
                at.last_day == wanted.last_day.isoformat(),
                at.status.in_((*OPEN, FAILED, CANCELLED)),
            )
            collection_id = (await connection.execute(same.limit(1))).scalar()
            if collection_id is not None:
                again = update(collections).where(at.collection_id == collection_id, at.status.in_((FAILED, CANCELLED)))
                await connection.execute(again.values(status=WAITING, reason=None, updated_at=now))
            else:
                collection_id = uuid4().hex
                await connection.execute(insert(collections).values(_row(collection_id, wanted, now)))
        self.wake.set()
        return str(collection_id)

    async def cancel(self, collection_id: str) -> bool:
        """Have a collection end where it is; False where it is none that goes on."""
        at = collections.c
        gone = update(collections).where(at.collection_id == collection_id, at.status.in_(OPEN))
        async with self._database.transaction() as connection:
            changed = await connection.execute(gone.values(status=CANCELLED, updated_at=self._now()))
        return changed.rowcount > 0

    def scope(self, source: str, tenant_id: str | None, owned: Owned) -> Scope:
        """Whose lists have what belongs to a tenant, or to anybody on the platform's account. Raises NoScope."""
        asked = self.sources[source]
        platform = asked.credential(None)
        if tenant_id is None:
            if platform is None:
                raise NoScope(asked.without("The platform has no", source, "set one, or name a tenant that has"))
            return Scope(source, None, platform.account, platform.headers)
        own, itself = asked.credential(tenant_id), asked.calls_as_itself
        account = _names(owned.get(tenant_id, {}).get(asked.account_of or ""))
        if own is not None and not (account and itself is not None):
            shared = [one for one in owned if one != tenant_id and asked.credential(one) == own]
            whole = not shared and own != platform
            return Scope(source, tenant_id if whole else None, own.account, own.headers, None if whole else tenant_id)
        opens = own or platform
        if opens is None or (not account and itself is not None and itself(tenant_id)):
            raise NoScope(asked.without("Neither the tenant nor the platform has a", source, "set one"))
        if account:
            if [
                one
                for one in owned
                if one != tenant_id and account[0] in _names(owned[one].get(asked.account_of or ""))
            ]:
                raise NoScope(f"{asked.account_of} of this tenant is another tenant's as well: give each its own.")
            if itself is None or itself(tenant_id):
                return Scope(source, tenant_id, account[0], opens.headers)
        return Scope(source, None, opens.account, opens.headers, tenant_id)

    # -- running

    async def run(self, *, plans: bool = True) -> None:
        """Collect for ever what is asked for and, if it `plans`, what nobody has to ask for."""
        self._planned = asyncio.get_running_loop().time()
        try:
            while True:
                self.wake.clear()
                pause_s = LOOK_S
                try:
                    if plans:
                        await self._plan()
                    if await self.look():
                        pause_s = SEARCH_S
                except DatabaseUnavailable:
                    pass  # Whoever books says it.
                except Exception as error:  # noqa: BLE001  The last line of defence: the next look may go well.
                    log.error("collector_failed", error=type(error).__name__)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self.wake.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Let go of what is under way: it goes on from its last page."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        for asker in self._askers.values():
            await asker.close()

    async def look(self) -> bool:
        """Begin what waits, of each source of which nothing is under way; False where it is too early for some. Before
        spools were read once everything would be too young, however old it is, and lists would be read for nothing. Raises
        DatabaseUnavailable."""
        idle = [source for source in self.sources if source not in self._running]
        read = [source for source in idle if self._booked_until(source) != EPOCH]
        for source in await self._waiting(read) if read else ():
            row = await self._taken(source)
            if row is not None:
                task = self._running[source] = asyncio.create_task(self._collect(row))
                task.add_done_callback(lambda _, source=source: self._ended(source))  # type: ignore[misc]

        return len(read) == len(idle)

    def _ended(self, source: str) -> None:
        del self._running[source]
        self.wake.set()

    async def quiet(self) -> None:
        """Wait until nothing is under way."""
        while self._running:
            await asyncio.wait(self._running.values())

    async def _waiting(self, sources: Sequence[str]) -> Sequence[str]:
        """Those of which a collection waits."""
        at = collections.c
        waiting = select(at.source).where(at.source.in_(sources), _free(self._now())).distinct()
        async with self._database.reading() as connection:
            return (await connection.execute(waiting)).scalars().all()

    async def _taken(self, source: str) -> Any:
        """The collection of a source that has waited longest, held from now on; None where none waits."""
        at, now = collections.c, self._now()
        free = _free(now)
        # What somebody waits for comes before what nobody asked for.
        oldest = select(at.collection_id).where(at.source == source, free).order_by(at.kind != ASKED, at.created_at)
        async with self._database.reading() as connection:
            found = (await connection.execute(oldest.limit(1))).scalar()
        if found is None:
            return None
        mine = update(collections).where(at.collection_id == found, free)
        async with self._database.transaction() as connection:
            taken = await connection.execute(
                mine.values(status=RUNNING, held_by=self._me, held_until=now + dt.timedelta(seconds=HELD_S))
            )
            if not taken.rowcount:
                return None
            return (await connection.execute(select(collections).where(at.collection_id == found))).one()

    async def _collect(self, row: Any) -> None:
        """Read a collection to its end. Whatever stops it, it goes on from its last page."""
        holding = asyncio.create_task(self._hold(row.collection_id))
        status, reason = WAITING, None
        try:
            scope = self.scope(row.source, row.tenant_id, await self.owned())
            walk = _Walk(self, row, scope)
            status = DONE if await walk.to_its_end() else CANCELLED
        except (NoScope, NotAPage, NotAnswered) as error:
            status, reason = FAILED, str(error)
        except DatabaseUnavailable:
            await asyncio.sleep(LOOK_S)
        except Exception as error:  # noqa: BLE001  The last line of defence: it is said, and no other is stopped.
            status, reason = FAILED, f"a fault in the gateway: {type(error).__name__}"
        finally:
            holding.cancel()
            await asyncio.shield(self._let_go(row, status, reason))

    async def _hold(self, collection_id: str) -> None:
        while True:
            await asyncio.sleep(HELD_S / 4)
            with suppress(DatabaseUnavailable):
                await self._set(collection_id, held_until=self._now() + dt.timedelta(seconds=HELD_S))

    async def _let_go(self, row: Any, status: str, reason: str | None) -> None:
        if reason is not None:
            log.warning("collection_failed", source=row.source, collection_id=row.collection_id, reason=reason)
        with suppress(DatabaseUnavailable):
            # Where that can not be written, it is found let go of when its time is over.
            await self._set(row.collection_id, status=status, reason=reason, held_until=None, updated_at=self._now())

    async def _set(self, collection_id: str, **values: object) -> bool:
        """Change a collection that is ours; False where it is not any more."""
        at = collections.c
        mine = and_(at.collection_id == collection_id, at.held_by == self._me, at.status == RUNNING)
        async with self._database.transaction() as connection:
            return (await connection.execute(update(collections).where(mine).values(values))).rowcount > 0

    def asker(self, source: str) -> Asker:
        """Who asks a provider, for everybody in this process."""
        asker = self._askers.get(source)
        if asker is None:
            asker = self._askers[source] = Asker()
        return asker

    async def page(
        self, scope: Scope, listing: Listing[Item], path: str, asked: Callable[[], object] = lambda: None
    ) -> Page[Item]:
        """A page of a list; `asked` is called for each request. Raises NotAnswered and NotAPage."""
        return listing.read(path, await self._answer(scope, listing, path, asked))

    async def _answer(self, scope: Scope, listing: Listing[Any], path: str, asked: Callable[[], object]) -> bytes:
        base_url = self.sources[scope.source].base_url.replace("{product}", listing.product).rstrip("/")
        return await self.asker(scope.source).ask(base_url + path, _headers(scope, listing), asked)

    async def looked_closer(
        self,
        scope: Scope,
        listing: Listing[Record],
        records: Sequence[Record],
        young_ms: int,
        asked: Callable[[], object] = lambda: None,
        *,
        again: bool,
    ) -> Sequence[Record]:
        """The same things with what only their own descriptions say, as far as those are needed: of what the ledger does not
        have and is not of `young_ms` or later, where it can be told whose it is; of what was nobody's before only `again`.
        One that is not described, or makes no sense, is as the list has it. Raises NotAnswered and DatabaseUnavailable."""
        closer = listing.closer
        if closer is None or not records:
            return records
        owned = await self.owned()
        there: set[str] = set(await self._in_ledger(scope, records, owned))
        there |= {record.external_id for record in records if record.occurred_at_ms >= young_ms}
        if scope.tenant_id is None:
            if not any(_names(fields.get(closer.owner)) for fields in owned.values()):
                return records
            if not again:
                there |= await self._nobodys(scope.source, records)
        described: dict[str, Record] = {}
        for record in records:
            if record.external_id in there or record.external_id in described:
                continue
            with suppress(NotAPage):
                try:
                    body = await self._answer(scope, listing, closer.path(record), asked)
                except NotAnswered as error:
                    if error.again:
                        raise
                    described[record.external_id] = record
                else:
                    described[record.external_id] = closer.read(record, body)
        return [
            record
            if (one := described.get(record.external_id)) is None
            else msgspec.structs.replace(record, occurred_at_ms=one.occurred_at_ms, owners=one.owners)
            for record in records
        ]

    async def _nobodys(self, source: str, records: Sequence[Record]) -> set[str]:
        """Those of which nobody was found before."""
        at = unattributed.c
        question = select(at.external_id).where(
            at.source == source, at.external_id.in_(sorted({record.external_id for record in records}))
        )
        async with self._database.reading() as connection:
            return set((await connection.execute(question)).scalars())

    async def keep(self, row: Any, position: Mapping[str, object], pages: int, counts: Mapping[str, int]) -> bool:
        """Keep how far a collection is; False where it is not ours any more, or cancelled. Raises DatabaseUnavailable.

        What was booked and is not kept is read again, and found booked.
        """
        return await self._set(
            row.collection_id, position=position, pages=pages, counts=dict(counts), updated_at=self._now()
        )

    # -- booking

    async def book_records(
        self,
        scope: Scope,
        records: Sequence[Record],
        counts: Counter[str],
        young_ms: int,
        put_off: list[Record] | None = None,
    ) -> None:
        """Book what can be told whose it is, and note what can not; what may be told once more of the list was read is
        `put_off`, if it may be. What the ledger has no event of and is of `young_ms` or later is left. Raises
        DatabaseUnavailable."""
        owned = await self.owned()
        there = await self._in_ledger(scope, records, owned)
        names = _names_of(owned)
        facts: list[Fact] = []
        booked, nobodys = 0, []
        put_off_before = len(put_off or ())
        for record in records:
            known = there.get(record.external_id)
            tenant_id = scope.tenant_id if known is None else known.tenant_id
            if known is None and record.occurred_at_ms >= young_ms:
                counts["young"] += 1
                continue
            if known is None and tenant_id is None:
                if put_off is not None and record.parent not in (None, *there) and len(put_off) < PUT_OFF_MAX:
                    put_off.append(record)
                    continue
                tenant_id = _owner(record, names, there)
            if tenant_id is None:
                nobodys.append(record)
            elif scope.only is not None and tenant_id != scope.only:
                counts["others"] += 1
            else:
                try:
                    booked += 1
                    if record.in_parts and known is not None and known.called:
                        continue
                    facts += self._facts(scope.source, tenant_id, record, counted=known is not None and known.counted)
                except ValueError:
                    booked -= 1
                    counts["unreadable"] += 1
        appended = await self._book(facts) if facts else []
        new = [one.event.kind for part in appended for one in part.new]
        made = new.count(Kind.BACKFILL)
        counts.update(
            seen=len(records) - (len(put_off or ()) - put_off_before),
            new=made,
            known=booked - made,
            corrected=len(new) - made,
            conflicting=sum(len(part.conflicting) for part in appended),
            unattributed=len(nobodys),
        )
        await self._note(scope.source, records, nobodys)

    def _facts(self, source: str, tenant_id: str, record: Record, *, counted: bool) -> list[Fact]:
        """What is booked of a record. Raises ValueError for what no provider can have meant."""
        old_ms = self._now_ms() - record.old_days * DAY_MS
        late = record.late_if_old if record.old_days and record.occurred_at_ms < old_ms else record.late
        events = [late_event(tenant_id, source, one) for one in late]
        if not counted:
            events.insert(0, made_event(tenant_id, source, record, self._reference))
        return [fact(validated(event), msgspec.json.encode(event)) for event in events]

    def young_ms(self, source: str) -> int:
        """From when on things of a source are too young to be booked by a list that is read from now on."""
        return (self._booked_until(source) - EPOCH) // dt.timedelta(milliseconds=1) - YOUNG_S * 1000

    def _now_ms(self) -> int:
        return (self._now() - EPOCH) // dt.timedelta(milliseconds=1)

    async def _in_ledger(self, scope: Scope, records: Sequence[Record], owned: Owned) -> dict[str, _Known]:
        """Those of the things, and of what they were made for, that the ledger has an event of."""
        wanted = {record.external_id for record in records}
        wanted |= {record.parent for record in records if record.parent is not None}
        if not wanted:
            return {}
        # All of them: an account can have been another tenant's, whose what it did before still is.
        tenant_ids = sorted({*owned, *(() if scope.tenant_id is None else (scope.tenant_id,))})
        first = min(record.occurred_at_ms for record in records) - MADE_DAYS_MAX * DAY_MS
        found: dict[str, _Known] = {}
        at = usage_events.c
        question = select(at.tenant_id, at.external_id, at.direction, at.kind).where(
            at.external_id.in_(sorted(wanted)),
            at.source == scope.source,
            at.event_day >= iso_ms(max(first, 0))[:10],
            # A call of unknown outcome names what it has made in its correction.
            at.kind.in_((Kind.USAGE, Kind.BACKFILL, Kind.CORRECTION)),
        )
        async with self._database.reading() as connection:
            for start in range(0, len(tenant_ids), TENANTS_AT_ONCE):
                asked = at.tenant_id.in_(tenant_ids[start : start + TENANTS_AT_ONCE])
                for row in await connection.execute(question.where(asked)):
                    before = found.get(row.external_id)
                    # A step within a call is an event of it, and does not count it.
                    counted = row.direction is not None or (before is not None and before.counted)
                    called = row.kind == Kind.USAGE or (before is not None and before.called)
                    found[row.external_id] = _Known(row.tenant_id, counted, called)
        return found

    async def _note(self, source: str, records: Sequence[Record], nobodys: Sequence[Record]) -> None:
        """Keep what is nobody's, and let go of what was and is not any more."""
        at, now = unattributed.c, self._now()
        ours = {record.external_id for record in records} - {record.external_id for record in nobodys}
        here = (at.source == source, at.external_id.in_(sorted(ours)))
        async with self._database.reading() as connection:
            found = (await connection.execute(select(at.external_id).where(*here).limit(1))).first() if ours else None
        if not nobodys and found is None:
            return
        async with self._database.transaction() as connection:
            if found is not None:
                await connection.execute(delete(unattributed).where(*here))
            if nobodys:
                rows = {record.external_id: _unattributed_row(source, record, now) for record in nobodys}
                await rows_in(connection).insert(connection, unattributed, [rows[key] for key in sorted(rows)], _AS_NOW)

    # -- what nobody has to ask for

    async def _plan(self) -> None:
        """Have today's lists read, and those of the days before. Not before this process has run for a while."""
        time_s, now = asyncio.get_running_loop().time(), self._now()
        if time_s - self._planned >= TODAY_S and self.schedules is not Schedules.OFF:
            self._planned = time_s
            await self.plan(now)
        if time_s - self._housekept >= HOUSEKEEPING_S:
            self._housekept = time_s
            before = now - dt.timedelta(days=KEPT_DAYS)
            async with self._database.transaction() as connection:
                ended = collections.c.status.not_in(OPEN)
                await connection.execute(delete(collections).where(collections.c.updated_at < before, ended))
                await connection.execute(delete(unattributed).where(unattributed.c.found_at < before))

    async def plan(self, now: dt.datetime) -> None:
        """Note what is due now. However many back offices note it, it is noted once."""
        owned, today = await self.owned(), now.date()
        planned = []
        for source in self.sources:
            for tenant_id in self._scheduled(source, owned):
                name = f"{source}:{tenant_id or ''}"
                slot = int(now.timestamp()) // TODAY_S
                this = Wanted(TODAY, source, tenant_id, today, today, SCHEDULE)
                planned.append(_row(f"{TODAY}:{name}:{slot}", this, now))
                if now.hour >= SWEEP_HOUR:
                    first, last = today - dt.timedelta(days=SWEEP_DAYS), today - dt.timedelta(days=1)
                    before = Wanted(SWEEP, source, tenant_id, first, last, SCHEDULE)
                    planned.append(_row(f"{SWEEP}:{name}:{today}", before, now))
        at = collections.c
        async with self._database.transaction() as connection:
            # Of today, the last time says all that those before it said.
            await connection.execute(delete(collections).where(at.kind == TODAY, at.status.not_in(OPEN)))
            waits = select(at.source, at.tenant_id).where(at.kind == TODAY)
            waiting = {(row.source, row.tenant_id) for row in await connection.execute(waits)}
            due = [one for one in planned if one["kind"] != TODAY or (one["source"], one["tenant_id"]) not in waiting]
            known = select(at.collection_id).where(at.collection_id.in_([one["collection_id"] for one in due]))
            there = set((await connection.execute(known)).scalars())
            rows = sorted((one for one in due if one["collection_id"] not in there), key=str)
            if rows:
                values = [tuple(_as_value(one[column.name]) for column in collections.columns) for one in rows]
                await rows_in(connection).insert(connection, collections, values, "ON CONFLICT DO NOTHING")

    def _scheduled(self, source: str, owned: Owned) -> list[str | None]:
        """Whose lists of a source are read without being asked for."""
        found: list[str | None] = []
        if not self.sources[source].records:
            return found
        for tenant_id in owned:
            with suppress(NoScope):
                if self.scope(source, tenant_id, owned).tenant_id is not None:
                    found.append(tenant_id)
        if self.schedules is Schedules.ALL and self.sources[source].credential(None) is not None:
            found.append(None)
        return found


def _free(now: dt.datetime) -> ColumnElement[bool]:
    """True of a collection that waits, or that nobody holds any more."""
    at = collections.c
    return or_(at.status == WAITING, and_(at.status == RUNNING, at.held_until < now))


class _Known(NamedTuple):
    """A thing that the ledger has an event of."""

    tenant_id: str
    counted: bool
    """True where an event says that it was made."""
    called: bool
    """True where that is the event of a call of ours."""


class _Walk:
    """One collection under way."""

    def __init__(self, collector: Collector, row: Any, scope: Scope) -> None:
        self._collector = collector
        self._row = row
        self._scope = scope
        self._counts: Counter[str] = Counter({name: row.counts.get(name, 0) for name in COUNTS})
        self._pages = row.pages

    async def to_its_end(self) -> bool:
        """Read from the page that comes next to the last; False where it was taken from us. Raises NotAnswered, NotAPage
        and DatabaseUnavailable."""
        collector, scope = self._collector, self._scope
        position = self._row.position or {"step": 0, "path": None}
        # Calls that are killed from now on are not among those that are looked for beforehand.
        young_ms = collector.young_ms(scope.source)
        if collector.before is not None:
            first, last = dt.date.fromisoformat(self._row.first_day), dt.date.fromisoformat(self._row.last_day)
            await collector.before(scope, first, last)
        for step, (day, listing) in enumerate(steps(self._row, collector.sources[scope.source].records)):
            if step < position["step"]:
                continue
            path = position["path"] if step == position["step"] else None
            path = path or listing.first(scope.account, day)
            put_off: list[Record] = []
            again_from: str | None = None
            """The page of the first that was put off: they are found again from there on."""
            while path is not None:
                page = await collector.page(scope, listing, path, self._asked)
                self._counts["unreadable"] += page.unreadable
                await self._book(page.items, young_ms, put_off, listing)
                if put_off and again_from is None:
                    again_from = path
                path, self._pages = page.next_path, self._pages + 1
                at: dict[str, object] = {"step": step, "path": again_from or path}
                if path is None:
                    await self._book(put_off, young_ms, None, listing)
                    at = {"step": step + 1, "path": None}
                if not await collector.keep(self._row, at, self._pages, self._counts):
                    return False
        return True

    async def _book(
        self, records: Sequence[Record], young_ms: int, put_off: list[Record] | None, listing: Listing[Record]
    ) -> None:
        for start in range(0, len(records), RECORDS_AT_ONCE):
            part = records[start : start + RECORDS_AT_ONCE]
            part = await self._collector.looked_closer(
                self._scope, listing, part, young_ms, self._asked, again=self._row.kind == ASKED
            )
            await self._collector.book_records(self._scope, part, self._counts, young_ms, put_off)

    def _asked(self) -> None:
        self._counts["requests"] += 1


def steps(row: Any, listings: Sequence[Listing[Record]]) -> Iterator[tuple[dt.date, Listing[Record]]]:
    """The lists of a collection, in the order in which they are read."""
    first, last = dt.date.fromisoformat(row.first_day), dt.date.fromisoformat(row.last_day)
    for number in range((last - first).days + 1):
        for listing in listings:
            yield first + dt.timedelta(days=number), listing


def _headers(scope: Scope, listing: Listing[Any]) -> Mapping[str, str]:
    """What a question carries: a credential, and the account where nothing else names it."""
    if listing.account_header is None or not scope.account:
        return scope.headers
    return {**scope.headers, listing.account_header: scope.account}


def _names(value: object) -> list[str]:
    """The name, or the names, that a field of an integration holds."""
    return [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, str) and one]


def _names_of(owned: Owned) -> dict[tuple[str, str], str | None]:
    """Whose each name in a field is; None where several claim it."""
    found: dict[tuple[str, str], str | None] = {}
    for tenant_id, fields in owned.items():
        for field, value in fields.items():
            for name in _names(value):
                found[field, name] = tenant_id if (field, name) not in found else None
    return found


def _owner(record: Record, names: Mapping[tuple[str, str], str | None], there: Mapping[str, _Known]) -> str | None:
    """Whose a thing is that the ledger does not have: that of what it was made for, else by the surest of its names."""
    if record.parent is not None and record.parent in there:
        return there[record.parent].tenant_id
    return next((names[name] for name in record.owners if name in names), None)


def _unattributed_row(source: str, record: Record, now: dt.datetime) -> tuple[object, ...]:
    used, price = record.made, next((one.usage.metadata for one in record.late if one.phase == PRICE), {})
    used = next((one.usage for one in record.late if one.phase == FINAL), used)
    day, cost, currency = iso_ms(record.occurred_at_ms)[:10], price.get(TOLD_COST), price.get("currency")
    event_type = record.made.event_type or OTHER.channel
    return source, record.external_id, record.account, day, event_type, used.quantities, cost, currency, iso(now)


_AS_NOW = (
    "ON CONFLICT (source, external_id) DO UPDATE SET quantities = excluded.quantities, cost = excluded.cost, "
    "currency = excluded.currency, found_at = excluded.found_at"
)


def _row(collection_id: str, wanted: Wanted, now: dt.datetime) -> dict[str, Any]:
    return {
        "collection_id": collection_id,
        "kind": wanted.kind,
        "source": wanted.source,
        "tenant_id": wanted.tenant_id,
        "first_day": wanted.first_day.isoformat(),
        "last_day": wanted.last_day.isoformat(),
        "status": WAITING,
        "reason": None,
        "asked_by": wanted.asked_by,
        "position": None,
        "pages": 0,
        "counts": dict.fromkeys(COUNTS, 0),
        "held_by": None,
        "held_until": None,
        "created_at": now,
        "updated_at": now,
    }


def _as_value(value: object) -> object:
    return iso(value) if isinstance(value, dt.datetime) else value
