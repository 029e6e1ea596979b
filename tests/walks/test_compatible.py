"""Further providers, with the official SDK: one like Groq and one like Azure, on a small server that speaks for both."""

from __future__ import annotations

import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest

from tests.walks.harness import Answered, installation

MESSAGES = [{"role": "user", "content": "Hello"}]
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
COSTING = USAGE | {"cost": 0.00014}
KEYS = {"groq": "gsk-of-the-platform", "azure": "azure-key-of-the-platform"}


class Upstream(BaseHTTPRequestHandler):
    """Answers every chat, and remembers who asked for what."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, dict[str, str], dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        if self.path.startswith("/closed"):
            self._send("application/json", {"error": {"message": "No key."}}, status=401)
            return
        answer = {"id": "chatcmpl-7", "created": 1, "model": "llama-3.3-70b-versatile"}
        usage = COSTING if self.path.startswith("/router") else USAGE
        if not body.get("stream"):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}
            self._send("application/json", answer | {"object": "chat.completion", "choices": [choice], "usage": usage})
            return
        delta = {"index": 0, "finish_reason": "stop", "delta": {"content": "Hi"}}
        events: list[dict[str, Any]] = [answer | {"object": "chat.completion.chunk", "choices": [delta]}]
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append(answer | {"object": "chat.completion.chunk", "choices": [], "usage": usage})
        self._send("text/event-stream", *events, stream=True)

    def _send(self, media_type: str, *documents: dict[str, Any], stream: bool = False, status: int = 200) -> None:
        texts = [json.dumps(document) for document in documents]
        sent = "".join(f"data: {text}\n\n" for text in [*texts, "[DONE]"]) if stream else texts[0]
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def asked():
    return []


@pytest.fixture(scope="module")
def url(asked):
    handler = type("Handler", (Upstream,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, url):
    settings = {
        "providers__groq__kind": "openai",
        "providers__groq__base_url": url,
        "providers__groq__api_key": KEYS["groq"],
        "providers__groq__list_prices": "groq",
        "providers__azure__kind": "azure-openai",
        "providers__azure__base_url": url,
        "providers__azure__api_key": KEYS["azure"],
        "providers__vllm__kind": "openai",
        "providers__vllm__base_url": url,
        "providers__vllm__stream_usage": "off",
        "providers__closed__kind": "openai",
        "providers__closed__base_url": url + "/closed",
        "providers__router__kind": "openai",
        "providers__router__base_url": url + "/router",
    }
    with installation(tmp_path_factory.mktemp("walk"), **settings) as running:
        yield running


def compatible(gateway, path, key):
    return openai.OpenAI(base_url=gateway.proxy_url + path, api_key=key, max_retries=0)


def test_the_sdk_talks_to_a_further_provider(gateway, asked):
    key = gateway.tenant("talks", plan="starter")
    client = compatible(gateway, "/groq/openai/v1", key)

    whole = client.chat.completions.create(model="llama", messages=MESSAGES)
    chunks = list(client.chat.completions.create(model="llama", messages=MESSAGES, stream=True))

    assert whole.choices[0].message.content == "Hi"
    assert whole.usage.total_tokens == 9
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["Hi"]
    (path, headers, _), (_, _, streamed) = asked[-2:]
    assert path == "/openai/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {KEYS['groq']}"
    assert streamed["stream_options"] == {"include_usage": True}
    for event in gateway.events_of("talks", 2):
        assert (event["source"], event["endpoint"], event["resource"]) == (
            "groq",
            "chat.completions",
            "llama-3.3-70b-versatile",
        )
        assert event["quantities"] == {"input_tokens": 7, "output_tokens": 2}
        # groq's list: 0.59 and 0.79 dollars a million tokens.
        assert event["cost"]["amount"] == "0.00000571"
        assert event["charge"]["amount"] == "0.000006852"


def test_azure_s_client_sends_a_gateway_key_where_azure_s_stands(gateway, asked):
    key = gateway.tenant("azure-talks")
    client = openai.AzureOpenAI(
        azure_endpoint=gateway.proxy_url + "/azure", api_key=key, api_version="2024-10-21", max_retries=0
    )

    whole = client.chat.completions.create(model="my-deployment", messages=MESSAGES)
    with_v1 = compatible(gateway, "/azure/openai/v1", key).chat.completions.create(model="m", messages=MESSAGES)

    assert whole.choices[0].message.content == with_v1.choices[0].message.content == "Hi"
    (path, headers, _), (path_of_v1, headers_of_v1, _) = asked[-2:]
    assert path == "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21"
    assert path_of_v1 == "/openai/v1/chat/completions"
    for sent in (headers, headers_of_v1):
        assert sent["api-key"] == KEYS["azure"]
        assert "authorization" not in sent
        assert key not in str(sent)
    for event in gateway.events_of("azure-talks", 2):
        assert (event["source"], event["endpoint"], event["priced"]) == ("azure", "chat.completions", False)
        assert event["resource"] == "llama-3.3-70b-versatile"


def test_a_refusal_is_one_that_the_sdk_knows(gateway):
    with pytest.raises(openai.AuthenticationError) as refused:
        compatible(gateway, "/groq/openai/v1", "tk_nobody_s").chat.completions.create(model="m", messages=MESSAGES)

    assert refused.value.response.headers["x-tollkeeper-error"]


def test_calls_go_without_a_key_where_there_is_none_and_streams_as_they_came(gateway, asked):
    key = gateway.tenant("keyless")

    chunks = list(
        compatible(gateway, "/vllm/v1", key).chat.completions.create(model="m", messages=MESSAGES, stream=True)
    )

    _, headers, body = asked[-1]
    assert len(chunks) == 1
    assert "authorization" not in headers
    assert "stream_options" not in body
    (event,) = gateway.events_of("keyless", 1)
    assert (event["source"], event["completeness"] != "reported") == ("vllm", True)


def test_a_provider_that_wants_a_key_where_there_is_none_is_told_apart_from_one_that_refuses_ours(gateway):
    with pytest.raises(openai.APIStatusError) as refused:
        compatible(gateway, "/closed/v1", gateway.tenant("closed")).chat.completions.create(
            model="m", messages=MESSAGES
        )

    assert refused.value.response.headers["x-tollkeeper-error"] == "no_credential"


def test_what_the_provider_says_it_cost_is_the_cost(gateway):
    key = gateway.tenant("routed", plan="starter")

    compatible(gateway, "/router/v1", key).chat.completions.create(model="some/model", messages=MESSAGES)

    (event,) = gateway.events_of("routed", 1)
    assert (event["cost"]["amount"], event["charge"]["amount"]) == ("0.00014", "0.000168")
    assert event["metadata"]["provider_cost"] == "0.00014"


def test_a_tenant_has_a_credential_and_a_scope_of_its_own_there(gateway, asked):
    gateway.tenant("own")
    made = gateway.ask("POST", "/v1/tenants/own/credentials", {"provider": "azure", "api_key": "azure-key-of-its-own"})
    narrow = gateway.key("own", scopes=["proxy:azure"])

    compatible(gateway, "/azure/openai/v1", narrow).chat.completions.create(model="m", messages=MESSAGES)
    with pytest.raises(openai.PermissionDeniedError):
        compatible(gateway, "/groq/openai/v1", narrow).chat.completions.create(model="m", messages=MESSAGES)
    with pytest.raises(Answered) as refused:
        gateway.ask("POST", "/v1/tenants/own/credentials", {"provider": "mistral", "api_key": "x"})

    assert made["provider"] == "azure"
    assert asked[-1][1]["api-key"] == "azure-key-of-its-own"
    assert refused.value.status == 400
    assert "vllm, closed, router" in json.dumps(refused.value.problem)


def test_an_application_that_asks_is_told_what_a_call_comes_to_and_its_sdk_does_not_mind(gateway):
    client = compatible(gateway, "/router/v1", gateway.tenant("asking", plan="starter"))
    asks = {"model": "some/model", "messages": MESSAGES, "extra_headers": {"X-Gateway-Estimate": "on"}}

    raw = client.chat.completions.with_raw_response.create(**asks)
    chunks = list(client.chat.completions.create(**asks, stream=True))

    assert raw.headers["x-tollkeeper-cost-estimate"] == "0.000168 USD"
    assert (raw.headers["x-tollkeeper-tokens-input"], raw.headers["x-tollkeeper-tokens-output"]) == ("7", "2")
    assert raw.parse().choices[0].message.content == "Hi"
    assert len(chunks) == 1
    assert {event["charge"]["amount"] for event in gateway.events_of("asking", 2)} == {"0.000168"}


def test_a_provider_that_is_added_is_there_after_a_reload(tmp_path, url):
    """Guards what is made of the settings besides routes: sabotaged (accounts keep what they were told at the start), no
    credential can be given for it."""
    config = tmp_path / "tollkeeper.toml"
    config.write_text("")
    with installation(tmp_path, config=str(config)) as gateway:
        key = gateway.tenant("late")
        client = compatible(gateway, "/late/v1", key)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="m", messages=MESSAGES)

        config.write_text(f'[providers.late]\nkind = "openai"\nbase_url = "{url}"\n')
        gateway.gateway.popen.send_signal(signal.SIGHUP)
        gateway.gateway.said("reloaded")
        gateway.ask("POST", "/v1/tenants/late/credentials", {"provider": "late", "api_key": "key-of-its-own"})
        answer = client.chat.completions.create(model="m", messages=MESSAGES)
        config.write_text(config.read_text() + 'list_prices = "groq"\n')
        gateway.gateway.popen.send_signal(signal.SIGHUP)
        refused = gateway.gateway.said("reload_refused")

        assert answer.choices[0].message.content == "Hi"
        assert gateway.events_of("late", 1)[0]["source"] == "late"
        assert refused["reasons"] == [
            "TOLLKEEPER_PROVIDERS__LATE__LIST_PRICES can not change in a gateway that runs; restart it."
        ]
