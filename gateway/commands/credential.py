"""`tollkeeper credential`: a tenant's own accounts at the providers.

A secret never stands on the command line, where every process of the machine can read it: it comes out of a file or is
typed unseen.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from gateway.commands import tty
from gateway.commands.invocation import Command, Invocation, Refused, at, told
from gateway.setting_values import Wrong, secret, secret_in_file

if TYPE_CHECKING:
    from gateway.providers import Provider
    from gateway.settings import Settings


class CredentialCommand(Command):
    """A command whose help names the providers, and what a credential of each consists of."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from gateway.providers import PROVIDERS  # noqa: PLC0415 - only this help needs them

        with formatter.section("Providers"):
            formatter.write_dl(
                [
                    *((provider.name, _told_fields(provider)) for provider in PROVIDERS),
                    ("any further one", "api_key"),
                ]
            )
        super().format_epilog(ctx, formatter)


@click.group()
def credential() -> None:
    """Keep provider credentials of a tenant's own."""


@credential.command(name="set", cls=CredentialCommand)
@click.argument("tenant_id", metavar="TENANT")
@click.argument("provider")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME=@FILE",
    help="A field of the credential, read from a file (@- is stdin); repeatable. Those left out are asked for.",
)
@told
def set_(invocation: Invocation, tenant_id: str, provider: str, fields: tuple[str, ...]) -> None:
    """Store a tenant's credential at a provider, sealed, in place of an earlier one."""
    values = _values(*_fields_of(provider, invocation.settings()), fields)
    stored = invocation.ask(
        lambda api: api.post(at("v1", "tenants", tenant_id, "credentials"), {"provider": provider, **values})
    )
    said = f"Calls of {tty.plain(tenant_id)} to {tty.plain(provider)} go out with its own credential from now on."
    invocation.answer(stored, lambda: print(said))


@credential.command(name="list", cls=CredentialCommand)
@click.argument("tenant_id", metavar="TENANT")
@told
def list_(invocation: Invocation, tenant_id: str) -> None:
    """List the credentials that a tenant has, without their secrets."""
    credentials = invocation.ask(lambda api: api.get_all(at("v1", "tenants", tenant_id, "credentials")))

    def show() -> None:
        if credentials["data"]:
            tty.table({"provider": "provider", "fields": "fields", "created_at": "since"}, credentials["data"])
        else:
            tty.hint(
                "This tenant has no credential of its own: its calls go out with the platform's. "
                f"Give it one: tollkeeper credential set {tty.plain(tenant_id)} PROVIDER"
            )

    invocation.answer(credentials, show)


@credential.command(cls=CredentialCommand)
@click.argument("tenant_id", metavar="TENANT")
@click.argument("provider")
@told
def remove(invocation: Invocation, tenant_id: str, provider: str) -> None:
    """Forget a tenant's credential at a provider."""
    invocation.ask(lambda api: api.delete(at("v1", "tenants", tenant_id, "credentials", provider)))
    # With --json nothing is printed: the API answers 204, which has no body.
    if not invocation.as_json:
        print(
            f"The credential is gone: calls of {tty.plain(tenant_id)} to {tty.plain(provider)} go out with the platform's."
        )


def _told_fields(provider: Provider) -> str:
    needed = ", ".join(provider.credential_fields)
    return needed if provider.lists_field is None else f"{needed}; {provider.lists_field} if given with --field"


def _fields_of(provider: str, settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those that a credential must have, and those that it may have."""
    known = {one.name: one for one in settings.known_providers}
    if provider not in known:
        raise Refused("Unknown provider", f"There is no provider {provider}; those there are: {', '.join(known)}.")
    return known[provider].credential_fields, known[provider].every_credential_field


def _values(names: Sequence[str], allowed: Sequence[str], fields: Sequence[str]) -> dict[str, str]:
    """The value of every field: out of its file, or typed; of those that need not be there, what was given."""
    values: dict[str, str] = {}
    for field in fields:
        name, _, place = field.partition("=")
        if name not in allowed:
            # What was given instead is not repeated: it may be the secret itself.
            raise click.UsageError(f"Each --field is NAME=@FILE, and NAME one of: {', '.join(allowed)}.")
        if not place.startswith("@"):
            raise click.UsageError(
                f"Every process of this machine can read a command line: write the secret into a file and give "
                f"--field {name}=@FILE, or leave --field out to be asked."
            )
        values[name] = _checked(
            name, sys.stdin.read().removesuffix("\n") if place == "@-" else _in_file(name, place[1:])
        )
    for name in names:
        if name in values:
            continue
        if not sys.stdin.isatty():
            raise click.UsageError(f"{name} is missing: give --field {name}=@FILE, or run on a terminal to be asked.")
        values[name] = _checked(name, click.prompt(name, hide_input=True))
    return values


def _in_file(name: str, file: str) -> str:
    try:
        return secret_in_file(file)
    except Wrong as error:
        raise Refused("Wrong credential", f"{name} {error.wrong}; {error.cure}.") from error


def _checked(name: str, value: str) -> str:
    try:
        return secret(1)(value).get_secret_value()
    except Wrong as error:
        raise Refused("Wrong credential", f"{name} {error.wrong}; {error.cure}.") from error
