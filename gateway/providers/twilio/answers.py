"""How Twilio's answers tell what a call has made and used. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from gateway.messages import ResponseHead
from gateway.providers import decoding
from gateway.providers.api import Meter
from gateway.providers.body import WhenOver
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.learnt import Prepared, Usage
from gateway.providers.numbers import country
from gateway.providers.twilio.paths import SID
from gateway.providers.twilio.resources import (
    COUNT,
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
        quantities={} if event_type is None else quantities,
        completeness=Completeness.UNKNOWN if event_type is None else Completeness.PENDING,
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


def judge_participant(found: Resource, prepared: Prepared) -> Usage:
    """Somebody who was called into a conference: a call like any other, by whose name it is asked for."""
    call = msgspec.structs.replace(found, sid=found.call_sid, to=None, from_=None)
    return judge_call(call, prepared)


def judge_recording(found: Resource, prepared: Prepared) -> Usage:
    """A recording that has begun. How long it is, is told when it has ended."""
    sid = matching(found.sid, SID)
    return Usage(
        quantities={},
        completeness=Completeness.UNKNOWN if sid is None else Completeness.PENDING,
        external_id=sid,
        metadata=told_of(found, "price", "price_unit", "status"),
    )


def judge_verification(found: Resource, prepared: Prepared) -> Usage:
    """A code that was sent: each time it is sent again is billed by its channel, and is a verification more."""
    sid, channel, to = matching(found.sid, SID), matching(found.channel, CHANNEL), text_of(found.to)
    if sid is None:
        return Usage(quantities={}, completeness=Completeness.UNKNOWN)
    parts = (country(to or ""), channel)
    return Usage(
        quantities={"requests": 1},
        completeness=Completeness.REPORTED,
        resource=":".join(part for part in parts if part is not None) or None,
        external_id=sid,
        parties={} if to is None else {"to": to},
        metadata=told_of(found, "channel", "status"),
    )


def judge_check(found: Resource, prepared: Prepared) -> Usage:
    """A code that was checked. That it was the right one is noted; the verification was counted when it was made."""
    return Usage(
        quantities={},
        completeness=Completeness.REPORTED,
        external_id=matching(found.sid, SID),
        metadata=told_of(found, "channel", "status"),
    )


def judge_elsewhere(found: Resource, prepared: Prepared) -> Usage:
    """What sends messages and places calls by itself: those are known by their own names, and not here."""
    return Usage(
        quantities={},
        completeness=Completeness.UNKNOWN,
        external_id=matching(found.sid, SID),
        metadata=told_of(found, "status") | {"media": "past the gateway"},
    )


CHANNEL = re.compile(r"[a-z_]{1,20}")
COUNTRY = re.compile(r"[A-Z]{2}")

PACKAGES = (
    *("call_forwarding", "caller_name", "carrier", "identity_match", "line_status", "line_type_intelligence"),
    *("phone_number_quality_score", "pre_fill", "reassigned_number", "sim_swap", "sms_pumping_risk"),
)
"""What a look-up can tell besides whether there is such a number, under these names in its answer; each costs. All else,
what owners of numbers are called above all, is not looked at."""

_read_told = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _told(body: bytes) -> dict[str, msgspec.Raw] | None:
    try:
        return _read_told(body)
    except UNREADABLE:
        return None


def judge_lookup(body: bytes | None) -> Usage:
    """What a look-up was asked: a GET that costs money, by what it tells. That alone there is such a number is free."""
    found = None if body is None else read(body)
    told = None if body is None else _told(body)
    if told is None or found is None:
        return Usage(quantities={}, completeness=Completeness.UNKNOWN)
    packages = [name for name in PACKAGES if bytes(told.get(name, NULL)) != NULL]
    return Usage(
        quantities={"requests": 1} if packages else {},
        completeness=Completeness.REPORTED,
        resource=matching(found.country_code, COUNTRY),
        event_type=None if packages else "api_call",
        metadata={"packages": packages} if packages else {},
    )


NULL = b"null"


def lookup(head: ResponseHead, prepared: Prepared) -> Meter:
    return decoding.plain_for(WhenOver(judge_lookup, BODY_BYTES_MAX), head)


def judge_by_shape(found: Resource, prepared: Prepared) -> Usage:
    """What a path that no endpoint lists has made: a message where it looks like one, else nobody knows what it costs."""
    if found.num_segments is not None:
        return judge_message(found, prepared)
    return Usage(quantities={}, completeness=Completeness.UNKNOWN, external_id=matching(found.sid, SID))


def meter(judge: Callable[[Resource, Prepared], Usage]) -> Callable[[ResponseHead, Prepared], Meter]:
    """Reads the one resource that an answer describes, when it is over."""

    def made(head: ResponseHead, prepared: Prepared) -> Meter:
        def judged(body: bytes | None) -> Usage:
            found = None if body is None else read(body)
            return judge(found or Resource(), prepared)

        return decoding.plain_for(WhenOver(judged, BODY_BYTES_MAX), head)

    return made
