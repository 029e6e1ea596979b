"""A whole installation for a test: simulated providers, a gateway, both in processes of their own, and an admin.

Everything is reached as a user reaches it: over sockets, by the command line's processes, through the control API.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.truth import Exchange, read_truth
from tests import canaries
from tests.builds import environment_of
from tests.postgres import OWNER, Server

ADMIN_KEY = "admin-key-of-the-walks"
PROVIDER_KEY = "simulator-openai-key"
PATIENCE_S = 90
"""How long anything may take that should take a moment; a machine that is busy is not a defect."""

ON_BOTH = pytest.mark.parametrize("gateway", ["sqlite", "postgres"], indirect=True, scope="module")
"""Runs a module's tests on SQLite in one process, and on Postgres with two workers."""

REPOSITORY = Path(__file__).resolve().parents[2]


class Answered(Exception):
    """The control API refused: status and problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {problem}")
        self.status = status
        self.problem = problem


def eventually(found: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> Any:
    """Ask until the answer is true, and return it; fail with a sentence if it stays false."""
    deadline = time.monotonic() + within_s
    while True:
        answer = found()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.05)


def basic(user: str, password: str) -> str:
    """The Authorization header of whoever has a user name."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass
class Process:
    """A process of ours whose standard output is read as it comes."""

    command: list[str]
    environment: dict[str, str]
    lines: list[str] = field(default_factory=list)
    popen: subprocess.Popen[str] | None = None
    reading: threading.Thread | None = None

    def start(self) -> None:
        self.lines = []
        canaries.watch(self.environment, self.lines, shows_keys="sandbox" in self.command)
        self.popen = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment, **environment_of(self.command)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.reading = threading.Thread(target=self._read, args=(self.popen, self.lines), daemon=True)
        self.reading.start()

    @staticmethod
    def _read(popen: subprocess.Popen[str], lines: list[str]) -> None:
        assert popen.stdout is not None
        lines.extend(iter(popen.stdout.readline, ""))
        popen.stdout.close()

    def said(self, event: str) -> dict[str, Any]:
        """Wait for a log line of that name."""

        def find() -> dict[str, Any] | None:
            assert self.popen is not None
            code = None if self.popen.poll() is None else self.wait()
            for line in list(self.lines):
                if f'"{event}"' in line and line.startswith("{"):
                    found = json.loads(line)
                    if found.get("event") == event:
                        return found
            assert code is None, f"ended with {code}: {''.join(self.lines)}"
            return None

        try:
            return eventually(find, f"a line `{event}`")
        except AssertionError as error:
            raise AssertionError(f"{error}; it said {self.lines[-5:]}") from error

    def kill(self) -> None:
        """End it at once, as a power switch would."""
        self._send(signal.SIGKILL)
        assert self.popen is not None
        self.popen.wait(PATIENCE_S * 2)

    def stop(self) -> int:
        """Ask it to end, and wait."""
        self._send(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end, and until all that it said has been read; its exit code."""
        assert self.popen is not None
        assert self.reading is not None
        code = self.popen.wait(PATIENCE_S * 2)
        self.reading.join(PATIENCE_S)
        return code

    def _send(self, number: signal.Signals) -> None:
        assert self.popen is not None
        if self.popen.poll() is None:
            self.popen.send_signal(number)


@dataclass
class Simulated:
    """The providers as they are reached without the gateway."""

    base_urls: Mapping[str, str]
    credentials: Mapping[str, Mapping[str, str]]
    """What the platform's own clients hold, by provider and the names of the settings."""

    @property
    def settings(self) -> dict[str, str]:
        """What a gateway in front of them is told."""
        found = {f"providers__{name}__base_url": url for name, url in self.base_urls.items()}
        for name, credential in self.credentials.items():
            found |= {f"providers__{name}__{field}": value for field, value in credential.items()}
        return found


@dataclass
class Installation:
    """A gateway and the providers behind it."""

    directory: Path
    simulator: Process | None
    """None where the providers are a test's own."""
    gateway: Process
    providers: Simulated
    proxy_url: str = ""
    control_url: str = ""

    def start_gateway(self) -> None:
        self.gateway.start()
        serving = self.gateway.said("serving")
        self.proxy_url = "http://" + serving["proxy"]
        self.control_url = "http://" + serving["control"]

    @property
    def direct(self) -> str:
        """The base URL that OpenAI's SDK has without the gateway."""
        return self.providers.base_urls["openai"] + "/v1"

    @property
    def openai(self) -> str:
        """The base URL that OpenAI's SDK has with the gateway."""
        return self.proxy_url + "/openai/v1"

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    def truth(self) -> list[Exchange]:
        """What the simulator was asked and answered."""
        return read_truth(self.directory / "truth.jsonl")

    def ask(
        self, method: str, path: str, document: object = None, key: str = ADMIN_KEY, body: bytes | None = None
    ) -> Any:
        """Ask the control API."""
        data = body if body is not None else None if document is None else json.dumps(document).encode()
        headers = {"Authorization": f"Bearer {key}"} | ({} if data is None else {"Content-Type": "application/json"})
        request = urllib.request.Request(self.control_url + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            with error:
                raise Answered(error.code, json.loads(error.read() or b"{}")) from None

    def tenant(self, tenant_id: str, **fields: object) -> str:
        """Create a tenant; return a key of its."""
        self.ask("POST", "/v1/tenants", {"tenant_id": tenant_id, **fields})
        return self.key(tenant_id)

    def account_sid(self, tenant_id: str) -> str:
        """The account that a tenant has with the gateway."""
        return self.ask("GET", f"/v1/tenants/{tenant_id}")["twilio_account_sid"]

    def key(self, tenant_id: str, **fields: object) -> str:
        return self.ask("POST", f"/v1/tenants/{tenant_id}/keys", {"name": "walk", **fields})["key"]

    def events(self, tenant_id: str | None = None) -> list[dict[str, Any]]:
        """Every event in the ledger, newest first."""
        query = "/v1/usage/events?limit=1000&from=2020-01-01&to=2100-01-01"
        if tenant_id is not None:
            query += f"&tenant_id={tenant_id}"
        events, cursor = [], ""
        while True:
            page = self.ask("GET", query + cursor)
            events += page["data"]
            if page["next_cursor"] is None:
                return events
            cursor = f"&cursor={page['next_cursor']}"

    def asked(self) -> list[Exchange]:
        """What the simulator was asked by clients, and not by the gateway itself, which wants to know what became of it."""
        return [one for one in self.truth() if not (one.header("user-agent") or "").startswith("Python/")]

    def events_of(self, tenant_id: str, count: int, *, kind: str | None = None) -> list[dict[str, Any]]:
        """A tenant's events, of one kind or of all, once there are as many as that, in the order of the calls."""

        def of_kind() -> list[dict[str, Any]]:
            return [event for event in self.events(tenant_id) if kind in (None, event["kind"])]

        found = eventually(lambda: (e := of_kind()) and len(e) >= count and e, f"{count} events of {tenant_id}")
        assert len(found) == count, found
        return found[::-1]

    def logged(self) -> list[dict[str, Any]]:
        """What the gateway has said so far, in its log's lines."""
        return [json.loads(line) for line in list(self.gateway.lines) if line.startswith("{")]

    def calls_logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(self.gateway.lines) if line.startswith('{"event":"call"')]


def on_postgres(server: Server) -> dict[str, str]:
    """The settings of a gateway with two workers, on a new database of that server."""
    name = server.create()
    return {"database_url": server.url(name), "database_migrate_url": server.url(name, OWNER), "workers": "2"}


def simulator_process(truth_log: Path, *arguments: str) -> Process:
    command = [sys.executable, "-m", "gateway.simulator", "--truth-log", str(truth_log), *arguments]
    return Process(command, {})


def simulated(simulator: Process) -> Simulated:
    """What a simulator says of itself, once it listens."""
    said = simulator.said("simulator_listening")
    return Simulated(said["base_urls"], said["credentials"])


def gateway_process(data_dir: Path, providers: Simulated, **settings: str) -> Process:
    environment = {
        "TOLLKEEPER_DATA_DIR": str(data_dir),
        "TOLLKEEPER_PROXY__PORT": "0",
        "TOLLKEEPER_CONTROL__PORT": "0",
        "TOLLKEEPER_ADMIN_KEY": ADMIN_KEY,
        "TOLLKEEPER_LOG_FORMAT": "json",
        # Whatever else this machine is doing.
        "TOLLKEEPER_PROXY__LAG_MAX_S": "60",
        **{f"TOLLKEEPER_{name.upper()}": value for name, value in {**providers.settings, **settings}.items()},
    }
    return Process([sys.executable, "-m", "gateway", "serve"], environment)


@contextmanager
def installation(directory: Path, *simulator_arguments: str, **settings: str) -> Iterator[Installation]:
    """Start simulator and gateway; stop them at the end, which must go well."""
    simulator = simulator_process(directory / "truth.jsonl", *simulator_arguments)
    simulator.start()
    try:
        with gateway_before(directory, simulator, simulated(simulator), **settings) as running:
            yield running
    finally:
        simulator.stop()


@contextmanager
def gateway_before(
    directory: Path, simulator: Process | None, providers: Simulated, **settings: str
) -> Iterator[Installation]:
    """Start a gateway before providers that are there; stop it at the end, which must go well."""
    gateway = gateway_process(directory / "data", providers, **settings)
    running = Installation(directory, simulator, gateway, providers)
    running.start_gateway()
    try:
        yield running
    finally:
        code = gateway.stop()
    assert code == 0, gateway.lines[-20:]
