"""SendGrid: its endpoints, and how its requests and answers tell what they use.

Sources: the official OpenAPI description, what the SDKs send (sendgrid-python 6.12, @sendgrid/mail 8.1), and the API
reference.
"""

from __future__ import annotations

import re

from gateway.providers.api import FirstSteps, Provider
from gateway.providers.bearer import authorize, presented_key
from gateway.providers.free import unlisted_by
from gateway.providers.sendgrid.endpoints import ENDPOINTS
from gateway.providers.sendgrid.figures import figures
from gateway.providers.sendgrid.paths import OBJECT_ID, OPEN, REFERENCE, REFERENCE_SIGN
from gateway.providers.sendgrid.records import RECORDS, TOTALS
from gateway.providers.sendgrid.refusals import missing, refusal
from gateway.providers.sendgrid.unlisted import unknown
from gateway.providers.sendgrid.webhooks import WEBHOOKS

unlisted = unlisted_by(unknown)


PROVIDER = Provider(
    name="sendgrid",
    base_url="https://api.sendgrid.com",
    credential_fields=("api_key",),
    endpoints=ENDPOINTS,
    unlisted=unlisted,
    presented_key=presented_key,
    authorize=authorize,
    credential_headers=frozenset({b"authorization"}),
    account_headers=frozenset(),
    speaks_for=frozenset({"on-behalf-of"}),
    administration=re.compile(rf"(?!(?:{OPEN})$).*", re.DOTALL),
    object_id=OBJECT_ID,
    references=(REFERENCE,),
    reference_sign=REFERENCE_SIGN,
    refusal=refusal,
    missing=missing,
    webhooks=WEBHOOKS,
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
