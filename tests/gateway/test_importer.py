"""Importing what happened elsewhere, into both engines: each record by itself, once, at its own date."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import func, select

from gateway.importer import Importer
from gateway.shipper import Shipper
from metering.tables import pending_events, quarantine, usage_events
from pricing.tables import charges, rollups
from tests.builders import NOON, fact, usage_event
from tests.gateway.test_call_details import AI, CALL


@pytest.fixture
def shipper(database, books, tmp_path):
    return Shipper(tmp_path, database, books, lambda: NOON)


@pytest.fixture
def importer(database, shipper):
    return Importer(database, lambda facts: shipper.book(facts, []), "hash of {}".format, lambda: NOON)


async def imports(importer, *records, source="cdr"):
    return [(one.status.value, one.field) for one in await importer.book("acme", source, records)]


async def rows(database, statement):
    async with database.reading() as connection:
        return (await connection.execute(statement)).all()


async def sums(database):
    found = await rows(
        database,
        select(rollups.c.event_type, func.sum(rollups.c.events), func.sum(rollups.c.seconds)).group_by(
            rollups.c.event_type
        ),
    )
    return {row[0]: (int(row[1]), None if row[2] is None else int(row[2])) for row in found}


async def test_a_bad_record_stops_no_other_and_each_says_what_became_of_it(database, importer):
    got = await imports(
        importer,
        CALL,
        CALL | {"uuid": "b", "billsec": "x"},
        CALL | {"uuid": "c"},
        CALL,
        CALL | {"billsec": "62"},
        CALL | {"uuid": "d", "start_stamp": "2026-12-24 00:00:00"},
        {},
    )

    assert got == [
        ("created", None),
        ("invalid", "billsec"),
        ("created", None),
        ("duplicate", None),
        ("conflict", None),
        ("invalid", "time"),
        ("invalid", "record"),
    ]
    assert await sums(database) == {"call_outbound": (2, None), "call_minutes": (0, 122)}
    assert await rows(database, select(pending_events)) == []


@pytest.mark.parametrize(
    "changes", [{"billsec": "62"}, {"start_stamp": "2026-11-20 11:00:00"}, {"direction": "inbound"}]
)
async def test_told_again_it_is_a_duplicate_and_told_otherwise_a_conflict(database, importer, changes):
    await imports(importer, CALL)

    assert await imports(importer, CALL) == [("duplicate", None)]
    assert await imports(importer, CALL | changes) == [("conflict", None)]
    assert await sums(database) == {"call_outbound": (1, None), "call_minutes": (0, 61)}
    assert await rows(database, select(quarantine)) == []


async def test_imported_at_once_it_is_booked_once(database, importer):
    records = [CALL | {"uuid": f"call-{number}"} for number in range(40)]

    got = await asyncio.gather(*(imports(importer, *records) for _ in range(4)))

    assert sum(status == "created" for one in got for status, _ in one) == 40
    assert await sums(database) == {"call_outbound": (40, None), "call_minutes": (0, 40 * 61)}


async def test_numbers_are_kept_as_keyed_hashes(database, importer):
    await imports(importer, CALL)

    kept = repr(await rows(database, select(usage_events)))
    assert "'hash of +15005550006'" in kept
    assert "'+15005550006'" not in kept


async def test_an_ai_call_is_priced_at_its_own_date(database, importer):
    early, late = AI | {"id": "early", "time": "2024-06-01T00:00:00Z"}, AI | {"id": "late"}

    assert await imports(importer, early, late, source="openai") == [("created", None)] * 2

    at = usage_events.c
    found = await rows(
        database,
        select(at.external_id, at.event_day, charges.c.cost_nano)
        .join(charges, (charges.c.event_id == at.event_id) & (charges.c.tenant_id == at.tenant_id))
        .order_by(at.external_id),
    )
    assert [(row.external_id, row.event_day) for row in found] == [("early", "2024-06-01"), ("late", "2026-11-20")]
    assert all(row.cost_nano for row in found)


async def test_what_the_gateway_recorded_itself_is_not_counted_again(database, importer, shipper):
    await shipper.book([fact(usage_event(external_id="chatcmpl-1"))], [])

    assert await imports(importer, AI, source="openai") == [("duplicate", None)]
    assert len(await rows(database, select(usage_events))) == 1
