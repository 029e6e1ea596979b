"""What Twilio's accounts own, and what the parts of the simulated Twilio share. No I/O."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from gateway.simulator.store import Newest
from gateway.simulator.twilio_asked import Account, NotFound
from gateway.simulator.twilio_told import newest_first


class HasOwner(Protocol):
    @property
    def sid(self) -> str: ...

    @property
    def account_sid(self) -> str: ...


Object = TypeVar("Object", bound=HasOwner)


class Owned(Generic[Object]):
    """Objects of one kind, each visible to its account alone."""

    def __init__(self, size: Callable[[Object], int]) -> None:
        self._objects = Newest[Object](size)

    def put(self, made: Object) -> None:
        self._objects.put(made.sid, made)

    def get(self, account: Account, sid: str) -> Object:
        """Raises NotFound."""
        found = self._objects.get(sid)
        if found is None or found.account_sid != account.sid:
            raise NotFound
        return found

    def pop(self, account: Account, sid: str) -> Object:
        """Raises NotFound."""
        found = self.get(account, sid)
        self._objects.pop(sid)
        return found

    def anybodys(self, sid: str) -> Object | None:
        return self._objects.get(sid)

    def of(self, account: Account) -> list[Object]:
        """Newest first."""
        return newest_first(made for made in self._objects if made.account_sid == account.sid)


class Thing(NamedTuple):
    """An object that stays as it was made, until it is changed or deleted."""

    sid: str
    account_sid: str
    fields: Mapping[str, Any]
    """As it is told, but for what depends on who asks."""


def things() -> Owned[Thing]:
    return Owned[Thing](lambda thing: len(msgspec.json.encode(thing.fields)))


class Ids:
    """Where ids come from."""

    def __init__(self, source: random.Random) -> None:
        self._random = source

    def sid(self, prefix: str) -> str:
        return f"{prefix}{self._random.getrandbits(128):032x}"

    def token(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def idempotency_token(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def below(self, bound: int) -> int:
        return self._random.randrange(bound)
