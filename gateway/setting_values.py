"""What a setting's value may be: one reader for each kind, out of text or what TOML has for it.

Readers raise Wrong, with the cure, and never quote what may be, or may hold, a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

MASK: Final = "***"

CHARACTERS_QUOTED_MAX: Final = 60
"""Of a wrong value, an error repeats so much."""


class Secret:
    """A value that shows as `***` wherever it is printed, logged or formatted."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class Wrong(ValueError):
    """A value that its setting cannot have: what is wrong with it, and the cure."""

    def __init__(self, wrong: str, cure: str) -> None:
        super().__init__(wrong, cure)
        self.wrong = wrong
        self.cure = cure


# ---------------------------------------------------------------------------------------------------------------------
# Words, numbers, paths


def text(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong("is not text", "put the value in quotes")
    if not value:
        raise Wrong("is empty", "give it a value or leave it out")
    return value


Choice = TypeVar("Choice", bound=StrEnum)


def one_of(choices: type[Choice]) -> Callable[[object], Choice]:
    """A reader of one word out of a list, in any case."""

    def read(value: object) -> Choice:
        try:
            return choices(str(value).strip().lower())
        except ValueError:
            raise Wrong(f"has no such value: {_quoted(value)}", "give " + " or ".join(choices)) from None

    return read


def switch(value: object) -> bool:
    word = str(value).strip().lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise Wrong(f"is neither true nor false: {_quoted(value)}", "give true or false")


def port(value: object) -> int:
    return _whole(value, range(65536), "give a port from 0 to 65535, where 0 lets the system choose")


def workers(value: object) -> int:
    return _whole(value, range(1, 1000), "give how many processes share the proxy's port")


COUNT_MAX: Final = 1_000_000
"""No number of a limit is larger: none of them means anything beyond it."""

SECONDS_MAX: Final = 86_400
"""No time of a limit is longer than a day."""


def count(value: object) -> int:
    return _whole(value, range(1, COUNT_MAX + 1), f"give a number from 1 to {COUNT_MAX}")


def held_mib(value: object) -> int:
    """As much as the largest body that is held, or more: with less, such a body would be refused at any time."""
    return _whole(value, range(8, COUNT_MAX + 1), f"give a number of MiB, from 8 to {COUNT_MAX}")


def seconds(value: object) -> float:
    """A time limit. There is no value that turns one off: what has none is what an attacker looks for."""
    return _seconds(value, f"give seconds, more than 0 and up to {SECONDS_MAX}, such as 10 or 0.5", zero=False)


def delay(value: object) -> float:
    """A time that something is put off by, which may be none."""
    return _seconds(value, f"give seconds, from 0 to {SECONDS_MAX}", zero=True)


def share(value: object) -> str:
    """A part of something, as a percentage."""
    # What reads settings is on the path of help, which does not wait for what reads events.
    from metering.reconciliation import tolerance_of  # noqa: PLC0415

    try:
        tolerance_of(text(value))
    except ValueError:
        raise Wrong(f"{_quoted(value)} is no percentage from 0% to 100%", "give one, such as 0.5%") from None
    return text(value)


def _seconds(value: object, cure: str, *, zero: bool) -> float:
    digits = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", digits):
        raise Wrong(f"is not a number of seconds: {_quoted(value)}", cure)
    if not 0 <= float(digits) <= SECONDS_MAX or (float(digits) == 0 and not zero):
        raise Wrong(f"is {digits}, which is out of its range", cure)
    return float(digits)


def _whole(value: object, allowed: range, cure: str) -> int:
    digits = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}", digits):
        raise Wrong(f"is not a whole number: {_quoted(value)}", cure)
    if int(digits) not in allowed:
        raise Wrong(f"is {int(digits)}, which is out of its range", cure)
    return int(digits)


def path(value: object) -> Path:
    name = str(value) if isinstance(value, Path) else text(value)
    if "\0" in name:
        raise Wrong("holds a NUL character", "give the path of a file or directory")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise Wrong(f"names a home directory that is not known: {_quoted(name)}", "give the whole path") from None


def directory(value: object) -> Path:
    found = path(value)
    if found.exists() and not found.is_dir():
        raise Wrong(f"is a file: {found}", "give the path of a directory; it is made if it is not there")
    return found


def file(value: object) -> Path:
    found = path(value)
    if not found.is_file():
        raise Wrong(f"names no file: {found}", "give the path of a file that is there")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Addresses


def host(value: object) -> str:
    address = text(value).strip()
    if not re.fullmatch(r"[0-9A-Za-z._-]+|[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*:[0-9A-Fa-f.:]*", address):
        raise Wrong(
            f"is not an address to listen on: {_quoted(value)}",
            "give one such as 127.0.0.1, 0.0.0.0 or ::1, without a port",
        )
    return address


HOSTS_MAX: Final = 100


def hosts(value: object) -> tuple[str, ...]:
    """Names or addresses of hosts, each with or without a port; in text with commas between."""
    given = value.split(",") if isinstance(value, str) else value
    cure = "give hosts such as app.internal or app.internal:8000, with commas between"
    if not isinstance(given, list | tuple):
        raise Wrong("is neither text nor a list", cure)
    found = tuple(str(one).strip().lower() for one in given)
    if not found or len(found) > HOSTS_MAX:
        raise Wrong(f"holds none, or more than {HOSTS_MAX}", cure)
    for one in found:
        if not re.fullmatch(r"([0-9a-z._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", one):
            raise Wrong(f"holds what is no host: {_quoted(one)}", cure)
    return found


def base_url(value: object) -> str:
    """An http or https URL to which the paths of calls can be appended. It is not quoted: people put keys into URLs."""
    url = text(value).rstrip("/")
    cure = "give one such as https://api.example.com"
    if not re.fullmatch(r"[\x21-\x7e]+", url) or "\\" in url:
        raise Wrong("holds a space or a character that no URL has", cure)
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        raise Wrong("is not a URL", cure) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Wrong("is not an http or https URL", cure)
    if "@" in parts.netloc:
        raise Wrong("holds a user name or password", "give the URL without; credentials have settings of their own")
    if "?" in url or "#" in url:
        raise Wrong("holds a query or a fragment", "give the URL without")
    if version := re.search(r"/v\d+\w*$", parts.path):
        raise Wrong(f"ends in {version[0]}, which the paths of calls bring along", f"give the URL without {version[0]}")
    return url


POSTGRES = re.compile(r"postgres(ql)?://")

POSTGRES_PARAMETERS: Final = frozenset(
    {"host", "port", "application_name", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl"}
)
"""What may follow the `?` of a Postgres URL; a name that is none of these would be told to the server as a setting."""


def database_url(value: object) -> Secret:
    url = text(value)
    if POSTGRES.match(url):
        return postgres_url(url)
    cure = "give postgresql://ROLE:PASSWORD@HOST/DATABASE, or sqlite:///ABSOLUTE/PATH/ledger.db, or leave it out"
    if url.startswith("postgres"):
        raise Wrong("names a driver or lacks the two slashes", cure)
    if not re.fullmatch(r"sqlite:///[^?#\0]+", url):
        raise Wrong("is the URL of neither a Postgres database nor an SQLite file", cure)
    around = database_file(url).parent
    if around == Path("/") or not around.is_dir():
        raise Wrong(
            "names a file in a directory that is not there", "give an absolute path, and make the directory first"
        )
    return Secret(url)


def postgres_url(value: object) -> Secret:
    """The URL of a Postgres database, as libpq takes it. It is not quoted: it holds a password."""
    url = text(value)
    cure = "give postgresql://ROLE:PASSWORD@HOST/DATABASE, what is special in the password as %XX"
    if not POSTGRES.match(url):
        raise Wrong("is not the URL of a Postgres database", cure)
    if not re.fullmatch(r"[\x21-\x7e]+", url) or "#" in url:
        raise Wrong("holds a space, a # or a character that no URL has", cure)
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it is what checks it
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query), max_num_fields=len(POSTGRES_PARAMETERS)))
    except ValueError:
        raise Wrong("is not a URL", cure) from None
    if unknown := sorted(set(query) - POSTGRES_PARAMETERS):
        raise Wrong(
            f"has a parameter that is not known: {_quoted(unknown[0])}",
            f"give none but {', '.join(sorted(POSTGRES_PARAMETERS))}",
        )
    if not re.fullmatch(r"/[^/]+", parts.path):
        raise Wrong("names no database", cure)
    if parts.netloc.count("@") > 1 or not (parts.hostname or query.get("host")):
        raise Wrong("names no host", f"{cure}; or for a Unix socket postgresql:///DATABASE?host=/DIRECTORY")
    return Secret(url)


def database_file(url: str) -> Path:
    """The file that an SQLite URL names. Three slashes and four mean the same here: the path is absolute."""
    return Path("/" + url.removeprefix("sqlite:///").lstrip("/"))


# ---------------------------------------------------------------------------------------------------------------------
# Secrets


def secret(characters_min: int) -> Callable[[object], Secret]:
    """A reader of secrets of at least this length."""

    def read(value: object) -> Secret:
        bare = text(value)
        # Keys travel in headers, where a line break that an editor left behind would begin another header.
        if not re.fullmatch(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", bare):
            raise Wrong(
                "begins or ends with a space, or holds a line break or a character outside ASCII",
                "give the bare secret",
            )
        if len(bare) < characters_min:
            raise Wrong(f"is shorter than {characters_min} characters", "make one with: openssl rand -hex 32")
        return Secret(bare)

    return read


SECRET_FILE_BYTES_MAX: Final = 64 << 10
"""A secret's file is read up to here: the longest secrets in use, private keys, have some 3 KiB."""


def secret_in_file(value: object) -> str:
    """The contents of a secret's file, without the line end that editors put at the end."""
    found = path(value)
    try:
        with found.open("rb") as opened:
            content = opened.read(SECRET_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Wrong(
            f"names a file that cannot be read ({error.strerror}): {found}", "give the path of a readable file"
        ) from None
    if len(content) > SECRET_FILE_BYTES_MAX:
        raise Wrong(f"names a file of more than 64 KiB: {found}", "put the bare secret into the file")
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Wrong(f"names a file that is not text: {found}", "put the bare secret into the file") from None


def _quoted(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= CHARACTERS_QUOTED_MAX else shown[:CHARACTERS_QUOTED_MAX] + "…"
