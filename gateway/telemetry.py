"""The gateway's own log: JSON lines to stdout, readable on a terminal. Not its customers' usage.

No line holds a body, a key, a number or an address. Lines about the process go through structlog; the one line a call
costs is written by `AccessLog` in the same form, because structlog would cost as much as parsing the request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import structlog

FLUSH_BYTES = 64 << 10
RETRY_S = 0.05
BACKLOG_BYTES_MAX = 8 << 20
"""Lines that the reader of stdout has not taken; beyond it lines are dropped and counted, for a log must not stop calls."""


def configure(*, as_json: bool, level: str) -> None:
    """Set up structlog, and what libraries say through logging, for this process."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(
            serializer=lambda value, **_: msgspec.json.encode(value, enc_hook=str).decode()
        )
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        # It would keep what was configured before a reload.
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(name)s: %(message)s", force=True)
    # asyncio's reports and aiohttp's tracebacks can quote what came over the wire.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@contextmanager
def speaking_to_stderr() -> Iterator[None]:
    """Keeps what a command's process says of itself out of the command's answer."""
    before = structlog.get_config()
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    try:
        yield
    finally:
        structlog.configure(**before)


log: structlog.stdlib.BoundLogger = structlog.get_logger()


class CallLine(msgspec.Struct, tag_field="event", tag="call", omit_defaults=True):
    """What the log says of one call; what is None is not said."""

    level: str
    timestamp: str
    call_id: str
    status: int
    """0 where the client got no answer."""
    method: str
    provider: str | None = None
    endpoint: str | None = None
    tenant_id: str | None = None
    key_id: str | None = None
    duration_ms: float | None = None
    upstream_ms: float | None = None
    """How long the provider was waited for; the rest of the time is the gateway's, and the client's."""
    gateway_ms: float | None = None
    event_type: str | None = None
    resource: str | None = None
    completeness: str | None = None
    usage: dict[str, int] | None = None
    error: str | None = None


class AccessLog:
    """Writes one line per call, joined per turn of the loop."""

    def __init__(self, fd: int, *, as_json: bool) -> None:
        self._fd = fd
        self._as_json = as_json
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []
        self._size = 0
        self._stuck = False
        """True while the reader of the log is slower than the calls; it is then tried again from time to time."""
        self.dropped = 0

    def call(self, said: CallLine) -> None:
        """Write the line of one call."""
        if self._size > BACKLOG_BYTES_MAX:
            self.dropped += 1
            return
        line = self._encode(said) + b"\n" if self._as_json else self._readable(said)
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        self._lines.append(line)
        self._size += len(line)
        if self._size > FLUSH_BYTES and not self._stuck:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        if not self._lines:
            return
        rest = memoryview(b"".join(self._lines))
        try:
            # A pipe that is ready takes so much without waiting (POSIX, write); one that is not would stop every call.
            while rest and select.select((), (self._fd,), (), 0)[1]:
                piece = bytes(rest[: select.PIPE_BUF])
                # Whole lines, since other workers write to the same pipe, which takes so much in one piece.
                rest = rest[os.write(self._fd, piece[: piece.rfind(b"\n") + 1] or piece) :]
        except OSError:
            rest = rest[:0]  # Nobody reads the log any more; the calls go on.
        self._lines = [bytes(rest)] if rest else []
        self._size = len(rest)
        self._stuck = bool(rest)
        if rest:
            asyncio.get_running_loop().call_later(RETRY_S, self.flush)

    def _readable(self, said: CallLine) -> bytes:
        usage = " ".join(f"{name}={amount}" for name, amount in (said.usage or {}).items())
        parts = (
            said.timestamp[11:23],
            str(said.status),
            said.tenant_id or "-",
            f"{said.provider or '-'}.{said.endpoint or '-'}",
            f"{said.duration_ms} ms (gateway {said.gateway_ms} ms)",
            usage or said.completeness or said.error or "",
            said.call_id,
        )
        return "  ".join(part for part in parts if part).encode() + b"\n"
