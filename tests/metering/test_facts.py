"""What is read of an event for booking is what the whole event says, and the whole is there when it is asked for."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.columns import as_json
from metering.event_types import DIMENSIONS, EVENT_TYPES
from metering.facts import apart, as_json_rows, days_of_calls, fact, read_fact, validated
from metering.usage import CONTEXT_TOKENS, TOLD_COST, Completeness, Kind, Outline, Told, UsageEvent
from tests.builders import DAY_MS, NOON_MS, call_id, payload, usage_event

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
NAMES = TEXTS.filter(lambda text: text and "\0" not in text)

EVENTS = st.builds(
    usage_event,
    event_id=NAMES,
    tenant_id=NAMES,
    source=NAMES,
    event_type=st.sampled_from([*EVENT_TYPES, "pdf_rendered"]),
    occurred_at_ms=st.integers(1, NOON_MS + 400 * DAY_MS),
    completeness=st.sampled_from(Completeness),
    quantities=st.dictionaries(st.sampled_from(DIMENSIONS), st.integers(0, 1 << 53), max_size=4),
    resource=st.none() | TEXTS,
    external_id=st.none() | TEXTS,
    direction=st.none() | st.sampled_from(["inbound", "outbound"]),
    kind=st.sampled_from([Kind.USAGE, Kind.USAGE, Kind.CORRECTION, Kind.BACKFILL, Kind.COST]),
    corrects=st.none() | NAMES,
    tags=st.dictionaries(TEXTS, TEXTS, max_size=2),
    description=st.none() | TEXTS,
    metadata=st.dictionaries(
        TEXTS | st.sampled_from(["service_tier", TOLD_COST, CONTEXT_TOKENS]),
        st.none() | TEXTS | st.integers(-9, 9) | st.dictionaries(TEXTS, st.lists(st.floats(0, 1), max_size=2)),
        max_size=3,
    ),
    metered=st.booleans(),
    dedupe_key=st.none() | NAMES,
)

ASKED = ("key", "claim", "late", "pending", "channel", "units", "digest", "row", "said")


@given(EVENTS)
def test_what_is_read_of_a_record_is_what_its_event_says(event):
    said = payload(event)
    read, whole = read_fact(said), fact(event, said)

    assert {name: getattr(read, name) for name in ASKED} == {name: getattr(whole, name) for name in ASKED}
    assert read.event == whole.event


@given(EVENTS)
def test_an_outline_says_what_the_event_says_but_for_its_tags_and_most_of_its_metadata(event):
    outline = msgspec.json.decode(payload(event), type=Outline)

    for name in set(Outline.__struct_fields__) - {"tags", "metadata"}:
        assert getattr(outline, name) == getattr(event, name)
    for name in Told.__struct_fields__:
        assert getattr(outline.metadata, name) == event.metadata.get(name)


def test_an_outline_has_the_fields_of_an_event_and_what_prices_ask_of_its_metadata():
    assert set(Outline.__struct_fields__) == set(UsageEvent.__struct_fields__)
    assert {TOLD_COST, CONTEXT_TOKENS} < set(Told.__struct_fields__)


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": []},
        {"tags": "none"},
        {"tags": {"team": 1}},
        {"tags": None},
        {"status": "200"},
        {"quantities": {"input_tokens": "3"}},
        {"event_id": ""},
        {"quantities": {"input_tokens": -1}},
    ],
)
def test_what_is_no_event_is_refused_when_it_is_read(changes):
    said = as_json(json.loads(payload(usage_event())) | changes).encode()

    with pytest.raises(ValueError):
        read_fact(said)


@pytest.mark.parametrize("cut", ['"usage":{', '"usage":{"a":nul}}', '"usage":"\\x"'])
def test_what_is_not_looked_at_is_json_all_the_same(cut):
    """Guards the ledger, which takes it as it was written."""
    said = payload(usage_event(metadata={"usage": 0})).replace(b'"usage":0', cut.encode())

    with pytest.raises(ValueError):
        read_fact(said)


def test_the_row_is_the_event_with_the_columns_that_are_not_in_it():
    one = fact(usage_event(), payload(usage_event()))

    (row,) = json.loads(as_json_rows([one]))

    assert row == json.loads(one.said) | {
        "event_day": "2026-11-20",
        "channel": "ai",
        "units": 163,
        "occurred_at": "2026-11-20T12:00:00.000Z",
        "digest": one.digest,
    }


def test_facts_that_take_the_key_of_an_object_are_booked_apart():
    call, message = usage_event(), usage_event(event_type="sms_outbound", external_id="SM1", quantities={"segments": 1})
    given_facts = [fact(validated(one), payload(one)) for one in (call, message)]

    unkeyed, keyed = apart(given_facts)

    assert ([one.event for one in unkeyed], [one.event for one in keyed]) == ([call], [message])


def test_the_day_of_what_comes_late_is_not_asked_for():
    """Watches the months that are made: a late fact is booked on the day of its event, which is there."""
    late = usage_event(kind=Kind.CORRECTION, dedupe_key="a:b:final", occurred_at_ms=NOON_MS + 90 * DAY_MS)
    events = [usage_event(event_id=call_id(1)), late]

    assert days_of_calls([fact(one, payload(one)) for one in events]) == {"2026-11-20"}
