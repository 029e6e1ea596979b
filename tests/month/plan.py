"""What happens in the month: drawn from a seed, so that a month that went wrong can be had again. Pure."""

from __future__ import annotations

import random
from typing import NamedTuple

TENANTS = 10

MESSAGE_ENDS = {"delivered": 70, "read": 8, "undelivered": 8, "failed": 7, "canceled": 4, "sent": 3}
CALL_ENDS = {"completed": 75, "busy": 8, "no-answer": 8, "failed": 5, "canceled": 4}
CALLBACKS = {"": 50, "lost": 20, "doubled": 10, "shuffled": 10, "doubled,shuffled": 5, "delayed": 5}
AROUND = 0.1
"""The part of the traffic that does not pass through the gateway."""


class Sent(NamedTuple):
    """A message that a tenant sends."""

    tenant: int
    end: str
    callbacks: str
    around: bool
    characters: int
    media: bool
    whatsapp: bool


class Called(NamedTuple):
    """A call that a tenant makes."""

    tenant: int
    end: str
    callbacks: str
    around: bool
    seconds: int


class Came(NamedTuple):
    """A message that comes in at a tenant's number."""

    tenant: int
    characters: int


def plan(seed: int, messages: int, calls: int) -> list[Sent | Called | Came]:
    """So many messages, of which a tenth come in, and calls, in the order in which they happen."""
    chance = random.Random(seed)

    def one_of(weights: dict[str, int]) -> str:
        return chance.choices(list(weights), list(weights.values()))[0]

    happening: list[Sent | Called | Came] = []
    for number in range(messages):
        tenant, characters = chance.randrange(TENANTS), chance.randint(1, 600)
        if number % 10 == 9:
            happening.append(Came(tenant, characters))
            continue
        media, whatsapp = chance.random() < 0.05, chance.random() < 0.05
        around = chance.random() < AROUND
        callbacks = one_of(CALLBACKS)
        happening.append(
            Sent(tenant, one_of(MESSAGE_ENDS), callbacks, around, characters, media and not whatsapp, whatsapp)
        )
    for _ in range(calls):
        around = chance.random() < AROUND
        happening.append(
            Called(chance.randrange(TENANTS), one_of(CALL_ENDS), one_of(CALLBACKS), around, chance.randint(0, 900))
        )
    chance.shuffle(happening)
    return happening
