"""Where one worker and the back office spend their time under chat load: `python -m tests.bench --profile`.

Functions and lines of Python by samples of the process's own CPU time. What a line calls in C is that line's; what C did
before it called a function of Python (the event loop, a parser) is named so. Where `perf`
is at hand and may look, also the functions of the worker's machine code, the kernel's included.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.bench.candidates import CHAT
from tests.bench.gateways import WORKER, tollkeeper
from tests.bench.measuring import WITHIN_S, sample
from tests.bench.processes import PYTHON, REPOSITORY
from tests.bench.recipes import Running, running
from tests.bench.world import World, standing

TOP = 25
FIRST_CALLS = 4000
PERF_HZ = 999


def show(console: Console, *, seconds: int) -> None:
    """Load a gateway for so long, twice where there is `perf`, and print the top of what was seen. Raises Failed."""
    with tempfile.TemporaryDirectory(prefix="tollkeeper-profile-") as place:
        directory = Path(place)
        with standing(directory) as world:
            own = directory / "tollkeeper"
            own.mkdir()
            recipe = tollkeeper(own, world, workers=1, serve=[*PYTHON, "tests.bench.profiled", str(own)])
            with running(recipe, own / "output") as found:
                first = sample(CHAT, FIRST_CALLS, found, 1, world)
                calls = int(min(seconds, WITHIN_S / 2) * first.calls / first.wall_s)
                loaded = sample(CHAT, calls, found, 1 + FIRST_CALLS, world)
                cost = {kind: cpu_s * 1e6 / calls for kind, cpu_s in loaded.kinds_cpu_s.items()}
                native = _native(found, world, 1 + FIRST_CALLS + calls, calls)
            profiles = sorted(own.glob("*-*.json"), reverse=True)
            console.print(
                f"{calls} calls; CPU µs per call, sampling included: "
                + ", ".join(f"{kind} {us:.1f}" for kind, us in cost.items()),
                highlight=False,
            )
            for path in profiles:
                kind = path.stem.rpartition("-")[0]
                _print(console, kind, json.loads(path.read_text()), cost.get(kind, 0.0))
            console.print(native, markup=False, highlight=False, soft_wrap=True)


def _print(console: Console, kind: str, profile: Mapping[str, Any], us: float) -> None:
    total = max(1, profile["samples"])
    within = {tuple(place): number for *place, number in profile["within"]}
    console.print(f"\n[bold]{kind}[/]: {profile['samples']} samples; own time, with what it calls, µs of a call's own")
    for file, line, function, number in profile["own"][:TOP]:
        told = f"{number / total:6.1%} {within[file, line, function] / total:6.1%} {us * number / total:6.2f}"
        console.print(f"{told}  {function}  {_short(file)}:{line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"[bold]{kind}[/], by line")
    for file, line, function, number in profile["lines"][:TOP]:
        source = function if function.startswith("C code") else _source(file, line)
        told = f"{number / total:6.1%} {us * number / total:6.2f}  {_short(file)}:{line}  {source}"
        console.print(told, markup=False, highlight=False, soft_wrap=True)


def _short(file: str) -> str:
    return re.sub(r".*/(site-packages|lib/python[^/]*)/", "", file).removeprefix(f"{REPOSITORY}/")


def _source(file: str, line: int) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()[line - 1].strip()[:90]
    except (OSError, IndexError):
        return ""


def _native(found: Running, world: World, answered: int, calls: int) -> str:
    """What perf says of the worker under the same load."""
    perf = shutil.which("perf")
    if perf is None:
        return "\nNo machine code: `perf` is not here (apt-get install linux-perf)."
    (worker,) = found.kinds[WORKER]
    with tempfile.TemporaryDirectory(prefix="tollkeeper-perf-") as place:
        data = str(Path(place) / "data")
        record = [perf, "record", "-q", "-F", str(PERF_HZ), "-o", data, "-p", str(worker)]
        with subprocess.Popen(record, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as recording:
            try:
                sample(CHAT, calls, found, answered, world)
            finally:
                recording.terminate()
        report = [perf, "report", "--stdio", "-q", "--no-children", "--sort", "dso,symbol", "--percent-limit", "0.7"]
        said = subprocess.run([*report, "-i", data], capture_output=True, text=True, timeout=WITHIN_S, check=False)
    lines = [line.rstrip(" -") for line in said.stdout.splitlines() if line.strip()]
    return "\nworker, machine code (perf):\n" + ("\n".join(lines[: 2 * TOP]) or said.stderr[-300:])
