"""`tollkeeper tenant`: whose calls the gateway takes."""

from __future__ import annotations

import click

from gateway.commands import tty
from gateway.commands.invocation import Command, Invocation, at, told


@click.group()
def tenant() -> None:
    """Create, list, change, suspend tenants."""


_REQUEST_TAGS = click.Choice(["off", "hashed", "plain"])
_REQUEST_TAGS_HELP = (
    "Whether user, safety_identifier and metadata in the bodies of its calls become tags: end users as keyed hashes, "
    "or plain, as they are."
)


@tenant.command(cls=Command)
@click.argument("tenant_id", metavar="ID")
@click.option("--name", help="What people call the tenant.  [default: its ID]")
@click.option("--plan", help="The plan its use is priced by.  [default: the standard prices, without a limit]")
@click.option("--request-tags", type=_REQUEST_TAGS, help=f"{_REQUEST_TAGS_HELP}  [default: off]")
@told
def create(
    invocation: Invocation, tenant_id: str, name: str | None, plan: str | None, request_tags: str | None
) -> None:
    """Create a tenant."""
    document = {"tenant_id": tenant_id, "name": name, "plan": plan, "request_tags": request_tags}
    created = invocation.ask(
        lambda api: api.post("/v1/tenants", {field: value for field, value in document.items() if value is not None})
    )

    def show() -> None:
        tty.facts(created)
        tty.hint(f"\nGive it a key: tollkeeper key create {tty.plain(tenant_id)}")

    invocation.answer(created, show)


@tenant.command(name="list", cls=Command)
@told
def list_(invocation: Invocation) -> None:
    """List all tenants."""
    tenants = invocation.ask(lambda api: api.get_all("/v1/tenants"))

    def show() -> None:
        if not tenants["data"]:
            tty.hint("There are no tenants yet. Create the first: tollkeeper tenant create ID")
            return
        columns = {"tenant_id": "tenant", "name": "name", "status": "status", "plan": "plan", "created_at": "created"}
        tty.table(columns, tenants["data"])

    invocation.answer(tenants, show)


@tenant.command(name="show", cls=Command)
@click.argument("tenant_id", metavar="ID")
@told
def show_(invocation: Invocation, tenant_id: str) -> None:
    """Show one tenant."""
    found = invocation.ask(lambda api: api.get(at("v1", "tenants", tenant_id)))
    invocation.answer(found, lambda: tty.facts(found))


@tenant.command(name="set", cls=Command)
@click.argument("tenant_id", metavar="ID")
@click.option("--request-tags", type=_REQUEST_TAGS, required=True, help=_REQUEST_TAGS_HELP)
@told
def set_(invocation: Invocation, tenant_id: str, request_tags: str) -> None:
    """Change a setting of a tenant; within a second its calls are served by it."""
    changed = invocation.ask(lambda api: api.patch(at("v1", "tenants", tenant_id), {"request_tags": request_tags}))
    invocation.answer(changed, lambda: tty.facts(changed))


@tenant.command(cls=Command)
@click.argument("tenant_id", metavar="ID")
@told
def suspend(invocation: Invocation, tenant_id: str) -> None:
    """Refuse a tenant's calls from now on; nothing of it is lost."""
    _set_status(invocation, tenant_id, "suspended", "is suspended: within 5 seconds its calls are refused.")


@tenant.command(cls=Command)
@click.argument("tenant_id", metavar="ID")
@told
def activate(invocation: Invocation, tenant_id: str) -> None:
    """Take a suspended tenant's calls again."""
    _set_status(invocation, tenant_id, "active", "is active.")


def _set_status(invocation: Invocation, tenant_id: str, status: str, said: str) -> None:
    changed = invocation.ask(lambda api: api.patch(at("v1", "tenants", tenant_id), {"status": status}))
    invocation.answer(changed, lambda: print(f"Tenant {tty.plain(tenant_id)} {said}"))
