"""What must be true after any number of kills: what clients saw, what the provider did, and what the ledger says. Pure.

SEEN is what clients took for a success; UP is what the simulated providers' own log says was asked and answered; LEDGER is
every event. Each call carries its number to all three: in a header that providers log, and in a tag.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gateway.simulator.truth import Exchange
from tests.chaos.load import Call
from tests.walks.test_ledger_equals_truth import expected, nano

Event = Mapping[str, Any]

GROUPED = ("tenant_id", "source", "event_type", "resource")
"""How sums are asked for."""

MAY_HAVE_ACTED = (None, 502, 504)
"""What a client was answered, or was not, where nobody told it what the provider has done."""


class Figures(NamedTuple):
    """How much was compared."""

    calls: int
    seen: int
    up: int
    ledger: int
    unknown: int


def first_words(events: Sequence[Event]) -> list[Event]:
    """The events without what became of messages, which the gateway asks for by itself, and which corrects them."""
    return [event for event in events if (event["source"], event["kind"]) != ("twilio", "correction")]


def number_of(event: Event) -> int:
    """Which call an event is of."""
    return int(event["tags"]["call"])


def happened(exchange: Exchange) -> bool:
    return exchange.status is not None and 200 <= exchange.status < 300


def figures(calls: Sequence[Call], truth: Iterable[Exchange], events: Sequence[Event]) -> Figures:
    unknown = sum(event["completeness"] == "unknown" for event in events)
    seen = sum(call.seen is not None for call in calls)
    return Figures(len(calls), seen, sum(map(happened, truth)), len(first_words(events)), unknown)


def problems(
    calls: Iterable[Call], truth: Iterable[Exchange], events: Sequence[Event], sums: Iterable[Mapping[str, Any]]
) -> list[str]:
    """What is not as it must be, each with the call that it is about. `sums` are the daily sums, by `GROUPED`."""
    made = {call.number: call for call in calls}
    asked: dict[int, list[Exchange]] = {}
    for exchange in truth:
        asked.setdefault(int(exchange.header("x-walk-call") or 0), []).append(exchange)
    booked: dict[int, list[Event]] = {}
    said_first = first_words(events)
    for event in said_first:
        booked.setdefault(number_of(event), []).append(event)

    found = [*_twice(said_first)]
    for number in sorted({*made, *asked, *booked}):
        call = made.get(number)
        if call is None:
            found.append(f"call {number} was made by nobody")
            continue
        found += [
            f"{_named(call)}: {problem}" for problem in _of_call(call, asked.get(number, ()), booked.get(number, ()))
        ]
    return found + _sums_apart(events, sums)


def _twice(events: Sequence[Event]) -> list[str]:
    found = []
    for name in ("event_id", "external_id"):
        times = Counter(event[name] for event in events if event[name] is not None)
        found += [f"{name} {value} is in the ledger {count} times" for value, count in times.items() if count > 1]
    return found


def _named(call: Call) -> str:
    began, ended = call.kills
    return f"call {call.number} ({call.what}, begun after kill {began}, ended after kill {ended})"


def _of_call(call: Call, asked: Sequence[Exchange], booked: Sequence[Event]) -> list[str]:
    found = []
    if call.slow:
        found.append("its client waited in vain")
    if len(asked) > 1:
        found.append(f"it reached the provider {len(asked)} times")
    if len(booked) > 1:
        found.append(f"it is in the ledger {len(booked)} times")
    exchange = asked[0] if asked else None
    event = booked[0] if booked else None
    up = exchange is not None and happened(exchange)
    if event is None:
        if call.seen is not None:
            found.append(f"LOST: the client saw {call.seen} succeed, and the ledger does not have it")
        elif up:
            found.append("LOST: the provider did it, and the ledger does not say so")
    elif event["completeness"] in ("unknown", "estimated"):
        if call.seen is not None:
            found.append(f"the client saw {call.seen} succeed, and the ledger says that nobody knows")
        elif not up and call.status not in MAY_HAVE_ACTED:
            found.append(f"the client was told {call.status}, and the ledger has an event")
    elif exchange is None or not up:
        found.append("the provider did not do it, and the ledger says what it used")
    else:
        means = expected(exchange)
        found += [
            f"the ledger has {name} {event[name]!r}, and the provider {value!r}"
            for name, value in means.items()
            if event[name] != value
        ]
        if not event["priced"] or event["charge"]["amount"] is None:
            found.append("it has no charge")
    if event is not None and call.call_id not in (None, event["event_id"]):
        found.append(f"the client was told that it is {call.call_id}, and the ledger has it as {event['event_id']}")
    if call.seen is not None and (exchange is None or exchange.object_id != call.seen):
        found.append(f"the client saw {call.seen}, which no provider made")
    return found


def _sums_apart(events: Sequence[Event], sums: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where the daily sums are not those of the events."""
    by_group: dict[tuple[Any, ...], Counter[str]] = {}
    for event in events:
        own = by_group.setdefault(tuple(event[name] for name in GROUPED), Counter())
        own.update(event["quantities"])
        counted = int(event["kind"] == "usage")
        own.update(events=counted, charge=nano(event["charge"]["amount"]), cost=nano(event["cost"]["amount"]))
    kept: dict[tuple[Any, ...], Counter[str]] = {}
    for group in sums:
        own = kept[tuple(group[name] for name in GROUPED)] = Counter(group["quantities"])
        own.update(events=group["events"], charge=nano(group["charge"]["amount"]), cost=nano(group["cost"]["amount"]))
    return [
        f"the sums of {group} are {dict(kept.get(group, ()))}, and its events' {dict(by_group.get(group, ()))}"
        for group in sorted({*by_group, *kept}, key=str)
        if kept.get(group, Counter()) != by_group.get(group, Counter())
    ]
