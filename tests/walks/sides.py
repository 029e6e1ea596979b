"""The two ways to a provider, directly and through the gateway, and what of their answers must be the same."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.walks.harness import PATIENCE_S, Installation


class Side(NamedTuple):
    """What a client is given: an address, and what to identify itself with."""

    base_url: str
    key: str
    account_sid: str = ""


def directly_to_twilio(gateway: Installation) -> Side:
    """The base URL lacks the product: `/api` and the like come behind it."""
    credential = gateway.providers.credentials["twilio"]
    base_url = gateway.providers.base_urls["twilio"].removesuffix("/{product}")
    return Side(base_url, credential["auth_token"], credential["account_sid"])


def through_to_twilio(gateway: Installation, tenant_id: str, key: str) -> Side:
    return Side(gateway.proxy_url + "/twilio", key, gateway.account_sid(tenant_id))


def directly_to_sendgrid(gateway: Installation) -> Side:
    return Side(gateway.providers.base_urls["sendgrid"], gateway.providers.credentials["sendgrid"]["api_key"])


def through_to_sendgrid(gateway: Installation, key: str) -> Side:
    return Side(gateway.proxy_url + "/sendgrid", "SG." + key)


class Answered(NamedTuple):
    """What came over the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


def raw(
    side: Side,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answered:
    """A request of these very bytes, by no SDK; a body in pieces goes out in chunks, unless the headers say its length."""
    url = urlsplit(side.base_url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=PATIENCE_S)
    chunked = body is not None and not isinstance(body, bytes) and "Content-Length" not in (headers or {})
    given = {**(headers or {}), **({"Transfer-Encoding": "chunked"} if chunked else {})}
    try:
        connection.request(method, url.path + path, body, given, encode_chunked=chunked)
        with connection.getresponse() as answer:
            return Answered(answer.status, answer.getheaders(), answer.read())
    finally:
        connection.close()


MADE_ANEW = re.compile(
    r"(?P<sid>\b(?:P[AB])?[A-Z]{2}[0-9a-f]{32}\b)"
    r"|(?P<uuid>\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b)|(?P<template>\bd-[0-9a-f]{32}\b)"
    r"|(?P<date>[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d (?:\+0000|GMT))"
    r"|(?P<moment>\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(Z|\b))"
)

MADE_ANEW_FIELDS = {"batch_id", "id", "created", "created_at", "completed_at", "item_id", "call_id", "obfuscation"}
MADE_ANEW_HEADERS = {
    "date",
    "twilio-request-id",
    "twilio-request-duration",
    "x-message-id",
    "x-ratelimit-reset",
    "x-tollkeeper-call-id",
}
FRAMING = {"connection", "content-encoding", "content-length", "keep-alive", "transfer-encoding"}
"""Each connection's own. That bodies are the same says that they are whole."""


def alike(text: str, account_sid: str, base_url: str = "") -> str:
    """A text without what differs between two calls whoever is in between: names and times that are made anew.

    Of the account, which the gateway names otherwise, there stays that it is the client's own and no other, and of URLs of
    Twilio's that they lead where the client has it.
    """
    if base_url:
        text = re.sub(rf"{re.escape(base_url)}/([a-z-]+)(?=/v\d)", r"https://\1.twilio.com", text)
    if account_sid:
        text = text.replace(account_sid, "<its account>")
    return MADE_ANEW.sub(lambda found: f"<{found.lastgroup}>", text)


def plain(value: Any, account_sid: str = "", base_url: str = "") -> Any:
    """The same of whatever an SDK returns, down to texts and numbers."""
    if isinstance(value, str):
        return alike(value, account_sid, base_url)
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {
            name: plain(item, account_sid, base_url)
            for name, item in sorted(value.items())
            if name not in MADE_ANEW_FIELDS
        }
    if isinstance(value, list | tuple):
        return [plain(item, account_sid, base_url) for item in value]
    if hasattr(value, "__dict__"):
        fields = {name: item for name, item in vars(value).items() if not name.startswith("_")}
        return type(value).__name__, plain(fields, account_sid, base_url)
    # Of a time the kind: that the SDK could read it.
    return type(value).__name__


def alike_headers(headers: Iterable[tuple[str, str]], account_sid: str = "") -> list[tuple[str, str]]:
    """The headers of an answer by which two answers must not differ, in their order."""
    cut = MADE_ANEW_HEADERS | FRAMING
    return [(name.lower(), alike(value, account_sid)) for name, value in headers if name.lower() not in cut]
