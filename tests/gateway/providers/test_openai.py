"""What OpenAI's requests ask for, and what its answers say was used."""

import gzip
import itertools
import json
import random
import re
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers import free, openai
from gateway.providers.learnt import Prepared
from gateway.providers.openai import answers, requests
from gateway.providers.openai import usage as usage_objects
from gateway.providers.openai.documents import Documented
from metering.event_types import DIMENSIONS
from metering.usage import Completeness
from tests.builders import answer_head

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"
PLAIN = Prepared(body=b"")
INJECTED = Prepared(body=b"", resource="gpt-4o", stream=True, usage_injected=True)

CHAT_USAGE = {
    "prompt_tokens": 117,
    "completion_tokens": 46,
    "total_tokens": 163,
    "prompt_tokens_details": {"cached_tokens": 44, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 16, "accepted_prediction_tokens": 2},
}
CHAT_QUANTITIES = {"input_tokens": 73, "input_tokens_cached": 44, "output_tokens": 30, "output_tokens_reasoning": 16}


def head(content_type=JSON, status=200, **headers):
    named = {"Content-Type": content_type} | {name.replace("_", "-"): value for name, value in headers.items()}
    return answer_head(status, named)


def metered(body, *, prepared=PLAIN, whole=True, make=answers.meter, cuts=(), **of_head):
    """What a client gets, and the usage."""
    meter = make(head(**of_head), prepared)
    marks = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    passed = b"".join(meter.feed(body[start:end]) for start, end in itertools.pairwise(marks))
    held, usage = meter.finish(whole=whole)
    return passed + held, usage


def answered(**fields):
    _, usage = metered(json.dumps(fields).encode())
    return usage


# ---------------------------------------------------------------------------------------------------------------------
# Usage objects


@pytest.mark.parametrize(
    ("usage", "quantities"),
    [
        (CHAT_USAGE, CHAT_QUANTITIES),
        ({"prompt_tokens": 8, "total_tokens": 8}, {"input_tokens": 8}),
        ({"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}, {"input_tokens": 3, "output_tokens": 0}),
        (
            {
                "input_tokens": 1000,
                "input_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 100},
                "output_tokens": 50,
                "output_tokens_details": {"reasoning_tokens": 50},
                "total_tokens": 1050,
            },
            {
                "input_tokens": 300,
                "input_tokens_cached": 600,
                "input_tokens_cache_write": 100,
                "output_tokens": 0,
                "output_tokens_reasoning": 50,
            },
        ),
        (
            {
                "prompt_tokens": 100,
                "prompt_tokens_details": {"audio_tokens": 60, "image_tokens": 10, "text_tokens": 30},
                "completion_tokens": 80,
                "completion_tokens_details": {"audio_tokens": 70, "text_tokens": 10},
            },
            {
                "input_tokens": 30,
                "input_tokens_audio": 60,
                "input_tokens_image": 10,
                "output_tokens": 10,
                "output_tokens_audio": 70,
            },
        ),
        (
            {
                "input_tokens": 132,
                "input_token_details": {
                    "text_tokens": 119,
                    "audio_tokens": 13,
                    "cached_tokens": 64,
                    "cached_tokens_details": {"text_tokens": 60, "audio_tokens": 4},
                },
                "output_tokens": 121,
                "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
            },
            {
                "input_tokens": 59,
                "input_tokens_cached": 60,
                "input_tokens_audio_cached": 4,
                "input_tokens_audio": 9,
                "output_tokens": 30,
                "output_tokens_audio": 91,
            },
        ),
        (
            {"input_tokens": 50, "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}, "output_tokens": 50},
            {"input_tokens": 10, "input_tokens_image": 40, "output_tokens": 50},
        ),
        (
            {"prompt_tokens": 10, "prompt_token_details": {"cached_tokens": 10}},
            {"input_tokens": 0, "input_tokens_cached": 10},
        ),
        ({"prompt_tokens": 10, "prompt_tokens_details": None}, {"input_tokens": 10}),
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": None}}, {"input_tokens": 10}),
        ({"type": "duration", "seconds": 12}, {"seconds": 12}),
        ({"type": "duration", "seconds": 12.2}, {"seconds": 13}),
        ({"type": "duration", "seconds": -1}, {}),
        ({"seconds": 12}, {}),
        ({}, {}),
    ],
)
def test_each_shape_of_usage_becomes_quantities_that_do_not_overlap(usage, quantities):
    assert usage_objects.quantities(usage) == quantities


def test_parts_that_exceed_the_whole_share_what_there_is():
    """Guards the sum: added up as they stand, these parts bill more tokens than the provider did."""
    found = usage_objects.quantities(
        {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 8}}
    )

    assert found == {"input_tokens": 0, "input_tokens_cached": 8, "input_tokens_audio": 2}


@pytest.mark.parametrize("bad", [None, -1, 1 << 60, 10**30, 1e308, 3.0, "12", True, [], {}, [1], {"a": 1}])
@pytest.mark.parametrize("place", ["prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens"])
def test_what_is_no_count_is_not_counted(place, bad):
    usage = json.loads(json.dumps(CHAT_USAGE))
    (usage["prompt_tokens_details"] if place == "cached_tokens" else usage)[place] = bad

    found = usage_objects.quantities(usage)

    assert all(type(amount) is int and amount >= 0 for amount in found.values())
    whole = [
        usage[name]
        for name in ("prompt_tokens", "completion_tokens")
        if type(usage[name]) is int and 0 <= usage[name] <= usage_objects.COUNT_MAX
    ]
    assert sum(found.values()) == sum(whole)


COUNTS = st.one_of(
    st.integers(0, 1000),
    st.none(),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(max_size=3),
    st.just({"audio_tokens": 5}),
)
DETAILS = (
    st.dictionaries(
        st.sampled_from(
            ["cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens", "reasoning_tokens", "text_tokens"]
        ),
        COUNTS,
    )
    | COUNTS
)
NAMES = [
    f"{name}{suffix}"
    for name in ("prompt", "completion", "input", "output")
    for suffix in ("_tokens", "_tokens_details", "_token_details")
]


@given(st.dictionaries(st.sampled_from(NAMES), COUNTS | DETAILS))
def test_no_usage_makes_it_raise_and_the_sum_is_the_provider_s(usage):
    found = usage_objects.quantities(usage)

    assert set(found) <= set(DIMENSIONS)
    assert all(type(amount) is int and amount >= 0 for amount in found.values())

    def whole(*names):
        counts = (usage.get(name) for name in names)
        return next((count for count in counts if type(count) is int and 0 <= count <= usage_objects.COUNT_MAX), 0)

    inputs = sum(amount for name, amount in found.items() if name.startswith("input"))
    outputs = sum(amount for name, amount in found.items() if name.startswith("output"))
    assert inputs == whole("prompt_tokens", "input_tokens")
    assert outputs == whole("completion_tokens", "output_tokens")


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-100, 100) | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=30), inner, max_size=3),
)


@given(TREES)
def test_no_text_of_a_provider_s_gets_into_the_metadata(tree):
    """Guards the names and the values that are kept: a message in the place of either would reach the ledger."""

    def checked(value):
        if isinstance(value, dict):
            for name, item in value.items():
                assert re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name)
                checked(item)
        else:
            assert isinstance(value, int | float)
            assert not isinstance(value, bool)

    kept = usage_objects.numbers_only({"usage": tree})

    checked(kept)


def test_the_numbers_stay_in_their_places():
    usage = CHAT_USAGE | {"cost": 0.5, "tier": "gold", "A text as a name": 1, "nested": {"a": {"b": {"c": {"d": 1}}}}}

    kept = msgspec.to_builtins(answered(usage=usage).metadata["usage"])

    assert kept == CHAT_USAGE | {"cost": 0.5, "nested": {"a": {"b": {}}}}


# ---------------------------------------------------------------------------------------------------------------------
# Requests


def asked(body):
    prepared = requests.ask_for_usage(body)
    return prepared, json.loads(prepared.body)


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ("", '{"include_usage":true}'),
        ('"stream_options":null,', '{"include_usage":true}'),
        ('"stream_options":{},', '{"include_usage":true}'),
        ('"stream_options" : { "include_usage" : false } ,', '{"include_usage":true}'),
        ('"stream_options":{"include_usage":null},', '{"include_usage":true}'),
        (
            '"stream_options":{"include_obfuscation":false,"x":1.50e+01},',
            '{"include_obfuscation":false,"x":1.50e+01,"include_usage":true}',
        ),
        ('"stream\\u005foptions":{"include_usage":false},', '{"include_usage":true}'),
    ],
)
def test_a_stream_that_does_not_ask_for_its_usage_is_made_to(options, sent):
    body = f'{{"model":"gpt-4o",{options}"stream":true}}'.encode()

    prepared, fields = asked(body)

    assert prepared.usage_injected
    assert (prepared.resource, prepared.stream) == ("gpt-4o", True)
    assert sent.encode() in prepared.body
    assert fields == {"model": "gpt-4o", "stream": True, "stream_options": json.loads(sent)}
    assert prepared.body.count(b"stream_options") == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-4o"}',
        b'{"model":"gpt-4o","stream":false}',
        b'{"model":"gpt-4o","stream":null}',
        b'{"model":"gpt-4o","stream":"true"}',
        b'{"stream":true,"stream_options":{"include_usage":true}}',
        b'{"stream":true,"stream_options":{"include_usage":0}}',
        b'{"stream":true,"stream_options":{"include_usage":"yes"}}',
        b'{"stream":true,"stream_options":true}',
        b'{"stream":true,"stream_options":[]}',
        b'{"stream":true,"stream_options":"include_usage"}',
        b'{"messages":[{"content":"\\"stream\\":true,\\"stream_options\\":null"}]}',
        b"",
        b"{",
        b"null",
        b"[]",
        b'[{"stream":true}]',
        b"stream=true",
        b'\xef\xbb\xbf{"stream":true}',
        b'{"stream":true}trailing',
        b'{"stream":true,"\\ud800":1,"stream_options":null}',
        b'{"stream":true,"a":' + b"[" * 100_000,
        b'{"stream":true,"stream_options":{"a":NaN}}',
    ],
)
def test_every_other_body_goes_as_it_came(body):
    prepared = requests.ask_for_usage(body)

    assert prepared.body == body
    assert not prepared.usage_injected


def test_a_key_of_that_name_in_a_message_is_left_alone():
    text = '"stream_options":{"include_usage":false}'
    body = json.dumps(
        {"messages": [{"content": text, "stream_options": {"include_usage": False}}], "stream": True}
    ).encode()

    prepared, fields = asked(body)

    assert fields["messages"] == json.loads(body)["messages"]
    assert fields["stream_options"] == {"include_usage": True}
    assert prepared.usage_injected


WRITTEN = st.sampled_from(
    [
        b"1.0",
        b"1e5",
        b"-0",
        b"100000000000000000000001",
        b'"\\u0041\\/"',
        b'"\xc3\xa9"',
        b"[ 1 , 2 ]",
        b'{ "b" : 1.50 }',
        b"null",
        b'"\\ud83d\\ude00"',
    ]
)


@given(st.lists(WRITTEN, max_size=6), st.sampled_from([b"", b'"stream_options":null,', b'"stream_options":{"z":1.0},']))
def test_every_other_value_stays_the_bytes_it_was(values, options):
    """Guards the values that are kept raw: decoded and encoded again, 1.0 and escapes come out as other bytes."""
    fields = b"".join(b'"k%d":%b,' % (number, value) for number, value in enumerate(values))
    body = b"{" + fields + options + b'"stream":true}'

    prepared = requests.ask_for_usage(body)

    assert prepared.usage_injected
    for number, value in enumerate(values):
        assert b'"k%d":%b' % (number, value) in prepared.body
    if b"z" in options:
        assert b'"z":1.0' in prepared.body


def test_where_nothing_stands_in_the_way_the_edit_is_an_insertion():
    body = b' { "stream" : true , "model":"x" }\n'

    prepared = requests.ask_for_usage(body)

    assert prepared.body.replace(b'"stream_options":{"include_usage":true},', b"") == body


@given(st.binary(max_size=300) | TREES.map(lambda tree: json.dumps(tree).encode()))
def test_no_body_makes_reading_it_raise(body):
    assert requests.read_model_request(body).body == body
    requests.ask_for_usage(body)


@pytest.mark.parametrize(
    ("model", "resource"),
    [("gpt-4o", "gpt-4o"), ("", None), (None, None), (5, None), (["a"], None), ("m" * 500, "m" * 200)],
)
def test_the_model_that_was_asked_for_is_a_name_or_nothing(model, resource):
    assert requests.read_model_request(json.dumps({"model": model}).encode()).resource == resource


# ---------------------------------------------------------------------------------------------------------------------
# JSON answers


def test_a_chat_completion_says_what_it_used():
    body = json.dumps(
        {
            "id": "chatcmpl-1",
            "model": "gpt-4o-2024-08-06",
            "service_tier": "default",
            "choices": [{}],
            "usage": CHAT_USAGE,
        }
    ).encode()

    passed, usage = metered(body, prepared=Prepared(body=b"", resource="gpt-4o"))

    assert passed == body
    assert usage.quantities == CHAT_QUANTITIES
    assert usage.completeness is Completeness.REPORTED
    assert (usage.resource, usage.external_id) == ("gpt-4o-2024-08-06", "chatcmpl-1")
    assert msgspec.to_builtins(usage.metadata) == {"model": "gpt-4o", "service_tier": "default", "usage": CHAT_USAGE}
    assert usage.event_type is None


def test_embeddings_have_no_id_and_a_usage():
    usage = answered(
        object="list",
        data=[{"embedding": [0.1]}],
        model="text-embedding-3-small",
        usage={"prompt_tokens": 8, "total_tokens": 8},
    )

    assert (usage.quantities, usage.external_id, usage.resource) == (
        {"input_tokens": 8},
        None,
        "text-embedding-3-small",
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"usage":null}',
        b'{"usage":{}}',
        b'{"usage":[]}',
        b'{"usage":"12"}',
        b'{"usage":{"prompt_tokens":"12"}}',
        b'{"usage":{"prompt_tokens":-1}}',
        b'{"usage":{"prompt_tokens":1e308}}',
        b'{"usage":{"prompt_tokens":9223372036854775808}}',
        b'{"usage":{"prompt_tokens":12}',
        b'{"usage":{"prompt_tokens":12},"model":"\xff"}',
        b'{"usage":{"prompt_tokens":1e999}}',
        b'{"type":{},"status":[],"id":{},"model":1}',
        b"[" * 100_000,
    ],
)
def test_an_answer_without_a_usage_that_makes_sense_is_unknown(body):
    """Guards `absent is not zero`."""
    passed, usage = metered(body, prepared=Prepared(body=b"", resource="gpt-4o"))

    assert passed == body
    assert (usage.completeness, usage.quantities, usage.resource) == (Completeness.UNKNOWN, {}, "gpt-4o")


def test_of_a_usage_that_is_there_twice_the_last_one_counts():
    _, usage = metered(b'{"usage":{"prompt_tokens":1},"usage":{"prompt_tokens":2}}')

    assert usage.quantities == {"input_tokens": 2}


def test_an_answer_that_broke_off_is_unknown_though_it_looks_whole():
    _, usage = metered(json.dumps({"usage": CHAT_USAGE}).encode(), whole=False)

    assert usage.completeness is Completeness.UNKNOWN


@pytest.mark.parametrize(
    ("fields", "completeness"),
    [
        ({"status": "queued", "background": True, "usage": None}, Completeness.PENDING),
        ({"status": "in_progress", "background": True, "usage": None}, Completeness.PENDING),
        ({"status": "queued"}, Completeness.PENDING),
        ({"status": "in_progress", "background": False}, Completeness.UNKNOWN),
        ({"status": "completed"}, Completeness.UNKNOWN),
        ({"status": "completed", "background": True, "usage": {"input_tokens": 1}}, Completeness.REPORTED),
    ],
)
def test_a_background_response_will_say_later(fields, completeness):
    usage = answered(id="resp_1", model="gpt-4o", **fields)

    assert (usage.completeness, usage.external_id) == (completeness, "resp_1")


@pytest.mark.parametrize(
    "large",
    [
        {"object": "list", "data": [{"embedding": "x" * (5 << 20)}], "model": "m", "usage": CHAT_USAGE},
        {
            "id": "chatcmpl-1",
            "model": "m",
            "choices": [{"message": {"content": '{"usage": {"prompt_tokens": 9}} "id": "no"' + "x" * (5 << 20)}}],
            "usage": CHAT_USAGE,
        },
        {
            "id": "resp_1",
            "model": "m",
            "output": ["x" * (13 << 20)],
            "usage": CHAT_USAGE,
            "user": None,
            "metadata": {"a": "b"},
        },
        {
            "id": "resp_1",
            "model": "m",
            "output": ["x" * (5 << 20)],
            "usage": CHAT_USAGE,
            "metadata": {"usage": '{"prompt_tokens": 1}', "model": "no"},
        },
        {
            "id": "batch_1",
            "model": "m",
            "items": [{"id": "no", "model": "no", "usage": {"prompt_tokens": 1}}],
            "data": "x" * (5 << 20),
            "usage": CHAT_USAGE,
        },
    ],
)
@pytest.mark.parametrize("chunk", [16 << 10, 1 << 20, 64 << 20])
def test_a_large_answer_is_metered_from_its_ends(large, chunk):
    body = json.dumps(large).encode()

    passed, usage = metered(body, cuts=range(chunk, len(body), chunk))

    assert passed == body
    assert usage.quantities == CHAT_QUANTITIES
    assert (usage.resource, usage.external_id) == ("m", large.get("id"))
    assert msgspec.to_builtins(usage.metadata["usage"]) == CHAT_USAGE


def test_a_large_answer_without_end_costs_no_more_than_its_bound():
    """Guards BODY_BYTES_MAX: without it, a gigabyte of answer is a gigabyte of memory."""
    meter = answers.meter(head(), PLAIN)
    longest = 0

    for _ in range(400):
        meter.feed(bytes(64 << 10))
        longest = max(longest, sum(map(len, meter._chunks)))

    assert longest <= answers.BODY_BYTES_MAX
    assert meter.finish(whole=True)[1].completeness is Completeness.UNKNOWN


def test_a_large_answer_of_nothing_but_beginnings_is_read_in_a_moment():
    """Guards the pattern for usage objects: one that backtracks reads this for minutes."""
    body = b'"usage":{"a":{"b":' * 250_000

    passed, usage = metered(body, cuts=range(1 << 20, len(body), 1 << 20))

    assert passed == body
    assert usage.completeness is Completeness.UNKNOWN


# ---------------------------------------------------------------------------------------------------------------------
# Streams


def events(*data, end=b"\n"):
    return b"".join(
        b"data: " + (item if isinstance(item, bytes) else json.dumps(item).encode()) + end + end for item in data
    )


def chat_events(*, usage=True, end=b"\n", done=True):
    """A streamed chat completion: what a client that asked for usage gets, and what one that did not."""
    common = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": "gpt-4o-2024-08-06",
        "service_tier": "default",
    }
    parts = [
        common | {"choices": [{"index": 0, "delta": {"content": text}}], "usage": None}
        for text in ("Hé", " [DONE]", '"usage":')
    ]
    last = common | {"choices": [], "usage": CHAT_USAGE}
    kept = events(*parts, end=end)
    done = events(b"[DONE]", end=end) if done else b""
    return kept + (events(last, end=end) if usage else b"") + done, kept + done


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("done", [True, False])
def test_the_usage_we_asked_for_is_taken_out_and_nothing_else_wherever_the_stream_is_cut(end, done):
    stream, without = chat_events(end=end, done=done)

    for place in range(len(stream) + 1):
        passed, usage = metered(stream, prepared=INJECTED, content_type=SSE, cuts=(place,))

        assert passed == without, place
        assert usage.quantities == CHAT_QUANTITIES, place
        assert (usage.resource, usage.external_id) == ("gpt-4o-2024-08-06", "chatcmpl-1")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_the_usage_that_a_client_asked_for_stays_wherever_the_stream_is_cut(end):
    stream, _ = chat_events(end=end)

    for place in range(len(stream) + 1):
        passed, usage = metered(stream, content_type=SSE, cuts=(place,))

        assert passed == stream, place
        assert usage.quantities == CHAT_QUANTITIES, place


@pytest.mark.parametrize("prepared", [PLAIN, INJECTED])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_one_byte_at_a_time_is_like_all_at_once(end, prepared):
    stream, without = chat_events(end=end)

    passed, usage = metered(stream, prepared=prepared, content_type=SSE, cuts=range(1, len(stream)))

    assert passed == (without if prepared.usage_injected else stream)
    assert usage.quantities == CHAT_QUANTITIES


@pytest.mark.parametrize("prepared", [PLAIN, INJECTED])
@pytest.mark.parametrize("cuts", [(), range(1, 3000)])
def test_what_is_unusual_in_a_stream_passes_as_it_came(prepared, cuts):
    usage = b"data: " + json.dumps({"id": "c", "choices": [], "usage": CHAT_USAGE}).encode() + b"\n\n"
    unusual = (
        b"\xef\xbb\xbf: comment\n\n:\n\nevent: ping\nid: 7\nretry: 100\n\n\n\n"
        b'data: {"id":"c",\ndata: "choices":[{"delta":{"content":"x"}}]}\n\ndata\n\ndata: not json\n\ndata: \xff\xfe\n\n'
    )

    passed, found = metered(unusual + usage + unusual + b"data: [DO", prepared=prepared, content_type=SSE, cuts=cuts)

    assert passed == unusual + (b"" if prepared.usage_injected else usage) + unusual + b"data: [DO"
    assert found.quantities == CHAT_QUANTITIES


def test_a_usage_spread_over_several_data_lines_is_read():
    stream = b'data: {"id":"c","choices":[],\ndata: "usage":{"prompt_tokens":1}}\n\n'

    assert metered(stream, prepared=INJECTED, content_type=SSE)[0] == b""
    assert metered(stream, content_type=SSE)[1].quantities == {"input_tokens": 1}


@pytest.mark.parametrize(
    "chunk",
    [
        {"id": "c", "choices": [{"delta": {}}], "usage": CHAT_USAGE},
        {"id": "c", "choices": [], "prompt_filter_results": []},
        {"id": "c", "choices": [], "usage": None},
        {"id": "c", "usage": CHAT_USAGE},
    ],
)
def test_only_the_chunk_that_holds_nothing_but_usage_is_taken_out(chunk):
    stream = events(chunk)

    assert metered(stream, prepared=INJECTED, content_type=SSE)[0] == stream


@pytest.mark.parametrize("prepared", [PLAIN, INJECTED])
def test_an_event_of_a_megabyte_passes_as_it_came(prepared):
    image = events({"type": "image_generation.partial_image", "b64_json": "x" * (2 << 20)})
    stream, without = chat_events()

    passed, usage = metered(image + stream, prepared=prepared, content_type=SSE, cuts=range(65536, len(image), 65536))

    assert passed == image + (without if prepared.usage_injected else stream)
    assert usage.quantities == CHAT_QUANTITIES


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_caused_is_taken_out_behind_large_events_wherever_they_are_cut(monkeypatch, end, seed):
    """Guards the bytes that have left before their event is over: sabotaged (`_left` not taken off), they come twice."""
    monkeypatch.setattr(answers, "HELD_BYTES_MAX", 600)
    stream, without = chat_events(end=end)
    large = events({"id": "c", "choices": [{"delta": {"content": "x" * 1500}}]}, end=end)
    rng = random.Random(seed)
    body = large + stream[: -len(events(b"[DONE]", end=end))] + large + stream

    for _ in range(50):
        cuts = [rng.randrange(len(body)) for _ in range(rng.randrange(1, 40))]
        passed, usage = metered(body, prepared=INJECTED, content_type=SSE, cuts=cuts)

        assert passed == large + without[: -len(events(b"[DONE]", end=end))] + large + without
        assert usage.quantities == CHAT_QUANTITIES


@pytest.mark.parametrize("cut", [601, 900, 1500])
def test_a_large_event_is_not_held_back_until_it_is_over(monkeypatch, cut):
    monkeypatch.setattr(answers, "HELD_BYTES_MAX", 600)
    large = events({"id": "c", "choices": [{"delta": {"content": "x" * 1500}}]})
    meter = answers.meter(head(content_type=SSE), INJECTED)

    assert meter.feed(large[:cut]) == large[:cut]
    assert meter.feed(large[cut : cut + 1]) == large[cut : cut + 1]
    assert meter.finish(whole=False)[0] == b""


def test_a_chunk_larger_than_all_bounds_loses_no_byte():
    stream = b"data: " + b"x" * (17 << 20) + b"\n\n"

    passed, _ = metered(stream, prepared=INJECTED, content_type=SSE)

    assert passed == stream


def test_a_stream_concludes_with_the_bytes_from_which_a_client_does():
    stream, _ = chat_events()
    # The text of the answer says so, too.
    mark = stream.rindex(b"[DONE]") + len(b"[DONE]")
    for place in range(len(stream) + 1):
        meter = answers.meter(head(SSE), PLAIN)
        meter.feed(stream[:place])

        assert meter.concluded is (place >= mark), place


@pytest.mark.parametrize("prepared", [PLAIN, INJECTED])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_no_byte_from_which_a_client_concludes_is_passed_before_the_meter_says_so(end, prepared):
    """Guards the conclusion inside an event that is not over: some clients act on the line, not on the blank one."""
    stream, _ = chat_events(end=end)
    meter = answers.meter(head(SSE), prepared)
    passed = b""

    for byte in stream:
        passed += meter.feed(bytes((byte,)))
        if b"data: [DONE]" in passed:
            assert meter.concluded


@pytest.mark.parametrize(
    ("kind", "status"),
    [("response.completed", "completed"), ("response.incomplete", "incomplete"), ("response.failed", "failed")],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_responses_stream_ends_by_one_of_three_events(kind, status, end):
    response = {
        "id": "resp_1",
        "model": "gpt-4o-2024-08-06",
        "status": "in_progress",
        "background": False,
        "usage": None,
    }
    usage = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}
    begun = events(
        {"type": "response.created", "response": response},
        {"type": "response.output_text.delta", "delta": "response.completed"},
        end=end,
    )
    ended = events(
        {"type": kind, "response": response | {"status": status, "usage": usage, "output": ["x" * 1000]}}, end=end
    )
    meter = answers.meter(head(SSE), PLAIN)

    meter.feed(begun)
    before = meter.concluded
    meter.feed(ended[: -2 * len(end)])
    early = meter.concluded
    meter.feed(ended[-2 * len(end) : -len(end)])
    concluded = meter.concluded
    _, found = meter.finish(whole=True)

    assert (before, early, concluded) == (False, False, True)
    assert found.quantities == {"input_tokens": 9, "output_tokens": 4}
    assert (found.external_id, found.completeness) == ("resp_1", Completeness.REPORTED)


def test_a_responses_stream_that_broke_off_is_unknown_and_not_pending():
    """Guards the meaning of `in_progress`: every stream begins with it, and only a background one goes on by itself."""
    response = {"id": "resp_1", "model": "m", "status": "in_progress", "background": False, "usage": None}
    stream = events(
        {"type": "response.created", "response": response}, {"type": "response.output_text.delta", "delta": "x"}
    )

    for whole in (True, False):
        assert metered(stream, content_type=SSE, whole=whole)[1].completeness is Completeness.UNKNOWN
    background = events({"type": "response.created", "response": response | {"background": True}})
    assert metered(background, content_type=SSE)[1].completeness is Completeness.PENDING


def test_a_stream_that_broke_off_keeps_the_usage_it_had_told():
    stream, _ = chat_events(done=False)

    _, usage = metered(stream, content_type=SSE, whole=False)

    assert usage.quantities == CHAT_QUANTITIES


@pytest.mark.parametrize("odd", [{}, [], None, 1, True, {"a": []}])
@pytest.mark.parametrize(
    "name", ["type", "id", "model", "status", "usage", "choices", "response", "background", "service_tier"]
)
def test_no_field_of_an_event_makes_it_raise(name, odd):
    """Guards the comparison with the concluding types: a list is in no set, and asking raises."""
    stream = events({name: odd}, {"response": {name: odd}}, {"id": "c", name: odd, "usage": {"prompt_tokens": 1}})

    for prepared in (PLAIN, INJECTED):
        assert metered(stream, prepared=prepared, content_type=SSE)[1].completeness in Completeness


@pytest.mark.parametrize("prepared", [PLAIN, INJECTED])
def test_a_stream_may_be_compressed(prepared):
    stream, _ = chat_events()

    passed, usage = metered(gzip.compress(stream), prepared=prepared, content_type=SSE, Content_Encoding="GZIP")

    assert passed == gzip.compress(stream)
    assert usage.quantities == CHAT_QUANTITIES


@pytest.mark.parametrize("coding", ["gzip, br", "compress", "identity", ""])
def test_a_coding_that_is_not_read_passes_as_it_came(coding):
    body = json.dumps({"usage": CHAT_USAGE}).encode()

    passed, _ = metered(body, Content_Encoding=coding)

    assert passed == body


# ---------------------------------------------------------------------------------------------------------------------
# Paths that no endpoint lists, and the rest of what a provider answers


def test_a_path_that_nobody_listed_is_metered_by_the_shape_of_its_answer():
    model, other = (
        metered(json.dumps(body).encode(), make=answers.by_shape)[1]
        for body in ({"id": "x", "usage": {"input_tokens": 5}}, {"id": "file-1", "object": "file"})
    )

    assert (model.event_type, model.quantities) == ("llm_call", {"input_tokens": 5})
    assert (other.event_type, other.quantities, other.external_id) == (None, {}, "file-1")


@pytest.mark.parametrize(("method", "billable"), [("POST", True), ("GET", False), ("DELETE", False), ("PATCH", False)])
def test_only_a_post_to_an_unlisted_path_can_cost(method, billable):
    assert openai.unlisted(method).billable is billable


def test_reading_something_back_never_bills():
    body = json.dumps({"id": "resp_1", "usage": CHAT_USAGE}).encode()

    passed, usage = metered(body, make=free.free)

    assert (passed, usage.quantities, usage.external_id) == (body, {}, None)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 415, 429, 500, 502, 503, 504])
def test_a_refusal_has_the_provider_s_shape(status):
    error = json.loads(openai.refusal("/v1/x", status, "some_code", 'A "sentence".').body)["error"]

    assert set(error) == {"message", "type", "param", "code"}
    assert (error["message"], error["code"]) == ('A "sentence".', "some_code")
    assert error["type"].endswith(("_error", "_quota"))


def test_a_missing_object_is_named_whatever_its_name_holds():
    assert json.loads(openai.missing("/v1/x", 'x"\\<>').body)["error"]["message"].startswith("No ")


def test_the_credential_goes_where_openai_looks_for_it():
    assert openai.authorize({"api_key": "sk-real"}) == ((b"Authorization", b"Bearer sk-real"),)


# ---------------------------------------------------------------------------------------------------------------------
# Tools that are billed by the call


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        ({"tool_usage": {"web_search": {"num_requests": 3}}}, {"web_searches": 3}),
        ({"output": [{"type": "web_search_call"}, {"type": "message"}]}, {"web_searches": 1}),
        (
            {"output": [{"type": "web_search_call"}], "tool_usage": {"web_search": {"num_requests": 0}}},
            {},  # What the provider counted stands before what we count.
        ),
        ({"output": [{"type": "file_search_call"}, {"type": "file_search_call"}]}, {"file_searches": 2}),
        ({"output": "nonsense", "tool_usage": 5}, {}),
    ],
)
def test_a_response_says_how_often_it_searched(told, counted):
    usage = answered(id="resp_1", usage={"input_tokens": 4, "output_tokens": 2}, **told)

    assert usage.quantities == {"input_tokens": 4, "output_tokens": 2} | counted


def test_a_streamed_response_says_so_too():
    response = {
        "id": "resp_1",
        "usage": {"input_tokens": 4, "output_tokens": 2},
        "tool_usage": {"web_search": {"num_requests": 2}},
    }
    event = json.dumps({"type": "response.completed", "response": response}).encode()

    _, usage = metered(b"data: " + event + b"\n\n", content_type="text/event-stream")

    assert usage.quantities["web_searches"] == 2


def test_a_large_answer_that_is_compressed_is_metered_like_one_that_is_not():
    """Guards the ratio: a bound on the plain bytes alone would lose the usage of an honest answer of many vectors."""
    vectors = random.Random(7).randbytes(15 << 20).hex()
    body = json.dumps({"data": vectors, "model": "m", "usage": {"prompt_tokens": 9, "total_tokens": 9}}).encode()

    _, usage = metered(gzip.compress(body, 1), cuts=range(0, 30 << 20, 1 << 18), Content_Encoding="gzip")

    assert usage.quantities == {"input_tokens": 9}


COUNTS = st.integers(0, 1000)
INPUT_DETAILS = st.fixed_dictionaries(
    {}, optional={f"{name}_tokens": COUNTS for name in ("cached", "cache_write", "audio", "image")}
)
OUTPUT_DETAILS = st.fixed_dictionaries(
    {}, optional={f"{name}_tokens": COUNTS for name in ("reasoning", "audio", "image", "accepted_prediction")}
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), COUNTS),
            **dict.fromkeys(("input_tokens", "output_tokens"), COUNTS),
            **dict.fromkeys(("prompt_tokens_details", "input_tokens_details"), INPUT_DETAILS),
            **dict.fromkeys(("completion_tokens_details", "output_tokens_details"), OUTPUT_DETAILS),
        },
    )
)
def test_a_usage_object_as_it_is_documented_counts_as_any_other_does(usage):
    """Guards the typed reading of what is common: sabotaged (audio left in the input), it counts otherwise."""
    found, kept = usage_objects.counted(msgspec.Raw(json.dumps(usage).encode()))

    assert isinstance(kept, Documented)
    assert found == usage_objects.quantities(usage)
    assert msgspec.to_builtins(kept) == usage


NUMBERS = COUNTS | st.sampled_from([-1, 0.5, 2.0, 1 << 53, (1 << 53) + 1, 1 << 70, None, "7", True, [], {}])
USAGE = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "queue_time"), NUMBERS),
        **dict.fromkeys(
            ("prompt_tokens_details", "completion_tokens_details"),
            NUMBERS
            | st.fixed_dictionaries(
                {},
                optional=dict.fromkeys(
                    ("cached_tokens", "audio_tokens", "reasoning_tokens", "image_tokens", "new_tokens"), NUMBERS
                ),
            ),
        ),
    },
)
MEMBERS = st.one_of(
    st.tuples(st.just("usage"), USAGE | NUMBERS),
    st.tuples(st.sampled_from(["id", "model", "service_tier"]), st.sampled_from(["a", "b", "", 3, None])),
    st.tuples(st.just("status"), st.sampled_from(["queued", "in_progress", "failed", "completed", None, 3])),
    st.tuples(st.just("background"), st.booleans()),
    st.tuples(st.just("choices"), st.just([{"message": {"content": 'is "usage": {"prompt_tokens": 5}'}}])),
    st.tuples(
        st.just("output"), st.sampled_from([[], [{"type": "web_search_call"}], [{"usage": {"input_tokens": 3}}]])
    ),
    st.tuples(st.just("tool_usage"), st.sampled_from([{}, {"web_search": {"num_requests": 2}}, {"image_gen": {}}])),
)


@given(st.lists(MEMBERS, max_size=8))
def test_an_answer_that_is_read_at_once_says_what_one_says_that_is_read_twice(members):
    """Guards the quick reading of what is common. A name may stand twice: the last one counts, as it does everywhere."""
    body = b"{%b}" % b",".join(json.dumps(name).encode() + b":" + json.dumps(value).encode() for name, value in members)
    twice = answers._Findings(Prepared(body=b"", resource="asked"))
    twice.see(answers._read_odd_answer(body))

    at_once = answers.read_usage(body, Prepared(body=b"", resource="asked"))

    assert as_kept(at_once) == as_kept(twice.result(whole=True))


def as_kept(usage):
    """A usage with its metadata as the ledger has them."""
    return replace(usage, metadata=msgspec.json.decode(msgspec.json.encode(usage.metadata)))


@pytest.mark.parametrize(("status", "failed"), [("failed", True), ("completed", False), (None, False)])
def test_a_response_that_failed_is_said_to_have_so_that_nobody_estimates_it(status, failed):
    response = {"id": "resp_1", "object": "response", "model": "gpt-4o", "status": status, "usage": None}
    event = json.dumps({"type": "response.failed", "response": response}).encode()

    _, streamed = metered(b"data: " + event + b"\n\n", content_type=SSE)

    assert (streamed.completeness, streamed.failed) == (Completeness.UNKNOWN, failed)
