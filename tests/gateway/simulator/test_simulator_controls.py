"""What requests can ask of the simulator: that it is documented, and that nothing else is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gateway.simulator
from gateway.simulator import controls
from gateway.simulator.codings import CODINGS
from gateway.simulator.controls import READERS, ControlError, Controls, Fault, Framing, Outcome, Sse


def test_every_control_and_every_value_is_in_the_package_s_docstring() -> None:
    documented = gateway.simulator.__doc__
    assert documented is not None
    for word in (*READERS, *Outcome, *Fault, *Framing, *Sse, *CODINGS):
        assert word in documented, word


def test_what_is_asked_for_is_read_whatever_the_case_of_its_name() -> None:
    read = controls.read([("Host", "x"), ("X-Simulator-Fault", "hang"), ("x-SIMULATOR-words", "7")])
    assert read == Controls(fault=Fault.HANG, words=7)


def test_usage_is_kept_byte_for_byte_or_left_out() -> None:
    dictated = controls.read([("x-simulator-usage", '{"a": 1.0}')])
    assert dictated.usage is not None
    assert bytes(dictated.usage) == b'{"a": 1.0}'
    left_out = controls.read([("x-simulator-usage", "none")])
    assert (left_out.usage, left_out.usage_left_out) == (None, True)
    null = controls.read([("x-simulator-usage", "null")])
    assert (null.usage is not None, null.usage_left_out) == (True, False)


@pytest.mark.parametrize(
    "headers",
    [
        [("x-simulator-", "1")],
        [("x-simulator-words", "-1")],
        [("x-simulator-words", "٣")],
        [("x-simulator-words", "99999999999")],
        [("x-simulator-words", "1"), ("X-Simulator-Words", "1")],
        [("x-simulator-fault", "cut-body"), ("x-simulator-framing", "chunked")],
        [("x-simulator-encoding", "gzip, br")],
    ],
)
def test_what_cannot_be_done_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(ControlError):
        controls.read(headers)


@given(st.sampled_from(sorted(READERS)), st.text(st.characters(max_codepoint=255)))
def test_no_value_is_more_than_refused(name: str, value: str) -> None:
    refusal = ""
    try:
        controls.read([(name, value)])
    except ControlError as error:
        refusal = str(error)
    assert not refusal or name in refusal
