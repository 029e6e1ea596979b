"""What Twilio says an account below another signs with."""

from __future__ import annotations

import json

import pytest

from gateway.providers import twilio
from gateway.providers.api import NotAPage

BELOW, TOKEN = "AC" + "5" * 32, "a-token-of-the-account-below"
SECRET = twilio.PROVIDER.account_secret


def test_the_token_of_an_account_stands_in_its_resource():
    body = json.dumps({"sid": BELOW, "auth_token": TOKEN, "status": "active", "type": "Full"}).encode()

    assert SECRET.path(BELOW) == f"/2010-04-01/Accounts/{BELOW}.json"
    assert SECRET.field in twilio.PROVIDER.credential_fields
    assert SECRET.read(body, BELOW) == TOKEN


@pytest.mark.parametrize(
    "said",
    [
        {"sid": "AC" + "6" * 32, "auth_token": TOKEN},
        {"sid": BELOW, "auth_token": ""},
        {"sid": BELOW, "auth_token": None},
        {"sid": BELOW},
        [],
        "no account",
    ],
)
def test_what_is_another_account_or_says_no_token_is_none(said):
    with pytest.raises(NotAPage) as refused:
        SECRET.read(json.dumps(said).encode(), BELOW)

    assert TOKEN not in str(refused.value)
