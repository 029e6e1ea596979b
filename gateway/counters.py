"""What a worker counts: plain integers in its own memory, written to a small file a few times a second.

Counting takes no lock and no system call, and knows nothing of who reads. The back office, which answers `/metrics`,
reads the files of all workers that live. A file is a slot: it is locked for as long as its worker lives, and the next one
that takes it goes on from what is there, so that no count goes back when a worker is replaced. A worker that is killed
takes with it what it has counted since it last wrote; the ledger, which is what calls are charged by, loses nothing.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count, product
from pathlib import Path
from typing import Final, NamedTuple

from gateway import errors
from gateway.providers import PROVIDERS
from metering.usage import Completeness

WRITE_S: Final = 0.25
"""Between two writes: so old may be what is read."""

SUFFIX: Final = ".counters"

TRIES: Final = 5
"""A reader holds a lock for a moment to see whether it is free. So often is tried before a slot counts as taken."""
TRY_S: Final = 0.01

NONE: Final = "none"
"""Stands for a provider that no path named, and for a status where the client got no answer."""

CLASSES: Final = (NONE, "1xx", "2xx", "3xx", "4xx", "5xx")

OTHER: Final = "other"
"""Stands for the providers that only the settings name, and for what no error of ours is."""

ERRORS: Final = (
    *sorted(
        {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Refusal)}
    ),
    "client_gone",
    "malformed_request",
    "usage_not_recorded",
    OTHER,
)
"""What the log can say is wrong with a call."""

TAKEN: Final = "taken"
WEBHOOK_OUTCOMES: Final = (
    *(TAKEN, "forged", "another_account", "not_the_tenants", "method_of_shared_account", "shared_account", "not_understood", "too_large", "not_recorded", "not_kept"),
    *("unknown_webhook", "unknown_tenant", "no_public_url", "no_credential", "owner_unknown", "overloaded", "sender_gone"),
    *("malformed", "unknown_key", "expired_key", "another_tenant", "suspended", "scope_missing"),
    OTHER,
)  # fmt: skip
"""What can become of what a provider tells by itself."""

GATEWAY_US_BOUNDS: Final[tuple[int, ...]] = (
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    10_000_000,
)


class Metric(NamedTuple):
    """One metric of a worker; how many words it takes, one for each of its series."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    series: tuple[tuple[str, ...], ...] = ((),)
    """The values of the labels, series by series."""
    per: int = 1
    """So many of what is counted make one of what is shown."""
    gauge: bool = False
    """True for what is so many now, and not so many since the beginning."""


CALLS: Final = Metric(
    "tollkeeper_calls_total",
    "Calls, by provider and by the class of the status that the client got.",
    ("provider", "class"),
    tuple(product((*(provider.name for provider in PROVIDERS), OTHER, NONE), CLASSES)),
)
CALL_ERRORS: Final = Metric(
    "tollkeeper_call_errors_total",
    "Calls that the gateway refused or that went wrong, by what the log says as `error`.",
    ("error",),
    tuple((error,) for error in ERRORS),
)
BUCKETS: Final = Metric(
    "tollkeeper_gateway_seconds",
    "How long calls took, less what the provider was waited for: the time of the gateway, and of slow clients.",
    ("le",),
    (*((str(bound / 1_000_000),) for bound in GATEWAY_US_BOUNDS), ("+Inf",)),
)
"""A histogram; each call is counted in one bucket, and added up where it is shown."""
GATEWAY_US: Final = Metric("tollkeeper_gateway_seconds_sum", "Of that histogram.", per=1_000_000)
UPSTREAM_US: Final = Metric("tollkeeper_upstream_seconds_total", "How long providers were waited for.", per=1_000_000)
INTENTS: Final = Metric("tollkeeper_intents_total", "Calls that were recorded before they were sent.")
OUTCOMES: Final = Metric(
    "tollkeeper_outcomes_total",
    "Calls whose use was recorded, by how well it is known; also those that bill nothing, which have no intent.",
    ("completeness",),
    tuple((completeness.value,) for completeness in Completeness),
)
CLOSED: Final = Metric("tollkeeper_intents_closed_total", "Calls that were recorded and then used nothing.")
UNKNOWN_FIELDS: Final = Metric(
    "tollkeeper_usage_fields_unknown_total",
    "Fields in providers' usage that nobody here knows, and that are not counted; the log names each once.",
)
WEBHOOKS: Final = Metric(
    "tollkeeper_webhooks_total",
    "What providers told by themselves, by what became of it: taken, or what the log says as `error`.",
    ("outcome",),
    tuple((outcome,) for outcome in WEBHOOK_OUTCOMES),
)
LOG_DROPPED: Final = Metric(
    "tollkeeper_access_log_lines_dropped_total", "Lines about calls that the reader of the log was too slow for."
)
GIVEN_UP: Final = Metric(
    "tollkeeper_spool_segments_given_up_total", "Segments left before they were full, because the disk refused."
)
SPOOL_FAILED: Final = Metric(
    "tollkeeper_spool_failed", "1 while the disk refuses records; calls get a 503 then.", gauge=True
)
UNDER_WAY: Final = Metric("tollkeeper_calls_under_way", "Calls that are being handled.", gauge=True)
OPEN: Final = Metric(
    "tollkeeper_calls_open", "Calls that were recorded before they were sent and have not ended.", gauge=True
)
CLIENTS: Final = Metric("tollkeeper_client_connections", "Open connections of clients.", gauge=True)
UPSTREAMS: Final = Metric("tollkeeper_upstream_connections", "Open connections to providers.", gauge=True)

LAYOUT: Final = (
    *(CALLS, CALL_ERRORS, BUCKETS, GATEWAY_US, UPSTREAM_US, INTENTS, OUTCOMES, CLOSED, UNKNOWN_FIELDS, WEBHOOKS),
    *(LOG_DROPPED, GIVEN_UP, SPOOL_FAILED, UNDER_WAY, OPEN, CLIENTS, UPSTREAMS),
)
"""The words of a file, metric by metric."""

_BEGINNINGS: Final = {
    metric.name: sum(len(before.series) for before in LAYOUT[:at]) for at, metric in enumerate(LAYOUT)
}
_WORDS: Final = sum(len(metric.series) for metric in LAYOUT)

_CALLS: Final[dict[str | None, int]] = {
    name: _BEGINNINGS[CALLS.name] + at * len(CLASSES)
    for at, name in enumerate((*(provider.name for provider in PROVIDERS), OTHER, None))
}
_CALLS_OF_OTHERS: Final = _CALLS[OTHER]
_ERRORS: Final = {error: _BEGINNINGS[CALL_ERRORS.name] + at for at, error in enumerate(ERRORS)}
_WEBHOOKS: Final = {outcome: _BEGINNINGS[WEBHOOKS.name] + at for at, outcome in enumerate(WEBHOOK_OUTCOMES)}
_OUTCOMES: Final = {completeness: _BEGINNINGS[OUTCOMES.name] + at for at, completeness in enumerate(Completeness)}
_BUCKETS: Final = _BEGINNINGS[BUCKETS.name]
_GATEWAY_US: Final = _BEGINNINGS[GATEWAY_US.name]
_UPSTREAM_US: Final = _BEGINNINGS[UPSTREAM_US.name]
_INTENTS: Final = _BEGINNINGS[INTENTS.name]
_CLOSED: Final = _BEGINNINGS[CLOSED.name]
_UNKNOWN_FIELDS: Final = _BEGINNINGS[UNKNOWN_FIELDS.name]

_HEAD: Final = struct.Struct("<II")
"""Which layout it is, and the checksum of the words: a file that is read while it is written is read again."""
_BODY: Final = struct.Struct(f"<{_WORDS}q")
_KIND: Final = zlib.crc32(repr([(metric.name, metric.series) for metric in LAYOUT]).encode())

_READS_MAX: Final = 5


class Counters:
    """What one worker counts. Its methods are called from the worker's loop alone."""

    def __init__(self) -> None:
        self._words = [0] * _WORDS
        self._before = tuple(self._words)
        """What the slot had counted when it was taken."""
        self._fd = -1
        self.look: Callable[[], None] = lambda: None
        """Called before what was counted is written, to have it see what others count."""

    def open(self, directory: Path, number: int) -> None:
        """Take the slot of that number, or the next that is free, and go on from what it has. Raises OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = next(fd for slot in count(number) if (fd := _taken(directory / f"{slot}{SUFFIX}")) is not None)
        before = _read(self._fd)
        if before is not None:
            self._words = list(before)
            for metric in LAYOUT:
                if metric.gauge:
                    self._words[_BEGINNINGS[metric.name]] = 0
            self._before = tuple(self._words)
        self.write()

    def close(self) -> None:
        """Write what was counted, and let the slot go."""
        self.write()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def write(self) -> None:
        """Show the others what was counted. Where the disk refuses, they see how old it is."""
        if self._fd >= 0:
            self.look()
            body = _BODY.pack(*self._words)
            with suppress(OSError):
                os.pwrite(self._fd, _HEAD.pack(_KIND, zlib.crc32(body)) + body, 0)

    def called(self, provider: str | None, status: int, error: str | None, gateway_us: int, upstream_us: int) -> None:
        """A call is over; `status` is 0 where the client got no answer."""
        words = self._words
        calls = _CALLS.get(provider, _CALLS_OF_OTHERS) + status // 100
        words[calls] = words[calls] + 1
        bucket = _BUCKETS
        # Most calls are in the first buckets.
        for bound in GATEWAY_US_BOUNDS:
            if gateway_us <= bound:
                break
            bucket += 1
        words[bucket] = words[bucket] + 1
        words[_GATEWAY_US] = words[_GATEWAY_US] + gateway_us
        words[_UPSTREAM_US] = words[_UPSTREAM_US] + upstream_us
        if error is not None:
            words[_ERRORS[error if error in _ERRORS else OTHER]] += 1

    def intent(self) -> None:
        self._words[_INTENTS] += 1

    def outcome(self, completeness: Completeness) -> None:
        self._words[_OUTCOMES[completeness]] += 1

    def closed(self) -> None:
        self._words[_CLOSED] += 1

    def unknown_fields(self, number: int) -> None:
        self._words[_UNKNOWN_FIELDS] += number

    def webhook(self, error: str | None) -> None:
        """Something that a provider told by itself was taken, or was not."""
        self._words[_WEBHOOKS[TAKEN if error is None else error if error in _WEBHOOKS else OTHER]] += 1

    def saw(
        self,
        *,
        log_dropped: int,
        segments_given_up: int,
        spool_failed: bool,
        under_way: int,
        open_calls: int,
        clients: int,
        upstreams: int,
    ) -> None:
        """Take what others keep count of: how many there are, or were since the worker began."""
        for metric, value in (
            (LOG_DROPPED, log_dropped),
            (GIVEN_UP, segments_given_up),
            (SPOOL_FAILED, spool_failed),
            (UNDER_WAY, under_way),
            (OPEN, open_calls),
            (CLIENTS, clients),
            (UPSTREAMS, upstreams),
        ):
            at = _BEGINNINGS[metric.name]
            self._words[at] = self._before[at] + value


class Counted(NamedTuple):
    """What a worker that lives has counted."""

    values: Mapping[str, tuple[int, ...]]
    """By the metric's name, one for each series; empty where another release wrote it."""
    written_s: float
    """When, in seconds since 1970."""


def living(directory: Path) -> dict[str, Counted]:
    """What each worker that lives has counted, by its slot. Raises OSError."""
    found = {}
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        with _opened(path) as fd:
            if not _free(fd):
                found[path.name.removesuffix(SUFFIX)] = Counted(_values(_read(fd)), os.fstat(fd).st_mtime)
    return found


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _free(fd: int, how: int = fcntl.LOCK_SH) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _taken(path: Path) -> int | None:
    """Open a slot and lock it; None where another worker has it. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(TRIES):
        if _free(fd, fcntl.LOCK_EX):
            return fd
        time.sleep(TRY_S)
    os.close(fd)
    return None


def _read(fd: int) -> tuple[int, ...] | None:
    """The words of a file; None where it has none of this layout."""
    for _ in range(_READS_MAX):
        data = os.pread(fd, _HEAD.size + _BODY.size, 0)
        if len(data) == _HEAD.size + _BODY.size:
            kind, checksum = _HEAD.unpack_from(data)
            if kind == _KIND and checksum == zlib.crc32(data[_HEAD.size :]):
                return _BODY.unpack_from(data, _HEAD.size)
    return None


def _values(words: Sequence[int] | None) -> dict[str, tuple[int, ...]]:
    if words is None:
        return {}
    beginnings = ((metric, _BEGINNINGS[metric.name]) for metric in LAYOUT)
    return {metric.name: tuple(words[at : at + len(metric.series)]) for metric, at in beginnings}
