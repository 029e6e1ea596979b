"""A mail as large as SendGrid takes them is streamed through as it comes, compressed or not, and counted."""

from __future__ import annotations

import base64
import gzip
import json
import random

import pytest

from tests.walks.harness import ON_BOTH, eventually
from tests.walks.sides import alike_headers, directly_to_sendgrid, raw, through_to_sendgrid

pytestmark = ON_BOTH

SIMULATOR_ARGUMENTS = ()
"""No bodies in the truth log: their sizes and sums are enough."""


@pytest.fixture(scope="module")
def sides(gateway):
    return directly_to_sendgrid(gateway), through_to_sendgrid(gateway, gateway.tenant("large"))


@pytest.fixture(scope="module")
def large():
    """25 MB, and the same in gzip."""
    attachments = [
        {"content": base64.b64encode(random.Random(n).randbytes(6_250_000)).decode(), "filename": f"{n}.bin"}
        for n in range(3)
    ]
    mail = {
        "attachments": attachments,
        "personalizations": [
            {"to": [{"email": f"to-{n}@example.com"}], "cc": [{"email": f"cc-{n}@example.com"}]} for n in range(100)
        ],
        "from": {"email": "toll@example.com"},
        "subject": "Toll due",
        "content": [{"type": "text/plain", "value": "Large."}],
    }
    whole = json.dumps(mail).encode()
    assert 25_000_000 < len(whole) < 26_000_000
    return whole, gzip.compress(whole, 1)


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_mail_of_25_megabytes_goes_through_as_it_comes_and_is_counted(gateway, sides, large, coding, framing):
    direct, through = sides
    body = large[coding == "gzip"]
    pieces = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
    headers = {"Content-Type": "application/json"} | ({"Content-Encoding": "gzip"} if coding == "gzip" else {})
    headers |= {"Content-Length": str(len(body))} if framing == "length" else {}

    answers = [
        raw(side, "POST", "/v3/mail/send", iter(pieces), {**headers, "Authorization": f"Bearer {side.key}"})
        for side in (direct, through)
    ]

    assert [answer.status for answer in answers] == [202, 202]
    assert alike_headers(answers[1].headers) == alike_headers(answers[0].headers)
    expected, found = (
        next(x for x in gateway.truth() if x.object_id == answer.header("x-message-id")) for answer in answers
    )
    assert (found.body_bytes, found.body_sha256) == (expected.body_bytes, expected.body_sha256)
    assert found.header("content-encoding") == expected.header("content-encoding")
    call_id = answers[1].header("x-tollkeeper-call-id")
    event = eventually(lambda: {e["call_id"]: e for e in gateway.events("large")}.get(call_id), "the mail's event")
    assert event["quantities"] == {"recipients": 200} == {"recipients": found.usage["recipients"]}
    assert (event["completeness"], event["external_id"]) == ("reported", found.object_id)
