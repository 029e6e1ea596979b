"""An account that several tenants share does not leak."""

import itertools
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import NotOnSharedAccount
from gateway.providers import PROVIDERS, openai
from gateway.routing import Routes
from gateway.sharing import References, named_objects

ROUTES = Routes(PROVIDERS)
RESPONSE = "resp_68af4030592c81938ec0a5fbab4a3e9f05438e46b5f69a3b"
FILE = "file-BK7bzQj3FfZFXr7DbL6xJwfo"


def named(method, target):
    return named_objects(ROUTES.match(method, "/openai" + target), method)


def referred(*chunks):
    references = References(openai.PROVIDER)
    return {name for chunk in chunks for name in references.feed(chunk)}


def encodings(path):
    """The same path, spelt in ways that some server somewhere reads as it."""
    first, _, last = path.rpartition("/")
    yield path
    yield path + "/"
    yield path + "?a=b"
    yield path + "/x/y"
    yield path + "/."
    yield path + "/../" + path.rpartition("/")[2]
    yield path + "//"
    yield path + ";a=b"
    yield path + "%00"
    yield path + "%20"
    yield path + "%3Fa"
    yield path + "\\"
    yield "/" + path
    yield "/." + path
    yield "/x/.." + path
    yield f"{first}//{last}"
    yield f"{first}/./{last}"
    yield f"{first}%2F{last}"
    yield f"{first}%252f{last}"
    yield f"{first}/%{ord(last[0]):02x}{last[1:]}"
    yield f"{first}/%{ord(last[0]):02X}{last[1:]}"
    yield quote(path, safe="/").replace("o", "%6f")
    yield f"{first}/{last}%2e"


@pytest.mark.parametrize("prefix", openai.PROVIDER.administration)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "HEAD"])
def test_administration_is_refused_in_every_spelling_of_its_path(method, prefix):
    """Guards the plain form of paths: an escape or a dot segment that is let through finds a server that undoes it."""
    spellings = list(encodings(prefix))

    assert len(spellings) >= 20
    for spelling in spellings:
        with pytest.raises(NotOnSharedAccount):
            named(method, spelling)


def test_a_path_that_only_begins_like_administration_is_not_administration():
    assert named("POST", "/v1/projections") == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/files", "/v1/chat/completions", "/", "/v1/responses", "/v1/new/thing"]
)
def test_lists_and_what_nobody_knows_are_refused_for_every_method_but_post(method, path):
    with pytest.raises(NotOnSharedAccount, match="everybody"):
        named(method, path)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files", "/v1/new/thing", "/v1/images/generations"])
def test_what_makes_something_new_names_no_object(path):
    assert named("POST", path) == []


@pytest.mark.parametrize(
    ("method", "target", "objects"),
    [
        ("GET", f"/v1/responses/{RESPONSE}", [RESPONSE]),
        ("GET", f"/v1/responses/{RESPONSE}/input_items?limit=2", [RESPONSE]),
        ("POST", f"/v1/responses/{RESPONSE}/cancel", [RESPONSE]),
        ("GET", f"/v1/files/{FILE}/content", [FILE]),
        ("POST", f"/v1/vector_stores/vs_abcdefgh/files/{FILE}", ["vs_abcdefgh", FILE]),
        ("DELETE", f"/v1/files/{FILE}/", [FILE]),
    ],
)
def test_every_object_that_a_path_names_is_found(method, target, objects):
    assert named(method, target) == objects


@pytest.mark.parametrize("odd", ["gen-1", "x", "resp_1", "RESP_ABC", "123"])
def test_what_stands_for_the_id_of_a_listed_path_is_an_object_whatever_it_looks_like(odd):
    """Guards the places of the endpoint's path: found by their form alone, ids of another provider's making pass."""
    assert named("GET", f"/v1/responses/{odd}") == [odd]


@pytest.mark.parametrize(
    "value", [RESPONSE, FILE, "thread_abc123def456ghi789", "chatcmpl-CQGY2Nr5kPDxqJ3h4S7ZtUvW", "vs_0123456789abcdef"]
)
def test_an_object_in_a_body_is_found(value):
    assert referred(json.dumps({"a": [{"b": value}]}).encode()) == {value}


@given(st.sets(st.integers(0, len(RESPONSE) - 1)), st.sampled_from(("\\u%04x", "\\u%04X")))
def test_an_object_hidden_by_escapes_is_found(places, escape):
    """Guards _HIDDEN_CHARACTER: the letter r of `resp_` as `\\u0072` is the same JSON, and other bytes."""
    written = "".join(escape % ord(letter) if place in places else letter for place, letter in enumerate(RESPONSE))
    body = f'{{"previous_response_id":"{written}"}}'.encode()

    assert json.loads(body)["previous_response_id"] == RESPONSE
    assert referred(body) == {RESPONSE}


@given(st.lists(st.integers(0, 330), max_size=8), st.booleans())
def test_where_a_body_is_cut_does_not_matter(cuts, escaped):
    """Guards the tail that is looked at again: without it, an id across two pieces goes through."""
    written = "".join(f"\\u{ord(letter):04x}" for letter in RESPONSE) if escaped else RESPONSE
    body = b'{"a":"' + bytes(20).replace(b"\0", b"x") + b'","id":"' + written.encode() + b'"}'
    marks = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]

    assert referred(*(body[start:end] for start, end in itertools.pairwise(marks))) == {RESPONSE}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_an_object_is_found_in_every_encoding_that_json_may_come_in(encoding):
    """Guards the zeros that are taken out: Python's own json.loads reads UTF-16."""
    body = json.dumps({"id": RESPONSE}).encode(encoding)

    assert json.loads(body) == {"id": RESPONSE}
    assert referred(body) == {RESPONSE}


def test_an_object_that_is_a_part_of_a_form_is_found():
    form = b'--x\r\nContent-Disposition: form-data; name="file_id"\r\n\r\n' + FILE.encode() + b"\r\n--x--\r\n"

    assert referred(form) == {FILE}


@pytest.mark.parametrize(
    "value",
    [
        "run_python_code",
        "file_search_call",
        "call_center_agent",
        "step_by_step_solver",
        "thread_safe_counter",
        "video_generation_completed",
    ],
)
def test_the_names_that_applications_give_to_things_are_no_objects(value):
    """Guards the form of a reference: told by its prefix alone, a tool called `run_python_code` was a missing object."""
    assert referred(json.dumps({"name": value}).encode()) == set()


def test_a_conversation_whose_history_the_client_keeps_refers_to_no_object():
    """Guards the parts of a conversation: as objects, the second turn of every conversation with tools was refused."""
    turns = [
        {"type": "reasoning", "id": "rs_68af4030592c81938ec0a5fbab4a3e9f", "summary": []},
        {
            "type": "function_call",
            "id": "fc_68af4030592c81938ec0a5fbab4a3e9f",
            "call_id": "call_9sdfUYkj23hjkKJHkjh23kjh",
        },
        {"type": "message", "id": "msg_68af4030592c81938ec0a5fbab4a3e9f", "role": "assistant", "content": []},
        {"role": "tool", "tool_call_id": "call_9sdfUYkj23hjkKJHkjh23kjh", "content": "ok"},
    ]

    assert referred(json.dumps({"input": turns}).encode()) == set()


def test_an_object_that_is_only_spoken_of_is_not_referred_to():
    assert referred(json.dumps({"content": f'look at "{FILE}" and {RESPONSE}'}).encode()) == set()


def test_the_same_object_named_often_is_asked_for_once():
    body = json.dumps({"file_ids": [FILE] * 1000}).encode()

    assert list(References(openai.PROVIDER).feed(body)) == [FILE]
