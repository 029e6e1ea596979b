"""Who is calling: a request's gateway key → key, tenant, scopes. From the snapshot alone."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from gateway import errors
from gateway.keys import Secrets, holds_key, key_id_of
from gateway.messages import Headers
from gateway.providers.api import Provider
from gateway.snapshot import KeyRecord, Snapshot, SnapshotFile, TenantRecord
from metering.usage import UNCATEGORISED

GATEWAY_PREFIX: Final = b"x-gateway-"
TENANT_HEADER: Final = b"x-tenant-id"
"""Request headers that are meant for us, in lower case: never forwarded, whether we know them or not."""

CATEGORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
TAG: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([A-Za-z0-9_.:/@ -]{0,64})")
TAGS_MAX: Final = 10


REMEMBERED_MAX: Final = 4096
"""Keys that need not be hashed again; with more than that, all are once."""


class Caller(NamedTuple):
    """On whose account a call is."""

    key: KeyRecord
    tenant: TenantRecord
    category: str
    tags: dict[str, str]
    metered: bool
    brings_credential: bool
    """True where the application sent the provider's credential itself, beside `X-Gateway-Key`."""


class Callers:
    """Recognises gateway keys."""

    def __init__(
        self,
        snapshot: SnapshotFile,
        secrets: Secrets,
        create_tenant: Callable[[str], Coroutine[Any, Any, None]] | None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._snapshot = snapshot
        self._secrets = secrets
        self._create_tenant = create_tenant
        self._now = now
        self._creating = asyncio.Lock()
        self._recognised_before: dict[str, str] = {}
        """Keys, and the digest of the record that each was found to be of."""

    @property
    def current(self) -> Snapshot:
        """What is known of keys and tenants: what was found out by it holds until there is another one."""
        return self._snapshot.current

    async def identify(self, provider: Provider, headers: Headers) -> Caller:
        """Tell who sends these headers to this provider. Raises the refusals of :mod:`gateway.errors`."""
        presented = provider.presented_key(headers)
        key = headers.get("X-Gateway-Key", presented)
        # Beside X-Gateway-Key stands the application's own credential, unless there is a key of ours: that goes nowhere.
        presents_credential = "X-Gateway-Key" in headers and presented is not None and not holds_key(presented)
        if presents_credential and len(headers.getall("Authorization", ())) > 1:
            # Both would be forwarded, and nobody could say which one the provider reads.
            raise errors.BadHeader("Authorization: once only.")
        brings_credential = presents_credential and not any(
            holds_key(value) for name in provider.credential_headers for value in headers.getall(name.decode(), ())
        )
        if not key:
            raise errors.NoKey(
                f"No gateway key. Put the key (tk_…) where the {provider.name} key would stand, or send it as X-Gateway-Key."
            )
        record = self._recognised(key)
        if f"proxy:{provider.name}" not in record.scopes and "proxy" not in record.scopes:
            raise errors.ScopeMissing(
                f"This gateway key lacks the scope `proxy:{provider.name}`. Ask for a key that has it."
            )
        tenant = await self._tenant(record, headers)
        if tenant.status != "active":
            raise errors.TenantSuspended("This tenant is suspended. Ask the operator of the gateway.")
        if "X-Gateway-Category" in headers or "X-Gateway-Tags" in headers or "X-Gateway-Metering" in headers:
            return self._labelled(record, tenant, headers, brings_credential=brings_credential)
        return Caller(record, tenant, record.category or UNCATEGORISED, record.tags, True, brings_credential)

    def _recognised(self, key: str) -> KeyRecord:
        key_id = key_id_of(key)
        if key_id is None:
            raise errors.WrongKey(
                "This is not a whole gateway key: those look like tk_<id>_<secret>. Provider keys and admin keys have no "
                "place here; `tollkeeper key create` makes one."
            )
        record = self._snapshot.current.keys.get(key_id)
        if record is None:
            # Whoever made the key has published it before saying so. Looking costs 2 µs unless there is something new.
            self._snapshot.refresh()
            record = self._snapshot.current.keys.get(key_id)
        if record is None or not self._is(key, record):
            raise errors.WrongKey(
                "This gateway key is unknown or revoked. Make a new one with `tollkeeper key create`."
            )
        if record.expires_at_ms is not None and record.expires_at_ms <= self._now() * 1000:
            raise errors.ExpiredKey("This gateway key has expired. Make a new one with `tollkeeper key create`.")
        return record

    def _is(self, key: str, record: KeyRecord) -> bool:
        """True for the key of this record. What was found to be so once is so as long as the record stays the same."""
        if self._recognised_before.get(key) == record.digest:
            return True
        if not self._secrets.matches(key.removeprefix("SG."), bytes.fromhex(record.digest)):
            return False
        if len(self._recognised_before) >= REMEMBERED_MAX:
            self._recognised_before.clear()
        self._recognised_before[key] = record.digest
        return True

    async def _tenant(self, record: KeyRecord, headers: Headers) -> TenantRecord:
        named = headers.getall("X-Tenant-ID", [])
        if record.tenant_id is not None:
            if named and set(named) != {record.tenant_id}:
                raise errors.TenantMismatch(
                    "X-Tenant-ID names another tenant than the one this key belongs to. Leave it out."
                )
            tenant_id = record.tenant_id
        elif len(set(named)) != 1 or not named[0]:
            raise errors.TenantRequired(
                "A service key speaks for many tenants: name one, and one only, in X-Tenant-ID."
            )
        else:
            tenant_id = named[0]
        tenant = self._snapshot.current.tenants.get(tenant_id)
        if tenant is None and self._create_tenant is not None and record.tenant_id is None:
            async with self._creating:
                if tenant_id not in self._snapshot.current.tenants:
                    # In a task of its own: it asks the database, which needs one.
                    await asyncio.ensure_future(self._create_tenant(tenant_id))
                    self._snapshot.refresh()
            tenant = self._snapshot.current.tenants.get(tenant_id)
        if tenant is None:
            raise errors.TenantUnknown(
                "No such tenant. Create it with `tollkeeper tenant create`, or set auto_create_tenants."
            )
        return tenant

    def _labelled(
        self, record: KeyRecord, tenant: TenantRecord, headers: Headers, *, brings_credential: bool
    ) -> Caller:
        category = headers.get("X-Gateway-Category") or record.category or UNCATEGORISED
        if not CATEGORY.fullmatch(category):
            raise errors.BadHeader("X-Gateway-Category: up to 64 letters, digits and _ . : - are allowed.")
        tags = dict(record.tags)
        for pair in filter(None, (part.strip() for part in ",".join(headers.getall("X-Gateway-Tags", [])).split(","))):
            found = TAG.fullmatch(pair)
            if found is None:
                raise errors.BadHeader(
                    "X-Gateway-Tags: write k=v,k=v; names of up to 32, values of up to 64 plain characters."
                )
            tags[found[1]] = found[2]
        if len(tags) > TAGS_MAX:
            raise errors.BadHeader(f"X-Gateway-Tags: no more than {TAGS_MAX} tags.")
        metering = headers.get("X-Gateway-Metering", "on")
        if metering not in ("on", "off"):
            raise errors.BadHeader("X-Gateway-Metering: on or off.")
        if metering == "off" and "metering:off" not in record.scopes:
            raise errors.ScopeMissing("X-Gateway-Metering: off needs a key with the scope `metering:off`.")
        return Caller(record, tenant, category, tags, metering == "on", brings_credential)
