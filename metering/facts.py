"""An event on its way into the ledger, and what tells it from another event under the same key. Pure."""

from __future__ import annotations

import hashlib
import re

import msgspec

from metering.usage import UsageEvent


class Fact(msgspec.Struct, frozen=True, gc=False):
    """An event as it was recorded. Made by :func:`fact`."""

    event: UsageEvent
    said: bytes
    """The event's JSON."""
    digest: str
    """Tells it from another event under the same key; of what was said, whatever is kept of it."""


def fact(event: UsageEvent, said: bytes) -> Fact:
    """An event and its JSON, in a form that both engines keep."""
    digest = hashlib.blake2b(said, digest_size=8).hexdigest()
    # Few events hold a backslash, and one character is found much faster than six.
    if b"\\" in said and b"\\u0000" in said:
        said = _NUL.sub(rb"\1\\ufffd", said)
        event = _as_event(said)
    return Fact(event, said, digest)


_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_as_event = msgspec.json.Decoder(UsageEvent).decode
