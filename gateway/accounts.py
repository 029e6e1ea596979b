"""Tenants, their keys and credentials, and the admins: what there is, and the only way to change it.

A change and its row in the audit log are one transaction, and the snapshot is published before the change is answered,
so that a new key works at once and a revoked one stops. Secrets come in and go out once, when they are made: what is
kept is a keyed hash or sealed, and the audit log names what was changed and holds none of it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import fcntl
import hmac
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import Row, Select, delete, func, insert, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.callers import CATEGORY, TAG, TAGS_MAX
from gateway.integrations import EXCLUSIVE, Integration, NotAllowed, SubaccountSecret, checked, values_of
from gateway.keys import (
    DEFAULT_SCOPES,
    SCOPES,
    Secrets,
    key_id_of,
    new_account_sid,
    new_admin_key,
    new_gateway_key,
    new_signing_secret,
)
from gateway.providers import PROVIDERS, Provider
from gateway.snapshot import VERSION, KeyRecord, RequestTags, Snapshot, TenantRecord, write
from gateway.tables import (
    admin_keys,
    audit_log,
    credentials,
    gateway_keys,
    idempotent_answers,
    installation,
    integrations,
    tenants,
)
from metering.columns import Moment, Text, to_the_millisecond
from metering.database import Database
from metering.moments import iso
from pricing.plans import plans, resolve_plan
from pricing.tables import tenant_plans

TENANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

CURRENCY = "USD"
"""The one currency a new tenant is charged in."""

STATUSES = ("active", "suspended", "closed")

CREDENTIAL_VALUE = re.compile(r"[\x21-\x7e]{1,4096}")
"""Credentials travel in headers: a space or a line break in one would be a copying mistake, or an attack."""

EXPIRY_MAX = dt.timedelta(days=36_525)
"""A key that is to work for longer has no expiry."""

EXPIRED_KEPT = dt.timedelta(days=30)
"""So long an expired key stays in the snapshot, where its calls are told that it has expired; later it is unknown."""

ANSWERS_KEPT = dt.timedelta(hours=24)
"""How long a request may be repeated with the same Idempotency-Key; older answers are forgotten."""

FIRST_ADMIN = "admin"
"""The name of the admin key out of the settings, or generated at the first start."""

GATEWAY = "gateway"
"""The actor of changes that nobody asked for by name: the first admin key, tenants created at first sight."""

LOCK = 0x7A11_0002
"""Held in Postgres while accounts are changed. SQLite has one writer anyway."""

AnyRow: TypeAlias = Row[*tuple[Any, ...]]

SECRET_FINGERPRINT = "secret_fingerprint"  # noqa: S105 - the name of a row

# ---------------------------------------------------------------------------------------------------------------------
# Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One tenant, as it is."""

    tenant_id: str
    name: str
    status: str
    plan: str | None
    currency: str
    account_sid: str
    """Its account with the gateway itself, for providers that have accounts in their paths."""
    created_at: dt.datetime
    request_tags: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One gateway key, without the key."""

    key_id: str
    tenant_id: str | None
    """None for a service key."""
    name: str
    scopes: tuple[str, ...]
    category: str | None
    tags: Mapping[str, str]
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None
    created_at: dt.datetime

    def works(self, at: dt.datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was just made: the only value that holds it."""

    key: Key
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A tenant's own credential with a provider, without its values."""

    provider: str
    fields: tuple[str, ...]
    created_at: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantIntegration:
    """How a tenant's applications are reached, without the secret."""

    integration: Integration
    updated_at: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """Whose an admin key is, and what it may do."""

    name: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One change that was made."""

    audit_id: str
    at: dt.datetime
    actor: str
    action: str
    tenant_id: str | None
    subject: str | None
    detail: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was answered to the first request with an Idempotency-Key."""

    request_digest: str
    """Tells a repetition of the request from another one under the same key."""
    status: int
    body: str = field(repr=False)


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


class NotPublished(Exception):
    """What was changed is kept, and not in force yet: the snapshot can not be written. Says why."""


class NoSuchTenant(Exception):
    """There is none of that id."""


class TenantExists(Exception):
    """The id is taken: ids are never given twice, not even a closed tenant's."""


class TenantClosed(Exception):
    """A closed tenant stays closed, and stays as it is."""


class NoSuchKey(Exception):
    """There is none of that id, or it is somebody else's."""


class KeyNotActive(Exception):
    """The key is revoked or expired."""


class NoSuchCredential(Exception):
    """The tenant has none of its own with that provider."""


class NoSuchIntegration(Exception):
    """The tenant has none."""


class StillConnected(Exception):
    """The tenant's numbers lead here: without its integration nobody would know what they were."""


class NotAcceptable(ValueError):
    """A value that the change cannot have. Says which and why, and does not repeat it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class SecretChanged(Exception):
    """The installation's secret is not the one that its database was made with."""


# ---------------------------------------------------------------------------------------------------------------------


class Accounts:
    """Everything that is known of who may do what."""

    def __init__(
        self,
        database: Database,
        secrets: Secrets,
        snapshot_path: Path,
        now: Callable[[], dt.datetime],
        providers: Sequence[Provider] = PROVIDERS,
    ) -> None:
        self.providers = providers
        """With whom a tenant can have a credential, and a key a scope."""
        self.platform_accounts: Mapping[str, str] = {}
        """The platform's own, by the field of an integration that names a tenant's: all that is in these is everybody's."""
        self._database = database
        self._secrets = secrets
        self._snapshot_path = snapshot_path
        self._now = now
        self._publishing = asyncio.Lock()
        self._asked = 0
        self._published = 0
        self.when_published: Callable[[], object] = lambda: None
        """Called when a snapshot was written: whoever reads it in this process need not wait for the next look."""

    @asynccontextmanager
    async def changing(self, actor: str) -> AsyncIterator[Change]:
        """A change by this actor: all of it or nothing, and in force when this ends.

        Raises DatabaseUnavailable if it could not be kept, and NotPublished if it is kept and could not be published;
        publishing again then puts it in force.
        """
        async with self._one_at_a_time() as connection:
            at = to_the_millisecond(self._now())
            yield Change(connection, self._secrets, at, actor, self.providers, self.platform_accounts)
        await self.publish()

    @asynccontextmanager
    async def _one_at_a_time(self) -> AsyncIterator[AsyncConnection]:
        """A transaction beside which accounts are not changed, from whatever host: what it looked up is so when it writes."""
        async with self._database.transaction() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
            yield connection

    async def publish(self) -> None:
        """Write the snapshot as the database is now. Who waits while somebody else writes is served by one more write.

        Raises NotPublished, and DatabaseUnavailable.
        """
        self._asked += 1
        asked = self._asked
        async with self._publishing:
            if self._published >= asked:
                return
            covered = self._asked
            try:
                async with _alone(self._snapshot_path.with_suffix(".lock")):
                    write(self._snapshot_path, await self._snapshot())
            except OSError as error:
                raise NotPublished(os.strerror(error.errno or 0)) from error
            self._published = covered
            self.when_published()

    @property
    def unpublished(self) -> bool:
        """True while there is a change that the snapshot does not have."""
        return self._published < self._asked

    async def _snapshot(self) -> Snapshot:
        oldest = self._now() - EXPIRED_KEPT
        async with self._database.reading() as connection:
            open_tenants = (await connection.execute(select(tenants).where(tenants.c.status != "closed"))).all()
            keys = (await connection.execute(select(gateway_keys).where(gateway_keys.c.revoked_at.is_(None)))).all()
            own = (await connection.execute(select(credentials))).all()
            reached = {row.tenant_id: row for row in await connection.execute(select(integrations))}
        sealed: dict[str, dict[str, str]] = {}
        for row in own:
            sealed.setdefault(row.tenant_id, {})[row.provider] = row.sealed
        owners = {None, *(row.tenant_id for row in open_tenants)}
        return Snapshot(
            version=VERSION,
            keys={
                row.key_id: KeyRecord(
                    key_id=row.key_id,
                    digest=row.digest,
                    tenant_id=row.tenant_id,
                    scopes=frozenset(row.scopes),
                    category=row.category,
                    tags=row.tags,
                    expires_at_ms=None if row.expires_at is None else round(row.expires_at.timestamp() * 1000),
                )
                for row in keys
                if row.tenant_id in owners and (row.expires_at is None or oldest < row.expires_at)
            },
            tenants={
                row.tenant_id: TenantRecord(
                    tenant_id=row.tenant_id,
                    status=row.status,
                    account_sid=row.account_sid,
                    plan=row.plan,
                    credentials=sealed.get(row.tenant_id, {}),
                    request_tags=RequestTags(row.request_tags),
                    integration=_in_force(reached.get(row.tenant_id)),
                    signing=None if row.tenant_id not in reached else reached[row.tenant_id].sealed,
                )
                for row in open_tenants
            },
        )

    # -- at the start

    async def check_secret(self) -> None:
        """Remember the secret's fingerprint, or raise SecretChanged if it is another one than remembered."""
        async with self._one_at_a_time() as connection:
            known = select(installation.c.value).where(installation.c.name == SECRET_FINGERPRINT)
            value = (await connection.execute(known)).scalar()
            if value is None:
                row = {"name": SECRET_FINGERPRINT, "value": self._secrets.fingerprint}
                await connection.execute(insert(installation).values(row))
            elif value != self._secrets.fingerprint:
                raise SecretChanged(
                    f"the secret key (fingerprint {self._secrets.fingerprint}) is not the one this database was made "
                    f"with (fingerprint {value}), so no key in it would be recognised and no credential would open: "
                    "give the old secret back in TOLLKEEPER_SECRET_KEY or the data directory"
                )

    async def ensure_admin_key(self, given: str | None) -> str | None:
        """Make sure that the first admin has a key: the given one, the one it has, or a new one, which is returned."""
        async with self.changing(GATEWAY) as change:
            if given is None and await change.has_admin():
                return None
            key = given or new_admin_key()
            await change.set_admin_key(FIRST_ADMIN, "admin", key)
            return None if given else key

    async def ensure_tenant(self, tenant_id: str) -> Tenant:
        """The tenant, created if it is seen for the first time. Raises NotAcceptable for what can not be an id."""
        try:
            found = await self.tenant(tenant_id)
        except NoSuchTenant:
            async with self.changing(GATEWAY) as change:
                try:
                    return await change.tenant(tenant_id)
                except NoSuchTenant:
                    return await change.create_tenant(tenant_id)
        # Whoever asks has not found it in the snapshot: it was made and not published.
        await self.publish()
        return found

    # -- who is asking

    async def admin_with(self, key: str) -> Admin | None:
        """Whose admin key this is."""
        digest = self._secrets.digest(key).hex()
        async with self._database.reading() as connection:
            rows = (await connection.execute(select(admin_keys))).all()
        found = [row for row in rows if hmac.compare_digest(row.digest, digest)]
        return Admin(name=found[0].name, role=found[0].role) if found else None

    async def key_with(self, key: str) -> Key | None:
        """Which gateway key this is: one that works, of a tenant that is not closed, or None."""
        key = key.removeprefix("SG.")
        statement = (
            select(*_KEY_COLUMNS, gateway_keys.c.digest)
            .outerjoin(tenants, tenants.c.tenant_id == gateway_keys.c.tenant_id)
            .where(gateway_keys.c.key_id == key_id_of(key))
            .where(or_(gateway_keys.c.tenant_id.is_(None), tenants.c.status != "closed"))
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(statement)).first()
        if row is None or not self._secrets.matches(key, bytes.fromhex(row.digest)):
            return None
        found = _key(row)
        return found if found.works(self._now()) else None

    # -- reading

    async def tenants(self, limit: int, after: str = "") -> list[Tenant]:
        """In the order of their ids."""
        statement = select(tenants).where(tenants.c.tenant_id > after).order_by(tenants.c.tenant_id)
        return [_tenant(row) for row in await self._rows(statement.limit(limit))]

    async def tenant(self, tenant_id: str) -> Tenant:
        """Raises NoSuchTenant."""
        async with self._database.reading() as connection:
            return await _find_tenant(connection, tenant_id)

    async def keys(self, tenant_id: str | None, limit: int, after: tuple[dt.datetime, str] | None = None) -> list[Key]:
        """A tenant's keys, or the service keys, revoked ones too, oldest first. Raises NoSuchTenant."""
        if tenant_id is not None:
            await self.tenant(tenant_id)
        order = (gateway_keys.c.created_at, gateway_keys.c.key_id)
        statement = select(*_KEY_COLUMNS).where(gateway_keys.c.tenant_id == tenant_id).order_by(*order)
        if after is not None:
            statement = statement.where(tuple_(*order) > tuple_(literal(after[0], Moment), literal(after[1], Text)))
        return [_key(row) for row in await self._rows(statement.limit(limit))]

    async def key(self, tenant_id: str | None, key_id: str) -> Key:
        """Raises NoSuchTenant and NoSuchKey."""
        if tenant_id is not None:
            await self.tenant(tenant_id)
        async with self._database.reading() as connection:
            return await _find_key(connection, tenant_id, key_id)

    async def credentials(self, tenant_id: str) -> list[Credential]:
        """Raises NoSuchTenant. There is at most one for each provider."""
        await self.tenant(tenant_id)
        own = select(credentials.c.provider, credentials.c.fields, credentials.c.created_at)
        own = own.where(credentials.c.tenant_id == tenant_id).order_by(credentials.c.provider)
        return [
            Credential(provider=row.provider, fields=tuple(row.fields), created_at=row.created_at)
            for row in await self._rows(own)
        ]

    async def integration(self, tenant_id: str) -> TenantIntegration | None:
        """Raises NoSuchTenant."""
        await self.tenant(tenant_id)
        async with self._database.reading() as connection:
            row = await _integration_row(connection, tenant_id)
        if row is None:
            return None
        return TenantIntegration(integration=msgspec.convert(row.document, Integration), updated_at=row.updated_at)

    async def connected(self, tenant_id: str) -> dict[str, str]:
        """What is kept of the tenant's numbers that were led here. Raises NoSuchTenant."""
        found = await self.integration(tenant_id)
        sealed = None if found is None else found.integration.connected
        return {} if sealed is None else self._secrets.unseal(sealed, owner=tenant_id)

    async def audit(
        self,
        limit: int,
        after: tuple[dt.datetime, str] | None = None,
        *,
        tenant_id: str | None = None,
        start: dt.datetime | None = None,
        end: dt.datetime | None = None,
    ) -> list[AuditEntry]:
        """What was changed, newest first, from `start` until before `end`."""
        at, audit_id = audit_log.c.at, audit_log.c.audit_id
        statement = select(audit_log).order_by(at.desc(), audit_id.desc()).limit(limit)
        if after is not None:
            statement = statement.where(
                tuple_(at, audit_id) < tuple_(literal(after[0], Moment), literal(after[1], Text))
            )
        if tenant_id is not None:
            statement = statement.where(audit_log.c.tenant_id == tenant_id)
        if start is not None:
            statement = statement.where(at >= start)
        if end is not None:
            statement = statement.where(at < end)
        return [AuditEntry(**row._mapping) for row in await self._rows(statement)]  # noqa: SLF001

    async def _rows(self, statement: Select[*tuple[Any, ...]]) -> Sequence[AnyRow]:
        async with self._database.reading() as connection:
            return (await connection.execute(statement)).all()


class Change:
    """One actor's change, inside its transaction. Each thing it does leaves a row in the audit log."""

    def __init__(
        self,
        connection: AsyncConnection,
        secrets: Secrets,
        now: dt.datetime,
        actor: str,
        providers: Sequence[Provider],
        platform_accounts: Mapping[str, str],
    ) -> None:
        self._providers = providers
        self._platform_accounts = platform_accounts
        self._connection = connection
        self._secrets = secrets
        self._now = now
        self._actor = actor

    # -- tenants

    async def tenant(self, tenant_id: str) -> Tenant:
        """Raises NoSuchTenant."""
        return await _find_tenant(self._connection, tenant_id)

    async def create_tenant(
        self, tenant_id: str, *, name: str | None = None, plan: str | None = None, request_tags: str = RequestTags.OFF
    ) -> Tenant:
        """Raises TenantExists and NotAcceptable."""
        if not TENANT_ID.fullmatch(tenant_id):
            raise NotAcceptable(
                "tenant_id",
                "must be 1 to 64 letters, digits, dots, underscores or hyphens, the first a letter or digit",
            )
        try:
            await self.tenant(tenant_id)
        except NoSuchTenant:
            pass
        else:
            raise TenantExists
        tenant = Tenant(
            tenant_id=tenant_id,
            name=name or tenant_id,
            status="active",
            plan=None if plan is None else _plan_id(plan),
            currency=CURRENCY,
            account_sid=new_account_sid(),
            created_at=self._now,
            request_tags=_request_tags(request_tags),
        )
        row = {column.name: getattr(tenant, column.name) for column in tenants.c}
        await self._connection.execute(insert(tenants).values(row))
        if tenant.plan is not None:
            await self._begin_plan(tenant_id, tenant.plan)
        detail = {"name": tenant.name, "plan": tenant.plan, "request_tags": tenant.request_tags}
        await self._note("tenant.create", tenant_id, tenant_id, detail)
        return tenant

    async def change_tenant(
        self,
        tenant_id: str,
        *,
        name: str | UnsetType = UNSET,
        status: str | UnsetType = UNSET,
        plan: str | UnsetType | None = UNSET,
        request_tags: str | UnsetType = UNSET,
    ) -> Tenant:
        """Change what is given. Raises NoSuchTenant, TenantClosed and NotAcceptable."""
        before = await self.tenant(tenant_id)
        if status is not UNSET and status not in STATUSES:
            raise NotAcceptable("status", f"must be one of {', '.join(STATUSES)}")
        after = replace(
            before,
            name=before.name if name is UNSET else name,
            status=before.status if status is UNSET else status,
            plan=before.plan if plan is UNSET else None if plan is None else _plan_id(plan),
            request_tags=before.request_tags if request_tags is UNSET else _request_tags(request_tags),
        )
        changed = {
            field: getattr(after, field)
            for field in ("name", "status", "plan", "request_tags")
            if getattr(after, field) != getattr(before, field)
        }
        if not changed:
            return before
        if before.status == "closed":
            raise TenantClosed
        await self._connection.execute(update(tenants).where(tenants.c.tenant_id == tenant_id).values(changed))
        if "plan" in changed:
            await self._begin_plan(tenant_id, after.plan)
        was = {field: getattr(before, field) for field in changed}
        await self._note("tenant.change", tenant_id, tenant_id, {"before": was, "after": changed})
        return after

    async def _begin_plan(self, tenant_id: str, plan: str | None) -> None:
        newest = select(func.max(tenant_plans.c.effective_at)).where(tenant_plans.c.tenant_id == tenant_id)
        last = (await self._connection.execute(newest)).scalar()
        # Two changes within a millisecond, or a clock that was set back: the later row still begins later.
        effective_at = self._now if last is None else max(self._now, last + dt.timedelta(milliseconds=1))
        row = {"tenant_id": tenant_id, "effective_at": effective_at, "plan": plan}
        await self._connection.execute(insert(tenant_plans).values(row))

    async def _open_tenant(self, tenant_id: str | None) -> None:
        if tenant_id is not None and (await self.tenant(tenant_id)).status == "closed":
            raise TenantClosed

    # -- keys

    async def create_key(
        self,
        tenant_id: str | None,
        *,
        name: str,
        scopes: Sequence[str] = DEFAULT_SCOPES,
        category: str | None = None,
        tags: Mapping[str, str] | None = None,
        expires_at: dt.datetime | None = None,
    ) -> NewKey:
        """Make a key of a tenant, or, without one, a service key. Raises NoSuchTenant, TenantClosed, NotAcceptable."""
        await self._open_tenant(tenant_id)
        known = (*SCOPES, *(f"proxy:{provider.name}" for provider in self._providers))
        if not scopes or not set(scopes) <= set(known):
            raise NotAcceptable("scopes", f"must be some of {', '.join(known)}")
        if expires_at is not None and not self._now < expires_at < self._now + EXPIRY_MAX:
            raise NotAcceptable("expires_at", "must lie in the future, and within a hundred years")
        if category is not None and not CATEGORY.fullmatch(category):
            raise NotAcceptable("category", "must be up to 64 letters, digits and _ . : -")
        if len(tags or {}) > TAGS_MAX or not all(
            TAG.fullmatch(f"{name}={value}") for name, value in (tags or {}).items()
        ):
            raise NotAcceptable(
                "tags", f"must be up to {TAGS_MAX}, names of up to 32 and values of up to 64 plain characters"
            )
        new = await self._insert_key(
            Key(
                key_id="",
                tenant_id=tenant_id,
                name=name,
                scopes=tuple(dict.fromkeys(scopes)),
                category=category,
                tags=dict(tags or {}),
                expires_at=None if expires_at is None else to_the_millisecond(expires_at),
                revoked_at=None,
                created_at=self._now,
            )
        )
        await self._note("key.create", tenant_id, new.key.key_id, {"name": name, "scopes": new.key.scopes})
        return new

    async def rotate_key(self, tenant_id: str | None, key_id: str, *, grace: dt.timedelta = dt.timedelta()) -> NewKey:
        """Put a new key in the place of one that works; the old one works on for `grace`, and no longer than it would.

        Raises NoSuchTenant, NoSuchKey, TenantClosed and KeyNotActive.
        """
        await self._open_tenant(tenant_id)
        old = await _find_key(self._connection, tenant_id, key_id)
        if not old.works(self._now):
            raise KeyNotActive
        new = await self._insert_key(replace(old, created_at=self._now))
        until = self._now + grace
        ends = {"expires_at": min(until, old.expires_at or until)} if grace else {"revoked_at": self._now}
        await self._connection.execute(update(gateway_keys).where(gateway_keys.c.key_id == key_id).values(ends))
        detail = {"new_key_id": new.key.key_id, "grace_s": int(grace.total_seconds())}
        await self._note("key.rotate", tenant_id, key_id, detail)
        return new

    async def revoke_key(self, tenant_id: str | None, key_id: str) -> None:
        """Revoking twice is revoking once. Raises NoSuchTenant and NoSuchKey."""
        if tenant_id is not None:
            await self.tenant(tenant_id)
        old = await _find_key(self._connection, tenant_id, key_id)
        if old.revoked_at is None:
            at = {"revoked_at": self._now}
            await self._connection.execute(update(gateway_keys).where(gateway_keys.c.key_id == key_id).values(at))
            await self._note("key.revoke", tenant_id, key_id, {"name": old.name})

    async def _insert_key(self, like: Key) -> NewKey:
        key_id, secret = new_gateway_key()
        key = replace(like, key_id=key_id)
        row = {column.name: getattr(key, column.name) for column in _KEY_COLUMNS}
        row["digest"] = self._secrets.digest(secret).hex()
        await self._connection.execute(insert(gateway_keys).values(row))
        return NewKey(key=key, secret=secret)

    # -- credentials

    async def set_credential(self, tenant_id: str, provider: str, values: Mapping[str, str]) -> Credential:
        """Give a tenant its own credential with a provider, in the place of one it has. Raises NoSuchTenant,
        TenantClosed and NotAcceptable."""
        await self._open_tenant(tenant_id)
        of = next((known for known in self._providers if known.name == provider), None)
        if of is None:
            raise NotAcceptable("provider", f"must be one of {', '.join(known.name for known in self._providers)}")
        if not set(of.credential_fields) <= set(values) <= set(of.every_credential_field):
            besides = "" if of.lists_field is None else f", and if you like {of.lists_field}"
            raise NotAcceptable(
                "provider", f"{provider} takes exactly these fields: {', '.join(of.credential_fields)}{besides}"
            )
        fields = tuple(name for name in of.every_credential_field if name in values)
        for name, value in values.items():
            if not CREDENTIAL_VALUE.fullmatch(value):
                raise NotAcceptable(name, "must be 1 to 4096 printable ASCII characters without spaces")
        await self._delete_credential(tenant_id, provider)
        row = {
            "tenant_id": tenant_id,
            "provider": provider,
            "sealed": self._secrets.seal(values, owner=tenant_id),
            "fields": fields,
            "created_at": self._now,
        }
        await self._connection.execute(insert(credentials).values(row))
        await self._note("credential.set", tenant_id, provider, {"fields": fields})
        return Credential(provider=provider, fields=fields, created_at=self._now)

    async def remove_credential(self, tenant_id: str, provider: str) -> None:
        """Raises NoSuchTenant and NoSuchCredential."""
        await self.tenant(tenant_id)
        if not await self._delete_credential(tenant_id, provider):
            raise NoSuchCredential
        await self._note("credential.remove", tenant_id, provider, {})

    async def _delete_credential(self, tenant_id: str, provider: str) -> bool:
        this = (credentials.c.tenant_id == tenant_id, credentials.c.provider == provider)
        return (await self._connection.execute(delete(credentials).where(*this))).rowcount > 0

    # -- integrations

    async def change_integration(
        self, tenant_id: str, changes: Mapping[str, object]
    ) -> tuple[TenantIntegration, str | None]:
        """Change what is given of how a tenant's applications are reached; None clears. Returns what it is now, and the
        new signing secret where there was none before. Raises NoSuchTenant, TenantClosed and NotAcceptable."""
        await self._open_tenant(tenant_id)
        before = await _integration_row(self._connection, tenant_id)
        known = {} if before is None else before.document
        document = {field: value for field, value in {**known, **changes}.items() if value not in (None, [], ())}
        try:
            integration = checked(msgspec.convert(document, Integration))
        except msgspec.ValidationError as error:
            raise NotAcceptable("integration", str(error)) from None
        except NotAllowed as error:
            raise NotAcceptable(error.field, error.problem) from None
        for name, account in self._platform_accounts.items():
            if account in values_of(integration, name):
                raise NotAcceptable(
                    name, "is the platform's own account, which is no tenant's; give one below it, or none at all"
                )
        await self._exclusive(tenant_id, integration)
        kept = integration.subaccount_secret
        if kept is not None and kept.account != integration.twilio_subaccount:
            integration = msgspec.structs.replace(integration, subaccount_secret=None)
        document = msgspec.to_builtins(integration)
        secret = None
        if before is None:
            secret = new_signing_secret()
            row = {"tenant_id": tenant_id, "document": document, "updated_at": self._now}
            row["sealed"] = self._secrets.seal({"current": secret}, owner=tenant_id)
            await self._connection.execute(insert(integrations).values(row))
        else:
            this = integrations.c.tenant_id == tenant_id
            values = {"document": document, "updated_at": self._now}
            await self._connection.execute(update(integrations).where(this).values(values))
        await self._note("integration.change", tenant_id, tenant_id, {"fields": sorted(changes)})
        return TenantIntegration(integration=integration, updated_at=self._now), secret

    async def rotate_signing_secret(self, tenant_id: str, *, grace: dt.timedelta) -> str:
        """Put a new signing secret in the place of a tenant's; both sign for `grace`, where a signature can be of both.
        Raises NoSuchTenant, TenantClosed and NoSuchIntegration."""
        await self._open_tenant(tenant_id)
        before = await _integration_row(self._connection, tenant_id)
        if before is None:
            raise NoSuchIntegration
        secret = new_signing_secret()
        values = {"current": secret}
        if grace:
            values["previous"] = self._secrets.unseal(before.sealed, owner=tenant_id)["current"]
            values["previous_until"] = iso(self._now + grace)
        sealed = {"sealed": self._secrets.seal(values, owner=tenant_id), "updated_at": self._now}
        await self._connection.execute(update(integrations).where(integrations.c.tenant_id == tenant_id).values(sealed))
        detail = {"grace_s": int(grace.total_seconds())}
        await self._note("integration.rotate_secret", tenant_id, tenant_id, detail)
        return secret

    async def connect_numbers(
        self, tenant_id: str, source: str, kept: Mapping[str, str], urls: Mapping[str, str], count: int
    ) -> str | None:
        """Keep what a tenant's numbers are that will now be led here, and where its applications are that they led to.
        Returns the new signing secret where there was none. Raises NoSuchTenant, TenantClosed and NotAcceptable."""
        changes = {**urls, "connected": self._secrets.seal(kept, owner=tenant_id) if kept else None}
        _, secret = await self.change_integration(tenant_id, changes)
        await self._note("numbers.connect", tenant_id, source, {"numbers": count, "fields": sorted(urls)})
        return secret

    async def keep_subaccount_secret(self, tenant_id: str, account: str, secret: str) -> None:
        """Keep what a tenant's account within the platform's signs with. Raises NoSuchTenant, TenantClosed, and
        NoSuchIntegration where it has no such account."""
        await self._open_tenant(tenant_id)
        before = await _integration_row(self._connection, tenant_id)
        known = Integration() if before is None else msgspec.convert(before.document, Integration)
        if known.twilio_subaccount != account:
            raise NoSuchIntegration
        kept = SubaccountSecret(account, self._secrets.seal({account: secret}, owner=tenant_id))
        document = msgspec.to_builtins(msgspec.structs.replace(known, subaccount_secret=kept))
        values = {"document": document, "updated_at": self._now}
        this = integrations.c.tenant_id == tenant_id
        await self._connection.execute(update(integrations).where(this).values(values))
        await self._note("integration.subaccount_secret", tenant_id, account, {})

    async def disconnect_numbers(self, tenant_id: str, source: str, kept: Mapping[str, str], count: int) -> None:
        """Forget what those were that were led back, a closed tenant's too; `kept` is what stays. Raises NoSuchIntegration."""
        before = await _integration_row(self._connection, tenant_id)
        if before is None:
            raise NoSuchIntegration
        document = {name: value for name, value in before.document.items() if name != "connected"}
        if kept:
            document["connected"] = self._secrets.seal(kept, owner=tenant_id)
        values = {"document": document, "updated_at": self._now}
        this = integrations.c.tenant_id == tenant_id
        await self._connection.execute(update(integrations).where(this).values(values))
        await self._note("numbers.disconnect", tenant_id, source, {"numbers": count})

    async def remove_integration(self, tenant_id: str) -> None:
        """Raises NoSuchTenant, NoSuchIntegration and StillConnected."""
        await self.tenant(tenant_id)
        before = await _integration_row(self._connection, tenant_id)
        if before is not None and before.document.get("connected") is not None:
            raise StillConnected
        removed = await self._connection.execute(delete(integrations).where(integrations.c.tenant_id == tenant_id))
        if not removed.rowcount:
            raise NoSuchIntegration
        await self._note("integration.remove", tenant_id, tenant_id, {})

    async def _exclusive(self, tenant_id: str, integration: Integration) -> None:
        """What tells whose use something is must not be two tenants'. Raises NotAcceptable."""
        others = select(integrations.c.document).where(integrations.c.tenant_id != tenant_id)
        for row in (await self._connection.execute(others)).all():
            other = msgspec.convert(row.document, Integration)
            for name in EXCLUSIVE:
                if set(values_of(integration, name)) & set(values_of(other, name)):
                    raise NotAcceptable(name, "is another tenant's, in part or whole; take it from that one first")

    # -- admins

    async def has_admin(self) -> bool:
        return (await self._connection.execute(select(admin_keys.c.name).limit(1))).first() is not None

    async def set_admin_key(self, name: str, role: str, key: str) -> None:
        """Give an admin this key, in the place of one it has; nothing if it has this one."""
        digest = self._secrets.digest(key).hex()
        known = select(admin_keys.c.digest).where(admin_keys.c.name == name)
        if (await self._connection.execute(known)).scalar() == digest:
            return
        await self._connection.execute(delete(admin_keys).where(admin_keys.c.name == name))
        row = {"name": name, "digest": digest, "role": role, "created_at": self._now}
        await self._connection.execute(insert(admin_keys).values(row))
        await self._note("admin_key.set", None, name, {"role": role})

    # -- repetitions

    async def answered(self, idempotency_key: str) -> Answer | None:
        """What this actor was answered to the first request with this key, if that was not long ago."""
        old = idempotent_answers.c.created_at < self._now - ANSWERS_KEPT
        await self._connection.execute(delete(idempotent_answers).where(old))
        this = (idempotent_answers.c.actor == self._actor, idempotent_answers.c.idempotency_key == idempotency_key)
        row = (await self._connection.execute(select(idempotent_answers).where(*this))).first()
        if row is None:
            return None
        body = self._secrets.unseal(row.sealed, owner=self._actor)["body"]
        return Answer(request_digest=row.request_digest, status=int(row.status), body=body)

    async def remember(self, idempotency_key: str, answer: Answer) -> None:
        """Keep an answer together with the change that it tells of."""
        row = {
            "actor": self._actor,
            "idempotency_key": idempotency_key,
            "request_digest": answer.request_digest,
            "status": str(answer.status),
            "sealed": self._secrets.seal({"body": answer.body}, owner=self._actor),
            "created_at": self._now,
        }
        await self._connection.execute(insert(idempotent_answers).values(row))

    # -- what is done to the ledger

    async def replay_spool(self, spool_id: str) -> None:
        """Note that somebody has a spool booked again."""
        await self._note("spool.replay", None, spool_id, {})

    async def retry_delivery(self, tenant_id: str, delivery_id: str) -> None:
        """Note that somebody has a delivery tried at once. Raises NoSuchTenant."""
        await _find_tenant(self._connection, tenant_id)
        await self._note("delivery.retry", tenant_id, delivery_id, {})

    async def collect(self, collection_id: str, tenant_id: str | None, detail: Mapping[str, object]) -> None:
        """Note that somebody has a provider's lists read."""
        await self._note("collection.create", tenant_id, collection_id, detail)

    async def import_records(self, tenant_id: str, detail: Mapping[str, object]) -> None:
        """Note that somebody has booked what happened elsewhere."""
        await self._note("import", tenant_id, tenant_id, detail)

    async def cancel_collection(self, collection_id: str) -> None:
        """Note that somebody has the reading of a provider's lists ended."""
        await self._note("collection.cancel", None, collection_id, {})

    async def reconcile(self, reconciliation_id: str, tenant_id: str | None, detail: Mapping[str, object]) -> None:
        """Note that somebody has the ledger held against a provider's figures."""
        await self._note("reconciliation.create", tenant_id, reconciliation_id, detail)

    async def _note(self, action: str, tenant_id: str | None, subject: str, detail: Mapping[str, object]) -> None:
        row = {
            "audit_id": str(uuid4()),
            "at": self._now,
            "actor": self._actor,
            "action": action,
            "tenant_id": tenant_id,
            "subject": subject,
            "detail": detail,
        }
        await self._connection.execute(insert(audit_log).values(row))


@asynccontextmanager
async def _alone(path: Path) -> AsyncIterator[None]:
    """While no other process of this machine is in here: else an older snapshot could take the place of a newer one."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(LOCK_LOOK_S)
        yield
    finally:
        os.close(lock)


LOCK_LOOK_S = 0.01

_KEY_COLUMNS = [column for column in gateway_keys.c if column.name != "digest"]


async def _integration_row(connection: AsyncConnection, tenant_id: str) -> AnyRow | None:
    return (await connection.execute(select(integrations).where(integrations.c.tenant_id == tenant_id))).first()


def _in_force(row: AnyRow | None) -> Integration | None:
    """What workers need of it."""
    return None if row is None else msgspec.structs.replace(msgspec.convert(row.document, Integration), connected=None)


async def _find_tenant(connection: AsyncConnection, tenant_id: str) -> Tenant:
    row = (await connection.execute(select(tenants).where(tenants.c.tenant_id == tenant_id))).first()
    if row is None:
        raise NoSuchTenant
    return _tenant(row)


async def _find_key(connection: AsyncConnection, tenant_id: str | None, key_id: str) -> Key:
    this = (gateway_keys.c.key_id == key_id, gateway_keys.c.tenant_id == tenant_id)
    row = (await connection.execute(select(*_KEY_COLUMNS).where(*this))).first()
    if row is None:
        raise NoSuchKey
    return _key(row)


def _tenant(row: AnyRow) -> Tenant:
    return Tenant(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public way to name a row's columns


def _key(row: AnyRow) -> Key:
    named = {column.name: getattr(row, column.name) for column in _KEY_COLUMNS}
    return Key(**named | {"scopes": tuple(row.scopes)})


def _request_tags(how: str) -> str:
    if how not in list(RequestTags):
        raise NotAcceptable("request_tags", f"must be one of {', '.join(RequestTags)}")
    return str(how)


def _plan_id(name: str) -> str:
    try:
        return resolve_plan(name).id
    except ValueError:
        raise NotAcceptable("plan", f"must be one of {', '.join(plan.id for plan in plans())}") from None
