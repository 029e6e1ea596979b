"""Calls that go out at the simulated Twilio, and the application that says what to do with them."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl, urlsplit

from twilio.request_validator import RequestValidator

from gateway.simulator.twilio import AUTH_TOKEN
from tests.gateway.simulator.receiver import Arrived, receiver
from tests.gateway.simulator.test_simulator_twilio import Sdk, over, sdk

__all__ = ["sdk"]

ADA, TOLL = "+12025550143", "+15005550006"
DIAL = (
    '<Response><Redirect method="GET">next?a=1</Redirect></Response>',
    ('<Response><Dial action="over"><Number>+12025550199</Number></Dial></Response>'),
)
RECORD = '<Response><Record action="over" recordingStatusCallback="recording"/></Response>'
BYE = "<Response/>"


def told(arrived: Arrived) -> dict[str, str]:
    said = urlsplit(arrived.url).query if arrived.method == "GET" else arrived.body.decode()
    return dict(parse_qsl(said, keep_blank_values=True))


def is_signed(arrived: Arrived) -> bool:
    fields = {} if arrived.method == "GET" else told(arrived)
    signature = arrived.headers["X-Twilio-Signature"]
    return bool(RequestValidator(AUTH_TOKEN).validate(arrived.url, fields, signature))


async def test_an_answered_call_asks_its_application_and_does_what_that_says(sdk: Sdk) -> None:
    async with receiver() as application:
        application.answers = {"/voice": [DIAL[0]], "/next": [DIAL[1]], "/over": [BYE]}
        url = f"{application.base_url}/voice"
        made = await asyncio.to_thread(lambda: sdk.client().calls.create(to=ADA, from_=TOLL, url=url))
        arrived = await application.until(3)
        assert [urlsplit(one.url).path for one in arrived] == ["/voice", "/next", "/over"]
        assert [one.method for one in arrived] == ["POST", "GET", "POST"]
        assert all(map(is_signed, arrived))
        asked = [told(one) for one in arrived]
        assert {(one["CallSid"], one["Direction"]) for one in asked} == {(made.sid, "outbound-api")}
        assert asked[0]["CallStatus"] == "in-progress"
        assert asked[2]["DialCallStatus"] == "completed"
        leg = await asyncio.to_thread(lambda: sdk.client().calls(asked[2]["DialCallSid"]).fetch())
        assert (leg.parent_call_sid, leg.direction) == (made.sid, "outbound-dial")
        final = await asyncio.to_thread(lambda: over(sdk.client().calls(made.sid).fetch, "completed"))
        assert final.duration == "49"


async def test_where_the_url_fails_the_fallback_is_asked(sdk: Sdk) -> None:
    async with receiver() as application:
        application.answers = {"/voice": [500], "/fallback": [RECORD], "/over": [BYE]}
        base = application.base_url
        await asyncio.to_thread(
            lambda: sdk.client().calls.create(to=ADA, from_=TOLL, url=f"{base}/voice", fallback_url=f"{base}/fallback")
        )
        arrived = await application.until(4)
        assert [urlsplit(one.url).path for one in arrived[:2]] == ["/voice", "/fallback"]
        assert told(arrived[1])["ErrorCode"] == "11200"
        recording = next(told(one) for one in arrived if urlsplit(one.url).path == "/recording")
        assert (recording["RecordingStatus"], recording["RecordingDuration"]) == ("completed", "7")


async def test_a_recorded_call_says_so_when_it_is_over(sdk: Sdk) -> None:
    async with receiver() as application:
        url = f"{application.base_url}/recording"
        made = await asyncio.to_thread(
            lambda: sdk.client().calls.create(to=ADA, from_=TOLL, twiml=BYE, record=True, recording_status_callback=url)
        )
        (arrived,) = await application.until(1)
        fields = told(arrived)
        assert (fields["CallSid"], fields["RecordingDuration"]) == (made.sid, "49")
        assert is_signed(arrived)
        found = await asyncio.to_thread(lambda: sdk.client().recordings(fields["RecordingSid"]).fetch())
        assert (found.call_sid, found.duration) == (made.sid, "49")


async def test_nobody_is_asked_about_a_call_that_nobody_answers(sdk: Sdk) -> None:
    async with receiver() as application:
        base = application.base_url
        await asyncio.to_thread(
            lambda: sdk.client(outcome="busy").calls.create(
                to=ADA, from_=TOLL, url=f"{base}/voice", status_callback=f"{base}/status"
            )
        )
        (arrived,) = await application.until(1)
        assert (urlsplit(arrived.url).path, told(arrived)["CallStatus"]) == ("/status", "busy")
