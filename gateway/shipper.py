"""From the spools to the ledger: the back office's first duty, and the only way facts of calls get there.

Each round reads what the workers have written, books it in one transaction together with how far each spool was read,
and only then lets go of it. A spool whose worker is gone is read to its end; the calls that it left open are booked as
`unknown`, since the provider may have acted on them. Any round may be run again, by anybody: the ids are the same. What
can not be booked is set aside and stops nothing else.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from gateway.directory_changes import DirectoryChanges
from gateway.spool_batches import MISSING, NO_EVENT, UNREADABLE, Batch, ReadSpool, leave_open, take
from gateway.telemetry import log
from gateway.ticks import until_tick_s
from metering import ledger, spool_reader
from metering.database import Database, DatabaseUnavailable
from metering.facts import Fact, days_of_calls
from metering.ledger import Appended, Aside, Moved
from metering.months import Months
from metering.pieces import WHOLE, Pieces
from metering.spool import SEGMENT_BYTES
from metering.spool_reader import BEGINNING, Position
from metering.tables import spool_positions
from metering.usage import EPOCH
from pricing.catalogue import Books
from pricing.ledger import book


class Pace(NamedTuple):
    """How much is booked at a time, and how steadily."""

    batch_events_max: int
    """Events of one transaction."""
    batches_at_once: int = 1
    """Transactions under way, each of other spools."""
    read_records_max: int | None = None
    """Of one read, for a batch that holds all there is."""
    read_rest_s: float = 0
    """Between one such read and the next."""
    pieces: Pieces = WHOLE
    """In which such a batch is booked."""


BESIDE_CALLS = Pace(250)
"""Enough to share what a transaction costs, few enough that calls in the same process do not wait."""

APART = Pace(
    4000, batches_at_once=3, read_records_max=200, read_rest_s=0.001, pieces=Pieces(32, facts_min=25, rest_s=0.003)
)
"""In a process in which no call waits. An event costs two fifths less than in a batch of 250; and while the server is busy
with one batch, which takes it twice as long as it takes us, the next is made ready. Two at once book a third more events a
second than one, and three some 15 % more than two.

Calls on the same processors wait for as long as the database or we are busy at a stretch. While we keep up, a batch is
therefore booked little by little, which takes a tenth of a second longer, 64 questions to the database instead of two, and
some 40 % more time of our processor: at 9,000 calls a second, with everything on two, one in a hundred took longer than 6
ms, and so 3 (all measured)."""

NEARLY_FULL = 0.75
"""A batch that holds so much of what it may shows that more is coming than is booked little by little."""

POLL_S = 0.2
"""From one look at spools to the next, as long as one finds all of them read. It bounds how old the newest event is that the
ledger lacks; and the more events come within it, the more share what a transaction costs."""

PAUSE_S = 0.025
"""Between two looks at least, however long one takes."""

SEARCH_S = 1.0
"""Where nothing stands behind what was read and no file has come or gone, spools are read so often all the same: it may be
behind a hole, and a worker that was killed leaves no other sign than its lock."""

RETRY_S_MAX = 5.0
"""While the ledger can not be written, it is tried again at growing intervals up to this."""

RETENTION_S = 24 * 3600
"""Segments are kept for so long after all they hold is in the ledger, in case the ledger's disk is lost."""

ROOM_BYTES_MIN = 4 * SEGMENT_BYTES
"""Where the disk has less room than this, segments that the ledger has are not kept: calls need the room more."""

ROOM_LOOK_S = 1
HOUSEKEEPING_S = 60

CALL_S_MAX = 4 * 3600
"""A call that was seen so long ago and has no outcome yet is booked as unknown, though its worker lives. No provider takes
so long over one: OpenAI ends its longest, realtime sessions, after an hour. An outcome that comes later is booked as a
correction. By the time this process has run, since the time of day may jump."""

NO_BOOKING = "an event that can not be booked"
"""Why facts are set aside, besides what was found in reading, and ledger.CONFLICT."""

NOT_BOOKABLE = (ArithmeticError, LookupError, TypeError, ValueError, SQLAlchemyError)
"""What booking raises on account of an event: a number no column holds, a plan no book is for."""


class _Began(msgspec.Struct):
    """What is read of an intent to know what may be under way; one that can not be read is set aside in the end."""

    source: str = ""
    occurred_at_ms: int = 0


_read_began = msgspec.json.Decoder(_Began).decode


class Backlog(NamedTuple):
    """What was recorded and the ledger does not have."""

    size_bytes: int
    age_s: float
    """How long ago the ledger last had everything that could be read; 0 while it has."""


@dataclass(slots=True)
class Shipped:
    """What was done since this process began, in transactions that are known to be committed."""

    batches: int = 0
    booked: int = 0
    """Events that are new in the ledger, corrections of late outcomes included."""
    repeated: int = 0
    """Events that the ledger had already, as after a commit whose answer never came."""
    set_aside: Counter[str] = field(
        default_factory=lambda: Counter(dict.fromkeys((UNREADABLE, MISSING, NO_EVENT, NO_BOOKING, ledger.CONFLICT), 0))
    )
    """By reason."""

    def add(self, appended: Appended, asides: Sequence[Aside]) -> None:
        """A transaction is committed."""
        self.batches += 1
        self.booked += len(appended.new)
        self.repeated += appended.repeated
        self.set_aside[ledger.CONFLICT] += len(appended.conflicting)
        # Some reasons go on to say what kind of error it was.
        self.set_aside.update(one.reason.partition(":")[0] for one in asides)


class Shipper:
    """Ships all spools of one directory."""

    def __init__(
        self,
        directory: Path,
        database: Database,
        books: Books,
        now: Callable[[], dt.datetime],
        pace: Pace = BESIDE_CALLS,
        retention_s: float = RETENTION_S,
    ) -> None:
        self.directory = directory
        self._database = database
        self._books = books
        self._now = now
        self._months = Months(database)
        self._spools: dict[str, ReadSpool] = {}
        self.unreadable: set[str] = set()
        """Spools that could not be read the last time; said once."""
        self._last = ""
        """The spool that was read last."""
        self._pace, self._pace_in_haste = pace, Pace(pace.batch_events_max, pace.batches_at_once)
        self._batches: list[Batch] = []
        """What was read and is not booked. While one is, its spools are not read."""
        self._booking: dict[asyncio.Task[None], Batch] = {}
        """Those whose transaction is under way; the others failed."""
        self._behind = False
        """There is more to do than a batch holds, or was until now: nothing rests until none is even nearly full."""
        self._wake = asyncio.Event()
        self._stopping = False
        self._changes = DirectoryChanges(directory, SEARCH_S)
        self._look: asyncio.TimerHandle
        self._retention_s = retention_s
        self._housekept = self._looked_for_room = 0.0
        self.last_shipped = now()
        """When the ledger last had everything that could be read."""
        self._read_through = EPOCH if spool_reader.spools(directory) else self.last_shipped
        """When the last look at all spools began that found the ledger to have everything; the first finds none there."""
        self.failing: str | None = None
        """Why the ledger can not be written, while it can not."""
        self.shipped = Shipped()
        self.when_pending: Callable[[], object] = lambda: None
        """Called when something was booked of which the provider will say more, or what it said."""

    async def run(self) -> None:
        """Ship until told to stop; then ship what is there, and end."""
        loop = asyncio.get_running_loop()
        delay = POLL_S
        while True:
            stopping, began, began_s = self._stopping, self._now(), loop.time()
            try:
                more = await self.round()
            except (DatabaseUnavailable, OSError) as error:
                if self.failing is None:
                    log.error("ledger_unavailable", reason=str(error))
                self.failing = str(error)
                delay = min(delay * 2, RETRY_S_MAX)
                if stopping:
                    return
            else:
                if self.failing is not None:
                    log.info("ledger_available_again")
                self.failing = None
                if more:
                    continue
                if not self.unreadable:
                    self.last_shipped, self._read_through = self._now(), began
                delay = POLL_S
                if stopping:
                    return
            if self.failing is None:
                self._look_later(max(PAUSE_S, began_s + POLL_S - loop.time()))
            else:
                # What failed holds its batch in cycles, of SQLAlchemy's and of contextlib's. Few objects are in them, so that
                # by itself Python would look for them after a thousand failures.
                gc.collect(0)
                self._look_later(delay)
            try:
                await self._wake.wait()
            finally:
                self._look.cancel()
            self._wake.clear()

    def _look_later(self, wait_s: float) -> None:
        # Not in the task: at rest nearly all looks find nothing, and waking a task costs as much as they do.
        self._look = asyncio.get_running_loop().call_later(wait_s, self._look_or_wake)

    def _look_or_wake(self) -> None:
        """Have the next round begin, or look again where there is nothing for it."""
        if self._nothing_new():
            self._look_later(until_tick_s(POLL_S))
        else:
            self._wake.set()

    def _nothing_new(self) -> bool:
        """True if a look that costs little finds that the ledger has everything still."""
        if self._stopping or self.failing is not None or self.unreadable or self._batches:
            return False
        began = self._now()
        if self._changes.any():
            return False
        try:
            for spool_id, spool in self._spools.items():
                if spool_reader.goes_on(self.directory, spool_id, spool.position):
                    return False
        except OSError:
            return False  # Which the round says.
        self.last_shipped = self._read_through = began
        return True

    def stop(self) -> None:
        """Have `run` end once everything that is there now is booked."""
        self._stopping = True
        self._wake.set()

    async def round(self) -> bool:
        """Read what there is and book it, until a transaction is committed; True if there may be more.

        Raises DatabaseUnavailable, OSError. A batch that was not booked is kept, and booked before anything else is read.
        """
        failed = [batch for batch in self._batches if batch not in self._booking.values()]
        for batch in failed:
            self._begin(batch)
        if not failed:
            await self._housekeep()
            await self._read_ahead()
        if not self._booking:
            return False
        more = bool(failed) or any(batch.full for batch in self._booking.values())
        try:
            done, _ = await asyncio.wait(
                self._booking, return_when=asyncio.FIRST_COMPLETED if more else asyncio.ALL_COMPLETED
            )
        except asyncio.CancelledError:
            for task in self._booking:
                task.cancel()
            await asyncio.wait(self._booking)
            self._booking.clear()
            raise
        ended = [task for task in self._booking if task in done]
        for task in ended:
            del self._booking[task]
        errors = [error for task in ended if (error := task.exception()) is not None]
        if errors:
            raise errors[0]
        return more

    async def _read_ahead(self) -> None:
        """Begin transactions while there is something to book, as many as may be under way at once."""
        while len(self._booking) < self._pace.batches_at_once:
            batch = self.new_batch()
            try:
                await self._fill(batch)
            finally:
                # Whatever stopped the reading, what was read is not read again.
                if not batch.empty:
                    self._batches.append(batch)
                    self._behind = self._goes_on_behind()
                    self._begin(batch)
            if not batch.full:
                return

    def _goes_on_behind(self) -> bool:
        """By what was read and is not booked."""
        filled = max(batch.filled for batch in self._batches)
        return filled >= 1 or (self._behind and filled >= NEARLY_FULL)

    def _begin(self, batch: Batch) -> None:
        self._booking[asyncio.create_task(self._settle(batch))] = batch

    async def _settle(self, batch: Batch) -> None:
        """Book a batch and let go of it."""
        await self.book(batch.facts, batch.aside, batch.moved, self._pace_now.pieces)
        for spool_id in batch.moved:
            spool = self._spools[spool_id]
            spool.booked = max(spool.booked, spool.seen)
            spool.confirmed, spool.confirmed_needed = spool.position, spool.needed
        try:
            for spool_id in batch.finished:
                # In a thread, since a worker that was killed has left a long file.
                await asyncio.to_thread(spool_reader.finish, self.directory, spool_id)
                del self._spools[spool_id]
        finally:
            self._batches.remove(batch)

    def backlog(self) -> Backlog:
        """Measured now, out of the files: a few milliseconds."""
        size_bytes = sum(
            spool_reader.unread_bytes(self.directory, spool_id, self.confirmed(spool_id))
            for spool_id in spool_reader.spools(self.directory)
        )
        behind = bool(size_bytes or self.unreadable)
        return Backlog(size_bytes, (self._now() - self.last_shipped).total_seconds() if behind else 0.0)

    def booked_until(self, source: str) -> dt.datetime:
        """The moment before which the record of every call to a source is in the ledger, as far as these spools tell: what
        waits in those of other hosts is not known here. Calls under way have none yet."""
        open_ms = (
            intent.occurred_at_ms
            for spool in self._spools.values()
            for said in spool.open.values()
            if (intent := _began(said.said)).source == source
        )
        first_ms = min(open_ms, default=None)
        if first_ms is None:
            return self._read_through
        return min(self._read_through, EPOCH + dt.timedelta(milliseconds=first_ms))

    def confirmed(self, spool_id: str) -> Position:
        """Up to where the ledger has everything of a spool that is not finished, as far as this process knows."""
        spool = self._spools.get(spool_id)
        return BEGINNING if spool is None else spool.confirmed

    @property
    def _pace_now(self) -> Pace:
        """Without rests while there is more to do than a batch holds, or the end is waited for."""
        return self._pace_in_haste if self._behind or self._stopping else self._pace

    def new_batch(self) -> Batch:
        return Batch(self._pace.batch_events_max)

    async def _housekeep(self) -> None:
        """Let go of segments that nobody needs."""
        time_s = asyncio.get_running_loop().time()
        if time_s - self._housekept > HOUSEKEEPING_S:
            self._housekept = time_s
            await self._discard(self._retention_s)
            await self._months.ensure_ahead(self._now())
        elif time_s - self._looked_for_room > ROOM_LOOK_S:
            self._looked_for_room = time_s
            await self._discard(0, unless_room_bytes=ROOM_BYTES_MIN)

    async def _discard(self, keep_s: float, unless_room_bytes: int | None = None) -> None:
        needed = {spool_id: spool.confirmed_needed for spool_id, spool in self._spools.items()}
        try:
            if unless_room_bytes is not None and spool_reader.room_bytes(self.directory) >= unless_room_bytes:
                return
            await asyncio.to_thread(spool_reader.discard, self.directory, needed, keep_s)
        except OSError as error:
            log.error("spool_not_discarded", reason=os.strerror(error.errno or 0))

    async def _fill(self, batch: Batch) -> None:
        """Read from every spool while there is room, beginning after the one that was read last: each gets its turn."""
        there = spool_reader.spools(self.directory)
        self.unreadable.intersection_update(there)
        for spool_id in sorted(self._free(there), key=lambda one: (one <= self._last, one)):
            if batch.full:
                return
            self._last = spool_id
            try:
                await self._read(spool_id, batch)
            except OSError as error:
                if spool_id not in self.unreadable:
                    log.error("spool_unreadable", spool=spool_id, reason=os.strerror(error.errno or 0))
                self.unreadable.add(spool_id)
            else:
                self.unreadable.discard(spool_id)

    def _free(self, there: Collection[str]) -> Collection[str]:
        """The spools of which nothing was read that is not booked: their records are booked in their order."""
        return set(there).difference(*(batch.moved.union(batch.finished) for batch in self._batches))

    async def _read(self, spool_id: str, batch: Batch) -> None:
        spool = self._spools.get(spool_id)
        if spool is None or not spool_reader.holds(self.directory, spool_id, spool.position.segment):
            # New; or another shipper is ahead, and has let go of what the ledger has: what it booked is not read again.
            spool = self._spools[spool_id] = await self._resumed(spool_id)
        await self.read_on(spool_id, spool, batch, self._pace_now)

    async def read_on(self, spool_id: str, spool: ReadSpool, batch: Batch, pace: Pace | None = None) -> None:
        """Take what one spool has to the batch, while there is room; at its end, the calls that it left open.

        Without a pace it does not rest.
        """
        pace = pace or self._pace_in_haste
        # Asked first: what a worker wrote before its end is then read before the spool counts as read to its end.
        abandoned = spool_reader.abandoned(self.directory, spool_id)
        while not batch.full:
            records_max = min(batch.room, pace.read_records_max or batch.room)
            reading = spool_reader.read(self.directory, spool_id, spool.position, records_max, ended=abandoned)
            moved = reading.position != spool.position
            if moved:
                for segment, damage in reading.damages:
                    log.error("spool_damaged", spool=spool_id, segment=segment, start=damage.start, end=damage.end)
                    extent = f"{spool_id}:{segment}:{damage.start}-{damage.end}"
                    batch.aside.append(Aside(extent, UNREADABLE, extent))
                take(spool_id, spool, reading.records, asyncio.get_running_loop().time(), batch)
                spool.position = reading.position
                batch.moved.add(spool_id)
            if reading.through or not moved:
                # What a busy worker has written since is left for the next look: there would always be something.
                self._give_up_open(spool_id, spool, batch, all_of_them=abandoned)
                if abandoned and not spool.open:
                    batch.finished.append(spool_id)
                return
            # Reading again what the ledger has can take long, and calls are waiting.
            await asyncio.sleep(pace.read_rest_s)

    def _give_up_open(self, spool_id: str, spool: ReadSpool, batch: Batch, *, all_of_them: bool) -> None:
        """Take calls whose outcome will not come to the batch: those of a worker that is gone, or whose time is over."""
        over_s = asyncio.get_running_loop().time() - CALL_S_MAX
        while spool.open and not batch.full:
            sequence, intent = next(iter(spool.open.items()))
            if not all_of_them and intent.seen_s >= over_s:
                return  # Those after it were seen later.
            del spool.open[sequence]
            leave_open(spool_id, sequence, intent.said, batch)
            batch.moved.add(spool_id)

    async def _resumed(self, spool_id: str) -> ReadSpool:
        """Begin where the calls that are open are found again; what the ledger has is passed over."""
        question = select(spool_positions.c.segment, spool_positions.c.sequence)
        async with self._database.reading() as connection:
            row = (await connection.execute(question.where(spool_positions.c.spool_id == spool_id))).first()
        needed, booked = (0, 0) if row is None else (row.segment, row.sequence)
        beginning = Position(needed, 0)
        return ReadSpool(beginning, beginning, booked, confirmed_needed=needed, newest=needed)

    async def book(
        self, facts: Sequence[Fact], aside: list[Aside], moved: Iterable[str] = (), pieces: Pieces = WHOLE
    ) -> list[Appended]:
        """Book what was read, and how far the spools are that were moved. Raises DatabaseUnavailable.

        Facts that can not be booked are set aside with the others.
        """
        try:
            return [await self._booked(facts, aside, moved, pieces)]
        except NOT_BOOKABLE:
            self._months.forget()
            appended = await self._book_apart(facts, aside)
            await self._booked([], aside, moved)
            return appended

    async def _book_apart(self, facts: Sequence[Fact], aside: list[Aside]) -> list[Appended]:
        """Book facts of which one or more can not be booked: by halves, until those are found."""
        appended: list[Appended] = []
        half = len(facts) // 2
        for part in (facts[:half], facts[half:]):
            try:
                appended.append(await self._booked(part))
            except NOT_BOOKABLE as error:
                if len(part) > 1:
                    appended += await self._book_apart(part, aside)
                else:
                    reason = type(error).__name__
                    log.error("event_not_bookable", event_id=part[0].key[2], reason=reason)
                    aside.append(ledger.aside(part[0], f"{NO_BOOKING}: {reason}"))
        return appended

    async def _booked(
        self,
        facts: Sequence[Fact],
        aside: Sequence[Aside] = (),
        moved: Iterable[str] = (),
        pieces: Pieces = WHOLE,
    ) -> Appended:
        now = self._now()
        # What comes later is booked in the month of its call, which is there.
        await self._months.ensure(days_of_calls(facts))
        async with self._database.transaction() as connection:
            appended = await book(connection, facts, self._books, now, pieces)
            for fact in appended.conflicting:
                log.error("event_conflict", event_id=fact.key[2], tenant_id=fact.key[0])
            await ledger.set_aside(connection, aside, now)
            await ledger.move(connection, [self._moved(spool_id) for spool_id in moved], now)
        self.shipped.add(appended, aside)
        if any(fact.pending or fact.late for fact in facts):
            self.when_pending()
        return appended

    def _moved(self, spool_id: str) -> Moved:
        spool = self._spools[spool_id]
        return Moved(spool_id, spool.needed, max(spool.booked, spool.seen))


def _began(said: bytes) -> _Began:
    try:
        return _read_began(said)
    except ValueError:
        return _Began()
