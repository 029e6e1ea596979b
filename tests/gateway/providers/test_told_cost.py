"""What providers say a call cost."""

import json

import pytest

from gateway.providers import Kind, compatible
from gateway.providers.learnt import as_it_came
from tests.builders import answer_head

[CHAT] = [
    endpoint
    for endpoint in compatible("openrouter", Kind.OPENAI, asks_for_usage=False).endpoints
    if endpoint.name == "chat.completions"
]


def told(usage, **how):
    meter = CHAT.meter(answer_head(200, {"Content-Type": "application/json"}), as_it_came(b""))
    body = b'{"id":"gen-1","model":"openai/gpt-4o","usage":{"prompt_tokens":7,"completion_tokens":2%s}}' % usage
    assert meter.feed(body) == body
    return meter.finish(whole=True)[1]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (b"0.95", "0.95"),
        (b"0.00014", "0.00014"),
        (b"1.23e-7", "0.000000123"),
        (b"0.1234567890123", "0.1234567890123"),
        (b"0", "0"),
        (b"2", "2"),
    ],
)
def test_a_cost_is_kept_to_the_digit(written, kept):
    usage = told(b',"cost":' + written)

    assert usage.metadata["provider_cost"] == kept
    assert usage.quantities == {"input_tokens": 7, "output_tokens": 2}


@pytest.mark.parametrize("wrong", [b'"0.95"', b"-1", b"1e300", b"null", b"true", b"[1]", b'{"total_cost":1}', b"NaN"])
def test_what_is_no_cost_is_none(wrong):
    assert "provider_cost" not in told(b',"cost":' + wrong).metadata


def test_a_stream_tells_its_cost_in_its_last_chunk():
    chunk = {"id": "gen-1", "model": "openai/gpt-4o", "choices": [], "usage": {"prompt_tokens": 7, "cost": 0.0021}}
    meter = CHAT.meter(answer_head(200, {"Content-Type": "text/event-stream"}), as_it_came(b""))
    sent = b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n"

    passed = meter.feed(sent)

    assert meter.concluded
    held, usage = meter.finish(whole=True)
    assert passed + held == sent
    assert usage.metadata["provider_cost"] == "0.0021"
