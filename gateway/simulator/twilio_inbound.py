"""What comes in at the simulated Twilio: messages and calls, and the webhooks that tell of them. No I/O.

An application has the time that it has at the real one. Where it fails, or answers what is no TwiML, its fallback URL is
asked; where that fails too, or there is none, a message is left alone and a call ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from gateway.simulator.api import Delivery, Reply
from gateway.simulator.controls import Controls
from gateway.simulator.twilio_accounts import Accounts
from gateway.simulator.twilio_asked import BAD_REQUEST, NUMBER, Account, ApiError, is_url, party_of
from gateway.simulator.twilio_callbacks import Callback
from gateway.simulator.twilio_calls import ENDS, EVENTS_DEFAULT, Call, Calls, call_fields_at
from gateway.simulator.twilio_calls import truth_of as truth_of_call
from gateway.simulator.twilio_life import Stage
from gateway.simulator.twilio_messages import Message, Messages, message_fields_at, price_s
from gateway.simulator.twilio_messages import truth_of as truth_of_message
from gateway.simulator.twilio_objects import Ids
from gateway.simulator.twilio_recordings import Recordings
from gateway.simulator.twilio_talk import InboundCall, Talk
from gateway.simulator.twilio_told import API_VERSION, Told
from gateway.simulator.twilio_twiml import read_twiml
from gateway.simulator.twilio_webhooks import STEPS_MAX, Target, elsewhere, is_good, places, question, target_of, why


class InboundMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a test says about a message that comes in."""

    to: str
    source: str = msgspec.field(name="from")
    body: str = ""
    media: tuple[str, ...] = ()
    """The types of its media, such as image/jpeg."""
    segments: int | None = None
    """None where they follow from the body."""
    account_sid: str | None = None
    """None for whoever has the number."""
    messaging_service_sid: str | None = None
    webhook: bool = True
    """Whether the application is told."""


class Inbound:
    """What comes in."""

    def __init__(
        self,
        accounts: Accounts,
        messages: Messages,
        calls: Calls,
        recordings: Recordings,
        ids: Ids,
        now: Callable[[], float],
    ) -> None:
        self._accounts = accounts
        self._messages = messages
        self._calls = calls
        self._recordings = recordings
        self._ids = ids
        self._now = now

    # Messages.

    def message(self, given: InboundMessage, controls: Controls) -> Told:
        """Take in a message, and tell its application. Raises ApiError."""
        to, source = party_of(given.to), party_of(given.source)
        if to is None or source is None or to.channel != source.channel:
            raise ApiError(BAD_REQUEST, "to and from are addresses of the same channel")
        account, number = self._owned(to.address.rpartition(":")[2], given.account_sid)
        made = self._messages.received(
            account,
            to,
            source.address,
            given.body,
            media=len(given.media),
            segments_given=given.segments,
            at=self._at(controls),
            price_s=price_s(controls),
            service_sid=given.messaging_service_sid,
        )
        application = self._accounts.application(number["sms_application_sid"], account.sid)
        target = self._messages.inbound_target(account, given.messaging_service_sid)
        target = target or target_of(number, application, "sms", account.auth_token)
        asks = target is not None and given.webhook
        return Told(
            fields=message_fields_at(made, self._now()),
            kind="",
            status=201,
            object_id=made.sid,
            usage=truth_of_message(made, made.life),
            lives=True,
            later=self._ask(target, received_form(made, given.media), account, made) if target and asks else (),
        )

    def _ask(
        self,
        target: Target,
        form: Sequence[tuple[str, str]],
        account: Account,
        message: Message,
        steps: int = 0,
        *,
        fallback: bool = False,
    ) -> tuple[Delivery, ...]:
        answered = partial(self._answered, target, form, account, message, steps)
        asked = question(target.main, form, message.sid, self._ids.idempotency_token(), answered)
        return (msgspec.structs.replace(asked, fallback=fallback),)

    def _answered(
        self,
        target: Target,
        form: Sequence[tuple[str, str]],
        account: Account,
        message: Message,
        steps: int,
        reply: Reply,
    ) -> Sequence[Delivery]:
        """What an answer to a message makes: a fallback, replies, another question. An empty one makes nothing."""
        empty = is_good(reply) and not reply.body.strip()
        verbs = () if empty else read_twiml(reply.body) if is_good(reply) else None
        if verbs is None:
            if target.fallback is None:
                return ()
            failed = [*form, *why(reply, target.main.url)]
            return self._ask(Target(target.fallback, None), failed, account, message, fallback=True)
        later: list[Delivery] = []
        for verb in verbs:
            if verb.name == "Message":
                later += self._messages.replied(account, message, verb, target.main)
            if verb.name == "Redirect" and steps < STEPS_MAX:
                there = elsewhere(target.main, verb.text, verb.attributes.get("method"))
                later += self._ask(target._replace(main=there), form, account, message, steps + 1)
                break
        return later

    # Calls.

    def call(self, given: InboundCall, controls: Controls) -> Told:
        """Take in a call, and let its application say what happens. Raises ApiError."""
        if not NUMBER.fullmatch(given.source) or given.dial_outcome not in ENDS:
            raise ApiError(BAD_REQUEST, f"from is a phone number, and dial_outcome one of {', '.join(ENDS)}")
        account, number = self._owned(given.to, given.account_sid)
        at = self._at(controls)
        application = self._accounts.application(number["voice_application_sid"], account.sid)
        target = target_of(number, application, "voice", account.auth_token)
        told, method = number["status_callback"], number["status_callback_method"]
        made = Call(
            sid=self._ids.sid("CA"),
            account_sid=account.sid,
            to=given.to,
            sender=given.source,
            created=at,
            # It rings until somebody says what is next.
            life=(Stage(at, "ringing"), Stage(math.inf, "completed")),
            seconds=None,
            callback=Callback(told, "GET" if method == "GET" else "POST", account.auth_token) if is_url(told) else None,
            events=EVENTS_DEFAULT,
            price_s=price_s(controls),
            direction="inbound",
        )
        self._calls.keep(made)
        ago = self._now() - at
        talk = Talk(
            self._calls, self._recordings, self._ids, lambda: self._now() - ago, given, made, target if given.webhook else None
        )  # fmt: skip
        later = tuple(talk.begin())
        made = self._calls.anybodys(made.sid) or made
        return Told(
            fields=call_fields_at(made, self._now()),
            kind="",
            status=201,
            object_id=made.sid,
            usage=truth_of_call(made, made.life[:1]),
            lives=True,
            later=later,
        )

    def _owned(self, to: str, account_sid: str | None) -> tuple[Account, Mapping[str, Any]]:
        owned = self._accounts.owned(to, account_sid)
        if owned is None:
            raise ApiError(
                BAD_REQUEST, f"nobody has the number {to[:40]}: buy it first, or name the account that has it"
            )
        return owned[0], owned[1].fields

    def _at(self, controls: Controls) -> float:
        now = self._now()
        if controls.at is not None and controls.at > now:
            raise ApiError(BAD_REQUEST, "x-simulator-at is a time that has passed")
        return now if controls.at is None else controls.at


def received_form(message: Message, media: Sequence[str]) -> list[tuple[str, str]]:
    """What an application is told of a message that has come in."""
    form = [
        *places(To=message.to, From=message.sender),
        ("SmsMessageSid", message.sid),
        ("NumMedia", str(message.num_media)),
        ("SmsSid", message.sid),
        ("SmsStatus", "received"),
        ("Body", message.body),
        ("To", message.to),
        ("NumSegments", str(message.segments)),
        ("MessageSid", message.sid),
        ("AccountSid", message.account_sid),
        ("From", message.sender),
        ("ApiVersion", API_VERSION),
    ]
    if message.service_sid:
        form.append(("MessagingServiceSid", message.service_sid))
    root = f"https://api.twilio.com/{API_VERSION}/Accounts/{message.account_sid}/Messages/{message.sid}/Media"
    for index, (media_sid, kind) in enumerate(zip(message.media, media, strict=True)):
        form += [(f"MediaContentType{index}", kind), (f"MediaUrl{index}", f"{root}/{media_sid}")]
    if message.kind == "whatsapp":
        form += [("ProfileName", "Toll"), ("WaId", message.sender.partition("+")[2]), ("MessageType", "text")]
    return form
