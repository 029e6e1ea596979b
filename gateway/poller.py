"""Facts that come later, and that nobody else has asked for: the back office asks the provider itself.

What is open is in the ledger's database, with the moment at which it is asked for next. That moment is moved before the
question is sent, so a crash costs one interval and nothing else, and two back offices do no harm to each other: what they
find is the same, and is booked once. Questions go to the configured base URLs alone, with the tenant's own credential or
else the platform's, a few at once and a few a second. A call that an application made with a credential of its own can not
be asked about: when the provider knows it not, it is given up as `unknown`.

Here the facts also end their wait that were found before their call was booked.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from sqlalchemy import bindparam, delete, exists, select, tuple_, update
from yarl import URL

from gateway.providers.api import Lines, Pending, ReadOn, Settles
from gateway.providers.learnt import Late, Usage
from gateway.recorder import late_event
from gateway.telemetry import log
from gateway.ticks import until_tick_s
from metering.database import Database, DatabaseUnavailable
from metering.facts import Fact, fact, validated
from metering.late import let_go, ready
from metering.tables import late_facts, pending_events, usage_events
from metering.usage import DUE_S, Completeness, UsageEvent

LOOK_S = 1.0
"""Between two looks at what is to be asked."""

SEARCH_S = 5.0
"""The same where nothing is pending, and nobody says that something is: what only other hosts have booked, while none of
them looks, waits so long."""

ASKS_MAX = 10
"""Questions that are begun at one look: so many a second, of all providers together."""

AT_ONCE_MAX = 8
"""Questions under way."""

AGE_PART = 10
"""The next question comes after this part of the age: after 2 s, 2.2 s, …, up to what the endpoint says."""

DUE_S_MAX = 30 * 86_400.0
"""What is not due for longer is asked for all the same."""

PAUSE_S = 30.0
"""A provider that says that it is asked too often is not asked for so long."""

BODY_BYTES_MAX = 32 << 20
LINE_BYTES_MAX = 16 << 20
"""Of an answer, and of one line in a file, which may be of any length itself."""

CONNECT_S, SILENCE_S = 10, 30
"""How long a connection may take, and how long a provider may say nothing."""

ASK_S_MAX = 900
"""So long one question may take with all that is read of its answer: no slow one keeps the others waiting for ever."""

WAIT_DAYS = 7
"""A fact whose call has not come for so long is about something that was made around the gateway."""

OPEN_DAYS = 45
"""What is pending for so long is not looked at any more; the longest that a provider is asked for is a month."""

HOUSEKEEPING_S = 600
FACTS_MAX = 500

OUTCOMES = ("settled", "open", "given_up", "no_credential", "refused", "unreachable", "unreadable")
"""What can become of a question."""

SUCCESS, NOT_FOUND, TOO_MANY = 200, 404, 429


class AsksAs(NamedTuple):
    """A credential, as far as questions need it."""

    headers: Mapping[str, str]
    """What carries it."""
    account: str | None
    """Whose it is, where the provider has accounts in its paths."""


class Source(NamedTuple):
    """A provider, as far as it is asked."""

    base_url: str
    settles: Mapping[str, Settles]
    """By endpoint."""
    asks_as: Callable[[str], AsksAs | None]
    """As whom it is asked on behalf of a tenant; None where there is no credential."""


class Unanswered(Exception):
    """A question without an answer that can be read; the text is the outcome."""

    def __init__(self, outcome: str, status: int | None = None) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.status = status


class Poller:
    """Asks providers what became of what is pending."""

    def __init__(
        self,
        database: Database,
        book: Callable[[Sequence[Fact]], Awaitable[object]],
        sources: Mapping[str, Source],
        now: Callable[[], dt.datetime],
    ) -> None:
        """`book` books facts in one transaction and raises DatabaseUnavailable."""
        self._database = database
        self._book = book
        self.sources = sources
        self._now = now
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._paused: dict[str, float] = {}
        """Providers that are not asked, and until when by the loop's clock."""
        self._said: dict[tuple[str, str], str] = {}
        """What the log has of tenants whose questions are not answered."""
        self._housekept = float("-inf")
        self.wake = asyncio.Event()
        """Set when something is pending, or a fact waits, that may not have been there before."""
        self.polls = Counter(dict.fromkeys(OUTCOMES, 0))

    async def run(self) -> None:
        """Ask for ever."""
        try:
            async with _session() as session:
                while True:
                    self.wake.clear()
                    waits = True
                    try:
                        waits = await self.look(session)
                    except DatabaseUnavailable:
                        pass  # Whoever books says it.
                    except Exception as error:  # noqa: BLE001  Two that forget the same may get in each other's way.
                        log.error("poller_failed", error=type(error).__name__)
                    await asyncio.sleep(until_tick_s(LOOK_S))
                    if not waits:
                        with suppress(TimeoutError):
                            async with asyncio.timeout(SEARCH_S - LOOK_S):
                                await self.wake.wait()
        finally:
            for task in self._asking.values():
                task.cancel()

    async def look(self, session: ClientSession) -> bool:
        """Book what waited, and begin to ask what is to be asked now; False where nothing is pending and no fact waits.

        Raises DatabaseUnavailable.
        """
        waits, pending = await self._sweep()
        if not pending:
            return waits
        for row in await self._due(min(ASKS_MAX, AT_ONCE_MAX - len(self._asking))):
            key = row.tenant_id, row.event_id
            if key not in self._asking:
                task = self._asking[key] = asyncio.create_task(self._settle(session, row))
                task.add_done_callback(lambda _, key=key: self._asking.pop(key))  # type: ignore[misc]
        return True

    async def quiet(self) -> None:
        """Wait until no question is under way."""
        while self._asking:
            await asyncio.wait(self._asking.values())

    async def _sweep(self) -> tuple[bool, bool]:
        """Book what waited, and let go of what has for too long; whether facts wait, and whether something is pending."""
        async with self._database.reading() as connection:
            waits, pending = (await connection.execute(_ANY)).one()
            facts = await ready(connection, FACTS_MAX) if waits else []
        if facts:
            await self._book(facts)
            pending = True  # What is known of some may be that more will be said.
        await self._let_go()
        return bool(waits), bool(pending)

    async def _let_go(self) -> None:
        time_s = asyncio.get_running_loop().time()
        if time_s - self._housekept < HOUSEKEEPING_S:
            return
        self._housekept = time_s
        open_since = self._now() - dt.timedelta(days=OPEN_DAYS)
        async with self._database.transaction() as connection:
            forgotten = await let_go(connection, self._now() - dt.timedelta(days=WAIT_DAYS))
            await connection.execute(delete(pending_events).where(pending_events.c.occurred_at < open_since))
        if forgotten:
            log.warning(
                "late_facts_let_go", facts=forgotten, reason="no call of the gateway's made what they are about"
            )

    async def _due(self, rows_max: int) -> list[Any]:
        """What is to be asked now. The moment for the time after is there before it is asked."""
        if rows_max <= 0:
            return []
        now, time_s = self._now(), asyncio.get_running_loop().time()
        asked = [
            (name, endpoint)
            for name, source in self.sources.items()
            if self._paused.get(name, time_s) <= time_s
            for endpoint in source.settles
        ]
        at, of_event = pending_events.c, usage_events.c
        question = (
            select(pending_events, of_event.metadata)
            .join(
                usage_events,
                (of_event.tenant_id == at.tenant_id)
                & (of_event.event_day == at.event_day)
                & (of_event.event_id == at.event_id),
            )
            .where(tuple_(at.source, at.endpoint).in_(asked), at.ask_at <= now)
            .order_by(at.ask_at)
            .limit(rows_max)
        )
        async with self._database.reading() as connection:
            found = (await connection.execute(question)).all()
        if not found:
            return []
        later = [
            {"tenant": row.tenant_id, "object": row.external_id, "event": row.event_id, "at": self._after(row, now)}
            for row in sorted(found, key=lambda row: (row.tenant_id, row.external_id, row.event_id))
        ]
        async with self._database.transaction() as connection:
            await connection.execute(_ASK_LATER, later)
        return [row for row in found if _age_s(row, now) >= self._first_s(row)]

    def _settles(self, row: Any) -> Settles:
        return self.sources[row.source].settles[row.endpoint]

    def _first_s(self, row: Any) -> float:
        """The age at which it is asked for first."""
        due_s = row.metadata.get(DUE_S)
        waits_s = due_s - row.occurred_at.timestamp() if isinstance(due_s, int) else 0.0
        return self._settles(row).first_s + min(max(0.0, waits_s), DUE_S_MAX)

    def _after(self, row: Any, now: dt.datetime) -> dt.datetime:
        """When to ask for what is asked for now, or too early."""
        age_s, settles = _age_s(row, now), self._settles(row)
        wait_s = self._first_s(row) - age_s
        if wait_s <= 0:
            wait_s = min(max(settles.first_s, age_s / AGE_PART), settles.interval_s_max)
        return now + dt.timedelta(seconds=wait_s)

    async def _settle(self, session: ClientSession, row: Any) -> None:
        """Ask for one thing, and book what is said. Whatever fails, it is asked again."""
        try:
            async with asyncio.timeout(ASK_S_MAX):
                found, outcome = await self._found(session, row), "open"
            facts = [_as_fact(late_event(row.tenant_id, row.source, one)) for one in found]
        except Unanswered as unanswered:
            found, outcome = (), unanswered.outcome
            self._say(row, outcome, unanswered.status)
            if unanswered.status == TOO_MANY:
                self._paused[row.source] = asyncio.get_running_loop().time() + PAUSE_S
        except TimeoutError:
            found, outcome = (), "unreachable"
        except Exception as error:  # noqa: BLE001  The last line of defence: no answer may stop the others.
            log.error("poll_failed", source=row.source, endpoint=row.endpoint, error=type(error).__name__)
            found, outcome = (), "unreadable"
        else:
            self._said.pop((row.source, row.tenant_id), None)
        if found:
            outcome = "given_up" if found == (lost(row.external_id),) else "settled"
            try:
                await self._book(facts)
            except DatabaseUnavailable:
                outcome = "open"
        self.polls[outcome] += 1

    async def _found(self, session: ClientSession, row: Any) -> tuple[Late, ...]:
        """What became of one thing; empty while it is not over. Raises Unanswered."""
        source, settles, age_s = self.sources[row.source], self._settles(row), _age_s(row, self._now())
        if age_s > settles.days_max * 86_400:
            return (lost(row.external_id),)
        asks_as = source.asks_as(row.tenant_id)
        if asks_as is None:
            raise Unanswered("no_credential")
        headers = asks_as.headers
        path = settles.path(Pending(row.external_id, row.metadata, asks_as.account))
        if path is None:
            raise Unanswered("unreadable")
        try:
            async with _answer(session, source.base_url + path, headers) as chunks:
                body = await _held(chunks)
        except Unanswered as unanswered:
            if unanswered.status == NOT_FOUND and age_s > settles.gone_s:
                return (lost(row.external_id),)
            raise
        read_old = settles.read_old if age_s > settles.old_days * 86_400 else None
        found = (read_old or settles.read)(body)
        if isinstance(found, ReadOn):
            found = await _read_on(session, source.base_url, found, headers)
        # An answer about something else says nothing.
        named = (one if one.external_id else one._replace(external_id=row.external_id) for one in found)
        return tuple(one for one in named if one.external_id == row.external_id)

    def _say(self, row: Any, outcome: str, status: int | None) -> None:
        """Say in the log, once, that a tenant's questions are not answered."""
        key = row.source, row.tenant_id
        if self._said.get(key) != outcome:
            self._said[key] = outcome
            log.warning("poll_unanswered", source=row.source, tenant_id=row.tenant_id, outcome=outcome, status=status)


_ANY = select(exists(select(late_facts.c.key)), exists(select(pending_events.c.event_id)))

_ASK_LATER = (
    update(pending_events)
    .where(
        pending_events.c.tenant_id == bindparam("tenant"),
        pending_events.c.external_id == bindparam("object"),
        pending_events.c.event_id == bindparam("event"),
    )
    .values(ask_at=bindparam("at"))
)


def lost(external_id: str) -> Late:
    """What is said of something that no provider will say anything of."""
    usage = Usage(quantities={}, completeness=Completeness.UNKNOWN, metadata={"status": "never told"})
    return Late(external_id=external_id, phase="lost", usage=usage)


def _as_fact(event: UsageEvent) -> Fact:
    """Raises ValueError for what no provider can have meant."""
    return fact(validated(event), msgspec.json.encode(event))


def _age_s(row: Any, now: dt.datetime) -> float:
    return (now - row.occurred_at).total_seconds()  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------------------------------------
# Asking


def _session() -> ClientSession:
    return ClientSession(
        timeout=ClientTimeout(total=None, connect=CONNECT_S, sock_read=SILENCE_S),
        connector=TCPConnector(limit=AT_ONCE_MAX),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
    )


@asynccontextmanager
async def _answer(session: ClientSession, url: str, headers: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body of what is there, as it comes. Nobody is followed to another host. Raises Unanswered."""
    try:
        async with session.get(
            URL(url, encoded=True), headers={**headers, "Accept-Encoding": "identity"}, allow_redirects=False
        ) as answer:
            if answer.status != SUCCESS:
                raise Unanswered("refused", answer.status)
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise Unanswered("unreadable")
            yield answer.content.iter_any()
    except (ClientError, TimeoutError, OSError, ValueError) as error:
        raise Unanswered("unreachable") from error


async def _held(chunks: AsyncIterator[bytes]) -> bytes:
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        if len(held) > BODY_BYTES_MAX:
            raise Unanswered("unreadable")
    return bytes(held)


async def _read_on(session: ClientSession, base_url: str, over: ReadOn, headers: Mapping[str, str]) -> tuple[Late, ...]:
    """What stands in the file of something that is over. Raises Unanswered."""
    try:
        async with _answer(session, base_url + over.path, headers) as chunks:
            return await _read_lines(chunks, over.lines())
    except Unanswered as unanswered:
        # Its owner may delete a file, and has used what it was the answer to all the same.
        if unanswered.status == NOT_FOUND and over.without:
            return over.without
        raise


async def _read_lines(chunks: AsyncIterator[bytes], lines: Lines) -> tuple[Late, ...]:
    """Have a file read line by line, of which no more than a line is held."""
    rest = bytearray()
    too_long = False
    async for chunk in chunks:
        *ended, begun = chunk.split(b"\n")
        for line in ended:
            rest += line
            lines.feed(None if too_long else bytes(rest))
            rest.clear()
            too_long = False
        rest += begun
        if len(rest) > LINE_BYTES_MAX:
            rest.clear()
            too_long = True
    if rest or too_long:
        lines.feed(None if too_long else bytes(rest))
    return lines.finish()
