"""Twilio's messages, simulated: sent, told of in status callbacks, read, listed, redacted, cancelled, deleted. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar, NamedTuple

from gateway.simulator.api import Delivery
from gateway.simulator.controls import Controls, Outcome
from gateway.simulator.twilio_accounts import THE_NUMBER, Accounts
from gateway.simulator.twilio_asked import (
    BAD_REQUEST,
    INCOMPLETE,
    SERVICE_SID,
    Account,
    ApiError,
    Asking,
    Form,
    NotFound,
    Party,
    callback_url,
    is_url,
    recipient,
    send_at,
    sender,
    span,
)
from gateway.simulator.twilio_callbacks import Callback, delivery
from gateway.simulator.twilio_life import STEP_MS, Life, Stage, begin_of, ended, is_over, life, lived
from gateway.simulator.twilio_objects import Ids, Owned, Thing
from gateway.simulator.twilio_segments import segments
from gateway.simulator.twilio_timeline import Selection, Timeline
from gateway.simulator.twilio_told import API_VERSION, Told, gone, rfc_2822, uri_of, uri_page
from gateway.simulator.twilio_twiml import Verb
from gateway.simulator.twilio_usage import Amount, Line, Usage
from gateway.simulator.twilio_webhooks import Target, elsewhere

BODY_CHARACTERS_MAX = 1600
MEDIA_MAX = 10

ENDS: Mapping[Outcome, tuple[str, ...]] = {
    Outcome.DELIVERED: ("sent", "delivered"),
    Outcome.PARTIALLY_DELIVERED: ("sent", "partially_delivered"),
    Outcome.UNDELIVERED: ("sent", "undelivered"),
    Outcome.SENT: ("sent",),
    Outcome.READ: ("sent", "delivered", "read"),
    Outcome.FAILED: ("failed",),
    Outcome.CANCELED: ("canceled",),
}
"""What a message goes through once it is in the queue, by how that ends."""

UNSENT = frozenset({"accepted", "scheduled"})
"""The states in which no sender is picked yet."""
FREE = frozenset({Outcome.FAILED, Outcome.CANCELED})

ERRORS: Mapping[str, tuple[int, str]] = {
    "undelivered": (30003, "Unreachable destination handset"),
    "failed": (30008, "Unknown error"),
}

PRICES: Mapping[str, Decimal] = {"sms": Decimal("0.0083"), "mms": Decimal("0.0220"), "whatsapp": Decimal("0.0050")}
"""In USD: of a segment, where it is an SMS, else of a message. Other channels cost what WhatsApp does."""
INBOUND_MMS_PRICE, FAILED_PRICE = Decimal("0.0165"), Decimal("0.0010")
CARRIER_FEES: Mapping[str, Decimal] = {"sms": Decimal("0.0030"), "mms": Decimal("0.0100")}
"""Of a segment or a message to +1. Like what a failed message costs, no message says them; only usage records do."""


class Message(NamedTuple):
    """A message, with all that will become of it."""

    sid: str
    account_sid: str
    kind: str
    """`sms`, `mms`, or the name of a channel."""
    to: str
    sender: str
    service_sid: str | None
    body: str
    media: tuple[str, ...]
    """The sids of what is left of it."""
    num_media: int
    segments: int
    created: float
    life: Life
    price: Decimal | None
    """What it costs in the end; None where it costs nothing."""
    price_s: float
    """How long after the end that is told."""
    callback: Callback | None
    direction: str = "outbound-api"

    @property
    def at(self) -> float:
        """When it is sent or received; where it never is, when it was made."""
        sent = date_sent(self.life)
        return self.created if sent is None else sent

    @property
    def own_number(self) -> str:
        """The account's: who sends, or inbound who is sent to."""
        return self.to if self.direction == "inbound" else self.sender

    def picked(self, stages: Life) -> bool:
        """Whether it is known who sends it. Before, its segments are not counted either."""
        return self.service_sid is None or any(stage.status not in UNSENT | {"canceled"} for stage in stages)


class Messages:
    """The Messages resource, and the media below it."""

    def __init__(
        self, accounts: Accounts, usage: Usage, services: Owned[Thing], ids: Ids, now: Callable[[], float]
    ) -> None:
        self._now = now
        self._accounts = accounts
        self._usage = usage
        self._services = services
        self._ids = ids
        self._messages = Timeline[Message](lambda message: message.at)

    def create(self, asking: Asking) -> Told:
        form, controls = asking.form, asking.controls
        to, source, service_sid = self._parties(asking)
        media = media_of(form)
        body = body_of(form, media)
        due = send_at(form, asking.at)
        outcome = outcome_of(asking)
        kind = to.channel or ("mms" if media else "sms")
        count = segments(body) if kind == "sms" else 1
        opening = "scheduled" if due else "accepted" if service_sid else "queued"
        queued = ("queued",) if opening != "queued" and outcome is not Outcome.CANCELED else ()
        # A test has no time to wait for the day.
        due_s = due - asking.at if due and controls.step_ms is None else None
        message = Message(
            sid=self._ids.sid("MM" if media else "SM"),
            account_sid=asking.account.sid,
            kind=kind,
            to=to.address,
            sender=source.address if source else THE_NUMBER if kind != "whatsapp" else f"whatsapp:{THE_NUMBER}",
            service_sid=service_sid,
            body=body,
            media=tuple(self._ids.sid("ME") for _ in media),
            num_media=len(media),
            segments=count,
            created=asking.at,
            life=life(asking.at, (opening, *queued, *ENDS[outcome]), controls.step_ms, first_step_s=due_s),
            price=None if outcome in FREE else price_of(kind, count),
            price_s=price_s(controls),
            callback=self._callback(asking, service_sid),
        )
        self.keep(message)
        born = message.life[:1]
        return Told(
            fields=message_fields(message, born, priced=False),
            kind="Message",
            status=201,
            object_id=message.sid,
            usage=truth_of(message, born),
            lives=True,
            later=self._told_later(message, message.life[1:], asking.now),
        )

    def _parties(self, asking: Asking) -> tuple[Party, Party | None, str | None]:
        form = asking.form
        to, source, service_sid = form.one("To"), form.one("From"), form.one("MessagingServiceSid")
        if to is None:
            raise ApiError(21604, "A 'To' phone number is required.")
        if source is None and service_sid is None:
            raise ApiError(21603, "A 'From' phone number is required.")
        receiving = recipient(to)
        sending = sender(source) if source else None
        if sending and sending.channel != receiving.channel:
            raise ApiError(21910, "Invalid From and To pair. From and To should be of the same channel")
        if service_sid:
            service = self._services.anybodys(service_sid)
            # One that was not made here is taken for one that was made in the console.
            foreign = service is not None and service.account_sid != asking.account.sid
            if foreign or not SERVICE_SID.fullmatch(service_sid):
                raise ApiError(21701, f"The Messaging Service {service_sid[:40]} does not exist")
        return receiving, sending, service_sid

    def _callback(self, asking: Asking, service_sid: str | None) -> Callback | None:
        """Whom its changes are told: the URL of the request, of its application, or of its messaging service."""
        application = self._accounts.application(asking.form.one("ApplicationSid"), asking.account.sid)
        service = self._services.anybodys(service_sid) if service_sid else None
        url = callback_url(asking.form) or application.get("message_status_callback")
        url = url or (service.fields["status_callback"] if service else None)
        return Callback(url, "POST", asking.account.auth_token) if url else None

    def _told_later(self, message: Message, stages: Life, now: float) -> tuple[Delivery, ...]:
        if message.callback is None:
            return ()
        return tuple(
            delivery(
                message.callback,
                callback_parameters(message, stage),
                object_id=message.sid,
                after_ms=max(0, round((stage.at - now) * 1000)),
                still_so=partial(self._still_lives, message.sid, stage),
                idempotency_token=self._ids.idempotency_token(),
            )
            for stage in stages
        )

    def _still_lives(self, sid: str, stage: Stage) -> bool:
        """Whether a message went or will go through a stage; of one that is deleted, all that came before was so."""
        message = self._messages.anybodys(sid)
        return message is None or stage in message.life

    def keep(self, message: Message) -> None:
        """Take in a message that there was not, with what it costs."""
        self._messages.put(message)
        self._tally(message, 1)

    def _tally(self, message: Message, sign: int) -> None:
        line = Line(message.account_sid, message.own_number, message.service_sid or "")
        for category, amount in costs(message):
            self._usage.tally(line, category, message.at, amount.times(sign))

    # What comes in, and what is answered to it.

    def received(
        self,
        account: Account,
        to: Party,
        source: str,
        body: str,
        *,
        media: int,
        segments_given: int | None,
        at: float,
        price_s: float,
        service_sid: str | None,
    ) -> Message:
        """Take in a message. Raises ApiError."""
        kind = to.channel or ("mms" if media else "sms")
        count = (segments(body) if kind == "sms" else 1) if segments_given is None else segments_given
        if media > MEDIA_MAX or count < 1:
            raise ApiError(BAD_REQUEST, f"a message has a segment at least, and at most {MEDIA_MAX} media")
        message = Message(
            sid=self._ids.sid("MM" if media else "SM"),
            account_sid=account.sid,
            kind=kind,
            to=to.address,
            sender=source,
            service_sid=service_sid,
            body=body,
            media=tuple(self._ids.sid("ME") for _ in range(media)),
            num_media=media,
            segments=count,
            created=at,
            life=(Stage(at, "received"),),
            price=price_of(kind, count, "inbound"),
            price_s=price_s,
            callback=None,
            direction="inbound",
        )
        self.keep(message)
        return message

    def inbound_target(self, account: Account, service_sid: str | None) -> Target | None:
        """Whom a messaging service tells of what comes in, where it does so itself."""
        service = self._services.anybodys(service_sid) if service_sid else None
        if service is None or not service.fields["inbound_request_url"]:
            return None
        method = "GET" if service.fields["inbound_method"] == "GET" else "POST"
        main = Callback(service.fields["inbound_request_url"], method, account.auth_token)
        url = service.fields["fallback_url"]
        return Target(main, Callback(url, "POST", account.auth_token) if url else None)

    def replied(self, account: Account, inbound: Message, verb: Verb, here: Callback) -> Sequence[Delivery]:
        """Send what TwiML says to whoever wrote."""
        parts = verb.of("Body")
        body = parts[0].text if parts else verb.text
        media = verb.of("Media")
        kind = inbound.kind if inbound.kind not in ("sms", "mms") else "mms" if media else "sms"
        count, now = segments(body) if kind == "sms" else 1, self._now()
        url = verb.attributes.get("statusCallback") or verb.attributes.get("action")
        message = Message(
            sid=self._ids.sid("MM" if media else "SM"),
            account_sid=account.sid,
            kind=kind,
            to=verb.attributes.get("to") or inbound.sender,
            sender=verb.attributes.get("from") or inbound.to,
            service_sid=None,
            body=body,
            media=tuple(self._ids.sid("ME") for _ in media),
            num_media=len(media),
            segments=count,
            created=now,
            life=life(now, ("queued", *ENDS[Outcome.DELIVERED]), None),
            price=price_of(kind, count),
            price_s=inbound.price_s,
            callback=elsewhere(here, url, verb.attributes.get("method")) if url else None,
            direction="outbound-reply",
        )
        self.keep(message)
        return self._told_later(message, message.life[1:], now)

    def listing(self, asking: Asking) -> Told:
        to, source = asking.query.one("To"), asking.query.one("From")
        sent = span(asking.query, "DateSent")

        def holds(message: Message) -> bool:
            if to not in (None, message.to):
                return False
            stages = lived(message.life, asking.now)
            return source in (None, message.sender if message.picked(stages) else None) and sent.holds(
                date_sent(stages)
            )

        tell = partial(message_fields_at, now=asking.now)
        wanted = Selection(self._messages, asking.account, holds, sent)
        return uri_page(asking, "Messages", "Message", wanted, tell)

    def fetch(self, asking: Asking, sid: str) -> Told:
        message = self._messages.get(asking.account, sid)
        return Told(fields=message_fields_at(message, asking.now), kind="Message", object_id=sid)

    def update(self, asking: Asking, sid: str) -> Told:
        message, form = self._messages.get(asking.account, sid), asking.form
        status = form.one("Status")
        if status not in (None, "canceled"):
            raise ApiError(BAD_REQUEST, f"Status cannot become {status[:20]}")
        if form.one("Body") is not None:
            raise ApiError(BAD_REQUEST, "The body of a message can only be emptied")
        usage: object = None
        later: tuple[Delivery, ...] = ()
        if status:
            if lived(message.life, asking.now)[-1].status != "scheduled":
                raise ApiError(30409, "This message cannot be canceled", status=409)
            self._tally(message, -1)
            message = message._replace(life=ended(message.life, asking.now, status), price=None)
            self._tally(message, 1)
            usage = truth_of(message, message.life)
            later = self._told_later(message, message.life[-1:], asking.now)
        if "Body" in form:
            complete(message, asking.now, "modify")
            message = message._replace(body="")
        self._messages.put(message)
        fields = message_fields_at(message, asking.now)
        return Told(fields=fields, kind="Message", object_id=sid, usage=usage, later=later)

    def delete(self, asking: Asking, sid: str) -> Told:
        complete(self._messages.get(asking.account, sid), asking.now, "delete")
        self._messages.pop(asking.account, sid)
        return gone(sid)

    # Media.

    def media_list(self, asking: Asking, sid: str) -> Told:
        message = self._messages.get(asking.account, sid)
        media = [medium(message, media_sid) for media_sid in message.media]
        return uri_page(asking, "MediaList", "Media", media, lambda one: one.fields)

    def media_fetch(self, asking: Asking, sid: str, media_sid: str) -> Told:
        message = self._messages.get(asking.account, sid)
        if media_sid not in message.media:
            raise NotFound
        return Told(fields=medium(message, media_sid).fields, kind="Media", object_id=media_sid)

    def media_delete(self, asking: Asking, sid: str, media_sid: str) -> Told:
        message = self._messages.get(asking.account, sid)
        if media_sid not in message.media:
            raise NotFound
        self._messages.put(message._replace(media=tuple(one for one in message.media if one != media_sid)))
        return gone(media_sid)

    ROUTES: ClassVar[tuple[tuple[str, str, Callable[..., Told]], ...]] = (
        ("POST", "/Accounts/{account}/Messages", create),
        ("GET", "/Accounts/{account}/Messages", listing),
        ("GET", "/Accounts/{account}/Messages/{id}", fetch),
        ("POST", "/Accounts/{account}/Messages/{id}", update),
        ("DELETE", "/Accounts/{account}/Messages/{id}", delete),
        ("GET", "/Accounts/{account}/Messages/{id}/Media", media_list),
        ("GET", "/Accounts/{account}/Messages/{id}/Media/{id}", media_fetch),
        ("DELETE", "/Accounts/{account}/Messages/{id}/Media/{id}", media_delete),
    )


def price_of(kind: str, count: int, direction: str = "outbound") -> Decimal:
    if kind == "mms" and direction == "inbound":
        return INBOUND_MMS_PRICE
    return PRICES.get(kind, PRICES["whatsapp"]) * (count if kind == "sms" else 1)


def price_s(controls: Controls) -> float:
    """How long after the end of something it is told what it cost."""
    given = controls.step_ms if controls.price_ms is None else controls.price_ms
    return (STEP_MS if given is None else given) / 1000


def costs(message: Message) -> Iterator[tuple[str, Amount]]:
    """What a message costs in the end, by category of usage."""
    inbound = message.direction == "inbound"
    direction = "inbound" if inbound else "outbound"
    if message.price is None:
        if message.life[-1].status == "failed":
            yield "failed-message-processing-fee", Amount(1, 1, FAILED_PRICE)
        return
    if message.kind not in ("sms", "mms"):
        yield f"channels-{message.kind}-{direction}", Amount(1, 1, message.price)
        return
    units = message.segments if message.kind == "sms" else 1
    yield f"{message.kind}-{direction}", Amount(1, units, message.price)
    if not inbound and message.to.startswith("+1"):
        yield f"{message.kind}-messages-carrierfees", Amount(1, units, CARRIER_FEES[message.kind] * units)


def media_of(form: Form) -> tuple[str, ...]:
    urls = form.all("MediaUrl")
    if len(urls) > MEDIA_MAX:
        raise ApiError(21623, "Number of media files exceeds allowed limit")
    if not all(map(is_url, urls)):
        raise ApiError(21620, "Invalid media URL(s)")
    return urls


def body_of(form: Form, media: tuple[str, ...]) -> str:
    body = form.one("Body")
    if body is None and (content := form.one("ContentSid")):
        body = f"Content {content[:34]}"
    if body is None and not media:
        raise ApiError(21602, "Message body is required.")
    if body is not None and len(body) > BODY_CHARACTERS_MAX:
        raise ApiError(21617, f"The concatenated message body exceeds the {BODY_CHARACTERS_MAX} character limit")
    return body or ""


def outcome_of(asking: Asking) -> Outcome:
    outcome = asking.controls.outcome or Outcome.DELIVERED
    if outcome not in ENDS or asking.controls.seconds is not None:
        ends = ", ".join(ENDS)
        raise ApiError(
            BAD_REQUEST, f"A message has no x-simulator-seconds, and its x-simulator-outcome is one of {ends}."
        )
    return outcome


def complete(message: Message, now: float, what: str) -> None:
    if not is_over(message.life, now):
        raise ApiError(INCOMPLETE, f"Cannot {what} this resource before it is complete", status=409)


def date_sent(stages: Life) -> float | None:
    return begin_of(stages, frozenset({"sent", "received"}))


def message_fields_at(message: Message, now: float) -> dict[str, Any]:
    stages = lived(message.life, now)
    return message_fields(message, stages, priced=message.life[-1].at + message.price_s <= now)


def message_fields(message: Message, stages: Life, *, priced: bool) -> dict[str, Any]:
    """A message as it is told once these stages have begun."""
    status = stages[-1].status
    picked = message.picked(stages)
    error_code, error_message = ERRORS.get(status, (None, None))
    return {
        "account_sid": message.account_sid,
        "api_version": API_VERSION,
        "body": message.body,
        "date_created": rfc_2822(message.created),
        "date_sent": rfc_2822(date_sent(stages)),
        "date_updated": rfc_2822(stages[-1].at),
        "direction": message.direction,
        "error_code": error_code,
        "error_message": error_message,
        "from": message.sender if picked else None,
        "messaging_service_sid": message.service_sid,
        "num_media": str(message.num_media),
        "num_segments": str(message.segments) if picked else "0",
        "price": price_text(message.price) if priced else None,
        "price_unit": "USD",
        "sid": message.sid,
        "status": status,
        "subresource_uris": {"media": uri_of(message.account_sid, "Messages", message.sid, "Media")},
        "to": message.to,
        "uri": uri_of(message.account_sid, "Messages", message.sid),
    }


def price_text(price: Decimal | None) -> str | None:
    """What something cost, as the API tells it: as a loss."""
    return None if price is None else f"{-price:.5f}"


def truth_of(message: Message, stages: Life) -> dict[str, Any]:
    """What a message is, for the truth log: what the answer says of it, and under `final` what will be so in the end."""
    names = ("status", "from", "num_segments", "price", "price_unit", "error_code")
    said = message_fields(message, stages, priced=False)
    final = message_fields(message, message.life, priced=True)
    return {
        "kind": "message",
        "channel": message.kind,
        **{name: said[name] for name in ("to", "num_media", "messaging_service_sid", *names)},
        "final": {name: final[name] for name in names},
    }


def callback_parameters(message: Message, stage: Stage) -> list[tuple[str, str]]:
    """What an application is told of a change. Neither segments nor prices are among it."""
    parameters = [
        ("SmsSid", message.sid),
        ("SmsStatus", stage.status),
        ("MessageStatus", stage.status),
        ("To", message.to),
        ("MessageSid", message.sid),
        ("AccountSid", message.account_sid),
        ("From", message.sender),
        ("ApiVersion", API_VERSION),
    ]
    if message.service_sid:
        parameters.append(("MessagingServiceSid", message.service_sid))
    if stage.status in ERRORS:
        parameters.append(("ErrorCode", str(ERRORS[stage.status][0])))
    if message.kind == "whatsapp":
        parameters += [
            ("ChannelPrefix", message.kind),
            ("ChannelToAddress", message.to.partition(":")[2]),
            ("ChannelInstallSid", f"XE{hashlib.md5(message.account_sid.encode(), usedforsecurity=False).hexdigest()}"),
            ("StructuredMessage", "false"),
        ]
        if stage.status in ("delivered", "read", "undelivered"):
            parameters.append(("EventType", stage.status.upper()))
    return parameters


def medium(message: Message, media_sid: str) -> Thing:
    at = rfc_2822(message.created)
    fields = {
        "account_sid": message.account_sid,
        "content_type": "image/jpeg",
        "date_created": at,
        "date_updated": at,
        "parent_sid": message.sid,
        "sid": media_sid,
        "uri": uri_of(message.account_sid, "Messages", message.sid, "Media", media_sid),
    }
    return Thing(media_sid, message.account_sid, fields)
