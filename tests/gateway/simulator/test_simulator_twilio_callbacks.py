"""How the simulated Twilio signs, held against its vectors and its own validator."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict
from twilio.request_validator import RequestValidator

from gateway.simulator.twilio_callbacks import Callback, delivery, signature

TOKEN = "12345"
URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
CALLED = [
    ("CallSid", "CA1234567890ABCDE"),
    ("Digits", "1234"),
    ("From", "+14158675309"),
    ("To", "+18005551212"),
    ("Caller", "+14158675309"),
]
DOUBLED = [("Sid", "CA123"), ("SidAccount", "AC123"), ("Digits", "5678"), ("Digits", "1234"), ("Digits", "1234")]


@pytest.mark.parametrize(
    ("parameters", "signed"), [(CALLED, "RSOYDt4T1cUTdK1PDd93/VVr8B8="), (DOUBLED, "IK+Dwps556ElfBT0I3Rgjkr1wJU=")]
)
def test_the_published_vectors_hold(parameters: list[tuple[str, str]], signed: str) -> None:
    assert signature(TOKEN, URL, parameters) == signed


@given(st.text(min_size=1, max_size=9), st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=6))
def test_the_official_validator_agrees(token: str, parameters: list[tuple[str, str]]) -> None:
    assert RequestValidator(token).validate(URL, MultiDict(parameters), signature(token, URL, parameters))


def test_a_get_is_signed_by_its_url_alone() -> None:
    told = delivery(
        Callback(f"{URL}#rc=2", "GET", TOKEN),
        CALLED,
        object_id="CA1",
        after_ms=0,
        still_so=lambda: True,
        idempotency_token="once",
    )
    headers = dict(told.headers)
    assert told.url.startswith(f"{URL}&")
    assert parse_qsl(told.url.partition("?")[2])[2:] == CALLED
    assert "#" not in told.url
    assert (told.method, told.body, "Content-Type" in headers) == ("GET", b"", False)
    assert RequestValidator(TOKEN).validate(told.url, {}, headers["X-Twilio-Signature"])
