"""`tollkeeper config`: what the settings are, where each came from, and whether they can be used."""

from __future__ import annotations

import click

from gateway.commands import tty
from gateway.commands.invocation import SECRETS_NOTE, Invocation, Refused, told
from gateway.settings import Origin, Settings, described, written


class ConfigCommand(click.Command):
    """A command that depends on all settings, and whose answer names them."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Environment"):
            formatter.write_text(", ".join(row.environment_name for row in described()))
            formatter.write_text(SECRETS_NOTE)


@click.group()
def config() -> None:
    """Look at the settings."""


@config.command(cls=ConfigCommand)
@told
def check(invocation: Invocation) -> None:
    """Check the settings, and report all problems with them at once."""
    settings = invocation.settings()
    if any(provider.list_prices or provider.prices for provider in settings.providers.values()):
        _check_prices(settings)
    document: dict[str, object] = {"ok": True, "config_file": _config_file(settings), "problems": []}
    invocation.answer(document, lambda: print(f"The settings are in order ({_sources(settings)})."))


@config.command(cls=ConfigCommand)
@told
def show(invocation: Invocation) -> None:
    """Show every setting, its value and where that came from. Secrets show as ***."""
    settings = invocation.settings()
    document = {
        "config_file": _config_file(settings),
        "settings": [row._asdict() for row in settings.resolved],
    }

    def table() -> None:
        further = [name for name, provider in settings.providers.items() if provider.kind is not None]
        names = {row.environment_name: row.default for row in described(further=further)}
        rows = [
            {
                "name": row.environment_name,
                "value": f"({names[row.environment_name]})" if row.value is None else written(row.value),
                "origin": f"file {settings.config_file}" if row.origin is Origin.FILE else row.origin,
            }
            for row in settings.resolved
        ]
        tty.table({"name": "setting", "value": "value", "origin": "from"}, rows)

    invocation.answer(document, table)


def _check_prices(settings: Settings) -> None:
    from gateway.books import books_of  # noqa: PLC0415 - a large import, and most settings name no prices
    from pricing.book_files import BookError  # noqa: PLC0415

    try:
        books_of(settings)
    except BookError as error:
        raise Refused("Wrong prices", "\n  ".join(["The prices can not be used:", *error.problems])) from error


def _config_file(settings: Settings) -> str | None:
    return None if settings.config_file is None else str(settings.config_file)


def _sources(settings: Settings) -> str:
    origins = [row.origin for row in settings.resolved]
    counts = [
        f"{origins.count(origin)} from {place}"
        for origin, place in (
            (Origin.FILE, settings.config_file),
            (Origin.ENVIRONMENT, "the environment"),
            (Origin.DEFAULT, "defaults"),
        )
        if origin in origins
    ]
    return ", ".join(counts)
