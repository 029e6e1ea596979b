"""What Twilio tells applications by itself, and how each is verified, read, answered and passed on. Pure.

The signature is that of the account's auth token, over the URL that was configured. A form may hold the account's SID, which
must be the tenant's: on an account that several share, Twilio signs what any of them had it call.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote_plus, urlencode

from gateway.providers.api import Content, Delivery, Proofs, Reply, Told, Webhook
from gateway.providers.twilio.callback_requests import CARRIED, STATUS, VOICE
from gateway.providers.twilio.callbacks import Form, form_of, read_message, read_status, read_voice
from gateway.providers.twilio.redirects import asked_again, fetched, redirected
from gateway.providers.twilio.signatures import FORM, HEADER, signed, verified
from gateway.providers.twilio.twiml import led_back

BODY_BYTES_MAX = 256 << 10
"""The longest message with ten media, or what somebody said in a minute, is a tenth of it."""

IDEMPOTENCY_TOKEN = "I-Twilio-Idempotency-Token"  # noqa: S105 - a header's name
TOKEN_CHARACTERS_MAX = 100

TWIML = b"text/xml"
NO_REPLY = Reply(200, TWIML, b"<Response/>")
"""To a message: the application has what it says passed on, and answers with a message of its own if it likes."""

OUT_OF_ORDER = Reply(
    200,
    TWIML,
    b'<?xml version="1.0" encoding="UTF-8"?><Response><Say>We are sorry, your call can not be answered right now. '
    b"Please try again later.</Say><Hangup/></Response>",
)
"""To a call whose application does not answer."""


def is_authentic(delivery: Delivery, proofs: Proofs) -> bool:
    told = delivery.headers.getall(HEADER, [])
    if len(told) != 1:
        return False
    content_type = delivery.headers.get("Content-Type", "")
    token = proofs.credential.get("auth_token", "")
    return verified((token,), delivery.url, told[0], delivery.body, content_type, delivery.method)


def _reading(
    read: Callable[[Form, Delivery, Callable[[str], str]], Told | None],
) -> Callable[[Delivery, Callable[[str], str]], Told | None]:
    def reading(delivery: Delivery, reference: Callable[[str], str]) -> Told | None:
        # The hashes of parties are made where it is recorded.
        form = form_of(delivery.query.encode() if delivery.method == "GET" else delivery.body)
        return None if form is None else read(form, delivery, reference)

    return reading


def _signed(form: Form, delivery: Delivery) -> str:
    """What a delivery's signature is over, in one spelling: the same, told again, is no further one."""
    return f"{delivery.url}\n{urlencode(sorted(set(form)))}"


def _token(delivery: Delivery) -> str | None:
    token = delivery.headers.get(IDEMPOTENCY_TOKEN, "")
    return token if 0 < len(token) <= TOKEN_CHARACTERS_MAX and token.isascii() and token.isprintable() else None


def content(delivery: Delivery) -> Content:
    """The form as it came. What is meant for us in the URL, and the signature that is not the application's to verify, stay."""
    token = _token(delivery)
    headers = () if token is None else ((IDEMPOTENCY_TOKEN, token),)
    if delivery.method == "GET":
        parts = [part for part in delivery.query.split("&") if unquote_plus(part.partition("=")[0]) != CARRIED]
        return Content("GET", "", "&".join(parts).encode("latin-1", "replace"), headers)
    body = delivery.body if delivery.carried is None else asked_again(delivery.body, delivery.carried.said)
    form = form_of(body) or ()
    # In another order it has the same signature.
    identity = urlencode(sorted(set(form))).encode()
    return Content("POST", delivery.headers.get("Content-Type", FORM), body, headers, identity)


def fallen_back(content: Content, url: str, status: int | None) -> Content:
    """What Twilio submits to a fallback besides: why, by its own codes, and which URL it stands in for. `status` is None where
    there was no whole answer; a good one was too long."""
    if status is None:
        code = 11200  # HTTP retrieval failure
    elif status < 300:
        code = 11750  # TwiML response body too large
    else:
        code = 11216 if status < 400 else 11200  # HTTP invalid redirect
    failure = urlencode({"ErrorCode": code, "ErrorUrl": url}).encode()
    return content._replace(body=b"&".join(part for part in (content.body, failure) if part))


WEBHOOKS = tuple(
    Webhook(
        name=name,
        methods=frozenset({"GET", "POST"}),
        body_bytes_max=BODY_BYTES_MAX,
        is_authentic=is_authentic,
        read=_reading(read),
        content=content,
        application=application,
        fallback=(lambda integration: integration.voice_fallback_url) if name == VOICE else (lambda _: None),
        fallen_back=fallen_back,
        own=("phone_numbers", "twilio_messaging_services"),
        sign=signed,
        reply=reply,
        led_back=led_back if name == VOICE else None,
        redirected=redirected,
        fetched=fetched,
    )
    for name, read, application, reply in (
        ("sms", lambda form, *_: read_message(form), lambda integration: integration.sms_url, NO_REPLY),
        (STATUS, lambda form, *_: read_status(form), lambda integration: integration.status_url, Reply(204)),
        (
            VOICE,
            lambda form, delivery, reference: read_voice(
                form, step=reference(_signed(form, delivery)), carried=delivery.carried
            ),
            lambda integration: integration.voice_url,
            OUT_OF_ORDER,
        ),
    )
)
