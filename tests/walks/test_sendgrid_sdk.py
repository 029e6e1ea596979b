"""The official SendGrid SDK through the gateway: what it returns is what it returns directly, and recipients are counted."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from python_http_client.exceptions import HTTPError, NotFoundError
from sendgrid import SendGridAPIClient
from sendgrid.helpers.mail import (
    Attachment,
    BatchId,
    Bcc,
    Category,
    Cc,
    CustomArg,
    DynamicTemplateData,
    Header,
    Mail,
    MailSettings,
    Personalization,
    ReplyTo,
    SandBoxMode,
    To,
)

from gateway.simulator.truth import Exchange
from tests.walks.harness import ON_BOTH, eventually
from tests.walks.sides import (
    Answered,
    Side,
    alike_headers,
    directly_to_sendgrid,
    plain,
    through_to_sendgrid,
)

pytestmark = ON_BOTH

TOLL = "toll@example.com"
SECRET = "Your code is 774411"
LOOKS_LIKE_A_MAIL = '{"personalizations":[{"to":[{"email":"nobody@example.com"}]}]} \\" \\\\ 👋 \u2028'
"""A text that would count if texts were looked into."""


class Account:
    """A client as an application makes it, and what it gets."""

    def __init__(self, side: Side, booked: Callable[[str], Any] = lambda made: None, **headers: str) -> None:
        """`booked` returns once whoever else answers for the gateway can know of an object that was made."""
        self.sdk = SendGridAPIClient(side.key, host=side.base_url)
        self.sdk.client.request_headers.update(headers)
        self.answers: list[Answered] = []
        self._booked = booked

    @property
    def api(self) -> Any:
        return self.sdk.client

    def did(self, response: Any, made: str | None = None) -> Any:
        """Remember an answer; return what is in it, of which a field names what was made."""
        self.answers.append(Answered(response.status_code, response.headers.items(), response.body))
        found = json.loads(response.body) if response.body else None
        if made is not None:
            self._booked(found[made])
        return found

    def send(self, mail: Mail) -> None:
        self.did(self.sdk.send(mail))


def letter(*to: str, **fields: Any) -> Mail:
    return Mail(from_email=TOLL, to_emails=list(to), subject="Toll due", plain_text_content=SECRET, **fields)


def a_mail(account: Account) -> None:
    account.send(letter("ada@example.com"))


def a_mail_in_many_scripts(account: Account) -> None:
    account.send(
        Mail(
            from_email=(TOLL, "Zöllner 👋"),
            to_emails=[("ada@example.com", "Ada Ünal"), "bob+tag@xn--kln-sna.example"],
            subject="Grüße aus Köln — おはよう",
            plain_text_content=LOOKS_LIKE_A_MAIL,
            html_content=f"<p>{LOOKS_LIKE_A_MAIL}</p>",
        )
    )


def a_mail_to_each_by_itself(account: Account) -> None:
    account.send(letter(*(f"reader-{n}@example.com" for n in range(40)), is_multiple=True))


def a_mail_with_everything(account: Account) -> None:
    mail = Mail(from_email=TOLL, subject="Toll due", plain_text_content=SECRET, html_content=f"<b>{SECRET}</b>")
    for number in range(3):
        part = Personalization()
        part.add_to(To(f"to-{number}@example.com", "To"))
        for copy in range(number):
            part.add_cc(Cc(f"cc-{number}-{copy}@example.com"))
            part.add_bcc(Bcc(f"bcc-{number}-{copy}@example.com"))
        part.add_custom_arg(CustomArg("to", LOOKS_LIKE_A_MAIL))
        part.add_header(Header("X-Walk", "mail"))
        part.subject = f"Toll {number}"
        mail.add_personalization(part)
    for number in range(2):
        content = base64.b64encode(random.Random(number).randbytes(100_000)).decode()
        mail.add_attachment(Attachment(content, f"bill-{number}.pdf", "application/pdf", "attachment", f"bill{number}"))
    mail.reply_to = ReplyTo("reply@example.com", "Reply")
    mail.add_category(Category("tolls"))
    mail.add_custom_arg(CustomArg("cc", LOOKS_LIKE_A_MAIL))
    account.send(mail)


def a_mail_to_one_address_twice(account: Account) -> None:
    mail = letter("ada@example.com")
    mail.add_cc("Ada@example.com")
    account.send(mail)


def a_mail_that_is_only_tried_out(account: Account) -> None:
    mail = letter("ada@example.com", "bob@example.com")
    mail.mail_settings = MailSettings(sandbox_mode=SandBoxMode(True))
    account.send(mail)


def a_template_that_is_made_used_changed_and_deleted(account: Account) -> None:
    templates = account.api.templates
    template_id = account.did(templates.post({"name": "Bill", "generation": "dynamic"}), made="id")["id"]
    template = templates._(template_id)
    version = {"name": "First", "subject": "Toll {{n}}", "html_content": "<p>{{n}}</p>", "active": 1}
    version_id = account.did(template.versions.post(version))["id"]
    account.did(template.get())
    account.did(template.patch({"name": "Invoice"}))
    account.did(template.versions._(version_id).patch({"subject": "Toll: {{n}}"}))
    account.did(template.versions._(version_id).activate.post())
    account.did(template.versions._(version_id).get())
    mail = Mail(from_email=TOLL, to_emails=["ada@example.com", "bob@example.com"])
    mail.template_id = template_id
    mail.dynamic_template_data = DynamicTemplateData({"n": 7, "to": [{"email": "nobody@example.com"}]})
    account.send(mail)
    account.did(template.versions._(version_id).delete())
    account.did(template.delete())
    account.did(template.get())


def a_batch_that_is_scheduled_paused_and_cancelled(account: Account) -> None:
    batch_id = account.did(account.api.mail.batch.post(), made="batch_id")["batch_id"]
    account.did(account.api.mail.batch._(batch_id).get())
    for number in range(2):
        mail = letter(f"ada-{number}@example.com", f"bob-{number}@example.com")
        mail.batch_id = BatchId(batch_id)
        account.send(mail)
    scheduled = account.api.user.scheduled_sends
    account.did(scheduled.post({"batch_id": batch_id, "status": "pause"}))
    account.did(scheduled._(batch_id).get())
    account.did(scheduled._(batch_id).patch({"status": "cancel"}))
    account.did(scheduled._(batch_id).delete())
    account.did(scheduled._(batch_id).delete())


def addresses_that_are_validated(account: Account) -> None:
    for email in ("ada@example.com", "bounce@example.com", "nowhere"):
        account.did(account.api.validations.email.post({"email": email, "source": "signup"}))


def refused_by_the_provider(status: int) -> Callable[[Account], None]:
    def walk(account: Account) -> None:
        account.api.request_headers["x-simulator-status"] = str(status)
        account.send(letter("ada@example.com"))

    return walk


WALKS: dict[str, Callable[[Account], None]] = {
    "a mail": a_mail,
    "a mail in many scripts": a_mail_in_many_scripts,
    "a mail to each by itself": a_mail_to_each_by_itself,
    "a mail with everything": a_mail_with_everything,
    "a mail that is only tried out": a_mail_that_is_only_tried_out,
    "a template": a_template_that_is_made_used_changed_and_deleted,
    "a batch": a_batch_that_is_scheduled_paused_and_cancelled,
    "addresses": addresses_that_are_validated,
    "to nobody": lambda account: account.send(Mail(TOLL, [], "Toll due", SECRET)),
    "to no address": lambda account: account.send(letter("ada@nowhere")),
    "to one address twice": a_mail_to_one_address_twice,
    "to too many": lambda account: account.send(letter(*(f"reader-{n}@example.com" for n in range(1001)))),
    "of nothing": lambda account: account.send(Mail(TOLL, "ada@example.com", "Toll due")),
    "no mail": lambda account: account.did(account.api.mail.send.post([])),
    "too many requests": refused_by_the_provider(429),
    "provider failing": refused_by_the_provider(500),
    "provider overloaded": refused_by_the_provider(503),
    "too large for the provider": refused_by_the_provider(413),
    "provider forbidding": refused_by_the_provider(403),
}
SENT = {
    "a mail": [1],
    "a mail in many scripts": [2],
    "a mail to each by itself": [40],
    "a mail with everything": [3 + 3 + 3],
    "a template": [2],
    "a batch": [2, 2],
}
"""To how many each mail goes that is sent, as whoever wrote these mails counts them."""


def walked(account: Account, name: str) -> tuple[str | None, list[Answered]]:
    """What a client was raised, and what came over the wire to it."""
    try:
        WALKS[name](account)
    except HTTPError as error:
        account.answers.append(Answered(error.status_code, list(error.headers.items()), error.body))
        return f"{type(error).__name__} {error.reason}", account.answers
    return None, account.answers


@pytest.fixture(scope="module")
def sides(gateway):
    return directly_to_sendgrid(gateway), through_to_sendgrid(gateway, gateway.tenant("walk", plan="starter"))


@pytest.fixture(scope="module")
def more(gateway):
    """The same for another tenant, whose calls are not among the walks."""
    return directly_to_sendgrid(gateway), through_to_sendgrid(gateway, gateway.tenant("more"))


@pytest.fixture(scope="module")
def walks(gateway, sides):
    """Each of the calls, made directly and through the gateway, by nobody else but these."""

    def booked(made: str) -> None:
        eventually(lambda: made in {event["external_id"] for event in gateway.events("walk")}, "the object's event")

    direct, through = sides
    return {
        name: (
            walked(Account(direct, **{"x-walk": name}), name),
            walked(Account(through, booked, **{"x-walk": name}), name),
        )
        for name in WALKS
    }


@pytest.fixture(scope="module")
def events(gateway, walks):
    """The events of the walks, by the id that the client was told."""
    done = sum(answer.status < 300 for _, (_, answers) in walks.values() for answer in answers)
    return {event["call_id"]: event for event in gateway.events_of("walk", done)}


def exchanges(gateway: Any, name: str) -> list[tuple[Exchange, Exchange]]:
    """What the provider saw of a walk, made directly and through the gateway."""
    seen = [exchange for exchange in gateway.truth() if exchange.header("x-walk") == name]
    return list(zip(seen[: len(seen) // 2], seen[len(seen) // 2 :], strict=True))


def content(body: bytes) -> Any:
    return plain(json.loads(body)) if body else body


@pytest.mark.parametrize("name", WALKS)
def test_the_sdk_returns_and_raises_through_the_gateway_what_it_does_directly(walks, name):
    (expected, direct), (found, through) = walks[name]

    assert found == expected
    assert [(answer.status, content(answer.body)) for answer in through] == [
        (answer.status, content(answer.body)) for answer in direct
    ]
    assert [alike_headers(answer.headers) for answer in through] == [alike_headers(answer.headers) for answer in direct]


@pytest.mark.parametrize("name", WALKS)
def test_the_provider_receives_what_it_receives_directly_byte_for_byte(gateway, walks, name):
    connections = {"host", "connection", "content-length"}
    assert exchanges(gateway, name)
    for direct, through in exchanges(gateway, name):
        headers = [
            {(field.lower(), value) for field, value in exchange.headers if field.lower() not in connections}
            for exchange in (direct, through)
        ]
        assert headers[1] == headers[0]
        assert through.credential == direct.credential
        if name in ("a template", "a batch"):
            assert through.method == direct.method
            assert through.body_bytes == direct.body_bytes
        else:
            assert (through.method, through.target, through.body) == (direct.method, direct.target, direct.body)


@pytest.mark.parametrize("name", SENT)
def test_a_mail_is_one_event_to_as_many_as_it_goes_to(gateway, walks, events, name):
    _, answers = walks[name][1]
    sent = [answer for answer in answers if answer.status == 202]

    found = [events[answer.header("x-tollkeeper-call-id")] for answer in sent]

    assert [event["quantities"] for event in found] == [{"recipients": count} for count in SENT[name]]
    for answer, event in zip(sent, found, strict=True):
        expected = {
            "tenant_id": "walk",
            "source": "sendgrid",
            "event_type": "email_outbound",
            "endpoint": "mail.send",
            "channel": "email",
            "direction": "outbound",
            "resource": "transactional",
            "external_id": answer.header("x-message-id"),
            "units": event["quantities"]["recipients"],
            "completeness": "reported",
            "priced": True,
            "status": 202,
            "description": "transactional mail",
        }
        assert {field: event[field] for field in expected} == expected
        assert set(event["metadata"]) == {"from"}


def test_the_ledger_has_as_many_recipients_as_the_provider(gateway, walks, events):
    accepted = {
        through.object_id: through.usage["recipients"]
        for name in WALKS
        for _, through in exchanges(gateway, name)
        if through.target == "/sendgrid/v3/mail/send" and through.status == 202
    }

    found = {
        event["external_id"]: event["quantities"]["recipients"]
        for event in events.values()
        if event["event_type"] == "email_outbound"
    }

    assert len(accepted) == sum(map(len, SENT.values()))
    assert found == accepted


def test_a_mail_that_is_only_tried_out_is_an_event_that_costs_nothing(walks, events):
    _, (answer,) = walks["a mail that is only tried out"][1]

    event = events[answer.header("x-tollkeeper-call-id")]

    assert answer.status == 200
    assert (event["event_type"], event["quantities"]) == ("api_call", {})
    assert event["metadata"]["sandbox"] is True


def test_templates_and_batches_are_calls_that_cost_nothing(walks, events):
    for name, endpoints in (
        (
            "a template",
            [
                *("templates.create", "templates.versions.create", "templates.get", "templates.update"),
                *("templates.versions.update", "templates.versions.activate", "templates.versions.get"),
                *("templates.versions.delete", "templates.delete"),
            ],
        ),
        (
            "a batch",
            [
                *("mail.batch.create", "mail.batch.get", "scheduled_sends.create", "scheduled_sends.get"),
                *("scheduled_sends.update", "scheduled_sends.delete"),
            ],
        ),
    ):
        _, answers = walks[name][1]
        found = [
            events[answer.header("x-tollkeeper-call-id")] for answer in answers if answer.status in (200, 201, 204)
        ]

        assert [event["endpoint"] for event in found] == endpoints
        assert {(event["event_type"], event["units"], event["completeness"]) for event in found} == {
            ("api_call", None, "reported")
        }


def test_each_address_that_is_validated_is_an_event(walks, events):
    _, answers = walks["addresses"][1]

    found = [events[answer.header("x-tollkeeper-call-id")] for answer in answers]

    assert [(event["event_type"], event["quantities"], event["completeness"]) for event in found] == [
        ("email_validation", {"requests": 1}, "reported")
    ] * 3


@pytest.mark.parametrize("cancelled", [True, False])
def test_mail_that_is_sent_later_is_billed_when_it_is_sent(gateway, more, cancelled):
    """Guards money: a batch that is cancelled before its time costs nothing, though each of its mails was taken on."""
    tenant_id = f"later-{cancelled}".lower()
    account = Account(through_to_sendgrid(gateway, gateway.tenant(tenant_id)))
    batch_id = account.did(account.api.mail.batch.post())["batch_id"]
    eventually(lambda: gateway.events(tenant_id), "the batch's event")
    for number in range(2):
        mail = letter(f"ada-{number}@example.com", "bob@example.com")
        mail.send_at = int(time.time()) + 4
        mail.batch_id = BatchId(batch_id)
        account.send(mail)
    if cancelled:
        account.did(account.api.user.scheduled_sends.post({"batch_id": batch_id, "status": "cancel"}))

    def mails(kind: str) -> Any:
        found = [event for event in gateway.events(tenant_id) if event["event_type"] == "email_outbound"]
        return [event for event in found if event["kind"] == kind]

    made = eventually(lambda: mails("usage")[1:] and mails("usage"), "two mails")
    assert [(event["quantities"], event["completeness"]) for event in made] == [({"recipients": 2}, "pending")] * 2
    assert {event["metadata"]["batch_id"] for event in made} == {batch_id}
    settled = eventually(lambda: mails("correction")[1:] and mails("correction"), "what became of them")
    assert [event["quantities"]["recipients"] for event in settled] == [-2 if cancelled else 0] * 2
    assert {event["metadata"]["status"] for event in settled} == {"cancelled" if cancelled else "sent"}


def test_no_address_and_no_word_of_a_mail_is_in_an_event_a_log_line_or_a_spool_file(gateway, walks, events):
    kept = {
        "events": json.dumps(list(events.values()), ensure_ascii=False).encode(),
        "log": "".join(gateway.gateway.lines).encode(),
    }
    kept |= {str(path): path.read_bytes() for path in gateway.data_dir.rglob("*") if path.is_file()}

    call_id = next(iter(events)).encode()
    assert call_id in kept["events"]
    assert call_id in kept["log"]
    assert any(name.endswith(".spool") for name in kept)
    for where, text in kept.items():
        for word in ("@example.com", "Toll due", SECRET, "Zöllner"):
            assert word.encode() not in text, where


def test_neither_credential_ever_gets_to_the_other_side(gateway, walks, sides):
    direct, through = sides

    got = "".join(f"{answer.headers} {answer.body!r}" for _, (_, answers) in walks.values() for answer in answers)
    seen = [f"{exchange.target} {exchange.headers}".encode() + exchange.body for exchange in gateway.truth()]

    assert direct.key not in got
    assert not [exchange for exchange in seen if through.key.removeprefix("SG.").encode() in exchange]


# -- accounts


def test_on_the_shared_account_what_is_everybodys_is_refused_as_sendgrid_refuses(gateway, more):
    before = len(gateway.truth())
    account = Account(more[1])
    behalf = Account(more[1], **{"On-Behalf-Of": "subuser"})

    for attempt in (
        account.api.templates.get,
        account.api.user.scheduled_sends.get,
        account.api.api_keys.get,
        lambda: account.api.api_keys.post({"name": "Mine"}),
        lambda: account.api.stats.get(query_params={"start_date": "2026-11-01"}),
        account.api.subusers.get,
        account.api.suppression.bounces.get,
        account.api.user.webhooks.event.settings.get,
        lambda: a_mail(behalf),
    ):
        with pytest.raises(HTTPError) as refused:
            attempt()

        assert refused.value.status_code == 403
        assert type(refused.value).__name__ == "ForbiddenError"
        assert "shared" in refused.value.to_dict["errors"][0]["message"]
        assert refused.value.headers["x-tollkeeper-error"] == "not_on_shared_account"
    assert len(gateway.truth()) == before


def test_what_another_tenant_made_looks_as_if_it_never_was(gateway, more):
    direct, through = more
    made = Account(through)
    template_id = made.did(made.api.templates.post({"name": "Mine", "generation": "dynamic"}))["id"]
    other = Account(through_to_sendgrid(gateway, gateway.tenant("curious")))
    nobody = Account(direct).api.templates._(f"d-{'0' * 32}")
    before = len(gateway.truth())

    for attempt, same in (
        (other.api.templates._(template_id).get, nobody.get),
        (other.api.templates._(template_id).delete, nobody.delete),
    ):
        with pytest.raises(NotFoundError) as hidden:
            attempt()
        assert len(gateway.truth()) == before
        with pytest.raises(NotFoundError) as missing:
            same()
        before = len(gateway.truth())
        assert hidden.value.body == missing.value.body
    mail = letter("ada@example.com")
    mail.template_id = template_id
    with pytest.raises(NotFoundError):
        other.send(mail)
    assert len(gateway.truth()) == before


def test_a_tenant_with_an_account_of_its_own_has_all_of_it_as_directly(gateway):
    platform = directly_to_sendgrid(gateway)
    Account(platform).api.subusers.post(
        {"username": "own", "email": "own@example.com", "password": "p4ssw0rd", "ips": []}
    )
    owner = Account(platform, **{"On-Behalf-Of": "own"})
    secret = owner.did(owner.api.api_keys.post({"name": "Own"}))["api_key"]
    gateway.tenant("own")
    gateway.ask("POST", "/v1/tenants/own/credentials", {"provider": "sendgrid", "api_key": secret})
    through = through_to_sendgrid(gateway, gateway.key("own"))
    own = Account(through)
    own.did(own.api.templates.post({"name": "Mine", "generation": "dynamic"}))
    for number in range(3):
        own.send(letter(f"ada-{number}@example.com"))

    both = []
    for side in (platform._replace(key=secret), through):
        account = Account(side)
        account.did(account.api.templates.get(query_params={"generations": "legacy,dynamic", "page_size": 1}))
        account.did(account.api.api_keys.get())
        account.did(account.api.scopes.get())
        account.did(account.api.messages.get(query_params={"query": f'from_email="{TOLL}"', "limit": 2}))
        account.did(account.api.asm.groups.post({"name": "News", "description": "All of it"}))
        account.did(account.api.user.credits.get())
        both.append([(answer.status, content(answer.body)) for answer in account.answers])

    assert both[1] == both[0]
    assert len(both[1]) == 6
    assert len(both[1][3][1]["messages"]) == 2
    events = eventually(
        lambda: (e := [e for e in gateway.events("own") if e["event_type"] == "email_outbound"])[2:] and e,
        "three mails",
    )
    assert [event["quantities"] for event in events] == [{"recipients": 1}] * 3


def test_a_tenant_speaks_for_the_subuser_of_its_integration_and_for_no_other(gateway):
    """Mail is the parent's all the same: SendGrid's own rule."""
    platform = directly_to_sendgrid(gateway)
    for name in ("anna", "ella"):
        account = Account(platform)
        account.api.subusers.post({"username": name, "email": "x@example.com", "password": "p4ssw0rd", "ips": []})
    key = gateway.tenant("speaking")
    gateway.ask("PATCH", "/v1/tenants/speaking/integrations", {"on_behalf_of": ["anna"]})
    through = through_to_sendgrid(gateway, key)
    directly, speaking = (Account(side, **{"On-Behalf-Of": "anna"}) for side in (platform, through))

    def made() -> Any:
        try:
            return speaking.did(speaking.api.templates.post({"name": "Hers", "generation": "dynamic"}))["id"]
        except HTTPError:
            return None  # The integration is in force within a second.

    template_id = eventually(made, "a template of anna's")
    eventually(lambda: gateway.events("speaking"), "the template's event")
    assert speaking.did(speaking.api.templates._(template_id).get()) == directly.did(
        directly.api.templates._(template_id).get()
    )
    a_mail(speaking)
    with pytest.raises(NotFoundError):
        Account(through).api.templates._(template_id).get()
    for other in ("ella", "anna,ella", ""):
        with pytest.raises(HTTPError) as refused:
            Account(through, **{"On-Behalf-Of": other}).api.templates._(template_id).get()
        assert refused.value.status_code == 403
        assert "`on_behalf_of`" in refused.value.to_dict["errors"][0]["message"]
    with pytest.raises(HTTPError) as refused:
        speaking.api.api_keys.get()
    assert refused.value.status_code == 403
