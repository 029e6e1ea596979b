"""What becomes of simulated mail, and what the event webhook tells of it. No I/O.

The local part of an address decides, whatever follows a `+` in it: mail to `bounce@…`, `blocked@…`, `dropped@…`,
`deferred@…`, `open@…`, `click@…`, `spamreport@…` and `unsubscribe@…` ends so, and all other mail is delivered. A request
can decide instead, for all its recipients. Nobody is suppressed for it: the next mail to the same address ends in the
same way.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.simulator.api import Delivery
from gateway.simulator.sendgrid_asked import encode
from gateway.simulator.sendgrid_mail import Mail, Part

STEP_MS = 50
"""How long a mail takes to be processed, and for each further step, where the request does not say."""

DELIVERED = ("processed", "delivered")
COURSES: Mapping[str, tuple[str, ...]] = {
    "delivered": DELIVERED,
    "bounce": ("processed", "bounce"),
    "blocked": ("processed", "blocked"),
    "dropped": ("dropped",),
    "deferred": ("processed", "deferred", "delivered"),
    "open": (*DELIVERED, "open"),
    "click": (*DELIVERED, "open", "click"),
    "spamreport": (*DELIVERED, "spamreport"),
    "unsubscribe": (*DELIVERED, "unsubscribe"),
}
"""By local part or outcome, the events of one recipient, in order."""

USER_AGENT = "Mozilla/5.0 (simulated)"
DETAILS: Mapping[str, Mapping[str, Any]] = {
    "delivered": {"response": "250 2.0.0 OK", "ip": "192.0.2.1", "tls": 1},
    "deferred": {"response": "450 4.2.0 try again later", "attempt": "1"},
    "bounce": {
        "reason": "550 5.1.1 no such mailbox",
        "status": "5.1.1",
        "type": "bounce",
        "bounce_classification": "Invalid Address",
        "ip": "192.0.2.1",
        "tls": 1,
    },
    "blocked": {
        "event": "bounce",
        "reason": "554 5.7.1 refused by policy",
        "status": "5.7.1",
        "type": "blocked",
        "bounce_classification": "Reputation",
        "ip": "192.0.2.1",
        "tls": 1,
    },
    "dropped": {"reason": "Bounced Address", "status": "5.0.0"},
    "open": {"useragent": USER_AGENT, "ip": "192.0.2.2", "sg_machine_open": False, "sg_content_type": "html"},
    "click": {"useragent": USER_AGENT, "ip": "192.0.2.2", "url": "https://example.com/toll"},
}
"""What an event says besides; a block is a kind of bounce."""

SETTINGS: Mapping[str, str] = {"blocked": "bounce", "spamreport": "spam_report"}
"""The webhook's setting for an event, where it is not the event's name."""

METRICS: Mapping[str, tuple[str, ...]] = {
    "processed": ("processed",),
    "delivered": ("delivered",),
    "deferred": ("deferred",),
    "bounce": ("bounces",),
    "blocked": ("blocks",),
    "dropped": ("bounce_drops",),
    "open": ("opens", "unique_opens"),
    "click": ("clicks", "unique_clicks"),
    "spamreport": ("spam_reports",),
    "unsubscribe": ("unsubscribes",),
}
"""What an event counts as, in the statistics."""


class Signer:
    """The key of one account's event webhook."""

    def __init__(self, secret: int) -> None:
        self._key = ec.derive_private_key(secret, ec.SECP256R1())

    @property
    def public_key(self) -> str:
        der = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(der).decode()

    def sign(self, body: bytes) -> Callable[[float], tuple[tuple[str, str], ...]]:
        """What makes the headers, once it is known when they leave."""
        return lambda at: self.headers(body, at)

    def headers(self, body: bytes, at: float) -> tuple[tuple[str, str], ...]:
        timestamp = str(int(at))
        signature = self._key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        return (
            ("X-Twilio-Email-Event-Webhook-Signature", base64.b64encode(signature).decode()),
            ("X-Twilio-Email-Event-Webhook-Timestamp", timestamp),
        )


class Webhook(NamedTuple):
    """Where events are told, and which."""

    url: str
    settings: Mapping[str, Any]
    signer: Signer | None
    """None where events are not signed."""


class Course(NamedTuple):
    """What a request says about how its mail goes on."""

    outcome: str | None
    """None where each address decides."""
    step_ms: int = STEP_MS

    def of(self, email: str) -> tuple[str, ...]:
        local_part = email.partition("@")[0].partition("+")[0].lower()
        return COURSES.get(self.outcome or local_part, DELIVERED)


def due(part: Part, now: float) -> float:
    """When a personalization is sent; one that should have been sent already is sent now."""
    return max(now, part.send_at or 0)


def sg_message_id(message_id: str, part: int, recipient: int, at: float) -> str:
    """What a message to one recipient is called; the part before the first dot is what the sender was told."""
    return f"{message_id}.recvd-6bb4c4ddc4-t0115-1-{int(at):X}-{part}.{recipient}"


def deliveries(
    mail: Mail,
    message_id: str,
    now: float,
    course: Course,
    webhook: Webhook,
    event_id: Callable[[], str],
    still_so: Callable[[], bool],
) -> Iterator[Delivery]:
    """What the webhook tells of a mail: one array for each step, of all recipients for whom it comes at that time."""
    numbered = sorted(enumerate(mail.parts), key=lambda entry: due(entry[1], now))
    for at, parts in itertools.groupby(numbered, key=lambda entry: due(entry[1], now)):
        together = list(parts)
        steps = max((len(course.of(email)) for _, part in together for email in part.recipients), default=0)
        for step in range(steps):
            after_ms = (step + 1) * course.step_ms
            moment = at + after_ms / 1000
            events = [
                event_of(mail, part, email, event, sg_message_id(message_id, number, index, at), moment, event_id())
                for number, part in together
                for index, email in enumerate(part.recipients)
                for event in course.of(email)[step : step + 1]
                if webhook.settings.get(SETTINGS.get(event, event))
            ]
            if events:
                body = told(events)
                yield Delivery(
                    after_ms=int((at - now) * 1000) + after_ms,
                    url=webhook.url,
                    body=body,
                    headers=(
                        ("Content-Type", "application/json"),
                        ("User-Agent", "SendGrid Event API"),
                    ),
                    signed=webhook.signer.sign(body) if webhook.signer else None,
                    object_id=message_id,
                    still_so=still_so,
                )


def event_of(
    mail: Mail, part: Part, email: str, event: str, sg_id: str, moment: float, event_id: str
) -> dict[str, Any]:
    """One event. Custom arguments stand beside the API's own fields, and never instead of them."""
    told: dict[str, Any] = {
        **part.custom_args,
        "email": email,
        "timestamp": int(moment),
        "event": event,
        "sg_event_id": event_id,
        "sg_message_id": sg_id,
        "smtp-id": f"<{sg_id.partition('.')[0]}@geopod-ismtpd-0>",
        **DETAILS.get(event, {}),
    }
    if mail.categories:
        told["category"] = list(mail.categories)
    if mail.group_id is not None:
        told["asm_group_id"] = mail.group_id
    if mail.template_id is not None:
        told["sg_template_id"] = mail.template_id
    return told


def told(events: Sequence[Mapping[str, Any]]) -> bytes:
    """The body, with the line end that belongs to it and to the signature."""
    return b"[%b]\r\n" % b",\r\n".join(map(encode, events))
