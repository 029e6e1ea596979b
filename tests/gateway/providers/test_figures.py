"""What providers' own totals are in the ledger."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest

from gateway.providers import PROVIDERS, openai, sendgrid, twilio
from gateway.providers.api import Total, nanos
from metering.event_types import DIMENSIONS, EVENT_TYPES

DAY = dt.date(2026, 11, 20)


def total(category, **said):
    return Total(**{"day": DAY, "account": "", "category": category, "currency": "USD"} | said)


def by_category(figures):
    return {one.category: one for one in figures}


# ---------------------------------------------------------------------------------------------------------------------
# Twilio


def test_messages_are_told_by_message_and_segment_and_calls_in_begun_minutes():
    found = by_category(
        twilio.PROVIDER.figures(
            [
                total("sms-outbound", count=5, usage=Decimal(7), cost=Decimal("0.0581")),
                total("calls-inbound", count=2, usage=Decimal(3), cost=Decimal("0.0255")),
            ]
        )
    )

    sms, calls = found["sms-outbound"], found["calls-inbound"]
    assert sms.amounts == {"messages": 5, "segments": 7, "cost_nano": 58_100_000}
    assert (sms.event_types, sms.minutes) == (("sms_outbound",), False)
    assert (calls.amounts, calls.direction, calls.minutes) == (
        {"seconds": 180, "cost_nano": 25_500_000},
        "inbound",
        True,
    )


def test_what_lies_within_another_category_is_not_counted_twice_and_the_whole_is_told():
    found = twilio.PROVIDER.figures(
        [
            total("sms", cost=Decimal("1.00")),
            total("sms-outbound", count=1, usage=Decimal(1), cost=Decimal("1.00")),
            total("sms-outbound-longcode", count=1, usage=Decimal(1), cost=Decimal("1.00")),
            total("phonenumbers", cost=Decimal("1.15")),
            total("something-new", cost=Decimal("0.25")),
            total("totalprice", cost=Decimal("2.40")),
        ]
    )

    costs = {one.category: one.amounts["cost_nano"] for one in found}
    assert costs == {"sms-outbound": 10**9, "phonenumbers": 1_150_000_000, "other": 250_000_000}
    assert {one.category for one in found if not one.event_types} == {"phonenumbers", "other"}


def test_messages_of_other_channels_are_one_figure_for_each_way_and_no_part_of_the_rest():
    """Guards money: their prices are on the messages, and would be booked once more as what nobody knows."""
    found = by_category(
        twilio.PROVIDER.figures(
            [
                total("channels", cost=Decimal("0.030")),
                total("channels-whatsapp-outbound", count=1, cost=Decimal("0.005")),
                total("channels-messenger-outbound", count=2, cost=Decimal("0.010"), as_of="2026-11-20T12:00:00+00:00"),
                total("channels-rcs-outbound", count=1, cost=Decimal("0.010"), as_of="2026-11-21T12:00:00+00:00"),
                total("channels-rcs-inbound", count=1, cost=Decimal("0.005")),
                total("totalprice", cost=Decimal("0.030")),
            ]
        )
    )

    outbound = found["channels-others-outbound"]
    assert outbound.amounts == {"messages": 3, "cost_nano": 20_000_000}
    assert (outbound.event_types, outbound.settled) == (("message_outbound",), False)
    assert found["channels-others-inbound"].event_types == ("message_inbound",)
    assert found["channels-whatsapp-outbound"].amounts["messages"] == 1
    assert found["other"].amounts == {"cost_nano": 0}
    assert "channels" not in found


def test_a_whole_that_is_less_than_its_parts_says_nothing_of_others():
    found = twilio.PROVIDER.figures([total("phonenumbers", cost=Decimal("1.15")), total("totalprice", cost=Decimal(1))])

    assert set(by_category(found)) == {"phonenumbers"}


@pytest.mark.parametrize(
    ("as_of", "settled"),
    [
        ("2026-11-20T23:59:59+00:00", False),
        ("2026-11-21T00:00:00+00:00", True),
        ("2026-11-21T01:00:00+02:00", False),
        ("2026-11-21T00:00:00", True),
        ("", True),
        ("soon", True),
    ],
)
def test_a_figure_moves_until_all_of_its_day_is_in_it(as_of, settled):
    [found] = twilio.PROVIDER.figures([total("sms-outbound", count=1, as_of=as_of)])

    assert found.settled is settled


def test_days_are_told_apart():
    tomorrow = DAY + dt.timedelta(days=1)
    found = twilio.PROVIDER.figures([total("sms-inbound", count=1), total("sms-inbound", count=2, day=tomorrow)])

    assert [(one.day, one.amounts) for one in found] == [
        ("2026-11-20", {"messages": 1}),
        ("2026-11-21", {"messages": 2}),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# SendGrid and OpenAI


def test_mail_is_counted_for_whom_it_was_processed_for_and_not_for_whom_it_was_dropped():
    found = sendgrid.PROVIDER.figures(
        [total("requests", count=10), total("processed", count=8), total("bounce_drops", count=2)]
    )

    assert [(one.category, one.amounts) for one in found] == [("processed", {"recipients": 8})]


def test_use_is_told_by_model_and_costs_are_told_whole():
    found = by_category(
        openai.PROVIDER.figures(
            [
                total("completions:gpt-4o", usage=Decimal(70), usage_unit="input_tokens"),
                total("completions:gpt-4o", usage=Decimal(9), usage_unit="output_tokens"),
                total("costs:gpt-4o, input", cost=Decimal("0.0000001755")),
                total("costs:gpt-4o, output", cost=Decimal("0.01")),
                total("web_search_calls", usage=Decimal(3), usage_unit="web_searches"),
            ]
        )
    )

    assert set(found) == {"completions:gpt-4o", "costs"}
    chat = found["completions:gpt-4o"]
    assert (chat.amounts, chat.resource) == ({"input_tokens": 70, "output_tokens": 9}, "gpt-4o")
    assert found["costs"].amounts == {"cost_nano": 10_000_176}


def test_a_sum_of_a_model_says_what_is_booked_of_it_and_how_many_calls_it_is():
    found = by_category(
        openai.PROVIDER.figures(
            [
                total("completions:m", usage=Decimal(70), usage_unit="input_tokens", count=3),
                total("completions:m", usage=Decimal(9), usage_unit="output_tokens", count=3),
                # Another project's.
                total("completions:m", usage=Decimal(30), usage_unit="input_tokens", count=2),
                total("completions.batch:m", usage=Decimal(1), usage_unit="input_tokens"),
                total("embeddings:m", usage=Decimal(1), usage_unit="input_tokens"),
                total("images", usage=Decimal(1), usage_unit="images"),
                total("images:m", usage=Decimal(1), usage_unit="images"),
                total("audio_speeches:tts-1-hd", usage=Decimal(1), usage_unit="characters"),
                total("audio_speeches:gpt-4o-mini-tts", usage=Decimal(1), usage_unit="characters"),
                total("audio_transcriptions:whisper-1", usage=Decimal(1), usage_unit="seconds"),
                total("audio_transcriptions:gpt-4o-transcribe", usage=Decimal(1), usage_unit="seconds"),
                total("costs:m", cost=Decimal(1)),
            ]
        )
    )

    assert (found["completions:m"].calls, found["completions:m"].amounts["input_tokens"]) == (5, 100)
    assert {name: one.booked_as for name, one in found.items()} == {
        "completions:m": "llm_call",
        "completions.batch:m": "batch",
        "embeddings:m": "embedding",
        # Without a model there is no price.
        "images": None,
        # It may be told as completions as well, and so may what is billed by tokens.
        "images:m": None,
        "audio_speeches:tts-1-hd": "audio_speech",
        "audio_speeches:gpt-4o-mini-tts": None,
        "audio_transcriptions:whisper-1": "audio_transcription",
        "audio_transcriptions:gpt-4o-transcribe": None,
        "costs": None,
    }


def test_figures_are_of_types_and_dimensions_that_there_are():
    said = [
        *(total(name, count=1, usage=Decimal(1), cost=Decimal(1)) for name in twilio.figures.__globals__["USED"]),
        total("processed", count=1),
        *(
            total(f"{kind}:m", usage=Decimal(1), usage_unit="images")
            for kind in ("images", "completions", "embeddings")
        ),
        total("costs:m", cost=Decimal(1)),
    ]
    for provider in PROVIDERS:
        for one in provider.figures(said):
            assert set(one.event_types) <= EVENT_TYPES.keys()
            assert one.amounts.keys() <= {*DIMENSIONS, "cost_nano", "count"}
            assert {name for within in one.within.values() for name in within} <= set(DIMENSIONS)


@pytest.mark.parametrize(
    ("cost", "nano"), [("1", 10**9), ("0.0000000005", 0), ("0.0000000015", 2), ("0.00000000051", 1), ("0", 0)]
)
def test_a_cost_is_rounded_half_to_even(cost, nano):
    assert nanos(Decimal(cost)) == nano
