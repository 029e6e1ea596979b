"""An event on its way into the ledger, and what tells it from another event under the same key. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from metering.event_types import channel_of, units_of
from metering.moments import day_of, iso_ms
from metering.usage import Kind, UsageEvent


class Fact(NamedTuple):
    """An event as it was recorded. Made by :func:`fact`."""

    event: UsageEvent
    said: bytes
    """The event's JSON."""
    digest: str
    """Tells it from another event under the same key; of what was said, whatever is kept of it."""


def key_of(event: UsageEvent) -> tuple[str, str, str]:
    """What an event is in the ledger by, as its own `key` says; compiled, for those who ask it of each."""
    return event.tenant_id, day_of(event.occurred_at_ms), event.event_id


def is_late(event: UsageEvent) -> bool:
    """True for a fact that has not met its event yet."""
    return event.kind is Kind.CORRECTION and event.corrects is None and event.dedupe_key is not None


def days_of_calls(facts: Iterable[Fact]) -> set[str]:
    """The days on which facts are to be booked that are not late: those are booked on the day of their event."""
    return {day_of(one.event.occurred_at_ms) for one in facts if not is_late(one.event)}


def as_json_rows(facts: Iterable[Fact], recorded_at: str) -> str:
    """Events' JSON with the columns that are not in it, as one list. Of two values of one name the server takes the last."""
    rows = []
    for event, said, digest in facts:
        occurred_at = iso_ms(event.occurred_at_ms)
        units = units_of(event.event_type, event.quantities)
        rows.append(
            f'{said[:-1].decode()},"event_day":"{occurred_at[:10]}","channel":"{channel_of(event.event_type)}",'
            f'"units":{"null" if units is None else units},"occurred_at":"{occurred_at}","recorded_at":"{recorded_at}",'
            f'"digest":"{digest}"}}'
        )
    return f"[{','.join(rows)}]"


def fact(event: UsageEvent, said: bytes) -> Fact:
    """An event and its JSON, in a form that both engines keep.

    What a provider tells by itself it may tell again later: such an event is the same fact at whatever moment it is heard.
    And what was used in the end is the same whatever else is said of it: that a carrier took a message, and weeks later that
    it never arrived.
    """
    told = said
    if event.dedupe_key is not None and event.kind is Kind.USAGE:
        told = _MOMENT.sub(b"", said, count=1)
    elif event.kind is Kind.CORRECTION and event.corrects is None and event.metadata and event.quantities:
        told = msgspec.json.encode(msgspec.structs.replace(event, metadata={}))
    digest = hashlib.blake2b(told, digest_size=8).hexdigest()
    # Few events hold a backslash, and one character is found much faster than six.
    if b"\\" in said and b"\\u0000" in said:
        said = _NUL.sub(rb"\1\\ufffd", said)
        event = _as_event(said)
    return Fact(event, said, digest)


_MOMENT: Final = re.compile(rb'"occurred_at_ms":[0-9]+,')
_NUL: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_as_event: Final = msgspec.json.Decoder(UsageEvent).decode
