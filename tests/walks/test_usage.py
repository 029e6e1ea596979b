"""From a call to a question: priced exactly, seen by its tenant, found by every filter, shown by the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import urllib.request

import openai
import pytest

from tests.walks.harness import ADMIN_KEY, REPOSITORY, Answered, eventually, installation

EXAMPLE_USAGE = {
    "prompt_tokens": 117,
    "completion_tokens": 46,
    "total_tokens": 163,
    "prompt_tokens_details": {"cached_tokens": 44, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


def chat(gateway, key, **headers):
    with openai.OpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as client:
        return client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], extra_headers=headers
        )


def test_the_example_of_the_documentation_comes_out_with_these_very_amounts(gateway):
    key = gateway.tenant("example")

    answer = chat(gateway, key, **{"x-simulator-usage": json.dumps(EXAMPLE_USAGE), "X-Gateway-Category": "rag"})

    (event,) = gateway.events_of("example", 1)
    assert event["charge"] == {"amount": "0.000837", "currency": "USD", "credits": None}
    assert event["cost"] == {"amount": "0.0006975", "currency": "USD"}
    assert event["units"] == 163
    assert event["quantities"] == {"input_tokens": 73, "input_tokens_cached": 44, "output_tokens": 46}
    assert event["external_id"] == answer.id
    assert event["event_id"] == event["call_id"]
    expected = {
        "tenant_id": "example",
        "source": "openai",
        "event_type": "llm_call",
        "channel": "ai",
        "direction": None,
        "endpoint": "chat.completions",
        "resource": "gpt-4o-2024-08-06",
        "completeness": "reported",
        "priced": True,
        "kind": "usage",
        "corrects": None,
        "category": "rag",
        "tags": {},
        "description": "gpt-4o chat completion",
        "status": 200,
    }
    assert {name: event[name] for name in expected} == expected
    summary = gateway.ask("GET", "/v1/usage/summary?tenant_id=example&group_by=resource")
    assert summary["total"]["charge"]["amount"] == "0.000837"
    assert summary["total"]["quantities"] == event["quantities"]


def test_a_tenant_sees_its_own_usage_and_no_other(gateway):
    mine, theirs = gateway.tenant("mine"), gateway.tenant("theirs")
    chat(gateway, theirs)
    chat(gateway, mine)
    gateway.events_of("mine", 1)
    gateway.events_of("theirs", 1)

    seen = gateway.ask("GET", "/v1/usage/events", key=mine)["data"]

    assert [event["tenant_id"] for event in seen] == ["mine"]
    with pytest.raises(Answered) as refused:
        gateway.ask("GET", "/v1/usage/events?tenant_id=theirs", key=mine)
    assert refused.value.status == 403


def test_a_service_key_calls_on_the_account_of_the_tenant_that_it_names(gateway):
    gateway.tenant("spoken-for")
    service = gateway.ask("POST", "/v1/service-keys", {"name": "platform", "scopes": ["proxy"]})["key"]

    chat(gateway, service, **{"X-Tenant-ID": "spoken-for"})

    (event,) = gateway.events_of("spoken-for", 1)
    assert event["tenant_id"] == "spoken-for"


def test_an_application_that_brings_its_own_credential_is_metered_too(gateway):
    key = gateway.tenant("brings-its-own")

    with openai.OpenAI(base_url=gateway.openai, api_key="simulator-openai-key", max_retries=0) as client:
        client.models.list(extra_headers={"X-Gateway-Key": key})
        client.embeddings.create(model="text-embedding-3-small", input="x", extra_headers={"X-Gateway-Key": key})

    listed, embedded = gateway.events_of("brings-its-own", 2)
    assert (listed["event_type"], listed["charge"]["amount"]) == ("api_call", "0")
    assert embedded["event_type"] == "embedding"


def test_a_stored_credential_is_used_for_its_tenant_and_one_that_is_refused_is_not_quoted(gateway):
    key = gateway.tenant("own-credential")
    gateway.ask(
        "POST", "/v1/tenants/own-credential/credentials", {"provider": "openai", "api_key": "wrong-key-of-theirs"}
    )

    with pytest.raises(openai.AuthenticationError) as refused:
        chat(gateway, key)

    assert refused.value.response.headers["x-tollkeeper-error"] == "upstream_unauthorized"
    assert "wrong-key" not in str(refused.value)
    gateway.ask("DELETE", "/v1/tenants/own-credential/credentials/openai")
    eventually(lambda: answered(gateway, key), "the platform's credential in use again")
    assert len(gateway.events_of("own-credential", 1)) == 1


def answered(gateway, key):
    try:
        return chat(gateway, key)
    except openai.AuthenticationError:
        return None


def test_unmetered_calls_are_kept_without_charge_and_outside_all_totals(gateway):
    gateway.tenant("unmetered")
    key = gateway.key("unmetered", scopes=["proxy", "metering:off"])

    chat(gateway, key, **{"X-Gateway-Metering": "off"})

    (event,) = gateway.events_of("unmetered", 1)
    assert event["metered"] is False
    assert event["charge"]["amount"] == "0"
    assert gateway.ask("GET", "/v1/usage/summary?tenant_id=unmetered")["total"]["events"] == 0


def test_each_plan_charges_by_its_book(gateway):
    usage = {"x-simulator-usage": json.dumps(EXAMPLE_USAGE)}
    for tenant, plan in (("on-credits", "credits"), ("on-standard", None)):
        key = gateway.tenant(tenant, **({} if plan is None else {"plan": plan}))
        chat(gateway, key, **usage)

    (in_credits,) = gateway.events_of("on-credits", 1)
    (in_money,) = gateway.events_of("on-standard", 1)

    assert in_credits["charge"]["credits"] == 2
    assert in_credits["charge"]["amount"] is None
    assert in_money["charge"]["amount"] == "0.000837"


def test_a_model_without_a_price_is_unpriced_which_is_not_free(gateway):
    key = gateway.tenant("unpriced")

    with openai.OpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as client:
        client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "Hi"}],
            extra_headers={"x-simulator-usage": json.dumps({"prompt_tokens": 5, "completion_tokens": 5})},
        )
        client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="Hi")

    priced, unknown = gateway.events_of("unpriced", 2)
    assert priced["priced"] is True
    assert (unknown["endpoint"], unknown["completeness"], unknown["priced"]) == ("audio.speech", "unknown", False)
    assert unknown["charge"]["amount"] is None
    total = gateway.ask("GET", "/v1/usage/summary?tenant_id=unpriced")["total"]
    assert (total["events"], total["unknown_events"], total["unpriced_events"]) == (2, 1, 1)


def test_events_are_found_by_every_filter(gateway):
    key = gateway.tenant("filtered")
    chat(gateway, key, **{"X-Gateway-Category": "rag"})
    with openai.OpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as client:
        client.embeddings.create(model="text-embedding-3-small", input="x")
    chat_event, embedding = gateway.events_of("filtered", 2)

    def found(**filters):
        query = "&".join(f"{name}={value}" for name, value in filters.items())
        return [e["event_id"] for e in gateway.ask("GET", f"/v1/usage/events?tenant_id=filtered&{query}")["data"]]

    assert found(category="rag") == [chat_event["event_id"]]
    assert found(event_type="embedding") == [embedding["event_id"]]
    assert found(source="openai", channel="ai", key_id=chat_event["key_id"]) == [
        embedding["event_id"],
        chat_event["event_id"],
    ]
    assert found(channel="sms") == []
    assert found(**{"from": chat_event["occurred_at"], "to": embedding["occurred_at"]}) == [chat_event["event_id"]]


def test_no_line_of_the_log_holds_a_body_a_key_or_a_credential(gateway):
    key = gateway.tenant("quiet")
    with openai.OpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as client:
        client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "canary-prompt +15558675309 someone@example.com"}]
        )
    gateway.events_of("quiet", 1)

    said = "".join(gateway.gateway.lines)

    assert '"tenant_id":"quiet"' in said
    for canary in (
        key,
        key.rpartition("_")[2],
        "canary-prompt",
        "+15558675309",
        "someone@example.com",
        "simulator-openai-key",
    ):
        assert canary not in said
    line = next(line for line in gateway.calls_logged() if line.get("tenant_id") == "quiet")
    assert {"call_id", "key_id", "provider", "endpoint", "status", "upstream_ms", "gateway_ms", "usage"} <= set(line)


def test_nothing_at_rest_holds_a_body_a_key_or_a_credential(tmp_path):
    canaries = [b"canary-prompt", b"+15558675309", b"simulator-openai-key", ADMIN_KEY.encode(), b"canary-credential"]
    with installation(tmp_path) as gateway:
        key = gateway.tenant("acme")
        canaries += [key.encode(), key.split("_", 2)[2].encode()]
        for stream in (False, True):
            with openai.OpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as client:
                answer = client.chat.completions.create(
                    model="gpt-4o", stream=stream, messages=[{"role": "user", "content": "canary-prompt +15558675309"}]
                )
                if stream:
                    list(answer)
                else:
                    canaries.append(answer.choices[0].message.content.encode())
        gateway.ask("POST", "/v1/tenants/acme/credentials", {"provider": "openai", "api_key": "canary-credential"})
        gateway.events_of("acme", 2)

        files = [path for path in gateway.data_dir.rglob("*") if path.is_file()]
        at_rest = {path.name: path.read_bytes() for path in files}

    assert {"ledger.db", "ledger.db-wal", "snapshot.json"} <= set(at_rest)
    for name, content in at_rest.items():
        for canary in canaries:
            assert canary not in content, (name, canary)
    assert all(path.stat().st_mode & 0o077 == 0 for path in files if path.exists())


def run(gateway, *arguments):
    """The command line in a process of its own, for this installation."""
    environment = {
        name: value for name, value in gateway.gateway.environment.items() if not name.endswith("__PORT")
    } | {"TOLLKEEPER_CONTROL__PORT": gateway.control_url.rpartition(":")[2], "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        env={**os.environ, **environment, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_command_line_works_beside_a_running_gateway_and_without_one(tmp_path):
    with installation(tmp_path) as gateway:
        made = json.loads(run(gateway, "tenant", "create", "acme", "--name", "Acme", "--plan", "pro", "--json").stdout)
        key = json.loads(run(gateway, "key", "create", "acme", "--name", "app", "--json").stdout)["key"]
        chat(gateway, key, **{"x-simulator-usage": json.dumps(EXAMPLE_USAGE)})
        gateway.events_of("acme", 1)
        beside = run(gateway, "usage", "--tenant", "acme", "--json")
        table = run(gateway, "usage", "--tenant", "acme")
        gateway.gateway.stop()

        without = run(gateway, "usage", "--tenant", "acme", "--json")
        listed = run(gateway, "tenant", "list")
        gateway.start_gateway()

    assert made["plan"] == "professional"
    assert json.loads(beside.stdout)["total"]["charge"]["amount"] == "0.000837"
    assert "0.000837" in table.stdout
    assert json.loads(without.stdout)["total"] == json.loads(beside.stdout)["total"], without.stderr
    assert "acme" in listed.stdout


def test_a_call_with_an_idempotency_key_is_forwarded_once(gateway):
    key = gateway.tenant("once")
    other = gateway.tenant("once-more")
    headers = {"X-Gateway-Idempotency-Key": "order-17"}
    before = len(gateway.truth())

    first = chat(gateway, key, **headers)
    with pytest.raises(openai.ConflictError) as repeated:
        chat(gateway, key, **headers)
    with (
        openai.OpenAI(base_url=gateway.openai, api_key=key, max_retries=2) as client,
        pytest.raises(openai.UnprocessableEntityError) as mismatched,
    ):
        client.embeddings.create(model="text-embedding-3-small", input="x", extra_headers=headers)
    chat(gateway, other, **headers)

    (event,) = gateway.events_of("once", 1)
    assert event["external_id"] == first.id
    assert event["call_id"] in str(repeated.value)
    assert mismatched.value.response.headers["x-tollkeeper-error"] == "idempotency_mismatch"
    assert len(gateway.truth()) == before + 2


def test_an_idempotency_key_whose_call_was_never_sent_can_be_used_again(tmp_path):
    with installation(tmp_path) as gateway:
        key = gateway.tenant("acme")
        headers = {"X-Gateway-Idempotency-Key": "order-17"}
        gateway.simulator.stop()
        with pytest.raises(openai.InternalServerError):
            chat(gateway, key, **headers)
        port = gateway.direct.split(":")[2].split("/")[0]
        gateway.simulator.command += ["--port", port]
        gateway.simulator.start()
        gateway.simulator.said("simulator_listening")

        answer = chat(gateway, key, **headers)

        (event,) = gateway.events_of("acme", 1)
        assert event["external_id"] == answer.id


def test_a_table_is_saved_whole_and_shows_a_tenant_no_cost_of_the_platforms(gateway):
    key = gateway.tenant("saves-tables")
    chat(gateway, key)
    gateway.events_of("saves-tables", 1)

    def table(key):
        request = urllib.request.Request(
            gateway.control_url + "/v1/usage/events?format=csv", headers={"Authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return list(csv.DictReader(io.TextIOWrapper(answer, newline="")))

    everything, own = table(ADMIN_KEY), table(key)

    assert len(everything) == len(gateway.events())
    assert [row["tenant_id"] for row in own] == ["saves-tables"]
    assert own[0]["charge_amount"] != ""
    assert own[0]["cost_amount"] == ""
    assert gateway.ask("GET", "/v1/usage/summary", key=key)["total"]["cost"]["amount"] is None


def test_what_a_killed_gateway_recorded_is_seen_by_a_command_before_the_next_start(tmp_path):
    with installation(tmp_path) as gateway:
        key = gateway.tenant("acme")
        chat(gateway, key)
        gateway.events_of("acme", 1)
        for _ in range(20):
            chat(gateway, key)
        gateway.gateway.kill()

        seen = run(gateway, "usage", "--tenant", "acme", "--json")
        gateway.start_gateway()

        assert json.loads(seen.stdout)["total"]["events"] == 21, seen.stderr


def test_a_lost_secret_is_named_and_not_replaced(tmp_path):
    with installation(tmp_path) as gateway:
        gateway.gateway.stop()
        secret = gateway.data_dir / "secret.key"
        kept = secret.read_text()
        secret.unlink()

        refused = run(gateway, "tenant", "list")

        assert refused.returncode == 1
        assert "secret.key is missing" in refused.stderr
        assert not secret.exists()
        secret.write_text(kept)
        gateway.start_gateway()
