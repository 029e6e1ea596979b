"""What all commands share: how one is told what it needs, answers, and refuses."""

from __future__ import annotations

import datetime as dt
import functools
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar
from urllib.parse import quote

import click

from gateway.commands import tty

if TYPE_CHECKING:
    from gateway.control_client import ControlApi
    from gateway.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

CONTROL_SETTINGS: Final = ("data_dir", "control.host", "control.port", "secret_key")
"""What decides which installation a command talks to."""

SECRETS_NOTE: Final = "A secret may also be in a file, which the same name with _FILE at its end names."


class Refused(Exception):
    """A command that cannot be done: a sentence that says why, and the cure. Exit code 1."""

    def __init__(self, title: str, detail: str, **others: object) -> None:
        super().__init__(detail)
        self.document = {"title": title, "detail": detail, **others}
        """What `--json` shows, in the shape of the control API's own errors."""


def print_error(refusal: Refused, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(refusal.document, indent=2, ensure_ascii=False), file=sys.stderr)
    else:
        for line in f"tollkeeper: {refusal}".splitlines():
            print(tty.plain(line), file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of a command: where its settings come from, and whom it answers."""

    config_file: Path | None
    as_json: bool

    def settings(self, flags: Mapping[str, object] | None = None) -> Settings:
        """The settings in force, or Refused with everything that is wrong with them."""
        from gateway.settings import SettingsError, load_settings  # noqa: PLC0415 - not needed for help

        try:
            return load_settings(os.environ, flags or {}, self.config_file)
        except SettingsError as error:
            count = len(error.problems)
            sentence = "One setting is wrong:" if count == 1 else f"{count} settings are wrong:"
            raise Refused(
                "Wrong settings",
                "\n  ".join([sentence, *map(str, error.problems)]),
                problems=[problem._asdict() for problem in error.problems],
            ) from error

    def ask(self, question: Callable[[ControlApi], Awaitable[T]]) -> T:
        """What the control API answers, or Refused with what it said instead."""
        settings = self.settings()
        # Imported here because `version` and help answer in the time that these would take.
        import asyncio  # noqa: PLC0415

        from gateway.control_client import ControlError, ControlUnreachable, control_api  # noqa: PLC0415

        async def answer() -> T:
            async with control_api(settings) as api:
                return await question(api)

        try:
            return asyncio.run(answer())
        except ControlError as error:
            raise Refused(error.title, error.detail, status=error.status) from error
        except ControlUnreachable as error:
            raise Refused("Control API unreachable", str(error)) from error

    def answer(self, document: object, show: Callable[[], object]) -> None:
        """Give the answer: the document itself to programs, what `show` makes of it to people."""
        if self.as_json:
            print(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            show()


def at(*segments: str) -> str:
    """A path of the control API out of segments, of which any may be an id with any characters in it."""
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


class Command(click.Command):
    """A command whose help also names the settings that it depends on."""

    def __init__(self, *args: Any, depends_on: Sequence[str] = CONTROL_SETTINGS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.depends_on = depends_on

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from gateway.settings import described, environment_name  # noqa: PLC0415 - only help needs them

        wanted = [environment_name(name) for name in self.depends_on]
        if wanted:
            write_settings(formatter, [row for row in described(()) if row.environment_name in wanted])
        super().format_epilog(ctx, formatter)


def write_settings(formatter: click.HelpFormatter, rows: Sequence[tuple[str, str, str]]) -> None:
    """Write settings, as :func:`gateway.settings.described` describes them, into a command's help."""
    with formatter.section("Environment"):
        for name, default, description in rows:
            formatter.write_text(name)
            with formatter.indentation(), formatter.indentation():
                formatter.write_text(f"{description}  [default: {default}]")


def config_option(function: Callable[P, T]) -> Callable[P, T]:
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings file.  [env var: TOLLKEEPER_CONFIG; default: tollkeeper.toml, if it is there]",
    )(function)


def told(function: Callable[Concatenate[Invocation, P], T]) -> Callable[P, T]:
    """Give a command `--json` and `--config`, and what they make as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Answer as JSON on stdout, errors as JSON on stderr.")
    @config_option
    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> T:
        config_file, as_json = kwargs.pop("config_file"), kwargs.pop("as_json")
        if config_file is None:
            config_file = click.get_current_context().find_root().obj
        assert config_file is None or isinstance(config_file, Path)
        return function(Invocation(config_file, as_json=bool(as_json)), *args, **kwargs)

    return command


class Moment(click.ParamType[str]):
    """A date or a timestamp, in UTC unless it says otherwise; becomes a timestamp as the control API takes it."""

    name = "date or timestamp"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            moment = dt.datetime.fromisoformat(value)
            moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is neither a date like 2026-11-20 nor a timestamp like 2026-11-20T12:00:00Z.", param, ctx
            )
        return moment.isoformat().replace("+00:00", "Z")


MOMENT: Final = Moment()
