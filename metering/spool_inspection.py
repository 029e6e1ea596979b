"""What lies in the files of a spool, record by record and with all that is wrong with it. For people; it only reads.

It knows no position and nothing of the ledger, and takes no lock. Of what a record holds it tells who, what kind and how
complete: no metadata, no tags, nothing that was said.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from metering import spool_reader
from metering.facts import validated
from metering.intents import Closed, Intent
from metering.spool import segment_path
from metering.spool_records import HEADER_BYTES, Damage, Record, RecordKind, scan, seed_of
from metering.usage import UsageEvent

DAMAGED, TORN, MISSING = "damaged", "torn", "missing"
WRONG = (DAMAGED, TORN, MISSING)
"""The kinds of what is no record: bytes that are none, bytes after the last one, a gap in the sequence."""

NO_CONTENT, COPY = "can not be read as one", "a copy of an earlier record"

_intent = msgspec.json.Decoder(Intent).decode
_outcome = msgspec.json.Decoder(UsageEvent).decode
_closed = msgspec.json.Decoder(Closed).decode


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that lies in a segment."""

    spool_id: str
    segment: int
    offset: int
    end: int
    kind: str
    sequence: int | None = None
    """Of a gap, the first that is missing."""
    last_sequence: int | None = None
    """Of a gap, the last that is missing."""
    ends: int | None = None
    """The sequence of the intent that it ends."""
    call_id: str | None = None
    tenant_id: str | None = None
    source: str | None = None
    event_type: str | None = None
    completeness: str | None = None
    note: str | None = None

    @property
    def wrong(self) -> bool:
        return self.kind in WRONG or self.note == NO_CONTENT


def found(directory: Path, spool_id: str, segment: int | None = None) -> Iterator[Found]:
    """What lies in a spool's segments, or in one of them, in order. Raises OSError.

    The end of a segment that is being written may look torn: its last record is on the way.
    """
    last: int | None = None
    seed = seed_of(spool_id)
    for number in spool_reader.segments(directory, spool_id):
        if segment is not None and number != segment:
            continue
        try:
            data = _content(segment_path(directory, spool_id, number), seed)
        except FileNotFoundError:
            continue  # It was let go of meanwhile.
        offset = 0
        for one in scan(data, 0, seed):
            if isinstance(one, Damage):
                yield Found(spool_id=spool_id, segment=number, offset=one.start, end=one.end, kind=DAMAGED)
                continue
            offset = one.end - HEADER_BYTES - len(one.payload)
            # A segment's first record bears the sequence of the last before it, and is none of them.
            if one.kind != RecordKind.BEGUN:
                if last is not None and one.sequence > last + 1:
                    yield Found(
                        spool_id=spool_id,
                        segment=number,
                        offset=offset,
                        end=offset,
                        kind=MISSING,
                        sequence=last + 1,
                        last_sequence=one.sequence - 1,
                    )
                copy = last is not None and one.sequence <= last
                last = one.sequence if last is None else max(last, one.sequence)
            else:
                copy = False
            yield _shown(spool_id, number, offset, one, COPY if copy else None)
            offset = one.end
        if rest := data[offset:].rstrip(b"\0"):
            yield Found(spool_id=spool_id, segment=number, offset=offset, end=offset + len(rest), kind=TORN)


def _content(path: Path, seed: int) -> bytes:
    with path.open("rb") as file:
        data = file.read()
        damaged = end = 0
        for one in scan(data, 0, seed):
            damaged += isinstance(one, Damage)
            end = one.end
        if damaged:
            # A reader can see a record half written and the next one whole; what is before that is written by now.
            file.seek(0)
            data = file.read(end) + data[end:]
    return data


def _shown(spool_id: str, segment: int, offset: int, record: Record, note: str | None) -> Found:
    try:
        about = _about(record)
    except ValueError:
        about, note = {}, NO_CONTENT
    return Found(
        spool_id=spool_id,
        segment=segment,
        offset=offset,
        end=record.end,
        kind=RecordKind(record.kind).name.lower() if record.kind in list(RecordKind) else f"kind {record.kind}",
        sequence=record.sequence,
        ends=None if record.kind == RecordKind.BEGUN else record.intent or None,
        note=note,
        **about,
    )


def _about(record: Record) -> dict[str, Any]:
    """Whose call a record is of, and what it says of it. Raises ValueError."""
    match record.kind:
        case RecordKind.INTENT:
            said = _intent(record.payload)
            return _call(said) | {"call_id": said.call_id}
        case RecordKind.OUTCOME:
            event = validated(_outcome(record.payload))
            return _call(event) | {"call_id": event.call_id, "completeness": event.completeness.value}
        case RecordKind.CLOSED if record.payload:
            return {"call_id": _closed(record.payload).call_id}
    return {}


def _call(said: Intent | UsageEvent) -> dict[str, Any]:
    return {"tenant_id": said.tenant_id, "source": said.source, "event_type": said.event_type}
