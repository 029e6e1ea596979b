"""A meter over another, which says more, or something else, of what that one has found. Pure."""

from __future__ import annotations

from collections.abc import Callable

from gateway.providers.api import Meter
from gateway.providers.learnt import Usage


class Revised:
    """Another meter, whose usage is revised when it is asked for."""

    __slots__ = ("_inner", "_revise")

    def __init__(self, inner: Meter, revise: Callable[[Usage], Usage]) -> None:
        self._inner = inner
        self._revise = revise

    @property
    def concluded(self) -> bool:
        return self._inner.concluded

    def feed(self, chunk: bytes) -> bytes:
        return self._inner.feed(chunk)

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        held, usage = self._inner.finish(whole=whole)
        return held, self._revise(usage)
