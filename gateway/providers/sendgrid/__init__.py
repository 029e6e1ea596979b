"""SendGrid: its endpoints, and how its requests and answers tell what they use.

Sources: the official OpenAPI description, what the SDKs send (sendgrid-python 6.12, @sendgrid/mail 8.1), and the API
reference.
"""

from __future__ import annotations

import re

from gateway.providers.api import Endpoint, FirstSteps, Provider
from gateway.providers.bearer import authorize, presented_key
from gateway.providers.free import makes, reads_back, unlisted_by
from gateway.providers.sendgrid.mail import MailMeter, MailWatch
from gateway.providers.sendgrid.paths import OBJECT_ID, OPEN, REFERENCE
from gateway.providers.sendgrid.refusals import missing, refusal
from gateway.providers.sendgrid.unlisted import unknown

unlisted = unlisted_by(unknown)


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
    administration=re.compile(rf"(?!(?:{OPEN})$).*", re.DOTALL),
    object_id=OBJECT_ID,
    references=(REFERENCE,),
    refusal=refusal,
    missing=missing,
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
