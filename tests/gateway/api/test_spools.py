"""/v1/spools and /v1/quarantine: what an operator sees of what was recorded, and a spool booked once more."""

from __future__ import annotations

import asyncio
import datetime as dt
import json

import aiohttp
import pytest
from structlog.testing import capture_logs

from gateway.api.parts import STOPPING
from gateway.shipper import BESIDE_CALLS
from metering.database import DatabaseUnavailable
from metering.ledger import Aside, set_aside
from metering.tables import quarantine
from tests.gateway.shipping import PATIENCE_S, Worker, aside, booked, rows, ship

CANARY = "hunter2"


@pytest.fixture
def worker(api):
    worker = Worker(api.shipper.directory, "w0-2")
    yield worker
    worker.dies()


def dead(api, *numbers, name="w0-1"):
    worker = Worker(api.shipper.directory, name)
    worker.called(*numbers)
    worker.dies()


def lines(answer):
    return [json.loads(line) for line in answer.body.splitlines()]


# ---------------------------------------------------------------------------------------------------------------------
# What is there


async def test_each_spool_is_told_of_with_how_far_the_ledger_has_it(api, worker):
    dead(api, *range(10))
    await ship(api.shipper)
    worker.called(*range(10, 20))
    await ship(api.shipper)
    worker.called(20)

    finished, written = (await api.get("/v1/spools")).document["data"]
    api.clock.now += dt.timedelta(seconds=90)
    document = (await api.get("/v1/spools")).document

    assert (finished["spool_id"], finished["worker"], finished["finished"]) == ("w0-1", "gone", True)
    assert (written["spool_id"], written["worker"], written["finished"]) == ("w0-2", "alive", False)
    assert (finished["unbooked_bytes"], finished["booked_sequence"]) == (0, 20)
    assert (0 < written["unbooked_bytes"] < 2_000, written["booked_sequence"]) == (True, 20)
    assert finished["written_at"] < finished["kept_until"]
    assert written["kept_until"] is None
    assert finished["readable"]
    assert 0 < finished["size_bytes"] < written["size_bytes"]
    assert document["unbooked_bytes"] == written["unbooked_bytes"]
    assert document["unbooked_age_s"] == 90
    assert document["room_bytes"] > 0
    assert (document["failing"], document["quarantine"]) == (None, [])


async def test_where_nothing_was_ever_recorded_there_is_no_spool_and_room(api):
    document = (await api.get("/v1/spools")).document

    assert document["data"] == []
    assert document["room_bytes"] > 0
    assert (document["unbooked_bytes"], document["unbooked_age_s"]) == (0, 0)


async def test_what_stands_in_the_way_of_booking_is_told(api, worker):
    api.shipper.failing = "the disk is full"
    api.shipper.unreadable.add("w0-2")

    document = (await api.get("/v1/spools")).document

    assert document["failing"] == "the disk is full"
    assert [one["readable"] for one in document["data"]] == [False]


async def test_what_was_set_aside_is_counted_by_reason_and_listed_without_what_is_in_it(api):
    """Guards what is set aside, which may be anything: nobody is shown it who asks what there is."""
    for number in range(5):
        records = [Aside(f"w0-1:{number}", "a record that is no event", CANARY, "acme" if number else None)]
        async with api.database.transaction() as connection:
            await set_aside(connection, [*records, Aside(f"other-{number // 2}", "other", CANARY)], api.clock.now)
        api.clock.now += dt.timedelta(minutes=1)

    counted = (await api.get("/v1/spools")).document["quarantine"]
    pages, path = [], "/v1/quarantine?limit=3"
    while path:
        page = await api.get(path)
        assert CANARY not in page.body.decode()
        pages.append(page.document["data"])
        cursor = page.document["next_cursor"]
        path = f"/v1/quarantine?limit=3&cursor={cursor}" if cursor else ""
    listed = [one for page in pages for one in page]

    assert counted == [
        {"reason": "a record that is no event", "records": 5, "last_at": "2026-11-20T12:04:00.000Z"},
        {"reason": "other", "records": 3, "last_at": "2026-11-20T12:04:00.000Z"},
    ]
    assert [len(page) for page in pages] == [3, 3, 2]
    assert len({one["quarantine_id"] for one in listed}) == 8
    assert listed == sorted(listed, key=lambda one: (one["set_aside_at"], one["quarantine_id"]), reverse=True)
    assert listed[-1] == {
        "quarantine_id": "other-0",
        "reason": "other",
        "tenant_id": None,
        "set_aside_at": "2026-11-20T12:00:00.000Z",
    }
    assert len(await rows(api.database, quarantine)) == 8


# ---------------------------------------------------------------------------------------------------------------------
# Once more


async def test_a_replay_says_after_each_batch_how_far_it_is_and_at_last_that_it_is_done(api):
    """Guards that the answer leaves in pieces: a spool of hours takes longer than anybody waits for silence."""
    dead(api, *range(BESIDE_CALLS.batch_events_max + 10))

    answer = await api.post("/v1/spools/w0-1/replay")
    again = await api.post("/v1/spools/w0-1/replay")

    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert [(one["new"], one["known"], one["done"]) for one in lines(answer)] == [
        (BESIDE_CALLS.batch_events_max, 0, False),
        (BESIDE_CALLS.batch_events_max + 10, 0, True),
    ]
    assert [one["new"] for one in lines(again)] == [0, 0]
    assert len(await booked(api.database)) == BESIDE_CALLS.batch_events_max + 10


async def test_who_replayed_what_is_in_the_audit_log(api):
    """Guards the audit: a replay adds to what tenants are charged."""
    dead(api, 1)
    ada = await api.admin("ada", "admin")

    await api.post("/v1/spools/w0-1/replay", key=ada)

    (entry,) = (await api.get("/v1/audit")).document["data"]
    assert (entry["actor"], entry["action"], entry["subject"]) == ("admin:ada", "spool.replay", "w0-1")


@pytest.mark.parametrize("spool_id", ["w0-9", "..%2Fspool%2Fw0-1", "w0-1.lock", "%00"])
async def test_a_spool_that_is_not_there_is_not_found_and_no_file_is_looked_for(spool_id, api):
    dead(api, 1)

    answer = await api.post(f"/v1/spools/{spool_id}/replay")

    assert (answer.status, answer.problem["type"]) == (404, "urn:tollkeeper:no-such-spool")
    assert (await api.get("/v1/audit")).document["data"] == []


async def test_a_replay_whose_database_fails_breaks_off_and_does_not_say_that_it_is_done(api, monkeypatch):
    """Guards the end of the answer: what was booked in part must not pass for all of it."""
    dead(api, *range(3 * BESIDE_CALLS.batch_events_max))
    book, left = api.shipper.book, [2]

    async def failing(*asked):
        left[0] -= 1
        if left[0] == 0:
            raise DatabaseUnavailable("the line is cut")
        return await book(*asked)

    monkeypatch.setattr(api.shipper, "book", failing)
    with capture_logs() as logs, pytest.raises(aiohttp.ClientError):
        await api.post("/v1/spools/w0-1/replay")
    monkeypatch.undo()

    assert [(line["event"], line["reason"]) for line in logs] == [("replay_broken_off", "the line is cut")]
    assert lines(await api.post("/v1/spools/w0-1/replay"))[-1]["new"] == 2 * BESIDE_CALLS.batch_events_max
    assert await aside(api.database) == []


class Gate:
    """Stands before booking: lets so many batches pass, and the rest when it is opened."""

    def __init__(self, shipper, batches):
        self.batches = batches
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self._book, shipper.book = shipper.book, self

    async def __call__(self, *asked):
        self.batches -= 1
        if self.batches < 0:
            self.reached.set()
            await self.opened.wait()
        return await self._book(*asked)


async def test_a_gateway_that_stops_does_not_wait_for_a_replay(api):
    """Guards the stop of the server, which has a minute for all it has to do, and a replay may have hours."""
    dead(api, *range(6 * BESIDE_CALLS.batch_events_max))
    gate = Gate(api.shipper, 2)
    asked = asyncio.create_task(api.post("/v1/spools/w0-1/replay"))

    async with asyncio.timeout(PATIENCE_S):
        await gate.reached.wait()
        stopped = asyncio.create_task(api.runner.cleanup())
        await api.runner.app[STOPPING].wait()
        gate.opened.set()
        await stopped
        with pytest.raises(aiohttp.ClientError):
            await asked

    assert len(await booked(api.database)) == 3 * BESIDE_CALLS.batch_events_max


async def test_a_replay_that_nobody_waits_for_ends_in_silence(api):
    """Guards what goes on unseen: whoever interrupts the command has interrupted the replay."""
    dead(api, *range(40 * BESIDE_CALLS.batch_events_max))
    gate = Gate(api.shipper, 2)
    asked = asyncio.create_task(api.post("/v1/spools/w0-1/replay"))

    with capture_logs() as logs:
        async with asyncio.timeout(PATIENCE_S):
            await gate.reached.wait()
            asked.cancel()
            gate.opened.set()
            before = 0
            while before != gate.batches:
                before = gate.batches
                await asyncio.sleep(0.5)

    assert len(await booked(api.database)) < 20 * BESIDE_CALLS.batch_events_max
    assert logs == []
