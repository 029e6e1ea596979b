"""How Twilio's answers tell what a call has made and used. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.messages import ResponseHead
from gateway.providers import decoding
from gateway.providers.api import Meter, Prepared, Usage
from gateway.providers.body import Gathered
from gateway.providers.twilio.paths import SID
from gateway.providers.twilio.resources import (
    COUNT,
    MESSAGE_TYPES,
    Resource,
    matching,
    message_type,
    parties_of,
    read,
    resource_of,
    text_of,
    told_of,
)
from metering.usage import Completeness

BODY_BYTES_MAX = 256 << 10
"""An answer up to this size is read: a message with 1,600 characters, escaped, has 12 KiB."""


class ResourceMeter:
    """Reads the one resource that an answer describes, when it is over."""

    __slots__ = ("_body", "_judge", "_prepared", "concluded")

    def __init__(self, prepared: Prepared, judge: Callable[[Resource, Prepared], Usage]) -> None:
        self.concluded = False
        self._prepared = prepared
        self._judge = judge
        self._body = Gathered(BODY_BYTES_MAX)

    def feed(self, chunk: bytes) -> bytes:
        self._body.feed(chunk)
        return chunk

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        body = self._body.known if whole else None
        found = None if body is None else read(body)
        return b"", self._judge(found or Resource(), self._prepared)


def judge_message(found: Resource, prepared: Prepared) -> Usage:
    """A message that was taken on. Its segments are "0" until a sender is picked, where a messaging service does that."""
    sid = matching(found.sid, SID)
    if sid is None:
        return Usage(quantities={}, completeness=Completeness.UNKNOWN, resource=prepared.resource)
    told = text_of(found.to) is not None
    event_type = message_type(found) if told else prepared.event_type
    quantities = {"messages": 1}
    for name, value in (("segments", found.num_segments), ("media", found.num_media)):
        count = matching(value, COUNT)
        if count is not None and int(count):
            quantities[name] = int(count)
    return Usage(
        quantities=quantities if event_type in MESSAGE_TYPES else {},
        completeness=Completeness.PENDING if event_type in MESSAGE_TYPES else Completeness.UNKNOWN,
        resource=resource_of(found) if told else prepared.resource,
        external_id=sid,
        event_type=event_type,
        parties=parties_of(found),
        metadata=told_of(found, "num_segments", "num_media", "price", "price_unit", "status", "messaging_service_sid"),
    )


def judge_call(found: Resource, prepared: Prepared) -> Usage:
    """A call that was set up. What it is billed by, its duration, is told when it has ended."""
    sid = matching(found.sid, SID)
    if sid is None:
        return Usage(quantities={}, completeness=Completeness.UNKNOWN, resource=prepared.resource)
    return Usage(
        quantities={"requests": 1},
        completeness=Completeness.PENDING,
        resource=resource_of(found) if text_of(found.to) is not None else prepared.resource,
        external_id=sid,
        parties=parties_of(found),
        metadata=told_of(found, "price", "price_unit", "status"),
    )


def judge_lookup(found: Resource, prepared: Prepared) -> Usage:
    """What was asked about a number: a GET that costs money, by what was asked, which the answer does not price."""
    return Usage(
        quantities={"requests": 1}, completeness=Completeness.REPORTED, resource=matching(found.country_code, COUNTRY)
    )


COUNTRY = re.compile(r"[A-Z]{2}")


def judge_by_shape(found: Resource, prepared: Prepared) -> Usage:
    """What a path that no endpoint lists has made: a message where it looks like one, else nobody knows what it costs."""
    if found.num_segments is not None:
        return judge_message(found, prepared)
    return Usage(quantities={}, completeness=Completeness.UNKNOWN, external_id=matching(found.sid, SID))


def meter(judge: Callable[[Resource, Prepared], Usage]) -> Callable[[ResponseHead, Prepared], Meter]:
    return lambda head, prepared: decoding.plain_for(ResourceMeter(prepared, judge), head)
