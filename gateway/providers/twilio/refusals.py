"""Whose key a request to Twilio carries, what carries ours, and how Twilio says no. Pure."""

from __future__ import annotations

import base64
import binascii
import html
from collections.abc import Mapping

import msgspec

from gateway.keys import holds_key
from gateway.messages import Headers
from gateway.providers.api import ErrorBody
from gateway.providers.twilio.paths import OLD_VERSION


def presented_key(headers: Headers) -> str | None:
    """The password of Basic authentication (RFC 7617), where the SDKs put the auth token; or a bearer token.

    Of a pair whose user holds a key of ours it is the user: the pair would else be taken for a credential of Twilio's.
    """
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip() or None
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return user if holds_key(user) else password or None


def authorize(credential: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    pair = f"{credential['account_sid']}:{credential['auth_token']}".encode()
    return ((b"Authorization", b"Basic " + base64.b64encode(pair)),)


CODES = {400: 20001, 401: 20003, 403: 20403, 404: 20404, 429: 20429}
"""Twilio's own numbers for what a refusal means; others get 20000 plus the status."""


def refusal(path: str, status: int, code: str, message: str) -> ErrorBody:
    number = CODES.get(status, 20000 + status)
    return _error(path, status, number, message, {"details": {"code": code}})


def missing(path: str, object_id: str) -> ErrorBody:
    return _error(path, 404, 20404, f"The requested resource {path} was not found", {})


def _error(path: str, status: int, number: int, message: str, more: Mapping[str, object]) -> ErrorBody:
    info = f"https://www.twilio.com/docs/errors/{number}"
    if path.startswith(f"/{OLD_VERSION}/") and not path.endswith(".json"):
        text = "".join(
            f"<{name}>{html.escape(str(value))}</{name}>"
            for name, value in (("Code", number), ("Message", message), ("MoreInfo", info), ("Status", status))
        )
        declared = "<?xml version='1.0' encoding='UTF-8'?>\n"
        whole = f"{declared}<TwilioResponse><RestException>{text}</RestException></TwilioResponse>"
        return ErrorBody(b"application/xml", whole.encode())
    error = {"code": number, "message": message, "more_info": info, "status": status, **more}
    return ErrorBody(b"application/json", msgspec.json.encode(error))
