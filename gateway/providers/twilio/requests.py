"""What Twilio's forms say of what is asked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote_plus

from gateway.providers.learnt import Prepared
from gateway.providers.twilio.resources import Resource, message_type, parties_of, resource_of

FORM_BYTES_MAX = 64 << 10
"""A form up to this size is read. A message has at most 1,600 characters and ten media."""


def read_message(body: bytes) -> Prepared:
    """Learn from a form whom a message is for, and leave it as it is."""
    form = _read_form(body)
    asked = Resource(
        to=form.get(b"To"),
        from_=form.get(b"From"),
        messaging_service_sid=form.get(b"MessagingServiceSid"),
        num_media="1" if b"MediaUrl" in form else "0",
    )
    return Prepared(body=body, resource=resource_of(asked), event_type=message_type(asked), parties=parties_of(asked))


def read_call(body: bytes) -> Prepared:
    """Learn from a form whom a call is for, and leave it as it is."""
    form = _read_form(body)
    asked = Resource(to=form.get(b"To"), from_=form.get(b"From"))
    return Prepared(body=body, resource=resource_of(asked), parties=parties_of(asked))


_FIELDS = frozenset({b"To", b"From", b"MessagingServiceSid", b"MediaUrl"})
"""What is read of a form; everything else is skipped undecoded."""


def _read_form(body: bytes) -> Mapping[bytes, str]:
    """The first value of each field; empty for what is no form, which is the provider's to refuse."""
    fields: dict[bytes, str] = {}
    if len(body) <= FORM_BYTES_MAX:
        for pair in body.split(b"&"):
            name, _, value = pair.partition(b"=")
            if name in _FIELDS and name not in fields:
                fields[name] = unquote_plus(value.decode("latin-1"))
    return fields
