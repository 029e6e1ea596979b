"""Twilio's requests to applications: status callbacks, and how they are signed. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urlencode

from gateway.simulator.api import Delivery

NO_PATH = re.compile(r"^https?://[^/?]+(?=$|\?)", re.IGNORECASE)


class Callback(NamedTuple):
    """Whom an object's changes are told."""

    url: str
    method: str
    token: str
    """The auth token of the account, whoever asked: it signs."""


def signature(token: str, url: str, parameters: Iterable[tuple[str, str]] = ()) -> str:
    """The X-Twilio-Signature of a request: of its URL, and of what a form holds, by name and without duplicates."""
    signed = url + "".join(name + value for name, value in sorted(set(parameters)))
    return base64.b64encode(hmac.new(token.encode(), signed.encode(), hashlib.sha1).digest()).decode()


def delivery(
    callback: Callback,
    parameters: Sequence[tuple[str, str]],
    *,
    object_id: str,
    after_ms: int,
    still_so: Callable[[], bool],
    idempotency_token: str,
) -> Delivery:
    """Tell an application of a change."""
    # A fragment is for Twilio itself, and never leaves it. A URL without a path arrives with the shortest there is.
    url, body = NO_PATH.sub(r"\g<0>/", callback.url.partition("#")[0]), b""
    if callback.method == "GET":
        url += ("&" if "?" in url else "?") + urlencode(parameters)
        signed = signature(callback.token, url)
    else:
        body = urlencode(parameters).encode()
        signed = signature(callback.token, url, parameters)
    headers = (
        ("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8"),
        ("Accept", "*/*"),
        ("User-Agent", "TwilioProxy/1.1"),
        ("X-Home-Region", "us1"),
        ("X-Twilio-Signature", signed),
        ("I-Twilio-Idempotency-Token", idempotency_token),
    )
    return Delivery(
        after_ms=after_ms,
        method=callback.method,
        url=url,
        body=body,
        headers=headers if body else headers[1:],
        object_id=object_id,
        still_so=still_so,
    )
