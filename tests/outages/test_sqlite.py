"""The ledger's file is locked, or its disk is full, while calls go on: no client notices, and nothing is lost or doubled."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import time
from contextlib import closing, suppress

import psutil
import pytest

from tests.forms import form
from tests.outages.load import Load, check, drained
from tests.walks.harness import eventually, installation

pytestmark = pytest.mark.timeout(form(120, 600))

HELD_S = form(7, 60)
"""Longer than SQLite itself waits for a lock."""


@pytest.fixture
def gateway(tmp_path):
    with installation(tmp_path) as gateway:
        yield gateway


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for what is called meanwhile, and little more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={form(8, 64)}m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted; the limit on the file's size shows nearly the same")
    yield disk
    subprocess.run(["umount", disk], check=True)


def failing_for(gateway, load, seconds):
    """Calls go on while the ledger can not be written."""
    gateway.gateway.said("ledger_unavailable")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        load.goes_on()


def test_a_lock_that_another_process_holds_is_waited_for(gateway):
    """Guards that a batch which could not be booked is kept, and that waiting for the lock stops no call."""
    with Load(gateway, gateway.tenant("acme")) as load:
        with closing(sqlite3.connect(gateway.data_dir / "ledger.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            until = time.monotonic() + HELD_S
            while time.monotonic() < until:
                load.goes_on()
        gateway.gateway.said("ledger_available_again")
        load.stop()
        drained(gateway, load)
        check(gateway, load)


def take_all_room(fd, directory):
    """Leave none on a disk that others write to meanwhile."""
    for _ in range(100):
        room = os.statvfs(directory)
        with suppress(OSError):
            os.posix_fallocate(fd, 0, room.f_bavail * room.f_bsize)
            return
    raise AssertionError("the disk is never full")


def test_a_ledger_whose_disk_is_full_is_written_again_once_there_is_room(small_disk, tmp_path):
    """Guards that a batch which could not be booked is kept, and that a transaction that SQLite has ended by itself is not
    taken for one that was committed."""
    with (
        installation(tmp_path, database_url=f"sqlite:///{small_disk}/ledger.db") as gateway,
        Load(gateway, gateway.tenant("acme")) as load,
    ):
        filler = small_disk / "filler"
        with filler.open("wb") as file:
            take_all_room(file.fileno(), small_disk)
        failing_for(gateway, load, form(3, 60))
        filler.unlink()
        gateway.gateway.said("ledger_available_again")
        load.stop()
        drained(gateway, load)
        check(gateway, load)


def test_a_ledger_whose_file_may_not_grow_is_written_again_once_it_may(gateway):
    """The same with another error of the system's, and where no file system can be mounted. Short in both forms, since the
    limit is the spool's as well."""
    process = psutil.Process(gateway.gateway.popen.pid)
    with Load(gateway, gateway.tenant("acme")) as load:
        # The spool's segment has its blocks, and is written near its beginning; the write-ahead log is larger.
        log = gateway.data_dir / "ledger.db-wal"
        eventually(lambda: log.stat().st_size > 1 << 20, "a write-ahead log")
        _, most = process.rlimit(resource.RLIMIT_FSIZE)
        process.rlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, most))
        failing_for(gateway, load, 3)
        process.rlimit(resource.RLIMIT_FSIZE, (most, most))
        gateway.gateway.said("ledger_available_again")
        load.stop()
        drained(gateway, load)
        check(gateway, load)
