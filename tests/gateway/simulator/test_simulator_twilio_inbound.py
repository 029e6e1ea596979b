"""Messages and calls that come in at the simulated Twilio, and the application that they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import pytest_asyncio
from msgspec import UNSET
from twilio.request_validator import RequestValidator

from gateway.simulator.process import RunningSimulator
from tests.gateway.simulator.directed import Directed
from tests.gateway.simulator.receiver import Arrived, Receiver, receiver
from tests.gateway.simulator.test_simulator_twilio import Sdk, over

CALLER, SMILE = "+15558675310", "\N{SMILING FACE WITH SUNGLASSES}"


def told(arrived: Arrived) -> dict[str, str]:
    return dict(parse_qsl(arrived.body.decode(), keep_blank_values=True))


class Line:
    """A number of an account of its own, and its application."""

    def __init__(self, sdk: Sdk, directed: Directed, application: Receiver) -> None:
        made = sdk.client().api.accounts.create(friendly_name="Alone")
        self.sdk = sdk
        self.client: Any = sdk.client(made.sid, made.auth_token)
        self.token: str = made.auth_token
        self.account_sid: str = made.sid
        self.directed = directed
        self.application = application
        url = application.base_url
        number = f"+1501555{int(made.sid[-6:], 16) % 10_000:04d}"
        self.number = self.client.incoming_phone_numbers.create(
            phone_number=number,
            sms_url=f"{url}/sms",
            sms_fallback_url=f"{url}/sms-fallback",
            voice_url=f"{url}/voice",
            voice_fallback_url=f"{url}/voice-fallback",
            status_callback=f"{url}/status",
        )
        self.given = {"to": number, "from": CALLER, "account_sid": made.sid}

    def is_signed(self, arrived: Arrived) -> bool:
        return bool(
            RequestValidator(self.token).validate(arrived.url, told(arrived), arrived.headers["X-Twilio-Signature"])
        )

    async def called(self, count: int, **given: object) -> tuple[Any, list[Arrived]]:
        """A call that comes in, once it is over and was told so often."""
        call = await self.directed.call(**self.given, **given)
        arrived = await self.application.until(count)
        final = await asyncio.to_thread(
            lambda: over(self.client.calls(call["sid"]).fetch, "completed", "busy", "no-answer")
        )
        assert all(map(self.is_signed, arrived))
        return final, arrived


@pytest_asyncio.fixture
async def line(running: tuple[RunningSimulator, Path]) -> AsyncIterator[Line]:
    sdk = Sdk(running[0])
    async with receiver() as application:
        yield await asyncio.to_thread(lambda: Line(sdk, Directed(*running), application))
    sdk.close()


async def test_a_message_comes_in_and_its_application_is_told(line: Line) -> None:
    given = {**line.given, "body": SMILE * 36, "media": ["image/png", "audio/ogg"]}
    made = await line.directed.message(**given)
    (arrived,) = await line.application.until(1)
    form = told(arrived)
    assert (arrived.url, line.is_signed(arrived)) == (f"{line.application.base_url}/sms", True)
    assert (form["MessageSid"], form["SmsStatus"], form["From"], form["To"]) == (
        *(made["sid"], "received", CALLER),
        line.number.phone_number,
    )
    assert (form["NumMedia"], form["NumSegments"], form["MediaContentType1"]) == ("2", "1", "audio/ogg")
    assert form["MediaUrl0"].startswith(f"https://api.twilio.com/2010-04-01/Accounts/{line.account_sid}/Messages/MM")
    assert form["FromCountry"] == "US"
    listed = line.client.messages.list(to=line.number.phone_number)
    assert [(one.sid, one.direction, one.status) for one in listed] == [(made["sid"], "inbound", "received")]
    (record,) = line.client.usage.records.list(category="mms-inbound")
    assert (record.count, float(record.price)) == ("1", 0.0165)
    (delivered,) = await line.directed.told(1, made["sid"])
    assert (delivered.status, delivered.answer, delivered.fallback) == (204, "", UNSET)


async def test_an_inbound_text_has_segments_and_a_price_later(line: Line) -> None:
    made = await line.directed.message({"price_ms": 3_600_000}, **line.given, body=SMILE * 36)
    assert (made["num_segments"], made["price"], made["date_sent"] is None) == ("2", None, False)
    old = await line.directed.message({"at": "2026-01-02T03:04:05Z"}, **line.given, segments=7, webhook=False)
    fetched = await asyncio.to_thread(line.client.messages(old["sid"]).fetch)
    assert (fetched.num_segments, fetched.price, fetched.date_sent) == (
        *("7", "-0.05810"),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )


async def test_a_message_over_whatsapp(line: Line) -> None:
    given = {
        "to": f"whatsapp:{line.number.phone_number}",
        "from": f"whatsapp:{CALLER}",
        "account_sid": line.account_sid,
    }
    await line.directed.message(**given, body="Hello")
    (arrived,) = await line.application.until(1)
    assert (told(arrived)["WaId"], told(arrived)["From"]) == (CALLER[1:], f"whatsapp:{CALLER}")


async def test_what_twiml_answers_to_a_message_is_sent(line: Line) -> None:
    line.application.answers["/sms"] = ["<Response><Redirect>more?x=1</Redirect></Response>"]
    line.application.answers["/more"] = [
        """<Response>
            <Message statusCallback='/replied'>Thanks</Message>
            <Message><Body>And a picture</Body><Media>https://example.com/a.png</Media></Message>
        </Response>"""
    ]
    made = await line.directed.message(**line.given, body="Hello")
    arrived = await line.application.until(4)
    assert [one.url.removeprefix(line.application.base_url) for one in arrived] == [
        *("/sms", "/more?x=1", "/replied", "/replied"),
    ]
    replies = [one for one in line.client.messages.list(to=CALLER) if one.direction == "outbound-reply"]
    assert sorted((one.body, one.num_media) for one in replies) == [("And a picture", "1"), ("Thanks", "0")]
    assert [told(one)["MessageStatus"] for one in arrived[2:]] == ["sent", "delivered"]
    assert made["sid"] not in {one.sid for one in replies}


@pytest.mark.parametrize(("answer", "code"), [(503, "11200"), ("<Response>", "12100"), ("Thanks!", "12100")])
async def test_where_an_application_fails_its_fallback_is_asked(line: Line, answer: str | int, code: str) -> None:
    line.application.answers |= {"/sms": [answer], "/sms-fallback": [500]}
    made = await line.directed.message(**line.given)
    _, second = await line.application.until(2)
    assert (second.url, told(second)["ErrorCode"]) == (f"{line.application.base_url}/sms-fallback", code)
    assert told(second)["ErrorUrl"] == f"{line.application.base_url}/sms"
    first, fallen_back = await line.directed.told(2, made["sid"])
    assert (first.answer, fallen_back.fallback) == (answer if isinstance(answer, str) else "", True)


async def test_a_call_rings_talks_and_ends(line: Line) -> None:
    line.application.answers["/voice"] = ["<Response><Say>Hello</Say></Response>"]
    final, (asked, ended) = await line.called(2, seconds=61)
    assert (told(asked)["CallStatus"], told(asked)["Direction"], "CallDuration" in told(asked)) == (
        "ringing",
        "inbound",
        False,
    )
    assert (ended.url, told(ended)["CallStatus"]) == (f"{line.application.base_url}/status", "completed")
    assert (told(ended)["CallDuration"], told(ended)["Duration"]) == ("61", "2")
    assert (final.status, final.duration, final.direction) == ("completed", "61", "inbound")
    (record,) = line.client.usage.records.list(category="calls-inbound")
    assert (record.count, record.usage, float(record.price)) == ("1", "2", 0.017)


async def test_a_caller_types_is_forwarded_and_recorded(line: Line) -> None:
    line.application.answers |= {
        "/voice": ["<Response><Gather action='menu' numDigits='1'><Say>Press one</Say></Gather></Response>"],
        "/menu": [
            "<Response><Dial action='/dialed'><Number statusCallback='/leg'>+15551230000</Number></Dial></Response>"
        ],
        "/dialed": ["<Response><Record action='/recorded' recordingStatusCallback='/recording'/></Response>"],
        "/recorded": ["<Response><Hangup/><Redirect>/never</Redirect></Response>"],
    }
    final, arrived = await line.called(7, digits=["1"], seconds=100, dial_seconds=31, record_seconds=65)
    paths = {one.url.removeprefix(line.application.base_url): told(one) for one in arrived}
    assert set(paths) == {"/voice", "/menu", "/leg", "/dialed", "/recording", "/recorded", "/status"}
    assert (paths["/menu"]["Digits"], paths["/menu"]["CallStatus"]) == ("1", "in-progress")
    leg = line.client.calls(paths["/dialed"]["DialCallSid"]).fetch()
    assert (leg.parent_call_sid, leg.direction, leg.duration, leg.to) == (
        final.sid,
        "outbound-dial",
        "31",
        "+15551230000",
    )
    assert (paths["/dialed"]["DialCallStatus"], paths["/dialed"]["DialCallDuration"]) == ("completed", "31")
    assert (paths["/leg"]["CallSid"], paths["/leg"]["CallDuration"]) == (leg.sid, "31")
    assert [one.sid for one in line.client.calls.list(parent_call_sid=final.sid)] == [leg.sid]
    (recording,) = line.client.recordings.list(call_sid=final.sid)
    assert (recording.sid, recording.duration) == (paths["/recorded"]["RecordingSid"], "65")
    assert paths["/recording"]["RecordingStatus"] == "completed"
    (record,) = line.client.usage.records.list(category="recordings")
    assert (record.count, record.usage) == ("1", "2")
    (record,) = line.client.usage.records.list(category="calls")
    assert (record.count, record.usage) == ("2", "3"), "each leg is billed by its own minutes"
    assert line.client.recordings(recording.sid).delete()


@pytest.mark.parametrize("outcome", ["busy", "no-answer", "failed"])
async def test_nobody_answers_the_forwarded_call(line: Line, outcome: str) -> None:
    line.application.answers |= {
        "/voice": ["<Response><Dial action='/dialed'>+15551230000</Dial></Response>"],
        "/dialed": ["<Response/>"],
    }
    _, arrived = await line.called(3, dial_outcome=outcome)
    form = told(arrived[1])
    assert (form["DialCallStatus"], "DialCallDuration" in form) == (outcome, False)


async def test_a_call_that_is_rejected_costs_nothing(line: Line) -> None:
    line.application.answers["/voice"] = ["<Response><Reject reason='busy'/></Response>"]
    final, _ = await line.called(2)
    assert (final.status, final.duration, final.price) == ("busy", None, None)


async def test_a_call_whose_application_is_down_falls_back_and_then_ends(line: Line) -> None:
    line.application.answers |= {"/voice": [500], "/voice-fallback": ["not XML"]}
    final, arrived = await line.called(3)
    assert [one.url.rpartition("/")[2] for one in arrived] == ["voice", "voice-fallback", "status"]
    assert (final.status, final.duration, told(arrived[1])["ErrorCode"]) == ("completed", "3", "11200")


async def test_a_call_that_goes_round_in_circles_ends(line: Line) -> None:
    line.application.answers["/voice"] = ["<Response><Redirect>/voice</Redirect></Response>"]
    final, arrived = await line.called(51)
    assert (final.status, len(arrived)) == ("completed", 51)
    assert arrived[-1].url == f"{line.application.base_url}/status"


async def test_a_webhook_is_repeated_and_only_its_first_answer_counts(line: Line) -> None:
    line.application.answers["/sms"] = ["<Response><Message>Thanks</Message></Response>"]
    await line.directed.message({"callbacks": "repeat=3"}, **line.given)
    arrived = await line.application.until(3)
    assert len({one.headers["I-Twilio-Idempotency-Token"] for one in arrived}) == 1
    assert len({one.body for one in arrived}) == 1
    assert len(line.client.messages.list(to=CALLER)) == 1


async def test_what_makes_no_sense_is_refused(line: Line) -> None:
    assert (await line.directed.message(to="+15550000000", **{"from": CALLER}))[0] == 400
    assert (await line.directed.message(to="+15550000000"))[0] == 400
    assert (await line.directed.call(**line.given, tolls=1))[0] == 400
    status, message = await line.directed.call(**{**line.given, "dial_outcome": "delivered"})
    assert (status, "dial_outcome" in message) == (400, True)
