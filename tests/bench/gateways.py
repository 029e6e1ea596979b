"""Tollkeeper as it is measured: authenticating, metering, pricing, booking and logging every call.

Durability flush, access log to a file, ledger on SQLite in one process or on Postgres with workers. A sample ends when the
ledger has as many events as there were calls.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.bench.processes import PYTHON, REPOSITORY, START_S, Failed, eventually, free_port, started, told
from tests.bench.recipes import PATH, PROVIDER_KEY, Missing, Recipe
from tests.bench.world import World
from tests.builds import has_compiled
from tests.postgres import OWNER

ADMIN_KEY = "admin-key-of-the-bench"

PREFIX = "/openai"

BOOKED_S = 120
"""So long is waited until the ledger has what was called; that CPU time counts as well."""

SUPERVISOR, BACK_OFFICE, WORKER = "supervisor", "back office", "worker"

SERVE = (*PYTHON, "gateway", "serve")

BOOKED = "SELECT COALESCE(sum(events), 0) FROM rollups"

COUNTED = (
    "SELECT count(*), count(DISTINCT e.external_id), sum(CASE WHEN e.completeness = 'reported' THEN 1 ELSE 0 END), "
    "sum(CASE WHEN c.priced THEN 1 ELSE 0 END) "
    "FROM usage_events e JOIN charges c USING (tenant_id, event_day, event_id)"
)


def tollkeeper(
    directory: Path,
    world: World,
    *,
    workers: int | None,
    tls: bool = False,
    serve: Sequence[str] = SERVE,
    database_port: int | None = None,
    source: bool = False,
) -> Recipe:
    """An installation with a tenant and a key; without `workers`, on SQLite in one process. `database_port` leads to the
    Postgres of the world where that is not reached at its own. `source`: not compiled."""
    data_dir, output = directory / "data", directory / "output"
    proxy_port, control_port = free_port(), free_port()
    settings = {
        "DATA_DIR": str(data_dir),
        "PROXY__PORT": str(proxy_port),
        "CONTROL__PORT": str(control_port),
        "ADMIN_KEY": ADMIN_KEY,
        "DURABILITY": "flush",
        "LOG_FORMAT": "json",
        "PROVIDERS__OPENAI__BASE_URL": f"https://127.0.0.1:{world.tls_port}"
        if tls
        else f"http://127.0.0.1:{world.port}",
        "PROVIDERS__OPENAI__API_KEY": PROVIDER_KEY,
    }
    database = ""
    if workers is not None:
        database = world.postgres.create()
        settings["DATABASE_URL"] = world.postgres.url(database, port=database_port)
        settings["DATABASE_MIGRATE_URL"] = world.postgres.url(database, OWNER)
        settings["WORKERS"] = str(workers)
    environment = {f"TOLLKEEPER_{name}": value for name, value in settings.items()}
    if source:
        if not has_compiled():
            raise Missing("`make compiled` builds another one to compare it with")
        environment["PYTHONPATH"] = str(REPOSITORY)
    if tls:
        environment["SSL_CERT_FILE"] = str(world.certificate)
    control = _Control(f"http://127.0.0.1:{control_port}")
    with started(SERVE, directory / "first-start", environment) as process:
        told(process, directory / "first-start", '"serving"')
        control.ask("POST", "/v1/tenants", {"tenant_id": "bench"})
        key = control.ask("POST", "/v1/tenants/bench/keys", {"name": "bench"})["key"]

    def ask_ledger(question: str) -> Sequence[Any]:
        """Past the gateway: what asking it would cost is not what a call costs."""
        if workers is None:
            url = f"{(data_dir / 'ledger.db').as_uri()}?mode=ro"
            with closing(sqlite3.connect(url, uri=True, timeout=START_S)) as connection:
                return tuple(connection.execute(question).fetchone())
        (found,) = world.postgres.execute(question, database=database)
        return tuple(found)

    def settle(calls: int) -> None:
        booked = 0

        def all_booked() -> bool:
            nonlocal booked
            (booked,) = ask_ledger(BOOKED)
            return booked >= calls

        eventually(all_booked, BOOKED_S, lambda: f"{booked} of {calls} calls are in the ledger after {BOOKED_S} s")
        if booked != calls:
            raise Failed(f"{calls} calls were answered, and the ledger has {booked} events")

    def verify(calls: int) -> None:
        """Count again, apart from the gateway's own sums: events, whole, priced, each once; and lines of the access log."""
        found = ask_ledger(COUNTED)
        if found != (calls,) * 4:
            raise Failed(f"{calls} calls, but events, different ones, reported and priced in the ledger: {found}")
        with output.open("rb") as file:
            lines = sum(line.startswith(b'{"event":"call",') for line in file)
        if lines != calls:
            raise Failed(f"{calls} calls, but {lines} lines in the access log")

    return Recipe(
        version=_own_version(),
        command=serve,
        environment=environment,
        port=proxy_port,
        path=PREFIX + PATH,
        key=key,
        kinds=lambda pid: {WORKER: [pid]} if workers is None else _kinds(pid, workers),
        settle=settle,
        verify=verify,
    )


def _kinds(supervisor: int, workers: int) -> Mapping[str, Sequence[int]]:
    """The back office is started first, and is ready before the workers begin."""
    children = sorted(psutil.Process(supervisor).children(), key=lambda child: (child.create_time(), child.pid))
    pids = [child.pid for child in children]
    if len(pids) < 1 + workers:
        raise Failed(f"it has {len(pids)} processes, and not a back office and {workers} workers")
    return {WORKER: pids[1 : 1 + workers], BACK_OFFICE: pids[:1], SUPERVISOR: [supervisor]}


class _Control:
    """The control API of the gateway that is measured."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, method: str, path: str, document: object = None) -> Any:
        request = urllib.request.Request(
            self._base_url + path,
            data=None if document is None else json.dumps(document).encode(),
            method=method,
            headers={"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=START_S) as answer:
                return json.load(answer)
        except OSError as error:
            raise Failed(f"{method} {path} of the control API: {error}") from error


def _own_version() -> str:
    described = subprocess.run(
        ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    commit = described.stdout.strip()
    return version("tollkeeper") + (f" ({commit})" if commit else "")
