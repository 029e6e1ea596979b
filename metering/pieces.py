"""What is booked together, in pieces: so that the database, and whoever waits for the processors it is on, has rests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from metering.facts import Fact, apart


class Pieces(NamedTuple):
    """How facts that are booked together are given to the database: it is busy with each piece for as long as that takes,
    and leaves the processors to others between them."""

    number_max: int = 1
    """Each costs two questions by itself. Those facts that take keys of objects are one more, however many."""
    facts_min: int = 1
    """Of each; the last may have fewer."""
    rest_s: float = 0
    """Between a piece and the next."""

    def of(self, facts: Sequence[Fact]) -> list[Sequence[Fact]]:
        """In the order in which every writer takes keys (:func:`metering.ledger.add`)."""
        facts_max = max(self.facts_min, -(-len(facts) // self.number_max))
        if len(facts) <= facts_max:
            return [facts]
        unkeyed, keyed = apart(facts)
        unkeyed.sort(key=lambda one: "\0".join(one.key))
        parts: list[Sequence[Fact]] = [keyed] if keyed else []
        return parts + [unkeyed[start : start + facts_max] for start in range(0, len(unkeyed), facts_max)]


WHOLE = Pieces()
