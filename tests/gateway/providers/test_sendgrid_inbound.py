"""Mail that comes in, as inbound parse posts it."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.sendgrid.inbound import arrived
from metering.event_types import EVENT_TYPES
from metering.usage import Completeness

ENVELOPE = {"to": ["desk@in.example.com"], "from": "Ada@Example.com"}
MAIL = {
    "headers": "Received: by mx.example.com\nMessage-ID: <1@example.com>\nSubject: Toll\n" + "X: y\n" * 500,
    "to": "Desk <desk@in.example.com>",
    "from": "Ada <ada@example.com>",
    "subject": "Toll",
    "text": "Where do I pay?",
    "envelope": json.dumps(ENVELOPE),
    "attachments": "1",
    "attachment1": "%PDF",
    "SPF": "pass",
}


def form(fields, boundary="xYzZY"):
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    return ("".join(parts) + f"--{boundary}--\r\n").encode("utf-8", "surrogateescape")


def test_a_mail_is_one_whatever_is_in_it():
    usage = arrived(form(MAIL))

    assert (usage.event_type, usage.quantities, usage.completeness) == (
        "email_inbound",
        {"recipients": 1},
        Completeness.REPORTED,
    )
    assert usage.parties == {"from": "ada@example.com", "to": "desk@in.example.com"}
    assert usage.metadata == {"attachments": 1}
    assert EVENT_TYPES[usage.event_type].direction == "inbound"


def test_a_mail_that_is_posted_again_is_the_same_mail():
    """Guards the count: a post is repeated for days, each time with another boundary."""
    assert arrived(form(MAIL, "a")).external_id == arrived(form(MAIL, "another-boundary")).external_id


@given(st.sampled_from(sorted(MAIL)), st.text(max_size=20).filter(lambda text: "xYzZY" not in text))
def test_another_mail_is_another(name, value):
    """Guards mail whose sender gives all of it one id."""
    changed = MAIL | {name: value}

    assert (arrived(form(MAIL)).external_id == arrived(form(changed)).external_id) is (changed == MAIL)


def test_nothing_that_was_posted_is_in_what_is_kept_but_who_took_part():
    usage = arrived(form(MAIL))

    said = repr((usage.external_id, usage.metadata, usage.quantities, usage.resource))
    for word in ("Toll", "pay", "ada", "PDF"):
        assert word not in said


@pytest.mark.parametrize(
    ("envelope", "parties"),
    [
        ("", {}),
        ("{", {}),
        ("[]", {}),
        ('{"to": []}', {}),
        ('{"to": "desk@in.example.com"}', {"to": "desk@in.example.com"}),
        ('{"to": [7], "from": ["x"]}', {}),
        ('{"to": ["a@example.com", "b@example.com"], "from": ""}', {"to": "a@example.com"}),
    ],
)
def test_who_took_part_is_known_where_the_envelope_says_it(envelope, parties):
    assert arrived(form(MAIL | {"envelope": envelope})).parties == parties


@given(st.binary(max_size=300))
def test_whatever_is_posted_is_an_arrival_and_raises_nothing(body):
    assert arrived(body).quantities == {"recipients": 1}
    assert arrived(b"--x\r\n" + body).external_id == arrived(b"--x\r\n" + body).external_id


def test_a_large_mail_is_read_where_it_lies():
    """Guards memory: attachments of 30 MB are neither copied nor read."""
    body = form(MAIL | {"attachment1": "x" * (30 << 20)})
    tracemalloc.start()
    try:
        usage = arrived(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert usage.parties["to"] == "desk@in.example.com"
    assert peak < 4 << 20
