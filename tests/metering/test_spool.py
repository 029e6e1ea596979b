"""The writing end: what it has taken stays, what it can not take it refuses beforehand, and it says so when it is synced."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import spool as module
from metering.spool import SUFFIX, Spool, SpoolFailed, SpoolFull, segment_path
from metering.spool_reader import abandoned, segments, spools
from metering.spool_records import HEADER_BYTES, RECORD_BYTES_MAX, RecordKind, scan, seed_of
from tests.metering.workers import REPOSITORY, read_to_end, worker

PATIENCE_S = 30
"""How long anything may take that should take a moment."""

SPOOL_ID = "w0-one"
SEGMENT_BYTES = 8 * RECORD_BYTES_MAX
LARGEST = bytes(RECORD_BYTES_MAX - HEADER_BYTES)
OUTCOME, CLOSED = RecordKind.OUTCOME, RecordKind.CLOSED


@contextmanager
def opened(directory, spool_id=SPOOL_ID, *, fsync=False, segment_bytes=SEGMENT_BYTES):
    spool = Spool(directory, spool_id, fsync=fsync, segment_bytes=segment_bytes)
    spool.open()
    try:
        yield spool
    finally:
        spool.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A disk may be asked again at once: time is what only one of these tests is about."""
    monkeypatch.setattr("metering.spool.AGAIN_S", 0)


@pytest.fixture
def spool(tmp_path):
    with opened(tmp_path) as spool:
        yield spool


@contextmanager
def limited(what, soft):
    """Have the system grant no more than that. It refuses as a full disk does: without regard to who asks."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def no_further_segment():
    """A disk on which a segment's blocks can not be had."""
    return limited(resource.RLIMIT_FSIZE, SEGMENT_BYTES - 1)


@contextmanager
def instead_of_the_file(spool, path):
    """Let the spool's open file be another one, which refuses in its own way."""
    fd, other = spool._fd, os.open(path, os.O_RDWR)
    kept = os.dup(fd)
    os.dup2(other, fd)
    try:
        yield
    finally:
        if spool._fd == fd:
            os.dup2(kept, fd)
        os.close(kept)
        os.close(other)


def read(directory, spool_id=SPOOL_ID):
    """Kind and payload of all records, copies left out; there must be no damage and no gap."""
    reading = read_to_end(directory, spool_id)
    assert reading.damages == []
    found = {}
    for record in reading.records:
        found.setdefault(record.sequence, (record.kind, record.payload))
    assert list(found) == list(range(1, len(found) + 1))
    return list(found.values())


# ---------------------------------------------------------------------------------------------------------------------
# What was taken is there


def test_records_are_read_as_they_were_written_and_in_their_order(spool, tmp_path):
    first = spool.admit(b"first begins")
    second = spool.admit(b"second begins")
    spool.settle(second, OUTCOME, b"second used this")
    spool.note(b"a call that bills nothing")
    spool.settle(first, CLOSED, b"first used nothing")

    assert read(tmp_path) == [
        (RecordKind.INTENT, b"first begins"),
        (RecordKind.INTENT, b"second begins"),
        (OUTCOME, b"second used this"),
        (OUTCOME, b"a call that bills nothing"),
        (CLOSED, b"first used nothing"),
    ]


OPERATION = st.tuples(
    st.sampled_from(["admit", "admit", "settle", "note", "keep room", "give back room", "note kept"]),
    st.sampled_from([0, 1, 300, 4_000, len(LARGEST) - 1]),
)
"""Not quite the largest, since the limit on file sizes takes away a segment's last byte."""


@settings(max_examples=100, deadline=None)
@given(st.lists(OPERATION, max_size=40))
def test_every_call_that_was_admitted_can_be_ended_whatever_comes_between(tmp_path_factory, operations):
    """Watches the room that is kept for outcomes: on a disk without room for a second segment nothing else is left."""
    directory = tmp_path_factory.mktemp("spool")
    expected, under_way, rooms = [], [], 0

    with opened(directory) as spool, no_further_segment():
        for what, size in operations:
            content = bytes(size)
            try:
                if what == "admit":
                    under_way.append(spool.admit(content))
                    expected.append((RecordKind.INTENT, content))
                elif what == "note":
                    spool.note(content)
                    expected.append((OUTCOME, content))
                elif what == "keep room":
                    spool.keep_room()
                    rooms += 1
                elif what == "settle" and under_way:
                    spool.settle(under_way.pop(), OUTCOME, content)
                    expected.append((OUTCOME, content))
                elif what == "note kept" and rooms:
                    rooms -= 1
                    spool.note_kept(content)
                    expected.append((OUTCOME, content))
                elif what == "give back room" and rooms:
                    rooms -= 1
                    spool.give_back_room()
            except SpoolFull:
                assert what not in ("settle", "note kept")
        for _ in range(rooms):
            spool.note_kept(LARGEST)
            expected.append((OUTCOME, LARGEST))
        for one in under_way:
            spool.settle(one, CLOSED, LARGEST)
            expected.append((CLOSED, LARGEST))

    assert read(directory) == expected
    assert segments(directory, SPOOL_ID) == [0]


def test_a_record_says_which_intent_it_ends(spool, tmp_path):
    first = spool.admit(b"first begins")
    second = spool.admit(b"second begins")
    spool.settle(second, OUTCOME, b"second used this")
    spool.note(b"a call that bills nothing")
    spool.settle(first, CLOSED, b"first used nothing")

    assert [record.intent for record in read_to_end(tmp_path, SPOOL_ID).records] == [0, 0, second, 0, first]


def test_segments_follow_each_other_while_calls_are_under_way(spool, tmp_path):
    expected, under_way = [], []
    for number in range(60):
        under_way.append(spool.admit(b"%d begins" % number))
        expected.append((RecordKind.INTENT, b"%d begins" % number))
        if number >= 3:
            spool.settle(under_way.pop(0), OUTCOME, LARGEST)
            expected.append((OUTCOME, LARGEST))
    for one in under_way:
        spool.settle(one, OUTCOME, b"")
        expected.append((OUTCOME, b""))

    assert read(tmp_path) == expected
    numbers = segments(tmp_path, SPOOL_ID)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 10
    sizes = [segment_path(tmp_path, SPOOL_ID, number).stat().st_size for number in numbers]
    assert sizes[-1] == SEGMENT_BYTES
    # The others were cut to what they hold: what was kept ready and not used went back to the disk.
    assert max(sizes[:-1]) < SEGMENT_BYTES


def test_a_segment_has_its_blocks_before_a_call_depends_on_them(spool, tmp_path):
    """Watches the preallocation: a file of this length without its blocks would fill up in the middle of a call."""
    assert segment_path(tmp_path, SPOOL_ID, 0).stat().st_blocks * 512 >= SEGMENT_BYTES


def test_nobody_else_can_read_what_is_in_it(spool, tmp_path):
    modes = {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}

    assert modes == {"0o600"}


def test_a_spool_that_is_closed_is_as_long_as_what_it_holds(tmp_path):
    with opened(tmp_path) as spool:
        spool.admit(b"begun")

    assert read(tmp_path) == [(RecordKind.INTENT, b"begun")]
    assert segment_path(tmp_path, SPOOL_ID, 0).stat().st_size == 2 * HEADER_BYTES + len(b"begun")


def test_the_same_id_is_not_used_twice(spool, tmp_path):
    spool.admit(b"begun")

    with pytest.raises(FileExistsError):
        Spool(tmp_path, SPOOL_ID, fsync=False).open()

    assert not abandoned(tmp_path, SPOOL_ID)
    assert read(tmp_path) == [(RecordKind.INTENT, b"begun")]


def test_a_payload_that_no_record_holds_is_refused_and_the_spool_goes_on(spool, tmp_path):
    with pytest.raises(ValueError, match="exceeds"):
        spool.admit(LARGEST + b"x")
    spool.admit(b"begun")

    assert read(tmp_path) == [(RecordKind.INTENT, b"begun")]


# ---------------------------------------------------------------------------------------------------------------------
# A disk that is full, or fails


def admitted(spool):
    """Calls, and none of them ends, until there is no room for one more; return their intents."""
    intents = []
    try:
        while True:
            intents.append(spool.admit(b"begun"))
    except SpoolFull:
        return intents


def fill(spool):
    """Calls, one after the other, until there is no room for one more; return how many there were."""
    count = 0
    try:
        while True:
            spool.settle(spool.admit(b"begun"), OUTCOME, LARGEST)
            count += 1
    except SpoolFull:
        return count


def test_a_full_disk_refuses_the_next_call_and_takes_the_outcomes_of_all_before(spool, tmp_path):
    """Watches the room that is kept: the calls under way are as many as fit, and the last outcome is in the last room."""
    with no_further_segment():
        under_way = admitted(spool)
        for one in under_way:
            spool.settle(one, OUTCOME, LARGEST)

    count = len(under_way)
    assert count > 4
    assert read(tmp_path) == [(RecordKind.INTENT, b"begun")] * count + [(OUTCOME, LARGEST)] * count


def noted(spool):
    """Calls that bill nothing, until there is no room for one more; return how many there were."""
    count = 0
    try:
        while True:
            spool.note(b"noted")
            count += 1
    except SpoolFull:
        return count


def test_calls_that_bill_nothing_take_no_room_from_those_under_way(spool, tmp_path):
    """Watches the room that is kept where no intent is written."""
    with no_further_segment():
        under_way = [spool.admit(b"begun") for _ in range(3)]
        count = noted(spool)
        for one in under_way:
            spool.settle(one, OUTCOME, LARGEST)

    assert count > 100
    assert read(tmp_path)[-3:] == [(OUTCOME, LARGEST)] * 3


def test_room_that_was_kept_is_there_on_a_full_disk_and_can_be_given_back(spool, tmp_path):
    with no_further_segment():
        for _ in range(3):
            spool.keep_room()
        spool.give_back_room()
        noted(spool)
        for _ in range(2):
            spool.note_kept(LARGEST)
        with pytest.raises(SpoolFull):
            spool.keep_room()

    assert read(tmp_path)[-2:] == [(OUTCOME, LARGEST)] * 2


def test_when_there_is_room_again_calls_go_on(spool, tmp_path):
    """A08. Watches that a refusal leaves nothing behind: no record, no file, and a spool that works."""
    with no_further_segment():
        before = fill(spool)
        for _ in range(3):
            with pytest.raises(SpoolFull):
                spool.admit(b"refused")
        recorded = read(tmp_path)
        files = sorted(path.name for path in tmp_path.iterdir())

    after = 0
    while after < 2 * before:
        spool.settle(spool.admit(b"begun"), OUTCOME, LARGEST)
        after += 1
    assert recorded == [(RecordKind.INTENT, b"begun"), (OUTCOME, LARGEST)] * before
    assert read(tmp_path) == [(RecordKind.INTENT, b"begun"), (OUTCOME, LARGEST)] * (before + after)
    assert files == [f"{SPOOL_ID}-00000000.spool", f"{SPOOL_ID}.lock"]
    assert not spool.failed


def test_more_calls_at_once_than_a_segment_has_room_for_are_refused_on_an_empty_disk_too(spool, tmp_path):
    under_way = admitted(spool)
    with pytest.raises(SpoolFull, match=f"{len(under_way)} calls under way"):
        spool.admit(b"begun")

    spool.settle(under_way[0], OUTCOME, LARGEST)
    spool.admit(b"begun")
    assert not spool.failed


def test_a_segment_is_there_whole_or_not_at_all(spool, tmp_path):
    """Watches the name that a segment has while it is made: a reader that saw it would take the one before for complete
    and never read what is still written there."""
    seen, stop = set(), threading.Event()

    def look():
        while not stop.is_set():
            seen.update(path.name for path in tmp_path.iterdir() if path.name.endswith(SUFFIX))

    looking = threading.Thread(target=look)
    looking.start()
    with no_further_segment():
        fill(spool)
        for _ in range(500):
            with pytest.raises(SpoolFull):
                spool.admit(b"refused")
    stop.set()
    looking.join(PATIENCE_S)

    assert seen == {f"{SPOOL_ID}-00000000.spool"}


NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount")


def mounts_work(directory):
    try:
        tried = subprocess.run(
            [*NAMESPACES, "mount", "-t", "tmpfs", "none", directory], capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return tried.returncode == 0


def test_on_a_disk_that_is_really_full_nothing_is_torn_and_calls_go_on_once_there_is_room(tmp_path):
    """A08, on a file system of its own of the size of one segment."""
    if not mounts_work(tmp_path):
        pytest.skip("no file system can be mounted here; the tests with a limit on file sizes stand in")

    with worker("fill", tmp_path, *NAMESPACES) as process:
        said, _ = process.communicate(timeout=PATIENCE_S)
    told = json.loads(said)

    assert told["refusal"] == "No space left on device"
    assert told["read while full"] == told["recorded while full"] > 10
    assert told["files while full"] == ["w0-killed-00000000.spool", "w0-killed.lock"]
    assert told["read"] == told["recorded"] > told["recorded while full"]


def test_where_the_disk_refuses_a_record_it_goes_into_a_new_segment(spool, tmp_path):
    """A13. Guards the call whose outcome the disk refuses: its client has waited for it."""
    begun = spool.admit(b"begun")

    with instead_of_the_file(spool, "/dev/full"):
        spool.settle(begun, OUTCOME, b"refused at first")
    spool.settle(spool.admit(b"next"), OUTCOME, b"next used this")

    assert (spool.failed, spool.given_up) == (False, 1)
    assert read(tmp_path) == [
        (RecordKind.INTENT, b"begun"),
        (OUTCOME, b"refused at first"),
        (RecordKind.INTENT, b"next"),
        (OUTCOME, b"next used this"),
    ]
    assert segments(tmp_path, SPOOL_ID) == [0, 1]


def test_what_a_disk_refuses_altogether_is_recorded_once_it_takes_records_again(spool, tmp_path):
    """A13. Guards the outcomes of the calls that were under way: what is kept of them is written before anything else."""
    under_way = [spool.admit(b"begun %d" % number) for number in range(3)]

    with no_further_segment(), instead_of_the_file(spool, "/dev/full"):
        for one in under_way:
            with pytest.raises(SpoolFailed):
                spool.settle(one, OUTCOME, b"used %d" % one)
        for _ in range(5):
            with pytest.raises(SpoolFull):
                spool.admit(b"refused")
            with pytest.raises(SpoolFull):
                spool.note(b"refused")
    failed, before = spool.failed, read(tmp_path)
    spool.admit(b"next")

    assert (failed, spool.failed) == (True, False)
    assert before == [(RecordKind.INTENT, b"begun %d" % number) for number in range(3)]
    assert read(tmp_path) == [
        *before,
        *((OUTCOME, b"used %d" % one) for one in under_way),
        (RecordKind.INTENT, b"next"),
    ]


def test_a_call_whose_intent_the_disk_refused_is_never_taken_for_one_that_was_sent(spool, tmp_path):
    """Guards the refusal: the intent may be on the disk all the same, and nobody would end it."""
    with no_further_segment(), instead_of_the_file(spool, "/dev/full"), pytest.raises(SpoolFailed):
        spool.admit(b"refused")
    spool.settle(spool.admit(b"next"), OUTCOME, b"used")

    assert read(tmp_path) == [
        (RecordKind.INTENT, b"refused"),
        (CLOSED, b"{}"),
        (RecordKind.INTENT, b"next"),
        (OUTCOME, b"used"),
    ]
    assert [record.intent for record in read_to_end(tmp_path, SPOOL_ID).records] == [0, 1, 0, 3]


def test_a_spool_that_is_closed_while_the_disk_refuses_writes_what_it_kept_if_it_can(tmp_path):
    with opened(tmp_path) as spool:
        begun = spool.admit(b"begun")
        with no_further_segment(), instead_of_the_file(spool, "/dev/full"), pytest.raises(SpoolFailed):
            spool.settle(begun, OUTCOME, b"used")

    assert read(tmp_path) == [(RecordKind.INTENT, b"begun"), (OUTCOME, b"used")]


def test_a_record_of_which_the_disk_took_a_part_is_whole_in_the_next_segment_wherever_it_was_torn(tmp_path):
    """A09. Guards the count that a write returns: a short write raises nothing. What was torn is cut off again."""
    length = HEADER_BYTES + len(b"torn")

    for taken in range(length):
        directory = tmp_path / str(taken)
        with opened(directory, segment_bytes=4 * RECORD_BYTES_MAX) as spool:
            begun = spool.admit(b"begun")
            offset = 2 * HEADER_BYTES + len(b"begun")
            with limited(resource.RLIMIT_FSIZE, offset + taken), pytest.raises(SpoolFailed):
                spool.settle(begun, OUTCOME, b"torn")
            assert spool.failed
            assert read(directory) == [(RecordKind.INTENT, b"begun")], taken
            spool.admit(b"next")
            assert read(directory)[1:] == [(OUTCOME, b"torn"), (RecordKind.INTENT, b"next")], taken
        assert segment_path(directory, SPOOL_ID, 0).stat().st_size == offset


@pytest.mark.parametrize("fsync", [False, True])
def test_a_spool_that_is_closed_while_the_disk_refuses_cuts_off_nothing_that_was_read(tmp_path, fsync):
    """Guards the ends of calls that the disk took with a part of a turn: booked once, they were open for who read again."""
    length = HEADER_BYTES + len(b"used")

    for taken in range(2 * length):
        directory = tmp_path / str(taken)
        spool = Spool(directory, SPOOL_ID, fsync=fsync, segment_bytes=4 * RECORD_BYTES_MAX)
        spool.open()
        spool.gather(lambda: None, lambda _: None)
        calls = [spool.admit(b"begun") for _ in range(2)]
        spool.write_gathered()
        with limited(resource.RLIMIT_FSIZE, spool._offset + taken):
            for call in calls:
                spool.settle(call, OUTCOME, b"used")
            with pytest.raises(SpoolFailed):
                spool.write_gathered()
            before = read(directory)
            spool.close()

        assert before[2:] == [(OUTCOME, b"used")] * (taken // length), taken
        after = read_to_end(directory, SPOOL_ID, ended=True)
        assert ([(record.kind, record.payload) for record in after.records], after.damages) == (before, []), taken
        assert segment_path(directory, SPOOL_ID, 0).stat().st_size < RECORD_BYTES_MAX


def test_a_disk_that_is_full_is_not_asked_for_room_by_every_call(spool, tmp_path, monkeypatch):
    """Guards the machine: each time that a segment is tried takes the last room there is from everybody else."""
    clock, tried = [100.0], []
    monkeypatch.setattr("metering.spool.AGAIN_S", 1.0)
    monkeypatch.setattr("metering.spool.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(
        "metering.spool._allocate", lambda fd, size: tried.append(size) or os.posix_fallocate(fd, 0, size)
    )
    with no_further_segment():
        fill(spool)
        for _ in range(100):
            with pytest.raises(SpoolFull):
                spool.admit(b"refused")
        at_once = len(tried)
        clock[0] += 1.0
        with pytest.raises(SpoolFull):
            spool.admit(b"refused")

    assert (at_once, len(tried)) == (1, 2)


def test_a_directory_that_can_not_be_looked_at_is_a_disk_that_refuses(spool, tmp_path, monkeypatch):
    """Guards the record in hand: whatever the system refuses for, it is kept and written later."""
    begun = spool.admit(b"begun")

    def refused(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch, instead_of_the_file(spool, "/dev/full"):
        patch.setattr(Path, "exists", refused)
        with pytest.raises(SpoolFailed):
            spool.settle(begun, OUTCOME, b"used")
    failed = spool.failed
    spool.admit(b"next")

    assert (failed, spool.failed) == (True, False)
    assert read(tmp_path) == [(RecordKind.INTENT, b"begun"), (OUTCOME, b"used"), (RecordKind.INTENT, b"next")]


def test_a_disk_that_has_room_again_is_noticed_though_no_call_comes(spool, tmp_path):
    """Guards readiness: a gateway that is not ready is sent no calls, and would not be ready again for want of one."""
    with no_further_segment():
        before = fill(spool)
        spool.recover()
        full = spool.refused
    spool.recover()

    assert (full, spool.refused) == ("File too large", None)
    spool.admit(b"next")
    assert len(read(tmp_path)) == 2 * before + 1


def test_what_a_disk_refused_is_written_when_it_takes_it_though_no_call_comes(spool, tmp_path):
    begun = spool.admit(b"begun")
    with no_further_segment(), instead_of_the_file(spool, "/dev/full"), pytest.raises(SpoolFailed):
        spool.settle(begun, OUTCOME, b"used")
    refused = spool.refused
    spool.recover()

    assert (refused, spool.refused) == ("No space left on device", None)
    assert read(tmp_path) == [(RecordKind.INTENT, b"begun"), (OUTCOME, b"used")]


def test_a_file_that_somebody_put_in_the_way_is_left_alone(spool, tmp_path):
    """Guards what is there: a segment that replaced it would take away what may be the only copy of something."""
    foreign = segment_path(tmp_path, SPOOL_ID, 1)
    foreign.write_bytes(b"somebody else's")
    for _ in range(20):
        spool.settle(spool.admit(b"begun"), OUTCOME, LARGEST)

    assert foreign.read_bytes() == b"somebody else's"
    assert segments(tmp_path, SPOOL_ID)[:3] == [0, 1, 2]
    assert len(read_to_end(tmp_path, SPOOL_ID).records) == 40


def test_a_spool_that_can_not_begin_leaves_nothing_that_looks_like_one(tmp_path):
    with no_further_segment(), pytest.raises(SpoolFull):
        Spool(tmp_path, SPOOL_ID, fsync=False, segment_bytes=SEGMENT_BYTES).open()

    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------------
# Durable


class SlowDisk(ThreadPoolExecutor):
    """Where the loop has its syncs done. Each waits until it is let through, and all are counted."""

    def __init__(self):
        super().__init__(max_workers=1)
        self.asked = asyncio.Queue()
        self.gates = deque()
        self.count = 0

    def submit(self, function, /, *args):
        gate: Future[None] = Future()
        self.gates.append(gate)
        self.count += 1
        self.asked.put_nowait(None)

        def work():
            gate.result(PATIENCE_S)
            return function(*args)

        return super().submit(work)

    async def begun(self):
        """Wait until one more sync was asked for."""
        async with asyncio.timeout(PATIENCE_S):
            await self.asked.get()

    def let_through(self):
        self.gates.popleft().set_result(None)


@pytest.fixture
def synced(tmp_path):
    with opened(tmp_path, fsync=True) as spool:
        yield spool


@pytest.fixture
async def disk():
    disk = SlowDisk()
    asyncio.get_running_loop().set_default_executor(disk)
    yield disk
    while disk.gates:
        disk.let_through()
    disk.shutdown()


async def turns():
    """Let everything that could happen happen."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_call_waits_until_the_disk_has_what_it_recorded(synced, disk):
    """Watches that `durable` waits for the sync and not for its beginning."""
    synced.admit(b"begun")
    waiting = asyncio.create_task(synced.durable())
    await disk.begun()
    await turns()
    early = waiting.done()

    disk.let_through()
    async with asyncio.timeout(PATIENCE_S):
        await waiting

    assert not early


async def test_calls_that_wait_at_once_share_one_sync(synced, disk):
    """Watches the group commit: 64 calls that come while the disk is busy go with its next turn."""
    synced.admit(b"first")
    first = asyncio.create_task(synced.durable())
    await disk.begun()
    others = []
    for _ in range(64):
        synced.note(b"another")
        others.append(asyncio.create_task(synced.durable()))
    await turns()
    disk.let_through()
    await disk.begun()
    async with asyncio.timeout(PATIENCE_S):
        await first
    await turns()
    early = [task for task in others if task.done()]

    disk.let_through()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*others)

    assert early == []
    assert disk.count == 2


async def test_what_is_durable_already_costs_no_sync(synced, disk):
    await synced.durable()
    synced.admit(b"begun")
    waiting = asyncio.create_task(synced.durable())
    await disk.begun()
    disk.let_through()
    async with asyncio.timeout(PATIENCE_S):
        await waiting
        await synced.durable()

    assert disk.count == 1


async def test_a_record_at_the_segments_end_is_durable_with_the_ones_after_it(synced):
    for _ in range(30):
        synced.settle(synced.admit(b"begun"), OUTCOME, LARGEST)
        async with asyncio.timeout(PATIENCE_S):
            await synced.durable()

    assert len(segments(synced._directory, SPOOL_ID)) > 3


async def test_a_call_that_is_given_up_takes_no_others_sync_with_it(synced, disk):
    synced.admit(b"begun")
    given_up = asyncio.create_task(synced.durable())
    waiting = asyncio.create_task(synced.durable())
    await disk.begun()
    given_up.cancel()
    await turns()

    disk.let_through()
    async with asyncio.timeout(PATIENCE_S):
        await waiting

    assert given_up.cancelled()
    assert disk.count == 1


async def test_after_a_failed_sync_everything_unsynced_is_written_and_synced_elsewhere(synced, disk, tmp_path):
    """A14. Guards against a second sync of the same file: the system reports the error once, and success after it."""
    begun = synced.admit(b"begun")
    with instead_of_the_file(synced, "/dev/full"):
        waiting = [asyncio.create_task(synced.durable()) for _ in range(2)]
        await disk.begun()
    synced.settle(begun, OUTCOME, b"recorded while the disk failed")
    disk.let_through()

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*waiting)
        await synced.durable()

    assert disk.count == 1
    assert (synced.failed, synced.given_up) == (False, 1)
    # Of the file that failed nothing is needed.
    segment_path(tmp_path, SPOOL_ID, 0).unlink()
    assert read(tmp_path) == [(RecordKind.INTENT, b"begun"), (OUTCOME, b"recorded while the disk failed")]


async def test_where_a_sync_fails_and_there_is_no_other_segment_nobody_is_told_that_a_record_is_durable(
    synced, disk, tmp_path
):
    """A14. Guards the answer that waits: it must not be given out on the word of a file that failed."""
    synced.admit(b"begun")
    with no_further_segment():
        with instead_of_the_file(synced, "/dev/full"):
            waiting = [asyncio.create_task(synced.durable()) for _ in range(2)]
            await disk.begun()
        disk.let_through()
        async with asyncio.timeout(PATIENCE_S):
            told = await asyncio.gather(*waiting, return_exceptions=True)
            with pytest.raises(SpoolFailed):
                await synced.durable()
    failed = synced.failed
    synced.admit(b"next")
    async with asyncio.timeout(PATIENCE_S):
        sync = asyncio.create_task(synced.durable())
        await disk.begun()
        disk.let_through()
        await sync

    assert [type(answer) for answer in told] == [SpoolFailed, SpoolFailed]
    assert (failed, synced.failed) == (True, False)
    assert read(tmp_path) == [(RecordKind.INTENT, b"begun"), (RecordKind.INTENT, b"next")]


async def test_a_new_segment_begins_with_what_was_not_synced_in_the_one_before(synced, tmp_path):
    """Guards the change of segments: the one that is left is not synced any more."""
    for _ in range(5):
        synced.note(LARGEST)
    await synced.durable()
    while segments(tmp_path, SPOOL_ID) == [0]:
        synced.note(bytes(5_000))

    segment_path(tmp_path, SPOOL_ID, 0).unlink()
    sequences = [record.sequence for record in read_to_end(tmp_path, SPOOL_ID).records]
    assert sequences == list(range(6, len(sequences) + 6))
    assert len(sequences) > 4


async def test_a_directory_that_can_not_be_synced_keeps_nothing_from_being_recorded_later(
    synced, tmp_path, monkeypatch
):
    """Guards a segment's name, which a crash may take away: what is in it is written once more."""
    real = module._sync_directory

    def refuses(directory):
        raise OSError(5, "refused")

    begun = synced.admit(b"begun")
    monkeypatch.setattr(module, "_sync_directory", refuses)
    with instead_of_the_file(synced, "/dev/full"), pytest.raises(SpoolFailed):
        synced.settle(begun, OUTCOME, b"used")
    failed = synced.failed
    monkeypatch.setattr(module, "_sync_directory", real)
    synced.admit(b"next")

    assert (failed, synced.failed) == (True, False)
    assert len(segments(tmp_path, SPOOL_ID)) == 3
    segment_path(tmp_path, SPOOL_ID, 1).unlink()
    found = {one.sequence: one.payload for one in read_to_end(tmp_path, SPOOL_ID, ended=True).records}
    assert found == {1: b"begun", 2: b"used", 3: b"next"}


async def test_a_sync_that_begins_after_the_disk_refused_makes_nothing_durable(synced, tmp_path, monkeypatch):
    """Guards the outcome of another call: it is not in the file, and counted as synced it would be forgotten."""
    first, second = synced.admit(b"first"), synced.admit(b"second")
    await synced.durable()
    synced.settle(first, OUTCOME, b"first used this")
    waiting = asyncio.ensure_future(synced.durable())

    def strike():
        with no_further_segment(), instead_of_the_file(synced, "/dev/full"), pytest.raises(SpoolFailed):
            synced.settle(second, OUTCOME, b"second used this")

    # After the first step of `durable`, and before that of the sync it asks for.
    asyncio.get_running_loop().call_soon(strike)
    with pytest.raises(SpoolFailed):
        await waiting
    synced.note(b"next")

    assert [content for _, content in read(tmp_path)] == [
        b"first",
        b"second",
        b"first used this",
        b"second used this",
        b"next",
    ]


async def test_a_sync_that_fails_after_the_end_begins_nothing(synced, disk, tmp_path):
    """Guards what is finished: a spool that is read to its end and let go of must not grow."""
    synced.note(b"noted")
    with instead_of_the_file(synced, "/dev/full"):
        waiting = asyncio.create_task(synced.durable())
        await disk.begun()
    synced.close()
    disk.let_through()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(waiting, return_exceptions=True)

    assert segments(tmp_path, SPOOL_ID) == [0]


async def test_a_process_without_a_free_file_descriptor_can_sync_again_when_it_has_one(synced):
    """Watches that only the disk fails a spool: descriptors run out under load and come back."""
    synced.admit(b"begun")

    with limited(resource.RLIMIT_NOFILE, 0), pytest.raises(SpoolFailed):
        await synced.durable()
    async with asyncio.timeout(PATIENCE_S):
        await synced.durable()

    assert not synced.failed


# ---------------------------------------------------------------------------------------------------------------------
# Who lives


def test_a_spool_is_abandoned_when_it_is_closed_and_not_before(tmp_path):
    with opened(tmp_path):
        before = abandoned(tmp_path, SPOOL_ID)

    assert (before, abandoned(tmp_path, SPOOL_ID)) == (False, True)


def test_a_spool_is_abandoned_when_its_worker_is_killed_and_not_before(tmp_path):
    """Watches the lock: it is what tells a call that is under way from one that nobody will end."""
    with worker("live", tmp_path) as process:
        assert process.stdout.readline() == "open\n"
        spool_id, *others = spools(tmp_path)
        before = abandoned(tmp_path, spool_id)
        process.kill()
        process.wait(PATIENCE_S)

    assert others == []
    assert (before, abandoned(tmp_path, spool_id)) == (False, True)
    assert read(tmp_path, spool_id) == [(RecordKind.INTENT, b"begun")]


OPENING = """
import sys
from pathlib import Path
from metering.spool import Spool

happened = []
sys.addaudithook(lambda event, _: happened.append(event) if event in ("fcntl.flock", "os.rename") else None)
Spool(Path(sys.argv[1]), "w0-begins", fsync=False).open()
print(*happened)
"""


def test_a_spool_is_locked_before_anybody_can_see_a_segment_of_it(tmp_path):
    """Watches the order of lock and first segment: a spool that was seen without its lock would be finished at once."""
    command = [sys.executable, "-c", OPENING, tmp_path]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S, check=True)

    assert ended.stdout.split() == ["fcntl.flock", "os.rename"]


# ---------------------------------------------------------------------------------------------------------------------
# One turn's records, in one piece


@pytest.fixture
def begun():
    """How often a turn has begun in which there is something to write."""
    return []


@pytest.fixture
def refused():
    """Why the disk did not take what was gathered, each time."""
    return []


@pytest.fixture
def gathering(tmp_path, begun, refused):
    with opened(tmp_path) as spool:
        spool.gather(lambda: begun.append(1), refused.append)
        yield spool


def written(directory):
    return [record.payload for record in read_to_end(directory, SPOOL_ID).records]


def test_the_records_of_a_turn_are_written_in_one_piece_at_its_end(tmp_path, gathering, begun, monkeypatch):
    writes = []
    pwrite = os.pwrite
    intent = gathering.admit(b"1")
    monkeypatch.setattr("metering.spool.os.pwrite", lambda *how: writes.append(1) or pwrite(*how))
    gathering.settle(intent, OUTCOME, b"2")
    gathering.note(b"3")
    assert (written(tmp_path), writes, begun) == ([], [], [1])

    gathering.write_gathered()
    gathering.write_gathered()

    assert (written(tmp_path), writes, begun) == ([b"1", b"2", b"3"], [1], [1])
    gathering.note(b"4")
    assert begun == [1, 1]


def test_what_was_gathered_is_written_before_the_spool_is_closed(tmp_path):
    with opened(tmp_path) as spool:
        spool.gather(lambda: None, lambda _: None)
        spool.note(b"1")

    assert written(tmp_path) == [b"1"]


def test_what_was_gathered_is_in_the_segment_that_it_had_room_in(tmp_path, gathering):
    """Guards the order of segments: the next one began behind records that were in neither."""
    for number in range(20):
        gathering.note(LARGEST[: -len(b"%02d" % number)] + b"%02d" % number)
        if number % 3 == 0:
            gathering.write_gathered()
    gathering.write_gathered()

    read = read_to_end(tmp_path, SPOOL_ID)
    assert ([record.payload[-2:] for record in read.records], read.damages) == (
        [b"%02d" % number for number in range(20)],
        [],
    )
    assert [record.sequence for record in read.records] == list(range(1, 21))


def test_room_is_kept_beside_what_was_gathered(tmp_path):
    """Guards the bound of a segment: records that are not written yet take room as those that are."""
    with opened(tmp_path, segment_bytes=4 * RECORD_BYTES_MAX) as spool:
        spool.gather(lambda: None, lambda _: None)
        for _ in range(8):
            intent = spool.admit(LARGEST)
            spool.settle(intent, OUTCOME, LARGEST)
        spool.write_gathered()
        sizes = [path.stat().st_size for path in sorted(tmp_path.glob(f"*{SUFFIX}"))]

    assert max(sizes) <= 4 * RECORD_BYTES_MAX
    assert len(written(tmp_path)) == 16


def test_a_turn_whose_records_went_into_a_new_segment_ends_well(tmp_path, gathering):
    with instead_of_the_file(gathering, "/dev/full"):
        gathering.note(b"1")
        gathering.note(b"2")
        gathering.write_gathered()
    gathering.note(b"3")
    gathering.write_gathered()

    assert (written(tmp_path), gathering.given_up) == ([b"1", b"2", b"3"], 1)


def test_what_was_gathered_and_the_disk_refuses_is_said_and_recorded_later(tmp_path, gathering, refused):
    intent = gathering.admit(b"1")
    with no_further_segment(), instead_of_the_file(gathering, "/dev/full"), pytest.raises(SpoolFailed):
        gathering.write_gathered()
    assert gathering.failed
    assert len(refused) == 1
    with suppress(SpoolFailed):
        gathering.settle(intent, CLOSED, b"2")
    gathering.write_gathered()  # Nothing was gathered since.

    gathering.recover()
    gathering.note(b"3")
    gathering.write_gathered()

    assert (written(tmp_path), len(refused)) == ([b"1", b"2", b"3"], 1)


def test_that_the_disk_refuses_is_said_whoever_finds_it_out(gathering, refused):
    """Guards those who recorded something before: another call, which needs a new segment, was told alone."""
    gathering.note(b"1")
    with no_further_segment(), instead_of_the_file(gathering, "/dev/full"), pytest.raises(SpoolFailed):
        [gathering.note(LARGEST) for _ in range(20)]

    assert len(refused) == 1


async def test_what_is_gathered_while_the_disk_is_asked_to_sync_is_not_taken_for_synced(tmp_path, monkeypatch):
    """Guards the moment at which a sync begins: a record counted as safe that was in no file."""
    done = []
    for name in ("pwrite", "fdatasync"):
        real = getattr(os, name)
        monkeypatch.setattr(
            f"metering.spool.os.{name}", lambda *how, name=name, real=real: (done.append(name), real(*how))[1]
        )
    with opened(tmp_path, fsync=True) as spool:
        spool.gather(lambda: None, lambda _: None)
        spool.note(b"1")
        first = asyncio.ensure_future(spool.durable())
        await asyncio.sleep(0)
        spool.note(b"2")
        await first
        await spool.durable()

        assert written(tmp_path) == [b"1", b"2"]
        assert not spool._unconfirmed
        assert done[-1] == "fdatasync"
        assert done.count("pwrite") == 3


async def test_records_that_a_new_segment_begins_with_are_not_written_to_it_again(tmp_path, monkeypatch):
    """Guards what was gathered while a sync failed: it is not confirmed either."""
    fdatasync = os.fdatasync

    def fails_once(fd):
        monkeypatch.setattr("metering.spool.os.fdatasync", fdatasync)
        spool.note(b"2")
        raise OSError(errno.EIO, "an error")

    with opened(tmp_path, fsync=True) as spool:
        spool.gather(lambda: None, lambda _: None)
        spool.note(b"1")
        monkeypatch.setattr("metering.spool.os.fdatasync", fails_once)
        await spool.durable()
        await spool.durable()

    newest = max(tmp_path.glob(f"*{SUFFIX}"))
    found = [record for record in scan(newest.read_bytes(), 0, seed_of(SPOOL_ID)) if record.kind == OUTCOME]
    assert [record.payload for record in found] == [b"1", b"2"]
