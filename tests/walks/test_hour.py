"""An application that is down for an hour: providers have their answers meanwhile, and it has everything afterwards, in order.

The hour is one of a clock that runs fast, for all processes; what is asserted is what came, and not when.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit
from urllib.request import Request, urlopen

import pytest
from twilio.rest import Client

from gateway.simulator.truth import read_deliveries
from tests.month.clock import Clock
from tests.walks.applications import Application, free_port
from tests.walks.harness import Installation, Process, eventually, gateway_process, on_postgres, simulated
from tests.walks.sides import directly_to_twilio
from tests.walks.told import Tenant

ADA, TOLL, OWN = "+12025550143", "+15005550006", "+15005550100"
HOUR_S = 3600
LASTS_S = 8
THINGS = 80
TOLD = 2 + 1 + 4 + 2
"""How often the provider tells of one thing of each kind: a message, one that comes in, a call, one that comes in."""
EVENTS = ["initiated", "ringing", "answered", "completed"]


@pytest.fixture(params=["sqlite", "postgres"])
def hurried(request, tmp_path):
    """A gateway and providers to which an hour is a few seconds, and their clock."""
    clock = Clock.beginning(dt.datetime.now(dt.UTC), HOUR_S / LASTS_S, dt.datetime.max.replace(tzinfo=dt.UTC))
    ruled = {"MONTH_CLOCK": str(clock)}
    simulator = Process(
        [sys.executable, "-m", "tests.month.simulator", "--truth-log", str(tmp_path / "truth.jsonl")], ruled
    )
    simulator.start()
    port = free_port()
    settings = {"proxy__port": str(port), "public_url": f"http://127.0.0.1:{port}", "callback_hosts": "127.0.0.1"}
    if request.param == "postgres":
        settings |= on_postgres(request.getfixturevalue("postgres_server"))
    try:
        providers = simulated(simulator)
        gateway = gateway_process(tmp_path / "data", providers, **settings)
        gateway.command = [sys.executable, "-m", "tests.walks.hurried_gateway", "serve"]
        gateway.environment |= ruled
        running = Installation(tmp_path, simulator, gateway, providers)
        running.start_gateway()
        try:
            yield running, clock
        finally:
            gateway.stop()
    finally:
        simulator.stop()


def comes_in(running, kind, **said):
    control = running.simulator.said("simulator_listening")["control_url"]
    body = json.dumps({"to": OWN, "from": ADA, **said}).encode()
    with urlopen(Request(f"{control}/twilio/inbound-{kind}", body, {"Content-Type": "application/json"}), timeout=30):
        pass


def happens(tenant, base_url, number):
    """One thing of many: most are told of more than once."""
    match number % 4:
        case 0:
            tenant.client.messages.create(to=ADA, from_=TOLL, body="Hello", status_callback=f"{base_url}/message")
        case 1:
            comes_in(tenant.gateway, "message", body=f"number {number}")
        case 2:
            tenant.client.calls.create(
                *(ADA, TOLL), twiml="<Response/>", status_callback=f"{base_url}/call", status_callback_event=EVENTS
            )
        case _:
            comes_in(tenant.gateway, "call")


def said_of(fields):
    """What a delivery says, and of what."""
    sid = fields.get("MessageSid") or fields["CallSid"]
    return sid, fields.get("MessageStatus") or fields.get("SmsStatus") or fields["CallStatus"]


@dataclass
class Unreliable:
    """An application that has just come up: it fails at each third thing that it hears of for the first time."""

    heard: set[tuple[str, str]] = field(default_factory=set)

    def __call__(self, got):
        said = said_of(got.fields)
        fails = said not in self.heard and len(self.heard) % 3 == 0
        self.heard.add(said)
        return (500 if fails else 204), b""


def test_an_hour_without_the_application_loses_nothing_though_the_gateway_is_killed(hurried):
    running, clock = hurried
    application = Application(free_port(), Unreliable())
    base = application.base_url
    urls = {"sms_url": f"{base}/sms", "status_url": f"{base}/status", "voice_url": f"{base}/voice"}
    tenant = Tenant(running, "acme", phone_numbers=[OWN], **urls)
    direct = directly_to_twilio(running)
    client = Client(direct.account_sid, direct.key)
    client.api.base_url = direct.base_url + "/api"
    ours = f"{running.proxy_url}/webhooks/twilio/acme"
    client.incoming_phone_numbers.create(
        phone_number=OWN, sms_url=f"{ours}/sms", voice_url=f"{ours}/voice", status_callback=f"{ours}/status"
    )

    began_s = clock.time()
    for number in range(THINGS):
        while clock.time() < began_s + HOUR_S * number / THINGS:
            time.sleep(0.005)
        if number == THINGS // 2:
            # With what is on its way: the last of what has just happened is being told.
            running.gateway.kill()
            assert list((running.data_dir / "inbox").glob("*.delivery"))
            running.start_gateway()
        happens(tenant, base, number)
    eventually(lambda: clock.time() > began_s + HOUR_S, "the end of the hour")

    def told():
        return [
            one for one in read_deliveries(running.directory / "truth.jsonl") if "/webhooks/twilio/acme/" in one.url
        ]

    eventually(lambda: len(told()) == THINGS // 4 * TOLD, "what the provider tells")
    with application.up():
        # What came last is there before it is known that it waits.
        eventually(lambda: not list((running.data_dir / "inbox").glob("*.delivery")), "all of it delivered")
        eventually(lambda: not running.ask("GET", "/v1/tenants/acme/deliveries")["data"], "nothing that waits")
    everything = told()

    # The provider had its answer each time, but for what was on its way when the gateway was killed.
    assert not [one for one in everything if one.error == "TimeoutError"]
    refused = [one for one in running.logged() if one["event"] == "webhook" and one["status"] >= 400]
    assert not [(one["webhook"], one["error"], one["duration_ms"]) for one in refused]
    assert {one.status for one in everything} - {None} <= {200, 204}
    unanswered = [one for one in everything if one.status is None]
    assert len(unanswered) < THINGS / 4

    kept = [
        one for one in everything if one.status is not None and urlsplit(one.url).path != "/webhooks/twilio/acme/voice"
    ]
    wanted, arrived, ids = defaultdict(list), defaultdict(list), defaultdict(set)
    for one in kept:
        sid, status = said_of(dict(parse_qsl(one.body)))
        wanted[sid].append(status)
    for got in application.got:
        assert got.is_signed_with(tenant.secret)
        sid, status = said_of(got.fields)
        if status not in arrived[sid]:
            arrived[sid].append(status)
        named = got.headers["X-Tollkeeper-Delivery-Id"], got.headers["I-Twilio-Idempotency-Token"]
        ids[sid, status].add((*named, got.headers["Webhook-Id"]))
    assert len(wanted) > THINGS * 3 / 4
    for sid, statuses in wanted.items():
        # What was not answered may have come, and may not.
        assert [one for one in arrived[sid] if one in statuses] == statuses, sid
    assert {len(of) for of in ids.values()} == {1}
    assert len({one for of in ids.values() for one in of}) == len(ids)
    assert len(application.got) > len(ids), "what the application failed at came again"
