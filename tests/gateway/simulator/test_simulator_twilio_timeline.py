"""The lists of the simulated Twilio: by time, in pages, and long ones too."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator import twilio_timeline
from gateway.simulator.process import RunningSimulator
from gateway.simulator.twilio_asked import EVER, Account, NotFound, Span
from gateway.simulator.twilio_timeline import Selection, Timeline
from tests.gateway.simulator.test_simulator_twilio import FROM, TO, Sdk, called, over, priced, sent

ACCOUNT = Account("AC1", "token", "", "AC1", "active", 0.0, 0.0)
OTHER = ACCOUNT._replace(sid="AC2")


class Made(NamedTuple):
    sid: str
    account_sid: str
    at: float


def timeline(*made: Made) -> Timeline[Made]:
    line = Timeline[Made](lambda one: one.at)
    for one in made:
        line.put(one)
    return line


@pytest.fixture
def sdk(running: tuple[RunningSimulator, Path]) -> Any:
    sdk = Sdk(running[0])
    yield sdk
    sdk.close()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5), st.sampled_from(["AC1", "AC2"]))))
def test_whatever_is_put_in_and_replaced_stands_in_the_order_of_time(given: list[tuple[int, int, str]]) -> None:
    # An object stays with the account that it was made in.
    last = {(account, number): Made(f"{account}-{number}", account, at) for number, at, account in given}
    line = timeline(*(Made(f"{account}-{number}", account, at) for number, at, account in given))
    expected = sorted((one for one in last.values() if one.account_sid == "AC1"), key=lambda one: (one.at, one.sid))
    every = Selection(line, ACCOUNT, lambda _: True)
    assert list(every.older(None)) == expected[::-1]
    for index, one in enumerate(expected):
        assert list(every.older(one.sid)) == expected[:index][::-1]
        assert list(every.newer(one.sid)) == expected[index + 1 :]
    some = Selection(line, ACCOUNT, lambda one: one.at != 3, Span(2, 5))
    assert list(some.older(None)) == [one for one in expected[::-1] if one.at in (2, 4)]


def test_a_page_that_begins_outside_of_what_is_asked_for_holds_nothing_else() -> None:
    line = timeline(*(Made(f"{number}", "AC1", float(number)) for number in range(9)))
    some = Selection(line, ACCOUNT, lambda _: True, Span(2, 5))
    assert [one.sid for one in some.older("7")] == ["4", "3", "2"]
    assert [one.sid for one in some.newer("0")] == ["2", "3", "4"]


def test_what_is_another_account_s_is_not_there() -> None:
    line = timeline(Made("a", "AC1", 1.0))
    assert line.get(ACCOUNT, "a").at == 1.0
    with pytest.raises(NotFound):
        line.get(OTHER, "a")
    assert list(line.older("AC2", EVER)) == []
    line.pop(ACCOUNT, "a")
    assert list(line.older("AC1", EVER)) == []


def test_beyond_a_number_the_first_made_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twilio_timeline, "OBJECTS_MAX", 2)
    line = timeline(Made("a", "AC1", 9.0), Made("b", "AC1", 1.0), Made("c", "AC1", 2.0))
    assert [one.sid for one in line.older("AC1", EVER)] == ["c", "b"]
    assert line.anybodys("a") is None


def test_a_long_list_is_read_from_any_page_at_the_cost_of_that_page() -> None:
    looked_at = 0

    def holds(_: Made) -> bool:
        nonlocal looked_at
        looked_at += 1
        return True

    line = timeline(*(Made(f"{number:06d}", "AC1", float(number)) for number in range(100_000)))
    page = Selection(line, ACCOUNT, holds).older("050000")
    assert next(page).sid == "049999"
    assert next(Selection(line, ACCOUNT, holds, Span(10, 12)).older(None)).sid == "000011"
    assert looked_at == 2


def test_what_is_put_in_afterwards_is_where_it_belongs(sdk: Sdk) -> None:
    made = sdk.client().api.accounts.create(friendly_name="Alone")
    alone, long_ago = sdk.client(made.sid, made.auth_token), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    new = sent(alone).sid
    back = sdk.client(made.sid, made.auth_token, at=long_ago.isoformat())
    old, call = sent(back), called(back)
    assert (old.date_created, call.date_created) == (long_ago, long_ago)
    assert [message.sid for message in alone.messages.list(page_size=1)] == [new, old.sid]
    assert alone.messages(old.sid).fetch().status == "delivered"
    over(alone.messages(new).fetch, "delivered")
    assert [message.sid for message in alone.messages.list(date_sent=long_ago.date())] == [old.sid]
    assert [message.sid for message in alone.messages.list(date_sent_after=long_ago + timedelta(days=1))] == [new]
    assert alone.calls(call.sid).fetch().start_time.date() == long_ago.date()
    assert [one.sid for one in alone.calls.list(start_time_before=long_ago + timedelta(days=1))] == [call.sid]
    with pytest.raises(Exception, match="has passed"):
        sent(sdk.client(at=(datetime.now(UTC) + timedelta(hours=1)).isoformat()))


def test_a_price_is_told_some_time_after_the_end(sdk: Sdk) -> None:
    late = sent(sdk.client(step_ms=0, price_ms=3_600_000))
    soon = sent(sdk.client(step_ms=0, price_ms=10))
    failed = sent(sdk.client(step_ms=0, price_ms=0, outcome="failed"))
    client = sdk.client()
    assert priced(client.messages(soon.sid).fetch).price == "-0.00830"
    time.sleep(0.01)
    final = client.messages(late.sid).fetch()
    assert (final.status, final.price) == ("delivered", None)
    final = client.messages(failed.sid).fetch()
    assert (final.status, final.price) == ("failed", None)
    assert {message.to for message in client.messages.list(to=TO, from_=FROM, limit=3)} == {TO}
