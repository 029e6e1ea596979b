"""What went around the gateway, where a provider tells how much was used and not by which calls. Pure.

It is what the provider says in all of a whole day, of one kind of use and one resource, less what the ledger has of calls. Of
that, less is taken for use that went around than the plain difference, since use counted twice is worse than use that is
named and left open:

- A call is dated when it arrives, and the provider's use when it is done. What the ledger has too much of on the day before
  may be what it lacks on this one.
- A provider may call a model by another name than its answers do. What the ledger has under a name that the provider does
  not know is taken to be what it lacks under one that is like it: an edition of it, or a size.
- Tokens that the ledger had to estimate are of no finer kind than input and output: what it has too much of in one dimension
  may be what it lacks in another. Nothing is taken that would make all input, or all output, more than is told.
- Where all that the ledger has of a resource is counted in other terms than the provider's (a transcription in tokens that
  is told in seconds), the two can not be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metering.event_types import INPUT_TOKENS, OUTPUT_TOKENS
from metering.reconciliation import COUNT, Amounts

ByName = Mapping[str, Amounts]
"""Resource → what was used of it."""

WHOLES: Mapping[str, tuple[str, ...]] = {"input": INPUT_TOKENS, "output": OUTPUT_TOKENS}
"""The dimensions that are one thing, told apart more or less finely; what is left of all of them is the first one's."""


def around(told: ByName, calls: ByName, told_before: ByName, calls_before: ByName) -> dict[str, dict[str, int]]:
    """By resource, what the provider says of one kind of use on one day and no call of the ledger accounts for: nothing
    below zero, and nothing without an amount. `calls` are what the ledger has, less what was booked of this before, with the
    number of events as COUNT; the others are those of the day before."""
    late = over_midnight(told, calls, told_before, calls_before)
    left = _left(*map(_wholes, (told, calls, told_before, calls_before)))
    found: dict[str, dict[str, int]] = {}
    for name in sorted(told):
        has = calls.get(name, {})
        if any(has.get(measure) for measure in has.keys() - {COUNT}) and not any(map(has.get, told[name])):
            continue
        found[name] = {
            measure: max(0, amount - has.get(measure, 0) - late.get(name, {}).get(measure, 0))
            for measure, amount in told[name].items()
        }
        for whole, most in left[name].items():
            _take(found[name], WHOLES[whole], sum(found[name].get(one, 0) for one in WHOLES[whole]) - most)
    for other in sorted(calls.keys() - told.keys()):
        alike = [found[name] for name in sorted(found) if is_alike(name, other)]
        over = {measure: max(0, amount) for measure, amount in calls[other].items()}
        for measures in (*((one,) for one in over), *WHOLES.values()):
            for lacks in alike:
                too_much = sum(over.get(one, 0) for one in measures)
                _take(over, measures, _take(lacks, measures, too_much))
    without_zeros = {name: {one: amount for one, amount in lacks.items() if amount} for name, lacks in found.items()}
    return {name: lacks for name, lacks in without_zeros.items() if lacks}


def _left(told: ByName, calls: ByName, told_before: ByName, calls_before: ByName) -> dict[str, dict[str, int]]:
    """By resource, what calls leave of each whole."""
    late = over_midnight(told, calls, told_before, calls_before)
    return {
        name: {
            whole: max(0, amount - calls.get(name, {}).get(whole, 0) - late.get(name, {}).get(whole, 0))
            for whole, amount in amounts.items()
        }
        for name, amounts in told.items()
    }


def _wholes(by_name: ByName) -> ByName:
    return {
        name: {whole: sum(amounts.get(one, 0) for one in measures) for whole, measures in WHOLES.items()}
        for name, amounts in by_name.items()
    }


def _take(amounts: dict[str, int], measures: Sequence[str], most: int) -> int:
    """Take as much of these measures as there is, up to so much; return how much that was. What is told apart most finely goes
    first."""
    left = max(0, most)
    for measure in reversed(measures):
        taken = min(left, amounts.get(measure, 0))
        if taken:
            amounts[measure] -= taken
            left -= taken
    return max(0, most) - left


def over_midnight(told: ByName, calls: ByName, told_before: ByName, calls_before: ByName) -> dict[str, dict[str, int]]:
    """By resource, what the ledger lacks on one day and has too much of on the day before."""
    found: dict[str, dict[str, int]] = {}
    for name, amounts in told.items():
        of_call, of_call_before = calls.get(name, {}), calls_before.get(name, {})
        before = told_before.get(name, {})
        for measure, amount in amounts.items():
            too_much = of_call_before.get(measure, 0) - before.get(measure, 0)
            late = min(amount - of_call.get(measure, 0), too_much)
            if late > 0:
                found.setdefault(name, {})[measure] = late
    return found


def is_alike(name: str, other: str) -> bool:
    """True for a model and its dated edition, or a size of it."""
    return bool(other) and (name.startswith(other) or other.startswith(name))
