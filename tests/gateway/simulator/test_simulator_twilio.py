"""The official SDK against the simulated Twilio, and the truth log beside what the SDK saw."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.request_validator import RequestValidator
from twilio.rest import Client

from gateway.simulator import twilio as simulated_twilio
from gateway.simulator import twilio_timeline
from gateway.simulator.api import Answer, Asked, Setup
from gateway.simulator.controls import NOTHING, Controls, Outcome
from gateway.simulator.process import RunningSimulator
from gateway.simulator.truth import Delivered, fingerprint, read_deliveries
from tests.gateway.simulator.receiver import Arrived, receiver
from tests.gateway.simulator.simulated import LIVENESS_S_MAX, RawAnswer, Simulated, parsed

SID = "AC0123456789abcdef0123456789abcdef"
TOKEN = "simulator-twilio-token-0123456789"
BASIC = "Basic " + base64.b64encode(f"{SID}:{TOKEN}".encode()).decode()
ROOT = f"/2010-04-01/Accounts/{SID}"
FORM = "application/x-www-form-urlencoded"

TO, FROM = "+15558675310", "+15017122661"
SMILE = "\N{SMILING FACE WITH SUNGLASSES}"
PRODUCTS = ("api", "messaging", "verify", "lookups", "conversations", "studio")


class Controlled(TwilioHttpClient):
    """Sends every request of the SDK with these headers besides."""

    def __init__(self) -> None:
        super().__init__(timeout=30)
        self.headers: dict[str, str] = {}

    def request(self, method, url, params=None, data=None, headers=None, *rest, **named):
        return super().request(method, url, params, data, {**(headers or {}), **self.headers}, *rest, **named)

    def close(self) -> None:
        assert self.session is not None
        self.session.close()


class Sdk:
    """Clients of the simulated Twilio."""

    def __init__(self, running: RunningSimulator) -> None:
        self._mount = running.base_urls["twilio"]
        self._http: list[Controlled] = []

    def client(self, user: str = SID, password: str = TOKEN, account_sid: str | None = None, **controls: object) -> Any:
        http = Controlled()
        http.headers = {f"x-simulator-{name.replace('_', '-')}": str(value) for name, value in controls.items()}
        self._http.append(http)
        client = Client(user, password, account_sid, http_client=http)
        for product in PRODUCTS:
            getattr(client, product).base_url = self._mount.format(product=product)
        return client

    def close(self) -> None:
        for http in self._http:
            http.close()


@pytest.fixture
def sdk(running: tuple[RunningSimulator, Path]) -> Iterator[Sdk]:
    sdk = Sdk(running[0])
    yield sdk
    sdk.close()


@pytest.fixture
def client(sdk: Sdk) -> Any:
    return sdk.client()


@pytest.fixture
def alone(sdk: Sdk) -> Any:
    """A client of an account of its own, whose lists nobody else fills."""
    made = sdk.client().api.accounts.create(friendly_name="Alone")
    return sdk.client(made.sid, made.auth_token)


def sent(client: Any, **given: Any) -> Any:
    return client.messages.create(**{"to": TO, "from_": FROM, "body": "Toll is due", **given})


def called(client: Any, **given: Any) -> Any:
    return client.calls.create(**{"to": TO, "from_": FROM, "url": "http://127.0.0.1:9/answer", **given})


def over(fetch: Callable[[], Any], *statuses: str) -> Any:
    """What there is once it has come to one of these."""
    deadline = time.monotonic() + LIVENESS_S_MAX
    while (found := fetch()).status not in statuses:
        assert time.monotonic() < deadline, found.status
        time.sleep(0.01)
    return found


def priced(fetch: Callable[[], Any]) -> Any:
    """What there is once its price is told."""
    deadline = time.monotonic() + LIVENESS_S_MAX
    while (found := fetch()).price is None:
        assert time.monotonic() < deadline, found.status
        time.sleep(0.01)
    return found


async def ask(
    simulated: Simulated, method: str, path: str, *lines: str, body: bytes = b"", auth: str = BASIC
) -> RawAnswer:
    head = (
        f"{method} /twilio/api{path} HTTP/1.1",
        f"Host: x\r\nAuthorization: {auth}\r\nConnection: close\r\nContent-Length: {len(body)}",
        *lines,
    )
    async with simulated.connection() as (reader, writer):
        writer.write("\r\n".join((*head, "", "")).encode("latin-1") + body)
        return parsed(await reader.read(-1))


def refused(call: Callable[[], object]) -> tuple[int, int]:
    """The status and the code of an error. Of a list, the SDK hands over the answer as it is."""
    with pytest.raises(TwilioException) as raised:
        call()
    error = raised.value
    if isinstance(error, TwilioRestException):
        return error.status, error.code
    answer = error.args[1]
    return answer.status_code, json.loads(answer.text)["code"]


# Messages.


def test_a_message_is_queued_and_delivered_a_moment_later(client: Any, simulated: Simulated) -> None:
    message = sent(client)
    assert re.fullmatch(r"SM[0-9a-f]{32}", message.sid)
    assert (message.status, message.num_segments, message.num_media) == ("queued", "1", "0")
    assert (message.price, message.price_unit, message.date_sent, message.error_code) == (None, "USD", None, None)
    assert (message.account_sid, message.to, message.from_, message.body) == (SID, TO, FROM, "Toll is due")
    assert (message.direction, message.api_version) == ("outbound-api", "2010-04-01")
    assert message.uri == f"{ROOT}/Messages/{message.sid}.json"
    assert message.subresource_uris == {"media": f"{ROOT}/Messages/{message.sid}/Media.json"}
    over(client.messages(message.sid).fetch, "delivered")
    final = priced(client.messages(message.sid).fetch)
    assert (final.price, final.num_segments) == ("-0.00830", "1")
    assert final.date_sent is not None


def test_the_truth_log_has_what_was_answered_and_what_comes_of_it(sdk: Sdk, simulated: Simulated) -> None:
    service = "MG" + "5" * 32
    message = sdk.client(outcome="undelivered").messages.create(
        to=TO, messaging_service_sid=service, body=SMILE * 36, media_url=[]
    )
    sdk.client().messages(message.sid).fetch()
    sdk.client().messages.list(limit=1)
    made, *reads = asyncio.run(simulated.settled(3))
    assert (made.provider, made.object_id, made.status) == ("twilio", message.sid, 201)
    assert made.credential == fingerprint(f"{SID}:{TOKEN}")
    assert made.target == f"/twilio/api{ROOT}/Messages.json"
    assert parse_qs(made.body.decode())["Body"] == [SMILE * 36]
    assert made.usage == {
        "kind": "message",
        "channel": "sms",
        "to": TO,
        "num_media": "0",
        "messaging_service_sid": service,
        "status": "accepted",
        "from": None,
        "num_segments": "0",
        "price": None,
        "price_unit": "USD",
        "error_code": None,
        "final": {
            "status": "undelivered",
            "from": "+15017122661",
            "num_segments": "2",
            "price": "-0.01660",
            "price_unit": "USD",
            "error_code": 30003,
        },
    }
    assert [read.usage for read in reads] == [None, None]
    assert reads[0].object_id == message.sid


def test_a_messaging_service_picks_the_sender_and_counts_the_segments_later(client: Any) -> None:
    message = client.messages.create(to=TO, messaging_service_sid="MG" + "5" * 32, body="a" * 161)
    assert (message.status, message.num_segments, message.from_) == ("accepted", "0", None)
    final = priced(client.messages(message.sid).fetch)
    assert (final.num_segments, final.from_, final.price) == ("2", FROM, "-0.01660")


@pytest.mark.parametrize(
    ("outcome", "price", "error_code"),
    [
        ("delivered", "-0.00830", None),
        ("sent", "-0.00830", None),
        ("read", "-0.00830", None),
        ("partially_delivered", "-0.00830", None),
        ("undelivered", "-0.00830", 30003),
        ("failed", None, 30008),
        ("canceled", None, None),
    ],
)
def test_a_message_ends_as_it_is_asked_to(sdk: Sdk, outcome: str, price: str | None, error_code: int | None) -> None:
    message = sent(sdk.client(outcome=outcome, step_ms=0))
    assert message.status == "queued"
    final = sdk.client().messages(message.sid).fetch()
    assert (final.status, final.price, final.error_code) == (outcome, price, error_code)
    assert (final.error_message is None) == (error_code is None)


def test_media_make_an_mms(client: Any) -> None:
    urls = ["https://example.com/a.jpg", "https://example.com/b.jpg"]
    message = sent(client, body=None, media_url=urls)
    assert message.sid.startswith("MM")
    assert (message.num_media, message.num_segments) == ("2", "1")
    first, second = client.messages(message.sid).media.list()
    assert first.parent_sid == second.parent_sid == message.sid
    assert client.messages(message.sid).media(first.sid).fetch().content_type == "image/jpeg"
    assert client.messages(message.sid).media(first.sid).delete()
    assert [one.sid for one in client.messages(message.sid).media.list()] == [second.sid]
    assert refused(client.messages(message.sid).media(first.sid).fetch) == (404, 20404)
    assert priced(client.messages(message.sid).fetch).price == "-0.02200"


def test_whatsapp_is_a_channel(client: Any, simulated: Simulated) -> None:
    message = sent(client, to=f"whatsapp:{TO}", from_=f"whatsapp:{FROM}")
    assert (message.to, message.from_) == (f"whatsapp:{TO}", f"whatsapp:{FROM}")
    assert simulated.truth()[0].usage["channel"] == "whatsapp"
    assert refused(lambda: sent(client, to=f"whatsapp:{TO}")) == (400, 21910)


@pytest.mark.parametrize("source", ["12345", "Toll Gate", "+1 (501) 712-2661"])
def test_a_sender_is_a_number_a_short_code_or_a_word(client: Any, source: str) -> None:
    assert sent(client, from_=source).from_ in (source, FROM)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"to": None}, 21604),
        ({"to": ""}, 21604),
        ({"to": "nobody"}, 21211),
        ({"to": "+1"}, 21211),
        ({"to": "whatsapp:me"}, 21211),
        ({"from_": None}, 21603),
        ({"from_": "much too long a sender"}, 21212),
        ({"body": None}, 21602),
        ({"body": "a" * 1601}, 21617),
        ({"media_url": ["not a url"]}, 21620),
        ({"media_url": ["https://example.com/a.jpg"] * 11}, 21623),
        ({"status_callback": "nowhere"}, 21609),
        ({"messaging_service_sid": "no service"}, 21701),
        ({"schedule_type": "fixed"}, 35118),
        ({"send_at": "2026-01-01T00:00:00Z"}, 35112),
        ({"messaging_service_sid": "MG" + "5" * 32, "schedule_type": "fixed"}, 35111),
        ({"messaging_service_sid": "MG" + "5" * 32, "schedule_type": "fixed", "send_at": "soon"}, 35113),
        ({"messaging_service_sid": "MG" + "5" * 32, "schedule_type": "fixed", "send_at": "2020-01-01"}, 35114),
    ],
)
def test_a_message_that_makes_no_sense_is_refused(
    client: Any, simulated: Simulated, given: dict[str, Any], code: int
) -> None:
    assert refused(lambda: sent(client, **given)) == (400, code)
    (exchange,) = asyncio.run(simulated.settled())
    assert (exchange.status, exchange.object_id, exchange.usage) == (400, None, None)


def test_a_list_comes_in_pages_newest_first(alone: Any) -> None:
    sids = [sent(alone, body=f"Number {number}").sid for number in range(7)][::-1]
    assert [message.sid for message in alone.messages.list(page_size=3)] == sids
    assert [message.sid for message in alone.messages.list(limit=2)] == sids[:2]
    page = alone.messages.page(page_size=3)
    assert page.next_page_url.startswith(f"{alone.api.base_url}/2010-04-01/Accounts/{alone.account_sid}/Messages.json?")
    sent(alone)
    following = page.next_page()
    assert [message.sid for message in following] == sids[3:6], "what is new moves nothing"
    assert [message.sid for message in following.previous_page()] == sids[:3]
    assert following.next_page().next_page_url is None


async def test_the_envelope_of_a_page(simulated: Simulated, alone: Any) -> None:
    sids = [(await asyncio.to_thread(sent, alone)).sid for _ in range(3)]
    path = f"/2010-04-01/Accounts/{alone.account_sid}/Messages.json"
    auth = "Basic " + base64.b64encode(":".join(alone.auth).encode()).decode()
    answer = json.loads((await ask(simulated, "GET", f"{path}?PageSize=2&To=%2B15558675310", auth=auth)).body)
    assert [message["sid"] for message in answer.pop("messages")] == sids[:0:-1]
    assert answer == {
        "page": 0,
        "page_size": 2,
        "start": 0,
        "end": 1,
        "uri": f"{path}?To=%2B15558675310&PageSize=2&Page=0",
        "first_page_uri": f"{path}?To=%2B15558675310&PageSize=2&Page=0",
        "next_page_uri": f"{path}?To=%2B15558675310&PageSize=2&Page=1&PageToken=PA{sids[1]}",
        "previous_page_uri": None,
    }
    answer = json.loads((await ask(simulated, "GET", answer["next_page_uri"], auth=auth)).body)
    assert (answer["start"], answer["end"], answer["next_page_uri"]) == (2, 2, None)
    assert answer["previous_page_uri"].endswith(f"&PageSize=2&Page=0&PageToken=PB{sids[0]}")


def test_a_list_is_filtered(alone: Any) -> None:
    other = "+15558675311"
    first, second = sent(alone), sent(alone, to=other, from_="12345")
    for sid in (first.sid, second.sid):
        over(alone.messages(sid).fetch, "delivered")
    now, day = datetime.now(UTC), timedelta(days=1)

    def listed(**filters: Any) -> set[str]:
        return {message.sid for message in alone.messages.list(**filters)}

    both = {first.sid, second.sid}
    assert listed(to=other) == listed(from_="12345") == {second.sid}
    assert listed(to=TO, from_="12345") == set()
    assert listed(date_sent=now) == listed(date_sent_after=now - day) == listed(date_sent_before=now + day) == both
    assert listed(date_sent=now - 2 * day) == listed(date_sent_before=now - day) == set()
    assert listed(date_sent_after=now.date(), date_sent_before=now + day) == both
    assert refused(lambda: alone.messages.list(date_sent="yesterday")) == (400, 20001)


def test_a_message_is_redacted_and_deleted_once_it_is_complete(sdk: Sdk, client: Any, simulated: Simulated) -> None:
    slow = sent(sdk.client(step_ms=60_000))
    assert refused(client.messages(slow.sid).delete) == (409, 20009)
    assert refused(lambda: client.messages(slow.sid).update(body="")) == (409, 20009)
    message = sent(sdk.client(step_ms=0))
    assert client.messages(message.sid).update(body="").body == ""
    assert client.messages(message.sid).fetch().body == ""
    assert refused(lambda: client.messages(message.sid).update(body="changed")) == (400, 20001)
    assert client.messages(message.sid).delete()
    assert refused(client.messages(message.sid).fetch) == (404, 20404)
    assert refused(client.messages(message.sid).delete) == (404, 20404)
    deleted = next(exchange for exchange in simulated.truth() if exchange.status == 204)
    assert (deleted.method, deleted.object_id, deleted.usage) == ("DELETE", message.sid, None)


def test_a_scheduled_message_can_be_cancelled_and_then_costs_nothing(client: Any, simulated: Simulated) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    message = client.messages.create(
        to=TO, messaging_service_sid="MG" + "5" * 32, body="later", schedule_type="fixed", send_at=at
    )
    assert (message.status, message.num_segments) == ("scheduled", "0")
    canceled = client.messages(message.sid).update(status="canceled")
    assert (canceled.status, canceled.price, canceled.num_segments) == ("canceled", None, "0")
    assert refused(lambda: client.messages(message.sid).update(status="canceled")) == (409, 30409)
    made, ended, _ = asyncio.run(simulated.settled(3))
    assert made.usage["final"]["price"] == "-0.00830"
    assert (ended.object_id, ended.usage["final"]["price"]) == (message.sid, None)


def test_a_scheduled_message_goes_out_after_a_step_where_the_request_says_how_long_one_is(sdk: Sdk) -> None:
    at = datetime.now(UTC) + timedelta(days=1)
    message = sdk.client(step_ms=20).messages.create(
        to=TO, messaging_service_sid="MG" + "5" * 32, body="later", schedule_type="fixed", send_at=at
    )
    assert message.status == "scheduled"
    over(sdk.client().messages(message.sid).fetch, "delivered")


# Calls.


def test_a_call_is_queued_and_completed_a_moment_later(sdk: Sdk, client: Any, simulated: Simulated) -> None:
    call = called(sdk.client(seconds=61))
    assert re.fullmatch(r"CA[0-9a-f]{32}", call.sid)
    assert (call.status, call.duration, call.price, call.start_time) == ("queued", None, None, None)
    assert (call.direction, call.to, call._from) == ("outbound-api", TO, FROM)
    over(client.calls(call.sid).fetch, "completed")
    final = priced(client.calls(call.sid).fetch)
    assert (final.duration, final.price) == ("61", "-0.02800")
    assert final.end_time - final.start_time == timedelta(seconds=61)
    made = simulated.truth()[0]
    assert (made.object_id, made.usage["kind"], made.usage["status"]) == (call.sid, "call", "queued")
    assert made.usage["final"] == {
        "status": "completed",
        "duration": "61",
        "price": "-0.02800",
        "price_unit": "USD",
        "minutes": 2,
    }
    assert {exchange.usage is None for exchange in simulated.truth()[1:]} == {True}


@pytest.mark.parametrize("outcome", ["busy", "no-answer", "failed", "canceled"])
def test_a_call_that_nobody_answers_has_neither_duration_nor_price(sdk: Sdk, outcome: str) -> None:
    call = called(sdk.client(outcome=outcome, step_ms=0))
    final = sdk.client().calls(call.sid).fetch()
    assert (final.status, final.duration, final.price) == (outcome, None, None)


def test_a_call_can_be_hung_up(sdk: Sdk, client: Any, simulated: Simulated) -> None:
    call = called(sdk.client(step_ms=60_000))
    assert refused(client.calls(call.sid).delete) == (409, 20009)
    assert client.calls(call.sid).update(status="completed").status == "canceled"
    assert refused(lambda: client.calls(call.sid).update(status="completed")) == (400, 21220)
    talking = called(sdk.client(step_ms=150))
    over(client.calls(talking.sid).fetch, "in-progress")
    final = client.calls(talking.sid).update(status="completed")
    assert (final.status, final.duration, final.price) == ("completed", "1", None)
    assert priced(client.calls(talking.sid).fetch).price == "-0.01400"
    ended = next(exchange for exchange in simulated.truth()[::-1] if exchange.usage is not None)
    assert (ended.object_id, ended.usage["final"]["duration"]) == (talking.sid, "1")


def test_calls_are_listed_filtered_and_deleted(sdk: Sdk, alone: Any) -> None:
    done = called(sdk.client(*alone.auth, step_ms=0))
    waiting = called(sdk.client(*alone.auth, step_ms=60_000), to="sip:me@example.com")
    assert [call.sid for call in alone.calls.list(page_size=1)] == [waiting.sid, done.sid]
    assert [call.sid for call in alone.calls.list(status="completed")] == [done.sid]
    assert [call.sid for call in alone.calls.list(to="sip:me@example.com")] == [waiting.sid]
    assert [call.sid for call in alone.calls.list(start_time_after=datetime.now(UTC) - timedelta(days=1))] == [done.sid]
    assert alone.calls(done.sid).delete()
    assert refused(alone.calls(done.sid).fetch) == (404, 20404)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"to": None}, 21201),
        ({"from_": None}, 21213),
        ({"to": "nobody"}, 21211),
        ({"from_": "nobody"}, 21212),
        ({"url": None}, 21205),
        ({"url": "nowhere"}, 21205),
        ({"status_callback": "nowhere"}, 21609),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(client: Any, given: dict[str, Any], code: int) -> None:
    assert refused(lambda: called(client, **given)) == (400, code)


# Status callbacks.


def told(arrived: Arrived) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(arrived.body.decode()).items()}


def is_signed(arrived: Arrived, token: str = TOKEN) -> bool:
    parameters = parse_qs(arrived.body.decode(), keep_blank_values=True)
    plain = {name: value for name, (value,) in parameters.items()}
    valid: bool = RequestValidator(token).validate(arrived.url, plain, arrived.headers["X-Twilio-Signature"])
    return valid


async def deliveries(running: tuple[RunningSimulator, Path], object_id: str, count: int) -> list[Delivered]:
    async with asyncio.timeout(LIVENESS_S_MAX):
        while True:
            found = [one for one in read_deliveries(running[1]) if one.object_id == object_id]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.01)


async def test_each_change_of_a_message_is_told_signed_and_logged(
    sdk: Sdk, client: Any, running: tuple[RunningSimulator, Path], simulated: Simulated
) -> None:
    async with receiver() as application:
        url = f"{application.base_url}/told?tenant=%C3%A9&x=a+b"
        message = await asyncio.to_thread(sent, client, status_callback=url)
        first, second = await application.until(2)
        logged = await deliveries(running, message.sid, 2)
    assert all(map(is_signed, (first, second)))
    assert not is_signed(first, "another token")
    assert first.url == url
    assert told(first) == {
        "SmsSid": message.sid,
        "SmsStatus": "sent",
        "MessageStatus": "sent",
        "To": TO,
        "MessageSid": message.sid,
        "AccountSid": SID,
        "From": FROM,
        "ApiVersion": "2010-04-01",
    }
    assert told(second)["MessageStatus"] == "delivered"
    tokens = {arrived.headers["I-Twilio-Idempotency-Token"] for arrived in (first, second)}
    assert len(tokens) == 2
    (made,) = [exchange for exchange in simulated.truth() if exchange.object_id == message.sid]
    assert {(one.run, one.n, one.url, one.status) for one in logged} == {(made.run, made.n, url, 204)}
    assert [one.body.encode() for one in logged] == [first.body, second.body]


async def test_what_is_told_of_a_message_that_fails_in_a_messaging_service(sdk: Sdk) -> None:
    async with receiver() as application:
        service = await asyncio.to_thread(
            lambda: sdk.client().messaging.v1.services.create("Gate", status_callback=application.base_url)
        )
        await asyncio.to_thread(
            lambda: sdk.client(outcome="undelivered").messages.create(
                to=f"whatsapp:{TO}", messaging_service_sid=service.sid, body="hello"
            )
        )
        arrived = await application.until(3)
    assert [told(one)["MessageStatus"] for one in arrived] == ["queued", "sent", "undelivered"]
    last = told(arrived[-1])
    assert (last["ErrorCode"], last["MessagingServiceSid"]) == ("30003", service.sid)
    assert (last["ChannelPrefix"], last["ChannelToAddress"], last["EventType"]) == ("whatsapp", TO, "UNDELIVERED")
    assert all(map(is_signed, arrived))


async def test_a_cancelled_message_is_told_of_as_cancelled_and_as_nothing_else(sdk: Sdk) -> None:
    async with receiver() as application:
        scheduling = sdk.client(step_ms=400)
        message = await asyncio.to_thread(
            lambda: scheduling.messages.create(
                to=TO,
                messaging_service_sid="MG" + "5" * 32,
                body="later",
                schedule_type="fixed",
                send_at=datetime.now(UTC) + timedelta(hours=1),
                status_callback=application.base_url,
            )
        )
        await asyncio.to_thread(lambda: sdk.client().messages(message.sid).update(status="canceled"))
        await asyncio.sleep(1.5)
        assert [told(one)["MessageStatus"] for one in application.arrived] == ["canceled"]


async def test_a_call_tells_of_its_end_in_seconds_and_in_minutes(sdk: Sdk) -> None:
    async with receiver() as application:
        call = await asyncio.to_thread(
            lambda: called(sdk.client(seconds=61), status_callback=application.base_url + "/told")
        )
        (arrived,) = await application.until(1)
        last = told(arrived)
    assert (last["CallSid"], last["CallStatus"], last["AccountSid"]) == (call.sid, "completed", SID)
    assert (last["CallDuration"], last["Duration"], last["SequenceNumber"]) == ("61", "2", "0")
    assert (last["CallbackSource"], last["Direction"]) == ("call-progress-events", "outbound-api")
    assert (last["From"], last["To"], last["ApiVersion"]) == (FROM, TO, "2010-04-01")
    assert is_signed(arrived)


async def test_a_call_tells_of_the_events_that_it_is_asked_for(sdk: Sdk) -> None:
    events = ["initiated", "ringing", "answered", "completed"]
    async with receiver() as application:
        given = {"status_callback": f"{application.base_url}/told", "status_callback_method": "GET"}
        await asyncio.to_thread(lambda: called(sdk.client(outcome="busy"), status_callback_event=events, **given))
        arrived = await application.until(2)
        queries = [parse_qs(urlsplit(one.url).query) for one in arrived]
    assert [query["CallStatus"] for query in queries] == [["initiated"], ["busy"]]
    assert [query["SequenceNumber"] for query in queries] == [["0"], ["1"]]
    assert (queries[1]["CallDuration"], queries[1]["Duration"]) == (["0"], ["0"])
    assert {(one.method, one.body) for one in arrived} == {("GET", b"")}
    assert all(map(is_signed, arrived))


async def test_nobody_outside_is_told_anything(client: Any, running: tuple[RunningSimulator, Path]) -> None:
    message = await asyncio.to_thread(sent, client, status_callback="https://example.com/told")
    logged = await deliveries(running, message.sid, 2)
    assert [one.status for one in logged] == [None, None]
    assert all(str(one.error).startswith("not sent") for one in logged)


async def test_what_was_asked_for_happens_though_the_answer_is_lost(
    sdk: Sdk, simulated: Simulated, running: tuple[RunningSimulator, Path]
) -> None:
    async with receiver() as application:
        body = f"To=%2B15558675310&From=12345&Body=lost&StatusCallback={application.base_url}".encode()
        with pytest.raises(ConnectionResetError):
            await ask(
                simulated,
                "POST",
                f"{ROOT}/Messages.json",
                f"Content-Type: {FORM}",
                "x-simulator-fault: reset-before-head",
                body=body,
            )
        arrived = await application.until(2)
    sid = told(arrived[0])["MessageSid"]
    (lost,) = simulated.truth()
    assert (lost.object_id, lost.usage, lost.status) == (None, None, None)
    assert {one.n for one in await deliveries(running, sid, 2)} == {lost.n}
    assert (await asyncio.to_thread(sdk.client().messages(sid).fetch)).body == "lost"


# Accounts.


def test_a_subaccount_has_a_token_of_its_own_and_sees_nothing_of_others(sdk: Sdk, client: Any) -> None:
    made = client.api.accounts.create(friendly_name="Tenant")
    assert (made.owner_account_sid, made.status, made.friendly_name) == (SID, "active", "Tenant")
    own = sdk.client(made.sid, made.auth_token)
    message = sent(own)
    assert message.account_sid == made.sid
    assert [one.sid for one in own.messages.list()] == [message.sid]
    assert message.sid not in [one.sid for one in client.messages.list(limit=20)]
    assert refused(client.messages(message.sid).fetch) == (404, 20404)
    assert client.api.accounts(made.sid).messages(message.sid).fetch().sid == message.sid
    assert refused(own.api.accounts(SID).messages.list) == (404, 20404)
    assert refused(own.api.accounts(SID).fetch) == (404, 20404)
    assert refused(own.api.accounts.create) == (403, 20403)
    assert [account.sid for account in own.api.accounts.list()] == [made.sid]
    assert {SID, made.sid} <= {account.sid for account in client.api.accounts.list()}
    assert client.api.accounts(made.sid).update(status="suspended").status == "suspended"
    assert refused(own.messages.list) == (403, 20005)


async def test_a_subaccount_s_callbacks_are_signed_with_its_own_token(sdk: Sdk, client: Any) -> None:
    made = await asyncio.to_thread(client.api.accounts.create)
    async with receiver() as application:
        await asyncio.to_thread(
            lambda: client.api.accounts(made.sid).messages.create(
                to=TO, from_=FROM, body="hello", status_callback=f"{application.base_url}/"
            )
        )
        (arrived, *_) = await application.until(1)
    assert is_signed(arrived, made.auth_token)
    assert not is_signed(arrived, TOKEN)


def test_an_account_shows_its_token_to_whoever_holds_it(client: Any) -> None:
    account = client.api.accounts(SID).fetch()
    assert (account.auth_token, account.type, account.owner_account_sid) == (TOKEN, "Full", SID)
    assert account.subresource_uris["messages"] == f"{ROOT}/Messages.json"


def test_a_key_calls_for_its_account_until_it_is_deleted(sdk: Sdk, client: Any, simulated: Simulated) -> None:
    made = client.new_keys.create(friendly_name="mine")
    with_key = sdk.client(made.sid, made.secret, SID)
    assert sent(with_key).account_sid == SID
    assert refused(with_key.keys.list) == (401, 20003)
    assert refused(with_key.api.accounts(SID).fetch) == (401, 20003)
    assert made.sid in [key.sid for key in client.keys.list()]
    assert not hasattr(client.keys(made.sid).fetch(), "secret")
    assert client.keys(made.sid).delete()
    assert refused(lambda: sent(with_key)) == (401, 20003)
    assert fingerprint(f"{made.sid}:{made.secret}") in {exchange.credential for exchange in simulated.truth()}


async def test_no_credential_is_in_the_truth_log(
    sdk: Sdk, client: Any, simulated: Simulated, running: tuple[RunningSimulator, Path]
) -> None:
    made = await asyncio.to_thread(client.api.accounts.create)
    async with receiver() as application:
        url = application.base_url.replace("//", "//me:password-of-mine@")
        message = await asyncio.to_thread(sent, sdk.client(made.sid, made.auth_token))
        message = await asyncio.to_thread(sent, client, status_callback=url)
        await deliveries(running, message.sid, 2)
    logged = running[1].read_text()
    assert "password-of-mine" not in logged
    for secret in (TOKEN, made.auth_token, BASIC.removeprefix("Basic ")):
        assert secret not in logged


@pytest.mark.parametrize("auth", ["", "Bearer x", "Basic", "Basic ???", "Basic Og==", "Basic w6k6w6k="])
async def test_who_does_not_say_who_they_are_is_refused(simulated: Simulated, auth: str) -> None:
    answer = await ask(simulated, "GET", f"{ROOT}/Messages.json", auth=auth)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="Twilio API"'
    assert json.loads(answer.body) == {
        "code": 20003,
        "message": "Authenticate",
        "more_info": "https://www.twilio.com/docs/errors/20003",
        "status": 401,
    }


def test_numbers_applications_and_balance(alone: Any) -> None:
    (number,) = alone.incoming_phone_numbers.list()
    assert (number.phone_number, number.capabilities["sms"]) == (FROM, True)
    assert alone.incoming_phone_numbers(number.sid).fetch().sid == number.sid
    application = alone.applications.create(friendly_name="Gate", voice_url="http://127.0.0.1:9/voice")
    assert alone.applications(application.sid).fetch().voice_url == "http://127.0.0.1:9/voice"
    assert [one.sid for one in alone.applications.list()] == [application.sid]
    assert alone.applications(application.sid).delete()
    assert refused(alone.applications(application.sid).fetch) == (404, 20404)
    assert alone.balance.fetch().currency == "USD"


async def test_an_application_is_told_what_its_messages_and_calls_do(client: Any) -> None:
    async with receiver() as application:
        url = application.base_url + "/told"
        made = await asyncio.to_thread(
            lambda: client.applications.create(message_status_callback=url, status_callback=url)
        )
        await asyncio.to_thread(lambda: sent(client, application_sid=made.sid))
        await application.until(2)
        await asyncio.to_thread(lambda: called(client, url=None, application_sid=made.sid))
        arrived = await application.until(3)
    assert [told(one).get("CallStatus") for one in arrived] == [None, None, "completed"]


# Other products.


def test_services_are_paged_by_whole_urls_that_lead_to_where_they_were_asked_for(alone: Any) -> None:
    made = [alone.messaging.v1.services.create(f"Number {number}") for number in range(3)]
    page = alone.messaging.v1.services.page(page_size=2)
    assert [one.sid for one in page] == [one.sid for one in made[:0:-1]]
    assert page.next_page_url.startswith(f"{alone.messaging.base_url}/v1/Services?PageSize=2&Page=1&PageToken=PA")
    assert made[0].url == f"{alone.messaging.base_url}/v1/Services/{made[0].sid}"
    assert made[0].links["phone_numbers"] == f"{made[0].url}/PhoneNumbers"
    assert alone.messaging.v1.services(made[0].sid).fetch().friendly_name == "Number 0"
    assert alone.messaging.v1.services(made[0].sid).delete()
    assert refused(alone.messaging.v1.services(made[0].sid).fetch) == (404, 20404)


def test_a_service_of_another_account_does_not_exist(client: Any, alone: Any) -> None:
    service = client.messaging.v1.services.create("Gate")
    assert refused(lambda: sent(alone, from_=None, messaging_service_sid=service.sid)) == (400, 21701)


def test_a_verification_is_approved_by_every_code_but_one(client: Any, simulated: Simulated) -> None:
    service = client.verify.v2.services.create(friendly_name="Gate")
    of = client.verify.v2.services(service.sid)
    made = of.verifications.create(to=TO, channel="sms")
    assert (made.status, made.valid, made.channel) == ("pending", False, "sms")
    assert of.verification_checks.create(to=TO, code="000000").status == "pending"
    assert of.verification_checks.create(to=TO, code="123456").status == "approved"
    assert refused(lambda: of.verification_checks.create(to=TO, code="123456")) == (404, 20404)
    assert of.verifications(made.sid).fetch().status == "approved"
    assert refused(lambda: of.verifications.create(to="nobody", channel="sms")) == (400, 60200)
    usages = [exchange.usage for exchange in simulated.truth() if exchange.usage]
    assert [(usage["kind"], usage["status"]) for usage in usages] == [
        ("verification", "pending"),
        ("verification_check", "pending"),
        ("verification_check", "approved"),
    ]


def test_a_lookup_is_a_get_that_costs_by_its_fields(client: Any, simulated: Simulated) -> None:
    plain = client.lookups.v2.phone_numbers("+44 20 7946 0000").fetch()
    assert (plain.phone_number, plain.country_code, plain.valid) == ("+442079460000", "GB", True)
    rich = client.lookups.v2.phone_numbers(TO).fetch(fields="line_type_intelligence,caller_name")
    assert rich.line_type_intelligence["type"] == "mobile"
    assert client.lookups.v2.phone_numbers("nobody").fetch().valid is False
    assert [exchange.usage["fields"] for exchange in simulated.truth()] == [
        [],
        ["caller_name", "line_type_intelligence"],
        [],
    ]


# Shapes.


async def test_what_is_asked_for_without_a_suffix_is_answered_in_xml(simulated: Simulated) -> None:
    body = b"To=%2B15558675310&From=12345&Body=%3Ca%3E+%26+%00%C3%A9"
    await ask(simulated, "POST", f"{ROOT}/Messages", f"Content-Type: {FORM}", body=body)
    answer = await ask(simulated, "POST", f"{ROOT}/Messages", f"Content-Type: {FORM}", body=body)
    assert (answer.status, answer.headers["content-type"]) == (201, "application/xml")
    assert answer.body.startswith(b"<?xml version='1.0' encoding='UTF-8'?>\n<TwilioResponse><Message>")
    (message,) = ET.fromstring(answer.body)
    sid = message.findtext("Sid")
    assert message.findtext("Body") == "<a> & \N{REPLACEMENT CHARACTER}é"
    assert (message.findtext("Status"), message.findtext("NumSegments")) == ("queued", "1")
    assert b"<Price/>" in answer.body
    assert message.findtext("Uri") == f"{ROOT}/Messages/{sid}"
    assert message.findtext("SubresourceUris/Media") == f"{ROOT}/Messages/{sid}/Media"
    listed = await ask(simulated, "GET", f"{ROOT}/Messages.xml?PageSize=1")
    (messages,) = ET.fromstring(listed.body)
    assert (messages.get("page"), messages.get("pagesize"), len(messages)) == ("0", "1", 1)
    assert str(messages.get("nextpageuri")).startswith(f"{ROOT}/Messages?PageSize=1&Page=1")
    number = ET.fromstring((await ask(simulated, "GET", f"{ROOT}/IncomingPhoneNumbers")).body)
    assert number.findtext("IncomingPhoneNumbers/IncomingPhoneNumber/Capabilities/Sms") == "true"
    assert simulated.truth()[1].object_id == sid


async def test_an_error_in_xml(simulated: Simulated) -> None:
    answer = await ask(simulated, "GET", f"{ROOT}/Messages/SM1")
    (error,) = ET.fromstring(answer.body)
    assert (answer.status, error.tag, error.findtext("Code")) == (404, "RestException", "20404")
    assert error.findtext("Message") == f"The requested resource {ROOT}/Messages/SM1 was not found"
    assert error.findtext("MoreInfo") == "https://www.twilio.com/docs/errors/20404"
    assert error.findtext("Status") == "404"


@pytest.mark.parametrize(
    "path",
    [f"{ROOT}/Messages/SM1.json", f"{ROOT}/Nothing.json", "/2010-04-01/Accounts/AC1/Messages.json", "/v9.json", ""],
)
async def test_what_is_not_there_is_answered_as_the_api_does(simulated: Simulated, path: str) -> None:
    answer = await ask(simulated, "GET", path)
    assert answer.status == 404
    if path:
        assert json.loads(answer.body) == {
            "code": 20404,
            "message": f"The requested resource {path} was not found",
            "more_info": "https://www.twilio.com/docs/errors/20404",
            "status": 404,
        }


def test_every_answer_has_the_headers_that_twilio_s_have(client: Any, alone: Any) -> None:
    created = client.messages.create_with_http_info(to=TO, from_=FROM, body="hello")
    service = client.messaging.v1.services.page().get_instance  # the page was answered
    assert service
    headers = CIMultiDict(created.headers)
    assert re.fullmatch(r"RQ[0-9a-f]{32}", headers["Twilio-Request-Id"])
    assert re.fullmatch(r"0\.\d{3}", headers["Twilio-Request-Duration"])
    assert headers["Twilio-Concurrent-Requests"] == "1"
    assert headers["X-Home-Region"] == "us1"
    assert headers["X-API-Domain"] == "api.twilio.com"
    assert headers["Content-Type"] == "application/json"


async def test_what_is_deleted_leaves_an_answer_that_ends_with_its_head(simulated: Simulated, client: Any) -> None:
    made = await asyncio.to_thread(client.applications.create)
    path = f"{ROOT}/Applications/{made.sid}.json"
    spoilt = await ask(simulated, "DELETE", f"{ROOT}/Applications/{made.sid}x.json", "x-simulator-fault: cut-body")
    answer = await ask(simulated, "DELETE", path)
    assert (spoilt.status, answer.status, answer.body) == (404, 204, b"")
    assert not {"content-length", "transfer-encoding", "content-type"} & set(answer.headers)


def test_a_status_that_is_asked_for_comes_with_its_code(sdk: Sdk, simulated: Simulated) -> None:
    for status, code in ((400, 20001), (401, 20003), (404, 20404), (429, 20429), (500, 20500), (503, 20503)):
        assert refused(lambda status=status: sent(sdk.client(status=status))) == (status, code)
    assert {exchange.object_id for exchange in simulated.truth()} == {None}


@pytest.mark.parametrize(
    ("controls", "says"),
    [
        ({"outcome": "busy"}, "delivered"),
        ({"outcome": "lost"}, "delivered"),
        ({"seconds": 7}, "x-simulator-seconds"),
        ({"step_ms": "soon"}, "whole number"),
        ({"fault": "cut-stream"}, "streamed"),
    ],
)
def test_what_a_message_cannot_do_is_refused(sdk: Sdk, controls: dict[str, Any], says: str) -> None:
    with pytest.raises(TwilioRestException) as error:
        sent(sdk.client(**controls))
    assert (error.value.status, error.value.code) == (400, 20001)
    assert says in error.value.msg


@pytest.mark.parametrize("controls", [{"outcome": "busy"}, {"seconds": 7}, {"step_ms": 7}])
def test_only_what_lives_can_be_told_how(sdk: Sdk, controls: dict[str, Any]) -> None:
    assert refused(sdk.client(**controls).messages.list) == (400, 20001)
    assert refused(lambda: called(sdk.client(outcome="read"))) == (400, 20001)
    assert refused(lambda: called(sdk.client(outcome="busy", seconds=7))) == (400, 20001)


# Whatever comes.


def api(seed: int | None = 1) -> simulated_twilio.Twilio:
    keys = frozenset({simulated_twilio.Twilio.default_key, "a key of another provider", "AC1:short"})
    return simulated_twilio.Twilio(Setup(keys, random.Random(seed), lambda: 1_800_000_000.0))


def asked(method: str, path: str, body: bytes = b"", query: str = "", media_type: str = FORM, **wanted: Any) -> Asked:
    headers = CIMultiDict({"Authorization": BASIC, "Content-Type": media_type})
    return Asked(method, path, query, headers, body, len(body), True, Controls(**wanted))


def well_shaped(answer: Answer) -> bool:
    if answer.status == 204:
        return answer.body == b""
    return bool(
        json.loads(answer.body) if answer.content_type == "application/json" else ET.fromstring(answer.body).tag
    )


NAMES = (
    *("To", "From", "Body", "MediaUrl", "StatusCallback", "MessagingServiceSid", "SendAt", "ScheduleType", "Status"),
    *("Url", "StatusCallbackEvent", "FriendlyName", "Channel", "Code", "PageSize", "Page", "PageToken", "DateSent"),
    *(
        "DateSent>",
        "StartDate",
        "EndDate",
        "Category",
        "Fields",
        "ApplicationSid",
        "PhoneNumber",
        "AreaCode",
        "SmsUrl",
        "ContentSid",
        "VoiceUrl",
    ),
)
PATHS = (
    *(
        f"/api{ROOT}/{name}{suffix}"
        for name in ("Messages", "Calls", "Keys", "Applications", "IncomingPhoneNumbers", "Recordings")
        for suffix in (".json", "")
    ),
    *(f"/api{ROOT}/Usage/Records{name}.json" for name in ("", "/Daily", "/Yearly", "/Never")),
    *("/api/2010-04-01/Accounts.json", f"/api{ROOT}.json", f"/api{ROOT}/Messages/SM1.json", "/api", "/", "//", "/%zz"),
    *(
        "/messaging/v1/Services",
        "/verify/v2/Services",
        "/conversations/v1/Conversations",
        "/studio/v2/Flows/FW1/Executions",
        "/lookups/v2/PhoneNumbers/%2B1%FF\xe9",
        "/voice/v1/x",
        "/\xe9/x",
    ),
)
VALUES = st.one_of(
    st.sampled_from(
        [TO, FROM, "%", "\x00", "fixed", "canceled", "2026-01-01", "9999-12-31", "0001-01-01", "-99999999days"]
    ),
    st.text(max_size=12),
)


@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT"]),
    path=st.sampled_from(PATHS),
    pairs=st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=6),
    raw=st.binary(max_size=20),
    media_type=st.sampled_from([FORM, f"{FORM}; charset=latin-1", "application/json", "multipart/form-data", ""]),
)
def test_nothing_that_a_client_sends_is_too_much_for_the_simulator(
    method: str, path: str, pairs: list[tuple[str, str]], raw: bytes, media_type: str
) -> None:
    plain = "&".join(f"{name}={value}" for name, value in pairs)
    body = plain.encode("utf-8", "surrogatepass") + raw
    answer = api().answer(asked(method, path, body, plain, media_type))
    assert answer.status in (200, 201, 204, 400, 403, 404, 409)
    assert well_shaped(answer)


@pytest.mark.parametrize("media_type", ["application/json", "multipart/form-data; boundary=x", ""])
def test_a_body_that_is_no_form_has_no_parameters(media_type: str) -> None:
    answer = api().answer(asked("POST", f"/api{ROOT}/Messages.json", b'{"To": "+15558675310"}', media_type=media_type))
    assert json.loads(answer.body)["code"] == 21604


def test_a_body_that_is_too_long_is_refused() -> None:
    many = api().answer(asked("POST", f"/api{ROOT}/Messages.json", b"&".join([b"a=b"] * 20_000)))
    long = api().answer(asked("POST", f"/api{ROOT}/Messages.json", b"To=1")._replace(whole=False))
    assert (many.status, long.status, json.loads(long.body)["code"]) == (400, 413, 20413)


def test_ids_are_the_same_for_the_same_seed_and_no_other() -> None:
    body = b"To=%2B15558675310&From=12345&Body=x"

    def ids(seed: int | None) -> set[str | None]:
        twilio = api(seed)
        return {twilio.answer(asked("POST", f"/api{ROOT}/Messages.json", body)).object_id for _ in range(10)}

    assert ids(7) == ids(7)
    assert len(ids(None) | ids(None)) == 20


def test_what_is_forgotten_is_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twilio_timeline, "OBJECTS_MAX", 10)
    twilio = api()
    body = b"To=%2B15558675310&From=12345&Body=x"
    first = twilio.answer(asked("POST", f"/api{ROOT}/Messages.json", body)).object_id
    for _ in range(10):
        last = twilio.answer(asked("POST", f"/api{ROOT}/Messages.json", body, outcome=Outcome.SENT)).object_id
    for sid, status in ((first, 404), (last, 200)):
        assert twilio.answer(asked("GET", f"/api{ROOT}/Messages/{sid}.json")).status == status
    listed = twilio.answer(asked("GET", f"/api{ROOT}/Messages.json", query="PageSize=5000"))
    assert json.loads(listed.body)["page_size"] == 1000


def test_nothing_is_asked_for_where_nothing_is_said() -> None:
    assert NOTHING.of_life is None
