"""What is counted, and how: dimensions, and the types of events by what their headline number is the sum of. Pure.

Apart from the event itself, whose struct does not compile (hatch_build.py): this is asked for each event several times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

DIMENSIONS: Final = (
    "input_tokens",
    "input_tokens_cached",
    "input_tokens_cache_write",
    "input_tokens_audio",
    "input_tokens_image",
    "input_tokens_audio_cached",
    "input_tokens_image_cached",
    "output_tokens",
    "output_tokens_audio",
    "output_tokens_image",
    "output_tokens_reasoning",
    "messages",
    "segments",
    "media",
    "seconds",
    "recipients",
    "characters",
    "images",
    "web_searches",
    "file_searches",
    "containers",
    "requests",
    "trained_tokens",
)
"""Every dimension a quantity may have, in base units. They never overlap, so that each can be priced and all summed.

`input_tokens` and `output_tokens` are remainders: what no other input or output dimension of the event has counted.
The list is closed: rollups hold one column for each, so a new one comes with a migration.
"""

INPUT_TOKENS = tuple(name for name in DIMENSIONS if name.startswith("input_tokens"))
OUTPUT_TOKENS = tuple(name for name in DIMENSIONS if name.startswith("output_tokens"))
TOKENS = INPUT_TOKENS + OUTPUT_TOKENS


class EventType(NamedTuple):
    """How one type of event is shown and counted."""

    channel: str
    """The column of the dashboards it belongs to: ai, sms, voice, email, whatsapp or other."""
    units: tuple[str, ...]
    """The dimensions whose sum is the headline number, `units`."""
    direction: str | None = None
    """`inbound` or `outbound`, where all events of the type go one way."""


EVENT_TYPES: Mapping[str, EventType] = {
    "llm_call": EventType("ai", TOKENS),
    "embedding": EventType("ai", TOKENS),
    "image": EventType("ai", ("images",)),
    "audio_transcription": EventType("ai", ("seconds",)),
    "audio_speech": EventType("ai", ("characters",)),
    "video": EventType("ai", ("seconds",)),
    "moderation": EventType("ai", ("requests",)),
    "realtime": EventType("ai", TOKENS),
    "batch": EventType("ai", TOKENS),
    "fine_tuning": EventType("ai", ("trained_tokens",)),
    "sms_outbound": EventType("sms", ("segments",), "outbound"),
    "sms_inbound": EventType("sms", ("segments",), "inbound"),
    "mms_outbound": EventType("sms", ("messages",), "outbound"),
    "mms_inbound": EventType("sms", ("messages",), "inbound"),
    "whatsapp_outbound": EventType("whatsapp", ("messages",), "outbound"),
    "whatsapp_inbound": EventType("whatsapp", ("messages",), "inbound"),
    "message_outbound": EventType("other", ("messages",), "outbound"),
    "message_inbound": EventType("other", ("messages",), "inbound"),
    "call_outbound": EventType("voice", ("requests",), "outbound"),
    "call_inbound": EventType("voice", ("requests",), "inbound"),
    "call_minutes": EventType("voice", ("seconds",)),
    "call_forwarded": EventType("voice", ("requests",), "outbound"),
    "ivr_step": EventType("voice", ("requests",)),
    "recording": EventType("voice", ("seconds",)),
    "verification": EventType("other", ("requests",)),
    "lookup": EventType("other", ("requests",)),
    "email_outbound": EventType("email", ("recipients",), "outbound"),
    "email_inbound": EventType("email", ("recipients",), "inbound"),
    "email_validation": EventType("email", ("requests",)),
    "api_call": EventType("other", ("requests",)),
    "system": EventType("other", ("requests",)),
    "job": EventType("other", ("requests",)),
    "storage": EventType("other", ("requests",)),
}
"""The event types the product itself makes. Applications may report others: those are of channel `other`."""

OTHER = EventType("other", ("requests",))

_CHANNELS: Final = {name: event_type.channel for name, event_type in EVENT_TYPES.items()}
_COUNTED: Final = {name: frozenset(event_type.units) for name, event_type in EVENT_TYPES.items()}
_COUNTED_OTHERWISE: Final = frozenset(OTHER.units)


def channel_of(event_type: str) -> str:
    """The column of the dashboards that events of this type belong to."""
    return _CHANNELS.get(event_type, "other")


def units_of(event_type: str, quantities: dict[str, int]) -> int | None:
    """The headline number of an event of this type, or None where it is not known."""
    counted = _COUNTED.get(event_type, _COUNTED_OTHERWISE)
    units = 0
    known = False
    for name, amount in quantities.items():
        if name in counted:
            units += amount
            known = True
    return units if known else None
