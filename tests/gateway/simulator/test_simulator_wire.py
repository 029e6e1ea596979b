"""Answers in bytes: that every layout of one answer says the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator import wire
from gateway.simulator.api import SSE, Answer
from gateway.simulator.controls import Controls, Fault, Framing, Outcome, Sse
from gateway.simulator.wire import Client, Ending

CLIENT = Client("POST", {}, http_1_1=True, keep_alive=True)
EVENTS = tuple(b"data: %d\n\n" % number for number in range(9))


def events() -> Iterator[bytes]:
    return iter(EVENTS)


STREAM = Answer(content_type=SSE, events=events)


def body_of(answer: Answer, controls: Controls, client: Client = CLIENT) -> bytes:
    return b"".join(wire.plan(answer, controls, client, "now").pieces)


@given(
    body=st.binary(max_size=100),
    framing=st.sampled_from([None, *Framing]),
    fault=st.sampled_from([None, Fault.CLOSE_DELIMITED]),
    keep_alive=st.booleans(),
    http_1_1=st.booleans(),
)
def test_however_a_body_is_framed_it_is_the_same_body(
    *, body: bytes, framing: Framing | None, fault: Fault | None, keep_alive: bool, http_1_1: bool
) -> None:
    client = Client("POST", {}, http_1_1, keep_alive)
    plan = wire.plan(Answer(body=body), Controls(framing=framing, fault=fault), client, "now")
    assert b"".join(plan.pieces) == body
    assert plan.ending in wire.WHOLE
    assert (plan.ending is Ending.KEPT) == (keep_alive and (plan.chunked or b"Content-Length" in plan.head))
    assert bool(plan.last) == plan.chunked
    assert not plan.chunked or http_1_1


@given(sse=st.sampled_from([None, Sse.BYTE_BY_BYTE, Sse.ONE_WRITE]), framing=st.sampled_from([None, *Framing]))
def test_however_events_are_sent_they_are_the_same_events(sse: Sse | None, framing: Framing | None) -> None:
    plan = wire.plan(STREAM, Controls(sse=sse, framing=framing), CLIENT, "now")
    writes = [write for piece in plan.pieces for write in plan.writes(piece)]
    assert b"".join(writes) == b"".join(EVENTS)
    assert (max(map(len, writes)) == 1) == (sse is Sse.BYTE_BY_BYTE)


def test_each_fault_leaves_out_what_it_says() -> None:
    whole = b"".join(EVENTS)
    assert body_of(STREAM, Controls(fault=Fault.NO_DONE)) == b"".join(EVENTS[:-1])
    assert body_of(STREAM, Controls(fault=Fault.STALL_STREAM)) == b"".join(EVENTS[:4])
    assert body_of(STREAM, Controls(fault=Fault.CUT_STREAM)) == b"".join(EVENTS[:4]) + EVENTS[4][:4]
    assert body_of(STREAM, Controls(fault=Fault.CUT_BODY)) == whole[: len(whole) // 2]
    assert body_of(STREAM, Controls(fault=Fault.CUT_CHUNKED)) == whole[: len(whole) // 2]


def test_only_a_whole_answer_ends_its_chunks() -> None:
    endings = {fault: wire.plan(STREAM, Controls(fault=fault), CLIENT, "now") for fault in Fault}
    assert endings[Fault.CUT_CHUNKED].last == endings[Fault.CUT_STREAM].last == endings[Fault.STALL_STREAM].last == b""
    assert endings[Fault.NO_DONE].last == b"0\r\n\r\n"


def test_an_error_is_answered_whole_where_a_stream_was_to_break() -> None:
    error = Answer(status=429, body=b"{}")
    for fault in (Fault.CUT_STREAM, Fault.NO_DONE, Fault.STALL_STREAM, Fault.RESPONSE_FAILED):
        assert wire.objection(error, Controls(fault=fault)) is None
        assert wire.plan(error, Controls(fault=fault), CLIENT, "now").ending is Ending.KEPT


@pytest.mark.parametrize("controls", [Controls(), Controls(framing=Framing.CHUNKED), Controls(encoding="gzip")])
def test_an_answer_without_content_ends_with_its_head(controls: Controls) -> None:
    plan = wire.plan(Answer(status=204, content_type=""), controls, CLIENT, "now")
    assert b"".join(plan.pieces) + plan.last == b""
    assert plan.head == b"HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n"
    assert plan.ending is Ending.KEPT


@pytest.mark.parametrize("fault", [Fault.CUT_BODY, Fault.CUT_CHUNKED, Fault.CLOSE_DELIMITED])
def test_a_body_that_is_not_there_cannot_be_spoilt(fault: Fault) -> None:
    assert fault in str(wire.objection(Answer(status=204), Controls(fault=fault)))
    assert wire.objection(Answer(status=200), Controls(fault=fault)) is None


def test_only_what_lives_can_be_told_how() -> None:
    for controls in (Controls(outcome=Outcome.SENT), Controls(seconds=1), Controls(step_ms=1)):
        assert controls.of_life in str(wire.objection(Answer(), controls))
        assert wire.objection(Answer(lives=True), controls) is None
        assert wire.objection(Answer(status=400), controls) is None
