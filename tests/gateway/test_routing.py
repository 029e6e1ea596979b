"""Where a request goes, decided on the very bytes that are forwarded."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import NoSuchProduct, NoSuchProvider
from gateway.providers import PROVIDERS, openai, sendgrid, twilio
from gateway.providers.twilio import paths
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


@pytest.mark.parametrize("object_id", ["-KJ5yLYULb7Rj8GKSx7u025ouWVlMgAi", "_KJ5yLYULb7Rj8GK-x7u025o", "a", "0"])
def test_an_id_may_begin_with_whatever_base64_begins_with(object_id):
    assert ROUTES.match("GET", f"/sendgrid/v3/mail/batch/{object_id}").endpoint.name == "mail.batch.get"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "/openai/v1/chat/completions"),
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


SID = "0a" * 16
ACCOUNT = f"/Accounts/AC{SID}"


@pytest.mark.parametrize("begin", ["/twilio/2010-04-01", "/twilio/api/2010-04-01"])
@pytest.mark.parametrize("suffix", ["", ".json", ".xml", ".csv"])
@pytest.mark.parametrize("query", ["", "?PageSize=5&DateSent%3E=2026-01-01", "?a.json"])
@pytest.mark.parametrize(
    ("method", "path", "endpoint"),
    [
        ("POST", f"{ACCOUNT}/Messages", "messages.create"),
        ("GET", f"{ACCOUNT}/Messages", "messages.list"),
        ("POST", f"{ACCOUNT}/Messages/SM{SID}", "messages.update"),
        ("DELETE", f"{ACCOUNT}/Messages/SM{SID}/Media/ME{SID}", "messages.media.delete"),
        ("POST", f"{ACCOUNT}/Calls", "calls.create"),
    ],
)
def test_an_endpoint_is_found_in_every_spelling_and_forwarded_in_the_one_that_came(
    begin, suffix, query, method, path, endpoint
):
    """Guards the one spelling: an endpoint that is listed for `.json` alone, a curl user's messages bill nothing."""
    route = ROUTES.match(method, f"{begin}{path}{suffix}{query}")

    assert (route.endpoint.name, route.listed) == (endpoint, True)
    assert route.product == "api"
    assert route.target == f"/2010-04-01{path}{suffix}{query}"
    assert route.path == f"/api/2010-04-01{path}"


@pytest.mark.parametrize("product", paths.PRODUCTS)
def test_each_product_has_a_host_of_its_own(product):
    route = ROUTES.match("POST", f"/twilio/{product}/v1/Services?a")

    assert (route.product, route.target, route.path) == (product, "/v1/Services?a", f"/{product}/v1/Services")


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_a_provider_with_one_host_has_a_product_without_a_name(provider):
    if provider is not twilio.PROVIDER:
        assert ROUTES.match("POST", f"/{provider.name}/v3/x").product == ""


@pytest.mark.parametrize(
    "rest", ["", "evil/v1", "API/2010-04-01/x", "api.evil.example/", "2010-04-02/Accounts", "..", "%61pi/x"]
)
def test_a_host_that_is_not_the_provider_s_is_refused(rest):
    with pytest.raises(NoSuchProduct, match="/twilio"):
        ROUTES.match("POST", f"/twilio/{rest}")


@pytest.mark.parametrize(
    "path",
    [f"{ACCOUNT}/Messages.JSON", f"{ACCOUNT}/Messages.json/", f"{ACCOUNT}/Messages.", f"{ACCOUNT}/messages", f"{ACCOUNT}/SMS/Messages", f"{ACCOUNT}/Messages%2Ejson"],
)  # fmt: skip
def test_what_twilio_may_take_for_an_endpoint_and_we_do_not_is_billed_by_its_answer(path):
    route = ROUTES.match("POST", f"/twilio/2010-04-01{path}")

    assert not route.listed
    assert route.endpoint.billable


@pytest.mark.parametrize(
    ("target", "provider"),
    [
        ("/twilio/evil/x", twilio.PROVIDER),
        ("/sendgrid", sendgrid.PROVIDER),
        ("/sendgrid?x", openai.PROVIDER),
        ("/azure/x", openai.PROVIDER),
        ("/", openai.PROVIDER),
        ("", openai.PROVIDER),
    ],
)
def test_what_goes_nowhere_is_refused_in_the_shape_of_the_provider_it_names(target, provider):
    assert ROUTES.nearest(target) is provider
