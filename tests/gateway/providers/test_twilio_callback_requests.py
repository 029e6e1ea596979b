"""Which forms have Twilio tell us what became of a message or a call, and that nothing else of them changes."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers import twilio
from gateway.providers.api import CallbackAddress, Carried
from gateway.providers.twilio import callback_requests as forms
from gateway.providers.twilio.callback_requests import FORM_BYTES_MAX, URL_CHARACTERS_MAX, called_back, passable
from gateway.providers.twilio.twiml import led_inline

BASE = "https://tolls.example/webhooks/twilio/acme"
OURS = BASE + "/status"
ADDRESS = CallbackAddress(
    BASE, lambda one: f"sealed.{one.url.encode().hex()}" + (f".{one.method}" if one.method else "")
)
UNBOUND = CallbackAddress(BASE, None)
THEIRS = "https://app.example/status?tenant=1&x=%20y"
SERVICE, APPLICATION = "MG" + "3c" * 16, "AP" + "4d" * 16
MESSAGE = {"To": "+12025550143", "From": "+18005550199", "Body": "Hello, Ada & Bob = friends + more"}


SOUGHT = {"message": called_back(forms.MESSAGE, added=True), "call": called_back(forms.CALL, added=True)}


def asked(form, address=ADDRESS, kind="message"):
    return SOUGHT[kind](form, address)


def changed(address=ADDRESS, **fields):
    return asked(urlencode(fields).encode(), address)


def callback_of(form):
    return parse_qs(form.decode())["StatusCallback"]


def carried(url):
    """The application's URL that ours carries."""
    (sealed,) = parse_qs(urlsplit(url).query)["to"]
    return bytes.fromhex(sealed.removeprefix("sealed.")).decode()


def test_a_form_that_names_no_callback_gets_ours_at_its_end():
    form = urlencode(MESSAGE).encode()

    assert asked(form) == form + b"&StatusCallback=" + quote(OURS, safe="").encode()
    assert callback_of(asked(form, UNBOUND)) == [OURS]


def test_a_callback_gives_way_to_ours_that_carries_it():
    (url,) = callback_of(changed(**MESSAGE, StatusCallback=THEIRS, StatusCallbackMethod="POST"))

    assert url.startswith(OURS + "?to=sealed.")
    assert carried(url) == THEIRS


@pytest.mark.parametrize("method", ["GET", "get"])
def test_a_callback_that_is_to_come_by_get_comes_to_us_by_post(method):
    """Guards callbacks on an account that tenants share: by a GET nobody would be believed."""
    after = dict(parse_qsl(changed(**MESSAGE, StatusCallback=THEIRS, StatusCallbackMethod=method).decode()))

    assert after["StatusCallbackMethod"] == "POST"
    assert parse_qs(urlsplit(after["StatusCallback"]).query)["to"] == [f"sealed.{THEIRS.encode().hex()}.GET"]


@pytest.mark.parametrize(
    "said", [{"StatusCallbackMethod": "PUT"}, [("StatusCallbackMethod", "GET"), ("StatusCallbackMethod", "POST")]]
)
def test_a_callback_by_what_twilio_would_not_take_is_left_to_it(said):
    pairs = [("To", "+1"), ("StatusCallback", THEIRS), *(said.items() if isinstance(said, dict) else said)]
    form = urlencode(pairs).encode()

    assert asked(form) == form


CALLED = {"To": "+12025550143", "From": "+18005550199"}
TOLD_OF_A_CALL = ("StatusCallback", "RecordingStatusCallback", "AsyncAmdStatusCallback")
TOLD_OF_A_PARTICIPANT = (
    *("StatusCallback", "ConferenceStatusCallback", "RecordingStatusCallback", "ConferenceRecordingStatusCallback"),
    "AmdStatusCallback",
)


@pytest.mark.parametrize("method", ["", "GET"])
@pytest.mark.parametrize(
    ("fields", "name", "method_name", "webhook", "begins"),
    [
        *((forms.CALL, name, f"{name}Method", "status", False) for name in TOLD_OF_A_CALL),
        *((forms.PARTICIPANT, name, f"{name}Method", "status", False) for name in TOLD_OF_A_PARTICIPANT),
        (forms.RECORDING, "RecordingStatusCallback", "RecordingStatusCallbackMethod", "status", False),
        (forms.CALL, "Url", "Method", "voice", True),
        (forms.CALL, "FallbackUrl", "FallbackMethod", "voice", True),
        (forms.CALL_CHANGED, "Url", "Method", "voice", False),
        (forms.CALL_CHANGED, "FallbackUrl", "FallbackMethod", "voice", False),
        (forms.CALL_CHANGED, "StatusCallback", "StatusCallbackMethod", "status", False),
    ],
)
def test_each_url_that_twilio_would_sign_for_comes_to_us_first(fields, name, method_name, webhook, begins, method):
    seen = []
    address = CallbackAddress(BASE, lambda one: seen.append(one) or "sealed")
    form = {**CALLED, "StatusCallback": "https://twilio.com/", name: THEIRS}
    told = {method_name: method} if method else {}

    after = dict(parse_qsl(called_back(fields, added=True)(urlencode(form | told).encode(), address).decode()))

    assert seen == [Carried(THEIRS, method, begins)]
    assert after == form | {name: f"{BASE}/{webhook}?to=sealed"} | dict.fromkeys(told, "POST")


@pytest.mark.parametrize("said", [None, "GET", "POST"])
@pytest.mark.parametrize(
    ("name", "method_name", "unsaid"),
    [("HoldUrl", "HoldMethod", "GET"), ("AnnounceUrl", "AnnounceMethod", ""), ("WaitUrl", "WaitMethod", "")],
)
def test_what_who_waits_hears_comes_to_us_first(name, method_name, unsaid, said):
    seen = []
    address = CallbackAddress(BASE, lambda one: seen.append(one) or "sealed")
    told = {"Hold": "true", name: "https://app.example/hold?of=1"} | ({} if said is None else {method_name: said})

    after = dict(parse_qsl(called_back(forms.HEARD)(urlencode(told).encode(), address).decode()))

    method = {None: unsaid, "GET": "GET", "POST": ""}[said]
    assert seen == [Carried("https://app.example/hold?of=1", method, heard=True)]
    assert after == told | {name: f"{BASE}/voice?to=sealed"} | ({method_name: "POST"} if said or method else {})


@pytest.mark.parametrize("name", ["HoldUrl", "AnnounceUrl", "WaitUrl"])
@pytest.mark.parametrize(
    "url",
    [
        "https://app.example/hold.mp3",
        "http://com.twilio.music.ambient.s3.amazonaws.com/aerosolspray_-_Living_Taciturn.MP3",
        "https://app.example/a.wav?b=1",
        "http://twimlets.com/holdmusic?Bucket=com.twilio.music.ambient",
        "https://handler.twilio.com/twiml/EH1",
    ],
)
def test_a_sound_that_who_waits_hears_is_fetched_by_twilio(name, url):
    form = urlencode({name: url}).encode()

    assert called_back(forms.HEARD)(form, ADDRESS) == form
    assert called_back(forms.PARTICIPANT)(form, ADDRESS) == form


@pytest.mark.parametrize("fields", [forms.CALL_CHANGED, forms.RECORDING, forms.HEARD])
def test_what_is_changed_or_recorded_tells_us_nothing_that_nobody_asked_for(fields):
    form = urlencode({"RecordingChannels": "dual"}).encode()

    assert called_back(fields)(form, ADDRESS) == form


@pytest.mark.parametrize(
    "url",
    [
        "https://handler.twilio.com/twiml/EH1",
        "https://webhooks.twilio.com/v1/Accounts/AC/Flows/FW",
        "http://twimlets.com/holdmusic?Bucket=com.twilio.music.classical",
        "http://demo.TWILIO.com/docs/voice.xml",
    ],
)
def test_what_is_twilios_own_is_asked_by_twilio(url):
    form = urlencode({**CALLED, "Url": url, "StatusCallback": url}).encode()

    assert asked(form, kind="call") == form


def test_what_only_ends_as_twilios_name_does_is_an_applications():
    after = dict(parse_qsl(asked(b"To=1&Url=https%3A%2F%2Fmytwilio.com", kind="call").decode()))

    assert after["Url"].startswith(f"{BASE}/voice?to=sealed.")


INLINE = (
    '<Response><Gather action="https://app.example/menu?a=1&amp;b=2" method="GET"/>'
    '<Dial action="/relative"><Number statusCallback="https://app.example/told">+12025550199</Number></Dial>'
    "<Redirect>https://handler.twilio.com/twiml/EH1</Redirect><Play>https://app.example/a.mp3</Play></Response>"
)


def test_a_document_in_a_form_leads_back_to_us():
    """Guards what is said of a call whose document nobody is asked for."""
    ask = called_back(forms.CALL, added=True, led=led_inline)
    form = urlencode({**CALLED, "Twiml": INLINE}).encode()

    after = dict(parse_qsl(ask(form, ADDRESS).decode()))

    sealed = [
        f"sealed.{url.encode().hex()}" for url in ("https://app.example/menu?a=1&b=2", "https://app.example/told")
    ]
    wanted = INLINE.replace("https://app.example/menu?a=1&amp;b=2", f"{BASE}/voice?to={sealed[0]}.GET")
    wanted = wanted.replace('method="GET"', 'method="POST"')
    assert after["Twiml"] == wanted.replace("https://app.example/told", f"{BASE}/status?to={sealed[1]}")
    assert after["StatusCallback"] == OURS


@pytest.mark.parametrize(
    "document",
    [
        "<Response/>",
        "<Response><Say>Hello",
        '<Response><Gather action="https://app.example/"/>' + "<Say>a</Say>" * 330 + "</Response>",
        '<Response><Dial><Conference waitUrl="https://music.example/hold.mp3">x</Conference></Dial></Response>',
        "",
    ],
    ids=["without a URL", "not well-formed", "too long afterwards", "music of anybody's", "none"],
)
def test_a_document_that_can_not_lead_back_stays_as_it_is(document):
    form = urlencode({**CALLED, "StatusCallback": "https://twilio.com/", "Twiml": document}).encode()

    assert called_back(forms.CALL, led=led_inline)(form, ADDRESS) == form


def test_a_message_has_no_document_that_twilio_asks_for():
    form = urlencode({**MESSAGE, "Url": THEIRS}).encode()

    assert asked(form) == form + b"&StatusCallback=" + quote(OURS, safe="").encode()


def test_what_tells_twilio_how_to_connect_stays_behind_it():
    (url,) = callback_of(changed(**MESSAGE, StatusCallback=THEIRS + "#rc=3&ct=2000"))

    assert url.endswith("#rc=3&ct=2000")
    assert carried(url.partition("#")[0]) == THEIRS


@pytest.mark.parametrize(
    "fields",
    [
        {"MessagingServiceSid": SERVICE},
        {"ApplicationSid": APPLICATION},
        {"ApplicationSid": APPLICATION, "StatusCallback": THEIRS},
        {"StatusCallback": "ftp://app.example/status"},
        {"StatusCallback": "https://ada:secret@app.example/status"},
        {"StatusCallback": "/status"},
        {"StatusCallback": "https://app.example:port/status"},
        {"StatusCallback": "https://app.example/" + "x" * URL_CHARACTERS_MAX},
        {"Body": "x" * FORM_BYTES_MAX},
    ],
    ids=str,
)
def test_a_form_that_is_not_ours_to_change_stays_as_it_is(fields):
    form = urlencode({**MESSAGE, **fields}).encode()

    assert asked(form) == form


def test_a_messaging_service_gives_way_to_a_callback_that_the_form_names():
    (url,) = callback_of(changed(**MESSAGE, MessagingServiceSid=SERVICE, StatusCallback=THEIRS))

    assert carried(url) == THEIRS


def test_an_empty_field_is_none():
    assert callback_of(changed(**MESSAGE, StatusCallback="", ApplicationSid="", MessagingServiceSid="")) == [OURS]


def test_two_callbacks_are_left_to_twilio():
    form = urlencode([*MESSAGE.items(), ("StatusCallback", THEIRS), ("StatusCallback", OURS)]).encode()

    assert asked(form) == form


def test_a_tenant_that_has_nothing_to_sign_with_keeps_its_callback():
    form = urlencode({**MESSAGE, "StatusCallback": THEIRS}).encode()

    assert asked(form, UNBOUND) == form


def test_a_field_with_an_escaped_name_is_the_same_field():
    form = b"To=%2B12025550143&Status%43allback=" + quote(THEIRS, safe="").encode()

    (url,) = callback_of(asked(form))

    assert carried(url) == THEIRS


@pytest.mark.parametrize("body", [b"", json.dumps({"To": "+1"}).encode(), b"--b\r\nContent-Disposition: form-data\r\n"])
def test_what_is_no_form_stays_as_it_is(body):
    assert asked(body) == body


@pytest.mark.parametrize(
    ("url", "is_passable"), [(THEIRS, True), ("HTTP://app.example:8080", True), ("https://", False)]
)
def test_whether_something_can_be_passed_on_to_a_url(url, is_passable):
    assert passable(url) is is_passable


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["To", "Body", "MediaUrl", "StatusCallbackEvent", "StatusCallback", "MessagingServiceSid"]),
            st.text(max_size=20),
        ),
        min_size=1,
        max_size=8,
    ),
    st.booleans(),
)
def test_no_other_field_changes_by_a_byte(fields, escaped_whole):
    escape = (lambda text: "".join(f"%{byte:02X}" for byte in text.encode())) if escaped_whole else quote
    pairs = [f"{name}={escape(value)}".encode() for name, value in fields]
    form = b"&".join(pairs)

    left = asked(form).split(b"&")

    others = [pair for pair in pairs if not pair.startswith(b"StatusCallback=")]
    assert [pair for pair in left if not pair.startswith(b"StatusCallback=")] == others
    assert len(left) <= len(pairs) + 1


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_a_url_is_carried_as_the_application_meant_it(rest):
    theirs = "https://app.example/" + rest.replace("#", "")
    form = urlencode({"To": "+1", "StatusCallback": theirs}).encode()

    after = dict(parse_qsl(asked(form).decode()))["StatusCallback"]

    assert carried(unquote(after) if not after.startswith(OURS) else after) == theirs


def test_the_endpoints_that_make_messages_and_calls_ask_for_it():
    asking = {one.name for one in twilio.PROVIDER.endpoints if one.called_back is not None}

    assert asking == {
        *("messages.create", "calls.create", "calls.update", "calls.recordings.create", "conferences.update"),
        *("conferences.participants.create", "conferences.participants.update"),
    }
