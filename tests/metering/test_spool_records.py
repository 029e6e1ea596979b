"""Records come back as they were written, and damage costs the records that it touches: no other, and never a wrong one."""

from __future__ import annotations

import struct

import google_crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering.spool_records import HEADER_BYTES, RECORD_BYTES_MAX, Damage, Record, RecordKind, encode, scan, seed_of
from tests.builders import intent, payload, usage_event

SEED = seed_of("w0-one")

PAYLOADS = st.lists(st.binary(max_size=60), max_size=8)
KINDS = st.sampled_from(RecordKind)


def written(payloads: list[bytes], kind: RecordKind = RecordKind.OUTCOME) -> list[bytes]:
    return [encode(kind, number, one, 0, SEED) for number, one in enumerate(payloads, 1)]


def records(data: bytes) -> list[Record]:
    return [found for found in scan(data, 0, SEED) if isinstance(found, Record)]


def damages(data: bytes) -> list[Damage]:
    return [found for found in scan(data, 0, SEED) if isinstance(found, Damage)]


@given(st.lists(st.tuples(KINDS, st.binary(max_size=2_000), st.integers(0, 2**64 - 1))), st.integers(0, 100))
def test_whatever_is_written_is_read(given_records, zeros):
    written = [encode(kind, number, one, intent, SEED) for number, (kind, one, intent) in enumerate(given_records, 1)]
    data = b"".join(written) + bytes(zeros)

    found = list(scan(data, 0, SEED))

    assert [(record.kind, record.payload, record.intent) for record in found] == given_records
    assert [record.sequence for record in found] == list(range(1, len(found) + 1))
    assert (found[-1].end if found else 0) == len(data) - zeros


def test_reading_begins_where_it_ended_before():
    data = b"".join(written([b"first", b"second", b"third"]))
    first = next(scan(data, 0, SEED))

    assert [record.payload for record in scan(data, first.end, SEED)] == [b"second", b"third"]


def test_the_form_is_the_published_one():
    """Spools that older releases wrote must stay readable: this holds the form still."""
    record = encode(RecordKind.CLOSED, 258, b"{}", 257, seed_of("w0-one"))

    head = bytes.fromhex("1c7b 03 03 02000000 0201000000000000 0101000000000000")
    assert record == head + struct.pack("<I", google_crc32c.value(b"w0-one" + head + b"{}")) + b"{}"
    # RFC 3720, appendix B.4: 32 bytes of zeros.
    assert google_crc32c.value(bytes(32)) == 0x8A9136AA


@given(st.text(max_size=40), st.text(max_size=40), st.binary(max_size=300))
def test_a_record_of_another_spool_is_no_record(ours, other, content):
    """Guards a segment that was put into the wrong place: what it holds would be taken for what the worker wrote."""
    data = encode(RecordKind.OUTCOME, 1, content, 0, seed_of(other))

    found = [(one.kind, one.sequence, one.intent, one.payload, one.end) for one in scan(data, 0, seed_of(ours))]

    assert found == ([] if ours != other else [(2, 1, 0, content, len(data))])


def test_a_record_has_a_largest_size_and_it_is_usable():
    largest = bytes(RECORD_BYTES_MAX - HEADER_BYTES)

    data = encode(RecordKind.OUTCOME, 1, largest, 0, SEED)
    with pytest.raises(ValueError, match="exceeds"):
        encode(RecordKind.OUTCOME, 1, largest + b"x", 0, SEED)

    assert len(data) == RECORD_BYTES_MAX
    assert [record.payload for record in records(data)] == [largest]


def test_no_value_of_ours_can_hold_what_looks_like_a_record():
    """What tenants send is escaped in a payload, so nobody can have a record of their own found in a damaged one."""
    forged = encode(RecordKind.OUTCOME, 7, b"{}", 0, SEED).decode("latin-1")

    data = payload(usage_event(description=forged, tags={forged: forged}))
    begun = payload(intent(tags={forged: forged}))

    assert encode(RecordKind.OUTCOME, 1, b"", 0, SEED)[:2] not in data
    assert encode(RecordKind.OUTCOME, 1, b"", 0, SEED)[:2] not in begun


# ---------------------------------------------------------------------------------------------------------------------
# Damage

OFFSETS = st.integers(0, 1 << 20)
"""Taken modulo the length of what is damaged."""

CORRUPTION = st.one_of(
    st.tuples(st.just("flip"), OFFSETS, st.integers(0, 7), st.none()),
    st.tuples(st.just("zero"), OFFSETS, st.integers(1, 200), st.none()),
    st.tuples(st.just("truncate"), OFFSETS, st.none(), st.none()),
    st.tuples(st.just("insert"), OFFSETS, st.binary(min_size=1, max_size=60), st.none()),
    st.tuples(st.just("duplicate"), OFFSETS, st.integers(1, 200), OFFSETS),
)


def corrupted(data: bytes, corruption) -> bytes:
    what, offset, size, target = corruption
    if not data:
        return data
    at = offset % len(data)
    match what:
        case "flip":
            return data[:at] + bytes([data[at] ^ (1 << size)]) + data[at + 1 :]
        case "zero":
            return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]
        case "truncate":
            return data[:at]
        case "insert":
            return data[:at] + size + data[at:]
        case _:
            to = target % len(data)
            return data[:to] + data[at : at + size] + data[to:]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PAYLOADS, st.integers(0, 40), st.lists(CORRUPTION, min_size=1, max_size=4))
def test_damage_costs_the_records_it_touches_and_yields_no_wrong_one(payloads, zeros, corruptions):
    """A10. Watches the checksum over the header and the payload, and reading on after damage."""
    whole = written(payloads)
    data = b"".join(whole) + bytes(zeros)
    for corruption in corruptions:
        data = corrupted(data, corruption)

    found = list(scan(data, 0, SEED))

    read = [one for one in found if isinstance(one, Record)]
    assert {(one.sequence, one.payload) for one in read} <= set(enumerate(payloads, 1))
    assert {one.kind for one in read} <= {RecordKind.OUTCOME}
    # What is found lies one after the other, and in what is given up there is no whole record.
    reached, given_up = 0, []
    for one in found:
        start = one.start if isinstance(one, Damage) else one.end - HEADER_BYTES - len(one.payload)
        assert start == reached < one.end
        if isinstance(one, Damage):
            given_up.append(data[one.start : one.end])
        reached = one.end
    given_up.append(data[reached:])
    assert [number for number, record in enumerate(whole, 1) for lost in given_up if record in lost] == []


@given(PAYLOADS.filter(len), st.data())
def test_one_flipped_bit_costs_one_record(payloads, data):
    """Watches the checksum: without it the flipped bit would be read as it is."""
    whole = b"".join(written(payloads))
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))

    read = records(corrupted(whole, ("flip", at, bit, None)))

    assert len(read) == len(payloads) - 1


def test_a_record_that_was_torn_by_the_death_of_its_writer_is_passed_over_in_silence():
    first, last = written([b"first", b"last"])

    for length in range(len(last)):
        torn = first + last[:length]
        for data in (torn, torn + bytes(100)):
            assert [record.payload for record in records(data)] == [b"first"], length
            assert damages(data) == [], length


def test_damage_before_a_whole_record_is_named_to_the_byte():
    first, second, third = written([b"first", b"second", b"third"])

    found = damages(first + bytes(len(second)) + third)

    assert found == [Damage(len(first), len(first) + len(second))]


@pytest.mark.parametrize("noise", [b"", b"\x1c", b"\x1c\x7b", bytes(5_000), b"\x1c\x7b" * 2_500, b"\xff" * 5_000])
def test_what_was_never_a_spool_holds_nothing(noise):
    assert list(scan(noise, 0, SEED)) == []
