"""Messages and calls that come in: recorded before anything else, passed on to the application, and answered by it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from twilio.request_validator import RequestValidator
from twilio.rest import Client

from gateway.simulator.truth import read_deliveries
from tests.walks.applications import Application, free_port
from tests.walks.harness import eventually
from tests.walks.sides import directly_to_twilio
from tests.walks.told import Tenant, told_gateway

pytestmark = pytest.mark.parametrize("reached", ["sqlite", "postgres"], indirect=True, scope="module")

ADA, BOB = "+12025550143", "+12025550144"
NUMBERS = (f"+1500555{number:04}" for number in itertools.count(100))
MENU = b"""<?xml version="1.0" encoding="UTF-8"?>
<Response><Gather numDigits="1" action="/menu?of=main"><Say>Press 1 &amp; wait</Say></Gather></Response>"""
DIAL = b'<Response><Dial action="dialled"><Number>+12025550199</Number></Dial></Response>'
VOICEMAIL = b'<Response><Record action="/recorded" recordingStatusCallback="/recording"/></Response>'
BYE = b"<Response><Hangup/></Response>"


@pytest.fixture(scope="module")
def reached(request, tmp_path_factory):
    with told_gateway(request, tmp_path_factory) as running:
        yield running


@pytest.fixture
def application():
    with Application(free_port()).up() as running:
        yield running


@pytest.fixture
def tenant(reached, request, application):
    """A tenant with a number that leads here, and an application behind it."""
    tenant_id = f"{request.node.originalname[5:40]}-{request.node.callspec.id}".replace("_", "-")
    number = next(NUMBERS)
    tenant = Tenant(
        reached,
        tenant_id,
        phone_numbers=[number],
        sms_url=f"{application.base_url}/sms",
        voice_url=f"{application.base_url}/voice/start",
        status_url=f"{application.base_url}/status",
    )
    tenant.number = number
    direct = directly_to_twilio(reached)
    client = Client(direct.account_sid, direct.key)
    client.api.base_url = direct.base_url + "/api"
    ours = f"{reached.proxy_url}/webhooks/twilio/{tenant_id}"
    client.incoming_phone_numbers.create(
        phone_number=number, sms_url=f"{ours}/sms", voice_url=f"{ours}/voice", status_callback=f"{ours}/status"
    )
    return tenant


def comes_in(tenant, kind, **said):
    """Have the simulator's network bring something."""
    control = tenant.gateway.simulator.said("simulator_listening")["control_url"]
    body = json.dumps({"to": tenant.number, "from": ADA, **said}).encode()
    request = Request(f"{control}/twilio/inbound-{kind}", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())["sid"]


def booked(tenant, *event_types):
    """How many of each kind there are, once these are there."""

    def found():
        counted = Counter(one["event_type"] for one in tenant.events())
        return counted if set(event_types) <= set(counted) else None

    return eventually(found, f"{event_types} of {tenant.tenant_id}")


def test_a_message_that_comes_in_is_booked_answered_and_passed_on(tenant, application):
    sid = comes_in(tenant, "message", body="Hello, is anybody there?")

    (got,) = eventually(lambda: application.got_at("/sms"), "the message")
    assert (got.fields["MessageSid"], got.fields["Body"]) == (sid, "Hello, is anybody there?")
    assert got.fields["AccountSid"] == tenant.account_sid
    assert got.is_signed_with(tenant.secret)
    booked(tenant, "sms_inbound")
    event = next(one for one in tenant.events() if one["event_type"] == "sms_inbound")
    assert (event["external_id"], event["direction"], event["quantities"]["segments"]) == (sid, "inbound", 1)
    (delivered,) = [one for one in read_deliveries(tenant.gateway.directory / "truth.jsonl") if one.object_id == sid]
    assert (delivered.status, delivered.error) == (200, None)


def test_a_call_that_comes_in_is_answered_step_by_step_by_its_application(tenant, application):
    application.answers = lambda got: (
        200,
        {"/voice/start": MENU, "/menu": DIAL, "/dialled": BYE}.get(
            got.url.partition("?")[0].removeprefix(application.base_url), b""
        ),
    )

    sid = comes_in(tenant, "call", digits=["1"], dial_seconds=31)

    found = booked(tenant, "call_inbound", "ivr_step", "call_forwarded")
    assert (found["call_inbound"], found["call_forwarded"]) == (1, 1)
    eventually(lambda: [one for one in application.got_at("/status") if one.fields["CallSid"] == sid], "the end")
    asked = [one for one in application.got if not one.url.endswith("/status")]
    assert [one.url.partition("/")[2].partition("/")[2].partition("/")[2] for one in asked] == [
        "voice/start",
        "menu?of=main",
        "dialled",
    ]
    for one in application.got:
        assert one.is_signed_with(tenant.secret)
        assert one.fields["AccountSid"] == tenant.account_sid
    assert [one.fields.get("Digits") for one in asked] == [None, "1", None]
    assert asked[2].fields["DialCallStatus"] == "completed"
    minutes = eventually(
        lambda: [one for one in tenant.events() if one["event_type"] == "call_minutes" and one["external_id"] == sid],
        "the minutes",
    )
    assert minutes[0]["quantities"]["seconds"] > 0


def test_an_application_that_wants_to_be_asked_by_get_is(tenant, application):
    menu = b'<Response><Gather numDigits="1" action="/menu" method="GET"/></Response>'
    application.answers = lambda got: (200, menu if "/voice/start" in got.url else BYE)

    comes_in(tenant, "call", digits=["1"])

    (asked,) = eventually(lambda: application.got_at("/menu"), "the digits")
    assert (asked.method, asked.fields["Digits"], asked.body) == ("GET", "1", b"")
    assert asked.is_signed_with(tenant.secret)


def test_an_application_that_redirects_is_asked_where_it_leads(tenant, application):
    led = {
        "/voice/start": (302, b"", {"Location": "../main?lang=en"}),
        "/main": (200, b'<Response><Gather numDigits="1" action="/menu"/></Response>'),
        "/menu": (307, b"", {"Location": f"{application.base_url}/menu/"}),
        "/menu/": (200, BYE),
    }
    application.answers = lambda got: led.get(got.url.partition("?")[0].removeprefix(application.base_url), (204, b""))

    sid = comes_in(tenant, "call", digits=["1"])

    eventually(lambda: [one for one in application.got_at("/status") if one.fields["CallSid"] == sid], "the end")
    asked = [one for one in application.got if not one.url.endswith("/status")]
    places = [(one.method, one.url.partition("?")[0].removeprefix(application.base_url)) for one in asked]
    assert places == [("POST", "/voice/start"), ("GET", "/main"), ("POST", "/menu"), ("POST", "/menu/")]
    assert [one.fields.get("Digits") for one in asked] == [None, None, "1", "1"]
    assert asked[1].fields["lang"] == "en"
    for one in asked:
        assert one.is_signed_with(tenant.secret)
        assert (one.fields["AccountSid"], one.fields["CallSid"]) == (tenant.account_sid, sid)
    found = booked(tenant, "call_inbound", "ivr_step", "call_minutes")
    assert (found["call_inbound"], found["ivr_step"]) == (1, 1), "asked once more it is the same question"


def test_a_voicemail_is_seconds_of_recording_once(tenant, application):
    application.answers = lambda got: (200, VOICEMAIL if "/voice/start" in got.url else BYE)

    comes_in(tenant, "call", record_seconds=7)

    booked(tenant, "recording", "ivr_step")
    eventually(lambda: application.got_at("/recording"), "the recording's own callback")
    recordings = [one for one in tenant.events() if one["event_type"] == "recording"]
    assert [one["kind"] for one in recordings].count("usage") == 1
    assert sum(one["quantities"].get("seconds", 0) for one in recordings) == 7


def test_where_the_application_is_down_a_call_is_answered_all_the_same(reached, tenant, application):
    application.answers = lambda _: (500, b"")

    sid = comes_in(tenant, "call")

    def asked():
        found = read_deliveries(reached.directory / "truth.jsonl")
        return [one for one in found if one.object_id == sid and "/voice" in one.url]

    (first, *_) = eventually(asked, "the question")
    assert first.status == 200
    booked(tenant, "call_inbound")


def test_messages_for_an_application_that_is_down_wait_for_it(tenant, application):
    application.answers = lambda _: (503, b"")
    sids = [comes_in(tenant, "message", body=f"number {n}") for n in range(5)]
    eventually(lambda: len(application.got_at("/sms")) >= 1, "an attempt")
    application.got.clear()
    application.answers = lambda _: (200, b"<Response/>")

    eventually(lambda: len({one.fields["MessageSid"] for one in application.got_at("/sms")}) == 5, "all of them")
    assert {one.fields["MessageSid"] for one in application.got_at("/sms")} == set(sids)
    assert booked(tenant, "sms_inbound")["sms_inbound"] == 5


def test_a_delivery_that_is_replayed_a_hundred_times_at_once_has_one_effect(reached, tenant, application):
    """Guards Twilio's signature, which says nothing of when: to whichever worker it comes, and after it was delivered."""
    credential = reached.providers.credentials["twilio"]
    sid = "SM" + tenant.number[-8:].rjust(32, "0")
    fields = {"MessageSid": sid, "AccountSid": credential["account_sid"], "To": tenant.number, "From": ADA, "Body": "x"}
    url = f"{reached.proxy_url}/webhooks/twilio/{tenant.tenant_id}/sms"
    signature = RequestValidator(credential["auth_token"]).compute_signature(url, fields)

    def replayed(number):
        pairs = list(fields.items())
        body = urlencode(pairs if number % 2 else pairs[::-1]).encode()
        with urlopen(Request(url, body, {"X-Twilio-Signature": signature}), timeout=30) as answer:
            return answer.status

    with ThreadPoolExecutor(8) as together:
        assert set(together.map(replayed, range(100))) == {200}
        first = eventually(lambda: application.got_at("/sms"), "the message")[0]
        waiting = reached.data_dir / "inbox" / f"{first.headers['X-Tollkeeper-Delivery-Id']}.delivery"
        eventually(lambda: not waiting.exists(), "all delivered")
        before = len(application.got)
        assert set(together.map(replayed, range(2))) == {200}
    eventually(lambda: len(application.got) > before, "what was delivered before, again")

    assert booked(tenant, "sms_inbound")["sms_inbound"] == 1
    assert {one.fields["MessageSid"] for one in application.got} == {sid}
    assert len({one.headers["X-Tollkeeper-Delivery-Id"] for one in application.got}) == 1


def test_nothing_of_what_comes_in_is_in_the_log_or_at_rest(reached, tenant, application):
    application.answers = lambda _: (503, b"")
    inbox = reached.data_dir / "inbox"
    others = set(inbox.glob("*.delivery"))
    comes_in(tenant, "message", body="a very secret question")
    files = eventually(lambda: set(inbox.glob("*.delivery")) - others, "what waits")

    assert "a very secret question" not in "".join(reached.gateway.lines)
    assert ADA not in "".join(reached.gateway.lines)
    for path in files:
        assert b"secret question" not in path.read_bytes()
    application.answers = lambda _: (200, b"")
    eventually(lambda: not any(path.exists() for path in files), "nothing left")
