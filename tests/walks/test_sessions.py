"""Sessions over WebSockets by the official SDK: each response is in the ledger, once, with what the provider billed."""

from __future__ import annotations

import asyncio
import base64
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidMessage, InvalidStatus

from gateway.simulator.truth import Billed, read_billed
from tests.walks.harness import Installation, eventually, gateway_process, simulated, simulator_process

SESSION_S_MAX = 60
SPEECH = base64.b64encode(b"\x01\x02" * 9_600).decode()
"""400 ms of it, at 24 kHz."""


class Cutting:
    """A line to the provider on which what was sent arrives in pieces of any size."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self._dice = random.Random(6455)
        self._listens = threading.Event()
        self._over: asyncio.Event
        self._loop: asyncio.AbstractEventLoop

    @contextmanager
    def running(self) -> Iterator[Cutting]:
        thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        thread.start()
        assert self._listens.wait(30)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._over.set)
            thread.join()

    async def _run(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listens.set()
        await self._over.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        with suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))
        for end in (writer, back):
            end.close()
            with suppress(ConnectionError):
                await end.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            while data:
                size = self._dice.choice((1, 2, 3, 7, 60, 500, 5000, 65536))
                writer.write(data[:size])
                data = data[size:]
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sessions")
    simulator = simulator_process(directory / "truth.jsonl")
    simulator.start()
    try:
        providers = simulated(simulator)
        base_url = urlsplit(providers.base_urls["openai"])
        assert base_url.port is not None
        with Cutting(base_url.port).running() as line:
            cut = base_url._replace(netloc=f"127.0.0.1:{line.port}").geturl()
            running = Installation(
                directory,
                simulator,
                gateway_process(directory / "data", providers, providers__openai__base_url=cut),
                providers,
            )
            running.start_gateway()
            try:
                yield running
            finally:
                assert running.gateway.stop() == 0
    finally:
        simulator.stop()


def by_hand(usage: dict[str, Any]) -> dict[str, int]:
    """What a usage object comes to in dimensions that do not overlap; zeros left out."""
    if usage.get("type") == "duration":
        return {"seconds": ceil(usage["seconds"])}
    heard = usage.get("input_token_details") or usage.get("input_tokens_details") or {}
    of_cached = heard.get("cached_tokens_details", {})
    spoken = usage.get("output_token_details") or {}
    reasoning = (usage.get("output_tokens_details") or {}).get("reasoning_tokens", 0)
    audio, image = of_cached.get("audio_tokens", 0), of_cached.get("image_tokens", 0)
    found = {
        "input_tokens_cached": heard.get("cached_tokens", 0) - audio - image,
        "input_tokens_audio_cached": audio,
        "input_tokens_image_cached": image,
        "input_tokens_audio": heard.get("audio_tokens", 0) - audio,
        "input_tokens_image": heard.get("image_tokens", 0) - image,
        "output_tokens_audio": spoken.get("audio_tokens", 0),
        "output_tokens_reasoning": reasoning,
    }
    found["input_tokens"] = usage["input_tokens"] - sum(n for name, n in found.items() if name.startswith("input"))
    found["output_tokens"] = usage["output_tokens"] - spoken.get("audio_tokens", 0) - reasoning
    return {name: amount for name, amount in found.items() if amount}


def billed(gateway: Installation) -> list[Billed]:
    return read_billed(gateway.directory / "truth.jsonl")


def booked(gateway: Installation, tenant_id: str, count: int) -> list[dict[str, Any]]:
    """A tenant's events, but for those of the sessions themselves, which cost nothing and say so."""
    events = gateway.events_of(tenant_id, count)
    own = [event for event in events if event["call_id"] == event["event_id"]]
    for event in own:
        assert (event["event_type"], event["completeness"], event["quantities"]) == ("api_call", "reported", {})
        assert (event["priced"], event["charge"]["amount"]) == (True, "0")
    return [event for event in events if event not in own]


def same(events: list[dict[str, Any]], bills: list[Billed]) -> None:
    """The ledger has what was billed, each once."""
    in_ledger = sorted(
        (event["external_id"], event["resource"], {k: n for k, n in event["quantities"].items() if n}, event["priced"])
        for event in events
    )
    assert in_ledger == sorted((bill.object_id, bill.model, by_hand(bill.usage), True) for bill in bills)
    assert {event["completeness"] for event in events} <= {"reported"}


def setting(transcribed_by: str | None) -> Any:
    hearing: dict[str, Any] = {"turn_detection": None}
    if transcribed_by is not None:
        hearing["transcription"] = {"model": transcribed_by}
    return {"type": "realtime", "audio": {"input": hearing}}


def said(text: str) -> Any:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def offering(*, compressed: bool) -> Any:
    """The SDK offers no compression by itself."""
    return {"compression": "deflate" if compressed else None}


async def twenty_responses(gateway: Installation, key: str, *, compressed: bool) -> list[str]:
    """A conversation of twenty turns: said and spoken, interrupted, cut short, beside the conversation, in text."""
    headers = {"x-simulator-words": "40", "x-simulator-chunk-ms": "4"} | (
        {"x-simulator-encoding": "deflate"} if compressed else {}
    )
    statuses = []
    async with (
        asyncio.timeout(SESSION_S_MAX),
        openai.AsyncOpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as sdk,
        sdk.realtime.connect(
            model="gpt-realtime", extra_headers=headers, websocket_connection_options=offering(compressed=compressed)
        ) as session,
    ):
        agreed = session._connection.response.headers.get("Sec-WebSocket-Extensions", "")
        assert ("permessage-deflate" in agreed) is compressed
        for turn in range(20):
            if turn in (0, 10):
                await session.session.update(session=setting("gpt-4o-transcribe" if turn else "whisper-1"))
            if turn % 3:
                await session.conversation.item.create(item=said(f"This is turn {turn}."))
            else:
                await session.input_audio_buffer.append(audio=SPEECH)
                await session.input_audio_buffer.commit()
            wanted: Any = {"output_modalities": ["text"]} if turn % 2 else {}
            if turn % 5 == 4:
                wanted |= {"max_output_tokens": 20}
            if turn % 7 == 6:
                wanted |= {"conversation": "none"}
            await session.response.create(response=wanted)
            deltas = 0
            async for event in session:
                deltas += event.type.endswith("delta")
                if turn % 4 == 3 and deltas == 3 and event.type.endswith("delta"):
                    await session.response.cancel()
                if event.type == "response.done":
                    statuses.append(event.response.status)
                    break
    return statuses


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_session_of_twenty_responses_is_the_sum_of_what_the_provider_billed(gateway, compressed):
    """Guards the metering of frames: sabotaged (what was cached is not told by kind), audio is booked as text."""
    before = len(billed(gateway))
    tenant_id = f"talks-{compressed}"
    key = await asyncio.to_thread(gateway.tenant, tenant_id)

    statuses = await twenty_responses(gateway, key, compressed=compressed)

    bills = billed(gateway)[before:]
    assert len(statuses) == 20
    assert {"completed", "cancelled", "incomplete"} == set(statuses)
    assert sum(bill.object_id.startswith("resp_") for bill in bills) == 20
    assert {bill.model for bill in bills} == {"gpt-realtime-2025-08-28", "whisper-1", "gpt-4o-transcribe"}
    events = await asyncio.to_thread(booked, gateway, tenant_id, len(bills) + 1)
    same(events, bills)
    assert {(event["event_type"], event["endpoint"]) for event in events} == {
        ("realtime", "realtime"),
        ("audio_transcription", "realtime"),
    }


@pytest.mark.parametrize("compressed", [False, True])
async def test_responses_over_a_websocket_are_billed_as_responses_are(gateway, compressed):
    before = len(billed(gateway))
    tenant_id = f"asks-{compressed}"
    key = await asyncio.to_thread(gateway.tenant, tenant_id)
    headers = {"x-simulator-encoding": "deflate"} if compressed else {}
    made = []

    async with (
        asyncio.timeout(SESSION_S_MAX),
        openai.AsyncOpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as sdk,
        sdk.responses.connect(
            extra_headers=headers, websocket_connection_options=offering(compressed=compressed)
        ) as session,
    ):
        for turn in range(5):
            more = {"previous_response_id": made[-1]} if made else {}
            limit = {"max_output_tokens": 16} if turn == 3 else {}
            await session.response.create(model="gpt-5", input=f"Turn {turn}.", **more, **limit)
            async for event in session:
                if event.type in ("response.completed", "response.incomplete"):
                    made.append(event.response.id)
                    break
        read = await sdk.responses.retrieve(made[0])

    bills = billed(gateway)[before:]
    assert [bill.object_id for bill in bills] == made
    assert read.id == made[0]
    events = await asyncio.to_thread(gateway.events_of, tenant_id, len(bills) + 2)
    events = [event for event in events if event["event_type"] != "api_call"]
    same(events, bills)
    assert {(event["event_type"], event["endpoint"]) for event in events} == {("llm_call", "responses.connect")}


async def test_on_a_shared_account_a_session_can_not_go_on_from_what_another_tenant_was_answered(gateway):
    """Guards the look through what clients say: sabotaged (none), the provider answers from another's conversation."""
    theirs, ours = [await asyncio.to_thread(gateway.tenant, name) for name in ("theirs", "ours")]
    async with openai.AsyncOpenAI(base_url=gateway.openai, api_key=theirs, max_retries=0) as sdk:
        secret = await sdk.responses.create(model="gpt-5", input="Hello")
    before = len(billed(gateway))

    async with (
        asyncio.timeout(SESSION_S_MAX),
        openai.AsyncOpenAI(base_url=gateway.openai, api_key=ours, max_retries=0) as sdk,
    ):
        session = await sdk.responses.connect(max_retries=0).enter()
        await session.response.create(model="gpt-5", input="And then?", previous_response_id=secret.id)
        with pytest.raises(ConnectionClosedError):
            await session.recv()

    assert len(billed(gateway)) == before
    (line,) = await asyncio.to_thread(
        eventually, lambda: [line for line in gateway.calls_logged() if line["tenant_id"] == "ours"], "a line"
    )
    assert line["error"] == "not_found"


async def talk_until_killed(gateway: Installation, session: Any, seen: list[str]) -> None:
    """Ask for one response after another; in the middle of the fourth the gateway is no more."""
    for turn in range(4):
        await session.conversation.item.create(item=said(f"This is turn {turn}."))
        await session.response.create(response={"output_modalities": ["text"]})
        while (event := await session.recv()).type != "response.done":
            if turn == 3 and event.type == "response.output_text.delta":
                await asyncio.to_thread(gateway.gateway.kill)
        seen.append(event.response.id)


async def test_a_gateway_that_is_killed_in_a_session_has_what_was_done_and_does_not_know_the_rest(gateway):
    """Guards that what was used is recorded before it is told, and not when the session ends."""
    before = len(billed(gateway))
    key = await asyncio.to_thread(gateway.tenant, "killed")
    seen: list[str] = []
    async with (
        asyncio.timeout(SESSION_S_MAX),
        openai.AsyncOpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as sdk,
    ):
        slow = {"x-simulator-chunk-ms": "20"}
        session = await sdk.realtime.connect(model="gpt-realtime", extra_headers=slow, max_retries=0).enter()
        with pytest.raises(ConnectionClosedError):
            await talk_until_killed(gateway, session, seen)
    await asyncio.to_thread(gateway.start_gateway)

    events = await asyncio.to_thread(gateway.events_of, "killed", 4)

    done = [event for event in events if event["completeness"] == "reported"]
    assert [event["external_id"] for event in done] == seen
    same(done, [bill for bill in billed(gateway)[before:] if bill.object_id in seen])
    (session_itself,) = [event for event in events if event["completeness"] == "unknown"]
    assert (session_itself["event_type"], session_itself["call_id"]) == ("realtime", done[0]["call_id"])


async def talking(gateway: Installation, key: str, seen: list[str], over: asyncio.Event) -> None:
    """Ask for one response after another, in one session after another, whatever becomes of them."""
    while not over.is_set():
        with suppress(OSError, ConnectionClosedError, InvalidMessage, InvalidStatus, TimeoutError):
            async with (
                asyncio.timeout(SESSION_S_MAX),
                openai.AsyncOpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as sdk,
                sdk.realtime.connect(model="gpt-realtime", max_retries=0) as session,
            ):
                while not over.is_set():
                    await session.conversation.item.create(item=said("Go on."))
                    await session.response.create(response={"output_modalities": ["text"]})
                    while (event := await session.recv()).type != "response.done":
                        pass
                    seen.append(event.response.id)
        await asyncio.sleep(0.05)


async def more(seen: list[str], number: int) -> None:
    """Wait until clients have seen so many more responses to their end."""
    goal = len(seen) + number
    await asyncio.to_thread(eventually, lambda: len(seen) >= goal, f"{number} more responses")


async def test_killed_at_any_moment_what_clients_saw_done_is_in_the_ledger_once_and_nothing_that_was_not(gateway):
    """Guards the same at moments that nobody chose, in sessions side by side."""
    before = len(billed(gateway))
    key = await asyncio.to_thread(gateway.tenant, "crowd")
    seen: list[str] = []
    over = asyncio.Event()
    crowd = [asyncio.ensure_future(talking(gateway, key, seen, over)) for _ in range(6)]
    dice = random.Random(7)

    for _ in range(4):
        await more(seen, 12)
        await asyncio.sleep(dice.random() / 10)
        await asyncio.to_thread(gateway.gateway.kill)
        await asyncio.to_thread(gateway.start_gateway)
    await more(seen, 12)
    over.set()
    await asyncio.gather(*crowd)

    def settled() -> list[dict[str, Any]] | None:
        events = gateway.events("crowd")
        own = {event["event_id"] for event in events}
        ended = all(event["call_id"] in own for event in events)
        return events if ended and set(seen) <= {event["external_id"] for event in events} else None

    events = await asyncio.to_thread(eventually, settled, "all that was seen, and the end of each session")
    done = [event for event in events if event["external_id"] is not None]
    bills = {bill.object_id: bill for bill in billed(gateway)[before:]}
    same(done, [bills[event["external_id"]] for event in done])
    assert len({event["external_id"] for event in done}) == len(done)
    sessions = {(e["event_type"], e["completeness"]) for e in events if e["external_id"] is None}
    assert sessions == {("api_call", "reported"), ("realtime", "unknown")}
