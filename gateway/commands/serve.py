"""`tollkeeper serve` and `tollkeeper sandbox`: run the gateway until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gateway.commands.invocation import SECRETS_NOTE, Command, Invocation, Refused, told, write_settings
from gateway.settings import FLAGS, Settings, SettingsError, described, environment_name

if TYPE_CHECKING:
    import asyncio

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

    With Postgres each role has processes of its own: `proxy`, as many workers as the settings say, and `backoffice`, one
    that books, and answers the control API. Both roles of one gateway share its data directory. With --json, log lines
    are JSON too.
    """
    read = partial(_settings, invocation, role, flags)
    settings = read()
    from gateway import app  # noqa: PLC0415 - brings the whole gateway along

    if settings.postgres_url is None:
        _run(partial(app.serve, settings, partial(_again, read)))
    else:
        with _refusing():
            app.supervise(settings, partial(_again, read), role, _loop_factory())


@click.command(cls=ServeCommand, short_help="Run it before simulated providers: no account needed.")
@settings_flags
@told
def sandbox(invocation: Invocation, /, role: str, **flags: str | None) -> None:
    """Run the gateway in front of simulated providers, with a demo tenant and key: no account needed.

    With --json, log lines are JSON too.
    """
    settings = _settings(invocation, role, flags)
    from gateway.sandbox import sandbox as run_sandbox  # noqa: PLC0415 - brings the whole gateway along

    _run(partial(run_sandbox, settings))


def _settings(invocation: Invocation, role: str, flags: dict[str, str | None]) -> Settings:
    given = {name.replace("__", "."): value for name, value in flags.items()}
    if invocation.as_json and given["log_format"] is None:
        given["log_format"] = "json"
    settings = invocation.settings(given)
    if role != ROLE_ALL and settings.postgres_url is None:
        raise Refused(
            "Role not available",
            f"--role {role} needs a ledger that several processes can share, and SQLite has one process: leave --role out, "
            "or give a Postgres database in TOLLKEEPER_DATABASE_URL.",
        )
    return settings


def _again(read: Callable[[], Settings]) -> Settings:
    """The settings as they are given now. What would be no start with them is no reload."""
    from gateway.supervisor import ReloadRefused  # noqa: PLC0415 - as above

    try:
        return read()
    except Refused as error:
        problems = error.__cause__.problems if isinstance(error.__cause__, SettingsError) else [error]
        raise ReloadRefused([str(problem) for problem in problems]) from error
    except Exception as error:
        # Whatever it is, it must not end a gateway that runs.
        raise ReloadRefused([f"the settings can not be read: {type(error).__name__}."]) from error


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    import asyncio  # noqa: PLC0415 - as above

    with _refusing(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on Windows, where asyncio's own loop does
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@contextmanager
def _refusing() -> Iterator[None]:
    """What keeps the gateway from starting, as a refusal of the command."""
    from gateway.supervisor import EndedBadly, StartRefused  # noqa: PLC0415 - as above

    try:
        yield
    except StartRefused as error:
        raise Refused("Start refused", str(error)) from error
    except EndedBadly as error:
        raise Refused("Ended badly", str(error)) from error
