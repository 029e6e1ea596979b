"""What SendGrid tells by itself: what became of mail, and mail that comes in; verified, booked, passed on byte for byte."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from sendgrid import SendGridAPIClient
from sendgrid.helpers.mail import Mail

from gateway.simulator.sendgrid_events import Signer
from gateway.simulator.truth import read_deliveries
from tests.walks.applications import Application, free_port
from tests.walks.harness import eventually
from tests.walks.sides import directly_to_sendgrid
from tests.walks.told import IN_FORCE_S, told_gateway

pytestmark = pytest.mark.parametrize("reached", ["sqlite", "postgres"], indirect=True, scope="module")

TICKET = base64.b64encode(bytes(range(256))).decode()


@pytest.fixture(scope="module")
def reached(request, tmp_path_factory):
    with told_gateway(request, tmp_path_factory) as running:
        yield running


@pytest.fixture(scope="module")
def application(reached):
    """One for each installation: each signs by a secret of its own."""
    with Application(free_port()).up() as running:
        yield running


@pytest.fixture(scope="module")
def acme(reached, application):
    """A tenant that the account's events are told of, and what its application verifies by."""
    key = reached.tenant("acme")
    direct = directly_to_sendgrid(reached)
    client = SendGridAPIClient(direct.key, host=direct.base_url).client
    hook = f"{reached.proxy_url}/webhooks/sendgrid/acme"
    wanted = dict.fromkeys(("processed", "delivered", "dropped", "bounce", "deferred"), True)
    client.user.webhooks.event.settings.patch({"enabled": True, "url": f"{hook}/events", **wanted})
    signed = json.loads(client.user.webhooks.event.settings.signed.patch({"enabled": True}).body)
    made = reached.ask(
        "PATCH",
        "/v1/tenants/acme/integrations",
        {
            "sendgrid_verification_key": signed["public_key"],
            "sendgrid_subuser": "simulated",
            "events_url": f"{application.base_url}/events",
            "inbound_url": f"{application.base_url}/mail",
        },
    )
    time.sleep(IN_FORCE_S)
    return key, made["signing_secret"], hook


def is_signed(got, secret):
    """As the specification of Standard Webhooks says it."""
    said = f"{got.headers['Webhook-Id']}.{got.headers['Webhook-Timestamp']}.".encode() + got.body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return f"v1,{base64.b64encode(hmac.digest(key, said, hashlib.sha256)).decode()}" in got.headers["Webhook-Signature"]


def test_what_became_of_a_mail_is_booked_and_passed_on(reached, acme, application):
    key, secret, _ = acme
    client = SendGridAPIClient(f"SG.{key}", host=f"{reached.proxy_url}/sendgrid")
    mail = Mail("toll@example.com", ["ada@example.com", "dropped@example.com"], "Hello", "Hello, Ada.")

    assert client.send(mail).status_code == 202

    def corrected():
        found = reached.events("acme")
        return [one for one in found if one["kind"] == "correction" and one["quantities"].get("recipients")]

    (correction,) = eventually(corrected, "the one who was dropped")
    assert correction["quantities"] == {"recipients": -1}
    posted = [one for one in read_deliveries(reached.directory / "truth.jsonl") if one.url.endswith("/acme/events")]
    eventually(lambda: len(application.got_at("/events")) >= len(posted) > 0, "what was told")
    assert {one.status for one in posted} == {200}
    for got in application.got_at("/events"):
        assert is_signed(got, secret)
        assert got.body.decode() in [one.body for one in posted]


def test_mail_that_comes_in_is_booked_once_and_passed_on_as_it_came(reached, acme, application):
    _, secret, hook = acme
    control = reached.simulator.said("simulator_listening")["control_url"]
    files = [{"filename": "ticket.bin", "content": TICKET}]
    mail = {"to": "desk@in.example.com", "from": "ada@example.com", "subject": "Toll", "url": f"{hook}/inbound"}
    body = json.dumps({**mail, "attachments": files, "repeat": 3}).encode()
    with urlopen(Request(f"{control}/sendgrid/inbound-mail", body), timeout=30) as answer:
        mail_id = json.loads(answer.read())["id"]

    eventually(lambda: application.got_at("/mail"), "the mail")

    def posted():
        found = [one for one in read_deliveries(reached.directory / "truth.jsonl") if one.object_id == mail_id]
        return found if len(found) == 3 else None

    assert {one.status for one in eventually(posted, "each time that it was posted")} == {200}
    for got in application.got_at("/mail"):
        assert is_signed(got, secret)
        assert base64.b64decode(TICKET) in got.body
    (event,) = eventually(
        lambda: [one for one in reached.events("acme") if one["event_type"] == "email_inbound"], "the event"
    )
    assert event["quantities"] == {"recipients": 1}
    assert "ada@example.com" not in json.dumps(event) + "".join(reached.gateway.lines)


@pytest.mark.parametrize("name", ["events", "inbound"])
def test_what_another_key_signed_or_nobody_has_no_effect(acme, application, name):
    _, _, hook = acme
    body = b'[{"event":"dropped","email":"ada@example.com","sg_event_id":"1","sg_message_id":"1.2"}]\r\n'
    forged = [(), Signer(8).headers(body, time.time()), Signer(8).headers(body, time.time() - 3600)]
    for headers in forged:
        with pytest.raises(HTTPError) as refused, urlopen(Request(f"{hook}/{name}", body, dict(headers)), timeout=30):
            pass
        assert refused.value.code == 403
        refused.value.close()
    # What was told before may still be on its way.
    assert body not in [one.body for one in application.got]
