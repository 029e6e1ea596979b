"""A ledger that meets its provider's bill: what went through the gateway, around it, and was under way when it was killed."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from typing import Any

import psutil

from tests.walks.harness import ON_BOTH, PATIENCE_S, REPOSITORY, Installation, basic, eventually

pytestmark = ON_BOTH

SIMULATOR_ARGUMENTS = ()

OURS = "+15017122661"


def post(gateway: Installation, key: str, resource: str, form: dict[str, str], **controls: str) -> Any:
    sid = gateway.account_sid("acme")
    request = urllib.request.Request(
        f"{gateway.proxy_url}/twilio/2010-04-01/Accounts/{sid}/{resource}.json",
        data=urllib.parse.urlencode(form).encode(),
        headers={
            "Authorization": basic(sid, key),
            **{f"x-simulator-{name}": value for name, value in controls.items()},
        },
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def directed(gateway: Installation, path: str, document: object = None) -> Any:
    """What the simulated provider is told, or says, aside of its API."""
    said = gateway.simulator.said("simulator_listening")
    request = urllib.request.Request(
        said["control_url"] + path,
        data=None if document is None else json.dumps(document).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def reconcile(gateway: Installation, first: dt.date, end: dt.date, *more: str) -> tuple[int, Any]:
    """What the command answers, and its exit code."""
    environment = {
        **os.environ,
        **gateway.gateway.environment,
        "PYTHONPATH": str(REPOSITORY),
        "TOLLKEEPER_CONTROL__PORT": gateway.control_url.rpartition(":")[2],
    }
    asked = ["reconcile", "--source", "twilio", "--from", f"{first}", "--to", f"{end}", "--tolerance", "0%", *more]
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", *asked, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 4,
        check=False,
    )
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def killed(gateway: Installation) -> None:
    """Every process of it at once: a worker that only lost its supervisor would end its calls."""
    assert gateway.gateway.popen is not None
    for process in psutil.Process(gateway.gateway.popen.pid).children(recursive=True):
        process.kill()
    gateway.gateway.kill()


def in_ledger(gateway: Installation) -> tuple[Counter[str], Decimal]:
    """What all tenants used, and what all of it cost."""
    events = gateway.events()
    used: Counter[str] = Counter()
    for event in events:
        for name, amount in event["quantities"].items():
            used[f"{event['event_type']} {name}"] += amount
    return used, sum((Decimal(event["cost"]["amount"]) for event in events if event["cost"]["amount"]), Decimal(0))


def test_the_ledger_meets_the_bill_after_a_reconciliation_and_a_second_one_changes_nothing(gateway):
    key = gateway.tenant("acme")
    gateway.ask("PATCH", "/v1/tenants/acme/integrations", {"phone_numbers": [OURS]})
    began = dt.datetime.now(dt.UTC)
    for number in range(25):
        post(
            gateway,
            key,
            "Messages",
            {"To": f"+1202555{number:04}", "From": OURS, "Body": "x" * 160 * (1 + number % 3)},
            **{"step-ms": "0"},
        )
    for seconds in (1, 59, 60, 61, 600):
        post(
            gateway,
            key,
            "Calls",
            {"To": "+12025550143", "From": OURS, "Url": "https://example.com/v"},
            **{"step-ms": "0", "seconds": str(seconds)},
        )
    directed(
        gateway,
        "/twilio/bulk",
        {
            "from": (began - dt.timedelta(hours=20)).isoformat(),
            "to": (began - dt.timedelta(minutes=30)).isoformat(),
            "messages": 25,
            "calls": 5,
            "numbers": [OURS],
            "inbound": 0,
            "outcomes": {"delivered": 4, "failed": 1},
            "seed": 7,
        },
    )

    # Killed while the provider has it, and has not answered.
    def lost() -> None:
        with suppress(OSError, urllib.error.URLError):
            post(
                gateway,
                key,
                "Messages",
                {"To": "+4915123456789", "From": OURS, "Body": "Hello"},
                **{"latency-ms": "30000", "step-ms": "0"},
            )

    thread = threading.Thread(target=lost, daemon=True)
    thread.start()
    eventually(lambda: any("+4915123456789" in str(one.usage) for one in gateway.truth()), "the call at the provider")
    killed(gateway)
    thread.join()
    gateway.start_gateway()
    eventually(
        lambda: [one for one in gateway.events("acme") if one["completeness"] == "unknown"],
        "the call of unknown outcome",
    )
    first, end = began.date() - dt.timedelta(days=1), dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)

    code, report = reconcile(gateway, first, end)
    used, cost = in_ledger(gateway)

    bill = directed(gateway, f"/bill?from={first}&to={end}")["twilio"]
    told: Counter[str] = Counter()
    for line in bill:
        if line["category"] == "sms-outbound":
            told["sms_outbound messages"] += line["count"]
            told["sms_outbound segments"] += line["usage"]
        if line["category"] == "calls-outbound":
            told["call_minutes seconds"] += line["seconds"]
    assert {name: used[name] for name in told} == told
    assert cost == sum(Decimal(str(line["cost"])) for line in bill)
    causes = Counter(one["cause"] for one in report["differences"])
    assert {"not_proxied", "unknown_outcome", "not_usage", "rounding"} <= causes.keys(), causes
    assert (code, report["status"], report["beyond"]) == (0, "matched", [])
    found = [one for one in gateway.events("acme") if one["description"] == "outcome found in the provider's list"]
    [resolved] = [one for one in found if one["completeness"] == "pending"]
    assert (resolved["kind"], resolved["quantities"], resolved["key_id"]) == (
        "correction",
        {"messages": 1},
        key.split("_")[1],
    )

    events = gateway.events()
    code, again = reconcile(gateway, first, end)

    assert (code, again["status"]) == (0, "matched")
    assert gateway.events() == events
