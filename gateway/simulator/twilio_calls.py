"""Twilio's calls, simulated: placed, told of in status callbacks, read, listed, hung up, deleted. No I/O."""

from __future__ import annotations

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
    within,
)
from gateway.simulator.twilio_callbacks import Callback, delivery
from gateway.simulator.twilio_life import Life, Stage, begin_of, ended, is_over, life, lived
from gateway.simulator.twilio_messages import price_text
from gateway.simulator.twilio_objects import Ids, Owned
from gateway.simulator.twilio_told import API_VERSION, Told, gone, rfc_2822, uri_of, uri_page

SECONDS = 49
"""How long a call lasts that nobody gives a length: long enough that its minutes are another number."""
MINUTE_PRICE = Decimal("0.0140")

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

    @property
    def minutes(self) -> int:
        """What is billed: every minute that has begun."""
        return ceil((self.seconds or 0) / 60)

    @property
    def price(self) -> Decimal | None:
        return self.minutes * MINUTE_PRICE if self.minutes else None


class Calls:
    """The Calls resource."""

    def __init__(self, accounts: Accounts, ids: Ids) -> None:
        self._accounts = accounts
        self._ids = ids
        self._calls = Owned[Call](size_of)

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
            created=asking.now,
            life=life(asking.now, ("queued", "initiated", *ENDS[outcome]), controls.step_ms),
            seconds=seconds if outcome is Outcome.COMPLETED else None,
            callback=self._callback(asking),
            events=events_of(form),
        )
        self._calls.put(call)
        self._tally(call, 1)
        born = call.life[:1]
        return Told(
            fields=call_fields(call, born),
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

    def _tally(self, call: Call, sign: int) -> None:
        if call.price is not None:
            self._accounts.tally(call.account_sid, "calls", sign, sign * call.minutes, sign * call.price)

    def listing(self, asking: Asking) -> Told:
        query, wanted = asking.query, []
        for call in self._calls.of(asking.account):
            stages = lived(call.life, asking.now)
            begin, end = times(call, stages)
            if (
                query.one("To") in (None, call.to)
                and query.one("From") in (None, call.sender)
                and query.one("Status") in (None, shown_status(stages))
                and query.one("ParentCallSid") is None
                and within(query, "StartTime", begin)
                and within(query, "EndTime", end)
            ):
                wanted.append(call)
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
            return Told(fields=call_fields(call, stages), kind="Call", object_id=sid)
        self._tally(call, -1)
        final = "canceled" if answered is None else "completed"
        call = call._replace(
            life=ended(call.life, asking.now, final),
            seconds=None if answered is None else max(1, ceil(asking.now - answered)),
        )
        self._calls.put(call)
        self._tally(call, 1)
        return Told(
            fields=call_fields(call, call.life),
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
        ("POST", "/Accounts/{account}/Calls", create),
        ("GET", "/Accounts/{account}/Calls", listing),
        ("GET", "/Accounts/{account}/Calls/{id}", fetch),
        ("POST", "/Accounts/{account}/Calls/{id}", update),
        ("DELETE", "/Accounts/{account}/Calls/{id}", delete),
    )


def size_of(call: Call) -> int:
    return len(call.to) + len(call.sender) + len(call.callback.url if call.callback else "")


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
    return call_fields(call, lived(call.life, now))


def call_fields(call: Call, stages: Life) -> dict[str, Any]:
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
        "direction": "outbound-api",
        "duration": str(call.seconds) if over and call.seconds is not None else None,
        "end_time": rfc_2822(end),
        "forwarded_from": None,
        "from": call.sender,
        "from_formatted": call.sender,
        "group_sid": None,
        "parent_call_sid": None,
        "phone_number_sid": f"PN{call.account_sid[2:]}",
        "price": price_text(call.price) if over else None,
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
    """What a call is, for the truth log: what the answer says of it, and under `final` what will be so in the end."""
    names = ("status", "duration", "price", "price_unit")
    said, final = call_fields(call, stages), call_fields(call, call.life)
    return {
        "kind": "call",
        **{name: said[name] for name in ("to", "from", *names)},
        "final": {**{name: final[name] for name in names}, "minutes": call.minutes},
    }


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
        ("Direction", "outbound-api"),
        ("ApiVersion", API_VERSION),
        ("CallSid", call.sid),
        ("AccountSid", call.account_sid),
        ("From", call.sender),
        ("To", call.to),
    ]
