"""One call at the simulated Twilio, and what its application says: TwiML decides, webhook by webhook. No I/O.

One that comes in lasts from the first ring until the TwiML is over; one that goes out lasts as long as was planned.

What a caller does is said beforehand: the digits for each Gather, how long a recording is, how a forwarded call ends. What
is only heard, such as Say and Play, takes no time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from gateway.simulator.api import Delivery, Reply
from gateway.simulator.controls import Outcome
from gateway.simulator.twilio_asked import NUMBER, is_url
from gateway.simulator.twilio_callbacks import Callback, delivery
from gateway.simulator.twilio_calls import ENDS, SECONDS, Call, Calls, callback_parameters
from gateway.simulator.twilio_life import begin_of, ended, life, lived
from gateway.simulator.twilio_objects import Ids, Thing
from gateway.simulator.twilio_recordings import Recordings
from gateway.simulator.twilio_told import API_VERSION
from gateway.simulator.twilio_twiml import Verb, read_twiml
from gateway.simulator.twilio_webhooks import STEPS_MAX, Form, Target, elsewhere, is_good, places, question, why

FAILED_SECONDS = 3
"""How long a call lasts whose application cannot be reached: so long it takes to say so."""
DIALED_SECONDS, RECORD_SECONDS = 31, 7

NOUNS = ("Number", "Sip", "Client")
"""What a Dial can name; a number can also be its text."""


class InboundCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a test says about a call that comes in."""

    to: str
    source: str = msgspec.field(name="from")
    account_sid: str | None = None
    """None for whoever has the number."""
    digits: tuple[str, ...] = ()
    """What the caller types, one text for each Gather; then they type nothing more."""
    seconds: int = SECONDS
    """How long it lasts, by what it says."""
    dial_outcome: Outcome = Outcome.COMPLETED
    dial_seconds: int = DIALED_SECONDS
    """How the calls end that it is forwarded to, and how long they last."""
    record_seconds: int = RECORD_SECONDS
    webhook: bool = True
    """Whether the application is asked; else the call is over at once."""


class Leg(NamedTuple):
    """A call that a Dial has made."""

    call: Call
    told: tuple[Delivery, ...]


class Talk:
    """What is said between one call and its application."""

    def __init__(
        self,
        calls: Calls,
        recordings: Recordings,
        ids: Ids,
        now: Callable[[], float],
        given: InboundCall,
        call: Call,
        target: Target | None,
        *,
        planned: bool = False,
    ) -> None:
        """`planned` is true where it is known already when the call is answered, and when it is over."""
        self._planned = planned
        self._calls = calls
        self._recordings = recordings
        self._ids = ids
        self._now = now
        self._given = given
        self._sid = call.sid
        self._target = target
        self._digits = iter(given.digits)
        self._steps = itertools.count()

    def begin(self) -> Sequence[Delivery]:
        """Ask what to do; where nobody is asked, the call is over at once."""
        if self._target is None:
            return self._over("completed", self._given.seconds)
        return self._ask(self._target.main, "in-progress" if self._planned else "ringing")

    def _call(self) -> Call:
        """As it is now. Raises LookupError where it was deleted meanwhile."""
        call = self._calls.anybodys(self._sid)
        if call is None:
            raise LookupError(self._sid)
        return call

    def _form(self, call: Call, status: str, more: Form = ()) -> list[tuple[str, str]]:
        return [
            *places(Called=call.to, To=call.to, Caller=call.sender, From=call.sender),
            ("Called", call.to),
            ("Caller", call.sender),
            ("CallStatus", status),
            ("Direction", call.direction),
            ("ApiVersion", API_VERSION),
            ("CallSid", call.sid),
            ("AccountSid", call.account_sid),
            ("From", call.sender),
            ("To", call.to),
            *more,
        ]

    def _ask(self, there: Callback, status: str, more: Form = (), *, fallback: bool = False) -> Sequence[Delivery]:
        try:
            call = self._call()
        except LookupError:
            return ()
        if next(self._steps) >= STEPS_MAX:
            return self._over("completed", self._given.seconds)
        form = self._form(call, status, more)
        answered = partial(self._answered, there, status, more, fallback=fallback)
        asked = question(there, form, call.sid, self._ids.idempotency_token(), answered)
        return (msgspec.structs.replace(asked, fallback=fallback),)

    def _answered(self, here: Callback, status: str, more: Form, reply: Reply, *, fallback: bool) -> Sequence[Delivery]:
        """Do what the answer says."""
        verbs = read_twiml(reply.body) if is_good(reply) else None
        if verbs is None:
            second = self._target.fallback if self._target else None
            if second is not None and not fallback:
                return self._ask(second, status, [*more, *why(reply, here.url)], fallback=True)
            return self._over("completed", min(FAILED_SECONDS, self._given.seconds))
        try:
            if verbs and verbs[0].name == "Reject":
                return self._over("busy" if verbs[0].attributes.get("reason") == "busy" else "no-answer", None)
            self._pick_up()
            return tuple(self._carry_out(here, verbs))
        except LookupError:
            return ()

    def _pick_up(self) -> None:
        call = self._call()
        if begin_of(call.life, frozenset({"in-progress"})) is None:
            answered = life(call.created, ("ringing", "in-progress"), 0, first_step_s=self._now() - call.created)
            self._calls.replace(call._replace(life=(*answered, call.life[-1])))

    def _carry_out(self, here: Callback, verbs: Sequence[Verb]) -> Iterator[Delivery]:
        for verb in verbs:
            action = verb.attributes.get("action")
            there = elsewhere(here, action or "", verb.attributes.get("method"))
            match verb.name:
                case "Gather":
                    typed = next(self._digits, None)
                    if typed is not None:
                        yield from self._ask(there, "in-progress", [("Digits", typed), ("FinishedOnKey", "")])
                        return
                case "Redirect":
                    there = elsewhere(here, verb.text, verb.attributes.get("method"))
                    yield from self._ask(there, "in-progress")
                    return
                case "Record":
                    more, told = self._record(here, verb)
                    yield from told
                    yield from self._ask(there, "in-progress", more)
                    return
                case "Dial":
                    legs = [self._dial(here, noun) for noun in dialed(verb)]
                    for leg in legs:
                        yield from leg.told
                    if action is not None:
                        yield from self._ask(there, "in-progress", ended_dial(legs))
                        return
                case "Hangup":
                    break
                case _:
                    continue
        yield from self._over("completed", self._given.seconds)

    def _record(self, here: Callback, verb: Verb) -> tuple[Form, Sequence[Delivery]]:
        """Record the caller, and tell whom the verb names."""
        call, seconds = self._call(), self._given.record_seconds
        made = self._recordings.keep(call, seconds, "RecordVerb", self._now())
        more = [
            ("RecordingUrl", made.fields["media_url"]),
            ("RecordingSid", made.sid),
            ("RecordingDuration", str(seconds)),
            ("Digits", "hangup"),
        ]
        url = verb.attributes.get("recordingStatusCallback")
        if not url:
            return more, ()
        there = elsewhere(here, url, verb.attributes.get("recordingStatusCallbackMethod"))
        return more, (tell(there, recorded(made), made.sid, self._ids.idempotency_token()),)

    def _dial(self, here: Callback, noun: Verb) -> Leg:
        """Call somebody else for the caller: a call of its own, whose parent this one is."""
        parent, outcome, now = self._call(), self._given.dial_outcome, self._now()
        url = noun.attributes.get("statusCallback")
        there = elsewhere(here, url, noun.attributes.get("statusCallbackMethod")) if url else None
        leg = Call(
            sid=self._ids.sid("CA"),
            account_sid=parent.account_sid,
            to=noun.text,
            sender=parent.sender if NUMBER.fullmatch(parent.sender) else parent.to,
            created=now,
            life=life(now, ("queued", "initiated", *ENDS[outcome]), 0),
            seconds=self._given.dial_seconds if outcome is Outcome.COMPLETED else None,
            callback=there,
            events=frozenset({"completed"}),
            price_s=parent.price_s,
            direction="outbound-dial",
            parent_sid=parent.sid,
            line=parent.to,
        )
        self._calls.keep(leg)
        form = [*callback_parameters(leg, leg.life[-1], 0), ("ParentCallSid", parent.sid)]
        return Leg(leg, (tell(there, form, leg.sid, self._ids.idempotency_token()),) if there else ())

    def _over(self, status: str, seconds: int | None) -> Sequence[Delivery]:
        """End the call, and tell the number's status callback."""
        if self._planned:
            return ()
        now, call = self._now(), self._call()
        if seconds is not None:
            self._pick_up()
            call = self._call()
        call = call._replace(life=ended(lived(call.life, now), now, status), seconds=seconds)
        self._calls.replace(call)
        if call.callback is None or not is_url(call.callback.url):
            return ()
        form = callback_parameters(call, call.life[-1], 0)
        return (tell(call.callback, form, call.sid, self._ids.idempotency_token()),)


def tell(there: Callback, form: Form, object_id: str, idempotency_token: str) -> Delivery:
    """Tell an application of something that is so, and stays so."""
    return delivery(
        there, form, object_id=object_id, after_ms=0, still_so=lambda: True, idempotency_token=idempotency_token
    )


def recorded(made: Thing) -> list[tuple[str, str]]:
    """What an application is told of a recording."""
    fields = made.fields
    return [
        ("RecordingSource", fields["source"]),
        ("RecordingSid", made.sid),
        ("RecordingUrl", fields["media_url"]),
        ("RecordingStatus", fields["status"]),
        ("RecordingChannels", str(fields["channels"])),
        ("RecordingDuration", fields["duration"]),
        ("CallSid", fields["call_sid"]),
        ("AccountSid", fields["account_sid"]),
    ]


def dialed(verb: Verb) -> Sequence[Verb]:
    """Whom a Dial calls; the first who answers would have it, here all have the same end."""
    nouns = [noun for noun in verb.inner if noun.name in NOUNS]
    return nouns[:1] or ([Verb("Number", {}, verb.text, ())] if NUMBER.fullmatch(verb.text) else [])


def ended_dial(legs: Sequence[Leg]) -> Form:
    if not legs:
        return [("DialCallStatus", "failed")]
    call = legs[-1].call
    status = call.life[-1].status
    return [
        ("DialCallSid", call.sid),
        ("DialCallStatus", status),
        ("DialBridged", str(status == "completed").lower()),
        *([("DialCallDuration", str(call.seconds))] if call.seconds is not None else []),
    ]
