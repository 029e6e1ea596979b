"""A small world in which everything goes wrong: workers, back offices, a disk, a ledger and a clock, by one seed.

The product's own code runs: `Spool`, `Shipper`, `book`. Around it nothing is left to chance but what the seed decides, so
the same seed is the same world, step by step. Records, segments and reads are small, so that few calls fill many of them.

What must be in the ledger in the end is known of each call from what its worker was told, and from nothing else.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import fcntl
import hashlib
import os
import re
import zlib
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace

import msgspec
import xxhash

import gateway.directory_changes
import gateway.shipper
import metering.spool
import metering.spool_reader
import metering.spool_records
from gateway.shipper import BESIDE_CALLS, Pace, Shipper
from metering.database import DatabaseUnavailable
from metering.intents import late_outcome
from metering.pieces import WHOLE, Pieces
from metering.spool import Spool, SpoolFailed, SpoolFull, segment_path
from metering.spool_reader import FINISHED_SUFFIX, spools
from metering.spool_records import HEADER_BYTES, Record, RecordKind, scan, seed_of
from metering.usage import UsageEvent
from tests.builders import NOON, call_id, closed, intent, payload, usage_event
from tests.simulation.disk import ACTOR, REFUSED, Disk, DiskPath, Killed, Process
from tests.simulation.ledger import PLACES, Ledger

RECORD_BYTES_MAX = 1 << 10
READ_BYTES = 4 << 10
TURNS_MAX = 5_000
"""Of the loop, at one moment: whoever takes more does not come to an end."""

WORKERS_MAX = 3
BACK_OFFICES_MAX = 2

ABSENT, UNKNOWN, OUTCOME, SECOND, ASIDE = "absent", "unknown", "outcome", "second outcome", "set aside"
"""What the ledger has of a call. A second outcome is what somebody recorded under the same id."""

UNREADABLE = "unreadable bytes in the spool"
MISSING = "records missing in the spool"
CONFLICT = "another content under the key of an event in the ledger"
NOT_BOOKABLE = "an event that can not be booked: DataError"


class Violation(AssertionError):
    """Something is lost, doubled, invented, or stands still."""


class Loop(asyncio.BaseEventLoop):
    """Time is what the loop waits for, and passes at once. What runs elsewhere is done a moment later, here."""

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self._selector = self
        self._now_s = 1000.0
        self._turns = 0
        self._chance = chance
        self.set_exception_handler(lambda *_: None)
        self.set_task_factory(self._task)

    def time(self):
        return self._now_s

    def select(self, timeout_s):
        if timeout_s is None:
            raise Violation("nobody waits for anything that could come")
        self._now_s += timeout_s
        self._turns = 0 if timeout_s else self._turns + 1
        if self._turns > TURNS_MAX:
            raise Violation("somebody goes round and round")
        return ()

    def _process_events(self, events):
        pass

    def _write_to_self(self):
        pass

    @staticmethod
    def _task(loop, coroutine, **options):
        task = asyncio.Task(coroutine, loop=loop, **options)
        actor = options["context"].get(ACTOR) if options.get("context") else ACTOR.get(None)
        if actor is not None:
            actor.tasks.append(task)
        return task

    def run_in_executor(self, executor, function, *args):
        future = self.create_future()

        def tell(how, value):
            if not future.done():
                how(value)

        def work():
            try:
                value, how = function(*args), future.set_result
            except (Exception, Killed) as error:  # noqa: BLE001 - whatever it is, it is told to who waits
                value, how = error, future.set_exception
            self.call_later(self._chance.choice([0, 0.03]), tell, how, value)

        self.call_later(self._chance.choice([0, 0.02, 0.2]), work)
        return future

    def advance(self, seconds: float) -> None:
        self.call_later(seconds, self.stop)
        self.run_forever()


class Call:
    """One call, and what the ledger may have of it in the end."""

    def __init__(self, number: int, tenant_id: str, occurred_at_ms: int, chance: Random, **changes) -> None:
        self.number = number
        self.event_id = call_id(number)
        self.common = {"tenant_id": tenant_id, "occurred_at_ms": occurred_at_ms}
        begun = intent(call_id=self.event_id, tags={"n": "x" * chance.choice([0, 9, 400])}, **self.common)
        self.begun = payload(begun)
        self.ended = self.outcome(tags={"n": "x" * chance.choice([0, 9, 400])}, **changes)
        self.known = {_digest(payload(begun.unknown())): UNKNOWN, _digest(self.ended): OUTCOME}
        self.may = {ABSENT}
        self.booked: str | None = None
        """What the ledger had of it when the world looked last."""
        self.target: str | None = None
        """What was recorded, or kept for being recorded, as its end."""
        self.damaged = False
        """Somebody has cut off a record of it."""
        self.late = _digest_of_other_facts(payload(late_outcome(msgspec.json.decode(self.ended, type=UsageEvent))))
        """How its outcome is known in the ledger, if it comes after the call was booked as unknown."""
        self.sequence = 0
        """Its intent's."""
        self.refused_at = 0
        """The sequence of the record that it was never sent."""

    def outcome(self, **changes) -> bytes:
        return payload(usage_event(event_id=self.event_id, **self.common, **changes))


def _digest(said: bytes) -> str:
    """Of what is said of a call."""
    return xxhash.xxh3_64_hexdigest(said)


def _digest_of_other_facts(said: bytes) -> str:
    return hashlib.blake2b(said, digest_size=8).hexdigest()


class Actor(Process):
    """A process with tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[asyncio.Task] = []
        self.context = contextvars.copy_context()
        self.context.run(ACTOR.set, self)


class Worker(Actor):
    def __init__(self, spool: Spool) -> None:
        super().__init__()
        self.spool = spool
        self.turn: asyncio.Task[None] | None = None
        """Ends the one in which something was recorded."""
        self.refused = False
        """True where the disk has refused records of it."""
        self.calls: list[Call] = []
        self.under_way: list[Call] = []
        self.durable_to = 0

    def refuse(self, _reason: str) -> None:
        self.refused = True


class BackOffice(Actor):
    def __init__(self, shipper: Shipper) -> None:
        super().__init__()
        self.shipper = shipper
        self.runs = False


class World:
    def __init__(self, seed: int, root: Path, image: bytes, books, *, power: bool) -> None:
        """`power` says that it may fail, and that workers which say so sync what they record."""
        self.chance = chance = Random(seed)
        self.power = power
        self.loop = Loop(chance)
        self.clock_s = NOON.timestamp() - self.loop.time()
        self.disk = Disk(root, chance, self.now_s, self._lock_is_held)
        self.ledger = Ledger(image, chance)
        self.books = books
        self.directory = DiskPath(root)
        self.workers: dict[str, Worker] = {}
        """All lives, by spool."""
        self.back_offices: list[BackOffice] = []
        self.calls: list[Call] = []
        self.trace: list[str] = []
        self.states: dict[int, str] = {}
        """What the ledger had of each call in the end."""
        self.digest = 0
        """The same for the same world."""
        self.meddled = False
        """Files were damaged, by a loss of power or by somebody."""
        self.clashes: set[str] = set()
        """Second outcomes of calls that somebody has recorded."""
        self.weights = self._weights()
        self.segment_bytes = chance.choice([4, 6, 9]) * RECORD_BYTES_MAX

    def _weights(self) -> dict[str, float]:
        """Each world has some of the troubles, and no world has all: what always happens together hides something."""
        usual = {"start_worker": 4, "start_back_office": 4, "begin": 12, "end": 12, "note": 3, "ship": 8, "wait": 2}
        troubles = {
            "kill_worker": 1.5,
            "doom_worker": 1.5,
            "close_worker": 1,
            "hang_up": 1,
            "kill_back_office": 1,
            "doom_back_office": 2,
            "disk_refuses_once": 4,
            "disk_refuses": 1.5,
            "disk_heals": 2,
            "disk_is_full": 1,
            "line_fails_once": 4,
            "line_fails": 1,
            "line_heals": 2,
            "line_stalls": 1,
            "clock_jumps": 1,
            "clash": 1,
            "not_bookable": 1,
            "foreign_segment": 0.7,
            "copied_segment": 0.7,
            "cut_segment": 0.3,
        }
        weights = usual | {name: often for name, often in troubles.items() if self.chance.random() < 0.5}
        if self.power:
            weights["power_fails"] = 1
        return weights

    # -----------------------------------------------------------------------------------------------------------------
    # Time

    def now_s(self) -> float:
        return self.clock_s + self.loop.time()

    def now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.now_s(), dt.UTC)

    def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)
        for actor in [*self.workers.values(), *self.back_offices]:
            self._looked_after(actor)

    def _looked_after(self, actor: Actor) -> None:
        """What became of its tasks; if it is dead, nothing of it goes on."""
        if not actor.alive:
            for task in actor.tasks:
                task.cancel()
            if isinstance(actor, Worker):
                self._mourned(actor)
        pending = []
        for task in actor.tasks:
            if not task.done():
                pending.append(task)
            elif not task.cancelled() and (error := task.exception()) is not None:
                expected = (
                    (Killed, SpoolFailed) if isinstance(actor, Worker) else (Killed, DatabaseUnavailable, OSError)
                )
                if not isinstance(error, expected):
                    raise error
        actor.tasks = pending

    def _mourned(self, worker: Worker) -> None:
        """Where the disk refused to the last that a call was not sent, its intent may be all that there is."""
        kept_from = worker.spool._sequence - len(worker.spool._unconfirmed)
        if worker.spool.failed:
            for call in worker.calls:
                if call.refused_at > kept_from:
                    call.may.add(UNKNOWN)

    def _lock_is_held(self, name: str) -> None:
        """Whoever writes to a spool holds its lock: else what it writes may come after its spool was read to the end."""
        if parts := re.match(r"(.+)-\d+\.spool", name):
            fd = os.open(self.disk.root / f"{parts[1]}.lock", os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            finally:
                os.close(fd)
            raise Violation(f"{name} is written and its lock is free")

    # -----------------------------------------------------------------------------------------------------------------
    # Steps

    def step(self) -> None:
        (what,) = self.chance.choices(list(self.weights), list(self.weights.values()))
        told = getattr(self, what)()
        self.trace.append(f"{self.loop.time():9.3f} {what} {told or ''}")
        self.advance(self.chance.choice([0, 0.01, 0.1, 0.3]))

    @property
    def living(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.alive]

    def _one(self, of):
        return self.chance.choice(of) if of else None

    def start_worker(self):
        if len(self.living) == WORKERS_MAX:
            return None
        name = f"w{self.chance.randrange(3)}-{len(self.workers):04}"
        fsync = self.power and self.chance.random() < 0.7
        spool = Spool(self.directory, name, fsync=fsync, segment_bytes=self.segment_bytes)
        worker = Worker(spool)
        if self.chance.random() < 0.7:
            spool.gather(partial(self._turn_begins, worker), worker.refuse)
        self.workers[name] = worker
        try:
            worker.context.run(worker.spool.open)
        except (OSError, SpoolFull):
            worker.die()
        except Killed:
            pass
        return f"{name} {fsync=} {worker.alive=}"

    def _call(self, **changes) -> Call:
        tenant_id = self.chance.choice(["acme", "umbrella"])
        call = Call(len(self.calls), tenant_id, int(self.now_s() * 1000), self.chance, **changes)
        self.calls.append(call)
        return call

    def _does(self, worker: Worker, coroutine) -> None:
        self.loop.create_task(coroutine, context=worker.context)

    def begin(self):
        if worker := self._one(self.living):
            call = self._call()
            worker.calls.append(call)
            self._does(worker, self._begun(worker, call))
            return f"{call.number} {worker.spool.spool_id}"
        return None

    async def _begun(self, worker: Worker, call: Call) -> None:
        spool = worker.spool
        call.may = {ABSENT, UNKNOWN}
        try:
            call.sequence = spool.admit(call.begun)
            try:
                await self._safe(worker)
            except SpoolFailed:
                try:
                    spool.settle(call.sequence, RecordKind.CLOSED, payload(closed(call.event_id)))
                finally:
                    call.refused_at = spool._sequence
                await self._end_of_turn(worker)
                raise
        except SpoolFull:
            call.may = {ABSENT}
        except SpoolFailed:
            call.may = {ABSENT}
            call.refused_at = spool._sequence
        else:
            # It is sent.
            if not call.damaged:
                call.may = {UNKNOWN}
            worker.under_way.append(call)

    async def _safe(self, worker: Worker) -> None:
        """Wait until what was recorded survives what it is to survive. Raises SpoolFailed."""
        if worker.spool.fsync:
            await self._durable(worker)
        else:
            await self._end_of_turn(worker)
        if not worker.alive:
            # Its last operation took what all calls of this turn had recorded, so their turn found nothing left to write and
            # ended well. Of a process that is dead nothing goes on, so nobody is told, and nothing is sent.
            raise Killed

    def _turn_begins(self, worker: Worker) -> None:
        if worker.turn is None:
            worker.turn = self.loop.create_task(self._turn(worker), context=worker.context)

    async def _turn(self, worker: Worker) -> None:
        for _ in range(self.chance.randrange(3)):
            await asyncio.sleep(0)
        worker.turn = None
        with suppress(SpoolFailed):
            worker.spool.write_gathered()
        if worker.refused:
            worker.refused = False
            raise SpoolFailed("refused in this turn")

    async def _end_of_turn(self, worker: Worker) -> None:
        if worker.turn is not None:
            await asyncio.shield(worker.turn)

    async def _durable(self, worker: Worker) -> None:
        target = worker.spool._sequence
        await worker.spool.durable()
        worker.durable_to = max(worker.durable_to, target)

    def end(self):
        worker = self._one([worker for worker in self.living if worker.under_way])
        if worker is None:
            return None
        call = worker.under_way.pop(self.chance.randrange(len(worker.under_way)))
        used = self.chance.random() < 0.8
        self._does(worker, self._ended(worker, call, used=used))
        return f"{call.number} {used=}"

    async def _ended(self, worker: Worker, call: Call, *, used: bool) -> None:
        call.target = OUTCOME if used else ABSENT
        call.may.add(call.target)
        said = call.ended if used else payload(closed(call.event_id))
        worker.spool.settle(call.sequence, RecordKind.OUTCOME if used else RecordKind.CLOSED, said)
        await self._acknowledged(worker, call)

    async def _acknowledged(self, worker: Worker, call: Call) -> None:
        await self._safe(worker)
        if not call.damaged:
            call.may = {call.target}

    def note(self, target: str = OUTCOME, **changes):
        if worker := self._one(self.living):
            call = self._call(**changes)
            call.target = target
            call.known[_digest(call.ended)] = target
            worker.calls.append(call)
            self._does(worker, self._noted(worker, call))
            return f"{call.number} {worker.spool.spool_id}"
        return None

    async def _noted(self, worker: Worker, call: Call) -> None:
        call.may = {ABSENT, call.target}
        try:
            worker.spool.note(call.ended)
        except SpoolFull:
            call.may, call.target = {ABSENT}, None
        else:
            await self._acknowledged(worker, call)

    def not_bookable(self):
        return self.note(ASIDE, quantities={"input_tokens": 1 << 53})

    def clash(self):
        """Somebody records another outcome under the id of a call that has one."""
        for worker in self.living:
            if calls := [call for call in worker.calls if call.may == {OUTCOME}]:
                call = self.chance.choice(calls)
                said = call.outcome(quantities={"input_tokens": 1_000_000 + self.chance.randrange(5)})
                call.known[_digest(said)] = SECOND
                self._does(worker, self._noted_again(worker, call, said))
                return call.number
        return None

    async def _noted_again(self, worker: Worker, call: Call, said: bytes) -> None:
        with suppress(SpoolFull):
            worker.spool.note(said)
            await self._safe(worker)
            self.clashes.add(f"{call.event_id}:{_digest(said)}")

    def hang_up(self):
        """A client leaves while its call waits for the disk."""
        if worker := self._one([worker for worker in self.living if worker.tasks]):
            task = worker.tasks[-1]
            if task.get_coro().__name__ == "_ended":
                task.cancel()

    # Processes

    def kill_worker(self):
        if worker := self._one(self.living):
            worker.die()
            return worker.spool.spool_id
        return None

    def doom_worker(self):
        if worker := self._one(self.living):
            worker.doom = self.chance.randrange(12)
            return f"{worker.spool.spool_id} {worker.doom}"
        return None

    def close_worker(self):
        """As a worker ends that is told to: what waits for the disk is waited for."""
        if worker := self._one([worker for worker in self.living if not worker.tasks]):
            with suppress(Killed):
                worker.context.run(worker.spool.close)
                if not worker.spool.failed and not worker.spool.fsync:
                    self._settled(worker)
            worker.die()
            return f"{worker.spool.spool_id} {worker.spool.failed=}"
        return None

    def _settled(self, worker: Worker) -> None:
        """All that the spool had kept for want of a disk is on it."""
        for call in worker.calls:
            if call.target is not None and not call.damaged:
                call.may = {call.target}

    def start_back_office(self, pace: Pace | None = None):
        self.back_offices = [one for one in self.back_offices if one.alive or one.tasks]
        if len(self.back_offices) == BACK_OFFICES_MAX:
            return None
        pace = pace or self._any_pace()
        office = BackOffice(Shipper(self.directory, self.ledger, self.books, self.now, pace))
        self.back_offices.append(office)
        if self.chance.random() < 0.4:
            office.runs = True
            self.loop.create_task(office.shipper.run(), context=office.context)
        return f"{pace} {office.runs=}"

    def _any_pace(self) -> Pace:
        choice = self.chance.choice
        pieces = choice([WHOLE, Pieces(3, facts_min=choice([1, 2]), rest_s=choice([0, 0.003]))])
        return Pace(choice([1, 2, 5, 250]), choice([1, 1, 2, 3]), choice([None, 1, 3]), choice([0, 0.001]), pieces)

    def ship(self):
        office = self._one([one for one in self.back_offices if one.alive and not one.runs and not one.tasks])
        if office is not None:
            self.loop.create_task(office.shipper.round(), context=office.context)

    def kill_back_office(self):
        if office := self._one(self.back_offices):
            office.die()

    def doom_back_office(self):
        if office := self._one(self.back_offices):
            office.doom = self.chance.randrange(30)

    # Disk, line and clock

    def disk_refuses_once(self):
        self.disk.next_fails = self.chance.choice(REFUSED)
        return self.disk.next_fails

    def disk_refuses(self):
        for operation in self.chance.sample(REFUSED, self.chance.randint(1, 4)):
            self.disk.odds[operation] = self.chance.choice([0.1, 0.5, 1])
        return self.disk.odds

    def disk_is_full(self):
        self.disk.odds |= {"create": 1, "allocate": 1, "pwrite": self.chance.choice([0, 1])}

    def disk_heals(self):
        self.disk.refuses_nothing()

    def line_fails_once(self):
        self.ledger.next_fails = self.chance.choice(PLACES)
        return self.ledger.next_fails

    def line_fails(self):
        for place in self.chance.sample(PLACES, self.chance.randint(1, 4)):
            self.ledger.odds[place] = self.chance.choice([0.1, 0.5, 1])
        return self.ledger.odds

    def line_stalls(self):
        self.ledger.stalls = self.chance.choice([0.2, 0.8])

    def line_heals(self):
        self.ledger.refuses_nothing()

    def clock_jumps(self):
        by = self.chance.choice([-1, 1]) * self.chance.choice([1, 3_600, 26 * 3_600])
        self.clock_s += by
        return by

    def wait(self):
        self.advance(1.5)

    def power_fails(self):
        for actor in [*self.living, *self.back_offices]:
            actor.die()
        # Twice: for the deaths, and for what dies with them.
        self.advance(0)
        self.advance(0)
        self._is_safe_by_now()
        for worker in self.workers.values():
            for call in worker.calls:
                if call.may == {call.booked}:
                    continue
                if not worker.spool.fsync:
                    call.may |= {ABSENT, UNKNOWN} if call.sequence or call.refused_at else {ABSENT}
                elif call.refused_at > worker.durable_to:
                    call.may.add(UNKNOWN)
        self.disk.lose_power()
        self.meddled = True

    def _is_safe_by_now(self) -> None:
        """What the ledger has, it has."""
        found = self.found()
        for call in self.calls:
            call.booked = found.get(call.number)
            if call.booked in call.may:
                call.may = {call.booked}

    # Files that somebody else touches

    def _segments(self) -> list[tuple[str, int, str]]:
        found = [(re.fullmatch(r"(.+)-(\d+)\.spool", name), name) for name in self.disk.names()]
        return [(parts[1], int(parts[2]), name) for parts, name in found if parts]

    def foreign_segment(self):
        """The segment of another spool appears among those of one."""
        if (one := self._one(self._segments())) and (other := self._one(self._segments())) and one[0] != other[0]:
            return self._appears(self.disk.content(one[2]), other)
        return None

    def copied_segment(self):
        """A segment appears once more, under another number."""
        one = self._one(self._segments())
        return self._appears(self.disk.content(one[2]), one) if one else None

    def _appears(self, content: bytes, beside: tuple[str, int, str]):
        last = max(number for spool_id, number, _ in self._segments() if spool_id == beside[0])
        number = self.chance.choice([beside[1] + 1, last + 1, last + 1, last + 2])
        name = segment_path(self.directory, beside[0], number).name
        if name in self.disk.names():
            return None
        self.meddled = True
        self.disk.put(name, content)
        return name

    def cut_segment(self):
        if (one := self._one(self._segments())) is None:
            return None
        content = self.disk.content(one[2])
        if not content:
            return None
        cut = self.chance.randrange(len(content.rstrip(b"\0")) or 1)
        self.meddled = True
        worker = self.workers[one[0]]
        by_sequence = {call.sequence or call.refused_at - 1: call for call in worker.calls}
        for record in scan(content, 0, seed_of(one[0])):
            if isinstance(record, Record) and record.end > cut and record.kind != RecordKind.BEGUN:
                said = msgspec.json.decode(record.payload or b"{}")
                event_id = said.get("event_id", said.get("call_id"))
                call = self.calls[int(event_id[-12:], 16)] if event_id else by_sequence.get(record.intent)
                if call is not None:
                    call.may |= {ABSENT, UNKNOWN, call.target or ABSENT}
                    call.damaged = True
        self.disk.put(one[2], content[:cut])
        return f"{one[2]} {cut}"

    # -----------------------------------------------------------------------------------------------------------------
    # In the end

    def recover(self) -> None:
        """Nothing fails any more. Within bounded time all must be well."""
        self.trace.append(f"{self.loop.time():9.3f} nothing fails any more")
        self.disk.refuses_nothing()
        self.ledger.refuses_nothing()
        for actor in [*self.living, *self.back_offices]:
            actor.doom = None
            if isinstance(actor, BackOffice) and self.chance.random() < 0.5:
                actor.die()
        self.advance(3)
        for worker in self.living:
            self._takes_calls_again(worker)
        self.advance(3)
        for worker in self.living:
            if worker.tasks or (worker.spool.fsync and worker.durable_to < worker.spool._sequence):
                raise Violation(f"{worker.spool.spool_id} waits for a disk that works")
            self._settled(worker)
            worker.die()
        self.start_back_office()
        for turn in range(100 + len(self.calls)):
            self.ship()
            self.advance(0.25)
            if not spools(self.directory):
                self.trace.append(f"{self.loop.time():9.3f} all booked after {turn}")
                return
        raise Violation(f"never booked to their end: {spools(self.directory)}")

    def _takes_calls_again(self, worker: Worker) -> None:
        for call in worker.under_way[1:]:
            self._does(worker, self._ended(worker, call, used=self.chance.random() < 0.8))
        del worker.under_way[1:]
        self.advance(0.1)
        for _ in range(3):
            self.advance(1.1)
            call = self._call()
            worker.calls.append(call)
            self._does(worker, self._begun(worker, call))
            self.advance(1)
            if call.may == {UNKNOWN}:
                return
        raise Violation(f"{worker.spool.spool_id} refuses calls on a disk that works")

    def found(self) -> dict[int, str]:
        """What the ledger has of each call."""
        found: dict[int, str] = {}
        events = self.ledger.rows("SELECT event_id, digest FROM usage_events WHERE corrects IS NULL")
        late = self.ledger.rows("SELECT corrects, digest FROM usage_events WHERE corrects IS NOT NULL")
        asides = self.ledger.rows("SELECT quarantine_id FROM quarantine WHERE reason LIKE 'an event that can not be%'")
        for event_id, digest in [*events, *(one.split(":") for (one,) in asides)]:
            number = int(event_id[-12:], 16)
            if number in found:
                raise Violation(f"call {number} is there twice")
            if digest not in self.calls[number].known:
                raise Violation(f"call {number} is there with a content that nobody recorded")
            found[number] = self.calls[number].known[digest]
        for event_id, digest in late:
            # One shipper had read the outcome when somebody cut it off, and another found the call open.
            number = int(event_id[-12:], 16)
            if not self.meddled or found.get(number) != UNKNOWN or digest != self.calls[number].late:
                raise Violation(f"call {number} has a late outcome that nobody recorded")
            found[number] = OUTCOME
        return found

    def check(self) -> None:
        """Nothing lost, nothing doubled, nothing invented, nothing set aside without a reason, and the sums are right."""
        found = self.found()
        for call in self.calls:
            state = found.get(call.number, ABSENT)
            if state == SECOND and self.meddled and OUTCOME in call.may:
                continue
            if state not in call.may:
                raise Violation(f"call {call.number} is {state} and may be {sorted(call.may)}")
        reasons = {reason for (reason,) in self.ledger.rows("SELECT DISTINCT reason FROM quarantine")} - {NOT_BOOKABLE}
        allowed = {CONFLICT}
        if self.meddled:
            allowed |= {UNREADABLE, MISSING}
        if self.disk.torn:
            allowed.add(UNREADABLE)
        if self.disk.discarded:
            # Of two shippers the slower one may still be where the other has let go of what is booked.
            allowed.add(MISSING)
        if not reasons <= allowed:
            raise Violation(f"set aside without a reason: {reasons - allowed}")
        conflicts = {
            told for (told,) in self.ledger.rows(f"SELECT quarantine_id FROM quarantine WHERE reason = '{CONFLICT}'")
        }
        if not self.meddled and not self.clashes <= conflicts <= self._second:
            raise Violation(f"in conflict {self.clashes}, and so called {conflicts}")
        self._sums_are_right()

    @property
    def _second(self) -> set[str]:
        return {f"{call.event_id}:{one}" for call in self.calls for one, state in call.known.items() if state == SECOND}

    def _sums_are_right(self) -> None:
        booked = self.ledger.rows(
            "SELECT COUNT(*), SUM(corrects IS NULL), SUM(units), SUM(completeness = 'unknown'), SUM(charge_nano), SUM(cost_nano) "
            "FROM usage_events JOIN charges USING (tenant_id, event_day, event_id)"
        )
        summed = self.ledger.rows(
            "SELECT SUM(events), SUM(units), SUM(unknown_events), SUM(charge_nano), SUM(cost_nano) FROM rollups"
        )
        ((count, calls, *sums),) = booked
        ((events, *totals),) = summed
        lines = self.ledger.rows("SELECT (SELECT COUNT(*) FROM usage_events), (SELECT COUNT(*) FROM charges)")
        if lines != [(count, count)] or (events or 0) != (calls or 0) or totals != sums:
            raise Violation(f"{lines} events and charges, {booked} booked, {summed} summed")

    def again(self) -> None:
        """Everything is read once more, by somebody who knows nothing: no table changes."""
        if self.meddled or self.disk.discarded:
            return
        tables = ("usage_events", "charges", "rollups", "quarantine")
        before = [self.ledger.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in tables]
        for office in self.back_offices:
            office.die()
        self.advance(0)
        self.ledger.forget_positions()
        for name in self.disk.names():
            if name.endswith(FINISHED_SUFFIX):
                (self.disk.root / name).unlink()
        self.start_back_office(BESIDE_CALLS)
        for _ in range(20):
            self.ship()
            self.advance(0.25)
        after = [self.ledger.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in tables]
        if before != after:
            raise Violation("what is read again changes the ledger")


@contextmanager
def patched(world: World):
    """The product in this world: its disk, its time, and small sizes."""
    time = SimpleNamespace(
        monotonic=world.loop.time, time=world.now_s, time_ns=lambda: round(world.now_s() * 1_000_000_000)
    )
    modules = metering.spool, metering.spool_reader, gateway.directory_changes
    log = SimpleNamespace(error=lambda *_, **__: None, info=lambda *_, **__: None)
    values = [
        *((module, "os", world.disk.os) for module in modules),
        *((module, "time", time) for module in modules),
        *(
            (module, "RECORD_BYTES_MAX", RECORD_BYTES_MAX)
            for module in (metering.spool, metering.spool_reader, metering.spool_records)
        ),
        (metering.spool_records, "PAYLOAD_BYTES_MAX", RECORD_BYTES_MAX - HEADER_BYTES),
        (metering.spool_reader, "READ_BYTES", READ_BYTES),
        (gateway.shipper, "HOUSEKEEPING_S", 1.0),
        (gateway.shipper, "log", log),
        (DiskPath, "disk", world.disk),
    ]
    before = [(module, name, getattr(module, name, None)) for module, name, _ in values]
    for module, name, value in values:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def live(seed: int, steps: int, root: Path, image: bytes, books, *, power: bool) -> World:
    """One world from its beginning to its end. Raises what went wrong, with what lives it again."""
    for path in root.iterdir():
        path.unlink()
    world = World(seed, root, image, books, power=power)
    with patched(world):
        try:
            for _ in range(steps):
                world.step()
            world.recover()
            world.check()
            world.again()
            world.states = world.found()
            world.digest = zlib.crc32(repr((world.trace, world.states)).encode())
        except Exception as error:
            world.trace.append(repr(error))
            again = f"python -m tests.simulation --seed {seed} --steps {steps}{' --power' if power else ''}"
            raise Violation("\n".join([*world.trace, again])) from error
        finally:
            for actor in [*world.workers.values(), *world.back_offices]:
                actor.die()
                for task in actor.tasks:
                    task.cancel()
            world.loop.advance(0)
            world.loop.close()
            world.ledger.close()
    return world
