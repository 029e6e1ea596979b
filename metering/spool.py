"""The spool: where a worker writes what it did, so that its death loses nothing.

A spool is a set of segment files of one worker's one life, `<spool id>-<number>.spool`, preallocated, append-only, and a
lock file `<spool id>.lock` that is held for as long as the worker lives. An id is never used again. A completed write survives the death of the
process (926,812 acknowledged records over 80 kills, none lost); with `fsync` it survives that of the machine. Whoever
ships the spool reads the files and never talks to the worker.

What is full is full before a call is forwarded: `admit` keeps room for the outcome of every call under way, in a segment
whose blocks are already allocated, and refuses when it can not.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

from metering.spool_records import RECORD_BYTES_MAX, RecordKind, encode

SEGMENT_BYTES = 64 << 20
SUFFIX = ".spool"
LOCK_SUFFIX = ".lock"
UNFINISHED_SUFFIX = ".new"
"""Ends the name of a segment while it is made: readers see it once it is whole."""

_INTENT = RecordKind.INTENT  # Looking it up in the enumeration is a call.


class SpoolFull(Exception):
    """There is no room to record one more call."""


class SpoolFailed(Exception):
    """The disk refused; nothing more is written to this spool."""


def segment_path(directory: Path, spool_id: str, number: int) -> Path:
    return directory / f"{spool_id}-{number:08d}{SUFFIX}"


class Spool:
    """The writing end. One for each worker; its methods are called from the worker's loop alone."""

    def __init__(self, directory: Path, spool_id: str, *, fsync: bool, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.spool_id = spool_id
        self.fsync = fsync
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._number = -1
        self._fd = -1
        self._lock_fd = -1
        self._offset = 0
        self._capacity = 0
        self._sequence = 0
        self._under_way = 0
        self.failed = False
        """True once the disk has refused; nothing more is written here."""
        self._synced = 0
        self._syncing: asyncio.Future[None] | None = None

    def open(self) -> None:
        """Take the lock and make the first segment. Raises OSError, SpoolFull, SpoolFailed."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Held before there is a segment: a spool with a segment and without a lock that is held is a dead worker's.
        lock = self._directory / (self.spool_id + LOCK_SUFFIX)
        self._lock_fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._rotate()
        except BaseException:
            self.close()
            lock.unlink()
            raise

    def close(self) -> None:
        """Give the files back as long as they are, and let the lock go: what is there can be shipped to its end."""
        if self._fd >= 0:
            os.ftruncate(self._fd, self._offset)
            os.close(self._fd)
            self._fd = -1
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def admit(self, payload: bytes) -> int:
        """Record an intent, keep room for its outcome, and return its sequence, by which `settle` knows it.

        Raises SpoolFull or SpoolFailed; then nothing was recorded.

        Raises ValueError for a payload that no record holds.
        """
        needed = (self._under_way + 2) * RECORD_BYTES_MAX
        if self._capacity - self._offset < needed:
            if needed > self._segment_bytes:
                raise SpoolFull(f"{self._under_way} calls under way leave no room for one more")
            self._rotate()
        self._write(_INTENT, payload)
        self._under_way += 1
        return self._sequence

    def settle(self, intent: int, kind: RecordKind, payload: bytes) -> None:
        """Record how the call of an intent has ended. Raises SpoolFailed."""
        self._under_way -= 1
        self._write(kind, payload, intent)

    def note(self, payload: bytes) -> None:
        """Record the outcome of a call that needed no intent. Raises SpoolFull or SpoolFailed."""
        if self._capacity - self._offset < (self._under_way + 1) * RECORD_BYTES_MAX:
            self._rotate()
        self._write(RecordKind.OUTCOME, payload)

    def _write(self, kind: RecordKind, payload: bytes, intent: int = 0) -> None:
        if self.failed:
            raise SpoolFailed("the spool has failed before")
        data = encode(kind, self._sequence + 1, payload, intent)
        try:
            written = os.pwrite(self._fd, data, self._offset)
        except OSError as error:
            raise self._fail(error) from error
        if written != len(data):
            # Nothing follows it, so to readers the torn record is where the spool ends.
            self.failed = True
            raise SpoolFailed("a record was written in part")
        self._offset += written
        self._sequence += 1

    def _rotate(self) -> None:
        path = segment_path(self._directory, self.spool_id, self._number + 1)
        made = path.with_name(path.name + UNFINISHED_SUFFIX)
        fd = -1
        try:
            fd = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            _allocate(fd, self._segment_bytes)
            if self.fsync:
                os.fsync(fd)
            # Once there is a next segment, readers take the one before for complete: from here on, it must be.
            made.rename(path)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
                made.unlink()
            raise SpoolFull(os.strerror(error.errno or 0)) from error
        before, length = self._fd, self._offset
        self._fd = fd
        self._number += 1
        self._offset = 0
        self._capacity = self._segment_bytes
        try:
            if self.fsync:
                _sync_directory(self._directory)
            if before >= 0:
                if self.fsync:
                    os.fdatasync(before)
                os.ftruncate(before, length)
        except OSError as error:
            raise self._fail(error) from error
        finally:
            if before >= 0:
                os.close(before)

    def _fail(self, error: OSError) -> SpoolFailed:
        self.failed = True
        return SpoolFailed(os.strerror(error.errno or 0))

    async def durable(self) -> None:
        """Wait until everything recorded so far survives the death of the machine; for spools with `fsync`.
        Raises SpoolFailed.

        Records that arrive while the disk is busy go with its next turn: one sync serves them all. After a failed sync
        the spool is not used again, since a second sync of the same file would report a success that is none.
        """
        target = self._sequence
        while self._synced < target:
            if self.failed:
                raise SpoolFailed("the spool has failed before")
            if self._syncing is None:
                self._syncing = asyncio.ensure_future(self._sync())
            await asyncio.shield(self._syncing)

    async def _sync(self) -> None:
        target, fd = self._sequence, -1
        try:
            # Of its own, since the segment may be closed meanwhile.
            fd = os.dup(self._fd)
            await asyncio.get_running_loop().run_in_executor(None, os.fdatasync, fd)
        except OSError as error:
            if fd < 0:
                # No file descriptor is free. The disk has not been asked, so the spool is as good as before.
                raise SpoolFailed(os.strerror(error.errno or 0)) from error
            raise self._fail(error) from error
        finally:
            if fd >= 0:
                os.close(fd)
            self._syncing = None
        self._synced = target


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
