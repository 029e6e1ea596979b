"""The ways to a provider, directly and through the gateway, and what of two calls must be the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.surface.answers import answer_to
from tests.surface.made_up import MadeUp
from tests.surface.upstream import Headers, Seen, Upstream
from tests.walks.harness import Installation, Simulated, gateway_before

PROVIDER_KEY = "sk-proj-of-the-surface-0123456789"

HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"x-of-this-connection"))
"""Each connection's own; how a request's body is framed is compared apart."""
OF_THE_ACCOUNT = frozenset((b"openai-organization", b"openai-project"))
"""The application's are not sent, and the real account's not shown, where the credential is not the application's."""
OURS = frozenset((b"x-gateway-key", b"x-tollkeeper-call-id"))


class Way(NamedTuple):
    """How a client reaches the provider."""

    base_url: str
    key: str
    headers: dict[str, str]
    cut: frozenset[bytes]
    """Headers that do not cross here, in either direction, as documented."""


class Ways(NamedTuple):
    """All of them."""

    direct: Way
    own: Way
    """The tenant's own credential is in the gateway."""
    brought: Way
    """The application brings its own."""
    gateway: Installation
    upstream: Upstream


@contextmanager
def ways(directory: Path, upstream: Upstream) -> Iterator[Ways]:
    """A gateway before that provider, with a tenant whose account is its own."""
    base_url = f"http://127.0.0.1:{upstream.port}"
    with gateway_before(directory, None, Simulated({"openai": base_url}, {})) as gateway:
        key = gateway.tenant("surface")
        gateway.ask("POST", "/v1/tenants/surface/credentials", {"provider": "openai", "api_key": PROVIDER_KEY})
        yield Ways(
            Way(base_url + "/v1", PROVIDER_KEY, {}, frozenset()),
            Way(gateway.openai, key, {}, OF_THE_ACCOUNT),
            Way(gateway.openai, PROVIDER_KEY, {"X-Gateway-Key": key}, frozenset()),
            gateway,
            upstream,
        )


class Heard(NamedTuple):
    """An answer, as it came to the SDK."""

    status: int
    reason: bytes
    headers: Headers
    body: bytes


class Told(NamedTuple):
    """What came of a call: what the provider saw, what the SDK heard, and what it made of that."""

    seen: list[Seen]
    heard: list[Heard]
    result: Any

    @property
    def raised(self) -> bool:
        """True if the SDK raised something."""
        return isinstance(self.result, tuple | dict) and "raised" in self.result

    def without(self, cut: frozenset[bytes]) -> Told:
        """The same without what need not be the same."""
        return Told(
            [_request(seen, cut) for seen in self.seen],
            [heard._replace(headers=_crossing(heard.headers, cut)) for heard in self.heard],
            self.result,
        )


def differences(direct: Told, through: Told, cut: frozenset[bytes]) -> list[str]:
    """What is not the same; a stream's usage is asked for where the application does not ask, which is documented."""
    expected, found = direct.without(cut), through.without(cut)
    changed = [
        with_usage_asked_for(before) if after.asks_for_usage and not before.asks_for_usage else before
        for before, after in zip(expected.seen, found.seen, strict=False)
    ]
    told = [
        f"{what} {number}, {name}: {_shown(before, after)} directly, {_shown(after, before)} through"
        for what, befores, afters in (("request", changed, found.seen), ("answer", expected.heard, found.heard))
        for number, (one, other) in enumerate(zip(befores, afters, strict=False))
        for name, before, after in zip(one._fields, one, other, strict=True)
        if before != after
    ]
    counts = [(len(each.seen), len(each.heard)) for each in (expected, found)]
    if counts[0] != counts[1]:
        told.append(f"requests and answers: {counts[0]} directly, {counts[1]} through")
    if found.result != expected.result:
        told.append(f"result: {expected.result!r} directly, {found.result!r} through")
    return told


def _shown(value: Any, beside: Any) -> str:
    """A value for a message; of headers those that the other side lacks, if it lacks any."""
    if isinstance(value, tuple):
        return repr([header for header in value if header not in beside] or [name for name, _ in value])
    return repr(value)[:2000]


_ASKED_NOT = re.compile(rb'"include_usage":(false|null)')
_OPTIONS = re.compile(rb'("stream_options":\{[^{}]*)\}')


def with_usage_asked_for(seen: Seen) -> Seen:
    """A request for a stream as the gateway sends it on: the documented change and no other."""
    body = seen.body
    if b'"stream_options"' not in body:
        body = body.replace(b"{", b'{"stream_options":{"include_usage":true},', 1)
    elif _ASKED_NOT.search(body):
        body = _ASKED_NOT.sub(b'"include_usage":true', body, count=1)
    else:
        body = _OPTIONS.sub(rb'\1,"include_usage":true}', body, count=1)
    headers = (header for header in seen.headers if header[0].lower() != b"accept-encoding")
    return seen._replace(headers=_ordered((*headers, IDENTITY)), body=body)


def _ordered(headers: Headers) -> Headers:
    """What the gateway itself writes comes last: how an answer may be coded where it is changed, and the credential."""
    return tuple(sorted(headers, key=lambda header: (header[0] == b"Authorization", header == IDENTITY)))


IDENTITY = (b"Accept-Encoding", b"identity")


_BOUNDARY = re.compile(rb"multipart/form-data; ?boundary=(\S+)")
_MADE_ANEW = re.compile(rb"(?:stainless-(?:python|node)-retry-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _request(seen: Seen, cut: frozenset[bytes]) -> Seen:
    headers, body = seen.headers, seen.body
    for name, value in headers:
        if name.lower() == b"content-type" and (found := _BOUNDARY.fullmatch(value)):
            body = body.replace(found[1], b"<boundary>")
            headers = tuple((each, told.replace(found[1], b"<boundary>")) for each, told in headers)
    kept = []
    for name, value in _crossing(headers, cut):
        if name.lower() in (b"authorization", b"host"):
            kept.append((name.title(), value))  # The gateway writes these, and spells them so.
        elif name.lower() == b"idempotency-key":
            kept.append((name, _MADE_ANEW.sub(b"<made anew>", value)))
        else:
            kept.append((name, value))
    return Seen(seen.line, _ordered(tuple(kept)), body, seen.chunked)


def _crossing(headers: Headers, cut: frozenset[bytes]) -> Headers:
    return tuple((name, value) for name, value in headers if name.lower() not in cut | HOP_BY_HOP | OURS)


class Arranged:
    """What the provider will answer to the call that is made next."""

    def __init__(self, upstream: Upstream, directory: Path) -> None:
        self._upstream = upstream
        self._directory = directory
        self._name = ""
        self._asked = 0
        self._fields: Mapping[str, Any] = {}

    def call(self, name: str, fields: Mapping[str, Any]) -> None:
        self._name, self._fields, self._asked = name, fields, 0

    def awaited(self, kind: Any, events: Any) -> None:
        """The SDK awaits an answer of that type, or a stream of such events: where none is arranged yet, it is now."""
        answers = self._upstream.answers.setdefault(self._name.encode(), [])
        self._asked += 1
        if len(answers) < self._asked:
            made_up = MadeUp(f"{self._name}#{self._asked}", self._directory, everything=True)
            answers.append(answer_to(made_up, kind, events, self._fields))
