"""What OpenAI's SDK for Python does beyond one call and its answer: pages, retries, errors, raw answers, files of any size."""

from __future__ import annotations

import io
import json
import typing
from typing import Any

import pydantic
import pytest
from openai._base_client import BaseSyncPage
from openai.pagination import SyncPage

from tests.surface.calls import methods
from tests.surface.made_up import MadeUp
from tests.surface.python_sides import Side
from tests.surface.upstream import DONE, ODD, Answer
from tests.surface.ways import differences

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*serialized value.*:UserWarning")

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Grüße aus Köln 👋"}]}


@pytest.fixture(scope="module")
def sides(found, tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    made = [(way, Side(way, found.upstream, directory)) for way in found[:3]]
    yield made
    for _, side in made:
        side.client.close()


@pytest.fixture
def same(found, sides, request):
    """Make a call on every way, with these answers; return what came of it where nobody was in between."""

    def told(call: typing.Callable[[Any], Any], *answers: Answer, name: str = ""):
        label = f"{request.node.name} {name}".strip()
        found.upstream.answers[label.encode()] = list(answers)
        (_, direct), *through = sides
        expected = direct.told(label, call)
        for way, side in through:
            assert differences(expected, side.told(label, call), way.cut) == []
        return expected

    return told


def in_json(value: Any, **more: Any) -> Answer:
    return Answer(json.dumps(value).encode(), **more)


# ---------------------------------------------------------------------------------------------------------------------
# Pages


def _lists() -> dict[str, Any]:
    found = {}
    for method in methods():
        pages = isinstance(method.returns, type) and issubclass(method.returns, BaseSyncPage)
        if pages and not issubclass(method.returns, SyncPage):
            found[method.name] = method
    return found


LISTS = _lists()


@pytest.mark.parametrize("name", LISTS)
def test_three_pages_are_walked_as_they_are_directly(same, name, tmp_path):
    method = LISTS[name]
    made_up = MadeUp(name, tmp_path, everything=False)
    item = method.returns.__pydantic_generic_metadata__["args"][0]
    pages = []
    for number in range(3):
        items = [made_up.value(item, f"{number}.{place}") for place in range(2)]
        for place, each in enumerate(items):
            each["id"] = f"id {number}/{place} ü"
        last = items[-1]["id"]
        more = {"has_more": number < 2, "last_id": last, "next": last if number < 2 else None}
        pages.append(in_json({"object": "list", "data": items, **more}))

    told = same(lambda client: list(method.of(client)(**method.arguments(tmp_path, everything=False))), *pages)

    assert (len(told.seen), len(told.result)) == (3, 6)


def test_there_are_many_lists():
    assert len(LISTS) > 50


# ---------------------------------------------------------------------------------------------------------------------
# Retries and errors

SAYS_RETRY = (*ODD, (b"Retry-After-Ms", b"1"))


def failing(status: bytes, body: bytes, *, media_type: bytes = b"application/json", retry: bool = False) -> Answer:
    told = (b"X-Should-Retry", b"true" if retry else b"false")
    return Answer(body, media_type, status, (*SAYS_RETRY, told))


ERROR = json.dumps(
    {"error": {"message": "Nö: „so“ nicht", "type": "a_type", "param": "messages.[0]", "code": "a_code", "more": [1]}}
).encode()


@pytest.mark.parametrize(
    "status", [b"429 Too Many Requests", b"500 Internal Server Error", b"503 Busy", b"409 Conflict"]
)
def test_what_fails_twice_is_asked_for_a_third_time(same, status):
    failed = failing(status, ERROR, retry=True)

    told = same(lambda client: client.chat.completions.create(**CHAT), failed, failed, in_json({"id": "chatcmpl-1"}))

    counts = [value for seen in told.seen for name, value in seen.headers if name.lower() == b"x-stainless-retry-count"]
    assert counts == [b"0", b"1", b"2"]
    assert [heard.status for heard in told.heard] == [int(status[:3])] * 2 + [200]


STATUSES = (400, 401, 402, 403, 404, 408, 409, 422, 429, 500, 502, 503, 529)


@pytest.mark.parametrize("status", STATUSES)
def test_an_error_is_raised_as_it_is_directly_whatever_its_body_is(found, sides, status):
    # A 401 on the gateway's own credential is the gateway's to explain, and documented.
    (_, direct), own, brought = sides
    bodies = {
        "json": failing(b"%d Oh no" % status, ERROR),
        "text": failing(b"%d Oh no" % status, "<html>Grüße\r\n".encode(), media_type=b"text/html; charset=utf-8"),
        "empty": failing(b"%d Oh no" % status, b""),
        "broken": failing(b"%d Oh no" % status, b'{"error": {"message": "\xff'),
        "chunked": failing(b"%d Oh no" % status, ERROR)._replace(framing="chunked"),
    }
    for name, answer in bodies.items():
        for kind, call in {
            "call": lambda client: client.chat.completions.create(**CHAT),
            "stream": lambda client: client.responses.create(model="gpt-5", input="Hello", stream=True),
            "read": lambda client: client.files.content("file-0123456789abcdef"),
        }.items():
            label = f"{status} {name} {kind}"
            found.upstream.answers[label.encode()] = [answer]
            expected = direct.told(label, call)

            assert expected.raised
            assert expected.result[3]["status_code"] == status
            for way, side in (brought,) if status == 401 else (own, brought):
                assert differences(expected, side.told(label, call), way.cut) == []


def test_a_client_that_gives_up_waiting_raises_what_it_raises_directly(same):
    options = {"timeout": 0.2, "max_retries": 0}

    told = same(lambda client: client.get("/models", cast_to=object, options=options), in_json([], after_s=1.0))

    assert told.result[1] == "APITimeoutError"


# ---------------------------------------------------------------------------------------------------------------------
# Streams and what is made of them


def events(*told: Any, end: bytes = b"\n") -> Answer:
    lines = (b"data: " + json.dumps(each, ensure_ascii=False).encode() + end + end for each in told)
    return Answer(b"".join(lines) + DONE + end + end, b"text/event-stream", framing="chunked")


def piece(**delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": [choice]}


class City(pydantic.BaseModel):
    name: str
    people: int


SAID = City(name="Köln", people=1_000_000).model_dump_json()


def test_a_streamed_chat_is_put_together_as_it_is_directly(same):
    pieces = [piece(role="assistant"), *(piece(content=character) for character in SAID), piece()]

    def call(client):
        with client.chat.completions.stream(**CHAT, response_format=City) as stream:
            return [event.type for event in stream], stream.get_final_completion().choices[0].message.parsed.people

    assert same(call, events(*pieces)).result[1] == 1_000_000
    assert same(call, events(*pieces, end=b"\r\n"), name="crlf").result[1] == 1_000_000


def test_a_parsed_chat_is_what_it_is_directly(same):
    message = {"role": "assistant", "content": SAID}
    answer = {"id": "chatcmpl-1", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}

    told = same(lambda client: client.chat.completions.parse(**CHAT, response_format=City), in_json(answer))

    assert not told.raised


def test_a_streamed_response_is_put_together_as_it_is_directly(same):
    response = {"id": "resp_1", "object": "response", "status": "in_progress", "output": [], "model": "gpt-5"}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    whole = {**part, "text": SAID}
    told = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **place, "part": part},
        *({"type": "response.output_text.delta", **place, "delta": character, "logprobs": []} for character in SAID),
        {"type": "response.output_text.done", **place, "text": SAID, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": whole},
        {"type": "response.output_item.done", "output_index": 0, "item": {**item, "content": [whole]}},
        {
            "type": "response.completed",
            "response": {**response, "status": "completed", "output": [{**item, "content": [whole]}]},
        },
    ]
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(told)]

    def call(client):
        with client.responses.stream(model="gpt-5", input="Hello", text_format=City) as stream:
            return [event.type for event in stream], stream.get_final_response().output_parsed.people

    assert same(call, events(*numbered)).result[1] == 1_000_000


def test_an_error_in_a_stream_is_raised_as_it_is_directly(same):
    told = same(
        lambda client: client.chat.completions.create(**CHAT, stream=True),
        events(piece(content="a"), {"error": {"message": "The server had an error", "type": "server_error"}}),
    )

    assert told.raised


def test_an_answer_that_is_read_in_pieces_has_the_same_pieces(same):
    body = bytes(range(256)) * 4096

    def call(client):
        with client.files.with_streaming_response.content("file-0123456789abcdef") as answer:
            return answer.status_code, b"".join(answer.iter_bytes(1000))

    for framing in ("length", "chunked", "close"):
        told = same(call, Answer(body, b"application/octet-stream", framing=framing), name=framing)
        assert told.result == [200, body]


def test_lines_are_read_as_they_come(same):
    def call(client):
        with client.responses.with_streaming_response.create(model="gpt-5", input="Hello", stream=True) as answer:
            return list(answer.iter_lines())

    assert same(call, Answer(b": a\r\n\r\ndata: {\r\ndata: }\r\n\r\n", b"text/event-stream", framing="close")).result


# ---------------------------------------------------------------------------------------------------------------------
# Bodies

LARGE_BYTES = 9 << 20
"""More than the gateway holds."""


class Unseekable(io.RawIOBase):
    """A file whose length nobody knows before its end."""

    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._left)
        buffer[:size] = b"u" * size
        self._left -= size
        return size


FILES: dict[str, Any] = {
    "bytes": lambda: b"a few",
    "a large one": lambda: b"l" * LARGE_BYTES,
    "an empty one": lambda: ("empty.txt", b""),
    "one without a length": lambda: ("endless.bin", Unseekable(100_000)),
    "a large one without a length": lambda: ("endless.bin", Unseekable(LARGE_BYTES)),
    "one with a name to be quoted": lambda: ('ü "x"\\ 👋.txt', b"x", "text/plain; charset=utf-8", {"X-Of-Part": "7"}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_uploaded_byte_for_byte(same, name):
    told = same(lambda client: client.files.create(file=FILES[name](), purpose="batch"), in_json({"id": "file-1"}))

    assert not told.raised
    assert told.seen[0].chunked == ("without a length" in name)


@pytest.mark.parametrize("size", [1 << 16, LARGE_BYTES])
def test_a_long_text_is_sent_byte_for_byte(same, size):
    messages = [{"role": "user", "content": "ü" * (size // 2)}]

    told = same(lambda client: client.chat.completions.create(model="gpt-4o", messages=messages), in_json({"id": "c"}))

    assert len(told.seen[0].body) > size


def test_what_goes_past_the_resources_goes_as_it_is(same):
    options = {
        "headers": {"X-A": "b", "Content-Type": "application/json; charset=utf-8"},
        "params": {"a[]": ["1", "2"]},
    }
    for verb in ("post", "put", "patch", "delete"):

        def call(client, verb=verb):
            return getattr(client, verb)("/not/known%20yet/ü?x=1", cast_to=object, body={"a": 1.0}, options=options)

        told = same(call, in_json({"any": 1}), name=verb)
        assert told.seen[0].line.startswith(verb.upper().encode())
    told = same(lambda client: client.get("/a//b/;c=d/%2e%2E/?&&=", cast_to=object), in_json([]), name="get")
    assert not told.raised
