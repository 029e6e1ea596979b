"""SendGrid's paths: what of them is open on an account that several tenants share, and what names an object. Pure."""

from __future__ import annotations

import re

OPEN = (
    r"/v3/(mail/send|mail/batch(/[^/]+)?|user/scheduled_sends(/[^/]+)?"
    r"|templates(/[^/]+(/versions(/[^/]+(/activate)?)?)?)?|validations/email(/jobs(/[^/]+)?)?)"
)
"""All that is open on an account that several tenants share. Everything else shows or sets what is everybody's: keys,
subusers, suppressions, webhooks, statistics, contacts."""

UUID = rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"

OBJECT_ID = re.compile(rf"d-[0-9a-f]{{32}}|{UUID.decode()}")

REFERENCE = re.compile(
    rb'(?i:"(?:template_id"\s*:\s*"|batch_id"\s*:\s*"(?!%s"))(?=[^"]{0,199}[a-z0-9_=+/-]{20}|[^"]{200}))'
    rb'((?:[^"\\]|\\.){8,199}(?=")|(?:[^"\\]|\\.){200})' % UUID,
    re.DOTALL,
)
"""All that these fields hold, or its beginning: an id among spaces is nobody's. What is shorter than the provider's ids
is none, and no batch has a UUID: applications have fields of these names among their own data as well."""

REFERENCE_SIGN = bytes(range(256)).lower(), b'_id"'
"""How the names of these fields end, in any case."""
