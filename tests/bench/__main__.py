"""What a metered call costs, beside proxies that meter nothing: `make bench`.

CPU time by the operating system's accounting, of every process of a candidate, for one chat completion of 1 kB and for
one relayed event of a stream. All candidates run in one go, in turns, so that the ratios hold where the figures do not.
"""

from __future__ import annotations

import argparse
import json
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from tests.bench import report, upstream
from tests.bench.candidates import CANDIDATES, Missing, Running, upstream_alone
from tests.bench.processes import PYTHON, REPOSITORY, Failed, cpu_s, end, environment, machine_busy_s, rss_mib
from tests.bench.report import CHAT, STREAM, Measured, Sample

CONNECTIONS = 32

SAMPLE_CPU_S = 1.4
"""What a sample is to cost: 1 s, and something over for a first guess that was too high. The accounting counts in
hundredths of a second."""

SAMPLE_WALL_S_MAX = 11.0
"""A sample does not take longer than about this, so that the whole run stays below three minutes."""

FIRST_CALLS = {CHAT: 4000, STREAM: 64}
"""Made before the first round: they warm the candidate up and tell how many a sample needs."""

WITHIN_S = 60
"""No sample may take longer than this, on however busy a machine; a candidate that does has failed."""

READY_S = 20

TABLE_CHARACTERS = 118
"""Where the terminal is narrower, or there is none, its lines are broken rather than its figures."""


def measure(work: str, calls: int, running: Running, answered_before: int, provider: Running) -> Sample:
    """Have calls made, and see what they cost. Raises Failed."""
    port = running.stream_port if work == STREAM and running.stream_port else running.port
    command = [*PYTHON, "tests.bench.load", "--port", str(port), "--path", running.path, "--key", running.key]
    command += ["--connections", str(CONNECTIONS), "--calls", str(calls), "--within", str(WITHIN_S)]
    command += ["--stream"] if work == STREAM else []
    load = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        if not select.select([load.stdout], [], [], READY_S)[0] or load.stdout.readline() != b"ready\n":
            end(load)
            raise Failed("no connection: " + load.stderr.read()[-300:].decode("utf-8", "replace"))
        began, others, own = time.monotonic(), machine_busy_s(), time.process_time()
        cpu, upstream_cpu = cpu_s(running.pid), cpu_s(provider.pid)
        try:
            said, complaint = load.communicate(b"go\n", WITHIN_S + READY_S)
        except subprocess.TimeoutExpired as error:
            raise Failed("the load generator did not come to an end") from error
        if not said:
            raise Failed("the load generator failed: " + complaint[-300:].decode("utf-8", "replace"))
        found = json.loads(said)
        if "failed" in found:
            raise Failed(found["failed"])
        answered_at = time.monotonic()
        running.settle(answered_before + calls)
        cpu, upstream_cpu = cpu_s(running.pid) - cpu, cpu_s(provider.pid) - upstream_cpu
        took = time.monotonic() - began
        ours = found["cpu_s"] + upstream_cpu + time.process_time() - own + (cpu if running is not provider else 0.0)
        return Sample(
            work=work,
            calls=calls,
            cpu_s=cpu,
            upstream_cpu_s=upstream_cpu,
            load_cpu_s=found["cpu_s"],
            others_cores=max(0.0, machine_busy_s() - others - ours) / took,
            wall_s=found["wall_s"],
            settle_s=time.monotonic() - answered_at,
            p50_ms=found["p50_ms"],
            p99_ms=found["p99_ms"],
            reads_per_event=found["reads"] / calls / upstream.EVENTS if work == STREAM else None,
        )
    finally:
        end(load)
        for pipe in (load.stdin, load.stdout, load.stderr):
            pipe.close()


def calls_needed(sample: Sample, *, paid: bool) -> int:
    """How many calls the next samples are to have, by what one cost."""
    fit = int(SAMPLE_WALL_S_MAX / (sample.wall_s / sample.calls))
    if not paid:
        return max(CONNECTIONS, fit // 3)  # Nothing is compared with it.
    # Measured as nothing, it costs less than the accounting can tell.
    each = max(sample.cpu_s, 0.01) / sample.calls
    return max(CONNECTIONS, min(fit, round(SAMPLE_CPU_S / each)))


def run(given: argparse.Namespace, status: Console) -> dict[str, Measured]:
    """Start everything, measure in turns, end everything."""
    measured = {name: Measured(name) for name in CANDIDATES if not given.only or name in given.only}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollkeeper-bench-")))
        provider = stack.enter_context(upstream_alone(directory))
        running: dict[str, Running] = {}
        ending: dict[str, ExitStack] = {}
        for name, one in measured.items():
            own = directory / name
            own.mkdir()
            ending[name] = stack.enter_context(ExitStack())
            with one.failing():
                try:
                    running[name] = ending[name].enter_context(CANDIDATES[name](own, provider))
                except Missing as how:
                    one.skipped = str(how)
                    continue
                one.version = running[name].version
                time.sleep(0.5)
                one.rss_rest_mib = rss_mib(running[name].pid)

        needed: dict[tuple[str, str], int] = {}
        answered = dict.fromkeys(running, 0)

        def turn(name: str, work: str, calls: int) -> Sample:
            sample = measure(work, calls, running[name], answered[name], provider)
            answered[name] += calls
            return sample

        for number in range(given.rounds + 1):
            names = [name for name in running if measured[name].failed is None]
            # Another one begins each round, so that none always follows the same neighbour.
            first = number % max(1, len(names))
            for name in names[first:] + names[:first]:
                with measured[name].failing():
                    for work in (CHAT, STREAM):
                        status.print(f"[dim]round {number} of {given.rounds}: {name}, {work}", highlight=False)
                        if number == 0:
                            sample = turn(name, work, given.calls_of[work] or FIRST_CALLS[work])
                            enough = calls_needed(sample, paid=name != "direct")
                            needed[name, work] = given.calls_of[work] or enough
                        else:
                            measured[name].samples.append(turn(name, work, needed[name, work]))
        for name, one in measured.items():
            if name in running and one.failed is None:
                with one.failing():
                    one.rss_after_mib = rss_mib(running[name].pid)
                    status.print(f"[dim]{name} ends", highlight=False)
                    ending[name].close()
                    running[name].verify(answered[name])
    return measured


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="samples of each candidate (default: %(default)s)")
    parser.add_argument(
        "--calls", type=int, help="calls in a sample (default: as many as cost 1 s of CPU); streams, one for each 100"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write method, figures and samples there as well")
    parser.add_argument("--only", action="append", choices=CANDIDATES, help="measure only this; may be repeated")
    given = parser.parse_args()
    if given.rounds < 1 or (given.calls is not None and given.calls < 1):
        parser.error("rounds and calls begin at 1")
    streams = None if given.calls is None else max(CONNECTIONS, given.calls // upstream.EVENTS)
    given.calls_of = {CHAT: given.calls, STREAM: streams}

    def stop(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    began = time.monotonic()
    try:
        measured = run(given, Console(stderr=True))
    except Failed as error:
        parser.exit(1, f"The upstream can not be started: {error}\n")
    method = report.method(given.rounds, CONNECTIONS, time.monotonic() - began)
    console = Console()
    report.show(Console(width=max(console.width, TABLE_CHARACTERS)), method, measured)
    if given.json is not None:
        given.json.write_text(json.dumps(report.as_json(method, measured), indent=2) + "\n", encoding="utf-8")
    return int(any(one.failed is not None for one in measured.values()))


if __name__ == "__main__":
    sys.exit(main())
