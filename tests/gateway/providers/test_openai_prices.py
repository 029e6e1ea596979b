"""From the bytes that OpenAI answers to what they cost: what decides the price stands in the answer, not in the request."""

import json

import pytest

from gateway.providers import PROVIDERS
from gateway.routing import Routes
from metering.usage import UsageEvent
from pricing.catalogue import load_books
from pricing.money import format_amount, parse_amount
from pricing.rating import rate
from tests.builders import answer_head, fact

NOON_MS = 1_795_176_000_000
"""2026-11-20."""


@pytest.fixture(scope="module")
def costs():
    return load_books().cost_book


def priced(costs, path, asked, told, media_type="application/json"):
    """What a call's events cost, each by its resource."""
    endpoint = Routes(PROVIDERS).match("POST", f"/openai{path}").endpoint
    meter = endpoint.meter(answer_head(200, {"Content-Type": media_type}), endpoint.prepare(json.dumps(asked).encode()))
    meter.feed(told if isinstance(told, bytes) else json.dumps(told).encode())
    _, usage = meter.finish(whole=True)
    events = [
        UsageEvent(
            event_id=f"e{number}",
            tenant_id="acme",
            source="openai",
            event_type=used.event_type or endpoint.event_type,
            endpoint=endpoint.name,
            occurred_at_ms=NOON_MS,
            completeness=used.completeness,
            quantities=used.quantities,
            resource=used.resource,
            metadata=used.metadata,
        )
        for number, used in enumerate((usage, *usage.further))
    ]
    costs_nano = {event.resource: rate(fact(event), costs, costs).cost_nano for event in events}
    return {name: None if cost is None else format_amount(cost) for name, cost in costs_nano.items()}


def response(model="gpt-5.4", tier="default", **usage):
    return {"id": "resp_1", "object": "response", "model": model, "service_tier": tier, "status": "completed"} | {
        "usage": usage
    }


@pytest.mark.parametrize(
    ("asked", "answered", "cost"),
    # 100,000 at $2.50 a million, and 1,000 at $15.
    [
        ("auto", "default", "0.265"),
        ("auto", "flex", "0.1325"),
        ("flex", "default", "0.265"),
        ("default", "priority", "0.53"),
    ],
)
def test_the_tier_that_served_decides_and_not_the_one_that_was_asked_for(costs, asked, answered, cost):
    told = response(tier=answered, input_tokens=100_000, output_tokens=1_000)

    assert priced(costs, "/v1/responses", {"model": "gpt-5.4", "service_tier": asked}, told) == {"gpt-5.4": cost}


@pytest.mark.parametrize(
    ("cached", "cost"),
    [
        # 72,000 at $2.50, 200,000 at $0.25 and 1,000 at $15 a million.
        (200_000, "0.245"),
        # One token more, and all are dearer: 72,000 at $5, 200,001 at $0.50 and 1,000 at $22.50.
        (200_001, "0.4825005"),
    ],
)
def test_the_whole_context_makes_every_token_dearer_also_what_was_cached(costs, cached, cost):
    """Guards the cliff at 272,000 input tokens: taken from the remainder alone, no cached prompt would ever reach it."""
    details = {"cached_tokens": cached}
    told = response(input_tokens=72_000 + cached, input_tokens_details=details, output_tokens=1_000)

    assert priced(costs, "/v1/responses", {"model": "gpt-5.4"}, told) == {"gpt-5.4": cost}


def test_the_model_that_answered_decides_and_not_the_one_that_was_asked_for(costs):
    told = response(model="gpt-4o-2024-08-06", input_tokens=1_000, output_tokens=100)

    assert priced(costs, "/v1/responses", {"model": "gpt-5.4"}, told) == {"gpt-4o-2024-08-06": "0.0035"}


def test_a_stream_s_last_event_decides(costs):
    created = {"type": "response.created", "response": response(tier="auto") | {"usage": None}}
    completed = {
        "type": "response.completed",
        "response": response(tier="priority", input_tokens=1_000, output_tokens=0),
    }
    told = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in (created, completed))

    assert priced(costs, "/v1/responses", {"model": "gpt-5.4"}, told, "text/event-stream") == {"gpt-5.4": "0.005"}


def test_what_a_tool_used_has_its_own_price_and_where_it_has_none_the_response_keeps_its(costs):
    told = response(input_tokens=1_000, output_tokens=0) | {
        "tools": [{"type": "image_generation", "model": "gpt-image-2"}],
        "output": [{"type": "image_generation_call"}, {"type": "code_interpreter_call", "container_id": "cntr_1"}],
        "tool_usage": {
            "image_gen": {"input_tokens": 100, "output_tokens": 1_000},
            "web_search": {"num_requests": 2},
        },
    }

    assert priced(costs, "/v1/responses", {"model": "gpt-5.4"}, told) == {
        # 1,000 tokens at $2.50 a million, and 2 searches at $10 a thousand.
        "gpt-5.4": "0.0225",
        # 100 tokens at $5 and 1,000 at $30 a million.
        "gpt-image-2": "0.0305",
        # By the minute, which no answer tells.
        "container": None,
    }


@pytest.mark.parametrize(
    ("path", "asked", "told", "cost"),
    [
        ("/v1/audio/speech", {"model": "tts-1", "input": "x" * 1_000}, b"ID3", "0.015"),
        ("/v1/moderations", {"input": "Hello"}, {"id": "modr-1", "model": "omni-moderation-latest"}, "0"),
        ("/v1/embeddings", {"model": "text-embedding-3-small"},
         {"model": "text-embedding-3-small", "usage": {"prompt_tokens": 1_000, "total_tokens": 1_000}}, "0.00002"),
        ("/v1/images/generations", {"model": "gpt-image-2"},
         {"data": [{}], "usage": {"input_tokens": 100, "output_tokens": 1_000}}, "0.0305"),
    ],
)  # fmt: skip
def test_what_is_not_billed_by_text_tokens_has_the_price_of_the_list(costs, path, asked, told, cost):
    (found,) = priced(costs, path, asked, told).values()

    assert parse_amount(found) == parse_amount(cost)
