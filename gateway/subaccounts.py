"""The secrets that accounts below the platform's sign with: asked for with the platform's credential, and kept sealed.

What a provider tells of such an account's calls it signs with that account's own secret. A tenant that has one by its
integration, and no credential of its own, could be told nothing: so the back office asks for it, keeps it with the
integration, and asks again every hour, since it may have been replaced; within a minute, where a worker could not verify what
came for the tenant. Where the provider does not tell it, calls go on
and what they become is asked for instead; the log says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from gateway.accounts import Accounts, NoSuchIntegration, NoSuchTenant, NotPublished, TenantClosed
from gateway.asking import Asker, NotAnswered
from gateway.connector import Source
from gateway.doubts import Doubts
from gateway.keys import NotSealedHere, Secrets
from gateway.providers.api import NotAPage
from gateway.snapshot import SnapshotFile, TenantRecord
from gateway.telemetry import log
from gateway.ticks import until_tick_s
from metering.database import DatabaseUnavailable

ACTOR: Final = "gateway"

LOOK_S: Final = 1.0
"""How soon it is noticed that a tenant has such an account."""

AGAIN_S: Final = 3600.0
"""So old what is known may become."""

DOUBTED_S: Final = 60.0
"""And so old where it is doubted: anybody can make us doubt, and the provider is asked no more often for that."""

PAUSE_S, PAUSE_S_MAX = 5.0, 600.0
"""After a failure, twice as long each time."""

REQUESTS_PER_S: Final = 5.0


class _Due(NamedTuple):
    """When an account is asked for again, by the loop's clock, and how long was waited for that."""

    asked_s: float
    """When it was asked for last."""
    at_s: float
    pause_s: float


class Subaccounts:
    """Asks for the secrets, one after the other."""

    def __init__(
        self,
        accounts: Accounts,
        secrets: Secrets,
        snapshot: SnapshotFile,
        doubts: Doubts,
        sources: Callable[[], Mapping[str, Source]],
    ) -> None:
        """`sources` are the providers that can be asked, as things are."""
        self._accounts = accounts
        self._secrets = secrets
        self._snapshot = snapshot
        self._doubts = doubts
        self._sources = sources
        self._asker = Asker(REQUESTS_PER_S, tries_max=1)
        self._due: dict[tuple[str, str], _Due] = {}
        """By tenant and account."""

    async def run(self) -> None:
        """Ask until cancelled."""
        try:
            while True:
                try:
                    await self.look()
                except Exception as error:  # noqa: BLE001  Whoever is told nothing is asked about instead.
                    log.error("subaccounts_not_looked_at", error=type(error).__name__)
                await asyncio.sleep(until_tick_s(LOOK_S))
        finally:
            await self._asker.close()

    async def look(self) -> None:
        """Ask for what is not known, or known for too long."""
        loop = asyncio.get_running_loop()
        wanted = list(self._wanted())
        known = {(tenant.tenant_id, account) for _, tenant, account in wanted}
        doubted = self._doubts.take()
        self._due = {
            place: due._replace(at_s=min(due.at_s, due.asked_s + DOUBTED_S)) if place[0] in doubted else due
            for place, due in self._due.items()
            if place in known
        }
        for source, tenant, account in wanted:
            place = tenant.tenant_id, account
            due = self._due.get(place)
            if due is not None and loop.time() < due.at_s:
                continue
            told = await self._asked(source, tenant, account)
            asked_s, pause_s = loop.time(), 0.0
            if not told:
                pause_s = min(2 * due.pause_s if due is not None and due.pause_s else PAUSE_S, PAUSE_S_MAX)
            self._due[place] = _Due(asked_s, asked_s + (AGAIN_S if told else pause_s), pause_s)

    def _wanted(self) -> Iterator[tuple[Source, TenantRecord, str]]:
        for source in self._sources().values():
            provider = source.provider
            if provider.account_secret is None:
                continue
            for tenant in self._snapshot.current.tenants.values():
                account = provider.subaccount_of(tenant.integration)
                if account is not None and provider.name not in tenant.credentials:
                    yield source, tenant, account

    def _known(self, tenant: TenantRecord, account: str) -> str | None:
        known = None if tenant.integration is None else tenant.integration.subaccount_secret
        try:
            return None if known is None else self._secrets.unseal(known.sealed, owner=tenant.tenant_id).get(account)
        except NotSealedHere:
            return None

    async def _asked(self, source: Source, tenant: TenantRecord, account: str) -> bool:
        """Ask for one, and keep it where it is another than before; False where nobody tells it."""
        of = source.provider.account_secret
        credential = source.credential(None)
        assert of is not None
        reason = "there is no credential of the platform's"
        if credential is not None:
            base_url = source.base_url.replace("{product}", source.provider.products[0]).rstrip("/")
            try:
                secret = of.read(await self._asker.ask(base_url + of.path(account), credential.headers), account)
                if secret != self._known(tenant, account):
                    async with self._accounts.changing(ACTOR) as change:
                        await change.keep_subaccount_secret(tenant.tenant_id, account, secret)
            except (NotAnswered, NotAPage, DatabaseUnavailable, NotPublished) as error:
                reason = str(error) if isinstance(error, NotAnswered) else type(error).__name__
            except (NoSuchTenant, TenantClosed, NoSuchIntegration):
                return True  # It was taken away meanwhile.
            else:
                return True
        log.warning(
            "subaccount_secret_unknown", tenant_id=tenant.tenant_id, provider=source.provider.name, reason=reason
        )
        return False
