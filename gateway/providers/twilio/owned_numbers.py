"""Phone numbers of an account: where what comes in at them goes, and how that is changed. Pure.

Sources: the official OpenAPI description (twilio-oai 2.6.7) and the API reference. A number has a URL for messages and one
for calls. Where it names a TwiML application, that one's URLs count, and its own are ignored; where it is on a SIP trunk,
nothing that it says of calls counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from gateway.providers.api import NotAPage, Numbers, OwnNumber, Page, Way
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.twilio.callback_requests import VOICE
from gateway.providers.twilio.paths import OLD_VERSION, SID
from gateway.providers.twilio.resources import matching, text_of

SMS = "sms"

PAGE_ITEMS = 1000

NUMBER = re.compile(r"\+[1-9][0-9]{1,14}")


class _Number(msgspec.Struct):
    sid: object = None
    phone_number: object = None
    sms_url: object = None
    sms_method: object = None
    sms_application_sid: object = None
    voice_url: object = None
    voice_method: object = None
    voice_application_sid: object = None
    trunk_sid: object = None


class _Numbers(msgspec.Struct):
    incoming_phone_numbers: list[_Number]
    next_page_uri: str | None = None


class _Refusal(msgspec.Struct):
    code: int


_read_page = msgspec.json.Decoder(_Numbers)
_read_application = msgspec.json.Decoder(_Number)
_read_refusal = msgspec.json.Decoder(_Refusal)


def first(account: str) -> str:
    return f"/{OLD_VERSION}/Accounts/{account}/IncomingPhoneNumbers.json?{urlencode({'PageSize': PAGE_ITEMS})}"


def read(path: str, body: bytes) -> Page[OwnNumber]:
    """A page of numbers, whose next one is of the same list. Raises NotAPage."""
    page = _decoded(_read_page, body)
    next_path = page.next_page_uri
    if next_path is not None and (next_path.partition("?")[0] != path.partition("?")[0] or next_path == path):
        raise NotAPage("the next page is not of this list")
    known = tuple(one for one in map(_number, page.incoming_phone_numbers) if one is not None)
    return Page(known, next_path, len(page.incoming_phone_numbers) - len(known))


def _number(found: _Number) -> OwnNumber | None:
    sid, number = matching(found.sid, SID), matching(found.phone_number, NUMBER)
    if sid is None or number is None:
        return None
    ways = _ways(found)
    if text_of(found.trunk_sid):
        del ways[VOICE]
    return OwnNumber(sid, number, ways)


def _ways(found: _Number) -> dict[str, Way]:
    return {
        SMS: _way(found.sms_url, found.sms_method, found.sms_application_sid),
        VOICE: _way(found.voice_url, found.voice_method, found.voice_application_sid),
    }


def _way(url: object, method: object, application: object) -> Way:
    return Way(text_of(url) or "", text_of(method) or "POST", matching(application, SID) or "")


def application(account: str, sid: str) -> str:
    return f"/{OLD_VERSION}/Accounts/{account}/Applications/{sid}.json"


def read_application(body: bytes) -> Mapping[str, Way]:
    """Where an application leads. Raises NotAPage."""
    return _ways(_decoded(_read_application, body))


def change(account: str, sid: str, ways: Mapping[str, Way]) -> tuple[str, Mapping[str, str]]:
    """An empty field clears: a number that named an application names none."""
    form: dict[str, str] = {}
    for name, way in ways.items():
        channel = name.capitalize()
        form |= {
            f"{channel}Url": way.url,
            f"{channel}Method": way.method,
            f"{channel}ApplicationSid": way.application,
        }
    return f"/{OLD_VERSION}/Accounts/{account}/IncomingPhoneNumbers/{sid}.json", form


def error_code(body: bytes) -> str | None:
    try:
        return str(_read_refusal.decode(body).code)
    except UNREADABLE:
        return None


def _decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise NotAPage("the answer is no page of this list") from error


NUMBERS = Numbers(
    ways=(SMS, VOICE),
    first=first,
    read=read,
    application=application,
    read_application=read_application,
    change=change,
    error_code=error_code,
)
