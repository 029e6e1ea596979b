"""The spool: where a worker writes what it did, so that its death loses nothing.

A spool is a set of segment files of one worker's one life, `<spool id>-<number>.spool`, preallocated, append-only, and a
lock file `<spool id>.lock` that is held for as long as the worker lives. An id is never used again. A completed write
survives the death of the process (926,812 acknowledged records over 80 kills, none lost); with `fsync` it survives that of
the machine. Whoever ships the spool reads the files and never talks to the worker.

A worker has the records of one turn of its loop written in one piece (`gather`), before anything leaves that depends on them.

What is full is full before a call is forwarded: `admit` keeps room for the outcome of every call under way, in a segment
whose blocks are already allocated, and refuses when it can not. Where the disk refuses all the same, takes a record in part
or fails to sync, the segment is given up, and the records that it may not have go into a new one. Where that fails too, no
call is admitted, the outcomes of those under way are kept in memory, and they are written as soon as there is room.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from metering.spool_records import HEADER_BYTES, RECORD_BYTES_MAX, RecordKind, encode, seed_of

SEGMENT_BYTES: Final = 64 << 20
SUFFIX: Final = ".spool"
LOCK_SUFFIX: Final = ".lock"
UNFINISHED_SUFFIX: Final = ".new"
"""Ends the name of a segment while it is made: readers see it once it is whole."""

AGAIN_S: Final = 1.0
"""A disk that has no room for a segment is asked again after so long: asking costs, and takes what room is left."""

_INTENT: Final = RecordKind.INTENT  # Looking it up in the enumeration is a call.


class SpoolFull(Exception):
    """There is no room to record one more call."""


class SpoolFailed(Exception):
    """The disk refused a record; it is not known to be safe."""


def segment_name(spool_id: str, number: int) -> str:
    return f"{spool_id}-{number:08d}{SUFFIX}"


def segment_path(directory: Path, spool_id: str, number: int) -> Path:
    return directory / segment_name(spool_id, number)


class Spool:
    """The writing end. One for each worker; its methods are called from the worker's loop alone."""

    def __init__(self, directory: Path, spool_id: str, *, fsync: bool, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.spool_id = spool_id
        self.fsync = fsync
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._seed = seed_of(spool_id)
        self._number = -1
        self._fd = -1
        self._lock_fd = -1
        self._offset = 0
        self._capacity = 0
        self._sequence = 0
        self._under_way = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._began: Callable[[], None] | None = None
        self._refused: Callable[[str], None] | None = None
        self._unconfirmed: deque[bytes] = deque()
        """The last records, oldest first, that the disk may not have: those not yet synced, or that it refused. They are few:
        so many calls are under way at most."""
        self._synced = 0
        self._syncing: asyncio.Future[None] | None = None
        self._again_at = 0.0
        """The disk that refused a segment is not asked for one before this."""
        self.failed = False
        """True while the disk refuses; no call is then admitted, and each that comes has it asked again."""
        self.refused: str | None = None
        """Why the disk takes no further call, while it does not: it is full, or it has failed."""
        self.given_up = 0
        """Segments that were left before they were full, because the disk refused to go on with them."""

    def open(self) -> None:
        """Take the lock and make the first segment. Raises OSError, SpoolFull."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Held before there is a segment: a spool with a segment and without a lock that is held is a dead worker's.
        lock = self._directory / (self.spool_id + LOCK_SUFFIX)
        self._lock_fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._begin_segment()
        except BaseException:
            self.close()
            lock.unlink()
            raise

    def gather(self, began: Callable[[], None], refused: Callable[[str], None]) -> None:
        """From here on, records are in the file when `write_gathered` has returned, to be called when a turn is over at the
        latest. Nothing may leave before that depends on them.

        `began` is called when there is something to be written, and `refused` with a reason when the disk does not take it,
        whoever asked for that to be found out; it is then recorded once the disk takes it."""
        self._began, self._refused = began, refused

    def write_gathered(self) -> None:
        """Write what was gathered, in one piece. Raises SpoolFailed."""
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            self._gathered_bytes = 0
            try:
                self._write_whole(gathered)
            except SpoolFailed as failed:
                if self._refused is not None:
                    self._refused(str(failed))
                raise

    def close(self) -> None:
        """Give the files back as long as they are, and let the lock go: what is there can be shipped to its end."""
        with suppress(SpoolFailed):
            self.write_gathered()
        if self.failed:
            with suppress(SpoolFull):
                self._begin_segment()
        if self._fd >= 0:
            # What the disk refused may be in the file all the same, and read already. No segment after this one repeats it.
            refused_bytes = sum(map(len, self._unconfirmed)) if self.failed else 0
            self._leave(self._fd, self._offset + refused_bytes)
            self._fd = -1
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def admit(self, payload: bytes) -> int:
        """Record an intent, keep room for its outcome, and return its sequence, by which `settle` knows it.

        Raises SpoolFull or SpoolFailed; the call must then not be sent. Its intent may be on the disk that refused it:
        the next records say that it was not sent, and if the worker ends before there are any, it shows as unknown.

        Raises ValueError for a payload that no record holds.
        """
        self.ensure_room()
        try:
            self._write(_INTENT, payload)
        except SpoolFailed:
            # It may be on the disk all the same. Whoever reads it is to read that the call was not sent.
            self._sequence += 1
            self._unconfirmed.append(encode(RecordKind.CLOSED, self._sequence, b"{}", self._sequence - 1, self._seed))
            raise
        self._under_way += 1
        return self._sequence

    def settle(self, intent: int, kind: RecordKind, payload: bytes) -> None:
        """Record how the call of an intent has ended. Raises SpoolFailed; it is then recorded once the disk takes it."""
        self._under_way -= 1
        self._write(kind, payload, intent)

    def note(self, payload: bytes) -> None:
        """Record the outcome of a call that needed no intent. Raises SpoolFull or SpoolFailed."""
        self._ensure_room(1)
        self._write(RecordKind.OUTCOME, payload)

    def keep_room(self) -> None:
        """Keep room for one more record of a call under way, which `note_kept` writes. Raises SpoolFull."""
        self._ensure_room(1)
        self._under_way += 1

    def note_kept(self, payload: bytes) -> None:
        """Record what room was kept for. Raises SpoolFailed; it is then recorded once the disk takes it."""
        self._under_way -= 1
        self._write(RecordKind.OUTCOME, payload)

    def give_back_room(self) -> None:
        """Room that was kept is not needed."""
        self._under_way -= 1

    def ensure_room(self) -> None:
        """Make sure that one more call may be noted, before it is sent. Raises SpoolFull.

        The room is not kept: it is a record more than `note` needs, for those that come in between.
        """
        self._ensure_room(2)

    def _ensure_room(self, records: int) -> None:
        """Have room for so many records more than the calls under way will need."""
        needed = (self._under_way + records) * RECORD_BYTES_MAX
        if self.failed or self._capacity - self._offset - self._gathered_bytes < needed:
            self._make_room(needed)

    def _make_room(self, needed: int) -> None:
        if needed > self._segment_bytes - HEADER_BYTES:
            raise SpoolFull(f"{self._under_way} calls under way leave no room for one more")
        if time.monotonic() < self._again_at:
            raise SpoolFull("the disk had no room a moment ago")
        # What the next segment begins with is behind all that this one has.
        self.write_gathered()
        try:
            self._begin_segment()
            if self._capacity - self._offset < needed:
                raise SpoolFull("what is not yet on the disk leaves no room for one more")
        except SpoolFull as error:
            self.refused = str(error)
            self._again_at = time.monotonic() + AGAIN_S
            raise

    def recover(self) -> None:
        """Ask a disk that refuses whether it still does; to be called from time to time, whether calls come or not."""
        if self.refused is not None and time.monotonic() >= self._again_at:
            with suppress(SpoolFull, SpoolFailed):
                self._make_room((self._under_way + 2) * RECORD_BYTES_MAX)

    def _write(self, kind: RecordKind, payload: bytes, intent: int = 0) -> None:
        data = encode(kind, self._sequence + 1, payload, intent, self._seed)
        self._sequence += 1
        if self.fsync:
            self._unconfirmed.append(data)
        if self._began is None or self.failed:
            self._write_whole([data])
            return
        if not self._gathered:
            self._began()
        self._gathered.append(data)
        self._gathered_bytes += len(data)

    def _write_whole(self, records: list[bytes]) -> None:
        """Have these in the file, or in the next one."""
        reason = "the disk has refused before"
        if not self.failed:
            data = records[0] if len(records) == 1 else b"".join(records)
            try:
                if os.pwrite(self._fd, data, self._offset) == len(data):
                    self._offset += len(data)
                    return
                reason = "records were written in part"
            except OSError as error:
                reason = os.strerror(error.errno or 0)
        if not self.fsync:
            self._unconfirmed.extend(records)
        self._give_up_segment(reason)

    def _give_up_segment(self, reason: str) -> None:
        """Go on elsewhere, with what is not known to be safe here. Raises SpoolFailed."""
        if self.failed:
            raise SpoolFailed(reason)
        self.given_up += 1
        try:
            self._begin_segment()
        except SpoolFull as error:
            self.failed, self.refused = True, reason
            self._again_at = time.monotonic() + AGAIN_S
            raise SpoolFailed(reason) from error

    def _begin_segment(self) -> None:
        """Go on in a new segment, which begins with what the disk may not have. Raises SpoolFull; then all is as before.

        With `fsync`, all of it is durable then. So a file of which a sync has failed is never synced again: a second sync
        would report a success that is none (the pages are marked clean by the first; fsync(2), Linux).
        """
        number, fd = self._number + 1, -1
        try:
            while (path := segment_path(self._directory, self.spool_id, number)).exists():
                number += 1  # Nobody of ours put it there.
            begun = encode(RecordKind.BEGUN, self._sequence - len(self._unconfirmed), b"", number, self._seed)
            content = b"".join([begun, *self._unconfirmed])
            made = path.with_name(path.name + UNFINISHED_SUFFIX)
            fd = os.open(made, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            _allocate(fd, max(self._segment_bytes, len(content)))
            if os.pwrite(fd, content, 0) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self.fsync:
                os.fsync(fd)
            # Once there is a next segment, readers take the one before for complete: from here on, it is.
            made.rename(path)
        except OSError as error:
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)
                    made.unlink()
            raise SpoolFull(os.strerror(error.errno or 0)) from error
        before, length = self._fd, self._offset
        self._fd, self._number = fd, number
        self._offset, self._capacity = len(content), self._segment_bytes
        if before >= 0:
            self._leave(before, length)
        if self.fsync:
            try:
                _sync_directory(self._directory)
            except OSError as error:
                # Readers have seen the segment, so it stays; what is in it is not safe yet.
                self.failed = True
                raise SpoolFull(os.strerror(error.errno or 0)) from error
            self._synced = self._sequence
            # They are not confirmed either, and so are among those that it begins with.
            self._gathered.clear()
            self._gathered_bytes = 0
        self._unconfirmed.clear()
        self.failed, self.refused = False, None

    @staticmethod
    def _leave(fd: int, length: int) -> None:
        # A segment that stays as long as it was allocated costs room, and no record.
        with suppress(OSError):
            os.ftruncate(fd, length)
        with suppress(OSError):
            os.close(fd)

    async def durable(self) -> None:
        """Wait until everything recorded so far survives the death of the machine; for spools with `fsync`.
        Raises SpoolFailed.

        Records that arrive while the disk is busy go with its next turn: one sync serves them all.
        """
        self.write_gathered()
        target = self._sequence
        while self._synced < target:
            if self.failed:
                raise SpoolFailed("the disk has refused before")
            if self._syncing is None:
                self._syncing = asyncio.ensure_future(self._sync())
            await asyncio.shield(self._syncing)

    async def _sync(self) -> None:
        # What was gathered since `durable` asked for it is meant as well.
        self.write_gathered()
        target, number, fd = self._sequence, self._number, -1
        try:
            if self.failed:  # Since `durable` asked for it: what was refused is not in the file.
                raise SpoolFailed("the disk has refused before")
            # Of its own, since the segment may be closed meanwhile.
            fd = os.dup(self._fd)
            await asyncio.get_running_loop().run_in_executor(None, os.fdatasync, fd)
        except OSError as error:
            if fd < 0:
                # No file descriptor is free. The disk has not been asked, so the spool is as good as before.
                raise SpoolFailed(os.strerror(error.errno or 0)) from error
            if self._number == number and self._fd >= 0:
                self._give_up_segment(os.strerror(error.errno or 0))
        else:
            while self._synced < target:
                self._synced += 1
                self._unconfirmed.popleft()
        finally:
            if fd >= 0:
                os.close(fd)
            self._syncing = None


def _allocate(fd: int, size: int) -> None:
    """Give a file its blocks now, so that a full disk is noticed before a call depends on it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        os.ftruncate(fd, size)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
