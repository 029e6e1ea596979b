"""Server-sent events out of bytes that the network cut anywhere. Pure.

Framing by the WHATWG HTML standard, section 9.2.6 "Interpreting an event stream": lines end with CRLF, LF or CR, and a
blank line ends an event.
"""

from __future__ import annotations

import re

EVENT_BYTES_MAX = 16 << 20
"""The largest event that is looked at. The largest seen in recordings has 100,867 bytes, partial images are larger; what
exceeds the bound is passed over unread, so that one event can not fill the memory."""

_BLANK_LINE = re.compile(rb"\n\n|\n\r\n|\r\r\n|\n\r(?=.)|\r\r(?=.)", re.DOTALL)
"""A carriage return that came last may be half of a line end: what it ends is told when the next byte has come."""
_LOOK_BACK_BYTES = 3

_CARRIAGE_RETURN = 0x0D
"""As a number, for which bytes are looked through four times as fast."""


class Frames:
    """Cuts a byte stream into whole events, each with the blank line that ends it."""

    __slots__ = ("_searched", "overflowed", "rest")

    def __init__(self) -> None:
        self.rest = bytearray()
        """The beginning of an event whose end has not come yet."""
        self.overflowed = False
        """True while inside an event that exceeds the bound; its bytes are not kept."""
        self._searched = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the events that are complete with this chunk; joined with what came before they lose no byte."""
        rest = self.rest
        if not rest and not self.overflowed and chunk.endswith(b"\n\n") and _CARRIAGE_RETURN not in chunk:
            # Most events are one line, whose end is found at once.
            if chunk.find(b"\n") == len(chunk) - 2 or chunk.rfind(b"\n\n", 0, -1) < 0:
                return [chunk]
            if not chunk.endswith(b"\n\n\n"):
                return [event + b"\n\n" for event in chunk[:-2].split(b"\n\n")]
        rest += chunk
        events: list[bytes] = []
        start = 0
        for blank in _BLANK_LINE.finditer(rest, max(0, self._searched - _LOOK_BACK_BYTES)):
            if self.overflowed:
                self.overflowed = False
            else:
                events.append(bytes(rest[start : blank.end()]))
            start = blank.end()
        del rest[:start]
        if len(rest) > EVENT_BYTES_MAX or self.overflowed:
            self.overflowed = True
            del rest[:-_LOOK_BACK_BYTES]
        self._searched = len(rest)
        return events


def data(event: bytes) -> bytes:
    """The payload of one event: its `data` lines, joined by line feeds. Empty if it has none."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and _CARRIAGE_RETURN not in event:
        return event[6:-2]
    lines = event.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
