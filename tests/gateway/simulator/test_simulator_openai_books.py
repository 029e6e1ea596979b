"""What an organization used and what it cost, asked with the official SDK, beside what its answers said was used."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI, PermissionDeniedError

from gateway.simulator.openai import OpenAI as Simulated_
from gateway.simulator.openai_asked import ApiError
from gateway.simulator.openai_books import COMPLETIONS, Books, Entry, Whose, costs, tokens_of
from gateway.simulator.process import RunningSimulator
from tests.gateway.simulator.directed import Directed
from tests.gateway.simulator.simulated import KEY, Simulated
from tests.gateway.simulator.test_simulator_realtime import said, session, until

WHOSE = Whose(COMPLETIONS, "proj_1", "key_1", "gpt-4o", batch=False, service_tier="default")
DAY = 86_400
MESSAGES: Any = [{"role": "user", "content": "Who keeps the gate?"}]

projects = (f"proj_{number}" for number in itertools.count())
Used = Callable[..., dict[str, Any]]


@pytest.fixture
def project() -> str:
    """One that no other test uses."""
    return next(projects)


@pytest.fixture
def client(simulated: Simulated, project: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=simulated.base_url, api_key=KEY, project=project, max_retries=0) as client:
        yield client


@pytest.fixture
def admin(simulated: Simulated) -> Iterator[OpenAI]:
    with OpenAI(base_url=simulated.base_url, admin_api_key=Simulated_.admin_key, max_retries=0) as admin:
        yield admin


@pytest.fixture
def used(admin: OpenAI, project: str) -> Used:
    """What the project used today of one kind, as the SDK reads it."""

    def used(kind: str, **given: Any) -> dict[str, Any]:
        today = int(datetime.now(UTC).timestamp()) // DAY * DAY
        ask = getattr(admin.admin.organization.usage, kind)
        page = ask(start_time=today - DAY, project_ids=[project], limit=3, **given)
        results = [result for bucket in page.data for result in bucket.results]
        return results[0].to_dict() if results else {}

    return used


def test_completions_are_told_with_their_tokens(client: OpenAI, used: Used) -> None:
    chat = client.chat.completions.create(model="gpt-4o", messages=MESSAGES).usage
    streamed = list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
    response = client.responses.create(model="gpt-4o", input="Who?", tools=[{"type": "web_search"}]).usage
    background = client.responses.create(model="gpt-4o", input="Who?", background=True)
    later = client.responses.retrieve(background.id).usage
    assert chat is not None
    assert response is not None
    assert later is not None
    assert streamed
    told = used("completions", group_by=["model", "project_id"])
    assert told["num_model_requests"] == 4
    assert told["input_tokens"] == 2 * chat.prompt_tokens + response.input_tokens + later.input_tokens
    # The stream did not say what it used, and it is billed all the same.
    assert told["output_tokens"] == 2 * chat.completion_tokens + response.output_tokens + later.output_tokens
    assert (told["model"], told["user_id"]) == ("gpt-4o-2024-08-06", None)
    assert used("web_search_calls")["num_requests"] == 1


def test_everything_else_is_told_in_its_own_unit(client: OpenAI, used: Used) -> None:
    embedded = client.embeddings.create(model="text-embedding-3-small", input=["Toll", "Gate"]).usage
    client.moderations.create(input="A kind word")
    client.images.generate(model="dall-e-3", prompt="A gate", n=2)
    client.images.generate(model="gpt-image-1", prompt="A gate")
    client.audio.speech.create(model="tts-1", voice="alloy", input="Toll is due").read()
    recording = ("toll.wav", io.BytesIO(bytes(61_500)))
    client.audio.transcriptions.create(model="whisper-1", file=recording, response_format="text")
    assert used("embeddings")["input_tokens"] == embedded.prompt_tokens
    assert used("moderations")["num_model_requests"] == 1
    assert (used("images")["images"], used("images")["num_model_requests"]) == (3, 2)
    assert used("audio_speeches")["characters"] == len("Toll is due")
    assert used("audio_transcriptions")["seconds"] == 62
    assert used("vector_stores") == used("file_search_calls") == used("code_interpreter_sessions") == {}


async def test_a_session_is_told_as_completions(async_client: AsyncOpenAI, simulated: Simulated, admin: OpenAI) -> None:
    async with session(async_client) as connection:
        await connection.conversation.item.create(item=said("Hello"))
        await connection.response.create()
        await until(connection, "response.done")
    (bill,) = simulated.billed()
    page = admin.admin.organization.usage.completions(start_time=0, limit=1, bucket_width="1d", models=[bill.model])
    assert page.data[0].results == []
    today = int(datetime.now(UTC).timestamp()) // DAY * DAY
    page = admin.admin.organization.usage.completions(start_time=today, limit=1, models=[bill.model])
    told = page.data[0].results[0].to_dict()
    assert told["output_tokens"] >= bill.usage["output_tokens"] > 0  # type: ignore[index]


def test_a_batch_is_told_as_such_and_costs_half(client: OpenAI, used: Used, admin: OpenAI, project: str) -> None:
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    body = {"model": "gpt-4o", "messages": MESSAGES}
    file = client.files.create(file=io.BytesIO(json.dumps({**line, "body": body}).encode()), purpose="batch")
    client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    batch = used("completions", batch=True, group_by=["batch"])
    assert (batch["num_model_requests"], batch["batch"], used("completions", batch=False)) == (1, True, {})
    today = int(datetime.now(UTC).timestamp()) // DAY * DAY
    page = admin.admin.organization.usage.costs(start_time=today, project_ids=[project], group_by=["line_item"])
    items = {result["line_item"]: result for result in (one.to_dict() for one in page.data[0].results)}
    input_tokens: Any = items["gpt-4o-2024-08-06, input_tokens"]
    fresh = batch["input_tokens"] - batch["input_cached_tokens"]
    assert (input_tokens["quantity"], input_tokens["amount"]["currency"]) == (fresh, "usd")
    assert input_tokens["amount"]["value"] == pytest.approx(float(Decimal("1.25") * fresh / 1_000_000))


def test_what_was_used_on_another_day_is_told_in_pages_and_billed(
    client: OpenAI, admin: OpenAI, project: str, running: tuple[RunningSimulator, Path]
) -> None:
    for day in (3, 5, 19):
        at = {"x-simulator-at": f"2026-02-{day:02d}T23:59:59Z"}
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, extra_headers=at)
    begin = int(datetime(2026, 2, 1, tzinfo=UTC).timestamp())
    asked = {"start_time": begin, "end_time": begin + 28 * DAY, "project_ids": [project]}
    days, page, pages = [], None, 0
    while pages == 0 or page is not None:
        answer: Any = admin.admin.organization.usage.completions(**asked, **({"page": page} if page else {}))  # type: ignore[arg-type]
        days += [bucket.start_time for bucket in answer.data if bucket.results]
        page, pages = answer.next_page, pages + 1
        assert answer.has_more == (page is not None)
    assert (pages, [(day - begin) // DAY + 1 for day in days]) == (4, [3, 5, 19])
    answer = admin.admin.organization.usage.completions(**asked, bucket_width="1h", limit=168)  # type: ignore[arg-type]
    assert [bucket.start_time - begin for bucket in answer.data if bucket.results] == [3 * DAY - 3600, 5 * DAY - 3600]
    bill = Directed(*running).ask("/bill?from=2026-02-01&to=2026-02-28")["openai"]
    own = [line for line in bill if line["project_id"] == project]
    assert [(line["day"], line["num_model_requests"]) for line in own] == [
        *(("2026-02-03", 1), ("2026-02-05", 1), ("2026-02-19", 1)),
    ]
    cost: Any = admin.admin.organization.usage.costs(**asked, limit=30)  # type: ignore[arg-type]
    told = sum(result.amount.value for bucket in cost.data for result in bucket.results)
    assert told == pytest.approx(float(sum(Decimal(line["cost"]) for line in own)))


def test_who_may_ask(simulated: Simulated, admin: OpenAI) -> None:
    with pytest.raises(PermissionDeniedError), OpenAI(base_url=simulated.base_url, admin_api_key=KEY) as other:
        other.admin.organization.usage.completions(start_time=0)
    with (
        pytest.raises(PermissionDeniedError),
        OpenAI(base_url=simulated.base_url, api_key=Simulated_.admin_key) as other,
    ):
        other.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert admin.admin.organization.projects.list().data


@pytest.mark.parametrize(
    "query",
    [
        "",
        "start_time=soon",
        "start_time=1&limit=32",
        "start_time=1&bucket_width=1y",
        "start_time=1&group_by=toll",
        "start_time=1&page=x",
    ],
)
def test_a_query_that_makes_no_sense_is_refused(query: str) -> None:
    with pytest.raises(ApiError):
        Books().usage("completions", query, 2.0)
    with pytest.raises(ApiError):
        Books().usage("tolls", "start_time=1", 2.0)


@given(
    st.lists(st.tuples(st.integers(0, 30 * DAY), st.sampled_from(["gpt-4o", "o3"]), st.integers(0, 9)), max_size=20),
    st.integers(0, 30 * DAY),
    st.integers(1, 31),
)
def test_whatever_the_pages_every_token_is_told_once(given: list[tuple[int, str, int]], begin: int, limit: int) -> None:
    books = Books()
    for at, model, tokens in given:
        books.add(at, WHOSE._replace(model=model), {"input_tokens": tokens})
    page, told = "", 0
    for _ in range(40):
        answer = books.usage("completions", f"start_time={begin}&limit={limit}{page}&group_by[]=model", 31.0 * DAY)
        told += sum(result["input_tokens"] for bucket in answer["data"] for result in bucket["results"])
        if not answer["has_more"]:
            break
        page = f"&page={answer['next_page']}"
    assert told == sum(tokens for at, _, tokens in given if at // 60 * 60 >= begin)


def test_what_is_cached_costs_less() -> None:
    items = {item.name: item for item in costs(Entry(0, WHOSE, {"input_tokens": 30, "input_cached_tokens": 10}))}
    assert items["gpt-4o, input_tokens"].cost == 20 * Decimal("2.5") / 1_000_000
    assert items["gpt-4o, cached_input_tokens"].cost == 10 * Decimal("1.25") / 1_000_000


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}, (5, 7, 2)),
        ({"input_tokens": 5, "output_tokens": 7, "input_token_details": {"cached_tokens": 2}}, (5, 7, 2)),
        (msgspec.Raw(b'{"input_tokens": 5, "output_tokens": -1}'), (5, 0, 0)),
        ({"input_tokens": True, "input_tokens_details": None}, (0, 0, 0)),
    ],
)
def test_tokens_are_read_from_the_usage_of_every_endpoint(usage: object, tokens: tuple[int, int, int]) -> None:
    told = tokens_of(usage)
    assert (told["input_tokens"], told["output_tokens"], told["input_cached_tokens"]) == tokens
    assert tokens_of(None) == {}
