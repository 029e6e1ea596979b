"""One exchange for each endpoint of OpenAI that costs something, and what it used, by hand.

The requests and answers are written after the API reference and the official SDK's types (3.54); figures are made up, so
that no two of one exchange are alike.
"""

import itertools
import json
import random
from typing import NamedTuple

import msgspec
import pytest

from gateway.providers import PROVIDERS
from gateway.providers.learnt import as_it_came
from gateway.providers.openai.media import ENDS_MAX
from gateway.routing import Routes
from metering.usage import Completeness
from tests.builders import answer_head
from tests.gateway.peers import answer, answers, provider
from tests.gateway.proxied import OWN, proxied, request

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"
FORM = "multipart/form-data; boundary=toll-7MA4YWxk"

REPORTED, PENDING, UNKNOWN = Completeness.REPORTED, Completeness.PENDING, Completeness.UNKNOWN


class Exchange(NamedTuple):
    what: str
    path: str
    asked: bytes
    told: bytes
    quantities: dict
    completeness: Completeness = REPORTED
    media_type: str = JSON
    event_type: str = "llm_call"
    resource: str | None = None
    external_id: str | None = None
    metadata: dict | None = None  # Of which these must be there.
    further: tuple = ()  # (event type, resource, quantities) of each.
    unseen: tuple = ()


def body(**fields):
    return json.dumps(fields).encode()


def form(*fields, file=b"RIFF\r\n--toll-7MA4YWx\r\n\x00\xff" * 400):
    """A form as the official SDKs write it: the fields, and a file whose bytes resemble a delimiter."""
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in fields]
    head = 'Content-Disposition: form-data; name="file"; filename="name=\\"model\\".wav"\r\nContent-Type: audio/wav\r\n\r\n'
    texts = [part.encode() for part in parts] + [head.encode() + file]
    return b"".join(b"--toll-7MA4YWxk\r\n" + text + b"\r\n" for text in texts) + b"--toll-7MA4YWxk--\r\n"


def events(*values, named=True):
    return b"".join(
        (f"event: {value['type']}\n" if named and "type" in value else "").encode()
        + b"data: "
        + json.dumps(value).encode()
        + b"\n\n"
        for value in values
    )


def run_events(*pairs):
    """The Assistants API names its events in the `event` line alone."""
    return b"".join(f"event: {name}\ndata: {json.dumps(value)}\n\n".encode() for name, value in pairs) + (
        b"event: done\ndata: [DONE]\n\n"
    )


IMAGE_USAGE = {
    "input_tokens": 70,
    "input_tokens_details": {"text_tokens": 20, "image_tokens": 50},
    "output_tokens": 196,
    "total_tokens": 266,
}
IMAGE_QUANTITIES = {"input_tokens": 20, "input_tokens_image": 50, "output_tokens_image": 196}
PICTURE = {"b64_json": "iVBORw0KGgo="}
RUN_USAGE = {
    "prompt_tokens": 340,
    "completion_tokens": 25,
    "total_tokens": 365,
    "prompt_token_details": {"cached_tokens": 128},
    "completion_tokens_details": {"reasoning_tokens": 5},
}
RUN_QUANTITIES = {
    "input_tokens": 212,
    "input_tokens_cached": 128,
    "output_tokens": 20,
    "output_tokens_reasoning": 5,
}
RUN = {"id": "run_abc123def456", "object": "thread.run", "model": "gpt-4o", "thread_id": "thread_1"}
STEP = {"id": "step_abc123", "object": "thread.run.step", "status": "completed", "usage": RUN_USAGE}
HEARD = {
    "type": "tokens",
    "input_tokens": 14,
    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
    "output_tokens": 45,
    "total_tokens": 59,
}
HEARD_QUANTITIES = {"input_tokens": 4, "input_tokens_audio": 10, "output_tokens": 45}
CONVERSATION = {"input_tokens": 36, "output_tokens": 87, "total_tokens": 123}
SVG = {
    "model": "gpt-5.6-sol",
    "input_tokens": 300,
    "output_tokens": 900,
    "reasoning_tokens": 400,
    "total_tokens": 1200,
}
RESPONSE = {"id": "resp_0123456789abcdef", "object": "response", "status": "completed", "model": "gpt-5.4-2026-03-05"}
SPOKEN = body(model="tts-1-hd", input="Grüße aus Köln 👋", voice="alloy")  # 16 characters
UPLOADED = form(("model", "whisper-1"), ("response_format", "json"))

EXCHANGES = [
    Exchange(
        "chat completion",
        "/v1/chat/completions",
        body(model="gpt-5.4", messages=[{"role": "user", "content": "Hello"}], service_tier="auto"),
        body(
            id="chatcmpl-B9MBs8Cj",
            object="chat.completion",
            model="gpt-5.4-2026-03-05",
            choices=[{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
            usage={
                "prompt_tokens": 900,
                "completion_tokens": 110,
                "total_tokens": 1010,
                "prompt_tokens_details": {"cached_tokens": 512, "audio_tokens": 30, "cache_write_tokens": 100},
                "completion_tokens_details": {
                    "reasoning_tokens": 64,
                    "audio_tokens": 6,
                    "accepted_prediction_tokens": 11,
                    "rejected_prediction_tokens": 7,
                },
            },
            service_tier="priority",
        ),
        {
            "input_tokens": 258,
            "input_tokens_cached": 512,
            "input_tokens_cache_write": 100,
            "input_tokens_audio": 30,
            "output_tokens": 40,
            "output_tokens_reasoning": 64,
            "output_tokens_audio": 6,
        },
        resource="gpt-5.4-2026-03-05",
        external_id="chatcmpl-B9MBs8Cj",
        metadata={"model": "gpt-5.4", "service_tier": "priority"},
    ),
    Exchange(
        "completion",
        "/v1/completions",
        body(model="gpt-3.5-turbo-instruct", prompt="Once"),
        body(
            id="cmpl-uqkvlQyYK7bGYrRH",
            model="gpt-3.5-turbo-instruct:20230824-v2",
            choices=[{"text": "x"}],
            usage={"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
        ),
        {"input_tokens": 5, "output_tokens": 7},
        resource="gpt-3.5-turbo-instruct:20230824-v2",
        external_id="cmpl-uqkvlQyYK7bGYrRH",
    ),
    Exchange(
        "response with every hosted tool",
        "/v1/responses",
        body(model="gpt-5.4", input="Draw", tools=[{"type": "image_generation"}]),
        body(
            **RESPONSE,
            tools=[{"type": "web_search"}, {"type": "image_generation", "model": "gpt-image-2"}],
            output=[
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "toll"}},
                {"type": "web_search_call", "id": "ws_2", "action": {"type": "open_page", "url": "https://a.b"}},
                {"type": "file_search_call", "id": "fs_1", "queries": ["a", "b"], "results": None},
                {"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_a", "outputs": []},
                {"type": "code_interpreter_call", "id": "ci_2", "container_id": "cntr_a", "outputs": []},
                {"type": "code_interpreter_call", "id": "ci_3", "container_id": "cntr_b", "outputs": []},
                {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "iVBORw0KGgo="},
                {"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "Done"}]},
            ],
            usage={
                "input_tokens": 2000,
                "input_tokens_details": {
                    "cached_tokens": 1024,
                    "cache_write_tokens": 300,
                    "cache_write_tokens_details": {"ttl_30m_tokens": 200, "ttl_12h_tokens": 100},
                },
                "output_tokens": 400,
                "output_tokens_details": {"reasoning_tokens": 256},
                "total_tokens": 2400,
            },
            tool_usage={
                "image_gen": {
                    "input_tokens": 30,
                    "input_tokens_details": {"text_tokens": 30, "image_tokens": 0},
                    "output_tokens": 1056,
                    "output_tokens_details": {"text_tokens": 0, "image_tokens": 1056},
                    "total_tokens": 1086,
                },
                "web_search": {"num_requests": 3},
            },
        ),
        {
            "input_tokens": 676,
            "input_tokens_cached": 1024,
            "input_tokens_cache_write": 300,
            "output_tokens": 144,
            "output_tokens_reasoning": 256,
            "web_searches": 3,
            "file_searches": 1,
        },
        resource="gpt-5.4-2026-03-05",
        external_id="resp_0123456789abcdef",
        further=(
            ("storage", "container", {"containers": 2}),
            ("image", "gpt-image-2", {"input_tokens": 30, "output_tokens": 0, "output_tokens_image": 1056, "images": 1}),
        ),
    ),
    Exchange(
        "response with a picture larger than what is held",
        "/v1/responses",
        body(model="gpt-5.4", input="Draw", tools=[{"type": "image_generation"}]),
        b'{"id":"resp_0123456789abcdef","model":"gpt-5.4-2026-03-05","status":"completed","output":[{"result":"'
        + b"A" * (5 << 20)
        + b'"}],'
        + body(
            tools=[{"type": "web_search"}, {"type": "image_generation", "model": "gpt-image-2", "n": 1}],
            usage=CONVERSATION,
            tool_usage={"image_gen": IMAGE_USAGE, "web_search": {"num_requests": 1}},
        )[1:],
        {"input_tokens": 36, "output_tokens": 87, "web_searches": 1},
        resource="gpt-5.4-2026-03-05",
        external_id="resp_0123456789abcdef",
        further=(("image", "gpt-image-2", IMAGE_QUANTITIES),),
    ),
    Exchange(
        "response without tool_usage",
        "/v1/responses",
        body(model="gpt-5.4", input="Search"),
        body(
            **RESPONSE,
            tools=[{"type": "code_interpreter", "container": "cntr_given"}],
            output=[
                {"type": "web_search_call", "id": "ws_1", "action": {"type": "search"}},
                {"type": "web_search_call", "id": "ws_2", "action": {"type": "find_in_page"}},
                {"type": "web_search_call", "id": "ws_3"},
                {"type": "image_generation_call", "id": "ig_1", "svg_usage": SVG},
                {"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_given"},
            ],
            usage=CONVERSATION,
        ),
        {"input_tokens": 36, "output_tokens": 87, "web_searches": 2},
        resource="gpt-5.4-2026-03-05",
        external_id="resp_0123456789abcdef",
        further=(
            ("llm_call", "gpt-5.6-sol", {"input_tokens": 300, "output_tokens": 500, "output_tokens_reasoning": 400}),
            ("image", None, {}),
        ),
    ),
    Exchange(
        "streamed response",
        "/v1/responses",
        body(model="gpt-5.4", input="Hello", stream=True),
        events(
            {"type": "response.created", "response": RESPONSE | {"status": "in_progress", "usage": None}},
            {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "Hi"},
            {
                "type": "response.completed",
                "response": RESPONSE
                | {
                    "service_tier": "flex",
                    "usage": CONVERSATION,
                    "output": [{"type": "file_search_call"}, {"type": "file_search_call"}],
                },
            },
        ),
        {"input_tokens": 36, "output_tokens": 87, "file_searches": 2},
        media_type=SSE,
        resource="gpt-5.4-2026-03-05",
        external_id="resp_0123456789abcdef",
        metadata={"service_tier": "flex"},
    ),
    Exchange(
        "compaction",
        "/v1/responses/compact",
        body(model="gpt-5.4", input=[{"role": "user", "content": "Hello"}]),
        body(
            id="resp_0123456789abcdef",
            object="response.compaction",
            output=[{"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA"}],
            usage={
                "input_tokens": 139,
                "input_tokens_details": {"cached_tokens": 39},
                "output_tokens": 438,
                "output_tokens_details": {"reasoning_tokens": 64},
                "total_tokens": 577,
            },
        ),
        {"input_tokens": 100, "input_tokens_cached": 39, "output_tokens": 374, "output_tokens_reasoning": 64},
        resource="gpt-5.4",
        external_id="resp_0123456789abcdef",
    ),
    Exchange(
        "decision",
        "/v1/decisions",
        body(model="gpt-5.4", input="Which?"),
        body(id="dec_1", model="gpt-5.4-2026-03-05", answers=[], usage=CONVERSATION),
        {"input_tokens": 36, "output_tokens": 87},
        resource="gpt-5.4-2026-03-05",
        external_id="dec_1",
    ),
    Exchange(
        "a usage of a kind that is new",
        "/v1/responses",
        body(model="gpt-6", input="Smell this"),
        body(
            id="resp_0123456789abcdef",
            model="gpt-6",
            usage={
                "input_tokens": 50,
                "input_tokens_details": {"cached_tokens": 10, "scent_tokens": 5},
                "output_tokens": 9,
                "dream_tokens": 3,
                "dream_details": {"deep_tokens": 2},
                "Ein Satz mit Inhalt": 1,
                "total_tokens": 59,
            },
            tool_usage={"robot_arm": {"num_moves": 2}},
        ),
        {"input_tokens": 40, "input_tokens_cached": 10, "output_tokens": 9},
        resource="gpt-6",
        external_id="resp_0123456789abcdef",
        unseen=(
            "input_tokens_details.scent_tokens",
            "dream_tokens",
            "dream_details.deep_tokens",
            "tool_usage.robot_arm",
        ),
    ),
    Exchange(
        "embedding",
        "/v1/embeddings",
        body(model="text-embedding-3-small", input="Hello"),
        body(
            object="list",
            data=[{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
            model="text-embedding-3-small",
            usage={"prompt_tokens": 8, "total_tokens": 8},
        ),
        {"input_tokens": 8},
        event_type="embedding",
        resource="text-embedding-3-small",
    ),
    Exchange(
        "moderation",
        "/v1/moderations",
        body(input="Hello"),
        body(id="modr-970d409ef3bef3b70c73d8232df86e7d", model="omni-moderation-latest", results=[{"flagged": False}]),
        {"requests": 1},
        event_type="moderation",
        resource="omni-moderation-latest",
        external_id="modr-970d409ef3bef3b70c73d8232df86e7d",
    ),
    Exchange(
        "pictures by the token",
        "/v1/images/generations",
        body(model="gpt-image-1.5", prompt="A toll gate", n=2, size="auto"),
        body(created=1, data=[PICTURE, PICTURE], size="1024x1536", quality="high", usage=IMAGE_USAGE),
        IMAGE_QUANTITIES | {"images": 2},
        event_type="image",
        resource="gpt-image-1.5",
        metadata={"model": "gpt-image-1.5", "size": "1024x1536", "quality": "high"},
    ),
    Exchange(
        "a picture with text told apart, and one as SVG",
        "/v1/images/generations",
        body(model="gpt-image-2", prompt="A toll gate"),
        body(
            data=[PICTURE],
            usage=IMAGE_USAGE | {"output_tokens_details": {"text_tokens": 6, "image_tokens": 190}},
            svg_usage=SVG | {"total_tokens": 1600},
        ),
        {"input_tokens": 20, "input_tokens_image": 50, "output_tokens": 6, "output_tokens_image": 190, "images": 1},
        event_type="image",
        resource="gpt-image-2",
        further=(
            ("llm_call", "gpt-5.6-sol", {"input_tokens": 300, "output_tokens": 900, "output_tokens_reasoning": 400}),
        ),
    ),
    Exchange(
        "pictures larger than what is held",
        "/v1/images/generations",
        body(model="gpt-image-1", prompt="A toll gate", n=3),
        b'{"created":1,"data":[{"b64_json":"' + b"A" * (9 << 20) + b'"}],' + body(usage=IMAGE_USAGE)[1:],
        IMAGE_QUANTITIES | {"images": 3},
        event_type="image",
        resource="gpt-image-1",
    ),
    Exchange(
        "pictures by the piece",
        "/v1/images/generations",
        body(model="dall-e-3", prompt="A toll gate", size="1024x1792", quality="hd"),
        body(created=1, data=[{"url": "https://a.b/c.png", "revised_prompt": "A gate"}]),
        {"images": 1},
        event_type="image",
        resource="dall-e-3/hd/1024x1792",
        metadata={"model": "dall-e-3", "size": "1024x1792", "quality": "hd"},
    ),
    Exchange(
        "streamed picture",
        "/v1/images/generations",
        body(model="gpt-image-1", prompt="A toll gate", stream=True, partial_images=1),
        events(
            {"type": "image_generation.partial_image", "b64_json": "iVBORw0KGgo=", "partial_image_index": 0},
            {
                "type": "image_generation.completed",
                "b64_json": "iVBORw0KGgo=",
                "size": "1024x1024",
                "quality": "low",
                "usage": IMAGE_USAGE,
            },
        ),
        IMAGE_QUANTITIES | {"images": 1},
        media_type=SSE,
        event_type="image",
        resource="gpt-image-1",
        metadata={"size": "1024x1024", "quality": "low"},
    ),
    Exchange(
        "edited picture",
        "/v1/images/edits",
        form(("model", "gpt-image-1"), ("n", "1"), ("prompt", "Open the gate")),
        body(created=1, data=[PICTURE], usage=IMAGE_USAGE),
        IMAGE_QUANTITIES | {"images": 1},
        event_type="image",
        resource="gpt-image-1",
    ),
    Exchange(
        "streamed edits of two pictures",
        "/v1/images/edits",
        form(("model", "gpt-image-1"), ("n", "2"), ("stream", "true")),
        events(*[{"type": "image_edit.completed", "b64_json": "", "usage": IMAGE_USAGE}] * 2),
        {"input_tokens": 40, "input_tokens_image": 100, "output_tokens_image": 392, "images": 2},
        media_type=SSE,
        event_type="image",
        resource="gpt-image-1",
    ),
    Exchange(
        "edit asked for in JSON",
        "/v1/images/edits",
        body(model="gpt-image-1.5", images=[{"file_id": "file-abc"}], prompt="Open the gate"),
        body(data=[PICTURE], usage=IMAGE_USAGE),
        IMAGE_QUANTITIES | {"images": 1},
        event_type="image",
        resource="gpt-image-1.5",
    ),
    Exchange(
        "variations of a picture, of the model that nobody named",
        "/v1/images/variations",
        form(("n", "4"), ("size", "512x512")),
        body(created=1, data=[{"url": "https://a.b/c.png"}] * 4),
        {"images": 4},
        event_type="image",
        resource="dall-e-2/standard/512x512",
    ),
    Exchange(
        "transcription by the token",
        "/v1/audio/transcriptions",
        form(("model", "gpt-4o-transcribe"), ("response_format", "json")),
        body(text="Hello", usage=HEARD),
        HEARD_QUANTITIES,
        event_type="audio_transcription",
        resource="gpt-4o-transcribe",
    ),
    Exchange(
        "transcription by the second",
        "/v1/audio/transcriptions",
        UPLOADED,
        body(text="Hello", usage={"type": "duration", "seconds": 9}),
        {"seconds": 9},
        event_type="audio_transcription",
        resource="whisper-1",
    ),
    Exchange(
        "verbose transcription",
        "/v1/audio/transcriptions",
        form(("model", "whisper-1"), ("response_format", "verbose_json")),
        body(task="transcribe", duration=8.47, text="Hello", segments=[]),
        {"seconds": 9},
        event_type="audio_transcription",
        resource="whisper-1",
    ),
    Exchange(
        "streamed transcription",
        "/v1/audio/transcriptions",
        form(("model", "gpt-4o-mini-transcribe"), ("stream", "true")),
        events(
            {"type": "transcript.text.delta", "delta": "Hel"},
            {"type": "transcript.text.delta", "delta": "lo"},
            {"type": "transcript.text.done", "text": "Hello", "usage": HEARD},
        ),
        HEARD_QUANTITIES,
        media_type=SSE,
        event_type="audio_transcription",
        resource="gpt-4o-mini-transcribe",
    ),
    Exchange(
        "subtitles, which say nothing",
        "/v1/audio/transcriptions",
        form(("model", "whisper-1"), ("response_format", "srt")),
        b"1\n00:00:00,000 --> 00:00:08,470\nHello\n",
        {},
        UNKNOWN,
        media_type="text/plain; charset=utf-8",
        event_type="audio_transcription",
        resource="whisper-1",
    ),
    Exchange(
        "translation, which says nothing",
        "/v1/audio/translations",
        form(("model", "whisper-1")),
        body(text="Hello"),
        {},
        UNKNOWN,
        event_type="audio_transcription",
        resource="whisper-1",
    ),
    Exchange(
        "verbose translation",
        "/v1/audio/translations",
        form(("model", "whisper-1"), ("response_format", "verbose_json")),
        body(task="translate", language="english", duration=61, text="Hello"),
        {"seconds": 61},
        event_type="audio_transcription",
        resource="whisper-1",
    ),
    Exchange(
        "speech by the character",
        "/v1/audio/speech",
        SPOKEN,
        b"ID3\x04\x00" + bytes(range(256)),
        {"characters": 16},
        media_type="audio/mpeg",
        event_type="audio_speech",
        resource="tts-1-hd",
    ),
    Exchange(
        "speech by the token, which says nothing",
        "/v1/audio/speech",
        body(model="gpt-4o-mini-tts", input="Hello", voice="alloy"),
        b"ID3\x04\x00" + bytes(range(256)),
        {},
        UNKNOWN,
        media_type="audio/mpeg",
        event_type="audio_speech",
        resource="gpt-4o-mini-tts",
    ),
    Exchange(
        "streamed speech",
        "/v1/audio/speech",
        body(model="gpt-4o-mini-tts", input="Hello", voice="alloy", stream_format="sse"),
        events(
            {"type": "speech.audio.delta", "audio": "UklGRg=="},
            {
                "type": "speech.audio.done",
                "usage": {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115},
            },
        ),
        {"input_tokens": 14, "output_tokens_audio": 101},
        media_type=SSE,
        event_type="audio_speech",
        resource="gpt-4o-mini-tts",
    ),
    Exchange(
        "video",
        "/v1/videos",
        form(("model", "sora-2"), ("seconds", "8"), ("size", "720x1280"), ("prompt", "A gate opens")),
        body(id="video_0123456789", object="video", model="sora-2", status="queued", seconds="8", size="720x1280"),
        {"seconds": 8},
        PENDING,
        event_type="video",
        resource="sora-2",
        external_id="video_0123456789",
        metadata={"size": "720x1280"},
    ),
    Exchange(
        "video that is made longer: its answer says the length of the whole",
        "/v1/videos/extensions",
        form(("seconds", "4"), ("video", "video_0123456789"), ("prompt", "And closes")),
        body(id="video_9876543210", object="video", model="sora-2", status="queued", seconds="12", size="720x1280"),
        {"seconds": 4},
        PENDING,
        event_type="video",
        resource="sora-2",
        external_id="video_9876543210",
        metadata={"as_ordered": True},
    ),
    Exchange(
        "run of an assistant that was only begun",
        "/v1/threads/thread_1/runs",
        body(assistant_id="asst_1"),
        body(**RUN, status="queued", usage=None),
        {},
        PENDING,
        resource="gpt-4o",
        external_id="run_abc123def456",
    ),
    Exchange(
        "streamed run of an assistant",
        "/v1/threads/runs",
        body(assistant_id="asst_1", stream=True),
        run_events(
            ("thread.created", {"id": "thread_1", "object": "thread"}),
            ("thread.run.in_progress", RUN | {"status": "in_progress", "usage": None}),
            ("thread.message.delta", {"id": "msg_1", "object": "thread.message.delta", "delta": {}}),
            ("thread.run.step.completed", STEP),
            ("thread.run.step.completed", STEP | {"id": "step_2"}),
            ("thread.run.completed", RUN | {"status": "completed", "usage": RUN_USAGE}),
        ),
        RUN_QUANTITIES,
        media_type=SSE,
        resource="gpt-4o",
        external_id="run_abc123def456",
    ),
    Exchange(
        "streamed run that waits for a tool",
        "/v1/threads/thread_1/runs",
        body(assistant_id="asst_1", stream=True),
        run_events(
            ("thread.run.in_progress", RUN | {"status": "in_progress", "usage": None}),
            ("thread.run.step.completed", STEP),
            ("thread.run.requires_action", RUN | {"status": "requires_action", "usage": None}),
        ),
        {},
        PENDING,
        media_type=SSE,
        resource="gpt-4o",
        external_id="run_abc123def456",
        metadata={"thread_id": "thread_1"},
    ),
    Exchange(
        "batch",
        "/v1/batches",
        body(input_file_id="file-abc", endpoint="/v1/chat/completions", completion_window="24h"),
        body(id="batch_abc123", object="batch", status="validating", usage={"input_tokens": 0, "output_tokens": 0}),
        {},
        PENDING,
        event_type="batch",
        external_id="batch_abc123",
    ),
    Exchange(
        "fine-tuning job",
        "/v1/fine_tuning/jobs",
        body(model="gpt-4o-mini", training_file="file-abc"),
        body(id="ftjob-abc123", object="fine_tuning.job", model="gpt-4o-mini-2024-07-18", trained_tokens=None),
        {},
        PENDING,
        event_type="fine_tuning",
        resource="gpt-4o-mini-2024-07-18",
        external_id="ftjob-abc123",
    ),
    Exchange(
        "evaluation",
        "/v1/evals/eval_1/runs",
        body(data_source={"type": "jsonl"}),
        body(id="evalrun_abc123", object="eval.run", status="queued", model="gpt-4o-mini", per_model_usage=None),
        {},
        PENDING,
        event_type="job",
        resource="gpt-4o-mini",
        external_id="evalrun_abc123",
    ),
    Exchange(
        "grader of two models",
        "/v1/fine_tuning/alpha/graders/run",
        body(grader={"type": "multi"}, model_sample="fuzzy wuzzy"),
        body(
            reward=1.0,
            metadata={
                "token_usage": 25,
                "model_grader_token_usage_per_model": {
                    "gpt-4o-2024-08-06": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
                    "o3-mini": {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12},
                },
            },
        ),
        {"input_tokens": 10, "output_tokens": 3},
        resource="gpt-4o-2024-08-06",
        further=((None, "o3-mini", {"input_tokens": 8, "output_tokens": 4}),),
    ),
    Exchange(
        "upload that becomes a file",
        "/v1/uploads/upload_abc123/complete",
        body(part_ids=["part_abc", "part_def"]),
        body(id="upload_abc123", object="upload", status="completed", file={"id": "file-xyz321", "object": "file"}),
        {},
        event_type="api_call",
        external_id="file-xyz321",
    ),
    Exchange(
        "container",
        "/v1/containers",
        body(name="workbench", memory_limit="4g"),
        body(id="cntr_682e30645a488191", object="container", name="workbench", status="running", memory_limit="4g"),
        {"containers": 1},
        event_type="storage",
        resource="container-4g",
        external_id="cntr_682e30645a488191",
    ),
    Exchange(
        "search of a vector store",
        "/v1/vector_stores/vs_abc123/search",
        body(query="toll"),
        body(object="vector_store.search_results.page", search_query=["toll"], data=[], has_more=False),
        {"file_searches": 1},
        event_type="storage",
    ),
    Exchange(
        "secret with which a client goes past the gateway",
        "/v1/realtime/client_secrets",
        body(session={"type": "realtime", "model": "gpt-realtime"}),
        body(value="ek_68af296e8e408191", expires_at=1, session={"id": "sess_C9CiUVUz", "model": "gpt-realtime"}),
        {},
        UNKNOWN,
        event_type="realtime",
        resource="gpt-realtime",
        external_id="sess_C9CiUVUz",
        metadata={"media": "past the gateway"},
    ),
    Exchange(
        "call by WebRTC, past the gateway",
        "/v1/realtime/calls",
        form(("sdp", "v=0"), ("session", '{"type":"realtime","model":"gpt-realtime"}')),
        b"v=0\r\no=- 4227147428 1719357865 IN IP4 127.0.0.1\r\n",
        {},
        UNKNOWN,
        media_type="application/sdp",
        event_type="realtime",
        resource="gpt-realtime",
        metadata={"media": "past the gateway"},
    ),
]  # fmt: skip

each = pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.what)


def pieces(whole, seed):
    """A body as the network may cut it: nowhere, everywhere, or in some places."""
    random_ = random.Random(seed)
    cuts = [] if seed == 0 else sorted(random_.randrange(len(whole) + 1) for _ in range(min(len(whole), 3**seed)))
    return [whole[start:end] for start, end in itertools.pairwise([0, *cuts, len(whole)])]


def metered(exchange, seed=0, *, whole=True, told=None):
    """(the endpoint, what the client gets, the usage) of an exchange, cut in some places on both ways."""
    route = Routes(PROVIDERS).match("POST", f"/openai{exchange.path}")
    assert route.listed
    endpoint = route.endpoint
    if endpoint.watch is not None:
        watch = endpoint.watch()
        for piece in pieces(exchange.asked, seed):
            watch.feed(piece)
        prepared = watch.finish(whole=True)
    else:
        prepared = (endpoint.prepare or as_it_came)(exchange.asked)
    meter = endpoint.meter(answer_head(200, {"Content-Type": exchange.media_type}), prepared)
    told = exchange.told if told is None else told
    passed = b"".join(map(meter.feed, pieces(told, seed)))
    held, usage = meter.finish(whole=whole)
    return endpoint, passed + held, usage, meter


@each
@pytest.mark.parametrize("seed", range(6))
def test_each_endpoint_s_exchange_becomes_what_it_used(exchange, seed):
    if len(exchange.told) > 1 << 20 and seed > 1:
        seed = 1
    endpoint, passed, usage, _ = metered(exchange, seed)

    assert passed == exchange.told
    assert usage.quantities == exchange.quantities
    assert usage.completeness is exchange.completeness
    assert (usage.event_type or endpoint.event_type) == exchange.event_type
    assert (usage.resource, usage.external_id) == (exchange.resource, exchange.external_id)
    assert msgspec.to_builtins(usage.metadata).items() >= (exchange.metadata or {}).items()
    assert [(more.event_type, more.resource, more.quantities) for more in usage.further] == list(exchange.further)
    assert usage.unseen == exchange.unseen


@each
def test_an_answer_that_broke_off_before_it_told_anything_is_unknown_and_not_zero(exchange):
    _, _, usage, _ = metered(exchange, whole=False, told=exchange.told[: len(exchange.told) // 3])

    if exchange.quantities.keys() & {"characters", "requests", "containers", "file_searches"} and not (
        exchange.quantities.keys() & {"input_tokens"}
    ):
        assert usage.quantities == exchange.quantities, "what is billed by the call is known from the request"
    elif exchange.completeness is PENDING or "thread.run" in exchange.told.decode(errors="replace"):
        assert usage.completeness in (PENDING, UNKNOWN)
    elif exchange.event_type == "api_call":
        assert (usage.quantities, usage.completeness) == ({}, REPORTED)
    else:
        assert (usage.quantities, usage.completeness) == ({}, UNKNOWN)


@pytest.mark.parametrize("exchange", [one for one in EXCHANGES if one.media_type == SSE], ids=lambda one: one.what)
def test_the_usage_of_a_stream_is_known_before_a_client_can_conclude_success(exchange):
    """Guards the outcome's place: recorded after the bytes that say `completed`, it is lost with a gateway killed then."""
    *before, last = [event + b"\n\n" for event in exchange.told.split(b"\n\n")[:-1]]
    _, _, usage, meter = metered(exchange, told=exchange.told)
    assert meter.concluded

    end = next(i for i in range(len(before) + 1) if concluded_by(exchange, [*before, last][: i + 1]))
    _, _, known, _ = metered(exchange, told=b"".join([*before, last][: end + 1]))

    assert known == usage


def concluded_by(exchange, told):
    return metered(exchange, told=b"".join(told))[3].concluded


@each
async def test_each_endpoint_s_error_is_passed_on_and_bills_nothing(tmp_path, exchange):
    refused = b'{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"invalid_value"}}'
    failing = answers(answer(refused, b"Content-Type: application/json", status=b"400 Bad"))
    media_type = FORM if exchange.asked.startswith(b"--") else JSON
    async with provider(failing) as upstream, proxied(tmp_path, upstream) as made:
        got = await made.ask(request(f"/openai{exchange.path}", exchange.asked, f"Content-Type: {media_type}", key=OWN))

        assert (got.status, got.body) == (400, refused)
        assert upstream.seen.endswith(exchange.asked)
        assert (made.events, made.closed) == ([], ["status 400"])


def test_a_stream_that_never_ends_saying_so_keeps_no_more_than_a_few_of_its_ends():
    """Guards the memory: each end is an object, and a stream may hold millions."""
    exchange = next(one for one in EXCHANGES if one.what == "streamed edits of two pictures")

    _, _, usage, _ = metered(exchange, told=exchange.told * 100)

    assert usage.quantities["images"] == ENDS_MAX
