"""Mail that comes in at the simulated SendGrid, and the posts by which an application has it."""

from __future__ import annotations

import asyncio
import base64
import re
from pathlib import Path
from typing import Any

import pytest
from sendgrid.helpers.eventwebhook import EventWebhook

from gateway.simulator.process import RunningSimulator
from gateway.simulator.sendgrid_events import Signer
from gateway.simulator.sendgrid_inbound import Attachment, InboundMail, posts
from tests.gateway.simulator.directed import Directed
from tests.gateway.simulator.receiver import receiver

TICKET = bytes(range(256))
GIVEN: dict[str, Any] = {"to": "desk@in.example.com", "from": "ada@example.com", "subject": "Töll", "text": "Where?"}
FILE = {"filename": "ticket.bin", "content": base64.b64encode(TICKET).decode(), "type": "application/x-ticket"}


def parts(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a form, as they lie in it."""
    boundary = b"--" + content_type.partition("boundary=")[2].encode()
    assert body.endswith(boundary + b"--\r\n")
    found = {}
    for part in body.split(boundary)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        found[head.partition(b'name="')[2].partition(b'"')[0].decode()] = content.removesuffix(b"\r\n")
    return found


async def test_a_mail_that_comes_in_is_posted_as_a_form(running: tuple[RunningSimulator, Path]) -> None:
    async with receiver() as application:
        given = {**GIVEN, "url": f"{application.base_url}/mail", "attachments": [FILE], "repeat": 2}
        made = await asyncio.to_thread(lambda: Directed(*running).ask("/sendgrid/inbound-mail", given))
        first, second = await application.until(2)

    assert re.fullmatch(r"[A-Za-z0-9_-]{20,40}", made["id"])
    told = [parts(one.headers["Content-Type"], one.body) for one in (first, second)]
    assert told[0] == told[1]
    assert first.body != second.body, "each with a boundary of its own"
    assert told[0]["subject"].decode() == "Töll"
    assert told[0]["attachment1"] == TICKET
    assert (told[0]["attachments"], told[0]["to"]) == (b"1", b"desk@in.example.com")


def test_it_is_signed_where_the_account_signs() -> None:
    signer = Signer(7)
    mail = InboundMail(url="http://127.0.0.1/", to="a@b.example", source="c@d.example")
    (post,) = posts(mail, "id", ["b"], signer)
    assert post.signed is not None
    told = dict(post.signed(1_800_000_000.0))

    validator = EventWebhook()
    assert validator.verify_signature(
        post.body.decode(),
        told["X-Twilio-Email-Event-Webhook-Signature"],
        told["X-Twilio-Email-Event-Webhook-Timestamp"],
        validator.convert_public_key_to_ecdsa(signer.public_key),
    )


def test_an_attachment_that_is_not_base64_is_refused() -> None:
    mail = InboundMail(url="http://127.0.0.1/", to="a@b.example", source="c", attachments=(Attachment("a", "é"),))

    with pytest.raises(ValueError, match="not base64"):
        posts(mail, "id", ["b"], None)
