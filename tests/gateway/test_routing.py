"""Where a request goes, decided on the very bytes that are forwarded."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import NoSuchProvider
from gateway.providers import PROVIDERS, openai
from gateway.routing import Routes

ROUTES = Routes(PROVIDERS)


@pytest.mark.parametrize(
    ("method", "target", "endpoint"),
    [
        ("POST", "/openai/v1/chat/completions", "chat.completions"),
        ("POST", "/openai/v1/chat/completions?beta=1", "chat.completions"),
        ("POST", "/openai/v1/embeddings", "embeddings"),
        ("GET", "/openai/v1/chat/completions/chatcmpl-abc", "chat.completions.retrieve"),
        ("POST", "/openai/v1/chat/completions/chatcmpl-abc", "chat.completions.update"),
        ("DELETE", "/openai/v1/responses/resp_abc", "responses.delete"),
        ("POST", "/openai/v1/responses/resp_abc/cancel", "responses.cancel"),
    ],
)
def test_a_listed_path_is_found_by_its_method_and_path(method, target, endpoint):
    route = ROUTES.match(method, target)

    assert (route.endpoint.name, route.listed) == (endpoint, True)
    assert route.provider is openai.PROVIDER
    assert "/openai" + route.target == target
    assert route.path == route.target.partition("?")[0]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/openai/v1/chat/completions"),
        ("HEAD", "/openai/v1/responses/resp_abc"),
        ("POST", "/openai/v1/chat/completions/"),
        ("POST", "/openai/v1/chat/Completions"),
        ("POST", "/openai/v1/chat%2Fcompletions"),
        ("POST", "/openai/v1//chat/completions"),
        ("POST", "/openai/v1/chat/completions;a"),
        ("POST", "/openai/v1/chat/completions/a/b"),
        ("POST", "/openai/v2/chat/completions"),
        ("POST", "/openai/"),
    ],
)
def test_every_other_path_of_a_provider_is_unlisted(method, target):
    route = ROUTES.match(method, target)

    assert (route.endpoint.name, route.listed) == ("unlisted", False)
    assert "/openai" + route.target == target


@pytest.mark.parametrize("segment", [".", "..", "...", "%2e", "%2E%2e", ".%2e", ";", "a;b", "a%2fb", ""])
def test_what_a_provider_could_read_as_another_path_is_not_taken_for_an_id(segment):
    """Guards _ID: as `[^/]+`, a POST to `/v1/chat/completions/.` was free, and a provider may serve a completion there."""
    route = ROUTES.match("POST", f"/openai/v1/chat/completions/{segment}")

    assert not route.listed
    assert route.endpoint.billable


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/openai",
        "/openai?x=/y",
        "/OpenAI/v1/models",
        "/azure/v1/models",
        "//openai/v1/models",
        "/%6fpenai/v1/models",
        "/../openai/v1/models",
        "http://api.openai.com/openai/v1/models",
        "*",
        "",
        "openai/v1/models",
    ],
)
def test_a_path_of_no_provider_is_refused_and_says_which_there_are(target):
    with pytest.raises(NoSuchProvider, match="/openai"):
        ROUTES.match("POST", target)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)))
def test_whatever_follows_the_provider_is_forwarded_byte_for_byte(rest):
    route = ROUTES.match("POST", "/openai/" + rest)

    assert route.target == "/" + rest


def test_the_names_of_two_providers_tell_their_paths_apart():
    routes = Routes((openai.PROVIDER, replace(openai.PROVIDER, name="other")))

    assert routes.match("POST", "/other/v1/embeddings").provider.name == "other"
    assert routes.match("POST", "/openai/v1/embeddings").provider.name == "openai"
