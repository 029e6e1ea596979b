"""What an event is: the values that every other part of the product passes around. Pure.

An event is a fact and stays one: it is made once, never changed, and a later correction is a further event that
carries the difference.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from uuid import UUID, uuid5

import msgspec

from metering.event_types import channel_of, units_of
from metering.moments import DAY_MS, EPOCH_DAY, day_of

UNCATEGORISED = "uncategorised"
"""The category of a call whose application named none and whose key has no default."""


class Completeness(StrEnum):
    """How an event's quantities came to be known. Absent is never zero."""

    REPORTED = "reported"
    """The provider said so."""
    ESTIMATED = "estimated"
    """We worked it out, because the provider did not say."""
    PENDING = "pending"
    """The provider will say later; a correction follows."""
    UNKNOWN = "unknown"
    """Something was used and nobody has said how much."""


class Kind(StrEnum):
    """What an event does to the totals."""

    USAGE = "usage"
    CORRECTION = "correction"
    REVERSAL = "reversal"
    RERATE = "rerate"
    BACKFILL = "backfill"
    COST = "cost"


WAS = "was"
"""In the metadata of a correction: the completeness of the event as it was before it."""

REVERSES = "reverses"
"""In the metadata of a reversal: the kind of the event that it takes back."""

CONTEXT_TOKENS = "context_tokens"
"""In the metadata of an event that is the sum of many requests: the input tokens of the largest, which decide its price."""

AS_ORDERED = "as_ordered"
"""In the metadata of an event that is pending: what it holds is what was ordered, and is all used if anything of it was."""

DUE_S = "due_s"
"""In the metadata of an event that is pending: the moment, in seconds since 1970, before which nobody knows what becomes of
it."""

TOLD_COST = "provider_cost"
"""In the metadata of an event: what it cost, where its provider said so; a plain decimal string."""

COUNTED_KINDS = (Kind.USAGE, Kind.BACKFILL)
"""The kinds that count as events in totals; the others only move quantities or money."""


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One fact of use, as the spool carries it and the ledger keeps it.

    It holds JSON, which has no cycles, so the garbage collector need not look at it. :func:`metering.facts.validated` raises
    ValueError for values that could not be a fact; the constructor itself is on the path of every call and trusts its caller.
    """

    event_id: str
    """Ours: a UUIDv7 made before the call is forwarded, or a UUIDv5 of the dedupe key of a fact without a call."""
    tenant_id: str
    source: str
    """The provider's configured name, or `system`."""
    event_type: str
    endpoint: str
    """What was called, by the provider's own naming (`chat.completions`); `unlisted` where no endpoint lists the path."""
    occurred_at_ms: int
    """When the call arrived: milliseconds since 1970-01-01T00:00Z. It decides the day and the month it is billed in."""
    completeness: Completeness
    quantities: dict[str, int] = {}
    """Dimension → amount. Only what is known; only corrections and reversals may be negative."""
    resource: str | None = None
    """What rates match on: the model that answered, the destination country, the type of mail."""
    external_id: str | None = None
    """The provider's name for what it made. An attribute, never a key: providers leave it empty or repeat it."""
    direction: str | None = None
    kind: Kind = Kind.USAGE
    corrects: str | None = None
    """The event whose quantities this one adjusts."""
    category: str = UNCATEGORISED
    tags: dict[str, str] = {}
    description: str | None = None
    metadata: dict[str, object] = {}
    """An allow-list per endpoint, and the provider's own usage object. Never content."""
    key_id: str | None = None
    call_id: str | None = None
    status: int | None = None
    duration_ms: int | None = None
    metered: bool = True
    """False where the application asked for `X-Gateway-Metering: off`: kept, but without charge and outside totals."""
    dedupe_key: str | None = None
    """What a fact without a call is known by, and booked once for its tenant however often it is heard of: the
    provider's object and the phase it is in (`provider:id:final`)."""

    @property
    def occurred_at(self) -> dt.datetime:
        """When it happened, aware, in UTC."""
        # Not by way of a float, which is exact only for the next two centuries.
        return EPOCH + dt.timedelta(milliseconds=self.occurred_at_ms)

    @property
    def event_day(self) -> str:
        """The UTC day it is billed on, as `YYYY-MM-DD`. Part of its key, so it comes from the record alone."""
        return day_of(self.occurred_at_ms)

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is in the ledger by: tenant, day and id."""
        return self.tenant_id, day_of(self.occurred_at_ms), self.event_id

    @property
    def channel(self) -> str:
        return channel_of(self.event_type)

    @property
    def adds_to_unknown(self) -> bool:
        """True for a correction of what nobody knew the use of: that has been charged nothing."""
        return self.metadata.get(WAS) == Completeness.UNKNOWN

    @property
    def units(self) -> int | None:
        """The headline number of the event's type, or None where it is not known."""
        return units_of(self.event_type, self.quantities)


class Told(msgspec.Struct, frozen=True, gc=False):
    """What of an event's metadata decides what it costs."""

    service_tier: object = None
    provider_cost: object = None
    """Under TOLD_COST."""
    context_tokens: object = None
    """Under CONTEXT_TOKENS."""


class Own(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """What the record of a call says of this call alone, as :mod:`metering.record_texts` writes it: in front."""

    event_id: str
    occurred_at_ms: int
    completeness: Completeness
    quantities: dict[str, int] = {}
    external_id: str | None = None
    metadata: Told = Told()
    """No more of it is read: it goes into the ledger as it was written."""
    call_id: str | None = None
    status: int | None = None
    duration_ms: int | None = None


class Common(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """What it says of all calls like this one: behind that, and to the byte the same in each of their records."""

    tenant_id: str
    source: str
    event_type: str
    endpoint: str
    resource: str | None = None
    direction: str | None = None
    kind: Kind = Kind.USAGE
    corrects: str | None = None
    category: str = UNCATEGORISED
    tags: dict[str, str] = {}
    description: str | None = None
    key_id: str | None = None
    metered: bool = True
    dedupe_key: str | None = None


EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

MOMENT_MS_END = (dt.date.max.toordinal() + 1 - EPOCH_DAY) * DAY_MS
"""The first moment that no calendar day has."""

AMOUNT_MAX = 1 << 53
"""What every reader of JSON holds exactly, and sums hold a thousand times over."""


DEDUPE_KEY_CHARACTERS_MAX = 512
"""No provider's ids are a tenth as long, and an index does not take texts of any length."""


FACTS_WITHOUT_A_CALL = UUID("8f3f5b4e-5d1e-4c55-9a0b-6f1c7a2d9e10")
"""The namespace of their ids. Another one would book again what is booked."""


def event_id_of(dedupe_key: str) -> str:
    """The id of the fact that is known by this key."""
    return str(uuid5(FACTS_WITHOUT_A_CALL, dedupe_key))
