"""What becomes of messages and calls, as Twilio tells it by itself: booked, and passed on to whoever asked to be told."""

from __future__ import annotations

import time
from collections import Counter
from decimal import Decimal
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

import pytest
from twilio.request_validator import RequestValidator
from twilio.rest import Client

from gateway.simulator.truth import read_deliveries
from tests.walks.applications import Application, free_port
from tests.walks.harness import Answered, eventually
from tests.walks.sides import directly_to_twilio
from tests.walks.told import IN_FORCE_S, Tenant, told_gateway

ADA, TOLL = "+12025550143", "+15005550006"
pytestmark = pytest.mark.parametrize("reached", ["sqlite", "postgres"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def reached(request, tmp_path_factory):
    with told_gateway(request, tmp_path_factory) as running:
        yield running


@pytest.fixture
def tenant(reached, request):
    tenant_id = f"{request.node.originalname[5:40]}-{request.node.callspec.id}".replace("_", "-")
    return Tenant(reached, tenant_id)


@pytest.fixture
def application():
    with Application(free_port()).up() as running:
        yield running


def corrections(tenant):
    return [event for event in tenant.events() if event["kind"] == "correction"]


def test_a_message_that_asks_for_no_callback_is_told_of_to_us(tenant):
    made = tenant.client.messages.create(to=ADA, from_=TOLL, body="Hello")

    def told():
        return [one for one in read_deliveries(tenant.gateway.directory / "truth.jsonl") if one.object_id == made.sid]

    statuses = eventually(lambda: (found := told()) and len(found) >= 2 and found, "the callbacks")
    assert {one.status for one in statuses} == {204}
    assert all(f"/webhooks/twilio/{tenant.tenant_id}/status" in one.url for one in statuses)


def test_a_callback_is_passed_on_in_order_and_the_sdk_verifies_it(tenant, application):
    url = f"{application.base_url}/told?order=17&of=%C3%A4"

    made = tenant.client.messages.create(to=ADA, from_=TOLL, body="Hello", status_callback=url)

    eventually(lambda: [one for one in application.got if one.fields["MessageStatus"] == "delivered"], "the last one")
    assert [one.fields["MessageStatus"] for one in application.got] == ["sent", "delivered"]
    for one in application.got:
        assert one.url == url
        assert one.is_signed_with(tenant.secret)
        assert not one.is_signed_with(tenant.key)
        assert (one.fields["MessageSid"], one.fields["AccountSid"]) == (made.sid, tenant.account_sid)


def test_a_call_is_booked_by_its_duration_when_it_has_ended(tenant, application):
    url = f"{application.base_url}/calls"

    made = tenant.client.calls.create(to=ADA, from_=TOLL, url="https://example.com/twiml", status_callback=url)

    (minutes,) = eventually(lambda: [one for one in tenant.events() if one["event_type"] == "call_minutes"], "minutes")
    assert (minutes["quantities"], minutes["external_id"]) == ({"seconds": 49}, made.sid)
    assert (minutes["kind"], minutes["completeness"]) == ("correction", "reported")
    assert minutes["charge"]["amount"] == "0.015"
    (got,) = eventually(lambda: application.got, "the callback")
    assert (got.fields["CallStatus"], got.fields["CallDuration"]) == ("completed", "49")
    assert got.is_signed_with(tenant.secret)


MENU = b'<Response><Gather numDigits="1" action="/menu"/><Redirect method="GET">/record</Redirect></Response>'
RECORD = b'<Response><Record action="/over" recordingStatusCallback="/recording"/></Response>'


def test_a_call_that_goes_out_is_answered_through_the_gateway_and_told_by_nobody_else(tenant, application):
    """Guards applications that verify what they are asked: Twilio signs with a token that they do not have."""
    documents = {"/voice": MENU, "/record": RECORD}
    application.answers = lambda got: (200, documents.get(urlsplit(got.url).path, b"<Response/>"))
    base = application.base_url

    made = tenant.client.calls.create(
        to=ADA,
        from_=TOLL,
        url=f"{base}/voice?of=1",
        status_callback=f"{base}/status",
        status_callback_method="GET",
        record=True,
        recording_status_callback=f"{base}/whole",
    )

    paths = {"/voice", "/record", "/over", "/recording", "/status", "/whole"}
    eventually(lambda: {urlsplit(one.url).path for one in application.got} == paths, "everything")
    assert {one.method for one in application.got_at("/record") + application.got_at("/status")} == {"GET"}
    for one in application.got:
        assert one.is_signed_with(tenant.secret), one.url
        assert (one.fields["CallSid"], one.fields["AccountSid"]) == (made.sid, tenant.account_sid)

    def booked():
        events = tenant.events()
        found = Counter(one["event_type"] for one in events if one["kind"] == "usage")
        return found if found["recording"] == 2 and any(one["event_type"] == "call_minutes" for one in events) else None

    found = eventually(booked, "what it used")
    # Two questions after the first, which is the call itself.
    assert (found["call_outbound"], found["ivr_step"]) == (1, 2)
    steps = {one.url.partition("?")[0].rpartition("/")[2] for one in direct(tenant, made.sid)}
    assert steps == {"voice", "status"}, "nobody else was called"


def test_where_an_application_does_not_answer_its_call_the_fallback_that_it_named_does(tenant, application):
    application.answers = lambda got: (500 if got.url.endswith("/voice") else 200, b"<Response/>")
    base = application.base_url

    made = tenant.client.calls.create(
        to=ADA, from_=TOLL, url=f"{base}/voice", fallback_url=f"{base}/fallback", fallback_method="GET"
    )

    (asked,) = eventually(lambda: application.got_at("/fallback"), "the fallback")
    assert (asked.method, asked.fields["CallSid"]) == ("GET", made.sid)
    assert asked.is_signed_with(tenant.secret)
    eventually(lambda: [one for one in tenant.events() if one["event_type"] == "call_minutes"], "minutes")
    assert not [one for one in tenant.events() if one["event_type"] == "ivr_step"]


def test_what_a_subaccount_of_the_platforms_is_told_of_reaches_its_application(reached, tenant, application):
    """Guards tenants whose account within the platform's signs with a token that nobody has stored."""
    platform = directly_to_twilio(reached)
    client = Client(platform.account_sid, platform.key)
    client.api.base_url = platform.base_url + "/api"
    below = client.api.accounts.create(friendly_name="below")
    path = f"/v1/tenants/{tenant.tenant_id}/integrations"
    with pytest.raises(Answered, match="the platform's own account"):
        reached.ask("PATCH", path, {"twilio_subaccount": platform.account_sid})
    shown = reached.ask("PATCH", path, {"twilio_subaccount": below.sid})
    assert below.auth_token not in str(shown)
    url = f"{application.base_url}/told"

    def told():
        """Nobody is asked to tell us before the token is known."""
        tenant.client.messages.create(to=ADA, from_=TOLL, body="Hello", status_callback=url)
        return [one for one in application.got if one.is_signed_with(tenant.secret)]

    eventually(told, "a callback that the application can verify")
    time.sleep(IN_FORCE_S)
    made = tenant.client.messages.create(to=ADA, from_=TOLL, body="Hello", status_callback=url)
    ours = lambda: [one for one in application.got if one.fields["MessageSid"] == made.sid]  # noqa: E731
    eventually(lambda: len(ours()) == 2, "both")
    assert [one.fields["MessageStatus"] for one in ours()] == ["sent", "delivered"]
    assert all(one.is_signed_with(tenant.secret) for one in ours())
    assert {one.fields["AccountSid"] for one in ours()} == {tenant.account_sid}
    assert below.auth_token not in str(reached.ask("GET", path)) + "".join(reached.gateway.lines)
    forged = {"MessageSid": made.sid, "MessageStatus": "failed", "AccountSid": below.sid}
    at = f"{reached.proxy_url}/webhooks/twilio/{tenant.tenant_id}/status"
    signature = RequestValidator(platform.key).compute_signature(at, forged)
    assert post(at, forged, **{"X-Twilio-Signature": signature}) == 403
    # The worker doubts the token then, and the back office has heard of it.
    doubts = reached.data_dir / "doubts"
    assert doubts.is_dir()
    eventually(lambda: not list(doubts.iterdir()), "the doubt to be taken")


def direct(tenant, sid):
    """What Twilio sent of one call by itself."""
    return [one for one in read_deliveries(tenant.gateway.directory / "truth.jsonl") if one.object_id == sid]


def test_a_message_ends_with_what_it_finally_was_and_cost(tenant):
    made = tenant.client.messages.create(to=ADA, from_=TOLL, body="x" * 200)

    def ended():
        found = tenant.events()
        costs = [one for one in found if "provider_cost" in one["metadata"]]
        finals = [one for one in found if one["metadata"].get("status") == "delivered"]
        return (found, finals, costs) if finals and costs else None

    found, finals, costs = eventually(ended, "the end of it, and its price")
    assert {one["external_id"] for one in found} == {made.sid}
    assert sum(one["quantities"].get("segments", 0) for one in found) == 2
    assert sum(one["quantities"].get("messages", 0) for one in found) == 1
    assert [one["kind"] for one in (*finals, *costs)] == ["correction"] * 2
    assert costs[0]["metadata"]["provider_cost"].rstrip("0") == "0.0166"
    assert sum(Decimal(one["cost"]["amount"]) for one in found if one["cost"]) == Decimal("0.0166")
    assert sum(Decimal(one["charge"]["amount"]) for one in found if one["charge"]) == Decimal("0.015")


def test_an_application_that_is_down_gets_all_of_it_in_order_once_it_is_up(tenant):
    application = Application(free_port())
    made = [
        tenant.client.messages.create(to=ADA, from_=TOLL, body="Hello", status_callback=application.base_url + "/told")
        for _ in range(5)
    ]
    eventually(lambda: len(list((tenant.gateway.data_dir / "inbox").glob("*.delivery"))) >= 10, "what waits")
    with application.up():
        eventually(lambda: len(application.got) >= 10, "everything")

    for message in made:
        states = [one.fields["MessageStatus"] for one in application.got if one.fields["MessageSid"] == message.sid]
        assert states == ["sent", "delivered"]


def post(url, fields, **headers):
    """What whoever sends such a form is answered."""
    request = Request(url, urlencode(fields).encode(), headers)
    try:
        with urlopen(request, timeout=30) as answer:
            return answer.status
    except OSError as error:
        return error.code


def test_a_forged_callback_has_no_effect(tenant, application):
    made = tenant.client.messages.create(to=ADA, from_=TOLL, body="Hello")
    account = tenant.gateway.providers.credentials["twilio"]
    url = f"{tenant.gateway.proxy_url}/webhooks/twilio/{tenant.tenant_id}/status"
    fields = {"MessageSid": made.sid, "MessageStatus": "delivered", "AccountSid": account["account_sid"]}
    before = set((tenant.gateway.data_dir / "inbox").glob("*"))

    def signed(token, at=url, told=fields):
        return {"X-Twilio-Signature": RequestValidator(token).compute_signature(at, told)}

    carrying = f"{url}?to={quote(application.base_url, safe='')}"
    assert post(url, fields) == 403
    assert post(url, fields, **signed(tenant.secret)) == 403
    assert post(url, fields, **signed(account["auth_token"], told=fields | {"MessageStatus": "failed"})) == 403
    assert post(carrying, fields, **signed(account["auth_token"], at=carrying)) == 403
    another = fields | {"MessageSid": "SM" + "9" * 32}
    assert post(url, another, **signed(account["auth_token"], told=another)) == 403
    assert post(url, fields, **signed(account["auth_token"])) == 204
    assert application.got == []
    assert not set((tenant.gateway.data_dir / "inbox").glob("*")) - before


def test_nothing_of_a_callback_is_readable_at_rest(tenant):
    port = free_port()
    secret_path = f"http://127.0.0.1:{port}/a-path-that-is-nobodys-business"
    tenant.client.messages.create(to=ADA, from_=TOLL, body="Hello", status_callback=secret_path)
    files = eventually(lambda: list((tenant.gateway.data_dir / "inbox").glob("*.delivery")), "what waits")

    for path in files:
        content = path.read_bytes()
        assert ADA[1:].encode() not in content
        assert b"nobodys-business" not in content
    assert urlsplit(secret_path).path not in "".join(tenant.gateway.gateway.lines)
    with Application(port).up() as application:
        eventually(lambda: len(application.got) >= 2, "everything")
