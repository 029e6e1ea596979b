"""Estimates, each beside the same count made by hand.

The tokens of every text in `PIECES` were counted with both tokenizers by themselves, and are here counted once more by an
implementation that is not the product's. What stands around the texts is added up in each test as the published rules say.
"""
# ruff: noqa: RUF001 - these letters are the languages' own

from __future__ import annotations

import base64
import gzip
import json
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.providers.api import Estimate, Exchanged
from gateway.providers.openai import estimates
from gateway.providers.openai.endpoints import ENDPOINTS
from gateway.providers.openai.tokenizers import tokens_of

PIECES = {
    "Hello!": (2, 2),
    "Hi there! How can I help?": (8, 8),
    "Tell me a joke.": (5, 5),
    "You are a helpful assistant.": (6, 6),
    "Answer as a ferryman would. " * 500: (3501, 3501),
    "Merhaba, nasılsın?": (8, 9),
    "こんにちは、元気ですか？": (7, 7),
    "Привет, как дела?": (6, 8),
    "مرحبا، كيف حالك؟": (7, 14),
    "What is the weather in Paris?": (7, 7),
    "get_weather:Get the weather for a location": (8, 8),
    "location:string:The city": (4, 4),
    "unit:string:The unit": (4, 4),
    "celsius": (2, 2),
    "fahrenheit": (2, 2),
    "get_time:Get the time": (5, 5),
    "get_weather": (2, 2),
    '{"location":"Paris"}': (5, 5),
    "18 degrees": (2, 2),
    "What is in this picture?": (6, 6),
    "Once upon a time": (4, 4),
    "<|endoftext|> not special": (9, 9),
    **dict.fromkeys(("system", "user", "assistant", "tool", "developer", "alice", "bob"), (1, 1)),
}
"""Texts, and how many tokens they have in o200k_base and in cl100k_base."""

HELLO = {"role": "user", "content": "Hello!"}
HELPFUL = {"role": "system", "content": "You are a helpful assistant."}
WEATHER = {"role": "user", "content": "What is the weather in Paris?"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather for a location.",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {"type": "string", "description": "The city"},
                    "unit": {"type": "string", "description": "The unit.", "enum": ["celsius", "fahrenheit"]},
                },
            },
        },
    },
    {"type": "function", "function": {"name": "get_time", "description": "Get the time"}},
]


def png(width: int, height: int) -> str:
    """The beginning of a picture, as an application sends it."""
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    return "data:image/png;base64," + base64.b64encode(head).decode()


def pictured(*images: tuple[str, str | None]) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": detail}} for url, detail in images]
    return [{"role": "user", "content": [{"type": "text", "text": "What is in this picture?"}, *parts]}]


def exchanged(request: object, answer: bytes = b"", **more: Any) -> Exchanged:
    fields = {"answer_bytes": len(answer), "coding": "", "streamed": True, "model": None} | more
    return Exchanged(request=json.dumps(request).encode(), answer=answer, **fields)


def chat(messages: list[Any], model: str = "gpt-4o", answer: bytes = b"", **fields: Any) -> Estimate:
    found = estimates.chat(exchanged({"model": model, "messages": messages, **fields}, answer))
    assert found is not None
    return found


def prompt(messages: list[Any], model: str = "gpt-4o", **fields: Any) -> int:
    return chat(messages, model, **fields).quantities["input_tokens"]


def events(*data: object) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in data)


def said(*texts: str, index: int = 0) -> bytes:
    return events(*({"choices": [{"index": index, "delta": {"content": text}}]} for text in texts))


def test_two_implementations_agree_on_the_tokens_of_each_piece():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import bpe_openai  # noqa: PLC0415 - it reads its files in a way that Python warns of

        others = [bpe_openai.get_encoding(name) for name in ("o200k_base", "cl100k_base")]

    for text, counted in PIECES.items():
        assert (tokens_of("o200k_base", text), tokens_of("cl100k_base", text)) == counted
        assert tuple(len(other.encode(text, disallowed_special=())) for other in others) == counted


# -- ten shapes of chat


def test_one_message():
    assert prompt([HELLO]) == (3 + 1 + 2) + 3  # Around it, its role, its text; the beginning of the answer.


def test_a_system_prompt_and_a_question():
    assert prompt([HELPFUL, {"role": "user", "content": "Tell me a joke."}]) == (3 + 1 + 6) + (3 + 1 + 5) + 3


def test_turns_with_names():
    messages = [
        HELLO | {"name": "alice"},
        {"role": "assistant", "content": "Hi there! How can I help?"},
        {"role": "user", "content": "Tell me a joke.", "name": "bob"},
    ]

    assert prompt(messages) == (3 + 1 + 2 + 1 + 1) + (3 + 1 + 8) + (3 + 1 + 5 + 1 + 1) + 3


def test_a_long_system_prompt():
    messages = [{"role": "system", "content": "Answer as a ferryman would. " * 500}, HELLO]

    assert prompt(messages) == (3 + 1 + 3501) + (3 + 1 + 2) + 3


@pytest.mark.parametrize(("model", "texts"), [("gpt-4o", 8 + 7 + 6 + 7), ("gpt-4-turbo", 9 + 7 + 8 + 14)])
def test_several_languages_by_each_tokenizer(model, texts):
    languages = ("Merhaba, nasılsın?", "こんにちは、元気ですか？", "Привет, как дела?", "مرحبا، كيف حالك؟")

    assert prompt([{"role": "user", "content": text} for text in languages], model) == 4 * (3 + 1) + texts + 3


@pytest.mark.parametrize(("model", "each"), [("gpt-4o-mini", 7), ("gpt-4", 10), ("gpt-3.5-turbo", 10)])
def test_tools(model, each):
    weather = each + 8 + 3 + (3 + 4) + (3 + 4 - 3 + (3 + 2) + (3 + 2))
    time = each + 5

    assert prompt([WEATHER], model, tools=TOOLS) == (3 + 1 + 7) + 3 + weather + time + 12
    assert prompt([WEATHER], model, functions=[tool["function"] for tool in TOOLS]) == prompt(
        [WEATHER], model, tools=TOOLS
    )


def test_a_turn_that_called_a_tool():
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"location":"Paris"}'},
    }
    messages = [
        WEATHER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"},
    ]

    assert prompt(messages) == (3 + 1 + 7) + (3 + 1 + 7 + 2 + 5) + (3 + 1 + 2) + 3


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gpt-4o", (1024, 1024), "high", 85 + 170 * 4),  # Made smaller to 768 x 768.
        ("gpt-4o", (2048, 4096), None, 85 + 170 * 6),  # To 1024 x 2048, then to 768 x 1536.
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4.1", (512, 512), "auto", 85 + 170),
        ("gpt-4o-mini", (1024, 1024), "high", 2833 + 5667 * 4),
        ("gpt-5", (1024, 1024), "high", 70 + 140 * 4 - 1),  # A model that reasons: one less at the end.
        ("o3", (1024, 1024), "low", 75 - 1),
    ],
)
def test_an_image_in_tiles(model, size, detail, tokens):
    assert prompt(pictured((png(*size), detail)), model) == (3 + 1 + 6 + tokens) + 3


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        ("gpt-4.1-mini", (1024, 1024), 1024 * 162 // 100),  # 32 x 32 patches.
        ("gpt-4.1-nano", (1800, 2400), 1452 * 246 // 100),  # Too many: 33 x 44 of them.
        ("o4-mini", (32, 33), 2 * 172 // 100 - 1),
    ],
)
def test_an_image_in_patches(model, size, tokens):
    assert prompt(pictured((png(*size), "high")), model) == (3 + 1 + 6 + tokens) + 3


def test_several_images_of_which_one_is_elsewhere_and_taken_to_be_of_a_size_that_is_said():
    images = (png(512, 512), "high"), ("https://images.example/1.png", "high"), ("https://images.example/2.png", "low")
    found = chat(pictured(*images))

    assert found.quantities["input_tokens"] == (3 + 1 + 6 + (85 + 170) + (85 + 170 * 4) + 85) + 3
    assert found.missing == ("image sizes",)


def test_a_model_that_reasons_has_one_token_less_and_what_it_hides_is_said_to_be_missing():
    found = chat([HELPFUL, HELLO], "gpt-5-2025-08-07", said("Hi there!", " How can I help?"))

    assert found.quantities == {"input_tokens": (3 + 1 + 6) + (3 + 1 + 2) + 2, "output_tokens": 8}
    assert found.missing == ("reasoning",)
    assert chat([HELLO], "gpt-5", reasoning_effort="none").missing == ()
    assert chat([HELLO], "gpt-5-chat-latest").missing == ()


# -- what came


def test_texts_of_a_stream_are_joined_before_they_are_counted():
    """Guards the joining: by themselves, `Hel` and `lo!` would be three tokens."""
    assert chat([HELLO], answer=said("Hel", "lo!")).quantities["output_tokens"] == 2


def test_each_choice_of_a_stream_is_a_text_of_its_own():
    answer = said("Hel") + said("Once upon", index=1) + said("lo!") + said(" a time", index=1)

    assert chat([HELLO], answer=answer, n=2).quantities["output_tokens"] == 2 + 4


def test_a_call_that_comes_in_pieces():
    pieces = (
        {"index": 0, "id": "call_1", "function": {"name": "get_weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"location"'}},
        {"index": 0, "function": {"arguments": ':"Paris"}'}},
    )
    answer = events(*({"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]} for piece in pieces))

    assert chat([WEATHER], answer=answer).quantities["output_tokens"] == 7 + 2 + 5


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_a_whole_answer_without_usage(coding):
    answer = json.dumps({"choices": [{"index": 0, "message": {"content": "Hi there! How can I help?"}}]}).encode()
    sent = gzip.compress(answer) if coding else answer
    found = estimates.chat(exchanged({"messages": [HELLO]}, sent, streamed=False, coding=coding))

    assert found.quantities == {"input_tokens": 9, "output_tokens": 8}


def test_of_an_answer_that_breaks_off_what_has_come_is_counted_and_the_rest_said_to_be_missing():
    answer = b'{"id":"chatcmpl-1","choices":[{"index":0,"message":{"role":"assistant","content":"Once upon\\u0020a time'
    found = estimates.chat(exchanged({"messages": [HELLO]}, answer, streamed=False))

    assert found.quantities == {"input_tokens": 9, "output_tokens": 4}
    assert found.missing == ("rest of the answer",)


def test_what_was_not_kept_of_a_long_answer_counts_like_what_was():
    answer = said(*["Once upon a time"] * 10)
    found = estimates.chat(exchanged({"messages": [HELLO]}, answer, answer_bytes=3 * len(answer)))

    assert found.quantities["output_tokens"] == 3 * tokens_of("o200k_base", "Once upon a time" * 10)
    assert found.missing == ("exact output",)


def test_a_response_is_counted_like_a_chat():
    request = {
        "model": "gpt-4o",
        "instructions": "You are a helpful assistant.",
        "input": [
            WEATHER,
            {"type": "function_call", "name": "get_weather", "arguments": '{"location":"Paris"}', "call_id": "call_1"},
            {"type": "function_call_output", "call_id": "call_1", "output": "18 degrees"},
        ],
        "tools": [{"type": "function", **TOOLS[1]["function"]}, {"type": "web_search"}],
    }
    answer = events(
        {"type": "response.created", "response": {"id": "resp_1", "model": "gpt-4o-2024-08-06"}},
        {"type": "response.output_item.done", "output_index": 0, "item": {"type": "web_search_call"}},
        {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "Hel"},
        {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "lo!"},
        {
            "type": "response.output_item.added",
            "output_index": 2,
            "item": {"type": "function_call", "name": "get_weather"},
        },
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": '{"location":"Paris"}'},
    )
    found = estimates.responses(exchanged(request, answer))

    assert found.quantities == {
        "input_tokens": (3 + 1 + 6) + (3 + 1 + 7) + (3 + 1 + 7 + 2 + 5) + (3 + 1 + 2) + 3 + (7 + 5 + 12),
        "output_tokens": 2 + (7 + 2 + 5),
        "web_searches": 1,
    }
    assert found.missing == ("hosted tools",)


def test_a_response_of_one_text_and_what_the_request_does_not_hold():
    request = {"model": "gpt-4o", "input": "Hello!", "previous_response_id": "resp_0"}
    found = estimates.responses(exchanged(request, b""))

    assert found.quantities == {"input_tokens": (3 + 1 + 2) + 3, "output_tokens": 0}
    assert found.missing == ("earlier turns",)


def test_a_response_in_the_background_goes_on_and_is_not_estimated():
    assert estimates.responses(exchanged({"model": "gpt-4o", "input": "Hi", "background": True})) is None


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ("Hello!", 2),
        (["Hello!", "Once upon a time"], 6),
        ([9906, 0], 2),
        ([[1, 2, 3], [4]], 4),
        ("<|endoftext|> not special", 9),
    ],
)
def test_embeddings_and_completions_of_texts_and_of_tokens(given, tokens):
    embedding = estimates.embeddings(exchanged({"model": "text-embedding-3-small", "input": given}))
    answer = events({"choices": [{"index": 0, "text": "Once upon"}]}, {"choices": [{"index": 0, "text": " a time"}]})
    completion = estimates.completions(exchanged({"model": "davinci-002", "prompt": given}, answer))

    assert embedding.quantities == {"input_tokens": tokens}
    assert completion.quantities == {"input_tokens": tokens, "output_tokens": 4}


# -- whose tokenizer


@pytest.mark.parametrize(
    ("model", "encoding", "fallback"),
    [
        ("gpt-4o-2024-08-06", "o200k_base", False),
        ("ft:gpt-4o-mini-2024-07-18:acme::id", "o200k_base", False),
        ("openai/gpt-4.1", "o200k_base", False),
        ("gpt-4-0613", "cl100k_base", False),
        ("gpt-35-turbo", "cl100k_base", False),
        ("gpt-6-luna", "o200k_base", True),
        ("llama-4-maverick", "o200k_base", True),
        ("", "o200k_base", True),
        (None, "o200k_base", True),
        (7, "o200k_base", True),
    ],
)
def test_the_tokenizer_is_the_models_or_said_to_be_a_fallback(model, encoding, fallback):
    found = chat([HELLO], model)

    assert (found.encoding, found.fallback) == (encoding, fallback)


def test_the_model_that_answered_decides_and_not_the_one_that_was_asked_for():
    found = estimates.chat(exchanged({"model": "mine", "messages": [HELLO]}, model="gpt-4-0613"))

    assert (found.encoding, found.fallback) == ("cl100k_base", False)


# -- anything at all


@pytest.mark.parametrize("request_body", [b"", b"{}", b"[]", b"{", b'{"messages":7}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_request_is_not_estimated(request_body):
    asked = Exchanged(request=request_body, answer=b"", answer_bytes=0, coding="", streamed=True, model=None)

    assert [endpoint.estimate(asked) for endpoint in ENDPOINTS if endpoint.estimate] == [None] * 4


def test_bytes_that_are_no_text_count_as_the_characters_that_stand_for_them():
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"\xff\xfe"}]}'
    asked = Exchanged(request=body, answer=b"", answer_bytes=0, coding="", streamed=True, model=None)

    assert estimates.chat(asked).quantities["input_tokens"] == 3 + 1 + tokens_of("o200k_base", "��") + 3


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "image_url", "url", "tool_calls", "function", "name", "index"]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(_JSON, _JSON, _JSON, st.booleans())
def test_nothing_that_is_sent_or_comes_raises_or_makes_a_negative_count(messages, tools, answer, streamed):
    request = {"messages": messages, "input": messages, "prompt": messages, "tools": tools}
    body = (
        events(answer, {"choices": answer}) if streamed else json.dumps({"choices": answer, "output": answer}).encode()
    )
    for endpoint in ENDPOINTS:
        if endpoint.estimate is not None:
            found = endpoint.estimate(exchanged(request, body, streamed=streamed))
            assert found is None or all(amount >= 0 for amount in found.quantities.values())
