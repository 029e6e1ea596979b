"""What Twilio says after the call of a message, a call and a recording, in whichever answer it stands."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.api import Pending
from gateway.providers.body import WhenOver
from gateway.providers.twilio import PROVIDER, late
from gateway.providers.twilio.callbacks import read_status
from gateway.recorder import late_event
from gateway.routing import Routes
from metering.facts import validated
from metering.usage import Completeness
from tests.builders import answer_head

ACCOUNT = "AC" + "2b" * 16
MESSAGE = {
    "sid": "SM" + "1a" * 16,
    "body": "Hello, </Message><Status>failed</Status> Ada",
    "direction": "outbound-api",
    "to": "+12025550143",
    "from": "+18005550199",
    "num_segments": "2",
    "num_media": "0",
    "status": "delivered",
    "error_code": None,
    "price": "-0.01660",
    "price_unit": "USD",
}
CALL = {
    "sid": "CA" + "4d" * 16,
    "to": "+12025550143",
    "from": "+18005550199",
    "status": "completed",
    "duration": "49",
    "price": "-0.0140",
    "price_unit": "USD",
}
RECORDING = {"sid": "RE" + "5e" * 16, "status": "completed", "duration": "12", "price": None, "price_unit": "USD"}


def xml(resource, kind):
    inside = ET.Element(kind)
    for field, value in resource.items():
        element = ET.SubElement(inside, "".join(part.title() for part in field.split("_")))
        element.text = None if value is None else str(value)
    return ET.tostring(inside).decode()


def one_in_xml(resource, kind):
    return f"<?xml version='1.0'?>\n<TwilioResponse>{xml(resource, kind)}</TwilioResponse>".encode()


def said(found):
    """What is said, by phase: quantities, completeness, metadata."""
    return {one.phase: (one.usage.quantities, one.usage.completeness, one.usage.metadata) for one in found}


def of_message(**changes):
    return late.message(json.dumps(MESSAGE | changes).encode())


def of_call(**changes):
    return late.call(json.dumps(CALL | changes).encode())


REPORTED = Completeness.REPORTED
OPEN = ({}, Completeness.PENDING, {})


def test_a_message_that_was_delivered_says_its_segments_and_its_price():
    found = of_message()

    assert {one.external_id for one in found} == {MESSAGE["sid"]}
    assert said(found) == {
        "final": ({"messages": 1, "segments": 2}, REPORTED, {"status": "delivered"}),
        "price": ({}, REPORTED, {"provider_cost": "0.0166", "currency": "USD"}),
    }
    # Guards against a second message of another type or sender than the one that was booked.
    assert {(one.usage.event_type, one.usage.resource) for one in found} == {(None, None)}


@pytest.mark.parametrize("status", ["queued", "sending", "accepted", "scheduled", "receiving", "unheard-of", None, 7])
def test_a_message_under_way_says_nothing(status):
    assert of_message(status=status) == ()


def test_what_is_read_says_what_it_said_when_it_was_delivered():
    """Guards the contradiction: whichever is seen first, the second must be the same fact."""
    assert of_message(status="read") == of_message(status="delivered")


def test_a_message_without_a_price_is_still_to_be_asked_about():
    assert said(of_message(price=None))["open"] == OPEN
    assert "open" not in said(of_message())


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_what_was_never_sent_costs_nothing_and_nothing_is_waited_for(status):
    found = said(of_message(status=status, price=None, num_segments="0"))

    assert found == {"final": ({}, REPORTED, {"status": status})}


@pytest.mark.parametrize("code", [30003, "30003"])
def test_what_was_not_delivered_is_billed_and_says_why(code):
    found = said(of_message(status="undelivered", error_code=code))

    assert found["final"] == (
        {"messages": 1, "segments": 2},
        REPORTED,
        {"status": "undelivered", "error_code": "30003"},
    )


@pytest.mark.parametrize("code", [None, "", True, "to Ada", -1, 0, [30003]])
def test_what_is_no_code_is_not_kept(code):
    assert said(of_message(status="undelivered", error_code=code))["final"][2] == {"status": "undelivered"}


def test_a_message_with_pictures_says_how_many():
    assert said(of_message(num_media="3", num_segments="1"))["final"][0] == {"messages": 1, "segments": 1, "media": 3}


def test_what_was_sent_may_still_arrive_or_not_and_has_its_price():
    """Guards what is open: a price alone would be its last word, and nobody would ask whether it arrived."""
    assert set(said(of_message(status="sent"))) == {"price", "open"}
    assert of_message(status="sent", price=None) == ()


def test_what_was_sent_long_ago_stays_so():
    old = late.old_message(json.dumps(MESSAGE | {"status": "sent", "price": None}).encode())

    assert said(old) == {"final": ({"messages": 1, "segments": 2}, REPORTED, {"status": "sent"}), "open": OPEN}
    assert late.old_message(json.dumps(MESSAGE | {"status": "queued"}).encode()) == ()


@pytest.mark.parametrize("segments", [None, "", "-1", "٣", 3, "9" * 30])
def test_a_message_that_does_not_say_its_segments_is_not_taken_to_have_none(segments):
    """Guards the segments of its call: a total without them would take them off again."""
    assert set(said(of_message(num_segments=segments))) == {"price"}


def test_a_message_of_another_channel_ends_like_any_other():
    found = said(of_message(to="messenger:1", **{"from": "messenger:2"}))

    assert set(found) == {"final", "price"}
    assert found["final"] == said(of_message())["final"]


@pytest.mark.parametrize(
    ("price", "cost"),
    [("-0.00750", "0.0075"), ("-0.0075", "0.0075"), ("0.00000", "0"), ("-12", "12"), ("-10.00", "10"), ("-100", "100")],
)
def test_a_price_is_told_without_its_sign_and_in_one_way(price, cost):
    assert said(of_message(price=price))["price"][2] == {"provider_cost": cost, "currency": "USD"}


@pytest.mark.parametrize("changes", [{"price": "-1e9"}, {"price": 0.5}, {"price": ""}, {"price_unit": None}])
def test_what_is_no_price_is_none(changes):
    assert "price" not in said(of_message(**changes))


@pytest.mark.parametrize("unit", ["usd", "USD"])
def test_a_currency_is_told_in_one_way(unit):
    assert said(of_call(price_unit=unit))["price"][2]["currency"] == "USD"


def test_a_call_that_is_over_says_its_seconds_as_minutes():
    found = of_call()

    assert said(found) == {
        "final": ({"seconds": 49}, REPORTED, {"status": "completed"}),
        "price": ({}, REPORTED, {"provider_cost": "0.014", "currency": "USD"}),
    }
    assert found[0].usage.event_type == "call_minutes"


@pytest.mark.parametrize("status", ["busy", "no-answer", "failed", "canceled"])
@pytest.mark.parametrize("duration", [None, "0"])
def test_a_call_that_nobody_took_has_no_minutes(status, duration):
    found = said(of_call(status=status, duration=duration, price=None))

    assert found == {"final": ({}, REPORTED, {"status": status})}


@pytest.mark.parametrize("status", ["queued", "initiated", "ringing", "in-progress"])
def test_a_call_under_way_says_nothing(status):
    assert of_call(status=status, price=None, duration=None) == ()


def test_a_call_that_is_over_and_does_not_say_how_long_it_was_is_asked_about_again():
    assert of_call(duration=None, price=None) == ()


def test_a_recording_says_its_seconds():
    found = said(late.recording(json.dumps(RECORDING).encode()))

    assert found == {"final": ({"seconds": 12}, REPORTED, {"status": "completed"}), "open": OPEN}
    assert late.recording(json.dumps(RECORDING | {"status": "processing"}).encode()) == ()
    absent = late.recording(json.dumps(RECORDING | {"status": "absent", "duration": "0"}).encode())
    assert said(absent) == {"final": ({}, REPORTED, {"status": "absent"})}


# ---------------------------------------------------------------------------------------------------------------------
# Whoever says it


KINDS = [
    (MESSAGE | {"error_code": 30003}, "Message", "Messages", "messages", late.message, late.messages),
    (CALL, "Call", "Calls", "calls", late.call, late.calls),
    (RECORDING, "Recording", "Recordings", "recordings", late.recording, late.recordings),
]


@pytest.mark.parametrize(("resource", "name", "names", "key", "one", "page"), KINDS)
def test_every_answer_that_says_it_says_the_same(resource, name, names, key, one, page):
    """Guards the byte for byte of a late fact: two ways of saying it would be a contradiction in the ledger."""
    other = resource | {"sid": resource["sid"][:-1] + "0", "status": "queued"}
    of_xml_page = f'<TwilioResponse><{names} end="1">{xml(resource, name)}{xml(other, name)}</{names}></TwilioResponse>'
    ways = [
        one(json.dumps(resource).encode()),
        one(one_in_xml(resource, name)),
        page(json.dumps({"page": 0, key: [resource, other, None, 7]}).encode()),
        page(of_xml_page.encode()),
    ]

    facts = [[msgspec.json.encode(late_event("acme", "twilio", late)) for late in way] for way in ways]

    assert len(facts[0]) == 2
    assert all(way == facts[0] for way in facts)


@pytest.mark.parametrize("status", sorted(late.CALL_OVER))
def test_a_callback_says_of_a_call_what_its_resource_says(status):
    """Guards the byte for byte of a late fact, here of two modules: whichever comes second must be no contradiction."""
    form = [("CallSid", CALL["sid"]), ("CallStatus", status), ("CallDuration", "49"), ("Duration", "1")]

    told, asked = read_status(form).late, of_call(status=status, price=None)

    encoded = [[msgspec.json.encode(late_event("acme", "twilio", one)) for one in found] for found in (told, asked)]
    assert encoded[0] == encoded[1] != []


def test_of_a_page_so_many_items_are_read_as_it_passes_by():
    page = {"calls": [CALL | {"sid": f"CA{number:032x}"} for number in range(late.ITEMS_MAX + 5)]}

    found = late.calls(json.dumps(page).encode())

    assert len({one.external_id for one in found}) == late.ITEMS_MAX


def test_a_list_of_something_else_says_nothing():
    page = json.dumps({"messages": [MESSAGE], "incoming_phone_numbers": [CALL]}).encode()

    assert len(late.messages(page)) == 2
    assert late.calls(page) == late.recordings(page) == ()


READERS = [late.message, late.old_message, late.messages, late.call, late.calls, late.recording, late.recordings]
SCALARS = st.sampled_from(
    [None, True, -1, 1.5, 30003, "", "1", "49", "-0.0075", "USD", "delivered", "failed", "sent", "completed", "\ud7ff",
     MESSAGE["sid"], CALL["sid"], "whatsapp:+1", [], {}, "9" * 400]
)  # fmt: skip
RESOURCES = st.dictionaries(st.sampled_from([*MESSAGE, *CALL, "to"]), SCALARS, max_size=9)
PAGES = st.dictionaries(st.sampled_from(["messages", "calls", "recordings"]), SCALARS | st.lists(RESOURCES | SCALARS))


@given(st.binary(max_size=60) | (RESOURCES | PAGES | SCALARS).map(lambda said: json.dumps(said).encode()))
def test_whatever_is_sent_nothing_is_raised_and_what_is_said_is_a_fact(body):
    for read in READERS:
        for one in read(body):
            event = late_event("acme", "twilio", one)
            assert validated(event) is event
            assert event.completeness in (REPORTED, Completeness.PENDING)


@given(st.lists(st.sampled_from(["<Message>", "</Message>", "<Sid>", "</Sid>", MESSAGE["sid"], "<Status>read</Status>",
                                 "<NumSegments>1</NumSegments>", "<Call>", "</Call>", "&#0;", "<"]), max_size=12))  # fmt: skip
def test_no_xml_makes_it_raise(parts):
    for read in READERS:
        for one in read(b"<TwilioResponse>" + "".join(parts).encode()):
            assert validated(late_event("acme", "twilio", one))


# ---------------------------------------------------------------------------------------------------------------------
# Passing by, and asking


PREFIX = f"/twilio/2010-04-01/Accounts/{ACCOUNT}"


@pytest.mark.parametrize(
    ("method", "path", "resource"),
    [
        ("GET", f"Messages/{MESSAGE['sid']}.json", MESSAGE),
        ("POST", f"Messages/{MESSAGE['sid']}.json", MESSAGE | {"status": "canceled", "price": None}),
        ("GET", "Messages.json?PageSize=2", {"messages": [MESSAGE]}),
        ("GET", f"Calls/{CALL['sid']}.json", CALL),
        ("POST", f"Calls/{CALL['sid']}.json", CALL),
        ("GET", "Calls.json", {"calls": [CALL]}),
        ("GET", f"Recordings/{RECORDING['sid']}.json", RECORDING),
        ("GET", f"Calls/{CALL['sid']}/Recordings.json", {"recordings": [RECORDING]}),
    ],
)
@given(cut=st.integers(0, 500), whole=st.booleans())
def test_what_is_read_back_bills_nothing_and_its_last_word_is_used(method, path, resource, cut, whole):
    endpoint = Routes((PROVIDER,)).match(method, f"{PREFIX}/{path}").endpoint
    body = json.dumps(resource).encode()
    meter = endpoint.meter(answer_head(200, {"Content-Type": "application/json;charset=utf-8"}), None)

    passed = meter.feed(body[:cut]) + meter.feed(body[cut:])
    held, usage = meter.finish(whole=whole)

    assert not endpoint.billable
    assert passed + held == body
    assert (usage.quantities, usage.completeness) == ({}, REPORTED)
    assert [one.phase for one in usage.late][:1] == (["final"] if whole else [])


def test_a_sound_is_not_held_to_be_read():
    endpoint = Routes((PROVIDER,)).match("GET", f"{PREFIX}/Recordings/{RECORDING['sid']}.mp3").endpoint
    meter = endpoint.meter(answer_head(200, {"Content-Type": "audio/mpeg"}), None)

    assert not isinstance(meter, WhenOver)


def test_a_page_that_is_too_large_is_left_to_whoever_asks():
    endpoint = Routes((PROVIDER,)).match("GET", f"{PREFIX}/Calls.json").endpoint
    meter = endpoint.meter(answer_head(200, {"Content-Type": "application/json"}), None)
    body = json.dumps({"calls": [CALL]}).encode() + b" " * late.BODY_BYTES_MAX
    meter.feed(body)

    assert meter.finish(whole=True)[1].late == ()


@pytest.mark.parametrize(
    ("name", "kind", "sid"),
    [
        ("messages.create", "Messages", MESSAGE["sid"]),
        ("calls.create", "Calls", CALL["sid"]),
        ("conferences.participants.create", "Calls", CALL["sid"]),
        ("calls.recordings.create", "Recordings", RECORDING["sid"]),
    ],
)
def test_what_is_open_is_asked_for_below_the_account_that_made_it(name, kind, sid):
    (settles,) = (endpoint.settles for endpoint in PROVIDER.endpoints if endpoint.name == name)

    assert settles.path(Pending(sid, {}, ACCOUNT)) == f"/2010-04-01/Accounts/{ACCOUNT}/{kind}/{sid}.json"
    assert settles.path(Pending(sid, {})) is None
    assert settles.path(Pending("../../evil", {}, ACCOUNT)) is None


def test_what_the_gateway_asks_it_asks_the_host_of_the_accounts():
    """Guards the order of the hosts: the first is asked, and no other knows messages and calls."""
    assert PROVIDER.products[0] == "api"
