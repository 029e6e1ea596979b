"""What was measured, as tables and as JSON: medians with their spread, and nothing that was not measured."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import psutil
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.bench import load, upstream
from tests.bench.candidates import (
    CANDIDATES,
    CHAT,
    DIRECT,
    ENVOY,
    HELD,
    HTTPS,
    LITELLM,
    NGINX,
    NGINX_HTTPS,
    PORTKEY,
    POSTGRES,
    RATE,
    SQLITE,
    STREAM,
    TWO_WORKERS,
)
from tests.bench.gateways import BACK_OFFICE, SUPERVISOR, WORKER
from tests.bench.measuring import CONNECTIONS, Ingested, Sample, Weight
from tests.bench.outages import CALLS_PER_S, Outage
from tests.bench.processes import Failed

NOT_MEASURED = "-"
TO = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"

LATENCIES = "p50_ms", "p99_ms", "control_p50_ms", "control_p99_ms"

ALL = "all"
"""Every process of a candidate."""

ENOUGH_CPU_S = 0.15
QUIET_CORES = 0.2
"""With other processes using more than this, the figures are noisy."""

SEPARATE_READS = 0.8
"""Fewer reads than this per event, and the stream was no longer relayed event by event: its figure says too little."""

Figures = Sequence[float]
"""One for each round, in their order; empty if it was not measured."""


@dataclass(slots=True)
class Measured:
    """One candidate, and all that came of it."""

    name: str
    version: str | None = None
    skipped: str | None = None
    failed: str | None = None
    starts_s: list[float] = field(default_factory=list)
    rss_rest_mib: dict[str, float] = field(default_factory=dict)
    rss_after_mib: dict[str, float] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Whatever goes wrong in here is this candidate's failure, and nobody else's."""
        try:
            yield
        except Failed as error:
            self.failed = str(error)
        except Exception as error:  # noqa: BLE001  The others are measured all the same.
            self.failed = f"{type(error).__name__}: {error}"

    def of(self, work: str) -> list[Sample]:
        return [] if self.failed else [sample for sample in self.samples if sample.work == work]


class Found:
    """Questions to all that was measured."""

    def __init__(
        self, measured: Mapping[str, Measured], heavy: Sequence[Weight], rates: Sequence[Ingested] = ()
    ) -> None:
        self._measured = measured
        self.rates = rates
        self._heavy = {weight.job: weight for weight in heavy if weight.whole}

    def _of(self, name: str, work: str) -> list[Sample]:
        return self._measured[name].of(work) if name in self._measured else []

    def cpu_us(self, name: str, work: str = CHAT, kind: str = ALL) -> Figures:
        """CPU time per call, or per event of a stream."""
        samples = self._of(name, work)
        if kind == ALL:
            return [sample.cpu_s * 1e6 / sample.per for sample in samples]
        return [sample.kinds_cpu_s[kind] * 1e6 / sample.per for sample in samples if kind in sample.kinds_cpu_s]

    def postgres_us(self, name: str) -> Figures:
        """Of the server that has this candidate's ledger."""
        samples = self._of(name, CHAT)
        return [sample.postgres_cpu_s * 1e6 / sample.per for sample in samples if BACK_OFFICE in sample.kinds_cpu_s]

    def calls_per_s(self, name: str) -> Figures:
        return [sample.calls / sample.wall_s for sample in self._of(name, CHAT)]

    def ms(self, name: str, which: str, work: str = RATE) -> Figures:
        """Latency at the fixed rate."""
        return [found for sample in self._of(name, work) if (found := getattr(sample, which)) is not None]

    def added_ms(self, name: str, which: str, work: str = RATE) -> Figures:
        """What of it is more than those had who asked the provider itself at that time."""
        own, control = self.ms(name, which, work), self.ms(name, f"control_{which}", work)
        return [a - b for a, b in zip(own, control, strict=False)]

    def starts_s(self, name: str) -> Figures:
        return self._measured[name].starts_s if name in self._measured else []

    def rest_mib(self, name: str, kind: str) -> Figures:
        one = self._measured.get(name)
        return [one.rss_rest_mib[kind]] if one is not None and kind in one.rss_rest_mib else []

    def after_mib(self, name: str, kind: str) -> Figures:
        one = self._measured.get(name)
        return [one.rss_after_mib[kind]] if one is not None and kind in one.rss_after_mib else []

    def grown_mib(self, *jobs: str) -> Figures:
        """The most that one of these jobs took."""
        grown = [weight.grown_mib for job in jobs if (weight := self._heavy.get(job)) is not None]
        known = [one for one in grown if one is not None]
        return [max(known)] if known and len(known) == len(jobs) else []


def ratio(own: Figures, base: Figures) -> Figures:
    """Round by round: what slows a machine down for a while slows both."""
    return [a / b for a, b in zip(own, base, strict=False) if b > 0]


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise of issues 4 and 5, and what was found."""

    promise: str
    bound: float
    found: Figures
    unit: str = ""
    least: bool = False
    """True where more than the bound is better."""

    @property
    def met(self) -> bool | None:
        if not self.found:
            return None
        return median(self.found) >= self.bound if self.least else median(self.found) <= self.bound


def goals(found: Found) -> list[Goal]:
    us = found.cpu_us
    workers = us(POSTGRES, kind=WORKER)
    added = [found.added_ms(POSTGRES, which) for which in ("p50_ms", "p99_ms")]
    return [
        Goal("CPU per call: worker / Envoy", 0.85, ratio(workers, us(ENVOY)), TIMES),
        Goal("CPU per call: worker / nginx", 2.7, ratio(workers, us(NGINX)), TIMES),
        Goal("CPU per call: all processes / Envoy", 1.0, ratio(us(POSTGRES), us(ENVOY)), TIMES),
        Goal("CPU per call: all processes / Portkey", 1 / 20, ratio(us(POSTGRES), us(PORTKEY)), TIMES),
        Goal("CPU per call: all processes / LiteLLM", 1 / 100, ratio(us(POSTGRES), us(LITELLM)), TIMES),
        Goal("CPU per call: two workers / one, all processes", 1.1, ratio(us(TWO_WORKERS), us(POSTGRES)), TIMES),
        Goal("CPU per SSE event: all processes / nginx", 2.0, ratio(us(POSTGRES, STREAM), us(NGINX, STREAM)), TIMES),
        Goal("CPU per call, TLS upstream: all / nginx", 3.0, ratio(us(HTTPS), us(NGINX_HTTPS)), TIMES),
        Goal("added latency at half of our peak, p50", 0.3, added[0], "ms"),
        Goal("added latency at half of our peak, p99", 2.0, added[1], "ms"),
        Goal("start to first answer, Postgres", 1.5, found.starts_s(POSTGRES), "s"),
        Goal("start to first answer, SQLite", 1.5, found.starts_s(SQLITE), "s"),
        Goal("memory at rest: a worker", 80, found.rest_mib(POSTGRES, WORKER), "MiB"),
        Goal("memory at rest: all in one process", 160, found.rest_mib(SQLITE, ALL), "MiB"),
        Goal("memory grown by a 1 GiB upload", 64, found.grown_mib("upload"), "MiB"),
        Goal("memory grown by a 1 GiB download", 64, found.grown_mib("download"), "MiB"),
        Goal(
            "the same with a stalled peer, up and down",
            64,
            found.grown_mib("upload, stalled", "download, stalled"),
            "MiB",
        ),
        Goal("memory grown by 10,000 idle connections", 100, found.grown_mib("idle"), "MiB"),
        Goal("memory grown by 1,000,000 calls (flat: 8 MiB)", 8, found.grown_mib("calls"), "MiB"),
        Goal(
            "events a second from spools into Postgres",
            15_000,
            [one.events / one.wall_s for one in found.rates],
            least=True,
        ),
    ]


# ---------------------------------------------------------------------------------------------------------------------


def method(given: argparse.Namespace, rate: float | None, took_s: float) -> dict[str, Any]:
    """How it was measured, and on what."""
    return {
        "machine": {
            "cores": os.cpu_count(),
            "processor": _processor(),
            "kernel": f"{platform.system()} {platform.release()}",
            "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
            "load_average": os.getloadavg(),
        },
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "rounds": given.rounds,
        "in turns": "one candidate is asked at a time, and the processes of the others stand still meanwhile",
        "quick": given.quick,
        "connections": CONNECTIONS,
        "rate_calls_per_s": rate,
        "took_s": round(took_s, 1),
        "chat": f"answer of {upstream.ANSWER_BYTES} bytes, connections kept, each call as soon as the last is answered",
        "stream": f"{upstream.EVENTS} events, {upstream.PAUSE_S * 1e3:g} ms apart; one call's cost spread over them",
        "rate": "chat completions at half of tollkeeper's own peak, each timed from when it was due; meanwhile the provider "
        f"itself is asked a {load.CONTROL}th as often, and what a candidate adds is held against what those waited: the load "
        "generator, the provider, Postgres and the candidate share the machine, and wait for one another in any case",
        "booking held": "the same while the back office stands still, and the database with it, as if both had processors of "
        "their own; what was recorded is booked afterwards",
        "cpu": "user + system of every process of the candidate, from the kernel's clock of each; median of the rounds; "
        "ratios round by round. Each at its own peak rate: a slower one also pays for waking the upstream and the load "
        "generator, which a faster one finds awake",
        "memory": "resident, of all processes added up, so that what forked ones share counts for each",
        "not done by others": "nginx, Envoy, aiohttp, TensorZero, Portkey and LiteLLM are set up to authenticate, meter, "
        "price, record and log nothing, but that LiteLLM checks one key, without which it does not start",
        "done by tollkeeper": "gateway key, spool (durability flush), ledger, charges, daily sums, access log to a file; "
        "a sample ends when the ledger has as many events as there were calls",
        "postgres": "the tests' own, its CPU time apart: fsync, full_page_writes, autovacuum and wal_init_zero off",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return (names or [platform.machine()])[0]


def show(
    console: Console,
    how: Mapping[str, Any],
    measured: Mapping[str, Measured],
    heavy: Sequence[Weight],
    rates: Sequence[Ingested],
    away: Sequence[Outage],
) -> None:
    """Print the tables and what there is to know about them."""
    found = Found(measured, heavy, rates)
    for line in _header(how, measured):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    tables = _costs(how, found, measured), _waits(how, found, measured), _rates(found), _outages(away), _goals(found)
    for table in tables:
        if table.row_count:
            console.print(table)
    for line in _remarks(measured, heavy):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _table(title: str, *headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _costs(how: Mapping[str, Any], found: Found, measured: Mapping[str, Measured]) -> Table:
    table = _table(
        f"CPU µs per call of 1 kB, {how['connections']} connections: median of {how['rounds']} (least{TO}most)",
        WORKER, "back\noffice", "super-\nvisor", ALL, f"{TIMES}\nnginx", f"{TIMES}\nEnvoy", "Post-\ngres", "per SSE\nevent",
        f"{TIMES}\nnginx", "calls/s",
    )  # fmt: skip
    for name in measured:
        own, streamed = found.cpu_us(name), found.cpu_us(name, STREAM)
        if not own:
            continue
        https = name in (HTTPS, NGINX_HTTPS)
        compared = name != DIRECT
        plain = found.cpu_us(NGINX_HTTPS if https else NGINX)
        table.add_row(
            name,
            *(_middle(found.cpu_us(name, kind=kind)) for kind in (WORKER, BACK_OFFICE, SUPERVISOR)),
            _spread(own),
            _middle(ratio(own, plain) if compared else [], ".2f"),
            _middle(ratio(own, found.cpu_us(ENVOY)) if compared and not https else [], ".2f"),
            _middle(found.postgres_us(name)),
            _spread(streamed),
            _middle(ratio(streamed, found.cpu_us(NGINX, STREAM)) if compared else [], ".2f"),
            _middle(found.calls_per_s(name), ".0f"),
            style="bold" if CANDIDATES[name].ours else None,
        )
    return table


def _waits(how: Mapping[str, Any], found: Found, measured: Mapping[str, Measured]) -> Table:
    rate = how["rate_calls_per_s"]
    table = _table(
        ("Latency" if rate is None else f"Latency at {rate:.0f} calls/s (half of tollkeeper's peak)")
        + ", start, resident memory at rest \N{RIGHTWARDS ARROW} after load",
        "p50 ms", "p99 ms", "meanwhile\ndirect p50", "meanwhile\ndirect p99", "added\np50", "added\np99", "first\nanswer s",
        "worker MiB", "all MiB",
    )  # fmt: skip
    for name, one in measured.items():
        if one.failed is not None or not one.rss_rest_mib:
            continue
        style = "bold" if CANDIDATES[name].ours else None
        table.add_row(
            name,
            *_latencies(found, name, RATE),
            _middle(found.starts_s(name), ".2f"),
            *(_from_to(found.rest_mib(name, kind), found.after_mib(name, kind)) for kind in (WORKER, ALL)),
            style=style,
        )
        if one.of(HELD):
            table.add_row(f"  {HELD}", *_latencies(found, name, HELD), style=style)
    return table


def _latencies(found: Found, name: str, work: str) -> Iterator[str]:
    for which in LATENCIES:
        yield _middle(found.ms(name, which, work), ".2f")
    for which in ("p50_ms", "p99_ms"):
        yield _middle(found.added_ms(name, which, work), "+.2f")


def _rates(found: Found) -> Table:
    table = _table(
        "Ingest: spools of 4 workers into Postgres, with charges and daily sums, nobody calling",
        "events/s", "CPU µs\nper event", "Postgres µs\nper event", "batch", "at\nonce", "bytes", "others'\ncores",
    )  # fmt: skip
    for number, one in enumerate(found.rates, 1):
        own, theirs = (cpu_s * 1e6 / one.events for cpu_s in (one.cpu_s, one.postgres_cpu_s))
        pace = map(str, one.pace)
        told = f"{one.events / one.wall_s:.0f}", f"{own:.1f}", f"{theirs:.1f}", *pace, str(one.event_bytes)
        table.add_row(f"round {number}, {one.events:,} events", *told, f"{one.others_cores:.2f}")
    return table


def _outages(away: Sequence[Outage]) -> Table:
    table = _table(
        f"Latency at {CALLS_PER_S} calls/s of one worker while the ledger's Postgres is away: each round",
        "calls", "p50 ms", "p99 ms", "in the ledger\nafter s",
    )  # fmt: skip
    for one in sorted(away, key=lambda one: [each.what for each in away].index(one.what)):
        table.add_row(one.what, str(one.calls), f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}", f"{one.drained_s:.1f}")
    return table


def _goals(found: Found) -> Table:
    table = _table("Goals", "at most", f"found (least{TO}most)", "")
    for goal in goals(found):
        said = {None: "not measured", True: "met", False: "NOT MET"}[goal.met]
        style = {None: "dim", True: "green", False: "red"}[goal.met]
        form = ".3f" if goal.bound < 0.1 else ".2f" if goal.bound < 10 else ".0f"
        bound = format(goal.bound, form)
        bound = bound.rstrip("0").rstrip(".") if "." in bound else bound
        table.add_row(
            goal.promise,
            f"{'at least ' if goal.least else ''}{bound} {goal.unit}",
            _spread(goal.found, form),
            said,
            style=style,
        )
    return table


def _spread(found: Figures, form: str = ".1f") -> str:
    """The median, and between which figures it lies."""
    if not found:
        return NOT_MEASURED
    if len(found) == 1:
        return format(found[0], form)
    return f"{median(found):{form}} ({min(found):{form}}{TO}{max(found):{form}})"


def _middle(found: Figures, form: str = ".1f") -> str:
    return format(median(found), form) if found else NOT_MEASURED


def _from_to(rest: Figures, after: Figures) -> str:
    return f"{_middle(rest, '.0f')} \N{RIGHTWARDS ARROW} {_middle(after, '.0f')}" if rest else NOT_MEASURED


def _header(how: Mapping[str, Any], measured: Mapping[str, Measured]) -> Iterator[str]:
    machine = how["machine"]
    yield (
        f"{machine['cores']} cores {machine['processor']}, {machine['memory_gib']} GiB, {machine['kernel']}, "
        f"{how['python']}; {how['took_s']:.0f} s in all{'; QUICK: figures say little' if how['quick'] else ''}"
    )
    versions = [f"{name} {one.version}" for name, one in measured.items() if one.version and name != DIRECT]
    shown = [one for one in versions if not one.startswith(("tollkeeper-", "nginx-https"))]
    yield "; ".join(shown) + "." if shown else "No candidate was measured."
    samples = [sample for one in measured.values() for work in (CHAT, STREAM, RATE, HELD) for sample in one.of(work)]
    if samples:
        others = sorted(sample.others_cores for sample in samples)
        noisy = ": NOISY, don't compare with other runs" if median(others) > QUIET_CORES else ""
        yield f"Other processes of this machine used {median(others):.2f} cores meanwhile (at most {others[-1]:.2f}){noisy}."
        yield "Load, upstream, Postgres and candidate share these cores. " + how["not done by others"] + "."
        yield "Tollkeeper: " + how["done by tollkeeper"] + ". Postgres: " + how["postgres"] + "."


def _remarks(measured: Mapping[str, Measured], heavy: Sequence[Weight]) -> Iterator[str]:
    for name, one in measured.items():
        if one.skipped is not None:
            yield f"{name}: skipped; to have it: {one.skipped}"
        if one.failed is not None:
            yield f"{name}: failed: {' '.join(one.failed.split())}"
    for weight in heavy:
        told = f"failed: {weight.failed}" if weight.grown_mib is None else f"{weight.grown_mib:+.0f} MiB"
        took = "" if weight.took_s is None else f", {weight.took_s:.0f} s"
        yield f"heavy: {weight.job} ({weight.amount}): {told}{took}"
    rows = [name for name, one in measured.items() if one.of(CHAT)]
    if rows:
        yield "Rows: " + "; ".join(f"{name}: {CANDIDATES[name].what}" for name in rows) + "."
    ours = [one for name, one in measured.items() if CANDIDATES[name].ours and one.of(CHAT)]
    if ours:
        calls = sum(sample.calls for one in ours for sample in one.samples)
        yield f"Of {calls} calls measured through tollkeeper, each is in its ledger once, priced, and in the access log."
    for name, one in measured.items():
        if name != DIRECT and any(sample.cpu_s < ENOUGH_CPU_S for sample in one.of(CHAT) + one.of(STREAM)):
            yield f"{name}: coarse: samples of so little CPU time that their figures say little."
        reads = [sample.reads_per_event for sample in one.of(STREAM)]
        if any(found is not None and found < SEPARATE_READS for found in reads):
            yield f"{name}: passed events of streams on several at a time; the cost of each is understated."


def as_json(
    how: Mapping[str, Any],
    measured: Mapping[str, Measured],
    heavy: Sequence[Weight],
    rates: Sequence[Ingested],
    away: Sequence[Outage],
) -> dict[str, Any]:
    """Everything, for a machine."""
    found = Found(measured, heavy, rates)

    def figure(values: Figures) -> dict[str, float] | None:
        return {"median": median(values), "min": min(values), "max": max(values)} if values else None

    candidates = {}
    for name, one in measured.items():
        own = found.cpu_us(name)
        candidates[name] = {
            **asdict(one),
            "what": CANDIDATES[name].what,
            "cpu_us_per_call": {
                kind: figure(found.cpu_us(name, kind=kind)) for kind in (ALL, WORKER, BACK_OFFICE, SUPERVISOR)
            },
            "cpu_us_per_event": figure(found.cpu_us(name, STREAM)),
            "postgres_us_per_call": figure(found.postgres_us(name)),
            "ratio": {to: figure(ratio(own, found.cpu_us(to))) for to in (NGINX, ENVOY, NGINX_HTTPS)},
            "calls_per_s": figure(found.calls_per_s(name)),
            "at_rate": {which: figure(found.ms(name, which)) for which in LATENCIES},
            "at_rate_booking_held": {which: figure(found.ms(name, which, HELD)) for which in LATENCIES},
        }
    return {
        "method": how,
        "candidates": candidates,
        "heavy": [asdict(weight) for weight in heavy],
        "ingest": [asdict(one) for one in rates],
        "outages": [asdict(one) for one in away],
        "goals": [{**asdict(goal), "met": goal.met} for goal in goals(found)],
    }
