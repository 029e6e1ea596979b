"""Requests byte by byte, as no client library would send them, and what a provider's errors look like."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from email.message import Message
from http.client import HTTPResponse
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

from tests.walks.harness import PATIENCE_S, Installation, basic

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}


class Tenant(NamedTuple):
    """Somebody who calls."""

    name: str
    key: str
    account: str

    def authorization(self, target: str) -> dict[str, str]:
        """The key where each provider's SDK puts it."""
        if target.startswith("/twilio"):
            return {"Authorization": basic(self.account, self.key)}
        return {"Authorization": f"Bearer {'SG.' if target.startswith('/sendgrid') else ''}{self.key}"}


def new_tenant(gateway: Installation, name: str) -> Tenant:
    return Tenant(name, gateway.tenant(name), gateway.account_sid(name))


class Reply(NamedTuple):
    status: int
    headers: Message
    body: bytes

    @property
    def code(self) -> str | None:
        """The gateway's own code, where it refused."""
        return self.headers["x-tollkeeper-error"]

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    def __contains__(self, text: str) -> bool:
        """Whether that stands anywhere in it."""
        return text.encode() in self.body or text in str(self.headers)


def head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """A request's head, each character one byte."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def request(method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """A whole request."""
    length = {"Content-Length": str(len(body))} if body or method in ("POST", "PUT", "PATCH") else {}
    return head(method, target, {"Connection": "close", **length, **headers}) + body


def send(url: str, data: bytes, method: str = "GET") -> Reply:
    """Send this over a connection of its own, and read the answer."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=PATIENCE_S) as connection:
        with suppress(ConnectionError):  # It may have heard enough, and have answered.
            connection.sendall(data)
        return received(connection, method)


def received(connection: socket.socket, method: str = "GET") -> Reply:
    with HTTPResponse(connection, method=method) as answer:
        answer.begin()
        return Reply(answer.status, answer.headers, answer.read())


def ask(
    gateway: Installation,
    tenant: Tenant,
    method: str,
    target: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One call of a tenant's."""
    whole = {**tenant.authorization(target), **(headers or {})}
    return send(gateway.proxy_url, request(method, target, whole, body), method)


def ask_directly(
    gateway: Installation, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Reply:
    """The same past the gateway, as the platform: the target is the gateway's, the account in it the real one."""
    _, provider, rest = target.split("/", 2)
    product, _, _ = rest.partition("/")
    if provider == "twilio" and product == "2010-04-01":
        product, rest = "api", f"api/{rest}"
    place = urlsplit(gateway.providers.base_urls[provider].replace("/{product}", ""))
    own = gateway.providers.credentials[provider]
    key = basic(own["account_sid"], own["auth_token"]) if provider == "twilio" else f"Bearer {own['api_key']}"
    whole = {"Authorization": key, **(headers or {})}
    return send(place.geturl(), request(method, f"{place.path}/{rest}", whole, body), method)


def in_the_shape_of_the_provider(reply: Reply, target: str) -> bool:
    """Whether the error is written as the provider writes its own."""
    path = target.partition("?")[0]
    if path.startswith("/sendgrid"):
        return all(error["message"] and {"field", "help"} <= error.keys() for error in reply.document["errors"])
    if path.startswith("/twilio"):
        in_xml = "/2010-04-01/" in path and not path.endswith(".json")
        error = xml_error(reply.body) if in_xml else reply.document
        return bool(
            error["message"]
            and int(error["status"]) == reply.status
            and error["more_info"] == f"https://www.twilio.com/docs/errors/{int(error['code'])}"
            and reply.headers["Content-Type"] == f"application/{'xml' if in_xml else 'json'}"
        )
    return bool(reply.document["error"]["message"] and reply.document["error"]["type"])


def xml_error(body: bytes) -> dict[str, str | None]:
    root = ET.fromstring(body)
    names = {"Code": "code", "Message": "message", "MoreInfo": "more_info", "Status": "status"}
    assert [child.tag for child in root] == ["RestException"], body
    return {names[child.tag]: child.text for child in root[0]}
