"""How a candidate is run and asked, as a value; and the one way in which all of them are started."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.load import PATH, Wrong, body_of, request
from tests.bench.processes import REPOSITORY, START_S, Failed, started, tail, told, tree_cpu_s

PROVIDER_KEY = "provider-key-of-the-bench"

PEERS = REPOSITORY / ".venv" / "peers"
"""Where `make bench-peers` and the lines that tell how to install others put them."""


class Missing(Exception):
    """A candidate is not installed; the message is how to install it."""


def _nothing_left(_: int) -> None:
    """Everything that calls cause is done once they are answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to run, and how to ask it."""

    version: str
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    pid: int = 0
    """Where there is no command: what runs already."""
    port: int | None = None
    """None: its first line of JSON says it."""
    stream_port: int | None = None
    """Where streams are asked for, if that is elsewhere."""
    path: str = PATH
    key: str = PROVIDER_KEY
    headers: Sequence[str] = ()
    model: str = "gpt-4o"
    verbatim: bool = True
    """Answers are the upstream's, byte for byte."""
    kinds: Callable[[int], Mapping[str, Sequence[int]]] = field(default=lambda _: {})
    """Its processes by what they are for, where that is to be told apart."""
    settle: Callable[[int], None] = field(default=_nothing_left)
    """Given how many calls it has answered in all, wait until all they cause is done. Raises Failed."""
    verify: Callable[[int], None] = field(default=_nothing_left)
    """When it has ended: check that what was to be kept of these calls was kept. Raises Failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A candidate that answers."""

    recipe: Recipe
    pid: int
    port: int
    start_s: float | None
    """From its start to its first answer."""
    kinds: Mapping[str, Sequence[int]]

    def cpu_s(self) -> float:
        return tree_cpu_s(self.pid)


@contextmanager
def running(recipe: Recipe, output: Path) -> Iterator[Running]:
    """Start a candidate and have it answer one call. Raises Failed."""
    if not recipe.command:
        assert recipe.port is not None
        yield Running(recipe=recipe, pid=recipe.pid, port=recipe.port, start_s=None, kinds={})
        return
    said = output.stat().st_size if output.exists() else 0
    began = time.monotonic()
    with started(recipe.command, output, recipe.environment) as process:
        port = told(process, output, '"port"', said)["port"] if recipe.port is None else recipe.port
        _first_answer(recipe, process, port, output)
        start_s = time.monotonic() - began
        yield Running(recipe=recipe, pid=process.pid, port=port, start_s=start_s, kinds=recipe.kinds(process.pid))


def _first_answer(recipe: Recipe, process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    deadline = time.monotonic() + START_S
    asked = request(
        recipe.path, f"127.0.0.1:{port}", recipe.key, stream=False, model=recipe.model, headers=recipe.headers
    )
    found = "nobody listens"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"ended with {process.returncode} at its start: {tail(output)}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=START_S) as line:
                line.sendall(asked)
                answer = b""
                while (data := line.recv(1 << 16)) and body_of(answer := answer + data) is None:
                    pass
                if data:
                    return
                found = "it closed the connection"
        except (OSError, Wrong) as error:
            found = str(error)
        time.sleep(0.005)
    raise Failed(f"no answer within {START_S} s: {found}; {tail(output)}")


def program(name: str, instead: str, install: str) -> str:
    """Where a program is: where an environment variable says, beside ours, among the peers, or on the PATH.

    Raises Missing.
    """
    # Debian keeps servers where only root's PATH leads.
    places = [str(REPOSITORY / ".venv" / "bin"), str(PEERS / "bin"), os.environ.get("PATH", os.defpath)]
    path = ":".join([*places, "/usr/sbin", "/usr/local/sbin"])
    found = os.environ.get(instead) or shutil.which(name, path=path)
    if found is None:
        raise Missing(f"{install} (or its path in {instead})")
    return found
