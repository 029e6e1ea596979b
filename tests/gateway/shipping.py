"""Workers as their spools have them, and looks at what became of them in the ledger."""

from __future__ import annotations

import asyncio
import datetime as dt

from sqlalchemy import select

from metering.spool import Spool
from metering.spool_records import RECORD_BYTES_MAX, RecordKind
from metering.tables import quarantine, usage_events
from pricing.tables import charges, rollups
from tests.builders import NOON, call_id, closed, intent, payload, usage_event

PATIENCE_S = 30
"""How long anything may take that should take a moment."""

SEGMENT_BYTES = 5 * RECORD_BYTES_MAX


class Clock:
    """A clock that moves when it is looked at, so that what one transaction wrote can be told from the next."""

    def __init__(self):
        self.now = NOON

    def __call__(self):
        self.now += dt.timedelta(milliseconds=1)
        return self.now


class Worker:
    """A worker's life, as its spool has it. Calls have numbers."""

    def __init__(self, directory, name="w0-1", segment_bytes=SEGMENT_BYTES, *, fsync=False):
        self.spool = Spool(directory, name, fsync=fsync, segment_bytes=segment_bytes)
        self.spool.open()
        self.intents = {}

    def begins(self, number, **changes):
        self.intents[number] = self.spool.admit(payload(intent(call_id=call_id(number), **changes)))

    def ends(self, number, **changes):
        said = payload(usage_event(event_id=call_id(number), **changes))
        self.spool.settle(self.intents.pop(number), RecordKind.OUTCOME, said)

    def used_nothing(self, number):
        self.spool.settle(self.intents.pop(number), RecordKind.CLOSED, payload(closed(call_id(number))))

    def called(self, *numbers, **changes):
        for number in numbers:
            self.begins(number)
            self.ends(number, **changes)

    def wrote(self, content, kind=RecordKind.OUTCOME):
        """A record that no release of ours writes."""
        self.spool._write(kind, content)

    def dies(self):
        self.spool.close()


async def ship(shipper):
    """Rounds until there is nothing more."""
    async with asyncio.timeout(PATIENCE_S):
        while await shipper.round():
            pass


async def rows(database, table):
    async with database.reading() as connection:
        return (await connection.execute(select(table).order_by(*table.primary_key.columns))).all()


async def booked(database):
    """The events in the ledger: call number → completeness."""
    found = {int(row.event_id[-12:], 16): row.completeness for row in await rows(database, usage_events)}
    assert len(found) == len(await rows(database, charges)) == len(await rows(database, usage_events))
    return found


async def aside(database):
    return [row.reason for row in await rows(database, quarantine)]


async def everything(database):
    """All tables that are the same however often facts are shipped."""
    return [await rows(database, table) for table in (usage_events, charges, rollups, quarantine)]
