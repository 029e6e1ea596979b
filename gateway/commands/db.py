"""`tollkeeper db`: the ledger's database."""

from __future__ import annotations

import click

from gateway.commands.invocation import Command, Invocation, Refused, told


@click.group()
def db() -> None:
    """Look after the ledger's database."""


@db.command(cls=Command, depends_on=("data_dir", "database_url", "database_migrate_url"))
@told
def upgrade(invocation: Invocation) -> None:
    """Bring the ledger to this release's schema. Stop the server first.

    An empty database needs no upgrade: `serve` sets it up. In Postgres, the role that uses the ledger is granted what it
    needs, which is right after the two roles were parted, too.
    """
    settings = invocation.settings()
    # Imported here: this brings the whole gateway along, and help does without.
    import asyncio  # noqa: PLC0415

    from gateway.office import LedgerInUse  # noqa: PLC0415
    from gateway.office import upgrade as upgraded  # noqa: PLC0415
    from gateway.supervisor import StartRefused  # noqa: PLC0415

    try:
        revision = asyncio.run(upgraded(settings))
    except LedgerInUse as error:
        raise Refused(
            "Ledger in use", f"A server uses the ledger {settings.database_file}; stop it, then upgrade again."
        ) from error
    except StartRefused as error:
        raise Refused("Upgrade refused", str(error)) from error
    invocation.answer({"revision": revision}, lambda: print(f"The ledger is at revision {revision}."))
