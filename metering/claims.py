"""Which event of an object is the one that counts it, when several say that it was made. Pure.

A message that was sent through the gateway is an event of its call, and stands in the provider's own list as well; one that
came in is told by a webhook, and stands there too. Each of them claims the object by the same key, and who comes first has
it. What comes second is no second message: another report of the same is dropped, and a call whose message was found in the
list, or told by a webhook, before its own record came is booked as a correction of nothing, which says whose call it was.

A provider may repeat its names by mistake. A call is then still a call: only what was not recorded by the gateway itself
gives way.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from metering.event_types import EVENT_TYPES
from metering.facts import Fact
from metering.usage import Completeness, Kind, UsageEvent, event_id_of

MADE = "made"
"""The phase of a dedupe key that claims an object."""

CHANNELS = frozenset({"sms", "whatsapp", "voice", "email"})
"""Their objects stand in lists of their providers, one by one."""

LISTED = frozenset(
    name
    for name, one in EVENT_TYPES.items()
    if one.channel in CHANNELS or name in ("message_outbound", "message_inbound")
)
"""The types of event that are of such objects; messages of whatever channel are."""


def made_key(source: str, external_id: str) -> str:
    """The key by which an object is counted once."""
    return f"{source}:{external_id}:{MADE}"


def claim_of(event: UsageEvent) -> str | None:
    """The key that this event takes, if it takes any: its own, or that of the object that its call made."""
    if event.dedupe_key is not None:
        return event.dedupe_key
    if event.kind is Kind.USAGE and event.external_id and event.event_type in LISTED:
        return made_key(event.source, event.external_id)
    return None


def apart(facts: Iterable[Fact]) -> tuple[list[Fact], list[Fact]]:
    """The facts that take no key, and those that take one."""
    unkeyed: list[Fact] = []
    keyed: list[Fact] = []
    for one in facts:
        (unkeyed if claim_of(one.event) is None else keyed).append(one)
    return unkeyed, keyed


def is_report(event: UsageEvent) -> bool:
    """True for what says of an object, without a call, that it was made."""
    return event.dedupe_key == made_key(event.source, event.external_id or "")


def gives_way(kind: str, event_id: str, key: str) -> bool:
    """True for an event that has claimed an object without being the event of its call, which says of it what it would.

    It was listed; or a call of unknown outcome was found to have made it; or it was told by a webhook, whose id is made of
    the key.
    """
    return kind in (Kind.BACKFILL, Kind.CORRECTION) or event_id == event_id_of(key)


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
