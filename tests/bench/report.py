"""What was measured, as a table and as JSON: medians with their spread, and nothing that was not measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import psutil
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.bench import upstream
from tests.bench.candidates import python_version
from tests.bench.processes import Failed

NOT_MEASURED = "-"
TO = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"

CHAT = "chat"
STREAM = "stream"

MEASURABLE_CPU_S = 0.1
"""The accounting counts in hundredths of a second."""

ENOUGH_CPU_S = 1.0
QUIET_CORES = 0.2
"""With other processes using more than this, the figures are noisy."""

SEPARATE_READS = 0.8
"""Fewer reads than this per event, and the stream was no longer relayed event by event: its figure says too little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One candidate, one kind of work, once."""

    work: str
    calls: int
    cpu_s: float
    """Of every process of the candidate, until all that the calls caused was done."""
    upstream_cpu_s: float
    load_cpu_s: float
    others_cores: float
    """What all other processes of the machine used meanwhile, in cores."""
    wall_s: float
    """Until the last answer."""
    settle_s: float
    """From then until all that the calls caused was done."""
    p50_ms: float
    p99_ms: float
    reads_per_event: float | None

    @property
    def cpu_us(self) -> float:
        """CPU time per call, or per event of a stream."""
        return self.cpu_s * 1e6 / self.calls / (upstream.EVENTS if self.work == STREAM else 1)


@dataclass(slots=True)
class Measured:
    """One candidate, and all that came of it."""

    name: str
    version: str | None = None
    skipped: str | None = None
    failed: str | None = None
    rss_rest_mib: float | None = None
    rss_after_mib: float | None = None
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

    def cpu_us(self, work: str) -> list[float]:
        """What the samples say, least first; nothing if one is too small for the accounting to tell."""
        samples = self.of(work)
        if any(sample.cpu_s < MEASURABLE_CPU_S for sample in samples):
            return []
        return sorted(sample.cpu_us for sample in samples)


def reference(measured: Mapping[str, Measured]) -> str | None:
    """The candidate that the others are compared with."""
    return next((name for name in ("nginx", "aiohttp") if name in measured and measured[name].of(STREAM)), None)


def ratio(measured: Mapping[str, Measured], name: str, work: str) -> float | None:
    to = reference(measured)
    if to is None or name == "direct":
        return None
    own, base = measured[name].cpu_us(work), measured[to].cpu_us(work)
    return median(own) / median(base) if own and base else None


def method(rounds: int, connections: int, took_s: float) -> dict[str, Any]:
    """How it was measured, and on what."""
    return {
        "machine": {
            "cores": os.cpu_count(),
            "architecture": platform.machine(),
            "kernel": f"{platform.system()} {platform.release()}",
            "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
            "load_average": os.getloadavg(),
        },
        "python": python_version(),
        "rounds": rounds,
        "connections": connections,
        "took_s": round(took_s, 1),
        "chat": f"answer of {upstream.ANSWER_BYTES} bytes, connections kept, each call as soon as the last is answered",
        "stream": f"{upstream.EVENTS} events, {upstream.PAUSE_S * 1e3:g} ms apart; one call's cost spread over them",
        "cpu": "user + system of every process of the candidate, from /proc; median of the rounds",
        "rate": "each candidate's own peak: a slower one also pays for waking the upstream and the load generator, which "
        "a faster one finds awake",
        "not done by others": "nginx and aiohttp authenticate, meter, price, record and log nothing",
        "done by tollkeeper": "gateway key, spool (durability flush), ledger on SQLite, access log to a file; "
        "a sample ends when the ledger has as many events as there were calls",
    }


def _spread(found: list[float]) -> str:
    """The median, and between which figures it lies."""
    return f"{median(found):.1f} ({found[0]:.1f}{TO}{found[-1]:.1f})" if found else NOT_MEASURED


def _middle(samples: list[Sample], value: Callable[[Sample], float], form: str) -> str:
    return format(median(map(value, samples)), form) if samples else NOT_MEASURED


def show(console: Console, how: Mapping[str, Any], measured: Mapping[str, Measured]) -> None:
    """Print the table and what there is to know about it."""
    to = reference(measured)
    machine = how["machine"]
    table = Table(
        box=SIMPLE_HEAD,
        title=f"CPU time, all processes of each; {how['connections']} connections; rounds: {how['rounds']}; "
        f"median (least{TO}most)",
        caption=f"{machine['cores']} cores {machine['architecture']}, {machine['kernel']}, {how['python']}; "
        f"{how['took_s']:.0f} s in all",
        title_justify="left",
        caption_justify="left",
        title_style="bold",
    )
    table.add_column("", no_wrap=True)
    compared = [] if to is None else [f"{TIMES} {to}"]
    for heading in ("µs per call", *compared, "µs per SSE event", *compared, "calls/s", "p50 ms", "p99 ms", "MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, one in measured.items():
        chats = one.of(CHAT)
        if not chats:
            continue
        ratios = [ratio(measured, name, work) for work in (CHAT, STREAM)]
        over_chat, over_stream = (NOT_MEASURED if value is None else f"{value:.2f}" for value in ratios)
        rest, after = one.rss_rest_mib, one.rss_after_mib
        cells = [
            name,
            _spread(one.cpu_us(CHAT)),
            *([over_chat] if to is not None else []),
            _spread(one.cpu_us(STREAM)),
            *([over_stream] if to is not None else []),
            _middle(chats, lambda sample: sample.calls / sample.wall_s, ".0f"),
            _middle(chats, lambda sample: sample.p50_ms, ".2f"),
            _middle(chats, lambda sample: sample.p99_ms, ".2f"),
            NOT_MEASURED if rest is None or after is None else f"{rest:.0f}, {after:.0f}",
        ]
        table.add_row(*cells, style="bold" if name == "tollkeeper" else None)
    if table.row_count:
        console.print(table)
    for line in _remarks(measured):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _remarks(measured: Mapping[str, Measured]) -> Iterator[str]:
    for name, one in measured.items():
        if one.skipped is not None:
            yield f"{name}: skipped: {one.skipped}"
        if one.failed is not None:
            yield f"{name}: failed: {' '.join(one.failed.split())}"
    versions = "; ".join(f"{name}: {one.version}" for name, one in measured.items() if one.samples and name != "direct")
    if versions:
        yield versions + "."
    samples = [(name, sample) for name, one in measured.items() for sample in one.of(CHAT) + one.of(STREAM)]
    if not samples:
        return
    if any(name == "direct" for name, _ in samples):
        yield "direct: no proxy; its CPU time is the upstream's own, which no other row contains."
    yield "Each at its own peak rate, on cores that load, upstream and candidate share; MiB at rest, then at the end."
    if "tollkeeper" in measured and measured["tollkeeper"].samples and not measured["tollkeeper"].failed:
        calls = sum(sample.calls for sample in measured["tollkeeper"].samples)
        yield f"tollkeeper: of {calls} measured calls, each is in the ledger once, priced, and in the access log."
    others = median(sample.others_cores for _, sample in samples)
    if others > QUIET_CORES:
        yield f"Noisy: other processes used {others:.1f} cores meanwhile (median of the samples)."
    for work in (CHAT, STREAM):
        small = {n for n, one in samples if one.work == work and n != "direct" and one.cpu_s < ENOUGH_CPU_S}
        if small:
            yield f"Coarse: {', '.join(sorted(small))}, {work}: samples of less than {ENOUGH_CPU_S:g} s of CPU."
    joined = {n for n, one in samples if one.reads_per_event is not None and one.reads_per_event < SEPARATE_READS}
    if joined:
        yield f"Streams: {', '.join(sorted(joined))} passed events on several at a time; the cost of each is understated."


def as_json(how: Mapping[str, Any], measured: Mapping[str, Measured]) -> dict[str, Any]:
    """Everything, for a machine."""
    to = reference(measured)
    candidates = {}
    for name, one in measured.items():
        figures = {}
        for work in (CHAT, STREAM):
            if found := one.cpu_us(work):
                figures[work] = {
                    "cpu_us": median(found),
                    "cpu_us_min": found[0],
                    "cpu_us_max": found[-1],
                    "ratio": ratio(measured, name, work),
                    "p50_ms": median(sample.p50_ms for sample in one.of(work)),
                    "p99_ms": median(sample.p99_ms for sample in one.of(work)),
                }
        candidates[name] = {
            "version": one.version,
            "skipped": one.skipped,
            "failed": one.failed,
            "rss_rest_mib": one.rss_rest_mib,
            "rss_after_mib": one.rss_after_mib,
            **figures,
            "samples": [{**asdict(sample), "cpu_us": sample.cpu_us} for sample in one.samples],
        }
    return {"method": how, "ratio_to": to, "candidates": candidates}
