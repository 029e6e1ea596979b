"""The texts of records, for calls that are alike."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.event_types import DIMENSIONS
from metering.intents import Intent
from metering.record_texts import IntentText, OutcomeText
from metering.usage import Completeness, UsageEvent

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
maybe = st.none() | texts
tags = st.dictionaries(texts, texts, max_size=3)
counts = st.integers(0, 1 << 53)
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
intents = st.builds(
    Intent,
    call_id=st.uuids().map(str),
    tenant_id=texts,
    source=texts,
    event_type=texts,
    endpoint=texts,
    occurred_at_ms=counts,
    direction=maybe,
    resource=maybe,
    category=texts,
    tags=tags,
    key_id=maybe,
    metered=st.booleans(),
)
quantities = st.dictionaries(st.sampled_from(DIMENSIONS), counts, max_size=5)


@given(intents, st.uuids().map(str), counts)
def test_an_intent_reads_as_if_it_had_been_written_whole(intent, call_id, at_ms):
    text = IntentText(intent).of(call_id, at_ms)

    expected = msgspec.structs.replace(intent, call_id=call_id, occurred_at_ms=at_ms)
    assert msgspec.json.decode(text, type=Intent) == expected


@given(
    intents,
    st.uuids().map(str),
    st.uuids().map(str),
    counts,
    st.integers(0, 599),
    counts,
    st.sampled_from(Completeness),
    quantities,
    maybe,
    st.dictionaries(texts, json, max_size=4),
    maybe,
)
def test_an_outcome_reads_as_if_it_had_been_written_whole(
    intent, event_id, call_id, at_ms, status, took_ms, completeness, used, external_id, metadata, description
):
    like = msgspec.structs.replace(intent.unknown(), description=description, metadata={"of": "another"})
    text = OutcomeText(like).of(event_id, call_id, at_ms, status, took_ms, completeness, used, external_id, metadata)

    expected = msgspec.structs.replace(
        like,
        event_id=event_id,
        call_id=call_id,
        occurred_at_ms=at_ms,
        status=status,
        duration_ms=took_ms,
        completeness=completeness,
        quantities=used,
        external_id=external_id,
        metadata=metadata,
    )
    assert msgspec.json.decode(text, type=UsageEvent) == expected


@pytest.mark.parametrize("field", ["event_id", "quantities", "external_id", "metadata"])
def test_what_another_call_said_is_in_no_text(field):
    """Guards the fields that are left out: said twice, the second one counts, and that is of the call before."""
    told = {
        "event_id": "before",
        "quantities": {"input_tokens": 7},
        "external_id": "before",
        "metadata": {"a": "before"},
    }
    event = UsageEvent(
        **{"event_id": "", field: told[field]},
        tenant_id="t",
        source="s",
        event_type="llm_call",
        endpoint="e",
        occurred_at_ms=1,
        completeness=Completeness.REPORTED,
    )
    text = OutcomeText(event).of("now", "now", 2, 200, 3, Completeness.REPORTED, {}, None, {})

    assert b"before" not in text
    assert b"input_tokens" not in text
