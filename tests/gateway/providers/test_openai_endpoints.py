"""Every endpoint of OpenAI is known, and nobody has to remember to add the next one."""

import ast
from pathlib import Path

import openai as sdk
import pytest

from gateway.providers import PROVIDERS, openai
from gateway.routing import Routes
from gateway.sharing import References

RESOURCES = Path(sdk.__file__).parent / "resources"

VERBS = {
    "_get": "GET",
    "_get_api_list": "GET",
    "_post": "POST",
    "_put": "PUT",
    "_patch": "PATCH",
    "_delete": "DELETE",
}


def calls():
    """(method, path, where) of every call in the SDK's resource tree."""
    for file in sorted(RESOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERBS):
                continue
            place, named = node.args[0], {keyword.arg: keyword.value for keyword in node.keywords}
            path = place.args[0] if isinstance(place, ast.Call) else place
            assert isinstance(path, ast.Constant), f"{file}:{node.lineno} forms its path in a way not known here"
            method = named["method"].value.upper() if "method" in named else VERBS[node.func.attr]
            yield method, f"/v1{path.value}".partition("?")[0], str(file.relative_to(RESOURCES))


CALLS = sorted(set(calls()))

PAID = {
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/responses/compact", "/v1/decisions"),
    *("/v1/embeddings", "/v1/moderations"),
    *("/v1/images/generations", "/v1/images/edits", "/v1/images/variations"),
    *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech"),
    *("/v1/videos", "/v1/videos/edits", "/v1/videos/extensions", "/v1/videos/{video_id}/remix"),
    *("/v1/threads/runs", "/v1/threads/{thread_id}/runs"),
    *("/v1/batches", "/v1/fine_tuning/jobs", "/v1/fine_tuning/alpha/graders/run", "/v1/evals/{eval_id}/runs"),
    *("/v1/containers", "/v1/vector_stores/{vector_store_id}/search"),
    *("/v1/realtime/calls", "/v1/realtime/calls/{call_id}/accept", "/v1/realtime/client_secrets"),
    *("/v1/realtime/translations/client_secrets", "/v1/realtime/sessions", "/v1/realtime/transcription_sessions"),
    *("/v1/live/sessions", "/v1/live/sessions/{session_id}/accept", "/v1/live/sessions/{session_id}/fork"),
    *("/v1/chatkit/sessions", "/v1/agents/sessions", "/v1/agents/sessions/{session_id}/events"),
    "/v1/agents/automations/{automation_id}/invocations",
}
"""What is POSTed to these costs something, now or later; nothing else does."""


def test_the_tree_was_found():
    assert len(CALLS) > 350
    assert ("POST", "/v1/chat/completions", "chat/completions/completions.py") in CALLS


@pytest.mark.parametrize(("method", "path"), sorted({(method, path) for method, path, _ in CALLS}))
def test_every_call_of_the_sdk_has_an_endpoint_of_its_own(method, path):
    """Guards against new endpoints: a release of the SDK that has one fails here by its name, until it is decided what it
    costs. (Sabotaged by taking `images.edit` out of the table.)"""
    route = Routes(PROVIDERS).match(method, "/openai" + path.replace("{", "").replace("}", ""))

    assert route.listed, f"{method} {path} is new: add it to gateway/providers/openai/endpoints.py"
    assert route.endpoint.path.count("{") == path.count("{"), "it is taken for another endpoint"
    charged = route.endpoint.billable and route.endpoint.event_type != "api_call"
    assert charged == (method == "POST" and path in PAID)


def test_every_path_that_costs_something_is_the_sdk_s():
    assert {path for method, path, _ in CALLS if method == "POST"} >= PAID


def test_no_endpoint_is_listed_that_the_sdk_does_not_have():
    called = {(method, "".join(part.partition("}")[2] for part in f"}}{path}".split("{"))) for method, path, _ in CALLS}
    listed = {
        (endpoint.method, "".join(part.partition("}")[2] for part in f"}}{endpoint.path}".split("{")))
        for endpoint in openai.PROVIDER.endpoints
        if endpoint.session is None
    }

    assert listed - called == set()


def test_a_voice_that_a_request_speaks_with_is_somebody_s():
    """Guards shared accounts: a voice made after a person is not for every tenant to speak with."""
    asked = b'{"model":"gpt-4o-mini-tts","voice":{"id":"voice_0123456789abcdef"},"input":"Hi"}'

    assert list(References(openai.PROVIDER).feed(asked)) == ["voice_0123456789abcdef"]


def test_what_lists_the_whole_account_says_so():
    """Guards shared accounts: what shows everybody's objects is closed there."""
    for endpoint in openai.PROVIDER.endpoints:
        if endpoint.method == "GET" and endpoint.name.endswith(".list") and "{" not in endpoint.path:
            assert endpoint.lists or endpoint.name.startswith(("admin.", "webhooks."))
