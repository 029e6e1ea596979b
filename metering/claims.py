"""Which event of an object is the one that counts it, when several say that it was made. Pure.

A message that was sent through the gateway is an event of its call, and stands in the provider's own list as well; one that
came in is told by a webhook, and stands there too. Each of them claims the object by the same key, and who comes first has
it. What comes second is no second message: another report of the same is dropped, and a call whose message was found in the
list, or told by a webhook, before its own record came is booked as a correction of nothing, which says whose call it was.

Where that call had its metering off, all that was booked of the object before is taken back.

A provider may repeat its names by mistake. A call is then still a call: only what was not recorded by the gateway itself
gives way.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import msgspec

from metering.event_types import EVENT_TYPES
from metering.usage import EPOCH, REVERSES, Completeness, Kind, UsageEvent, event_id_of

OFF = "off"
"""The phase under which events are taken back since their object's call had its metering off."""

MADE = "made"
"""The phase of a dedupe key that claims an object."""

CHANNELS = frozenset({"sms", "whatsapp", "voice", "email"})
"""Their objects stand in lists of their providers, one by one."""

LISTED: Final = frozenset(
    name
    for name, one in EVENT_TYPES.items()
    if one.channel in CHANNELS or name in ("message_outbound", "message_inbound")
)
"""The types of event that are of such objects; messages of whatever channel are."""

_USAGE: Final = Kind.USAGE


def made_key(source: str, external_id: str) -> str:
    """The key by which an object is counted once."""
    return f"{source}:{external_id}:{MADE}"


def makes_listed(event_type: str, kind: Kind) -> bool:
    """True for events of calls that make objects which stand in lists: each takes the key of its object."""
    return kind is _USAGE and event_type in LISTED


def is_report(event: UsageEvent) -> bool:
    """True for what says of an object, without a call, that it was made."""
    return event.dedupe_key == made_key(event.source, event.external_id or "")


def gives_way(kind: str, event_id: str, key: str) -> bool:
    """True for an event that has claimed an object without being the event of its call, which says of it what it would.

    It was listed; or a call of unknown outcome was found to have made it; or it was told by a webhook, whose id is made of
    the key.
    """
    return kind in (Kind.BACKFILL, Kind.CORRECTION) or event_id == event_id_of(key)


def taken_back(row: Any) -> UsageEvent:
    """What takes an event of the ledger back whole: under all that sums are kept by, so that nothing of it stays in any."""
    key = f"{row.source}:{row.external_id}:{OFF}:{row.event_id}"
    return UsageEvent(
        event_id=event_id_of(key),
        tenant_id=row.tenant_id,
        source=row.source,
        event_type=row.event_type,
        endpoint=row.endpoint,
        occurred_at_ms=(row.occurred_at - EPOCH) // dt.timedelta(milliseconds=1),
        completeness=Completeness.REPORTED,
        quantities={name: -amount for name, amount in row.quantities.items()},
        resource=row.resource,
        external_id=row.external_id,
        direction=row.direction,
        kind=Kind.REVERSAL,
        corrects=row.event_id,
        category=row.category,
        tags=row.tags,
        description="its call had its metering off",
        metadata={REVERSES: str(row.kind)},
        key_id=row.key_id,
        dedupe_key=key,
    )


def seconded(event: UsageEvent, counted: str) -> UsageEvent:
    """What is booked of an event whose object is counted already, by the event with this id, which was no call's."""
    return msgspec.structs.replace(
        event,
        kind=Kind.CORRECTION,
        corrects=counted,
        quantities={},
        completeness=Completeness.REPORTED,
        dedupe_key=None,
    )
