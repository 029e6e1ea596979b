"""What a metered call costs, beside proxies that meter nothing: `make bench`.

CPU time by the operating system's accounting, of every process of a candidate, for one chat completion of 1 kB and for
one relayed event of a stream; latency at a fixed rate; start; memory. All candidates run in one go, in turns, so that the
ratios hold where the figures do not.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from tests.bench import profile, report
from tests.bench.candidates import (
    CANDIDATES,
    CHAT,
    DIRECT,
    HELD,
    INGEST,
    OUTAGES,
    POSTGRES,
    RATE,
    SQLITE,
    STREAM,
    TWO_WORKERS,
)
from tests.bench.measuring import CONNECTIONS, INGEST_EVENTS, Ingested, Sample, Weight, ingested, sample, weights
from tests.bench.outages import Outage, outages
from tests.bench.processes import Failed, held, rss_mib, tree, tree_rss_mib
from tests.bench.recipes import Missing, Running, running
from tests.bench.report import ALL, Measured
from tests.bench.world import World, standing

SAMPLE_CPU_S = 2.0
"""What a sample is to cost: enough that how it begins and ends does not count."""

SAMPLE_WALL_S_MAX = 2.0
"""A sample does not take longer than about this, so that the whole run stays below four minutes."""

QUICK = 4
"""`--quick` divides samples by so much, and heavy jobs by its square."""

STARTS = 3
LONG_START_S = 4
"""What takes longer to start is started once."""

FIRST_STREAMS = 64

TABLE_CHARACTERS = 132
"""Where the terminal is narrower, or there is none, its lines are broken rather than its figures."""


class Run:
    """Everything that is started, what it has answered, and what was found."""

    def __init__(self, given: argparse.Namespace, world: World, directory: Path, ends: ExitStack) -> None:
        self._given = given
        self._world = world
        self._directory = directory
        self._status = Console(stderr=True)
        self.measured = {name: Measured(name) for name in CANDIDATES if not given.only or name in given.only}
        self.rate: float | None = None
        self._ends = {name: ends.enter_context(ExitStack()) for name in self.measured}
        self._running: dict[str, Running] = {}
        self._answered = dict.fromkeys(self.measured, 0)
        self._needed: dict[tuple[str, str], int] = {}

    def tell(self, what: str) -> None:
        self._status.print(f"[dim]{what}", highlight=False)

    def start(self, name: str) -> None:
        """Prepare a candidate, start it a few times, and leave it running."""
        one, own = self.measured[name], self._directory / name
        own.mkdir()
        with one.failing():
            self.tell(f"{name} starts")
            try:
                recipe = CANDIDATES[name].prepare(own, self._world)
            except Missing as how:
                one.skipped = str(how)
                return
            one.version = recipe.version
            for _ in range(1 if self._given.quick else STARTS):
                self._ends[name].close()
                found = self._ends[name].enter_context(running(recipe, own / "output"))
                if found.start_s is None:
                    break
                self._answered[name] += 1
                one.starts_s.append(found.start_s)
                if found.start_s > LONG_START_S:
                    break
            time.sleep(0.5)
            one.rss_rest_mib = _memory(found)
            self._running[name] = found

    def turn(self, number: int) -> None:
        """One sample of each kind of work of each candidate. The first turn warms up, and tells how many calls fit."""
        names = [name for name in self._running if self.measured[name].failed is None]
        # Another one begins each turn, so that none always follows the same neighbour.
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            with self.measured[name].failing():
                for work in CANDIDATES[name].works:
                    if work in (RATE, HELD) and self.rate is None:
                        continue
                    self.tell(f"round {number} of {self._given.rounds}: {name}, {work}")
                    if number:
                        self.measured[name].samples.append(self._sample(name, work, self._needed[name, work]))
                    elif work not in (RATE, HELD):
                        calls = FIRST_STREAMS if work == STREAM else CANDIDATES[name].first_calls
                        found = self._sample(name, work, calls)
                        self._needed[name, work] = self._enough(found, paid=name != DIRECT)

    def settle_rate(self, name: str) -> None:
        """Half of this gateway's own peak is what the latency of all is measured at: of what is answered and booked."""
        if name not in self._running or self.measured[name].failed is not None:
            return
        with self.measured[name].failing():
            found = self._sample(name, CHAT, self._needed[name, CHAT])
            self.rate = max(10.0, round(found.calls / (found.wall_s + found.settle_s) / 2, -1))
            calls = int(self.rate * self._sample_wall_s_max)
            self._needed |= {(other, work): calls for other in self.measured for work in (RATE, HELD)}

    def finish(self) -> None:
        """End what runs, and check what is to be there of its calls."""
        for name, found in self._running.items():
            one = self.measured[name]
            if one.failed is None:
                with one.failing():
                    one.rss_after_mib = _memory(found)
                    self.tell(f"{name} ends")
                    self._ends[name].close()
                    found.recipe.verify(self._answered[name])

    def heavy(self, name: str) -> list[Weight]:
        """What weighs on memory."""

        @contextmanager
        def fresh(job: str) -> Iterator[Running]:
            own = self._directory / f"heavy-{job.replace(', ', '-')}"
            own.mkdir()
            with running(CANDIDATES[name].prepare(own, self._world), own / "output") as found:
                yield found

        scale = QUICK * QUICK if self._given.quick else 1
        return list(weights(fresh, self._world, scale=scale, tell=self.tell))

    def ingest(self) -> list[Ingested]:
        """How fast the ledger takes events, once for each round."""
        events = INGEST_EVENTS // (QUICK * QUICK if self._given.quick else 1)
        found = []
        for number in range(1, self._given.rounds + 1):
            self.tell(f"round {number} of {self._given.rounds}: {INGEST}")
            own = self._directory / f"{INGEST}-{number}"
            found.append(ingested(own, self._world, events))
            shutil.rmtree(own)
        return found

    def outages(self) -> list[Outage]:
        """What callers notice of outages of the ledger's database."""
        own = self._directory / OUTAGES
        own.mkdir()
        scale = QUICK if self._given.quick else 1
        return list(outages(own, self._world, scale=scale, rounds=self._given.rounds, tell=self.tell))

    @property
    def _sample_wall_s_max(self) -> float:
        return SAMPLE_WALL_S_MAX / (QUICK if self._given.quick else 1)

    def _sample(self, name: str, work: str, calls: int) -> Sample:
        # Even at rest a process looks after something now and then, and calls wait for it.
        others = [one.pid for other, one in self._running.items() if other not in (name, DIRECT)]
        with held([process.pid for pid in others for process in tree(pid)]):
            found = sample(work, calls, self._running[name], self._answered[name], self._world, rate=self.rate)
        self._answered[name] += calls
        return found

    def _enough(self, found: Sample, *, paid: bool) -> int:
        """How many calls the next samples are to have, by what one cost."""
        fit = int(self._sample_wall_s_max / (found.wall_s / found.calls))
        if not paid:
            return max(CONNECTIONS, fit // 2)  # Nothing is compared with its CPU time.
        quick = QUICK if self._given.quick else 1
        return max(CONNECTIONS, min(fit, round(SAMPLE_CPU_S / quick / (found.cpu_s / found.calls))))


def _memory(found: Running) -> dict[str, float]:
    """Resident, of one process of each kind (the largest), and of all together."""
    kinds = {kind: max(rss_mib([pid]) for pid in pids) for kind, pids in found.kinds.items()}
    return {ALL: tree_rss_mib(found.pid), **kinds}


def measure(given: argparse.Namespace) -> tuple[Run, list[Weight], list[Ingested], list[Outage]]:
    """Start everything, measure in turns, end everything. Raises Failed."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollkeeper-bench-")))
        world = stack.enter_context(standing(directory))
        run = Run(given, world, directory, stack)
        for name in run.measured:
            run.start(name)
        # First, while there is nothing that the machine would rather do.
        rates = run.ingest() if given.heavy or INGEST in (given.only or ()) else []
        away = run.outages() if given.heavy or OUTAGES in (given.only or ()) else []
        run.turn(0)
        for name in (POSTGRES, TWO_WORKERS, SQLITE):
            if run.rate is None and name in run.measured:
                run.settle_rate(name)
        for number in range(1, given.rounds + 1):
            run.turn(number)
        run.finish()
        return run, run.heavy(POSTGRES) if given.heavy else [], rates, away


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, help="samples of each candidate (default: 3; with --quick, 1)")
    parser.add_argument("--quick", action="store_true", help="small samples: to see that it works, not what it costs")
    parser.add_argument(
        "--heavy",
        action="store_true",
        help="also 1 GiB up and down, 10,000 connections, 1,000,000 calls, ingest, outages (about 10 minutes more)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write method, figures and samples there as well")
    parser.add_argument(
        "--only", action="append", choices=[*CANDIDATES, INGEST, OUTAGES], help="measure only this; may be repeated"
    )
    parser.add_argument(
        "--profile", action="store_true", help="measure nothing: show where one worker and the back office spend time"
    )
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick else 3)
    if given.rounds < 1:
        parser.error("rounds begin at 1")

    def stop(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    # Ten thousand connections are as many open files, in the gateway too, which inherits the limit.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    console = Console()
    console = Console(width=max(console.width, TABLE_CHARACTERS))
    began = time.monotonic()
    try:
        if given.profile:
            profile.show(console, seconds=5 if given.quick else 20)
            return 0
        run, heavy, rates, away = measure(given)
    except Failed as error:
        parser.exit(1, f"{error}\n")
    method = report.method(given, run.rate, time.monotonic() - began)
    report.show(console, method, run.measured, heavy, rates, away)
    if given.json is not None:
        found = report.as_json(method, run.measured, heavy, rates, away)
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(any(one.failed is not None for one in run.measured.values()) or any(one.failed for one in heavy))


if __name__ == "__main__":
    sys.exit(main())
