"""The activity of simulated mail: a message to each recipient, in the order of time, and the queries that find them.
No I/O.

Of the language of queries there is what a collector needs: fields that equal a text, `last_event_time` before, after or
between timestamps, and `Contains(categories,"…")`, with AND in between.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

MESSAGES_MAX = 200_000
"""Beyond it the oldest are forgotten."""

TEXT = r'"([^"]*)"'
STAMP = rf"TIMESTAMP {TEXT}"
EQUALS = re.compile(rf"(from_email|msg_id|status|subject|to_email) ?= ?{TEXT}")
BETWEEN = re.compile(rf"last_event_time BETWEEN {STAMP} AND {STAMP}")
COMPARED = re.compile(rf"last_event_time ?(>=|<=|>|<) ?{STAMP}")
CONTAINS = re.compile(rf"\(?Contains\(categories, ?{TEXT}\)\)?")
AND = re.compile(r" +AND +")


class Sent(NamedTuple):
    """What became of a mail to one recipient."""

    at: int
    """When something has last become of it, in seconds since 1970-01-01T00:00Z."""
    fields: Mapping[str, Any]
    categories: tuple[str, ...]
    events: tuple[Mapping[str, Any], ...] = ()
    """What became of it, in order."""


class Wanted(NamedTuple):
    """What a query asks for: within these seconds, both included, and so."""

    low: float = -math.inf
    high: float = math.inf
    equal: tuple[tuple[str, str], ...] = ()
    categories: tuple[str, ...] = ()

    def holds(self, sent: Sent) -> bool:
        return all(sent.fields[name] == value for name, value in self.equal) and set(self.categories) <= {
            *sent.categories
        }


def read_query(query: str) -> Wanted | None:
    """What is asked for; None where it is no query."""
    wanted, place = Wanted(), 0
    while True:
        for pattern, take in CONDITIONS:
            found = pattern.match(query, place)
            narrower = take(wanted, found) if found else None
            if found and narrower is not None:
                wanted, place = narrower, found.end()
                break
        else:
            return None
        if place == len(query):
            return wanted
        joined = AND.match(query, place)
        if joined is None:
            return None
        place = joined.end()


def stamp(text: str) -> float | None:
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _equals(wanted: Wanted, found: re.Match[str]) -> Wanted:
    return wanted._replace(equal=(*wanted.equal, (found[1], found[2])))


def _between(wanted: Wanted, found: re.Match[str]) -> Wanted | None:
    low, high = stamp(found[1]), stamp(found[2])
    if low is None or high is None:
        return None
    return wanted._replace(low=max(wanted.low, low), high=min(wanted.high, high))


def _compared(wanted: Wanted, found: re.Match[str]) -> Wanted | None:
    at = stamp(found[2])
    if at is None:
        return None
    match found[1]:
        case ">=":
            return wanted._replace(low=max(wanted.low, at))
        case "<=":
            return wanted._replace(high=min(wanted.high, at))
        case ">":
            return wanted._replace(low=max(wanted.low, math.floor(at) + 1))
        case _:
            return wanted._replace(high=min(wanted.high, math.ceil(at) - 1))


def _contains(wanted: Wanted, found: re.Match[str]) -> Wanted:
    return wanted._replace(categories=(*wanted.categories, found[1]))


CONDITIONS: tuple[tuple[re.Pattern[str], Callable[[Wanted, re.Match[str]], Wanted | None]], ...] = (
    (EQUALS, _equals),
    (BETWEEN, _between),
    (COMPARED, _compared),
    (CONTAINS, _contains),
)


class Activity:
    """The messages of one account."""

    def __init__(self) -> None:
        self._sent: dict[str, Sent] = {}
        self._places: list[tuple[int, str]] = []

    def put(self, msg_id: str, sent: Sent) -> None:
        self._sent[msg_id] = sent
        insort(self._places, (sent.at, msg_id))
        if len(self._places) > MESSAGES_MAX:
            del self._sent[self._places.pop(0)[1]]

    def get(self, msg_id: str) -> Sent | None:
        return self._sent.get(msg_id)

    def find(self, wanted: Wanted) -> Iterator[Sent]:
        """Those that a query asks for, newest first."""
        begin = bisect_left(self._places, (wanted.low, ""))
        end = bisect_left(self._places, (math.nextafter(wanted.high, math.inf), ""))
        found = (self._sent[self._places[index][1]] for index in range(end - 1, begin - 1, -1))
        return filter(wanted.holds, found)

    def __len__(self) -> int:
        return len(self._sent)
