"""Usage Records of the simulated Twilio, read with the official SDK, and held against what was sent."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.process import RunningSimulator
from gateway.simulator.twilio_accounts import Number
from gateway.simulator.twilio_usage import CATEGORIES, SUMS, rents, windows
from tests.gateway.simulator.test_simulator_twilio import Sdk, called, refused, sent


@pytest.fixture
def sdk(running: tuple[RunningSimulator, Path]) -> Any:
    sdk = Sdk(running[0])
    yield sdk
    sdk.close()


@pytest.fixture
def client(sdk: Sdk) -> Any:
    return sdk.client()


@pytest.fixture
def alone(sdk: Sdk) -> Any:
    """A client of an account of its own, whose usage nobody else makes."""
    made = sdk.client().api.accounts.create(friendly_name="Alone")
    return sdk.client(made.sid, made.auth_token)


def test_usage_records_count_what_was_used(sdk: Sdk, alone: Any) -> None:
    sent(alone, body="a" * 161)
    sent(alone, media_url=["https://example.com/a.jpg"])
    sent(sdk.client(*alone.auth, outcome="failed"))
    called(sdk.client(*alone.auth, seconds=61))
    records = {record.category: record for record in alone.usage.records.list()}
    assert (records["sms-outbound"].count, records["sms-outbound"].usage) == ("1", "2")
    assert (records["calls"].count, records["calls"].usage, records["calls"].usage_unit) == ("1", "2", "minutes")
    assert (records["mms-outbound"].count, records["sms"].count) == ("1", "1")
    assert float(records["totalprice"].price) == pytest.approx(0.0166 + 0.0220 + 0.0280 + 2 * 0.0030 + 0.0100 + 0.0010)
    assert (records["sms-messages-carrierfees"].usage, records["mms-messages-carrierfees"].usage) == ("2", "1")
    assert (records["failed-message-processing-fee"].count, records["calls-outbound"].count) == ("1", "1")
    (today,) = alone.usage.records.today.list(category="calls")
    assert (today.count, today.start_date) == ("1", datetime.now(UTC).date())
    for period in ("daily", "monthly", "yearly", "all_time", "this_month"):
        (record,) = getattr(alone.usage.records, period).list(category="sms-outbound")
        assert record.count == "1", period
    for period in ("yesterday", "last_month"):
        (record,) = getattr(alone.usage.records, period).list(category="sms-outbound")
        assert record.count == "0", period


def test_an_account_s_usage_has_that_of_its_subaccounts(sdk: Sdk, client: Any, alone: Any) -> None:
    def count(**given: Any) -> int:
        (record,) = client.usage.records.list(category="sms-outbound", **given)
        return int(record.count)

    before, own = count(), count(include_subaccounts=False)
    sent(alone)
    assert (count(), count(include_subaccounts=False)) == (before + 1, own)


def test_every_category_is_told_and_the_total_adds_them_up(alone: Any) -> None:
    sent(alone)
    sent(alone, to="+4915112345678")
    sent(alone, to="whatsapp:+15558675310", from_="whatsapp:+15017122661")
    service = alone.verify.v2.services.create(friendly_name="Gate").sid
    alone.verify.v2.services(service).verifications.create(to="+15558675310", channel="sms")
    alone.verify.v2.services(service).verification_checks.create(to="+15558675310", code="123456")
    alone.lookups.v2.phone_numbers("+15558675310").fetch(fields="caller_name")
    alone.lookups.v2.phone_numbers("+15558675310").fetch()
    records = {record.category: record for record in alone.usage.records.list()}
    assert set(records) == {*CATEGORIES, *SUMS}
    told = {category: (record.count, record.usage, float(record.price)) for category, record in records.items()}
    assert told["sms-outbound"] == ("2", "2", 0.0166)
    assert told["sms-messages-carrierfees"] == ("1", "1", 0.003), "which only numbers in North America cost"
    assert told["channels-whatsapp-outbound"] == ("1", "1", 0.005)
    assert told["authy-authentications"] == ("1", "1", 0.05)
    assert told["lookups"] == ("1", "1", 0.008)
    leaves = sum(records[category].price for category in CATEGORIES)
    assert records["totalprice"].price == leaves == Decimal("0.0826")
    assert refused(lambda: alone.usage.records.list(category="tolls")) == (400, 20001)


def test_what_was_used_is_told_of_its_own_day(sdk: Sdk, alone: Any) -> None:
    back = sdk.client(*alone.auth, at="2026-02-03T23:59:59Z")
    sent(back)
    called(back)
    sent(alone)
    days = alone.usage.records.daily.list(category="sms-outbound", start_date=date(2026, 2, 1), page_size=20)
    assert [day.start_date for day in days if day.count != "0"] == [datetime.now(UTC).date(), date(2026, 2, 3)]
    (month,) = alone.usage.records.monthly.list(
        category="calls-outbound", start_date=date(2026, 2, 1), end_date=date(2026, 2, 28)
    )
    assert (month.count, month.usage, month.count_unit, month.usage_unit) == ("1", "1", "calls", "minutes")


def test_a_cancelled_message_is_counted_back_and_a_deleted_one_is_not(sdk: Sdk, alone: Any) -> None:
    at = datetime.now(UTC).replace(microsecond=0)
    slow = sdk.client(*alone.auth, step_ms=60_000)
    scheduled = slow.messages.create(
        to="+15558675310",
        messaging_service_sid="MG" + "5" * 32,
        body="Later",
        schedule_type="fixed",
        send_at=at + timedelta(days=1),
    )
    alone.messages(scheduled.sid).update(status="canceled")
    deleted = sent(sdk.client(*alone.auth, step_ms=0))
    alone.messages(deleted.sid).delete()
    (record,) = alone.usage.records.list(category="sms")
    assert record.count == "1"
    call = called(slow)
    alone.calls(call.sid).update(status="completed")
    (record,) = alone.usage.records.list(category="calls")
    assert record.count == "0", "nobody had answered yet"


def test_a_number_costs_from_the_day_on_which_it_was_bought(sdk: Sdk, alone: Any) -> None:
    back = sdk.client(*alone.auth, at="2026-03-31T12:00:00Z")
    number = back.incoming_phone_numbers.create(phone_number="+15017120001", sms_url="http://127.0.0.1:9/sms")
    assert alone.incoming_phone_numbers(number.sid).fetch().sms_url == "http://127.0.0.1:9/sms"
    assert alone.incoming_phone_numbers(number.sid).update(voice_url="http://127.0.0.1:9/voice").sms_url.endswith("sms")
    assert [one.phone_number for one in alone.incoming_phone_numbers.list()] == ["+15017120001", "+15017122661"]
    days = alone.usage.records.daily.list(
        category="phonenumbers", start_date=date(2026, 3, 1), end_date=date(2026, 4, 30)
    )
    assert [(day.start_date, float(day.price)) for day in days if day.count != "0"] == [
        (date(2026, 4, 28), 1.15),
        (date(2026, 3, 31), 1.15),
    ]
    assert alone.incoming_phone_numbers(number.sid).delete()
    assert len(alone.incoming_phone_numbers.list()) == 1
    (record,) = alone.usage.records.monthly.list(category="phonenumbers", end_date=date(2026, 3, 31))
    assert record.count == "1", "what was paid stays paid"


def test_a_released_number_costs_no_more() -> None:
    bought, released = datetime(2026, 1, 10, tzinfo=UTC).timestamp(), datetime(2026, 3, 9, tzinfo=UTC).timestamp()
    now = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    assert list(rents(Number("PN1", "AC1", "+1", bought, released, {}), now)) == [date(2026, 1, 10), date(2026, 2, 10)]


def test_the_parts_of_a_time_leave_nothing_out() -> None:
    months = list(windows("Monthly", date(2026, 1, 15), date(2026, 3, 2), date(2026, 4, 1)))
    assert months == [
        (date(2026, 3, 1), date(2026, 3, 2)),
        (date(2026, 2, 1), date(2026, 2, 28)),
        (date(2026, 1, 15), date(2026, 1, 31)),
    ]
