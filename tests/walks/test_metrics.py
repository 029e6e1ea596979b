"""What /metrics says is what happened: by the simulator's truth log, the ledger, and what the clients got."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from gateway.counters import WRITE_S
from tests.walks.harness import ADMIN_KEY, ON_BOTH, basic, eventually
from tests.walks.sides import Side, raw, through_to_sendgrid, through_to_twilio

pytestmark = ON_BOTH

CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}'
MAIL = (
    b'{"personalizations":[{"to":[{"email":"ada@example.com"}]}],"from":{"email":"toll@example.com"},'
    b'"subject":"Hello","content":[{"type":"text/plain","value":"Hello"}]}'
)
UNCHANGED = {"x-simulator-step-ms": "3600000"}
"""What is made stays as it is made: nothing is said of it later, however long a test takes."""
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}


def text(gateway):
    with urllib.request.urlopen(gateway.control_url + "/metrics", timeout=30) as answer:
        return answer.read().decode()


def samples(scraped):
    """Each sample by its name and labels; counts of all workers together."""
    found = Counter()
    for family in text_string_to_metric_families(scraped):
        for name, labels, value, *_ in family.samples:
            found[name, *(labels[label] for label in sorted(labels) if label != "worker")] += value
    return found


def series_of(scraped):
    """The same, worker by worker."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(scraped)
        for sample in family.samples
    }


def settled(gateway):
    """What is counted once all that went before is: workers show their counters four times a second."""
    seen = samples(text(gateway))

    def still():
        nonlocal seen
        time.sleep(3 * WRITE_S)
        before, seen = seen, samples(text(gateway))
        return seen if not moved(gateway, before) else None

    return eventually(still, "nothing is counted any more")


def moved(gateway, before):
    """What has changed since: the counters alone."""
    now = samples(text(gateway))
    return {key: now[key] - before[key] for key in now if key[0].endswith("_total") and now[key] != before[key]}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def chat(gateway, key, **headers):
    side = Side(gateway.openai, key)
    return raw(side, "POST", "/chat/completions", CHAT, JSON | bearer(key) | headers)


def test_every_call_is_counted_by_what_became_of_it(gateway):
    """Guards all of the counters of calls: what they say is held against three others that know."""
    key = gateway.tenant("metered-by-hand")
    twilio = through_to_twilio(gateway, "metered-by-hand", key)
    sendgrid = through_to_sendgrid(gateway, key)
    before, asked_before = settled(gateway), len(gateway.asked())

    got = [chat(gateway, key).status for _ in range(4)]
    got += [chat(gateway, "tk_0123456789ab_" + "x" * 43).status]
    got += [raw(Side(gateway.openai, key), "POST", "/chat/completions", b"{", JSON | bearer(key)).status]
    got += [raw(Side(gateway.openai, key), "GET", "/models", None, bearer(key)).status]
    got += [raw(Side(gateway.proxy_url, key), "GET", "/nobody/knows", None, bearer(key)).status]
    path = f"/2010-04-01/Accounts/{twilio.account_sid}/Messages.json"
    message = b"To=%2B12025550143&From=%2B15005550006&Body=Hello"
    account = {"Authorization": basic(twilio.account_sid, twilio.key)}
    made = [raw(twilio, "POST", path, message, FORM | account | UNCHANGED) for _ in range(3)]
    got += [answer.status for answer in made]
    # Reading it back bills nothing, so that it has no intent, and is an event all the same.
    sid = json.loads(made[0].body)["sid"]
    got += [raw(twilio, "GET", path.replace(".json", f"/{sid}.json"), None, account).status]
    got += [raw(sendgrid, "POST", "/v3/mail/send", MAIL, JSON | bearer(sendgrid.key)).status for _ in range(2)]

    assert got == [200] * 4 + [401, 400, 403, 404] + [201] * 3 + [200] + [202] * 2
    expected = {
        ("tollkeeper_calls_total", "2xx", "openai"): 4,
        ("tollkeeper_calls_total", "4xx", "openai"): 3,
        ("tollkeeper_calls_total", "4xx", "none"): 1,
        ("tollkeeper_calls_total", "2xx", "twilio"): 4,
        ("tollkeeper_calls_total", "2xx", "sendgrid"): 2,
        ("tollkeeper_call_errors_total", "invalid_key"): 1,
        ("tollkeeper_call_errors_total", "not_on_shared_account"): 1,
        ("tollkeeper_call_errors_total", "unknown_provider"): 1,
        ("tollkeeper_intents_total",): 10,
        ("tollkeeper_intents_closed_total",): 1,
    }
    eventually(lambda: expected.items() <= moved(gateway, before).items(), f"{expected}; {moved(gateway, before)}")

    events = eventually(lambda: len(e := gateway.events("metered-by-hand")) == 10 and e, "ten events")
    by_completeness = Counter(event["completeness"] for event in events)
    eventually(
        lambda: moved(gateway, before).get(("tollkeeper_ledger_events_total",)) == 10, "that they are counted as booked"
    )
    counted = moved(gateway, before)
    assert {key[1]: value for key, value in counted.items() if key[0] == "tollkeeper_outcomes_total"} == by_completeness
    asked = Counter(exchange.provider for exchange in gateway.asked()[asked_before:])
    assert asked == {"openai": 5, "twilio": 4, "sendgrid": 2}
    calls = {key: value for key, value in counted.items() if key[0] == "tollkeeper_calls_total"}
    assert sum(calls.values()) == len(got)
    now = samples(text(gateway))
    assert now["tollkeeper_gateway_seconds_count",] - before["tollkeeper_gateway_seconds_count",] == len(got)
    assert counted["tollkeeper_upstream_seconds_total",] > 0
    assert now["tollkeeper_calls_open",] == now["tollkeeper_spool_failed",] == now["tollkeeper_ledger_failing",] == 0
    assert not [key for key in counted if key[0] == "tollkeeper_set_aside_total"]


def test_what_is_scraped_while_calls_run_is_whole_and_never_goes_back(gateway):
    """Guards the way from the workers: no scrape misses one of them because it was writing just then."""
    key = gateway.tenant("metered-meanwhile")
    over = threading.Event()
    scraped = []

    def scrape():
        while not over.is_set():
            scraped.append(text(gateway))

    scraping = threading.Thread(target=scrape)
    scraping.start()
    try:
        for _ in range(60):
            assert chat(gateway, key).status == 200
        eventually(lambda: chat(gateway, key).status == 200 and len(scraped) > 5, "scrapes while calls run")
    finally:
        over.set()
        scraping.join()

    there = set(series_of(scraped[0]))
    last = Counter()
    for one in scraped:
        now = series_of(one)
        assert set(now) == there
        for series, value in now.items():
            if series[0].endswith(("_total", "_bucket", "_count", "_sum")):
                assert value >= last[series], series
                last[series] = value


def test_there_is_no_key_no_tenant_and_nothing_of_a_call_in_it(gateway):
    key = gateway.tenant("metered-in-silence")
    assert chat(gateway, key, **{"X-Gateway-Tags": "team=blue", "X-Gateway-Category": "campaign"}).status == 200
    gateway.events_of("metered-in-silence", 1)

    shown = text(gateway)

    assert "tollkeeper_calls_total" in shown
    for secret in (key, key.split("_")[1], ADMIN_KEY, "metered", "gpt-4o", "blue", "campaign", "tk_"):
        assert secret not in shown
    for credential in gateway.providers.credentials.values():
        assert not [value for value in credential.values() if value in shown]


def test_readiness_tells_the_backlog_and_the_workers(gateway):
    workers = 2 if "TOLLKEEPER_DATABASE_URL" in gateway.gateway.environment else 1

    told = eventually(
        lambda: (now := gateway.ask("GET", "/readyz"))["backlog"] == {"bytes": 0, "age_s": 0.0} and now, "no backlog"
    )

    assert told == {"status": "ready", "backlog": {"bytes": 0, "age_s": 0.0}, "workers": {"alive": workers}}
    assert samples(text(gateway))["tollkeeper_workers_alive",] == workers
