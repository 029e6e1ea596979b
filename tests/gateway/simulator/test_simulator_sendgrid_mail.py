"""The rules that the simulated SendGrid holds mail to, and that nothing a client sends is too much for it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.api import Answer, Asked, Setup
from gateway.simulator.controls import NOTHING
from gateway.simulator.sendgrid import ROUTES, SendGrid
from gateway.simulator.sendgrid_asked import is_address
from gateway.simulator.sendgrid_mail import SCHEDULED_S_MAX

KEY = SendGrid.default_key
NOW = 1_800_000_000
TO = [{"email": "to@example.com"}]
MAIL: dict[str, Any] = {
    "personalizations": [{"to": TO}],
    "from": {"email": "gate@example.com"},
    "subject": "Toll",
    "content": [{"type": "text/plain", "value": "due"}],
}


def api(seed: int | None = 1) -> SendGrid:
    return SendGrid(Setup(frozenset({KEY}), random.Random(seed), lambda: NOW))


def ask(simulated: SendGrid, method: str, path: str, body: bytes, query: str = "") -> Answer:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    return simulated.answer(Asked(method, path, query, headers, body, len(body), True, NOTHING))


def send(mail: object) -> Answer:
    return ask(api(), "POST", "/v3/mail/send", json.dumps(mail).encode())


def problems(answer: Answer) -> list[tuple[str, str]]:
    """The fields that are wrong, and what is wrong with them."""
    assert answer.status >= 400
    errors = json.loads(answer.body)["errors"]
    assert errors
    assert all(set(error) == {"message", "field", "help"} for error in errors)
    return [(error["field"], error["message"]) for error in errors]


def with_personalization(**fields: object) -> dict[str, Any]:
    return {**MAIL, "personalizations": [{"to": TO, **fields}]}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in MAIL.items() if key != name}


@pytest.mark.parametrize(
    ("mail", "field", "says"),
    [
        (without("personalizations"), "personalizations", "is required"),
        ({**MAIL, "personalizations": []}, "personalizations", "at least one personalization"),
        ({**MAIL, "personalizations": "all"}, "personalizations", "Expected: array, given: string"),
        ({**MAIL, "personalizations": [{"to": TO}, 7]}, "personalizations.1", "Expected: object, given: integer"),
        ({**MAIL, "personalizations": [{"to": TO}] * 1001}, "personalizations", "You have provided 1001"),
        ({**MAIL, "personalizations": [{"to": TO}, {}]}, "personalizations.1.to", "The to array is required"),
        (with_personalization(to=[]), "personalizations.0.to", "The to array is required"),
        (with_personalization(cc=[]), "personalizations.0.cc", "The cc array"),
        (with_personalization(to=[{"email": "gate"}]), "personalizations.0.to.0.email", "valid address"),
        (with_personalization(bcc=[{"name": "x"}]), "personalizations.0.bcc.0.email", "valid address"),
        (with_personalization(bcc=["x@example.com"]), "personalizations.0.bcc.0", "Expected: object"),
        (
            with_personalization(bcc=[{"email": "TO@Example.com"}]),
            "personalizations.0",
            "duplicate instance of [TO@Example.com] in the personalizations.0.bcc field",
        ),
        (
            with_personalization(cc=[{"email": f"{n}@example.com"} for n in range(1000)]),
            "personalizations",
            "limit of 1000 total recipients",
        ),
        (with_personalization(subject=""), "personalizations.0.subject", "at least one character"),
        (with_personalization(send_at=NOW + SCHEDULED_S_MAX + 1), "personalizations.0.send_at", "72 hours"),
        (with_personalization(custom_args={"a": 1}), "personalizations.0.custom_args.a", "Expected: string"),
        (with_personalization(dynamic_template_data={}), "template_id", "required when using dynamic templates"),
        (without("from"), "from.email", "The from object must be provided"),
        ({**MAIL, "from": {"email": "gate"}}, "from.email", "The from email does not contain a valid address"),
        ({**MAIL, "from": None}, "from", "Expected: object, given: null"),
        (without("subject"), "subject", "The subject is required"),
        ({**MAIL, "subject": ["x"]}, "subject", "Expected: string, given: array"),
        (without("content"), "content", "Unless a valid template_id is provided"),
        ({**MAIL, "content": [{"type": "text/plain", "value": ""}]}, "content.0.value", "at least one character"),
        ({**MAIL, "content": [{"value": "due"}]}, "content.0.type", "at least one character"),
        ({**MAIL, "content": [{"type": "text/html", "value": "x"}, *MAIL["content"]]}, "content", "must be first"),
        ({**MAIL, "attachments": [{"content": "@", "filename": "x"}]}, "attachments.0.content", "base64"),
        ({**MAIL, "attachments": [{"content": "eA=="}]}, "attachments.0.filename", "at least one character"),
        ({**MAIL, "send_at": NOW + SCHEDULED_S_MAX + 1}, "send_at", "72 hours"),
        ({**MAIL, "send_at": "soon"}, "send_at", "Expected: integer"),
        ({**MAIL, "template_id": "receipt"}, "template_id", "must be a valid GUID, you provided 'receipt'"),
        ({**MAIL, "categories": ["x"] * 11}, "categories", "limit of 10 categories"),
        ({**MAIL, "asm": {}}, "asm.group_id", "required"),
        (
            {**MAIL, "mail_settings": {"sandbox_mode": {"enable": "true"}}},
            "mail_settings.sandbox_mode.enable",
            "Expected: boolean, given: string",
        ),
        ({**MAIL, "reply_to": {"email": "x"}}, "reply_to.email", "valid address"),
        ([], "(root)", "Expected: object, given: array"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(mail: object, field: str, says: str) -> None:
    told = problems(send(mail))
    assert told[0][0] == field
    assert says in told[0][1]


def test_everything_that_is_wrong_is_told_at_once() -> None:
    told = problems(send({"personalizations": [{"to": [{"email": "gate"}]}]}))
    assert [field for field, _ in told] == ["personalizations.0.to.0.email", "from.email", "subject", "content"]
    many = problems(send(with_personalization(to=[{"email": "gate"}] * 1001)))
    assert len(many) == 100


@pytest.mark.parametrize(
    "mail",
    [
        {**MAIL, "personalizations": [{"to": TO}] * 1000},
        with_personalization(cc=[{"email": f"{n}@example.com"} for n in range(999)]),
        {**without("subject"), "personalizations": [{"to": TO, "subject": "own"}]},
        {**without("from"), "personalizations": [{"to": TO, "from": {"email": "own@example.com"}}]},
        {**MAIL, "send_at": NOW + SCHEDULED_S_MAX},
        {**MAIL, "send_at": -(10**100)},
        {**MAIL, "attachments": [{"content": "eA\r\n==", "filename": "x"}]},
        {**MAIL, "subject": "\ud800", "custom_args": {"\udfff": "\ud83d"}},
        {**MAIL, "asm": {"group_id": 7}, "categories": ["a", "b"], "reply_to_list": TO, "headers": {"X-A": "b"}},
    ],
)
def test_what_the_api_allows_is_sent(mail: object) -> None:
    answer = send(mail)
    assert (answer.status, answer.body) == (202, b"")
    assert dict(answer.headers)["X-Message-Id"] == answer.object_id


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"\xff", b"null garbage", "{}".encode("utf-16"), b"\xef\xbb\xbf{}", b'{"a": NaN}'),
        *(b"[" * 100_000, b'{"a":' * 100_000, b'{"send_at": ' + b"9" * 5000 + b"}", b"{'a': 1}"),
    ],
)
def test_what_is_no_json_is_a_bad_request(body: bytes) -> None:
    answer = ask(api(), "POST", "/v3/mail/send", body)
    assert json.loads(answer.body) == {"errors": [{"message": "Bad Request", "field": None, "help": None}]}
    assert answer.status == 400


@pytest.mark.parametrize(
    ("email", "good"),
    [
        ("a@example.com", True),
        ("a.b+c=d@sub.example.com", True),
        ("a@köprü.example", True),
        ("a@localhost", False),
        ("köprü@example.com", False),
        ("a@@example.com", False),
        ("a@example..com", False),
        ("a b@example.com", False),
        ("a@example.com\n", False),
        ("@example.com", False),
        (7, False),
    ],
)
def test_an_address_looks_like_one(email: object, *, good: bool) -> None:
    assert is_address(email) == good


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
ADDRESS = st.fixed_dictionaries({"email": st.just("a@example.com") | JSON}, optional={"name": JSON})
PARTS = ("cc", "bcc", "from", "subject", "send_at", "custom_args", "substitutions", "headers", "dynamic_template_data")
PERSONALIZATION = st.fixed_dictionaries(
    {"to": st.lists(ADDRESS | JSON, max_size=2) | JSON}, optional=dict.fromkeys(PARTS, JSON)
)
FIELDS = (
    *(
        "from",
        "subject",
        "content",
        "attachments",
        "send_at",
        "template_id",
        "batch_id",
        "categories",
        "asm",
        "headers",
    ),
    *("custom_args", "mail_settings", "tracking_settings", "reply_to", "reply_to_list", "sections", "ip_pool_name"),
)
MAILS = st.fixed_dictionaries(
    {"personalizations": st.lists(PERSONALIZATION | JSON, max_size=2) | JSON}, optional=dict.fromkeys(FIELDS, JSON)
).map(lambda mail: {**MAIL, **mail})
OTHERS = st.dictionaries(
    st.sampled_from(
        [
            *("name", "generation", "scopes", "status", "batch_id", "email", "username", "password", "description"),
            *("ips", "subject", "active", "html_content", "enabled", "url", "processed", "source", "is_default"),
        ]
    ),
    JSON,
)


@given(mail=MAILS)
def test_no_mail_is_too_much_for_the_simulator(mail: object) -> None:
    simulated = api()
    ask(
        simulated,
        "PATCH",
        "/v3/user/webhooks/event/settings",
        b'{"enabled":true,"url":"http://localhost","processed":true}',
    )
    raw = json.dumps(mail).encode()
    answer = ask(simulated, "POST", "/v3/mail/send", raw)
    if answer.status == 400:
        problems(answer)
    else:
        assert answer.status == 202
        assert all(json.loads(delivery.body) for delivery in answer.later)
        assert ask(simulated, "GET", "/v3/messages", b"", 'query=status="delivered"').status == 200


@given(
    route=st.sampled_from(ROUTES),
    ids=st.lists(st.sampled_from(["x", "simulator", "%00", "%ff", "1e3"]), min_size=2, max_size=2),
    body=OTHERS.map(lambda fields: json.dumps(fields).encode()) | st.binary(max_size=20),
    query=st.text(st.characters(max_codepoint=255), max_size=20)
    | st.sampled_from(["start_date=0001-01-01&end_date=0001-01-02&aggregated_by=week", "limit=%D9%A3", "page_size=0"]),
)
def test_no_request_is_too_much_for_the_simulator(route: Any, ids: list[str], body: bytes, query: str) -> None:
    path = route.pattern.pattern.replace("\\", "")
    for one in ids:
        path = path.replace("([^/]+)", one, 1)
    answer = ask(api(), route.method, path, body, query)
    if answer.status >= 400:
        problems(answer)
    else:
        assert answer.status in (200, 201, 202, 204)


# What is sent later, by a clock of our own.


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def asked(simulated: SendGrid, method: str, path: str, body: object = None, query: str = "") -> Any:
    answer = ask(simulated, method, path, json.dumps(body).encode(), query)
    assert answer.status < 300
    return json.loads(answer.body or b"null")


def requests_of(simulated: SendGrid) -> int:
    periods = asked(simulated, "GET", "/v3/stats", query="start_date=2027-01-01&aggregated_by=month")
    count: int = sum(period["stats"][0]["metrics"]["requests"] for period in periods)
    return count


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def simulated(clock: Clock) -> SendGrid:
    simulated = SendGrid(Setup(frozenset({KEY}), random.Random(1), clock))
    webhook = {"enabled": True, "url": "http://localhost/events", "processed": True, "delivered": True}
    asked(simulated, "PATCH", "/v3/user/webhooks/event/settings", webhook)
    return simulated


def test_scheduled_mail_is_sent_once_its_time_has_come(simulated: SendGrid, clock: Clock) -> None:
    mail = {**MAIL, "send_at": NOW + 60, "personalizations": [{"to": TO, "send_at": NOW + 30}, {"to": TO}]}
    answer = ask(simulated, "POST", "/v3/mail/send", json.dumps(mail).encode())
    assert [delivery.after_ms for delivery in answer.later] == [30_050, 30_100, 60_050, 60_100]
    assert all(delivery.still_so() for delivery in answer.later)
    counts = []
    for clock.now in (NOW, NOW + 30, NOW + 60, NOW + 90):
        counts.append(requests_of(simulated))
    assert counts == [0, 1, 2, 2]


@pytest.mark.parametrize(("status", "later_sent"), [("cancel", 0), ("pause", 1)])
def test_a_batch_can_be_called_off_until_it_is_sent(
    simulated: SendGrid, clock: Clock, status: str, later_sent: int
) -> None:
    batch_id = asked(simulated, "POST", "/v3/mail/batch")["batch_id"]
    mail = json.dumps({**MAIL, "send_at": NOW + 60, "batch_id": batch_id}).encode()
    (processed, _) = ask(simulated, "POST", "/v3/mail/send", mail).later
    asked(simulated, "POST", "/v3/user/scheduled_sends", {"batch_id": batch_id, "status": status})
    assert not processed.still_so()
    clock.now = NOW + 90
    assert requests_of(simulated) == 0
    asked(simulated, "DELETE", f"/v3/user/scheduled_sends/{batch_id}")
    assert requests_of(simulated) == later_sent


def test_a_batch_that_was_sent_cannot_be_called_off(simulated: SendGrid, clock: Clock) -> None:
    batch_id = asked(simulated, "POST", "/v3/mail/batch")["batch_id"]
    asked(simulated, "POST", "/v3/mail/send", {**MAIL, "send_at": NOW + 60, "batch_id": batch_id})
    clock.now = NOW + 61
    asked(simulated, "POST", "/v3/user/scheduled_sends", {"batch_id": batch_id, "status": "cancel"})
    assert requests_of(simulated) == 1


@pytest.mark.parametrize("depth", range(100, 1200, 50))
def test_no_nesting_is_too_deep_to_be_answered(depth: int) -> None:
    data = b'{"a":' * depth + b"1" + b"}" * depth
    body = b'{"personalizations":[{"to":[{"email":"a@b.c"}],"dynamic_template_data":%b}]}' % data
    problems(ask(api(), "POST", "/v3/mail/send", body))


def test_ids_are_the_same_for_the_same_seed_and_no_other() -> None:
    def ids(seed: int | None) -> set[str | None]:
        simulated = api(seed)
        return {ask(simulated, "POST", "/v3/mail/send", json.dumps(MAIL).encode()).object_id for _ in range(10)}

    assert ids(7) == ids(7)
    assert len(ids(None) | ids(None)) == 20


def test_what_is_kept_is_bounded() -> None:
    simulated = api()
    for number in range(400):
        body = json.dumps({"name": str(number)}).encode()
        answers = [ask(simulated, "POST", path, body).status for path in ("/v3/templates", "/v3/api_keys")]
    assert answers == [400, 403]
