"""What Twilio can be asked, endpoint by endpoint, under the names that its SDKs give it. Pure.

Reading something back never costs, but for a look-up, and may say what became of a call of before. What Twilio does by
itself afterwards, the legs of a conference and what a conversation or a flow sends, are messages and calls under names
of their own, that no answer here tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gateway.messages import ResponseHead
from gateway.providers.api import Endpoint, Meter
from gateway.providers.free import reads_back
from gateway.providers.learnt import Prepared
from gateway.providers.twilio import callback_requests, late
from gateway.providers.twilio.answers import (
    judge_call,
    judge_check,
    judge_elsewhere,
    judge_message,
    judge_participant,
    judge_recording,
    judge_verification,
    lookup,
    meter,
)
from gateway.providers.twilio.callback_requests import called_back
from gateway.providers.twilio.late import reads_final
from gateway.providers.twilio.paths import ACCOUNT
from gateway.providers.twilio.requests import read_call, read_message
from gateway.providers.twilio.twiml import led_inline


def starts(
    name: str, path: str, event_type: str, describes: str, metered: Callable[[ResponseHead, Prepared], Meter]
) -> Endpoint:
    """An endpoint that makes something which is billed, or makes what is."""
    return Endpoint(name=name, method="POST", path=path, event_type=event_type, describes=describes, meter=metered)


MESSAGES, CALLS, RECORDINGS = f"{ACCOUNT}/Messages", f"{ACCOUNT}/Calls", f"{ACCOUNT}/Recordings"
CONFERENCES = f"{ACCOUNT}/Conferences"
SERVICES = "/verify/v2/Services/{sid}"
CONVERSATIONS = "/conversations/v1/Conversations/{sid}/Messages"
FLOWS = "/studio/{}/Flows/{{sid}}/Executions"

ENDPOINTS = (
    replace(
        starts("messages.create", MESSAGES, "sms_outbound", "message", meter(judge_message)),
        prepare=read_message,
        called_back=called_back(callback_requests.MESSAGE, added=True),
        settles=late.MESSAGE,
    ),
    reads_final("messages.list", "GET", MESSAGES, late.messages, lists=True),
    reads_final("messages.fetch", "GET", f"{MESSAGES}/{{sid}}", late.message),
    # Redacts it, or cancels one that is scheduled.
    reads_final("messages.update", "POST", f"{MESSAGES}/{{sid}}", late.message),
    reads_back("messages.delete", "DELETE", f"{MESSAGES}/{{sid}}"),
    reads_back("messages.media.list", "GET", f"{MESSAGES}/{{sid}}/Media"),
    reads_back("messages.media.fetch", "GET", f"{MESSAGES}/{{sid}}/Media/{{part}}"),
    reads_back("messages.media.delete", "DELETE", f"{MESSAGES}/{{sid}}/Media/{{part}}"),
    replace(
        starts("calls.create", CALLS, "call_outbound", "call", meter(judge_call)),
        prepare=read_call,
        called_back=called_back(callback_requests.CALL, added=True, led=led_inline),
        settles=late.CALL,
    ),
    reads_final("calls.list", "GET", CALLS, late.calls, lists=True),
    reads_final("calls.fetch", "GET", f"{CALLS}/{{sid}}", late.call),
    replace(
        reads_final("calls.update", "POST", f"{CALLS}/{{sid}}", late.call),
        called_back=called_back(callback_requests.CALL_CHANGED, led=led_inline),
    ),
    reads_back("calls.delete", "DELETE", f"{CALLS}/{{sid}}"),
    replace(
        starts(
            "calls.recordings.create", f"{CALLS}/{{sid}}/Recordings", "recording", "recording", meter(judge_recording)
        ),
        called_back=called_back(callback_requests.RECORDING),
        settles=late.RECORDING,
    ),
    reads_final("calls.recordings.list", "GET", f"{CALLS}/{{sid}}/Recordings", late.recordings),
    reads_final("calls.recordings.fetch", "GET", f"{CALLS}/{{sid}}/Recordings/{{recording_sid}}", late.recording),
    reads_final("calls.recordings.update", "POST", f"{CALLS}/{{sid}}/Recordings/{{recording_sid}}", late.recording),
    reads_back("calls.recordings.delete", "DELETE", f"{CALLS}/{{sid}}/Recordings/{{recording_sid}}"),
    reads_final("recordings.list", "GET", RECORDINGS, late.recordings, lists=True),
    reads_final("recordings.fetch", "GET", f"{RECORDINGS}/{{sid}}", late.recording),
    reads_back("recordings.delete", "DELETE", f"{RECORDINGS}/{{sid}}"),
    reads_back("conferences.list", "GET", CONFERENCES, lists=True),
    reads_back("conferences.fetch", "GET", f"{CONFERENCES}/{{sid}}"),
    replace(
        reads_back("conferences.update", "POST", f"{CONFERENCES}/{{sid}}"),
        called_back=called_back(callback_requests.HEARD),
    ),
    replace(
        starts(
            "conferences.participants.create",
            f"{CONFERENCES}/{{sid}}/Participants",
            "call_outbound",
            "call into a conference",
            meter(judge_participant),
        ),
        prepare=read_call,
        called_back=called_back(callback_requests.PARTICIPANT, added=True),
        settles=late.CALL,
    ),
    reads_back("conferences.participants.list", "GET", f"{CONFERENCES}/{{sid}}/Participants"),
    reads_back("conferences.participants.fetch", "GET", f"{CONFERENCES}/{{sid}}/Participants/{{call_sid}}"),
    replace(
        reads_back("conferences.participants.update", "POST", f"{CONFERENCES}/{{sid}}/Participants/{{call_sid}}"),
        called_back=called_back(callback_requests.HEARD),
    ),
    reads_back("conferences.participants.delete", "DELETE", f"{CONFERENCES}/{{sid}}/Participants/{{call_sid}}"),
    reads_final("conferences.recordings.list", "GET", f"{CONFERENCES}/{{sid}}/Recordings", late.recordings),
    reads_final(
        "conferences.recordings.fetch", "GET", f"{CONFERENCES}/{{sid}}/Recordings/{{recording_sid}}", late.recording
    ),
    reads_final(
        "conferences.recordings.update", "POST", f"{CONFERENCES}/{{sid}}/Recordings/{{recording_sid}}", late.recording
    ),
    reads_back("usage.records.list", "GET", f"{ACCOUNT}/Usage/Records"),
    reads_back("usage.records.of.list", "GET", f"{ACCOUNT}/Usage/Records/{{value}}"),
    starts(
        "verify.v2.verifications.create",
        f"{SERVICES}/Verifications",
        "verification",
        "verification",
        meter(judge_verification),
    ),
    reads_back("verify.v2.verifications.fetch", "GET", f"{SERVICES}/Verifications/{{value}}"),
    reads_back("verify.v2.verifications.update", "POST", f"{SERVICES}/Verifications/{{value}}"),
    starts(
        "verify.v2.verification_checks.create",
        f"{SERVICES}/VerificationCheck",
        "api_call",
        "verification, checked",
        meter(judge_check),
    ),
    *(
        Endpoint(
            name=f"lookups.{version}.phone_numbers.fetch",
            method="GET",
            path=f"/lookups/{version}/PhoneNumbers/{{value}}",
            event_type="lookup",
            describes="look-up",
            meter=lookup,
        )
        for version in ("v1", "v2")
    ),
    starts(
        "conversations.v1.conversations.messages.create",
        CONVERSATIONS,
        "api_call",
        "conversation message",
        meter(judge_elsewhere),
    ),
    *(
        starts(
            f"studio.{version}.flows.executions.create",
            FLOWS.format(version),
            "api_call",
            "flow, begun",
            meter(judge_elsewhere),
        )
        for version in ("v1", "v2")
    ),
)
