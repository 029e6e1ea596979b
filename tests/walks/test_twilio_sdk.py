"""The official Twilio SDK through the gateway: what it returns is what it returns directly, but for the account's name."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, parse_qsl

import pytest
import requests
from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.http.http_client import TwilioHttpClient
from twilio.request_validator import RequestValidator
from twilio.rest import Client

from gateway.simulator.truth import read_deliveries
from tests.walks.harness import ON_BOTH, Installation, basic, eventually
from tests.walks.sides import Answered, Side, alike, alike_headers, directly_to_twilio, plain, raw, through_to_twilio

pytestmark = ON_BOTH

ADA, BOB = "+12025550143", "+4915123456789"
TOLL, TOLL_FREE, SHORT_CODE = "+15005550006", "+18005550199", "54321"
NUMBERS = (ADA, BOB, TOLL, TOLL_FREE, "+15017122661")
YESTERDAY, TOMORROW = (dt.datetime.now(dt.UTC) + dt.timedelta(days=days) for days in (-1, 1))
SECRET = "Your code is 774411"
PICTURES = [f"https://example.com/picture-{n}.png?size=big&n={n}" for n in range(3)]
"""In the order in which they are sent, each under the same name."""

SENDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an SMS": (
        {"to": ADA, "from_": TOLL, "body": SECRET},
        {"event_type": "sms_outbound", "resource": "US:long_code", "quantities": {"messages": 1, "segments": 1}},
    ),
    "an SMS in many scripts": (
        {"to": ADA, "from_": TOLL, "body": "Grüße aus Köln 👋, günaydin, おはよう & 100 % = ganz+gar" * 3},
        {"event_type": "sms_outbound", "resource": "US:long_code", "quantities": {"messages": 1, "segments": 3}},
    ),
    "the longest SMS": (
        {"to": ADA, "from_": TOLL, "body": "x" * 1600},
        {"event_type": "sms_outbound", "resource": "US:long_code", "quantities": {"messages": 1, "segments": 11}},
    ),
    "an SMS from a name, abroad": (
        {"to": BOB, "from_": "Toll & Co", "body": "Hallo"},
        {"event_type": "sms_outbound", "resource": "DE:alphanumeric", "quantities": {"messages": 1, "segments": 1}},
    ),
    "an SMS from a short code": (
        {"to": ADA, "from_": SHORT_CODE, "body": "Hello"},
        {"event_type": "sms_outbound", "resource": "US:short_code", "quantities": {"messages": 1, "segments": 1}},
    ),
    "an SMS from a toll-free number": (
        {"to": ADA, "from_": TOLL_FREE, "body": "Hello"},
        {"event_type": "sms_outbound", "resource": "US:toll_free", "quantities": {"messages": 1, "segments": 1}},
    ),
    "an MMS of three pictures": (
        {"to": ADA, "from_": TOLL, "body": "Look", "media_url": PICTURES},
        {
            "event_type": "mms_outbound",
            "resource": "US:long_code",
            "quantities": {"messages": 1, "segments": 1, "media": 3},
        },
    ),
    "an MMS without a word": (
        {"to": ADA, "from_": TOLL, "media_url": PICTURES[:1]},
        {
            "event_type": "mms_outbound",
            "resource": "US:long_code",
            "quantities": {"messages": 1, "segments": 1, "media": 1},
        },
    ),
    "a WhatsApp message": (
        {"to": f"whatsapp:{ADA}", "from_": f"whatsapp:{TOLL}", "body": "Hello"},
        {"event_type": "whatsapp_outbound", "resource": "US:whatsapp", "quantities": {"messages": 1, "segments": 1}},
    ),
    "a message whose service picks the sender": (
        {"to": ADA, "messaging_service_sid": "MG" + "0a" * 16, "body": "Hello"},
        # What it has of segments is known once a sender is picked.
        {"event_type": "sms_outbound", "resource": "US:messaging_service", "quantities": {"messages": 1}},
    ),
}

CALL: dict[str, Any] = {"to": ADA, "from_": TOLL, "url": "https://example.com/twiml?a=1&b=2"}
EVENTS = ["initiated", "ringing", "answered", "completed"]


def a_message_that_is_read_redacted_and_deleted(client: Client) -> list[Any]:
    with asking(client, step_ms="0"):
        made = client.messages.create(to=ADA, from_=TOLL, body=SECRET)
    read = client.messages(made.sid).fetch()
    redacted = client.messages(made.sid).update(body="")
    reread = made.fetch()
    deleted = client.messages(made.sid).delete()
    with pytest.raises(TwilioRestException) as missing:
        client.messages(made.sid).fetch()
    return [made, read, redacted, reread, deleted, vars(missing.value)]


def a_message_that_is_scheduled_and_cancelled(client: Client) -> list[Any]:
    service = client.messaging.v1.services.create(friendly_name="Tolls", sticky_sender=False)
    made = client.messages.create(
        to=ADA, messaging_service_sid=service.sid, body=SECRET, schedule_type="fixed", send_at=TOMORROW
    )
    cancelled = client.messages(made.sid).update(status="canceled")
    again = client.messaging.v1.services(service.sid).fetch()
    return [service, made, cancelled, again, client.messaging.v1.services(service.sid).delete()]


def pictures_that_are_listed_read_and_deleted(client: Client) -> list[Any]:
    with asking(client, step_ms="0"):
        made = client.messages.create(to=ADA, from_=TOLL, media_url=PICTURES)
    media = client.messages(made.sid).media
    first, *others = media.list(page_size=2)
    read = media(first.sid).fetch()
    return [made, first, others, read, media(first.sid).delete(), media.list()]


def a_call_that_is_hung_up(client: Client) -> list[Any]:
    with asking(client, step_ms="3600000"):
        made = client.calls.create(**CALL)
    return [made, client.calls(made.sid).fetch(), client.calls(made.sid).update(status="completed")]


def a_call_that_is_over(client: Client) -> list[Any]:
    with asking(client, step_ms="0", seconds="61"):
        made = client.calls.create(**CALL, status_callback_event=EVENTS)
    return [made, client.calls(made.sid).fetch(), client.calls(made.sid).delete()]


def a_verification_that_is_approved(client: Client) -> list[Any]:
    service = client.verify.v2.services.create(friendly_name="Tolls")
    verify = client.verify.v2.services(service.sid)
    made = verify.verifications.create(to=ADA, channel="sms")
    wrong = verify.verification_checks.create(to=ADA, code="000000")
    right = verify.verification_checks.create(to=ADA, code="123456")
    read = verify.verifications(made.sid).fetch()
    return [service, made, wrong, right, read, verify.fetch(), verify.delete()]


def a_verification_that_is_cancelled(client: Client) -> list[Any]:
    service = client.verify.v2.services.create(friendly_name="Tolls")
    verify = client.verify.v2.services(service.sid)
    made = verify.verifications.create(to="ada@example.com", channel="email")
    return [made, verify.verifications(made.sid).update(status="canceled")]


def with_controls(call: Callable[[Client], Any], **controls: str) -> Callable[[Client], Any]:
    def walk(client: Client) -> Any:
        with asking(client, **controls):
            return call(client)

    return walk


def sms(client: Client) -> Any:
    return client.messages.create(to=ADA, from_=TOLL, body=SECRET)


WALKS: dict[str, Callable[[Client], Any]] = {
    "a message, read, redacted, deleted": a_message_that_is_read_redacted_and_deleted,
    "a message, scheduled, cancelled": a_message_that_is_scheduled_and_cancelled,
    "pictures, listed, read, deleted": pictures_that_are_listed_read_and_deleted,
    "a verification, checked, approved": a_verification_that_is_approved,
    "a verification, cancelled": a_verification_that_is_cancelled,
    "a number, looked up": lambda c: c.lookups.v2.phone_numbers(ADA).fetch(fields="line_type_intelligence,sim_swap"),
    "a number, whether there is such": lambda c: c.lookups.v2.phone_numbers(ADA).fetch(),
    "a call": lambda c: c.calls.create(**CALL, status_callback_event=EVENTS, timeout=20),
    "a call with its own TwiML": lambda c: c.calls.create(
        to=ADA, from_=TOLL, twiml="<Response><Say>Hi</Say></Response>"
    ),
    "a call, hung up": a_call_that_is_hung_up,
    "a call, over and deleted": a_call_that_is_over,
    "no number to send to": lambda c: c.messages.create(to="12", from_=TOLL, body=SECRET),
    "nobody to send to": lambda c: c.messages.create(to="", from_=TOLL, body=SECRET),
    "nothing to send": lambda c: c.messages.create(to=ADA, from_=TOLL),
    "nobody who sends": lambda c: c.messages.create(to=ADA, body=SECRET),
    "too long to send": lambda c: c.messages.create(to=ADA, from_=TOLL, body="x" * 1601),
    "a callback to nowhere": lambda c: c.messages.create(to=ADA, from_=TOLL, body=SECRET, status_callback="nowhere"),
    "a call that says nothing": lambda c: c.calls.create(to=ADA, from_=TOLL),
    "too many requests": with_controls(sms, status="429"),
    "provider failing": with_controls(sms, status="500"),
    "provider forbidding": with_controls(sms, status="403"),
    "an answer that is compressed all the same": with_controls(sms, encoding="gzip"),
    "an answer in chunks": with_controls(sms, framing="chunked"),
    "an answer until close": with_controls(sms, fault="close-delimited"),
    "an answer that breaks off": with_controls(sms, fault="cut-body"),
}
CALLS = {name: (lambda c, fields=fields: c.messages.create(**fields)) for name, (fields, _) in SENDS.items()} | WALKS


class Walked(NamedTuple):
    """What a client was told, and what came over the wire to it."""

    told: Any
    answers: list[Answered]


class Following(TwilioHttpClient):
    """Follows the URLs that it is given. Twilio's own hosts are the simulator's, to whoever asks it without the gateway;
    whoever asks through the gateway is led to no other."""

    def __init__(self, side: Side, **more: Any) -> None:
        super().__init__(**more)
        self._side = side

    def request(self, method: str, url: str, *more: Any, **named: Any) -> Any:
        if not self._side.key.startswith("tk_"):
            url = re.sub(r"^https://([a-z-]+)\.twilio\.com(?=/)", rf"{self._side.base_url}/\1", url)
        assert url.startswith(self._side.base_url), f"led past the gateway, to {url}"
        return super().request(method, url, *more, **named)


@contextmanager
def client_of(side: Side, **headers: str) -> Iterator[tuple[Client, list[Answered]]]:
    """The SDK's client as an application makes it, and what it gets."""
    answers: list[Answered] = []

    def seen(answer: requests.Response, **_: Any) -> None:
        answers.append(Answered(answer.status_code, list(answer.headers.items()), answer.content))

    http_client = Following(side, request_hooks={"response": seen})
    http_client.session.headers.update(headers)
    client = Client(side.account_sid, side.key, http_client=http_client)
    client.api.base_url = f"{side.base_url}/api"
    client.messaging.base_url = f"{side.base_url}/messaging"
    client.verify.base_url = f"{side.base_url}/verify"
    client.lookups.base_url = f"{side.base_url}/lookups"
    try:
        yield client, answers
    finally:
        http_client.session.close()


@contextmanager
def asking(client: Client, **controls: str) -> Iterator[None]:
    """Ask something of the simulator, in every request meanwhile."""
    headers = {f"x-simulator-{name.replace('_', '-')}": value for name, value in controls.items()}
    client.http_client.session.headers.update(headers)
    yield
    for name in headers:
        del client.http_client.session.headers[name]


def walked(side: Side, name: str) -> Walked:
    with client_of(side, **{"x-walk": name}) as (client, answers):
        try:
            told = plain(CALLS[name](client), side.account_sid, side.base_url)
        except TwilioRestException as error:
            told = plain(("refused", vars(error), str(error)), side.account_sid)
        except requests.RequestException as error:
            told = type(error).__name__
        return Walked(told, answers)


@pytest.fixture(scope="module")
def key(gateway):
    return gateway.tenant("walk", plan="starter")


@pytest.fixture(scope="module")
def sides(gateway, key):
    return directly_to_twilio(gateway), through_to_twilio(gateway, "walk", key)


@pytest.fixture(scope="module")
def more(gateway):
    """The same for another tenant, whose calls are not among the walks."""
    return directly_to_twilio(gateway), through_to_twilio(gateway, "more", gateway.tenant("more"))


@pytest.fixture(scope="module")
def walks(gateway, sides):
    """Each of the calls, made directly and through the gateway, by nobody else but these."""
    return {name: tuple(walked(side, name) for side in sides) for name in CALLS}


@pytest.fixture(scope="module")
def events(gateway, walks):
    """The events of the walks, by the id that the client was told."""
    ids = [answer.header("x-tollkeeper-call-id") for _, through in walks.values() for answer in through.answers]
    done = sum(answer.status < 300 for _, through in walks.values() for answer in through.answers)
    # The answer that breaks off never got as far as a client's hook, and is an event as well.
    found = {event["call_id"]: event for event in gateway.events_of("walk", done + 1, kind="usage")}
    assert None not in ids
    assert {call_id for call_id in found if call_id not in ids} == {
        call_id
        for call_id, event in found.items()
        if event["completeness"] == "unknown" and event["endpoint"] != "unlisted"
    }
    return found


def exchanges(gateway: Installation, name: str) -> list[Any]:
    """What the provider saw of a walk: first of the one that was made directly, then through the gateway."""
    seen = [exchange for exchange in gateway.asked() if exchange.header("x-walk") == name]
    return list(zip(seen[: len(seen) // 2], seen[len(seen) // 2 :], strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_the_sdk_returns_through_the_gateway_what_it_returns_directly(walks, name):
    direct, through = walks[name]

    assert through.told == direct.told


@pytest.mark.parametrize("name", CALLS)
def test_what_comes_over_the_wire_is_the_same_but_for_the_name_of_the_account(walks, sides, name):
    direct, through = (
        [
            (
                answer.status,
                alike_headers(answer.headers, side.account_sid),
                alike(answer.body.decode(), side.account_sid, side.base_url),
            )
            for answer in walk.answers
        ]
        for walk, side in zip(walks[name], sides, strict=True)
    )

    assert through == direct


@pytest.mark.parametrize("name", CALLS)
def test_the_provider_receives_what_it_receives_directly_byte_for_byte(gateway, walks, name):
    ours, service = {"accept-encoding", "host"}, b"MessagingServiceSid=MG"
    one_of = {"connection", "keep-alive"}
    assert exchanges(gateway, name)
    for direct, through in exchanges(gateway, name):
        assert (through.method, alike(through.target, "")) == (direct.method, alike(direct.target, ""))
        # A service that a walk has made is another one each time.
        assert alike(through.body.decode(), "") == alike(direct.body.decode(), "")
        assert through.body == direct.body or service in direct.body
        assert through.credential == direct.credential
        found, expected = (
            {(field.lower(), value) for field, value in exchange.headers if field.lower() not in ours | one_of}
            for exchange in (through, direct)
        )
        assert found == expected
        assert through.header("accept-encoding") == "identity"


def test_values_under_one_name_reach_the_provider_all_and_in_their_order(gateway, walks):
    ((_, mms),) = exchanges(gateway, "an MMS of three pictures")
    ((_, call),) = exchanges(gateway, "a call")

    assert [value for name, value in parse_qsl(mms.body.decode()) if name == "MediaUrl"] == PICTURES
    assert [value for name, value in parse_qsl(call.body.decode()) if name == "StatusCallbackEvent"] == EVENTS


def test_the_real_account_is_named_in_nothing_that_a_client_gets(gateway, walks):
    real = gateway.providers.credentials["twilio"]

    got = "".join(
        f"{answer.status} {answer.headers} {answer.body.decode()}"
        for _, through in walks.values()
        for answer in through.answers
    )

    assert "account_sid" in got
    for secret in real.values():
        assert secret not in got
        assert secret not in json.dumps([through.told for _, through in walks.values()])


def test_the_tenants_account_is_named_in_nothing_that_the_provider_gets(gateway, walks, sides, key):
    ours = sides[1].account_sid
    truth = gateway.asked()

    assert truth
    for exchange in truth:
        got = f"{exchange.target} {exchange.headers}".encode() + exchange.body
        assert ours.encode() not in got
        assert ours[2:].encode() not in got
        assert key.encode() not in got


@pytest.mark.parametrize("name", SENDS)
def test_a_message_is_one_pending_event_with_what_its_answer_says(walks, events, name):
    (answer,) = walks[name][1].answers
    said = json.loads(answer.body)

    event = events[answer.header("x-tollkeeper-call-id")]

    expected = SENDS[name][1] | {
        "tenant_id": "walk",
        "source": "twilio",
        "endpoint": "messages.create",
        "channel": "whatsapp" if name == "a WhatsApp message" else "sms",
        "direction": "outbound",
        "completeness": "pending",
        "external_id": said["sid"],
        "description": f"{SENDS[name][1]['resource']} message",
        "kind": "usage",
        "category": "uncategorised",
        # What is billed by its segments has no price before these are known.
        "priced": "segments" in SENDS[name][1]["quantities"],
        "status": 201,
    }
    assert {field: event[field] for field in expected} == expected
    told = {"num_segments", "num_media", "price_unit", "status"} | (
        {"messaging_service_sid"} if said["messaging_service_sid"] else set()
    )
    assert {field: event["metadata"][field] for field in told} == {field: said[field] for field in told}
    assert set(event["metadata"]) == told | {"to"} | ({"from"} if said["from"] else set())


def test_a_call_is_one_event_and_its_minutes_are_another(walks, events):
    (answer,) = walks["a call"][1].answers

    event = events[answer.header("x-tollkeeper-call-id")]

    expected = {
        "event_type": "call_outbound",
        "endpoint": "calls.create",
        "channel": "voice",
        "direction": "outbound",
        "resource": "US:long_code",
        "quantities": {"requests": 1},
        "completeness": "pending",
        "external_id": json.loads(answer.body)["sid"],
        "priced": True,
    }
    assert {field: event[field] for field in expected} == expected
    assert set(event["metadata"]) == {"to", "from", "price_unit", "status"}


def test_what_is_read_changed_or_deleted_is_no_message_anew(walks, events):
    created, *others = walks["a message, read, redacted, deleted"][1].answers

    found = [events[answer.header("x-tollkeeper-call-id")] for answer in others if answer.status < 300]

    assert events[created.header("x-tollkeeper-call-id")]["event_type"] == "sms_outbound"
    assert [event["endpoint"] for event in found] == [
        *("messages.fetch", "messages.update", "messages.fetch", "messages.delete"),
    ]
    assert {event["event_type"] for event in found} == {"api_call"}
    assert all(event["quantities"] == {} for event in found)


def test_what_the_provider_refused_is_no_event(walks, events):
    refused = [answer for _, through in walks.values() for answer in through.answers if answer.status >= 300]

    assert len(refused) > 10
    assert not {answer.header("x-tollkeeper-call-id") for answer in refused} & set(events)


def test_an_answer_that_breaks_off_is_a_message_of_which_nobody_knows(gateway, walks, events):
    (event,) = (
        event for event in events.values() if event["completeness"] == "unknown" and event["endpoint"] != "unlisted"
    )

    assert (event["event_type"], event["resource"]) == ("sms_outbound", "US:long_code")
    assert event["quantities"] == {}
    assert set(event["metadata"]) == {"to", "from"}


def test_the_ledger_has_as_many_messages_and_segments_as_the_provider(gateway, walks, events):
    sent = [
        through.usage
        for name in CALLS
        for _, through in exchanges(gateway, name)
        if through.fault is None and through.method == "POST" and through.status == 201 and through.usage
    ]
    messages = [usage for usage in sent if usage["kind"] == "message"]

    found = [event for event in events.values() if event["endpoint"] == "messages.create" and event["quantities"]]

    assert len(found) == sum(event["quantities"]["messages"] for event in found)
    # One answer ended with its connection, which the simulator calls a fault, and was whole.
    assert len(found) == len(messages) + 1
    assert sum(event["quantities"].get("segments", 0) for event in found) == 1 + sum(
        int(usage["num_segments"]) for usage in messages
    )
    assert sum(event["quantities"].get("media", 0) for event in found) == sum(
        int(usage["num_media"]) for usage in messages
    )


def test_numbers_are_hashed_alike_for_one_number_and_differently_for_two(walks, events):
    def metadata(name: str) -> dict[str, Any]:
        (answer,) = walks[name][1].answers
        return events[answer.header("x-tollkeeper-call-id")]["metadata"]

    sms, mms, abroad = map(metadata, ("an SMS", "an MMS of three pictures", "an SMS from a name, abroad"))

    assert (sms["to"], sms["from"]) == (mms["to"], mms["from"])
    assert len({sms["to"], sms["from"], abroad["to"], abroad["from"]}) == 4


def test_no_number_and_no_word_of_a_message_is_in_an_event_a_log_line_or_a_spool_file(gateway, walks, events):
    kept = {
        "events": json.dumps(list(events.values()), ensure_ascii=False).encode(),
        "log": "".join(gateway.gateway.lines).encode(),
    }
    kept |= {str(path): path.read_bytes() for path in gateway.data_dir.rglob("*") if path.is_file()}

    call_id = next(iter(events)).encode()
    assert call_id in kept["events"]
    assert call_id in kept["log"]
    assert any(name.endswith(".spool") for name in kept)
    for where, text in kept.items():
        for number in NUMBERS:
            assert number.removeprefix("+").encode() not in text, where
        for word in (SECRET, "Grüße aus Köln", "Toll & Co", "example.com/"):
            assert word.encode() not in text, where


def test_a_verification_is_one_however_often_it_is_checked_and_a_look_up_is_what_it_was_asked(walks, events):
    def found(name: str) -> list[tuple[Any, ...]]:
        told = [events[answer.header("x-tollkeeper-call-id")] for answer in walks[name][1].answers]
        return [
            (event["endpoint"], event["event_type"], event["quantities"], event["resource"])
            for event in told
            if event["endpoint"] != "unlisted"
        ]

    assert found("a verification, checked, approved") == [
        ("verify.v2.verifications.create", "verification", {"requests": 1}, "US:sms"),
        ("verify.v2.verification_checks.create", "api_call", {}, None),
        ("verify.v2.verification_checks.create", "api_call", {}, None),
        ("verify.v2.verifications.fetch", "api_call", {}, None),
    ]
    assert found("a verification, cancelled")[0][3] == "email"
    assert found("a number, looked up") == [("lookups.v2.phone_numbers.fetch", "lookup", {"requests": 1}, "US")]
    assert found("a number, whether there is such") == [("lookups.v2.phone_numbers.fetch", "api_call", {}, "US")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:aiohttp")  # The SDK identifies itself as aiohttp 3 has it.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:twilio")
def test_the_asynchronous_sdk_returns_what_it_returns_directly(gateway, more):
    async def walk(side: Side) -> list[Any]:
        http_client = AsyncTwilioHttpClient()
        client = Client(side.account_sid, side.key, http_client=http_client)
        client.api.base_url = f"{side.base_url}/api"
        try:
            made = await client.messages.create_async(to=ADA, from_=TOLL, body=SECRET, media_url=PICTURES)
            media = await client.messages(made.sid).media.list_async()
            with pytest.raises(TwilioRestException) as refused:
                await client.messages.create_async(to="12", from_=TOLL, body=SECRET)
            return plain([made, media, vars(refused.value)], side.account_sid)
        finally:
            await http_client.close()

    direct, through = (asyncio.run(walk(side)) for side in more)

    assert through == direct


# -- without an SDK


def form_of(side: Side) -> dict[str, str]:
    """The headers of whoever sends one."""
    return {
        "Authorization": basic(side.account_sid, side.key),
        "Content-Type": "application/x-www-form-urlencoded",
    }


FORM = b"To=%2B12025550143&From=%2b15005550006&Body=Hello%2C+you%20there&MediaUrl=https%3A//example.com/a&Unknown=&MediaUrl=https://example.com/b"
"""Some of it as no encoder would write it: hexadecimal digits in both cases, blanks in both ways, escapes left out."""


def about_messages(side: Side, before: str, suffix: str, form: bytes) -> Answered:
    path = f"{before}/2010-04-01/Accounts/{side.account_sid}/Messages{suffix}"
    return raw(side, "POST", path, form, form_of(side))


@pytest.mark.parametrize("suffix", [".json", ".xml", ""])
@pytest.mark.parametrize("before", ["", "/api"])
def test_paths_with_and_without_the_product_and_with_every_suffix_answer_alike(gateway, more, before, suffix):
    direct, through = more
    at = len(gateway.asked())

    for form, status in ((FORM, 201), (b"To=12&From=12025550100&Body=x", 400)):
        expected, found = about_messages(direct, "/api", suffix, form), about_messages(through, before, suffix, form)

        assert found.status == expected.status == status
        assert found.body.lstrip().startswith(b"{" if suffix == ".json" else b"<?xml")
        assert alike(found.body.decode(), through.account_sid) == alike(expected.body.decode(), direct.account_sid)
        assert alike_headers(found.headers, through.account_sid) == alike_headers(expected.headers, direct.account_sid)
        assert direct.account_sid.encode() not in found.body
    assert gateway.asked()[at + 1].body == FORM


def test_an_answer_in_xml_is_metered_as_one_in_json_is(gateway, more):
    call_ids = [about_messages(more[1], "", suffix, FORM).header("x-tollkeeper-call-id") for suffix in (".json", "")]

    found = eventually(
        lambda: [e for e in sent_by(gateway, "more") if e["call_id"] in call_ids][1:] and sent_by(gateway, "more"),
        "both",
    )

    varies = {"call_id", "event_id", "external_id", "occurred_at", "recorded_at", "duration_ms"}
    in_json, in_xml = (
        next(
            {name: value for name, value in event.items() if name not in varies}
            for event in found
            if event["call_id"] == call_id
        )
        for call_id in call_ids
    )
    assert in_xml == in_json
    assert (in_xml["event_type"], in_xml["resource"]) == ("mms_outbound", "US:long_code")
    assert in_xml["quantities"] == {"messages": 1, "segments": 1, "media": 2}


def test_what_is_not_there_is_missing_in_xml_as_well(more):
    answers = [
        raw(side, "GET", f"{before}/2010-04-01/Accounts/{side.account_sid}/Messages/SM{'0' * 32}", None, form_of(side))
        for side, before in zip(more, ("/api", ""), strict=True)
    ]

    expected, found = (
        (answer.status, alike(answer.body.decode(), side.account_sid))
        for answer, side in zip(answers, more, strict=True)
    )
    assert found == expected
    assert found[0] == 404
    assert "<RestException>" in found[1]


def test_a_form_that_comes_in_chunks_arrives_as_it_is_and_is_metered(gateway, more):
    _, through = more
    path = f"/2010-04-01/Accounts/{through.account_sid}/Messages.json"

    answer = raw(through, "POST", path, [FORM[n : n + 7] for n in range(0, len(FORM), 7)], form_of(through))

    assert answer.status == 201
    assert next(x for x in gateway.asked() if x.object_id == json.loads(answer.body)["sid"]).body == FORM


# -- an account of the tenant's own


def subaccount(gateway: Installation) -> Side:
    """A new account below the platform's, as its owner reaches it without the gateway."""
    platform = directly_to_twilio(gateway)
    with client_of(platform) as (client, _):
        made = client.api.accounts.create(friendly_name="Own Ltd")
    return platform._replace(account_sid=made.sid, key=made.auth_token)


@pytest.fixture(scope="module")
def own(gateway):
    """A tenant with a subaccount of its own; its client directly and through the gateway. It has sent nine messages, and has
    as many services as fill three pages."""
    direct = subaccount(gateway)
    gateway.tenant("own")
    gateway.ask(
        "POST",
        "/v1/tenants/own/credentials",
        {"provider": "twilio", "account_sid": direct.account_sid, "auth_token": direct.key},
    )
    through = through_to_twilio(gateway, "own", gateway.key("own"))
    with client_of(through) as (client, _):
        with asking(client, step_ms="0"):
            for number in range(9):
                client.messages.create(to=(ADA, BOB)[number % 2], from_=TOLL, body=f"Number {number}")
            client.calls.create(**CALL)
        for number in range(SERVICES):
            client.messaging.v1.services.create(friendly_name=f"Service {number}")
            client.verify.v2.services.create(friendly_name=f"Verify {number}")
    return direct, through


SERVICES = 7

LISTS: dict[str, tuple[Callable[[Client], Any], int]] = {
    "messages": (lambda c: c.messages.list(), 9),
    "messages, page by page": (lambda c: c.messages.list(page_size=2), 9),
    "the first five messages": (lambda c: list(c.messages.stream(limit=5, page_size=2)), 5),
    "the third page": (lambda c: list(third_page(c)), 2),
    "messages to one number": (lambda c: c.messages.list(to=BOB, page_size=3), 4),
    "messages from one number": (lambda c: c.messages.list(from_=TOLL, page_size=4), 9),
    "messages since yesterday": (lambda c: c.messages.list(date_sent_after=YESTERDAY, page_size=4), 9),
    "messages until yesterday": (lambda c: c.messages.list(date_sent_before=YESTERDAY, page_size=4), 0),
    "messages of tomorrow": (lambda c: c.messages.list(date_sent=TOMORROW.date(), page_size=4), 0),
    "calls since yesterday": (lambda c: c.calls.list(start_time_after=YESTERDAY), 1),
    "services, three pages": (lambda c: c.messaging.v1.services.list(page_size=3), SERVICES),
    "verify services, three pages": (lambda c: c.verify.v2.services.list(page_size=3), SERVICES),
    "the first five services": (lambda c: list(c.verify.v2.services.stream(limit=5, page_size=2)), 5),
    "numbers": (lambda c: c.incoming_phone_numbers.list(), 1),
    "usage": (lambda c: c.usage.records.list(category="sms-outbound"), 1),
    "balance": (lambda c: [c.balance.fetch()], 1),
}


def third_page(client: Client) -> Any:
    page = client.messages.page(page_size=2)
    for _ in range(2):
        page = client.messages.get_page(f"{client.api.base_url}{page._payload['next_page_uri']}")
    return page


def in_twilios_words(text: str, side: Side) -> str:
    """A text with the account, and the hosts, by the names that they have at the provider."""
    text = re.sub(rf"{re.escape(side.base_url)}/([a-z-]+)(?=/v\d)", r"https://\1.twilio.com", text)
    return text.replace(side.account_sid, "<its account>")


@pytest.mark.parametrize("name", LISTS)
def test_a_tenant_with_an_account_of_its_own_lists_it_as_directly(gateway, own, name):
    call, count = LISTS[name]
    results, wires, asked = [], [], []
    for side in own:
        before = len(gateway.asked())
        with client_of(side) as (client, answers):
            listed = call(client)
            assert len(listed) == count
            results.append(plain(listed, side.account_sid, side.base_url))
            # The objects are the same, so their names and times are too.
            wires.append([in_twilios_words(answer.body.decode(), side) for answer in answers])
        asked.append([exchange.target for exchange in gateway.asked()[before:]])

    assert results[1] == results[0]
    assert wires[1] == wires[0] or name == "usage"
    assert asked[1] == asked[0]
    assert own[0].account_sid not in "".join(wires[1])


def test_names_in_a_query_that_are_escaped_stay_so(gateway, own):
    before = len(gateway.asked())

    with client_of(own[1]) as (client, _):
        client.messages.list(date_sent_after=YESTERDAY, page_size=4)

    targets = [exchange.target for exchange in gateway.asked()[before:]]
    assert len(targets) == 3
    assert all("DateSent%3E=" in target for target in targets)


def test_a_page_leads_to_the_next_one_by_the_gateways_name_of_the_account(own):
    with client_of(own[1]) as (client, answers):
        client.messages.list(page_size=4)

    first = json.loads(answers[0].body)
    assert first["next_page_uri"].startswith(f"/2010-04-01/Accounts/{own[1].account_sid}/Messages.json?")


def sent_by(gateway: Installation, tenant_id: str) -> list[dict[str, Any]]:
    """The events of a tenant's calls, without what became of them."""
    return [event for event in gateway.events(tenant_id) if event["kind"] == "usage"]


def test_a_page_of_a_newer_product_leads_to_the_next_one_at_the_gateway(own):
    with client_of(own[1]) as (client, answers):
        client.messaging.v1.services.list(page_size=3)

    assert len(answers) == 3
    for answer in answers:
        meta = json.loads(answer.body)["meta"]
        assert meta["url"].startswith(f"{own[1].base_url}/messaging/v1/Services?")
        assert b"twilio.com" not in answer.body


def test_what_a_tenant_sent_on_its_own_account_is_in_the_ledger(gateway, own):
    events = eventually(
        lambda: (e := [e for e in sent_by(gateway, "own") if e["direction"] == "outbound"]) and len(e) == 10 and e, "10"
    )

    assert sorted(event["event_type"] for event in events) == ["call_outbound"] + ["sms_outbound"] * 9
    assert {event["resource"] for event in events} == {"US:long_code", "DE:long_code"}


def test_an_application_that_brings_its_own_credential_knows_its_account_by_its_real_name(gateway):
    direct = subaccount(gateway)
    beside = Side(gateway.proxy_url + "/twilio", direct.key, direct.account_sid)

    with client_of(beside, **{"X-Gateway-Key": gateway.tenant("brings")}) as (client, _):
        sent = client.messages.create(to=ADA, from_=TOLL, body=SECRET)
        read = client.messages(sent.sid).fetch()

    assert sent.account_sid == read.account_sid == direct.account_sid
    found = [event["endpoint"] for event in gateway.events_of("brings", 2, kind="usage")]
    assert found == ["messages.create", "messages.fetch"]


def test_a_tenant_in_a_subaccount_of_the_platforms_has_all_of_it_and_nothing_besides(gateway):
    below, platform = subaccount(gateway), directly_to_twilio(gateway)
    gateway.tenant("below")
    gateway.ask("PATCH", "/v1/tenants/below/integrations", {"twilio_subaccount": below.account_sid})
    through = through_to_twilio(gateway, "below", gateway.key("below"))
    with client_of(through) as (client, answers):
        with asking(client, step_ms="0", seconds="61"):
            call = client.calls.create(**CALL)
        assert [listed.sid for listed in client.calls.list()] == [call.sid]
        assert client.incoming_phone_numbers.list()
        for refused in (client.api.accounts.list, lambda: client.api.accounts(client.account_sid).fetch()):
            with pytest.raises(TwilioException, match="shared account"):
                refused()

    made = next(exchange for exchange in gateway.asked() if exchange.object_id == call.sid)
    assert f"/Accounts/{below.account_sid}/" in made.target
    got = "".join(answer.body.decode() for answer in answers)
    assert not [sid for sid in (below.account_sid, platform.account_sid) if sid in got]
    minutes = eventually(
        lambda: [event for event in gateway.events("below") if event["event_type"] == "call_minutes"], "its minutes"
    )
    assert minutes[0]["quantities"] == {"seconds": 61}


# -- the account that is shared


def test_the_name_of_an_api_key_may_stand_where_the_account_does(more):
    client = Client("SK" + "1" * 32, more[1].key, more[1].account_sid)
    client.api.base_url = f"{more[1].base_url}/api"

    try:
        sent = client.messages.create(to=ADA, from_=TOLL, body=SECRET)
    finally:
        client.http_client.session.close()

    assert sent.account_sid == more[1].account_sid


EVERYBODYS: dict[str, Callable[[Client], Any]] = {
    "messages": lambda c: c.messages.list(),
    "messages since yesterday": lambda c: c.messages.list(date_sent_after=YESTERDAY),
    "calls": lambda c: c.calls.list(),
    "accounts": lambda c: c.api.accounts.list(),
    "the account": lambda c: c.api.accounts(c.account_sid).fetch(),
    "a new account": lambda c: c.api.accounts.create(friendly_name="Mine"),
    "a new key": lambda c: c.new_keys.create(),
    "numbers": lambda c: c.incoming_phone_numbers.list(),
    "the balance": lambda c: c.balance.fetch(),
    "usage": lambda c: c.usage.records.list(),
    "services": lambda c: c.messaging.v1.services.list(),
}


@pytest.mark.parametrize("name", EVERYBODYS)
def test_on_the_shared_account_what_is_everybodys_is_refused_as_twilio_refuses(gateway, more, name):
    before = len(gateway.asked())

    with client_of(more[1]) as (client, answers), pytest.raises(TwilioException, match="shared account"):
        EVERYBODYS[name](client)

    assert [(answer.status, json.loads(answer.body)["code"]) for answer in answers] == [(403, 20403)]
    assert [answer.header("x-tollkeeper-error") for answer in answers] == ["not_on_shared_account"]
    assert len(gateway.asked()) == before


ABOUT_A_MESSAGE: tuple[Callable[[Client, str], Any], ...] = (
    lambda client, sid: client.messages(sid).fetch(),
    lambda client, sid: client.messages(sid).update(body=""),
    lambda client, sid: client.messages(sid).media.list(),
)
"""Few, since the gateway looks for a second before it says of an object that it is not there."""


def said_about(side: Side, sid: str) -> list[Any]:
    """What a client is told of a message that is not there for it: by the SDK, and over the wire."""
    said = []
    with client_of(side) as (client, answers):
        for attempt in ABOUT_A_MESSAGE:
            with pytest.raises(TwilioException) as refused:
                attempt(client, sid)
            said.append(plain([type(refused.value), str(refused.value)], side.account_sid))
    for answer in answers:
        said += answer.status, answer.header("content-type"), alike(answer.body.decode(), side.account_sid)
    return said


def test_what_another_tenant_sent_looks_to_the_sdk_like_what_never_was(gateway, more):
    direct, through = more
    other = through_to_twilio(gateway, "curious", gateway.tenant("curious"))
    with client_of(through) as (client, _):
        sent = client.messages.create(to=ADA, from_=TOLL, body=SECRET)
    before = len(gateway.asked())

    theirs = said_about(other, sent.sid)

    assert len(gateway.asked()) == before
    assert theirs == said_about(direct, "SM" + "0" * 32)


# -- what becomes of them


class Application:
    """An application's own little server: it remembers what it is told."""

    def __init__(self) -> None:
        told = self.told = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                told.append((self.path, dict(self.headers.items()), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  Its name is the interface's.
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def application():
    server = Application()
    yield server
    server.close()


def test_callbacks_reach_the_application_signed_by_the_provider(gateway, more, application):
    _, through = more
    with client_of(through) as (client, _), asking(client, step_ms="0"):
        message = client.messages.create(
            to=ADA, from_=TOLL, body=SECRET, status_callback=f"{application.url}/message?order=1&n=1"
        )
        call = client.calls.create(**CALL, status_callback=f"{application.url}/call", status_callback_event=EVENTS)

    eventually(lambda: len(application.told) >= 6, "two callbacks of the message and four of the call")

    validator = RequestValidator(gateway.providers.credentials["twilio"]["auth_token"])
    for path, headers, body in application.told:
        form = {name: values[0] for name, values in parse_qs(body, keep_blank_values=True).items()}
        assert validator.validate(application.url + path, form, headers["X-Twilio-Signature"])
        assert form.get("MessageSid", message.sid) == message.sid
        assert form.get("CallSid", call.sid) == call.sid
    told = [parse_qs(body) for _, _, body in application.told]
    assert [form["MessageStatus"][0] for form in told if "MessageStatus" in form] == ["sent", "delivered"]
    assert [form["CallStatus"][0] for form in told if "CallStatus" in form] == [
        *("initiated", "ringing", "in-progress", "completed"),
    ]
    delivered = read_deliveries(gateway.directory / "truth.jsonl")
    assert {delivery.object_id for delivery in delivered if delivery.status == 204} >= {message.sid, call.sid}


def test_what_became_of_a_message_and_a_call_is_in_the_ledger_whoever_asks(gateway):
    """The message is read by the application, in a list; the call by nobody but the gateway."""
    direct = subaccount(gateway)
    gateway.tenant("late")
    credential = {"provider": "twilio", "account_sid": direct.account_sid, "auth_token": direct.key}
    gateway.ask("POST", "/v1/tenants/late/credentials", credential)
    through = through_to_twilio(gateway, "late", gateway.key("late"))
    with client_of(through) as (client, _):
        with asking(client, step_ms="0"):
            message = client.messages.create(to=ADA, messaging_service_sid="MG" + "0b" * 16, body="x" * 300)
        with asking(client, step_ms="0", seconds="61"):
            call = client.calls.create(**CALL)
        client.messages.list()

    def corrections() -> dict[tuple[str, str], dict[str, Any]]:
        of = {message.sid: "message", call.sid: "call"}
        return {
            (of[event["external_id"]], "price" if "provider_cost" in event["metadata"] else "final"): event
            for event in gateway.events("late")
            if event["kind"] == "correction"
        }

    eventually(lambda: len(corrections()) == 4, "what became of both, and what it cost")

    found = corrections()
    assert found["message", "final"]["quantities"] == {"messages": 0, "segments": 2}
    assert found["message", "price"]["metadata"]["provider_cost"] == "0.0166"
    assert (found["call", "final"]["event_type"], found["call", "final"]["quantities"]) == (
        "call_minutes",
        {"seconds": 61},
    )
    assert found["call", "price"]["metadata"]["provider_cost"] == "0.028"
