"""Call detail records and AI logs: what is booked of them, and what is said of those that are wrong."""

from __future__ import annotations

import json
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.call_details import SECONDS_MAX, NotARecord, read_call, record_of
from metering.usage import Completeness

CALL = {
    "uuid": "7f4db1ea-0c3c-4a09-9d9c-1f5e9a1a0001",
    "caller_id_number": "+15005550006",
    "destination_number": "+4915123456789",
    "start_stamp": "2026-11-20 12:00:00",
    "answer_stamp": "2026-11-20 12:00:07",
    "end_stamp": "2026-11-20 12:01:08",
    "duration": "68",
    "billsec": "61",
    "hangup_cause": "NORMAL_CLEARING",
    "direction": "outbound",
}

AI = {"id": "chatcmpl-1", "time": "2026-11-20T12:00:00Z", "model": "gpt-4o", "input_tokens": 100, "output_tokens": 7}

NOON_MS = 1_795_176_000_000


def test_a_call_has_the_seconds_that_are_billed_and_happened_when_it_began():
    record = record_of(CALL)

    assert (record.external_id, record.occurred_at_ms) == (CALL["uuid"], NOON_MS)
    assert (record.made.event_type, record.made.quantities, record.made.resource) == (
        "call_outbound",
        {"requests": 1},
        "DE",
    )
    assert record.made.parties == {"to": "+4915123456789", "from": "+15005550006"}
    [final] = record.late
    assert (final.usage.event_type, final.usage.quantities) == ("call_minutes", {"seconds": 61})
    assert final.usage.metadata == {"hangup_cause": "NORMAL_CLEARING"}


def test_a_call_that_nobody_took_used_nothing_and_that_is_known():
    [final] = record_of(CALL | {"billsec": "0", "hangup_cause": "NO_ANSWER", "direction": "inbound"}).late

    assert (final.usage.quantities, final.usage.completeness) == ({}, Completeness.REPORTED)
    assert record_of(CALL | {"direction": "inbound"}).made.event_type == "call_inbound"


def document():
    """What `mod_json_cdr` posts: variables that are escaped, and the numbers in the caller's profile."""
    variables = {
        "uuid": CALL["uuid"],
        "direction": "outbound",
        "start_stamp": quote("2026-11-20 13:00:00"),
        "start_epoch": str(NOON_MS // 1000),
        "billsec": "61",
        "hangup_cause": "NORMAL_CLEARING",
    }
    profile = {"caller_id_number": "+15005550006", "destination_number": "+4915123456789"}
    return {"core-uuid": "x", "variables": variables, "callflow": [{"caller_profile": profile}]}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps(document()), "application/json"),
        (urlencode({"cdr": json.dumps(document())}), "application/x-www-form-urlencoded; charset=utf-8"),
        (urlencode(CALL), "application/x-www-form-urlencoded"),
        (json.dumps(CALL), "text/plain"),
    ],
    ids=["json", "a form with json", "a form", "a row as json"],
)
def test_a_switchs_document_says_what_its_table_says(body, content_type):
    assert record_of(read_call(body.encode(), content_type)) == record_of(CALL)


def test_cached_tokens_are_taken_out_of_those_that_went_in():
    record = record_of(AI | {"cached_tokens": 40})

    assert record.made.quantities == {"input_tokens": 60, "input_tokens_cached": 40, "output_tokens": 7}
    assert (record.made.resource, record.made.event_type, record.made.completeness) == (
        "gpt-4o",
        "llm_call",
        Completeness.REPORTED,
    )
    assert record_of(
        {"prompt_tokens": 100, "completion_tokens": "7", **{k: AI[k] for k in ("id", "time", "model")}}
    ) == (record_of(AI))


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({}, "record", "neither"),
        (CALL | {"uuid": ""}, "uuid", "missing"),
        (CALL | {"uuid": "a b"}, "uuid", "ASCII"),
        (CALL | {"billsec": "61.5"}, "billsec", "whole number"),
        (CALL | {"billsec": "-1"}, "billsec", "whole number"),
        (CALL | {"billsec": True}, "billsec", "whole number"),
        (CALL | {"billsec": SECONDS_MAX + 1}, "billsec", "whole number"),
        (CALL | {"billsec": None}, "billsec", "missing"),
        (CALL | {"start_stamp": "noon"}, "start_stamp", "a time"),
        (CALL | {"start_stamp": ""}, "start_epoch", "missing"),
        (CALL | {"start_stamp": "99999999999999"}, "start_stamp", "a time"),
        (AI | {"model": "\n"}, "model", "name"),
        (AI | {"input_tokens": "many"}, "input_tokens", "whole number"),
        (AI | {"cached_tokens": 101}, "cached_input_tokens", "more than"),
        (AI | {"time": float("nan")}, "time", "a time"),
    ],
)
def test_what_is_wrong_is_named_by_its_field_and_not_quoted(fields, field, problem):
    with pytest.raises(NotARecord, match=problem) as refused:
        record_of(fields)

    assert refused.value.field == field or (field, refused.value.field) == ("cached_input_tokens", "cached_tokens")
    assert "noon" not in str(refused.value)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'"x"'])
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", ""])
def test_what_is_no_document_is_refused(body, content_type):
    with pytest.raises(NotARecord):
        record_of(read_call(body, content_type))


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.lists(st.text(max_size=5))


@given(st.sampled_from([CALL, AI, document()]), st.data())
def test_whatever_a_record_holds_it_is_booked_or_refused(good, data):
    """And nothing but a count that is not negative is booked of it."""
    fields = data.draw(st.dictionaries(st.sampled_from([*good, "variables", "callflow"]), VALUES, max_size=4))
    try:
        record = record_of({**good, **fields})
    except NotARecord:
        return
    for usage in (record.made, *(late.usage for late in record.late)):
        assert all(count >= 0 for count in usage.quantities.values())
