"""What a call becomes of which nothing more was ever heard."""

from __future__ import annotations

import msgspec

from metering.facts import validated
from metering.intents import Closed, Intent
from metering.usage import Completeness, Kind
from tests.builders import closed, intent, payload


def test_a_call_whose_outcome_never_came_is_an_event_of_unknown_completeness():
    call = intent(tags={"team": "search"}, direction="outbound", metered=False)

    event = validated(call.unknown())

    assert (event.completeness, event.kind, event.quantities, event.units) == (
        Completeness.UNKNOWN,
        Kind.USAGE,
        {},
        None,
    )
    assert event.event_id == event.call_id == call.call_id


def test_the_event_says_of_the_call_all_that_its_intent_says():
    call = intent(tags={"team": "search"}, direction="outbound", metered=False)
    event = call.unknown()

    said = {name: getattr(call, name) for name in Intent.__struct_fields__ if name != "call_id"}
    assert {name: getattr(event, name) for name in said} == said


def test_intents_and_closings_come_back_from_the_spool_as_they_were():
    call = intent(tags={"team": "search"}, metered=False)

    assert msgspec.json.decode(payload(call), type=Intent) == call
    assert msgspec.json.decode(payload(closed()), type=Closed) == closed()
