"""Spools read to their end, and processes that write them until they are killed.

As a process: `python -m tests.metering.workers WHAT DIRECTORY`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from metering.spool import AGAIN_S, Spool, SpoolFull
from metering.spool_reader import BEGINNING, Reading, read
from metering.spool_records import HEADER_BYTES, RECORD_BYTES_MAX, RecordKind

REPOSITORY = Path(__file__).parents[2]

SEGMENT_BYTES = 32 * RECORD_BYTES_MAX
SPOOL_ID = "w0-killed"


def content(number: int) -> bytes:
    """What the record of that number holds: of many lengths, most of more than one page of memory."""
    return (b"%d." % number * (number * 7_919 % 2_500))[:12_000]


def read_to_end(directory: Path, spool_id: str, *, ended: bool = False) -> Reading:
    """All that can be read of a spool now, in one."""
    records, damages, position = [], [], BEGINNING
    while True:
        reading = read(directory, spool_id, position, 1_000, ended=ended)
        if reading.position == position:
            return Reading(records, damages, position)
        records += reading.records
        damages += reading.damages
        position = reading.position


def write_for_ever(directory: Path, *, acknowledge: bool = True) -> None:
    """Write records, and say after each that it is written. Calls are always under way."""
    spool = Spool(directory, SPOOL_ID, fsync=False, segment_bytes=SEGMENT_BYTES)
    spool.open()
    under_way: list[int] = []
    number = 0
    while True:
        if len(under_way) < 8:
            under_way.append(spool.admit(content(number + 1)))
        else:
            spool.settle(under_way.pop(), RecordKind.OUTCOME, content(number + 1))
        number += 1
        if acknowledge:
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


def live(directory: Path) -> None:
    """Open a spool, leave a call under way, and wait to be killed."""
    spool = Spool(directory, SPOOL_ID, fsync=False, segment_bytes=SEGMENT_BYTES)
    spool.open()
    spool.admit(b"begun")
    print("open", flush=True)
    threading.Event().wait()


def fill_the_disk(directory: Path) -> None:
    """On a disk with room for one segment: calls until it is full, then more room, and calls again. Tells what happened."""
    segment_bytes = 16 * RECORD_BYTES_MAX
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={segment_bytes + 8192}", "none", directory], check=True)
    spool = Spool(directory, SPOOL_ID, fsync=False, segment_bytes=segment_bytes)
    spool.open()
    told: dict[str, object] = {"recorded": 0}

    def call() -> None:
        under_way: list[int] = []
        try:
            while len(under_way) < 3:
                under_way.append(spool.admit(b"intent"))
        finally:
            for one in under_way:
                spool.settle(one, RecordKind.OUTCOME, bytes(RECORD_BYTES_MAX - HEADER_BYTES))
            told["recorded"] += 2 * len(under_way)

    try:
        while True:
            call()
    except SpoolFull as error:
        told["refusal"] = str(error)
    told["recorded while full"] = told["recorded"]
    told["read while full"] = len(read_to_end(directory, SPOOL_ID).records)
    told["files while full"] = sorted(path.name for path in directory.iterdir())
    subprocess.run(["mount", "-o", f"remount,size={3 * segment_bytes}", directory], check=True)
    time.sleep(AGAIN_S)
    call()
    told["read"] = len(read_to_end(directory, SPOOL_ID).records)
    print(json.dumps(told))


WORKS = {
    "write": write_for_ever,
    "write silently": partial(write_for_ever, acknowledge=False),
    "live": live,
    "fill": fill_the_disk,
}


@contextmanager
def worker(what: str, directory: Path, *within: str) -> Iterator[subprocess.Popen[str]]:
    """One of these as a process. It is killed at the end, if it was not before."""
    command = [*within, sys.executable, "-m", "tests.metering.workers", what, str(directory)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


if __name__ == "__main__":
    WORKS[sys.argv[1]](Path(sys.argv[2]))
