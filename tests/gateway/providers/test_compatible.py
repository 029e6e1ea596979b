"""Further providers: where their paths lead, which key is whose, and what is left alone."""

import re

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.providers import Kind, compatible
from gateway.providers.openai.endpoints import ENDPOINTS
from gateway.routing import Routes

GROQ = compatible("groq", Kind.OPENAI, asks_for_usage=True)
AZURE = compatible("azure", Kind.AZURE_OPENAI, asks_for_usage=True)
ROUTES = Routes([GROQ, AZURE])
STREAMED = b'{"model":"m","stream":true,"messages":[]}'


@pytest.mark.parametrize(
    "base",
    [
        "/groq/v1",
        "/groq/openai/v1",
        "/groq/api/v1",
        "/groq/compatible-mode/v1",
        "/groq/v1beta/openai",
        "/groq/v1/openai",
        "/azure/openai/v1",
        "/azure/openai",
        "/azure/openai/deployments/my-gpt.4_o",
    ],
)
def test_every_endpoint_is_found_behind_any_base(base):
    for endpoint in ENDPOINTS:
        path = re.sub(r"\{\w+\}", "chatcmpl-abcdefgh", endpoint.path.removeprefix("/v1"))

        route = ROUTES.match(endpoint.method, f"{base}{path}?api-version=2024-10-21")

        assert route.endpoint.name == endpoint.name
        assert route.target == f"{base}{path}?api-version=2024-10-21".removeprefix("/groq").removeprefix("/azure")


@pytest.mark.parametrize(
    "target",
    [
        "/groq/file-abcdefgh12345678/v1/chat/completions",
        "/groq/a%2f../v1/chat/completions",
        "/groq/../v1/chat/completions",
        "/groq/a/b/c/d/v1/chat/completions",
        "/groq/v1x/chat/completions",
        "/azure/openai/deployments/../chat/completions",
        "/azure/openai/deployments/a%2Fb/chat/completions",
        "/azure/openai/deployments/a/b/chat/completions",
        "/azure/openai/deployments//chat/completions",
        "/azure/other/v1/chat/completions",
    ],
)
def test_nothing_is_cut_out_of_a_path_that_could_lead_elsewhere(target):
    """Guards the shared account, which is judged by what is left: sabotaged (`[^/]+`), an object's name goes unread."""
    assert not ROUTES.match("POST", target).listed


@pytest.mark.parametrize(
    "path", ["/groq/openai/v1/organization/users", "/groq/api/v1/keys", "/azure/openai/v1/projects"]
)
def test_a_base_hides_no_administration(path):
    route = ROUTES.match("POST", path)

    assert route.provider.administration.fullmatch(route.path)


def presented(provider, *headers):
    return provider.presented_key(CIMultiDictProxy(CIMultiDict(headers)))


def test_azure_s_key_stands_in_either_of_two_headers_and_only_one_is_believed():
    assert presented(AZURE, ("api-key", "tk_a_b")) == "tk_a_b"
    assert presented(AZURE, ("Authorization", "Bearer tk_a_b")) == "tk_a_b"
    assert presented(AZURE, ("api-key", "tk_a_b"), ("Authorization", "Bearer tk_a_b")) == "tk_a_b"
    assert presented(AZURE, ("api-key", "tk_a_b"), ("Authorization", "Bearer tk_c_d")) is None
    assert presented(AZURE, ("api-key", "tk_a_b"), ("api-key", "tk_c_d")) is None
    assert presented(AZURE) is None


def test_a_credential_goes_where_the_provider_looks_and_nowhere_if_there_is_none():
    assert GROQ.authorize({"api_key": "gsk"}) == ((b"Authorization", b"Bearer gsk"),)
    assert AZURE.authorize({"api_key": "abc"}) == ((b"api-key", b"abc"),)
    assert GROQ.authorize({}) == AZURE.authorize({}) == ()
    assert {b"api-key", b"authorization"} <= AZURE.credential_headers


def test_a_provider_that_refuses_to_be_asked_for_usage_is_not_asked():
    asking = ROUTES.match("POST", "/groq/v1/chat/completions").endpoint
    silent = Routes([compatible("groq", Kind.OPENAI, asks_for_usage=False)]).match("POST", "/groq/v1/chat/completions")

    assert b"include_usage" in asking.prepare(STREAMED).body
    prepared = silent.endpoint.prepare(STREAMED)
    assert (prepared.body, prepared.resource, prepared.usage_injected) == (STREAMED, "m", False)
