"""Where providers tell us what becomes of a tenant's calls, and which of its URLs come back to us in that.

A URL of an application goes to a provider and back inside ours. It is sealed for its tenant, because on an account that
several share, the provider calls whatever URL any of them names, with a signature that is right: nobody but we may say
where a delivery is passed on to, and for whom.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from gateway.integrations import SubaccountSecret
from gateway.keys import NotSealedHere, Secrets
from gateway.providers.api import CallbackAddress, Carried, Provider
from gateway.snapshot import TenantRecord

PREFIX = "/webhooks/"

CARRIED = "to"
"""The parameter of our URLs that holds an application's."""

_URL, _METHOD, _BEGINS, _REDIRECTS, _SAID, _HEARD = "callback", "method", "begins", "redirects", "said", "heard"


class CallbackAddresses:
    """The URLs of ours that providers are given."""

    def __init__(self, public_url: str, secrets: Secrets) -> None:
        self.public_url = public_url.rstrip("/")
        self._secrets = secrets

    def of(self, provider: Provider, tenant: TenantRecord) -> CallbackAddress | None:
        """The tenant's; None where what comes there could not be verified, which is then asked for instead."""
        if not provider.webhooks:
            return None
        if is_of_subaccount(provider, tenant) and secret_of_subaccount(provider, tenant) is None:
            return None
        # Without a secret of the tenant's its application could not tell what we pass on from anybody else's.
        bound = None if tenant.signing is None else partial(self._sealed, tenant.tenant_id)
        return CallbackAddress(f"{self.public_url}{PREFIX}{provider.name}/{tenant.tenant_id}", bound)

    def _sealed(self, tenant_id: str, carried: Carried) -> str:
        held = {
            _URL: carried.url,
            _METHOD: carried.method,
            _BEGINS: "1" if carried.begins else "",
            _REDIRECTS: str(carried.redirects or ""),
            _SAID: carried.said,
            _HEARD: "1" if carried.heard else "",
        }
        return self._secrets.seal({name: value for name, value in held.items() if value}, owner=tenant_id)

    def opened(self, sealed: str, tenant_id: str) -> Carried | None:
        """The application's URL that one of ours holds; None for what was not sealed here, as that, for this tenant."""
        try:
            held: Mapping[str, str] = self._secrets.unseal(sealed, owner=tenant_id)
        except NotSealedHere:
            return None
        if _URL not in held:
            return None
        redirects = int(held.get(_REDIRECTS, "0"))
        return Carried(
            url=held[_URL],
            method=held.get(_METHOD, ""),
            begins=_BEGINS in held,
            redirects=redirects,
            said=held.get(_SAID, ""),
            heard=_HEARD in held,
        )


def secret_of_subaccount(provider: Provider, tenant: TenantRecord) -> SubaccountSecret | None:
    """What the tenant's account within the platform's signs with, where that is known."""
    account = provider.subaccount_of(tenant.integration)
    known = None if tenant.integration is None else tenant.integration.subaccount_secret
    return known if known is not None and known.account == account else None


def is_of_subaccount(provider: Provider, tenant: TenantRecord) -> bool:
    """True where the tenant's calls go to an account within the platform's, whose own secret the provider signs with."""
    return provider.name not in tenant.credentials and provider.subaccount_of(tenant.integration) is not None
