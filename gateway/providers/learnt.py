"""What is learnt of one call as it goes by: of its request, `Prepared`; of its answer, `Usage`. Pure.

Each call makes one of both, so these compile, which structs do not; nothing that was made is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from metering.usage import Completeness

_UNKNOWN: Final = Completeness.UNKNOWN  # Looking it up in the enumeration is a call.
_NONE: Final[Mapping[str, str]] = MappingProxyType({})  # One for all: few calls have any.


@dataclass(init=False)
class Usage:
    """What one answer says was used."""

    quantities: dict[str, int]
    """Disjoint dimensions (see :data:`metering.usage.DIMENSIONS`)."""
    completeness: Completeness
    resource: str | None
    """The model that answered; what rates match on."""
    external_id: str | None
    """The provider's name for the object that this call made."""
    event_type: str | None
    """Set where the answer, and not the path, tells the type of event."""
    parties: Mapping[str, str]
    """Who took part, `from` and `to`, as numbers and addresses. What is kept of them are keyed hashes."""
    metadata: dict[str, object]
    further: tuple[Usage, ...]
    """What else the call used that is an event of its own: what a tool used at another model's price."""
    failed: bool
    """True where the provider says that it failed: what it used, if anything, is not for us to estimate."""
    unseen: tuple[str, ...]
    """The fields of the provider's usage object that nobody here knows: named, and not counted."""
    late: tuple[Late, ...]
    """What the answer says in the end of what a call of before has made."""

    def __init__(
        self,
        *,
        quantities: dict[str, int],
        completeness: Completeness,
        resource: str | None = None,
        external_id: str | None = None,
        event_type: str | None = None,
        parties: Mapping[str, str] = _NONE,
        metadata: dict[str, object] | None = None,
        further: tuple[Usage, ...] = (),
        failed: bool = False,
        unseen: tuple[str, ...] = (),
        late: tuple[Late, ...] = (),
    ) -> None:
        self.quantities = quantities
        self.completeness = completeness
        self.resource = resource
        self.external_id = external_id
        self.event_type = event_type
        self.parties = parties
        self.metadata = {} if metadata is None else metadata
        self.further = further
        self.failed = failed
        self.unseen = unseen
        self.late = late

    @property
    def estimable(self) -> bool:
        """True where something was used and nobody has said how much: that can be estimated from what passed."""
        return self.completeness is _UNKNOWN and not self.failed


class Late(NamedTuple):
    """What became of something that a call has made. It is the same whichever answer says it."""

    external_id: str
    usage: Usage
    """What it used in all. Without a resource or an event type, those of the call that made it."""
    phase: str = "final"
    """Each is booked once: `final`; `ended` where it is over and nobody says what it used; `final:<part>` of several."""


@dataclass(init=False)
class Prepared:
    """A request body as it goes to the provider, and what was learnt from it on the way."""

    body: bytes
    resource: str | None
    """The model that the application asked for."""
    stream: bool
    usage_injected: bool
    """True where we asked for usage that the application did not ask for, and must take it out of the answer again."""
    event_type: str | None
    """Set where the request, and not the path, tells the type of event."""
    quantities: dict[str, int] | None
    """What the request says will be used, where the answer does not say it; None where that could not be read."""
    parties: Mapping[str, str]
    """As in :class:`Usage`: what a later search for the call at the provider needs."""
    asked: Mapping[str, str]
    """What else the request says that decides the price: the size and the quality of an image."""

    def __init__(
        self,
        *,
        body: bytes,
        resource: str | None = None,
        stream: bool = False,
        usage_injected: bool = False,
        event_type: str | None = None,
        quantities: dict[str, int] | None = None,
        parties: Mapping[str, str] = _NONE,
        asked: Mapping[str, str] = _NONE,
    ) -> None:
        self.body = body
        self.resource = resource
        self.stream = stream
        self.usage_injected = usage_injected
        self.event_type = event_type
        self.quantities = quantities
        self.parties = parties
        self.asked = asked

    def without_body(self) -> Prepared:
        """What was learnt, once the body has left."""
        if not self.body:
            return self
        return Prepared(
            body=b"",
            resource=self.resource,
            stream=self.stream,
            usage_injected=self.usage_injected,
            event_type=self.event_type,
            quantities=self.quantities,
            parties=self.parties,
            asked=self.asked,
        )


def as_it_came(body: bytes) -> Prepared:
    """Forward a body unread."""
    return Prepared(body=body)
