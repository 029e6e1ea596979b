"""The form of a spool record: bytes ⇄ values. Pure.

    magic u16 | version u8 | kind u8 | payload length u32 | sequence u64 | intent u64 | CRC-32C u32 | payload

little-endian, the checksum over everything but itself (RFC 3720 appendix B.4 has the polynomial), and begun with that of the
spool's id: a record that came into another spool's files is no record there. `intent` is the sequence of the intent that
the record ends, 0 where it ends none: whoever reads need not look into intents. Each segment begins with a record of kind
BEGUN, whose `intent` is the segment's number and whose sequence that of the last record before. Zeros where a record should
begin are the preallocated rest of a segment. After damage, reading goes on at the next record that is whole. Records of
other versions, which no release wrote, are damage.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

import google_crc32c

MAGIC: Final = 0x7B1C
VERSION: Final = 3
_HEAD: Final = struct.Struct("<HBBIQQ")
_CHECKSUM: Final = struct.Struct("<I")
_HEADER: Final = struct.Struct(_HEAD.format + _CHECKSUM.format[1:])
HEADER_BYTES: Final = _HEADER.size
_HEAD_BYTES: Final = _HEAD.size
RECORD_BYTES_MAX: Final = 16 << 10
"""A whole record. So much room is kept for every call under way."""

PAYLOAD_BYTES_MAX: Final = RECORD_BYTES_MAX - HEADER_BYTES

_pack_head: Final = _HEAD.pack
_read_header: Final = _HEADER.unpack_from
_pack_checksum: Final = _CHECKSUM.pack
_crc32c: Final = google_crc32c.value
_crc32c_after: Final = google_crc32c.extend

_MAGIC_FIRST: Final = struct.pack("<H", MAGIC)[:1]
"""Looked for alone, since one byte is found fifty times as fast as two, and in no text of JSON."""


class RecordKind(IntEnum):
    """What a record says about a call."""

    INTENT = 1
    """It is about to be forwarded."""
    OUTCOME = 2
    """It used this: a whole event."""
    CLOSED = 3
    """It used nothing: refused, failed, or never sent."""
    BEGUN = 4
    """None: a segment begins."""


_BEGUN: Final = int(RecordKind.BEGUN)


class Record:
    """One whole record."""

    def __init__(self, kind: int, sequence: int, intent: int, payload: bytes, end: int) -> None:
        self.kind = kind
        self.sequence = sequence
        self.intent = intent
        """The sequence of the intent that it ends; 0 for none."""
        self.payload = payload
        self.end = end
        """The offset after it."""


class Damage(NamedTuple):
    """Bytes that are no whole record, and after which there are whole ones."""

    start: int
    end: int


def seed_of(spool_id: str) -> int:
    """What the checksums of a spool's records begin with."""
    seed: int = _crc32c(spool_id.encode())
    return seed


def encode(kind: RecordKind, sequence: int, payload: bytes, intent: int, seed: int) -> bytes:
    """The bytes of a record. Raises ValueError if it would exceed RECORD_BYTES_MAX."""
    size = len(payload)
    if size > PAYLOAD_BYTES_MAX:
        raise ValueError(f"a payload of {size} bytes exceeds {PAYLOAD_BYTES_MAX}")
    head = _pack_head(MAGIC, VERSION, kind, size, sequence, intent)
    return head + _pack_checksum(_crc32c_after(seed, head + payload)) + payload


def scan(data: bytes, offset: int, seed: int) -> Iterator[Record | Damage]:
    """The records from an offset on, in order. Ends before zeros, and before a torn record that nothing whole follows."""
    while True:
        record = whole(data, offset, seed)
        if record is None:
            start = offset
            while record is None:
                offset = data.find(_MAGIC_FIRST, offset + 1)
                if offset < 0:
                    return
                record = whole(data, offset, seed)
            yield Damage(start, offset)
        yield record
        offset = record.end


def whole_ones(data: bytes, offset: int, records_max: int, seed: int) -> tuple[list[Record], int]:
    """Up to so many records that follow each other whole from an offset on, which is nearly all there ever are, and the
    offset after them. Left out are those that begin a segment."""
    found: list[Record] = []
    while len(found) < records_max and (record := whole(data, offset, seed)) is not None:
        offset = record.end
        if record.kind != _BEGUN:
            found.append(record)
    return found, offset


def whole(data: bytes, offset: int, seed: int) -> Record | None:
    """The record that begins here, if one does and is whole."""
    start = offset + HEADER_BYTES
    if start > len(data):
        return None
    head: tuple[int, int, int, int, int, int, int] = _read_header(data, offset)
    magic, version, kind, length, sequence, intent, checksum = head
    end = start + length
    if magic != MAGIC or version != VERSION or end > len(data) or end - offset > RECORD_BYTES_MAX:
        return None
    payload = data[start:end]
    found: int = _crc32c_after(seed, data[offset : offset + _HEAD_BYTES] + payload)
    if found != checksum:
        return None
    return Record(kind, sequence, intent, payload, end)
