"""The form of a spool record: bytes ⇄ values. Pure.

    magic u16 | version u8 | kind u8 | payload length u32 | sequence u64 | CRC-32C u32 | payload

little-endian, the checksum over everything but itself (RFC 3720 appendix B.4 has the polynomial). Zeros where a record
should begin are the preallocated rest of a segment. After damage, reading goes on at the next record that is whole.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import google_crc32c

MAGIC = 0x7B1C
VERSION = 1
_HEAD = struct.Struct("<HBBIQ")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEAD.size + _CHECKSUM.size
RECORD_BYTES_MAX = 16 << 10
"""A whole record. So much room is kept for every call under way."""

_MAGIC_BYTES = struct.pack("<H", MAGIC)


class RecordKind(IntEnum):
    """What a record says about a call."""

    INTENT = 1
    """It is about to be forwarded."""
    OUTCOME = 2
    """It used this: a whole event."""
    CLOSED = 3
    """It used nothing: refused, failed, or never sent."""


class Record(NamedTuple):
    """One whole record."""

    kind: int
    sequence: int
    payload: bytes
    end: int
    """The offset after it."""


class Damage(NamedTuple):
    """Bytes that are no whole record, and after which there are whole ones."""

    start: int
    end: int


def encode(kind: RecordKind, sequence: int, payload: bytes) -> bytes:
    """The bytes of a record. Raises ValueError if it would exceed RECORD_BYTES_MAX."""
    if HEADER_BYTES + len(payload) > RECORD_BYTES_MAX:
        raise ValueError(f"a record of {len(payload)} bytes exceeds {RECORD_BYTES_MAX}")
    head = _HEAD.pack(MAGIC, VERSION, kind, len(payload), sequence)
    return head + _CHECKSUM.pack(google_crc32c.value(head + payload)) + payload


def scan(data: bytes, offset: int = 0) -> Iterator[Record | Damage]:
    """The records from an offset on, in order. Ends before zeros, and before a torn record that nothing whole follows."""
    while True:
        record = _whole(data, offset)
        if record is None:
            start = offset
            while record is None:
                offset = data.find(_MAGIC_BYTES, offset + 1)
                if offset < 0:
                    return
                record = _whole(data, offset)
            yield Damage(start, offset)
        yield record
        offset = record.end


def _whole(data: bytes, offset: int) -> Record | None:
    start = offset + HEADER_BYTES
    if start > len(data):
        return None
    magic, version, kind, length, sequence = _HEAD.unpack_from(data, offset)
    if magic != MAGIC or version != VERSION or length > RECORD_BYTES_MAX - HEADER_BYTES or start + length > len(data):
        return None
    payload = data[start : start + length]
    (checksum,) = _CHECKSUM.unpack_from(data, offset + _HEAD.size)
    if google_crc32c.value(data[offset : offset + _HEAD.size] + payload) != checksum:
        return None
    return Record(kind, sequence, payload, start + length)
