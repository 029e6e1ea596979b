"""An event on its way into the ledger, and what tells it from another event under the same key. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple

import msgspec

from metering.usage import Kind, UsageEvent


class Fact(NamedTuple):
    """An event as it was recorded. Made by :func:`fact`."""

    event: UsageEvent
    said: bytes
    """The event's JSON."""
    digest: str
    """Tells it from another event under the same key; of what was said, whatever is kept of it."""


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
