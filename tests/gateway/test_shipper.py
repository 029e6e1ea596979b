"""From the spools to the ledger: every outcome once, every call that nobody ended as unknown, and nothing lost on the way."""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import gc
import itertools
import os
import time
import weakref
from collections import Counter
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, text
from structlog.testing import capture_logs

from gateway.directory_changes import DirectoryChanges
from gateway.shipper import (
    APART,
    BESIDE_CALLS,
    POLL_S,
    RETENTION_S,
    ROOM_BYTES_MIN,
    Pace,
    Shipper,
)
from gateway.spool_batches import BATCH_BYTES_MAX
from metering import spool_reader
from metering.database import DatabaseUnavailable
from metering.late import late_fact
from metering.pieces import Pieces
from metering.spool import SpoolFull, segment_path
from metering.spool_reader import READ_BYTES, segments, spools
from metering.spool_records import HEADER_BYTES, RECORD_BYTES_MAX, RecordKind, encode, scan, seed_of
from metering.tables import quarantine, spool_positions, usage_events
from metering.usage import EPOCH, Completeness
from pricing.tables import charges, rollups, tenant_plans
from tests.builders import DAY_MS, NOON, NOON_MS, call_id, fact, payload, usage_event
from tests.builds import TESTED
from tests.gateway.shipping import PATIENCE_S, Clock, Worker, aside, booked, everything, rows, ship
from tests.ledgers import execute


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "spool"


class Crash(BaseException):
    """The process ends here."""


class Line:
    """The ledger over a line that fails when it is told to: before a transaction, within it, or after its commit."""

    def __init__(self, database):
        self.database = database
        self.failures = []
        """What happens to the next transactions, in turn: None, or when to fail."""
        self.failure = DatabaseUnavailable("the line is cut")
        self.readable = True

    @asynccontextmanager
    async def transaction(self):
        when = self.failures.pop(0) if self.failures else None
        if when == "before":
            raise self.failure
        async with self.database.transaction() as connection:
            yield connection
            if when == "within":
                raise self.failure
        if when == "after":
            raise self.failure

    @asynccontextmanager
    async def reading(self):
        if not self.readable:
            raise self.failure
        async with self.database.reading() as connection:
            yield connection


@pytest.fixture
def worker(directory):
    worker = Worker(directory)
    yield worker
    worker.dies()


@pytest.fixture
def line(database):
    return Line(database)


@pytest.fixture
def new_shipper(directory, line, books):
    """A shipper that remembers nothing."""
    clock = Clock()
    return lambda: Shipper(directory, line, books, clock)


@pytest.fixture
def shipper(new_shipper):
    return new_shipper()


# ---------------------------------------------------------------------------------------------------------------------
# What becomes of a call


async def test_a_calls_outcome_is_booked_with_its_charge_and_in_the_sums(database, worker, shipper):
    worker.called(1)

    await ship(shipper)

    (event,) = await rows(database, usage_events)
    (charge,) = await rows(database, charges)
    (rollup,) = await rows(database, rollups)
    assert (event.event_id, event.units, event.completeness) == (call_id(1), 163, "reported")
    assert (charge.charge_nano, charge.cost_nano) == (837_000, 697_500)
    assert (rollup.events, rollup.charge_nano) == (1, 837_000)


async def test_a_worker_that_never_pauses_is_not_read_over_and_over(database, worker, shipper, monkeypatch):
    """Guards the calls beside it in one process: as long as each read found something, one was followed by the next, up to a
    batch's size, and calls write between two reads."""
    numbers = itertools.count(1)
    read = spool_reader.read

    def meanwhile(*args, **how):
        worker.called(next(numbers))
        return read(*args, **how)

    monkeypatch.setattr(spool_reader, "read", meanwhile)

    more = await shipper.round()

    assert not more
    assert await booked(database) == {1: "reported"}


async def test_a_call_that_is_under_way_is_not_booked_yet(database, worker, shipper):
    worker.begins(1)
    await ship(shipper)
    before = await booked(database)
    worker.ends(1)
    await ship(shipper)

    assert before == {}
    assert await booked(database) == {1: "reported"}


async def test_calls_that_used_nothing_are_not_booked(database, worker, shipper):
    worker.begins(1)
    worker.used_nothing(1)
    worker.dies()

    await ship(shipper)

    assert await booked(database) == {}
    assert spools(worker.spool._directory) == []


async def test_a_call_that_its_worker_left_open_is_booked_as_unknown_once(database, directory, worker, new_shipper):
    """Watches that a call the provider may have acted on is never forgotten, and never booked by two who find it."""
    worker.called(1)
    worker.begins(2)
    worker.begins(3)
    worker.used_nothing(3)
    worker.dies()

    for _ in range(3):
        await ship(new_shipper())
        for mark in directory.glob("*.finished"):
            mark.unlink()

    assert await booked(database) == {1: "reported", 2: "unknown"}
    assert await aside(database) == []


async def test_a_call_whose_time_is_over_is_unknown_though_its_worker_lives_and_its_outcome_corrects_it(
    database, worker, shipper, new_shipper, monkeypatch
):
    """Guards against a call that hangs for ever: nobody would know of it, and its segment would never go."""
    worker.begins(1, occurred_at_ms=NOON_MS - 10 * DAY_MS)
    worker.begins(2)
    await ship(shipper)
    in_time = await booked(database)
    worker.ends(2)
    monkeypatch.setattr("gateway.shipper.CALL_S_MAX", -1)
    await ship(shipper)
    over = await booked(database)
    worker.ends(1, occurred_at_ms=NOON_MS - 10 * DAY_MS)
    await ship(shipper)
    await ship(new_shipper())

    found = {(row.corrects or row.event_id, row.kind): row.completeness for row in await rows(database, usage_events)}
    assert (in_time, over) == ({}, {1: "unknown", 2: "reported"})
    assert found == {
        (call_id(1), "usage"): "unknown",
        (call_id(1), "correction"): "reported",
        (call_id(2), "usage"): "reported",
    }
    assert await aside(database) == []


async def test_a_time_of_day_that_jumps_ends_no_call(database, directory, worker, line, books):
    """Guards calls under way: each would be an unknown, and those that used nothing would stay one."""
    clock = Clock()
    shipper = Shipper(directory, line, books, clock)
    worker.begins(1)
    await ship(shipper)
    clock.now += dt.timedelta(days=1)
    await ship(shipper)
    clock.now -= dt.timedelta(days=1)
    worker.used_nothing(1)
    worker.dies()
    await ship(shipper)

    assert await booked(database) == {}


async def test_a_spool_that_was_read_to_its_end_is_finished_only_when_its_worker_is_gone(directory, worker, shipper):
    worker.called(1)
    await ship(shipper)
    living = spools(directory)
    worker.dies()
    await ship(shipper)

    assert (living, spools(directory)) == (["w0-1"], [])


async def test_what_a_worker_tore_in_its_death_is_an_unknown_call_and_no_alarm(database, directory, worker, shipper):
    worker.called(1)
    worker.begins(2)
    worker.dies()
    torn = encode(RecordKind.OUTCOME, 4, payload(usage_event(event_id=call_id(2))), 3, seed_of("w0-1"))[:-1]
    with segment_path(directory, "w0-1", 0).open("ab") as file:
        file.write(torn + bytes(1_000))

    with capture_logs() as logs:
        await ship(shipper)

    assert await booked(database) == {1: "reported", 2: "unknown"}
    assert (await aside(database), logs) == ([], [])


# ---------------------------------------------------------------------------------------------------------------------
# Again, by another


async def test_shipping_again_what_was_shipped_changes_nothing(database, owner, directory, worker, new_shipper):
    """A06. Watches that ids come from the records: whoever reads a spool again adds nothing to the ledger."""
    worker.called(*range(40))
    worker.begins(100)
    worker.dies()
    await ship(new_shipper())
    before = await everything(database)

    for _ in range(3):
        for mark in directory.glob("*.finished"):
            mark.unlink()
        async with owner.transaction() as connection:
            await connection.execute(delete(spool_positions))
        await ship(new_shipper())

    assert await everything(database) == before
    assert await booked(database) == dict.fromkeys(range(40), "reported") | {100: "unknown"}


async def test_a_new_shipper_goes_on_where_the_ledger_is(database, directory, worker, new_shipper):
    """Watches `spool_positions`: segments of which nothing is needed are not read again after each start."""
    worker.called(*range(200))
    await ship(new_shipper())
    assert len(segments(directory, "w0-1")) > 2
    for number in segments(directory, "w0-1")[:-1]:
        segment_path(directory, "w0-1", number).write_bytes(b"overwritten")
    worker.called(200)

    with capture_logs() as logs:
        await ship(new_shipper())

    assert set(await booked(database)) == set(range(201))
    assert logs == []


async def test_a_new_shipper_finds_the_calls_that_are_open_however_long_ago_they_began(
    database, directory, worker, new_shipper
):
    """Watches the segment that is kept in `spool_positions`: from a later one, a call that began before would be lost."""
    worker.begins(1_000)
    worker.called(*range(200))
    await ship(new_shipper())
    later = new_shipper()
    worker.called(200)
    await ship(later)
    (position,) = await rows(database, spool_positions)
    worker.dies()

    await ship(new_shipper())

    assert (position.segment, position.sequence) == (0, 403)
    assert await booked(database) == dict.fromkeys(range(201), "reported") | {1_000: "unknown"}


# ---------------------------------------------------------------------------------------------------------------------
# What can not be booked


NO_EVENTS = [
    b"",
    b"not JSON",
    b"[]",
    b'{"event_id":"x"}',
    b'{"event_id":"\xff"}',
    payload(usage_event(event_id="")),
    payload(usage_event(quantities={"tokens": 1})),
    payload(usage_event(quantities={"messages": -1})),
    payload(usage_event(quantities={"messages": 10**30})),
    payload(usage_event(occurred_at_ms=10**18)),
    payload(usage_event()).replace(b'"reported"', b'"guessed"'),
]


@pytest.mark.parametrize("content", NO_EVENTS)
async def test_a_record_that_is_no_event_is_set_aside_and_stops_no_other(database, worker, shipper, content):
    """Watches that one bad record does not hold the ledger up: it would be the next one to be read for ever."""
    worker.called(1)
    worker.wrote(content)
    worker.called(2)

    with capture_logs() as logs:
        await ship(shipper)

    assert await booked(database) == {1: "reported", 2: "reported"}
    (row,) = await rows(database, quarantine)
    assert (row.quarantine_id, row.reason) == ("w0-1:3", "a record that is no event")
    assert row.record == content.decode("utf-8", "replace")
    assert [line["event"] for line in logs] == ["record_not_bookable"]


NO_KIND = pytest.param(
    7, marks=pytest.mark.skipif(TESTED == "compiled", reason="a compiled spool writes none that is none")
)


@pytest.mark.parametrize("kind", [RecordKind.INTENT, RecordKind.CLOSED, NO_KIND])
async def test_a_record_of_whatever_kind_that_nobody_understands_is_set_aside(database, worker, shipper, kind):
    """Of an intent nothing but its sequence is asked, until its worker is gone and it is still open."""
    worker.wrote(b"{}", kind)
    worker.called(1)
    worker.dies()

    await ship(shipper)

    assert await booked(database) == {1: "reported"}
    assert await aside(database) == ["a record that is no event"]


async def test_a_call_whose_outcome_is_no_event_shows_as_unknown(database, worker, shipper):
    worker.begins(1)
    worker.spool.settle(worker.intents[1], RecordKind.OUTCOME, b"not JSON")
    worker.dies()

    await ship(shipper)

    assert await booked(database) == {1: "unknown"}


async def test_an_event_that_no_column_holds_is_set_aside_and_stops_no_other(database, worker, shipper):
    """Watches booking by halves: what one event is refused for would otherwise be the end of its whole batch."""
    worker.called(1)
    worker.called(2, quantities={"input_tokens": 1 << 53})
    worker.called(3)

    with capture_logs() as logs:
        await ship(shipper)

    assert await booked(database) == {1: "reported", 3: "reported"}
    assert [(row.tenant_id, row.reason) for row in await rows(database, quarantine)] == [
        ("acme", "an event that can not be booked: DataError")
    ]
    assert [line["event"] for line in logs] == ["event_not_bookable"]


async def test_a_tenant_whose_plan_there_is_no_book_for_stops_no_other(database, worker, shipper):
    async with database.transaction() as connection:
        await connection.execute(insert(tenant_plans), {"tenant_id": "acme", "effective_at": NOON, "plan": "long gone"})
    worker.called(1)
    worker.called(2, tenant_id="umbrella")

    await ship(shipper)

    assert await booked(database) == {2: "reported"}
    assert await aside(database) == ["an event that can not be booked: ValueError"]


async def test_another_content_under_the_same_id_is_set_aside_with_an_alarm_and_the_first_is_kept(
    database, worker, shipper
):
    """A18."""
    worker.called(1)
    worker.called(1, quantities={"input_tokens": 1})

    with capture_logs() as logs:
        await ship(shipper)

    (event,) = await rows(database, usage_events)
    assert event.units == 163
    assert [reason for reason in await aside(database) if "another content" in reason] != []
    assert [(line["event"], line["event_id"]) for line in logs] == [("event_conflict", call_id(1))]


# ---------------------------------------------------------------------------------------------------------------------
# Damage


async def test_damage_is_set_aside_with_an_alarm_and_costs_the_records_it_touches(database, directory, worker, shipper):
    worker.called(*range(5))
    worker.dies()
    path = segment_path(directory, "w0-1", 0)
    data = path.read_bytes()
    at = data.index(payload(usage_event(event_id=call_id(2))))
    path.write_bytes(data[:at] + b"\0" + data[at + 1 :])

    with capture_logs() as logs:
        await ship(shipper)

    assert await booked(database) == {0: "reported", 1: "reported", 2: "unknown", 3: "reported", 4: "reported"}
    assert sorted(await aside(database)) == ["records missing in the spool", "unreadable bytes in the spool"]
    assert [line["event"] for line in logs] == ["spool_damaged", "records_missing"]
    assert logs[1]["first"] == logs[1]["last"] == 6


async def test_what_is_booked_and_what_is_set_aside_is_counted_as_the_ledger_has_it(
    database, directory, worker, line, new_shipper
):
    """Guards alarms: of every reason for which something is set aside, as many are counted as there are rows, and a
    transaction that failed, before or after its commit, counts for none."""
    worker.called(*range(5), 9)
    worker.called(9, quantities={"input_tokens": 1})
    worker.called(7, quantities={"input_tokens": 1 << 53})
    worker.wrote(b"not JSON")
    worker.dies()
    path = segment_path(directory, "w0-1", 0)
    data = path.read_bytes()
    at = data.index(payload(usage_event(event_id=call_id(2))))
    path.write_bytes(data[:at] + b"\0" + data[at + 1 :])
    shipper = new_shipper()
    line.failures = ["before", "within", "after"]
    for _ in line.failures.copy():
        with suppress(DatabaseUnavailable):
            await shipper.round()

    await ship(shipper)

    counted = shipper.shipped
    assert counted.booked + counted.repeated == len(await rows(database, usage_events)) == 6
    reasons = Counter(reason.partition(":")[0] for reason in await aside(database))
    assert len(reasons) == len(counted.set_aside) == 5
    assert counted.set_aside == reasons


async def test_what_a_commit_booked_whose_answer_never_came_is_counted_as_there_already(line, worker, shipper):
    """Guards the count of what is new: it is told apart by the ledger, not by how often it was tried."""
    worker.called(*range(5))
    line.failures = ["before", "after"]
    for _ in line.failures.copy():
        with suppress(DatabaseUnavailable):
            await shipper.round()
    in_doubt = (shipper.shipped.batches, shipper.shipped.booked, shipper.shipped.repeated)
    await ship(shipper)
    worker.called(5)
    await ship(shipper)

    assert in_doubt == (0, 0, 0)
    assert (shipper.shipped.batches, shipper.shipped.booked, shipper.shipped.repeated) == (2, 1, 5)


async def test_a_segment_that_is_lost_is_an_alarm_that_says_which_records_are_missing(
    database, directory, worker, shipper
):
    """Watches the sequence: the ledger can prove that it has every record, or say which it has not."""
    worker.called(*range(200))
    worker.dies()
    lost = segments(directory, "w0-1")[1]
    segment_path(directory, "w0-1", lost).unlink()

    with capture_logs() as logs:
        await ship(shipper)

    (missing,) = [line for line in logs if line["event"] == "records_missing"]
    gone = missing["last"] - missing["first"] + 1
    found = await booked(database)
    assert gone > 20
    assert Counter(found.values())["reported"] == (400 - gone) // 2
    assert await aside(database) == ["records missing in the spool"]


async def test_the_first_segment_may_not_be_lost_in_silence_either(database, directory, worker, shipper):
    worker.called(*range(200))
    segment_path(directory, "w0-1", 0).unlink()

    await ship(shipper)

    assert "records missing in the spool" in await aside(database)
    assert 0 < len(await booked(database)) < 200


async def test_a_copy_of_records_in_a_spool_is_no_further_call(database, directory, worker, shipper):
    """A10, duplicated ranges. Watches the sequence: the copy of an intent would be a call that nobody ended."""
    worker.called(*range(5))
    worker.dies()
    path = segment_path(directory, "w0-1", 0)
    data = path.read_bytes()
    (_, intent_of_the_first, *_) = scan(data, 0, seed_of("w0-1"))
    path.write_bytes(data + data + data[: intent_of_the_first.end])

    await ship(shipper)

    assert await booked(database) == dict.fromkeys(range(5), "reported")
    assert await aside(database) == []


@pytest.mark.parametrize("how", ["failed sync", "power lost"])
async def test_what_a_new_segment_holds_again_is_read_there_where_the_disk_lost_it(
    database, directory, shipper, monkeypatch, how
):
    """A12, A14. Guards the copies: whoever read on behind a hole in the segment before would take them for seen."""
    worker = Worker(directory, segment_bytes=1 << 20, fsync=True)
    worker.called(*range(30))
    hole = 4096

    def loses_a_page(fd):
        os.pwrite(fd, bytes(hole), hole)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if how == "failed sync":
        monkeypatch.setattr(os, "fdatasync", loses_a_page)
    else:
        worker.spool._begin_segment()
    await worker.spool.durable()
    monkeypatch.undo()
    worker.dies()
    if how == "power lost":
        with segment_path(directory, "w0-1", 0).open("r+b") as file:
            file.seek(hole)
            file.write(bytes(hole))
    await ship(shipper)

    assert await booked(database) == dict.fromkeys(range(30), "reported")
    assert await aside(database) == []


async def test_what_another_shipper_has_let_go_of_is_not_missed(database, directory, line, books, worker):
    """Guards two on one spool: the one behind would keep a call open whose end it can not read any more."""
    ahead, behind = (Shipper(directory, line, books, Clock(), retention_s=0) for _ in range(2))
    worker.begins(1)
    await ship(behind)
    worker.used_nothing(1)
    worker.called(*range(2, 200))
    await ship(ahead)
    await kept_house(ahead)

    await ship(behind)
    worker.dies()
    await ship(behind)

    assert await booked(database) == dict.fromkeys(range(2, 200), "reported")
    assert await aside(database) == []


async def test_a_directory_under_a_segments_name_keeps_nothing_from_being_booked(database, directory, worker, shipper):
    segment_path(directory, "w0-1", 1).mkdir()
    worker.called(*range(200))
    worker.dies()

    await ship(shipper)
    segment_path(directory, "w0-1", 1).rmdir()

    assert len(await booked(database)) == 200


async def test_a_name_that_no_spool_has_is_nobodys_segment(database, directory, worker, shipper):
    """Guards the shipper: it would end on a name that it can not write."""
    os.mknod(os.fsencode(directory) + b"/w0-copi\xe9-00000000.spool")
    worker.called(1)

    await ship(shipper)

    assert await booked(database) == {1: "reported"}


async def test_a_spool_that_can_not_be_read_stops_no_other(database, directory, worker, shipper):
    """Watches that one bad sector is not the end of the ledger, and that what can not be read is not called finished."""
    segment_path(directory, "w0-0", 0).mkdir()
    worker.called(1)

    with capture_logs() as logs:
        await ship(shipper)
        await ship(shipper)
    read = await booked(database)
    segment_path(directory, "w0-0", 0).rmdir()
    other = Worker(directory, "w0-0")
    other.called(2)
    other.dies()
    await ship(shipper)

    assert read == {1: "reported"}
    assert [line["event"] for line in logs] == ["spool_unreadable"]
    assert await booked(database) == {1: "reported", 2: "reported"}


# ---------------------------------------------------------------------------------------------------------------------
# Batches


async def batches(database):
    """How many events each transaction has booked."""
    return Counter(row.recorded_at for row in await rows(database, usage_events))


@pytest.mark.parametrize("pace", [BESIDE_CALLS, APART])
async def test_a_transaction_books_as_many_events_as_calls_can_wait_for_and_no_more(
    database, directory, line, books, pace
):
    """Watches the bound of a batch, for outcomes and for calls that were left open."""
    shipper = Shipper(directory, line, books, Clock(), pace)
    worker = Worker(directory, segment_bytes=640 * RECORD_BYTES_MAX)
    worker.called(*range(3_900))
    for number in range(4_000, 4_600):
        worker.begins(number)
    worker.dies()

    await ship(shipper)

    sizes = list((await batches(database)).values())
    assert sum(sizes) == 4_500
    assert max(sizes) == pace.batch_events_max
    assert len(sizes) == -(-4_500 // pace.batch_events_max)
    assert spools(directory) == []


async def test_a_transaction_books_no_more_bytes_than_memory_has_room_for(database, directory, line, books, worker):
    """Watches the other bound of a batch: few events can be large."""
    shipper = Shipper(directory, line, books, Clock(), APART)
    event_bytes = 12_000
    worker.called(*range(1_000), description="x" * event_bytes)

    await ship(shipper)

    sizes = list((await batches(database)).values())
    assert sum(sizes) == 1_000
    assert max(sizes) * event_bytes <= BATCH_BYTES_MAX + READ_BYTES


async def test_what_came_together_is_booked_together(database, worker, shipper):
    worker.called(*range(100))

    more = await shipper.round()

    assert not more
    assert len(await batches(database)) == 1


async def test_a_spool_that_is_always_full_keeps_no_other_from_its_turn(database, directory, worker, shipper):
    """Watches the turns: spools are read in rotation, not always from the first."""
    worker.called(*range(2_000))
    others = [Worker(directory, f"w{number}-1") for number in (1, 2, 3)]
    for number, other in enumerate(others):
        other.called(5_000 + number)

    for _ in range(2):
        await shipper.round()

    assert {5_000, 5_001, 5_002} <= set(await booked(database))
    for other in others:
        other.dies()


READ_REST_S, REST_S = 0.001, 0.003
STEADY = Pace(9, read_records_max=4, read_rest_s=READ_REST_S, pieces=Pieces(3, rest_s=REST_S))


@pytest.fixture
def rests(monkeypatch):
    """How often was rested, by for how long."""
    slept, sleep = Counter(), asyncio.sleep

    async def resting(delay_s, *what):
        slept[delay_s] += 1
        await sleep(delay_s, *what)

    monkeypatch.setattr(asyncio, "sleep", resting)
    return slept


async def test_what_a_batch_holds_is_read_and_booked_little_by_little_in_one_transaction(
    database, directory, books, worker, rests
):
    """Guards calls on the same processors, which wait for as long as the database or we are busy at a stretch."""
    shipper = Shipper(directory, database, books, Clock(), STEADY)
    worker.called(*range(7))

    await shipper.round()

    assert rests[READ_REST_S] == 7 * 2 // 4
    assert rests[REST_S] == 2
    assert list((await batches(database)).values()) == [7]


async def test_while_there_is_more_than_a_batch_holds_nothing_rests(database, directory, books, worker, rests):
    """Guards how fast a backlog is booked. Only what was not known to be the first of more was read with rests; and where
    all but a full batch has come meanwhile, there will be more."""
    shipper = Shipper(directory, database, books, Clock(), STEADY)
    worker.called(*range(9 * 5 + 8))

    await shipper.round()
    known_then = rests[READ_REST_S]
    await ship(shipper)

    assert len(await booked(database)) == 9 * 5 + 8
    assert rests[READ_REST_S] == known_then
    assert rests[REST_S] == 0
    worker.called(*range(100, 106))
    await shipper.round()
    assert rests[REST_S] == 2


async def test_a_backlog_does_not_rest_for_what_others_have_to_say_meanwhile(database, directory, books, rests):
    """Guards how fast one spool's backlog is booked: beside it are those of workers that live and say little."""
    shipper = Shipper(directory, database, books, Clock(), STEADY._replace(batches_at_once=2))
    most, other = Worker(directory, "w0-1"), Worker(directory, "w1-1")
    most.called(*range(9 * 5))

    for number in range(100, 104):
        other.called(number)
        await shipper.round()
    await ship(shipper)
    for worker in (most, other):
        worker.dies()

    assert len(await booked(database)) == 9 * 5 + 4
    assert rests[REST_S] == 0


async def test_what_is_booked_for_others_is_booked_at_once(database, directory, books, rests):
    """Guards whoever waits for it: a request for a replay or an import, a webhook."""
    shipper = Shipper(directory, database, books, Clock(), STEADY)

    await shipper.book([fact(usage_event(event_id=call_id(number))) for number in range(7)], [])

    assert len(await booked(database)) == 7
    assert rests[REST_S] == 0


async def test_nothing_rests_once_the_end_is_waited_for(database, directory, books, worker, rests):
    shipper = Shipper(directory, database, books, Clock(), STEADY)
    worker.called(*range(7))

    shipper.stop()
    await shipper.run()

    assert len(await booked(database)) == 7
    assert rests[READ_REST_S] == rests[REST_S] == 0


async def test_looks_come_as_often_however_long_it_takes_to_book(database, shipper, worker, monkeypatch):
    """Guards how old the newest event is that the ledger lacks: the time that booking takes is not added to it."""
    took_s, waits = POLL_S / 2, []
    look_later, round_of = shipper._look_later, shipper.round

    def looking(wait_s):
        waits.append(wait_s)
        look_later(wait_s)

    async def longer():
        await asyncio.sleep(took_s)
        return await round_of()

    monkeypatch.setattr(shipper, "_look_later", looking)
    monkeypatch.setattr(shipper, "round", longer)
    running = asyncio.create_task(shipper.run())
    await until(lambda: _true(waits))
    shipper.stop()
    await running

    assert 0 <= waits[0] <= POLL_S - took_s


async def _true(said):
    return bool(said)


# ---------------------------------------------------------------------------------------------------------------------
# While the ledger can not be written


@pytest.mark.parametrize("when", ["before", "within", "after"])
async def test_a_ledger_that_fails_for_a_while_costs_nothing(database, line, worker, shipper, when):
    """Watches that what was read is kept until it is booked, and that a commit nobody heard of is not booked twice."""
    worker.called(*range(10))
    line.failures = [when] * 3

    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            await shipper.round()
        worker.called(10 + len(line.failures))
    await ship(shipper)

    assert await booked(database) == dict.fromkeys(range(13), "reported")
    assert await aside(database) == []
    (rollup,) = await rows(database, rollups)
    assert rollup.events == 13


async def test_a_failure_while_the_bad_event_is_looked_for_costs_nothing(database, line, worker, shipper):
    worker.called(1)
    worker.called(2, quantities={"input_tokens": 1 << 53})
    worker.called(3)
    line.failures = [None, "after", "before", None, None, None, None, "within"]

    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            await shipper.round()
    await ship(shipper)

    assert await booked(database) == {1: "reported", 3: "reported"}
    assert await aside(database) == ["an event that can not be booked: DataError"]


async def test_a_spool_is_not_finished_by_a_round_that_booked_nothing(database, directory, line, worker, shipper):
    worker.begins(1)
    worker.dies()
    line.failures = ["before"]

    with pytest.raises(DatabaseUnavailable):
        await shipper.round()
    unfinished = spools(directory)
    await ship(shipper)

    assert (unfinished, spools(directory)) == (["w0-1"], [])
    assert await booked(database) == {1: "unknown"}


async def test_a_backlog_drains_by_itself_when_the_ledger_is_back(database, line, worker, shipper):
    """A04. The ledger can neither be read nor written, calls go on, and it says so once each way."""
    line.readable = False
    line.failures = ["before"] * 10_000
    with capture_logs() as logs:
        running = asyncio.create_task(shipper.run())
        worker.called(*range(300))
        await until_failing(shipper)
        failing = shipper.failing
        worker.called(*range(300, 600))
        line.readable = True
        await asyncio.sleep(0)
        line.failures = []
        await until_booked(database, 600)
        await until_failing(shipper, failing=False)
        shipper.stop()
        await asyncio.wait_for(running, PATIENCE_S)

    assert failing == "the line is cut"
    assert [line["event"] for line in logs] == ["ledger_unavailable", "ledger_available_again"]
    assert await booked(database) == dict.fromkeys(range(600), "reported")


async def test_a_ledger_on_a_full_disk_costs_nothing(sqlite_ledgers, directory, worker, books):
    """The real thing: SQLite may not grow, and later it may."""
    async with sqlite_ledgers.new() as database:
        shipper = Shipper(directory, database, books, Clock())
        async with database.transaction() as connection:
            pages = (await connection.execute(text("PRAGMA page_count"))).scalar()
            await connection.execute(text(f"PRAGMA max_page_count = {pages + 4}"))
        worker.called(*range(400))
        with pytest.raises(DatabaseUnavailable, match="full"):
            await ship(shipper)
        before = await booked(database)

        async with database.transaction() as connection:
            await connection.execute(text("PRAGMA max_page_count = 1000000"))
        await ship(shipper)

        assert len(before) < 400
        assert await booked(database) == dict.fromkeys(range(400), "reported")


async def test_a_month_that_was_never_made_or_was_taken_away_is_made_when_a_call_of_it_is_booked(
    postgres_ledgers, directory, worker, books
):
    """Watches the months before each batch, and that a failed booking looks for them again: without either, calls of a
    month that has no table are set aside as what can not be booked."""
    async with postgres_ledgers.new() as database, postgres_ledgers.owned(database) as owner:
        shipper = Shipper(directory, database, books, Clock())
        worker.called(1, occurred_at_ms=NOON_MS - 400 * DAY_MS)
        await ship(shipper)
        await execute(owner, "DROP TABLE usage_events_2025_10, charges_2025_10")
        worker.called(2, occurred_at_ms=NOON_MS - 400 * DAY_MS)
        await ship(shipper)

        assert await booked(database) == {2: "reported"}
        assert await aside(database) == []


async def test_the_months_to_come_are_made_before_they_come(postgres_ledgers, directory, books):
    async with postgres_ledgers.new() as database:
        await Shipper(directory, database, books, lambda: NOON + dt.timedelta(days=400)).round()

        async with database.reading() as connection:
            found = text("SELECT relname FROM pg_class WHERE relname LIKE 'charges\\_2028\\___'")
            assert set((await connection.execute(found)).scalars()) == {
                "charges_2028_01",
                "charges_2028_02",
                "charges_2028_03",
            }


async def until(true):
    async with asyncio.timeout(PATIENCE_S):
        while not await true():  # noqa: ASYNC110 - whoever looks at the ledger from outside can only look again
            await asyncio.sleep(0.01)


async def until_failing(shipper, *, failing=True):
    async def as_said():
        return (shipper.failing is not None) == failing

    await until(as_said)


async def until_shipped(shipper, after):
    async def later():
        return shipper.last_shipped > after

    await until(later)


async def until_booked(database, count):
    async def there():
        return len(await rows(database, usage_events)) >= count

    await until(there)


# ---------------------------------------------------------------------------------------------------------------------
# How far it is


async def test_until_all_was_read_once_nobody_knows_what_calls_there_were(worker, shipper, directory):
    """Guards money after a restart: what waits in the spools is not known before they are read."""
    worker.called(1)
    before = shipper.booked_until("openai")

    running = asyncio.create_task(shipper.run())
    await until_shipped(shipper, after=shipper.last_shipped)
    shipper.stop()
    await asyncio.wait_for(running, PATIENCE_S)

    assert before == EPOCH
    assert NOON <= shipper.booked_until("openai") <= shipper.last_shipped


async def test_where_no_spool_is_there_is_nothing_that_nobody_knows(shipper):
    """Guards commands that find no server running, and nothing to book: no round would say so."""
    assert shipper.booked_until("twilio") == shipper.last_shipped


async def test_what_is_under_way_is_not_booked_whatever_else_is(worker, shipper):
    worker.begins(1, source="twilio", occurred_at_ms=NOON_MS - 700)
    worker.begins(2, source="twilio", occurred_at_ms=NOON_MS - 900)
    worker.begins(3, source="openai", occurred_at_ms=NOON_MS - 5_000)
    running = asyncio.create_task(shipper.run())
    await until_shipped(shipper, after=shipper.last_shipped)

    under_way = shipper.booked_until("twilio")
    worker.used_nothing(2)
    await until_shipped(shipper, after=shipper.last_shipped)
    await until_shipped(shipper, after=shipper.last_shipped)
    one_left = shipper.booked_until("twilio")
    shipper.stop()
    await asyncio.wait_for(running, PATIENCE_S)

    assert under_way == NOON - dt.timedelta(milliseconds=900)
    assert one_left == NOON - dt.timedelta(milliseconds=700)
    assert shipper.booked_until("sendgrid") > NOON


# ---------------------------------------------------------------------------------------------------------------------
# Running, and stopping


@asynccontextmanager
async def running(shipper):
    task = asyncio.create_task(shipper.run())
    try:
        yield
    finally:
        shipper.stop()
        await asyncio.wait_for(task, PATIENCE_S)


async def test_what_workers_write_is_booked_without_anybody_asking(database, worker, shipper):
    running = asyncio.create_task(shipper.run())
    for number in range(3):
        worker.called(number)
        await until_booked(database, number + 1)
    await until_shipped(shipper, after=shipper.last_shipped)
    shipper.stop()
    await asyncio.wait_for(running, PATIENCE_S)

    assert await booked(database) == dict.fromkeys(range(3), "reported")


@asynccontextmanager
async def at_rest(shipper, directory):
    """It runs, has read what is there, and does not search unless there is a sign of something new."""
    async with running(shipper):
        await until_shipped(shipper, after=shipper.last_shipped)
        shipper._changes = DirectoryChanges(directory, again_s=1e9)
        yield


async def test_at_rest_no_spool_is_searched_and_the_ledger_has_everything_all_the_same(
    directory, worker, shipper, monkeypatch
):
    worker.called(1)
    async with at_rest(shipper, directory):
        await asyncio.sleep(4 * POLL_S)
        rounds = []
        monkeypatch.setattr(Shipper, "round", rounds.append)
        for _ in range(3):
            await until_shipped(shipper, after=shipper.last_shipped)
        monkeypatch.undo()
        assert rounds == []
        assert shipper.booked_until("openai") == shipper.last_shipped


async def test_whoever_ships_no_more_does_not_say_that_the_ledger_has_everything(directory, worker, shipper):
    """Guards the end of the looks: they went on after a shipper that was cut off, and said so."""
    worker.called(1)
    task = asyncio.create_task(shipper.run())
    await until_shipped(shipper, after=shipper.last_shipped)
    shipper._changes = DirectoryChanges(directory, again_s=1e9)
    await asyncio.sleep(4 * POLL_S)
    task.cancel()
    await asyncio.wait((task,))
    last = shipper.last_shipped

    await asyncio.sleep(3 * POLL_S)

    assert shipper.last_shipped == last


async def test_what_comes_to_a_spool_at_rest_is_booked_without_a_search(database, directory, worker, shipper):
    worker.called(1)
    async with at_rest(shipper, directory):
        await asyncio.sleep(4 * POLL_S)
        worker.called(2)
        await until_booked(database, 2)


async def test_a_spool_that_begins_while_the_others_rest_is_read_without_a_search(database, directory, worker, shipper):
    worker.called(1)
    async with at_rest(shipper, directory):
        await asyncio.sleep(4 * POLL_S)
        later = Worker(directory, "w0-2")
        later.called(2)
        await until_booked(database, 2)
        later.dies()


async def test_a_worker_that_is_killed_leaves_no_sign_and_is_found(database, directory, worker, shipper):
    """Watches the search: a lock that is free changes neither the directory nor a segment."""
    worker.begins(1)
    async with running(shipper):
        await until_shipped(shipper, after=shipper.last_shipped)
        await asyncio.sleep(4 * POLL_S)
        os.close(worker.spool._lock_fd)
        worker.spool._lock_fd = -1
        await until_booked(database, 1)

    assert await booked(database) == {1: "unknown"}


async def test_whoever_asks_providers_is_told_when_what_was_booked_may_be_asked_for(database, shipper):
    told = []
    shipper.when_pending = lambda: told.append(len(told))
    late = late_fact("acme", "openai", "thing-1", "final", Completeness.REPORTED, {"output_tokens": 7})
    seen = []
    for event in (
        usage_event(event_id=call_id(1)),
        usage_event(event_id=call_id(2), completeness=Completeness.PENDING, external_id="thing-1"),
        late,
    ):
        await shipper.book([fact(event)], [])
        seen.append(len(told))

    assert seen == [0, 1, 2]


async def test_told_to_stop_it_ships_what_is_there_and_ends(database, directory, worker, shipper):
    """Watches the last rounds: more than one batch is there when it is told to stop."""
    running = asyncio.create_task(shipper.run())
    await until_shipped(shipper, after=shipper.last_shipped)
    worker.called(*range(700))
    worker.begins(1_000)
    worker.dies()
    shipper.stop()

    await asyncio.wait_for(running, PATIENCE_S)

    assert await booked(database) == dict.fromkeys(range(700), "reported") | {1_000: "unknown"}
    assert spools(directory) == []


async def test_told_to_stop_after_a_failure_it_ships_what_is_there_too(database, line, worker, shipper):
    """Watches the batch that was kept: it is booked first, and what came after it is not left behind."""
    worker.called(1)
    line.failures = ["before"]
    running = asyncio.create_task(shipper.run())
    await until_failing(shipper)
    worker.called(2)
    shipper.stop()

    await asyncio.wait_for(running, PATIENCE_S)

    assert await booked(database) == {1: "reported", 2: "reported"}


async def test_told_to_stop_while_the_ledger_is_away_it_ends_and_the_next_one_ships_it(
    database, line, worker, new_shipper
):
    line.failures = ["before"] * 10_000
    worker.called(*range(10))
    shipper = new_shipper()
    running = asyncio.create_task(shipper.run())
    await until_failing(shipper)
    shipper.stop()
    await asyncio.wait_for(running, PATIENCE_S)
    before = await booked(database)
    line.failures = []

    await ship(new_shipper())

    assert before == {}
    assert await booked(database) == dict.fromkeys(range(10), "reported")


async def test_while_a_spool_can_not_be_read_the_ledger_is_behind(directory, line, books, worker):
    """Guards readiness: nobody knows what is in it, and how much."""
    clock = Clock()
    shipper = Shipper(directory, line, books, clock)
    segment_path(directory, "w0-0", 0).mkdir()
    await ship(shipper)
    clock.now += dt.timedelta(seconds=90)
    shipper.stop()
    await shipper.run()
    age_s = shipper.backlog().age_s
    segment_path(directory, "w0-0", 0).rmdir()
    await shipper.run()

    assert 90 <= age_s < 91
    assert shipper.backlog().age_s == 0


async def test_how_far_the_ledger_is_behind_is_what_it_lacks_and_since_when(directory, line, books, worker):
    """Guards readiness: what was read and could not be booked is no less behind than what was never read."""
    clock = Clock()
    shipper = Shipper(directory, line, books, clock)
    worker.called(*range(20))
    held = sum(len(path.read_bytes().rstrip(b"\0")) for path in directory.glob("*.spool")) - HEADER_BYTES
    line.failures = ["before"]
    new = shipper.backlog()
    with suppress(DatabaseUnavailable):
        await shipper.round()
    clock.now += dt.timedelta(seconds=90)
    unbooked = shipper.backlog()
    await ship(shipper)
    shipper.stop()
    await shipper.run()

    assert (new.size_bytes, unbooked.size_bytes) == (held, held)
    assert 90 <= unbooked.age_s < 91
    assert shipper.backlog() == (0, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Several transactions at once


class Gate:
    """Transactions wait before it until they are let through."""

    def __init__(self, database):
        self.database = database
        self.reading = database.reading
        self.waiting = []

    @asynccontextmanager
    async def transaction(self):
        let_through = asyncio.get_running_loop().create_future()
        self.waiting.append(let_through)
        await let_through
        async with self.database.transaction() as connection:
            yield connection


@pytest.fixture
def gate(database):
    return Gate(database)


@pytest.fixture
def workers(directory):
    """Three, of which the first has the most to say."""
    workers = [Worker(directory, f"w{number}-1") for number in range(3)]
    for at, worker in enumerate(workers):
        worker.called(*range(100 * at, 100 * at + (9 if at == 0 else 5)))
    yield workers
    for worker in workers:
        worker.dies()


async def test_while_one_transaction_is_under_way_others_book_other_spools_and_no_more_than_are_allowed(
    database, directory, gate, books, workers
):
    """Guards the order within a spool: what follows in it is not booked, and its position not moved, before what is under
    way is known to be booked."""
    shipper = Shipper(directory, gate, books, Clock(), Pace(5, batches_at_once=2))
    shipping = asyncio.create_task(ship(shipper))
    await until(lambda: _reached(gate, 2))
    await asyncio.sleep(0.05)
    first, second = gate.waiting
    second.set_result(None)
    await until(lambda: _reached(gate, 3))
    meanwhile = await booked(database)
    gate.waiting[2].set_result(None)
    await until_booked(database, 10)
    await asyncio.sleep(0.05)
    without_the_first = await booked(database)
    held_back = len(gate.waiting)
    first.set_result(None)
    await until(lambda: _reached(gate, 4))
    gate.waiting[3].set_result(None)
    await shipping

    assert set(meanwhile) == set(range(100, 105))
    assert set(without_the_first) == {*range(100, 105), *range(200, 205)}
    assert held_back == 3
    assert set(await booked(database)) == {*range(9), *range(100, 105), *range(200, 205)}


async def _reached(gate, count):
    assert len(gate.waiting) <= count
    return len(gate.waiting) == count


async def test_what_could_not_be_booked_goes_first_and_alone_until_it_is(database, directory, line, books, workers):
    """Guards the bound on what is held: while a batch can not be booked, nothing else is read."""
    shipper = Shipper(directory, line, books, Clock(), Pace(5, batches_at_once=3))
    line.failures = ["before"] * 7

    for _ in range(4):
        with suppress(DatabaseUnavailable):
            await shipper.round()
    kept = [fact.event.event_id for batch in shipper._batches for fact in batch.facts]
    await ship(shipper)

    assert len(kept) == len(set(kept)) <= 15
    assert len(await booked(database)) == 19
    assert shipper.shipped.repeated == 0


async def test_what_was_read_before_a_spool_that_can_not_be_resumed_is_booked(database, directory, line, books):
    """Guards what was read in a round that failed: its spool's position is past it, so it is not read again."""
    shipper = Shipper(directory, line, books, Clock(), APART)
    first, last = Worker(directory, "w0-1"), Worker(directory, "w1-1")
    first.called(0)
    last.called(1)
    await ship(shipper)
    new = Worker(directory, "w0-2")
    first.called(2)
    new.called(3)
    line.readable = False
    with pytest.raises(DatabaseUnavailable):
        await shipper.round()
    line.readable = True
    await ship(shipper)
    for worker in (first, last, new):
        worker.dies()

    assert set(await booked(database)) == {0, 1, 2, 3}


async def test_all_is_booked_before_the_end_however_fast_the_ledger_is(directory, database, books, monkeypatch):
    """Watches a transaction that is committed while the next batch is read: its spool may hold more."""
    most, few = Worker(directory, "w0-1"), Worker(directory, "w1-1")
    most.called(*range(9))
    few.called(100)
    shipper = Shipper(directory, database, books, Clock(), Pace(5, batches_at_once=2))
    seen = []

    async def at_once(facts, *_):
        seen.extend(fact.event.event_id for fact in facts)

    monkeypatch.setattr(shipper, "book", at_once)
    shipper.stop()
    await asyncio.wait_for(shipper.run(), PATIENCE_S)
    for worker in (most, few):
        worker.dies()

    assert len(seen) == len(set(seen)) == 10


async def test_what_is_read_and_not_booked_is_not_let_go_of(database, directory, gate, books):
    """Guards a crash at that moment: a segment whose calls are in no ledger yet is read again after it."""
    worker = Worker(directory)
    worker.called(*range(200))
    shipper = Shipper(directory, gate, books, Clock(), Pace(1000, batches_at_once=2))
    shipping = asyncio.create_task(shipper.round())
    await until(lambda: _reached(gate, 1))
    numbers = segments(directory, "w0-1")
    aged(directory)
    shipper._housekept = float("-inf")
    await shipper._housekeep()
    left = segments(directory, "w0-1")
    gate.waiting[0].set_result(None)
    await shipping
    worker.dies()

    assert len(numbers) > 2
    assert left == numbers


async def test_a_round_that_is_broken_off_leaves_nothing_under_way_and_loses_nothing(
    database, directory, gate, books, workers
):
    shipper = Shipper(directory, gate, books, Clock(), Pace(5, batches_at_once=3))
    shipping = asyncio.create_task(shipper.round())
    await until(lambda: _reached(gate, 3))
    shipping.cancel()
    with suppress(asyncio.CancelledError):
        await shipping
    broken_off = [one.cancelled() for one in gate.waiting]
    gate.transaction = database.transaction
    await ship(shipper)

    assert broken_off == [True] * 3
    assert len(await booked(database)) == 19


# ---------------------------------------------------------------------------------------------------------------------
# Letting go


def aged(directory):
    then = time.time() - RETENTION_S - 1
    for path in directory.iterdir():
        os.utime(path, (then, then))


async def kept_house(shipper):
    """A round that looks after old segments first, and the numbers of those that are left."""
    shipper._housekept = float("-inf")
    await shipper.round()
    return segments(shipper.directory, "w0-1")


async def test_segments_are_deleted_when_all_they_hold_is_booked_and_their_time_has_come(directory, worker, shipper):
    """Watches the retention, and that a living worker's newest segment stays whatever its age."""
    worker.called(*range(200))
    await ship(shipper)
    numbers = segments(directory, "w0-1")

    young = await kept_house(shipper)
    aged(directory)
    old = await kept_house(shipper)

    assert len(numbers) > 2
    assert (young, old) == (numbers, numbers[-1:])


async def test_where_the_disk_has_no_room_segments_that_are_booked_are_not_kept(
    directory, worker, shipper, monkeypatch
):
    """Guards the calls to come: room that a retention takes is theirs."""
    room = [ROOM_BYTES_MIN]
    monkeypatch.setattr("gateway.shipper.spool_reader.room_bytes", lambda directory: room[0])
    worker.called(*range(200))
    await ship(shipper)
    numbers = segments(directory, "w0-1")

    async def looked():
        shipper._housekept, shipper._looked_for_room = float("inf"), float("-inf")
        await shipper.round()
        return segments(directory, "w0-1")

    with_room = await looked()
    room[0] -= 1
    without = await looked()

    assert len(numbers) > 2
    assert (with_room, without) == (numbers, numbers[-1:])


async def test_a_segment_that_holds_an_open_call_stays(database, directory, worker, shipper):
    """Watches the open calls: without its intent a call that nobody ends would never show as unknown."""
    worker.called(*range(100))
    worker.begins(1_000)
    begun = segments(directory, "w0-1")[-1]
    worker.called(*range(100, 250))
    await ship(shipper)
    aged(directory)

    with_open_call = await kept_house(shipper)
    worker.used_nothing(1_000)
    await ship(shipper)
    aged(directory)
    without = await kept_house(shipper)

    assert begun > 0
    assert with_open_call == list(range(begun, without[-1] + 1))
    assert without[-1] > begun
    assert len(without) == 1


async def test_nothing_is_deleted_that_the_ledger_does_not_have(database, directory, line, worker, shipper):
    """Watches the order: booked first, and only then let go of."""
    worker.called(*range(200))
    numbers = segments(directory, "w0-1")
    aged(directory)
    line.failures = ["before"] * 3

    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            await kept_house(shipper)

    assert segments(directory, "w0-1") == numbers
    assert await booked(database) == {}


async def test_a_finished_spool_goes_whole_and_an_unfinished_one_stays(directory, worker, shipper):
    worker.called(*range(200))
    worker.dies()
    aged(directory)
    unfinished = await kept_house(shipper)
    await ship(shipper)

    finished = await kept_house(shipper)

    assert (len(unfinished) > 2, finished) == (True, [])
    assert list(directory.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------------
# Whatever happens

STEPS = st.sampled_from(
    [
        *[
            "begin",
            "begin",
            "begin",
            "end",
            "end",
            "close",
            "note",
            "die",
            "ship",
            "ship",
            "crash",
            "restart",
            "housekeep",
        ],
        *[
            "unavailable before",
            "unavailable within",
            "unavailable after",
            "crash before",
            "crash within",
            "crash after",
        ],
    ]
)


class World:
    """Workers, a shipper and a ledger, and what must be in the ledger at the end."""

    def __init__(self, directory, database, books):
        self.directory, self.books = directory, books
        self.line = Line(database)
        self.clock = Clock()
        self.number = 0
        self.lives = 0
        self.expected = {}
        self.open = []
        self.restart()
        self.work()

    def restart(self):
        self.shipper = Shipper(self.directory, self.line, self.books, self.clock)

    def work(self):
        self.lives += 1
        self.worker = Worker(self.directory, f"w0-{self.lives:04}")

    async def step(self, what):
        match what.split():
            case ["begin"]:
                self.number += 1
                try:
                    self.worker.begins(self.number, category="x" * 3_000)
                except SpoolFull:
                    return
                self.open.append(self.number)
            case ["end"] if self.open:
                self.expected[self.open[0]] = "reported"
                self.worker.ends(self.open.pop(0), category="x" * 3_000)
            case ["close"] if self.open:
                self.worker.used_nothing(self.open.pop())
            case ["note"]:
                self.number += 1
                self.expected[self.number] = "reported"
                self.worker.spool.note(payload(usage_event(event_id=call_id(self.number))))
            case ["die"]:
                self.worker.dies()
                self.expected |= dict.fromkeys(self.open, "unknown")
                self.open = []
                self.work()
            case ["ship"]:
                await self.shipper.round()
            case ["restart"]:
                self.restart()
            case ["housekeep"]:
                aged(self.directory)
                self.shipper._housekept = float("-inf")
                await self.shipper.round()
            case ["unavailable", when]:
                self.line.failures, self.line.failure = [when], DatabaseUnavailable("cut")
                with suppress(DatabaseUnavailable):
                    await self.shipper.round()
            case ["crash", when]:
                self.line.failures, self.line.failure = [when], Crash()
                try:
                    await self.shipper.round()
                except Crash:
                    self.restart()
        self.line.failures = []

    async def end(self):
        await self.step("die")
        self.worker.dies()
        await ship(self.shipper)


@settings(max_examples=120, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_in_the_end_every_call_is_in_the_ledger_once_whatever_happened_on_the_way(
    ledgers, tmp_path_factory, books, steps
):
    """A20, in small: workers that die, a shipper that crashes before, within and after each transaction, a ledger that
    comes and goes, and segments that are deleted as soon as they may be."""
    directory = tmp_path_factory.mktemp("world")

    async def live():
        async with ledgers.reused() as database:
            world = World(directory / "spool", database, books)
            for step in steps:
                await world.step(step)
            await world.end()
            assert spools(directory / "spool") == []
            return world.expected, await booked(database), await aside(database), await rows(database, rollups)

    expected, found, set_aside, sums = asyncio.run(live())

    assert found == expected
    assert set_aside == []
    assert sum(row.events for row in sums) == len(expected)


async def test_what_a_record_says_of_when_it_is_recorded_is_not_looked_at(database, worker, shipper):
    """Guards a field of ours in what we do not write: the database tried to read it, and the event was set aside."""
    worker.wrote(payload(usage_event(event_id=call_id(1))).replace(b"{", b'{"recorded_at":"x",', 1))
    await ship(shipper)

    assert await booked(database) == {1: "reported"}


async def test_a_ledger_that_can_not_be_written_costs_no_memory_for_each_time_that_it_is_tried(shipper, monkeypatch):
    """Guards the looking for garbage after a failure: what failed holds the batch in a cycle, and few objects are in it."""
    alive = []

    class Held:
        """A batch."""

    async def fails():
        held = Held()
        alive.append(weakref.ref(held))
        error = OSError("the disk is full")
        held.error, error.held = error, held
        if len(alive) == 5:
            shipper.stop()
        raise error

    monkeypatch.setattr(shipper, "round", fails)
    monkeypatch.setattr("gateway.shipper.RETRY_S_MAX", 0)
    gc.disable()
    try:
        await shipper.run()
    finally:
        gc.enable()

    assert [one() for one in alive[:-1]] == [None] * (len(alive) - 1)
    assert len(alive) >= 5
