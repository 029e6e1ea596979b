"""What is counted: every type of event has its column and its number, and every dimension counts once."""

from __future__ import annotations

from metering.event_types import (
    DIMENSIONS,
    EVENT_TYPES,
    INPUT_TOKENS,
    OTHER,
    OUTPUT_TOKENS,
    TOKENS,
    channel_of,
    units_of,
)

CHANNELS = {"ai", "sms", "voice", "email", "whatsapp", "other"}


def test_every_event_type_is_of_a_channel_and_counts_dimensions_that_there_are():
    for name, event_type in EVENT_TYPES.items():
        assert event_type.channel in CHANNELS, name
        assert event_type.units, name
        assert set(event_type.units) <= set(DIMENSIONS), name


def test_tokens_are_all_kinds_of_tokens_once_but_those_that_a_model_was_trained_with():
    assert len(set(TOKENS)) == len(TOKENS)
    assert set(TOKENS) == {name for name in DIMENSIONS if "tokens" in name} - {"trained_tokens"}
    assert not set(INPUT_TOKENS) & set(OUTPUT_TOKENS)


def test_a_type_that_nobody_lists_is_shown_as_any_other():
    assert channel_of("pdf_rendered") == OTHER.channel
    assert units_of("pdf_rendered", {"requests": 2, "seconds": 9}) == 2


def test_units_are_the_sum_of_what_the_type_counts_and_none_where_nothing_of_it_is_known():
    assert units_of("llm_call", {"input_tokens": 5, "output_tokens": -2, "requests": 1}) == 3
    assert units_of("llm_call", {"input_tokens": 0}) == 0
    assert units_of("llm_call", {"requests": 1}) is None
    assert units_of("llm_call", {}) is None
