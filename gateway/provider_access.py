"""Which providers are asked for what, where, and as whom.

Calls go to the configured hosts alone. The back office asks for what is told later (`polled`), for lists of what was done
(`listed`) and for phone numbers (`numbered`): on behalf of a tenant with its own credential, or as the platform with the
platform's. A credential is opened here, at the moment at which somebody asks, and kept nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from gateway.collector import Credential
from gateway.collector import Source as Listed
from gateway.connector import Source as Numbered
from gateway.keys import NotSealedHere
from gateway.office import Office
from gateway.poller import AsksAs
from gateway.poller import Source as Polled
from gateway.providers import PROVIDERS
from gateway.providers.api import Provider
from gateway.settings import ProviderSettings, Settings
from gateway.upstream import Origin


def origins(settings: Settings) -> dict[tuple[str, str], Origin]:
    """Every host that calls are sent to, by provider and product. No request can reach another."""
    return {
        (provider.name, product): Origin.parsed(
            settings.providers[provider.name].base_url.replace("{product}", product)
        )
        for provider in settings.known_providers
        for product in provider.products
    }


def platform_credentials(settings: Settings) -> dict[str, dict[str, str]]:
    """The platform's own, by provider: what calls go out with, and no key that opens lists alone."""
    lists_only = {provider.name: provider.lists_field for provider in PROVIDERS}
    return {
        name: {
            field: secret.get_secret_value()
            for field, secret in provider.credential.items()
            if field != lists_only.get(name)
        }
        for name, provider in settings.providers.items()
        if provider.credential is not None
    }


def polled(office: Office, settings: Settings) -> dict[str, Polled]:
    """The providers that say later what was used, and how each is asked on behalf of a tenant."""
    found = {}
    for provider in PROVIDERS:
        settles = {one.name: one.settles for one in provider.endpoints if one.settles is not None}
        if settles:
            configured = settings.providers[provider.name]
            base_url = configured.base_url.replace("{product}", provider.products[0]).rstrip("/")
            found[provider.name] = Polled(base_url, settles, partial(_asks_as, office, provider, configured))
    return found


def _asks_as(office: Office, provider: Provider, configured: ProviderSettings, tenant_id: str) -> AsksAs | None:
    """With the tenant's own credential, or else the platform's, in its subaccount where it has one."""
    tenant = office.snapshot.current.tenants.get(tenant_id)
    own = tenant is not None and provider.name in tenant.credentials
    credential = _credential(office, provider, configured, tenant_id if own else None)
    if credential is None:
        return None
    account = None if provider.account_field is None else credential[provider.account_field]
    if tenant is not None and not own:
        account = provider.subaccount_of(tenant.integration) or account
    return AsksAs(_carrying(provider, credential), account)


def listed(office: Office, settings: Settings) -> dict[str, Listed]:
    """The providers that have lists of what they did, and how each is asked."""
    return {
        provider.name: Listed(
            settings.providers[provider.name].base_url,
            provider.records,
            provider.totals,
            provider.account_of,
            partial(_credential_for_lists, office, provider, settings.providers[provider.name]),
            None if provider.lists_field is None else partial(_calls_as_itself, office, provider),
            provider.lists_field,
        )
        for provider in PROVIDERS
        if provider.records or provider.totals
    }


def numbered(office: Office, settings: Settings) -> dict[str, Numbered]:
    """The providers that have phone numbers, and how each is asked."""
    return {
        provider.name: Numbered(
            provider,
            settings.providers[provider.name].base_url,
            partial(_credential_for_lists, office, provider, settings.providers[provider.name]),
        )
        for provider in PROVIDERS
        if provider.numbers is not None
    }


def _credential_for_lists(
    office: Office, provider: Provider, configured: ProviderSettings, tenant_id: str | None
) -> Credential | None:
    """The tenant's own, or for None the platform's; None also for one that does not open the lists."""
    credential = _credential(office, provider, configured, tenant_id)
    headers = None if credential is None else provider.authorize_lists(credential)
    if credential is None or headers is None:
        return None
    carrying = {name.decode(): value.decode() for name, value in headers}
    return Credential(carrying, credential.get(provider.account_field or "", ""))


def _calls_as_itself(office: Office, provider: Provider, tenant_id: str) -> bool:
    """True where a tenant's calls go out with a credential of its own."""
    tenant = office.snapshot.current.tenants.get(tenant_id)
    return tenant is not None and provider.name in tenant.credentials


def _credential(
    office: Office, provider: Provider, configured: ProviderSettings, tenant_id: str | None
) -> Mapping[str, str] | None:
    """A tenant's own, or for None the platform's; None where there is none that opens."""
    if tenant_id is None:
        if configured.credential is None:
            return None
        return {field: secret.get_secret_value() for field, secret in configured.credential.items()}
    tenant = office.snapshot.current.tenants.get(tenant_id)
    sealed = None if tenant is None else tenant.credentials.get(provider.name)
    if sealed is None:
        return None
    try:
        return office.secrets.unseal(sealed, owner=tenant_id)
    except NotSealedHere:
        return None


def _carrying(provider: Provider, credential: Mapping[str, str]) -> dict[str, str]:
    """The headers that carry a credential."""
    return {name.decode(): value.decode() for name, value in provider.authorize(credential)}
