"""What all candidates of a run share: the upstream, its certificate, and a Postgres, started when first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests import postgres
from tests.bench.processes import PYTHON, started, told, tree_cpu_s
from tests.certificates import made_certificate


@dataclass
class World:
    """What the candidates stand in."""

    directory: Path
    certificate: Path
    upstream_pid: int
    port: int
    tls_port: int
    ends: ExitStack
    _postgres: postgres.Server | None = field(default=None)

    @property
    def postgres(self) -> postgres.Server:
        if self._postgres is None:
            self._postgres = self.ends.enter_context(postgres.running())
        return self._postgres

    def postgres_cpu_s(self) -> float:
        """Of all its processes so far; 0 where nobody needed it."""
        if self._postgres is None:
            return 0.0
        assert self._postgres.process is not None
        return tree_cpu_s(self._postgres.process.pid)


@contextmanager
def standing(directory: Path) -> Iterator[World]:
    """Raises Failed."""
    certificate, key = made_certificate(directory)
    output = directory / "upstream.log"
    command = [*PYTHON, "tests.bench.upstream", "--certificate", str(certificate), "--key", str(key)]
    with ExitStack() as ends:
        process = ends.enter_context(started(command, output))
        ports = told(process, output, '"port"')
        yield World(directory, certificate, process.pid, ports["port"], ports["tls_port"], ends)
