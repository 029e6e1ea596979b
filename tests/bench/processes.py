"""Processes of the bench: started, waited for within bounds, weighed by the operating system's accounting, and ended by
the id they were started with, their children included."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.builds import environment_of

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = (sys.executable, "-m")

START_S = 60
END_S = 40
"""More than the gateway's own grace period."""

PORTS = range(20_000, 32_000)
"""Below those that systems give to outgoing connections: a port that was free stays free."""


class Failed(Exception):
    """A candidate could not be measured; the message says why."""


def environment(**more: str) -> dict[str, str]:
    """Ours, without settings meant for another gateway and without anything that would lead loopback through a proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOLLKEEPER_")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "NO_PROXY": "*", **more}


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    for _ in range(1000):
        port = random.choice(PORTS)
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Failed("no port is free")


@contextmanager
def started(
    command: Sequence[str], output: Path, more_environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, what it says going to the end of a file; end it at the end."""
    with output.open("ab") as file:
        process = subprocess.Popen(
            command,
            cwd=output.parent,
            env=environment(**{**environment_of(command), **(more_environment or {})}),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and wait; whatever of it and its children has not ended by then is killed."""
    if process.poll() is not None:
        return
    children = tree(process.pid)[1:]
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        children = tree(process.pid)[1:]
        process.kill()
        process.wait(END_S)
    for one in children:
        if one.is_running():  # The same process, not another with its number.
            one.kill()


@contextmanager
def held(pids: Sequence[int]) -> Iterator[None]:
    """Have processes stand still meanwhile, as many as have not ended."""

    def signal_all(number: signal.Signals) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    try:
        signal_all(signal.SIGSTOP)
        yield
    finally:
        signal_all(signal.SIGCONT)


def told(process: subprocess.Popen[bytes], output: Path, what: str, after: int = 0) -> dict[str, Any]:
    """The first JSON line of a process's output, after so many bytes, that holds some text. Raises Failed."""

    def find() -> dict[str, Any] | None:
        for line in output.read_bytes()[after:].decode("utf-8", "replace").splitlines():
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
        time.sleep(0.05)


# ---------------------------------------------------------------------------------------------------------------------


def tree(pid: int) -> list[psutil.Process]:
    """A process, and after it its children and theirs."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pids: Iterable[int]) -> float:
    """CPU time, user and system, of processes that live, in nanoseconds' grain where the system has it. Raises Failed."""
    return sum(map(_cpu_s, pids))


def tree_cpu_s(pid: int) -> float:
    """The same of a process and all its children, those that have ended included. Raises Failed."""
    total = 0.0
    for process in tree(pid):
        try:
            # A child that has ended counts for its parent, once that has taken notice of it; so none counts twice.
            total += sum(process.cpu_times()[2:4]) + _cpu_s(process.pid)
        except (psutil.NoSuchProcess, Failed):
            continue
    if not total:
        raise Failed("the process has ended")
    return total


def _cpu_s(pid: int) -> float:
    try:
        # What clock_getcpuclockid(3) makes of a process's number on Linux.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError as error:
        try:
            return sum(psutil.Process(pid).cpu_times()[:2])
        except psutil.NoSuchProcess:
            raise Failed("a process of it has ended") from error


def rss_mib(pids: Iterable[int]) -> float:
    """Resident memory of processes; what they share counts for each. Raises Failed."""
    try:
        return sum(psutil.Process(pid).memory_info().rss for pid in pids) / (1 << 20)
    except psutil.NoSuchProcess as error:
        raise Failed("a process of it has ended") from error


def tree_rss_mib(pid: int) -> float:
    return rss_mib(process.pid for process in tree(pid))


@contextmanager
def watched_mib(measure: Callable[[], float]) -> Iterator[list[float]]:
    """Look at a memory figure over and over meanwhile; the list that is yielded holds what was seen."""
    seen = [measure()]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            seen.append(measure())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def machine_busy_s() -> float:
    """CPU time that all processes of this machine have used so far."""
    times = psutil.cpu_times()
    return times.user + times.system + getattr(times, "nice", 0.0)
