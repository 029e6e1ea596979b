"""The meter of what no endpoint lists. Pure."""

from __future__ import annotations

from gateway.messages import ResponseHead
from gateway.providers.api import Meter
from gateway.providers.free import made
from gateway.providers.learnt import Prepared, Usage
from metering.usage import Completeness


class Unknown:
    """The meter of what no endpoint lists: something may have been used, and the answer does not say what."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Meter) -> None:
        self._inner = inner

    @property
    def concluded(self) -> bool:
        return False

    def feed(self, chunk: bytes) -> bytes:
        return self._inner.feed(chunk)

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        held, usage = self._inner.finish(whole=whole)
        return held, Usage(quantities={}, completeness=Completeness.UNKNOWN, external_id=usage.external_id)


def unknown(head: ResponseHead, prepared: Prepared) -> Meter:
    return Unknown(made(head, prepared))
