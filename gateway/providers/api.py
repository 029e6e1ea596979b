"""What every provider can answer about itself: Provider, Endpoint, Meter. Pure.

Nothing outside this package knows a provider by name. Where the path of a call depends on who the provider is, the
question is a field here, and each provider's module answers it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.messages import Headers, ResponseHead
from metering.usage import Completeness


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one answer says was used."""

    quantities: Mapping[str, int]
    """Disjoint dimensions (see :data:`metering.usage.DIMENSIONS`)."""
    completeness: Completeness
    resource: str | None = None
    """The model that answered; what rates match on."""
    external_id: str | None = None
    """The provider's name for the object that this call made."""
    event_type: str | None = None
    """Set where the answer, and not the path, tells the type of event."""
    metadata: Mapping[str, object] = field(default_factory=dict)


class Meter(Protocol):
    """Watches one successful answer go by, says what it used, and passes it on.

    It never raises for what a provider sent, and never minds where the network cut the body.
    """

    @property
    def concluded(self) -> bool:
        """True once bytes were fed from which a client concludes success: those may leave only after the usage is safe."""

    def feed(self, chunk: bytes) -> bytes:
        """See the next bytes of the body; return those that the client gets: these, less only what we caused."""

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        """The body is over, whole or broken off: the bytes still held back, and the usage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request body as it goes to the provider, and what was learnt from it on the way."""

    body: bytes
    resource: str | None = None
    """The model that the application asked for."""
    stream: bool = False
    usage_injected: bool = False
    """True where we asked for usage that the application did not ask for, and must take it out of the answer again."""


def as_it_came(body: bytes) -> Prepared:
    """Forward a body unread."""
    return Prepared(body=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One thing that a provider can be asked to do."""

    name: str
    """The provider's own name for it, as its SDKs spell it: `chat.completions`."""
    method: str
    path: str
    """What follows the provider's base URL; `{id}` stands for one segment."""
    event_type: str
    describes: str = ""
    """What the event is called to people, after the resource: `chat completion`."""
    meter: Callable[[ResponseHead, Prepared], Meter]
    prepare: Callable[[bytes], Prepared] | None = None
    """Reads, and where it must changes, a body of up to BODY_BYTES_MAX; None where the body is of no interest."""
    billable: bool = True
    """False where success costs nothing, whatever the answer repeats: reading something back, deleting it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSteps:
    """What somebody pastes into a shell to make a first call; {proxy} and {key} are filled in."""

    exports: str
    """The environment variables that the provider's SDK reads."""
    path: str
    """What to POST to, with {proxy}."""
    body: str
    """JSON, without apostrophes."""
    sdk_package: str
    sdk_call: str
    """One line of Python, without double quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider: where it is, how a call proves who it is, what it can be asked, and how it says no."""

    name: str
    """The first segment of the gateway's paths, the `source` of events, the name in the settings."""
    base_url: str
    """The default of the setting; holds no version, for paths carry theirs."""
    credential_fields: tuple[str, ...]
    """What one credential consists of, by the names of the settings and of the control API."""
    endpoints: tuple[Endpoint, ...]
    unlisted: Callable[[str], Endpoint]
    """The endpoint of a path that `endpoints` does not list, for a method."""
    presented_key: Callable[[Headers], str | None]
    """The gateway key, out of where the provider's own key would stand in the request's headers."""
    authorize: Callable[[Mapping[str, str]], tuple[tuple[bytes, bytes], ...]]
    """The headers that carry a credential to the provider."""
    credential_headers: frozenset[bytes]
    """Request headers, in lower case, that belong to the application's idea of its account: replaced by ours."""
    account_headers: frozenset[bytes]
    """Answer headers, in lower case, that name the real account: cut."""
    administration: tuple[str, ...]
    """Path prefixes that administer an account or hand out its credentials: never on a shared one."""
    object_id: re.Pattern[str]
    """Matches, whole, a path segment that names one object of the account."""
    references: re.Pattern[bytes]
    """Finds, as group 1, objects of the account that a body refers to."""
    refusal: Callable[[int, str, str], bytes]
    """(status, code, message) → an error body from which the provider's SDK raises its natural exception."""
    first_steps: FirstSteps
    missing: Callable[[str], bytes]
    """The provider's own answer for an object that does not exist."""
