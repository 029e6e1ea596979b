"""`tollkeeper …`: the commands by name, and the one place where a command's failure becomes a sentence and an exit code.

Exit codes: 0, done; 1, refused, with the reason and the cure on stderr; 2, not understood; 130, interrupted.

Commands are imported when they are called, and they import what is heavy when they need it: `version` and `--help`
answer before the gateway's own modules would be read.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from gateway.commands.invocation import CONTEXT, Refused, config_option, print_error

COMMANDS: Final[Mapping[str, Mapping[str, str]]] = {
    "Run": {
        "serve": "gateway.commands.serve:serve",
        "sandbox": "gateway.commands.serve:sandbox",
        "db": "gateway.commands.db:db",
    },
    "Who may call": {
        "tenant": "gateway.commands.tenant:tenant",
        "key": "gateway.commands.key:key",
        "credential": "gateway.commands.credential:credential",
        "integration": "gateway.commands.integration:integration",
        "twilio": "gateway.commands.twilio:twilio",
    },
    "What was used": {
        "usage": "gateway.commands.usage:usage",
        "backfill": "gateway.commands.backfill:backfill",
        "reconcile": "gateway.commands.reconcile:reconcile",
        "import": "gateway.commands.import_:import_",
    },
    "This installation": {
        "spool": "gateway.commands.spool:spool",
        "config": "gateway.commands.config:config",
        "version": "gateway.commands.version:version",
    },
}
"""Every command under the heading that `--help` shows it under: name → where it is."""

PROGRAM: Final = "tollkeeper"

EXIT_REFUSED: Final = 1
EXIT_INTERRUPTED: Final = 130
"""What shells give for a program that SIGINT ended."""


class Root(click.Group):
    """The root command: finds the others, and has the last word on how they end."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for group in COMMANDS.values() for name in group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for group in COMMANDS.values():
            if place := group.get(cmd_name):
                module, _, attribute = place.partition(":")
                command: click.Command = getattr(importlib.import_module(module), attribute)
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names_width = max(len(name) for name in self.list_commands(ctx))
        for heading, group in COMMANDS.items():
            with formatter.section(heading):
                commands = ((name, self.get_command(ctx, name)) for name in group)
                formatter.write_dl(
                    [
                        (f"{name:<{names_width}}", command.get_short_help_str(90))
                        for name, command in commands
                        if command
                    ]
                )

    def main(  # type: ignore[override]  # every way out is an exit here
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run, and exit. Whatever happens, people get a sentence and programs, with `--json`, a document."""
        arguments = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in arguments
        code: object = 0
        try:
            code = super().main(arguments, prog_name or PROGRAM, **{**extra, "standalone_mode": False})
        except Refused as refusal:
            code = EXIT_REFUSED
            print_error(refusal, as_json=as_json)
        except click.ClickException as error:
            code = error.exit_code
            if as_json:
                print_error(Refused("Usage", f"{error.format_message().rstrip('.')}. See --help."), as_json=True)
            else:
                error.show()
        except (click.Abort, KeyboardInterrupt):
            code = EXIT_INTERRUPTED
        except OSError as error:
            code = EXIT_REFUSED
            what = f"{error.strerror or type(error).__name__}: {error.filename or 'no file'}"
            print_error(
                Refused("System error", f"The system refused ({what}). Correct that and try again."), as_json=as_json
            )
        except Exception as error:  # noqa: BLE001 - the last resort, which says where to look and leaves out what may be secret
            import traceback  # noqa: PLC0415 - needed here alone

            code = EXIT_REFUSED
            if "--traceback" in arguments:
                traceback.print_exc()
            place = traceback.extract_tb(error.__traceback__)[-1]
            print_error(
                Refused(
                    "Fault",
                    f"A fault in Tollkeeper: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}. "
                    "Please report it; `tollkeeper --traceback …` shows more.",
                ),
                as_json=as_json,
            )
        sys.exit(code if isinstance(code, int) else 0)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's signature
    if wanted and not ctx.resilient_parsing:
        from gateway.release import installed_version  # noqa: PLC0415

        click.echo(f"tollkeeper {installed_version()}")
        ctx.exit()


@click.group(name=PROGRAM, cls=Root, context_settings=CONTEXT, invoke_without_command=True)
@config_option
@click.option("--traceback", is_flag=True, expose_value=False, help="Show where a fault in Tollkeeper itself arose.")
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version."
)
@click.pass_context
def cli(ctx: click.Context, config_file: Path | None) -> None:
    """Tollkeeper, a metering gateway: it forwards calls to API providers and keeps an exact ledger of their use.

    Start with `tollkeeper sandbox`, which needs no account anywhere, or with `tollkeeper serve`. Settings come from
    tollkeeper.toml and the environment; `tollkeeper config show` lists them.
    """
    ctx.obj = config_file
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
