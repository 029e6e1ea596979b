"""Records become facts once and in order: copies are passed over, what is missing is said, what ends a call closes it."""

from __future__ import annotations

import msgspec
import pytest

from gateway.spool_batches import BATCH_BYTES_MAX, MISSING, NO_EVENT, Batch, ReadSpool, leave_open, take
from metering.intents import Intent
from metering.spool_reader import Position
from metering.spool_records import Record, RecordKind
from metering.usage import Completeness
from tests.builders import NOON_MS, call_id, usage_event

SPOOL_ID = "w1-a"


def intent(number):
    said = Intent(
        call_id=call_id(number),
        tenant_id="acme",
        source="openai",
        event_type="llm_call",
        endpoint="chat.completions",
        occurred_at_ms=NOON_MS,
    )
    return msgspec.json.encode(said)


def outcome(number):
    return msgspec.json.encode(usage_event(event_id=call_id(number)))


@pytest.fixture
def spool():
    return ReadSpool(Position(3, 0))


@pytest.fixture
def batch():
    return Batch(10)


def taken(spool, batch, *records, seen_s=1.0):
    take(SPOOL_ID, spool, [Record(kind, at, of, said, 0) for kind, at, of, said in records], seen_s, batch)
    return [fact.event.event_id for fact in batch.facts]


def test_an_outcome_is_a_fact_and_ends_its_call(spool, batch):
    said = outcome(1)
    events = taken(spool, batch, (RecordKind.INTENT, 1, 0, intent(1)), (RecordKind.OUTCOME, 2, 1, said))

    assert events == [call_id(1)]
    assert batch.facts[0].said == said
    assert (spool.open, spool.seen, spool.newest) == ({}, 2, 3)
    assert batch.size_bytes == len(intent(1)) + len(said)


def test_a_call_that_used_nothing_is_closed_without_a_fact(spool, batch):
    assert taken(spool, batch, (RecordKind.INTENT, 1, 0, intent(1)), (RecordKind.CLOSED, 2, 1, b"")) == []
    assert spool.open == {}
    assert batch.empty


def test_a_copy_of_what_was_there_before_changes_nothing(spool, batch):
    record = (RecordKind.OUTCOME, 1, 0, outcome(1))

    assert taken(spool, batch, record, record) == [call_id(1)]
    assert batch.aside == []


def test_what_the_ledger_has_is_no_fact_and_its_open_calls_are_found_again(batch):
    spool = ReadSpool(Position(3, 0), booked=2)
    records = (RecordKind.INTENT, 1, 0, intent(1)), (RecordKind.OUTCOME, 2, 0, outcome(2))

    assert taken(spool, batch, *records, (RecordKind.OUTCOME, 3, 0, outcome(3))) == [call_id(3)]
    assert list(spool.open) == [1]


def test_records_that_are_missing_are_set_aside_by_their_extent(spool, batch):
    taken(spool, batch, (RecordKind.OUTCOME, 1, 0, outcome(1)), (RecordKind.OUTCOME, 5, 0, outcome(2)))

    assert [(one.quarantine_id, one.reason) for one in batch.aside] == [(f"{SPOOL_ID}:2-4", MISSING)]
    assert len(batch.facts) == 2


def test_what_is_no_event_is_set_aside_and_leaves_its_call_open(spool, batch):
    taken(spool, batch, (RecordKind.INTENT, 1, 0, intent(1)), (RecordKind.OUTCOME, 2, 1, b"{}"))

    assert [(one.quarantine_id, one.reason, one.record) for one in batch.aside] == [(f"{SPOOL_ID}:2", NO_EVENT, "{}")]
    assert list(spool.open) == [1]


def test_the_first_segment_that_is_needed_is_that_of_the_first_call_that_is_open(spool, batch):
    taken(spool, batch, (RecordKind.INTENT, 1, 0, intent(1)))
    spool.position = Position(4, 0)
    taken(spool, batch, (RecordKind.INTENT, 2, 0, intent(2)))

    assert spool.needed == 3
    taken(spool, batch, (RecordKind.CLOSED, 3, 1, b""))
    assert spool.needed == 4
    taken(spool, batch, (RecordKind.CLOSED, 4, 2, b""))
    assert spool.needed == spool.newest == 4


def test_a_call_whose_outcome_never_came_is_unknown_and_one_that_can_not_be_read_is_set_aside(batch):
    leave_open(SPOOL_ID, 1, intent(1), batch)
    leave_open(SPOOL_ID, 2, b"?", batch)

    assert [fact.event.completeness for fact in batch.facts] == [Completeness.UNKNOWN]
    assert [one.quarantine_id for one in batch.aside] == [f"{SPOOL_ID}:2"]
    assert batch.left_open == 1


def test_a_batch_is_full_of_events_or_of_bytes():
    assert Batch(1).room == 1
    batch = Batch(1)
    leave_open(SPOOL_ID, 1, intent(1), batch)
    assert batch.full

    large = Batch(10)
    large.size_bytes = BATCH_BYTES_MAX
    assert (large.full, large.empty) == (True, True)
