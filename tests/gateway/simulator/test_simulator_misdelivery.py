"""What goes wrong on the way of what providers send: lost, doubled, shuffled, delayed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator import controls
from gateway.simulator.api import Delivery
from gateway.simulator.controls import Callbacks, ControlError
from gateway.simulator.misdelivery import misdelivered
from gateway.simulator.process import RunningSimulator
from tests.gateway.simulator.directed import Directed
from tests.gateway.simulator.receiver import receiver
from tests.gateway.simulator.test_simulator_twilio import Sdk, sent, told


def delivery(number: int) -> Delivery:
    return Delivery(after_ms=100 * number, url=f"http://127.0.0.1/{number}", headers=(), answered=lambda _: ())


def wanted(value: str) -> Callbacks | None:
    return controls.read([("x-simulator-callbacks", value)]).callbacks


def test_the_words_are_read() -> None:
    assert wanted("lost") == Callbacks(lost=100)
    assert wanted("lost=30,doubled, shuffled") == Callbacks(lost=30, repeat=2, shuffled=True)
    assert wanted("repeat=100,delayed=7") == Callbacks(repeat=100, delayed_ms=7)
    assert wanted("delayed") == Callbacks(delayed_ms=1000)


@pytest.mark.parametrize(
    "value", ["", "late", "repeat", "repeat=101", "lost=101", "doubled=3", "doubled,repeat=4", "lost,lost"]
)
def test_other_words_are_refused(value: str) -> None:
    with pytest.raises(ControlError):
        wanted(value)


@given(
    st.builds(Callbacks, st.integers(0, 100), st.integers(1, 4), st.booleans(), st.integers(0, 50)),
    st.integers(0, 6),
    st.integers(),
)
def test_nothing_is_made_up_and_nothing_disappears(callbacks: Callbacks, count: int, seed: int) -> None:
    later = [delivery(number) for number in range(count)]
    posted = misdelivered(later, callbacks, random.Random(seed))
    urls = [one.url for one in posted.sent]
    lost = {one.url for one in posted.lost}
    assert sorted(urls) == sorted(one.url for one in later if one.url not in lost for _ in range(callbacks.repeat))
    assert sum(one.answered is not None for one in posted.sent) == len(set(urls))
    if callbacks.lost in (0, 100):
        assert len(lost) == count * callbacks.lost // 100
    if callbacks.shuffled:
        assert len({one.after_ms for one in posted.sent}) <= 1
    assert all(one.after_ms >= 100 * int(one.url[-1]) + callbacks.delayed_ms for one in posted.sent)


async def test_the_callbacks_of_a_message_are_doubled_and_shuffled(running: tuple[RunningSimulator, Path]) -> None:
    sdk = Sdk(running[0])
    async with receiver() as application:
        client: Any = sdk.client(callbacks="repeat=3,shuffled")
        message = sent(client, status_callback=f"{application.base_url}/told")
        arrived = await application.until(6)
        tokens = [(told(one)["MessageStatus"], one.headers["I-Twilio-Idempotency-Token"]) for one in arrived]
        assert sorted(status for status, _ in tokens) == ["delivered"] * 3 + ["sent"] * 3
        assert len(set(tokens)) == 2
        assert {told(one)["MessageSid"] for one in arrived} == {message.sid}
    sdk.close()


async def test_what_is_lost_is_in_the_truth_log_and_nowhere_else(running: tuple[RunningSimulator, Path]) -> None:
    sdk = Sdk(running[0])
    async with receiver() as application:
        message = sent(sdk.client(callbacks="lost"), status_callback=f"{application.base_url}/told")
        lost = await Directed(*running).told(2, message.sid)
        assert [one.error for one in lost] == ["not sent: it was asked to be lost"] * 2
        assert application.arrived == []
    sdk.close()
