"""The reading end of the spool: which spools there are, what their records say, which workers are gone.

It only reads, and deletes what its caller says is safe in the ledger. Many may read the same spool. A spool is to be read
for as long as nothing says otherwise: a mark that a crash took away has it read once more, and loses nothing.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from metering.spool import LOCK_SUFFIX, SUFFIX, UNFINISHED_SUFFIX, segment_name, segment_path
from metering.spool_records import (
    HEADER_BYTES,
    RECORD_BYTES_MAX,
    Damage,
    Record,
    RecordKind,
    scan,
    seed_of,
    whole,
    whole_ones,
)

READ_BYTES = 256 << 10

BLOCK_BYTES = 64 << 10
"""So much of a segment is looked at at once to find where its content ends: more than any record, so that no part of one
is taken for the zeros after the last."""

_NOTHING = bytes(HEADER_BYTES)
"""What stands behind the last record of a segment that is written to."""

BEGINNING_S_MAX = 60
"""A worker that has made its lock file has locked it, and has a segment, long before that."""

FINISHED_SUFFIX = ".finished"

_BEGUN = RecordKind.BEGUN

_SEGMENT_NAME = re.compile(rf"([!-~]+)-(\d{{8,}}){re.escape(SUFFIX)}")


class Position(NamedTuple):
    """A place in a spool: before this byte of this segment."""

    segment: int
    offset: int


BEGINNING = Position(0, 0)


class Reading(NamedTuple):
    """Some records, and where they ended."""

    records: list[Record]
    damages: list[tuple[int, Damage]]
    """Segment and extent of what could not be read."""
    position: Position
    through: bool = False
    """True where nothing whole stood right behind these, while their worker goes on writing there."""


class Kept(NamedTuple):
    """A spool as it lies on the disk."""

    spool_id: str
    segments: list[int]
    size_bytes: int
    """What its segments take of the disk, whatever is in them."""
    written_at_s: float
    finished: bool
    abandoned: bool
    """Its worker is gone."""


def kept(directory: Path) -> list[Kept]:
    """All spools that are there, by id; a finished one for as long as it has a segment."""
    names = _names(directory)
    finished = _finished(names)
    found: dict[str, list[tuple[int, os.stat_result]]] = {}
    for name, spool_id, number in _segments(names):
        # Somebody may be deleting it.
        with suppress(FileNotFoundError):
            found.setdefault(spool_id, []).append((number, (directory / name).stat()))
    return [
        Kept(
            spool_id,
            sorted(number for number, _ in files),
            sum(file.st_blocks * 512 for _, file in files),
            max(file.st_mtime for _, file in files),
            spool_id in finished,
            abandoned(directory, spool_id),
        )
        for spool_id, files in sorted(found.items())
    ]


def spools(directory: Path) -> list[str]:
    """The spools that are not finished, by id, oldest first."""
    names = _names(directory)
    return sorted({spool_id for _, spool_id, _ in _segments(names)}.difference(_finished(names)))


def segments(directory: Path, spool_id: str) -> list[int]:
    """The numbers of a spool's segments, in order."""
    return sorted(number for _, owner, number in _segments(_names(directory)) if owner == spool_id)


def holds(directory: Path, spool_id: str, number: int) -> bool:
    """True if the spool has a segment of that number."""
    return segment_path(directory, spool_id, number).exists()


def read(directory: Path, spool_id: str, position: Position, records_max: int, *, ended: bool = False) -> Reading:
    """Read up to so many of the records after a position. None, at the same position, if there are none yet.

    `ended` says that the worker is gone: what is not there now never will be. What its death tore is then passed over
    in silence, since nobody was told that it was recorded.
    """
    segment, offset = position
    seed = seed_of(spool_id)
    # Asked before reading: once there is a next segment, nothing more is written to this one.
    following = _following(directory, spool_id, segment, ended=ended)
    beyond = position if following is None else Position(following.number, 0)
    try:
        with _opened(segment_path(directory, spool_id, segment)) as fd:
            data = os.pread(fd, READ_BYTES, offset)
            found = _found(data, records_max, seed, at_the_beginning=offset == 0)
            if found.damages and found.records:
                # A reader can see a record half written and the next one whole. What lies before a whole record was
                # written by then, so a second look, up to the last one, tells what is damaged before it.
                data = os.pread(fd, found.records[-1].end, offset)
                found = _found(data, records_max, seed, at_the_beginning=offset == 0)
    except FileNotFoundError:
        return Reading([], [], beyond)
    except IsADirectoryError:
        if following is None:
            raise
        return Reading([], [], beyond)
    if found.records:
        records, damages, at = found.records, found.damages, Position(segment, offset + found.records[-1].end)
        if following is not None and (hole := _hole(found, following.repeats_after)) is not None:
            # What the next segment begins with again is read there: this one has lost some of it.
            records, at = [record for record in records if record.end <= hole.start], beyond
            damages = [damage for damage in damages if damage.end <= hole.start]
        end = found.records[-1].end
        through = following is None and not ended and data[end : end + HEADER_BYTES] == _NOTHING
        return Reading(
            records, [(segment, Damage(offset + one.start, offset + one.end)) for one in damages], at, through
        )
    if following is None and not ended:
        return Reading([], [], position, through=True)
    if not data:
        return Reading([], [], beyond)
    # No record is as long as a whole read, but one may begin near its end.
    passed = len(data) if len(data) < READ_BYTES else READ_BYTES - RECORD_BYTES_MAX
    torn = RECORD_BYTES_MAX if following is None else 0
    damaged = len(data[found.start : passed].rstrip(b"\0")) > torn
    return Reading(
        [], [(segment, Damage(offset, offset + passed))] if damaged else [], Position(segment, offset + passed)
    )


def goes_on(directory: Path, spool_id: str, position: Position) -> bool:
    """True if something stands right behind a position, in the same segment. Costs much less than reading."""
    try:
        fd = os.open(f"{directory}/{segment_name(spool_id, position.segment)}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # A segment begins with the record that says so, which reading passes over.
        return any(os.pread(fd, HEADER_BYTES, max(position.offset, HEADER_BYTES)))
    finally:
        os.close(fd)


def unread_bytes(directory: Path, spool_id: str, position: Position) -> int:
    """How much of records a spool holds after a position."""
    held = sum(content_bytes(directory, spool_id, position.segment).values())
    return max(0, held - max(position.offset, HEADER_BYTES))  # With the record that begins the segment.


def content_bytes(directory: Path, spool_id: str, first: int = 0) -> dict[int, int]:
    """How much each of a spool's segments holds, from one on. Left out is what is gone or can not be read."""
    found = {}
    for number in segments(directory, spool_id):
        if number >= first:
            with suppress(OSError):
                found[number] = _content_bytes(segment_path(directory, spool_id, number))
    return found


def _content_bytes(path: Path) -> int:
    """The length of a segment without the zeros that it was allocated with. Looks at few of its blocks."""
    with _opened(path) as fd:
        blocks = -(-path.stat().st_size // BLOCK_BYTES)

        def content_of(block: int) -> int:
            return len(os.pread(fd, BLOCK_BYTES, block * BLOCK_BYTES).rstrip(b"\0"))

        first_empty = bisect_left(range(blocks), True, key=lambda block: not content_of(block))
        return (first_empty - 1) * BLOCK_BYTES + content_of(first_empty - 1) if first_empty else 0


def abandoned(directory: Path, spool_id: str) -> bool:
    """True if the worker that wrote this spool is gone: its lock is free."""
    try:
        fd = os.open(directory / (spool_id + LOCK_SUFFIX), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def finish(directory: Path, spool_id: str) -> None:
    """Mark an abandoned spool whose every record is in the ledger: it is not read again."""
    for number in segments(directory, spool_id)[-1:]:
        # A worker that was killed has left its last segment at full length, most of it zeros.
        path = segment_path(directory, spool_id, number)
        seen = path.stat()
        os.truncate(path, len(path.read_bytes().rstrip(b"\0")))
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    mark = directory / (spool_id + FINISHED_SUFFIX)
    try:
        (directory / (spool_id + LOCK_SUFFIX)).rename(mark)
    except FileNotFoundError:
        mark.touch(mode=0o600)


def room_bytes(directory: Path) -> int:
    """How much the disk still takes."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def discard(directory: Path, needed: Mapping[str, int], keep_s: float) -> None:
    """Delete what was last written so long ago: all of finished spools, and of those given what is before a segment."""
    names = _names(directory)
    finished = _finished(names)
    for name, spool_id, number in _segments(names):
        if spool_id in finished or number < needed.get(spool_id, 0):
            _discard_old(directory / name, keep_s)
    for name, spool_id, _ in _segments(name.removesuffix(UNFINISHED_SUFFIX) for name in names if _unfinished(name)):
        if abandoned(directory, spool_id):
            # Left behind by a worker that was killed while it made a segment.
            _discard_old(directory / (name + UNFINISHED_SUFFIX), keep_s)
    names = _names(directory)
    held = {spool_id for _, spool_id, _ in _segments(names)}
    for spool_id in finished - held:
        (directory / (spool_id + FINISHED_SUFFIX)).unlink(missing_ok=True)
    for name in names:
        spool_id = name.removesuffix(LOCK_SUFFIX)
        if spool_id != name and spool_id not in held and abandoned(directory, spool_id):
            # Left behind by a worker that was killed before it had a segment.
            _discard_old(directory / name, max(keep_s, BEGINNING_S_MAX))


class _Found(NamedTuple):
    """What some bytes of a segment hold."""

    start: int
    """Where records may begin: after the one that begins the segment."""
    records: list[Record]
    damages: list[Damage]


def _found(data: bytes, records_max: int, seed: int, *, at_the_beginning: bool) -> _Found:
    """Read the first records of some bytes. Pure."""
    begun = whole(data, 0, seed) if at_the_beginning else None
    start = offset = begun.end if begun is not None and begun.kind == _BEGUN else 0
    damages: list[Damage] = []
    records, offset = whole_ones(data, offset, records_max, seed)
    for found in scan(data, offset, seed):
        if len(records) == records_max:
            break
        if isinstance(found, Damage):
            damages.append(found)
        elif found.kind != _BEGUN:
            records.append(found)
    return _Found(start, records, damages)


def _hole(found: _Found, repeats_after: int | None) -> Damage | None:
    """The first damage that may have cost a record of those that are repeated after a sequence. Pure."""
    if repeats_after is not None:
        for damage in found.damages:
            if next(one.sequence for one in found.records if one.end > damage.end) > repeats_after + 1:
                return damage
    return None


class _Following(NamedTuple):
    """The segment after another."""

    number: int
    repeats_after: int | None
    """It holds again whatever the other has after this sequence; None where its beginning does not say."""


def _following(directory: Path, spool_id: str, segment: int, *, ended: bool) -> _Following | None:
    """The segment after this one, if there is one. Segments that are lost are left out.

    While the worker lives, only what it began itself says that it writes to this one no more; a file that somebody put
    there says nothing.
    """
    begun = _begun(directory, spool_id, segment + 1)
    if begun is not None:
        return _Following(segment + 1, begun.sequence)
    if not ended and holds(directory, spool_id, segment) and not holds(directory, spool_id, segment + 1):
        return None
    later = [number for number in segments(directory, spool_id) if number > segment]
    if not later or (not ended and not any(_begun(directory, spool_id, number) for number in later)):
        return None
    begun = _begun(directory, spool_id, later[0])
    return _Following(later[0], None if begun is None else begun.sequence)


def _begun(directory: Path, spool_id: str, number: int) -> Record | None:
    """The record by which the spool's worker began this segment, if it did."""
    try:
        with _opened(segment_path(directory, spool_id, number)) as fd:
            begun = whole(os.pread(fd, HEADER_BYTES, 0), 0, seed_of(spool_id))
    except OSError:
        return None
    return begun if begun is not None and begun.kind == _BEGUN and begun.intent == number else None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _names(directory: Path) -> list[str]:
    try:
        return [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []


def _segments(names: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """The names that are segments', each with its spool and its number."""
    for name in names:
        if parts := _SEGMENT_NAME.fullmatch(name):
            yield name, parts[1], int(parts[2])


def _unfinished(name: str) -> bool:
    return name.endswith(UNFINISHED_SUFFIX)


def _finished(names: Iterable[str]) -> set[str]:
    return {name.removesuffix(FINISHED_SUFFIX) for name in names if name.endswith(FINISHED_SUFFIX)}


def _discard_old(path: Path, keep_s: float) -> None:
    # Somebody else may have deleted it already.
    with suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > keep_s:
            path.unlink()
