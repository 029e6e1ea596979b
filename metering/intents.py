"""What is written before a call is forwarded, the event it becomes if nothing more is heard of it, and what becomes of that
when something is heard after all. Pure."""

from __future__ import annotations

import msgspec

from metering.usage import UNCATEGORISED, WAS, Completeness, Kind, UsageEvent, event_id_of


class Intent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that is about to be forwarded and may be billed."""

    call_id: str
    tenant_id: str
    source: str
    event_type: str
    endpoint: str
    occurred_at_ms: int
    direction: str | None = None
    resource: str | None = None
    category: str = UNCATEGORISED
    tags: dict[str, str] = {}
    key_id: str | None = None
    metered: bool = True
    metadata: dict[str, object] = {}
    """What a later search for the call at the provider needs: keyed hashes of who took part."""

    def unknown(self) -> UsageEvent:
        """The event of a call whose outcome never came: the provider may have acted, and nobody said how much."""
        return UsageEvent(
            event_id=self.call_id,
            tenant_id=self.tenant_id,
            source=self.source,
            event_type=self.event_type,
            endpoint=self.endpoint,
            occurred_at_ms=self.occurred_at_ms,
            completeness=Completeness.UNKNOWN,
            resource=self.resource,
            direction=self.direction,
            category=self.category,
            tags=self.tags,
            description="outcome never recorded",
            key_id=self.key_id,
            call_id=self.call_id,
            metered=self.metered,
            metadata=self.metadata,
        )


def late_outcome(outcome: UsageEvent) -> UsageEvent:
    """The outcome of a call that is in the ledger as unknown, as the correction of that: the same one however often it
    is made. It says in its metadata that it adds to an unknown, which has been charged nothing."""
    return msgspec.structs.replace(
        outcome,
        event_id=event_id_of(f"{outcome.event_id}:late"),
        kind=Kind.CORRECTION,
        corrects=outcome.event_id,
        metadata=outcome.metadata | {WAS: Completeness.UNKNOWN.value},
    )


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """A call that used nothing after all."""

    call_id: str
    reason: str
