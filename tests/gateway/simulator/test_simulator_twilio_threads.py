"""Products of the simulated Twilio whose lists hold whole URLs: the official SDK pages through them without leaving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twilio.base.exceptions import TwilioRestException

from gateway.simulator.process import RunningSimulator, simulator
from tests.gateway.simulator.test_simulator_twilio import FROM, TO, Sdk

FLOW = "FW" + "1" * 32


@pytest.fixture
def sdk(running: tuple[RunningSimulator, Path]) -> Any:
    sdk = Sdk(running[0])
    yield sdk
    sdk.close()


@pytest.fixture
def alone(sdk: Sdk) -> Any:
    made = sdk.client().api.accounts.create(friendly_name="Alone")
    return sdk.client(made.sid, made.auth_token)


@pytest.mark.parametrize("product", ["messaging", "verify", "conversations", "studio", "messages"])
def test_the_sdk_reads_three_pages_without_leaving_the_simulator(alone: Any, product: str) -> None:
    match product:
        case "messaging":
            listed = alone.messaging.v1.services
            made = [listed.create(f"Number {number}").sid for number in range(5)]
        case "verify":
            listed = alone.verify.v2.services
            made = [listed.create(friendly_name=f"Number {number}").sid for number in range(5)]
        case "conversations":
            listed = alone.conversations.v1.conversations
            made = [listed.create(friendly_name=f"Number {number}").sid for number in range(5)]
        case "messages":
            conversation = alone.conversations.v1.conversations.create().sid
            listed = alone.conversations.v1.conversations(conversation).messages
            made = [listed.create(body=f"Number {number}").sid for number in range(5)]
        case _:
            listed = alone.studio.v2.flows(FLOW).executions
            made = [listed.create(to=TO, from_=FROM).sid for _ in range(5)]
    assert [one.sid for one in listed.list(page_size=2)] == made[::-1]
    first = listed.page(page_size=2)
    base_url = getattr(alone, "conversations" if product == "messages" else product).base_url
    assert first.next_page_url.startswith(f"{base_url}/v")
    again = first.next_page().previous_page()
    assert [one.sid for one in again] == made[:2:-1]
    assert again.next_page().next_page().next_page_url is None


def test_what_is_made_can_be_fetched_and_deleted(alone: Any) -> None:
    conversation = alone.conversations.v1.conversations.create(friendly_name="Toll")
    fetched = alone.conversations.v1.conversations(conversation.sid).fetch()
    assert (fetched.friendly_name, fetched.url) == ("Toll", conversation.url)
    assert alone.conversations.v1.conversations(conversation.sid).delete()
    execution = alone.studio.v2.flows(FLOW).executions.create(to=TO, from_=FROM)
    assert alone.studio.v2.flows(FLOW).executions(execution.sid).fetch().status == "active"
    assert alone.studio.v2.flows(FLOW).executions(execution.sid).delete()
    with pytest.raises(TwilioRestException):
        alone.studio.v2.flows(FLOW).executions.create(to="nobody", from_=FROM)


async def test_links_lead_to_twilio_where_that_is_asked_for(tmp_path: Path) -> None:
    async with simulator(tmp_path / "truth.jsonl", "--real-links") as running:
        sdk = Sdk(running)
        service = sdk.client().messaging.v1.services.create("Gate")
        assert service.url == f"https://messaging.twilio.com/v1/Services/{service.sid}"
        sdk.close()
