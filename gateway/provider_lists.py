"""What the reconciliation reads of providers, by way of whoever collects their lists: one pace for all questions."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal

from sqlalchemy import select

from gateway.asking import NotAnswered
from gateway.collector import ASKED, DONE, OPEN, Collector, NoScope, Owned, Scope, Wanted
from gateway.providers.api import NotAPage, Record, Total, nanos
from gateway.reconciler import Account, NotReconciled
from gateway.tables import collections, unattributed
from metering.database import Database
from metering.event_types import EVENT_TYPES, OTHER
from metering.reconciliation import COST
from pricing.held import Part

LOOK_S = 0.2
"""Between two looks at whether a collection is over."""


class ProviderLists:
    """Reads what providers say."""

    def __init__(self, database: Database, collector: Collector) -> None:
        self._database = database
        self._collector = collector

    async def accounts(self, source: str, tenant_id: str | None) -> Sequence[Account]:
        """Those that have what belongs to a tenant, or for None all of them. Raises NotReconciled."""
        owned = await self._collector.owned()
        if source not in self._collector.sources:
            known = ", ".join(sorted(self._collector.sources))
            raise NotReconciled(f"{source} has no lists to read; there are {known}.")
        if tenant_id is not None:
            try:
                scope = self._collector.scope(source, tenant_id, owned)
            except NoScope as error:
                raise NotReconciled(str(error)) from error
            shared, asked = scope.tenant_id is None, self._collector.sources[source]
            if shared and asked.calls_as_itself is not None:
                field = asked.account_of
                raise NotReconciled(
                    f"{source} says what an account used, and not for whom: what {tenant_id} used can not be told apart. "
                    f"Give it a key of its own there, and name its account in {field} of its integration."
                )
            if shared:
                return [Account(source, tenant_id, shared=True, opaque=scope)]
            return [self._own(scope, tenant_id, owned)]
        try:
            platform = self._collector.scope(source, None, owned)
        except NoScope:
            platform = None
        asked = self._collector.sources[source]
        found, elsewhere = [], set()
        for one in sorted(owned):
            if asked.calls_as_itself is not None and asked.calls_as_itself(one):
                # Whether its account can be read or not, it is not the platform's.
                elsewhere.add(one)
            try:
                scope = self._collector.scope(source, one, owned)
            except NoScope:
                continue
            if scope.tenant_id is not None:
                found.append(self._own(scope, one, owned))
            elif asked.calls_as_itself is not None:
                continue
            elif platform is None or scope.headers != platform.headers:
                found.append(Account(source, one, shared=True, opaque=scope))
        if platform is not None:
            apart = elsewhere.union(one.tenant_id for one in found if one.tenant_id is not None)
            accounts = frozenset(one.opaque.account for one in found if not one.shared and one.opaque.account)
            found.append(Account(source, None, frozenset(apart), opaque=platform._replace(only=None), others=accounts))
        if not found:
            raise NotReconciled(asked.without("Nobody has a", source, "set the platform's, or a tenant's"))
        return found

    def _own(self, scope: Scope, tenant_id: str, owned: Owned) -> Account:
        """A tenant's own account. Where it is a whole organization, the projects in it that are other tenants' are theirs."""
        field = self._collector.sources[scope.source].account_of or ""
        others: frozenset[str] = frozenset()
        if not scope.account:
            others = frozenset(
                name for one in owned if one != tenant_id and isinstance(name := owned[one].get(field), str)
            )
        return Account(scope.source, tenant_id, opaque=scope, name=scope.account, named_in=field, others=others)

    async def account_of(self, scope: Scope) -> Account | None:
        """The account whose lists these are; None where nobody is compared with it."""
        if scope.tenant_id is not None:
            return Account(scope.source, scope.tenant_id, opaque=scope)
        if scope.only is not None:
            return Account(scope.source, scope.only, shared=True, opaque=scope)
        accounts = await self.accounts(scope.source, None)
        return next((one for one in accounts if one.tenant_id is None), None)

    async def collect(self, account: Account, first: dt.date, last: dt.date, asked_by: str) -> bool:
        """Book what is in its lists; returns when it is in the ledger: True if all was read."""
        if not self._collector.sources[account.source].records:
            return False
        collection_id = await self._collector.ask(
            Wanted(ASKED, account.source, account.tenant_id, first, last, asked_by)
        )
        at = collections.c
        question = select(at.status, at.reason).where(at.collection_id == collection_id)
        while True:
            async with self._database.reading() as connection:
                row = (await connection.execute(question)).one()
            if row.status not in OPEN:
                break
            await asyncio.sleep(LOOK_S)
        # Why it was not read to its end is in the log, and with the collection.
        return bool(row.status == DONE)

    async def records(self, account: Account, day: dt.date) -> AsyncIterator[Sequence[Record]]:
        """The objects of one day, page by page. Raises NotReconciled."""
        scope: Scope = account.opaque
        for listing in self._collector.sources[account.source].records:
            path: str | None = listing.first(scope.account, day)
            while path is not None:
                try:
                    page = await self._collector.page(scope, listing, path)
                except (NotAnswered, NotAPage) as error:
                    raise NotReconciled(f"What {account.source} lists can not be read: {error}.") from error
                yield page.items
                path = page.next_path

    async def totals(self, account: Account, day: dt.date) -> Sequence[Total]:
        """The provider's own totals of one day, less those of accounts that are compared by themselves. Raises
        NotReconciled."""
        scope: Scope = account.opaque
        found: list[Total] = []
        for listing in self._collector.sources[account.source].totals:
            path: str | None = listing.first(scope.account, day)
            while path is not None:
                try:
                    page = await self._collector.page(scope, listing, path)
                except (NotAnswered, NotAPage) as error:
                    raise NotReconciled(f"The totals of {account.source} can not be read: {error}.") from error
                found += (one for one in page.items if one.day == day and one.account not in account.others)
                path = page.next_path
        return found

    async def nobodys(self, account: Account, first: dt.date, last: dt.date) -> Sequence[Part]:
        """What is in its lists and is nobody's. On an account of a tenant's own, nothing is."""
        if account.tenant_id is not None:
            return []
        at = unattributed.c
        question = select(unattributed).where(
            at.source == account.source,
            at.event_day >= first.isoformat(),
            at.event_day <= last.isoformat(),
            at.account.in_(("", account.opaque.account)),
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(question)).all()
        found = []
        for row in rows:
            amounts = dict(row.quantities)
            if row.cost is not None:
                amounts[COST] = nanos(Decimal(row.cost))
            direction = EVENT_TYPES.get(row.event_type, OTHER).direction or ""
            found.append(Part(row.event_day, row.event_type, direction, "", row.currency or "", amounts))
        return found
