"""What the thinking modules see of HTTP. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from multidict import CIMultiDictProxy

Headers: TypeAlias = CIMultiDictProxy[str]
"""Case-insensitive; `get` gives the first of a repeated header."""

RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]
"""Header lines in their order, names in the case they came in, repeated ones repeated."""


class RequestHead:
    """The head of a request, as it came, without what frames its body. Requests that are alike share one: it is never changed,
    and told from another by its identity."""

    __slots__ = ("headers", "method", "raw_headers", "remembered", "target")

    def __init__(
        self, method: str, target: str, headers: Headers, raw_headers: RawHeaders, *, remembered: bool = False
    ) -> None:
        self.method = method
        self.target = target
        """Path and query, byte for byte as on the wire (RFC 9112 section 3.2.1, origin-form)."""
        self.headers = headers
        self.raw_headers = raw_headers
        self.remembered = remembered
        """True where the next request that is alike will share it."""


class Field:
    """One header field of an answer. Answers share those that are alike."""

    __slots__ = ("_crosses", "_cut", "line", "name", "value")

    def __init__(self, name: bytes, line: bytes, value: bytes | None = None) -> None:
        """`name` is in lower case, `line` as it came, without its end; `value` is there where it matters to us."""
        self.name = name
        self.line = line
        self.value = value
        self._cut: frozenset[bytes] | None = None
        self._crosses = False

    def crosses(self, cut: frozenset[bytes]) -> bool:
        """True unless its name is among these. Of one answer after the other that is asked with the same set."""
        if self._cut is not cut:
            self._cut = cut
            self._crosses = self.name not in cut
        return self._crosses


class ResponseHead:
    """The head of a provider's answer."""

    __slots__ = ("encoding", "fields", "length", "media_type", "options", "reason", "status")

    def __init__(
        self,
        status: int,
        reason: bytes,
        fields: list[Field],
        length: int | None = None,
        media_type: str = "",
        encoding: str = "",
        options: Sequence[bytes] = (),
    ) -> None:
        self.status = status
        self.reason = reason
        self.fields = fields
        self.length = length
        """Of the body, as it is declared; None where its end is told otherwise."""
        self.media_type = media_type
        """The content type without its parameters, in lower case; empty if there is none."""
        self.encoding = encoding
        """What the body is coded with, in lower case; empty if with nothing."""
        self.options = options
        """The headers that Connection names, in lower case: meant for us alone, and cut as it is."""

    def with_fields(self, fields: list[Field]) -> ResponseHead:
        """The same head with other fields."""
        return ResponseHead(self.status, self.reason, fields, self.length, self.media_type, self.encoding, self.options)

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300

    def values(self, name: bytes) -> list[str]:
        """The values of a header, whose name is given in lower case."""
        lines = [field.line for field in self.fields if field.name == name]
        return [line[len(name) + 1 :].strip(b" \t").decode("latin-1") for line in lines]
