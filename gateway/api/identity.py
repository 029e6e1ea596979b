"""Who is asking, and what they may ask.

Keys are looked up in the database and not in the snapshot: whoever may not ask any more, may not ask from the moment
that is decided. A refusal depends on who asks and on the form of the path, never on what exists: a tenant that asks for
another tenant's object gets, byte for byte, what it gets for one that is not there.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from aiohttp import web

from gateway.accounts import NoSuchTenant
from gateway.api.parts import ACCOUNTS, SECRETS
from gateway.api.problems import Problem

ADMIN = "admin"
"""May do everything."""
READERS = ("finance", "viewer")
"""May see everything."""
TENANT = "tenant"
"""May see its own data, with a key of scope `usage:read`."""
SERVICE = "service"
"""A key with which the platform calls providers for its tenants; there is nothing for it here."""

USAGE_READ = "usage:read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who is asking."""

    name: str
    """An admin's name, or the id of a gateway key."""
    role: str
    tenant_id: str | None = None
    """Set for tenants alone; None sees all of them."""
    scopes: frozenset[str] = frozenset()

    @property
    def actor(self) -> str:
        """How the audit log names it."""
        return f"{self.role}:{self.name}"


Handler: TypeAlias = Callable[[web.Request, Principal], Awaitable[web.StreamResponse]]

Access: TypeAlias = Callable[[Principal, web.Request], None]
"""Who may ask: raises the refusal for those who may not."""


def guarded(access: Access, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Answer only those who may ask. Nothing of the request but its head was read before that is known."""

    async def answer(request: web.Request) -> web.StreamResponse:
        principal = await identify(request)
        access(principal, request)
        return await handler(request, principal)

    return answer


async def identify(request: web.Request) -> Principal:
    """Who the one `Authorization` header names; a refusal that says the same whatever is wrong with it."""
    presented = request.headers.getall("Authorization", [])
    scheme, _, key = presented[0].partition(" ") if len(presented) == 1 else ("", "", "")
    key = key.strip()
    if scheme.lower() == "bearer" and key and key.isascii():
        if hmac.compare_digest(key.encode(), request.app[SECRETS].operator_key.encode()):
            return Principal(name="operator", role=ADMIN)
        admin = await request.app[ACCOUNTS].admin_with(key)
        if admin is not None:
            return Principal(name=admin.name, role=admin.role)
        found = await request.app[ACCOUNTS].key_with(key)
        if found is not None:
            role = SERVICE if found.tenant_id is None else TENANT
            return Principal(name=found.key_id, role=role, tenant_id=found.tenant_id, scopes=frozenset(found.scopes))
    raise Problem(
        401,
        "unauthenticated",
        "Send Authorization: Bearer with an admin key or a tenant's gateway key that is neither revoked nor expired.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def admins_change(principal: Principal, _: web.Request) -> None:
    """Those who may do everything."""
    if principal.role != ADMIN:
        raise Problem(403, "forbidden", "This takes an admin key of role admin.")


def admins_read(principal: Principal, _: web.Request) -> None:
    """Those who may see everything."""
    if principal.role != ADMIN and principal.role not in READERS:
        raise Problem(403, "forbidden", "This takes an admin key.")


def tenants_read(principal: Principal, request: web.Request) -> None:
    """Those who may see everything, and each tenant for itself."""
    if principal.role != TENANT:
        admins_read(principal, request)
    elif USAGE_READ not in principal.scopes:
        raise Problem(403, "missing-scope", f"This takes a key with the scope {USAGE_READ}.")
    elif request.match_info.get("tenant_id", principal.tenant_id) != principal.tenant_id:
        raise NoSuchTenant


def key_itself(principal: Principal, request: web.Request) -> None:
    """An admin, or a tenant's key for itself."""
    itself = (principal.tenant_id, principal.name) == (request.match_info["tenant_id"], request.match_info["key_id"])
    if principal.role != TENANT:
        admins_change(principal, request)
    elif not itself:
        raise Problem(403, "forbidden", "A tenant's key can rotate itself alone; for other keys this takes an admin.")
