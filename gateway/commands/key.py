"""`tollkeeper key`: what applications show to be let through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from gateway.commands import tty
from gateway.commands.invocation import MOMENT, Command, Invocation, at, told

COLUMNS = {
    "key_id": "key id",
    "name": "name",
    "scopes": "scopes",
    "category": "category",
    "expires_at": "expires",
    "revoked_at": "revoked",
    "created_at": "created",
}

NAME_DEFAULT = "default"


@click.group()
def key() -> None:
    """Create, list, revoke gateway keys."""


@key.command(cls=Command)
@click.argument("tenant_id", metavar="TENANT")
@click.option("--name", default=NAME_DEFAULT, show_default=True, help="What the key is for, for people.")
@click.option("--scope", "scopes", multiple=True, help="What it may do; repeatable.  [default: proxy and usage:read]")
@click.option("--expires", "expires_at", type=MOMENT, metavar="DATE", help="Date or timestamp (UTC) at which it ends.")
@click.option("--category", help="The category of its calls that name none.")
@told
def create(
    invocation: Invocation,
    tenant_id: str,
    name: str,
    scopes: tuple[str, ...],
    expires_at: str | None,
    category: str | None,
) -> None:
    """Create a key of a tenant's. It is printed to stdout, this once."""
    document = {"name": name, "scopes": list(scopes) or None, "expires_at": expires_at, "category": category}
    _create(invocation, at("v1", "tenants", tenant_id, "keys"), document)


@key.command(name="create-service", cls=Command)
@click.option("--name", default=NAME_DEFAULT, show_default=True, help="What the key is for, for people.")
@click.option("--scope", "scopes", multiple=True, help="What it may do; repeatable.  [default: proxy and usage:read]")
@told
def create_service(invocation: Invocation, name: str, scopes: tuple[str, ...]) -> None:
    """Create a key of the platform's, whose calls name their tenant in X-Tenant-ID. It is printed to stdout, this once."""
    _create(invocation, "/v1/service-keys", {"name": name, "scopes": list(scopes) or None})


@key.command(name="list", cls=Command)
@click.argument("tenant_id", metavar="TENANT")
@told
def list_(invocation: Invocation, tenant_id: str) -> None:
    """List a tenant's keys."""
    create_one = f"tollkeeper key create {tty.plain(tenant_id)}"
    _list(invocation, at("v1", "tenants", tenant_id, "keys"), f"This tenant has no key yet. Create one: {create_one}")


@key.command(name="list-service", cls=Command)
@told
def list_service(invocation: Invocation) -> None:
    """List the platform's service keys."""
    _list(invocation, "/v1/service-keys", "There is no service key yet. Create one: tollkeeper key create-service")


@key.command(cls=Command)
@click.argument("tenant_id", metavar="TENANT")
@click.argument("key_id", metavar="KEY_ID")
@told
def revoke(invocation: Invocation, tenant_id: str, key_id: str) -> None:
    """Revoke a tenant's key for good."""
    _revoke(invocation, at("v1", "tenants", tenant_id, "keys", key_id), key_id)


@key.command(name="revoke-service", cls=Command)
@click.argument("key_id", metavar="KEY_ID")
@told
def revoke_service(invocation: Invocation, key_id: str) -> None:
    """Revoke a service key for good."""
    _revoke(invocation, at("v1", "service-keys", key_id), key_id)


def _create(invocation: Invocation, path: str, document: Mapping[str, object]) -> None:
    given = {field: value for field, value in document.items() if value is not None}
    created: dict[str, Any] = invocation.ask(lambda api: api.post(path, given))

    def show() -> None:
        tty.hint(
            f"Key {tty.plain(created['key_id'])} ({tty.plain(created['scopes'])}). Keep it now: it is not shown again.\n"
        )
        print(created["key"])

    invocation.answer(created, show)


def _list(invocation: Invocation, path: str, if_none: str) -> None:
    keys = invocation.ask(lambda api: api.get_all(path))

    def show() -> None:
        if not keys["data"]:
            tty.hint(if_none)
            return
        said = {name for row in keys["data"] for name in row}
        tty.table({name: heading for name, heading in COLUMNS.items() if name in said}, keys["data"])

    invocation.answer(keys, show)


def _revoke(invocation: Invocation, path: str, key_id: str) -> None:
    invocation.ask(lambda api: api.delete(path))
    # With --json nothing is printed: the API answers 204, which has no body.
    if not invocation.as_json:
        print(f"Key {tty.plain(key_id)} is revoked: within 5 seconds calls with it are refused.")
