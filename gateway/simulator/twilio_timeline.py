"""Twilio's messages and calls in the order of time: found by sid, and by account from the newest on. No I/O.

A hundred thousand of them are made in any order, for what is put in later may have happened before. So each account has
its objects sorted, a page begins where a binary search says, and nothing is looked at that lies outside of what is asked
for.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

from gateway.simulator.twilio_asked import EVER, Account, NotFound, Span
from gateway.simulator.twilio_objects import HasOwner

Object = TypeVar("Object", bound=HasOwner)

OBJECTS_MAX = 500_000
"""Beyond it the object that was made first is forgotten, as if it had been deleted."""


class Place(NamedTuple):
    """Where an object stands among those of its account."""

    at: float
    sid: str


class Timeline(Generic[Object]):
    """Objects of one kind, each visible to its account alone."""

    def __init__(self, at: Callable[[Object], float]) -> None:
        self._at = at
        self._objects: dict[str, Object] = {}
        self._places: dict[str, list[Place]] = {}
        """By account, oldest first."""

    def put(self, made: Object) -> None:
        """Remember an object; one of the same sid is replaced."""
        place, before = self.place(made), self._objects.get(made.sid)
        places = self._places.setdefault(made.account_sid, [])
        if before is None or self.place(before) != place:
            if before is not None:
                self._remove(before)
            insort(places, place)
        self._objects[made.sid] = made
        if len(self._objects) > OBJECTS_MAX:
            self._remove(self._objects.pop(next(iter(self._objects))))

    def get(self, account: Account, sid: str) -> Object:
        """Raises NotFound."""
        found = self._objects.get(sid)
        if found is None or found.account_sid != account.sid:
            raise NotFound
        return found

    def pop(self, account: Account, sid: str) -> Object:
        """Raises NotFound."""
        found = self.get(account, sid)
        self._remove(self._objects.pop(sid))
        return found

    def anybodys(self, sid: str) -> Object | None:
        return self._objects.get(sid)

    def place(self, made: Object) -> Place:
        return Place(self._at(made), made.sid)

    def _remove(self, made: Object) -> None:
        places = self._places[made.account_sid]
        del places[bisect_left(places, self.place(made))]

    def older(self, account_sid: str, span: Span, than: Place | None = None) -> Iterator[Object]:
        """Newest first, from what is older than this."""
        places = self._places.get(account_sid, [])
        end = bisect_left(places, min(filter(None, (than, Place(span.high, "")))))
        for index in range(end - 1, bisect_left(places, Place(span.low, "")) - 1, -1):
            yield self._objects[places[index].sid]

    def newer(self, account_sid: str, span: Span, than: Place) -> Iterator[Object]:
        """Oldest first, from what is newer than this."""
        places = self._places.get(account_sid, [])
        begin = bisect_left(places, max(Place(than.at, f"{than.sid}\0"), Place(span.low, "")))
        for index in range(begin, bisect_left(places, Place(span.high, ""))):
            yield self._objects[places[index].sid]


class Selection(Generic[Object]):
    """Those of an account's objects that a query asks for."""

    def __init__(
        self,
        timeline: Timeline[Object],
        account: Account,
        holds: Callable[[Object], bool],
        span: Span = EVER,
    ) -> None:
        self._timeline = timeline
        self._account = account
        self._holds = holds
        self._span = span

    def older(self, than: str | None) -> Iterator[Object]:
        """Newest first, from what is older than this one; from the newest on where there is no such object."""
        found = self._timeline.anybodys(than) if than else None
        place = self._timeline.place(found) if found else None
        return filter(self._holds, self._timeline.older(self._account.sid, self._span, place))

    def newer(self, than: str) -> Iterator[Object]:
        """Oldest first, from what is newer than this one."""
        found = self._timeline.anybodys(than)
        place = self._timeline.place(found) if found else Place(-math.inf, "")
        return filter(self._holds, self._timeline.newer(self._account.sid, self._span, place))

    def __contains__(self, sid: str) -> bool:
        return self._timeline.anybodys(sid) is not None
