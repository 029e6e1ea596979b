"""Standard Webhooks: the headers by which whoever has the secret knows that a delivery is ours, whole, and of now. Pure.

https://www.standardwebhooks.com, version 1 with a shared secret. The id stays the same however often a delivery is made,
the time is that of each attempt, and while a secret is replaced there is a signature for each of the two.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105  Libraries take secrets with it and without.


def headers(secrets: Sequence[str], delivery_id: str, time_s: int, body: bytes) -> tuple[tuple[str, str], ...]:
    """The three headers, signed with each of these secrets. Raises ValueError for a secret that is not base64."""
    said = b"%s.%d.%s" % (delivery_id.encode(), time_s, body)
    signatures = (
        base64.b64encode(hmac.digest(base64.b64decode(secret.removeprefix(SECRET_PREFIX)), said, "sha256")).decode()
        for secret in secrets
    )
    return (
        ("webhook-id", delivery_id),
        ("webhook-timestamp", str(time_s)),
        ("webhook-signature", " ".join(f"v1,{signature}" for signature in signatures)),
    )
