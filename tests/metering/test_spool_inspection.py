"""What people are shown of a spool's files: all that lies there, all that is wrong with it, and nothing that was said."""

from __future__ import annotations

import msgspec
import pytest

from metering.spool import Spool, segment_path
from metering.spool_inspection import COPY, NO_CONTENT, found
from metering.spool_records import RECORD_BYTES_MAX, RecordKind, encode, seed_of
from tests.builders import call_id, closed, intent, payload, usage_event

SPOOL_ID = "w0-1"
CANARY = "hunter2"


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path, SPOOL_ID, fsync=False, segment_bytes=4 * RECORD_BYTES_MAX)
    spool.open()
    yield spool
    spool.close()


def call(spool, number):
    sequence = spool.admit(payload(intent(call_id=call_id(number))))
    spool.settle(sequence, RecordKind.OUTCOME, payload(usage_event(event_id=call_id(number))))


def summary(directory, segment=None):
    return [(one.kind, one.sequence, one.ends) for one in found(directory, SPOOL_ID, segment)]


def test_records_are_told_of_by_place_kind_call_and_what_they_end(tmp_path, spool):
    call(spool, 1)
    spool.settle(spool.admit(payload(intent(call_id=call_id(2)))), RecordKind.CLOSED, payload(closed(call_id(2))))

    begun, first, outcome, second, ended = found(tmp_path, SPOOL_ID)

    assert summary(tmp_path) == [
        ("begun", 0, None),
        ("intent", 1, None),
        ("outcome", 2, 1),
        ("intent", 3, None),
        ("closed", 4, 3),
    ]
    assert (begun.offset, begun.end) == (0, first.offset)
    assert first.end == outcome.offset
    for one in (first, outcome):
        assert (one.call_id, one.tenant_id, one.source, one.event_type) == (call_id(1), "acme", "openai", "llm_call")
    assert (first.completeness, outcome.completeness) == (None, "reported")
    assert second.call_id == ended.call_id == call_id(2)
    assert not any(one.wrong or one.note for one in found(tmp_path, SPOOL_ID))


def test_nothing_that_was_said_and_no_keyed_hash_is_told(tmp_path, spool):
    """Guards privacy: what is shown is pasted into tickets."""
    said = {"metadata": {"to": CANARY}, "tags": {"team": CANARY}, "resource": CANARY, "key_id": CANARY}
    sequence = spool.admit(payload(intent(**said)))
    more = {"external_id": CANARY, "description": CANARY}
    spool.settle(sequence, RecordKind.OUTCOME, payload(usage_event(**said, **more)))
    spool.note(f'{{"{CANARY}": 1}}'.encode())
    spool.settle(spool.admit(CANARY.encode()), RecordKind.CLOSED, payload(closed(reason=CANARY)))

    shown = msgspec.json.encode(list(found(tmp_path, SPOOL_ID))).decode()

    assert shown.count('"kind"') == 6
    assert CANARY not in shown


def test_damage_gaps_and_torn_ends_are_told_with_their_extent(tmp_path, spool):
    """Guards the extents: they are what the ledger's quarantine calls the same damage by."""
    for number in range(1, 4):
        call(spool, number)
    spool.close()
    path = segment_path(tmp_path, SPOOL_ID, 0)
    lying = list(found(tmp_path, SPOOL_ID))
    data = bytearray(path.read_bytes())
    data[lying[3].offset + 40] ^= 1
    path.write_bytes(data + b"torn" + bytes(1_000))

    wrong = [one for one in found(tmp_path, SPOOL_ID) if one.wrong]

    assert [(one.kind, one.offset, one.end) for one in wrong] == [
        ("damaged", lying[3].offset, lying[3].end),
        ("missing", lying[4].offset, lying[4].offset),
        ("torn", len(data), len(data) + 4),
    ]
    assert (wrong[1].sequence, wrong[1].last_sequence) == (3, 3)


def test_a_record_that_says_nothing_is_told_to_be_one(tmp_path, spool):
    spool.note(b"{}")
    spool.note(payload(usage_event(completeness="reported")))

    assert [(one.kind, one.note) for one in found(tmp_path, SPOOL_ID)][1:] == [
        ("outcome", NO_CONTENT),
        ("outcome", None),
    ]


def test_what_a_later_segment_says_again_is_a_copy_and_what_it_leaves_out_is_missing(tmp_path):
    seed = seed_of(SPOOL_ID)

    def segment(number, before, *sequences):
        outcome = payload(usage_event())
        records = [encode(RecordKind.OUTCOME, one, outcome, 0, seed) for one in sequences]
        begun = encode(RecordKind.BEGUN, before, b"", number, seed)
        segment_path(tmp_path, SPOOL_ID, number).write_bytes(b"".join([begun, *records]))

    segment(4, 70, 71, 72)
    segment(5, 71, 72, 73)
    segment(7, 90, 91)

    assert [(one.segment, one.kind, one.sequence, one.note) for one in found(tmp_path, SPOOL_ID)] == [
        (4, "begun", 70, None),
        (4, "outcome", 71, None),
        (4, "outcome", 72, None),
        (5, "begun", 71, None),
        (5, "outcome", 72, COPY),
        (5, "outcome", 73, None),
        (7, "begun", 90, None),
        (7, "missing", 74, None),
        (7, "outcome", 91, None),
    ]
    assert summary(tmp_path, 5) == [("begun", 71, None), ("outcome", 72, None), ("outcome", 73, None)]


def test_looking_changes_no_file(tmp_path, spool):
    call(spool, 1)
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}

    list(found(tmp_path, SPOOL_ID))

    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == files
