"""Delivers to applications what lies in the inbox, until they have it or it is three days old.

What is about the same thing goes in the order in which it came, one after the other: such deliveries are a *lane*, and a
lane waits for its first. Nothing else waits for anything else: lanes share an application's *door*, which is where they
lead, and each door and each tenant has a bounded number of attempts under way. A door that does not answer is tried by one
delivery at a time until it does, so that a tenant whose application is down costs the others nothing.

An application has a delivery when it answers 2xx. It may have it twice: where its answer was lost, or the gateway died
before it could delete the file. Both carry the same id. 410 says that it does not want this one. Whatever else it says, and
whatever is wrong with its URL, it is tried again, at growing intervals.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush, nsmallest
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

from gateway import standard_webhooks
from gateway.egress import Egress, EgressError, Forbidden, TooSlow
from gateway.inbox import KEPT_S, Inbox, Unreadable, Waiting
from gateway.telemetry import log
from gateway.ticks import until_tick_s

ATTEMPT_S = 30.0
"""So long an application may take to answer."""

FIRST_WAIT_S = 1.0
WAIT_S_MAX = 300.0
"""Before the next attempt: it doubles from the first to the last of these, less up to half of it by chance, so that those
who failed together do not come together."""

LOOK_S = 0.2
LOOK_PART = 0.1
"""The inbox is looked at so often, and never for more than this part of the time."""

AT_ONCE_MAX = 64
AT_ONCE_OF_TENANT_MAX = 16
AT_ONCE_OF_DOOR_MAX = 4
BYTES_AT_ONCE_MAX = 128 << 20
"""Attempts under way. Further ones wait; a delivery that is larger by itself is made alone."""

CLOSE_S = 5.0
"""What is under way when the gateway stops has so long; what it cuts off is delivered again."""

GONE = 410

DELIVERY_ID = "X-Tollkeeper-Delivery-Id"

OUTCOMES = ("delivered", "refused", "too_slow", "unreachable", "forbidden", "no_url", "unreadable")
"""Of an attempt; all but the first are followed by another."""

SAY_S = 300.0
"""That a door fails is said in the log no more often than this."""

Signed: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""A URL, and headers."""

Sign: TypeAlias = Callable[[str, str, str, str, bytes], Signed]
"""(secret, URL, method, media type, body) → where it goes and with which headers, so that it verifies there."""


class Destination(NamedTuple):
    """Where a delivery goes, and what it is signed with."""

    url: str
    secrets: tuple[str, ...]
    """The tenant's signing secret; and the one before it, while both are valid."""
    sign: Sign
    """As the provider signs, with the first of them."""


class Shown(NamedTuple):
    """A delivery that waits, for people to see."""

    waiting: Waiting
    attempts: int
    """Since the gateway started."""
    next_attempt_ms: int | None
    """None while one is under way, and where the delivery waits for another about the same."""
    outcome: str | None
    """Of the last attempt."""
    status: int | None


@dataclass(slots=True, eq=False)
class _Door:
    """Where lanes lead."""

    place: tuple[str, str, str, str]
    ready: deque[_Lane] = field(default_factory=deque)
    """Lanes whose time has come."""
    lanes: int = 0
    busy: int = 0
    waits: bool = False
    """True while it is among those that take turns."""
    failing: bool = False
    """True if the last attempt failed."""
    said_s: float = float("-inf")

    @property
    def tenant_id(self) -> str:
        return self.place[0]


@dataclass(slots=True, eq=False)
class _Lane:
    """Deliveries that go one after the other."""

    place: tuple[str, str]
    door: _Door
    deliveries: deque[Waiting] = field(default_factory=deque)
    attempts: int = 0
    """Of the first."""
    outcome: str | None = None
    status: int | None = None
    at_s: float = 0.0
    """When the first is tried next, by the loop's clock."""
    turn: int = 0
    """Tells the last time that was set from those before."""
    ready: bool = False
    busy: bool = False


class Deliverer:
    """Delivers what is in the inbox."""

    def __init__(
        self,
        inbox: Inbox,
        egress: Egress,
        destination_of: Callable[[Waiting], Destination | None],
        now_ms: Callable[[], int],
        attempt_s: float = ATTEMPT_S,
    ) -> None:
        """`destination_of` is asked at each attempt, so that a new URL or secret counts at once; None where there is none."""
        self._inbox = inbox
        self._egress = egress
        self._destination_of = destination_of
        self._now_ms = now_ms
        self._attempt_s = attempt_s
        self._known: dict[str, _Lane] = {}
        self._over: set[str] = set()
        """Deliveries that are done with, and whose files could not be deleted yet."""
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._doors: dict[tuple[str, str, str, str], _Door] = {}
        self._later: list[tuple[float, int, _Lane]] = []
        self._taking_turns: deque[_Door] = deque()
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._of_tenant: Counter[str] = Counter()
        self._bytes = 0
        self._wake = asyncio.Event()
        self.attempts = Counter(dict.fromkeys(OUTCOMES, 0))
        """How each ended."""
        self.given_up = 0
        """Deliveries that were too old, or not wanted."""
        self.unreadable = 0
        """Files that are set aside."""

    # -- what is seen from outside

    @property
    def waiting(self) -> int:
        """Deliveries that applications do not have."""
        return len(self._known)

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest of them came."""
        return min((lane.deliveries[0].received_at_ms for lane in self._lanes.values()), default=None)

    def shown(self, tenant_id: str, limit: int, after: tuple[int, str] = (-1, "")) -> list[Shown]:
        """So much of what waits of a tenant, in the order in which it came, after a moment and an id."""
        of_tenant = (
            one
            for lane in self._lanes.values()
            if lane.door.tenant_id == tenant_id
            for one in lane.deliveries
            if _position(one) > after
        )
        return [self._shown(one) for one in nsmallest(limit, of_tenant, key=_position)]

    def find(self, tenant_id: str, delivery_id: str) -> Shown | None:
        """One delivery that waits, if it is this tenant's."""
        lane = self._known.get(delivery_id)
        if lane is None or lane.door.tenant_id != tenant_id:
            return None
        return self._shown(next(one for one in lane.deliveries if one.delivery_id == delivery_id))

    def _shown(self, waiting: Waiting) -> Shown:
        lane = self._known[waiting.delivery_id]
        if waiting is not lane.deliveries[0]:
            return Shown(waiting, 0, None, None, None)
        left_s = max(0.0, lane.at_s - asyncio.get_running_loop().time())
        at_ms = None if lane.busy else self._now_ms() + round(left_s * 1000)
        return Shown(waiting, lane.attempts, at_ms, lane.outcome, lane.status)

    def retry(self, tenant_id: str, delivery_id: str) -> bool:
        """Try a delivery now; where it waits for another about the same, that one. False if the tenant has no such."""
        if self.find(tenant_id, delivery_id) is None:
            return False
        self._put_off(self._known[delivery_id], 0)
        self._wake.set()
        return True

    # -- the loop

    async def run(self) -> None:
        """Deliver until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                began_s = loop.time()
                try:
                    if self._over or self._inbox.changed():
                        await self.look()
                except Exception as error:  # noqa: BLE001  What lies there stays there, and is looked at again.
                    log.error("inbox_not_looked_at", error=type(error).__name__)
                look_at_s = loop.time() + max(until_tick_s(LOOK_S), (loop.time() - began_s) / LOOK_PART)
                while loop.time() < look_at_s:
                    self._wake.clear()
                    self.begin()
                    until_s = min([look_at_s, *(at_s for at_s, _, _ in self._later[:1])])
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(until_s):
                            await self._wake.wait()
        finally:
            await self._close()

    async def look(self) -> None:
        """See what has come, and what is gone or too old. Raises OSError."""
        for delivery_id in tuple(self._over):
            await self._remove(delivery_id)
        seen = await asyncio.to_thread(self._inbox.look, self._known.keys() | self._over)
        self.unreadable = seen.unreadable
        # Somebody else may have deleted it; but one that came while it was looked for is not gone.
        for delivery_id in [one for one, lane in self._known.items() if one not in seen.here and not lane.busy]:
            self._forget(delivery_id)
        for waiting in seen.new:
            self._take_up(waiting)
        oldest_ms = self._now_ms() - KEPT_S * 1000
        for lane in tuple(self._lanes.values()):
            while lane.deliveries and not lane.busy and lane.deliveries[0].received_at_ms <= oldest_ms:
                await self._give_up(lane, "too old")

    def begin(self) -> None:
        """Begin as many attempts as may be under way, door after door."""
        now_s = asyncio.get_running_loop().time()
        while self._later and self._later[0][0] <= now_s:
            _, turn, lane = heappop(self._later)
            if lane.turn == turn and lane.deliveries and not lane.busy and not lane.ready:
                lane.ready = True
                lane.door.ready.append(lane)
                if not lane.door.waits:
                    lane.door.waits = True
                    self._taking_turns.append(lane.door)
        passed_over = 0
        while passed_over < len(self._taking_turns) and len(self._tasks) < AT_ONCE_MAX:
            door = self._taking_turns[0]
            while door.ready and not door.ready[0].deliveries:
                door.ready.popleft().ready = False
            if not door.ready:
                door.waits = False
                self._taking_turns.popleft()
            elif self._has_room(door, door.ready[0].deliveries[0].size_bytes):
                self._start(door.ready.popleft())
                self._taking_turns.rotate(-1)
                passed_over = 0
            else:
                self._taking_turns.rotate(-1)
                passed_over += 1

    async def quiet(self) -> None:
        """Wait until no attempt is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _close(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- lanes

    def _take_up(self, waiting: Waiting) -> None:
        place = waiting.tenant_id, waiting.order_key or waiting.delivery_id
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = _Lane(place, self._door(waiting))
            lane.door.lanes += 1
            self._put_off(lane, 0)
        lane.deliveries.append(waiting)
        self._known[waiting.delivery_id] = lane

    def _door(self, waiting: Waiting) -> _Door:
        origin = "" if waiting.url is None else urlsplit(waiting.url).netloc
        place = waiting.tenant_id, waiting.source, waiting.webhook, origin
        return self._doors.setdefault(place, _Door(place))

    def _put_off(self, lane: _Lane, wait_s: float) -> None:
        """Have the first of a lane tried after so long."""
        self._turn += 1
        lane.turn, lane.at_s = self._turn, asyncio.get_running_loop().time() + wait_s
        heappush(self._later, (lane.at_s, lane.turn, lane))

    def _forget(self, delivery_id: str) -> None:
        """A delivery is done with; the one behind it is the next."""
        lane = self._known.pop(delivery_id)
        if lane.deliveries[0].delivery_id == delivery_id:
            lane.deliveries.popleft()
            lane.attempts, lane.outcome, lane.status = 0, None, None
            self._put_off(lane, 0)
        else:
            lane.deliveries = deque(one for one in lane.deliveries if one.delivery_id != delivery_id)
        if not lane.deliveries:
            del self._lanes[lane.place]
            lane.door.lanes -= 1
            if not lane.door.lanes:
                del self._doors[lane.door.place]

    # -- attempts

    def _has_room(self, door: _Door, size_bytes: int) -> bool:
        return (
            door.busy < (1 if door.failing else AT_ONCE_OF_DOOR_MAX)
            and self._of_tenant[door.tenant_id] < AT_ONCE_OF_TENANT_MAX
            and (not self._bytes or self._bytes + size_bytes <= BYTES_AT_ONCE_MAX)
        )

    def _start(self, lane: _Lane) -> None:
        first = lane.deliveries[0]
        lane.ready, lane.busy = False, True
        self._count(lane.door, 1, first.size_bytes)
        task = asyncio.create_task(self._attempt(lane, first))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count(self, door: _Door, under_way: int, size_bytes: int) -> None:
        door.busy += under_way
        self._bytes += under_way * size_bytes
        self._of_tenant[door.tenant_id] += under_way
        if not self._of_tenant[door.tenant_id]:
            del self._of_tenant[door.tenant_id]

    async def _attempt(self, lane: _Lane, first: Waiting) -> None:
        try:
            outcome, status = await self._deliver(first)
        except Unreadable:
            outcome, status = "unreadable", None
            with suppress(OSError):  # Else with the next attempt.
                await asyncio.to_thread(self._inbox.set_aside, first.delivery_id)
        except Exception as error:  # noqa: BLE001  The last line of defence: no delivery may stop the others.
            log.error("delivery_failed", delivery_id=first.delivery_id, error=type(error).__name__)
            outcome, status = "unreadable", None
        finally:
            lane.busy = False
            self._count(lane.door, -1, first.size_bytes)
            self._wake.set()
        self.attempts[outcome] += 1
        lane.outcome, lane.status = outcome, status
        lane.attempts += 1
        self._say(lane.door, outcome, status)
        if outcome == "delivered":
            self._forget(first.delivery_id)
            await self._remove(first.delivery_id)
        elif status == GONE:
            await self._give_up(lane, "the application does not want it")
        else:
            self._put_off(lane, wait_s(lane.attempts))

    async def _deliver(self, waiting: Waiting) -> tuple[str, int | None]:
        """How an attempt ends, and what the application says. Raises Unreadable, OSError."""
        destination = self._destination_of(waiting)
        if destination is None or not destination.secrets:
            return "no_url", None
        method, url, headers, body = await asyncio.to_thread(self._prepared, waiting, destination)
        try:
            answer = await self._egress.send(url, method, headers, body, self._attempt_s)
        except Forbidden:
            return "forbidden", None
        except TooSlow:
            return "too_slow", None
        except EgressError:
            return "unreachable", None
        return "delivered" if 200 <= answer.status < 300 else "refused", answer.status

    def _prepared(self, waiting: Waiting, destination: Destination) -> tuple[str, str, list[tuple[str, str]], bytes]:
        """Method, URL, headers and body as they are sent, signed as of now. In a thread: a body may be large."""
        kept = self._inbox.take(waiting)
        url, signed = destination.sign(destination.secrets[0], destination.url, kept.method, kept.media_type, kept.body)
        body = b"" if kept.method == "GET" else kept.body
        headers = [("Content-Type", kept.media_type)] if body and kept.media_type else []
        headers += kept.headers
        headers.append((DELIVERY_ID, waiting.delivery_id))
        headers += signed
        now_s = self._now_ms() // 1000
        headers += standard_webhooks.headers(destination.secrets, waiting.delivery_id, now_s, body)
        return kept.method, url, headers, body

    async def _give_up(self, lane: _Lane, reason: str) -> None:
        first = lane.deliveries[0]
        self.given_up += 1
        log.warning(
            "delivery_given_up",
            delivery_id=first.delivery_id,
            tenant_id=first.tenant_id,
            source=first.source,
            webhook=first.webhook,
            attempts=lane.attempts,
            outcome=lane.outcome,
            status=lane.status,
            reason=reason,
        )
        self._forget(first.delivery_id)
        await self._remove(first.delivery_id)

    async def _remove(self, delivery_id: str) -> None:
        """Delete what is done with; what the disk does not let go of is not delivered again, and deleted later."""
        self._over.add(delivery_id)
        try:
            await asyncio.to_thread(self._inbox.remove, delivery_id)
        except OSError as error:
            log.error("delivery_not_deleted", delivery_id=delivery_id, error=type(error).__name__)
        else:
            self._over.discard(delivery_id)

    def _say(self, door: _Door, outcome: str, status: int | None) -> None:
        """Say in the log that deliveries to somewhere fail, once in a while."""
        door.failing = outcome != "delivered"
        now_s = asyncio.get_running_loop().time()
        if door.failing and now_s - door.said_s > SAY_S:
            door.said_s = now_s
            tenant_id, source, webhook, _ = door.place
            log.warning(
                "deliveries_fail", tenant_id=tenant_id, source=source, webhook=webhook, outcome=outcome, status=status
            )


def _position(waiting: Waiting) -> tuple[int, str]:
    return waiting.received_at_ms, waiting.delivery_id


def wait_s(attempts: int) -> float:
    """How long to wait after so many attempts."""
    longest = min(FIRST_WAIT_S * 2.0 ** min(attempts - 1, 30), WAIT_S_MAX)
    return longest * random.uniform(0.5, 1)  # noqa: S311  It spreads, and keeps nothing secret.
