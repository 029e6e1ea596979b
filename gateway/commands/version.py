"""`tollkeeper version`: which release this is."""

from __future__ import annotations

import platform

import click

from gateway.commands.invocation import Command, Invocation, told

DISTRIBUTION = "tollkeeper"

NOT_INSTALLED = "0+unknown"
"""The version of a copy of the source that runs without having been installed."""


def installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - a fifth of this command's time

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return NOT_INSTALLED


@click.command(cls=Command, depends_on=())
@told
def version(invocation: Invocation) -> None:
    """Show the version."""
    document = {"product": DISTRIBUTION, "version": installed_version(), "python": platform.python_version()}
    invocation.answer(document, lambda: print(f"{DISTRIBUTION} {document['version']}"))
