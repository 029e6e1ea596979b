"""The official SDK in realtime sessions with the simulated OpenAI, and the truth log beside what the SDK was told."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from gateway.simulator.api import Bill, BreakOff, Close, Message, Silence, Step
from gateway.simulator.controls import NOTHING, Controls, Fault
from gateway.simulator.openai_realtime import Realtime
from tests.gateway.simulator.simulated import KEY, LIVENESS_S_MAX, Simulated

MODEL = "gpt-realtime"
SNAPSHOT = "gpt-realtime-2025-08-28"
TEXT: Any = {"type": "realtime", "output_modalities": ["text"]}
SECOND_OF_SPEECH = base64.b64encode(b"\x01\x02" * 24_000).decode()
SECOND_OF_SILENCE = base64.b64encode(bytes(48_000)).decode()
WEATHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


def said(text: str) -> Any:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


@asynccontextmanager
async def session(
    client: AsyncOpenAI, settings: Any = TEXT, model: str = MODEL, **controls: str
) -> AsyncIterator[AsyncRealtimeConnection]:
    """A session that has begun and is set so."""
    headers = {f"x-simulator-{name.replace('_', '-')}": value for name, value in controls.items()}
    async with (
        asyncio.timeout(LIVENESS_S_MAX),
        client.realtime.connect(model=model, extra_headers=headers) as connection,
    ):
        assert (await connection.recv()).type == "session.created"
        await connection.session.update(session=settings)
        assert (await connection.recv()).type == "session.updated"
        yield connection


async def until(connection: AsyncRealtimeConnection, kind: str) -> list[Any]:
    """The events up to the next of this kind."""
    events: list[Any] = []
    async for event in connection:
        events.append(event)
        if event.type == kind:
            return events
    raise EOFError(kind)


@asynccontextmanager
async def bare(
    simulated: Simulated, query: str = "?model=gpt-realtime", **options: Any
) -> AsyncIterator[ClientConnection]:
    """A session as a client without the SDK has it."""
    url = f"ws://{simulated.host}:{simulated.port}/openai/v1/realtime{query}"
    options.setdefault("additional_headers", {"Authorization": f"Bearer {KEY}"})
    async with asyncio.timeout(LIVENESS_S_MAX), connect(url, **options) as connection:
        yield connection


async def test_a_session_is_opened_by_the_snapshot_behind_the_alias(
    async_client: AsyncOpenAI, simulated: Simulated
) -> None:
    async with async_client.realtime.connect(model=MODEL) as connection:
        event: Any = await connection.recv()
    (exchange,) = await simulated.settled()
    assert event.session.model == exchange.model == SNAPSHOT
    assert event.session.output_modalities == ["audio"]
    assert event.session.id == exchange.object_id
    assert (exchange.status, exchange.method, exchange.stream) == (101, "GET", True)
    assert exchange.target == "/openai/v1/realtime?model=gpt-realtime"
    assert (exchange.completed, exchange.close_code) == (True, 1000)
    assert simulated.billed() == []


async def test_a_response_in_text_comes_in_the_events_of_the_protocol(async_client: AsyncOpenAI) -> None:
    async with session(async_client, words="3") as connection:
        await connection.conversation.item.create(item=said("Who keeps the gate?"))
        await connection.response.create()
        events = await until(connection, "response.done")
    assert [(kind, len(list(of))) for kind, of in itertools.groupby(events, lambda event: event.type)] == [
        ("conversation.item.added", 1),
        ("conversation.item.done", 1),
        ("response.created", 1),
        ("response.output_item.added", 1),
        ("conversation.item.added", 1),
        ("response.content_part.added", 1),
        ("response.output_text.delta", 3),
        ("response.output_text.done", 1),
        ("response.content_part.done", 1),
        ("response.output_item.done", 1),
        ("conversation.item.done", 1),
        ("rate_limits.updated", 1),
        ("response.done", 1),
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1].response
    assert final.status == "completed"
    assert final.output[0].content[0].text == text
    assert final.output_modalities == ["text"]
    assert len({event.event_id for event in events}) == len(events)


async def test_each_response_is_billed_by_itself_and_the_truth_log_says_what_the_sdk_was_told(
    async_client: AsyncOpenAI, simulated: Simulated
) -> None:
    told = []
    async with session(async_client) as connection:
        for number in range(3):
            await connection.conversation.item.create(item=said(f"Question number {number}, and what it is about?"))
            await connection.response.create()
            told.append((await until(connection, "response.done"))[-1].response)
    await simulated.settled()
    bills = simulated.billed()
    assert [(bill.object_id, bill.usage) for bill in bills] == [(one.id, one.usage.to_dict()) for one in told]
    assert {bill.model for bill in bills} == {SNAPSHOT}
    assert [bill.usage["input_token_details"]["cached_tokens"] for bill in bills] == [
        0,
        bills[0].usage["input_tokens"],
        bills[1].usage["input_tokens"],
    ]
    for usage in (bill.usage for bill in bills):
        heard, told_of = usage["input_token_details"], usage["output_token_details"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert usage["input_tokens"] == heard["text_tokens"] + heard["audio_tokens"] + heard["image_tokens"]
        assert usage["output_tokens"] == told_of["text_tokens"] + told_of["audio_tokens"]
        assert heard["cached_tokens"] == sum(heard["cached_tokens_details"].values())


async def test_what_is_heard_and_said_aloud_is_counted_apart_and_written_down_at_another_models_price(
    async_client: AsyncOpenAI, simulated: Simulated
) -> None:
    hearing = {"turn_detection": None, "transcription": {"model": "gpt-4o-transcribe"}}
    async with session(async_client, {"type": "realtime", "audio": {"input": hearing}}, words="2") as connection:
        for _ in range(3):
            await connection.input_audio_buffer.append(audio=SECOND_OF_SPEECH)
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        events = await until(connection, "response.done")
    by_kind = {event.type: event for event in events}
    await simulated.settled()
    transcribed, responded = simulated.billed()
    heard = by_kind["conversation.item.input_audio_transcription.completed"]
    assert (transcribed.object_id, transcribed.model) == (heard.item_id, "gpt-4o-transcribe")
    assert transcribed.usage == heard.usage.to_dict()
    assert (transcribed.usage["type"], transcribed.usage["input_token_details"]["audio_tokens"]) == ("tokens", 30)
    assert by_kind["input_audio_buffer.committed"].item_id == heard.item_id
    assert responded.usage["input_token_details"]["audio_tokens"] == 30
    assert responded.usage["output_token_details"] == {"text_tokens": 2, "audio_tokens": 8}
    spoken = [base64.b64decode(event.delta) for event in events if event.type == "response.output_audio.delta"]
    assert sum(map(len, spoken)) == 8 * 2400
    assert (
        by_kind["response.output_audio_transcript.done"].transcript
        == by_kind["response.done"].response.output[0].content[0].transcript
    )


async def test_whisper_is_billed_by_the_second(async_client: AsyncOpenAI, simulated: Simulated) -> None:
    hearing = {"turn_detection": None, "transcription": {"model": "whisper-1"}}
    async with session(async_client, {"type": "realtime", "audio": {"input": hearing}}) as connection:
        await connection.input_audio_buffer.append(audio=SECOND_OF_SPEECH)
        await connection.input_audio_buffer.commit()
        await until(connection, "conversation.item.input_audio_transcription.completed")
    await simulated.settled()
    (bill,) = simulated.billed()
    assert (bill.model, bill.usage) == ("whisper-1", {"type": "duration", "seconds": 1.0})


async def test_who_begins_to_speak_interrupts_and_what_was_said_until_then_is_billed(
    async_client: AsyncOpenAI, simulated: Simulated
) -> None:
    async with session(async_client, {"type": "realtime"}, words="1000", chunk_ms="1") as connection:
        await connection.response.create()
        await until(connection, "response.output_audio.delta")
        await connection.input_audio_buffer.append(audio=SECOND_OF_SPEECH)
        interrupted = (await until(connection, "response.done"))[-1].response
        await connection.input_audio_buffer.append(audio=SECOND_OF_SILENCE)
        events = await until(connection, "response.created")
        await connection.response.cancel()
        cancelled = (await until(connection, "response.done"))[-1].response
    assert (interrupted.status, interrupted.status_details.reason) == ("cancelled", "turn_detected")
    assert 0 < interrupted.usage.output_token_details.text_tokens < 1000
    assert [event.type for event in events] == [
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    assert (cancelled.status, cancelled.status_details.reason) == ("cancelled", "client_cancelled")
    await simulated.settled()
    assert [bill.usage for bill in simulated.billed()] == [interrupted.usage.to_dict(), cancelled.usage.to_dict()]


async def test_a_tool_is_called_and_its_result_is_answered_in_words(async_client: AsyncOpenAI) -> None:
    async with session(async_client, TEXT | {"tools": [WEATHER]}) as connection:
        await connection.conversation.item.create(item=said("Will it rain?"))
        await connection.response.create()
        call = (await until(connection, "response.done"))[-1].response.output[0]
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "It will."}
        await connection.conversation.item.create(item=result)
        await connection.response.create()
        answer = (await until(connection, "response.done"))[-1].response.output[0]
    assert (call.type, call.name, call.arguments) == ("function_call", "weather", "{}")
    assert answer.content[0].text


async def test_a_limit_cuts_a_response_and_a_response_can_stand_beside_the_conversation(
    async_client: AsyncOpenAI,
) -> None:
    async with session(async_client, words="50") as connection:
        aside: Any = {"conversation": "none", "input": [said("Aside")], "max_output_tokens": 7, "metadata": {"a": "b"}}
        await connection.response.create(response=aside)
        events = await until(connection, "response.done")
    final = events[-1].response
    assert (final.status, final.status_details.reason) == ("incomplete", "max_output_tokens")
    assert (final.conversation_id, final.metadata) == (None, {"a": "b"})
    assert final.usage.output_tokens == 7
    assert not [event for event in events if event.type.startswith("conversation.item")]


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        ({"type": "nonsense"}, "invalid_value", "type"),
        ({"type": ["session.update"]}, "invalid_value", "type"),
        ({"type": "session.update"}, "missing_required_parameter", "session"),
        ({"type": "session.update", "session": {"voice": "marin"}}, "invalid_value", "session.type"),
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty", None),
        ({"type": "input_audio_buffer.append", "audio": "?"}, "invalid_value", "audio"),
        ({"type": "response.cancel"}, "response_cancel_not_active", None),
        ({"type": "conversation.item.retrieve", "item_id": "item_x"}, "item_retrieve_invalid_item_id", "item_id"),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) and isinstance(value["type"], str) else None,
)
async def test_what_makes_no_sense_is_an_error_event_and_the_session_goes_on(
    async_client: AsyncOpenAI, event: Any, code: str, param: str | None
) -> None:
    async with session(async_client) as connection:
        await connection.send({"event_id": "mine", **event})
        error: Any = await connection.recv()
        await connection.response.create()
        assert (await until(connection, "response.done"))[-1].response.status == "completed"
    assert (error.type, error.error.code, error.error.param) == ("error", code, param)
    assert error.error.event_id == "mine"


async def test_a_second_response_waits_for_the_first(async_client: AsyncOpenAI) -> None:
    async with session(async_client, words="1000", chunk_ms="1") as connection:
        await connection.response.create()
        await connection.response.create()
        error = (await until(connection, "error"))[-1].error
        await connection.response.cancel()
        await until(connection, "response.done")
    assert error.code == "conversation_already_has_active_response"


async def test_the_conversation_can_be_changed(async_client: AsyncOpenAI) -> None:
    async with session(async_client) as connection:
        await connection.conversation.item.create(item=said("First") | {"id": "item_1"})
        await connection.conversation.item.create(item=said("Zeroth") | {"id": "item_0"}, previous_item_id="root")
        added: Any = (
            await until(connection, "conversation.item.done"),
            await until(connection, "conversation.item.done"),
        )
        assert [events[0].previous_item_id for events in added] == [None, None]
        await connection.conversation.item.retrieve(item_id="item_1")
        found: Any = await connection.recv()
        assert found.item.content[0].text == "First"
        await connection.conversation.item.delete(item_id="item_1")
        assert (await connection.recv()).type == "conversation.item.deleted"
        await connection.conversation.item.create(item=said("Second"))
        assert (await until(connection, "conversation.item.done"))[0].previous_item_id == "item_0"


async def test_a_model_that_does_not_exist_ends_the_session_as_it_begins(
    async_client: AsyncOpenAI, simulated: Simulated
) -> None:
    async with async_client.realtime.connect(model="gpt-4o") as connection:
        error: Any = await connection.recv()
        with pytest.raises(ConnectionClosedError) as closed:
            await connection.recv()
    assert error.error.code == "invalid_model"
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "invalid_request_error.invalid_model")
    (exchange,) = await simulated.settled()
    assert (exchange.status, exchange.model, exchange.close_code) == (101, None, 4000)


async def test_a_key_may_stand_among_the_subprotocols_and_is_not_told(simulated: Simulated) -> None:
    offered: Any = ["realtime", f"openai-insecure-api-key.{KEY}", "openai-beta.realtime-v1"]
    async with bare(simulated, subprotocols=offered, additional_headers={}) as connection:
        assert connection.subprotocol == "realtime"
        assert json.loads(await connection.recv())["type"] == "session.created"
    (exchange,) = await simulated.settled()
    shown = f"realtime, openai-insecure-api-key.{exchange.credential}, openai-beta.realtime-v1"
    assert exchange.header("sec-websocket-protocol") == shown


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Sec-WebSocket-Protocol": "realtime, openai-insecure-api-key.wrong"}, 401),
        ({"Authorization": f"Bearer {KEY}", "x-simulator-status": "429"}, 429),
        ({"Authorization": f"Bearer {KEY}", "x-simulator-fault": "cut-body"}, 400),
        ({"Authorization": f"Bearer {KEY}", "x-simulator-encoding": "gzip"}, 400),
    ],
    ids=["no-key", "wrong-key", "wrong-key-offered", "status", "fault-of-bodies", "coding-of-bodies"],
)
async def test_an_upgrade_that_is_refused_is_answered_in_the_shape_of_the_api(
    simulated: Simulated, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with bare(simulated, additional_headers=headers):
            pass
    assert refused.value.response.status_code == status
    assert refused.value.response.body is not None
    assert json.loads(refused.value.response.body)["error"]["message"]


async def test_without_an_upgrade_there_is_no_session(simulated: Simulated) -> None:
    answer = await simulated.ask("/realtime?model=gpt-realtime", b"", method="GET")
    assert answer.status == 400
    halved = ("Upgrade: websocket", "Sec-WebSocket-Version: 13")
    assert (await simulated.ask("/realtime?model=gpt-realtime", b"", *halved, method="GET")).status == 400


async def test_a_session_breaks_off_in_the_middle_of_a_frame_where_it_is_asked_to(
    async_client: AsyncOpenAI, simulated: Simulated
) -> None:
    async with session(async_client, fault="cut-stream") as connection:
        await connection.response.create()
        with pytest.raises(ConnectionClosedError) as broken:
            await until(connection, "response.done")
    assert broken.value.rcvd is None
    (exchange,) = await simulated.settled()
    assert (exchange.completed, exchange.close_code, exchange.fault) == (False, None, "cut-stream")
    assert simulated.billed() == []


async def test_a_session_falls_silent_where_it_is_asked_to(async_client: AsyncOpenAI, simulated: Simulated) -> None:
    async with session(async_client, fault="stall-stream") as connection:
        await connection.response.create()
        await until(connection, "response.content_part.added")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await connection.recv()
        connection._connection.transport.abort()  # type: ignore[attr-defined]  It would wait long for an answer to a close.
    (exchange,) = await simulated.settled()
    assert (exchange.completed, exchange.close_code) == (False, None)
    assert simulated.billed() == []


async def test_a_session_ends_in_good_order_without_saying_what_it_used_where_it_is_asked_to(
    async_client: AsyncOpenAI, simulated: Simulated
) -> None:
    async with session(async_client, fault="no-done") as connection:
        await connection.response.create()
        kinds = [event.type async for event in connection]
    assert kinds[-1] == "conversation.item.done"
    (exchange,) = await simulated.settled()
    assert (exchange.completed, exchange.close_code) == (True, 1000)
    assert simulated.billed() == []


async def test_a_response_fails_where_it_is_asked_to_and_is_billed(
    async_client: AsyncOpenAI, simulated: Simulated
) -> None:
    async with session(async_client, fault="response-failed") as connection:
        await connection.response.create()
        final = (await until(connection, "response.done"))[-1].response
    assert final.status == "failed"
    await simulated.settled()
    assert [bill.usage for bill in simulated.billed()] == [final.usage.to_dict()]


async def test_a_session_is_closed_with_the_code_that_is_asked_for(
    async_client: AsyncOpenAI, simulated: Simulated
) -> None:
    async with session(async_client, close_code="4321") as connection:
        await connection.response.create()
        await until(connection, "response.done")
        with pytest.raises(ConnectionClosedError) as closed:
            await connection.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4321
    assert [exchange.close_code for exchange in await simulated.settled()] == [4321]


async def test_what_is_no_session_can_not_be_closed_with_a_code(simulated: Simulated) -> None:
    answer = await simulated.ask("/models", b"", "x-simulator-close-code: 1000", method="GET")
    assert answer.status == 400
    assert "x-simulator-close-code" in json.loads(answer.body)["error"]["message"]


async def test_how_the_client_leaves_is_in_the_truth_log(simulated: Simulated) -> None:
    async with bare(simulated) as connection:
        await connection.close(4007, "enough")
        assert connection.close_code == 4007
    async with bare(simulated) as connection:
        connection.transport.abort()
    closed, gone = await simulated.settled(2)
    assert (closed.completed, closed.close_code) == (True, 4007)
    assert (gone.completed, gone.close_code) == (False, None)


async def test_a_usage_that_is_dictated_is_told_byte_for_byte(simulated: Simulated) -> None:
    usage = '{"total_tokens": 7,"input_tokens":7e0, "unheard_of": [null]}'
    headers = {"Authorization": f"Bearer {KEY}", "x-simulator-usage": usage, "x-simulator-words": "0"}
    async with bare(simulated, additional_headers=headers) as connection:
        await connection.send('{"type":"response.create"}')
        async for message in connection:
            if '"response.done"' in message:
                break
    assert f'"usage":{usage}' in message
    await simulated.settled()
    assert [bill.usage for bill in simulated.billed()] == [json.loads(usage)]


async def test_a_usage_that_is_left_out_was_used_all_the_same(async_client: AsyncOpenAI, simulated: Simulated) -> None:
    async with session(async_client, usage="none") as connection:
        await connection.response.create()
        final = (await until(connection, "response.done"))[-1].response
    assert final.usage is None
    await simulated.settled()
    assert [(bill.object_id, bill.usage) for bill in simulated.billed()] == [(final.id, None)]


async def test_messages_in_pieces_and_pings_are_understood(simulated: Simulated) -> None:
    # The answer to a ping stands behind events that nobody has taken yet: a client that holds few of them never sees it.
    async with bare(simulated, max_queue=None) as connection:
        assert json.loads(await connection.recv())["type"] == "session.created"
        await connection.send(iter(["{", '"type":"response', '.create"}']))
        await (await connection.ping(b"here?"))
        assert json.loads(await connection.recv())["type"] == "response.created"


# ---------------------------------------------------------------------------------------------------------------------
# The session by itself, without a socket


def began(controls: Controls = NOTHING) -> Realtime:
    numbers = itertools.count()
    return Realtime(SNAPSHOT, None, controls, lambda prefix: f"{prefix}_{next(numbers):021}", 1_800_000_000)


def all_said(talk: Realtime, *events: str) -> list[Step]:
    """What a session says to these events, each response to its end."""
    steps = list(talk.opened())
    for event in events:
        steps += talk.heard(event)
        while (step := talk.goes_on()) is not None:
            steps.append(step)
    return steps


FIELDS = st.sampled_from(
    [
        "type",
        "session",
        "item",
        "audio",
        "input",
        "output",
        "format",
        "turn_detection",
        "transcription",
        "response",
        "content",
        "text",
        "id",
        "item_id",
        "tools",
        "max_output_tokens",
        "output_modalities",
        "silence_duration_ms",
        "instructions",
        "conversation",
        "previous_item_id",
        "voice",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
KINDS = st.sampled_from(
    [
        "session.update",
        "conversation.item.create",
        "conversation.item.retrieve",
        "conversation.item.delete",
        "conversation.item.truncate",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
        "response.create",
        "response.cancel",
    ]
)
SETTINGS = st.dictionaries(FIELDS, JSON, max_size=4).map(lambda fields: {**fields, "type": "realtime"})
ITEMS = st.dictionaries(FIELDS, JSON, max_size=4).flatmap(
    lambda fields: st.sampled_from(["message", "function_call"]).map(lambda kind: {**fields, "type": kind})
)
EVENTS = st.fixed_dictionaries(
    {"type": KINDS}, optional={"session": SETTINGS | JSON, "item": ITEMS | JSON, "response": JSON, "audio": JSON}
).map(json.dumps) | JSON.map(json.dumps)


@given(st.lists(EVENTS | st.text(max_size=9), max_size=6))
def test_nothing_that_a_client_says_breaks_a_session(events: list[str]) -> None:
    controls = Controls(words=1)
    for step in all_said(began(controls), *events):
        assert isinstance(step, Message)
        assert msgspec.json.decode(step.text)["type"]


def test_an_event_that_is_nested_too_deeply_is_an_error_event() -> None:
    deep = '{"type":"session.update","session":' + '{"audio":' * 5000 + "1" + "}" * 5001
    (step,) = began().heard(deep)
    assert isinstance(step, Message)
    assert msgspec.json.decode(step.text)["type"] == "error"


def test_what_is_billed_is_in_the_message_that_carries_it() -> None:
    steps = all_said(began(), '{"type":"response.create"}', '{"type":"response.create"}')
    bills = [step for step in steps if isinstance(step, Message) and step.bill is not None]
    assert len(bills) == 2
    for step in bills:
        assert isinstance(step.bill, Bill)
        told = msgspec.json.decode(step.text)
        assert (told["type"], told["response"]["usage"]) == ("response.done", step.bill.usage)


@pytest.mark.parametrize(
    ("fault", "last"), [(Fault.CUT_STREAM, BreakOff), (Fault.STALL_STREAM, Silence), (Fault.NO_DONE, Close)]
)
def test_a_fault_comes_in_the_place_of_what_would_say_the_usage(fault: Fault, last: type) -> None:
    steps = all_said(began(Controls(fault=fault)), '{"type":"response.create"}')
    assert isinstance(steps[-1], last)
    assert not [step for step in steps if isinstance(step, Message) and step.bill]
