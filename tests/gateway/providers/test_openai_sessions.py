"""What OpenAI's sessions say was used, written from the types of its SDK and its API reference."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.messages import Field, ResponseHead
from gateway.providers.api import Billed
from gateway.providers.learnt import Prepared
from gateway.providers.openai.sessions import BILLED_MAX, UNDER_WAY_MAX, Session, realtime, referring
from metering.facts import validated
from metering.usage import UsageEvent
from tests.frames import close, frame
from tests.gateway.providers.test_websocket import conversations

HEAD = ResponseHead(101, b"Switching Protocols", [])
ASKED = Prepared(body=b"", resource="gpt-realtime")

USAGE = {
    "total_tokens": 350,
    "input_tokens": 250,
    "output_tokens": 100,
    "input_token_details": {
        "text_tokens": 110,
        "audio_tokens": 130,
        "image_tokens": 10,
        "cached_tokens": 64,
        "cached_tokens_details": {"text_tokens": 40, "audio_tokens": 20, "image_tokens": 4},
    },
    "output_token_details": {"text_tokens": 30, "audio_tokens": 70},
}
QUANTITIES = {
    "input_tokens": 70,
    "input_tokens_cached": 40,
    "input_tokens_audio": 110,
    "input_tokens_audio_cached": 20,
    "input_tokens_image": 6,
    "input_tokens_image_cached": 4,
    "output_tokens": 30,
    "output_tokens_audio": 70,
}
TRANSCRIBED = {
    "type": "tokens",
    "total_tokens": 27,
    "input_tokens": 20,
    "input_token_details": {"text_tokens": 2, "audio_tokens": 18},
    "output_tokens": 7,
}


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "event_id": "event_1", **fields}


def created(model: str = "gpt-realtime-2025-08-28", transcription: Any = None) -> dict[str, Any]:
    hearing = {"format": {"type": "audio/pcm"}, "transcription": transcription}
    return event("session.created", session={"type": "realtime", "model": model, "audio": {"input": hearing}})


def done(name: str = "resp_1", status: str = "completed", usage: Any = USAGE) -> dict[str, Any]:
    return event("response.done", response={"id": name, "status": status, "output": [], "usage": usage})


def transcribed(usage: Any, item: str = "item_1") -> dict[str, Any]:
    kind = "conversation.item.input_audio_transcription.completed"
    return event(kind, item_id=item, content_index=0, transcript="Hello", usage=usage)


def said(*events: dict[str, Any]) -> bytes:
    """The provider's frames."""
    return b"".join(frame(json.dumps(event, separators=(",", ":")).encode(), masked=False) for event in events)


def asked(*events: dict[str, Any]) -> bytes:
    """The client's."""
    return b"".join(frame(json.dumps(event).encode()) for event in events)


def heard_in(*events: dict[str, Any], kind: Any = realtime) -> tuple[Session, list[Billed]]:
    session = kind(HEAD, ASKED)
    return session, list(session.told(said(*events)))


def only(billed: list[Billed]) -> Billed:
    (one,) = billed
    return one


@pytest.mark.parametrize("status", ["completed", "cancelled", "incomplete", "failed"])
def test_each_response_is_billed_by_kind_of_token_whatever_became_of_it(status):
    begun = event("response.created", response={"id": "resp_1", "status": "in_progress", "usage": None})
    session, billed = heard_in(created(), begun, done(status=status))

    name, usage = only(billed)
    assert (name, usage.external_id, usage.resource) == ("resp_1", "resp_1", "gpt-realtime-2025-08-28")
    assert (usage.quantities, usage.completeness, usage.event_type) == (QUANTITIES, "reported", None)
    assert sum(usage.quantities.values()) == USAGE["total_tokens"]
    assert usage.metadata["model"] == "gpt-realtime"
    assert (session.finish().completeness, session.finish().event_type) == ("reported", "api_call")


def test_the_order_and_the_spaces_in_which_an_event_is_written_do_not_matter():
    written = [
        json.dumps(done(), indent=2),
        json.dumps(dict(reversed(done("resp_2").items()))),
        json.dumps({"event_id": "event_1", **done("resp_3")}),
    ]
    session = realtime(HEAD, ASKED)

    billed = session.told(b"".join(frame(text.encode(), masked=False) for text in written))

    assert [one.name for one in billed] == ["resp_1", "resp_2", "resp_3"]


def test_a_session_whose_model_nobody_told_is_of_the_one_that_was_asked_for():
    assert only(heard_in(done())[1]).usage.resource == "gpt-realtime"


@pytest.mark.parametrize(
    ("usage", "quantities"),
    [
        (TRANSCRIBED, {"input_tokens": 2, "input_tokens_audio": 18, "output_tokens": 7}),
        ({"type": "duration", "seconds": 12}, {"seconds": 12}),
        ({"type": "duration", "seconds": 12.04}, {"seconds": 13}),
    ],
)
def test_what_is_written_down_is_billed_at_its_own_models_price(usage, quantities):
    committed = event("input_audio_buffer.committed", item_id="item_1", previous_item_id=None)
    session = realtime(HEAD, ASKED)
    session.told(said(created(transcription={"model": "whisper-1"}), committed))
    assert list(session.under_way) == ["item_1:0:transcription"]

    billed = only(list(session.told(said(transcribed(usage)))))

    assert (billed.usage.event_type, billed.usage.resource) == ("audio_transcription", "whisper-1")
    assert (billed.usage.quantities, billed.usage.external_id) == (quantities, "item_1")
    assert not session.under_way


@pytest.mark.parametrize(
    "session",
    [
        {"type": "transcription", "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}},
        {"input_audio_transcription": {"model": "gpt-4o-transcribe"}},
    ],
    ids=["GA", "beta"],
)
@pytest.mark.parametrize("kind", ["session.updated", "transcription_session.updated"])
def test_the_model_that_writes_down_is_the_sessions_last(session, kind):
    before = created(transcription={"model": "whisper-1"})

    billed = only(heard_in(before, event(kind, session=session), transcribed(TRANSCRIBED))[1])

    assert billed.usage.resource == "gpt-4o-transcribe"


def test_what_is_told_twice_is_billed_once():
    _, billed = heard_in(done(), transcribed(TRANSCRIBED), done(), transcribed(TRANSCRIBED))

    assert [one.name for one in billed] == ["resp_1", "item_1:0:transcription"]


def test_a_response_that_does_not_say_what_it_used_is_unknown_and_the_session_is_not():
    session, billed = heard_in(created(), done(usage=None))

    assert (only(billed).usage.completeness, only(billed).usage.quantities) == ("unknown", {})
    assert session.finish().completeness == "reported"


@pytest.mark.parametrize(
    "last",
    [
        event("response.created", response={"id": "resp_2"}),
        event("input_audio_buffer.committed", item_id="item_2"),
        event("session.created", session={"type": "translation", "model": "gpt-realtime-translate"}),
        event("session.started", session={"model": "gpt-live-1"}),
    ],
    ids=["response", "transcription", "translation", "live-begun"],
)
def test_a_session_that_ends_while_something_is_used_is_unknown(last):
    session, _ = heard_in(created(transcription={"model": "whisper-1"}), done(), last)

    assert (session.finish().completeness, session.finish().event_type) == ("unknown", None)


@pytest.mark.parametrize(
    ("answer", "completeness"),
    [
        ((), "unknown"),
        ((event("error", error={"code": "conversation_already_has_active_response"}),), "reported"),
        ((event("response.created", response={"id": "resp_1"}), done()), "reported"),
    ],
)
def test_a_session_that_ends_before_the_provider_has_begun_to_answer_is_unknown(answer, completeness):
    session = realtime(HEAD, ASKED)
    session.told(said(created()))
    session.heard(asked(event("session.update", session={})))
    assert session.finish().completeness == "reported"

    session.heard(asked(event("response.create")))
    session.told(said(*answer))

    assert session.finish().completeness == completeness


def test_a_session_whose_frames_can_not_be_read_is_unknown():
    session = realtime(HEAD, ASKED)
    session.told(b"\xf0\x00")
    assert session.finish().completeness == "unknown"

    torn = realtime(HEAD, ASKED)
    torn.told(said(done())[:-1])
    assert torn.finish().completeness == "unknown"

    coded = realtime(
        ResponseHead(101, b"", [Field(b"sec-websocket-extensions", b"Sec-WebSocket-Extensions: x-secret")]), ASKED
    )
    assert coded.finish().completeness == "unknown"


@pytest.mark.parametrize("kind", ["completed", "incomplete", "failed"])
def test_a_response_over_a_websocket_is_billed_as_its_stream_is(kind):
    usage = {"input_tokens": 30, "input_tokens_details": {"cached_tokens": 10}, "output_tokens": 5, "total_tokens": 35}
    response = {"id": "resp_1", "model": "gpt-5-2025-08-07", "service_tier": "flex", "usage": usage, "output": []}
    search = {"type": "web_search_call", "status": "completed"}
    begun = event("response.created", response={"id": "resp_1", "usage": None})
    final = event(f"response.{kind}", stream_id="a", response=response | {"output": [search]})

    session, billed = heard_in(begun, final, kind=referring)

    usage = only(billed).usage
    assert (usage.resource, usage.external_id) == ("gpt-5-2025-08-07", "resp_1")
    assert usage.quantities == {"input_tokens": 20, "input_tokens_cached": 10, "output_tokens": 5, "web_searches": 1}
    assert usage.metadata["service_tier"] == "flex"
    assert session.finish().completeness == "reported"


def test_the_seconds_of_a_live_session_are_not_added_up_and_what_it_has_done_for_it_is_billed_apart():
    nested = event("response.completed", response={"id": "resp_9", "model": "gpt-5", "usage": USAGE})
    so_far = [event("session.usage.updated", usage={"seconds": seconds}) for seconds in (1.5, 3.2, 9.0)]
    closed = event("session.closed", session={"model": "gpt-live-1"}, usage={"seconds": 10.0}, reason="expired")

    session, billed = heard_in(
        event("session.started", session={"model": "gpt-live-1"}),
        *so_far,
        event("response.event", event=nested, delegation_id="d"),
        closed,
    )

    asked_of_another, whole = billed
    assert (asked_of_another.name, asked_of_another.usage.resource) == ("resp_9", "gpt-5")
    assert asked_of_another.usage.event_type == "llm_call"
    assert (whole.usage.quantities, whole.usage.resource) == ({"seconds": 10}, "gpt-live-1")
    assert session.finish().completeness == "reported"


def test_what_a_client_asks_for_is_shown_where_it_may_refer_to_what_others_made():
    wanted = event("response.create", previous_response_id="resp_1")

    assert [json.loads(message) for message in referring(HEAD, ASKED).heard(asked(wanted)) or ()] == [wanted]
    assert referring(HEAD, ASKED).heard(b"\xf0\x00") is None
    assert realtime(HEAD, ASKED).heard(asked(wanted)) == ()
    assert realtime(HEAD, ASKED).heard(b"\xf0\x00") == ()


def test_what_is_remembered_of_a_session_is_bounded():
    session, _ = heard_in(*(event("response.created", response={"id": f"resp_{n}"}) for n in range(1000)))
    assert len(session.under_way) == UNDER_WAY_MAX

    _, billed = heard_in(*(done(f"resp_{n}", usage=None) for n in range(BILLED_MAX + 10)), done("resp_9000"))
    assert len(billed) == BILLED_MAX + 11


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
KINDS = st.sampled_from(
    [
        *("session.created", "session.updated", "session.started", "session.closed", "session.usage.updated"),
        *("response.created", "response.done", "response.completed", "response.event", "error"),
        *("input_audio_buffer.committed", "conversation.item.input_audio_transcription.completed"),
    ]
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "session": JSON | st.fixed_dictionaries({"model": JSON, "audio": JSON}),
        "response": JSON | st.fixed_dictionaries({"id": JSON, "usage": st.just(USAGE) | JSON, "output": JSON}),
        "event": JSON | st.fixed_dictionaries({"type": KINDS, "response": JSON}),
        "usage": JSON | st.just(TRANSCRIBED) | st.fixed_dictionaries({"seconds": JSON}),
        "item_id": JSON,
        "content_index": JSON,
    },
)


@given(st.lists(st.tuples(KINDS, FIELDS), max_size=5), st.lists(st.integers(1, 200), min_size=1, max_size=4))
def test_whatever_is_said_and_wherever_it_is_cut_the_same_is_billed_and_can_be_booked(events, cuts):
    wire = said(*({"type": kind, **fields} for kind, fields in events))
    whole, cut = realtime(HEAD, ASKED), realtime(HEAD, ASKED)
    billed = list(whole.told(wire))
    found, at, turn = [], 0, 0
    while at < len(wire):
        found += cut.told(wire[at : at + cuts[turn % len(cuts)]])
        at, turn = at + cuts[turn % len(cuts)], turn + 1

    assert found == billed
    assert cut.finish() == whole.finish()
    for one in billed:
        validated(
            UsageEvent(
                event_id="e",
                tenant_id="t",
                source="openai",
                event_type=one.usage.event_type or "realtime",
                endpoint="realtime",
                occurred_at_ms=1,
                completeness=one.usage.completeness,
                quantities=one.usage.quantities,
            )
        )


@given(conversations(), st.binary(max_size=300))
def test_no_bytes_of_either_side_make_it_raise(conversation, noise):
    _, wire, _ = conversation
    for kind in (realtime, referring):
        session = kind(HEAD, ASKED)
        for data in (wire, close(1000, masked=False), noise, wire):
            session.told(data)
            session.heard(data)
        session.finish()


def test_a_live_session_that_breaks_off_has_used_what_it_was_last_told():
    """Guards money: whoever closes the line before the session is closed has had these seconds all the same."""
    session, _ = heard_in(
        created(),
        event("session.usage.updated", usage={"seconds": 41}),
        event("session.usage.updated", usage={"seconds": 12}),
    )

    usage = session.finish()

    assert (usage.completeness, usage.quantities, usage.event_type) == ("estimated", {"seconds": 41}, None)


def test_sound_that_a_client_sends_is_not_looked_through_and_names_are():
    """Guards shared accounts, on which a live session could be told to use what others made."""
    session = referring(HEAD, ASKED)
    tools = {"type": "session.update", "session": {"tools": [{"container_id": "cntr_0123456789abcdef"}]}}

    sound = session.heard(asked({"type": "session.input_audio.append", "audio": "AAAA" * 99}))
    names = session.heard(asked(tools))

    assert list(sound) == []
    assert b"cntr_0123456789abcdef" in names[0]
