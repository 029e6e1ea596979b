"""Kill processes of the gateway for as long as asked, and hold the ledger against clients and providers: `make chaos`.

Each installation is under load while some 20 kills happen in it, half of them at named points, each of which has its turn.
Then everything settles and is compared. Exit status 1 if anything was wrong; the same seed kills the same again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, repeat
from pathlib import Path
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests import postgres
from tests.chaos.oracle import Figures
from tests.chaos.points import BOTH, POINTS
from tests.chaos.run import VARIANTS, Kill, Killed, Standing, Variant, plan, points_of
from tests.walks.harness import on_postgres

KILLS_EACH = 20
"""In one installation."""

MINUTES_MAX = 60

PROBLEMS_SHOWN = 10


def plans(seed: int, kills: int, engines: Sequence[str]) -> Iterator[tuple[int, Variant, list[Kill]]]:
    """The installations, one kind after the other: the seed of each, and what is killed in it."""
    variants = [variant for variant in VARIANTS if variant.engine in engines]
    turns = {variant: in_turns(f"{seed} {variant}", points_of(variant)) for variant in variants}
    for number, variant in enumerate(chain.from_iterable(repeat(variants))):
        count = min(KILLS_EACH, kills - number * KILLS_EACH)
        if count <= 0:
            return
        own = seed * 1000 + number
        at_points = list(dict.fromkeys(next(turns[variant]) for _ in range((count + 1) // 2)))
        yield own, variant, plan(own, variant, at_points, count - len(at_points))


def in_turns(seed: str, names: list[str]) -> Iterator[str]:
    """All of them in some order, again and again in another one."""
    dice = random.Random(seed)
    while True:
        yield from dice.sample(names, len(names))


class Report:
    """What was found so far."""

    def __init__(self) -> None:
        self.console = Console(width=120)
        self.killed: list[Killed] = []
        self.figures: list[Figures] = []
        self.wrong = 0

    def carry_out(self, seed: int, variant: Variant, kills: Sequence[Kill], database: Mapping[str, str]) -> None:
        """Stand up one installation, kill in it, and compare; where something is wrong, its directory stays."""
        directory = Path(tempfile.mkdtemp(prefix="tollkeeper-chaos-"))
        standing = Standing(directory, variant, seed, database, tell=self._tell)
        try:
            verdict = asyncio.run(standing.run(kills))
        except (AssertionError, TimeoutError) as error:
            problems = [f"after {len(standing.killed)} kills: {type(error).__name__}: {error}"]
        else:
            problems = verdict.problems
            self.figures.append(verdict.figures)
        self.killed += standing.killed
        if not problems:
            shutil.rmtree(directory)
            return
        self.wrong += len(problems)
        self.console.print(f"[red]{len(problems)} problems[/], kept in {directory}:", highlight=False)
        for problem in problems[:PROBLEMS_SHOWN]:
            self.console.print(problem, markup=False, highlight=False)

    def _tell(self, line: str) -> None:
        self.console.print(f"[dim]{time.strftime('%H:%M:%S')}  {line}", highlight=False)

    def show(self) -> None:
        table = Table("killed", "times", "served again after, median", "at most", box=SIMPLE_HEAD)
        names = [one.kill.what for one in self.killed]
        for name in sorted(
            set(names), key=lambda name: (name in POINTS, [*POINTS].index(name) if name in POINTS else 0)
        ):
            times = [one.serving_s for one in self.killed if one.kill.what == name]
            table.add_row(name, str(len(times)), f"{median(times):.2f} s", f"{max(times):.2f} s")
        self.console.print(table)
        compared = {name: sum(getattr(figures, name) for figures in self.figures) for name in Figures._fields}
        self.console.print(
            f"{len(self.killed)} kills, at {len(set(names) & set(POINTS))} of {len(POINTS)} points; "
            + ", ".join(f"{count} {name}" for name, count in compared.items())
            + f"; {self.wrong} wrong",
            highlight=False,
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="default: another one each time")
    parser.add_argument("--engine", choices=[*BOTH, "both"], default="both")
    parser.add_argument("--only", type=int, metavar="N", help="of the installations, the one of this number alone")
    given = parser.parse_args()
    engines = BOTH if given.engine == "both" else (given.engine,)
    report, began = Report(), time.monotonic()
    with ExitStack() as stack:
        server = stack.enter_context(postgres.running()) if "postgres" in engines else None
        for number, (seed, variant, kills) in enumerate(plans(given.seed, given.kills, engines)):
            if given.only not in (None, number):
                continue
            if time.monotonic() - began > MINUTES_MAX * 60:
                report.console.print(f"stopped after {MINUTES_MAX} minutes")
                report.wrong += 1
                break
            replay = f"--seed {given.seed} --kills {given.kills} --engine {given.engine} --only {number}"
            report.console.print(f"{variant}: {len(kills)} kills ({replay})", highlight=False)
            database = on_postgres(server) if variant.engine == "postgres" and server is not None else {}
            report.carry_out(seed, variant, kills, database)
    report.show()
    return int(report.wrong > 0 or not report.killed)


if __name__ == "__main__":
    sys.exit(main())
