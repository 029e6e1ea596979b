"""Twilio: its endpoints, and how its answers tell what they used.

Sources: the official OpenAPI description (twilio-oai 2.6.7), what the SDKs send (twilio-python 9.13, twilio-node 6.2), and
recorded answers. A message is billed by what finally becomes of it, which is known minutes later: what is booked here is
what the first answer says, and it is `pending`.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote_plus

import msgspec

from gateway.messages import Headers, ResponseHead
from gateway.providers import decoding
from gateway.providers.api import Endpoint, ErrorBody, FirstSteps, Meter, Place, Prepared, Provider, Usage
from gateway.providers.body import Gathered
from gateway.providers.free import reads_back, unlisted_by
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.numbers import country, sender_type
from metering.usage import Completeness

# ---------------------------------------------------------------------------------------------------------------------
# Hosts and paths

PRODUCTS = (
    "accounts", "api", "bulkexports", "chat", "content", "conversations", "events", "flex-api", "frontline-api", "iam",
    "insights", "intelligence", "ip-messaging", "knowledge", "lookups", "marketplace", "memory", "messaging", "monitor",
    "notify", "numbers", "oauth", "preview", "preview-iam", "pricing", "proxy", "routes", "serverless", "studio",
    "supersim", "sync", "taskrouter", "trunking", "trusthub", "verify", "video", "voice", "webhooks", "wireless",
)  # fmt: skip
"""The hosts of twilio.com that the SDKs know, by their first label. Nothing is sent to any other."""

_PRODUCTS = frozenset(PRODUCTS)

OLD_VERSION = "2010-04-01"
"""The version whose paths name no product, and which chooses the form of its answers by a suffix."""

_SUFFIX = re.compile(r"\.(?:json|xml|csv|html|mp3|wav)$")


def place(rest: str) -> Place | None:
    """`/messaging/v1/…` is at messaging.twilio.com; `/2010-04-01/…`, and `/api/2010-04-01/…`, at api.twilio.com."""
    first = re.match(r"/([^/?]*)", rest)
    assert first is not None
    if first[1] == OLD_VERSION:
        product, target = "api", rest
    elif first[1] in _PRODUCTS:
        product, target = first[1], rest[first.end() :]
        if not target.startswith("/"):
            target = "/" + target
    else:
        return None
    # A number may stand in a path with its plus sign escaped, which is the same number.
    plain = target.partition("?")[0].replace("%2B", "+").replace("%2b", "+")
    return Place(product, target, f"/{product}{_SUFFIX.sub('', plain)}")


_ACCOUNT = f"/api/{OLD_VERSION}/Accounts/{{account}}"

_SID = "[A-Z]{2}[0-9a-fA-F]{32}"
SID = re.compile(_SID)

_OPEN = re.compile(
    rf"(?:/api/{OLD_VERSION}/Accounts/{_SID}/(?:Messages|Calls|Conferences|Recordings|Transcriptions|Queues|Applications)"
    r"|/messaging/v1/Services|/verify/v2/Services|/content/v1/Content|/studio/v[12]/Flows|/sync/v1/Services|/video/v1/Rooms"
    rf"|/taskrouter/v1/Workspaces)(?:/{_SID}(?:/.*)?)?"
    r"|/lookups/v[12]/PhoneNumbers/.*|/pricing/v[12]/.*"
)
"""All that is open on an account that several tenants share. Everything else administers it: its keys, subaccounts,
numbers and sinks, its permissions, its usage. Of its objects, those that go by their SIDs: a conference, a room or a
document can be named by a name as well, which tells nobody whose it is. Conversations and proxies are not open: they
take over what comes in at the numbers that all tenants share."""

OBJECT_ID = re.compile(rf"(?i:{_SID})(?:\..*)?")
"""A SID in any case and with any suffix: what it looks like to Twilio is not ours to guess."""

_REFERENCE = re.compile(rb'(?:"|[sS][iI][dD][A-Za-z]{0,16}=)[\x00-\x20+]*((?!AC|MG)[A-Z]{2}[0-9a-fA-F]{32})')
"""In a form the value of a field that is named for it, `ApplicationSid`, or its beginning: a text may begin with a SID. In
JSON the beginning of any text. A messaging service is no secret of whoever set it up: all who share the account can send
by it, as they can from its numbers."""


# ---------------------------------------------------------------------------------------------------------------------
# Requests

FORM_BYTES_MAX = 64 << 10
"""A form up to this size is read. A message has at most 1,600 characters and ten media."""


def read_message(body: bytes) -> Prepared:
    """Learn from a form whom a message is for, and leave it as it is."""
    form = _read_form(body)
    asked = _Resource(
        to=form.get(b"To"),
        from_=form.get(b"From"),
        messaging_service_sid=form.get(b"MessagingServiceSid"),
        num_media="1" if b"MediaUrl" in form else "0",
    )
    return Prepared(body=body, resource=_resource(asked), event_type=_message_type(asked), parties=_parties(asked))


def read_call(body: bytes) -> Prepared:
    """Learn from a form whom a call is for, and leave it as it is."""
    form = _read_form(body)
    asked = _Resource(to=form.get(b"To"), from_=form.get(b"From"))
    return Prepared(body=body, resource=_resource(asked), parties=_parties(asked))


_FIELDS = frozenset({b"To", b"From", b"MessagingServiceSid", b"MediaUrl"})
"""What is read of a form; everything else is skipped undecoded."""


def _read_form(body: bytes) -> Mapping[bytes, str]:
    """The first value of each field; empty for what is no form, which is the provider's to refuse."""
    fields: dict[bytes, str] = {}
    if len(body) <= FORM_BYTES_MAX:
        for pair in body.split(b"&"):
            name, _, value = pair.partition(b"=")
            if name in _FIELDS and name not in fields:
                fields[name] = unquote_plus(value.decode("latin-1"))
    return fields


# ---------------------------------------------------------------------------------------------------------------------
# Answers


class _Resource(msgspec.Struct, rename={"from_": "from"}):
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
    country_code: object = None


_read_resource = msgspec.json.Decoder(_Resource).decode

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
}
_XML_FIELD = re.compile(rf"<({'|'.join(_XML_FIELDS)})>([^<]*)</\1>")


def _read(body: bytes) -> _Resource | None:
    """A resource, in the one form or the other (paths without `.json` are answered in XML)."""
    try:
        if not body.lstrip().startswith(b"<"):
            return _read_resource(body)
        text = body.decode()
    except UNREADABLE:
        return None
    found = _Resource()
    for name, value in _XML_FIELD.findall(text):
        if value and getattr(found, _XML_FIELDS[name]) is None:
            setattr(found, _XML_FIELDS[name], html.unescape(value))
    return found


BODY_BYTES_MAX = 256 << 10
"""An answer up to this size is read: a message with 1,600 characters, escaped, has 12 KiB."""


class ResourceMeter:
    """Reads the one resource that an answer describes, when it is over."""

    __slots__ = ("_body", "_judge", "_prepared", "concluded")

    def __init__(self, prepared: Prepared, judge: Callable[[_Resource, Prepared], Usage]) -> None:
        self.concluded = False
        self._prepared = prepared
        self._judge = judge
        self._body = Gathered(BODY_BYTES_MAX)

    def feed(self, chunk: bytes) -> bytes:
        self._body.feed(chunk)
        return chunk

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        body = self._body.known if whole else None
        found = None if body is None else _read(body)
        return b"", self._judge(found or _Resource(), self._prepared)


# ---------------------------------------------------------------------------------------------------------------------
# What it means

_COUNT = re.compile(r"[0-9]{1,6}")
_PLAIN = re.compile(r"[A-Za-z_-]{1,40}|-?[0-9]{1,12}(\.[0-9]{1,12})?|[A-Z]{2}[0-9a-f]{32}")
"""A word out of a list, a number, or a SID: nothing that a person wrote."""


def judge_message(found: _Resource, prepared: Prepared) -> Usage:
    """A message that was taken on. Its segments are "0" until a sender is picked, where a messaging service does that."""
    sid = _matching(found.sid, SID)
    if sid is None:
        return Usage(quantities={}, completeness=Completeness.UNKNOWN, resource=prepared.resource)
    told = _text(found.to) is not None
    event_type = _message_type(found) if told else prepared.event_type
    quantities = {"messages": 1}
    for name, value in (("segments", found.num_segments), ("media", found.num_media)):
        count = _matching(value, _COUNT)
        if count is not None and int(count):
            quantities[name] = int(count)
    return Usage(
        quantities=quantities if event_type in MESSAGE_TYPES else {},
        completeness=Completeness.PENDING if event_type in MESSAGE_TYPES else Completeness.UNKNOWN,
        resource=_resource(found) if told else prepared.resource,
        external_id=sid,
        event_type=event_type,
        parties=_parties(found),
        metadata=_metadata(
            found, "num_segments", "num_media", "price", "price_unit", "status", "messaging_service_sid"
        ),
    )


def judge_call(found: _Resource, prepared: Prepared) -> Usage:
    """A call that was set up. What it is billed by, its duration, is an event of its own when it has ended."""
    sid = _matching(found.sid, SID)
    if sid is None:
        return Usage(quantities={}, completeness=Completeness.UNKNOWN, resource=prepared.resource)
    return Usage(
        quantities={"requests": 1},
        completeness=Completeness.REPORTED,
        resource=_resource(found) if _text(found.to) is not None else prepared.resource,
        external_id=sid,
        parties=_parties(found),
        metadata=_metadata(found, "price", "price_unit", "status"),
    )


def judge_lookup(found: _Resource, prepared: Prepared) -> Usage:
    """What was asked about a number: a GET that costs money, by what was asked, which the answer does not price."""
    return Usage(
        quantities={"requests": 1}, completeness=Completeness.REPORTED, resource=_matching(found.country_code, _COUNTRY)
    )


_COUNTRY = re.compile(r"[A-Z]{2}")


def judge_by_shape(found: _Resource, prepared: Prepared) -> Usage:
    """What a path that no endpoint lists has made: a message where it looks like one, else nobody knows what it costs."""
    if found.num_segments is not None:
        return judge_message(found, prepared)
    return Usage(quantities={}, completeness=Completeness.UNKNOWN, external_id=_matching(found.sid, SID))


MESSAGE_TYPES = frozenset({"sms_outbound", "mms_outbound", "whatsapp_outbound"})


def _message_type(message: _Resource) -> str:
    """By the addresses: `whatsapp:+1…`, a number, or a channel that is not billed as any of these."""
    channels = {_channel(_text(message.to) or ""), _channel(_text(message.from_) or "")} - {""}
    if channels:
        return "whatsapp_outbound" if channels == {"whatsapp"} else "api_call"
    media = _matching(message.num_media, _COUNT)
    return "mms_outbound" if media is not None and int(media) else "sms_outbound"


_CHANNEL = re.compile(r"[a-z]{1,20}")


def _channel(address: str) -> str:
    """What stands before the colon of an address; empty for a number."""
    name, colon, _ = address.partition(":")
    return (name if _CHANNEL.fullmatch(name) else "unknown") if colon else ""


def _resource(message: _Resource) -> str | None:
    """Destination country and kind of sender, `US:long_code`: what rates match on. None where no country is known."""
    to, sender = _text(message.to) or "", _text(message.from_)
    where = country(to.rpartition(":")[2])
    if where is None:
        return None
    if _channel(to):
        return f"{where}:{_channel(to)}"
    kind = "messaging_service" if sender is None and message.messaging_service_sid else sender_type(sender or "")
    return where if kind is None else f"{where}:{kind}"


def _parties(message: _Resource) -> dict[str, str]:
    """The two numbers; a messaging service is no person's, and stands in the metadata as it is."""
    found = {"to": _text(message.to), "from": _text(message.from_)}
    return {role: party for role, party in found.items() if party is not None}


def _metadata(found: _Resource, *names: str) -> dict[str, object]:
    """What the provider says of use and price, as it says it, where it is a number, a word or a SID."""
    told = {name: _matching(getattr(found, name), _PLAIN) for name in names}
    return {name: value for name, value in told.items() if value is not None}


def _matching(value: object, form: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and form.fullmatch(value) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _meter(judge: Callable[[_Resource, Prepared], Usage]) -> Callable[[ResponseHead, Prepared], Meter]:
    return lambda head, prepared: decoding.plain_for(ResourceMeter(prepared, judge), head)


# ---------------------------------------------------------------------------------------------------------------------
# Who is asking, and what it may ask


def presented_key(headers: Headers) -> str | None:
    """The password of Basic authentication (RFC 7617), where the SDKs put the auth token; or a bearer token."""
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip() or None
    if scheme.lower() != "basic":
        return None
    try:
        _, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return password or None


def authorize(credential: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    pair = f"{credential['account_sid']}:{credential['auth_token']}".encode()
    return ((b"Authorization", b"Basic " + base64.b64encode(pair)),)


CODES = {400: 20001, 401: 20003, 403: 20403, 404: 20404, 429: 20429}
"""Twilio's own numbers for what a refusal means; others get 20000 plus the status."""


def refusal(path: str, status: int, code: str, message: str) -> ErrorBody:
    number = CODES.get(status, 20000 + status)
    return _error(path, status, number, message, {"details": {"code": code}})


def missing(path: str, object_id: str) -> ErrorBody:
    return _error(path, 404, 20404, f"The requested resource {path} was not found", {})


def _error(path: str, status: int, number: int, message: str, more: Mapping[str, object]) -> ErrorBody:
    info = f"https://www.twilio.com/docs/errors/{number}"
    if path.startswith(f"/{OLD_VERSION}/") and not path.endswith(".json"):
        text = "".join(
            f"<{name}>{html.escape(str(value))}</{name}>"
            for name, value in (("Code", number), ("Message", message), ("MoreInfo", info), ("Status", status))
        )
        declared = "<?xml version='1.0' encoding='UTF-8'?>\n"
        whole = f"{declared}<TwilioResponse><RestException>{text}</RestException></TwilioResponse>"
        return ErrorBody(b"application/xml", whole.encode())
    error = {"code": number, "message": message, "more_info": info, "status": status, **more}
    return ErrorBody(b"application/json", msgspec.json.encode(error))


unlisted = unlisted_by(_meter(judge_by_shape))


PROVIDER = Provider(
    name="twilio",
    base_url="https://{product}.twilio.com",
    products=PRODUCTS,
    place=place,
    credential_fields=("account_sid", "auth_token"),
    endpoints=(
        Endpoint(
            name="messages.create",
            method="POST",
            path=f"{_ACCOUNT}/Messages",
            event_type="sms_outbound",
            describes="message",
            meter=_meter(judge_message),
            prepare=read_message,
        ),
        reads_back("messages.list", "GET", f"{_ACCOUNT}/Messages", lists=True),
        reads_back("messages.fetch", "GET", f"{_ACCOUNT}/Messages/{{sid}}"),
        reads_back("messages.update", "POST", f"{_ACCOUNT}/Messages/{{sid}}"),
        reads_back("messages.delete", "DELETE", f"{_ACCOUNT}/Messages/{{sid}}"),
        reads_back("messages.media.list", "GET", f"{_ACCOUNT}/Messages/{{sid}}/Media"),
        reads_back("messages.media.fetch", "GET", f"{_ACCOUNT}/Messages/{{sid}}/Media/{{part}}"),
        reads_back("messages.media.delete", "DELETE", f"{_ACCOUNT}/Messages/{{sid}}/Media/{{part}}"),
        Endpoint(
            name="calls.create",
            method="POST",
            path=f"{_ACCOUNT}/Calls",
            event_type="call_outbound",
            describes="call",
            meter=_meter(judge_call),
            prepare=read_call,
        ),
        reads_back("calls.list", "GET", f"{_ACCOUNT}/Calls", lists=True),
        reads_back("calls.fetch", "GET", f"{_ACCOUNT}/Calls/{{sid}}"),
        reads_back("calls.update", "POST", f"{_ACCOUNT}/Calls/{{sid}}"),
        reads_back("calls.delete", "DELETE", f"{_ACCOUNT}/Calls/{{sid}}"),
        *(
            Endpoint(
                name=f"lookups.{version}.phone_numbers.fetch",
                method="GET",
                path=f"/lookups/{version}/PhoneNumbers/{{value}}",
                event_type="lookup",
                describes="look-up",
                meter=_meter(judge_lookup),
            )
            for version in ("v1", "v2")
        ),
    ),
    unlisted=unlisted,
    presented_key=presented_key,
    authorize=authorize,
    credential_headers=frozenset({b"authorization"}),
    account_headers=frozenset(),
    account_field="account_sid",
    administration=re.compile(rf"(?!(?:{_OPEN.pattern})$).*", re.DOTALL),
    object_id=OBJECT_ID,
    references=(_REFERENCE,),
    refusal=refusal,
    missing=missing,
    first_steps=FirstSteps(
        exports="TWILIO_ACCOUNT_SID={account_sid} TWILIO_AUTH_TOKEN={key}",
        path="{proxy}/twilio/2010-04-01/Accounts/{account_sid}/Messages.json",
        body="To=%2B12025550143&From=%2B15005550006&Body=Hello",
        media_type="application/x-www-form-urlencoded",
        user="{account_sid}",
        sdk_package="twilio",
        sdk_call="from twilio.rest import Client; c = Client(); c.api.base_url = '{proxy}/twilio/api'; "
        "print(c.messages.create(to='+12025550143', from_='+15005550006', body='Hello').sid)",
    ),
)
