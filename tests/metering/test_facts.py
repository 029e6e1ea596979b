"""What is read of an event for booking is what the whole event says, and the whole is there when it is asked for."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import facts
from metering.columns import as_json
from metering.event_types import DIMENSIONS, EVENT_TYPES
from metering.facts import (
    REMEMBERED_BYTES_MAX,
    REMEMBERED_MAX,
    apart,
    as_json_rows,
    days_of_calls,
    fact,
    read_fact,
    validated,
)
from metering.record_texts import OutcomeText
from metering.usage import CONTEXT_TOKENS, TOLD_COST, Common, Completeness, Kind, Own, Told, UsageEvent
from tests.builders import CALL_ID, DAY_MS, NOON_MS, call_id, payload, usage_event

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

ASKED = ("key", "claim", "late", "pending", "units", "digest", "said", "occurred_at_ms", "quantities", "completeness")
TOLD = ("service_tier", TOLD_COST, CONTEXT_TOKENS)
OF_ALIKE = (
    "source",
    "event_type",
    "endpoint",
    "resource",
    "direction",
    "kind",
    "category",
    "key_id",
    "metered",
    "channel",
)


def asked(one):
    """All that booking asks of a fact."""
    return {
        **{name: getattr(one, name) for name in (*ASKED, *TOLD)},
        **{name: getattr(one.alike, name) for name in OF_ALIKE},
        "row": json.loads(one.row),
        "event": one.event,
    }


def as_a_worker_writes_it(event):
    return OutcomeText(event).of(
        *(event.event_id, event.call_id, event.occurred_at_ms, event.status, event.duration_ms),
        *(event.completeness, event.quantities, event.external_id, event.metadata),
    )


def of_a_call(event):
    """The event as if a call had made it."""
    return msgspec.structs.replace(
        event, kind=Kind.USAGE, corrects=None, dedupe_key=None, call_id=CALL_ID, event_id=CALL_ID
    )


@given(EVENTS)
def test_what_is_read_of_a_call_is_what_its_event_says(event):
    event = of_a_call(event)
    said = as_a_worker_writes_it(event)

    assert asked(read_fact(said)) == asked(fact(event, said))


@given(EVENTS, st.randoms(use_true_random=False))
def test_a_record_says_the_same_in_whatever_order_and_whoever_wrote_it(event, chance):
    """Watches the two parts that a record is read in."""
    fields = list(json.loads(payload(event)).items())
    chance.shuffle(fields)
    said = as_json(dict(fields)).encode()

    assert asked(read_fact(said)) == asked(fact(event, said))


@pytest.mark.parametrize(
    "changes",
    [
        {"tags": {"a": "b", "tenant_id": "globex"}},
        {"metadata": {"a": 1, "tenant_id": "globex"}},
        {"metadata": {"of": {"a": 1, "tenant_id": "globex"}}, "tags": {"a": "b", "tenant_id": "globex"}},
        {"description": ',"tenant_id":"globex"'},
        {"external_id": ',"tenant_id":"globex",'},
        {"description": "\0"},
        {"external_id": "\0"},
        {"tenant_id": 'ac\\"me'},
    ],
)
def test_what_looks_like_the_beginning_of_the_common_part_misleads_nobody(changes):
    event = usage_event(**changes)
    said = as_a_worker_writes_it(event)

    assert asked(read_fact(said)) == asked(fact(event, said))


@pytest.mark.parametrize(
    "own", [b'"digest":"mine",', b'"channel":"sms",', b'"event_id":"another",', b'"tenant_id":"globex",']
)
@pytest.mark.parametrize("behind", [b',"source":', b',"category":'])
def test_what_a_part_may_not_name_is_read_as_of_the_whole(own, behind):
    said = as_a_worker_writes_it(usage_event()).replace(behind, b"," + own + behind[1:])
    event = msgspec.json.decode(said, type=UsageEvent)

    read = read_fact(said)

    assert asked(read) == asked(fact(event, said))
    assert json.loads(read.row)["digest"] == read.digest
    assert json.loads(read.row)["channel"] == "ai"


def test_calls_that_are_alike_share_what_they_have_in_common():
    said = [
        as_a_worker_writes_it(usage_event(event_id=call_id(number), category=kind)) for number, kind in enumerate("aab")
    ]

    one, like_it, another = map(read_fact, said)

    assert one.alike is like_it.alike
    assert one.alike is not another.alike


def test_no_more_kinds_of_calls_are_remembered_than_there_is_room_for():
    for number in range(REMEMBERED_MAX + 2):
        read_fact(as_a_worker_writes_it(usage_event(category=str(number))))
    long = [read_fact(as_a_worker_writes_it(usage_event(category="x" * REMEMBERED_BYTES_MAX))) for _ in range(2)]
    first, again = (read_fact(as_a_worker_writes_it(usage_event(category="0"))) for _ in range(2))

    assert long[0].alike is not long[1].alike
    assert first.alike is again.alike
    assert len(facts._remembered) <= REMEMBERED_MAX


def test_a_digest_of_an_earlier_release_is_known_for_what_it_is():
    """Watches what was booked before an update and is shipped again after it."""
    said = payload(usage_event())
    one = fact(usage_event(), said)

    assert one.is_known_by(hashlib.blake2b(said, digest_size=8).hexdigest())
    assert not one.is_known_by(hashlib.blake2b(payload(usage_event(status=201)), digest_size=8).hexdigest())


@pytest.mark.parametrize("changes", [{"resource": 5}, {"category": None}, {"metadata": None}, {"quantities": None}])
def test_an_event_that_holds_something_else_than_it_says_is_no_fact(changes):
    """Guards whoever makes facts of what others tell, and passes over what is none."""
    event = usage_event(**changes)

    with suppress(ValueError):
        assert fact(event, payload(event)).event is event


@pytest.mark.parametrize("written", [payload, as_a_worker_writes_it])
def test_a_record_may_end_with_a_line_end(written):
    said = written(usage_event())

    rows = [json.loads(read_fact(one).row) for one in (said, said + b"\n", said.replace(b"rag", b"r\\u0000ag") + b"\n")]

    assert rows[0] | {"digest": ""} == rows[1] | {"digest": ""} == rows[2] | {"digest": "", "category": "rag"}


def test_the_parts_of_a_record_have_the_fields_of_an_event_and_what_prices_ask_of_its_metadata():
    assert sorted((*Own.__struct_fields__, *Common.__struct_fields__)) == sorted(UsageEvent.__struct_fields__)
    assert set(TOLD) == set(Told.__struct_fields__)


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
    for written in (payload, as_a_worker_writes_it):
        said = as_json(json.loads(written(usage_event())) | changes).encode()

        with pytest.raises(ValueError):
            read_fact(said)


@pytest.mark.parametrize("cut", ['"usage":{', '"usage":{"a":nul}}', '"usage":"\\x"'])
def test_what_is_not_looked_at_is_json_all_the_same(cut):
    """Guards the ledger, which takes it as it was written."""
    for written in (payload, as_a_worker_writes_it):
        said = written(usage_event(metadata={"usage": 0})).replace(b'"usage":0', cut.encode())

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
