"""What goes wrong on the way of what providers send by themselves: it is lost, late, doubled, out of order. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from gateway.simulator.api import Delivery
from gateway.simulator.controls import Callbacks


class Posted(NamedTuple):
    """What is sent, in this order, and what is not."""

    sent: tuple[Delivery, ...]
    lost: tuple[Delivery, ...]


def misdelivered(later: Sequence[Delivery], wanted: Callbacks | None, source: random.Random) -> Posted:
    """Do to these what a request asks for. A repetition is the same to the last byte, and its answer is not listened to.

    What is shuffled goes out once the last of it is true: an application may hear of an end before a beginning, and never
    of what has not happened yet.
    """
    if wanted is None:
        return Posted(tuple(later), ())
    kept: list[Delivery] = []
    lost: list[Delivery] = []
    for delivery in later:
        (lost if source.randrange(100) < wanted.lost else kept).append(delivery)
    sent = [
        msgspec.structs.replace(delivery, answered=None) if number else delivery
        for delivery in kept
        for number in range(wanted.repeat)
    ]
    latest = max((delivery.after_ms for delivery in sent), default=0)
    if wanted.shuffled:
        source.shuffle(sent)
        sent = [msgspec.structs.replace(delivery, after_ms=latest) for delivery in sent]
    return Posted(
        tuple(msgspec.structs.replace(one, after_ms=one.after_ms + wanted.delayed_ms) for one in sent),
        tuple(lost),
    )
