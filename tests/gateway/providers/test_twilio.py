"""What Twilio's requests ask for, and what its answers say was used."""

import base64
import gzip
import itertools
import json
import re
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.providers import twilio
from gateway.providers.learnt import Prepared
from gateway.providers.twilio import answers, paths, refusals, requests
from gateway.routing import Routes
from metering.usage import Completeness
from tests.builders import answer_head

SID = "SM" + "1a" * 16
ACCOUNT = "AC" + "2b" * 16
SERVICE = "MG" + "3c" * 16
TO, FROM = "+12025550143", "+18005550199"
MESSAGE = {
    "account_sid": ACCOUNT,
    "api_version": "2010-04-01",
    "body": 'Hello, "Ada" <SM00000000000000000000000000000000>',
    "date_created": "Thu, 24 Aug 2023 05:01:45 +0000",
    "direction": "outbound-api",
    "error_code": None,
    "from": FROM,
    "messaging_service_sid": None,
    "num_media": "0",
    "num_segments": "1",
    "price": None,
    "price_unit": "USD",
    "sid": SID,
    "status": "queued",
    "subresource_uris": {"media": f"/2010-04-01/Accounts/{ACCOUNT}/Messages/{SID}/Media.json"},
    "to": TO,
}
CALL = {"sid": "CA" + "4d" * 16, "to": TO, "from": FROM, "status": "queued", "price": None, "price_unit": "USD"}
PLAIN = Prepared(body=b"")
ASKED = requests.read_message(urlencode({"To": TO, "From": FROM, "Body": "Hello"}).encode())


def xml(resource, name="Message"):
    """The same resource, as paths without `.json` are answered."""
    root = ET.Element("TwilioResponse")
    inside = ET.SubElement(root, name)
    for field, value in resource.items():
        element = ET.SubElement(inside, "".join(part.title() for part in field.split("_")))
        if isinstance(value, str):
            element.text = value
    return b"<?xml version='1.0' encoding='UTF-8'?>\n" + ET.tostring(root)


def metered(body, *, judge=answers.judge_message, prepared=PLAIN, whole=True, cuts=(), **headers):
    """What a client gets, and the usage."""
    head = answer_head(201, headers)
    meter = answers.meter(judge)(head, prepared)
    marks = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    passed = b"".join(meter.feed(body[start:end]) for start, end in itertools.pairwise(marks))
    held, usage = meter.finish(whole=whole)
    return passed + held, usage


def answered(judge=answers.judge_message, prepared=PLAIN, **fields):
    return metered(json.dumps(MESSAGE | fields).encode(), judge=judge, prepared=prepared)[1]


def form(*pairs):
    return urlencode(pairs).encode()


# ---------------------------------------------------------------------------------------------------------------------
# Hosts and paths


@pytest.mark.parametrize(
    ("rest", "product", "target", "path"),
    [
        ("/2010-04-01/Accounts/AC1/Messages.json", "api", "/2010-04-01/Accounts/AC1/Messages.json", "/api/2010-04-01/Accounts/AC1/Messages"),
        ("/api/2010-04-01/Accounts/AC1/Messages.json", "api", "/2010-04-01/Accounts/AC1/Messages.json", "/api/2010-04-01/Accounts/AC1/Messages"),
        ("/2010-04-01/Accounts/AC1/Messages", "api", "/2010-04-01/Accounts/AC1/Messages", "/api/2010-04-01/Accounts/AC1/Messages"),
        ("/api/2010-04-01/A.xml?a=%3E&&b.json", "api", "/2010-04-01/A.xml?a=%3E&&b.json", "/api/2010-04-01/A"),
        ("/2010-04-01/A.json/B", "api", "/2010-04-01/A.json/B", "/api/2010-04-01/A.json/B"),
        ("/2010-04-01/A.json.json", "api", "/2010-04-01/A.json.json", "/api/2010-04-01/A.json"),
        ("/messaging/v1/Services?PageSize=5", "messaging", "/v1/Services?PageSize=5", "/messaging/v1/Services"),
        ("/verify/", "verify", "/", "/verify/"),
        ("/verify", "verify", "/", "/verify/"),
        ("/verify?a", "verify", "/?a", "/verify/"),
        ("/api//2010-04-01/Accounts", "api", "//2010-04-01/Accounts", "/api//2010-04-01/Accounts"),
    ],
)  # fmt: skip
def test_a_path_has_one_host_and_for_our_decisions_one_spelling(rest, product, target, path):
    assert paths.place(rest) == (product, target, path)


@pytest.mark.parametrize(
    "rest",
    ["/", "//", "/API/x", "/evil/v1", "/api.evil.example/v1", "/api@evil.example/", "/api%2F2010-04-01/", "/%61pi/x", "/.", "/..",
     "/../api/", "/2010-04-01;x/Accounts", "/2010-04-02/Accounts", "/api:80/x", "/api\\x", "/?/api/"],
)  # fmt: skip
def test_no_other_host_can_be_named(rest):
    """Guards the list of products: any label would do for a host that is looked up."""
    assert paths.place(rest) is None


def test_products_are_labels_of_hosts():
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", product) for product in paths.PRODUCTS)


# ---------------------------------------------------------------------------------------------------------------------
# Requests


@pytest.mark.parametrize(
    ("fields", "event_type", "resource", "parties"),
    [
        ([("To", TO), ("From", FROM), ("Body", "x")], "sms_outbound", "US:toll_free", {"to": TO, "from": FROM}),
        ([("To", TO), ("From", "+12025550199")], "sms_outbound", "US:long_code", {"to": TO, "from": "+12025550199"}),
        ([("To", "+905321234567"), ("From", "SHOP")], "sms_outbound", "TR:alphanumeric", {"to": "+905321234567", "from": "SHOP"}),
        ([("To", TO), ("From", "12345")], "sms_outbound", "US:short_code", {"to": TO, "from": "12345"}),
        ([("To", TO), ("MessagingServiceSid", SERVICE)], "sms_outbound", "US:messaging_service", {"to": TO}),
        ([("To", TO), ("From", FROM), ("MessagingServiceSid", SERVICE)], "sms_outbound", "US:toll_free", {"to": TO, "from": FROM}),
        ([("To", TO), ("From", FROM), ("MediaUrl", "https://a/1"), ("MediaUrl", "https://a/2")], "mms_outbound", "US:toll_free", {"to": TO, "from": FROM}),
        ([("To", f"whatsapp:{TO}"), ("From", f"whatsapp:{FROM}")], "whatsapp_outbound", "US:whatsapp", {"to": f"whatsapp:{TO}", "from": f"whatsapp:{FROM}"}),
        ([("To", f"whatsapp:{TO}"), ("From", f"whatsapp:{FROM}"), ("MediaUrl", "https://a/1")], "whatsapp_outbound", "US:whatsapp", {"to": f"whatsapp:{TO}", "from": f"whatsapp:{FROM}"}),
        ([("To", "messenger:1234"), ("From", "messenger:5")], "message_outbound", "messenger", {"to": "messenger:1234", "from": "messenger:5"}),
        ([("To", f"rcs:{TO}"), ("From", "rcs:shop_agent")], "message_outbound", "US:rcs", {"to": f"rcs:{TO}", "from": "rcs:shop_agent"}),
        ([("To", "ada@example.com"), ("From", FROM)], "sms_outbound", None, {"to": "ada@example.com", "from": FROM}),
        ([("To", TO), ("To", "+905321234567")], "sms_outbound", "US", {"to": TO}),
        ([("Body", "x")], "sms_outbound", None, {}),
    ],
)  # fmt: skip
def test_a_message_says_whom_it_is_for_and_passes_unchanged(fields, event_type, resource, parties):
    body = form(*fields)

    prepared = requests.read_message(body)

    assert prepared.body is body
    assert (prepared.event_type, prepared.resource, prepared.parties) == (event_type, resource, parties)


@pytest.mark.parametrize("name", ["ada@example.com", "+12025550143", "ADA", "", "a" * 21, "ada lovelace"])
def test_what_stands_before_a_number_is_shown_only_where_it_is_the_name_of_a_channel(name):
    """Guards _CHANNEL: the application writes it, so it could be anybody's address, and would stand in the ledger."""
    prepared = requests.read_message(form(("To", f"{name}:{TO}"), ("From", FROM)))

    assert prepared.resource in ("US:unknown", None)
    assert prepared.event_type == "message_outbound"


def test_a_call_says_whom_it_is_for_and_passes_unchanged():
    body = form(("To", TO), ("From", FROM), ("Url", "https://app.example/?To=x"))

    prepared = requests.read_call(body)

    assert prepared.body is body
    assert (prepared.event_type, prepared.resource, prepared.parties) == (
        None,
        "US:toll_free",
        {"to": TO, "from": FROM},
    )


@pytest.mark.parametrize("to", ["client:ada", "sip:ada@example.com", ""])
def test_a_call_to_no_number_is_in_no_country(to):
    assert requests.read_call(form(("To", to), ("From", FROM))).resource is None


@pytest.mark.parametrize(
    "body",
    [b"", b"&&&", b"To", b"To=%", b"To=%2", b"To=%zz&From=\xff\xfe", b'{"To":"+12025550143"}', gzip.compress(b"To=1")],
)
def test_what_is_no_form_passes_unchanged(body):
    assert requests.read_message(body).body is body
    assert requests.read_call(body).body is body


def test_a_form_too_large_for_a_message_passes_unread():
    body = form(("To", TO), ("Body", "x" * requests.FORM_BYTES_MAX))

    assert requests.read_message(body) == Prepared(body=body, event_type="sms_outbound")


# ---------------------------------------------------------------------------------------------------------------------
# Messages


@pytest.mark.parametrize("write", [lambda fields: json.dumps(fields).encode(), xml])
@given(cuts=st.lists(st.integers(0, 1200), max_size=5))
def test_a_message_is_metered_by_its_answer_in_either_form(write, cuts):
    body = write(MESSAGE | {"num_segments": "3"})

    passed, usage = metered(body, cuts=cuts)

    assert passed == body
    assert usage.quantities == {"messages": 1, "segments": 3}
    assert (usage.event_type, usage.completeness, usage.resource) == (
        "sms_outbound",
        Completeness.PENDING,
        "US:toll_free",
    )
    assert (usage.external_id, usage.parties) == (SID, {"to": TO, "from": FROM})
    assert usage.metadata == {"num_segments": "3", "num_media": "0", "price_unit": "USD", "status": "queued"}


@pytest.mark.parametrize("write", [lambda fields: json.dumps(fields).encode(), xml])
def test_a_message_of_a_service_has_no_segments_before_a_sender_is_picked(write):
    """Guards the zero: booked as one, it would be added to the segments that are told later."""
    chosen = {"from": None, "messaging_service_sid": SERVICE, "num_segments": "0", "status": "accepted"}

    _, usage = metered(write(MESSAGE | chosen))

    assert (usage.quantities, usage.resource, usage.parties) == ({"messages": 1}, "US:messaging_service", {"to": TO})
    assert usage.metadata["messaging_service_sid"] == SERVICE
    assert usage.completeness is Completeness.PENDING


@pytest.mark.parametrize(
    ("fields", "event_type", "quantities"),
    [
        ({"num_media": "2"}, "mms_outbound", {"messages": 1, "segments": 1, "media": 2}),
        ({"to": f"whatsapp:{TO}", "from": f"whatsapp:{FROM}"}, "whatsapp_outbound", {"messages": 1, "segments": 1}),
        ({"to": "messenger:1", "from": "messenger:2"}, "message_outbound", {"messages": 1, "segments": 1}),
        ({"num_segments": None, "num_media": None}, "sms_outbound", {"messages": 1}),
        ({"num_segments": "-1"}, "sms_outbound", {"messages": 1}),
        ({"num_segments": "1e9"}, "sms_outbound", {"messages": 1}),
        ({"num_segments": "9" * 30}, "sms_outbound", {"messages": 1}),
        ({"num_segments": "٣"}, "sms_outbound", {"messages": 1}),
        ({"num_segments": ["1"]}, "sms_outbound", {"messages": 1}),
    ],
)
def test_the_type_of_a_message_and_its_counts_are_what_the_answer_says(fields, event_type, quantities):
    usage = answered(**fields)

    assert (usage.event_type, usage.quantities) == (event_type, quantities)
    assert usage.completeness is Completeness.PENDING


def test_the_price_is_kept_as_the_provider_says_it():
    assert answered(price="-0.00750").metadata["price"] == "-0.00750"


def test_what_a_person_wrote_is_not_kept():
    """Guards the form of metadata: a field of the answer is text like any other."""
    usage = answered(status="to ada@example.com", price_unit=TO, price="Ada " * 20)

    assert usage.metadata == {"num_segments": "1", "num_media": "0"}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff", b"<", b"<TwilioResponse/>", b"[" * 100_000, b"<Sid>x</Sid>", json.dumps(MESSAGE | {"sid": "x"}).encode()],
)  # fmt: skip
def test_an_answer_that_names_no_message_leaves_the_use_unknown_and_what_was_asked_for_known(body):
    usage = metered(body, prepared=ASKED)[1]

    assert (usage.quantities, usage.completeness, usage.external_id) == ({}, Completeness.UNKNOWN, None)
    assert usage.resource == "US:toll_free"


@pytest.mark.parametrize("whole", [True, False])
def test_an_answer_that_is_too_large_or_broke_off_leaves_the_use_unknown(whole):
    body = json.dumps(MESSAGE).encode() + b" " * (answers.BODY_BYTES_MAX if whole else 0)

    assert metered(body, whole=whole, cuts=[5])[1].completeness is Completeness.UNKNOWN


def test_an_answer_with_no_more_than_a_name_is_metered_by_what_was_asked_for():
    usage = metered(json.dumps({"sid": SID}).encode(), prepared=ASKED)[1]

    assert (usage.event_type, usage.quantities, usage.resource) == ("sms_outbound", {"messages": 1}, "US:toll_free")


def test_what_is_written_in_an_xml_message_is_not_taken_for_its_fields():
    """Guards the form of a field: what somebody writes in a message comes escaped, and is no field for that."""
    written = "</Body><Sid>SM" + "0" * 32 + "</Sid><To>+905321234567</To>"

    usage = metered(xml({"body": written} | MESSAGE | {"body": written, "to": TO + "&<"}))[1]

    assert usage.external_id == SID
    assert usage.parties == {"to": TO + "&<", "from": FROM}


def test_a_compressed_answer_is_metered():
    packed = gzip.compress(json.dumps(MESSAGE).encode())

    passed, usage = metered(packed, **{"Content-Encoding": "gzip"})

    assert passed == packed
    assert usage.external_id == SID


# ---------------------------------------------------------------------------------------------------------------------
# Calls, and what nobody listed


@pytest.mark.parametrize("write", [lambda fields: json.dumps(fields).encode(), lambda fields: xml(fields, "Call")])
def test_a_call_is_one_request_whose_duration_is_told_later(write):
    usage = metered(write(CALL), judge=answers.judge_call)[1]

    assert (usage.quantities, usage.completeness, usage.external_id) == (
        {"requests": 1},
        Completeness.PENDING,
        CALL["sid"],
    )
    assert (usage.resource, usage.parties) == ("US:toll_free", {"to": TO, "from": FROM})
    assert usage.metadata == {"price_unit": "USD", "status": "queued"}


def test_a_call_whose_answer_makes_no_sense_is_unknown():
    asked = requests.read_call(form(("To", TO), ("From", FROM)))

    usage = metered(b"{}", judge=answers.judge_call, prepared=asked)[1]

    assert (usage.quantities, usage.completeness, usage.resource) == ({}, Completeness.UNKNOWN, "US:toll_free")


def test_where_nobody_listed_the_path_a_message_is_known_by_its_shape():
    usage = answered(judge=answers.judge_by_shape)

    assert (usage.event_type, usage.quantities) == ("sms_outbound", {"messages": 1, "segments": 1})


def test_where_nobody_listed_the_path_what_was_made_has_a_name_and_no_known_cost():
    usage = metered(json.dumps({"sid": "VA" + "0" * 32, "to": TO}).encode(), judge=answers.judge_by_shape)[1]

    assert (usage.quantities, usage.completeness, usage.external_id) == ({}, Completeness.UNKNOWN, "VA" + "0" * 32)
    assert usage.parties == {}


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "HEAD"])
def test_only_a_post_can_cost(method):
    assert not twilio.unlisted(method).billable
    assert twilio.unlisted("POST").billable


# ---------------------------------------------------------------------------------------------------------------------
# Who is asking, and what it is told


def basic(text):
    return "Basic " + base64.b64encode(text.encode("latin-1")).decode()


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (basic(f"{ACCOUNT}:tk_a_b"), "tk_a_b"),
        (basic(f"{ACCOUNT}:tk_a_b").replace("Basic", "BASIC"), "tk_a_b"),
        (basic(":tk_a_b"), "tk_a_b"),
        (basic("SK1:tk_a_b:c"), "tk_a_b:c"),
        (basic("tk_0123456789ab_c:"), "tk_0123456789ab_c"),
        (basic("tk_0123456789ab_c:their-own"), "tk_0123456789ab_c"),
        ("Bearer tk_a_b", "tk_a_b"),
        ("bearer  tk_a_b ", "tk_a_b"),
        (basic(f"{ACCOUNT}:"), None),
        (basic("tk_a_b"), "tk_a_b"),
        (basic("sid"), None),
        (basic("\xff:\xff"), None),
        ("Basic !!!", None),
        ("Basic", None),
        ("Bearer", None),
        ("Digest tk_a_b", None),
        ("", None),
    ],
)
def test_the_key_is_the_password_or_a_user_of_ours_or_the_bearer_token(value, key):
    assert refusals.presented_key(CIMultiDictProxy(CIMultiDict({"Authorization": value}))) == key


def test_a_credential_is_basic_authentication():
    ((name, value),) = refusals.authorize({"account_sid": ACCOUNT, "auth_token": "secret"})

    assert (name, value.decode()) == (b"Authorization", basic(f"{ACCOUNT}:secret"))


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/2010-04-01/Accounts/AC1/Messages.json", b"application/json"),
        ("/2010-04-01/Accounts/AC1/Messages", b"application/xml"),
        ("/2010-04-01/Accounts/AC1/Messages.csv", b"application/xml"),
        ("/v1/Services", b"application/json"),
        ("", b"application/json"),
    ],
)
@pytest.mark.parametrize(
    ("status", "number"), [(401, 20003), (403, 20403), (404, 20404), (429, 20429), (402, 20402), (503, 20503)]
)
def test_a_refusal_has_the_form_that_the_path_asks_for(path, media_type, status, number):
    refused = refusals.refusal(path, status, "some_code", 'A <sentence> & "more".')

    assert refused.media_type == media_type
    if media_type == b"application/json":
        told = json.loads(refused.body)
        assert (told["code"], told["status"], told["message"]) == (number, status, 'A <sentence> & "more".')
        assert told["details"] == {"code": "some_code"}
    else:
        root = ET.fromstring(refused.body)
        assert root.tag == "TwilioResponse"
        told = {element.tag: element.text for element in root[0]}
        assert told["Code"] == str(number)
        assert told["Status"] == str(status)
        assert told["Message"] == 'A <sentence> & "more".'


@pytest.mark.parametrize(
    "path", ["/2010-04-01/Accounts/AC1/Messages/<SM>&", "/2010-04-01/Accounts/AC1/Messages/SM1.json"]
)
def test_a_missing_object_is_what_twilio_says_it_is(path):
    said = refusals.missing(path, "SM1")

    message = f"The requested resource {path} was not found"
    if path.endswith(".json"):
        assert json.loads(said.body) == {
            "code": 20404,
            "message": message,
            "more_info": "https://www.twilio.com/docs/errors/20404",
            "status": 404,
        }
    else:
        assert ET.fromstring(said.body)[0].findtext("Message") == message


# ---------------------------------------------------------------------------------------------------------------------
# Look-ups


@pytest.mark.parametrize("number", ["+12025550143", "%2B12025550143", "%2b12025550143"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_look_up_is_metered_however_its_number_is_written(number, version):
    """Guards a GET that costs money against being booked as one that reads something back."""
    route = Routes((twilio.PROVIDER,)).match("GET", f"/twilio/lookups/{version}/PhoneNumbers/{number}?Fields=sim_swap")

    assert (route.endpoint.event_type, route.endpoint.billable) == ("lookup", True)
    assert route.target == f"/{version}/PhoneNumbers/{number}?Fields=sim_swap"


def looked_up(*, whole=True, **told):
    body = json.dumps({"calling_country_code": "1", "country_code": "US", "phone_number": TO, "valid": True} | told)
    meter = answers.lookup(answer_head(200), PLAIN)
    assert meter.feed(body.encode()) == body.encode()
    return meter.finish(whole=whole)[1]


def test_a_look_up_is_one_request_about_a_number_of_a_country_by_what_it_was_asked():
    usage = looked_up(caller_name={"caller_name": "ADA LOVELACE"}, sim_swap={"error_code": None}, carrier=None, ada=TO)

    assert (usage.quantities, usage.resource, usage.completeness) == ({"requests": 1}, "US", Completeness.REPORTED)
    assert (usage.event_type, usage.external_id, usage.parties) == (None, None, {})
    assert usage.metadata == {"packages": ["caller_name", "sim_swap"]}


def test_that_there_is_such_a_number_costs_nothing():
    usage = looked_up(**dict.fromkeys(answers.PACKAGES))

    assert (usage.quantities, usage.event_type, usage.completeness) == ({}, "api_call", Completeness.REPORTED)


@pytest.mark.parametrize("body", [b"", b"[]", b"<a/>", b"{", b"\xff", b"[" * 100_000])
def test_a_look_up_whose_answer_makes_no_sense_is_unknown(body):
    meter = answers.lookup(answer_head(200), PLAIN)
    meter.feed(body)

    assert meter.finish(whole=True)[1].completeness is Completeness.UNKNOWN
    assert looked_up(whole=False).completeness is Completeness.UNKNOWN


# ---------------------------------------------------------------------------------------------------------------------
# Recordings, conferences, verifications, and what sends by itself


def judged(judge, **fields):
    return metered(json.dumps(fields).encode(), judge=judge)[1]


def test_a_participant_is_a_call_by_its_own_name():
    """Guards the name: by the conference's, its minutes would never be found."""
    asked = requests.read_call(form(("To", TO), ("From", FROM)))
    body = json.dumps({"call_sid": CALL["sid"], "conference_sid": "CF" + "0" * 32, "status": "queued"}).encode()

    usage = metered(body, judge=answers.judge_participant, prepared=asked)[1]

    assert (usage.external_id, usage.quantities, usage.completeness) == (
        CALL["sid"],
        {"requests": 1},
        Completeness.PENDING,
    )
    assert usage.resource == "US:toll_free"


def test_a_recording_has_its_length_later():
    usage = judged(answers.judge_recording, sid="RE" + "5e" * 16, status="in-progress", duration="-1")

    assert (usage.quantities, usage.completeness) == ({}, Completeness.PENDING)
    assert judged(answers.judge_recording).completeness is Completeness.UNKNOWN


@pytest.mark.parametrize(
    ("to", "channel", "resource"),
    [(TO, "sms", "US:sms"), ("ada@example.com", "email", "email"), (TO, "Ada Lovelace", "US"), ("x", None, None)],
)
def test_a_verification_is_one_request_by_country_and_channel(to, channel, resource):
    sid = "VE" + "6f" * 16

    usage = judged(answers.judge_verification, sid=sid, to=to, channel=channel, status="pending")

    assert (usage.quantities, usage.resource, usage.external_id) == ({"requests": 1}, resource, sid)
    assert usage.parties == {"to": to}
    assert "Ada Lovelace" not in usage.metadata.values()


def test_a_code_that_is_checked_is_no_verification_more():
    usage = judged(answers.judge_check, sid="VE" + "6f" * 16, to=TO, channel="sms", status="approved", valid=True)

    assert (usage.quantities, usage.completeness) == ({}, Completeness.REPORTED)
    assert usage.metadata == {"channel": "sms", "status": "approved"}


def test_what_sends_by_itself_is_not_known_to_cost_nothing():
    usage = judged(answers.judge_elsewhere, sid="FN" + "7a" * 16, status="active")

    assert (usage.quantities, usage.completeness) == ({}, Completeness.UNKNOWN)
    assert usage.metadata == {"status": "active", "media": "past the gateway"}


ACCOUNT_PATH = f"/twilio/2010-04-01/Accounts/{ACCOUNT}"


@pytest.mark.parametrize(
    ("method", "target", "name"),
    [
        ("POST", f"{ACCOUNT_PATH}/Messages", "messages.create"),
        ("POST", f"{ACCOUNT_PATH}/Calls/{CALL['sid']}/Recordings.json", "calls.recordings.create"),
        ("GET", f"{ACCOUNT_PATH}/Recordings/RE{'0' * 32}.mp3", "recordings.fetch"),
        ("POST", f"{ACCOUNT_PATH}/Conferences/CF{'0' * 32}/Participants.json", "conferences.participants.create"),
        ("POST", f"{ACCOUNT_PATH}/Conferences/support/Participants.json", "conferences.participants.create"),
        ("GET", f"{ACCOUNT_PATH}/Usage/Records/Daily.json?Category=sms", "usage.records.of.list"),
        ("POST", f"/twilio/verify/v2/Services/VA{'0' * 32}/Verifications", "verify.v2.verifications.create"),
        ("POST", f"/twilio/verify/v2/Services/VA{'0' * 32}/VerificationCheck", "verify.v2.verification_checks.create"),
        ("GET", f"/twilio/verify/v2/Services/VA{'0' * 32}/Verifications/+12025550143", "verify.v2.verifications.fetch"),
        ("POST", f"/twilio/conversations/v1/Conversations/CH{'0' * 32}/Messages", "conversations.v1.conversations.messages.create"),
        ("POST", f"/twilio/studio/v2/Flows/FW{'0' * 32}/Executions", "studio.v2.flows.executions.create"),
        ("POST", "/twilio/proxy/v1/Services", "unlisted"),
        ("GET", "/twilio/events/v1/Types", "unlisted"),
    ],
)  # fmt: skip
def test_each_path_is_known_by_what_the_sdk_calls_it(method, target, name):
    route = Routes((twilio.PROVIDER,)).match(method, target)

    assert route.endpoint.name == name
    assert route.endpoint.billable == name.endswith("create") or name == "unlisted"
