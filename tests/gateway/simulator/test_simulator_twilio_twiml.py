"""TwiML, read as far as it makes something."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.twiml.voice_response import VoiceResponse

from gateway.simulator.twilio_twiml import TWIML_BYTES_MAX, read_twiml


def test_what_the_official_library_writes_is_read() -> None:
    response = VoiceResponse()
    response.gather(action="/menu", num_digits=1).say("Press one")
    response.dial(action="/dialed").number("+15551230000", status_callback="/leg")
    verbs = read_twiml(str(response).encode())
    assert verbs is not None
    gather, dial = verbs
    assert (gather.name, gather.attributes["action"], gather.of("Say")[0].text) == ("Gather", "/menu", "Press one")
    assert (dial.of("Number")[0].text, dial.of("Sip")) == ("+15551230000", ())


@pytest.mark.parametrize("body", [b"", b"Hello", b"<Response>", b"<Other/>", b"<Response/>" + b" " * TWIML_BYTES_MAX])
def test_what_is_no_twiml_is_none(body: bytes) -> None:
    assert read_twiml(body) is None


@given(st.binary())
def test_no_answer_is_too_much(body: bytes) -> None:
    read_twiml(b"<Response>" + body + b"</Response>")
