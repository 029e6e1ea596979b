"""An event on its way into the ledger: what can be one, and what tells it from another under the same key. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

import msgspec
import xxhash

from metering.claims import made_key, makes_listed
from metering.event_types import DIMENSIONS, channel_of, units_of
from metering.moments import day_of, iso_ms
from metering.usage import (
    AMOUNT_MAX,
    CONTEXT_TOKENS,
    DEDUPE_KEY_CHARACTERS_MAX,
    MOMENT_MS_END,
    TOLD_COST,
    Common,
    Completeness,
    Kind,
    Own,
    Told,
    UsageEvent,
)

_DIMENSIONS: Final = frozenset(DIMENSIONS)
_AMOUNT_MAX: Final[int] = AMOUNT_MAX
_MOMENT_MS_END: Final[int] = MOMENT_MS_END
_USAGE: Final = Kind.USAGE
_CORRECTION: Final = Kind.CORRECTION
_PENDING: Final = Completeness.PENDING
_MAY_BE_NEGATIVE: Final = (Kind.CORRECTION, Kind.REVERSAL)

REMEMBERED_MAX: Final = 2048
"""Kinds of calls that are remembered; where there are more, all are forgotten, and each is read again when it comes."""

REMEMBERED_BYTES_MAX: Final = 2048
"""What is longer is read each time."""


class Alike:
    """What calls that are alike have in common. Found once for all of them, and shared by their facts."""

    def __init__(self, common: UsageEvent | Common, rest: str) -> None:
        self.rest = rest
        """How the JSON of each of them ends, where it begins with what is its own."""
        self.tenant_id: str = common.tenant_id
        self.tenant_json = msgspec.json.encode(self.tenant_id).decode()
        """The same as JSON."""
        self.source: str = common.source
        self.event_type: str = common.event_type
        self.endpoint: str = common.endpoint
        self.resource: str | None = common.resource
        self.direction: str | None = common.direction
        self.kind: Kind = common.kind
        self.category: str = common.category
        self.key_id: str | None = common.key_id
        self.metered: bool = common.metered
        self.dedupe_key: str | None = common.dedupe_key
        self.late = self.kind is _CORRECTION and common.corrects is None and self.dedupe_key is not None
        self.channel = channel_of(self.event_type)
        self.listed = makes_listed(self.event_type, self.kind)
        """True where an event takes the key of the object that its call made."""


class Fact:
    """An event as it was recorded. Made by :func:`fact`, :func:`fact_known_by` and :func:`read_fact`.

    What booking asks of each is found once, while the event is at hand: it is asked again and again of some thousand at a
    time, which no cache of a processor holds.
    """

    def __init__(
        self,
        alike: Alike,
        own: Own,
        head: str,
        digest: str,
        event: UsageEvent | None = None,
        recorded: bytes | None = None,
    ) -> None:
        """`head` is the event's JSON without its last bracket, or up to where `alike` ends it; `recorded` the whole of what
        was said, where the event is not kept as it was."""
        self.alike = alike
        self.digest = digest
        """Tells it from another event under the same key; of what was said, whatever is kept of it."""
        self._event = event
        self._recorded = recorded
        event_id: str = own.event_id
        occurred_at_ms: int = own.occurred_at_ms
        quantities: dict[str, int] = own.quantities
        completeness: Completeness = own.completeness
        external_id: str | None = own.external_id
        told: Told = own.metadata
        day = day_of(occurred_at_ms)
        self.key: tuple[str, str, str] = (alike.tenant_id, day, event_id)
        """What the event is in the ledger by: tenant, day and id."""
        self.occurred_at_ms = occurred_at_ms
        self.quantities = quantities
        self.completeness = completeness
        self.external_id = external_id
        tier: object = told.service_tier
        self.service_tier: str | None = tier if isinstance(tier, str) else None
        self.provider_cost: object = told.provider_cost
        self.context_tokens: object = told.context_tokens
        self.claim: str | None = alike.dedupe_key
        """The key of :mod:`metering.claims` that it takes, if it takes any: its own, or that of what its call made."""
        if alike.listed and external_id and alike.dedupe_key is None:
            self.claim = made_key(alike.source, external_id)
        self.late = alike.late
        """True for what has not met its event yet."""
        units = self.units = units_of(alike.event_type, quantities)
        """The headline number of the event's type, or None where it is not known."""
        self.pending = completeness is _PENDING
        self._head_characters = len(head)
        self.row = (
            f'{head},"event_day":"{day}","channel":"{alike.channel}","units":{"null" if units is None else units},'
            f'"occurred_at":"{iso_ms(occurred_at_ms)}","digest":"{digest}"{alike.rest}'
        )
        """Its JSON with those columns of the ledger that are not in it. Of two values of one name the server takes the
        last, so that ours stand behind whatever may be named as they are."""

    @property
    def said(self) -> bytes:
        """The event's JSON."""
        return f"{self.row[: self._head_characters]}{self.alike.rest}".encode()

    @property
    def event(self) -> UsageEvent:
        """The whole event; read when it is first asked for."""
        event = self._event
        if event is None:
            event = self._event = _as_event(self.said)
        return event

    @property
    def recorded(self) -> bytes:
        """What the record said."""
        return self.said if self._recorded is None else self._recorded

    def is_known_by(self, digest: str) -> bool:
        """True where that is its digest, or that which releases before xxHash gave it: only calls have another one now."""
        return digest == self.digest or digest == _blake(self.recorded)


def validated(event: UsageEvent) -> UsageEvent:
    """Return the event, or raise ValueError naming the first field that cannot be a fact."""
    try:
        _validate(event)
    except TypeError as error:
        # Compiled, a number that is none raises this before it can be looked at.
        raise ValueError("an event holds something of another kind than it says") from error
    return event


def _validate(event: UsageEvent) -> None:
    _validate_common(event.tenant_id, event.source, event.dedupe_key)
    _validate_own(event.event_id, event.occurred_at_ms, event.quantities, event.kind)


def _validate_common(tenant_id: str, source: str, dedupe_key: str | None) -> None:
    if not tenant_id or not source:
        raise ValueError("tenant_id and source must not be empty")
    if "\0" in tenant_id:
        raise ValueError("tenant_id must not hold NUL, where databases end a text")
    if dedupe_key is not None and not 0 < len(dedupe_key) <= DEDUPE_KEY_CHARACTERS_MAX:
        raise ValueError("dedupe_key must have 1 to 512 characters")


def _validate_own(event_id: str, occurred_at_ms: int, quantities: dict[str, int], kind: Kind) -> None:
    if not event_id:
        raise ValueError("event_id must not be empty")
    if "\0" in event_id:
        raise ValueError("event_id must not hold NUL, where databases end a text")
    if not 0 < occurred_at_ms < _MOMENT_MS_END:
        raise ValueError("occurred_at_ms must lie between the years 1970 and 10000")
    for name, amount in quantities.items():
        if name not in _DIMENSIONS:
            raise ValueError(f"quantities: no such dimension: {name}")
        if not -_AMOUNT_MAX <= amount <= _AMOUNT_MAX:
            raise ValueError(f"quantities: {name} is more than anybody used")
        if amount < 0 and kind not in _MAY_BE_NEGATIVE:
            raise ValueError(f"quantities: {name} is negative in an event of kind {kind}")


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
    """What a record says: of a call, no more of it than booking needs. Raises ValueError.

    What is its own is followed by what it has in common with others, which is read once for all of them. Where each part
    is an object, the whole is the object with the fields of both; and neither part may name what belongs in the other.
    """
    start = said.rfind(_COMMON_BEGINS)
    rest = said[start:]
    alike = _remembered.get(rest)
    if start > 0 and not _holds_nul(said):
        try:
            alike = _alike(rest) if alike is None else alike
            head = said[:start]
            own: Own = _as_own(head + b"}")
        except ValueError:
            pass  # Another form, as what is no call's has, or no event; the whole tells.
        else:
            _validate_own(own.event_id, own.occurred_at_ms, own.quantities, _USAGE)
            return Fact(alike, own, head.decode(), _xxh3(said))
    return fact(validated(_as_event(said)), said)


def _alike(rest: bytes) -> Alike:
    """What calls have in common whose records end so. Raises ValueError, too where it is not of calls."""
    common: Common = _as_common(b"{" + rest[1:])
    if common.kind is not _USAGE or common.dedupe_key is not None or common.corrects is not None:
        raise ValueError("no event of a call, which is told apart by all that it says")
    _validate_common(common.tenant_id, common.source, None)
    alike = Alike(common, rest.decode())
    if len(rest) <= REMEMBERED_BYTES_MAX:
        if len(_remembered) >= REMEMBERED_MAX:
            _remembered.clear()
        _remembered[rest] = alike
    return alike


def fact(event: UsageEvent, said: bytes) -> Fact:
    """An event and its JSON, in a form that both engines keep.

    What a provider tells by itself it may tell again later: such an event is the same fact at whatever moment it is heard.
    And what was used in the end is the same whatever else is said of it: that a carrier took a message, and weeks later that
    it never arrived. Raises ValueError where something is of another kind than it has to be.
    """
    told = recorded = said
    kind, dedupe_key = event.kind, event.dedupe_key
    if kind is _USAGE:
        if dedupe_key is not None:
            told = _MOMENT.sub(b"", said, count=1)
    elif kind is _CORRECTION and event.corrects is None and event.metadata and event.quantities:
        told = msgspec.json.encode(msgspec.structs.replace(event, metadata={}))
    digest = _xxh3(said) if kind is _USAGE and dedupe_key is None else _blake(told)
    if _holds_nul(said):
        said = _NUL.sub(rb"\1\\ufffd", said)
        event = _as_event(said)
    try:
        return fact_known_by(digest, event, said, None if recorded is said else recorded)
    except (AttributeError, TypeError) as error:
        raise ValueError("an event holds something of another kind than it says") from error


def fact_known_by(digest: str, event: UsageEvent, said: bytes, recorded: bytes | None = None) -> Fact:
    """An event and its JSON, told apart by this digest. `recorded` is what was said of it, where that is something else."""
    metadata = event.metadata
    own = Own(
        event_id=event.event_id,
        occurred_at_ms=event.occurred_at_ms,
        completeness=event.completeness,
        quantities=event.quantities,
        external_id=event.external_id,
        metadata=Told(
            service_tier=metadata.get("service_tier"),
            provider_cost=metadata.get(TOLD_COST),
            context_tokens=metadata.get(CONTEXT_TOKENS),
        ),
    )
    return Fact(Alike(event, "}"), own, said.rstrip()[:-1].decode(), digest, event, recorded)


def _xxh3(said: bytes) -> str:
    """The digest of a call's event: its id is ours, so that nobody chooses what it is compared with. A cryptographic one of
    a kilobyte takes longer than all else that is done to read a record."""
    digest: str = xxhash.xxh3_64_hexdigest(said)
    return digest


def _blake(told: bytes) -> str:
    """The digest of what has a key that others have chosen: it is compared with what they tell."""
    return hashlib.blake2b(told, digest_size=8).hexdigest()


def _holds_nul(said: bytes) -> bool:
    # Few events hold a backslash, and one character is found much faster than six.
    return _BACKSLASH in said and b"\\u0000" in said


_BACKSLASH: Final = ord("\\")
_COMMON_BEGINS: Final = b',"tenant_id":'
_MOMENT: Final = re.compile(rb'"occurred_at_ms":[0-9]+,')
_NUL: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_as_event: Final = msgspec.json.Decoder(UsageEvent).decode
_as_own: Final = msgspec.json.Decoder(Own).decode
_as_common: Final = msgspec.json.Decoder(Common).decode

_remembered: Final[dict[bytes, Alike]] = {}
