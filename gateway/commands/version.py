"""`tollkeeper version`: which release this is, and in which form."""

from __future__ import annotations

import platform

import click

from gateway.commands.invocation import Command, Invocation, told
from gateway.release import DISTRIBUTION, installed_version, is_compiled


@click.command(cls=Command, depends_on=())
@told
def version(invocation: Invocation) -> None:
    """Show the version."""
    compiled = is_compiled()
    document = {
        "product": DISTRIBUTION,
        "version": installed_version(),
        "python": platform.python_version(),
        "compiled": compiled,
    }
    form = "compiled" if compiled else "from source"
    invocation.answer(document, lambda: print(f"{DISTRIBUTION} {document['version']} ({form})"))
