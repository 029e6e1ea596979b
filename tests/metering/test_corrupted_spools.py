"""Ten thousand corrupted spools: damage costs the records that it touches, is told, and ends no reading."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from metering import spool_reader, spool_records
from metering.spool_reader import BEGINNING, read
from metering.spool_records import HEADER_BYTES, RecordKind, encode, seed_of
from tests.metering.corruptions import ACCIDENTS, corrupted, noted, put, written

CORRUPTIONS = 10_000
BATCH = 500

RECORD_BYTES_MAX = 1 << 10
READ_BYTES = 6 << 10
"""Both are small, so that few bytes take many reads."""

SPOOL_ID = "w0-one"
RECORDS_MAX = 20

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def directory():
    """Files that nobody keeps: no disk need have them, where memory can."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield Path(directory)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(spool_records, "PAYLOAD_BYTES_MAX", RECORD_BYTES_MAX - HEADER_BYTES)
    for module in (spool_records, spool_reader):
        monkeypatch.setattr(module, "RECORD_BYTES_MAX", RECORD_BYTES_MAX)
    monkeypatch.setattr(spool_reader, "READ_BYTES", READ_BYTES)


BEGINNINGS = {
    encode(RecordKind.BEGUN, sequence, b"", number, seed_of(SPOOL_ID)): number
    for sequence in range(250)
    for number in range(4)
}
"""What a segment of this spool can begin with."""


def read_on(directory, position, segments, *, ended):
    """All readings from a position to the end, each with the position before it.

    Positions only grow, so there is an end; and no reading holds more than one look at a file.
    """
    readings = []
    while (reading := read(directory, SPOOL_ID, position, RECORDS_MAX, ended=ended)).position != position:
        assert position < reading.position
        assert len(reading.records) <= RECORDS_MAX
        assert sum(HEADER_BYTES + len(record.payload) for record in reading.records) <= spool_reader.READ_BYTES
        readings.append((position, reading))
        position = reading.position
        assert len(readings) <= sum(map(len, segments.values())) // HEADER_BYTES + 2 * len(segments) + 1
    return readings


def repeated(before, reading, segments):
    """The bytes that a reading skipped, since there is damage in them, and the next segment begins with them again."""
    number = reading.position.segment
    if number == before.segment or BEGINNINGS.get(segments[number][:HEADER_BYTES]) != number:
        return b""
    return segments.get(before.segment, b"")[before.offset + (reading.records[-1].end if reading.records else 0) :]


def unsaid(before, reading, segments):
    """The bytes that a reading went over and told nothing of; there may be zeros among them.

    What is skipped because the next segment begins with it again is told there.
    """
    data, at = segments.get(before.segment, b""), reading.position
    until, left = at.offset, b""
    if at.segment != before.segment:
        assert not [number for number in segments if before.segment < number < at.segment]
        until = before.offset + (reading.records[-1].end if reading.records else 0)
        if not repeated(before, reading, segments):
            left = data[until:]
    told = [
        (before.offset + one.end - HEADER_BYTES - len(one.payload), before.offset + one.end) for one in reading.records
    ]
    assert {segment for segment, _ in reading.damages} <= {before.segment}
    told += [(one.start, one.end) for _, one in reading.damages]
    rest, reached = b"", before.offset
    for start, end in [*sorted(told), (until, until)]:
        assert reached <= start
        piece = data[reached:start]
        while piece[:HEADER_BYTES] in BEGINNINGS:
            piece = piece[HEADER_BYTES:]
        rest, reached = rest + piece, end
    return rest + left


def check(directory, spool, segments):
    begun = [number for number, data in segments.items() if BEGINNINGS.get(data[:HEADER_BYTES]) == number]

    living = read_on(directory, BEGINNING, segments, ended=False)
    reached = living[-1][1].position if living else BEGINNING
    dead = read_on(directory, reached, segments, ended=True)

    assert reached.segment <= max([0, *begun])
    found = [record for _, reading in [*living, *dead] for record in reading.records]
    read_at_all = {record.sequence: (record.kind, record.payload, record.intent) for record in found}
    assert all(read_at_all[record.sequence] == (record.kind, record.payload, record.intent) for record in found)
    # Never a wrong one, and each that is whole.
    assert read_at_all.items() <= spool.records.items()
    contents = list(segments.values())
    there = {at for at, data in spool.encoded.items() if any(data in one for one in contents)}
    skipped = b"".join(repeated(before, reading, segments) for before, reading in [*living, *dead])
    assert {at for at in there - set(read_at_all) if spool.encoded[at] not in skipped} == set()
    assert set(read_at_all) <= there
    # Whatever else is there is told, but for what a death can tear at the end.
    for before, reading in [*living, *dead]:
        followed = any(number > before.segment for number in segments)
        silent = len(unsaid(before, reading, segments).strip(b"\0"))
        assert silent <= (0 if followed or reading.records else spool_reader.RECORD_BYTES_MAX)
    end = dead[-1][1].position if dead else reached
    assert end.offset >= len(segments.get(end.segment, b""))
    assert end.segment >= max(segments, default=0)


def corruption(directory, number, record_bytes_max):
    """Read the spool of that number; its name comes with whatever fails. Gives the accidents."""
    chance = Random(number)
    spool = written(SPOOL_ID, chance, noted(chance, chance.randrange(40), record_bytes_max))
    other = written("w1-other", chance, noted(chance, 5, record_bytes_max))
    segments, accidents = corrupted(spool.segments, list(other.segments.values()), chance)
    for path in directory.iterdir():
        path.unlink()
    put(directory, SPOOL_ID, segments)
    try:
        check(directory, spool, segments)
    except AssertionError as error:
        raise AssertionError(f"corruption {number}: {accidents}") from error
    return accidents


@pytest.mark.parametrize("first", range(0, CORRUPTIONS, BATCH))
def test_damage_costs_the_records_it_touches_and_is_told_and_ends_no_reading(directory, small, first):
    """A10. Guards the checksum, reading on after damage, the steps over it, the sign that a living worker began a segment,
    and the extents of damage: without any of them this fails."""
    seen = Counter()
    for number in range(first, first + BATCH):
        seen.update(corruption(directory, number, RECORD_BYTES_MAX))

    assert set(seen) == set(ACCIDENTS)


@pytest.mark.parametrize("number", range(CORRUPTIONS, CORRUPTIONS + 200))
def test_the_same_at_the_sizes_that_spools_have(directory, number):
    corruption(directory, number, spool_records.RECORD_BYTES_MAX)
