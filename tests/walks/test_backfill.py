"""What a provider did around the gateway: booked from its own lists, to the last segment and second, and once."""

from __future__ import annotations

import csv
import datetime as dt
import json
import os
import subprocess
import sys
import urllib.request
from collections import Counter

import pytest
from twilio.rest import Client

from tests.walks.harness import PATIENCE_S, Installation, eventually, installation, on_postgres

NUMBER = "+15017122661"
TODAY = dt.datetime.now(dt.UTC).date()
FIRST, LAST = TODAY - dt.timedelta(days=4), TODAY - dt.timedelta(days=2)
MESSAGES = int(os.environ.get("COLLECTED_MESSAGES", "3000"))
RATE_MAX = 10
COLLECTED_S = PATIENCE_S * 20 + MESSAGES / 50
"""So long it may take to have them, on whatever machine."""


@pytest.fixture(params=["sqlite", "postgres"])
def gateway(request, tmp_path):
    settings = {} if request.param == "sqlite" else on_postgres(request.getfixturevalue("postgres_server"))
    with installation(tmp_path, "--rate-limit", str(RATE_MAX), **settings) as running:
        yield running


def simulator(running: Installation, method, path, document=None):
    base = running.simulator.said("simulator_listening")["control_url"]
    data = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(base + path, data=data, method=method)
    with urllib.request.urlopen(request, timeout=COLLECTED_S) as answer:
        return json.loads(answer.read())


def history(running: Installation):
    """Messages and calls of three days that no gateway saw, with every end."""
    return simulator(
        running,
        "POST",
        "/twilio/bulk",
        {
            "from": f"{FIRST}T00:00:00Z",
            "to": f"{LAST}T23:59:59Z",
            "messages": MESSAGES,
            "calls": MESSAGES // 10,
            "inbound": 20,
            "media": 10,
            "legs": 10,
            "outcomes": {"delivered": 6, "undelivered": 1, "failed": 1, "read": 1},
            "call_outcomes": {"completed": 5, "busy": 1, "no-answer": 1},
            "segments": {"1": 3, "2": 1},
            "seconds": [1, 600],
        },
    )


def tollkeeper(running: Installation, *arguments, code=0):
    environment = {**os.environ, **running.gateway.environment}
    environment["TOLLKEEPER_CONTROL__PORT"] = running.control_url.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=COLLECTED_S,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def asked():
    return {"source": "twilio", "from": FIRST.isoformat(), "to": (LAST + dt.timedelta(days=1)).isoformat()}


def backfilled(running: Installation):
    wanted = asked()
    return tollkeeper(running, "backfill", "--source", wanted["source"], "--from", wanted["from"], "--to", wanted["to"])


BILLED = {
    "sms-outbound": ("sms_outbound", "segments"),
    "sms-inbound": ("sms_inbound", "segments"),
    "mms-outbound": ("mms_outbound", "messages"),
    "mms-inbound": ("mms_inbound", "messages"),
}


def differences(running: Installation):
    """Between the provider's bill for those days and the ledger."""
    bill = simulator(running, "GET", f"/bill?from={FIRST}&to={LAST}")["twilio"]
    billed: Counter = Counter()
    for row in bill:
        if row["category"] in BILLED:
            billed[BILLED[row["category"]]] += row["usage"]
        elif row["category"].startswith("calls-"):
            billed["call_minutes", "seconds"] += row["seconds"]
    window = f"from={FIRST}&to={LAST + dt.timedelta(days=1)}"
    summed = running.ask("GET", f"/v1/usage/summary?{window}&group_by=event_type")
    used = {one["event_type"]: one["quantities"] for one in summed["groups"]}
    assert billed
    return {
        key: (amount, used.get(key[0], {}).get(key[1]))
        for key, amount in billed.items()
        if amount != used.get(key[0], {}).get(key[1])
    }


def owned_by_acme(running: Installation):
    key = running.tenant("acme")
    running.ask("PATCH", "/v1/tenants/acme/integrations", {"phone_numbers": [NUMBER]})
    return key


def test_what_went_around_the_gateway_is_in_the_ledger_to_the_last_segment_and_second(gateway):
    key = owned_by_acme(gateway)
    history(gateway)
    # Some went through it as well, on the same days' number, today.
    client = Client(gateway.account_sid("acme"), key)
    client.api.base_url = f"{gateway.proxy_url}/twilio/api"
    for _ in range(5):
        client.messages.create(to="+12025550143", from_=NUMBER, body="Hello")

    first = backfilled(gateway)
    again = tollkeeper(gateway, "backfill", "--source", "twilio", "--from", asked()["from"], "--to", asked()["to"])

    assert first["counts"]["new"] == first["counts"]["seen"] >= MESSAGES
    assert (again["counts"]["new"], again["counts"]["corrected"]) == (0, 0)
    assert first["counts"]["unattributed"] == first["counts"]["conflicting"] == first["counts"]["unreadable"] == 0
    assert differences(gateway) == {}
    rates = simulator(gateway, "GET", "/rates")
    assert max(one["peak"] for one in rates.values()) <= RATE_MAX
    assert sum(one["refused"] for one in rates.values()) == 0


def test_a_backfill_goes_on_after_a_kill_and_doubles_nothing(gateway):
    owned_by_acme(gateway)
    history(gateway)
    made = gateway.ask("POST", "/v1/collections", asked())
    at = f"/v1/collections/{made['collection_id']}"
    eventually(lambda: gateway.ask("GET", at)["pages"] >= 2, "two pages")

    gateway.gateway.kill()
    gateway.start_gateway()

    done = eventually(lambda: (now := gateway.ask("GET", at))["status"] == "done" and now, "the end", COLLECTED_S)
    assert done["done_steps"] == done["steps"] == 6
    assert differences(gateway) == {}
    assert backfilled(gateway)["counts"]["new"] == 0


CALL = {
    "uuid": "call-1",
    "caller_id_number": "+15005550006",
    "destination_number": "+12025550143",
    "start_stamp": "2026-11-20 12:00:00",
    "billsec": "61",
    "hangup_cause": "NORMAL_CLEARING",
    "direction": "outbound",
}


def test_a_file_of_calls_is_imported_and_its_wrong_lines_are_named(gateway, tmp_path):
    gateway.tenant("acme")
    path = tmp_path / "calls.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(CALL))
        writer.writeheader()
        for number in range(1200):
            writer.writerow(CALL | {"uuid": f"call-{number}"} | ({"billsec": "x"} if number == 700 else {}))
        file.write("too,few\n")

    first = tollkeeper(gateway, "import", str(path), "--tenant", "acme", code=1)
    again = tollkeeper(gateway, "import", str(path), "--tenant", "acme", code=1)

    assert (first["created"], first["duplicate"], first["invalid"]) == (1199, 0, 2)
    assert [(one["line"], one.get("field")) for one in first["wrong"]] == [(702, "billsec"), (1202, None)]
    assert (again["created"], again["duplicate"]) == (0, 1199)


def test_a_log_of_ai_calls_is_imported_line_by_line(gateway, tmp_path):
    gateway.tenant("acme")
    path = tmp_path / "calls.jsonl"
    good = {"id": "c-1", "time": "2026-11-20T12:00:00Z", "model": "gpt-4o", "input_tokens": 100, "output_tokens": 7}
    lines = [json.dumps(good), "{", "", json.dumps(good), json.dumps(good | {"input_tokens": 1}), "x" * 100_000]
    path.write_text("\n".join(lines) + "\n")

    got = tollkeeper(gateway, "import", str(path), "--tenant", "acme", "--source", "openai", code=1)

    assert (got["created"], got["duplicate"], got["conflict"], got["invalid"]) == (1, 1, 1, 2)
    assert [one["line"] for one in got["wrong"]] == [2, 5, 6]
    [event] = gateway.events("acme")
    assert (event["quantities"], event["charge"] is not None) == ({"input_tokens": 100, "output_tokens": 7}, True)
