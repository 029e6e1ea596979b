"""A history for the simulated Twilio: many messages and calls at once, as if they had been sent over a while. No I/O.

None of them crossed any proxy, and nobody is told of any. The same seed makes the same history.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from decimal import Decimal
from itertools import accumulate
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from gateway.simulator import twilio_calls, twilio_messages
from gateway.simulator.controls import Outcome
from gateway.simulator.twilio_accounts import THE_NUMBER, Accounts
from gateway.simulator.twilio_asked import BAD_REQUEST, Account, ApiError, moment
from gateway.simulator.twilio_calls import Call, Calls
from gateway.simulator.twilio_life import Stage, life
from gateway.simulator.twilio_messages import FREE, Message, Messages, price_of
from gateway.simulator.twilio_objects import Ids
from gateway.simulator.twilio_usage import Amount, total

MANY_MAX = 500_000
STEP_MS = 50
SEGMENT_CHARACTERS = 153
BODY = "Toll is due. "

Count = Annotated[int, msgspec.Meta(ge=0, le=MANY_MAX)]
Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]
Weight = Annotated[float, msgspec.Meta(ge=0)]

Chosen = TypeVar("Chosen")


class Bulk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a test says about a history."""

    begin: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    """The time over which it is spread, in ISO 8601."""
    messages: Count = 0
    calls: Count = 0
    account_sid: str | None = None
    """None for the first account."""
    numbers: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = (THE_NUMBER,)
    """The account's own, taken in turn."""
    parties: Annotated[int, msgspec.Meta(ge=1, le=MANY_MAX)] = 1000
    """How many others there are."""
    inbound: Percent = 0
    media: Percent = 0
    """How many of a hundred messages are MMS."""
    legs: Percent = 0
    """How many of a hundred inbound calls are forwarded."""
    outcomes: Mapping[Outcome, Weight] = msgspec.field(default_factory=lambda: {Outcome.DELIVERED: 1})
    call_outcomes: Mapping[Outcome, Weight] = msgspec.field(default_factory=lambda: {Outcome.COMPLETED: 1})
    segments: Mapping[Annotated[int, msgspec.Meta(ge=1, le=10)], Weight] = msgspec.field(default_factory=lambda: {1: 1})
    seconds: tuple[Count, Count] = (1, 600)
    """How long calls last at least and at most."""
    price_ms: Count = 0
    seed: int = 0


class Weighted(Generic[Chosen]):
    """Chooses among these, each as often as its weight says."""

    def __init__(self, source: random.Random, weights: Mapping[Chosen, float], name: str) -> None:
        if not weights or sum(weights.values()) <= 0:
            raise ApiError(BAD_REQUEST, f"{name} holds no weight above 0")
        self._source = source
        self._all = list(weights)
        self._sums = list(accumulate(weights.values()))

    def one(self) -> Chosen:
        return self._source.choices(self._all, cum_weights=self._sums)[0]


class History:
    """Makes it."""

    def __init__(self, accounts: Accounts, messages: Messages, calls: Calls, ids: Ids) -> None:
        self._accounts = accounts
        self._messages = messages
        self._calls = calls
        self._ids = ids

    def make(self, bulk: Bulk, now: float) -> dict[str, Any]:
        """Make it all, and say what it comes to. Raises ApiError."""
        begin, end = moment(bulk.begin), moment(bulk.end)
        if begin is None or end is None or not 0 <= begin < end <= now:
            raise ApiError(BAD_REQUEST, "from and to are times in ISO 8601 that have passed, from before to")
        account = self._accounts.by_sid(bulk.account_sid or next(iter(self._accounts.all_sids())))
        if account is None:
            raise ApiError(BAD_REQUEST, "there is no account of this account_sid")
        for wrong in (
            *(set(bulk.outcomes) - set(twilio_messages.ENDS)),
            *(set(bulk.call_outcomes) - set(twilio_calls.ENDS)),
        ):
            raise ApiError(BAD_REQUEST, f"nothing here ends as {wrong}")
        source = random.Random(bulk.seed)  # noqa: S311 - a history, no secret
        sent = self._make_messages(bulk, account, begin, end, source)
        called = self._make_calls(bulk, account, begin, end, source)
        return {"messages": told(sent, "segments"), "calls": told(called, "minutes")}

    def _make_messages(
        self, bulk: Bulk, account: Account, begin: float, end: float, source: random.Random
    ) -> dict[str, Amount]:
        outcomes = Weighted(source, bulk.outcomes, "outcomes")
        sizes = Weighted(source, bulk.segments, "segments")
        bodies = {
            size: (BODY * (size * 12 + 1))[: 40 if size == 1 else size * SEGMENT_CHARACTERS] for size in bulk.segments
        }
        sums: dict[str, Amount] = {}
        for number in range(bulk.messages):
            at = begin + source.random() * (end - begin)
            inbound, media = source.random() * 100 < bulk.inbound, source.random() * 100 < bulk.media
            size, outcome = sizes.one(), outcomes.one()
            own, other = bulk.numbers[number % len(bulk.numbers)], party(source.randrange(bulk.parties))
            kind = "mms" if media else "sms"
            free = not inbound and outcome in FREE
            price = None if free else price_of(kind, size, "inbound" if inbound else "outbound")
            message = Message(
                sid=self._ids.sid("MM" if media else "SM"),
                account_sid=account.sid,
                kind=kind,
                to=own if inbound else other,
                sender=other if inbound else own,
                service_sid=None,
                body=bodies[size],
                media=(self._ids.sid("ME"),) if media else (),
                num_media=int(media),
                segments=1 if media else size,
                created=at,
                life=(Stage(at, "received"),)
                if inbound
                else life(at, ("queued", *twilio_messages.ENDS[outcome]), STEP_MS),
                price=price,
                price_s=bulk.price_ms / 1000,
                callback=None,
                direction="inbound" if inbound else "outbound-api",
            )
            self._messages.keep(message)
            category = f"{kind}-{'inbound' if inbound else 'outbound'}"
            name = f"{category} {message.life[-1].status}"
            amount = Amount(1, 0 if free else message.segments, price or Decimal(0))
            sums[name] = sums.get(name, NOTHING).plus(amount)
        return sums

    def _make_calls(
        self, bulk: Bulk, account: Account, begin: float, end: float, source: random.Random
    ) -> dict[str, Amount]:
        outcomes = Weighted(source, bulk.call_outcomes, "call_outcomes")
        low, high = sorted(bulk.seconds)
        sums: dict[str, Amount] = {}

        def keep(call: Call) -> None:
            self._calls.keep(call)
            name = f"calls-{call.direction} {call.life[-1].status}"
            amount = Amount(1, call.minutes, call.price or Decimal(0), call.seconds or 0)
            sums[name] = sums.get(name, NOTHING).plus(amount)

        for number in range(bulk.calls):
            at = begin + source.random() * (end - begin)
            inbound, outcome = source.random() * 100 < bulk.inbound, outcomes.one()
            own, other = bulk.numbers[number % len(bulk.numbers)], party(source.randrange(bulk.parties))
            stages = (
                ("ringing", "in-progress", "completed")
                if inbound
                else ("queued", "initiated", *twilio_calls.ENDS[outcome])
            )
            talks = inbound or outcome is Outcome.COMPLETED
            call = Call(
                sid=self._ids.sid("CA"),
                account_sid=account.sid,
                to=own if inbound else other,
                sender=other if inbound else own,
                created=at,
                life=life(at, stages, STEP_MS),
                seconds=source.randint(low, high) if talks else None,
                callback=None,
                events=twilio_calls.EVENTS_DEFAULT,
                price_s=bulk.price_ms / 1000,
                direction="inbound" if inbound else "outbound-api",
            )
            keep(call)
            if inbound and source.random() * 100 < bulk.legs:
                leg = call._replace(
                    sid=self._ids.sid("CA"),
                    to=party(source.randrange(bulk.parties)),
                    life=life(at, ("queued", "initiated", *twilio_calls.ENDS[Outcome.COMPLETED]), STEP_MS),
                    seconds=source.randint(low, call.seconds or low),
                    direction="outbound-dial",
                    parent_sid=call.sid,
                    line=own,
                )
                keep(leg)
        return sums


NOTHING = total(())


def party(number: int) -> str:
    """One of the others: a number in North America that belongs to nobody."""
    return f"+1555{number:07d}"


def told(sums: Mapping[str, Amount], unit: str) -> dict[str, Any]:
    """What was made, by category and end."""
    return {
        name: {"count": amount.counted, unit: amount.usage, "seconds": amount.seconds, "cost": f"{amount.price:f}"}
        for name, amount in sorted(sums.items())
    }
