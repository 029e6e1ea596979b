"""The reading end: every whole record once and in order, whatever happened to the files, and no file deleted too soon."""

from __future__ import annotations

import fcntl
import os
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import spool_reader
from metering.spool import Spool, segment_path
from metering.spool_reader import (
    BEGINNING,
    READ_BYTES,
    Position,
    abandoned,
    discard,
    finish,
    goes_on,
    read,
    segments,
    spools,
    unread_bytes,
)
from metering.spool_records import HEADER_BYTES, RECORD_BYTES_MAX, RecordKind, encode, seed_of
from tests.metering.workers import SPOOL_ID, content, read_to_end, worker

PATIENCE_S = 30
DAY_S = 24 * 3600
SEED = seed_of(SPOOL_ID)


def spooled(directory, *contents_of_segments, spool_id=SPOOL_ID):
    """The files of a worker that is gone; return where each record is, by its sequence: segment, start and end."""
    places, sequence, seed = {}, 0, seed_of(spool_id)
    for number, contents in enumerate(contents_of_segments):
        data = encode(RecordKind.BEGUN, sequence, b"", number, seed)
        for one in contents:
            sequence += 1
            record = encode(RecordKind.OUTCOME, sequence, one, 0, seed)
            places[sequence] = (number, len(data), len(data) + len(record))
            data += record
        segment_path(directory, spool_id, number).write_bytes(data)
    (directory / f"{spool_id}.lock").touch()
    return places


def damage(directory, segment, start, data, spool_id=SPOOL_ID):
    with segment_path(directory, spool_id, segment).open("r+b") as file:
        file.seek(start)
        file.write(data)


def payloads(directory, *, ended=True, spool_id=SPOOL_ID):
    return [record.payload for record in read_to_end(directory, spool_id, ended=ended).records]


LARGE = [bytes([number]) * 9_000 for number in range(100)]
"""Several reads' worth of records."""


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def test_what_is_read_goes_on_from_segment_to_segment(tmp_path):
    spooled(tmp_path, LARGE[:40], LARGE[40:41], [], LARGE[41:])

    assert payloads(tmp_path) == LARGE


@given(st.lists(st.integers(1, 40), min_size=1))
def test_a_reading_holds_no_more_records_than_asked_for_and_the_next_goes_on_after_it(tmp_path_factory, sizes):
    directory = tmp_path_factory.mktemp("spool")
    spooled(directory, LARGE[:30], LARGE[30:])
    found, position, turn = [], BEGINNING, 0

    while (reading := read(directory, SPOOL_ID, position, sizes[turn % len(sizes)], ended=True)).position != position:
        assert len(reading.records) <= sizes[turn % len(sizes)]
        found += [record.payload for record in reading.records]
        position, turn = reading.position, turn + 1

    assert found == LARGE


def test_where_there_is_nothing_yet_the_reading_stays_where_it_is(tmp_path):
    spool = Spool(tmp_path, SPOOL_ID, fsync=False, segment_bytes=4 * RECORD_BYTES_MAX)
    spool.open()

    before = read(tmp_path, SPOOL_ID, BEGINNING, 10)
    spool.note(b"first")
    first = read(tmp_path, SPOOL_ID, before.position, 10)
    between = read(tmp_path, SPOOL_ID, first.position, 10)
    spool.note(b"second")
    second = read(tmp_path, SPOOL_ID, between.position, 10)
    spool.close()

    assert (before.records, before.position) == ([], BEGINNING)
    assert [record.payload for record in first.records] == [b"first"]
    assert (between.records, between.position) == ([], first.position)
    assert [record.payload for record in second.records] == [b"second"]


def test_what_was_read_says_whether_it_was_all_that_stood_there(tmp_path):
    spool = Spool(tmp_path, SPOOL_ID, fsync=False, segment_bytes=4 * RECORD_BYTES_MAX)
    spool.open()

    nothing = read(tmp_path, SPOOL_ID, BEGINNING, 10)
    spool.note(b"first")
    spool.note(b"second")
    part = read(tmp_path, SPOOL_ID, BEGINNING, 1)
    rest = read(tmp_path, SPOOL_ID, part.position, 10)
    full = b"x" * (RECORD_BYTES_MAX - HEADER_BYTES)
    for _ in range(4):
        spool.note(full)
    with_a_next = read(tmp_path, SPOOL_ID, rest.position, 10)
    spool.close()
    ended = read(tmp_path, SPOOL_ID, BEGINNING, 10, ended=True)

    assert [reading.through for reading in (nothing, part, rest, with_a_next, ended)] == [
        True,
        False,
        True,
        False,
        False,
    ]


def test_whether_a_segment_goes_on_is_told_by_what_stands_behind_a_position(tmp_path):
    spool = Spool(tmp_path, SPOOL_ID, fsync=False, segment_bytes=4 * RECORD_BYTES_MAX)
    spool.open()

    begun = goes_on(tmp_path, SPOOL_ID, BEGINNING)
    spool.note(b"first")
    first = goes_on(tmp_path, SPOOL_ID, BEGINNING)
    position = read(tmp_path, SPOOL_ID, BEGINNING, 10).position
    between = goes_on(tmp_path, SPOOL_ID, position)
    spool.note(b"second")
    second = goes_on(tmp_path, SPOOL_ID, position)
    spool.close()

    assert (begun, first, between, second) == (False, True, False, True)
    assert not goes_on(tmp_path, SPOOL_ID, Position(7, 0))


def test_a_record_that_is_not_whole_yet_is_read_when_it_is(tmp_path):
    whole = encode(RecordKind.OUTCOME, 1, b"whole", 0, SEED)
    path = segment_path(tmp_path, SPOOL_ID, 0)

    for length in range(len(whole)):
        path.write_bytes(whole[:length] + bytes(len(whole) - length + 50))
        early = read(tmp_path, SPOOL_ID, BEGINNING, 10)
        assert (early.records, early.damages, early.position) == ([], [], BEGINNING), length
    path.write_bytes(whole + bytes(50))

    assert [record.payload for record in read(tmp_path, SPOOL_ID, BEGINNING, 10).records] == [b"whole"]


def test_what_a_worker_tore_in_its_death_is_passed_over_in_silence(tmp_path):
    for length in range(1, RECORD_BYTES_MAX, 1_000):
        last = encode(RecordKind.OUTCOME, 2, b"x" * (RECORD_BYTES_MAX - HEADER_BYTES), 0, SEED)[:length]
        path = segment_path(tmp_path, SPOOL_ID, 0)
        path.write_bytes(encode(RecordKind.OUTCOME, 1, b"whole", 0, SEED) + last + bytes(3 * READ_BYTES))

        reading = read_to_end(tmp_path, SPOOL_ID, ended=True)

        assert [record.payload for record in reading.records] == [b"whole"]
        assert reading.damages == []


def test_a_segment_that_is_lost_costs_no_other(tmp_path):
    """Watches that reading goes on at the next segment there is, for a worker that lives as for one that is gone."""
    spooled(tmp_path, LARGE[:10], LARGE[10:20], LARGE[20:30], LARGE[30:40])
    segment_path(tmp_path, SPOOL_ID, 1).unlink()
    segment_path(tmp_path, SPOOL_ID, 2).unlink()

    for ended in (True, False):
        position, found = Position(1, 0), []
        while (reading := read(tmp_path, SPOOL_ID, position, 100, ended=ended)).position != position:
            found += [record.payload for record in reading.records]
            position = reading.position
        assert found == LARGE[30:40]
    assert payloads(tmp_path) == LARGE[:10] + LARGE[30:40]


# ---------------------------------------------------------------------------------------------------------------------
# Damage in files

# (`test_corrupted_spools.py` has ten thousand of all kinds.)


@pytest.mark.parametrize("ended", [True, False])
def test_damage_after_which_nothing_but_a_segments_beginning_is_whole_ends_no_reading(tmp_path, ended):
    """Guards the shipper, which would die of it: damage is told with the record after it, and here there is none."""
    begun = encode(RecordKind.BEGUN, 0, b"", 0, SEED)
    segment_path(tmp_path, SPOOL_ID, 0).write_bytes(b"\xff" * 10 + begun)
    segment_path(tmp_path, SPOOL_ID, 1).write_bytes(encode(RecordKind.BEGUN, 0, b"", 1, SEED))

    reading = read_to_end(tmp_path, SPOOL_ID, ended=ended)

    assert (reading.records, reading.position.segment) == ([], 1)
    assert {segment for segment, _ in reading.damages} == {0}


def test_damage_between_records_and_a_copied_beginning_is_told_once(tmp_path):
    """Guards a reading that ends before the damage: what follows it there is no record."""
    places = spooled(tmp_path, [b"first"], [b"second"])
    path = segment_path(tmp_path, SPOOL_ID, 0)
    path.write_bytes(path.read_bytes() + b"\xff" * 10 + encode(RecordKind.BEGUN, 1, b"", 0, SEED))

    reading = read_to_end(tmp_path, SPOOL_ID, ended=True)

    assert [record.payload for record in reading.records] == [b"first", b"second"]
    assert [(segment, extent.start) for segment, extent in reading.damages] == [(0, places[1][2])]


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
@pytest.mark.parametrize("length", [1, 100, 3 * READ_BYTES])
def test_a_hole_in_a_segment_is_named_as_damage_and_what_comes_after_it_is_read(tmp_path, byte, length):
    inside = [LARGE[1]] * (length // len(LARGE[1]) + 1)
    places = spooled(tmp_path, [b"before", *inside, b"after"], [b"next"])
    damage(tmp_path, 0, places[2][1], byte * length)

    reading = read_to_end(tmp_path, SPOOL_ID)

    assert {segment for segment, _ in reading.damages} == {0}
    assert [record.payload for record in reading.records] == [b"before", b"after", b"next"]


@pytest.mark.parametrize("before_the_end", [1, HEADER_BYTES, 5_000, RECORD_BYTES_MAX - 1])
def test_a_record_at_the_end_of_a_read_that_holds_no_other_is_read_by_the_next(tmp_path, before_the_end):
    """Watches the step over damage: it must be shorter than a read by the longest record."""
    first, last = (
        encode(RecordKind.OUTCOME, 1, b"first", 0, SEED),
        encode(RecordKind.OUTCOME, 2, bytes(16_000), 0, SEED),
    )
    segment_path(tmp_path, SPOOL_ID, 0).write_bytes(first + b"\xff" * (READ_BYTES - before_the_end) + last)

    reading = read_to_end(tmp_path, SPOOL_ID, ended=True)

    assert [record.sequence for record in reading.records] == [1, 2]


@pytest.mark.parametrize("foreign", ["another spool's", "a copy of its own", "noise", "empty"])
def test_a_file_that_was_put_beside_a_spool_in_use_costs_no_record(tmp_path, foreign):
    """Guards what a living worker still writes: whoever took the file for its next segment would not look back."""
    other = tmp_path / "other"
    other.mkdir()
    spooled(other, LARGE[:5], spool_id="w1-other")
    worker = Spool(tmp_path, SPOOL_ID, fsync=False, segment_bytes=4 * RECORD_BYTES_MAX)
    worker.open()
    worker.note(b"first")
    data = {
        "another spool's": segment_path(other, "w1-other", 0).read_bytes(),
        "a copy of its own": segment_path(tmp_path, SPOOL_ID, 0).read_bytes().rstrip(b"\0"),
        "noise": random.Random(5).randbytes(5_000),
        "empty": b"",
    }[foreign]
    segment_path(tmp_path, SPOOL_ID, 1).write_bytes(data)

    position, found, damages = BEGINNING, [], []

    def look():
        nonlocal position
        while (reading := read(tmp_path, SPOOL_ID, position, 100)).position != position:
            found.extend(record for record in reading.records if not found or record.sequence > found[-1].sequence)
            damages.extend(segment for segment, _ in reading.damages)
            position = reading.position

    look()
    before = position
    for number in range(30):
        worker.note(LARGE[number])
        look()
    worker.close()

    assert before.segment == 0
    assert [record.payload for record in found] == [b"first", *LARGE[:30]]
    assert set(damages) == (set() if foreign in ("a copy of its own", "empty") else {1})
    assert segment_path(tmp_path, SPOOL_ID, 1).read_bytes() == data


def test_where_the_beginning_of_a_segment_is_damaged_its_records_are_read_when_the_worker_goes_on(tmp_path):
    """Guards the sign by which a segment is known: it is no more than one record."""
    worker = Spool(tmp_path, SPOOL_ID, fsync=False, segment_bytes=4 * RECORD_BYTES_MAX)
    worker.open()
    for number in range(10):
        worker.note(LARGE[number])
    last = segments(tmp_path, SPOOL_ID)[-1]
    damage(tmp_path, last, 0, b"\xff")
    early = read_to_end(tmp_path, SPOOL_ID)
    for number in range(10, 20):
        worker.note(LARGE[number])
    late = read_to_end(tmp_path, SPOOL_ID)
    worker.close()

    assert {segment for segment, _ in early.damages} == set()
    assert [record.payload for record in late.records] == LARGE[:20]
    assert {segment for segment, _ in late.damages} == {last}


def test_the_end_of_a_segment_that_is_followed_by_another_is_no_torn_record_but_damage(tmp_path):
    places = spooled(tmp_path, [b"before", b"last"], [b"next"])
    damage(tmp_path, 0, places[2][1], b"\xff")

    reading = read_to_end(tmp_path, SPOOL_ID, ended=True)

    assert [record.payload for record in reading.records] == [b"before", b"next"]
    assert [(segment, extent.start, extent.end) for segment, extent in reading.damages] == [(0, *places[2][1:])]


@given(st.lists(st.integers(0, 12_000), max_size=40), st.integers(0, 40))
def test_what_is_not_read_yet_is_counted_to_the_byte(tmp_path_factory, sizes, taken):
    """Guards the search for the end of what a segment holds: most of it is zeros that were allocated."""
    directory = tmp_path_factory.mktemp("spool")
    worker = Spool(directory, SPOOL_ID, fsync=False, segment_bytes=16 * RECORD_BYTES_MAX)
    worker.open()
    for size in sizes:
        worker.note(b"x" * size)
    position = BEGINNING
    if taken:
        position = read(directory, SPOOL_ID, BEGINNING, taken).position
    counted = unread_bytes(directory, SPOOL_ID, position)
    worker.close()

    files = {number: segment_path(directory, SPOOL_ID, number) for number in segments(directory, SPOOL_ID)}
    held = sum(path.stat().st_size for number, path in files.items() if number >= position.segment)
    assert counted == held - max(position.offset, HEADER_BYTES)


# ---------------------------------------------------------------------------------------------------------------------
# While it is being written


def test_reading_while_a_worker_writes_yields_every_record_once_whole_and_in_order(tmp_path):
    """Watches the second look: the system shows a reader the pages of a write one by one, so the next record can be whole
    before this one is."""
    position, found = BEGINNING, 0
    deadline = time.monotonic() + PATIENCE_S

    with worker("write silently", tmp_path):
        while found < 40_000:
            reading = read(tmp_path, SPOOL_ID, position, 1_000)
            assert reading.damages == []
            for record in reading.records:
                found += 1
                assert (record.sequence, record.payload) == (found, content(found))
            position = reading.position
            assert time.monotonic() < deadline

    assert position.segment > 2


@pytest.mark.parametrize("seed", range(5))
def test_a_worker_that_is_killed_while_it_writes_loses_nothing_it_said_was_written(tmp_path, seed):
    """Watches that a record is with the system, not in the process, when its writer goes on."""
    wanted = random.Random(seed).randint(200, 4_000)

    with worker("write", tmp_path) as process:
        acknowledged = 0
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged >= wanted:
                process.kill()
                break
        acknowledged = max([acknowledged, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
        process.wait(PATIENCE_S)
    reading = read_to_end(tmp_path, SPOOL_ID, ended=True)

    assert abandoned(tmp_path, SPOOL_ID)
    assert reading.damages == []
    numbers = [record.sequence for record in reading.records]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [record.payload for record in reading.records] == [content(number) for number in numbers]
    assert acknowledged <= len(numbers) <= acknowledged + 1


# ---------------------------------------------------------------------------------------------------------------------
# Which spools there are, and when they go


def test_a_spool_is_listed_until_it_is_finished(tmp_path):
    for number in (2, 1, 3):
        spooled(tmp_path, [b"x"], spool_id=f"w0-{number}")
    finish(tmp_path, "w0-2")
    finish(tmp_path, "w0-2")

    assert spools(tmp_path) == ["w0-1", "w0-3"]
    assert segments(tmp_path, "w0-2") == [0]


def test_a_spool_whose_lock_is_lost_is_read_all_the_same(tmp_path):
    """Watches which way a lost file errs: a machine that died may have kept the segments and lost the lock beside them."""
    spooled(tmp_path, [b"x"])
    (tmp_path / f"{SPOOL_ID}.lock").unlink()

    assert spools(tmp_path) == [SPOOL_ID]
    assert abandoned(tmp_path, SPOOL_ID)
    finish(tmp_path, SPOOL_ID)
    assert spools(tmp_path) == []


def test_a_directory_that_is_not_there_or_holds_other_things_holds_no_spool(tmp_path):
    for name in ("notes.txt", "copy.spool", "w0-x-1.spool.bak", "core"):
        (tmp_path / name).touch()

    assert spools(tmp_path) == spools(tmp_path / "nowhere") == []


def aged(directory, seconds):
    for path in directory.iterdir():
        then = time.time() - seconds
        os.utime(path, (then, then))


def names(directory):
    return {path.name for path in directory.iterdir()}


def test_segments_are_deleted_when_they_are_old_and_nobody_needs_them(tmp_path):
    """Watches all three conditions: old, before the first segment that is needed, or of a finished spool."""
    spooled(tmp_path, [b"a"], [b"b"], [b"c"], spool_id="living")
    spooled(tmp_path, [b"a"], spool_id="finished")
    spooled(tmp_path, [b"a"], spool_id="not-named")
    finish(tmp_path, "finished")
    all_there = names(tmp_path)

    discard(tmp_path, {"living": 2}, DAY_S)
    young = names(tmp_path)
    aged(tmp_path, DAY_S + 1)
    discard(tmp_path, {"living": 2}, DAY_S)

    assert young == all_there
    assert names(tmp_path) == {"living-00000002.spool", "living.lock", "not-named-00000000.spool", "not-named.lock"}


def test_a_finished_spool_stays_finished_while_it_has_segments(tmp_path):
    spooled(tmp_path, [b"a"], [b"b"])
    finish(tmp_path, SPOOL_ID)
    aged(tmp_path, DAY_S + 1)
    os.utime(segment_path(tmp_path, SPOOL_ID, 1))

    discard(tmp_path, {}, DAY_S)

    assert spools(tmp_path) == []
    assert segments(tmp_path, SPOOL_ID) == [1]


def test_what_a_worker_left_that_died_while_it_made_a_segment_is_deleted_when_it_is_old(tmp_path):
    left = tmp_path / f"{SPOOL_ID}-00000000.spool.new"
    left.touch()
    discard(tmp_path, {}, DAY_S)
    young = left.exists()
    aged(tmp_path, DAY_S + 1)

    discard(tmp_path, {}, DAY_S)

    assert young
    assert names(tmp_path) == set()


def test_the_lock_of_a_worker_that_died_before_it_had_a_segment_is_deleted_when_it_is_old(tmp_path):
    """Guards the directory: each such death would leave a file in it for ever. One that is young may be about to be locked."""
    young, old, held = (tmp_path / f"w0-{name}.lock" for name in ("young", "old", "held"))
    for lock in (young, old, held):
        lock.touch()
    os.utime(old, (0, 0))
    os.utime(held, (0, 0))
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        discard(tmp_path, {}, 0)

    assert sorted(tmp_path.iterdir()) == [held, young]


def test_what_a_living_worker_makes_is_not_deleted_under_it(tmp_path):
    """Guards the segment that is being made just when there is no room: without it the worker refuses calls."""
    worker = Spool(tmp_path, SPOOL_ID, fsync=False, segment_bytes=4 * RECORD_BYTES_MAX)
    worker.open()
    made = segment_path(tmp_path, SPOOL_ID, 1).with_suffix(".spool.new")
    made.touch()

    discard(tmp_path, {}, 0)
    living = made.exists()
    worker.close()
    discard(tmp_path, {}, -1)

    assert (living, made.exists()) == (True, False)


def test_a_file_that_somebody_else_deletes_meanwhile_is_nobodys_failure(tmp_path):
    """A10, the race with whoever deletes: what is gone need not be deleted."""
    spool_reader._discard_old(tmp_path / "gone", 0)

    assert read(tmp_path, SPOOL_ID, Position(3, 77), 10) == ([], [], Position(3, 77), False)


def test_a_finished_spool_keeps_no_more_of_the_disk_than_its_records(tmp_path):
    """Guards the disk against a process that is killed again and again: each life leaves a preallocated segment."""
    spooled(tmp_path, [b"a"])
    path = segment_path(tmp_path, SPOOL_ID, 0)
    records = path.read_bytes().rstrip(b"\0")
    os.truncate(path, 1 << 20)
    aged(tmp_path, 100)
    before = path.stat().st_mtime_ns

    finish(tmp_path, SPOOL_ID)

    assert path.read_bytes() == records
    assert path.stat().st_mtime_ns == before
