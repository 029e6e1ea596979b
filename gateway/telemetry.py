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
from typing import Any

import msgspec
import structlog

from metering.columns import iso_ms

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
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(name)s: %(message)s", force=True)
    # asyncio's reports and aiohttp's tracebacks can quote what came over the wire.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


log: structlog.stdlib.BoundLogger = structlog.get_logger()


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

    def call(self, at_ms: int, fields: dict[str, Any]) -> None:
        """Write the line of one call; fields that are None are left out."""
        if self._size > BACKLOG_BYTES_MAX:
            self.dropped += 1
            return
        if self._as_json:
            line = self._encode({"event": "call", "level": "info", "timestamp": iso_ms(at_ms), **fields}) + b"\n"
        else:
            line = self._readable(at_ms, fields)
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

    def _readable(self, at_ms: int, fields: dict[str, Any]) -> bytes:
        usage = " ".join(f"{name}={amount}" for name, amount in (fields.get("usage") or {}).items())
        parts = (
            iso_ms(at_ms)[11:23],
            str(fields.get("status")),
            f"{fields.get('tenant_id') or '-'}",
            f"{fields.get('provider') or '-'}.{fields.get('endpoint') or '-'}",
            f"{fields.get('duration_ms')} ms (gateway {fields.get('gateway_ms')} ms)",
            usage or fields.get("completeness") or fields.get("error") or "",
            fields.get("call_id", ""),
        )
        return "  ".join(part for part in parts if part).encode() + b"\n"
