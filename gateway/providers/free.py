"""The meters of what costs nothing. Pure.

Some of it makes objects all the same, and on a shared account it matters who made them.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.messages import ResponseHead
from gateway.providers import decoding
from gateway.providers.api import Endpoint, Meter
from gateway.providers.body import WhenOver
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.learnt import Prepared, Usage
from metering.usage import Completeness


class NothingToMeter:
    """The meter of an endpoint whose success costs nothing, whatever its answer repeats."""

    __slots__ = ("concluded",)

    def __init__(self) -> None:
        self.concluded = False

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        return b"", Usage(quantities={}, completeness=Completeness.REPORTED, event_type="api_call")


def free(head: ResponseHead, prepared: Prepared) -> Meter:
    """The meter of what is read back, changed or deleted: never bills."""
    return NothingToMeter()


def reads_back(name: str, method: str, path: str, *, lists: bool = False) -> Endpoint:
    """An endpoint that reads, changes or deletes what is there."""
    return Endpoint(name=name, method=method, path=path, event_type="api_call", meter=free, billable=False, lists=lists)


def unlisted_by(meter: Callable[[ResponseHead, Prepared], Meter]) -> Callable[[str], Endpoint]:
    """The endpoints of paths that are new, or not ours to know, by their method.

    Only POST starts something that can cost, which the meter finds out; the other methods read or change what is there.
    """

    def unlisted(method: str) -> Endpoint:
        if method == "POST":
            return Endpoint(name="unlisted", method=method, path="", event_type="api_call", meter=meter)
        return reads_back("unlisted", method, "")

    return unlisted


class _Made(msgspec.Struct):
    """The field of an answer that names what was made: each endpoint's answers have one of these."""

    id: object = None
    batch_id: object = None
    job_id: object = None


_read_made = msgspec.json.Decoder(_Made).decode

BODY_BYTES_MAX = 1 << 20
"""An answer up to this size is read for the name of what was made."""

NAME_CHARACTERS_MAX = 200


def _made(body: bytes | None) -> Usage:
    """Which object an answer says was made; making it costs nothing."""
    made: object = None
    if body is not None:
        try:
            found = _read_made(body)
            made = found.id or found.batch_id or found.job_id
        except UNREADABLE:
            made = None
    named = isinstance(made, str) and 0 < len(made) <= NAME_CHARACTERS_MAX
    return Usage(quantities={}, completeness=Completeness.REPORTED, external_id=str(made) if named else None)


def makes(name: str, path: str) -> Endpoint:
    """An endpoint that makes an object, which costs nothing."""
    return Endpoint(name=name, method="POST", path=path, event_type="api_call", meter=made)


def made(head: ResponseHead, prepared: Prepared) -> Meter:
    return decoding.plain_for(WhenOver(_made, BODY_BYTES_MAX), head)
