"""What was read of spools and is to be booked: records become facts, and are counted. Pure but for the log.

Apart from the shipper, whose every round this is the work of, since it runs for each record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.telemetry import log
from metering.facts import Fact, fact, read_fact, validated
from metering.intents import Intent
from metering.ledger import Aside
from metering.spool_reader import BEGINNING, Position
from metering.spool_records import Record, RecordKind

BATCH_BYTES_MAX: Final = 8 << 20
"""Records of one transaction, however few they are: half as much again as 4,000 calls leave that say little of themselves.
The last read may go over it by as much as one read."""

UNREADABLE: Final = "unreadable bytes in the spool"
MISSING: Final = "records missing in the spool"
NO_EVENT: Final = "a record that is no event"
"""Why what the spools hold is set aside; besides NO_BOOKING, and ledger.CONFLICT."""

_INTENT: Final = int(RecordKind.INTENT)
_CLOSED: Final = int(RecordKind.CLOSED)

_intent: Final = msgspec.json.Decoder(Intent).decode


class Open:
    """The intent of a call that has not ended."""

    def __init__(self, said: bytes, segment: int, seen_s: float) -> None:
        self.said = said
        self.segment = segment
        self.seen_s = seen_s
        """When it was read, by the loop's clock."""


class ReadSpool:
    """How far one spool was read, and the calls that are open in it."""

    def __init__(
        self,
        position: Position = BEGINNING,
        confirmed: Position = BEGINNING,
        booked: int = 0,
        confirmed_needed: int = 0,
        seen: int = 0,
        newest: int = 0,
    ) -> None:
        self.position = position
        self.confirmed = confirmed
        """The position up to which the ledger has everything."""
        self.booked = booked
        """The sequence up to which the ledger has everything."""
        self.confirmed_needed = confirmed_needed
        """What `needed` was then: what is before may be let go of."""
        self.seen = seen
        """The sequence up to which it was read; 0 where nothing was yet."""
        self.newest = newest
        """The segment that the record of that sequence is in. A later one may hold copies of what was before, and no more."""
        self.open: dict[int, Open] = {}
        """Intents without an outcome by their sequence, in the order in which they were read."""

    @property
    def needed(self) -> int:
        """The first segment that has to be read again to know all this."""
        return min([intent.segment for intent in self.open.values()], default=self.newest)


class Batch:
    """What was read and the ledger does not have yet."""

    def __init__(self, events_max: int) -> None:
        self.facts: list[Fact] = []
        self.aside: list[Aside] = []
        self.moved: set[str] = set()
        self.finished: list[str] = []
        self.left_open = 0
        """Calls whose outcome will not come, among the facts."""
        self.events_max = events_max
        self.size_bytes = 0

    @property
    def room(self) -> int:
        if self.size_bytes >= BATCH_BYTES_MAX:
            return 0
        return self.events_max - len(self.facts) - len(self.aside)

    @property
    def full(self) -> bool:
        return self.room <= 0

    @property
    def filled(self) -> float:
        """How much of what it may hold it holds; once it is full, 1 or more."""
        return max((len(self.facts) + len(self.aside)) / self.events_max, self.size_bytes / BATCH_BYTES_MAX)

    @property
    def empty(self) -> bool:
        return not (self.facts or self.aside or self.moved or self.finished)


def take(spool_id: str, spool: ReadSpool, records: Sequence[Record], seen_s: float, batch: Batch) -> None:
    """Take what was read of a spool to the batch. `seen_s` is the loop's clock."""
    segment, under_way, booked, seen = spool.position.segment, spool.open, spool.booked, spool.seen
    for record in records:
        sequence, payload = record.sequence, record.payload
        batch.size_bytes += len(payload)
        if sequence <= seen:
            # A copy of what was there before.
            continue
        before = seen or booked
        spool.seen = seen = sequence
        spool.newest = segment
        if sequence > before + 1:
            log.error("records_missing", spool=spool_id, first=before + 1, last=sequence - 1)
            gap = f"{spool_id}:{before + 1}-{sequence - 1}"
            batch.aside.append(Aside(gap, MISSING, gap))
        if record.kind == _INTENT:
            under_way[sequence] = Open(payload, segment, seen_s)
        elif record.kind == _CLOSED and record.intent:
            under_way.pop(record.intent, None)
        else:
            try:
                one = read_fact(payload)
            except ValueError as error:
                _no_event(spool_id, sequence, payload, error, batch)
            else:
                under_way.pop(record.intent, None)
                if sequence > booked:
                    batch.facts.append(one)


def leave_open(spool_id: str, sequence: int, said: bytes, batch: Batch) -> None:
    """Take a call whose outcome never came to the batch."""
    try:
        event = validated(_intent(said).unknown())
    except ValueError as error:
        _no_event(spool_id, sequence, said, error, batch)
    else:
        batch.facts.append(fact(event, msgspec.json.encode(event)))
        batch.left_open += 1


def _no_event(spool_id: str, sequence: int, said: bytes, error: ValueError, batch: Batch) -> None:
    log.error("record_not_bookable", spool=spool_id, sequence=sequence, reason=type(error).__name__)
    batch.aside.append(Aside(f"{spool_id}:{sequence}", NO_EVENT, said.decode("utf-8", "replace")))
