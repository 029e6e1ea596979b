"""Looks for what must be nowhere: in whatever a gateway wrote or said, for secrets it was given, in every usual coding.

A scan that looked at nothing fails, and tests/test_canaries.py plants what is looked for and has it found.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, unquote, urlsplit

CANARY_BYTES_MIN = 8
"""What is shorter than that is found by accident."""

UNPACKED_BYTES_MAX = 64 << 20

GATEWAY_KEY = re.compile(rb"tk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")
ADMIN_KEY = re.compile(rb"tka_[A-Za-z0-9_-]{43}")
SEALED_OR_ADMIN_KEY = re.compile(rb"v1\.[A-Za-z0-9_-]{38,}|(?P<key>%s)" % ADMIN_KEY.pattern)
"""A sealed value has the same alphabet, so that one in some 40,000 of 400 characters holds `tka_` by accident."""

SECRET_SETTINGS = re.compile(r"TOLLKEEPER_(?:ADMIN_KEY|SECRET_KEY|PROVIDERS__\w+__(?:API_KEY|AUTH_TOKEN))")

DATA_DIR = "TOLLKEEPER_DATA_DIR"
DATABASE_URL = "TOLLKEEPER_DATABASE_URL"
MIGRATE_URL = "TOLLKEEPER_DATABASE_MIGRATE_URL"
OUTPUT = "output"
POSTGRES = "Postgres"

SECRET_FILE = "secret.key"
"""The one file of a data directory that is there to hold a secret."""

RECORDS = ("*.spool", "*.db", "*.db-wal", "snapshot.json")
"""What gateways write, also those that a test runs within its own process."""


class Hit(NamedTuple):
    """A canary that was found."""

    name: str
    coding: str
    where: str


def codings(value: bytes) -> dict[str, set[bytes]]:
    """How a value can stand in a file: by coding, the bytes to look for."""
    text = value.decode()
    return {
        "raw": {value},
        "hex": {value.hex().encode(), value.hex().upper().encode()},
        "base64": set(_in_base64(value)),
        "url": {quote(text, safe="").encode(), quote_plus(text).encode(), _percent(value)} - {value},
        "json": {text.encode("unicode_escape"), text.replace("/", "\\/").encode()} - {value},
        "utf-16": {text.encode("utf-16-le"), text.encode("utf-16-be")},
        "reversed": {value[::-1]},
    }


def _in_base64(value: bytes) -> Iterator[bytes]:
    """The middle of its base64, at each of the three places at which it can begin in something larger."""
    for skipped in range(3):
        coded = base64.b64encode(bytes(skipped) + value)
        # Characters at both ends depend on the neighbours too.
        middle = coded[(0, 2, 3)[skipped] : len(coded) - (0, 3, 2)[(skipped + len(value)) % 3]]
        yield middle
        yield middle.translate(bytes.maketrans(b"+/", b"-_"))


def _percent(value: bytes) -> bytes:
    return b"".join(b"%%%02X" % byte for byte in value)


class Canaries:
    """Values that must be nowhere, by a name that may be shown."""

    def __init__(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            assert len(value) >= CANARY_BYTES_MIN, f"{name} is too short to be looked for"
        self.names = tuple(values)
        self._needles = [
            (needle, name, coding)
            for name, value in values.items()
            for coding, needles in codings(value.encode()).items()
            for needle in needles
        ]

    def hits(self, data: bytes, where: str) -> list[Hit]:
        """Where any of them stands in that, packed streams in it unpacked."""
        found = [Hit(name, coding, where) for needle, name, coding in self._needles if needle in data]
        for place, unpacked in _unpacked(data):
            found += [
                Hit(name, f"{coding} in a packed stream", f"{where} at {place}")
                for needle, name, coding in self._needles
                if needle in unpacked
            ]
        return found


def _unpacked(data: bytes) -> Iterator[tuple[int, bytes]]:
    """What is in each gzip or zlib stream that begins somewhere in it."""
    whole = memoryview(data)
    for found in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", data):
        inflating = zlib.decompressobj(47)
        try:
            unpacked = inflating.decompress(whole[found.start() :], UNPACKED_BYTES_MAX)
        except zlib.error:
            continue
        if len(unpacked) >= CANARY_BYTES_MIN:
            yield found.start(), unpacked


def keys_in(data: bytes, where: str) -> list[Hit]:
    """Whatever has the form of a key of ours, of which nobody needs to know which it is."""
    found = [Hit("a gateway key", "raw", where) for _ in GATEWAY_KEY.finditer(data)]
    return found + [Hit("an admin key", "raw", where) for one in SEALED_OR_ADMIN_KEY.finditer(data) if one["key"]]


class Scan:
    """Adds up what was found, and how much was looked at."""

    def __init__(self, canaries: Canaries) -> None:
        self._canaries = canaries
        self.hits: list[Hit] = []
        self.bytes_of: dict[str, int] = {}
        """How much was looked at, by place."""

    def look(self, data: bytes, where: str) -> None:
        data = data.rstrip(b"\0")  # A spool has its whole size before anything is in it.
        self.bytes_of[where] = self.bytes_of.get(where, 0) + len(data)
        self.hits += self._canaries.hits(data, where) + keys_in(data, where)

    def look_into(self, directory: Path, *, but: Iterable[str] = ()) -> None:
        """Every file below that directory, but for those of these names."""
        for path in sorted(directory.rglob("*")):
            # A gateway that runs removes spools once they are booked.
            with suppress(FileNotFoundError):
                if path.is_file() and path.name not in but:
                    self.look(path.read_bytes(), path.relative_to(directory).as_posix())

    @property
    def looked_at(self) -> int:
        return sum(self.bytes_of.values())


@dataclass
class Watched:
    """A process of the gateway's that was started in this session: what it was given, and where it wrote."""

    environment: Mapping[str, str]
    said: list[str]
    """Lines of its output, which may still grow."""
    shows_keys: bool = False
    """True for a sandbox, which prints the keys that it made for whoever tries it."""
    rows: bytes = field(default=b"")
    """What stood in its Postgres."""

    @property
    def data_dir(self) -> Path:
        return Path(self.environment[DATA_DIR])

    @property
    def database(self) -> str | None:
        """The name of its Postgres database, if it has one."""
        url = urlsplit(self.environment.get(DATABASE_URL, ""))
        return url.path.removeprefix("/") if url.scheme == "postgresql" else None

    def scan(self, more: Mapping[str, str] | None = None) -> Scan:
        """Look for its secrets, and for more if there are more, wherever it wrote."""
        values = {**secrets_in(self.environment), **(more or {})}
        generated = self.data_dir / SECRET_FILE
        if generated.exists():
            values["the generated secret"] = generated.read_text().strip()
        looking = Scan(Canaries(values))
        output = "".join(line for line in self.said if not SHOWN_ONCE.match(line)).encode()
        if self.shows_keys:
            output = ADMIN_KEY.sub(b"", GATEWAY_KEY.sub(b"", output))
        looking.look(output, OUTPUT)
        looking.look_into(self.data_dir, but=(SECRET_FILE,))
        looking.look(self.rows, POSTGRES)
        return looking


SHOWN_ONCE = re.compile(r"Admin key, shown this once: ")
"""The one line in which a key that nobody chose is told."""

WATCHED: list[Watched] = []
"""Every one of them, in the order in which they were started."""


def watch(environment: Mapping[str, str], said: list[str], *, shows_keys: bool) -> None:
    """Have a process looked at when all tests are over; one that has no data directory is none of the gateway's."""
    if DATA_DIR in environment:
        WATCHED.append(Watched(dict(environment), said, shows_keys))


def leaks(watched: Iterable[Watched]) -> list[str]:
    """What is wrong after all tests: secrets that were found, and processes of which there was nothing to look at."""
    found = []
    for process in watched:
        looked = process.scan()
        found += [f"{hit.name} as {hit.coding} in {hit.where} of {process.data_dir}" for hit in looked.hits]
        if not looked.bytes_of[OUTPUT]:
            found.append(f"the gateway of {process.data_dir} said nothing that could be looked at")
    return found


def leaks_of_records(directory: Path) -> list[str]:
    """Keys in the spools, ledgers and snapshots below a directory, whoever wrote them."""
    return [
        f"{hit.name} in {hit.where}"
        for pattern in RECORDS
        for path in sorted(directory.rglob(pattern))
        for hit in keys_in(path.read_bytes(), str(path))
    ]


def secrets_in(environment: Mapping[str, str]) -> dict[str, str]:
    """What of a gateway's settings nobody may read anywhere, by the names of the settings."""
    found = {name: value for name, value in environment.items() if SECRET_SETTINGS.fullmatch(name) and value}
    for name in (DATABASE_URL, MIGRATE_URL):
        password = urlsplit(environment.get(name, "")).password
        if password:
            found[name] = unquote(password)
    return found


def rows_of(ask: Callable[[str], list[Any]]) -> bytes:
    """Everything that stands in the tables of a Postgres database, as text; `ask` runs one statement in it."""
    tables = ask(
        "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
        "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    found = []
    for table in tables:
        found += [f"{table['name']} {row['row']}" for row in ask(f"SELECT t::text AS row FROM {table['name']} t")]
    return "\n".join(found).encode()
