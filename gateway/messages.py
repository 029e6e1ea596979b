"""What the thinking modules see of HTTP. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from multidict import CIMultiDictProxy

Headers: TypeAlias = CIMultiDictProxy[str]
"""Case-insensitive; `get` gives the first of a repeated header."""

RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]
"""Header lines in their order, names in the case they came in, repeated ones repeated."""


class RequestHead(NamedTuple):
    """The head of a request, as it came."""

    method: str
    target: str
    """Path and query, byte for byte as on the wire (RFC 9112 section 3.2.1, origin-form)."""
    headers: Headers
    raw_headers: RawHeaders


class ResponseHead(NamedTuple):
    """The head of a provider's answer."""

    status: int
    reason: str
    headers: Headers
    raw_headers: RawHeaders

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300

    @property
    def media_type(self) -> str:
        """The content type without its parameters, in lower case; empty if there is none."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
