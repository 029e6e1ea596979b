"""Which headers cross, in each direction. Pure.

What crosses does so as it came: in its order, in its case, repeated where it was repeated.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Final

from gateway.callers import GATEWAY_PREFIX, TENANT_HEADER
from gateway.messages import RawHeaders, ResponseHead

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",  # RFC 9110 section 7.6.1, with all that it names.
        b"keep-alive",
        b"proxy-authenticate",  # These two are between us and a proxy in front of us.
        b"proxy-authorization",
        b"proxy-connection",  # Never a standard, still sent.
        b"te",
        b"trailer",  # Trailers are not relayed.
        b"transfer-encoding",  # Each side has its own framing.
        b"upgrade",
    }
)
OF_REQUESTS: Final = HOP_BY_HOP | {TENANT_HEADER, b"host", b"content-length", b"expect"}
OF_ANSWERS: Final = HOP_BY_HOP | {b"content-length", b"x-tollkeeper-call-id", b"x-tollkeeper-error"}


def of_request(raw_headers: RawHeaders, cut: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """The headers of a request that cross; `cut` are those that do not besides OF_REQUESTS and ours, in lower case."""
    kept = [pair for pair in raw_headers if _crosses(pair[0], cut)]
    told = [value for name, value in raw_headers if name.lower() == b"connection"]
    named = {option.strip().lower() for value in told for option in value.split(b",")} - _OF_THE_CONNECTION
    return [pair for pair in kept if pair[0].lower() not in named] if named else kept


SPELLINGS_MAX: Final = 4096
"""So many names are remembered as they were spelt; more are looked at each time they come."""

_OF_THE_CONNECTION: Final = frozenset({b"keep-alive", b"close"})
"""What Connection says in nearly every message: options of the connection, and no header's name."""


@lru_cache(maxsize=SPELLINGS_MAX)
def _crosses(name: bytes, cut: frozenset[bytes]) -> bool:
    lowered = name.lower()
    return lowered not in OF_REQUESTS and lowered not in cut and not _ours(lowered)


@cache
def lines_of(names: frozenset[bytes]) -> re.Pattern[bytes]:
    """Finds the header lines of these names, which are in lower case, each with the line end before it."""
    return re.compile(rb"\r\n(?i:%b):[^\r]*+" % b"|".join(map(re.escape, sorted(names))))


@cache
def cut_of_answers(account_headers: frozenset[bytes]) -> frozenset[bytes]:
    """The headers of answers that are not the client's business, besides these. The same set for the same ones."""
    return OF_ANSWERS | account_headers


def of_answer(head: ResponseHead, cut: frozenset[bytes]) -> bytes:
    """The header lines of an answer that cross, each behind a line end; `cut` are those that do not, in lower case."""
    if head.options:
        cut = cut.union(head.options)
    lines = [field.line for field in head.fields if field.crosses(cut)]
    lines.insert(0, b"")
    return b"\r\n".join(lines)


def _ours(lowered: bytes) -> bool:
    """True for the headers that speak to us, also as servers spell them that take an underscore for a hyphen."""
    plain = lowered.replace(b"_", b"-")
    return plain.startswith(GATEWAY_PREFIX) or plain == TENANT_HEADER
