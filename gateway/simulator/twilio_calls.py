"""Twilio's calls, simulated: placed, told of in status callbacks, read, listed, hung up, deleted. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from math import ceil
from typing import Any, ClassVar, NamedTuple

from gateway.simulator.api import Delivery
from gateway.simulator.controls import Outcome
from gateway.simulator.twilio_accounts import Accounts
from gateway.simulator.twilio_asked import (
    BAD_REQUEST,
    CLIENT,
    INCOMPLETE,
    NUMBER,
    SENDER_ID,
    ApiError,
    Asking,
    Form,
    callback_url,
    is_url,
    recipient,
    span,
)
from gateway.simulator.twilio_callbacks import Callback, delivery
from gateway.simulator.twilio_life import Life, Stage, begin_of, ended, is_over, life, lived
from gateway.simulator.twilio_messages import price_s, price_text
from gateway.simulator.twilio_objects import Ids
from gateway.simulator.twilio_timeline import Selection, Timeline
from gateway.simulator.twilio_told import API_VERSION, Told, gone, rfc_2822, uri_of, uri_page
from gateway.simulator.twilio_usage import Amount, Line, Usage

SECONDS = 49
"""How long a call lasts that nobody gives a length: long enough that its minutes are another number."""
MINUTE_PRICE, INBOUND_MINUTE_PRICE = Decimal("0.0140"), Decimal("0.0085")

ENDS: Mapping[Outcome, tuple[str, ...]] = {
    Outcome.COMPLETED: ("ringing", "in-progress", "completed"),
    Outcome.BUSY: ("busy",),
    Outcome.NO_ANSWER: ("ringing", "no-answer"),
    Outcome.FAILED: ("failed",),
    Outcome.CANCELED: ("ringing", "canceled"),
}
"""What a call goes through once it has left the queue, by how that ends."""

EVENTS = {"initiated": "initiated", "ringing": "ringing", "in-progress": "answered"}
"""What applications call the changes of a call, by the state that it is in then; all others are called `completed`."""
EVENTS_DEFAULT = frozenset({"completed"})

SUBRESOURCES: Mapping[str, str] = {
    "events": "Events",
    "notifications": "Notifications",
    "payments": "Payments",
    "recordings": "Recordings",
    "siprec": "Siprec",
    "streams": "Streams",
    "transcriptions": "Transcriptions",
    "user_defined_message_subscriptions": "UserDefinedMessageSubscriptions",
    "user_defined_messages": "UserDefinedMessages",
}


class Call(NamedTuple):
    """A call, with all that will become of it."""

    sid: str
    account_sid: str
    to: str
    sender: str
    created: float
    life: Life
    seconds: int | None
    """How long they talk; None where nobody answers."""
    callback: Callback | None
    events: frozenset[str]
    """Of which its application is told."""
    price_s: float
    """How long after the end it is told what it cost."""
    direction: str = "outbound-api"
    parent_sid: str | None = None
    line: str | None = None
    """The account's number whose traffic this is, where it is neither who calls nor who is called."""

    @property
    def at(self) -> float:
        """When they begin to talk; where nobody answers, when it ends."""
        begun = begin_of(self.life, frozenset({"in-progress"}))
        return self.life[-1].at if begun is None else begun

    @property
    def own_number(self) -> str:
        """The account's: who calls, or inbound who is called."""
        return self.line or (self.to if self.direction == "inbound" else self.sender)

    @property
    def minutes(self) -> int:
        """What is billed: every minute that has begun."""
        return ceil((self.seconds or 0) / 60)

    @property
    def price(self) -> Decimal | None:
        each = INBOUND_MINUTE_PRICE if self.direction == "inbound" else MINUTE_PRICE
        return self.minutes * each if self.minutes else None


class Calls:
    """The Calls resource."""

    def __init__(self, accounts: Accounts, usage: Usage, ids: Ids) -> None:
        self._accounts = accounts
        self._usage = usage
        self._ids = ids
        self._calls = Timeline[Call](lambda call: call.at)

    def create(self, asking: Asking) -> Told:
        form, controls = asking.form, asking.controls
        to, source = parties(asking)
        url = form.one("Url")
        if url is None and not (form.one("Twiml") or form.one("ApplicationSid")):
            raise ApiError(21205, "Url parameter is required.")
        if url is not None and not is_url(url):
            raise ApiError(21205, f"Url is not a valid URL: {url[:80]}")
        outcome = outcome_of(asking)
        seconds = SECONDS if controls.seconds is None else controls.seconds
        call = Call(
            sid=self._ids.sid("CA"),
            account_sid=asking.account.sid,
            to=to,
            sender=source,
            created=asking.at,
            life=life(asking.at, ("queued", "initiated", *ENDS[outcome]), controls.step_ms),
            seconds=seconds if outcome is Outcome.COMPLETED else None,
            callback=self._callback(asking),
            events=events_of(form),
            price_s=price_s(controls),
        )
        self.keep(call)
        born = call.life[:1]
        return Told(
            fields=call_fields(call, born, priced=False),
            kind="Call",
            status=201,
            object_id=call.sid,
            usage=truth_of(call, born),
            lives=True,
            later=self._told_later(call, call.life[1:], asking.now),
        )

    def _callback(self, asking: Asking) -> Callback | None:
        """Whom its changes are told: the URL of the request, or of its application."""
        application = self._accounts.application(asking.form.one("ApplicationSid"), asking.account.sid)
        url = callback_url(asking.form)
        method = asking.form.one("StatusCallbackMethod")
        if url is None:
            url, method = application.get("status_callback"), application.get("status_callback_method")
        return Callback(url, "GET" if method == "GET" else "POST", asking.account.auth_token) if url else None

    def _told_later(self, call: Call, stages: Life, now: float) -> tuple[Delivery, ...]:
        if call.callback is None:
            return ()
        told = [stage for stage in call.life[1:] if EVENTS.get(stage.status, "completed") in call.events]
        return tuple(
            delivery(
                call.callback,
                callback_parameters(call, stage, number),
                object_id=call.sid,
                after_ms=max(0, round((stage.at - now) * 1000)),
                still_so=partial(self._still_lives, call.sid, stage),
                idempotency_token=self._ids.idempotency_token(),
            )
            for number, stage in enumerate(told)
            if stage in stages
        )

    def _still_lives(self, sid: str, stage: Stage) -> bool:
        """Whether a call went or will go through a stage; of one that is deleted, all that came before was so."""
        call = self._calls.anybodys(sid)
        return call is None or stage in call.life

    def keep(self, call: Call) -> None:
        """Take in a call that there was not, with what it costs."""
        self._calls.put(call)
        self._tally(call, 1)

    def replace(self, call: Call) -> None:
        """Let a call go on otherwise, and cost what it costs now."""
        before = self._calls.anybodys(call.sid)
        if before is not None:
            self._tally(before, -1)
        self.keep(call)

    def anybodys(self, sid: str) -> Call | None:
        return self._calls.anybodys(sid)

    def _tally(self, call: Call, sign: int) -> None:
        if call.price is not None:
            category = "calls-inbound" if call.direction == "inbound" else "calls-outbound"
            amount = Amount(1, call.minutes, call.price, call.seconds or 0)
            self._usage.tally(Line(call.account_sid, call.own_number, ""), category, call.at, amount.times(sign))

    def listing(self, asking: Asking) -> Told:
        query = asking.query
        started, ended = span(query, "StartTime"), span(query, "EndTime")
        to, source, status, parent = map(query.one, ("To", "From", "Status", "ParentCallSid"))

        def holds(call: Call) -> bool:
            if to not in (None, call.to) or source not in (None, call.sender) or parent not in (None, call.parent_sid):
                return False
            stages = lived(call.life, asking.now)
            begin, end = times(call, stages)
            return status in (None, shown_status(stages)) and started.holds(begin) and ended.holds(end)

        wanted = Selection(self._calls, asking.account, holds, started)
        return uri_page(asking, "Calls", "Call", wanted, partial(call_fields_at, now=asking.now))

    def fetch(self, asking: Asking, sid: str) -> Told:
        call = self._calls.get(asking.account, sid)
        return Told(fields=call_fields_at(call, asking.now), kind="Call", object_id=sid)

    def update(self, asking: Asking, sid: str) -> Told:
        """Hang up, or give the call new instructions, which changes nothing that can be seen here."""
        call, status = self._calls.get(asking.account, sid), asking.form.one("Status")
        if status not in (None, "canceled", "completed"):
            raise ApiError(BAD_REQUEST, f"Status cannot become {status[:20]}")
        if is_over(call.life, asking.now):
            raise ApiError(21220, "Call is not in-progress. Cannot redirect.")
        stages = lived(call.life, asking.now)
        answered = begin_of(stages, frozenset({"in-progress"}))
        if status is None or (status == "canceled" and answered is not None):
            return Told(fields=call_fields(call, stages, priced=False), kind="Call", object_id=sid)
        final = "canceled" if answered is None else "completed"
        call = call._replace(
            life=ended(call.life, asking.now, final),
            seconds=None if answered is None else max(1, ceil(asking.now - answered)),
        )
        self.replace(call)
        return Told(
            fields=call_fields(call, call.life, priced=False),
            kind="Call",
            object_id=sid,
            usage=truth_of(call, call.life),
            later=self._told_later(call, call.life[-1:], asking.now),
        )

    def delete(self, asking: Asking, sid: str) -> Told:
        if not is_over(self._calls.get(asking.account, sid).life, asking.now):
            raise ApiError(INCOMPLETE, "Cannot delete this resource before it is complete", status=409)
        self._calls.pop(asking.account, sid)
        return gone(sid)

    ROUTES: ClassVar[tuple[tuple[str, str, Callable[..., Told]], ...]] = (
        ("GET", "/Accounts/{account}/Calls", listing),
        ("GET", "/Accounts/{account}/Calls/{id}", fetch),
        ("POST", "/Accounts/{account}/Calls/{id}", update),
        ("DELETE", "/Accounts/{account}/Calls/{id}", delete),
    )


def events_of(form: Form) -> frozenset[str]:
    named = frozenset(name for value in form.all("StatusCallbackEvent") for name in value.split())
    return named & {*EVENTS.values(), *EVENTS_DEFAULT} or EVENTS_DEFAULT


def parties(asking: Asking) -> tuple[str, str]:
    to, source = asking.form.one("To"), asking.form.one("From")
    if to is None:
        raise ApiError(21201, "No 'To' number is specified")
    if source is None:
        raise ApiError(21213, "No 'From' number is specified")
    if not CLIENT.fullmatch(to):
        to = recipient(to).address
    plain = source.replace(" ", "")
    # To a SIP address or a client, anybody may seem to call.
    if not NUMBER.fullmatch(plain) and not (
        CLIENT.fullmatch(to) and (SENDER_ID.fullmatch(plain) or CLIENT.fullmatch(plain))
    ):
        raise ApiError(21212, f"The 'From' number {source[:40]} is not a valid phone number")
    return to, plain


def outcome_of(asking: Asking) -> Outcome:
    outcome = asking.controls.outcome or Outcome.COMPLETED
    if outcome not in ENDS:
        raise ApiError(BAD_REQUEST, f"The x-simulator-outcome of a call is one of {', '.join(ENDS)}.")
    if asking.controls.seconds is not None and outcome is not Outcome.COMPLETED:
        raise ApiError(BAD_REQUEST, f"A call whose x-simulator-outcome is {outcome} has no x-simulator-seconds.")
    return outcome


def times(call: Call, stages: Life) -> tuple[float | None, float | None]:
    """When a call began and ended, by what it says: it lasts as long as it says, though the simulator does not wait."""
    over = len(stages) == len(call.life)
    begin = begin_of(stages, frozenset({"in-progress"}))
    if begin is None:
        begin = stages[-1].at if over else None
    return begin, begin + (call.seconds or 0) if begin is not None and over else None


def shown_status(stages: Life) -> str:
    """The state as the resource has it: that a call has left the queue, only callbacks say."""
    return "queued" if stages[-1].status == "initiated" else stages[-1].status


def call_fields_at(call: Call, now: float) -> dict[str, Any]:
    return call_fields(call, lived(call.life, now), priced=call.life[-1].at + call.price_s <= now)


def call_fields(call: Call, stages: Life, *, priced: bool) -> dict[str, Any]:
    """A call as it is told once these stages have begun."""
    over = len(stages) == len(call.life)
    begin, end = times(call, stages)
    return {
        "account_sid": call.account_sid,
        "annotation": None,
        "answered_by": None,
        "api_version": API_VERSION,
        "caller_name": None,
        "date_created": rfc_2822(call.created),
        "date_updated": rfc_2822(stages[-1].at),
        "direction": call.direction,
        "duration": str(call.seconds) if over and call.seconds is not None else None,
        "end_time": rfc_2822(end),
        "forwarded_from": None,
        "from": call.sender,
        "from_formatted": call.sender,
        "group_sid": None,
        "parent_call_sid": call.parent_sid,
        "phone_number_sid": f"PN{call.account_sid[2:]}",
        "price": price_text(call.price) if priced else None,
        "price_unit": "USD",
        "queue_time": "0",
        "sid": call.sid,
        "start_time": rfc_2822(begin),
        "status": shown_status(stages),
        "subresource_uris": {
            name: uri_of(call.account_sid, "Calls", call.sid, segment) for name, segment in SUBRESOURCES.items()
        },
        "to": call.to,
        "to_formatted": call.to,
        "trunk_sid": None,
        "uri": uri_of(call.account_sid, "Calls", call.sid),
    }


def truth_of(call: Call, stages: Life) -> dict[str, Any]:
    """What a call is, for the truth log: what the answer says of it, and under `final` what will be so in the end, where
    that does not depend on its application."""
    names = ("status", "duration", "price", "price_unit")
    said = call_fields(call, stages, priced=False)
    told = {"kind": "call", **{name: said[name] for name in ("to", "from", *names)}}
    if call.life[-1].at == math.inf:
        return told
    final = call_fields(call, call.life, priced=True)
    return {**told, "final": {**{name: final[name] for name in names}, "minutes": call.minutes}}


def callback_parameters(call: Call, stage: Stage, number: int) -> list[tuple[str, str]]:
    """What an application is told of a change: at the end with `CallDuration`, the seconds, and `Duration`, the minutes."""
    ends: list[tuple[str, str]] = []
    if stage == call.life[-1]:
        ends = [("CallDuration", str(call.seconds or 0)), ("Duration", str(call.minutes))]
        if stage.status == "failed":
            ends.append(("SipResponseCode", "404"))
    return [
        ("Called", call.to),
        ("Caller", call.sender),
        ("CallStatus", stage.status),
        *ends,
        ("Timestamp", rfc_2822(stage.at) or ""),
        ("SequenceNumber", str(number)),
        ("CallbackSource", "call-progress-events"),
        ("Direction", call.direction),
        ("ApiVersion", API_VERSION),
        ("CallSid", call.sid),
        ("AccountSid", call.account_sid),
        ("From", call.sender),
        ("To", call.to),
    ]
