"""OpenAI's own usage and the ledger: what its SDK used around the gateway is booked out of totals, once, and taken back."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import urllib.request
from collections import Counter

from openai import OpenAI

from gateway.simulator.openai import PROJECT
from gateway.simulator.openai import OpenAI as Simulated
from gateway.simulator.truth import fingerprint
from tests.walks.harness import ON_BOTH, PATIENCE_S, PROVIDER_KEY, REPOSITORY, Installation

pytestmark = ON_BOTH

SIMULATOR_ARGUMENTS = ()

NOW = dt.datetime.now(dt.UTC)
CLOSED = NOW.date() - dt.timedelta(days=2)
AT = f"{CLOSED}T12:00:00Z"
TOMORROW = NOW.date() + dt.timedelta(days=1)

BILLED = {
    "input_tokens": "input_tokens",
    "input_cached_tokens": "input_tokens_cached",
    "output_tokens": "output_tokens",
    "characters": "characters",
}


def tollkeeper(running: Installation, *arguments, stdin=None):
    environment = {**os.environ, **running.gateway.environment, "PYTHONPATH": str(REPOSITORY)}
    environment["TOLLKEEPER_CONTROL__PORT"] = running.control_url.rpartition(":")[2]
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        input=stdin,
        timeout=PATIENCE_S * 4,
        check=False,
    )


def reconcile(running: Installation):
    days = ("--from", f"{CLOSED}", "--to", f"{TOMORROW}")
    done = tollkeeper(running, "reconcile", "--source", "openai", "--tenant", "acme", *days, "--json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def billed(running: Installation, day: dt.date) -> Counter[str]:
    """What the provider's own bill says of a day of the tenant's project, in terms of the ledger."""
    base = running.simulator.said("simulator_listening")["control_url"]
    with urllib.request.urlopen(f"{base}/bill?from={day}&to={day}", timeout=PATIENCE_S) as answer:
        lines = [line for line in json.load(answer)["openai"] if line["project_id"] == PROJECT]
    found: Counter[str] = Counter()
    for line in lines:
        for field, dimension in BILLED.items():
            amount = line.get(field, 0) - (line.get("input_cached_tokens", 0) if field == "input_tokens" else 0)
            found[f"{line['model']} {dimension}"] += amount
    return +found


def held(running: Installation, day: dt.date) -> Counter[str]:
    """What the ledger has of it, with what OpenAI counts within another dimension."""
    within = {"input_tokens_cache_write": "input_tokens", "output_tokens_reasoning": "output_tokens"}
    found: Counter[str] = Counter()
    for event in running.events("acme"):
        if event["occurred_at"].startswith(f"{day}") and event["source"] == "openai":
            for name, amount in event["quantities"].items():
                found[f"{event['resource']} {within.get(name, name)}"] += amount
    return +found


def talk(client: OpenAI, texts, **headers):
    for text in texts:
        client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": text}], extra_headers=headers
        )
    client.embeddings.create(model="text-embedding-3-small", input=" ".join(texts), extra_headers=headers)
    client.audio.speech.create(model="tts-1", voice="alloy", input=" ".join(texts), extra_headers=headers)


def test_the_ledger_meets_openais_own_usage_and_a_second_run_changes_nothing(gateway, tmp_path):
    key = gateway.tenant("acme")
    gateway.ask("PATCH", "/v1/tenants/acme/integrations", {"openai_project": PROJECT})
    missing = tollkeeper(
        gateway, "reconcile", "--source", "openai", "--tenant", "acme", "--from", f"{CLOSED}", "--to", f"{TOMORROW}"
    )
    assert missing.returncode != 0
    assert "admin_key" in missing.stderr + missing.stdout
    (tmp_path / "key").write_text(PROVIDER_KEY)
    (tmp_path / "admin").write_text(Simulated.admin_key)
    stored = tollkeeper(
        gateway,
        *("credential", "set", "acme", "openai"),
        *("--field", f"api_key=@{tmp_path / 'key'}", "--field", f"admin_key=@{tmp_path / 'admin'}"),
    )
    assert stored.returncode == 0, stored.stderr

    through = OpenAI(base_url=gateway.openai, api_key=key)
    direct = OpenAI(base_url=gateway.direct, api_key=PROVIDER_KEY)
    talk(through, ["through the gateway", "and once more"])
    talk(direct, ["around it, two days ago", "at length " * 50, "three"], **{"x-simulator-at": AT})
    talk(direct, ["another project"], **{"x-simulator-at": AT, "OpenAI-Project": "proj_other"})
    talk(direct, ["around it, today"])

    report = reconcile(gateway)

    assert held(gateway, CLOSED) == billed(gateway, CLOSED)
    assert "tts-1 characters" in billed(gateway, CLOSED)
    assert {event["kind"] for event in gateway.events("acme") if event["occurred_at"] < f"{NOW.date()}"} == {"backfill"}
    causes = {(one["day"], one["cause"], one["resolution"]) for one in report["differences"]}
    assert (f"{CLOSED}", "not_proxied", "corrected") in causes
    # Today is not over: what went around stays to be booked.
    assert {one for one in causes if one[0] == f"{NOW.date()}"} == {(f"{NOW.date()}", "late", "explained")}
    assert all(event["charge"]["amount"] is not None for event in gateway.events("acme"))

    events = gateway.events()
    reconcile(gateway)
    assert gateway.events() == events

    # More becomes known of the same day, and then calls that were in nobody's ledger are.
    talk(direct, ["one more of that day"], **{"x-simulator-at": AT})
    reconcile(gateway)
    assert held(gateway, CLOSED) == billed(gateway, CLOSED)
    model = next(name.split()[0] for name in billed(gateway, CLOSED) if name.startswith("gpt"))
    log = tmp_path / "calls.jsonl"
    log.write_text(json.dumps({"id": "c-1", "time": AT, "model": model, "input_tokens": 9, "output_tokens": 5}))
    imported = tollkeeper(gateway, "import", str(log), "--tenant", "acme", "--source", "openai")
    assert imported.returncode == 0, imported.stderr
    assert held(gateway, CLOSED) != billed(gateway, CLOSED)
    reconcile(gateway)
    assert held(gateway, CLOSED) == billed(gateway, CLOSED)

    # The key that opens the lists went with nothing else.
    with_admin = [one for one in gateway.truth() if one.credential == fingerprint(Simulated.admin_key)]
    assert {one.target.partition("?")[0].rpartition("/")[0] for one in with_admin} == {
        "/openai/v1/organization",
        "/openai/v1/organization/usage",
    }
