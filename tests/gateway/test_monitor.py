"""What the back office sees when it is asked: measured once for all who ask, and waiting for nobody."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from gateway import monitor as monitor_module
from gateway.counters import Counters
from gateway.monitor import Monitor
from gateway.shipper import Shipper
from metering import ledger
from metering.database import DatabaseUnavailable
from metering.ledger import Aside
from metering.spool import Spool
from tests.builders import NOON

BEHIND_S_MAX = 60


class Clock:
    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now


class Line:
    """The ledger over a line that can be slow or cut."""

    def __init__(self, database):
        self.database = database
        self.asked = 0
        self.cut = False
        self.answers = asyncio.Event()
        self.answers.set()

    @asynccontextmanager
    async def reading(self):
        self.asked += 1
        await self.answers.wait()
        if self.cut:
            raise DatabaseUnavailable("the line is cut")
        async with self.database.reading() as connection:
            yield connection


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def line(database):
    return Line(database)


@pytest.fixture
def shipper(tmp_path, database, clock):
    (tmp_path / "spool").mkdir()
    return Shipper(tmp_path / "spool", database, None, clock)


@pytest.fixture
def monitor(tmp_path, line, shipper, clock):
    return Monitor(
        shipper,
        {"open": 3},
        line,
        tmp_path / "spool",
        tmp_path / "counters",
        clock,
        BEHIND_S_MAX,
        expects_workers=False,
    )


async def set_aside(database, *reasons):
    async with database.transaction() as connection:
        asides = [Aside(f"record-{number}", reason, "{}") for number, reason in enumerate(reasons)]
        await ledger.set_aside(connection, asides, NOON)


async def test_it_sees_workers_backlog_room_and_what_is_set_aside(tmp_path, database, monitor, clock):
    spool, counters = Spool(tmp_path / "spool", "w0-1", fsync=False, segment_bytes=1 << 20), Counters()
    spool.open()
    counters.open(tmp_path / "counters", 0)
    spool.note(b"used")
    clock.now += dt.timedelta(seconds=5)
    await set_aside(database, ledger.CONFLICT, "an event that can not be booked: ValueError", ledger.CONFLICT)

    seen = await monitor.seen()
    spool.close()
    counters.close()

    assert [*seen.on_disk.workers] == ["0"]
    assert seen.on_disk.backlog.size_bytes > 4
    assert seen.on_disk.backlog.age_s == 5
    assert seen.on_disk.room_bytes > 0
    assert {reason: records for reason, records in seen.in_ledger.quarantined.items() if records} == {
        ledger.CONFLICT: 2,
        "an event that can not be booked": 1,
    }


async def test_nothing_that_is_set_aside_is_none_and_not_absent(monitor, shipper):
    """Guards alerts: what was never shown has no first increase."""
    seen = await monitor.seen()

    assert seen.in_ledger.quarantined == dict.fromkeys(shipper.shipped.set_aside, 0)
    assert len(seen.in_ledger.quarantined) == 5


async def test_a_ledger_that_can_not_be_reached_leaves_its_part_out(monitor, line):
    """Guards what else there is to know: it matters most while the ledger is away."""
    line.cut = True

    assert (await monitor.seen()).in_ledger is None


async def test_a_ledger_that_does_not_answer_is_not_waited_for_and_asked_no_second_time(monitor, line, monkeypatch):
    """Guards the database: whoever asks for metrics every second must not take all of its connections."""
    monkeypatch.setattr(monitor_module, "LEDGER_S_MAX", 0.05)
    line.answers.clear()
    hung = [(await monitor.seen()).in_ledger for _ in range(3)]
    asked_while_hung = line.asked
    line.answers.set()
    await asyncio.sleep(0)
    monkeypatch.undo()

    assert hung == [None, None, None]
    assert asked_while_hung == 1
    assert (await monitor.seen()).in_ledger is not None


async def test_who_asks_at_the_same_time_shares_one_look(monitor, monkeypatch):
    """Guards the disk: anybody may ask, as often as they like."""
    looks = []
    read = Monitor._read
    monkeypatch.setattr(Monitor, "_read", lambda self: looks.append(1) or read(self))

    await asyncio.gather(*(monitor.on_disk() for _ in range(50)))
    at_once = len(looks)
    await monitor.on_disk()

    assert (at_once, len(looks)) == (1, 2)


async def test_one_who_leaves_takes_nobody_elses_answer_away(monitor):
    """Guards the shared look: it is not the first one's who asked."""
    first = asyncio.create_task(monitor.on_disk())
    second = asyncio.create_task(monitor.on_disk())
    await asyncio.sleep(0)
    first.cancel()

    assert (await second).workers == {}


def test_the_log_says_once_that_the_ledger_is_behind_and_once_that_it_is_not(monitor, shipper, clock):
    """Guards the alarm: one that is repeated every second is turned off."""
    with capture_logs() as said:
        monitor.look()
        clock.now += dt.timedelta(seconds=BEHIND_S_MAX)
        monitor.look()
        clock.now += dt.timedelta(seconds=1)
        shipper.failing = "the line is cut"
        for _ in range(3):
            monitor.look()
        shipper.last_shipped = clock.now
        for _ in range(3):
            monitor.look()

    assert said == [
        {"event": "ledger_behind", "log_level": "error", "behind_s": 61, "reason": "the line is cut"},
        {"event": "ledger_caught_up", "log_level": "info"},
    ]


async def test_it_goes_on_looking(monitor, monkeypatch):
    looks, enough = [], asyncio.Event()

    def look():
        looks.append(1)
        if len(looks) == 3:
            enough.set()

    monkeypatch.setattr(monitor_module, "LOOK_S", 0.001)
    monkeypatch.setattr(monitor, "look", look)
    watching = asyncio.create_task(monitor.watch())
    async with asyncio.timeout(60):
        await enough.wait()
    watching.cancel()


async def test_what_is_booked_while_it_is_shown_changes_nothing_of_it(monitor, shipper):
    """Guards the scrape: what is shown is read in a thread."""
    seen = await monitor.seen()
    shipper.shipped.booked += 1
    shipper.shipped.set_aside["a new reason"] += 1

    assert seen.shipped.booked == 0
    assert "a new reason" not in seen.shipped.set_aside
