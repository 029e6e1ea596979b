"""What providers tell by themselves: who is believed, what is recorded, what is passed on, and what is answered."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit
from xml.etree import ElementTree as ET

import msgspec
import pytest
from multidict import CIMultiDict
from twilio.request_validator import RequestValidator

from gateway.acceptor import bound
from gateway.callback_addresses import CallbackAddresses
from gateway.counters import Counters
from gateway.doubts import Doubts
from gateway.egress import Answer, Forbidden, TooSlow
from gateway.inbox import InboxFull, Kept
from gateway.integrations import Integration, SubaccountSecret
from gateway.listener import Listener
from gateway.providers import PROVIDERS, twilio
from gateway.providers.api import Carried
from gateway.providers.twilio import redirects
from gateway.recorder import Recorder
from gateway.webhooks import DOCUMENT_BYTES_MAX, Webhooks
from metering.spool import Spool
from tests.gateway.peers import client
from tests.gateway.proxied import (
    OWN_SID,
    REAL_SID,
    REAL_TOKEN,
    SECRETS,
    UNHURRIED,
    Proxied,
    Remembered,
    WatchedSpool,
    hashed,
    sid_of,
    snapshot_in,
)

PUBLIC_URL = "https://tolls.example"
SIGNING = "the-signing-secret-of-acme"
TOLL, ADA = "+18005550199", "+12025550143"
MESSAGE, CALL = "SM" + "2" * 32, "CA" + "3" * 32
INBOUND = {"MessageSid": MESSAGE, "AccountSid": REAL_SID, "From": ADA, "To": TOLL, "Body": "Hello", "NumSegments": "1"}
RINGING = {
    "CallSid": CALL,
    "AccountSid": REAL_SID,
    "Direction": "inbound",
    "CallStatus": "ringing",
    "From": ADA,
    "To": TOLL,
}
DELIVERED = {"MessageSid": MESSAGE, "AccountSid": REAL_SID, "MessageStatus": "delivered", "From": TOLL, "To": ADA}
SMS, VOICE, STATUS = (f"/webhooks/twilio/acme/{name}" for name in ("sms", "voice", "status"))
TWIML = b'<Response><Gather action="/menu"/></Response>'
INTEGRATION = Integration(
    sms_url="https://app.example/sms",
    voice_url="https://app.example/voice",
    voice_fallback_url="https://fallback.example/voice",
    status_url="https://app.example/status",
    phone_numbers=(TOLL,),
)


class Box(list):
    """An inbox that a test can look into, and that can refuse."""

    refuses = False

    async def put(self, undelivered: Kept) -> str:
        if self.refuses:
            raise InboxFull("refused by the test")
        self.append(undelivered)
        return ""


@dataclass
class Applications:
    """What stands in for the way to applications: what each URL answers, and what was asked."""

    answers: dict[str, object] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str], bytes, float]] = field(default_factory=list)

    async def send(self, url, method, headers, body, timeout_s):
        self.asked.append((url, method, dict(headers), body, timeout_s))
        answer = self.answers.get(url.partition("?")[0], Forbidden("no such application"))
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class Running:
    """What a test has in hand."""

    proxied: Proxied
    kept: Box
    applications: Applications
    objects: Remembered
    addresses: CallbackAddresses
    counters: Counters
    webhooks: Webhooks | None = None
    port: int = 0

    @property
    def events(self):
        return self.proxied.events

    async def ask(self, target, fields=(), *, method="POST", signature=None, token=REAL_TOKEN, at=None, **headers):
        """Send as Twilio does, signed over the public URL."""
        body = b"" if method == "GET" else urlencode(fields).encode()
        if method == "GET" and fields:
            target += ("&" if "?" in target else "?") + urlencode(fields)
        if signature is None:
            params = {} if method == "GET" else dict(fields)
            signature = RequestValidator(token).compute_signature((at or PUBLIC_URL) + target, params)
        lines = [f"{method} {target} HTTP/1.1", "Host: internal.example", f"X-Twilio-Signature: {signature}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if method != "GET":
            lines += [f"Content-Length: {len(body)}"]
            if "Content_Type" not in headers:
                lines += ["Content-Type: application/x-www-form-urlencoded"]
        async with client(self.port) as peer:
            peer.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            return await peer.message()

    def carrying(self, url, tenant_id="acme", name="voice", method="", *, begins=False, heard=False):
        """The target of our webhook, carrying an application's URL."""
        tenant = self.proxied.published.current.tenants[tenant_id]
        bind = self.addresses.of(twilio.PROVIDER, tenant).bound
        return (
            f"/webhooks/twilio/{tenant_id}/{name}?to={quote(bind(Carried(url, method, begins, heard=heard)), safe='')}"
        )


def carried(url):
    """The application's URL that one of ours carries."""
    return CallbackAddresses(PUBLIC_URL, SECRETS).opened(parse_qs(urlsplit(url).query)["to"][0], "acme").url


@asynccontextmanager
async def listening(directory, *, public_url=PUBLIC_URL, shared_reads=False, credentials=True, integration=INTEGRATION):
    proxied = Proxied(None, directory / "spool")
    spool = Spool(proxied.directory, "test", fsync=False, segment_bytes=1 << 20)
    spool.open()
    proxied.spool = WatchedSpool(spool, proxied.order)
    proxied.published = snapshot_in(directory)
    for tenant_id in ("acme", "own"):
        sealed = SECRETS.seal({"current": SIGNING}, owner=tenant_id)
        tenant = proxied.published.current.tenants[tenant_id]
        proxied.publish(msgspec.structs.replace(tenant, integration=integration, signing=sealed))
    counters, objects = Counters(), Remembered()
    running = Running(proxied, Box(), Applications(), objects, CallbackAddresses(PUBLIC_URL, SECRETS), counters)
    webhooks = Webhooks(
        PROVIDERS,
        proxied.published,
        None if public_url is None else CallbackAddresses(public_url, SECRETS),
        {"twilio": {"account_sid": REAL_SID, "auth_token": REAL_TOKEN}} if credentials else {},
        SECRETS,
        objects,
        Recorder(proxied.spool, objects, lambda: 1_800_000_000_000, hashed, counters),
        running.kept,
        running.applications,
        counters,
        Doubts(directory / "doubts"),
        shared_reads=shared_reads,
    )
    running.webhooks = webhooks
    listener = Listener(webhooks, UNHURRIED)
    socket = bound("127.0.0.1", 0)
    running.port = socket.getsockname()[1]
    await listener.open(socket, None)
    try:
        yield running
    finally:
        await listener.close(0)
        spool.close()


@pytest.fixture
async def running(tmp_path):
    async with listening(tmp_path) as found:
        yield found


class Now:
    """The time, which goes on when the test says so."""

    perf_counter, time, time_ns = (staticmethod(one) for one in (time.perf_counter, time.time, time.time_ns))

    def __init__(self):
        self.later_s = 0.0

    def monotonic(self):
        return 1000 + self.later_s


async def until(true):
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - whoever looks from outside can only look again
            await asyncio.sleep(0.01)


def answered(body=TWIML, status=200, media_type="text/xml; charset=utf-8", *, whole=True, **headers):
    return Answer(status, CIMultiDict({"Content-Type": media_type, **headers}), body, whole)


# ---------------------------------------------------------------------------------------------------------------------
# Messages


async def test_a_message_that_comes_in_is_recorded_then_kept_then_answered(running):
    answer = await running.ask(SMS, INBOUND, I_Twilio_Idempotency_Token="token-1")

    assert (answer.status, answer.body) == (200, b"<Response/>")
    (event,) = running.events
    assert (event.tenant_id, event.source, event.event_type) == ("acme", "twilio", "sms_inbound")
    assert (event.quantities, event.completeness) == ({"messages": 1, "segments": 1}, "pending")
    assert (event.external_id, event.dedupe_key) == (MESSAGE, f"twilio:{MESSAGE}:made")
    assert (event.resource, event.direction, event.endpoint) == ("US:toll_free", "inbound", "messages.create")
    assert event.metadata["from"] == hashed(ADA)
    (kept,) = running.kept
    assert (kept.tenant_id, kept.source, kept.webhook, kept.order_key) == ("acme", "twilio", "sms", MESSAGE)
    assert kept.url is None  # The integration says it when it is delivered.
    assert kept.headers == (("I-Twilio-Idempotency-Token", "token-1"),)


async def test_the_application_sees_its_own_account_and_everything_else_as_it_came(running):
    await running.ask(SMS, INBOUND)

    (kept,) = running.kept
    assert dict(parse_qsl(kept.body.decode())) == INBOUND | {"AccountSid": sid_of("acme")}


async def test_a_message_for_a_tenant_without_a_url_is_recorded_all_the_same(tmp_path):
    async with listening(tmp_path, integration=Integration(phone_numbers=(TOLL,))) as running:
        answer = await running.ask(SMS, INBOUND)

        assert answer.status == 200
        assert len(running.events) == 1
        assert running.kept == []


async def test_what_can_not_be_recorded_is_not_taken(running):
    running.proxied.spool.refusing.add("note")

    answer = await running.ask(SMS, INBOUND)

    assert answer.status == 503
    assert running.kept == []


async def test_what_can_not_be_kept_is_not_taken(running):
    running.kept.refuses = True

    assert (await running.ask(SMS, INBOUND)).status == 503


async def test_it_is_known_to_be_the_tenants_from_then_on(running):
    await running.ask(SMS, INBOUND)

    assert await running.objects.owns("acme", "twilio", MESSAGE)


# ---------------------------------------------------------------------------------------------------------------------
# Who is believed


@pytest.mark.parametrize(
    "how",
    [
        {"signature": ""},
        {"signature": "AAAAAAAAAAAAAAAAAAAAAAAAAAA="},
        {"token": "its-token"},
        {"token": SIGNING},
        {"at": "http://tolls.example"},
        {"at": "https://internal.example", "X_Forwarded_Host": "internal.example"},
        {"at": "https://other.example", "X_Forwarded_Host": "other.example"},
    ],
    ids=str,
)
async def test_a_forged_delivery_has_no_effect(running, how):
    answer = await running.ask(SMS, INBOUND, **how)

    assert answer.status == 403
    assert running.events == []
    assert running.kept == []


async def test_an_altered_delivery_has_no_effect(running):
    signature = RequestValidator(REAL_TOKEN).compute_signature(PUBLIC_URL + SMS, INBOUND)

    for fields in (INBOUND | {"NumSegments": "9"}, INBOUND | {"More": "1"}, {k: INBOUND[k] for k in list(INBOUND)[1:]}):
        assert (await running.ask(SMS, fields, signature=signature)).status == 403
    assert (await running.ask(SMS + "?x=1", INBOUND, signature=signature)).status == 403
    assert (await running.ask("/webhooks/twilio/other/sms", INBOUND, signature=signature)).status == 403
    assert running.events == []


async def test_a_tenant_with_an_account_of_its_own_is_told_under_its_token(running):
    fields = INBOUND | {"AccountSid": OWN_SID, "To": ADA}

    assert (await running.ask("/webhooks/twilio/own/sms", fields)).status == 403
    assert (await running.ask("/webhooks/twilio/own/sms", fields, token="its-token")).status == 200
    assert [event.tenant_id for event in running.events] == ["own"]


BELOW, TOKEN_BELOW = "AC" + "7" * 32, "the-token-of-an-account-below"


def below(tenant_id="acme", account=BELOW):
    sealed = SECRETS.seal({account: TOKEN_BELOW}, owner=tenant_id)
    return msgspec.structs.replace(
        INTEGRATION, twilio_subaccount=BELOW, subaccount_secret=SubaccountSecret(account, sealed)
    )


async def test_what_a_subaccount_signs_is_verified_by_its_own_token(tmp_path):
    async with listening(tmp_path, integration=below()) as running:
        told = DELIVERED | {"AccountSid": BELOW}

        assert (await running.ask(STATUS, told, token=TOKEN_BELOW)).status == 204
        assert (await running.ask(STATUS, told)).status == 403
        # The account is the tenant's alone: whatever is said of it is for it, by whichever method.
        assert (await running.ask(STATUS, told, token=TOKEN_BELOW, method="GET")).status == 204
        (kept, _) = running.kept
        assert dict(parse_qsl(kept.body.decode())) == DELIVERED | {"AccountSid": sid_of("acme")}


async def test_what_a_subaccount_signs_otherwise_leaves_a_doubt_for_that_tenant(tmp_path):
    """Guards what Twilio tells after the token was replaced there, of which nobody tells us."""
    async with listening(tmp_path, integration=below()) as running:
        told = DELIVERED | {"AccountSid": BELOW}
        assert (await running.ask(STATUS, told, token=TOKEN_BELOW)).status == 204
        assert Doubts(tmp_path / "doubts").take() == frozenset()

        for _ in range(3):
            assert (await running.ask(STATUS, told, token="its-new-token")).status == 403
        assert Doubts(tmp_path / "doubts").take() == {"acme"}


async def test_what_is_forged_for_a_tenant_without_a_subaccount_leaves_no_doubt(running, tmp_path):
    assert (await running.ask(STATUS, DELIVERED, token="forged")).status == 403
    assert (await running.ask(STATUS.replace("acme", "nobody"), DELIVERED, token="forged")).status == 404

    assert Doubts(tmp_path / "doubts").take() == frozenset()


async def test_a_subaccount_says_nothing_of_the_account_above_it(tmp_path):
    async with listening(tmp_path, integration=below()) as running:
        assert (await running.ask(STATUS, DELIVERED, token=TOKEN_BELOW)).status == 403
        assert running.kept == []


@pytest.mark.parametrize(
    "integration",
    [
        below(account="AC" + "8" * 32),
        below("other"),
        msgspec.structs.replace(below(), subaccount_secret=None),
    ],
    ids=["of another account", "sealed for another tenant", "not known"],
)
async def test_what_a_subaccount_signs_can_not_be_verified_without_its_token(tmp_path, integration):
    async with listening(tmp_path, integration=integration) as running:
        for token in (TOKEN_BELOW, REAL_TOKEN):
            answer = await running.ask(STATUS, DELIVERED | {"AccountSid": BELOW}, token=token)
            assert answer.status == 503
        assert running.kept == []


async def test_what_is_said_of_another_account_is_refused(running):
    answer = await running.ask(SMS, INBOUND | {"AccountSid": "AC" + "9" * 32})

    assert answer.status == 403
    assert running.events == []


async def test_on_a_shared_account_what_comes_in_at_another_number_is_not_the_tenants(running):
    assert (await running.ask(SMS, INBOUND | {"To": ADA})).status == 403
    assert (await running.ask(VOICE, RINGING | {"To": ADA})).status == 403
    assert running.events == []
    assert running.applications.asked == []


async def test_on_a_shared_account_what_others_have_made_is_not_the_tenants(running):
    assert (await running.ask(STATUS, DELIVERED)).status == 403
    running.objects.made("other", "twilio", MESSAGE)
    assert (await running.ask(STATUS, DELIVERED)).status == 403
    running.objects.made("acme", "twilio", MESSAGE)
    assert (await running.ask(STATUS, DELIVERED)).status == 204


async def test_what_the_ledger_gets_late_is_looked_for_once_more(running, monkeypatch):
    """Guards what a provider tells while the ledger is behind: refused, it is not told again."""
    looked = []

    async def owns(*_):
        looked.append(1)
        return len(looked) > 1

    monkeypatch.setattr(running.objects, "owns", owns)

    assert (await running.ask(STATUS, DELIVERED)).status == 204


async def test_on_an_account_of_its_own_everything_is_the_tenants(tmp_path):
    async with listening(tmp_path, shared_reads=True) as running:
        assert (await running.ask(SMS, INBOUND | {"To": ADA})).status == 200
        assert (await running.ask(STATUS, DELIVERED)).status == 204


async def test_whose_it_is_must_be_known(running):
    running.objects.unavailable = True

    assert (await running.ask(STATUS, DELIVERED)).status == 503


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/webhooks/twilio/nobody/sms", 404),
        ("/webhooks/twilio/acme/fax", 404),
        ("/webhooks/openai/acme/sms", 404),
        ("/webhooks/twilio/acme/sms/more", 404),
        ("/webhooks/", 404),
    ],
)
async def test_a_webhook_that_nobody_has_is_missing(running, target, status):
    assert (await running.ask(target, INBOUND)).status == status


async def test_without_a_public_url_or_a_credential_nothing_can_be_verified(tmp_path):
    async with listening(tmp_path / "one", public_url=None) as running:
        assert (await running.ask(SMS, INBOUND)).status == 404
    async with listening(tmp_path / "two", credentials=False) as running:
        assert (await running.ask(SMS, INBOUND)).status == 503


async def test_a_body_that_is_too_large_is_not_read(running):
    answer = await running.ask(SMS, INBOUND | {"Body": "x" * (300 << 10)})

    assert answer.status == 413
    assert running.events == []


async def test_a_body_that_says_that_it_is_too_large_is_not_waited_for(running):
    async with client(running.port) as peer:
        peer.writer.write(f"POST {SMS} HTTP/1.1\r\nHost: x\r\nContent-Length: 300000000\r\n\r\n".encode())

        assert (await peer.message()).status == 413


async def test_a_body_that_does_not_say_how_large_it_is_is_read_no_further_than_it_may_be(running):
    async with client(running.port) as peer:
        peer.writer.write(f"POST {SMS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(40):
            peer.writer.write(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")

        assert (await peer.message()).status == 413


async def test_of_what_nobody_has_verified_yet_no_more_is_held_than_a_worker_may(running, monkeypatch):
    """Guards memory: anybody can begin to send a body, and need no signature to have it held."""
    monkeypatch.setattr("gateway.webhooks.HELD_BYTES_MAX", 100_000)

    def begins(peer, size, *, whole=False):
        head = f"POST {SMS} HTTP/1.1\r\nHost: x\r\nContent-Length: {size if whole else size + 1}\r\n\r\n"
        peer.writer.write(head.encode() + b"x" * size)

    async with client(running.port) as slow, client(running.port) as second:
        begins(slow, 80_000)
        await until(lambda: running.webhooks._held_bytes >= 80_000)
        begins(second, 40_000, whole=True)
        refused = await second.message()
    await until(lambda: running.webhooks._held_bytes == 0)
    async with client(running.port) as third:
        begins(third, 40_000, whole=True)
        taken = await third.message()

    assert (refused.status, b"overloaded" in refused.body) == (503, True)
    assert (taken.status, b"forged" in taken.body) == (403, True)


async def test_a_worker_that_is_behind_takes_what_providers_tell_all_the_same(running, monkeypatch):
    """Guards what is told once: Twilio does not tell a status again that was answered with a 503, where a call is made again."""
    monkeypatch.setattr(Listener, "overloaded", True)

    assert (await running.ask(SMS, INBOUND)).status == 200
    assert [event.external_id for event in running.events] == [INBOUND["MessageSid"]]


async def test_two_signatures_are_none(running):
    forged = {"X-Twilio-Signature": "AAAA"}

    assert (await running.ask(SMS, INBOUND, **forged)).status == 403
    assert running.events == []


async def test_what_makes_no_sense_is_refused(running):
    fields = {"AccountSid": REAL_SID, "To": TOLL}

    assert (await running.ask(SMS, fields)).status == 400


async def test_no_refusal_shows_what_was_sent(running):
    answer = await running.ask(SMS, INBOUND, signature="AAAA")

    assert b"Hello" not in answer.body
    assert ADA.encode() not in answer.body


# ---------------------------------------------------------------------------------------------------------------------
# Status callbacks


async def test_a_callback_that_carries_a_url_is_passed_on_there(running):
    target = running.carrying("https://app.example/mine?x=1", name="status")

    answer = await running.ask(target, DELIVERED)

    assert (answer.status, answer.body) == (204, b"")
    (kept,) = running.kept
    assert (kept.url, kept.webhook) == ("https://app.example/mine?x=1", "status")
    (late,) = running.events
    assert (late.dedupe_key, late.completeness) == (f"twilio:{MESSAGE}:heard", "pending")


async def test_a_callback_by_get_is_passed_on_without_what_is_ours(tmp_path):
    async with listening(tmp_path, shared_reads=True) as running:
        target = running.carrying("https://app.example/mine", name="status")

        assert (await running.ask(target, DELIVERED, method="GET")).status == 204

        (kept,) = running.kept
        assert kept.method == "GET"
        assert dict(parse_qsl(kept.body.decode())) == DELIVERED | {"AccountSid": sid_of("acme")}


@pytest.mark.parametrize("target", [SMS, VOICE, STATUS])
async def test_on_a_shared_account_nobody_is_believed_by_a_get(running, target):
    """Guards each tenant from all others: a GET is signed over its URL, and any of them can have Twilio ask that."""
    forged = f"{target}?{urlencode(INBOUND | RINGING)}"

    assert (await running.ask(forged, method="GET")).status == 403
    assert (
        await running.ask(running.carrying("https://app.example/", name="voice"), RINGING, method="GET")
    ).status == 403
    assert running.events == []
    assert running.kept == []


async def test_a_delivery_that_names_no_account_is_nobodys(running):
    without = {name: value for name, value in INBOUND.items() if name != "AccountSid"}

    assert (await running.ask(SMS, without)).status == 403
    assert running.events == []


async def test_a_voice_question_that_is_told_again_is_one_step(running):
    """Guards the count of steps: the header that names a delivery is not signed."""
    running.applications.answers = {INTEGRATION.voice_url: answered()}
    pressed = RINGING | {"CallStatus": "in-progress", "Digits": "1"}

    for token in ("a", "b", "c"):
        await running.ask(VOICE, pressed, I_Twilio_Idempotency_Token=token)

    assert len({event.dedupe_key for event in running.events}) == 1


async def test_what_is_for_a_suspended_tenant_is_booked_and_goes_nowhere(running):
    tenant = running.proxied.published.current.tenants["acme"]
    running.proxied.publish(msgspec.structs.replace(tenant, status="suspended"))

    assert (await running.ask(SMS, INBOUND)).status == 200
    assert len(running.events) == 1
    assert running.kept == []


async def test_a_url_that_was_sealed_for_another_tenant_leads_nowhere(running):
    target = running.carrying("https://evil.example/", tenant_id="own", name="status").replace("/own/", "/acme/")

    assert (await running.ask(target, DELIVERED)).status == 403
    assert (await running.ask(STATUS + "?to=https%3A%2F%2Fevil.example", DELIVERED)).status == 403
    assert running.kept == []


async def test_a_url_that_nobody_sealed_leads_nowhere_on_an_account_of_its_own_either(tmp_path):
    async with listening(tmp_path, shared_reads=True) as running:
        assert (await running.ask(STATUS + "?to=https%3A%2F%2Fevil.example", DELIVERED)).status == 403
        assert running.events == []
        assert running.kept == []


async def test_nothing_else_that_was_sealed_for_the_tenant_is_taken_for_a_url(running):
    sealed = SECRETS.seal({"account_sid": "x", "auth_token": "y"}, owner="acme")

    assert (await running.ask(f"{STATUS}?to={sealed}", DELIVERED)).status == 403


async def test_a_call_that_ended_is_told_in_seconds(running):
    fields = {"CallSid": CALL, "AccountSid": REAL_SID, "CallStatus": "completed", "CallDuration": "49", "Duration": "1"}

    await running.ask(running.carrying("https://app.example/mine", name="status"), fields)

    final, still_open = running.events
    assert (final.dedupe_key, final.quantities) == (f"twilio:{CALL}:final", {"seconds": 49})
    assert still_open.dedupe_key == f"twilio:{CALL}:open"


async def test_told_a_hundred_times_it_is_one_fact(running):
    target = running.carrying("https://app.example/mine", name="status")
    for _ in range(100):
        assert (await running.ask(target, DELIVERED)).status == 204

    assert len({msgspec.json.encode(event) for event in running.events}) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Voice


async def test_a_call_that_comes_in_is_answered_by_its_application(running):
    running.applications.answers = {INTEGRATION.voice_url: answered()}

    answer = await running.ask(VOICE, RINGING)

    assert answer.status == 200
    assert answer.all("content-type") == ["text/xml; charset=utf-8"]
    action = answer.body.partition(b'action="')[2].partition(b'"')[0].decode()
    assert action.startswith(f"{PUBLIC_URL}{VOICE}?to=")
    assert carried(action) == "https://app.example/menu"
    assert [event.event_type for event in running.events] == ["call_inbound"]


async def test_the_application_can_verify_that_it_is_us(running):
    running.applications.answers = {INTEGRATION.voice_url: answered()}

    await running.ask(VOICE, RINGING)

    ((url, method, headers, body, _),) = running.applications.asked
    fields = dict(parse_qsl(body.decode()))
    assert (url, method) == (INTEGRATION.voice_url, "POST")
    assert fields == RINGING | {"AccountSid": sid_of("acme")}
    assert RequestValidator(SIGNING).validate(url, fields, headers["X-Twilio-Signature"])


async def test_what_comes_next_goes_where_the_application_said(running):
    running.applications.answers = {"https://app.example/menu": answered(b"<Response/>")}
    target = running.carrying("https://app.example/menu?a=1")

    answer = await running.ask(target, RINGING | {"CallStatus": "in-progress", "Digits": "1"})

    assert answer.body == b"<Response/>"
    assert running.applications.asked[0][0] == "https://app.example/menu?a=1"
    assert [event.event_type for event in running.events] == ["ivr_step"]


async def test_an_application_is_asked_by_get_where_it_said_so_though_we_are_not(running):
    """Guards applications on a shared account, where nobody is believed by a GET."""
    running.applications.answers = {
        INTEGRATION.voice_url: answered(b'<Response><Gather action="/menu?a=1" method="get"/></Response>'),
        "https://app.example/menu": answered(b"<Response/>"),
    }
    document = (await running.ask(VOICE, RINGING)).body.decode()
    assert 'method="POST"' in document
    action = document.partition('action="')[2].partition('"')[0].removeprefix(PUBLIC_URL)
    pressed = RINGING | {"CallStatus": "in-progress", "Digits": "1"}

    answer = await running.ask(action, pressed)

    assert answer.body == b"<Response/>"
    url, method, headers, body, _ = running.applications.asked[1]
    assert (method, body) == ("GET", b"")
    assert "Content-Type" not in headers
    assert dict(parse_qsl(urlsplit(url).query)) == {"a": "1"} | pressed | {"AccountSid": sid_of("acme")}
    assert RequestValidator(SIGNING).validate(url, {}, headers["X-Twilio-Signature"])


async def test_a_callback_that_is_wanted_by_get_is_kept_so(running):
    target = running.carrying("https://app.example/mine", name="status", method="GET")

    assert (await running.ask(target, DELIVERED)).status == 204

    (kept,) = running.kept
    assert (kept.method, kept.media_type) == ("GET", "")
    assert dict(parse_qsl(kept.body.decode())) == DELIVERED | {"AccountSid": sid_of("acme")}


ANSWERED = RINGING | {"Direction": "outbound-api", "CallStatus": "in-progress", "From": TOLL, "To": ADA}


async def test_a_call_that_goes_out_is_answered_by_the_application_that_made_it_and_that_is_no_step(running):
    running.applications.answers = {"https://app.example/made": answered()}

    answer = await running.ask(running.carrying("https://app.example/made?of=1", begins=True), ANSWERED)

    assert (answer.status, running.events) == (200, [])
    action = answer.body.partition(b'action="')[2].partition(b'"')[0].decode()
    assert carried(action) == "https://app.example/menu"
    ((url, _, headers, body, _),) = running.applications.asked
    fields = dict(parse_qsl(body.decode()))
    assert fields == ANSWERED | {"AccountSid": sid_of("acme")}
    assert RequestValidator(SIGNING).validate(url, fields, headers["X-Twilio-Signature"])


@pytest.mark.parametrize("begins", [True, False])
async def test_where_nobody_answers_a_call_that_goes_out_the_provider_asks_whom_it_was_told_to(running, begins):
    """Guards `FallbackUrl`: an answer of ours would be taken for the application's. The integration's is for calls that
    come in."""
    answer = await running.ask(running.carrying("https://app.example/made", begins=begins), ANSWERED)

    assert answer.status == 502
    assert [url for url, *_ in running.applications.asked] == ["https://app.example/made"]


def followed(document):
    """The target of ours to which a document leads, and what it says of the method."""
    (verb,) = ET.fromstring(document)
    return verb.text.removeprefix(PUBLIC_URL), verb.attrib


PRESSED = RINGING | {"CallStatus": "in-progress", "Digits": "1"}


async def test_a_redirect_is_followed_by_way_of_us_and_is_no_step(running):
    running.applications.answers = {
        INTEGRATION.voice_url: answered(b"", status=302, Location="/menu?a=1"),
        "https://app.example/menu": answered(),
    }

    first = await running.ask(VOICE, RINGING)

    target, said = followed(first.body)
    assert (first.status, said) == (200, {"method": "POST"})
    assert [url for url, *_ in running.applications.asked] == [INTEGRATION.voice_url], "nothing is followed here"
    second = await running.ask(target, RINGING)
    assert carried(second.body.partition(b'action="')[2].partition(b'"')[0].decode()) == "https://app.example/menu"
    url, method, headers, body, _ = running.applications.asked[1]
    assert (method, body) == ("GET", b"")
    assert dict(parse_qsl(urlsplit(url).query)) == {"a": "1"} | RINGING | {"AccountSid": sid_of("acme")}
    assert RequestValidator(SIGNING).validate(url, {}, headers["X-Twilio-Signature"])
    assert [event.event_type for event in running.events] == ["call_inbound"]


async def test_a_redirect_that_keeps_the_method_keeps_what_was_pressed(running):
    running.applications.answers = {
        "https://app.example/menu": answered(b"", status=307, Location="https://www.app.example/menu/"),
        "https://www.app.example/menu/": answered(),
    }
    target, _ = followed((await running.ask(running.carrying("https://app.example/menu"), PRESSED)).body)

    # The verb that has Twilio ask again submits nothing of it.
    await running.ask(target, RINGING | {"CallStatus": "in-progress"})

    url, method, headers, body, _ = running.applications.asked[1]
    fields = dict(parse_qsl(body.decode()))
    assert (url, method, fields) == ("https://www.app.example/menu/", "POST", PRESSED | {"AccountSid": sid_of("acme")})
    assert RequestValidator(SIGNING).validate(url, fields, headers["X-Twilio-Signature"])
    assert [event.event_type for event in running.events] == ["ivr_step"]


async def test_redirects_in_a_circle_end_at_the_fallback(running):
    running.applications.answers = {
        "https://app.example/voice": answered(b"", status=307, Location="/voice"),
        INTEGRATION.voice_fallback_url: answered(b"<Response><Say>Later</Say></Response>"),
    }
    target = VOICE
    for _ in range(redirects.IN_A_ROW_MAX):
        target, _ = followed((await running.ask(target, RINGING)).body)

    assert (await running.ask(target, RINGING)).body == b"<Response><Say>Later</Say></Response>"
    assert [event.event_type for event in running.events] == ["call_inbound"]


async def test_where_a_redirect_of_a_call_that_goes_out_leads_nowhere_the_provider_asks_whom_it_was_told_to(running):
    running.applications.answers = {"https://app.example/made": answered(b"", status=301, Location="//gone.example/x")}
    first = await running.ask(running.carrying("https://app.example/made", begins=True), ANSWERED)

    target, _ = followed(first.body)

    assert (await running.ask(target, ANSWERED)).status == 502
    assert [url.partition("?")[0] for url, *_ in running.applications.asked][1:] == ["https://gone.example/x"]
    assert running.events == []


WAITING = RINGING | {"CallStatus": "in-progress", "QueueTime": "30"}


async def test_what_who_waits_hears_is_no_step_and_leads_to_more_of_it(running):
    running.applications.answers = {
        "https://app.example/wait": answered(b"<Response><Say>Wait</Say><Redirect>/more</Redirect></Response>"),
        "https://app.example/more": answered(b'<Response><Gather action="/out"/></Response>'),
    }
    first = await running.ask(running.carrying("https://app.example/wait", heard=True), WAITING)
    target = first.body.partition(b"<Redirect>")[2].partition(b"<")[0].decode().removeprefix(PUBLIC_URL)

    second = await running.ask(target, WAITING)

    assert (first.status, second.status, running.events) == (200, 200, [])
    ((_, _, headers, body, _), _) = running.applications.asked
    fields = dict(parse_qsl(body.decode()))
    assert RequestValidator(SIGNING).validate("https://app.example/wait", fields, headers["X-Twilio-Signature"])
    pressed = second.body.partition(b'action="')[2].partition(b'"')[0].decode().removeprefix(PUBLIC_URL)
    await running.ask(pressed, WAITING | {"Digits": "1"})
    assert [event.event_type for event in running.events] == ["ivr_step"], "what is pressed there is"


@pytest.mark.parametrize("left_out", [(), ("AccountSid",), ("CallSid",), ("AccountSid", "CallSid", "Direction")])
async def test_what_is_heard_need_not_say_whose_it_is(running, left_out):
    """Guards what is announced to a whole conference, of which nobody documents what Twilio says."""
    running.applications.answers = {"https://app.example/wait": answered(b"<Response/>")}
    said = {name: value for name, value in WAITING.items() if name not in left_out}

    answer = await running.ask(running.carrying("https://app.example/wait", heard=True), said)

    assert (answer.status, answer.body, running.events) == (200, b"<Response/>", [])


async def test_what_is_heard_on_another_account_is_refused(running):
    target = running.carrying("https://app.example/wait", heard=True)

    assert (await running.ask(target, WAITING | {"AccountSid": OWN_SID})).status == 403
    assert (await running.ask(running.carrying("https://app.example/menu"), {"CallSid": CALL})).status == 403


async def test_where_nothing_is_heard_nobody_else_is_asked(running):
    """Guards who waits: what answers calls ends them."""
    running.applications.answers = {INTEGRATION.voice_fallback_url: answered()}

    answer = await running.ask(running.carrying("https://app.example/wait", heard=True), WAITING)

    assert answer.status == 502
    assert [url for url, *_ in running.applications.asked] == ["https://app.example/wait"]


async def test_a_sound_that_is_too_long_to_pass_on_is_played_by_the_provider(running):
    running.applications.answers = {"https://app.example/wait": answered(media_type="audio/wav", whole=False)}

    answer = await running.ask(running.carrying("https://app.example/wait?a=1&b=2", heard=True), WAITING)

    assert ET.fromstring(answer.body).findtext("Play") == "https://app.example/wait?a=1&b=2"


async def test_a_sound_is_passed_on_as_it_came_though_no_document_may_be_as_long(running):
    """Guards who verifies that it is us who ask: Twilio would ask without a signature of ours."""
    sound = b"\xff\xfb" * DOCUMENT_BYTES_MAX
    running.applications.answers = {"https://app.example/wait": answered(sound, media_type="audio/mpeg")}

    answer = await running.ask(running.carrying("https://app.example/wait", heard=True), WAITING)

    assert (answer.body, answer.all("content-type")) == (sound, ["audio/mpeg"])


async def test_an_application_is_asked_by_get_where_the_provider_asks_by_get(tmp_path):
    async with listening(tmp_path, shared_reads=True) as running:
        running.applications.answers = {INTEGRATION.voice_url: answered()}

        assert (await running.ask(VOICE, RINGING, method="GET")).status == 200

        ((url, method, headers, body, _),) = running.applications.asked
        assert (method, body) == ("GET", b"")
        assert RequestValidator(SIGNING).validate(url, {}, headers["X-Twilio-Signature"])
        assert dict(parse_qsl(urlsplit(url).query)) == RINGING | {"AccountSid": sid_of("acme")}


@pytest.mark.parametrize(
    "failing",
    [
        TooSlow("too slow"),
        Forbidden("not public"),
        answered(status=500),
        answered(status=302),
        answered(status=302, Location="ftp://app.example/"),
        answered(status=304, Location="/menu"),
        answered(whole=False),
        answered(**{"Content-Encoding": "gzip"}),
        answered(b"<Response>%b</Response>" % (b" " * DOCUMENT_BYTES_MAX)),
        # With URLs of ours in it, it is longer than the provider reads.
        answered(b"<Response>%b</Response>" % (b'<Gather action="/x"/>' * 1000)),
    ],
    ids=lambda failing: str(failing)[:80],
)
async def test_an_application_that_does_not_answer_has_a_fallback(running, failing):
    running.applications.answers = {
        INTEGRATION.voice_url: failing,
        INTEGRATION.voice_fallback_url: answered(b"<Response><Say>Later</Say></Response>"),
    }

    answer = await running.ask(VOICE, RINGING)

    assert answer.body == b"<Response><Say>Later</Say></Response>"
    assert [event.event_type for event in running.events] == ["call_inbound"]


@pytest.mark.parametrize("method", ["", "GET"])
@pytest.mark.parametrize(
    ("failing", "code"),
    [
        (TooSlow("too slow"), "11200"),
        (answered(status=302), "11216"),
        (answered(status=404), "11200"),
        (answered(status=500), "11200"),
        (answered(whole=False), "11200"),
        (answered(b"<Response>%b</Response>" % (b" " * DOCUMENT_BYTES_MAX)), "11750"),
    ],
    ids=["too slow", "not followed", "not there", "failed", "broken off", "too long"],
)
async def test_a_fallback_is_told_why_as_twilio_tells_it(running, failing, code, method):
    running.applications.answers = {
        "https://app.example/menu": failing,
        INTEGRATION.voice_fallback_url: answered(b"<Response/>"),
    }

    await running.ask(running.carrying("https://app.example/menu?a=1", method=method), PRESSED)

    (first, (url, _, headers, body, _)) = running.applications.asked
    told = dict(parse_qsl(body.decode() if body else urlsplit(url).query))
    why = {"ErrorCode": code, "ErrorUrl": "https://app.example/menu?a=1"}
    assert told == PRESSED | {"AccountSid": sid_of("acme")} | why
    assert RequestValidator(SIGNING).validate(url, {} if method else told, headers["X-Twilio-Signature"])
    assert b"ErrorCode" not in first[3]
    assert "ErrorCode" not in first[0]


async def test_where_nobody_answers_we_do(running):
    answer = await running.ask(VOICE, RINGING)

    assert answer.status == 200
    assert b"<Response><Say>" in answer.body
    assert len(running.applications.asked) == 2
    assert sum(timeout_s for *_, timeout_s in running.applications.asked) <= 24
    assert running.applications.asked[0][4] <= 10


async def test_a_call_is_not_answered_later_than_the_provider_waits(tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.webhooks.ANSWERS_S", 0.2)

    class Slow(Applications):
        async def send(self, url, method, headers, body, timeout_s):
            self.asked.append((url, method, dict(headers), body, timeout_s))
            await asyncio.sleep(timeout_s)
            raise TooSlow("too slow")

    async with listening(tmp_path) as running:
        slow = Slow()
        running.applications.send = slow.send
        answer = await running.ask(VOICE, RINGING)

        assert b"<Response><Say>" in answer.body
        assert [timeout_s <= 0.2 for *_, timeout_s in slow.asked] == [True]


@pytest.mark.parametrize(("took_s", "waits_s"), [(1, [10, 3.5, 3.5]), (12, [1.5] * 3), (13.45, [])])
async def test_the_time_to_answer_a_call_counts_from_its_arrival(running, monkeypatch, took_s, waits_s):
    """Guards the call: what was spent on its body and its record is not left of what the provider waits."""
    clock = Now()
    monkeypatch.setattr("gateway.webhooks.time", clock)
    note, send = running.proxied.spool.note, running.applications.send

    def slowly_noted(payload):
        clock.later_s += took_s
        note(payload)

    async def sent(url, method, headers, body, timeout_s):
        clock.later_s += 9 if timeout_s == 10 else 0
        return await send(url, method, headers, body, timeout_s)

    running.proxied.spool.note, running.applications.send = slowly_noted, sent
    answer = await running.ask(VOICE, RINGING)

    assert b"<Response><Say>" in answer.body
    waited_s = [timeout_s for *_, timeout_s in running.applications.asked]
    assert waited_s == pytest.approx(waits_s[: len(waited_s)])
    assert bool(waited_s) == bool(waits_s)


async def test_what_can_not_be_recorded_is_not_relayed(running):
    running.proxied.spool.refusing.add("note")

    assert (await running.ask(VOICE, RINGING)).status == 503
    assert running.applications.asked == []
