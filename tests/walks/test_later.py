"""What a provider says after the call, over sockets with the official SDK: booked once, whoever hears it and how often."""

from __future__ import annotations

import io
import json
import urllib.request
from collections import Counter

import openai
import pytest

from tests.walks.harness import ON_BOTH, eventually

pytestmark = ON_BOTH

REQUESTS = 10_000


@pytest.fixture
def client(gateway, request):
    tenant_id = f"later-{request.node.callspec.id}-{request.node.originalname[-40:]}".replace("_", "-")
    key = gateway.tenant(tenant_id)
    with openai.OpenAI(base_url=gateway.openai, api_key=key) as client:
        client.tenant_id = tenant_id
        yield client


def settled(gateway, tenant_id):
    """The tenant's corrections, once there is one."""

    def found():
        return [event for event in gateway.events(tenant_id) if event["kind"] == "correction"]

    return eventually(found, f"a correction of {tenant_id}")


def said_of(gateway, object_id):
    """What the simulator says it used."""
    return next(one.usage for one in gateway.truth() if one.object_id == object_id and one.usage)


def charged(gateway, tenant_id):
    """What is owed for all of a tenant's events."""
    charges = [event["charge"]["amount"] for event in gateway.events(tenant_id) if event["charge"]]
    return round(sum(map(float, filter(None, charges))), 12)


def tokens(event):
    return sum(amount for name, amount in event["quantities"].items() if "tokens" in name)


def test_a_background_response_is_counted_once_however_often_it_is_fetched_and_streamed_again(gateway, client):
    made = client.responses.create(model="gpt-4o", input="Hello", background=True)
    for _ in range(50):
        read = client.responses.retrieve(made.id)
    for _ in range(2):
        *_, last = client.responses.retrieve(made.id, stream=True)
    assert last.response.usage == read.usage

    events = gateway.events_of(client.tenant_id, 1 + 50 + 2 + 1)
    (correction,) = settled(gateway, client.tenant_id)
    pending = next(event for event in events if event["endpoint"] == "responses" and event["kind"] == "usage")
    assert (pending["completeness"], pending["external_id"]) == ("pending", made.id)
    assert (correction["corrects"], correction["completeness"]) == (pending["event_id"], "reported")
    assert tokens(correction) == read.usage.total_tokens == said_of(gateway, made.id)["total_tokens"]
    assert Counter(event["endpoint"] for event in events) == {"responses": 2, "responses.retrieve": 52}
    assert sum(tokens(event) for event in events) == read.usage.total_tokens


def test_a_background_response_that_nobody_fetches_is_counted_and_charged_like_one_in_the_foreground(gateway, client):
    client.responses.create(model="gpt-4o", input="Hello")
    eventually(lambda: charged(gateway, client.tenant_id), "the charge of the one in the foreground")
    at_once = charged(gateway, client.tenant_id)

    client.responses.create(model="gpt-4o", input="Hello", background=True)
    (correction,) = settled(gateway, client.tenant_id)

    assert float(correction["charge"]["amount"]) == at_once
    assert charged(gateway, client.tenant_id) == round(2 * at_once, 12)


def test_a_batch_of_ten_thousand_requests_is_billed_once_at_the_batch_price_whoever_fetches_it(gateway, client):
    """Guards money: other gateways bill each time that somebody reads the result, or never."""
    lines = io.BytesIO()
    for number in range(REQUESTS):
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"Say {number}."}]}
        request = {"custom_id": f"{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        lines.write(json.dumps(request).encode() + b"\n")
    file = client.files.create(file=("in.jsonl", lines.getvalue()), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", timeout=120
    )

    for _ in range(3):
        read = client.batches.retrieve(made.id)
    for _ in range(3):
        content = client.files.content(read.output_file_id).content

    assert read.request_counts.completed == len(content.splitlines()) == REQUESTS
    (correction,) = settled(gateway, client.tenant_id)
    (model, said), *others = said_of(gateway, made.id)["models"].items()
    assert not others
    assert (correction["event_type"], correction["resource"]) == ("batch", model)
    assert tokens(correction) == said["total_tokens"] == correction["units"]
    assert correction["metadata"]["answers"] == REQUESTS
    # The list price of the model, halved: 0.075 and 0.30 dollars for a million tokens; what is cached costs no less.
    quantities = correction["quantities"]
    read_tokens = quantities["input_tokens"] + quantities["input_tokens_cached"]
    cost = read_tokens * 0.075 + quantities["output_tokens"] * 0.3
    assert float(correction["cost"]["amount"]) == pytest.approx(cost / 1e6)
    kinds = Counter((event["endpoint"], event["kind"]) for event in gateway.events(client.tenant_id))
    assert kinds["batches.create", "usage"] == kinds["batches.create", "correction"] == 1


def test_a_fine_tuning_job_is_counted_in_trained_tokens_and_has_no_price_of_its_own_yet(gateway, client):
    file = client.files.create(file=("train.jsonl", b'{"messages": []}\n' * 100), purpose="fine-tune")
    made = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file.id)
    for _ in range(3):
        read = client.fine_tuning.jobs.retrieve(made.id)

    (correction,) = settled(gateway, client.tenant_id)

    assert correction["quantities"] == {"trained_tokens": read.trained_tokens}
    assert (correction["event_type"], correction["priced"]) == ("fine_tuning", False)
    assert said_of(gateway, made.id)["trained_tokens"] == read.trained_tokens > 0


def test_what_is_pending_when_the_gateway_is_killed_is_settled_by_the_next_one(gateway, client):
    """Guards what was used: nothing of what has to be asked for is known to a process alone."""
    made = client.responses.create(model="gpt-4o", input="Hello", background=True)
    gateway.gateway.kill()
    gateway.start_gateway()

    (correction,) = settled(gateway, client.tenant_id)

    assert tokens(correction) == said_of(gateway, made.id)["total_tokens"]
    assert [event["kind"] for event in gateway.events(client.tenant_id)].count("usage") == 1


def test_what_waits_and_what_was_asked_is_seen_in_the_metrics(gateway, client):
    client.responses.create(model="gpt-4o", input="Hello", background=True)
    settled(gateway, client.tenant_id)

    with urllib.request.urlopen(gateway.control_url + "/metrics") as answer:
        text = answer.read().decode()
    assert 'tollkeeper_polls_total{outcome="settled"}' in text
    assert "tollkeeper_late_facts 0.0" in text
    assert 'tollkeeper_pending_events{provider="openai"}' in text
