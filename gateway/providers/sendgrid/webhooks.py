"""What SendGrid tells applications by itself, and how each is verified, read, answered and passed on. Pure.

Both are signed by a key of the tenant's integration: the one that SendGrid shows for the event webhook, and, for mail that
comes in, for a security policy with a signature. A tenant without a key is told nothing, since whoever knows the URL could.

An application knows what is passed on by the headers of Standard Webhooks that go with every delivery: SendGrid's own
signature is made with a private key, which is not ours to make another with.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.providers.api import Content, Delivery, Made, Proofs, Reply, Told, Webhook
from gateway.providers.sendgrid import inbound
from gateway.providers.sendgrid.events import heard
from gateway.providers.sendgrid.signatures import SIGNATURE_HEADER, TIMESTAMP_HEADER, verified

EVENTS_BYTES_MAX = 10 << 20
"""SendGrid sends no more than 768 KiB of events at once."""


def is_authentic(delivery: Delivery, proofs: Proofs) -> bool:
    key = proofs.integration.sendgrid_verification_key
    timestamps, signatures = (delivery.headers.getall(name, []) for name in (TIMESTAMP_HEADER, SIGNATURE_HEADER))
    if key is None or len(timestamps) != 1 or len(signatures) != 1:
        return False
    return verified(key, timestamps[0], signatures[0], delivery.body, proofs.now_s)


def _events(delivery: Delivery, reference: Callable[[str], str]) -> Told:
    found = heard(delivery.body, reference)
    return Told(order_key=found.order_key, late=found.late)


def _mail(delivery: Delivery, reference: Callable[[str], str]) -> Told:
    usage = inbound.arrived(delivery.body)
    return Told(order_key=inbound.ORDER_KEY, made=(Made(f"{usage.external_id}:made", "inbound.parse", usage),))


def content(delivery: Delivery) -> Content:
    """The body, byte for byte."""
    return Content(delivery.method, delivery.headers.get("Content-Type", ""), delivery.body)


def unsigned(
    secret: str, url: str, method: str, media_type: str, body: bytes
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Nothing of SendGrid's own goes with it."""
    return url, ()


WEBHOOKS = (
    Webhook(
        name="events",
        body_bytes_max=EVENTS_BYTES_MAX,
        is_authentic=is_authentic,
        read=_events,
        content=content,
        application=lambda integration: integration.events_url,
        own=None,
        sign=unsigned,
        reply=Reply(200),
    ),
    Webhook(
        name="inbound",
        body_bytes_max=inbound.BODY_BYTES_MAX,
        is_authentic=is_authentic,
        read=_mail,
        content=content,
        application=lambda integration: integration.inbound_url,
        own=None,
        sign=unsigned,
        reply=Reply(200),
    ),
)
