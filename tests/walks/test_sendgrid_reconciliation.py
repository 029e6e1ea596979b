"""SendGrid's own activity and statistics, and the ledger: what was sent around the gateway is booked on its day, for whose it
is, and once."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import urllib.request
from collections import Counter

from sendgrid import SendGridAPIClient

from tests.walks.harness import ON_BOTH, PATIENCE_S, REPOSITORY, Installation, eventually

pytestmark = ON_BOTH

SIMULATOR_ARGUMENTS = ()

TODAY = dt.datetime.now(dt.UTC).date()
SENT = TODAY - dt.timedelta(days=3)
AT = f"{SENT}T23:30:00Z"
AN_HOUR_MS = "3600000"
TOMORROW = TODAY + dt.timedelta(days=1)


def reconcile(running: Installation):
    environment = {**os.environ, **running.gateway.environment, "PYTHONPATH": str(REPOSITORY)}
    environment["TOLLKEEPER_CONTROL__PORT"] = running.control_url.rpartition(":")[2]
    days = ("--from", f"{SENT}", "--to", f"{TOMORROW}", "--tolerance", "0%")
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "reconcile", "--source", "sendgrid", *days, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 4,
        check=False,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def mail(*recipients: str, category: str | None = None):
    told = {
        "personalizations": [{"to": [{"email": one} for one in recipients]}],
        "from": {"email": "toll@example.com"},
        "subject": "Hello",
        "content": [{"type": "text/plain", "value": "Hello"}],
    }
    return told if category is None else told | {"categories": [category]}


def send(client: SendGridAPIClient, body, **headers):
    assert client.client.mail.send.post(request_body=body, request_headers=headers).status_code == 202


def processed(running: Installation) -> Counter[str]:
    """By day, what the provider's statistics say was processed."""
    key = running.providers.credentials["sendgrid"]["api_key"]
    url = f"{running.providers.base_urls['sendgrid']}/v3/stats?start_date={SENT}&end_date={TODAY}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        days = json.load(answer)
    return +Counter({one["date"]: one["stats"][0]["metrics"]["processed"] for one in days})


def held(running: Installation, *, by="occurred_at") -> Counter[str]:
    found: Counter[str] = Counter()
    for event in running.events():
        found[event[by][:10]] += event["quantities"].get("recipients", 0)
    return +found


def test_the_ledger_meets_the_statistics_and_each_mail_is_of_its_day_and_its_tenant(gateway):
    key = gateway.tenant("acme")
    gateway.tenant("globex")
    gateway.ask("PATCH", "/v1/tenants/acme/integrations", {"sendgrid_categories": ["acme-news", "acme-bills"]})
    gateway.ask("PATCH", "/v1/tenants/globex/integrations", {"sendgrid_categories": ["globex"]})
    through = SendGridAPIClient(f"SG.{key}", host=f"{gateway.proxy_url}/sendgrid")
    direct = SendGridAPIClient(
        gateway.providers.credentials["sendgrid"]["api_key"], host=gateway.providers.base_urls["sendgrid"]
    )
    send(through, mail("a@example.com", "b@example.com", category="globex"))
    eventually(lambda: held(gateway)[f"{TODAY}"] == 2, "the mail of the call")
    # Opened an hour and a half after midnight, and listed on that day.
    before = {"x-simulator-at": AT, "x-simulator-step-ms": AN_HOUR_MS}
    send(direct, mail("open@example.com", "c@example.com", "d@example.com", category="acme-news"), **before)
    send(direct, mail("bounce@example.com", category="acme-bills"), **before)
    send(direct, mail("click@example.com", category="globex"), **before)
    send(direct, mail("e@example.com"), **before)

    report = reconcile(gateway)

    billed = processed(gateway)
    assert billed == {f"{SENT}": 6, f"{TODAY}": 2}
    # What has no category is nobody's, and said to be.
    assert held(gateway) == billed - Counter({f"{SENT}": 1})
    # The call says whose its mail is, whatever its category.
    assert held(gateway, by="tenant_id") == {"acme": 6, "globex": 1}
    assert [event["quantities"].get("recipients", 0) for event in gateway.events("globex")].count(1) == 1
    found = {(one["day"], one["cause"], one["resolution"]) for one in report["differences"]}
    assert (f"{SENT}", "not_proxied", "corrected") in found

    events = gateway.events()
    reconcile(gateway)
    assert gateway.events() == events
