"""The ledger held against what providers say themselves, and made to meet it: the back office's reconciliation.

A run takes one source and some whole UTC days, for one tenant or for all. For each account there is, calls of unknown
outcome are looked for, the provider's lists are collected, its own totals are read and compared with the sums of the
ledger, and each difference is corrected by an event or explained (:mod:`metering.reconciliation`). What costs money and
nobody used is booked as `cost` events, under keys that say what it is of: the same figures again book nothing, another
figure of the same day books what is new of it.

A run can be broken off anywhere and begun again. Of two at once, both find the same, and each thing is booked once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import msgspec
from sqlalchemy import Select, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.providers.api import Record, Total, nanos
from gateway.tables import audit_log
from gateway.unknown_outcomes import resolve
from metering.around import ByName, around, over_midnight
from metering.claims import made_key
from metering.database import Database
from metering.event_types import EVENT_TYPES, INPUT_TOKENS, OTHER
from metering.facts import Fact, fact, validated
from metering.late import PRICE, late_fact
from metering.ledger import Appended
from metering.moments import DAY_MS, EPOCH_DAY
from metering.reconciliation import (
    COST,
    COUNT,
    PLATFORM,
    Amounts,
    Beyond,
    Cause,
    Comparison,
    Figure,
    Held,
    Step,
    Subject,
    Told,
    added,
    beyond,
    compared,
    minutes_up_s,
)
from metering.usage import CONTEXT_TOKENS, TOLD_COST, Completeness, Kind, UsageEvent, event_id_of
from pricing import held
from pricing.held import PROVIDER_COST, Part, Whose
from pricing.money import format_amount

DAYS_MAX = 62
"""So many days one run may take: two months. More are to be asked for in parts."""

SETTLED_S = 6 * 3600
"""So long after its end a day is taken to move still, whatever the provider says."""

IDS_MAX = 2_000_000
"""Where a day has more objects than this, it is not looked at which of them are not listed."""

PAGE_ROWS = 2000

BOOKINGS_MAX = 3
"""So often a cost is tried to be booked where somebody else books the same one; what is then missing stays open."""

FINAL = "final"
"""The phase that says what was used in all."""

LUMPS = "reconciliation"
"""The endpoint of what is booked of a sum."""

LUMP = "sum"
"""How the phases are called that say once more what a sum comes to, with a number behind."""


class NotReconciled(Exception):
    """A run that can not be done: says why, and the cure."""


class Account(NamedTuple):
    """One account with a provider, whose lists are read."""

    source: str
    tenant_id: str | None
    """Who is compared; None for all tenants that share it."""
    apart: frozenset[str] = frozenset()
    """The tenants that are on other accounts."""
    shared: bool = False
    """True where others are on it than this tenant, so that its totals are not this tenant's."""
    others: frozenset[str] = frozenset()
    """Accounts that are in its totals and are compared by themselves."""
    name: str = ""
    """The provider's own; empty where it is all that a key opens."""
    named_in: str = ""
    """The field of an integration that says whose it is."""
    opaque: Any = None
    """What whoever reads its lists knows it by."""

    def whose(self, first: dt.date, last: dt.date) -> Whose:
        return Whose(self.source, first.isoformat(), last.isoformat(), self.tenant_id, self.apart)


class Lists(Protocol):
    """Reads what providers say. Raises NotReconciled where there is nothing to read or no answer."""

    async def accounts(self, source: str, tenant_id: str | None) -> Sequence[Account]:
        """Those that have what belongs to a tenant, or for None all of them."""

    async def collect(self, account: Account, first: dt.date, last: dt.date, asked_by: str) -> bool:
        """Book what is in its lists; returns when it is in the ledger: True if all was read, False where it has no lists,
        or does not give them."""

    def records(self, account: Account, day: dt.date) -> AsyncIterator[Sequence[Record]]:
        """The objects of one day, page by page."""

    async def totals(self, account: Account, day: dt.date) -> Sequence[Total]:
        """The provider's own totals of one day."""

    async def nobodys(self, account: Account, first: dt.date, last: dt.date) -> Sequence[Part]:
        """What is in its lists and is nobody's."""


class Wanted(NamedTuple):
    """What is to be reconciled."""

    source: str
    tenant_id: str | None
    first_day: dt.date
    last_day: dt.date
    """Included."""
    tolerance: Fraction
    asked_by: str


class Report(NamedTuple):
    """What a run has found."""

    comparisons: Sequence[Comparison]
    beyond: Sequence[Beyond]
    currency: str
    """Of all costs; empty where they are of several."""

    @property
    def matched(self) -> bool:
        return not self.beyond


class Reconciler:
    """Holds the ledger against providers' own figures."""

    def __init__(
        self,
        database: Database,
        book: Callable[[Sequence[Fact]], Awaitable[Sequence[Appended]]],
        lists: Lists,
        figures: Mapping[str, Callable[[Sequence[Total]], list[Figure]]],
        reference: Callable[[str], str],
        now: Callable[[], dt.datetime],
    ) -> None:
        """`book` books facts in one transaction and raises DatabaseUnavailable. `figures` say by source what totals are in
        the ledger. `reference` makes the keyed hash that stands for a number."""
        self._database = database
        self._book = book
        self._lists = lists
        self.figures = figures
        self._reference = reference
        self._now = now

    async def reconcile(self, wanted: Wanted, told: Callable[[str, int, int], object] = lambda *_: None) -> Report:
        """Reconcile. `told` hears what is under way, and how much of how much is done. Raises NotReconciled,
        DatabaseUnavailable."""
        if not dt.timedelta(0) <= wanted.last_day - wanted.first_day < dt.timedelta(days=DAYS_MAX):
            raise NotReconciled(f"A run takes 1 to {DAYS_MAX} days: ask for less at once.")
        if wanted.source not in self.figures:
            known = ", ".join(sorted(self.figures))
            raise NotReconciled(f"{wanted.source} has no figures of its own to compare with; known are {known}.")
        accounts = await self._lists.accounts(wanted.source, wanted.tenant_id)
        found: list[Comparison] = []
        currencies: set[str] = set()
        for number, account in enumerate(accounts):
            told(account.tenant_id or PLATFORM, number, len(accounts))
            comparisons, seen = await self._account(account, wanted)
            found += comparisons
            currencies |= seen
        told("", len(accounts), len(accounts))
        over = beyond(found, wanted.tolerance)
        return Report(found, over, currencies.pop() if len(currencies) == 1 else "")

    async def accounts(self, source: str) -> Sequence[Account]:
        """All of the accounts there are. Raises NotReconciled."""
        return await self._lists.accounts(source, None)

    async def resolve_unknown(self, account: Account, first: dt.date, last: dt.date) -> int:
        """Book what calls of unknown outcome have made. Before what is in the lists is booked.

        On an account that others are on it takes all of their calls to tell whose a thing is, so that one tenant's alone are
        left to the next time that everybody's are looked for.
        """
        if account.shared:
            return 0
        try:
            return await resolve(
                self._database,
                self._book,
                account.whose(first, last),
                lambda day: self._lists.records(account, day),
                self._reference,
            )
        except NotReconciled:
            # Whoever collects the same lists says why they can not be read.
            return 0

    async def _account(self, account: Account, wanted: Wanted) -> tuple[list[Comparison], set[str]]:
        first, last, since = wanted.first_day, wanted.last_day, self._now()
        await self.resolve_unknown(account, first, last)
        listed = await self._lists.collect(account, first, last, wanted.asked_by)
        if account.shared:
            figures = await self._listed(account, first, last)
        else:
            totals = [one for day in _days(first, last) for one in await self._lists.totals(account, day)]
            figures = self.figures[account.source](totals)
        ledger, late = await self._with_what_went_around(account, figures, wanted, since)
        figures = [ledger.less_elsewhere(one, figures) if one.rest else one for one in figures]
        tenant_id = account.tenant_id or PLATFORM
        fees = {
            (figure.day, figure.category): await self._booked_fee(account.source, tenant_id, figure)
            for figure in figures
            if figure.costs_here and not figure.event_types and COST in figure.amounts
        }
        nobodys = await self._lists.nobodys(account, first, last)
        found = []
        for figure in figures:
            subject = Subject(figure.day, tenant_id, figure.category)
            told = Told(amounts=figure.amounts, settled=figure.settled and self._settled(figure.day), listed=listed)
            key = (figure.day, figure.category)
            if key in fees:
                found.append(compared(subject, told, fees[key]))
                continue
            holds = ledger.held(figure, nobodys)
            if key in late:
                holds = msgspec.structs.replace(holds, elsewhere=late[key])
            one = compared(subject, told, holds)
            if figure.costs_here:
                one = await self._with_cost(account.source, figure, subject, told, holds)
            found.append(one)
        if listed and not account.shared:
            found = await self._looked_through(account, figures, found, ledger, nobodys)
        return found, {figure.currency for figure in figures if figure.currency}

    # -- what went around the gateway, where the provider tells no single calls

    async def _with_what_went_around(
        self, account: Account, figures: Sequence[Figure], wanted: Wanted, since: dt.datetime
    ) -> tuple[_Ledger, dict[tuple[str, str], Amounts]]:
        """The ledger with what it lacked of days that are over booked, and by day and category what is dated a day apart.

        On an account that tenants share nobody could say whose it is: there it is named, and stays open. So does what an
        account was used for before it was this tenant's, unless somebody asks for this very tenant.
        """
        first, last = wanted.first_day, wanted.last_day
        if account.tenant_id is None or account.shared or not any(figure.booked_as for figure in figures):
            return await self._ledger(account, first, last, since), {}
        before = first - dt.timedelta(days=1)
        told = [*self.figures[account.source](await self._lists.totals(account, before)), *figures]
        sums = _Sums([figure for figure in told if figure.booked_as], account.name)
        async with self._database.reading() as connection:
            there = await held.lumps(connection, account.source, account.tenant_id, sums.names)
            taken = await held.lumps_of_others(connection, account.source, account.tenant_id, sums.names)
            moved = await last_moved(connection, account)
        own_since = "" if wanted.tenant_id else moved
        ledger = await self._ledger(account, before, last, since)
        others = await self._before_it_was_its_own(account, before, min(last.isoformat(), moved), moved, since)
        events = []
        for figure, around_it in sums.wanted(ledger, there, first, others, taken):
            lump = there.get(sums.name_of(figure), held.Lump(0, {}, 0))
            booked = {name: amount for name, amount in lump.quantities.items() if amount}
            may_come = _may_come(ledger, figure) or _may_come(others, figure)
            if not self._settled(figure.day) or may_come or figure.day < own_since:
                # What the ledger is still to be told of is not booked besides; what was booked may have been told by now.
                # And what an account was used for before it was this tenant's is another's, who may have paid for it.
                around_it = {name: min(amount, booked.get(name, 0)) for name, amount in around_it.items()}  # noqa: PLW2901
                around_it = {name: amount for name, amount in around_it.items() if amount}  # noqa: PLW2901
            if around_it != booked:
                name = sums.name_of(figure)
                events.append(lump_event(account.source, account.tenant_id, name, figure, around_it, lump))
        for start in range(0, len(events), PAGE_ROWS):
            some = events[start : start + PAGE_ROWS]
            # Where somebody has booked another figure at the same time, the ledger says what it holds, and the next run mends.
            await self._book([fact(validated(event), msgspec.json.encode(event)) for event in some])
        if events:
            ledger = await self._ledger(account, before, last, since)
        return ledger, sums.over_midnight(ledger, first)

    async def _before_it_was_its_own(
        self, account: Account, first: dt.date, last: str, moved: str, since: dt.datetime
    ) -> _Ledger:
        """What calls have in the ledger that can have been made on an account by whoever had it before: on each day up to the
        one on which it became this tenant's, those of all who came from or to an account between that day and this one. Which
        of their calls were on this very account no record says, so all of them are taken to be; of what they had booked of
        other sums, nothing is."""
        found = _Ledger((), (), (), (), ())
        if last < first.isoformat():
            return found
        async with self._database.reading() as connection:
            moved_on = await moved_between(connection, account, first, moved)
        for day in _days(first, dt.date.fromisoformat(last)):
            movers = sorted(one for one, moved_last in moved_on.items() if moved_last >= day.isoformat())
            for start in range(0, len(movers), held.IDS_MAX):
                some = held.Whose(
                    account.source, day.isoformat(), day.isoformat(), among=movers[start : start + held.IDS_MAX]
                )
                async with self._database.reading() as connection:
                    found = _Ledger(
                        (*found.sums, *await held.sums(connection, some, apart_from=LUMPS)),
                        (*found.steps, *await held.steps(connection, some, since)),
                        (),
                        (*found.pending, *await held.pending(connection, some)),
                        (),
                    )
        return found

    async def _listed(self, account: Account, first: dt.date, last: dt.date) -> list[Figure]:
        """What the objects of one tenant come to, on an account that others are on as well: whose an object is, the ledger
        tells by now. Each counts on the day of its call."""
        whose, found = account.whose(first, last), _Listed()
        for day in _days(first, last):
            async for page in self._lists.records(account, day):
                async with self._database.reading() as connection:
                    there = await held.days_of(connection, whose, [record.external_id for record in page])
                for record in page:
                    if record.external_id in there:
                        found.add(there[record.external_id], record)
        return list(found.figures())

    async def _looked_through(
        self,
        account: Account,
        figures: Sequence[Figure],
        found: Sequence[Comparison],
        ledger: _Ledger,
        nobodys: Sequence[Part],
    ) -> list[Comparison]:
        """Where nothing else explains a day, look which of its objects the provider lists on another day, or not at all."""
        days = {
            one.subject.day
            for one in found
            if any(difference.cause is Cause.UNEXPLAINED for difference in one.differences)
        }
        apart = {day: await self._apart(account, dt.date.fromisoformat(day)) for day in sorted(days)}
        again = []
        for figure, one in zip(figures, found, strict=True):
            looked = apart.get(figure.day)
            if looked is not None and figure.event_types and not figure.costs_here:
                holds = ledger.held(figure, nobodys)
                holds = msgspec.structs.replace(
                    holds,
                    missing=added(_of_object(figure, parts) for parts in looked.missing),
                    became=added(
                        amounts
                        for part, listed_as in looked.became
                        for amounts in (
                            _of_object(figure, [part._replace(event_type=listed_as)]),
                            _less(_of_object(figure, [part])),
                        )
                    ),
                    elsewhere=added(
                        [
                            *(_of_object(figure, parts) for parts in looked.there),
                            *(_less(_of_object(figure, parts)) for parts in looked.gone),
                        ]
                    ),
                )
                told = Told(amounts=figure.amounts, settled=figure.settled and self._settled(figure.day), listed=True)
                again.append(compared(one.subject, told, holds))
            else:
                again.append(one)
        return again

    async def _apart(self, account: Account, day: dt.date) -> _Apart | None:
        """The objects of a day that provider and ledger do not both have on it; None where there are too many to look."""
        listed = await self._ids(account, day)
        absent: dict[str, list[Part]] = {}
        became: dict[tuple[tuple[str, str, str, str, str], str], Amounts] = {}
        seen: set[str] = set()
        after: held.OfObject | None = None
        while True:
            async with self._database.reading() as connection:
                rows = await held.of_objects(connection, account.whose(day, day), PAGE_ROWS, after)
            for row in rows:
                if row.external_id in listed:
                    seen.add(row.external_id)
                    listed_as = listed[row.external_id]
                    if row.part.event_type != listed_as:
                        key = row.part[:-1], listed_as
                        became[key] = added([became.get(key, {}), row.part.amounts])
                else:
                    absent.setdefault(row.external_id, []).append(row.part)
            if len(rows) < PAGE_ROWS:
                break
            after = rows[-1]
        if max(len(listed), len(absent)) > IDS_MAX:
            return None
        one_day = dt.timedelta(days=1)
        near: set[str] = set()
        if absent:
            near.update(await self._ids(account, day - one_day), await self._ids(account, day + one_day))
        there: dict[str, list[Part]] = {}
        async with self._database.reading() as connection:
            whose = account.whose(day - one_day, day + one_day)
            for row in await held.of_these(connection, whose, listed.keys() - seen):
                there.setdefault(row.external_id, []).append(row.part._replace(day=day.isoformat()))
        return _Apart(
            [parts for name, parts in absent.items() if name not in near],
            [parts for name, parts in absent.items() if name in near],
            list(there.values()),
            [(Part(*of_part, amounts), listed_as) for (of_part, listed_as), amounts in became.items()],
        )

    async def _ids(self, account: Account, day: dt.date) -> dict[str, str]:
        """The names of what is listed on a day, with what it was made as; a hundred and fifty bytes each."""
        found: dict[str, str] = {}
        async for page in self._lists.records(account, day):
            found.update((record.external_id, record.made.event_type or OTHER.channel) for record in page)
            if len(found) > IDS_MAX:
                break
        return found

    def _settled(self, day: str) -> bool:
        end = dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC) + dt.timedelta(days=1)
        return (self._now() - end).total_seconds() >= SETTLED_S

    # -- costs without use

    async def _booked_fee(self, source: str, tenant_id: str, figure: Figure) -> Held:
        """Book what is new of a cost without use; what the ledger then holds of it."""
        return await self._cost_booked(source, tenant_id, figure, figure.amounts[COST], Cause.NOT_USAGE)

    async def _with_cost(self, source: str, figure: Figure, subject: Subject, told: Told, holds: Held) -> Comparison:
        """Compare what was used once more, with what it costs besides booked: nothing but the total says that."""
        lacks = figure.amounts.get(COST, 0) - holds.amounts.get(COST, 0)
        if not told.settled or COST not in figure.amounts:
            return compared(subject, told, holds)
        extra = await self._cost_booked(source, subject.tenant_id, figure, lacks, Cause.PRICED_DIFFERENTLY)
        amounts = added([holds.amounts, extra.amounts])
        return compared(
            subject, told, msgspec.structs.replace(holds, amounts=amounts, steps=(*holds.steps, *extra.steps))
        )

    async def _cost_booked(self, source: str, tenant_id: str, figure: Figure, cost_nano: int, cause: Cause) -> Held:
        """Have the cost events of a figure come to an amount: what they lack is one more."""
        name = f"{figure.category}:{figure.day}"
        async with self._database.reading() as connection:
            there = await held.costs(connection, source, tenant_id, name)
        steps: tuple[Step, ...] = (Step(cause, {COST: there.cost_nano}),) if there.cost_nano else ()
        for _ in range(BOOKINGS_MAX):
            lacks = cost_nano - there.cost_nano
            if not lacks:
                break
            event = cost_event(source, tenant_id, figure, lacks, there.events)
            appended = await self._book([fact(validated(event), msgspec.json.encode(event))])
            if any(one.event.event_id == event.event_id for part in appended for one in part.new):
                steps += (Step(cause, {COST: lacks}, event.event_id),)
            # Somebody may have booked one under this name at the same time: what counts is what the ledger has now.
            before = there
            async with self._database.reading() as connection:
                there = await held.costs(connection, source, tenant_id, name)
            if there == before:
                break
        told = sum(step.amounts[COST] for step in steps)
        if there.cost_nano != told:
            steps += (Step(cause, {COST: there.cost_nano - told}),)
        return Held(amounts={COST: there.cost_nano}, steps=steps)

    # -- the ledger

    async def _ledger(self, account: Account, first: dt.date, last: dt.date, since: dt.datetime) -> _Ledger:
        whose = account.whose(first, last)
        async with self._database.reading() as connection:
            return _Ledger(
                await held.sums(connection, whose),
                await held.steps(connection, whose, since),
                await held.legs(connection, whose),
                await held.pending(connection, whose),
                await held.unknown(connection, whose),
            )


def _may_come(ledger: _Ledger, figure: Figure) -> bool:
    """True where an event is still to say what it used of what a figure counts. A batch that is not over names no model, and
    may have been made on the day before."""
    unnamed = msgspec.structs.replace(figure, resource=None)
    before = msgspec.structs.replace(unnamed, day=_day_before(figure.day))
    return any(not one.resource for each in (unnamed, before) for one in ledger.pending if _about(each, one)) or bool(
        ledger.held(figure, ()).pending
    )


async def last_moved(connection: AsyncConnection, account: Account) -> str:
    """The day on which an account became the tenant's, or the tenant last came to call with another credential; empty where
    nothing ever said so."""
    rows = await connection.execute(_moves(account).where(audit_log.c.tenant_id == account.tenant_id))
    return max((row.at.date().isoformat() for row in rows if _is_move(row, account)), default="")


async def moved_between(connection: AsyncConnection, account: Account, first: dt.date, last: str) -> dict[str, str]:
    """The other tenants who came from or to an account of that provider within some days, with the last day on which they
    did."""
    begin = dt.datetime(first.year, first.month, first.day, tzinfo=dt.UTC)
    end = dt.datetime.fromisoformat(last).replace(tzinfo=dt.UTC) + dt.timedelta(days=1)
    at = audit_log.c
    within = _moves(account).where(at.at >= begin, at.at < end, at.tenant_id != account.tenant_id).order_by(at.at)
    rows = await connection.execute(within)
    return {row.tenant_id: row.at.date().isoformat() for row in rows if _is_move(row, account)}


def _moves(account: Account) -> Select[Any]:
    at = audit_log.c
    of_credential = and_(at.action.in_(("credential.set", "credential.remove")), at.subject == account.source)
    of_integration = at.action.in_(("integration.change", "integration.remove"))
    return select(at.at, at.tenant_id, at.action, at.detail).where(or_(of_credential, of_integration))


def _is_move(row: Any, account: Account) -> bool:
    """True unless it was another field of the integration that was changed."""
    return row.action != "integration.change" or account.named_in in row.detail["fields"]


class _Sums:
    """What a provider tells in sums of one day, one kind of use and one resource each."""

    def __init__(self, figures: Sequence[Figure], account: str) -> None:
        self._account = account
        self._groups: dict[tuple[str, str], list[Figure]] = {}
        """By what all of it is booked as, and day."""
        for figure in figures:
            self._groups.setdefault((figure.booked_as or "", figure.day), []).append(figure)
        self.names = {self.name_of(figure): figure.day for figure in figures}

    def name_of(self, figure: Figure) -> str:
        """What is booked of a sum is known by: with the account, which may be another tenant's tomorrow."""
        return f"{figure.category}:{figure.day}" + (f":{self._account}" if self._account else "")

    def wanted(
        self,
        ledger: _Ledger,
        there: Mapping[str, held.Lump],
        first: dt.date,
        others: _Ledger,
        taken: Mapping[str, Amounts],
    ) -> Iterator[tuple[Figure, dict[str, int]]]:
        """Each sum since a day, with what went around the gateway of it. `others` and `taken` are what tenants who had the
        account before have in the ledger: of calls, and of these very sums."""
        both = _Ledger((*ledger.sums, *others.sums), (*ledger.steps, *others.steps), (), (), ())
        for key, group in self._since(first):
            calls = dict(self._calls(key, both, there))
            for figure in self._groups[key]:
                name = figure.resource or ""
                calls[name] = added([calls.get(name, {}), taken.get(self.name_of(figure), {})])
            found = around(self._told(key), calls, *self._before(key, both, there))
            for figure in group:
                yield figure, found.get(figure.resource or "", {})

    def over_midnight(self, ledger: _Ledger, first: dt.date) -> dict[tuple[str, str], Amounts]:
        """By day and category, what the provider counts on this day and the ledger on the one before, less what it is the
        other way round."""
        found: dict[tuple[str, str], Amounts] = {}
        for key, group in self._since(first):
            late = over_midnight(self._told(key), self._calls(key, ledger, {}), *self._before(key, ledger, {}))
            for figure in group:
                amounts = late.get(figure.resource or "")
                if amounts:
                    before = _day_before(figure.day), figure.category
                    found[figure.day, figure.category] = added([found.get((figure.day, figure.category), {}), amounts])
                    found[before] = added([found.get(before, {}), _less(amounts)])
        return found

    def _since(self, first: dt.date) -> Iterator[tuple[tuple[str, str], list[Figure]]]:
        return ((key, group) for key, group in sorted(self._groups.items()) if key[1] >= first.isoformat())

    def _before(self, key: tuple[str, str], ledger: _Ledger, there: Mapping[str, held.Lump]) -> tuple[ByName, ByName]:
        before = key[0], _day_before(key[1])
        return self._told(before), self._calls(before, ledger, there, like=self._groups[key][0])

    def _told(self, key: tuple[str, str]) -> ByName:
        return {figure.resource or "": figure.amounts for figure in self._groups.get(key, ())}

    def _calls(
        self, key: tuple[str, str], ledger: _Ledger, there: Mapping[str, held.Lump], like: Figure | None = None
    ) -> ByName:
        """What the ledger has of calls, by resource: all but what was booked of these sums."""
        figures = self._groups.get(key, [])
        whole = figures[0] if like is None else like
        of_all = msgspec.structs.replace(whole, day=key[1], resource=None)
        calls: dict[str, Amounts] = {}
        # What had its metering off was used through the gateway, too.
        for part in (*ledger.sums, *(step.part for step in ledger.steps if not step.corrects)):
            if _about(of_all, part):
                calls[part.resource] = added([calls.get(part.resource, {}), _in_its_terms(of_all, part)])
        for figure in figures:
            lump = there.get(self.name_of(figure))
            if lump is not None:
                name = figure.resource or ""
                calls[name] = added([calls.get(name, {}), _less({**lump.quantities, COUNT: 1})])
        return calls


def _day_before(day: str) -> str:
    return (dt.date.fromisoformat(day) - dt.timedelta(days=1)).isoformat()


class _Listed:
    """Adds up objects by day and by what they were made as."""

    def __init__(self) -> None:
        self._amounts: dict[tuple[str, str], list[Amounts]] = {}
        self._event_types: dict[tuple[str, str], set[str]] = {}
        self._currencies: dict[tuple[str, str], set[str]] = {}
        self._moving: set[tuple[str, str]] = set()

    def add(self, day: str, record: Record) -> None:
        made = record.made.event_type or OTHER.channel
        key = day, made
        told = self._amounts.setdefault(key, [])
        finals = [one.usage for one in record.late if one.phase.partition(":")[0] == FINAL]
        told += [one.quantities for one in finals] if finals else [record.made.quantities]
        for one in record.late:
            if one.phase == PRICE:
                told.append({COST: nanos(Decimal(str(one.usage.metadata[TOLD_COST])))})
                self._currencies.setdefault(key, set()).add(str(one.usage.metadata.get("currency", "")))
        self._event_types.setdefault(key, {made}).update(one.event_type for one in finals if one.event_type)
        if not finals:
            self._moving.add(key)

    def figures(self) -> Iterator[Figure]:
        for key, told in sorted(self._amounts.items()):
            amounts, currencies = added(told), self._currencies.get(key, set())
            if len(currencies) > 1:
                del amounts[COST]
            yield Figure(
                day=key[0],
                category=key[1],
                amounts=amounts,
                currency=currencies.pop() if len(currencies) == 1 else "",
                event_types=tuple(sorted(self._event_types[key])),
                direction=EVENT_TYPES.get(key[1], OTHER).direction,
                settled=key not in self._moving,
            )


class _Apart(NamedTuple):
    """Objects that provider and ledger do not both have on a day, each with what the ledger holds of it."""

    missing: Sequence[Sequence[Part]]
    """In the ledger, and not listed."""
    gone: Sequence[Sequence[Part]]
    """In the ledger on this day, and listed on another."""
    there: Sequence[Sequence[Part]]
    """Listed on this day, and in the ledger on another."""
    became: Sequence[tuple[Part, str]]
    """Sums of what is listed as another type of event than the ledger has it as: a messaging service has picked another channel
    than was asked for. The minutes of a call are told under the type of the call as well, and are its minutes there."""


def _of_object(figure: Figure, parts: Sequence[Part]) -> dict[str, int]:
    """What the ledger holds of one object, as a figure counts it."""
    amounts = added(_in_its_terms(figure, one) for one in parts if _about(figure, one))
    if figure.minutes and "seconds" in amounts:
        amounts["seconds"] = minutes_up_s(amounts["seconds"])
    return amounts


def _less(amounts: Amounts) -> dict[str, int]:
    return {name: -amount for name, amount in amounts.items()}


class _Ledger(NamedTuple):
    """What the ledger holds of one account and some days."""

    sums: Sequence[Part]
    steps: Sequence[held.StepPart]
    legs: Sequence[held.Legs]
    pending: Sequence[held.Waiting]
    unknown: Sequence[held.Waiting]

    def held(self, figure: Figure, nobodys: Sequence[Part]) -> Held:
        """What it holds of what a figure is about."""
        steps: dict[Cause, list[Amounts]] = {}
        apart = [one for one in nobodys if _about(figure, one)]
        for one in self.steps:
            if _about(figure, one.part):
                if one.corrects:
                    steps.setdefault(one.cause, []).append(_in_its_terms(figure, one.part))
                else:
                    apart.append(one.part)
        return Held(
            amounts=added(_in_its_terms(figure, one) for one in self.sums if _about(figure, one)),
            steps=tuple(Step(cause, added(amounts)) for cause, amounts in steps.items()),
            pending=sum(one.events for one in self.pending if _about(figure, one)),
            unknown=sum(one.events for one in self.unknown if _about(figure, one)),
            rounded_up_s=sum(one.rounded_up_s for one in self.legs if _about(figure, one)) if figure.minutes else 0,
            not_attributed=added(_in_its_terms(figure, one) for one in apart),
        )

    def less_elsewhere(self, rest: Figure, figures: Sequence[Figure]) -> Figure:
        """The rest of a total without what is booked already as the cost of what no figure speaks of. Less than nothing is
        no cost."""
        known = sum(
            one.amounts.get(COST, 0)
            for one in self.sums
            if one.day == rest.day
            and one.event_type != PROVIDER_COST
            and one.currency == rest.currency
            and not any(_about(figure, one) for figure in figures)
        )
        return msgspec.structs.replace(rest, amounts={COST: max(0, rest.amounts[COST] - known)})


def _about(figure: Figure, one: Part | held.Legs | held.Waiting) -> bool:
    """True where a figure counts this in."""
    return (
        one.day == figure.day
        and one.event_type in figure.event_types
        and figure.direction in (None, one.direction)
        and (figure.resource is None or isinstance(one, held.Legs) or one.resource == figure.resource)
    )


def _in_its_terms(figure: Figure, part: Part) -> dict[str, int]:
    """Amounts as the provider counts them: what it counts within another is that, and what is in another currency is not
    compared."""
    amounts = dict(part.amounts)
    if part.currency and part.currency != figure.currency:
        amounts.pop(COST, None)
    for name, within in figure.within.items():
        more = sum(amounts.pop(one, 0) for one in within if one not in figure.amounts)
        if more:
            amounts[name] = amounts.get(name, 0) + more
    return amounts


def cost_event(source: str, tenant_id: str, figure: Figure, cost_nano: int, number: int) -> UsageEvent:
    """What a provider charges for a day and nobody used, or what is new of it: the same whoever finds it."""
    key = f"{source}:{tenant_id}:{figure.category}:{figure.day}:cost" + (f":{number}" if number else "")
    metadata: dict[str, object] = {TOLD_COST: format_amount(cost_nano), "category": figure.category}
    return UsageEvent(
        event_id=event_id_of(key),
        tenant_id=tenant_id,
        source=source,
        event_type=PROVIDER_COST,
        endpoint="reconciliation",
        # The day's first moment: it is a day's cost, and no hour's.
        occurred_at_ms=(dt.date.fromisoformat(figure.day).toordinal() - EPOCH_DAY) * DAY_MS,
        completeness=Completeness.REPORTED,
        resource=figure.category,
        external_id=f"{figure.category}:{figure.day}",
        kind=Kind.COST,
        description="provider cost without use",
        metadata=metadata | ({"currency": figure.currency} if figure.currency else {}),
        dedupe_key=key,
    )


def lump_event(
    source: str, tenant_id: str, name: str, figure: Figure, wanted: Mapping[str, int], there: held.Lump
) -> UsageEvent:
    """What is to be booked of a sum, so that the ledger comes to this much of it: the first time an event, then a late fact
    about that, which takes back what is too much. It is not `reported`, since it is what calls leave of a whole."""
    quantities = dict(sorted(wanted.items()))
    if there.events:
        return late_fact(
            tenant_id,
            source,
            name,
            f"{LUMP}{there.events}",
            Completeness.REPORTED,
            quantities,
            metadata={CONTEXT_TOKENS: there.context_tokens},
        )
    key = made_key(source, name)
    inputs = sum(amount for measure, amount in figure.amounts.items() if measure in INPUT_TOKENS)
    event = UsageEvent(
        event_id=event_id_of(key),
        tenant_id=tenant_id,
        source=source,
        event_type=figure.booked_as or OTHER.channel,
        endpoint=LUMPS,
        occurred_at_ms=(dt.date.fromisoformat(figure.day).toordinal() - EPOCH_DAY) * DAY_MS,
        completeness=Completeness.ESTIMATED,
        quantities=quantities,
        resource=figure.resource,
        external_id=name,
        kind=Kind.BACKFILL,
        dedupe_key=key,
    )
    # Of how many calls it is the sum nobody says; that each was as long as all are on the average decides its price.
    context = inputs // figure.calls if figure.calls else 0
    return msgspec.structs.replace(
        event, description="went around the gateway", metadata={CONTEXT_TOKENS: context, "calls_in_all": figure.calls}
    )


def _days(first: dt.date, last: dt.date) -> Iterable[dt.date]:
    return (first + dt.timedelta(days=number) for number in range((last - first).days + 1))
