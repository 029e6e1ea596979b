"""The auth token of an account below another, which the other may ask for: Twilio signs with it what is told of it. Pure.

Source: the Account resource of the official OpenAPI description (twilio-oai 2.6.7), `auth_token`.
"""

from __future__ import annotations

import msgspec

from gateway.providers.api import AccountSecret, NotAPage
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.twilio.paths import OLD_VERSION


class _Account(msgspec.Struct):
    sid: str
    auth_token: str


_read = msgspec.json.Decoder(_Account)


def path(account: str) -> str:
    return f"/{OLD_VERSION}/Accounts/{account}.json"


def read(body: bytes, account: str) -> str:
    try:
        found = _read.decode(body)
    except UNREADABLE as error:
        raise NotAPage("what was answered is no account") from error
    if found.sid != account or not found.auth_token:
        raise NotAPage("what was answered is another account, or says no token")
    return found.auth_token


SECRET = AccountSecret("auth_token", path, read)
