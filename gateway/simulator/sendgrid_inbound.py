"""Mail that comes in at the simulated SendGrid, as inbound parse posts it: a form with the mail in it. Pure.

Where the account's event webhook is signed, so is this, with the same key, as by a security policy that has it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

import msgspec

from gateway.simulator.api import Delivery
from gateway.simulator.sendgrid_events import Signer


class Attachment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a mail."""

    filename: str
    content: str
    """In base64."""
    type: str = "application/octet-stream"


class InboundMail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a test says about a mail that comes in."""

    url: str
    """Where the settings of inbound parse lead."""
    to: str
    source: str = msgspec.field(name="from")
    subject: str = ""
    text: str = ""
    attachments: tuple[Attachment, ...] = ()
    repeat: int = 1
    """How often it is posted, each time with another boundary."""


def posts(mail: InboundMail, mail_id: str, boundaries: Sequence[str], signer: Signer | None) -> tuple[Delivery, ...]:
    """What is posted of a mail: once for each boundary. Raises ValueError for an attachment that is not base64."""
    return tuple(_post(mail, mail_id, boundary, signer) for boundary in boundaries)


def _post(mail: InboundMail, mail_id: str, boundary: str, signer: Signer | None) -> Delivery:
    body = _form(mail, mail_id, boundary)
    return Delivery(
        after_ms=0,
        url=mail.url,
        body=body,
        headers=(
            ("Content-Type", f"multipart/form-data; boundary={boundary}"),
            ("User-Agent", "SendGrid-Inbound-Parse"),
        ),
        signed=None if signer is None else signer.sign(body),
        object_id=mail_id,
    )


def _form(mail: InboundMail, mail_id: str, boundary: str) -> bytes:
    names = [f"attachment{number + 1}" for number in range(len(mail.attachments))]
    files = dict(zip(names, mail.attachments, strict=True))
    told = {name: {"filename": one.filename, "name": one.filename, "type": one.type} for name, one in files.items()}
    fields = {
        "headers": f"Message-ID: <{mail_id}@example.com>\nFrom: {mail.source}\nTo: {mail.to}\nSubject: {mail.subject}\n",
        "dkim": "{@example.com : pass}",
        "to": mail.to,
        "from": mail.source,
        "text": mail.text,
        "sender_ip": "192.0.2.7",
        "spam_score": "0.1",
        "envelope": json.dumps({"to": [mail.to], "from": mail.source}),
        "attachments": str(len(files)),
        **({"attachment-info": json.dumps(told)} if told else {}),
        "subject": mail.subject,
        "charsets": json.dumps(dict.fromkeys(("to", "from", "subject", "text"), "UTF-8")),
        "SPF": "pass",
    }
    pieces = [_part(boundary, f'name="{name}"', (), value.encode()) for name, value in fields.items()]
    for name, one in files.items():
        try:
            content = base64.b64decode(one.content, validate=True)
        except ValueError:
            raise ValueError(f"the content of {one.filename[:80]} is not base64") from None
        lines = (f"Content-Type: {one.type}",)
        pieces.append(_part(boundary, f'name="{name}"; filename="{one.filename}"', lines, content))
    return b"".join((*pieces, f"--{boundary}--\r\n".encode()))


def _part(boundary: str, named: str, lines: Sequence[str], content: bytes) -> bytes:
    head = "\r\n".join((f"--{boundary}", f"Content-Disposition: form-data; {named}", *lines))
    return head.encode() + b"\r\n\r\n" + content + b"\r\n"
