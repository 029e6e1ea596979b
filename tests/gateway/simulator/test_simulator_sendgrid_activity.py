"""What was mailed, as a collector reads it from the simulated SendGrid: activity, statistics by subuser and category."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sendgrid import SendGridAPIClient
from sendgrid.helpers.eventwebhook import EventWebhook, EventWebhookHeader
from sendgrid.helpers.mail import Category

from gateway.simulator import sendgrid_activity
from gateway.simulator.process import RunningSimulator
from gateway.simulator.sendgrid_activity import Activity, Sent, read_query
from tests.gateway.simulator.directed import Directed
from tests.gateway.simulator.receiver import receiver
from tests.gateway.simulator.test_simulator_sendgrid import KEY, body_of, enable, events_of, mail, personalization

FIELDS = {
    "from_email": "gate@example.com",
    "msg_id": "m",
    "status": "delivered",
    "subject": "Toll",
    "to_email": "a@x.org",
}
DAY = "2026-02-03"


@pytest.fixture
def host(running: tuple[RunningSimulator, Path]) -> str:
    return running[0].base_urls["sendgrid"]


@pytest.fixture
def client(host: str) -> Iterator[SendGridAPIClient]:
    """A client of an account that no other test uses: a subuser's."""
    parent = SendGridAPIClient(KEY, host=host)
    subuser = {"username": "collected", "email": "tenant@example.com", "password": "pw", "ips": ["192.0.2.9"]}
    assert parent.client.subusers.post(request_body=subuser).status_code == 201
    delegate = SendGridAPIClient(KEY, host=host, impersonate_subuser="collected")
    key = body_of(delegate.client.api_keys.post(request_body={"name": "tenant's"}))["api_key"]
    yield SendGridAPIClient(key, host=host)
    assert parent.client.subusers.collected.delete().status_code == 204


def send(client: SendGridAPIClient, *to: str, category: str | None = None, **controls: str) -> str:
    message = mail(personalization(*to))
    if category is not None:
        message.add_category(Category(category))
    headers = {f"x-simulator-{name}": value for name, value in controls.items()}
    # A client goes on sending the headers that it was given once.
    once = SendGridAPIClient(client.api_key, host=client.host)
    response = once.client.mail.send.post(request_body=message.get(), request_headers=headers)
    return str(response.headers["X-Message-Id"])


def activity(*ats: int) -> Activity:
    made = Activity()
    for number, at in enumerate(ats):
        made.put(f"m{number}", Sent(at, {**FIELDS, "msg_id": f"m{number}"}, ("toll",) if number % 2 else ()))
    return made


def found(made: Activity, query: str) -> list[str]:
    wanted = read_query(query)
    assert wanted is not None
    return [sent.fields["msg_id"] for sent in made.find(wanted)]


def test_a_query_is_about_fields_times_and_categories() -> None:
    made = activity(0, 60, 120, 180)
    assert found(made, 'to_email="a@x.org"') == ["m3", "m2", "m1", "m0"]
    times = 'TIMESTAMP "1970-01-01T00:01:00Z" AND TIMESTAMP "1970-01-01T00:02:00Z"'
    assert found(made, f'last_event_time BETWEEN {times} AND status = "delivered"') == ["m2", "m1"]
    assert found(made, 'last_event_time>TIMESTAMP "1970-01-01T00:01:00Z"') == ["m3", "m2"]
    assert found(made, 'last_event_time<TIMESTAMP "1970-01-01T00:01:00Z"') == ["m0"]
    assert found(made, '(Contains(categories,"toll")) AND last_event_time>=TIMESTAMP "1970-01-01T00:02:00Z"') == ["m3"]
    assert found(made, 'last_event_time<=TIMESTAMP "1970-01-01T00:01:00Z" AND subject="Toll"') == ["m1", "m0"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "to_email",
        'tolls="a"',
        'to_email="a" OR to_email="b"',
        'to_email="a" AND ',
        'last_event_time>TIMESTAMP "soon"',
        'last_event_time BETWEEN TIMESTAMP "2026-01-01" AND TIMESTAMP "x"',
    ],
)
def test_what_is_no_query_is_none(query: str) -> None:
    assert read_query(query) is None


@given(st.text(st.sampled_from('aA =<>"()ADNTIMESP_:-0123456789tolasevn'), max_size=40))
def test_no_query_is_too_much(query: str) -> None:
    read_query(query)


@given(st.lists(st.integers(0, 300)), st.integers(0, 300), st.integers(0, 300))
def test_every_message_of_a_time_is_found_once(ats: list[int], low: int, high: int) -> None:
    times = [datetime.fromtimestamp(at, UTC).isoformat() for at in (low, high)]
    query = f'last_event_time BETWEEN TIMESTAMP "{times[0]}" AND TIMESTAMP "{times[1]}"'
    wanted = read_query(query)
    assert wanted is not None
    told = [sent.at for sent in activity(*ats).find(wanted)]
    assert told == sorted((at for at in ats if low <= at <= high), reverse=True)


def test_beyond_a_number_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sendgrid_activity, "MESSAGES_MAX", 2)
    made = activity(30, 10, 20)
    assert (len(made), made.get("m1"), found(made, 'subject="Toll"')) == (2, None, ["m0", "m2"])


def test_mail_of_another_day_is_told_of_that_day(client: SendGridAPIClient, host: str, running: Any) -> None:
    send(client, "a@example.com", "bounce@example.com", category="toll", at=f"{DAY}T23:59:59Z")
    send(client, "b@example.com")
    query = {"start_date": DAY, "end_date": DAY}
    (day,) = body_of(client.client.stats.get(query_params=query))
    metrics = day["stats"][0]["metrics"]
    assert (day["date"], metrics["requests"], metrics["delivered"], metrics["bounces"]) == (DAY, 2, 1, 1)
    (day,) = body_of(client.client.categories.stats.get(query_params={**query, "categories": ["toll", "other"]}))
    toll, other = day["stats"]
    assert (toll["type"], toll["name"], toll["metrics"]["requests"]) == ("category", "toll", 2)
    assert (other["name"], other["metrics"]["requests"]) == ("other", 0)
    parent = SendGridAPIClient(KEY, host=host).client
    (day,) = body_of(parent.subusers.stats.get(query_params={**query, "subusers": "collected"}))
    (own,) = day["stats"]
    assert (own["type"], own["name"], own["metrics"]) == ("subuser", "collected", metrics)
    with pytest.raises(Exception, match="400"):
        parent.subusers.stats.get(query_params={**query, "subusers": "nobody"})
    between = f'last_event_time BETWEEN TIMESTAMP "{DAY}T00:00:00Z" AND TIMESTAMP "{DAY}T23:59:59Z"'
    messages = body_of(client.client.messages.get(query_params={"query": between, "limit": 1000}))["messages"]
    assert sorted(one["to_email"] for one in messages) == ["a@example.com", "bounce@example.com"]
    bill = Directed(*running).ask(f"/bill?from={DAY}&to={DAY}")["sendgrid"]
    (line,) = [line for line in bill if line["username"] == "collected"]
    assert (line["day"], line["requests"], line["bounces"]) == (DAY, 2, 1)


def test_mail_of_tomorrow_is_refused(client: SendGridAPIClient) -> None:
    with pytest.raises(Exception, match="400"):
        send(client, "a@example.com", at=(datetime.now(UTC) + timedelta(days=1)).isoformat())


async def test_events_are_repeated_with_the_same_ids_and_signed_anew(client: SendGridAPIClient) -> None:
    async with receiver() as application:
        await asyncio.to_thread(enable, client, f"{application.base_url}/events")
        signed = client.client.user.webhooks.event.settings.signed
        public_key = body_of(await asyncio.to_thread(lambda: signed.patch(request_body={"enabled": True})))[
            "public_key"
        ]
        await asyncio.to_thread(lambda: send(client, "a@example.com", callbacks="repeat=46,shuffled", at=DAY))
        arrived = await application.until(92)
    ids = [(event["event"], event["sg_event_id"]) for event in events_of(*arrived)]
    assert {ids.count(told) for told in set(ids)} == {46}
    assert sorted(event for event, _ in set(ids)) == ["delivered", "processed"]
    verifier = EventWebhook(public_key)
    for one in arrived:
        stamp, signature = (one.headers[name] for name in (EventWebhookHeader.TIMESTAMP, EventWebhookHeader.SIGNATURE))
        assert verifier.verify_signature(one.body.decode(), signature, stamp)
        assert abs(int(stamp) - datetime.now(UTC).timestamp()) < 600, "it says when it left, and not when it was so"
