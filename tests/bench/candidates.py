"""What is measured: each candidate, how it is started, and when it is done with what it was given."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.processes import PYTHON, REPOSITORY, START_S, Failed, eventually, started, told

PATH = "/v1/chat/completions"
ADMIN_KEY = "admin-key-of-the-bench"
PROVIDER_KEY = "provider-key-of-the-bench"

BOOKED_S = 60
"""So long is waited until the ledger has what was called; that CPU time counts as well."""


class Missing(Exception):
    """A candidate is not installed; the message is how to install it."""


def _nothing_left() -> None:
    """Everything that calls cause is done once they are answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A candidate that answers."""

    pid: int
    port: int
    version: str
    path: str = PATH
    stream_port: int | None = None
    """Where streams are asked for, if that is elsewhere."""
    key: str = PROVIDER_KEY
    settle: Callable[[int], None] = field(default=lambda _: _nothing_left())
    """Given how many calls it has answered in all, wait until all they cause is done. Raises Failed."""
    verify: Callable[[int], None] = field(default=lambda _: _nothing_left())
    """At the very end: check that what was to be kept of these calls was kept. Raises Failed."""


def python_version() -> str:
    return f"{sys.implementation.name} {sys.version.split()[0]}"


@contextmanager
def direct(directory: Path, upstream: Running) -> Iterator[Running]:
    """No proxy at all: what the upstream itself costs, and the least latency there can be."""
    yield upstream


@contextmanager
def upstream_alone(directory: Path) -> Iterator[Running]:
    output = directory / "upstream.log"
    with started([*PYTHON, "tests.bench.upstream"], output) as process:
        port = told(process, output, '"port"')["port"]
        yield Running(pid=process.pid, port=port, version=f"uvloop {version('uvloop')}")


# ---------------------------------------------------------------------------------------------------------------------

NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    upstream provider {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 600s; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://provider; }} }}
    server {{ listen 127.0.0.1:{stream_port}; proxy_buffering off; location / {{ proxy_pass http://provider; }} }}
}}
"""


@contextmanager
def nginx(directory: Path, upstream: Running) -> Iterator[Running]:
    """nginx, plain `proxy_pass`, one worker, connections to the upstream kept; streams unbuffered; nothing logged."""
    # Debian keeps it where only root's PATH leads.
    program = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")
    if program is None:
        raise Missing("apt-get install nginx-light")
    port, stream_port = free_ports(2)
    configuration = directory / "nginx.conf"
    configuration.write_text(
        NGINX.format(
            # Its workers would otherwise be nobody, who may not enter our directory.
            user="user root root;" if os.geteuid() == 0 else "",
            directory=directory,
            upstream=upstream.port,
            port=port,
            stream_port=stream_port,
        )
    )
    output = directory / "nginx.log"
    command = [program, "-e", "stderr", "-p", str(directory), "-c", str(configuration)]
    with started(command, output) as process:
        await_port(process, stream_port, output)
        said = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=START_S, check=True).stderr
        yield Running(pid=process.pid, port=port, stream_port=stream_port, version=said.strip().rpartition(" ")[2])


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def await_port(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    def answers() -> bool:
        if process.poll() is not None:
            raise Failed(f"ended with {process.returncode} at its start: {output.read_text()[-400:].strip()}")
        with closing(socket.socket()) as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    eventually(answers, START_S, lambda: f"not listening within {START_S} s")


# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def plain_aiohttp(directory: Path, upstream: Running) -> Iterator[Running]:
    output = directory / "plain-proxy.log"
    command = [*PYTHON, "tests.bench.plain_proxy", "--upstream", f"http://127.0.0.1:{upstream.port}"]
    with started(command, output) as process:
        port = told(process, output, '"port"')["port"]
        yield Running(pid=process.pid, port=port, version=f"aiohttp {version('aiohttp')}, uvloop {version('uvloop')}")


# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def tollkeeper(directory: Path, upstream: Running) -> Iterator[Running]:
    """`tollkeeper serve`, everything in one process: ledger on SQLite, durability flush, access log to a file."""
    output, data_dir = directory / "tollkeeper.log", directory / "data"
    settings = {
        "DATA_DIR": str(data_dir),
        "PROXY__PORT": "0",
        "CONTROL__PORT": "0",
        "ADMIN_KEY": ADMIN_KEY,
        "DURABILITY": "flush",
        "LOG_FORMAT": "json",
        "PROVIDERS__OPENAI__BASE_URL": f"http://127.0.0.1:{upstream.port}",
        "PROVIDERS__OPENAI__API_KEY": PROVIDER_KEY,
    }
    named = {f"TOLLKEEPER_{name}": value for name, value in settings.items()}
    with started([*PYTHON, "gateway", "serve"], output, named) as process:
        serving = told(process, output, '"serving"')
        control = _Control("http://" + serving["control"])
        control.ask("POST", "/v1/tenants", {"tenant_id": "bench"})
        key = control.ask("POST", "/v1/tenants/bench/keys", {"name": "bench"})["key"]

        def settle(calls: int) -> None:
            eventually(
                lambda: control.events_booked() >= calls,
                BOOKED_S,
                lambda: f"{control.events_booked()} of {calls} calls are in the ledger after {BOOKED_S} s",
            )
            booked = control.events_booked()
            if booked != calls:
                raise Failed(f"{calls} calls were answered, and the ledger has {booked} events")

        def verify(calls: int) -> None:
            _verify(data_dir / "ledger.db", output, calls)

        yield Running(
            pid=process.pid,
            port=int(serving["proxy"].rpartition(":")[2]),
            version=_own_version(),
            path="/openai" + PATH,
            key=key,
            settle=settle,
            verify=verify,
        )


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

    def events_booked(self) -> int:
        return self.ask("GET", "/v1/usage/summary?from=2020-01-01&to=2100-01-01")["total"]["events"]


def _verify(ledger: Path, output: Path, calls: int) -> None:
    """Count again, apart from the gateway's own sums: events, whole, priced, each once; and lines of the access log."""
    question = (
        "SELECT count(*), count(DISTINCT e.external_id), sum(e.completeness = 'reported'), sum(c.priced) "
        "FROM usage_events e JOIN charges c USING (tenant_id, event_day, event_id)"
    )
    with closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True, timeout=START_S)) as connection:
        found = connection.execute(question).fetchone()
    if found != (calls,) * 4:
        raise Failed(f"{calls} calls, but events, different ones, reported and priced in the ledger: {found}")
    with output.open("rb") as file:
        lines = sum(re.match(rb'\{"event":"call",', line) is not None for line in file)
    if lines != calls:
        raise Failed(f"{calls} calls, but {lines} lines in the access log")


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


CANDIDATES = {"direct": direct, "nginx": nginx, "aiohttp": plain_aiohttp, "tollkeeper": tollkeeper}
"""In the order of the table. Each is given a directory of its own and the upstream."""
