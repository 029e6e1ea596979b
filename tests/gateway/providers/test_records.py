"""How providers' own lists are asked for and read."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers import PROVIDERS, openai, sendgrid, twilio
from gateway.providers.api import NotAPage
from gateway.providers.twilio.callbacks import read_message
from metering.usage import Completeness

DAY = dt.date(2026, 11, 20)
REAL = "AC" + "5" * 32

EVERY = [(provider.name, one) for provider in PROVIDERS for one in (*provider.records, *provider.totals)]


def listing(provider, name):
    return next(one for one in (*provider.records, *provider.totals) if one.name == name)


def query(path):
    return parse_qsl(urlsplit(path).query)


@pytest.mark.parametrize(("_", "one"), EVERY, ids=[f"{name} {one.name}" for name, one in EVERY])
@given(
    body=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["messages", "calls", "usage_records", "data", "results", "next_page", "next_page_uri", "sid"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_is_answered_is_a_page_or_refused(_, one, body):
    try:
        page = one.read(one.first(REAL, DAY), body)
    except NotAPage:
        return
    assert page.next_path is None or page.next_path.startswith("/")


def test_twilios_days_are_asked_for_by_the_account_with_the_largest_pages():
    assert listing(twilio.PROVIDER, "messages").first(REAL, DAY) == (
        f"/2010-04-01/Accounts/{REAL}/Messages.json?DateSent=2026-11-20&PageSize=1000"
    )
    assert query(listing(twilio.PROVIDER, "usage").first(REAL, DAY)) == [
        ("StartDate", "2026-11-20"),
        ("EndDate", "2026-11-20"),
        ("IncludeSubaccounts", "false"),
        ("PageSize", "1000"),
    ]


MESSAGE = {
    "sid": "SM" + "1" * 32,
    "account_sid": REAL,
    "to": "+12025550143",
    "from": "+15005550006",
    "num_segments": "2",
    "num_media": "0",
    "status": "delivered",
    "direction": "outbound-reply",
    "date_created": "Fri, 20 Nov 2026 11:59:59 +0000",
    "date_sent": "Fri, 20 Nov 2026 12:00:00 +0000",
    "price": "-0.01660",
    "price_unit": "USD",
}


def of_message(**changes):
    one = listing(twilio.PROVIDER, "messages")
    body = msgspec.json.encode({"messages": [MESSAGE | changes], "next_page_uri": None})
    [record] = one.read(one.first(REAL, DAY), body).items
    return record


@pytest.mark.parametrize(
    ("changes", "event_type", "number"),
    [
        ({}, "sms_outbound", "+15005550006"),
        ({"direction": "inbound"}, "sms_inbound", "+12025550143"),
        ({"num_media": "1"}, "mms_outbound", "+15005550006"),
        ({"direction": "inbound", "num_media": "1"}, "mms_inbound", "+12025550143"),
        ({"to": "whatsapp:+12025550143", "from": "whatsapp:+15005550006"}, "whatsapp_outbound", "+15005550006"),
        ({"direction": "outbound-call"}, "sms_outbound", "+15005550006"),
    ],
)
def test_a_listed_message_is_counted_by_its_direction_and_owned_by_our_number(changes, event_type, number):
    record = of_message(**changes)

    assert (record.made.event_type, record.made.quantities) == (event_type, {"messages": 1})
    assert record.made.completeness is Completeness.PENDING
    assert record.owners[-1] == ("phone_numbers", number)
    assert record.occurred_at_ms == 1_795_176_000_000
    assert [late.phase for late in record.late] == ["final", "price"]


@pytest.mark.parametrize("address", ["{}", "whatsapp:{}", "rcs:{}"])
def test_what_came_in_is_priced_alike_whether_it_is_listed_or_told(address):
    toll, ada = address.format("+18005550199"), address.format("+905321234567")
    form = [("MessageSid", MESSAGE["sid"]), ("From", ada), ("To", toll), ("NumMedia", "0"), ("NumSegments", "1")]

    told = read_message(form).made[0].usage
    listed = of_message(direction="inbound", to=toll, **{"from": ada}).made

    assert (listed.event_type, listed.resource) == (told.event_type, told.resource)


def test_what_becomes_of_a_listed_message_is_what_its_own_answer_says():
    settles = next(one.settles for one in twilio.PROVIDER.endpoints if one.name == "messages.create")

    assert settles is not None
    assert of_message().late == settles.read(msgspec.json.encode(MESSAGE))
    assert of_message(status="sent", price=None).late == ()
    assert [one.phase for one in of_message(status="sent").late_if_old] == ["final", "price"]


def test_a_usage_record_is_a_total_without_a_sign():
    one = listing(twilio.PROVIDER, "usage")
    record = {
        "account_sid": REAL,
        "category": "sms-outbound",
        "start_date": "2026-11-20",
        "count": "12",
        "usage": "19",
        "usage_unit": "segments",
        "price": "-0.1577",
        "price_unit": "usd",
        "as_of": "2026-11-21T01:00:00+00:00",
    }
    [total] = one.read(one.first(REAL, DAY), msgspec.json.encode({"usage_records": [record]})).items

    assert (total.day, total.category, total.count, total.usage) == (DAY, "sms-outbound", 12, Decimal(19))
    assert (total.cost, total.currency, total.as_of) == (Decimal("0.1577"), "USD", "2026-11-21T01:00:00+00:00")


def sent(number, at, recipient=0):
    return {
        "msg_id": f"mail{number}.filter-1-{recipient}.0",
        "last_event_time": at,
        "status": "delivered",
        "to_email": "a@example.com",
    }


def test_each_recipient_of_a_mail_is_a_part_of_it():
    one = listing(sendgrid.PROVIDER, "messages")
    body = msgspec.json.encode({"messages": [sent(1, "2026-11-20T12:00:00Z", who) for who in range(3)]})
    page = one.read(one.first("", DAY), body)

    assert {record.external_id for record in page.items} == {"mail1"}
    assert len({record.late[0].phase for record in page.items}) == 3
    assert all(record.late[0].usage.quantities == {"recipients": 1} for record in page.items)
    assert page.next_path is None


def test_a_span_that_is_full_is_asked_for_up_to_where_it_got():
    one = listing(sendgrid.PROVIDER, "messages")
    messages = [sent(n, f"2026-11-20T12:{59 - n // 20:02}:00Z") for n in range(1000)]
    page = one.read(one.first("", DAY), msgspec.json.encode({"messages": messages}))

    assert page.next_path is not None
    assert dict(query(page.next_path))["query"] == (
        'last_event_time BETWEEN TIMESTAMP "2026-11-20T00:00:00Z" AND TIMESTAMP "2026-11-20T12:10:00Z"'
    )
    stuck = [sent(n, "2026-11-20T12:10:00Z") for n in range(1000)]
    with pytest.raises(NotAPage, match="within a second"):
        one.read(page.next_path, msgspec.json.encode({"messages": stuck}))


def test_a_message_by_itself_says_when_it_was_processed_and_its_categories():
    one = listing(sendgrid.PROVIDER, "messages")
    [record] = one.read(one.first("", DAY), msgspec.json.encode({"messages": [sent(1, "2026-11-20T12:00:00Z")]})).items
    events = [
        {"event_name": "processed", "processed": "2026-11-17T09:00:00Z"},
        {"event_name": "opened", "processed": "2026-11-20T12:00:00Z"},
    ]

    found = one.closer.read(record, msgspec.json.encode({"events": events, "categories": ["news"]}))
    unsaid = one.closer.read(record, b"{}")

    assert one.closer.path(record) == "/v3/messages/mail1.filter-1-0.0"
    assert dt.datetime.fromtimestamp(found.occurred_at_ms / 1000, dt.UTC).isoformat() == "2026-11-17T09:00:00+00:00"
    assert found.owners == (("sendgrid_categories", "news"),)
    assert unsaid == record
    with pytest.raises(NotAPage):
        one.closer.read(record, b"[]")


def test_sendgrids_statistics_are_totals_by_metric():
    one = listing(sendgrid.PROVIDER, "stats")
    body = [{"date": "2026-11-20", "stats": [{"metrics": {"requests": 3, "delivered": 2}}]}]
    totals = one.read(one.first("", DAY), msgspec.json.encode(body)).items

    assert {(total.category, total.count) for total in totals} == {("requests", 3), ("delivered", 2)}


def buckets(*results, next_page=None):
    start = int(dt.datetime(2026, 11, 20, tzinfo=dt.UTC).timestamp())
    return msgspec.json.encode(
        {"object": "page", "data": [{"start_time": start, "results": list(results)}], "next_page": next_page}
    )


def test_openais_tokens_are_told_in_dimensions_that_do_not_overlap():
    one = listing(openai.PROVIDER, "usage.completions")
    result = {
        "input_tokens": 100,
        "input_cached_tokens": 40,
        "input_audio_tokens": 10,
        "output_tokens": 30,
        "output_audio_tokens": 5,
        "num_model_requests": 7,
        "project_id": "proj_1",
        "model": "gpt-4o",
    }
    path = one.first("", DAY)
    page = one.read(path, buckets(result, next_page="t2"))

    assert {total.usage_unit: total.usage for total in page.items} == {
        "input_tokens": 50,
        "input_tokens_cached": 40,
        "input_tokens_audio": 10,
        "output_tokens": 25,
        "output_tokens_audio": 5,
    }
    assert {(total.category, total.account, total.count, total.day) for total in page.items} == {
        ("completions:gpt-4o", "proj_1", 7, DAY)
    }
    assert page.next_path == f"{path}&page=t2"
    with pytest.raises(NotAPage):
        one.read(page.next_path, buckets(next_page="t2"))


def test_what_batches_used_is_told_apart():
    one = listing(openai.PROVIDER, "usage.completions")
    result = {"input_tokens": 100, "num_model_requests": 7, "project_id": "proj_1", "model": "gpt-4o"}
    page = one.read(one.first("", DAY), buckets(result | {"batch": True}, result | {"batch": False}, result))

    assert [total.category for total in page.items] == ["completions.batch:gpt-4o", *["completions:gpt-4o"] * 2]
    assert ("group_by[]", "batch") in query(one.first("", DAY))


def test_openais_costs_are_exact():
    one = listing(openai.PROVIDER, "costs")
    result = {"amount": {"value": 0.1, "currency": "usd"}, "line_item": "gpt-4o, input", "project_id": "proj_1"}
    [total] = one.read(one.first("proj_1", DAY), buckets(result)).items

    assert (total.cost, total.currency, total.category) == (Decimal("0.1"), "USD", "costs:gpt-4o, input")
    assert ("project_ids[]", "proj_1") in query(one.first("proj_1", DAY))
