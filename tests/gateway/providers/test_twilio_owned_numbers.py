"""How Twilio's numbers are listed, read and changed."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.api import NotAPage, Way
from gateway.providers.twilio.owned_numbers import NUMBERS

REAL = "AC" + "5" * 32
NUMBER = {
    "sid": "PN" + "1" * 32,
    "phone_number": "+15005550700",
    "sms_url": "https://app.example.com/sms",
    "sms_method": "GET",
    "sms_application_sid": None,
    "voice_url": None,
    "voice_method": "POST",
    "voice_application_sid": "AP" + "2" * 32,
    "trunk_sid": None,
}


def page(*numbers, next_page_uri=None):
    return json.dumps({"incoming_phone_numbers": numbers, "next_page_uri": next_page_uri}).encode()


def test_a_number_is_read_with_where_it_leads():
    (one,) = NUMBERS.read(NUMBERS.first(REAL), page(NUMBER)).items

    assert (one.number_id, one.number) == (NUMBER["sid"], NUMBER["phone_number"])
    assert one.ways == {
        "sms": Way("https://app.example.com/sms", "GET"),
        "voice": Way("", "POST", "AP" + "2" * 32),
    }


def test_a_number_on_a_trunk_has_no_way_for_calls():
    (one,) = NUMBERS.read(NUMBERS.first(REAL), page(NUMBER | {"trunk_sid": "TK" + "3" * 32})).items

    assert set(one.ways) == {"sms"}


def test_the_next_page_is_of_the_same_account_or_none():
    first = NUMBERS.first(REAL)
    following = f"{first}&Page=1&PageToken=PA"

    assert NUMBERS.read(first, page(next_page_uri=following)).next_path == following
    for astray in (first, following.replace(REAL, "AC" + "6" * 32), "https://evil.example.com/"):
        with pytest.raises(NotAPage):
            NUMBERS.read(first, page(next_page_uri=astray))


@given(
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(["incoming_phone_numbers", "next_page_uri", "code"]),
        st.none() | st.integers() | st.lists(st.dictionaries(st.sampled_from(list(NUMBER)), st.integers() | st.text())),
    ).map(lambda said: json.dumps(said).encode())
)
def test_whatever_is_answered_is_read_or_refused(body):
    for read in (lambda: NUMBERS.read(NUMBERS.first(REAL), body), lambda: NUMBERS.read_application(body)):
        with contextlib.suppress(NotAPage):
            read()
    code = NUMBERS.error_code(body)
    assert code is None or code.lstrip("-").isdigit()


def test_a_change_says_all_of_a_way_so_that_an_application_is_named_or_no_more():
    path, form = NUMBERS.change(REAL, NUMBER["sid"], {"sms": Way("https://gateway.example.com/sms")})

    assert path == f"/2010-04-01/Accounts/{REAL}/IncomingPhoneNumbers/{NUMBER['sid']}.json"
    assert form == {"SmsUrl": "https://gateway.example.com/sms", "SmsMethod": "POST", "SmsApplicationSid": ""}


def test_a_refusals_code_is_read():
    assert NUMBERS.error_code(b'{"code": 21502, "message": "no"}') == "21502"
