"""The limit of calls per second: refused as each provider refuses, and counted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.base.exceptions import TwilioRestException

from gateway.simulator.process import simulator
from gateway.simulator.rates import Rates
from gateway.simulator.truth import read_truth
from tests.gateway.simulator.directed import Directed
from tests.gateway.simulator.test_simulator_twilio import Sdk, sent


@given(st.integers(1, 5), st.lists(st.integers(0, 10)))
def test_no_second_holds_more_than_the_limit(most: int, gaps: list[int]) -> None:
    rates, now, admitted = Rates(most), 0.0, []
    for gap in gaps:
        now += gap / 10
        if rates.admits("AC1", now):
            admitted.append(now)
    assert all(sum(at - 1.0 < other <= at for other in admitted) <= most for at in admitted)
    if gaps:
        (spell,) = rates.told().values()
        assert (spell.calls, spell.refused) == (len(gaps), len(gaps) - len(admitted))
        assert spell.peak <= most


def test_without_a_limit_everything_goes_on_and_is_counted() -> None:
    rates = Rates(None)
    assert all(rates.admits("AC1", 0.5) for _ in range(9))
    assert rates.told()["AC1"] == (9, 0, 9)


async def test_who_calls_too_often_is_told_to_wait(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    async with simulator(path, "--rate-limit", "3") as running:
        sdk, directed = Sdk(running), Directed(running, path)
        client: Any = sdk.client()

        def refusal() -> TwilioRestException:
            try:
                for _ in range(1000):
                    sent(client)
            except TwilioRestException as refused:
                return refused
            pytest.fail("a thousand messages were sent without a pause")

        refused = await asyncio.to_thread(refusal)
        assert (refused.status, refused.code) == (429, 20429)
        assert client.http_client._test_only_last_response.headers["Retry-After"] == "1"
        (spell,) = (await asyncio.to_thread(lambda: directed.ask("/rates"))).values()
        assert (spell["refused"], spell["peak"]) == (1, 3)
        assert [exchange.status for exchange in read_truth(path)].count(429) == 1
        sdk.close()
