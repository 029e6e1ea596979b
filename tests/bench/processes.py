"""Processes of the bench: started, waited for within bounds, weighed by the operating system's accounting, and ended by
their own id."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = (sys.executable, "-m")

START_S = 30
END_S = 40
"""More than the gateway's own grace period."""


class Failed(Exception):
    """A candidate could not be measured; the message says why."""


def environment(**more: str) -> dict[str, str]:
    """Ours, without settings meant for another gateway and without anything that would lead loopback through a proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOLLKEEPER_")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "NO_PROXY": "*", **more}


@contextmanager
def started(
    command: Sequence[str], output: Path, more_environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, what it says going to a file; end it at the end."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=output.parent,
            env=environment(**(more_environment or {})),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, wait, and if it does not, end it and the children it has."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        for one in reversed(_tree(process.pid)):
            one.kill()
        process.wait(END_S)


def told(process: subprocess.Popen[bytes], output: Path, what: str) -> dict[str, Any]:
    """The first JSON line of a process's output that holds some text. Raises Failed."""

    def find() -> dict[str, Any] | None:
        for line in output.read_text(encoding="utf-8", errors="replace").splitlines():
            if what in line and line.startswith("{"):
                return json.loads(line)
        if process.poll() is not None:
            raise Failed(f"ended with {process.returncode} at its start: {tail(output)}")
        return None

    return eventually(find, START_S, lambda: f"not started within {START_S} s: {tail(output)}")


def tail(output: Path) -> str:
    return output.read_text(encoding="utf-8", errors="replace")[-600:].strip() or "it said nothing"


def eventually(found: Callable[[], Any], within_s: float, otherwise: Callable[[], str]) -> Any:
    """Ask until the answer is true, and return it. Raises Failed."""
    deadline = time.monotonic() + within_s
    while True:
        answer = found()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Failed(otherwise())
        time.sleep(0.1)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pid: int) -> float:
    """CPU time, user and system, of a process and all its children, those that have ended included. Raises Failed.

    The kernel tells it in hundredths of a second.
    """
    total, found = 0.0, False
    for process in _tree(pid):
        try:
            # A child that has ended counts for its parent, once that has taken notice of it; so none counts twice.
            total += sum(process.cpu_times()[:4])
            found = True
        except psutil.NoSuchProcess:
            continue
    if not found:
        raise Failed("the process has ended")
    return total


def rss_mib(pid: int) -> float:
    """Resident memory of a process and its children; what they share counts for each."""
    total = 0
    for process in _tree(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / (1 << 20)


def machine_busy_s() -> float:
    """CPU time that all processes of this machine have used so far."""
    times = psutil.cpu_times()
    return times.user + times.system + getattr(times, "nice", 0.0)
