"""Pictures, recordings and speech of the simulated OpenAI. Pure.

A picture is one byte, a second of speech is 1,000 bytes of a recording and ten characters of a text. What the answers do
not say, and is billed all the same, the truth log has as `{"images": n}` or `{"characters": n}`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from gateway.simulator import prose
from gateway.simulator.api import SSE, Answer, Asked
from gateway.simulator.openai_asked import (
    IMAGE,
    SPEECH,
    TRANSCRIPTION,
    ApiError,
    inputs_of,
    integer,
    json_object,
    model_for,
    read_form,
    required,
    seed_of,
)
from gateway.simulator.openai_books import TRANSCRIPTIONS
from gateway.simulator.openai_usage import input_tokens, reported, said, with_usage

encode = msgspec.json.encode

IMAGE_TOKENS, IMAGES_MAX = 272, 10
AUDIO_BYTES_PER_S, TOKENS_PER_S, CHARACTERS_PER_S = 1_000, 10, 10
RECORDING = bytes(range(256))
SPOKEN_BYTES_MAX = 64 << 10


def images(asked: Asked) -> Answer:
    body = json_object(asked)
    model = model_for(body, IMAGE, unknown_status=400)
    number = integer(body, "n", 1, IMAGES_MAX) or 1
    prompt, size = prose.tokens(str(required(body, "prompt"))), body.get("size") or "1024x1024"
    if model.startswith("dall-e"):
        answer = {"created": 1, "data": [{"url": "https://images.example/1.png"} for _ in range(number)]}
        return Answer(body=encode(answer), model=model, usage={"images": number})
    drawn = number * IMAGE_TOKENS
    usage = reported(
        asked,
        lambda: {
            "input_tokens": prompt,
            "input_tokens_details": {"text_tokens": prompt, "image_tokens": 0},
            "output_tokens": drawn,
            "total_tokens": prompt + drawn,
        },
    )
    picture = base64.b64encode(b"P").decode()
    if not body.get("stream"):
        data = [{"b64_json": picture} for _ in range(number)]
        answer = {"created": 1, "data": data, "size": size, "quality": "high", "output_format": "png"}
        return Answer(body=encode(with_usage(answer, usage)), model=model, usage=said(usage))
    shown = {"b64_json": picture, "created_at": 1, "size": size, "quality": "high", "background": "opaque"}
    return _streamed(
        model,
        usage,
        {"type": "image_generation.partial_image", "partial_image_index": 0, "output_format": "png", **shown},
        with_usage({"type": "image_generation.completed", "output_format": "png", **shown}, usage),
    )


def counted(asked: Asked, kind: str) -> dict[str, int]:
    """What these endpoints bill whatever they say: pictures, characters, seconds, the tokens that are moderated."""
    if kind == TRANSCRIPTIONS:
        return {"seconds": -(-read_form(asked).size // AUDIO_BYTES_PER_S)}
    body = json_object(asked)
    match kind:
        case "images":
            return {"images": integer(body, "n", 1, IMAGES_MAX) or 1}
        case "audio_speeches":
            return {"characters": len(required(body, "input"))}
        case _:
            return {"input_tokens": sum(map(input_tokens, inputs_of(required(body, "input"))))}


def transcription(asked: Asked) -> Answer:
    form = read_form(asked)
    model = model_for(form.fields, TRANSCRIPTION)
    long_s = -(-form.size // AUDIO_BYTES_PER_S)
    heard = "".join(prose.words(seed_of(model, form.size), min(long_s, 50)))
    usage = reported(asked, lambda: _heard(model, long_s))
    match form.fields.get("response_format", "json"):
        case "text" | "srt" | "vtt":
            return Answer(body=heard.encode(), content_type="text/plain; charset=utf-8", model=model)
        case "verbose_json":
            exact_s = form.size / AUDIO_BYTES_PER_S
            answer = {"task": "transcribe", "language": "english", "duration": exact_s, "text": heard, "segments": []}
        case _:
            answer = {"text": heard}
    if form.fields.get("stream") != "true":
        return Answer(body=encode(with_usage(answer, usage)), model=model, usage=said(usage))
    return _streamed(
        model,
        usage,
        {"type": "transcript.text.delta", "delta": heard},
        with_usage({"type": "transcript.text.done", "text": heard}, usage),
    )


def _heard(model: str, long_s: int) -> dict[str, Any]:
    if model == "whisper-1":
        return {"type": "duration", "seconds": long_s}
    audio, text = long_s * TOKENS_PER_S, min(long_s, 50)
    details = {"text_tokens": 0, "audio_tokens": audio}
    return {
        "type": "tokens",
        "input_tokens": audio,
        "input_token_details": details,
        "output_tokens": text,
        "total_tokens": audio + text,
    }


def speech(asked: Asked) -> Answer:
    body = json_object(asked)
    model = model_for(body, SPEECH)
    text = required(body, "input")
    if not isinstance(text, str) or not isinstance(body.get("voice"), str | dict):
        raise ApiError("Invalid 'input' or 'voice'.", code="invalid_value")
    if body.get("stream_format") != "sse":
        spoken = (RECORDING * (1 + len(text)))[:SPOKEN_BYTES_MAX]
        billed = {"characters": len(text)} if model.startswith("tts-1") else None
        return Answer(body=spoken, content_type="audio/mpeg", model=model, usage=billed)
    prompt, spoken_tokens = prose.tokens(text), (1 + len(text) // CHARACTERS_PER_S) * TOKENS_PER_S
    usage = reported(
        asked,
        lambda: {"input_tokens": prompt, "output_tokens": spoken_tokens, "total_tokens": prompt + spoken_tokens},
    )
    audio = base64.b64encode(RECORDING).decode()
    return _streamed(
        model,
        usage,
        {"type": "speech.audio.delta", "audio": audio},
        with_usage({"type": "speech.audio.done"}, usage),
    )


def _streamed(model: str, usage: object, *events: Mapping[str, Any]) -> Answer:
    return Answer(
        content_type=SSE,
        events=_written(events),
        usage_in_last_event=True,
        model=model,
        usage=said(usage),
    )


def _written(events: tuple[Mapping[str, Any], ...]) -> Callable[[], Iterator[bytes]]:
    """Each under its name, as these endpoints send them, and no `[DONE]` after the last."""
    return lambda: (b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encode(event)) for event in events)
