"""An event on its way into the ledger: what can be one, and what tells it from another under the same key. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from metering.claims import claim_of
from metering.event_types import DIMENSIONS, channel_of, units_of
from metering.moments import day_of, iso_ms
from metering.usage import AMOUNT_MAX, DEDUPE_KEY_CHARACTERS_MAX, MOMENT_MS_END, Completeness, Kind, Outline, UsageEvent

_DIMENSIONS: Final = frozenset(DIMENSIONS)
_AMOUNT_MAX: Final[int] = AMOUNT_MAX
_MOMENT_MS_END: Final[int] = MOMENT_MS_END
_USAGE: Final = Kind.USAGE
_CORRECTION: Final = Kind.CORRECTION
_PENDING: Final = Completeness.PENDING
_MAY_BE_NEGATIVE: Final = (Kind.CORRECTION, Kind.REVERSAL)


class Fact:
    """An event as it was recorded. Made by :func:`fact` and :func:`read_fact`.

    What booking asks of each is found once, while the event is at hand: it is asked again and again of some thousand at a
    time, which no cache of a processor holds.
    """

    def __init__(self, event: UsageEvent | Outline, said: bytes, digest: str) -> None:
        self.outline = event
        """The event, or as much of it as booking needs."""
        self.digest = digest
        """Tells it from another event under the same key; of what was said, whatever is kept of it."""
        occurred_at_ms: int = event.occurred_at_ms
        day = day_of(occurred_at_ms)
        self.key: tuple[str, str, str] = (event.tenant_id, day, event.event_id)
        """What the event is in the ledger by: tenant, day and id."""
        self.claim: str | None = claim_of(event)
        """The key of :mod:`metering.claims` that it takes, if it takes any."""
        self.late = event.kind is _CORRECTION and event.corrects is None and event.dedupe_key is not None
        """True for what has not met its event yet."""
        event_type = event.event_type
        self.channel = channel_of(event_type)
        units = self.units = units_of(event_type, event.quantities)
        self.pending = event.completeness is _PENDING
        text = said.decode()
        self._said_characters = len(text)
        self.row = (
            f'{text[:-1]},"event_day":"{day}","channel":"{self.channel}",'
            f'"units":{"null" if units is None else units},"occurred_at":"{iso_ms(occurred_at_ms)}","digest":"{digest}"}}'
        )
        """Its JSON with those columns of the ledger that are not in it. Of two values of one name the server takes the
        last."""

    @property
    def said(self) -> bytes:
        """The event's JSON."""
        return f"{self.row[: self._said_characters - 1]}}}".encode()

    @property
    def event(self) -> UsageEvent:
        """The whole event; read when it is first asked for."""
        outline = self.outline
        if isinstance(outline, Outline):
            outline = self.outline = _as_event(self.said)
        whole: UsageEvent = outline
        return whole


def validated(event: UsageEvent) -> UsageEvent:
    """Return the event, or raise ValueError naming the first field that cannot be a fact."""
    try:
        validate(event)
    except TypeError as error:
        # Compiled, a number that is none raises this before it can be looked at.
        raise ValueError("an event holds something of another kind than it says") from error
    return event


def validate(event: UsageEvent | Outline) -> None:
    """Raise ValueError naming the first field that cannot be a fact, if there is one."""
    event_id, tenant_id, quantities = event.event_id, event.tenant_id, event.quantities
    if not event_id or not tenant_id or not event.source:
        raise ValueError("event_id, tenant_id and source must not be empty")
    if "\0" in event_id or "\0" in tenant_id:
        raise ValueError("event_id and tenant_id must not hold NUL, where databases end a text")
    dedupe_key = event.dedupe_key
    if dedupe_key is not None and not 0 < len(dedupe_key) <= DEDUPE_KEY_CHARACTERS_MAX:
        raise ValueError("dedupe_key must have 1 to 512 characters")
    if not 0 < event.occurred_at_ms < _MOMENT_MS_END:
        raise ValueError("occurred_at_ms must lie between the years 1970 and 10000")
    for name, amount in quantities.items():
        if name not in _DIMENSIONS:
            raise ValueError(f"quantities: no such dimension: {name}")
        if not -_AMOUNT_MAX <= amount <= _AMOUNT_MAX:
            raise ValueError(f"quantities: {name} is more than anybody used")
        if amount < 0 and event.kind not in _MAY_BE_NEGATIVE:
            raise ValueError(f"quantities: {name} is negative in an event of kind {event.kind}")


def apart(facts: Iterable[Fact]) -> tuple[list[Fact], list[Fact]]:
    """The facts that take no key of an object, and those that take one."""
    unkeyed: list[Fact] = []
    keyed: list[Fact] = []
    for one in facts:
        (unkeyed if one.claim is None else keyed).append(one)
    return unkeyed, keyed


def days_of_calls(facts: Iterable[Fact]) -> set[str]:
    """The days on which facts are to be booked that are not late: those are booked on the day of their event."""
    return {one.key[1] for one in facts if not one.late}


def as_json_rows(facts: Iterable[Fact]) -> str:
    """The rows of facts as one list."""
    return f"[{','.join([one.row for one in facts])}]"


def read_fact(said: bytes) -> Fact:
    """What a record says: no more of it than booking needs, which is enough of nearly all. Raises ValueError."""
    outline: Outline = _as_outline(said)
    # What is no call's is corrected, or told apart, by all that it says; and a NUL is taken out of what is read, too.
    if outline.kind is not _USAGE or outline.dedupe_key is not None or _holds_nul(said):
        return fact(validated(_as_event(said)), said)
    validate(outline)
    return Fact(outline, said, _digest(said))


def fact(event: UsageEvent, said: bytes) -> Fact:
    """An event and its JSON, in a form that both engines keep.

    What a provider tells by itself it may tell again later: such an event is the same fact at whatever moment it is heard.
    And what was used in the end is the same whatever else is said of it: that a carrier took a message, and weeks later that
    it never arrived.
    """
    told = said
    kind = event.kind
    if kind is _USAGE:
        if event.dedupe_key is not None:
            told = _MOMENT.sub(b"", said, count=1)
    elif kind is _CORRECTION and event.corrects is None and event.metadata and event.quantities:
        told = msgspec.json.encode(msgspec.structs.replace(event, metadata={}))
    digest = _digest(told)
    if _holds_nul(said):
        said = _NUL.sub(rb"\1\\ufffd", said)
        event = _as_event(said)
    return Fact(event, said, digest)


def _digest(told: bytes) -> str:
    digest: str = _blake2b(told, digest_size=8).hexdigest()
    return digest


def _holds_nul(said: bytes) -> bool:
    # Few events hold a backslash, and one character is found much faster than six.
    return _BACKSLASH in said and b"\\u0000" in said


_blake2b: Final = hashlib.blake2b
_BACKSLASH: Final = ord("\\")
_MOMENT: Final = re.compile(rb'"occurred_at_ms":[0-9]+,')
_NUL: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_as_event: Final = msgspec.json.Decoder(UsageEvent).decode
_as_outline: Final = msgspec.json.Decoder(Outline).decode
