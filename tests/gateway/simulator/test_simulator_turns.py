"""The official SDK in sessions of Responses with the simulated OpenAI, and the truth log beside what the SDK was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.resources.responses.responses import AsyncResponsesConnection
from websockets.exceptions import ConnectionClosedError

from tests.gateway.simulator.simulated import LIVENESS_S_MAX, Simulated


@asynccontextmanager
async def session(client: AsyncOpenAI, **controls: str) -> AsyncIterator[AsyncResponsesConnection]:
    headers = {f"x-simulator-{name.replace('_', '-')}": value for name, value in controls.items()}
    async with (
        asyncio.timeout(LIVENESS_S_MAX),
        client.responses.connect(
            extra_headers=headers, websocket_connection_options={"compression": "deflate"}, max_retries=0
        ) as connection,
    ):
        yield connection


async def told(connection: AsyncResponsesConnection, responses: int = 1) -> list[Any]:
    """The events, up to the end of so many responses."""
    events: list[Any] = []
    async for event in connection:
        events.append(event)
        responses -= event.type in ("response.completed", "response.incomplete", "response.failed", "error")
        if not responses:
            return events
    raise EOFError


def billed(simulated: Simulated) -> list[tuple[str, str, Any]]:
    return [(bill.object_id, bill.model, bill.usage) for bill in simulated.billed()]


async def test_a_response_is_told_in_the_events_of_a_stream_and_billed(
    async_client: AsyncOpenAI, simulated: Simulated
) -> None:
    async with session(async_client) as connection:
        await connection.response.create(model="gpt-5", input="Hello")
        events = await told(connection)
    streamed = await async_client.responses.create(model="gpt-5", input="Hello", stream=True)
    assert [event.type for event in events] == [event.type async for event in streamed]
    final = events[-1].response
    assert billed(simulated) == [(final.id, final.model, final.usage.to_dict())]


async def test_responses_are_told_one_after_the_other_each_on_its_lane(async_client: AsyncOpenAI) -> None:
    async with session(async_client) as connection:
        for lane in ("a", "b"):
            await connection.response.create(model="gpt-5", input=f"Hello {lane}", stream_id=lane)
        events = await told(connection, 2)
    lanes = [event.stream_id for event in events]
    assert lanes == sorted(lanes)
    assert set(lanes) == {"a", "b"}


async def test_a_response_goes_on_from_another_and_can_be_read_back(async_client: AsyncOpenAI) -> None:
    async with session(async_client) as connection:
        await connection.response.create(model="gpt-5", input="Hello")
        first = (await told(connection))[-1].response
        await connection.response.create(model="gpt-5", input="And then?", previous_response_id=first.id)
        second = (await told(connection))[-1].response
    assert second.previous_response_id == first.id
    assert (await async_client.responses.retrieve(second.id)).usage == second.usage


@pytest.mark.parametrize(
    "asked",
    [
        {"type": "response.create", "model": "gpt-none", "input": "Hello"},
        {"type": "response.create", "model": "gpt-5"},
        {"type": "session.update"},
    ],
)
async def test_what_makes_no_sense_is_an_error_and_the_session_goes_on(async_client: AsyncOpenAI, asked: Any) -> None:
    async with session(async_client) as connection:
        await connection.send(asked)
        (error,) = await told(connection)
        assert (error.type, error.status) == ("error", 400)
        await connection.response.create(model="gpt-5", input="Hello")
        assert (await told(connection))[-1].type == "response.completed"


@pytest.mark.parametrize(
    ("controls", "ends"),
    [
        ({"fault": "cut-stream"}, ConnectionClosedError),
        ({"close_code": "4321"}, ConnectionClosedError),
        ({"fault": "no-done"}, EOFError),
    ],
)
async def test_a_session_ends_as_it_is_asked_to(
    async_client: AsyncOpenAI, simulated: Simulated, controls: dict[str, str], ends: type[Exception]
) -> None:
    async with session(async_client, **controls) as connection:
        await connection.response.create(model="gpt-5", input="Hello")
        with pytest.raises(ends):
            await told(connection, 2)
    await simulated.settled()
    assert len(billed(simulated)) == ("close_code" in controls)


async def test_a_session_falls_silent_where_it_is_asked_to(async_client: AsyncOpenAI) -> None:
    async with session(async_client, fault="stall-stream") as connection:
        await connection.response.create(model="gpt-5", input="Hello")
        assert (await connection.recv()).type == "response.created"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await told(connection)


@pytest.mark.parametrize("encoding", ["deflate", "identity"])
async def test_frames_are_compressed_where_that_is_asked_for(async_client: AsyncOpenAI, encoding: str) -> None:
    async with session(async_client, encoding=encoding) as connection:
        agreed = connection._connection.response.headers.get("Sec-WebSocket-Extensions", "")  # type: ignore[union-attr]
        assert ("permessage-deflate" in agreed) is (encoding == "deflate")
        await connection.response.create(model="gpt-5", input="Hello")
        assert (await told(connection))[-1].type == "response.completed"


async def test_without_an_upgrade_there_is_no_session(simulated: Simulated) -> None:
    assert (await simulated.ask("/responses", b"", method="GET")).status == 404
