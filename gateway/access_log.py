"""The one line of the log that a call costs, in the form of the lines about the process (:mod:`gateway.telemetry`).

Nearly all of a line was said before, of another call: what calls have in common is written once and remembered. Lines leave
together, some milliseconds' worth at a time, for asking whether the reader is ready and handing it a line costs as much as
making the line.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
from typing import Final

import msgspec

from gateway.recorder import Outcome
from metering.moments import iso_ms

GATHERED_S: Final = 0.01
"""So long a line waits for others, unless there are enough."""
FLUSH_BYTES: Final = 64 << 10
RETRY_S: Final = 0.05
BACKLOG_BYTES_MAX: Final = 8 << 20
"""Lines that the reader of stdout has not taken; beyond it lines are dropped and counted, for a log must not stop calls."""

PIECES_MAX: Final = 1024
PIECE_BYTES_MAX: Final = 512
"""So many pieces of lines are remembered, and none that is longer: what a client names can have any length."""

_CALL: Final = ("status", "method", "provider", "endpoint", "tenant_id", "key_id")
_USE: Final = ("event_type", "resource", "completeness")

_encode: Final = msgspec.json.Encoder().encode

_MILLISECONDS: Final = [b"%03d" % number for number in range(1000)]
_FRACTIONS: Final = [str(number / 1000)[1:].encode() for number in range(1000)]
"""What stands behind the milliseconds for so many microseconds, as in `0.0`, `0.25` and `1.125`."""


class AccessLog:
    """Writes one line per call, joined with those of others."""

    def __init__(self, fd: int, *, as_json: bool) -> None:
        self.dropped = 0
        self._fd = fd
        # Whole lines, since other workers write there too: a pipe takes so much in one piece (POSIX, write), a file any amount.
        self._at_once = BACKLOG_BYTES_MAX if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF
        self._as_json = as_json
        self._lines: list[bytes] = []
        self._size = 0
        self._stuck = False
        """True while the reader of the log is slower than the calls; it is then tried again from time to time."""
        self._second = -1
        self._second_said = b""
        """The second of the last line, and how it is written."""
        self._pieces: dict[tuple[object, ...], bytes] = {}
        """What was said before of a call and of its use, by what it says."""

    def call(
        self,
        *,
        arrived_ms: int,
        call_id: str,
        status: int,
        method: str,
        provider: str | None,
        endpoint: str | None,
        tenant_id: str | None,
        key_id: str | None,
        took_us: int,
        upstream_us: int,
        outcome: Outcome | None,
        error: str | None,
    ) -> None:
        """Write the line of one call; what is None is not said.

        `status` is 0 where the client got no answer. `upstream_us` is how long the provider was waited for; the rest of the time
        is the gateway's, and the client's.
        """
        if self._size > BACKLOG_BYTES_MAX:
            self.dropped += 1
            return
        gateway_us = took_us - upstream_us
        if self._as_json:
            second = arrived_ms // 1000
            if second != self._second:
                self._second, self._second_said = second, iso_ms(second * 1000)[: -len("000Z")].encode()
            used = b""
            if outcome is not None:
                use = self._piece(_USE, (outcome.event_type, outcome.resource, outcome.completeness))
                used = b'%b,"usage":%b' % (use, _encode(outcome.quantities))
            line = (
                b'{"event":"call","level":"info","timestamp":"%b%bZ","call_id":"%b"%b,"duration_ms":%d%b,"upstream_ms":%d%b,"gateway_ms":%d%b%b%b}\n'
                % (
                    self._second_said,
                    _MILLISECONDS[arrived_ms % 1000],
                    call_id.encode(),
                    self._piece(_CALL, (status, method, provider, endpoint, tenant_id, key_id)),
                    took_us // 1000,
                    _FRACTIONS[took_us % 1000],
                    upstream_us // 1000,
                    _FRACTIONS[upstream_us % 1000],
                    gateway_us // 1000,
                    _FRACTIONS[gateway_us % 1000],
                    used,
                    b"" if error is None else b',"error":%b' % _encode(error),
                )
            )
        else:
            usage = "" if outcome is None else " ".join(f"{name}={used}" for name, used in outcome.quantities.items())
            parts = (
                iso_ms(arrived_ms)[11:23],
                str(status),
                tenant_id or "-",
                f"{provider or '-'}.{endpoint or '-'}",
                f"{took_us / 1000} ms (gateway {gateway_us / 1000} ms)",
                usage or (outcome is not None and outcome.completeness) or error,
                call_id,
            )
            line = "  ".join(part for part in parts if part).encode() + b"\n"
        if not self._lines:
            asyncio.get_running_loop().call_later(GATHERED_S, self.flush)
        self._lines.append(line)
        self._size += len(line)
        if self._size > FLUSH_BYTES and not self._stuck:
            self.flush()

    def _piece(self, names: tuple[str, ...], values: tuple[object, ...]) -> bytes:
        piece = self._pieces.get(values)
        if piece is None:
            said = [(name, value) for name, value in zip(names, values, strict=True) if value is not None]
            piece = b"".join([b',"%b":%b' % (name.encode(), _encode(value)) for name, value in said])
            if len(piece) <= PIECE_BYTES_MAX:
                if len(self._pieces) == PIECES_MAX:
                    self._pieces.clear()
                self._pieces[values] = piece
        return piece

    def flush(self) -> None:
        """Write what has gathered."""
        if not self._lines:
            return
        rest = memoryview(b"".join(self._lines))
        try:
            # A pipe that is ready takes so much without waiting; one that is not would stop every call.
            while rest and select.select((), (self._fd,), (), 0)[1]:
                piece = bytes(rest[: self._at_once])
                written = os.write(self._fd, piece[: piece.rfind(b"\n") + 1] or piece)
                rest = rest[written:]
        except OSError:
            rest = rest[:0]  # Nobody reads the log any more; the calls go on.
        self._lines = [bytes(rest)] if rest else []
        self._size = len(rest)
        self._stuck = bool(rest)
        if rest:
            asyncio.get_running_loop().call_later(RETRY_S, self.flush)
