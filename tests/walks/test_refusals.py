"""Bad input: each gets the documented status and a sentence that says what to do, and nothing is sent to a provider."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import openai
import pytest

from tests.walks.harness import Answered, eventually, gateway_process

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def key(gateway):
    gateway.ask("POST", "/v1/tenants", {"tenant_id": "other"})
    return gateway.tenant("refused")


def call(gateway, headers, path="/openai/v1/chat/completions", method="POST", body=CHAT):
    """Status, headers and error of one call."""
    request = urllib.request.Request(
        gateway.proxy_url + path, data=json.dumps(body).encode() if body else None, headers=headers, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, json.loads(error.read())["error"]


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def refusals(gateway, key):
    """What is sent, and the status and code it gets."""
    reading = gateway.key("refused", scopes=["usage:read"])
    service = gateway.ask("POST", "/v1/service-keys", {"name": "platform", "scopes": ["proxy"]})["key"]
    revoked = gateway.ask("POST", "/v1/tenants/refused/keys", {"name": "gone"})
    gateway.ask("DELETE", f"/v1/tenants/refused/keys/{revoked['key_id']}")
    gateway.ask("POST", "/v1/tenants", {"tenant_id": "suspended"})
    suspended = gateway.key("suspended")
    gateway.ask("PATCH", "/v1/tenants/suspended", {"status": "suspended"})
    return {
        "no key": ({}, 401, "missing_key"),
        "a provider's key": (bearer("sk-proj-something-of-theirs"), 401, "invalid_key"),
        "a key that is not ours": (bearer("tk_0123456789ab_" + "x" * 43), 401, "invalid_key"),
        "a key with a wrong end": (bearer(key[:-1] + ("a" if key[-1] != "a" else "b")), 401, "invalid_key"),
        "a revoked key": (bearer(revoked["key"]), 401, "invalid_key"),
        "a key without the scope": (bearer(reading), 403, "scope_missing"),
        "a key and another tenant": (bearer(key) | {"X-Tenant-ID": "other"}, 403, "tenant_mismatch"),
        "a service key without a tenant": (bearer(service), 403, "tenant_required"),
        "a service key and no such tenant": (bearer(service) | {"X-Tenant-ID": "nobody"}, 403, "tenant_unknown"),
        "a suspended tenant": (bearer(suspended), 403, "tenant_suspended"),
        "a category with a space": (bearer(key) | {"X-Gateway-Category": "a b"}, 400, "invalid_header"),
        "tags that are none": (bearer(key) | {"X-Gateway-Tags": "blue"}, 400, "invalid_header"),
        "metering off without the scope": (bearer(key) | {"X-Gateway-Metering": "off"}, 403, "scope_missing"),
    }


def test_every_refusal_has_its_status_its_code_and_a_sentence_and_reaches_no_provider(gateway, key):
    before = len(gateway.truth())

    for what, (headers, status, code) in refusals(gateway, key).items():
        found_status, found_headers, error = call(gateway, headers)

        assert (found_status, found_headers["x-tollkeeper-error"]) == (status, code), what
        assert found_headers["x-should-retry"] == "false", what
        assert error["code"] == code
        assert error["message"].endswith("."), what
        assert key not in error["message"]
    assert len(gateway.truth()) == before


@pytest.mark.parametrize("path", ["/nobody/v1/chat/completions", "/", "/openai", "/metrics", "/v1/tenants"])
def test_a_path_of_no_provider_is_told_which_there_are(gateway, key, path):
    status, headers, error = call(gateway, bearer(key), path)

    assert (status, headers["x-tollkeeper-error"]) == (404, "unknown_provider")
    assert "/openai" in error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/openai/v1/organization/projects"),
        ("POST", "/openai/v1/organization/admin_api_keys"),
        ("POST", "/openai/v1/organizatio%6e/admin_api_keys"),
        ("POST", "/openai/v1/chat/../organization/admin_api_keys"),
        ("POST", "/openai//v1/organization/admin_api_keys"),
        ("POST", "/openai/v1/realtime/client_secrets"),
        ("POST", "/openai/v1/realtime/translations/client_secrets"),
        ("POST", "/openai/v1/realtime/calls"),
        ("POST", "/openai/v1/chatkit/sessions"),
        ("GET", "/openai/v1/files"),
        ("GET", "/openai/v1/chat/completions"),
        ("DELETE", "/openai/v1/models/mine"),
    ],
)
def test_on_the_shared_account_what_is_everybodys_is_refused(gateway, key, method, path):
    before = len(gateway.truth())

    status, headers, error = call(gateway, bearer(key), path, method, None)

    assert (status, headers["x-tollkeeper-error"]) == (403, "not_on_shared_account")
    assert "shared" in error["message"]
    assert len(gateway.truth()) == before


def test_what_another_tenant_made_on_the_shared_account_looks_missing(gateway, key):
    theirs = gateway.key("other")
    with openai.OpenAI(base_url=gateway.openai, api_key=theirs, max_retries=0) as other:
        made = other.responses.create(model="gpt-5", input="My secret")
    before = len(gateway.truth())

    with openai.OpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as client:
        for attempt in (
            lambda: client.responses.retrieve(made.id),
            lambda: client.responses.delete(made.id),
            lambda: client.responses.cancel(made.id),
            lambda: client.responses.input_items.list(made.id),
            lambda: client.responses.create(model="gpt-5", input="Go on", previous_response_id=made.id),
        ):
            with pytest.raises(openai.NotFoundError):
                attempt()
        with pytest.raises(openai.NotFoundError) as missing:
            client.responses.retrieve("resp_" + "0" * 48)
        with pytest.raises(openai.NotFoundError) as foreign:
            client.responses.retrieve(made.id)

    assert str(foreign.value).replace(made.id, "ID") == str(missing.value).replace("resp_" + "0" * 48, "ID")
    assert len(gateway.truth()) == before


def test_a_header_beyond_the_limit_is_refused_without_being_quoted(gateway, key):
    url = urlsplit(gateway.proxy_url)
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        long = "s3cret" * 10_000
        connection.sendall(
            f"GET /openai/v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {long}\r\n\r\n".encode()
        )
        received = connection.recv(65536)

    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"s3cret" not in received
    assert not any("s3cret" in line for line in gateway.gateway.lines)


def test_the_providers_own_answer_to_malformed_json_reaches_the_application(gateway, key):
    request = urllib.request.Request(
        gateway.openai + "/chat/completions", data=b'{"model": "gpt-4o", ', headers=bearer(key), method="POST"
    )

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)

    with refused.value as error:
        assert error.code == 400
        assert error.headers["x-tollkeeper-error"] is None
        assert json.loads(error.read())["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b'{"tenant_id": 5}', b'{"tenant_id": "a", "colour": "red"}'])
def test_a_malformed_request_to_the_control_api_is_a_problem_document(gateway, body):
    with pytest.raises(Answered) as refused:
        gateway.ask("POST", "/v1/tenants", body=body)

    assert refused.value.status in (400, 422)
    assert refused.value.problem["title"]
    assert refused.value.problem["detail"]


def test_wrong_settings_are_refused_all_together_before_anything_starts(tmp_path, gateway):
    process = gateway_process(
        tmp_path / "data",
        gateway.providers,
        providers__openai__base_url="ftp://example",
        prot__port="1",
        proxy__prot="1",
        durability="perhaps",
    )

    process.start()
    code = process.wait()
    said = "".join(process.lines)

    assert code != 0
    for name in ("TOLLKEEPER_PROT__PORT", "TOLLKEEPER_PROXY__PROT", "TOLLKEEPER_DURABILITY", "BASE_URL"):
        assert name in said
    assert "Traceback" not in said


def test_a_second_gateway_on_the_same_ledger_or_port_is_refused_with_a_sentence(gateway, tmp_path):
    same_ledger = gateway_process(gateway.data_dir, gateway.providers)
    same_port = gateway_process(tmp_path / "d", gateway.providers, proxy__port=gateway.proxy_url.rpartition(":")[2])

    for process, sentence in ((same_ledger, "another process uses"), (same_port, "TOLLKEEPER_PROXY__PORT")):
        process.start()
        code = process.wait()

        assert code != 0
        assert sentence in "".join(process.lines)
        assert "Traceback" not in "".join(process.lines)


def test_the_command_line_refuses_what_it_does_not_know_with_a_sentence():
    result = subprocess.run(
        [sys.executable, "-m", "gateway", "tenant", "creat"], capture_output=True, text=True, check=False, timeout=60
    )

    assert result.returncode == 2
    assert "creat" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_name_of_a_megabyte_is_forwarded_and_the_next_call_is_recorded_as_ever(gateway, key):
    with openai.OpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as client:
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="x" * 1_000_000, messages=[{"role": "user", "content": "Hi"}])
        answer = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])

    eventually(lambda: answer.id in {event["external_id"] for event in gateway.events("refused")}, "the next event")


def test_a_database_of_a_later_release_is_refused_with_a_sentence(tmp_path, gateway):
    process = gateway_process(tmp_path / "data", gateway.providers)
    process.start()
    process.said("serving")
    process.stop()
    with sqlite3.connect(tmp_path / "data" / "ledger.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()

    for command in (["serve"], ["db", "upgrade"]):
        process.command = [sys.executable, "-m", "gateway", *command]
        process.start()
        code = process.wait()
        said = "".join(process.lines)

        assert code == 1
        assert "9999" in said
        assert "Traceback" not in said
