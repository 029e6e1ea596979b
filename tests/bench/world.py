"""What all candidates of a run share: the upstream, its certificate, and a Postgres, started when first asked for."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests import postgres
from tests.bench.processes import PYTHON, started, told, tree_cpu_s


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
    certificate, key = _certified(directory)
    output = directory / "upstream.log"
    command = [*PYTHON, "tests.bench.upstream", "--certificate", str(certificate), "--key", str(key)]
    with ExitStack() as ends:
        process = ends.enter_context(started(command, output))
        ports = told(process, output, '"port"')
        yield World(directory, certificate, process.pid, ports["port"], ports["tls_port"], ends)


def _certified(directory: Path) -> tuple[Path, Path]:
    """A certificate for the loopback, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=8))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    written = directory / "certificate.pem", directory / "key.pem"
    written[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    written[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return written
