"""Where redirects of applications lead, by which method, and what goes with them."""

from __future__ import annotations

from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.api import CallbackAddress, Carried, Content, Redirect
from gateway.providers.twilio.callback_requests import URL_CHARACTERS_MAX
from gateway.providers.twilio.redirects import IN_A_ROW_MAX, asked_again, fetched, redirected

AT = "https://app.example/voice/start?lang=en"
BASE = "https://tolls.example/webhooks/twilio/acme"
ADDRESS = CallbackAddress(BASE, lambda one: msgspec.json.encode(one).hex())
CALL = {
    "CallSid": "CA" + "1" * 32,
    "AccountSid": "AC" + "2" * 32,
    "From": "+12025550143",
    "FromCity": "",
    "To": "+1800",
}
FORM = "application/x-www-form-urlencoded"


def led(location, status=302, *, method="POST", at=AT, redirects=0, **said):
    """What has Twilio come to us, if anything: the method, and the URL."""
    content = Content(method, FORM, urlencode(CALL | said).encode())
    reply = redirected(Redirect(status, location, at, content, Carried(at, redirects=redirects)), ADDRESS)
    if reply is None:
        return None
    assert (reply.status, reply.media_type) == (200, b"text/xml")
    (verb,) = ET.fromstring(reply.body)
    assert verb.tag == "Redirect"
    return verb.attrib["method"], verb.text


def carried(location, status=302, **asked):
    method, url = led(location, status, **asked)
    assert method == "POST", "a GET is signed over its URL alone"
    assert url.startswith(f"{BASE}/voice?to=")
    return msgspec.json.decode(bytes.fromhex(parse_qs(urlsplit(url).query)["to"][0]), type=Carried)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/menu", "https://app.example/menu"),
        ("menu?a=1&b=2", "https://app.example/voice/menu?a=1&b=2"),
        ("../menu", "https://app.example/menu"),
        ("//www.app.example/menu", "https://www.app.example/menu"),
        ("http://other.example:81/menu", "http://other.example:81/menu"),
        ("?lang=tr", "https://app.example/voice/start?lang=tr"),
        ("/menu#top", "https://app.example/menu"),
    ],
)
def test_a_redirect_leads_where_a_link_in_its_answer_would(location, expected):
    assert carried(location).url == expected


@pytest.mark.parametrize(
    ("status", "asked_by", "expected"),
    [
        *((status, method, "GET") for status in (301, 302, 303) for method in ("POST", "GET")),
        (307, "POST", ""),
        (307, "GET", "GET"),
    ],
)
def test_the_application_is_asked_there_as_an_http_client_would(status, asked_by, expected):
    assert carried("/menu", status, method=asked_by).method == expected


def test_only_where_the_body_is_sent_again_goes_what_it_said():
    said = {"Digits": "1", "SpeechResult": "ja, bitte & danke"}

    assert dict(parse_qsl(carried("/menu", 307, **said).said)) == said
    assert [carried("/menu", status, **said).said for status in (301, 302, 303)] == ["", "", ""]
    assert carried("/menu", 307, method="GET", **said).said == ""


@pytest.mark.parametrize("status", sorted({*range(300, 400)} - {301, 302, 303, 307}))
def test_what_twilio_would_not_follow_is_not_followed(status):
    assert led("/menu", status) is None


@pytest.mark.parametrize(
    "location",
    [
        *("", " ", "/me nu", "/men\u00fc", "/menu\r\nX: y", "ftp://app.example/", "mailto:a@app.example", "http://"),
        *("https://u:p@app.example/", "https://[::1/", "https://app.example:port/", "/" + "x" * URL_CHARACTERS_MAX),
    ],
)
def test_what_nothing_can_be_passed_on_to_is_not_followed(location):
    assert led(location) is None


def test_what_would_make_the_url_too_long_is_not_cut():
    assert led("/menu", 307, SpeechResult="x" * URL_CHARACTERS_MAX) is None
    assert led("/menu", 302, SpeechResult="x" * URL_CHARACTERS_MAX) is not None


def test_a_circle_has_an_end():
    assert carried("/menu", redirects=IN_A_ROW_MAX - 1).redirects == IN_A_ROW_MAX
    assert led("/menu", redirects=IN_A_ROW_MAX) is None


@pytest.mark.parametrize(("status", "method"), [(302, "GET"), (307, "POST")])
def test_what_is_twilios_own_is_asked_by_twilio(status, method):
    url = "https://handler.twilio.com/twiml/EH1?a=1&b=2"

    assert led(url, status) == (method, url)


@pytest.mark.parametrize(
    ("media_type", "is_played"),
    [
        (b"audio/mpeg", True),
        (b" Audio/X-WAV; rate=8000", True),
        (b"text/xml", False),
        (b"video/mp4", False),
        (b"", False),
    ],
)
def test_a_sound_is_played_and_a_document_is_not(media_type, is_played):
    reply = fetched(media_type, "https://app.example/a?b=1&c=2")

    assert (reply is not None) is is_played
    if reply is not None:
        assert ET.fromstring(reply.body).findtext("Play") == "https://app.example/a?b=1&c=2"


FIELDS = st.dictionaries(st.sampled_from(["Digits", "CallStatus", "From", "Confidence"]), st.text(max_size=9))


@given(FIELDS, FIELDS)
def test_what_is_said_again_counts_and_what_is_not_is_what_it_was(again, before):
    form = asked_again(urlencode(again).encode(), urlencode(before))

    assert dict(parse_qsl(form.decode(), keep_blank_values=True)) == before | again


@given(st.binary(max_size=40))
def test_without_anything_to_add_a_form_stays_byte_for_byte(body):
    assert asked_again(body, "") == body


def test_a_sound_is_played_by_twilio_from_where_it_is():
    """Guards URLs that are signed as a whole: to one that is asked by us, what the call says is added."""
    signed = "https://bucket.example/hold.mp3?X-Amz-Signature=abc&X-Amz-Date=1"

    reply = redirected(Redirect(302, signed, AT, Content("POST", FORM, urlencode(CALL).encode()), None), ADDRESS)

    assert ET.fromstring(reply.body).findtext("Play") == signed


def test_what_was_said_in_any_script_is_said_again():
    """Guards who speaks at length: encoded for a form, a letter of three bytes has nine."""
    speech = "\u3042" * 300 + " 5 & 10 % = a+b"
    address = CallbackAddress(BASE, lambda one: "x" * len(msgspec.json.encode(one)))
    content = Content("POST", FORM, urlencode(CALL | {"SpeechResult": speech}).encode())

    reply = redirected(Redirect(307, "/menu/", AT, content, None), address)
    said = carried("/menu/", 307, SpeechResult=speech[-40:]).said

    assert reply is not None
    assert parse_qsl(asked_again(b"CallStatus=ringing", said).decode("ascii")) == [
        ("CallStatus", "ringing"),
        ("SpeechResult", speech[-40:]),
    ]
