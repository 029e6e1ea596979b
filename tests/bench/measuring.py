"""One sample: a candidate is given something to do, and what it cost is read from the operating system."""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.shipper import APART, Pace
from tests.bench import upstream
from tests.bench.candidates import CHAT, HELD, RATE, STREAM
from tests.bench.gateways import BACK_OFFICE, PREFIX
from tests.bench.processes import (
    PYTHON,
    REPOSITORY,
    Failed,
    cpu_s,
    end,
    environment,
    held,
    machine_busy_s,
    tree_cpu_s,
    tree_rss_mib,
    watched_mib,
)
from tests.bench.recipes import Running
from tests.bench.world import World
from tests.postgres import OWNER

CONNECTIONS = 32

WITHIN_S = 60
"""No sample may take longer than this, on however busy a machine; a candidate that does has failed."""

READY_S = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One candidate, one kind of work, once."""

    work: str
    calls: int
    cpu_s: float
    """Of every process of the candidate, until all that the calls caused was done."""
    kinds_cpu_s: dict[str, float]
    """The same by what the processes are for, where that is told apart."""
    postgres_cpu_s: float
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
    control_p50_ms: float | None = None
    """At a fixed rate: of those who asked the provider itself, at the same time and from the same process."""
    control_p99_ms: float | None = None
    reads_per_event: float | None

    @property
    def per(self) -> int:
        """What the cost is divided by: calls, or events of streams."""
        return self.calls * (upstream.EVENTS if self.work == STREAM else 1)


def sample(
    work: str,
    calls: int,
    running: Running,
    answered_before: int,
    world: World,
    *,
    rate: float | None = None,
    within_s: float = WITHIN_S,
) -> Sample:
    """Have calls made, and see what they cost. Raises Failed."""
    recipe = running.recipe
    port = recipe.stream_port if work == STREAM and recipe.stream_port else running.port
    command = [*PYTHON, "tests.bench.load", "--port", str(port), "--path", recipe.path, "--key", recipe.key]
    command += ["--connections", str(CONNECTIONS), "--calls", str(calls), "--within", str(within_s)]
    command += ["--model", recipe.model, *(f"--header={header}" for header in recipe.headers)]
    command += ["--stream"] if work == STREAM else []
    if work in (RATE, HELD):
        command += ["--rate", str(rate)]
        command += ["--control-port", str(world.port)] if running.pid != world.upstream_pid else []
    command += [] if recipe.verbatim else ["--rewritten"]
    with _client(command, "ready") as load:
        began, others, own = time.monotonic(), machine_busy_s(), time.process_time()
        before = running.cpu_s(), {kind: cpu_s(pids) for kind, pids in running.kinds.items()}
        upstream_cpu, postgres_cpu = tree_cpu_s(world.upstream_pid), world.postgres_cpu_s()
        with held(running.kinds[BACK_OFFICE] if work == HELD else ()):
            found = _report(load, within_s)
        answered_at = time.monotonic()
        recipe.settle(answered_before + calls)
        cpu = running.cpu_s() - before[0]
        upstream_cpu, postgres_cpu = (
            tree_cpu_s(world.upstream_pid) - upstream_cpu,
            world.postgres_cpu_s() - postgres_cpu,
        )
        took = time.monotonic() - began
        ours = found["cpu_s"] + upstream_cpu + postgres_cpu + time.process_time() - own
        ours += cpu if running.pid != world.upstream_pid else 0.0
        return Sample(
            work=work,
            calls=calls,
            cpu_s=cpu,
            kinds_cpu_s={kind: cpu_s(pids) - before[1][kind] for kind, pids in running.kinds.items()},
            postgres_cpu_s=postgres_cpu,
            upstream_cpu_s=upstream_cpu,
            load_cpu_s=found["cpu_s"],
            others_cores=max(0.0, machine_busy_s() - others - ours) / took,
            wall_s=found["wall_s"],
            settle_s=time.monotonic() - answered_at,
            p50_ms=found["p50_ms"],
            p99_ms=found["p99_ms"],
            control_p50_ms=found.get("control_p50_ms"),
            control_p99_ms=found.get("control_p99_ms"),
            reads_per_event=found["reads"] / calls / upstream.EVENTS if work == STREAM else None,
        )


@contextmanager
def _client(command: list[str], ready: str, ready_s: float = READY_S) -> Iterator[subprocess.Popen[bytes]]:
    """A client of ours that says a word when it is ready."""
    client = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert client.stdin
    assert client.stdout
    assert client.stderr
    try:
        if ready and (not select.select([client.stdout], [], [], ready_s)[0] or not _says(client, ready)):
            end(client)
            raise Failed("no connection: " + client.stderr.read()[-300:].decode("utf-8", "replace"))
        yield client
    finally:
        end(client)
        for pipe in (client.stdin, client.stdout, client.stderr):
            pipe.close()


def _says(client: subprocess.Popen[bytes], word: str) -> bool:
    assert client.stdout
    return client.stdout.readline() == word.encode() + b"\n"


def _report(client: subprocess.Popen[bytes], within_s: float) -> dict[str, Any]:
    """Let it begin, or end; what it found. Raises Failed."""
    try:
        said, complaint = client.communicate(b"go\n", within_s + READY_S)
    except subprocess.TimeoutExpired as error:
        raise Failed("the client did not come to an end") from error
    if not said:
        raise Failed("the client failed: " + complaint[-300:].decode("utf-8", "replace"))
    found = json.loads(said)
    if "failed" in found:
        raise Failed(found["failed"])
    return found


# ---------------------------------------------------------------------------------------------------------------------

INGEST_EVENTS = 200_000
INGEST_S = 120

IN_LEDGER = "SELECT (SELECT count(*) FROM usage_events), (SELECT count(*) FROM charges WHERE priced), (SELECT sum(events) FROM rollups)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """Events that were booked from spools into Postgres, with charges and daily sums, as fast as that goes."""

    events: int
    pace: Pace
    event_bytes: int
    cpu_s: float
    postgres_cpu_s: float
    others_cores: float
    wall_s: float


def ingested(directory: Path, world: World, events: int, pace: Pace = APART) -> Ingested:
    """Fill spools, book them with the back office's shipper, and see what it cost. Raises Failed."""
    database = world.postgres.create()
    urls = ["--url", world.postgres.url(database), "--owner-url", world.postgres.url(database, OWNER)]
    sizes = ["--events", str(events), "--batch", str(pace.batch_events_max), "--at-once", str(pace.batches_at_once)]
    command = [*PYTHON, "tests.bench.ingest", "--directory", str(directory), *urls, *sizes]
    with _client(command, "ready", INGEST_S) as client:
        began, others, postgres_cpu = time.monotonic(), machine_busy_s(), world.postgres_cpu_s()
        found = _report(client, INGEST_S)
        postgres_cpu = world.postgres_cpu_s() - postgres_cpu
        others = machine_busy_s() - others - postgres_cpu - found["cpu_s"]
        took = time.monotonic() - began
    (in_ledger,) = world.postgres.execute(IN_LEDGER, database=database)
    world.postgres.drop(database)
    if tuple(in_ledger) != (events,) * 3:
        raise Failed(f"{events} events, but events, priced and in sums in the ledger: {tuple(in_ledger)}")
    return Ingested(
        events=events,
        pace=pace,
        event_bytes=found["event_bytes"],
        cpu_s=found["cpu_s"],
        postgres_cpu_s=postgres_cpu,
        others_cores=max(0.0, others) / took,
        wall_s=found["wall_s"],
    )


# ---------------------------------------------------------------------------------------------------------------------

HEAVY_S = 300
MILLION_S = 900

WARMING_CALLS = 4000

STALL_S = 5
"""A peer that stops reading does so for this long, at full speed the time in which gigabytes would come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """What one heavy job did to the memory of all processes of a gateway."""

    job: str
    amount: str
    whole: bool = True
    """False where it was made smaller than the goal's."""
    grown_mib: float | None = None
    """The most there was, over what there was before; of calls, from the first tenth to the last."""
    took_s: float | None = None
    failed: str | None = None


Fresh = Callable[[str], AbstractContextManager[Running]]
"""A gateway that has done nothing before, for the job of that name: what one job leaves behind is not another's."""


def weights(fresh: Fresh, world: World, *, scale: int, tell: Callable[[str], None]) -> Iterator[Weight]:
    """Do the heavy jobs, each before a gateway of its own; `scale` divides them all."""
    connections, size, calls = 10_000 // scale, (1 << 30) // scale, 1_000_000 // scale
    jobs = [("idle", f"{connections:,} connections", ["idle", "--connections", str(connections)])]
    for job in ("upload", "download"):
        jobs.append((job, f"{size >> 20:,} MiB", [job, "--bytes", str(size)]))
        stalled = [job, "--bytes", str(size), "--stall", str(STALL_S)]
        jobs.append((f"{job}, stalled", f"{size >> 20:,} MiB, {STALL_S} s", stalled))
    jobs.append(("calls", f"{calls:,} calls, from the first tenth on", []))
    for job, amount, arguments in jobs:
        tell(f"heavy: {job}")
        began = time.monotonic()
        try:
            with fresh(job) as running:
                if arguments:
                    sample(CHAT, WARMING_CALLS, running, 1, world)
                    grown = _grown_mib(running, arguments, connections)
                else:
                    sample(CHAT, calls // 10, running, 1, world, within_s=MILLION_S)
                    before_mib = tree_rss_mib(running.pid)
                    sample(CHAT, calls - calls // 10, running, 1 + calls // 10, world, within_s=MILLION_S)
                    grown = tree_rss_mib(running.pid) - before_mib
        except Failed as error:
            yield Weight(job=job, amount=amount, failed=str(error))
        else:
            took_s = time.monotonic() - began
            yield Weight(job=job, amount=amount, whole=scale == 1, grown_mib=grown, took_s=took_s)


def _grown_mib(running: Running, arguments: Sequence[str], connections: int) -> float:
    """The most that all processes had while a client of `tests.bench.heavy` did its job, over what they had before."""
    command = [*PYTHON, "tests.bench.heavy", *arguments, "--port", str(running.port), "--prefix", PREFIX]
    command += ["--key", running.recipe.key, "--within", str(HEAVY_S)]
    idle = "idle" in arguments
    rest_mib = tree_rss_mib(running.pid)
    with (
        watched_mib(lambda: tree_rss_mib(running.pid)) as seen,
        _client(command, "open" if idle else "", HEAVY_S) as client,
    ):
        if idle:
            time.sleep(1)
        found = _report(client, HEAVY_S)
    if idle and found["open"] != connections:
        raise Failed(f"{found['open']} of {connections} connections stayed open")
    return max(seen) - rest_mib
