"""What people see of an answer: tables, facts, money, and text that cannot play tricks on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

ABSENT: Final = "-"
"""Stands for what is not known or does not apply: absent is not zero."""

DECIMALS_MIN: Final = 2

PIPE_WIDTH: Final = 10_000
"""Columns of a table that goes to a file or another program: nothing is folded there."""


def plain(value: object) -> str:
    """Any JSON value in one line of text. Names come from outside, so what would steer a terminal is replaced."""
    if value is None or value in ([], {}, ""):
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(plain(one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{plain(name)}={plain(one)}" for name, one in value.items())
    return "".join(character if character.isprintable() else "�" for character in str(value))


def size(size_bytes: int) -> str:
    """A number of bytes in the unit that leaves it short."""
    if size_bytes < 1 << 10:
        return f"{size_bytes} B"
    scaled, units = size_bytes / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while scaled >= 1000 and len(units) > 1:
        scaled /= 1024
        del units[0]
    return f"{scaled:.1f} {units[0]}"


def span(seconds: float) -> str:
    """A length of time in its largest unit."""
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def table(
    columns: Mapping[str, str],
    rows: Sequence[Mapping[str, object]],
    *,
    right: Iterable[str] = (),
    total: Sequence[str] = (),
) -> None:
    """Print rows under the headings of their columns; `total` is a last row, apart."""
    from rich import box  # noqa: PLC0415 - rich takes a while to import, and JSON does without it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_footer=bool(total))
    totals = total or [""] * len(columns)
    for (name, heading), foot in zip(columns.items(), totals, strict=True):
        justify = "right" if name in right else "left"
        drawn.add_column(Text(heading), footer=Text(foot), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        drawn.add_row(*(Text(plain(row.get(name))) for name in columns))
    _console().print(drawn)


def facts(document: Mapping[str, object]) -> None:
    """Print a document as its names and values, one to a line."""
    width = max(len(name) for name in document)
    for name, value in document.items():
        print(f"{plain(name):<{width}}  {plain(value)}")


def hint(text: str) -> None:
    """Say something to people that is not part of the answer."""
    print(text, file=sys.stderr)


def amounts(moneys: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """Amounts of one column, exact, written with the same number of decimals so that their points stand in line."""
    exact = [None if money is None or money["amount"] is None else Decimal(money["amount"]) for money in moneys]
    decimals = max([DECIMALS_MIN, *(-int(amount.as_tuple().exponent) for amount in exact if amount is not None)])
    written = []
    for money, amount in zip(moneys, exact, strict=True):
        parts = [] if amount is None else [f"{amount:,.{decimals}f}"]
        if money is not None:
            parts += [plain(money["currency"])] if money["currency"] else []
            parts += [f"{plain(money['credits'])} credits"] if money.get("credits") is not None else []
        written.append(" ".join(parts) or ABSENT)
    return written


@contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Shows on a terminal how much of some bytes is done; to whoever reads with a program, nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as drawn:
        task = drawn.add_task(what, total=None)
        yield lambda done, total: drawn.update(task, completed=done, total=total)


@contextmanager
def steps(what: str, *, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """The same for steps of which there is a number, with a word on the last."""
    if quiet or not sys.stderr.isatty():
        yield lambda _done, _total, _word: None
        return
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[word]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as drawn:
        task = drawn.add_task(what, total=None, word="")
        yield lambda done, total, word: drawn.update(task, completed=done, total=total, word=word)


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415 - as above

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)
