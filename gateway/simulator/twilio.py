"""Twilio, simulated: messages, calls, accounts, and the products around them. No I/O.

The first segment of a path says which of Twilio's hosts is meant: `/twilio/api/2010-04-01/…` is api.twilio.com. What is a
whole URL in an answer leads back to the Host that was asked, or with `--real-links` to Twilio's own. The shapes
are the API's own, in JSON and, where a path of the API of 2010 does not end in `.json`, in XML.

What it does not ask for: that a number belongs to the account that sends from it, or that a messaging service was made
here; either is taken for one that was bought or made in the console.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote

import msgspec

from gateway.simulator.api import Answer, Asked, Setup
from gateway.simulator.twilio_accounts import Accounts
from gateway.simulator.twilio_asked import CODES, NOT_FOUND, ApiError, Asking, NotFound, read_form, read_pairs
from gateway.simulator.twilio_bulk import History
from gateway.simulator.twilio_calls import Calls
from gateway.simulator.twilio_inbound import Inbound
from gateway.simulator.twilio_messages import Messages
from gateway.simulator.twilio_objects import Ids
from gateway.simulator.twilio_outbound import Outbound
from gateway.simulator.twilio_products import Lookups, Services, Verify
from gateway.simulator.twilio_recordings import Recordings
from gateway.simulator.twilio_threads import Conversations, Studio
from gateway.simulator.twilio_told import API_VERSION, Told, failure, written
from gateway.simulator.twilio_usage import Usage

ACCOUNT_SID = "AC0123456789abcdef0123456789abcdef"
AUTH_TOKEN = "simulator-twilio-token-0123456789"  # noqa: S105 - of an account that there is not

REAL_URL = re.compile(rb"https://(api|conversations|lookups|messaging|studio|verify)\.twilio\.com(?=/)")
HOST = re.compile(r"[A-Za-z0-9.\-\[\]:]{1,255}")

API = "api"
"""The host whose paths carry a format."""


class Route(NamedTuple):
    product: str
    method: str
    path: re.Pattern[str]
    endpoint: Callable[..., Told]


class Place(NamedTuple):
    """Where a path leads."""

    product: str
    resource: str
    """The path as that host has it."""
    path: str
    """The same without a suffix such as `.json`."""
    in_xml: bool


class Twilio:
    """All the hosts: `answer` is all of it, and each part has its own map, `ROUTES`."""

    name: ClassVar[str] = "twilio"
    mount: ClassVar[str] = "twilio/{product}"
    default_key: ClassVar[str] = f"{ACCOUNT_SID}:{AUTH_TOKEN}"
    default_credential: ClassVar[Mapping[str, str]] = {"account_sid": ACCOUNT_SID, "auth_token": AUTH_TOKEN}
    credential_headers: ClassVar[frozenset[str]] = frozenset({"authorization"})

    def __init__(self, setup: Setup) -> None:
        self._now = setup.now
        self._real_links = setup.real_links
        self._ids = ids = Ids(setup.random)
        self._accounts = Accounts(setup.keys, ids, setup.now)
        self._usage = usage = Usage(self._accounts, setup.now)
        services = Services(ids)
        self._messages = Messages(self._accounts, usage, services.owned, ids, setup.now)
        self._calls = Calls(self._accounts, usage, ids)
        recordings = Recordings(usage, ids)
        self.inbound = Inbound(self._accounts, self._messages, self._calls, recordings, ids, setup.now)
        outbound = Outbound(self._accounts, self._calls, recordings, ids, setup.now)
        self.history = History(self._accounts, self._messages, self._calls, ids)
        parts = (
            (API, f"/{API_VERSION}", self._accounts),
            (API, f"/{API_VERSION}", self._messages),
            (API, f"/{API_VERSION}", self._calls),
            (API, f"/{API_VERSION}", outbound),
            (API, f"/{API_VERSION}", recordings),
            (API, f"/{API_VERSION}", usage),
            ("messaging", "", services),
            ("verify", "", Verify(usage, ids)),
            ("lookups", "", Lookups(usage)),
            ("conversations", "", Conversations(ids)),
            ("studio", "", Studio(ids)),
        )
        self._routes = tuple(
            Route(product, method, route(before + path), partial(endpoint, part))
            for product, before, part in parts
            for method, path, endpoint in part.ROUTES
        )

    def bill(self, first: date, last: date) -> list[dict[str, Any]]:
        """What everybody used on these days, both included."""
        return self._usage.bill(first, last)

    def credential(self, headers: Mapping[str, str]) -> str | None:
        scheme, _, coded = headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            return base64.b64decode(coded.strip(), validate=True).decode("latin-1") or None
        except (ValueError, binascii.Error):
            return None

    def answer(self, asked: Asked) -> Answer:
        place = place_of(asked.path)
        try:
            answer = self._linked(written(self._told(asked, place), in_xml=place.in_xml), asked)
        except ApiError as error:
            answer = failure(error, in_xml=place.in_xml)
        except NotFound:
            message = f"The requested resource {place.resource} was not found"
            answer = failure(ApiError(NOT_FOUND, message, status=404), in_xml=place.in_xml)
        return self._signed(answer, place.product)

    def _linked(self, answer: Answer, asked: Asked) -> Answer:
        """The answer, with whole URLs that lead to where it was asked for, as Twilio's lead to Twilio."""
        host = asked.headers.get("Host", "")
        if self._real_links or not HOST.fullmatch(host):
            return answer
        return msgspec.structs.replace(answer, body=REAL_URL.sub(rb"http://%b/twilio/\1" % host.encode(), answer.body))

    def refusal(self, status: int, message: str) -> Answer:
        return self._signed(failure(error_of(status, message), in_xml=False), API)

    def _signed(self, answer: Answer, product: str) -> Answer:
        """The answer, with the headers that all of them have."""
        headers = (
            ("Twilio-Concurrent-Requests", "1"),
            ("Twilio-Request-Id", self._ids.sid("RQ")),
            ("Twilio-Request-Duration", f"0.{self._ids.below(900) + 10:03d}"),
            ("X-Home-Region", "us1"),
            ("X-API-Domain", f"{product}.twilio.com"),
            ("Strict-Transport-Security", "max-age=31536000"),
            ("X-Powered-By", "AT-5000"),
            ("X-Shenanigans", "none"),
            ("Vary", "Origin"),
        )
        return msgspec.structs.replace(answer, headers=answer.headers + headers)

    def _told(self, asked: Asked, place: Place) -> Told:
        caller, with_key = self._accounts.admitted(self.credential(asked.headers))
        if asked.controls.status is not None:
            status = asked.controls.status
            raise error_of(status, f"This request asked for status {status}.")
        for product, method, pattern, endpoint in self._routes:
            if (product, method) == (place.product, asked.method) and (found := pattern.fullmatch(place.path)):
                named = found.groupdict().get("account")
                asking = Asking(
                    form=read_form(asked),
                    query=read_pairs(asked.query),
                    controls=asked.controls,
                    account=self._accounts.visible(caller, unquote(named)) if named else caller,
                    caller=caller,
                    with_key=with_key,
                    path=place.path,
                    now=self._now(),
                )
                return endpoint(asking, *map(unquote, found.groups()[1 if named else 0 :]))
        raise NotFound


def place_of(path: str) -> Place:
    _, product, *rest = path.split("/", 2)
    resource = f"/{''.join(rest)}"
    # What is not a host of Twilio's is not named in a header either.
    product = product if re.fullmatch(r"[a-z]{1,20}", product) else API
    if product != API:
        return Place(product, resource, resource, in_xml=False)
    for suffix in (".json", ".xml"):
        if resource.endswith(suffix):
            return Place(product, resource, resource.removesuffix(suffix), in_xml=suffix == ".xml")
    return Place(product, resource, resource, in_xml=True)


def error_of(status: int, message: str) -> ApiError:
    """An error of this status, with the code that it usually has."""
    return ApiError(CODES.get(status, 20_000 + status), message, status=status)


def route(path: str) -> re.Pattern[str]:
    escaped = re.escape(path).replace(r"\{id\}", "([^/]+)")
    return re.compile(escaped.replace(r"\{account\}", "(?P<account>[^/]+)"))
