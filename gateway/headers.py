"""Which headers cross, in each direction. Pure.

What crosses does so as it came: in its order, in its case, repeated where it was repeated.
"""

from __future__ import annotations

from enum import Enum

from gateway.callers import TENANT_HEADER
from gateway.messages import RawHeaders

HOP_BY_HOP = frozenset(
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
OF_REQUESTS = HOP_BY_HOP | {TENANT_HEADER, b"host", b"content-length", b"expect"}
OF_ANSWERS = HOP_BY_HOP | {b"content-length", b"x-tollkeeper-call-id", b"x-tollkeeper-error"}

SPELLINGS_MAX = 2048
"""So many names are remembered as they were spelt; more are looked at each time they come."""

_NAMES_NOTHING = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
"""What Connection says in nearly every message: options of the connection, and no header's name."""


class _Fate(Enum):
    CROSSES = 1
    CUT = 2
    NAMES_OTHERS = 3
    """Connection: cut, and with it every header that it names."""


class Cut:
    """The headers that do not cross, one way, for one kind of call."""

    __slots__ = ("_cut", "_fates", "_prefix")

    def __init__(self, cut: frozenset[bytes], prefix: bytes | None = None) -> None:
        """Names, and how names begin, in lower case."""
        self._cut = cut
        self._prefix = prefix
        self._fates: dict[bytes, _Fate] = {}

    def crossing(self, raw_headers: RawHeaders) -> list[tuple[bytes, bytes]]:
        """Those that cross."""
        fates = self._fates
        kept = []
        named: set[bytes] = set()
        for pair in raw_headers:
            fate = fates.get(pair[0]) or self._learnt(pair[0])
            if fate is _Fate.CROSSES:
                kept.append(pair)
            elif fate is _Fate.NAMES_OTHERS and pair[1] not in _NAMES_NOTHING:
                named.update(token.strip().lower() for token in pair[1].split(b","))
        return [pair for pair in kept if pair[0].lower() not in named] if named else kept

    def _learnt(self, name: bytes) -> _Fate:
        lowered = name.lower()
        if lowered == b"connection":
            fate = _Fate.NAMES_OTHERS
        else:
            ours = self._prefix is not None and lowered.startswith(self._prefix)
            fate = _Fate.CUT if ours or lowered in self._cut else _Fate.CROSSES
        if len(self._fates) < SPELLINGS_MAX:
            self._fates[name] = fate
        return fate
