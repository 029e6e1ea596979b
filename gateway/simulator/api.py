"""What the parts of the simulator pass to each other: Asked, Answer, Session, Provider. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol

import msgspec

from gateway.simulator.controls import Controls

SSE = "text/event-stream; charset=utf-8"
JSON = "application/json"


class Setup(NamedTuple):
    """What a provider is made of."""

    keys: frozenset[str]
    """The keys it accepts."""
    random: random.Random
    """Where its ids come from. What it says depends on the request alone."""
    now: Callable[[], float]
    real_links: bool = False
    """Whether links in answers lead to the real hosts, and not back here."""


class Asked(NamedTuple):
    """One request, read."""

    method: str
    path: str
    """Below the provider's base URL, without the query, percent-encoded as it came."""
    query: str
    headers: Mapping[str, str]
    """Case-insensitive."""
    body: bytes
    """Without its content coding. Of a body over BODY_BYTES_KEPT_MAX, only the beginning."""
    body_bytes: int
    """How long the body was, on the wire."""
    whole: bool
    """False where `body` is only the beginning."""
    controls: Controls


class Reply(NamedTuple):
    """What an application answered to a delivery, or why there is no answer."""

    status: int | None
    body: bytes
    """Its beginning."""
    error: str | None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A request that a provider makes by itself, some time after an answer: a status callback, an event webhook."""

    after_ms: int
    method: str = "POST"
    url: str
    """As it is signed, query included; nothing in it is changed on its way."""
    body: bytes = b""
    headers: tuple[tuple[str, str], ...]
    """With the content type and the provider's signature, but for what says when it left."""
    signed: Callable[[float], tuple[tuple[str, str], ...]] | None = None
    """Makes the headers that say when it leaves, in seconds since 1970-01-01T00:00Z."""
    object_id: str | None = None
    """What it tells of. Deliveries of one object leave in the order in which they were given, after their delays."""
    still_so: Callable[[], bool] = lambda: True
    """Asked when its time has come; where what it tells of was called off meanwhile, it is not sent."""
    answered: Callable[[Reply], Sequence[Delivery]] | None = None
    """What follows from the answer; None where the provider does not listen to it."""
    fallback: bool = False
    """Whether it goes where another delivery should have gone, and failed."""


class Bill(NamedTuple):
    """What one message of a session says was used."""

    object_id: str
    model: str
    usage: object
    """As the message says it; None where it says nothing."""


class Message(NamedTuple):
    """A message of a session, to be sent as text."""

    text: bytes
    bill: Bill | None = None


class Close(NamedTuple):
    """The end of a session, in good order."""

    code: int
    reason: str = ""


class BreakOff(NamedTuple):
    """The end of a session in the middle of this message."""

    text: bytes


class Silence(NamedTuple):
    """Nothing more, until the client goes."""


Step = Message | Close | BreakOff | Silence


class Session(Protocol):
    """What is said on a WebSocket, once it is open."""

    def opened(self) -> Iterable[Step]:
        """What the provider says first."""

    def heard(self, text: str) -> Iterable[Step]:
        """What it says at once to a message of the client's. Never raises for what a client sent."""

    def goes_on(self) -> Step | None:
        """What it says next by itself; None until it has heard more."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider answers, before it is framed, coded or spoilt."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    """Without those that framing decides."""
    content_type: str = JSON
    body: bytes = b""
    events: Callable[[], Iterator[bytes]] | None = None
    """For a streamed answer, instead of the body: makes its events, the same ones each time. The last one is the one
    from which a client knows that the answer is complete."""
    usage_in_last_event: bool = False
    session: Session | None = None
    """What follows a 101, instead of a body."""
    object_id: str | None = None
    model: str | None = None
    usage: object = None
    """What the answer says was used, as it says it."""
    billed: object = None
    """What was used where the answer does not say so."""
    bills: Callable[[Bill], None] | None = None
    """Told of what a session says was used."""
    tool_usage: object = None
    """What it says of tools that are billed by the call."""
    lives: bool = False
    """Whether what was made goes on to change by itself, so that a request can say how."""
    later: tuple[Delivery, ...] = ()
    """What the provider will tell the application by itself, in this order."""


class Provider(Protocol):
    """One provider: who may call it, and what it answers."""

    name: ClassVar[str]
    """The first segment of the path that leads to it."""
    mount: ClassVar[str]
    """What follows the simulator's address in the provider's base URL; `{product}` stands for one of several hosts."""
    default_credential: ClassVar[Mapping[str, str]]
    """What a client must hold, by the names that the gateway's settings have for it."""
    default_key: ClassVar[str]
    """The same as `credential` reads it out of headers. Accepted where `--key` names no other."""
    credential_headers: ClassVar[frozenset[str]]
    """The headers, in lower case, whose values the truth log holds only as hashes."""

    def __init__(self, setup: Setup) -> None: ...

    def credential(self, headers: Mapping[str, str]) -> str | None:
        """The key that a request presents, accepted or not."""

    def answer(self, asked: Asked) -> Answer:
        """Answer. Never raises for what a client sent."""

    def refusal(self, status: int, message: str) -> Answer:
        """An error in the provider's own shape, for what the simulator itself refuses."""
