"""Corrupted spools through the shipper: damage is set aside, counted and alarmed, and stops nothing else."""

from __future__ import annotations

from random import Random

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from gateway.shipper import Shipper
from metering.spool_reader import spools
from metering.spool_records import Record, RecordKind
from metering.tables import quarantine, usage_events
from pricing.catalogue import load_books
from pricing.tables import charges
from tests.builders import NOON, call_id, closed, intent, payload, usage_event
from tests.metering.corruptions import corrupted, put, written
from tests.metering.workers import read_to_end

CORRUPTIONS = 200
BATCH = 40
"""So many corrupted spools are in one directory, with one that is whole between each two."""

CALLS = 20
ROUNDS_MAX = 100


def lived(spool_id, first, chance):
    """A worker's life: calls one within the other, most of them ended."""
    records, under_way = [], []
    for number in range(first, first + CALLS):
        records.append((RecordKind.INTENT, payload(intent(call_id=call_id(number))), 0))
        under_way.append((len(records), number))
        while len(under_way) > chance.randrange(4):
            sequence, ended = under_way.pop(chance.randrange(len(under_way)))
            used = chance.random() < 0.8
            said = usage_event(event_id=call_id(ended)) if used else closed(call_id(ended))
            records.append((RecordKind.OUTCOME if used else RecordKind.CLOSED, payload(said), sequence))
    return written(spool_id, chance, records)


def expected(records):
    """What the ledger is to have of a spool of which so many records are left, in this order: copies say nothing new."""
    events, under_way, seen = {}, {}, 0
    for record in records:
        if record.sequence <= seen:
            continue
        seen = record.sequence
        if record.kind == RecordKind.INTENT:
            under_way[record.sequence] = record.payload
        else:
            under_way.pop(record.intent, None)
            if record.kind == RecordKind.OUTCOME:
                events[number_in(record.payload)] = "reported"
    return {number_in(said): "unknown" for said in under_way.values()} | events


def number_in(said):
    at = said.index(call_id(0)[:24].encode())
    return int(said[at + 24 : at + 36], 16)


@pytest.mark.parametrize("first", range(0, CORRUPTIONS, BATCH))
async def test_damage_is_set_aside_and_counted_and_stops_nothing_else(sqlite_ledgers, tmp_path, first):
    """Guards what is set aside for each damage and gap, what a copy of records says (nothing), and reading on after both:
    without any of them this fails."""
    directory = tmp_path / "spool"
    directory.mkdir()
    ledger_has, damages, accidents = {}, 0, {}
    for number in range(first, first + BATCH):
        chance = Random(number)
        whole = lived(f"w{number}-whole", 2 * number * CALLS, chance)
        other = lived(f"w{number}-hit", (2 * number + 1) * CALLS, chance)
        segments, accidents[number] = corrupted(other.segments, list(whole.segments.values()), chance)
        put(directory, whole.spool_id, whole.segments)
        put(directory, other.spool_id, segments)
        ledger_has |= expected([Record(kind, at, of, said, 0) for at, (kind, said, of) in whole.records.items()])
        left = read_to_end(directory, other.spool_id, ended=True)
        ledger_has |= expected(left.records)
        damages += len(left.damages)

    async with sqlite_ledgers.new() as database:
        shipper = Shipper(directory, database, load_books(), lambda: NOON)
        with capture_logs() as logs:
            for _ in range(ROUNDS_MAX):
                if not await shipper.round():
                    break
        async with database.reading() as connection:
            events = (await connection.execute(select(usage_events.c.event_id, usage_events.c.completeness))).all()
            charged = (await connection.execute(select(charges.c.event_id))).all()
            asides = (await connection.execute(select(quarantine.c.reason))).scalars().all()

    assert spools(directory) == []
    assert {int(event_id[-12:], 16): completeness for event_id, completeness in events} == ledger_has, accidents
    assert len(charged) == len(events) == len(ledger_has)
    alarms = [line["event"] for line in logs]
    assert alarms.count("spool_damaged") == asides.count("unreadable bytes in the spool") == damages > 0
    assert alarms.count("records_missing") == asides.count("records missing in the spool") > 0
    assert set(asides) == {"unreadable bytes in the spool", "records missing in the spool"}
