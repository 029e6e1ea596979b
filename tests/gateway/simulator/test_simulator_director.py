"""What tests ask of the simulator itself: a history at once, and the bill of it."""

from __future__ import annotations

from collections import Counter
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.process import RunningSimulator
from tests.gateway.simulator.directed import Directed
from tests.gateway.simulator.test_simulator_twilio import Sdk, called, sent

HISTORY: dict[str, Any] = {
    "from": "2026-03-01T00:00:00Z",
    "to": "2026-04-01T00:00:00Z",
    "messages": 3000,
    "calls": 300,
    "numbers": ["+15017120100", "+15017120101"],
    "inbound": 20,
    "media": 10,
    "legs": 50,
    "outcomes": {"delivered": 8, "undelivered": 1, "failed": 1},
    "call_outcomes": {"completed": 4, "busy": 1},
    "segments": {"1": 3, "2": 1},
    "seed": 7,
}


@pytest.fixture
def sdk(running: tuple[RunningSimulator, Path]) -> Any:
    sdk = Sdk(running[0])
    yield sdk
    sdk.close()


@pytest.fixture
def directed(running: tuple[RunningSimulator, Path]) -> Directed:
    return Directed(*running)


@pytest.fixture
def alone(sdk: Sdk) -> Any:
    made = sdk.client(at="2026-01-01").api.accounts.create(friendly_name="Alone")
    return sdk.client(made.sid, made.auth_token)


def bill_of(directed: Directed, account_sid: str, begin: str, end: str) -> list[dict[str, Any]]:
    return [
        line for line in directed.ask(f"/bill?from={begin}&to={end}")["twilio"] if line["account_sid"] == account_sid
    ]


def test_a_history_is_listed_used_and_billed_alike(directed: Directed, alone: Any) -> None:
    told = directed.ask("/twilio/bulk", {**HISTORY, "account_sid": alone.account_sid})
    messages, calls = alone.messages.list(page_size=1000), alone.calls.list(page_size=1000)
    assert len(messages) == 3000 == sum(row["count"] for row in told["messages"].values())
    assert len(calls) == sum(row["count"] for row in told["calls"].values()) > 300
    assert messages == sorted(messages, key=lambda message: message.date_sent or message.date_created, reverse=True)
    bill = bill_of(directed, alone.account_sid, "2026-03-01", "2026-03-31")
    billed: Counter[str] = Counter()
    for line in bill:
        billed[line["category"]] += line["usage"]
    free = ("failed", "canceled")
    assert billed["sms-outbound"] == sum(
        int(one.num_segments)
        for one in messages
        if one.direction == "outbound-api" and one.num_media == "0" and one.status not in free
    )
    assert billed["sms-inbound"] == sum(
        int(one.num_segments) for one in messages if one.direction == "inbound" and one.num_media == "0"
    )
    assert billed["failed-message-processing-fee"] == sum(one.status == "failed" for one in messages)
    seconds = sum(line["seconds"] for line in bill if line["category"].startswith("calls"))
    assert seconds == sum(int(call.duration or 0) for call in calls)
    assert {line["number"] for line in bill} == set(HISTORY["numbers"])
    fees = ("carrierfees", "failed-message")
    priced = sum(-Decimal(one.price) for one in (*messages, *calls) if one.price)
    assert priced == sum(Decimal(line["cost"]) for line in bill if not any(fee in line["category"] for fee in fees))
    (record,) = alone.usage.records.all_time.list(
        category="totalprice", start_date=date(2026, 3, 1), end_date=date(2026, 3, 31)
    )
    assert record.price == sum(Decimal(line["cost"]) for line in bill)


def test_the_same_seed_makes_the_same_history(directed: Directed, sdk: Sdk) -> None:
    told = []
    for _ in range(2):
        made = sdk.client().api.accounts.create(friendly_name="Again")
        told.append(directed.ask("/twilio/bulk", {**HISTORY, "account_sid": made.sid}))
    assert told[0] == told[1]


def test_the_bill_says_what_crossed_and_what_did_not(directed: Directed, sdk: Sdk, alone: Any) -> None:
    back = sdk.client(*alone.auth, at="2026-05-06T07:08:09Z", seconds=61)
    sent(sdk.client(*alone.auth, at="2026-05-06T07:08:09Z"), body="a" * 161)
    called(back)
    bill = bill_of(directed, alone.account_sid, "2026-05-06", "2026-05-06")
    told = {line["category"]: (line["count"], line["usage"], line["seconds"], line["cost"]) for line in bill}
    assert told == {
        "calls-outbound": (1, 2, 61, "0.0280"),
        "sms-messages-carrierfees": (1, 2, 0, "0.0060"),
        "sms-outbound": (1, 2, 0, "0.0166"),
    }
    assert {(line["number"], line["day"]) for line in bill} == {("+15017122661", "2026-05-06")}
    assert bill_of(directed, alone.account_sid, "2026-05-07", "2026-05-08") == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"from": "2026-04-01"},
        {"to": "2999-01-01"},
        {"outcomes": {"completed": 1}},
        {"outcomes": {"delivered": 0}},
        {"messages": 500_001},
        {"account_sid": "AC1"},
        {"numbers": []},
        {"tolls": 1},
    ],
)
def test_a_history_that_makes_no_sense_is_refused(directed: Directed, wrong: dict[str, Any]) -> None:
    assert directed.ask("/twilio/bulk", {**HISTORY, **wrong})[0] == 400


@pytest.mark.parametrize("path", ["/twilio/bulk", "/twilio/inbound-message", "/twilio/inbound-call"])
@pytest.mark.parametrize("body", [[], None, {"to": 1}, {"from": "\x00", "to": "", "numbers": "x"}, "\ud800"])
def test_a_body_that_is_not_what_is_asked_for_is_refused(directed: Directed, path: str, body: object) -> None:
    status, _ = directed.ask(path, body if body is not None else {})
    assert status == 400


def test_what_there_is_not_is_refused(directed: Directed) -> None:
    assert directed.ask("/bill?from=2026-01-01")[0] == 400
    status, message = directed.ask("/tolls")
    assert (status, "/bill" in message) == (404, True)


def test_who_has_asked_how_often_is_told(directed: Directed, alone: Any) -> None:
    def asked() -> int:
        return sum(rate["calls"] for rate in directed.ask("/rates").values())

    before = asked()

    alone.messages.list(limit=1)

    assert asked() == before + 1
