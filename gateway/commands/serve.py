"""`tollkeeper serve` and `tollkeeper sandbox`: run the gateway until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from gateway.commands.invocation import SECRETS_NOTE, Command, Invocation, Refused, told, write_settings
from gateway.settings import FLAGS, Settings, described, environment_name

F = TypeVar("F", bound=Callable[..., object])

ROLE_ALL = "all"


class ServeCommand(Command):
    """A command whose help names every setting that its flags do not."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        of_flags = [environment_name(name) for name in FLAGS]
        write_settings(formatter, [row for row in described()[1:] if row.environment_name not in of_flags])
        formatter.write_paragraph()
        formatter.write_text(SECRETS_NOTE)


def settings_flags(function: F) -> F:
    """Give a command the flags that are settings. What they hold is checked with all other settings, in one report."""
    descriptions = {row.environment_name: row for row in described(())}
    for name, flag in reversed(list(FLAGS.items())):
        row = descriptions[environment_name(name)]
        function = click.option(
            flag,
            name.replace(".", "__"),
            metavar=name.rpartition(".")[2].upper(),
            help=f"{row.description}  [env var: {row.environment_name}; default: {row.default}]",
        )(function)
    return click.option(
        "--role",
        type=click.Choice([ROLE_ALL, "proxy", "backoffice"]),
        default=ROLE_ALL,
        show_default=True,
        help="What this process does.",
    )(function)


@click.command(cls=ServeCommand, short_help="Run the gateway: proxy and control API.")
@settings_flags
@told
def serve(invocation: Invocation, /, role: str, **flags: str | None) -> None:
    """Run the gateway: the proxy that applications call, and the control API.

    With --json, log lines are JSON too.
    """
    settings = _settings(invocation, role, flags)
    from gateway import app  # noqa: PLC0415 - brings the whole gateway along

    _run(app.serve, settings)


@click.command(cls=ServeCommand, short_help="Run it before simulated providers: no account needed.")
@settings_flags
@told
def sandbox(invocation: Invocation, /, role: str, **flags: str | None) -> None:
    """Run the gateway in front of simulated providers, with a demo tenant and key: no account needed.

    With --json, log lines are JSON too.
    """
    settings = _settings(invocation, role, flags)
    from gateway.sandbox import sandbox as run_sandbox  # noqa: PLC0415 - brings the whole gateway along

    _run(run_sandbox, settings)


def _settings(invocation: Invocation, role: str, flags: dict[str, str | None]) -> Settings:
    if role != ROLE_ALL:
        raise Refused(
            "Role not available",
            f"--role {role} needs a ledger that several processes can share, and this release keeps its ledger in SQLite; "
            "leave --role out to run everything in one process.",
        )
    given = {name.replace("__", "."): value for name, value in flags.items()}
    if invocation.as_json and given["log_format"] is None:
        given["log_format"] = "json"
    return invocation.settings(given)


def _run(main: Callable[[Settings], Coroutine[Any, Any, None]], settings: Settings) -> None:
    import asyncio  # noqa: PLC0415 - as above

    from gateway.app import StartRefused  # noqa: PLC0415

    try:
        import uvloop  # noqa: PLC0415 - not on Windows, where asyncio's own loop does

        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        loop_factory = None
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main(settings))
    except StartRefused as error:
        raise Refused("Start refused", str(error)) from error
