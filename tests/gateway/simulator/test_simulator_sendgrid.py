"""The official SDK against the simulated SendGrid, and the truth log beside what the SDK saw."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from python_http_client import exceptions
from sendgrid import SendGridAPIClient
from sendgrid.helpers.eventwebhook import EventWebhook
from sendgrid.helpers.eventwebhook.eventwebhook_header import EventWebhookHeader
from sendgrid.helpers.mail import (
    Attachment,
    BatchId,
    Bcc,
    Category,
    Cc,
    Content,
    CustomArg,
    FileContent,
    FileName,
    From,
    Mail,
    MailSettings,
    Personalization,
    SandBoxMode,
    SendAt,
    Subject,
    To,
)

from gateway.simulator.process import RunningSimulator
from gateway.simulator.truth import Delivered, fingerprint, read_deliveries
from tests.gateway.simulator.receiver import Arrived, receiver
from tests.gateway.simulator.simulated import LIVENESS_S_MAX, Simulated

KEY = "SG.simulator.sendgrid-key"
MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{22}")
MAIL: Any = {
    "personalizations": [{"to": [{"email": "to@example.com"}]}],
    "from": {"email": "gate@example.com"},
    "subject": "Toll",
    "content": [{"type": "text/plain", "value": "due"}],
}


def body_of(response: Any) -> Any:
    return json.loads(response.body)


@pytest.fixture
def host(running: tuple[RunningSimulator, Path]) -> str:
    return running[0].base_urls["sendgrid"]


@pytest.fixture
def parent(host: str) -> SendGridAPIClient:
    return SendGridAPIClient(KEY, host=host)


@pytest.fixture
def client(parent: SendGridAPIClient, host: str) -> Iterator[SendGridAPIClient]:
    """A client of an account that no other test uses: a subuser's."""
    subuser = {"username": "tenant", "email": "tenant@example.com", "password": "pw", "ips": ["192.0.2.9"]}
    assert parent.client.subusers.post(request_body=subuser).status_code == 201
    delegate = SendGridAPIClient(KEY, host=host, impersonate_subuser="tenant")
    key = body_of(delegate.client.api_keys.post(request_body={"name": "tenant's"}))["api_key"]
    yield SendGridAPIClient(key, host=host)
    assert parent.client.subusers.tenant.delete().status_code == 204


def personalization(*to: str, cc: tuple[str, ...] = (), bcc: tuple[str, ...] = ()) -> Personalization:
    made = Personalization()
    for email in to:
        made.add_to(To(email))
    for email in cc:
        made.add_cc(Cc(email))
    for email in bcc:
        made.add_bcc(Bcc(email))
    return made


def mail(*personalizations: Personalization) -> Mail:
    message = Mail(From("gate@example.com", "Gate"), subject=Subject("Toll"))
    message.add_content(Content("text/plain", "due"))
    for one in personalizations:
        message.add_personalization(one)
    return message


# Mail.


def test_a_mail_is_accepted_without_a_word_and_named_in_a_header(
    client: SendGridAPIClient, simulated: Simulated
) -> None:
    response = client.send(
        mail(
            personalization("a@example.com", "b@example.com", cc=("c@example.com",), bcc=("d@example.com",)),
            personalization("a@example.com"),
        )
    )
    exchange = asyncio.run(simulated.settled())[-1]
    assert (response.status_code, response.body) == (202, b"")
    assert MESSAGE_ID.fullmatch(response.headers["X-Message-Id"])
    assert "Content-Type" not in response.headers
    assert exchange.object_id == response.headers["X-Message-Id"]
    assert exchange.usage == {"recipients": 5, "personalizations": 2, "sandbox": False}
    assert (exchange.provider, exchange.status, exchange.model, exchange.stream) == ("sendgrid", 202, None, False)
    assert (exchange.completed, exchange.bytes_sent) == (True, 0)
    assert exchange.credential == fingerprint(client.api_key)
    assert client.api_key not in str(exchange.headers)


def test_sandbox_mode_checks_and_sends_nothing(client: SendGridAPIClient, simulated: Simulated) -> None:
    message = mail(personalization("a@example.com", "b@example.com"))
    message.mail_settings = MailSettings(sandbox_mode=SandBoxMode(enable=True))
    response = client.send(message)
    exchange = simulated.truth()[-1]
    assert (response.status_code, response.body) == (200, b"")
    assert "X-Message-Id" not in response.headers
    assert exchange.usage == {"recipients": 2, "personalizations": 1, "sandbox": True}
    assert exchange.object_id is None
    assert sent(client)["requests"] == 0
    message.add_personalization(personalization())
    with pytest.raises(exceptions.BadRequestsError):
        client.send(message)


def test_a_body_may_be_coded(host: str, simulated: Simulated) -> None:
    request = urllib.request.Request(f"{host}/v3/mail/send", gzip.compress(json.dumps(MAIL).encode()), method="POST")
    request.add_header("Authorization", f"Bearer {KEY}")
    request.add_header("Content-Type", "application/json; charset=utf-8")
    request.add_header("Content-Encoding", "gzip")
    with urllib.request.urlopen(request) as response:
        assert response.status == 202
    assert simulated.truth()[-1].usage == {"recipients": 1, "personalizations": 1, "sandbox": False}


def test_a_thousand_recipients_and_a_large_attachment_go_through(
    client: SendGridAPIClient, simulated: Simulated
) -> None:
    message = mail(*(personalization(f"{number}@example.com") for number in range(1000)))
    message.add_attachment(Attachment(FileContent(base64.b64encode(bytes(15 << 20)).decode()), FileName("toll.bin")))
    assert client.send(message).status_code == 202
    assert simulated.truth()[-1].usage == {"recipients": 1000, "personalizations": 1000, "sandbox": False}


@pytest.mark.parametrize("spoilt", [b"\x1f\x8b nonsense", gzip.compress(b"{}")[:-4], b"\xff{}"])
def test_nonsense_in_gzip_is_refused_in_the_shape_of_the_api(host: str, spoilt: bytes) -> None:
    request = urllib.request.Request(f"{host}/v3/mail/send", spoilt, method="POST")
    request.add_header("Authorization", f"Bearer {KEY}")
    request.add_header("Content-Type", "application/json")
    request.add_header("Content-Encoding", "gzip")
    with pytest.raises(urllib.request.HTTPError) as error:
        urllib.request.urlopen(request)
    with error.value as refused:
        assert refused.code == 400
        assert [set(problem) for problem in json.load(refused)["errors"]] == [{"message", "field", "help"}]


# Errors.


def test_an_unknown_key_is_refused_as_the_real_one_refuses_it(host: str) -> None:
    with pytest.raises(exceptions.UnauthorizedError) as error:
        SendGridAPIClient("SG.no.key", host=host).client.scopes.get()
    assert error.value.to_dict == {
        "errors": [
            {
                "message": "The provided authorization grant is invalid, expired, or revoked",
                "field": None,
                "help": None,
            }
        ]
    }


def test_every_answer_tells_the_rate_limit(client: SendGridAPIClient) -> None:
    good = client.client.scopes.get().headers
    with pytest.raises(exceptions.TooManyRequestsError) as limited:
        client.client.scopes.get(request_headers={"x-simulator-status": "429"})
    assert (good["X-RateLimit-Limit"], good["X-RateLimit-Remaining"]) == ("600", "599")
    assert limited.value.headers["X-RateLimit-Remaining"] == "0"
    for headers in (good, limited.value.headers):
        assert 0 < int(headers["X-RateLimit-Reset"]) - time.time() <= 61


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 429, 500, 503])
def test_an_error_that_is_asked_for_raises_the_sdk_s_own_exception(client: SendGridAPIClient, status: int) -> None:
    with pytest.raises(exceptions.HTTPError) as error:
        client.client.mail.send.post(request_body=MAIL, request_headers={"x-simulator-status": str(status)})
    assert error.value.status_code == status
    (problem,) = error.value.to_dict["errors"]
    assert problem["message"]
    assert (problem["field"], problem["help"]) == (None, None)


def test_what_is_not_there_and_what_is_not_allowed(client: SendGridAPIClient) -> None:
    with pytest.raises(exceptions.NotFoundError):
        client.client.gates.get()
    with pytest.raises(exceptions.MethodNotAllowedError) as refused:
        client.client.mail.send.get()
    assert refused.value.to_dict["errors"][0]["message"] == "POST method allowed only"
    with pytest.raises(exceptions.UnsupportedMediaTypeError):
        client.client.mail.send.post(request_body="{}", request_headers={"Content-Type": "text/plain"})


def test_more_than_thirty_megabytes_are_too_many(client: SendGridAPIClient) -> None:
    with pytest.raises(exceptions.PayloadTooLargeError) as error:
        client.client.mail.send.post(request_body={**MAIL, "subject": "x" * (31 << 20)})
    assert "exceeded size limit" in error.value.to_dict["errors"][0]["message"]


def test_usage_cannot_be_dictated_where_none_is_reported(client: SendGridAPIClient) -> None:
    with pytest.raises(exceptions.BadRequestsError, match="400"):
        client.client.mail.send.post(request_body=MAIL, request_headers={"x-simulator-usage": "none"})


# Keys, subusers, scopes.


def test_a_key_is_shown_once_and_opens_the_same_account(client: SendGridAPIClient, host: str) -> None:
    made = body_of(client.client.api_keys.post(request_body={"name": "second", "scopes": ["mail.send"]}))
    assert re.fullmatch(r"SG\.[\w-]{22}\.[\w-]{43}", made["api_key"])
    second = SendGridAPIClient(made["api_key"], host=host)
    second.send(mail(personalization("a@example.com")))
    assert sent(client)["requests"] == 1
    assert body_of(second.client.scopes.get()) == {"scopes": ["mail.send"]}
    with pytest.raises(exceptions.ForbiddenError):
        second.client.stats.get(query_params={"start_date": yesterday()})
    listed = body_of(client.client.api_keys.get())["result"]
    assert [key["name"] for key in listed] == ["tenant's", "second"]
    assert made["api_key"] not in json.dumps(listed)
    one = body_of(client.client.api_keys._(made["api_key_id"]).get())
    assert one == {"result": [{"api_key_id": made["api_key_id"], "name": "second", "scopes": ["mail.send"]}]}
    assert client.client.api_keys._(made["api_key_id"]).delete().status_code == 204
    with pytest.raises(exceptions.UnauthorizedError):
        second.send(mail(personalization("a@example.com")))
    with pytest.raises(exceptions.NotFoundError):
        client.client.api_keys._(made["api_key_id"]).get()


def test_on_behalf_of_a_subuser_its_account_is_seen_but_no_mail_is_sent(
    client: SendGridAPIClient, parent: SendGridAPIClient, host: str
) -> None:
    delegate = SendGridAPIClient(KEY, host=host, impersonate_subuser="tenant")
    template = body_of(client.client.templates.post(request_body={"name": "its own"}))
    assert body_of(delegate.client.templates._(template["id"]).get()) == template
    with pytest.raises(exceptions.NotFoundError):
        parent.client.templates._(template["id"]).get()
    before = sent(parent)["requests"]
    delegate.send(mail(personalization("a@example.com")))
    assert (sent(client)["requests"], sent(parent)["requests"]) == (0, before + 1)
    assert [subuser["username"] for subuser in body_of(parent.client.subusers.get())] == ["tenant"]


def test_on_behalf_of_nobody_is_refused(client: SendGridAPIClient, host: str) -> None:
    with pytest.raises(exceptions.UnauthorizedError):
        SendGridAPIClient(KEY, host=host, impersonate_subuser="nobody").client.scopes.get()
    with pytest.raises(exceptions.ForbiddenError):
        SendGridAPIClient(client.api_key, host=host, impersonate_subuser="tenant").client.scopes.get()


# Templates.


def test_a_template_lives_from_its_making_to_its_end(client: SendGridAPIClient) -> None:
    templates = client.client.templates
    created = templates.post(request_body={"name": "receipt", "generation": "dynamic"})
    template = body_of(created)
    assert created.status_code == 201
    assert re.fullmatch(r"d-[0-9a-f]{32}", template["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", template["updated_at"])
    one = templates._(template["id"])
    assert body_of(one.patch(request_body={"name": "bill"}))["name"] == "bill"
    versions = [
        body_of(one.versions.post(request_body={"name": name, "subject": "Toll", "html_content": "<b>due</b>"}))
        for name in ("first", "second")
    ]
    assert [version["active"] for version in versions] == [1, 0]
    second = one.versions._(versions[1]["id"])
    assert body_of(second.patch(request_body={"active": 1, "subject": "Due"}))["subject"] == "Due"
    assert body_of(second.get())["active"] == 1
    assert [version["active"] for version in body_of(one.get())["versions"]] == [0, 1]
    assert body_of(one.versions._(versions[0]["id"]).activate.post())["active"] == 1
    assert second.delete().status_code == 204
    with pytest.raises(exceptions.NotFoundError):
        second.get()
    assert one.delete().status_code == 204
    with pytest.raises(exceptions.NotFoundError):
        one.get()


def test_templates_are_listed_in_pages_that_point_at_the_real_provider(client: SendGridAPIClient) -> None:
    made = [
        body_of(client.client.templates.post(request_body={"name": str(number), "generation": "dynamic"}))
        for number in range(5)
    ]
    legacy = body_of(client.client.templates.post(request_body={"name": "old"}))
    query = {"generations": "dynamic", "page_size": "2"}
    seen = []
    while True:
        page = body_of(client.client.templates.get(query_params=query))
        seen += [template["id"] for template in page["result"]]
        assert page["_metadata"]["count"] == 5
        if "next" not in page["_metadata"]:
            break
        assert page["_metadata"]["next"].startswith("https://api.sendgrid.com/v3/templates?")
        query = {name: value for name, (value,) in parse_qs(urlsplit(page["_metadata"]["next"]).query).items()}
    assert seen == [template["id"] for template in made]
    assert [template["id"] for template in body_of(client.client.templates.get())["templates"]] == [legacy["id"]]
    with pytest.raises(exceptions.BadRequestsError):
        client.client.templates.get(query_params={"page_size": "2", "page_token": "nonsense"})


def test_a_template_stands_for_subject_and_content_where_it_exists(client: SendGridAPIClient) -> None:
    template = body_of(client.client.templates.post(request_body={"name": "receipt", "generation": "dynamic"}))
    whole: Any = {"to": [{"email": "a@example.com"}], "dynamic_template_data": {"toll": [1, {"x": None}]}}
    body = {"personalizations": [whole], "from": {"email": "gate@example.com"}, "template_id": template["id"]}
    assert client.client.mail.send.post(request_body=body).status_code == 202
    with pytest.raises(exceptions.BadRequestsError) as error:
        client.client.mail.send.post(request_body={**body, "template_id": "receipt"})
    assert "template_id" in [problem["field"] for problem in error.value.to_dict["errors"]]


def test_mail_by_a_template_that_there_is_not_is_taken_on_and_dropped(client: SendGridAPIClient) -> None:
    whole: Any = {"to": [{"email": "a@example.com"}]}
    body = {"personalizations": [whole], "from": {"email": "gate@example.com"}, "template_id": f"d-{0:032x}"}
    before = sent(client)
    assert client.client.mail.send.post(request_body=body).status_code == 202
    assert sent(client) - before == {"requests": 1, "bounce_drops": 1}


# Scheduled mail.


def test_a_batch_is_paused_cancelled_and_let_go(client: SendGridAPIClient) -> None:
    batch_id = body_of(client.client.mail.batch.post())["batch_id"]
    assert body_of(client.client.mail.batch._(batch_id).get()) == {"batch_id": batch_id}
    message = mail(personalization("a@example.com"))
    message.batch_id = BatchId(batch_id)
    message.send_at = SendAt(int(time.time()) + 3600)
    assert client.send(message).status_code == 202
    scheduled = client.client.user.scheduled_sends
    assert scheduled.post(request_body={"batch_id": batch_id, "status": "pause"}).status_code == 201
    assert scheduled._(batch_id).patch(request_body={"status": "cancel"}).status_code == 204
    assert body_of(scheduled.get()) == body_of(scheduled._(batch_id).get())
    assert body_of(scheduled.get()) == [{"batch_id": batch_id, "status": "cancel"}]
    with pytest.raises(exceptions.BadRequestsError):
        scheduled.post(request_body={"batch_id": batch_id, "status": "cancel"})
    assert scheduled._(batch_id).delete().status_code == 204
    assert body_of(scheduled._(batch_id).get()) == []
    with pytest.raises(exceptions.NotFoundError):
        scheduled._(batch_id).delete()
    assert sent(client)["requests"] == 0


def test_a_batch_that_nobody_made_is_refused(client: SendGridAPIClient) -> None:
    with pytest.raises(exceptions.BadRequestsError):
        client.client.mail.batch._("none").get()
    with pytest.raises(exceptions.BadRequestsError):
        client.client.mail.send.post(request_body={**MAIL, "batch_id": "none"})


# What becomes of mail.


def yesterday() -> str:
    return (datetime.now(UTC).date() - timedelta(days=1)).isoformat()


def sent(client: SendGridAPIClient) -> Counter[str]:
    """What an account has sent, whenever midnight was."""
    days = body_of(client.client.stats.get(query_params={"start_date": yesterday()}))
    return sum((Counter(day["stats"][0]["metrics"]) for day in days), Counter[str]())


def test_the_statistics_tell_what_was_really_sent(client: SendGridAPIClient) -> None:
    client.send(mail(personalization("a@example.com", "bounce+1@example.com", cc=("Dropped@example.com",))))
    client.send(mail(personalization("click@example.com"), personalization("deferred@example.com")))
    with pytest.raises(exceptions.BadRequestsError):
        client.send(mail(personalization("nobody@nowhere")))
    assert sent(client) == {
        "requests": 5,
        "processed": 4,
        "delivered": 3,
        "bounces": 1,
        "bounce_drops": 1,
        "deferred": 1,
        "opens": 1,
        "unique_opens": 1,
        "clicks": 1,
        "unique_clicks": 1,
    }
    assert body_of(client.client.user.credits.get())["used"] == 5
    (bounce,) = body_of(client.client.suppression.bounces.get())
    assert bounce["email"] == "bounce+1@example.com"


def test_statistics_are_by_day_week_or_month_and_zero_where_nothing_was_sent(client: SendGridAPIClient) -> None:
    def dates(**query: str) -> list[str]:
        return [period["date"] for period in body_of(client.client.stats.get(query_params=query))]

    assert dates(start_date="2026-02-27", end_date="2026-03-01") == ["2026-02-27", "2026-02-28", "2026-03-01"]
    assert dates(start_date="2026-02-27", end_date="2026-03-01", aggregated_by="month") == ["2026-02-01", "2026-03-01"]
    assert dates(start_date="2026-02-27", end_date="2026-03-02", aggregated_by="week") == ["2026-02-23", "2026-03-02"]
    assert dates(start_date="2026-02-27", end_date="2026-03-02", limit="1", offset="2") == ["2026-03-01"]
    for wrong in ({}, {"start_date": "today"}, {"start_date": "2026-02-30"}, {"start_date": "9999-12-31"}):
        with pytest.raises(exceptions.BadRequestsError):
            dates(**wrong)


def test_the_activity_names_each_message_after_what_the_sender_was_told(client: SendGridAPIClient) -> None:
    message_id = client.send(mail(personalization("a@example.com", "blocked@example.com"))).headers["X-Message-Id"]
    messages = client.client.messages
    found = body_of(messages.get(query_params={"query": 'from_email="gate@example.com"'}))["messages"]
    assert [(one["to_email"], one["status"]) for one in found] == [
        ("blocked@example.com", "not_delivered"),
        ("a@example.com", "delivered"),
    ]
    assert {one["msg_id"].partition(".")[0] for one in found} == {message_id}
    query = {"query": 'to_email="a@example.com" AND status="delivered"', "limit": "5"}
    assert body_of(messages.get(query_params=query))["messages"] == found[1:]
    described = body_of(messages._(found[1]["msg_id"]).get())
    assert [one["event_name"] for one in described.pop("events")] == ["processed", "delivered"]
    only_listed = ("last_event_time", "opens_count", "clicks_count")
    said = {name: value for name, value in found[1].items() if name not in only_listed}
    assert described == {**said, "categories": []}
    with pytest.raises(exceptions.BadRequestsError):
        messages.get(query_params={"query": "bad_field=1"})


def test_a_validation_is_counted(client: SendGridAPIClient, simulated: Simulated) -> None:
    def verdict(email: str) -> str:
        answer: str = body_of(client.client.validations.email.post(request_body={"email": email}))["result"]["verdict"]
        return answer

    assert [verdict(email) for email in ("a@example.com", "bounce@example.com", "nobody")] == [
        "Valid",
        "Risky",
        "Invalid",
    ]
    assert [exchange.usage for exchange in simulated.truth()[-3:]] == [{"validations": 1}] * 3


def test_unsubscribe_groups_are_kept(client: SendGridAPIClient) -> None:
    groups = client.client.asm.groups
    made = body_of(groups.post(request_body={"name": "News", "description": "of the gate"}))
    assert body_of(groups._(made["id"]).get()) == {**made, "unsubscribes": 0}
    assert body_of(groups.get()) == [{**made, "unsubscribes": 0}]
    assert groups._(made["id"]).delete().status_code == 204
    assert body_of(groups.get()) == []


@pytest.mark.parametrize("path", ["user/profile", "user/account", "user/credits", "verified_senders", "scopes"])
def test_the_account_can_be_looked_at(client: SendGridAPIClient, path: str) -> None:
    assert body_of(client.client._(path).get())


# The event webhook.

EVENTS = dict.fromkeys(("processed", "delivered", "bounce", "dropped", "deferred", "open", "spam_report"), True)


def enable(client: SendGridAPIClient, url: str, **settings: bool) -> None:
    webhook = client.client.user.webhooks.event.settings
    changed = body_of(webhook.patch(request_body={"enabled": True, "url": url, **EVENTS, **settings}))
    assert body_of(webhook.get()) == changed


def events_of(*arrived: Arrived) -> list[dict[str, Any]]:
    return [event for one in arrived for event in json.loads(one.body)]


async def test_events_are_told_in_order_and_signed(client: SendGridAPIClient) -> None:
    def prepare(url: str) -> str:
        enable(client, url)
        signed = client.client.user.webhooks.event.settings.signed
        assert body_of(signed.get())["public_key"] == ""
        public_key: str = body_of(signed.patch(request_body={"enabled": True}))["public_key"]
        assert body_of(signed.get())["public_key"] == public_key
        return public_key

    message = mail(personalization("a@example.com", "bounce@example.com", "dropped@example.com"))
    message.add_category(Category("köprü"))
    message.add_custom_arg(CustomArg("toll", "7"))
    message.add_custom_arg(CustomArg("event", "mine"))
    async with receiver() as application:
        public_key = await asyncio.to_thread(prepare, f"{application.base_url}/events")
        response = await asyncio.to_thread(client.send, message)
        first, second = (await application.until(2))[:2]
    for arrived in (first, second):
        timestamp = arrived.headers[EventWebhookHeader.TIMESTAMP]
        signature = arrived.headers[EventWebhookHeader.SIGNATURE]
        verifier = EventWebhook(public_key)
        assert verifier.verify_signature(arrived.body.decode(), signature, timestamp)
        assert not verifier.verify_signature(arrived.body.decode().strip(), signature, timestamp)
        assert arrived.headers["Content-Type"] == "application/json"
        assert abs(int(timestamp) - time.time()) < LIVENESS_S_MAX
    told = [(event["email"].partition("@")[0], event["event"]) for event in events_of(first, second)]
    assert told == [
        ("a", "processed"),
        ("bounce", "processed"),
        ("dropped", "dropped"),
        ("a", "delivered"),
        ("bounce", "bounce"),
    ]
    for event in events_of(first, second):
        assert event["sg_message_id"].partition(".")[0] == response.headers["X-Message-Id"]
        assert (event["category"], event["toll"]) == (["köprü"], "7")
        assert event["smtp-id"].startswith("<")
    ids = [event["sg_event_id"] for event in events_of(first, second)]
    assert len(set(ids)) == len(ids)


async def test_only_the_events_that_are_wanted_are_told(client: SendGridAPIClient) -> None:
    async with receiver() as application:
        await asyncio.to_thread(enable, client, application.base_url, processed=False, delivered=False)
        await asyncio.to_thread(client.send, mail(personalization("a@example.com", "blocked@example.com")))
        (arrived,) = await application.until(1)
    ((blocked,),) = (json.loads(arrived.body),)
    assert (blocked["event"], blocked["type"]) == ("bounce", "blocked")
    assert EventWebhookHeader.SIGNATURE not in arrived.headers


async def test_a_request_can_say_what_becomes_of_its_mail(client: SendGridAPIClient) -> None:
    controls = {"x-simulator-outcome": "spamreport", "x-simulator-step-ms": "0"}
    async with receiver() as application:
        await asyncio.to_thread(enable, client, application.base_url)
        await asyncio.to_thread(client.client.mail.send.post, request_body=MAIL, request_headers=controls)
        arrived = await application.until(3)
    assert [event["event"] for event in events_of(*arrived)] == ["processed", "delivered", "spamreport"]
    for wrong in ({"x-simulator-outcome": "busy"}, {"x-simulator-seconds": "7"}):
        with pytest.raises(exceptions.BadRequestsError):
            await asyncio.to_thread(client.client.mail.send.post, request_body=MAIL, request_headers=wrong)


async def test_the_truth_log_knows_of_the_events_and_none_are_told_of_the_sandbox(
    client: SendGridAPIClient, running: tuple[RunningSimulator, Path]
) -> None:
    def send() -> str:
        sandbox = {**MAIL, "mail_settings": {"sandbox_mode": {"enable": True}}}
        client.client.mail.send.post(request_body=sandbox)
        message_id: str = client.client.mail.send.post(request_body=MAIL).headers["X-Message-Id"]
        return message_id

    async with receiver() as application:
        await asyncio.to_thread(enable, client, application.base_url)
        message_id = await asyncio.to_thread(send)
        arrived = await application.until(2)
        async with asyncio.timeout(LIVENESS_S_MAX):
            while len(logged := told_of(running[1], message_id)) < 2:  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.01)
    assert {event["sg_message_id"].partition(".")[0] for event in events_of(*arrived)} == {message_id}
    assert [(one.body.encode(), one.status) for one in logged] == [(one.body, 204) for one in arrived]


def told_of(truth_log: Path, message_id: str) -> list[Delivered]:
    return [one for one in read_deliveries(truth_log) if one.object_id == message_id]


def test_a_webhook_s_url_is_checked(client: SendGridAPIClient) -> None:
    for url in ("gate", "ftp://example.com", "http://[::1", "http://köprü/\n"):
        with pytest.raises(exceptions.BadRequestsError):
            client.client.user.webhooks.event.settings.patch(request_body={"url": url})
