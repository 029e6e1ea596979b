"""SendGrid: its endpoints, and how its requests and answers tell what they use.

Sources: the official OpenAPI description, what the SDKs send (sendgrid-python 6.12, @sendgrid/mail 8.1), and the API
reference. A mail's answer is empty: how many it goes to stands in the request, and its only name in a header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from gateway.messages import ResponseHead
from gateway.providers.api import Endpoint, ErrorBody, FirstSteps, Meter, Prepared, Provider, Usage
from gateway.providers.bearer import authorize, presented_key
from gateway.providers.free import made, makes, reads_back, unlisted_by
from gateway.providers.json_scan import JsonScan, Path
from gateway.providers.sendgrid.figures import figures
from gateway.providers.sendgrid.records import RECORDS, TOTALS, TRANSACTIONAL
from metering.usage import Completeness

# ---------------------------------------------------------------------------------------------------------------------
# Requests

_PERSONALIZATION: Path = ("personalizations", "[]")
_RECIPIENTS = frozenset((*_PERSONALIZATION, role, "[]") for role in ("to", "cc", "bcc"))


class MailWatch:
    """Counts the recipients of a mail: `to`, `cc` and `bcc` over all personalizations. Attachments pass by unread.

    A field that stands twice is counted twice, since nobody knows which of the two the provider takes: it refuses a
    recipient that is named twice, and a personalization without one.
    """

    __slots__ = ("_personalizations", "_recipients", "_scan", "_sender")

    def __init__(self) -> None:
        self._recipients = 0
        self._personalizations = 0
        self._sender: str | None = None
        self._scan = JsonScan(self._opened, ("from", "email"), self._sent_by)

    def feed(self, chunk: bytes) -> None:
        self._scan.feed(chunk)

    def finish(self, *, whole: bool) -> Prepared:
        known = whole and self._scan.complete and self._personalizations > 0
        return Prepared(
            body=b"",
            resource=TRANSACTIONAL,
            quantities={"recipients": self._recipients} if known else None,
            parties={} if self._sender is None else {"from": self._sender},
        )

    def _opened(self, path: Path) -> None:
        if path in _RECIPIENTS:
            self._recipients += 1
        elif path == _PERSONALIZATION:
            self._personalizations += 1

    def _sent_by(self, address: str) -> None:
        self._sender = address


# ---------------------------------------------------------------------------------------------------------------------
# Answers

_MESSAGE_ID = re.compile(r"[A-Za-z0-9_.=-]{1,200}")


class MailMeter:
    """Judges a mail by the head of its answer: 202 took it on, 200 only tried it out (sandbox mode), and bills nothing."""

    __slots__ = ("_head", "_prepared", "concluded")

    def __init__(self, head: ResponseHead, prepared: Prepared) -> None:
        self.concluded = False
        self._head = head
        self._prepared = prepared

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        if self._head.status == 200:
            return b"", Usage(
                quantities={},
                completeness=Completeness.REPORTED,
                event_type="api_call",
                metadata={"sandbox": True},
            )
        named = _MESSAGE_ID.fullmatch(next(iter(self._head.values(b"x-message-id")), ""))
        counted = self._prepared.quantities
        return b"", Usage(
            quantities=counted or {},
            completeness=Completeness.UNKNOWN if counted is None else Completeness.REPORTED,
            resource=self._prepared.resource,
            external_id=None if named is None else named[0],
        )


class Unknown:
    """The meter of what no endpoint lists: something may have been used, and the answer does not say what."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Meter) -> None:
        self._inner = inner

    @property
    def concluded(self) -> bool:
        return False

    def feed(self, chunk: bytes) -> bytes:
        return self._inner.feed(chunk)

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        held, usage = self._inner.finish(whole=whole)
        return held, Usage(quantities={}, completeness=Completeness.UNKNOWN, external_id=usage.external_id)


def unknown(head: ResponseHead, prepared: Prepared) -> Meter:
    return Unknown(made(head, prepared))


# ---------------------------------------------------------------------------------------------------------------------
# Who is asking, and what it may ask


def refusal(path: str, status: int, code: str, message: str) -> ErrorBody:
    return _errors({"message": message, "field": None, "help": None, "error_id": code})


def missing(path: str, object_id: str) -> ErrorBody:
    return _errors({"message": "resource not found", "field": None, "help": None})


def _errors(error: Mapping[str, object]) -> ErrorBody:
    return ErrorBody(b"application/json", msgspec.json.encode({"errors": [error]}))


unlisted = unlisted_by(unknown)


_OPEN = (
    r"/v3/(mail/send|mail/batch(/[^/]+)?|user/scheduled_sends(/[^/]+)?"
    r"|templates(/[^/]+(/versions(/[^/]+(/activate)?)?)?)?)"
)
"""All that is open on an account that several tenants share. Everything else shows or sets what is everybody's: keys,
subusers, suppressions, webhooks, statistics, contacts."""

_UUID = rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
_REFERENCE = re.compile(
    rb'(?i:"(?:template_id"\s*:\s*"|batch_id"\s*:\s*"(?!%s"))(?=[^"]{0,199}[a-z0-9_=+/-]{20}|[^"]{200}))'
    rb'((?:[^"\\]|\\.){8,199}(?=")|(?:[^"\\]|\\.){200})' % _UUID,
    re.DOTALL,
)
"""All that these fields hold, or its beginning: an id among spaces is nobody's. What is shorter than the provider's ids
is none, and no batch has a UUID: applications have fields of these names among their own data as well."""

PROVIDER = Provider(
    name="sendgrid",
    base_url="https://api.sendgrid.com",
    credential_fields=("api_key",),
    endpoints=(
        Endpoint(
            name="mail.send",
            method="POST",
            path="/v3/mail/send",
            event_type="email_outbound",
            describes="mail",
            meter=MailMeter,
            watch=MailWatch,
        ),
        makes("mail.batch.create", "/v3/mail/batch"),
        reads_back("mail.batch.get", "GET", "/v3/mail/batch/{batch_id}"),
        reads_back("scheduled_sends.list", "GET", "/v3/user/scheduled_sends", lists=True),
        makes("scheduled_sends.create", "/v3/user/scheduled_sends"),
        reads_back("scheduled_sends.get", "GET", "/v3/user/scheduled_sends/{batch_id}"),
        reads_back("scheduled_sends.update", "PATCH", "/v3/user/scheduled_sends/{batch_id}"),
        reads_back("scheduled_sends.delete", "DELETE", "/v3/user/scheduled_sends/{batch_id}"),
        reads_back("templates.list", "GET", "/v3/templates", lists=True),
        makes("templates.create", "/v3/templates"),
        makes("templates.duplicate", "/v3/templates/{template_id}"),
        reads_back("templates.get", "GET", "/v3/templates/{template_id}"),
        reads_back("templates.update", "PATCH", "/v3/templates/{template_id}"),
        reads_back("templates.delete", "DELETE", "/v3/templates/{template_id}"),
        reads_back("templates.versions.create", "POST", "/v3/templates/{template_id}/versions"),
        reads_back("templates.versions.get", "GET", "/v3/templates/{template_id}/versions/{part}"),
        reads_back("templates.versions.update", "PATCH", "/v3/templates/{template_id}/versions/{part}"),
        reads_back("templates.versions.delete", "DELETE", "/v3/templates/{template_id}/versions/{part}"),
        reads_back("templates.versions.activate", "POST", "/v3/templates/{template_id}/versions/{part}/activate"),
    ),
    unlisted=unlisted,
    presented_key=presented_key,
    authorize=authorize,
    credential_headers=frozenset({b"authorization"}),
    account_headers=frozenset(),
    speaks_for=frozenset({"on-behalf-of"}),
    administration=re.compile(rf"(?!(?:{_OPEN})$).*", re.DOTALL),
    object_id=re.compile(rf"d-[0-9a-f]{{32}}|{_UUID.decode()}"),
    references=(_REFERENCE,),
    refusal=refusal,
    missing=missing,
    records=RECORDS,
    totals=TOTALS,
    figures=figures,
    account_of="sendgrid_subuser",
    first_steps=FirstSteps(
        exports="SENDGRID_API_KEY=SG.{key}",
        path="{proxy}/sendgrid/v3/mail/send",
        body='{"personalizations": [{"to": [{"email": "ada@example.com"}]}], "from": {"email": "toll@example.com"}, '
        '"subject": "Hello", "content": [{"type": "text/plain", "value": "Hello"}]}',
        sdk_package="sendgrid",
        sdk_call="import sendgrid; c = sendgrid.SendGridAPIClient(host='{proxy}/sendgrid'); "
        "print(c.client.mail.batch.post().status_code)",
    ),
)
