"""Pieces are all of it, in the order in which every writer takes keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metering.pieces import Pieces
from tests.builders import call_id, fact, usage_event


@given(st.lists(st.booleans(), max_size=40), st.builds(Pieces, st.integers(1, 9), st.integers(1, 9), st.just(0)))
def test_pieces_are_all_of_it_and_no_more_of_them_than_are_allowed(keyed, pieces):
    """Guards the order in which keys are taken, too: two writers that share facts would else wait in a circle."""
    known_by = [{"dedupe_key": f"object-{number}"} if one else {} for number, one in enumerate(keyed)]
    facts = [fact(usage_event(event_id=call_id(-number % 41), **one)) for number, one in enumerate(known_by)]

    found = pieces.of(facts)

    assert sorted(one.key for piece in found for one in piece) == sorted(one.key for one in facts)
    assert len(found) <= pieces.number_max + any(keyed)
    if len(found) > 1:
        first = found[0] if any(keyed) else []
        assert all(one.claim is not None for one in first)
        others = [one for piece in found[bool(first) :] for one in piece]
        assert [one.key for one in others] == sorted(one.key for one in facts if one.claim is None)
        assert all(len(piece) >= pieces.facts_min for piece in found[bool(first) : -1])
