"""One installation under load, in which one process after the other is killed, and what is left of it in the end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tests.chaos import gateway as launcher
from tests.chaos import oracle, points
from tests.chaos.load import Load
from tests.chaos.oracle import Figures
from tests.chaos.points import OFFICE, POINTS, Comes
from tests.walks.harness import (
    REPOSITORY,
    Answered,
    Installation,
    Process,
    gateway_process,
    simulated,
    simulator_process,
)

SERVING_S_MAX = 30
"""So long it may take to serve again where eight processes want each processor (13 s were seen there); the promise is 5 s,
and 1 or 2 are usual."""

PATIENCE_S = 60
"""How long anything else may take; unknown calls are to be in the ledger by then, too."""

SEGMENT_BYTES = {"sqlite": 4 << 20, "postgres": 3 << 20}
"""Room for 200 calls under way, and for so few more that there is a new segment every few seconds."""

WORKERS = 2
ROLES = (OFFICE, *(f"worker-{number}" for number in range(WORKERS)))

ALARMS = (
    "call_failed",
    "event_conflict",
    "event_not_bookable",
    "process_failed",
    "process_gave_up",
    "record_not_bookable",
    "records_missing",
    "shipper_failed",
    "spool_damaged",
    "spool_not_discarded",
    "spool_unreadable",
    "usage_not_recorded",
)
"""What the log never says where processes are killed, and nothing else is wrong."""


class Variant(NamedTuple):
    """What kind of installation."""

    engine: str
    """`sqlite` is one process, `postgres` several."""
    fsync: bool
    """With it, records are synced, and spools are discarded once they are booked. Without it nothing is ever discarded, and
    everything is read and booked again after each kill: how far spools were read is then not kept."""

    def __str__(self) -> str:
        return f"{self.engine}-{'fsync' if self.fsync else 'flush'}"


VARIANTS = tuple(Variant(engine, fsync) for engine in points.BOTH for fsync in (False, True))


class Kill(NamedTuple):
    """One kill: of whom, or at which point."""

    what: str
    """`worker`, `office`, `group`, `one`, or the name of a point."""
    after_s: float
    """How long the load goes on before it."""
    passage: int = 1
    """At a point: the passage at which the process dies."""


class Killed(NamedTuple):
    """What became of one."""

    kill: Kill
    serving_s: float
    """How long it took until calls were served by as many processes as before."""


class Verdict(NamedTuple):
    """What an installation has shown."""

    killed: list[Killed]
    problems: list[str]
    figures: Figures


def shares(seed: int) -> dict[Variant, list[str]]:
    """Every point once, spread over installations of each kind."""
    dice = random.Random(f"{seed} shares")
    spread: dict[Variant, list[str]] = {variant: [] for variant in VARIANTS}
    for name in sorted(POINTS, key=lambda name: (POINTS[name].engines == points.BOTH and not POINTS[name].fsync, name)):
        fitting = [variant for variant in VARIANTS if name in points_of(variant)]
        fewest = min(len(spread[variant]) for variant in fitting)
        spread[dice.choice([variant for variant in fitting if len(spread[variant]) == fewest])].append(name)
    return spread


def plan(seed: int, variant: Variant, at_points: Sequence[str], at_random: int) -> list[Kill]:
    """What is killed in one installation, in which order: first what dies at the first start."""
    dice = random.Random(f"{seed} {variant}")
    kinds = ("one",) if variant.engine == "sqlite" else ("worker", "office", "group")
    what = [*at_points, *(kinds[number % len(kinds)] for number in range(at_random))]
    dice.shuffle(what)
    what.sort(key=lambda name: name not in POINTS or POINTS[name].comes is not Comes.FIRST)  # There is one at most.
    return [
        Kill(name, dice.uniform(0.1, 1.0), dice.randint(1, POINTS[name].passages_max) if name in POINTS else 1)
        for name in what
    ]


def points_of(variant: Variant) -> list[str]:
    """The points that such an installation passes."""
    return [
        name for name, point in POINTS.items() if variant.engine in point.engines and (variant.fsync or not point.fsync)
    ]


class Mortal(Process):
    """A gateway that is started again and again, in a process group of its own."""

    def start(self) -> None:
        self.popen = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        self.reading = threading.Thread(target=self._read, args=(self.popen, self.lines), daemon=True)
        self.reading.start()

    @property
    def ended(self) -> bool:
        assert self.popen is not None
        return self.popen.poll() is not None

    def kill_group(self) -> None:
        assert self.popen is not None
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(PATIENCE_S)


@dataclass
class Standing:
    """An installation, and whoever kills in it."""

    directory: Path
    variant: Variant
    seed: int
    database: Mapping[str, str]
    """The settings that say where its database is, and how many workers it has."""
    tell: Callable[[str], object] = lambda _: None
    """Told of each kill."""
    killed: list[Killed] = field(default_factory=list)
    said: list[list[str]] = field(default_factory=list)
    """The lines of the log, of each life; of the last ones, lines may still come."""
    load: Load | None = None

    async def run(self, kills: Sequence[Kill]) -> Verdict:
        """Kill these, let everything settle, stop, and compare."""
        for name in (points.ORDERS, points.TAKEN, launcher.BEGUN, launcher.READY):
            (self.directory / name).mkdir()
        simulator = simulator_process(self.directory / "truth.jsonl")
        simulator.start()
        try:
            return await self._run(kills, simulator)
        finally:
            simulator.stop()

    async def _run(self, kills: Sequence[Kill], simulator: Process) -> Verdict:
        providers = simulated(simulator)
        process = gateway_process(
            self.directory / "data",
            providers,
            durability="fsync" if self.variant.fsync else "flush",
            control__port=str(free_port(self.seed)),
            **self.database,
        )
        process.environment |= {
            launcher.DIRECTORY: str(self.directory),
            launcher.SEGMENT_BYTES: str(SEGMENT_BYTES[self.variant.engine]),
            launcher.FORGETS: "" if self.variant.fsync else "yes",
        }
        self.gateway = Mortal([sys.executable, "-m", "tests.chaos.gateway", "serve"], process.environment)
        self.installation = Installation(self.directory, simulator, self.gateway, providers)
        try:
            return await self._killing(kills)
        finally:
            if self.gateway.popen is not None and not self.gateway.ended:
                self.gateway.kill_group()

    async def _killing(self, kills: Sequence[Kill]) -> Verdict:
        first = [kill for kill in kills[:1] if self._comes(kill) is Comes.FIRST]
        for kill in first:
            points.give_order(self.directory, kill.what, kill.passage)
        self._start()
        for kill in first:
            died = await self._dies_at(kill.what)
            await self._up()
            self._note(kill, time.monotonic() - died)
        await self._up()
        key = await asyncio.to_thread(self.installation.tenant, "acme", plan="starter")
        account = await asyncio.to_thread(self.installation.account_sid, "acme")
        load = self.load = Load(self.seed, lambda: self.installation.proxy_url, key, account)
        calling = asyncio.create_task(load.run())
        try:
            for kill in kills[len(first) :]:
                await asyncio.sleep(kill.after_s)
                died = await self._kill(kill)
                load.kills += 1
                async with asyncio.timeout(PATIENCE_S):
                    await self._up()
                    self._note(kill, await load.serving() - died)
                assert not calling.done(), "the load has ended by itself"
        finally:
            load.stop()
            await calling
        return await asyncio.to_thread(self._settled, load)

    def _note(self, kill: Kill, serving_s: float) -> None:
        self.killed.append(Killed(kill, serving_s))
        self.tell(f"{len(self.killed)} {kill.what}: serving again after {serving_s:.2f} s")

    # -- killing

    @staticmethod
    def _comes(kill: Kill) -> Comes | None:
        """How its point is brought about; None for a kill at random."""
        return POINTS[kill.what].comes if kill.what in POINTS else None

    async def _kill(self, kill: Kill) -> float:
        """Kill, and return when."""
        point = POINTS.get(kill.what)
        if point is None:
            return await self._kill_some(kill.what)
        points.give_order(self.directory, kill.what, kill.passage)
        if point.comes is Comes.AFTER_A_KILL:
            await self._kill_some("one" if self.variant.engine == "sqlite" else point.kill)
        elif point.comes is Comes.AT_STOP:
            self.gateway.popen.terminate()
        elif point.comes is Comes.WITH_A_CHANGE:
            # Whoever asked does not know whether it was done.
            with suppress(OSError, HTTPException, Answered):
                await asyncio.to_thread(self.installation.key, "acme")
        return await self._dies_at(kill.what)

    async def _kill_some(self, what: str) -> float:
        dice = random.Random(f"{self.seed} {len(self.killed)}")
        died = time.monotonic()
        if what in ("one", "group"):
            await asyncio.to_thread(self.gateway.kill_group)
            if self.variant.engine == "sqlite" or what == "group":
                self._start()
            return died
        name = {"office": OFFICE, "worker": dice.choice(ROLES[1:])}.get(what, what)
        victim = self._pid(launcher.BEGUN, name)
        os.kill(victim, signal.SIGKILL)
        await self._until(lambda: self._gone(victim), f"{name} is dead")
        return died

    async def _dies_at(self, name: str) -> float:
        """Wait until the order is obeyed."""
        victim = await self._until(lambda: points.victim(self.directory, name), f"a process passes {name}")
        (self.directory / points.TAKEN / name).unlink()
        died = time.monotonic()
        await self._until(lambda: self._gone(victim), f"the process that passes {name} dies there")
        if self.variant.engine == "sqlite" or POINTS[name].comes in (Comes.AT_STOP, Comes.FIRST):
            await self._until(lambda: self.gateway.ended, "the others have ended")
            died = time.monotonic()
            self._start()
        return died

    def _gone(self, pid: int) -> bool:
        if pid == self.gateway.popen.pid:
            return self.gateway.ended
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    def _pid(self, directory: str, name: str) -> int:
        """Which process has this role, and is as far as that; 0 for none."""
        try:
            return int((self.directory / directory / name).read_text() or 0)
        except FileNotFoundError:
            return 0

    # -- living

    def _start(self) -> None:
        for name in ROLES:
            for directory in (launcher.BEGUN, launcher.READY):
                (self.directory / directory / name).unlink(missing_ok=True)
        self.gateway.start()
        self.said.append(self.gateway.lines)

    async def _up(self) -> None:
        """Wait until every process is there and ready."""
        serving = await self._until(self._serving, "the gateway says that it serves")
        self.installation.proxy_url = "http://" + serving["proxy"]
        self.installation.control_url = "http://" + serving["control"]
        if self.variant.engine == "postgres":
            await self._until(lambda: all(map(self._ready, ROLES)), "every process is ready")

    def _serving(self) -> dict[str, str] | None:
        said = next((line for line in list(self.gateway.lines) if '"event":"serving"' in line.replace(" ", "")), None)
        assert not self.gateway.ended, f"ended with {self.gateway.popen.returncode}: {self.gateway.lines[-5:]}"
        return None if said is None else json.loads(said)

    def _ready(self, name: str) -> bool:
        pid = self._pid(launcher.READY, name)
        return pid > 0 and pid == self._pid(launcher.BEGUN, name) and not self._gone(pid)

    @staticmethod
    async def _until(found: Callable[[], object], what: str) -> object:
        deadline = time.monotonic() + PATIENCE_S
        while not (answer := found()):
            assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
            await asyncio.sleep(0.01)
        return answer

    # -- the end

    def _settled(self, load: Load) -> Verdict:
        """Wait until nothing is left to book, and compare; then stop, and look whether that changes anything."""
        # From here on nobody is told any more what became of messages, which would go on correcting their events.
        assert self.installation.simulator is not None
        self.installation.simulator.stop()
        deadline = time.monotonic() + PATIENCE_S
        while (found := self._compared(load))[1] and time.monotonic() < deadline:
            time.sleep(1)
        code = self.gateway.stop()
        problems = found[1]
        if code != 0:
            problems.append(f"it ended with {code} when it was told to stop")
        if left := self._unfinished():
            problems.append(f"stopped, and the spools {sorted(left)} are not finished")
        for line in chain.from_iterable(self.said):
            if any(f'"event":"{alarm}"' in line for alarm in ALARMS) or "Traceback" in line:
                problems.append(f"the log says {line.strip()[:300]}")
        problems += [
            f"{one.kill.what} was served again after {one.serving_s:.1f} s"
            for one in self.killed
            if one.serving_s > SERVING_S_MAX
        ]
        return Verdict(self.killed, problems, found[0])

    def _compared(self, load: Load) -> tuple[Figures, list[str]]:
        # What the gateway asks by itself, to know what became of messages, has no number.
        truth = [one for one in self.installation.truth() if one.method != "GET" or one.header("x-walk-call")]
        events = self.installation.events()
        asking = f"/v1/usage/summary?from=2020-01-01&to=2100-01-01&group_by={','.join(oracle.GROUPED)}"
        problems = oracle.problems(load.calls, truth, events, self.installation.ask("GET", asking)["groups"])
        if self.installation.events() != events:
            problems.append("what became of messages is still being booked")
        living = WORKERS if self.variant.engine == "postgres" else 1
        unfinished = self._unfinished()
        if len(unfinished) != living:
            problems.append(f"of {living} workers that live, {len(unfinished)} spools are not finished: {unfinished}")
        return oracle.figures(load.calls, truth, events), problems

    def _unfinished(self) -> set[str]:
        """The spools that hold something and are not marked finished."""
        spools = self.installation.data_dir / "spool"
        finished = {path.stem for path in spools.glob("*.finished")}
        return {path.stem.rpartition("-")[0] for path in spools.glob("*.spool")} - finished


def free_port(seed: int) -> int:
    """A port that is free, and that no outgoing connection will be given while nobody listens on it for a moment."""
    dice = random.Random(f"{seed} {os.getpid()}")
    while True:
        port = dice.randint(20_000, 32_000)
        with socket.socket() as trying:
            try:
                trying.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
