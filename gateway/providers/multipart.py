"""Reading short fields of a multipart form of any size as it goes by. Pure.

The format is RFC 7578's over RFC 2046 section 5.1: a delimiter line, headers, a blank line, the content, all lines ended
by CRLF. What breaks it is looked at no further and never raises: whether it is acceptable is the provider's to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

BOUNDARY_BYTES_MAX = 70
"""RFC 2046 section 5.1.1."""
HEADERS_BYTES_MAX = 8 << 10
"""So much the headers of one part may take; a file's name is the longest of them."""
VALUE_BYTES_MAX = 512
"""Of a field that is wanted; a longer one is not read."""

_DISPOSITION = re.compile(rb"(?:^|\r\n)content-disposition:[ \t]*form-data([^\r]*)", re.IGNORECASE)
_PARAMETER = re.compile(rb';[ \t]*([a-z*]+)=(?:"((?:[^"\\]|\\.)*)"|([^;" \t]*))', re.IGNORECASE)


class Fields:
    """Finds the wanted fields of a form; of each the first that is short enough."""

    __slots__ = ("_delimiter", "_held", "_name", "_reading", "_value", "_wanted", "complete", "found")

    def __init__(self, wanted: Collection[str]) -> None:
        self.found: dict[str, str] = {}
        self.complete = False
        """True once the form has ended."""
        self._wanted = wanted
        self._delimiter = b""
        self._held = b""
        """What has come and could not be told yet: a delimiter's beginning, headers without their end."""
        self._reading: Callable[[], bool] = self._first_line
        self._name: str | None = None
        """The wanted field whose content is being read."""
        self._value = b""

    def feed(self, chunk: bytes) -> None:
        self._held += chunk
        while self._held and self._reading():
            pass

    # Each reads a step on from what is held, and says whether it could.

    def _first_line(self) -> bool:
        line, end, rest = self._held.partition(b"\r\n")
        if len(line) > BOUNDARY_BYTES_MAX + 2 + _cut(end, 1) or not line.startswith(b"--"[: len(line)]):
            return self._give_up()
        if not end or len(line) < 3:
            return bool(end) and self._give_up()
        self._delimiter = b"\r\n" + line
        self._held = rest
        self._reading = self._headers
        return True

    def _headers(self) -> bool:
        headers, end, rest = self._held.partition(b"\r\n\r\n")
        if len(headers) > HEADERS_BYTES_MAX + _cut(end, 3):
            return self._give_up()
        if not end:
            return False
        self._name, self._value = self._wanted_name(headers), b""
        self._held = rest
        self._reading = self._content
        return True

    def _content(self) -> bool:
        content, delimiter, rest = self._held.partition(self._delimiter)
        if not delimiter:
            told = max(0, len(content) - len(self._delimiter) + 1)
            content, self._held = content[:told], content[told:]
        if self._name is not None:
            self._value += content[: VALUE_BYTES_MAX + 1 - len(self._value)]
        if not delimiter:
            return False
        if self._name is not None and len(self._value) <= VALUE_BYTES_MAX:
            self.found.setdefault(self._name, self._value.decode("utf-8", "replace"))
        self._held = rest
        self._reading = self._after_delimiter
        return True

    def _after_delimiter(self) -> bool:
        if self._held.startswith(b"--"):
            self.complete = True
            return self._give_up()
        padding, end, rest = self._held.partition(b"\r\n")
        if len(padding) > HEADERS_BYTES_MAX + _cut(end, 1) or (end and padding.strip(b" \t")):
            return self._give_up()
        if not end:
            return False
        self._held = rest
        self._reading = self._headers
        return True

    def _over(self) -> bool:
        self._held = b""
        return False

    def _give_up(self) -> bool:
        """Look no further; what was found stays."""
        self._reading = self._over
        return self._over()

    def _wanted_name(self, headers: bytes) -> str | None:
        disposition = _DISPOSITION.search(headers)
        if disposition is None:
            return None
        for parameter, quoted, plain in _PARAMETER.findall(disposition[1]):
            if parameter.lower() == b"name":
                name = (quoted or plain).decode("utf-8", "replace")
                return name if name in self._wanted else None
        return None


def boundary_of(body: bytes) -> bytes:
    """The delimiter of a form by its first line; empty where there is none."""
    line, end, _ = body[: BOUNDARY_BYTES_MAX + 4].partition(b"\r\n")
    return line if end and len(line) > 2 and line.startswith(b"--") else b""


def _cut(end: bytes, size: int) -> int:
    """How many bytes of an end that has not come whole may be among what was counted."""
    return 0 if end else size
