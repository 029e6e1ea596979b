"""Clients that leave, providers that break off, a gateway that is told to stop: every call is still accounted for."""

from __future__ import annotations

import json
import socket
import threading
from urllib.parse import urlsplit

import openai
import pytest

from tests.walks.harness import eventually, installation


def raw_call(gateway, key, *, stream: bool, **controls: str) -> socket.socket:
    """Send one chat over a socket of our own and return the socket, unread."""
    url = urlsplit(gateway.openai)
    body = json.dumps({"model": "gpt-4o", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]})
    headers = "".join(f"x-simulator-{name.replace('_', '-')}: {value}\r\n" for name, value in controls.items())
    connection = socket.create_connection((url.hostname, url.port), timeout=30)
    connection.sendall(
        f"POST {url.path}/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"{headers}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    return connection


def read_all(connection: socket.socket) -> tuple[bytes, bool]:
    """Everything until the end, and whether the connection was cut instead of closed."""
    received = b""
    while True:
        try:
            chunk = connection.recv(65536)
        except ConnectionResetError:
            return received, True
        if not chunk:
            return received, False
        received += chunk


def test_a_client_that_hangs_up_in_the_middle_of_a_stream_is_still_metered(gateway):
    key = gateway.tenant("leaves-early")

    connection = raw_call(gateway, key, stream=True, words="40", chunk_ms="10")
    connection.recv(200)
    connection.close()

    (event,) = gateway.events_of("leaves-early", 1)
    truth = next(exchange for exchange in gateway.truth() if exchange.object_id == event["external_id"])
    assert event["completeness"] == "reported"
    assert event["quantities"]["output_tokens"] == truth.usage["completion_tokens"]
    assert truth.completed


def test_a_client_that_hangs_up_before_the_answer_is_still_metered(gateway):
    key = gateway.tenant("leaves-at-once")

    connection = raw_call(gateway, key, stream=False, latency_ms="300")
    connection.close()

    (event,) = gateway.events_of("leaves-at-once", 1)
    assert event["completeness"] == "reported"


@pytest.mark.parametrize("fault", ["cut-stream", "cut-body", "cut-chunked"])
def test_an_answer_that_the_provider_broke_off_is_a_break_to_the_client_and_an_estimate_in_the_ledger(gateway, fault):
    tenant = f"sees-{fault}"
    key = gateway.tenant(tenant)

    with raw_call(gateway, key, stream=fault == "cut-stream", fault=fault, words="50") as connection:
        received, _ = read_all(connection)

    head, _, body = received.partition(b"\r\n\r\n")
    assert b"[DONE]" not in body
    assert not body.endswith(b"0\r\n\r\n")
    if b"Content-Length" in head:
        assert len(body) < int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
    (event,) = gateway.events_of(tenant, 1)
    assert event["completeness"] == "estimated"
    assert event["quantities"]["input_tokens"] == (3 + 1 + 1) + 3
    # The provider says a word at a time, few of which are more than a token or two; half of them have come.
    assert 20 <= event["quantities"]["output_tokens"] <= 60
    assert event["metadata"]["estimated_with"] == "o200k_base"
    assert event["priced"] is True


def test_a_call_that_the_provider_never_answered_is_an_unknown_and_is_not_sent_twice(gateway):
    key = gateway.tenant("never-answered")
    before = len(gateway.truth())

    with raw_call(gateway, key, stream=False, fault="reset-before-head") as connection:
        received = connection.recv(65536)

    assert received.startswith(b"HTTP/1.1 502 ")
    assert b"x-should-retry: false" in received
    assert len(gateway.truth()) == before + 1
    (event,) = gateway.events_of("never-answered", 1)
    assert event["completeness"] == "unknown"


def test_with_cancel_a_client_that_leaves_ends_the_call_at_the_provider(tmp_path):
    with installation(tmp_path, on_disconnect="cancel") as gateway:
        key = gateway.tenant("acme")

        connection = raw_call(gateway, key, stream=True, words="4000", chunk_ms="5")
        received = b""
        while received.count(b'"content":') < 10:
            received += connection.recv(65536)
        connection.close()

        (event,) = gateway.events_of("acme", 1)
        (truth,) = eventually(lambda: [e for e in gateway.truth() if e.completed is not None], "the end of the answer")
        assert truth.completed is False
        assert event["completeness"] == "estimated"
        assert event["resource"] == truth.model
        # What came is a small part of what the provider would have said and billed to somebody who stays.
        assert 8 <= event["quantities"]["output_tokens"] < truth.usage["completion_tokens"] / 2


def test_what_a_model_hides_is_said_to_be_missing_from_an_estimate(gateway):
    key = gateway.tenant("thinks")
    with (
        openai.OpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as client,
        pytest.raises(openai.APIError),
        client.responses.create(
            model="gpt-5", input="Hi", stream=True, extra_headers={"x-simulator-fault": "cut-stream"}
        ) as stream,
    ):
        list(stream)

    (event,) = gateway.events_of("thinks", 1)
    assert event["completeness"] == "estimated"
    assert event["metadata"]["estimated_without"] == ["reasoning"]
    assert "output_tokens_reasoning" not in event["quantities"]


def test_an_answer_that_does_not_say_what_was_used_is_estimated_before_its_end_is_passed_on(gateway):
    """Guards upstreams that report no usage: nobody would ever be billed for them."""
    key = gateway.tenant("is-not-told")
    with openai.OpenAI(
        base_url=gateway.openai, api_key=key, max_retries=0, default_headers={"x-simulator-usage": "none"}
    ) as client:
        chat = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
        client.chat.completions.create(**chat)
        list(client.chat.completions.create(**chat, stream=True))
        client.responses.create(model="gpt-4o", input="Hi")
        list(client.responses.create(model="gpt-4o", input="Hi", stream=True))
        client.embeddings.create(model="text-embedding-3-small", input="hello world")
        client.completions.create(model="davinci-002", prompt="hello world")

    events = gateway.events_of("is-not-told", 6)
    assert [event["completeness"] for event in events] == ["estimated"] * 6
    assert [event["quantities"]["input_tokens"] for event in events] == [8, 8, 8, 8, 2, 2]
    assert all(event["quantities"]["output_tokens"] > 10 for event in events if event["endpoint"] != "embeddings")


def test_an_estimate_leaves_no_trace_of_what_was_said(gateway):
    key = gateway.tenant("is-discreet")
    url = urlsplit(gateway.openai)
    secret = "a-word-that-nobody-else-says"
    body = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": secret}]})
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        connection.sendall(
            f"POST {url.path}/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {key}\r\n"
            f"x-simulator-fault: cut-stream\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        read_all(connection)
    (event,) = gateway.events_of("is-discreet", 1)

    assert event["completeness"] == "estimated"
    assert secret not in json.dumps(event)
    assert not any(secret in line for line in gateway.gateway.lines)
    for path in gateway.data_dir.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_told_to_stop_it_lets_calls_end_and_loses_none(tmp_path):
    with installation(tmp_path) as gateway:
        key = gateway.tenant("acme")
        connection = raw_call(gateway, key, stream=True, words="30", chunk_ms="30")
        connection.recv(200)

        stopping = threading.Thread(target=gateway.gateway.stop)
        stopping.start()
        received, cut = read_all(connection)
        stopping.join()
        connection.close()
        gateway.start_gateway()

        assert not cut
        assert b"[DONE]" in received
        assert received.endswith(b"0\r\n\r\n")
        (event,) = gateway.events_of("acme", 1)
        assert event["completeness"] == "reported"


def test_a_stream_that_is_read_back_is_in_the_ledger_before_its_client_can_conclude_success(gateway):
    """Guards the order for calls that cost nothing: they have no intent that a kill would leave behind."""
    key = gateway.tenant("reads-back")
    with openai.OpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as client:
        made = client.responses.create(model="gpt-5", input="Hello", background=True)
    url = urlsplit(gateway.openai)
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        connection.sendall(
            f"GET {url.path}/responses/{made.id}?stream=true HTTP/1.1\r\nHost: {url.netloc}\r\n"
            f"Authorization: Bearer {key}\r\nx-simulator-chunk-ms: 200\r\n\r\n".encode()
        )
        connection.recv(100)

        _, read = gateway.events_of("reads-back", 2)

    assert read["endpoint"] == "responses.retrieve"
    assert read["charge"]["amount"] == "0"


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_no_method_that_echoes_or_tunnels_gets_through(gateway, method):
    key = gateway.tenant(f"uses-{method.lower()}")
    url = urlsplit(gateway.openai)
    before = len(gateway.truth())

    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        connection.sendall(
            f"{method} {url.path}/responses HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        )
        received = connection.recv(65536)

    assert received.startswith(b"HTTP/1.1 400 ")
    assert len(gateway.truth()) == before


def test_a_head_that_does_not_end_is_refused_before_it_fills_the_memory(gateway):
    url = urlsplit(gateway.openai)
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        try:
            while sent < 64 << 20:
                sent += connection.send(b"a: " + b"x" * 16_000 + b"\r\n")
        except OSError:
            pass
        assert sent < 32 << 20
