"""The life of a Twilio message or call: its states, and when each begins. Pure.

Nothing runs in the background: what an object is follows from the time at which somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

STEP_MS = 50


class Stage(NamedTuple):
    at: float
    """Seconds since 1970-01-01T00:00Z."""
    status: str


Life = tuple[Stage, ...]
"""In order; the first begins with the object, and the last one never ends."""


def life(begun: float, statuses: Sequence[str], step_ms: int | None, *, first_step_s: float | None = None) -> Life:
    """Go through these, a step after each other; the first step may have a length of its own."""
    step_s = (STEP_MS if step_ms is None else step_ms) / 1000
    second = begun + (step_s if first_step_s is None else first_step_s)
    later = (Stage(second + index * step_s, status) for index, status in enumerate(statuses[1:]))
    return (Stage(begun, statuses[0]), *later)


def lived(stages: Life, now: float) -> Life:
    """The part of a life that has begun: at least its first stage."""
    return (stages[0], *(stage for stage in stages[1:] if stage.at <= now))


def ended(stages: Life, now: float, status: str) -> Life:
    """The life that ends now, and so."""
    return (*lived(stages, now), Stage(now, status))


def is_over(stages: Life, now: float) -> bool:
    return len(lived(stages, now)) == len(stages)


def begin_of(stages: Iterable[Stage], statuses: frozenset[str]) -> float | None:
    """When the first of these began; None where none has."""
    return next((stage.at for stage in stages if stage.status in statuses), None)
