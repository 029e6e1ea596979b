"""What Twilio's requests to applications say was used."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.api import Carried, Made
from gateway.providers.learnt import Late, Usage
from gateway.providers.twilio.callbacks import FIELDS_MAX, form_of, read_message, read_status, read_voice
from gateway.providers.twilio.late import recording
from metering.usage import Completeness

ACCOUNT, MESSAGE, CALL, LEG, RECORDING = (
    f"{kind}{digit * 32}" for kind, digit in (("AC", "1"), ("SM", "2"), ("CA", "3"), ("CA", "4"), ("RE", "5"))
)
ADA, TOLL = "+12025550143", "+18005550199"
STATUS = {"MessageSid": MESSAGE, "SmsSid": MESSAGE, "AccountSid": ACCOUNT, "From": TOLL, "To": ADA}
INBOUND = {
    "MessageSid": MESSAGE,
    "SmsMessageSid": MESSAGE,
    "AccountSid": ACCOUNT,
    "From": ADA,
    "To": TOLL,
    "Body": "STOP, please",
    "NumSegments": "2",
    "NumMedia": "0",
    "FromCity": "WASHINGTON",
}
RINGING = {
    "CallSid": CALL,
    "AccountSid": ACCOUNT,
    "Direction": "inbound",
    "CallStatus": "ringing",
    "From": ADA,
    "To": TOLL,
}
TALKING = RINGING | {"CallStatus": "in-progress"}
NEXT = Carried("https://app.example/next")
NOTHING_YET = Usage(quantities={}, completeness=Completeness.PENDING)


def form(fields):
    found = form_of(urlencode(fields).encode())
    assert found is not None
    return found


def status(**fields):
    return read_status(form(fields))


def message(**fields):
    told = read_message(form(INBOUND | fields))
    assert told is not None
    ((made,),) = (told.made,)
    return made


def voice(fields, **asked):
    told = read_voice(form(fields), **asked)
    assert told is not None
    return told


def kinds(told):
    return [one.usage.event_type for one in told.made]


# ---------------------------------------------------------------------------------------------------------------------
# Status callbacks


@pytest.mark.parametrize("state", ["delivered", "undelivered", "failed", "read", "canceled", "partially_delivered"])
def test_a_message_that_is_over_is_to_be_asked_for(state):
    told = status(**STATUS, MessageStatus=state)

    assert told.late == (Late(external_id=MESSAGE, phase="heard", usage=NOTHING_YET),)
    assert (told.order_key, told.account, told.made) == (MESSAGE, ACCOUNT, ())


@pytest.mark.parametrize("state", ["queued", "sending", "sent", "scheduled", "accepted", "", "something new"])
def test_a_message_that_is_under_way_says_nothing(state):
    assert status(**STATUS, MessageStatus=state).late == ()


def test_a_call_that_was_answered_is_told_in_seconds_and_its_price_comes_later():
    told = status(CallSid=CALL, AccountSid=ACCOUNT, CallStatus="completed", CallDuration="49", Duration="1")

    final = Usage(
        quantities={"seconds": 49},
        completeness=Completeness.REPORTED,
        event_type="call_minutes",
        metadata={"status": "completed"},
    )
    assert told.late == (
        Late(external_id=CALL, usage=final),
        Late(external_id=CALL, phase="open", usage=NOTHING_YET),
    )


@pytest.mark.parametrize("state", ["busy", "no-answer", "failed", "canceled"])
def test_a_call_that_nobody_answered_used_nothing(state):
    (final,) = status(CallSid=CALL, CallStatus=state, CallDuration="0", Duration="0").late

    assert final.phase == "final"
    assert (final.usage.quantities, final.usage.completeness) == ({}, Completeness.REPORTED)
    assert final.usage.metadata == {"status": state}


@pytest.mark.parametrize("state", ["queued", "initiated", "ringing", "in-progress"])
def test_a_call_that_goes_on_says_nothing(state):
    assert status(CallSid=CALL, CallStatus=state).late == ()


def test_a_completed_call_without_a_duration_is_left_to_whoever_asks():
    assert status(CallSid=CALL, CallStatus="completed").late == ()
    assert status(CallSid=CALL, CallStatus="completed", CallDuration="-1").late == ()


def test_a_recording_is_seconds():
    told = status(CallSid=CALL, RecordingSid=RECORDING, RecordingStatus="completed", RecordingDuration="7")

    (made,) = told.made
    assert made.key == f"{RECORDING}:made"
    assert (made.usage.event_type, made.usage.quantities) == ("recording", {"seconds": 7})
    assert made.usage.completeness is Completeness.PENDING
    assert told.order_key == CALL


def test_what_a_recording_came_to_is_the_same_fact_as_the_recording_itself_says():
    told = status(CallSid=CALL, RecordingSid=RECORDING, RecordingStatus="completed", RecordingDuration="7")

    itself = recording(b'{"sid": "%b", "status": "completed", "duration": "7"}' % RECORDING.encode())

    assert told.late == itself
    assert [one.phase for one in told.late] == ["final", "open"]


@pytest.mark.parametrize(
    "fields",
    [
        {"RecordingStatus": "in-progress"},
        {"RecordingStatus": "failed", "RecordingDuration": "-1"},
        {"RecordingStatus": "absent", "RecordingDuration": "3"},
    ],
)
def test_a_recording_that_is_not_there_is_nothing(fields):
    assert status(CallSid=CALL, RecordingSid=RECORDING, **fields).made == ()


def test_what_is_about_nothing_that_we_know_is_passed_on_and_no_more():
    told = status(ConferenceSid="CF" + "1" * 32, StatusCallbackEvent="conference-end")

    assert (told.order_key, told.made, told.late) == ("", (), ())


# ---------------------------------------------------------------------------------------------------------------------
# What comes in


def test_a_message_that_comes_in_is_counted_by_its_sid_and_priced_by_our_number():
    made = message()

    assert made == Made(
        f"{MESSAGE}:made",
        "messages.create",
        Usage(
            quantities={"messages": 1, "segments": 2},
            completeness=Completeness.PENDING,
            resource="US:toll_free",
            external_id=MESSAGE,
            event_type="sms_inbound",
            parties={"to": TOLL, "from": ADA},
            metadata={"num_segments": "2", "num_media": "0"},
        ),
    )


def test_pictures_and_channels_are_told_by_the_form():
    assert message(NumMedia="2").usage.event_type == "mms_inbound"
    assert message(NumMedia="2").usage.quantities == {"messages": 1, "segments": 2, "media": 2}
    whatsapp = message(To=f"whatsapp:{TOLL}", From=f"whatsapp:{ADA}").usage
    assert (whatsapp.event_type, whatsapp.resource) == ("whatsapp_inbound", "US:whatsapp")
    other = message(To="messenger:107", From="messenger:42").usage
    assert (other.event_type, other.resource, other.completeness) == (
        "message_inbound",
        "messenger",
        Completeness.PENDING,
    )
    assert other.quantities == {"messages": 1, "segments": 2}


def test_a_message_says_at_what_it_came_in():
    service = "MG" + "6" * 32

    told = read_message(form(INBOUND | {"To": f"whatsapp:{TOLL}", "MessagingServiceSid": service}))

    assert told is not None
    assert told.addressed == (TOLL, service)


def test_no_content_is_kept():
    assert "STOP" not in repr(message())
    assert "WASHINGTON" not in repr(message())


def test_a_form_without_a_message_is_none():
    assert read_message(form({"From": ADA})) is None
    assert read_message(form(INBOUND | {"MessageSid": "SM../../x", "SmsMessageSid": "", "SmsSid": ""})) is None


def test_the_first_question_of_a_call_is_that_it_came_in():
    told = voice(RINGING)

    assert [(one.key, one.usage.event_type, one.usage.completeness) for one in told.made] == [
        (f"{CALL}:made", "call_inbound", Completeness.PENDING)
    ]
    assert (told.order_key, told.account, told.addressed) == (CALL, ACCOUNT, (TOLL,))


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        (TALKING | {"Digits": "1"}, {}),
        (TALKING, {}),
        (RINGING, {"carried": NEXT}),
        (TALKING | {"Direction": "outbound-api"}, {"carried": NEXT}),
        # Without an `action` of its own, what is gathered comes to the URL that began the call.
        (TALKING | {"Direction": "outbound-api", "Digits": "1"}, {"carried": NEXT._replace(begins=True)}),
        # Nothing pressed comes with a question that is asked once more: somebody has named that URL of ours elsewhere.
        (TALKING | {"Digits": "1"}, {"carried": NEXT._replace(redirects=1)}),
    ],
)
def test_each_further_question_is_a_step(fields, asked):
    assert kinds(voice(fields, **asked)) == ["ivr_step"]


def test_the_first_question_of_a_call_that_was_made_is_no_step():
    made = TALKING | {"Direction": "outbound-api"}

    assert voice(made).made == ()
    assert voice(made, carried=NEXT._replace(begins=True)).made == ()


@pytest.mark.parametrize(("direction", "status"), [("inbound", None), ("outbound-api", 502), ("outbound-dial", 502)])
def test_what_is_said_in_an_applications_place_is_for_calls_that_come_in(direction, status):
    unanswered = voice(TALKING | {"Direction": direction}, carried=NEXT).unanswered

    assert (None if unanswered is None else unanswered.status) == status


def test_a_step_is_known_by_what_tells_it_from_others():
    assert {voice(TALKING, step=step).made[0].key for step in ("a", "a", "b")} == {f"{CALL}:ivr:a", f"{CALL}:ivr:b"}


def test_a_dial_that_was_answered_is_a_call_that_was_forwarded():
    told = voice(TALKING | {"DialCallSid": LEG, "DialCallStatus": "completed", "DialCallDuration": "30"}, carried=NEXT)

    assert [one.key.rpartition(":")[0] for one in told.made] == [f"{CALL}:ivr", f"{CALL}:forwarded", LEG]
    forwarded, leg = (one.usage for one in told.made[1:])
    assert (forwarded.event_type, forwarded.external_id, forwarded.quantities) == (
        "call_forwarded",
        None,
        {"requests": 1},
    )
    # Which is listed as well, and asked for: by its own name, so that it is counted once.
    assert (leg.event_type, leg.external_id, leg.completeness) == ("call_outbound", LEG, Completeness.PENDING)


@pytest.mark.parametrize("state", ["busy", "no-answer", "failed", "canceled"])
def test_a_dial_that_nobody_answered_forwards_nothing(state):
    assert kinds(voice(TALKING | {"DialCallSid": LEG, "DialCallStatus": state})) == ["ivr_step"]


def test_a_voicemail_is_a_step_and_a_recording_that_its_own_callback_tells_alike():
    said = TALKING | {"RecordingSid": RECORDING, "RecordingDuration": "12", "RecordingUrl": "https://x", "Digits": "#"}
    told = status(CallSid=CALL, RecordingSid=RECORDING, RecordingStatus="completed", RecordingDuration="12")

    assert kinds(voice(said)) == ["ivr_step", "recording"]
    assert voice(said).made[1] == told.made[0]


def test_what_is_no_form_is_none():
    assert form_of(b"&".join([b"a=1"] * (FIELDS_MAX + 1))) is None
    assert form_of(b"no form") is None
    assert form_of(b"") == []


@given(st.dictionaries(st.sampled_from(sorted({*STATUS, *INBOUND, *RINGING, "CallDuration", "RecordingSid", "DialCallSid", "DialCallStatus", "RecordingDuration"})), st.text(max_size=8) | st.sampled_from([MESSAGE, CALL, "completed", "9999999"])))  # fmt: skip
def test_it_never_raises_whatever_a_form_holds(fields):
    said = form(fields) if fields else []

    for read in (read_status, read_message, read_voice):
        read(said)
