"""What Twilio says of one resource, a message or a call, in JSON or XML, and what it means. Pure."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import msgspec

from gateway.providers.json_scan import UNREADABLE
from gateway.providers.numbers import country, sender_type


class Resource(msgspec.Struct, rename={"from_": "from"}):
    """What is read of a resource that Twilio describes; everything else is skipped undecoded."""

    sid: object = None
    to: object = None
    from_: object = None
    messaging_service_sid: object = None
    num_segments: object = None
    num_media: object = None
    status: object = None
    price: object = None
    price_unit: object = None
    error_code: object = None
    duration: object = None
    direction: object = None
    call_sid: object = None
    """Of a participant of a conference: the call that it is."""
    channel: object = None
    """Of a verification: how its code was sent."""
    country_code: object = None


class _Page(msgspec.Struct):
    """What is read of a page of a list: the items, whichever they are."""

    messages: object = None
    calls: object = None
    recordings: object = None


_read_resource = msgspec.json.Decoder(Resource).decode
_read_page = msgspec.json.Decoder(_Page).decode

_XML_FIELDS = {
    "Sid": "sid",
    "To": "to",
    "From": "from_",
    "MessagingServiceSid": "messaging_service_sid",
    "NumSegments": "num_segments",
    "NumMedia": "num_media",
    "Status": "status",
    "Price": "price",
    "PriceUnit": "price_unit",
    "ErrorCode": "error_code",
    "Duration": "duration",
    "Direction": "direction",
    "CallSid": "call_sid",
}
_XML_FIELD = re.compile(rf"<({'|'.join(_XML_FIELDS)})>([^<]*)</\1>")


def read(body: bytes) -> Resource | None:
    """A resource, in the one form or the other (paths without `.json` are answered in XML)."""
    try:
        if not body.lstrip().startswith(b"<"):
            return _read_resource(body)
        text = body.decode()
    except UNREADABLE:
        return None
    return _of_element(text)


_ITEM_NAMES = {"messages": "Message", "calls": "Call", "recordings": "Recording"}
_ITEMS = {kind: re.compile(rf"<{name}>(.*?)</{name}>", re.DOTALL) for kind, name in _ITEM_NAMES.items()}
"""What people write stands escaped, and ends no element."""


def read_page(body: bytes, kind: str) -> Iterator[Resource]:
    """The items of one page of a list, in the one form or the other; none where it is no such page."""
    try:
        if body.lstrip().startswith(b"<"):
            yield from map(_of_element, _ITEMS[kind].findall(body.decode()))
            return
        items = getattr(_read_page(body), kind)
    except UNREADABLE:
        return
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict):
            yield msgspec.convert(item, Resource)


def _of_element(text: str) -> Resource:
    """What stands between the tags of a resource."""
    found = Resource()
    for name, value in _XML_FIELD.findall(text):
        if value and getattr(found, _XML_FIELDS[name]) is None:
            setattr(found, _XML_FIELDS[name], html.unescape(value))
    return found


COUNT = re.compile(r"[0-9]{1,6}")
PLAIN = re.compile(r"[A-Za-z_-]{1,40}|-?[0-9]{1,12}(\.[0-9]{1,12})?|[A-Z]{2}[0-9a-f]{32}")
"""A word out of a list, a number, or a SID: nothing that a person wrote."""


def message_type(message: Resource) -> str:
    """By the addresses: `whatsapp:+1…`, a number, or another channel (`messenger:…`, `rcs:…`), which the resource names."""
    channels = {_channel(text_of(message.to) or ""), _channel(text_of(message.from_) or "")} - {""}
    if channels:
        return "whatsapp_outbound" if channels == {"whatsapp"} else "message_outbound"
    media = matching(message.num_media, COUNT)
    return "mms_outbound" if media is not None and int(media) else "sms_outbound"


_CHANNEL = re.compile(r"[a-z]{1,20}")


def _channel(address: str) -> str:
    """What stands before the colon of an address; empty for a number."""
    name, colon, _ = address.partition(":")
    return (name if _CHANNEL.fullmatch(name) else "unknown") if colon else ""


def resource_of(message: Resource) -> str | None:
    """Destination country and kind of sender, `US:long_code`: what rates match on. Where no country is known, the channel
    of a message, if it has one."""
    to, sender = text_of(message.to) or "", text_of(message.from_)
    where = country(to.rpartition(":")[2])
    if where is None:
        return channel if (channel := _channel(to)) not in _NO_CHANNELS else None
    if _channel(to):
        return f"{where}:{_channel(to)}"
    kind = "messaging_service" if sender is None and message.messaging_service_sid else sender_type(sender or "")
    return where if kind is None else f"{where}:{kind}"


def come_in(found: Resource) -> Resource:
    """What came in, as it is priced: by the country and the kind of the number that it came to."""
    return Resource(to=found.to, from_=found.to, num_media=found.num_media)


_NO_CHANNELS = frozenset({"", "unknown", "client", "sip", "sips"})
"""What stands before the colon of who is called, or what does not look like a channel."""


def parties_of(message: Resource) -> dict[str, str]:
    """The two numbers; a messaging service is no person's, and stands in the metadata as it is."""
    found = {"to": text_of(message.to), "from": text_of(message.from_)}
    return {role: party for role, party in found.items() if party is not None}


def told_of(found: Resource, *names: str) -> dict[str, object]:
    """What the provider says of use and price, as it says it, where it is a number, a word or a SID."""
    told = {name: matching(getattr(found, name), PLAIN) for name in names}
    return {name: value for name, value in told.items() if value is not None}


def matching(value: object, form: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and form.fullmatch(value) else None


def text_of(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
