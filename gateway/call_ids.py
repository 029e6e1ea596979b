"""Our own ids, made before the deed: UUIDs of version 7 (RFC 9562 section 5.7), which sort by time."""

from __future__ import annotations

import os
from typing import Final

from gateway.clock import now_ms

_NOISE_DIGITS: Final = 18
"""So many of an id's digits are drawn: 72 bits. Two more could be, beside those of the variant; they stay 0."""
_DRAWN: Final = 128
"""For so many ids at once, since asking the system costs more than making an id."""

_BYTES: Final = [f"{byte:02x}" for byte in range(256)]


class _Making:
    """What the next id is made of. Only the process that drew noise may use it, and in one thread."""

    def __init__(self) -> None:
        self.noise = ""
        self.used = 0
        self.beginning_ms = -1
        self.beginning = ""
        """The moment of the last id but for its last byte, and how it is written."""

    def forget(self) -> None:
        """Let the noise go: a forked process would make the ids of its parent."""
        self.noise, self.used = "", 0


_making: Final = _Making()
os.register_at_fork(after_in_child=_making.forget)


def new_call_id(at_ms: int | None = None) -> str:
    """A new id for a call that arrives now, or at the given milliseconds since 1970."""
    making = _making
    moment_ms = now_ms() if at_ms is None else at_ms
    beginning_ms = moment_ms >> 8
    if beginning_ms != making.beginning_ms:
        digits = beginning_ms.to_bytes(5, "big").hex()
        making.beginning_ms, making.beginning = beginning_ms, f"{digits[:8]}-{digits[8:]}"
    if making.used == len(making.noise):
        making.noise, making.used = os.urandom(_DRAWN * _NOISE_DIGITS // 2).hex(), 0
    at, noise = making.used, making.noise
    making.used = at + _NOISE_DIGITS
    last = _BYTES[moment_ms & 0xFF]
    return (
        f"{making.beginning}{last}-7{noise[at : at + 3]}-8{noise[at + 3 : at + 6]}-{noise[at + 6 : at + _NOISE_DIGITS]}"
    )
