"""A replay: what the ledger lacks is booked, what it has is not booked twice, and nothing else is touched."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from gateway.replay import replay
from gateway.shipper import RETENTION_S, Pace, Shipper
from metering.database import DatabaseUnavailable
from metering.spool import segment_path
from metering.spool_reader import BEGINNING, READ_BYTES, discard, kept, read, segments
from metering.spool_records import RECORD_BYTES_MAX
from metering.tables import quarantine, spool_positions, usage_events
from pricing.tables import charges, rollups
from tests.builders import call_id
from tests.gateway.shipping import PATIENCE_S, Clock, Worker, aside, booked, everything, rows, ship

LIVING, DEAD = "w0-2", "w0-1"


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
async def restored(ledgers):
    """A second ledger, which was restored from a backup: it is empty."""
    async with ledgers.new() as database:
        yield database


@pytest.fixture
def new_shipper(directory, books):
    return lambda database, **more: Shipper(directory, database, books, Clock(), **more)


@pytest.fixture
def dead(directory):
    """A worker that is gone, and left a call open."""
    worker = Worker(directory, DEAD)
    worker.called(*range(300))
    worker.begins(1_000)
    worker.dies()
    return worker


@pytest.fixture
def living(directory):
    worker = Worker(directory, LIVING)
    yield worker
    worker.dies()


async def replayed(shipper, spool_id=DEAD):
    """Every step of a replay."""
    async with asyncio.timeout(PATIENCE_S):
        return [so_far async for so_far in replay(shipper, spool_id)]


async def facts(database):
    """What is the same in every ledger that has the same facts: all but when they were booked."""
    events = await rows(database, usage_events)
    assert [row[:2] for row in await rows(database, charges)] == [row[:2] for row in events]
    return [{**row._mapping, "recorded_at": None} for row in events], await rows(database, rollups)


def counts(so_far):
    return so_far.new, so_far.known, so_far.unknown, so_far.conflicting, so_far.not_bookable, so_far.unreadable


async def test_a_restored_ledger_gets_back_what_it_lacks_once(database, restored, dead, living, new_shipper):
    """A22. Guards that a replay begins where the spool begins, wherever the ledger is, and reads finished spools too."""
    living.called(*range(2_000, 2_100))
    await ship(new_shipper(database))
    shipper = new_shipper(restored)
    await ship(shipper)
    before = await facts(restored)
    living.called(*range(2_100, 2_200))

    first = [(await replayed(shipper, spool_id))[-1] for spool_id in (DEAD, LIVING)]
    again = [(await replayed(shipper, spool_id))[-1] for spool_id in (DEAD, LIVING)]
    await ship(new_shipper(database))

    assert len(before[0]) == 100  # What is finished, the shipper does not read again.
    assert [counts(one)[:3] for one in first] == [(301, 0, 1), (100, 100, 0)]
    assert [counts(one)[:3] for one in again] == [(0, 301, 1), (0, 200, 0)]
    assert await facts(restored) == await facts(database)
    assert await aside(restored) == []


async def test_a_call_under_way_is_left_to_its_worker_and_booked_when_it_ends(database, living, new_shipper):
    """Guards that a replay takes nobody for gone who holds the lock: the call would be unknown, and then corrected."""
    living.called(1)
    living.begins(2)
    shipper = new_shipper(database)

    (done,) = await replayed(shipper, LIVING)
    meanwhile = await booked(database)
    living.ends(2)
    await ship(shipper)

    assert (done.new, done.unknown, meanwhile) == (1, 0, {1: "reported"})
    assert await booked(database) == {1: "reported", 2: "reported"}


async def test_a_replay_moves_no_position_and_touches_no_file(database, directory, dead, living, new_shipper):
    """Guards `spool_positions`: a position that a replay had moved would have the shipper pass over what it never read."""
    living.called(*range(2_000, 2_010))
    shipper = new_shipper(database)
    await ship(shipper)
    living.called(*range(2_010, 2_020))
    positions = await rows(database, spool_positions)
    files = {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in directory.iterdir()}

    for spool_id in (DEAD, LIVING):
        await replayed(shipper, spool_id)

    assert len(positions) == 2
    assert await rows(database, spool_positions) == positions
    assert {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in directory.iterdir()} == files


async def test_replays_at_once_beside_the_shipper_and_the_load_book_each_call_once(database, dead, living, new_shipper):
    """Guards that ids come from the records, whoever books them, and that those who book wait for each other in a line."""
    shipper = new_shipper(database, pace=Pace(20))

    async def load():
        for number in range(2_000, 2_400):
            living.called(number)
            await asyncio.sleep(0)

    await asyncio.gather(
        load(),
        ship(shipper),
        *(replayed(shipper, spool_id) for spool_id in (DEAD, LIVING) * 2),
        replayed(new_shipper(database, pace=Pace(7)), LIVING),
    )
    await ship(shipper)

    expected = dict.fromkeys([*range(300), *range(2_000, 2_400)], "reported") | {1_000: "unknown"}
    assert await booked(database) == expected
    assert sum(row.events for row in await rows(database, rollups)) == len(expected)
    assert await aside(database) == []


async def test_a_replay_of_a_spool_that_is_being_written_comes_to_an_end(database, living, new_shipper):
    """Guards the end that is taken down at the beginning: under load, the last record is never reached."""
    living.called(*range(40))
    shipper = new_shipper(database, pace=Pace(10))
    steps = 0

    async for step in replay(shipper, LIVING):
        done = step.done
        living.called(*range(100 + 20 * steps, 120 + 20 * steps))
        steps += 1
        assert steps < 50

    assert done
    assert set(range(40)) <= set(await booked(database))


async def test_a_replay_of_a_spool_that_is_being_written_goes_on_behind_a_hole(database, directory, new_shipper):
    """Guards what a replay is for: it ended where a block of zeros began that reached to the end of what one read takes, and
    said that it was done."""
    worker = Worker(directory, LIVING, segment_bytes=100 * RECORD_BYTES_MAX)
    worker.called(*range(600))
    hole = read(directory, LIVING, BEGINNING, 200).position.offset
    with segment_path(directory, LIVING, 0).open("r+b") as file:
        file.seek(hole)
        file.write(bytes(READ_BYTES - hole + 1000))
    with capture_logs():
        *_, last = await replayed(new_shipper(database), LIVING)
    worker.dies()

    assert last.done
    assert last.unreadable
    assert {0, 599} <= (await booked(database)).keys()


async def test_what_was_let_go_of_before_is_no_loss(database, directory, living, new_shipper):
    """Guards the place where a replay begins: else each one of a spool that is days old would alarm."""
    living.called(*range(300))
    old = segments(directory, LIVING)[:-1]
    for number in old:
        os.utime(segment_path(directory, LIVING, number), (0, 0))
    discard(directory, {LIVING: old[-1]}, RETENTION_S)

    with capture_logs() as logs:
        done = (await replayed(new_shipper(database), LIVING))[-1]

    assert 0 < done.new < 300
    assert (logs, await aside(database)) == ([], [])


async def test_what_is_let_go_of_meanwhile_is_not_set_aside_as_missing(database, directory, living, new_shipper):
    """Guards the quarantine, of which nothing is ever taken away, against what housekeeping did beside a replay."""
    living.called(*range(300))
    there = segments(directory, LIVING)
    assert len(there) > 4

    async for _ in replay(new_shipper(database, pace=Pace(10)), LIVING):
        for number in there[:3]:
            segment_path(directory, LIVING, number).unlink(missing_ok=True)

    assert 0 < len(await booked(database)) < 300
    assert await aside(database) == []


async def test_damage_that_was_mended_is_booked_and_what_was_not_is_set_aside_once(
    database, directory, dead, new_shipper
):
    """Guards that the name of what is set aside comes from where it lies, whoever reads it."""
    path = segment_path(directory, DEAD, 0)
    whole = path.read_bytes()
    # The outcome of a call is what names it after its intent.
    places = [whole.rindex(call_id(number).encode()) for number in (3, 9)]
    torn = bytearray(whole)
    for place in places:
        torn[place] ^= 1
    path.write_bytes(torn)
    shipper = new_shipper(database)
    await ship(shipper)
    damaged = await everything(database)
    torn[places[0]] ^= 1
    path.write_bytes(torn)

    first = (await replayed(shipper))[-1]
    mended = await everything(database)
    again = (await replayed(shipper))[-1]

    assert first.unreadable == again.unreadable == 1
    # Both were booked as left open, and one of them is now known after all.
    assert {row.corrects for row in mended[0]} == {None, call_id(3)}
    assert first.new == len(mended[0]) - len(damaged[0]) == 1
    assert [row.quarantine_id for row in mended[3]] == [row.quarantine_id for row in damaged[3]]
    assert (again.new, await everything(database)) == (0, mended)


async def test_a_replay_that_breaks_off_is_begun_again_and_loses_nothing(database, dead, new_shipper):
    """Guards that nothing is taken for booked which a transaction that failed was to book."""
    shipper = new_shipper(database, pace=Pace(50))
    transaction, left = database.transaction, [3]

    def failing():
        left[0] -= 1
        if left[0] < 0:
            raise DatabaseUnavailable("the line is cut")
        return transaction()

    database.transaction = failing
    with pytest.raises(DatabaseUnavailable):
        await replayed(shipper)
    del database.transaction
    part = len(await booked(database))
    done = (await replayed(shipper))[-1]

    assert 0 < part < 301
    assert (done.new, done.known) == (301 - part, part)
    assert len(await booked(database)) == 301


async def test_a_replay_holds_a_batch_at_a_time_and_tells_how_far_it_is(database, dead, new_shipper):
    """Guards memory: what a replay holds does not grow with the spool."""
    steps = await replayed(new_shipper(database, pace=Pace(50)))

    booked_by = [after.new - before.new for before, after in pairwise(steps)]
    read = [step.read_bytes for step in steps]
    assert len(steps) >= 6
    assert max(booked_by) <= 50
    assert read == sorted(read)
    assert steps[-1].done
    assert steps[-1].read_bytes == steps[-1].size_bytes
    assert not any(step.done for step in steps[:-1])


async def test_what_the_ledger_knows_otherwise_is_set_aside_and_counted(database, directory, new_shipper):
    """Guards that a replay changes no event: what a spool says otherwise goes beside the ledger."""
    other, worker = Worker(directory, "w0-0"), Worker(directory, DEAD)
    other.called(1)
    other.dies()
    await ship(new_shipper(database))
    worker.called(1, 2, resource="another")
    worker.wrote(b"{}")
    worker.dies()

    done = (await replayed(new_shipper(database)))[-1]
    again = (await replayed(new_shipper(database)))[-1]

    assert counts(done) == (1, 0, 0, 1, 0, 1)
    assert counts(again) == (0, 1, 0, 1, 0, 1)
    assert len(await rows(database, quarantine)) == 2


async def test_a_late_outcome_stays_the_correction_that_it_was(database, living, new_shipper, monkeypatch):
    """Guards against an unknown and its correction being met again: neither may be booked as something else."""
    shipper = new_shipper(database)
    living.begins(1)
    with monkeypatch.context() as patch:
        patch.setattr("gateway.shipper.CALL_S_MAX", -1)
        await ship(shipper)
    living.ends(1)
    await ship(shipper)
    before = await everything(database)

    done = (await replayed(shipper, LIVING))[-1]

    assert [row.kind for row in before[0]].count("correction") == 1
    assert (done.new, done.known) == (0, 1)
    assert await everything(database) == before


async def test_a_spool_that_is_gone_when_its_turn_comes_is_done(database, directory, new_shipper):
    (done,) = await replayed(new_shipper(database), "w0-gone")

    assert (done.done, done.new, done.size_bytes) == (True, 0, 0)
    assert kept(directory) == []
