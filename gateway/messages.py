"""What the thinking modules see of HTTP. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from multidict import CIMultiDictProxy

Headers: TypeAlias = CIMultiDictProxy[str]
"""Case-insensitive; `get` gives the first of a repeated header."""

RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]
"""Header lines in their order, names in the case they came in, repeated ones repeated."""


@dataclass(frozen=True, slots=True, eq=False)
class RequestHead:
    """The head of a request, as it came, without what frames its body. Requests that are alike share one: it is told from
    another by its identity."""

    method: str
    target: str
    """Path and query, byte for byte as on the wire (RFC 9112 section 3.2.1, origin-form)."""
    headers: Headers
    raw_headers: RawHeaders
    remembered: bool = False
    """True where the next request that is alike will share it."""


class ResponseHead(NamedTuple):
    """The head of a provider's answer."""

    status: int
    reason: bytes
    lines: bytes
    """The header lines as they came, each behind the end of the line before it."""
    length: int | None = None
    """The declared length of the body; None where its end is told otherwise."""
    media_type: str = ""
    """The content type without its parameters, in lower case; empty if there is none."""
    encoding: str = ""
    """What the body is coded with, in lower case; empty if with nothing."""
    options: Sequence[bytes] = ()
    """The headers that Connection names, in lower case: meant for us alone, and cut as it is."""

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300

    def values(self, name: bytes) -> list[str]:
        """The values of a header, whose name is given in lower case."""
        fields = (line.partition(b":") for line in self.lines.split(b"\r\n"))
        return [value.strip(b" \t").decode("latin-1") for spelt, _, value in fields if spelt.lower() == name]
