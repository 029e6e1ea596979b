"""Holding the ledger against a provider's own figures, and naming why they differ. Pure.

What is compared is one UTC day of one tenant and one type of event, or one of the provider's own categories: what the
provider says of it, and what the ledger holds. Only what the provider speaks of is compared. Of the whole difference that
there was, part was corrected by events, which say why; the rest is explained, or stays open. Whatever is found, the sum
over all causes is the whole difference, in every quantity and in cost: nothing is left out, and nothing is told twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import msgspec

from metering.event_types import DIMENSIONS

COUNT, COST = "count", "cost_nano"
"""What is compared besides quantities: how many events, and money in 10⁻⁹ of its currency."""

MEASURES = (COUNT, *DIMENSIONS, COST)

Amounts: TypeAlias = Mapping[str, int]
"""Measure → amount. One that is missing was not spoken of, which is not zero."""

ONE_EACH = (COUNT, "messages", "requests", "recipients")
"""The measures of which an event has about one: so many events can not account for more of it than they are."""

PLATFORM = "_platform"
"""Stands for the tenant where the figures are those of an account that several share. No tenant can have this id."""


class Cause(StrEnum):
    """Why ledger and provider differ."""

    NOT_PROXIED = "not_proxied"
    """The provider made it, and no call through the gateway did."""
    STATUS_CHANGED = "status_changed"
    """It became something else in the end than was said at first."""
    LATE = "late"
    """It is told later, or on another day: the provider's figures still move, events are pending, or a call was made before
    midnight and what it made is dated after it."""
    PRICED_DIFFERENTLY = "priced_differently"
    """As much was used, and it cost something else."""
    MISSING_AT_PROVIDER = "missing_at_provider"
    """The ledger has it, and the provider does not list it."""
    UNKNOWN_OUTCOME = "unknown_outcome"
    """Calls whose outcome nobody recorded."""
    ROUNDING = "rounding"
    """The provider counts begun minutes, each leg of a call by itself, and the ledger seconds."""
    NOT_ATTRIBUTED = "not_attributed"
    """The provider lists it, and it is no tenant's."""
    NOT_USAGE = "not_usage"
    """It costs money and nobody used anything: rented numbers, carriers' fees."""
    UNEXPLAINED = "unexplained"


class Resolution(StrEnum):
    """What became of a difference."""

    CORRECTED = "corrected"
    """Events were booked: the ledger holds it now."""
    EXPLAINED = "explained"
    """It is known why, and nothing is to be booked."""
    OPEN = "open"
    """Somebody should look."""


_RESOLUTIONS = {
    Cause.STATUS_CHANGED: Resolution.EXPLAINED,
    Cause.LATE: Resolution.EXPLAINED,
    Cause.PRICED_DIFFERENTLY: Resolution.EXPLAINED,
    Cause.ROUNDING: Resolution.EXPLAINED,
    Cause.NOT_ATTRIBUTED: Resolution.EXPLAINED,
}
"""Of what no event has corrected; everything else is open."""


class Subject(NamedTuple):
    """What is compared."""

    day: str
    """UTC, `2026-11-20`. A call belongs to the day on which it began."""
    tenant_id: str
    category: str
    """A type of event, or the provider's own name for several."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider says in all of one of its categories on one day, in the ledger's terms.

    Figures that are compared do not overlap: of categories within each other, the innermost.
    """

    day: str
    category: str
    """The provider's own name for it."""
    amounts: Amounts
    currency: str = ""
    """Of the cost; empty where nothing is said of one."""
    event_types: tuple[str, ...] = ()
    """What it is in the ledger; empty for what costs money and is no use."""
    direction: str | None = None
    """Set where it goes this way alone."""
    resource: str | None = None
    """Set where it is of this resource alone."""
    within: Mapping[str, tuple[str, ...]] = {}
    """By measure, the dimensions of the ledger that the provider counts within it."""
    minutes: bool = False
    """True where `seconds` are begun minutes, sixty for each, of every leg by itself."""
    costs_here: bool = False
    """True where the provider says the cost here and nowhere else: what the ledger lacks of it is then booked."""
    rest: bool = False
    """True where it is what a total comes to beyond all other figures of its day: what the ledger holds of types of event
    that none of them speaks of is a part of that."""
    settled: bool = True
    """False where the provider says that the figure still moves."""
    booked_as: str | None = None
    """The type of event that is booked of what the ledger lacks of it, once the day is over: where the provider lists no
    single objects, and this alone tells what went around the gateway."""
    calls: int = 0
    """How many calls it is the sum of; 0 where the provider does not say."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the provider says of one subject."""

    amounts: Amounts
    settled: bool = True
    listed: bool = False
    """True where its objects can be listed, so that what was not proxied is in the ledger by now."""


class Step(NamedTuple):
    """What was booked of one subject to correct the ledger, and why."""

    cause: Cause
    amounts: Amounts
    event_id: str | None = None
    """Set where it is one event."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger holds of one subject."""

    amounts: Amounts
    steps: Sequence[Step] = ()
    """What of it was booked as corrections."""
    pending: int = 0
    """Events of which the provider will say more."""
    unknown: int = 0
    """Events of which nobody has said what became of them."""
    rounded_up_s: int = 0
    """What rounding each leg up to the minute would add to its seconds."""
    missing: Amounts = {}
    """What of it the provider does not list."""
    elsewhere: Amounts = {}
    """What the provider counts on this day and the ledger on another, less what it is the other way round."""
    not_attributed: Amounts = {}
    """What the provider lists and is nobody's."""
    became: Amounts = {}
    """What the ledger has as another type of event than the provider in the end, less what it is the other way round."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the difference between provider and ledger: positive where the provider has more."""

    subject: Subject
    cause: Cause
    resolution: Resolution
    amounts: Amounts
    """Without zeros."""
    event_id: str | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One subject, compared."""

    subject: Subject
    told: Amounts
    held: Amounts
    """The same measures, after all corrections."""
    differences: tuple[Difference, ...]


def compared(subject: Subject, told: Told, held: Held) -> Comparison:
    """Split the difference that there was into its causes, of which each takes what the ones before it left."""
    measures = told.amounts
    now = {name: held.amounts.get(name, 0) for name in measures}
    rest = _Rest({name: measures[name] - now[name] for name in measures})
    found = [
        Difference(
            subject=subject,
            cause=step.cause,
            resolution=Resolution.CORRECTED,
            amounts=amounts,
            event_id=step.event_id,
        )
        for step in held.steps
        if (amounts := _without_zeros({name: step.amounts.get(name, 0) for name in measures}))
    ]
    explained = [
        (Cause.ROUNDING, rest.take({"seconds": held.rounded_up_s})),
        (Cause.NOT_ATTRIBUTED, rest.take(held.not_attributed)),
        (Cause.STATUS_CHANGED, rest.take(held.became)),
        (Cause.MISSING_AT_PROVIDER, rest.take({name: -amount for name, amount in held.missing.items()})),
    ]
    late = rest.take(held.elsewhere)
    if not told.settled or (held.pending and rest.within(held.pending)):
        late = _without_zeros(added([late, rest.take(rest.amounts)]))
    explained.append((Cause.LATE, late))
    if held.unknown and rest.within(held.unknown):
        # Whatever became of them, it is not less than nothing.
        explained.append((Cause.UNKNOWN_OUTCOME, rest.take(rest.above_zero)))
    if rest.amounts.keys() == {COST}:
        explained.append((Cause.PRICED_DIFFERENTLY, rest.take(rest.amounts)))
    if not told.listed and rest.above_zero.keys() - {COST}:
        explained.append((Cause.NOT_PROXIED, rest.take(rest.above_zero)))
    explained.append((Cause.UNEXPLAINED, rest.take(rest.amounts)))
    found += [
        Difference(subject=subject, cause=cause, resolution=_RESOLUTIONS.get(cause, Resolution.OPEN), amounts=amounts)
        for cause, amounts in explained
        if amounts
    ]
    return Comparison(subject=subject, told=dict(measures), held=now, differences=tuple(found))


class _Rest:
    """What is not explained yet."""

    def __init__(self, amounts: Amounts) -> None:
        self._measures = amounts.keys()
        self.amounts = _without_zeros(amounts)

    def take(self, amounts: Amounts) -> dict[str, int]:
        """Explain so much of what is compared; return it."""
        taken = _without_zeros({name: amount for name, amount in amounts.items() if name in self._measures})
        self.amounts = _without_zeros({name: self.amounts.get(name, 0) - taken.get(name, 0) for name in self._measures})
        return taken

    def within(self, events: int) -> bool:
        """True where so many events can account for it."""
        return all(abs(self.amounts.get(name, 0)) <= events for name in ONE_EACH)

    @property
    def above_zero(self) -> dict[str, int]:
        return {name: amount for name, amount in self.amounts.items() if amount > 0}


def added(many: Iterable[Amounts]) -> dict[str, int]:
    """The sum of amounts, in the order of measures; a measure that none speaks of is not in it."""
    found: dict[str, int] = {}
    for amounts in many:
        for name, amount in amounts.items():
            found[name] = found.get(name, 0) + amount
    return {name: found[name] for name in MEASURES if name in found}


def _without_zeros(amounts: Amounts) -> dict[str, int]:
    return {name: amounts[name] for name in MEASURES if amounts.get(name)}


class Beyond(NamedTuple):
    """Where more is open than is tolerated."""

    tenant_id: str
    category: str
    measure: str
    open: int
    told: int


def beyond(comparisons: Iterable[Comparison], tolerance: Fraction) -> list[Beyond]:
    """Where what is open is a larger part of what the provider says than is tolerated, over all days together. Days do not
    make up for each other: too much on one and too little on the next are both open."""
    told: dict[tuple[str, str, str], int] = {}
    left: dict[tuple[str, str, str], int] = {}
    for one in comparisons:
        for name, amount in one.told.items():
            key = one.subject.tenant_id, one.subject.category, name
            told[key] = told.get(key, 0) + abs(amount)
            left.setdefault(key, 0)
        for difference in one.differences:
            if difference.resolution is Resolution.OPEN:
                for name, amount in difference.amounts.items():
                    left[one.subject.tenant_id, one.subject.category, name] += abs(amount)
    return [Beyond(*key, amount, told[key]) for key, amount in sorted(left.items()) if amount > tolerance * told[key]]


_TOLERANCE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%")


def tolerance_of(text: str) -> Fraction:
    """A part, written as a percentage: `0.5%`. Raises ValueError."""
    found = _TOLERANCE.fullmatch(text)
    if found is None or Fraction(found[1]) > 100:
        raise ValueError("is not a percentage such as 0.5%")
    return Fraction(found[1]) / 100


def minutes_up_s(seconds: int) -> int:
    """What a leg of so many seconds is billed as: each begun minute whole, nothing where nobody was on the line."""
    return -(-seconds // 60) * 60


# ---------------------------------------------------------------------------------------------------------------------
# Calls whose outcome nobody recorded


class Unknown(NamedTuple):
    """A call of which nobody has said what became of it."""

    event_id: str
    event_types: frozenset[str]
    """What it can have made."""
    at_ms: int
    """When it arrived."""
    parties: Mapping[str, object]
    """Keyed hashes of who took part, as far as the request said it."""


class Candidate(NamedTuple):
    """An object that the provider has and the ledger does not."""

    external_id: str
    event_type: str
    at_ms: int
    parties: Mapping[str, str]
    """Keyed hashes."""


BEFORE_MS, AFTER_MS = 5_000, 900_000
"""An object is a call's if it was made from so long before to so long after the call arrived: clocks differ by seconds, and
no call is waited for longer."""


def resolved(unknowns: Sequence[Unknown], candidates: Sequence[Candidate]) -> dict[str, str]:
    """Which object each call has made, by the ids of both: only where there is no other that it can have made, and no other
    call that can have made it. A call that named no party can have made anything, so it is never told."""
    made_by: dict[str, list[str]] = {one.external_id: [] for one in candidates}
    made: dict[str, list[str]] = {}
    for call in unknowns:
        made[call.event_id] = [one.external_id for one in candidates if _can_have_made(call, one)]
        for external_id in made[call.event_id]:
            made_by[external_id].append(call.event_id)
    by_id = {one.event_id: one for one in unknowns}
    return {
        event_id: objects[0]
        for event_id, objects in made.items()
        if len(objects) == 1 and made_by[objects[0]] == [event_id] and by_id[event_id].parties
    }


def _can_have_made(call: Unknown, candidate: Candidate) -> bool:
    return (
        candidate.event_type in call.event_types
        and -BEFORE_MS <= candidate.at_ms - call.at_ms <= AFTER_MS
        and all(candidate.parties.get(role) == party for role, party in call.parties.items())
    )
