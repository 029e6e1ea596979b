"""The official SDK against the simulated OpenAI, and the truth log beside what the SDK saw."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import struct
from typing import Any

import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI

from gateway.simulator import openai as simulated_openai
from gateway.simulator.api import Asked, Setup
from gateway.simulator.controls import NOTHING
from tests.gateway.simulator.simulated import CHAT, KEY, Simulated

MESSAGES: Any = CHAT["messages"]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
        },
    },
}
WEATHER_FLAT: Any = {"type": "function", **WEATHER["function"]}


def test_a_chat_is_answered_by_the_snapshot_behind_the_alias(client: OpenAI, simulated: Simulated) -> None:
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    (exchange,) = simulated.truth()
    assert answer.model == exchange.model == "gpt-4o-mini-2024-07-18"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.id.startswith("chatcmpl-")
    assert answer.service_tier == "default"


def test_the_truth_log_says_what_the_sdk_saw(client: OpenAI, simulated: Simulated) -> None:
    raw = client.chat.completions.with_raw_response.create(model="gpt-5", messages=MESSAGES, extra_query={"a": "b%2F"})
    answer = raw.parse()
    (exchange,) = asyncio.run(simulated.settled())
    assert answer.usage is not None
    assert exchange.usage == answer.usage.to_dict()
    assert (exchange.object_id, exchange.model, exchange.status) == (answer.id, answer.model, 200)
    assert (exchange.provider, exchange.method, exchange.stream, exchange.fault) == ("openai", "POST", False, None)
    assert exchange.target == "/openai/v1/chat/completions?a=b%252F"
    assert json.loads(exchange.body) == {"messages": MESSAGES, "model": "gpt-5"}
    assert exchange.body_sha256 == hashlib.sha256(exchange.body).hexdigest()
    assert (exchange.completed, exchange.bytes_sent) == (True, int(raw.headers["content-length"]))


async def test_the_async_sdk_sees_the_same(async_client: AsyncOpenAI, simulated: Simulated) -> None:
    answer = await async_client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    async with async_client.chat.completions.stream(
        model="gpt-4o", messages=MESSAGES, stream_options={"include_usage": True}
    ) as stream:
        streamed = await stream.get_final_completion()
    response = await async_client.responses.create(model="gpt-4o", input="Who keeps the gate?")
    assert streamed.choices[0].message.content == answer.choices[0].message.content
    assert streamed.usage == answer.usage
    assert [exchange.object_id for exchange in await simulated.settled(3)] == [answer.id, streamed.id, response.id]


def test_each_part_of_the_usage_adds_up(client: OpenAI, simulated: Simulated) -> None:
    content: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    usage = client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": content}]).usage
    assert usage is not None
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    assert prompt is not None
    assert completion is not None
    assert prompt.image_tokens == 85
    assert prompt.audio_tokens == 40
    assert prompt.text_tokens == usage.prompt_tokens - 125
    assert completion.reasoning_tokens is not None
    assert completion.text_tokens == usage.completion_tokens - completion.reasoning_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_cache_and_reasoning_are_sometimes_used_and_sometimes_not(client: OpenAI, simulated: Simulated) -> None:
    for number in range(30):
        client.responses.create(model="gpt-6-luna", input=f"Question number {number}, as long as it needs to be?")
    usages = [exchange.usage for exchange in simulated.truth()]
    for part, detail in (
        ("input_tokens_details", "cached_tokens"),
        ("input_tokens_details", "cache_write_tokens"),
        ("output_tokens_details", "reasoning_tokens"),
    ):
        assert len({usage[part][detail] > 0 for usage in usages}) == 2, detail


def test_a_stream_that_asks_for_usage_ends_with_it(client: OpenAI, simulated: Simulated) -> None:
    stream = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    (exchange,) = simulated.truth()
    assert last.choices == []
    assert last.usage is not None
    assert exchange.usage == last.usage.to_dict()
    assert exchange.stream
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stream_that_does_not_ask_for_usage_never_mentions_it(client: OpenAI, simulated: Simulated) -> None:
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert simulated.truth()[0].usage is None


def test_a_stream_tells_what_the_whole_answer_would_have_said(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, n=3)
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(model="gpt-4o", messages=MESSAGES, n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3


def test_an_offered_tool_is_called_with_arguments_that_fit_it(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, tools=[WEATHER])
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "toll", "days": 7, "unit": "C"}


def test_a_tool_call_is_streamed_in_fragments(client: OpenAI) -> None:
    with client.chat.completions.stream(model="gpt-4o", messages=MESSAGES, tools=[WEATHER]) as stream:
        fragments = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        final = stream.get_final_completion()
    assert len(fragments) > 1
    assert final.choices[0].finish_reason == "tool_calls"
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert json.loads(calls[0].function.arguments) == {"city": "toll", "days": 7, "unit": "C"}


@pytest.mark.parametrize("tool_choice", ["auto", "none"])
def test_a_tool_is_not_called_for_ever(client: OpenAI, tool_choice: Any) -> None:
    result: Any = {"role": "tool", "tool_call_id": "call_1", "content": "snow"}
    messages = [*MESSAGES, result] if tool_choice == "auto" else MESSAGES
    answer = client.chat.completions.create(model="gpt-4o", messages=messages, tools=[WEATHER], tool_choice=tool_choice)
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


def test_the_tool_that_the_choice_names_is_called(client: OpenAI) -> None:
    other: Any = {"type": "function", "function": {"name": "other"}}
    answer = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, tools=[WEATHER, other], tool_choice=other
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert (calls[0].function.name, calls[0].function.arguments) == ("other", "{}")


def test_an_answer_that_reaches_its_limit_says_so(client: OpenAI) -> None:
    chat = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_completion_tokens=3)
    response = client.responses.create(model="gpt-4o", input="hello", max_output_tokens=3)
    *_, last = client.responses.create(model="gpt-4o", input="hello", max_output_tokens=3, stream=True)
    assert chat.choices[0].finish_reason == "length"
    assert len(str(chat.choices[0].message.content).split()) == 3
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert last.type == "response.incomplete"


@pytest.mark.parametrize(
    ("asked", "served"),
    [("auto", "default"), ("default", "default"), ("flex", "flex"), ("priority", "priority"), ("fast", "priority")],
)
def test_the_tier_that_served_is_told(client: OpenAI, asked: Any, served: str) -> None:
    assert client.chat.completions.create(model="gpt-4o", messages=MESSAGES, service_tier=asked).service_tier == served
    assert client.responses.create(model="gpt-4o", input="hello", service_tier=asked).service_tier == served


def test_only_a_stored_chat_can_be_read_changed_and_deleted(client: OpenAI, simulated: Simulated) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, store=True, metadata={"a": "b"})
    gone = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert client.chat.completions.retrieve(answer.id).metadata == {"a": "b"}
    assert client.chat.completions.update(answer.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert client.chat.completions.delete(answer.id).deleted
    for chat_id in (answer.id, gone.id):
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.retrieve(chat_id)
    assert [exchange.usage for exchange in simulated.truth()][2] == simulated.truth()[0].usage


def test_a_response_can_be_read_back_until_it_is_deleted(client: OpenAI, simulated: Simulated) -> None:
    made = client.responses.create(model="gpt-5", input="Who keeps the gate?", instructions="Be brief.")
    assert client.responses.retrieve(made.id) == made
    (item,) = client.responses.input_items.list(made.id)
    assert item.to_dict()["content"] == [{"type": "input_text", "text": "Who keeps the gate?"}]
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    created, read, *_ = simulated.truth()
    assert made.usage is not None
    assert created.usage == read.usage == made.usage.to_dict(exclude_unset=True)
    assert created.object_id == read.object_id == made.id


def test_a_response_that_is_not_stored_cannot_be_read_back(client: OpenAI) -> None:
    made = client.responses.create(model="gpt-4o", input="hello", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError) as refusal:
        client.responses.create(model="gpt-4o", input="hello", previous_response_id=made.id)
    assert refusal.value.code == "previous_response_not_found"


def test_a_response_is_streamed_from_created_to_completed(client: OpenAI, simulated: Simulated) -> None:
    whole = client.responses.create(model="gpt-4o", input="hello")
    events = list(client.responses.create(model="gpt-4o", input="hello", stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    deltas = kinds.count("output_text.delta")
    assert deltas == len(whole.output_text.split())
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * deltas,
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    first, last = events[0], events[-1]
    assert first.type == "response.created"
    assert (first.response.status, first.response.usage) == ("in_progress", None)
    assert last.type == "response.completed"
    assert last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage
    assert simulated.truth()[1].usage == simulated.truth()[0].usage


def test_the_stream_of_a_response_can_be_taken_up_again(client: OpenAI) -> None:
    events = list(client.responses.create(model="gpt-4o", input="hello", stream=True))
    first = events[0]
    assert first.type == "response.created"
    again = list(client.responses.retrieve(first.response.id, stream=True, starting_after=4))
    assert again == events[5:]


def test_a_response_calls_a_tool_and_searches_the_web(client: OpenAI, simulated: Simulated) -> None:
    tools = [{"type": "web_search"}, WEATHER_FLAT]
    made = client.responses.create(model="gpt-4o", input="hello", tools=tools)
    search, call = made.output
    assert search.type == "web_search_call"
    assert call.type == "function_call"
    assert json.loads(call.arguments)["city"] == "toll"
    assert made.tool_usage is not None
    assert made.tool_usage.web_search.num_requests == 1
    assert simulated.truth()[0].tool_usage == made.tool_usage.to_dict(exclude_unset=True)
    events = list(client.responses.create(model="gpt-4o", input="hello", tools=tools, stream=True))
    fragments = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(fragments) == call.arguments
    result: Any = [
        {"role": "user", "content": "hello"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
    ]
    assert client.responses.create(model="gpt-4o", input=result, tools=[WEATHER_FLAT]).output_text


def test_a_background_response_is_queued_without_usage_and_completed_when_read(
    client: OpenAI, simulated: Simulated
) -> None:
    made = client.responses.create(model="gpt-4o", input="hello", background=True)
    assert (made.status, made.usage, made.output) == ("queued", None, [])
    done = client.responses.retrieve(made.id)
    assert done.status == "completed"
    assert done.usage is not None
    created, read = simulated.truth()
    assert created.usage is None
    assert read.usage == done.usage.to_dict(exclude_unset=True)


def test_a_background_response_can_be_cancelled_while_it_is_queued(client: OpenAI) -> None:
    made = client.responses.create(model="gpt-4o", input="hello", background=True)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).usage is None
    foreground = client.responses.create(model="gpt-4o", input="hello")
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(foreground.id)


def test_a_batch_is_worked_off_line_by_line_and_says_so_at_the_second_question(
    client: OpenAI, simulated: Simulated
) -> None:
    requests = [
        {"custom_id": f"{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number, body in enumerate(
            (
                {"model": "gpt-4o", "messages": [{"role": "user", "content": "one"}]},
                {"model": "gpt-none", "messages": []},
                {"model": "gpt-4o", "messages": [{"role": "user", "content": "three"}]},
            )
        )
    ]
    content = b"".join(json.dumps(request).encode() + b"\n" for request in requests)
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    assert client.files.content(file.id).content == content

    made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    statuses = [made.status, *(client.batches.retrieve(made.id).status for _ in range(3))]

    assert statuses == ["in_progress", "in_progress", "completed", "completed"]
    done = client.batches.retrieve(made.id)
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (2, 1)
    assert done.output_file_id is not None
    assert done.error_file_id is not None
    answers = [json.loads(line) for line in client.files.content(done.output_file_id).content.splitlines()]
    refused = [json.loads(line) for line in client.files.content(done.error_file_id).content.splitlines()]
    assert [answer["custom_id"] for answer in answers + refused] == ["0", "2", "1"]
    created = next(exchange for exchange in simulated.truth() if exchange.object_id == made.id)
    (said,) = created.usage["models"].values()
    assert said["total_tokens"] == sum(answer["response"]["body"]["usage"]["total_tokens"] for answer in answers)


def test_a_fine_tuning_job_says_what_it_trained_once_it_is_over(client: OpenAI, simulated: Simulated) -> None:
    file = client.files.create(file=("train.jsonl", b"{}\n" * 400), purpose="fine-tune")

    made = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file.id)
    jobs = [made, *(client.fine_tuning.jobs.retrieve(made.id) for _ in range(2))]

    assert [(job.status, job.trained_tokens) for job in jobs] == [
        ("running", None),
        ("running", None),
        ("succeeded", 900),
    ]
    assert simulated.truth()[1].usage == {"kind": "job", "trained_tokens": 900}


def test_a_response_that_is_told_to_fail_fails_in_the_api_s_own_way(client: OpenAI) -> None:
    fail = {"x-simulator-fault": "response-failed"}
    made = client.responses.create(model="gpt-4o", input="hello", extra_headers=fail)
    *_, last = client.responses.create(model="gpt-4o", input="hello", stream=True, extra_headers=fail)
    assert made.status == "failed"
    assert made.error is not None
    assert last.type == "response.failed"
    with pytest.raises(openai.BadRequestError, match="Responses API"):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, extra_headers=fail)


def test_text_is_completed_whole_and_streamed(client: OpenAI, simulated: Simulated) -> None:
    raw = client.completions.with_raw_response.create(model="davinci-002", prompt=["a", "b"], n=2)
    whole = raw.parse()
    stream = client.completions.create(
        model="davinci-002", prompt=["a", "b"], n=2, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    texts = ["", "", "", ""]
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert whole.usage is not None
    assert last.usage == whole.usage
    assert whole.model == raw.headers["openai-model"] == "davinci:2023-07-21-v2"
    assert [exchange.usage for exchange in simulated.truth()] == [whole.usage.to_dict()] * 2


def test_embeddings_are_the_same_as_floats_and_in_base64(client: OpenAI, simulated: Simulated) -> None:
    floats = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], encoding_format="float")
    packed = client.post(
        "/embeddings",
        body={"model": "text-embedding-3-small", "input": ["a", "b"], "encoding_format": "base64"},
        cast_to=dict[str, Any],
    )
    for index, embedding in enumerate(floats.data):
        unpacked = struct.unpack("<1536f", base64.b64decode(packed["data"][index]["embedding"]))
        assert embedding.embedding == pytest.approx(unpacked, abs=1e-6)
        assert sum(value * value for value in unpacked) == pytest.approx(1, abs=1e-4)
    assert floats.model == "text-embedding-3-small"
    assert simulated.truth()[0].usage == floats.usage.to_dict() == {"prompt_tokens": 2, "total_tokens": 2}
    short = client.embeddings.create(model="text-embedding-3-large", input=[1, 2, 3], dimensions=16)
    assert len(short.data[0].embedding) == 16
    assert short.usage.prompt_tokens == 3


def test_files_are_uploaded_listed_and_deleted(client: OpenAI) -> None:
    content = b'--- "not a boundary" \r\n\r\n' * 40
    made = client.files.create(file=("notes.txt", content), purpose="user_data")
    assert (made.filename, made.purpose, made.bytes) == ("notes.txt", "user_data", len(content))
    assert client.files.retrieve(made.id) == made
    assert made.id in [file.id for file in client.files.list()]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_a_list_is_read_page_by_page(client: OpenAI) -> None:
    made = [client.files.create(file=(f"{n}.txt", b"x"), purpose="user_data").id for n in range(5)]
    listed = [file.id for file in client.files.list(limit=2, order="desc")]
    assert listed[:5] == made[::-1]
    for file_id in made:
        client.files.delete(file_id)


def test_models_and_moderations_are_free(client: OpenAI, simulated: Simulated) -> None:
    assert "gpt-5-2025-08-07" in [model.id for model in client.models.list()]
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"
    assert not client.moderations.create(input=["a", "b"]).results[1].flagged
    assert [exchange.usage for exchange in simulated.truth()] == [None, None, None]


def test_the_account_can_be_administered(simulated: Simulated) -> None:
    with OpenAI(base_url=simulated.base_url, api_key=KEY, admin_api_key=KEY, max_retries=0) as client:
        (project,) = client.admin.organization.projects.list()
    assert project.id == "proj_simulated"


def test_a_wrong_key_is_quoted_in_part_and_never_logged(simulated: Simulated) -> None:
    key = "tk_somebody_elses_key_entirely"
    with (
        OpenAI(base_url=simulated.base_url, api_key=key, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as refusal,
    ):
        client.models.list()
    assert refusal.value.code == "invalid_api_key"
    assert "tk_someb**" in refusal.value.message
    assert key not in refusal.value.message
    (exchange,) = simulated.truth()
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    assert exchange.credential == digest
    assert exchange.header("authorization") == f"Bearer {digest}"
    assert key not in str(exchange)


def test_an_unknown_model_is_missing_from_chat_and_a_bad_request_to_responses(
    client: OpenAI, simulated: Simulated
) -> None:
    with pytest.raises(openai.NotFoundError) as chat:
        client.chat.completions.create(model="gpt-0", messages=MESSAGES)
    with pytest.raises(openai.NotFoundError) as embedding:
        client.embeddings.create(model="gpt-4o", input="a")
    with pytest.raises(openai.BadRequestError) as response:
        client.responses.create(model="gpt-0", input="hello")
    assert chat.value.code == embedding.value.code == response.value.code == "model_not_found"
    assert [exchange.usage for exchange in simulated.truth()] == [None, None, None]


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"model": "gpt-4o"}', b'{"model": 1}', b"\xff", b"[" * 100_000])
async def test_a_body_that_makes_no_sense_is_a_bad_request(simulated: Simulated, body: bytes) -> None:
    for path in ("/chat/completions", "/responses", "/embeddings", "/completions"):
        answer = await simulated.ask(path, body)
        assert answer.status in (400, 404)
        assert set(json.loads(answer.body)["error"]) == {"message", "type", "param", "code"}


async def test_a_path_that_is_not_the_api_s_is_answered_with_the_api_s_404(simulated: Simulated) -> None:
    answer = await simulated.ask("/gates/7", b"", method="GET")
    assert answer.status == 404
    assert json.loads(answer.body)["error"]["message"] == "Invalid URL (GET /v1/gates/7)"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500, 503])
def test_an_error_that_is_asked_for_raises_the_sdk_s_own_exception(client: OpenAI, status: int) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        client.responses.create(model="gpt-4o", input="hello", extra_headers={"x-simulator-status": str(status)})
    assert error.value.status_code == status
    assert error.value.type is not None
    assert (error.value.response.headers.get("retry-after") == "1") == (status in (429, 503))


def test_every_answer_names_the_account_and_sets_a_cookie(client: OpenAI) -> None:
    good = client.models.with_raw_response.list().headers
    with pytest.raises(openai.NotFoundError) as missing:
        client.files.retrieve("file-none")
    with pytest.raises(openai.InternalServerError) as told_to:
        client.models.list(extra_headers={"x-simulator-status": "500"})
    with pytest.raises(openai.BadRequestError) as refused:
        client.models.list(extra_headers={"x-simulator-status": "200"})
    for headers in (good, *(error.value.response.headers for error in (missing, told_to, refused))):
        assert len(headers.get_list("x-request-id")) == 1
        assert headers["openai-organization"] == "org-simulated"
        assert headers["openai-project"] == "proj_simulated"
        assert headers["openai-version"] == "2020-10-01"
        assert headers["x-request-id"].startswith("req_")
        assert headers["openai-processing-ms"].isdigit()
        assert headers["set-cookie"].startswith("__cf_bm=")
        assert headers["server"] == "cloudflare"
        for what in ("limit", "remaining", "reset"):
            assert f"x-ratelimit-{what}-requests" in headers
            assert f"x-ratelimit-{what}-tokens" in headers


def test_the_usage_that_a_request_dictates_is_reported_byte_for_byte(client: OpenAI, simulated: Simulated) -> None:
    usage = '{"prompt_tokens": 1e2, "completion_tokens":0,"total_tokens":100, "news":{"x":[1.50]}}'
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=MESSAGES, extra_headers={"x-simulator-usage": usage}
    )
    assert f'"usage":{usage}' in raw.text
    assert simulated.truth()[0].usage == json.loads(usage)


def test_usage_can_be_left_out_of_every_answer(client: OpenAI, simulated: Simulated) -> None:
    none = {"x-simulator-usage": "none"}
    assert client.chat.completions.create(model="gpt-4o", messages=MESSAGES, extra_headers=none).usage is None
    assert client.responses.create(model="gpt-4o", input="hello", extra_headers=none).usage is None
    stream = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}, extra_headers=none
    )
    assert all(chunk.usage is None and chunk.choices for chunk in stream)
    *_, last = client.responses.create(model="gpt-4o", input="hello", stream=True, extra_headers=none)
    assert last.type == "response.completed"
    assert last.response.usage is None
    assert [exchange.usage for exchange in simulated.truth()] == [None] * 4


def test_an_answer_is_as_long_as_it_is_asked_to_be(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, extra_headers={"x-simulator-words": "500"}
    )
    assert answer.usage is not None
    assert len(str(answer.choices[0].message.content).split()) == answer.usage.completion_tokens == 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    *("model", "messages", "input", "prompt", "n", "stream", "stream_options", "tools", "tool_choice", "max_tokens"),
    *("max_output_tokens", "background", "store", "service_tier", "dimensions", "encoding_format", "instructions"),
    *("metadata", "previous_response_id", "text", "reasoning"),
)
SENSIBLE = {
    "model": st.sampled_from(["gpt-4o", "gpt-5", "davinci-002", "text-embedding-3-small"]),
    "messages": st.lists(st.fixed_dictionaries({"role": JSON, "content": JSON}), min_size=1, max_size=2),
    "tools": st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": JSON, "name": JSON}), max_size=2),
    "input": st.text(max_size=9),
}


@given(
    path=st.sampled_from(["chat/completions", "responses", "completions", "embeddings", "moderations", "files"]),
    body=st.fixed_dictionaries(SENSIBLE, optional={name: JSON for name in FIELDS if name not in SENSIBLE})
    | st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
)
def test_nothing_that_a_client_sends_is_too_much_for_the_simulator(path: str, body: dict[str, object]) -> None:
    api = simulated_openai.OpenAI(Setup(frozenset({KEY}), random.Random(1), lambda: 1_800_000_000.0))
    raw = msgspec.json.encode(body)
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = api.answer(Asked("POST", f"/v1/{path}", "", headers, raw, len(raw), True, NOTHING))
    assert answer.status in (200, 400, 404)
    assert b"".join(answer.events() if answer.events else [answer.body])


@pytest.mark.parametrize("path", ["chat/completions", "responses", "embeddings"])
def test_no_nesting_is_too_deep_to_be_refused(path: str) -> None:
    api = simulated_openai.OpenAI(Setup(frozenset({KEY}), random.Random(1), lambda: 1_800_000_000.0))
    headers = {"Authorization": f"Bearer {KEY}"}
    model = b"text-embedding-3-small" if path == "embeddings" else b"gpt-4o"
    for depth in range(1, 1200, 7):
        nested = b"[" * depth + b"]" * depth
        raw = b'{"model":"%b","messages":[{"content":%b}],"input":[{"content":%b}]}' % (model, nested, nested)
        answer = api.answer(Asked("POST", f"/v1/{path}", "", headers, raw, len(raw), True, NOTHING))
        assert answer.status in (200, 400)


def test_ids_are_the_same_for_the_same_seed_and_no_other() -> None:
    def ids(seed: int | None) -> set[str | None]:
        api = simulated_openai.OpenAI(Setup(frozenset({KEY}), random.Random(seed), lambda: 1_800_000_000.0))
        raw = json.dumps(CHAT).encode()
        asked = Asked(
            "POST", "/v1/chat/completions", "", {"Authorization": f"Bearer {KEY}"}, raw, len(raw), True, NOTHING
        )
        return {api.answer(asked).object_id for _ in range(10)}

    assert ids(7) == ids(7)
    assert len(ids(None) | ids(None)) == 20
