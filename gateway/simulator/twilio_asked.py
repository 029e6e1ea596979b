"""What a request to the simulated Twilio asks for, and the errors that it gets where that makes no sense. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec

from gateway.simulator.api import Asked
from gateway.simulator.controls import Controls

FORM = "application/x-www-form-urlencoded"
FIELDS_MAX = 10_000

NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
"""E.164."""
SHORT_CODE = re.compile(r"[0-9]{3,8}")
SENDER_ID = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 +\-_&]{1,11}")
CHANNEL = re.compile(r"(whatsapp|messenger|rcs):(.+)", re.DOTALL)
CLIENT = re.compile(r"(sip|sips|client):\S+")
URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)
URL_CHARACTERS_MAX = 4000

ACCOUNT_SID = re.compile(r"AC[0-9a-f]{32}")
SERVICE_SID = re.compile(r"MG[0-9A-Za-z]{32}")

BAD_REQUEST, AUTHENTICATE, NOT_ACTIVE, INCOMPLETE, NOT_FOUND = 20001, 20003, 20005, 20009, 20404
CODES: Mapping[int, int] = {400: BAD_REQUEST, 401: AUTHENTICATE, 405: 20004}
"""The code of an error that has none of its own, by its status; else 20000 and the status."""


class ApiError(Exception):
    """The request cannot be answered, and the API says why."""

    def __init__(self, code: int, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


class NotFound(Exception):
    """What the path names is not there, or is another account's."""


class Form(msgspec.Struct, frozen=True):
    """The parameters of a body or of a query. Names may come more than once."""

    fields: Mapping[str, Sequence[str]]

    def one(self, name: str) -> str | None:
        """The parameter, where it is there and not empty."""
        return self.fields.get(name, ("",))[0] or None

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(filter(None, self.fields.get(name, ())))

    def natural(self, name: str) -> int | None:
        """A parameter that is a number; anything else counts as left out."""
        value = self.one(name)
        return int(value) if value and value.isascii() and value.isdigit() and len(value) < 10 else None

    def __contains__(self, name: str) -> bool:
        return name in self.fields


def read_form(asked: Asked) -> Form:
    """The parameters of a body. One of another type has none, as if it were empty."""
    if not asked.whole:
        raise ApiError(20413, f"The request body is too large: {asked.body_bytes} bytes", status=413)
    media_type = asked.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return read_pairs(asked.body.decode("utf-8", "replace")) if media_type == FORM else Form({})


def read_pairs(text: str) -> Form:
    fields: dict[str, list[str]] = {}
    try:
        for name, value in parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX):
            fields.setdefault(name, []).append(value)
    except ValueError:
        raise ApiError(BAD_REQUEST, f"There are more than {FIELDS_MAX} parameters") from None
    return Form(fields)


class Account(NamedTuple):
    """An account, or a subaccount of one."""

    sid: str
    auth_token: str
    friendly_name: str
    owner_sid: str
    """Its own where it is nobody's subaccount."""
    status: str
    created: float
    updated: float


class Asking(NamedTuple):
    """A request whose credential was accepted."""

    form: Form
    query: Form
    controls: Controls
    account: Account
    """The one that the path names, else the caller's: whose objects these are."""
    caller: Account
    with_key: bool
    """Whether it was an API key, and not the auth token."""
    path: str
    """For its host, without a suffix such as `.json`."""
    now: float

    @property
    def at(self) -> float:
        """When what is made here happened, by what it says. Raises ApiError."""
        at = self.controls.at
        if at is not None and at > self.now:
            raise ApiError(BAD_REQUEST, "x-simulator-at is a time that has passed")
        return self.now if at is None else at


class Party(NamedTuple):
    """Who sends or receives."""

    channel: str
    """`whatsapp` and the like; empty for phone numbers."""
    address: str
    """As it was given, channel included."""


def recipient(value: str) -> Party:
    """Whom a message goes to. Raises ApiError."""
    party = party_of(value)
    if party is None:
        raise ApiError(21211, f"Invalid 'To' Phone Number: {value[:40]}")
    return party


def sender(value: str) -> Party:
    """Whom a message comes from. Raises ApiError."""
    if SHORT_CODE.fullmatch(value) or SENDER_ID.fullmatch(value):
        return Party("", value)
    party = party_of(value)
    if party is None:
        message = f"The 'From' number {value[:40]} is not a valid phone number, shortcode, or alphanumeric sender ID."
        raise ApiError(21212, message)
    return party


def party_of(value: str) -> Party | None:
    if found := CHANNEL.fullmatch(value):
        channel, address = found.groups()
        # Only WhatsApp's addresses are numbers.
        good = NUMBER.fullmatch(address) if channel == "whatsapp" else address.isprintable()
        return Party(channel, value) if good else None
    plain = re.sub(r"[ ().-]", "", value)
    return Party("", plain) if NUMBER.fullmatch(plain) else None


def is_url(value: str) -> bool:
    return URL.fullmatch(value) is not None and len(value) <= URL_CHARACTERS_MAX


def callback_url(form: Form) -> str | None:
    """The URL to tell changes to. Raises ApiError where it is none."""
    url = form.one("StatusCallback")
    if url is not None and not is_url(url):
        raise ApiError(21609, f"The StatusCallback URL {url[:80]} is not a valid URL.")
    return url


def send_at(form: Form, now: float) -> float | None:
    """When a scheduled message is to be sent; None where it is to be sent now. Raises ApiError."""
    if form.one("ScheduleType") is None and form.one("SendAt") is None:
        return None
    if form.one("ScheduleType") != "fixed":
        raise ApiError(35112, "ScheduleType is required to schedule a message, and its value is 'fixed'")
    if form.one("MessagingServiceSid") is None:
        raise ApiError(35118, "MessagingServiceSid is required to schedule a message")
    value = form.one("SendAt")
    if value is None:
        raise ApiError(35111, "SendAt is required to schedule a message")
    begin = moment(value)
    if begin is None:
        raise ApiError(35113, "SendAt is not a valid ISO 8601 time")
    if not timedelta(seconds=300) <= timedelta(seconds=begin - now) <= timedelta(days=35):
        raise ApiError(35114, "SendAt time must be between 300 seconds and 35 days (3024000 seconds) in the future")
    return begin


def moment(value: str) -> float | None:
    """A time in ISO 8601, in UTC where it does not say; None where it is none."""
    try:
        read = datetime.fromisoformat(value)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


class Span(NamedTuple):
    """A time from and to; only the first is in it."""

    low: float
    high: float

    def holds(self, at: float | None) -> bool:
        """Whether a time is in it. What has none is in no span that ends."""
        return self == EVER if at is None else self.low <= at < self.high


EVER = Span(-math.inf, math.inf)


def span(query: Form, name: str) -> Span:
    """What `name=`, `name<=` and `name>=` ask for together. A date stands for all of its day, in UTC. Raises ApiError."""
    low, high = EVER
    for suffix in ("", "<", ">"):
        value = query.one(name + suffix)
        if value is None:
            continue
        begin = moment(value)
        if begin is None:
            raise ApiError(BAD_REQUEST, f"{name}{suffix} is not a valid date")
        day = begin // 86_400 * 86_400
        end = day + 86_400 if len(value) == len("2010-04-01") else begin + 1
        match suffix:
            case "":
                low, high = max(low, day), min(high, day + 86_400)
            case "<":
                high = min(high, end)
            case _:
                low = max(low, math.ceil(begin))
    return Span(low, high)
