"""`tollkeeper integration`: how a tenant's applications are reached, and what of a provider's is its own."""

from __future__ import annotations

from typing import Any

import click

from gateway.commands import tty
from gateway.commands.invocation import Command, Invocation, at, told

_FIELDS = {
    "sms_url": "Where messages that come in are delivered to.",
    "voice_url": "What answers calls that come in, with TwiML.",
    "voice_fallback_url": "What answers them where that does not.",
    "status_url": "Where status callbacks go that no call asked for.",
    "events_url": "Where the events of its mails are delivered to.",
    "inbound_url": "Where mails that come in are delivered to.",
    "twilio_subaccount": "The tenant's account within the platform's.",
    "sendgrid_subuser": "The tenant's subuser.",
    "sendgrid_verification_key": "The public key of the event webhook.",
    "openai_project": "The tenant's project.",
}
_LISTS = {
    "phone_numbers": "A number of the tenant's own; repeatable.",
    "twilio_messaging_services": "A messaging service of its own; repeatable.",
    "sendgrid_categories": "A category of its mails; repeatable.",
    "on_behalf_of": "A subuser that its calls may speak for, or * for any; repeatable.",
}


@click.group()
def integration() -> None:
    """Show and change how a tenant's applications are reached."""


@integration.command(cls=Command)
@click.argument("tenant_id", metavar="TENANT")
@told
def show(invocation: Invocation, tenant_id: str) -> None:
    """Show a tenant's integration."""
    found = invocation.ask(lambda api: api.get(_at(tenant_id)))
    invocation.answer(found, lambda: tty.facts(found))


def _options(command: click.Command) -> click.Command:
    for field, says in reversed(_LISTS.items()):
        option = click.Option([f"--{field.replace('_', '-').removesuffix('s')}", field], multiple=True, help=says)
        command.params.insert(1, option)
    for field, says in reversed(_FIELDS.items()):
        command.params.insert(1, click.Option([f"--{field.replace('_', '-')}", field], help=says))
    return command


@integration.command(name="set", cls=Command)
@click.argument("tenant_id", metavar="TENANT")
@click.option("--clear", multiple=True, metavar="FIELD", help="A field to empty, such as sms_url; repeatable.")
@told
def set_(invocation: Invocation, /, tenant_id: str, clear: tuple[str, ...], **fields: Any) -> None:
    """Change what is given. The first time, the signing secret is printed to stdout, this once."""
    unknown = [name for name in clear if name not in (*_FIELDS, *_LISTS)]
    if unknown:
        raise click.BadParameter(f"{unknown[0]} is no field; known: {', '.join((*_FIELDS, *_LISTS))}")
    given: dict[str, object] = {name: value for name, value in fields.items() if value not in (None, ())}
    given |= dict.fromkeys(clear)
    if not given:
        raise click.UsageError("Give what is to change, such as --sms-url https://app.example.com/sms.")
    changed = invocation.ask(lambda api: api.patch(_at(tenant_id), given))

    def shown() -> None:
        secret = changed.pop("signing_secret", None)
        tty.facts(changed)
        if secret is not None:
            tty.hint("\nWhat is passed on is signed with this secret. Keep it now: it is not shown again.\n")
            print(secret)

    invocation.answer(changed, shown)


_options(set_)


@integration.command(name="rotate-secret", cls=Command)
@click.argument("tenant_id", metavar="TENANT")
@click.option("--grace", "grace_s", type=int, help="Seconds for which the old one signs as well.  [default: a day]")
@told
def rotate_secret(invocation: Invocation, tenant_id: str, grace_s: int | None) -> None:
    """Make a new signing secret. It is printed to stdout, this once."""
    document = {} if grace_s is None else {"grace_s": grace_s}
    made = invocation.ask(lambda api: api.post(f"{_at(tenant_id)}/signing-secret", document))
    invocation.answer(made, lambda: print(made["signing_secret"]))


def _at(tenant_id: str) -> str:
    return at("v1", "tenants", tenant_id, "integrations")
