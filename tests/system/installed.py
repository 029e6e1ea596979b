"""What each system test stands in: a provider, a gateway in a process of its own on SQLite, and clients, each a process."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from tests.bench.gateways import ADMIN_KEY, COUNTED, tollkeeper
from tests.bench.processes import (
    PYTHON,
    REPOSITORY,
    START_S,
    Failed,
    end,
    environment,
    eventually,
    started,
    told,
)
from tests.bench.recipes import Missing
from tests.bench.world import World, standing

OPENAI = "/openai"
CHAT = f"{OPENAI}/v1/chat/completions"

BOOKED_S = 120
"""So long is waited until the ledger has what was answered."""


@contextmanager
def world(directory: Path) -> Iterator[World]:
    """A provider and a certificate. Raises Failed."""
    output = directory / "provider.log"
    with standing(directory) as of_the_bench, started([*PYTHON, "tests.system.provider"], output) as process:
        yield replace(of_the_bench, port=told(process, output, '"port"')["port"], upstream_pid=process.pid)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that is running."""

    pid: int
    port: int
    control_port: int
    key: str
    data_dir: Path

    def ask(self, method: str, path: str, document: object = None) -> Any:
        """Ask the control API. Raises Failed."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.control_port}{path}",
            data=None if document is None else json.dumps(document).encode(),
            method=method,
            headers={"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=START_S) as answer:
                return json.load(answer)
        except OSError as error:
            raise Failed(f"{method} {path} of the control API: {error}") from error

    def tenant(self, tenant_id: str) -> str:
        """Create one; return a key of its."""
        self.ask("POST", "/v1/tenants", {"tenant_id": tenant_id})
        return self.ask("POST", f"/v1/tenants/{tenant_id}/keys", {"name": "system"})["key"]

    def open_connections(self) -> int:
        """How many connections of clients there are, by the system's table (proc(5): 01 is an established one).

        psutil takes eight times as long, which with some thousands is a core for a tenth of a second, and other clients
        would seem to lack it on the gateway's account.
        """
        established = rb": 0100007F:%04X [0-9A-F]{8}:[0-9A-F]{4} 01 " % self.port
        return len(re.findall(established, Path("/proc/net/tcp").read_bytes()))

    def booked(self, calls: int) -> tuple[int, ...]:
        """Wait until the ledger has so many events; then count by itself: events, different ones, reported, priced."""

        def events() -> int:
            return self.ask("GET", "/v1/usage/summary?from=2020-01-01&to=2100-01-01")["total"]["events"]

        eventually(
            lambda: events() >= calls,
            BOOKED_S,
            lambda: f"{events()} of {calls} calls are in the ledger in {BOOKED_S} s",
        )
        url = f"{(self.data_dir / 'ledger.db').as_uri()}?mode=ro"
        with closing(sqlite3.connect(url, uri=True, timeout=START_S)) as connection:
            return tuple(connection.execute(COUNTED).fetchone())

    def calling(self, seconds: float, **options: object) -> Job:
        """Chat completions, as a job."""
        return Job("calls", self.port, {"key": self.key, "path": CHAT, "seconds": seconds, **options})


@contextmanager
def gateway(directory: Path, standing_in: World, **settings: object) -> Iterator[Gateway]:
    """An installation of its own in that directory, with the default limits where nothing else is said. Raises Failed."""
    directory.mkdir()
    recipe = tollkeeper(directory, standing_in, workers=None)
    more = {f"TOLLKEEPER_{name.upper()}": str(value) for name, value in settings.items()}
    output = directory / "output"
    with started(recipe.command, output, {**recipe.environment, **more}) as process:
        told(process, output, '"serving"')
        assert recipe.port is not None
        control_port = int(recipe.environment["TOLLKEEPER_CONTROL__PORT"])
        data_dir = Path(recipe.environment["TOLLKEEPER_DATA_DIR"])
        yield Gateway(process.pid, recipe.port, control_port, recipe.key, data_dir)


class Job:
    """One client, in a process of its own."""

    def __init__(
        self, job: str, port: int, options: Mapping[str, object], module: str = "tests.system.clients"
    ) -> None:
        arguments = [f"--{name}={value}" for name, value in options.items()]
        self._seconds = float(str(options.get("seconds", options.get("within"))))
        self._process = subprocess.Popen(
            [*PYTHON, module, job, f"--port={port}", *arguments],
            cwd=REPOSITORY,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def line(self) -> str:
        """The next line that it says; nothing once it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def report(self) -> dict[str, Any]:
        """Wait for its end, within bounds; what it found. Raises Failed."""
        try:
            said, complaint = self._process.communicate(b"go\n", self._seconds + 2 * START_S)
        except subprocess.TimeoutExpired as error:
            raise Failed("a client did not come to an end") from error
        if not said:
            raise Failed("a client failed: " + complaint[-300:].decode("utf-8", "replace"))
        found = json.loads(said)
        # `failed` is a sentence where the job came to nothing, and a table where single calls did.
        if isinstance(broken := found.get("broken") or found.get("failed"), str):
            raise Failed(broken)
        return found


def program(name: str) -> str:
    """Where a program is that Debian and its like have in a package of the same name. Raises Missing."""
    found = shutil.which(name)
    if found is None:
        raise Missing(f"apt-get install {name}")
    return found
