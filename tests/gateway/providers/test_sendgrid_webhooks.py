"""What SendGrid tells applications by itself: whom it is believed from, and what it says."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.integrations import Integration
from gateway.providers.api import Delivery, Proofs
from gateway.providers.sendgrid.signatures import SIGNATURE_HEADER, TIMESTAMP_HEADER
from gateway.providers.sendgrid.webhooks import WEBHOOKS

NOW_S = 1_790_000_000
PRIVATE = ec.derive_private_key(7, ec.SECP256R1())
KEY = base64.b64encode(PRIVATE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
EVENTS, INBOUND = WEBHOOKS
DROPPED = {"event": "dropped", "email": "ada@example.com", "sg_event_id": "e1", "sg_message_id": "mail1.recvd-1"}
BODY = json.dumps([DROPPED]).encode()
MAIL = (
    b'--xYz\r\nContent-Disposition: form-data; name="envelope"\r\n\r\n'
    b'{"to":["toll@in.example.com"],"from":"ada@example.com"}\r\n--xYz--\r\n'
)


def delivery(body=BODY, signed=BODY, **more):
    timestamp = str(NOW_S)
    signature = base64.b64encode(PRIVATE.sign(timestamp.encode() + signed, ec.ECDSA(hashes.SHA256()))).decode()
    headers = CIMultiDict(
        {TIMESTAMP_HEADER: timestamp, SIGNATURE_HEADER: signature, "Content-Type": "application/json"}
    )
    for name, value in more.items():
        headers.add(name, value)
    return Delivery("POST", "https://tolls.example/webhooks/sendgrid/acme/events", CIMultiDictProxy(headers), body)


def proofs(key=KEY, now_s=NOW_S):
    return Proofs({}, Integration(sendgrid_verification_key=key), now_s)


@pytest.mark.parametrize("webhook", WEBHOOKS)
def test_only_what_the_tenants_key_has_signed_is_believed(webhook):
    assert webhook.is_authentic(delivery(), proofs())
    assert not webhook.is_authentic(delivery(body=BODY + b" "), proofs())
    assert not webhook.is_authentic(delivery(), proofs(now_s=NOW_S + 301))
    assert not webhook.is_authentic(delivery(), proofs(key=None))
    assert not webhook.is_authentic(delivery(**{TIMESTAMP_HEADER: str(NOW_S)}), proofs())
    assert not webhook.is_authentic(delivery()._replace(headers=CIMultiDictProxy(CIMultiDict())), proofs())


def test_whoever_was_dropped_is_taken_off_the_mail():
    told = EVENTS.read(delivery(), lambda value: "hashed")

    (late,) = told.late
    assert (late.external_id, late.phase, late.usage.quantities) == ("mail1", "less:dropped:hashed", {"recipients": -1})
    assert told.order_key == "events"


def test_a_mail_that_comes_in_is_an_event_of_its_own():
    told = INBOUND.read(delivery(body=MAIL), lambda value: "hashed")

    (made,) = told.made
    assert (made.usage.event_type, made.usage.quantities) == ("email_inbound", {"recipients": 1})
    assert made.key == f"{made.usage.external_id}:made"


@pytest.mark.parametrize("webhook", WEBHOOKS)
def test_it_is_passed_on_byte_for_byte(webhook):
    content = webhook.content(delivery())

    assert (content.method, content.media_type, content.body) == ("POST", "application/json", BODY)
    assert webhook.sign("secret", "https://app.example/x", "POST", "", b"") == ("https://app.example/x", ())


def test_each_goes_to_a_url_of_its_own():
    integration = Integration(events_url="https://app.example/e", inbound_url="https://app.example/i")

    assert [webhook.application(integration) for webhook in WEBHOOKS] == [
        "https://app.example/e",
        "https://app.example/i",
    ]
