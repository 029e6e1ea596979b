"""The official OpenAI SDK, sync and async, through the gateway: what it returns is what it returns directly."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import Any

import openai
import pytest

from tests.walks.harness import PROVIDER_KEY

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße aus Köln 👋, wie geht's?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": MESSAGES}

RECORDING = ("hello.wav", bytes(range(256)) * 40, "audio/wav")  # 10,240 bytes, which are 10.24 seconds
SPOKEN = "Grüße aus Köln 👋"  # 16 characters

MEDIA: dict[str, Any] = {
    "picture by the token": (
        lambda c: c.images.generate(model="gpt-image-1", prompt="A gate", n=2),
        {"event_type": "image", "resource": "gpt-image-1"},
    ),
    "streamed picture": (
        lambda c: c.images.generate(model="gpt-image-1", prompt="A gate", stream=True),
        {"event_type": "image", "resource": "gpt-image-1"},
    ),
    "picture by the piece": (
        lambda c: c.images.generate(model="dall-e-3", prompt="A gate", size="1024x1792", quality="hd"),
        {"event_type": "image", "resource": "dall-e-3/hd/1024x1792"},
    ),
    "transcription by the token": (
        lambda c: c.audio.transcriptions.create(model="gpt-4o-transcribe", file=RECORDING),
        {"event_type": "audio_transcription", "resource": "gpt-4o-transcribe"},
    ),
    "streamed transcription": (
        lambda c: c.audio.transcriptions.create(model="gpt-4o-transcribe", file=RECORDING, stream=True),
        {"event_type": "audio_transcription", "resource": "gpt-4o-transcribe"},
    ),
    "transcription by the second": (
        lambda c: c.audio.transcriptions.create(model="whisper-1", file=RECORDING, response_format="verbose_json"),
        {"event_type": "audio_transcription", "resource": "whisper-1"},
    ),
    "subtitles": (
        lambda c: c.audio.transcriptions.create(model="whisper-1", file=RECORDING, response_format="srt"),
        {"event_type": "audio_transcription", "resource": "whisper-1", "completeness": "unknown"},
    ),
    "speech by the character": (
        lambda c: c.audio.speech.create(model="tts-1", input=SPOKEN, voice="alloy"),
        {"event_type": "audio_speech", "resource": "tts-1"},
    ),
}
"""What is not billed by text tokens alone, and what its event says besides the quantities."""

CALLS: dict[str, Any] = {
    "chat": lambda c: c.chat.completions.create(**CHAT),
    "chat with tools": lambda c: c.chat.completions.create(**CHAT, tools=TOOLS),
    "chat with choices": lambda c: c.chat.completions.create(**CHAT, n=3),
    "long chat, compressed": lambda c: c.chat.completions.create(**CHAT, extra_headers={"x-simulator-words": "900"}),
    "chat in chunks": lambda c: c.chat.completions.create(**CHAT, extra_headers={"x-simulator-framing": "chunked"}),
    "chat until close": lambda c: c.chat.completions.create(
        **CHAT, extra_headers={"x-simulator-fault": "close-delimited"}
    ),
    "streamed chat": lambda c: c.chat.completions.create(**CHAT, stream=True),
    "streamed chat, usage refused": lambda c: c.chat.completions.create(
        **CHAT, stream=True, stream_options={"include_usage": False}
    ),
    "streamed chat, usage asked for": lambda c: c.chat.completions.create(
        **CHAT, stream=True, stream_options={"include_usage": True}
    ),
    "streamed chat with tools": lambda c: c.chat.completions.create(**CHAT, tools=TOOLS, stream=True),
    "streamed chat byte by byte": lambda c: c.chat.completions.create(
        **CHAT, stream=True, extra_headers={"x-simulator-sse": "byte-by-byte", "x-simulator-words": "5"}
    ),
    "streamed chat with CRLF": lambda c: c.chat.completions.create(
        **CHAT, stream=True, extra_headers={"x-simulator-sse": "crlf"}
    ),
    "response": lambda c: c.responses.create(model="gpt-5", input="Hello"),
    "response in background": lambda c: c.responses.create(model="gpt-5", input="Hello", background=True),
    "streamed response": lambda c: c.responses.create(model="gpt-5", input="Hello", stream=True),
    "completion": lambda c: c.completions.create(model="gpt-3.5-turbo-instruct", prompt="Once"),
    "streamed completion": lambda c: c.completions.create(model="gpt-3.5-turbo-instruct", prompt="Once", stream=True),
    "embedding": lambda c: c.embeddings.create(model="text-embedding-3-small", input=["one", "two"]),
    "embedding as numbers": lambda c: c.embeddings.create(
        model="text-embedding-3-large", input="one", encoding_format="float"
    ),
    "moderation": lambda c: c.moderations.create(input="Hello"),
    **{what: call for what, (call, _) in MEDIA.items()},
    "unknown model": lambda c: c.chat.completions.create(model="gpt-none", messages=MESSAGES),
    "unknown model of a response": lambda c: c.responses.create(model="gpt-none", input="Hello"),
    "no messages": lambda c: c.chat.completions.create(model="gpt-4o", messages=[]),
    "too many requests": lambda c: c.chat.completions.create(**CHAT, extra_headers={"x-simulator-status": "429"}),
    "provider failing": lambda c: c.responses.create(
        model="gpt-5", input="Hello", extra_headers={"x-simulator-status": "503"}
    ),
}

VOLATILE = {"id", "created", "created_at", "completed_at", "item_id", "call_id", "obfuscation", "request_id"}
"""What differs between two calls whoever is in between: names and times that the provider makes anew."""


@pytest.fixture(scope="module")
def key(gateway):
    return gateway.tenant("sdk")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI])
def test_the_sdk_returns_through_the_gateway_what_it_returns_directly(gateway, key, call, kind):
    expected = outcome(kind, gateway.direct, PROVIDER_KEY, CALLS[call])
    found = outcome(kind, gateway.openai, key, CALLS[call])

    assert found == expected


def sent(gateway, before):
    """What the provider was sent since then. It is asked as well what became of responses in the background."""
    return [one for one in gateway.truth()[before:] if one.method == "POST"]


def test_pictures_and_speech_are_recorded_as_the_provider_s_own_log_has_them(gateway):
    """Guards each meter over real sockets, forms and streams included, by a truth that nothing here shares."""
    key, before = gateway.tenant("media"), len(gateway.truth())

    with openai.OpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as client:
        for call, _ in MEDIA.values():
            asyncio.run(whole(call(client)))
        client.moderations.create(input="Hello")

    events = gateway.events_of("media", len(MEDIA) + 1)
    *told, moderated = sent(gateway, before)
    for (what, (_, expected)), exchange, event in zip(MEDIA.items(), told, events, strict=False):
        assert expected.items() <= event.items(), what
        assert event["quantities"] == quantities_of(exchange), what
    assert (events[-1]["event_type"], events[-1]["resource"]) == ("moderation", moderated.model)
    assert (events[-1]["quantities"], events[-1]["charge"]["amount"]) == ({"requests": 1}, "0")


def quantities_of(exchange: Any) -> dict[str, int]:
    """What the provider's log says was used, in our dimensions, worked out by hand for each of its forms."""
    usage = exchange.usage
    if usage is None:
        return {}
    if "seconds" in usage:
        assert usage["seconds"] == 11
        return {"seconds": 11}
    if usage.keys() <= {"images", "characters"}:
        return dict(usage)
    if "input_token_details" in usage:
        assert usage["input_tokens"] == usage["input_token_details"]["audio_tokens"]
        return {"input_tokens": 0, "input_tokens_audio": usage["input_tokens"], "output_tokens": usage["output_tokens"]}
    found = {"input_tokens": usage["input_tokens"], "output_tokens_image": usage["output_tokens"]}
    return found | {"images": 1 if b'"stream"' in exchange.body else json.loads(exchange.body)["n"]}


@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI])
def test_an_object_made_through_the_gateway_is_read_cancelled_and_deleted_through_it(gateway, key, kind):
    async def walk(client: Any) -> tuple[Any, ...]:
        made = await whole(client.responses.create(model="gpt-5", input="Hello", store=True))
        read = await whole(client.responses.retrieve(made.id))
        items = [item.type for item in (await whole(client.responses.input_items.list(made.id))).data]
        await whole(client.responses.delete(made.id))
        return made, read, items

    made, read, items = used(kind, gateway.openai, key, walk)

    assert read.output_text == made.output_text
    assert items == ["message"]


def test_the_provider_receives_the_body_byte_for_byte_but_for_the_usage_that_was_asked_for(gateway, key):
    before = len(gateway.truth())

    with openai.OpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as client:
        client.chat.completions.create(**CHAT)
        list(client.chat.completions.create(**CHAT, stream=True))

    plain, streamed = sent(gateway, before)
    assert b'"stream_options"' not in plain.body
    assert streamed.body.startswith(b'{"stream_options":{"include_usage":true},')
    assert (
        streamed.body.replace(b'"stream_options":{"include_usage":true},', b"").replace(b',"stream":true', b"")
        == plain.body
    )


def test_the_provider_sees_its_own_credential_and_none_of_our_headers(gateway, key):
    before = len(gateway.truth())

    with openai.OpenAI(base_url=gateway.openai, api_key=key, organization="org-mine", project="proj-mine") as client:
        client.chat.completions.create(
            **CHAT, extra_headers={"X-Gateway-Category": "rag", "X-Gateway-Tags": "team=blue"}
        )

    (seen,) = sent(gateway, before)
    names = {name.lower() for name, _ in seen.headers}
    assert not {name for name in names if name.startswith(("x-gateway", "x-tenant", "openai-"))}
    assert key not in str(seen.headers)
    assert seen.header("user-agent").startswith("OpenAI/Python")


def outcome(kind: Any, base_url: str, api_key: str, call: Any) -> Any:
    """What a call returns, or raises, without what is made anew for each call."""

    async def run(client: Any) -> Any:
        try:
            return plain(await whole(call(client)))
        except openai.APIStatusError as error:
            return type(error), error.status_code, plain(error.body)

    return used(kind, base_url, api_key, run)


def used(kind: Any, base_url: str, api_key: str, what: Any) -> Any:
    """Do something with a client of either kind, and close it."""

    async def run() -> Any:
        client = kind(base_url=base_url, api_key=api_key, max_retries=0)
        try:
            return await what(client)
        finally:
            closing = client.close()
            if closing is not None:
                await closing

    return asyncio.run(run())


async def whole(result: Any) -> Any:
    """The result of a call of either kind of client; of a stream, all of its events."""
    if inspect.isawaitable(result):
        result = await result
    if isinstance(result, openai.AsyncStream):
        return [event async for event in result]
    if isinstance(result, openai.Stream):
        return list(result)
    return result


def plain(value: Any) -> Any:
    if isinstance(getattr(value, "content", None), bytes):
        return value.content
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if name not in VOLATILE}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
