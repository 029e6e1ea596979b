"""Twilio through the gateway: an account that goes by another name, URLs that lead here, messages and calls."""

import asyncio
import base64
import gzip
import json
import logging
import re
from contextlib import suppress
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import msgspec
import pytest

from gateway.callback_addresses import CallbackAddresses
from gateway.integrations import Integration
from gateway.providers.api import Carried
from gateway.snapshot import TenantRecord
from metering.usage import Completeness
from tests.gateway.peers import answer, answers, chunked, client, soon
from tests.gateway.proxied import (
    ACME,
    COMPLETED,
    JSON,
    LAST,
    OTHER,
    OWN,
    OWN_SID,
    REAL_SID,
    REAL_TOKEN,
    SECRETS,
    following,
    frame,
    hashed,
    request,
    sent,
    shown,
    sid_of,
)

TO, FROM = "+12025550143", "+18005550199"
ALIAS = sid_of("acme")
MESSAGES = f"/twilio/2010-04-01/Accounts/{ALIAS}/Messages"
FORM = (
    b"To=%2B12025550143&From=%2B18005550199&Body=Hello+%41da&MediaUrl=https%3a%2F%2Fa%2F1&MediaUrl=https://a/2&&x=%zz"
)
SMS_SID, OTHER_SID = "SM" + "0a" * 16, "SM" + "0b" * 16
RESOURCE = {
    "account_sid": REAL_SID,
    "sid": SMS_SID,
    "to": TO,
    "from": FROM,
    "num_segments": "2",
    "num_media": "0",
    "status": "queued",
    "price": None,
    "price_unit": "USD",
    "uri": f"/2010-04-01/Accounts/{REAL_SID}/Messages/{SMS_SID}.json",
}
QUEUED = answer(json.dumps(RESOURCE).encode(), JSON, status=b"201 Created")
XML = (
    b"<?xml version='1.0' encoding='UTF-8'?>\n<TwilioResponse><Message><Sid>%b</Sid><AccountSid>%b</AccountSid><To>%b</To>"
    b"<From>%b</From><NumSegments>2</NumSegments></Message></TwilioResponse>"
) % tuple(value.encode() for value in (SMS_SID, REAL_SID, TO, FROM))


def basic(user, password):
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def sms(path=MESSAGES + ".json", body=FORM, *headers, key=ACME, user=ALIAS, method="POST", close=False):
    """One request, as Twilio's SDKs would send it."""
    form = ["Content-Type: application/x-www-form-urlencoded"] if body else []
    return request(path, body, basic(user, key), *form, *headers, key=None, method=method, close=close)


OURS = "https://tolls.example/webhooks/twilio/{}/status"
ASKING = FORM + b"&StatusCallback=https%3A%2F%2Fapp.example%2Ftold"


def called_back(peer):
    """What the provider is asked to tell, and the rest of the form."""
    _, lines, body = sent(peer)
    assert f"Content-Length: {len(body)}".encode() in lines
    pairs = body.split(b"&")
    told = [unquote(pair.partition(b"=")[2].decode()) for pair in pairs if pair.startswith(b"StatusCallback=")]
    return told, b"&".join(pair for pair in pairs if not pair.startswith(b"StatusCallback="))


async def test_the_provider_is_asked_to_tell_us_and_nothing_else_of_a_form_changes(gateway):
    async with gateway(answers(QUEUED), public_url="https://tolls.example") as made:
        await made.ask(sms())

        assert called_back(made.provider.peers[0]) == ([OURS.format("acme")], FORM)
        (event,) = made.events
        assert event.resource == "US:toll_free"


@pytest.mark.parametrize("signing", [False, True])
async def test_an_applications_callback_is_carried_where_its_tenant_has_something_to_sign_with(gateway, signing):
    async with gateway(answers(QUEUED), public_url="https://tolls.example") as made:
        if signing:
            tenant = made.published.current.tenants["acme"]
            sealed = SECRETS.seal({"current": "secret"}, owner="acme")
            made.publish(msgspec.structs.replace(tenant, signing=sealed))
        await made.ask(sms(body=ASKING))

        (url,), rest = called_back(made.provider.peers[0])
        assert rest == FORM
        if signing:
            ours, _, sealed = url.partition("?to=")
            assert ours == OURS.format("acme")
            url = CallbackAddresses("", SECRETS).opened(sealed, "acme").url
        assert url == "https://app.example/told"


@pytest.mark.parametrize(("key", "user"), [(ACME, ALIAS), (OWN, sid_of("own"))])
async def test_a_call_that_is_led_elsewhere_is_led_through_us(gateway, key, user):
    """Guards an endpoint whose body is of no other interest: it must be read all the same."""
    call = "CA" + "3" * 32
    path = f"/twilio/2010-04-01/Accounts/{user}/Calls/{call}.json"
    form = b"Method=GET&Url=https%3A%2F%2Fapp.example%2Fnext&Status="
    tenant_id = "acme" if key == ACME else "own"
    async with gateway(answers(QUEUED), public_url="https://tolls.example") as made:
        tenant = made.published.current.tenants[tenant_id]
        sealed = SECRETS.seal({"current": "secret"}, owner=tenant_id)
        made.publish(msgspec.structs.replace(tenant, signing=sealed))
        made.proxy._objects.made(tenant_id, "twilio", call)
        got = await made.ask(sms(path, form, key=key, user=user))
        assert got.status == 201, got.body

        _, lines, body = sent(made.provider.peers[0])
        assert f"Content-Length: {len(body)}".encode() in lines
        method, url, rest = body.split(b"&")
        assert (method, rest) == (b"Method=POST", b"Status=")
        ours, _, carried = unquote(url.partition(b"=")[2].decode()).partition("?to=")
        assert ours == f"https://tolls.example/webhooks/twilio/{tenant_id}/voice"
        assert CallbackAddresses("", SECRETS).opened(carried, tenant_id) == Carried("https://app.example/next", "GET")


@pytest.mark.parametrize(
    "unchanged",
    [
        sms(MESSAGES + ".json", FORM, "Content-Encoding: gzip", key=OWN, user=sid_of("own")),
        request(
            MESSAGES + ".json", FORM, f"X-Gateway-Key: {ACME}", basic(OWN_SID, "a-token-that-is-not-ours"), key=None
        ),
    ],
    ids=["what can not be read", "an account that is not ours to verify"],
)
async def test_what_could_not_be_verified_is_not_asked_for(gateway, unchanged):
    async with gateway(answers(QUEUED), public_url="https://tolls.example") as made:
        await made.ask(unchanged)

        assert sent(made.provider.peers[0])[2] == FORM


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (f"/twilio/2010-04-01/Accounts/{ALIAS}/Messages.json", f"/2010-04-01/Accounts/{REAL_SID}/Messages.json"),
        (f"/twilio/api/2010-04-01/Accounts/{ALIAS}/Messages.json", f"/2010-04-01/Accounts/{REAL_SID}/Messages.json"),
        (f"/twilio/2010-04-01/Accounts/{ALIAS}/Messages", f"/2010-04-01/Accounts/{REAL_SID}/Messages"),
        (f"{MESSAGES}?a=%62&&DateSent%3E=1&b", f"/2010-04-01/Accounts/{REAL_SID}/Messages?a=%62&&DateSent%3E=1&b"),
        (f"/twilio/verify/v2/Services?Owner={ALIAS}", f"/v2/Services?Owner={REAL_SID}"),
    ],
)
async def test_the_provider_gets_the_real_account_and_every_byte_of_the_form(gateway, path, target):
    """Guards the exchange on the way up; besides it, and the credential, nothing of the request is another."""
    async with gateway(answers(QUEUED)) as made:
        got = await made.ask(sms(path, FORM, "Accept-Encoding: gzip, deflate", "X-Twilio-Client: python"))
        start, lines, body = sent(made.provider.peers[0])

        assert got.status == 201
        assert start == f"POST {target} HTTP/1.1".encode()
        assert lines == [
            f"Host: 127.0.0.1:{made.provider.port}".encode(),
            b"Content-Type: application/x-www-form-urlencoded",
            b"X-Twilio-Client: python",
            basic(REAL_SID, REAL_TOKEN).encode(),
            b"Accept-Encoding: identity",
            b"Content-Length: %d" % len(FORM),
        ]
        assert body == FORM
        assert ALIAS.encode() not in made.provider.seen
        assert b"tk_" not in made.provider.seen


@pytest.mark.parametrize("status", [b"201 Created", b"302 Found", b"400 Bad", b"404 No", b"429 Slow", b"500 Oh"])
@pytest.mark.parametrize(
    "body", [json.dumps(RESOURCE).encode(), XML, REAL_SID.encode() * 3, b""], ids=["json", "xml", "text", "nothing"]
)
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_in_every_answer_the_account_is_the_one_that_the_tenant_knows(gateway, status, body, framing):
    """Guards the exchange on the way back, in bodies and headers, of successes and failures."""
    head = [
        b"HTTP/1.1 " + status,
        b"Location: /2010-04-01/Accounts/" + REAL_SID.encode() + b"/x",
        b"X-A: " + REAL_SID.encode(),
    ]
    reply = {
        "length": answer(body, *head[1:], status=status),
        "chunked": b"\r\n".join([*head, b"Transfer-Encoding: chunked\r\n\r\n"]) + chunked(body[:40], body[40:]),
        "close": b"\r\n".join([*head, b"\r\n"]) + body,
    }[framing]

    async def script(peer):
        await peer.message()
        await peer.send(reply)

    async with gateway(script) as made:
        got = await made.ask(sms())

        assert (got.status, got.whole) == (int(status[:3]), True)
        assert got.body == body.replace(REAL_SID.encode(), ALIAS.encode())
        assert (got["location"], got["x-a"]) == (f"/2010-04-01/Accounts/{ALIAS}/x", ALIAS)
        assert got["content-length"] == (str(len(body)) if framing == "length" else None)
        assert REAL_SID.encode() not in shown(made, got)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_wherever_an_answer_is_cut_the_real_account_does_not_leave(gateway, framing):
    """Guards the end that is held back: passed on at once, the two halves meet again at the client."""
    body = b'{"sid":"' + SMS_SID.encode() + b'","account_sid":"' + REAL_SID.encode() + b'"}'
    first, last = body.index(REAL_SID.encode()) - 1, len(body)
    cuts = iter(range(first, last))

    async def script(peer):
        for cut in cuts:
            await peer.message()
            pieces = [body[:cut], body[cut:]]
            if framing == "length":
                await peer.send(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n" % len(body))
            else:
                await peer.send(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n")
                pieces = [frame(piece) for piece in pieces] + [LAST]
            for piece in pieces:
                await peer.send(piece)
                await asyncio.sleep(0.002)

    async with gateway(script) as made, client(made.port) as peer:
        for _ in range(first, last):
            await peer.send(sms())
            got = await peer.message()

            assert got.body == body.replace(REAL_SID.encode(), ALIAS.encode())
        assert len(made.events) == last - first


async def test_a_compressed_answer_that_nobody_asked_for_is_unpacked(gateway):
    packed = answer(
        gzip.compress(json.dumps(RESOURCE).encode()), JSON, b"Content-Encoding: gzip", status=b"201 Created"
    )
    async with gateway(answers(packed)) as made:
        got = await made.ask(sms(MESSAGES + ".json", FORM, "Accept-Encoding: gzip"))

        assert json.loads(got.body)["account_sid"] == ALIAS
        assert (got["content-encoding"], got["content-length"], got["transfer-encoding"]) == (None, None, "chunked")
        assert made.events[0].quantities == {"messages": 1, "segments": 2}


async def test_a_compressed_answer_that_was_cut_before_it_was_compressed_is_not_a_whole_one(gateway):
    """Guards the end of what is restored: it failed behind a head that had not left, and another answer came under it."""
    packed = gzip.compress(json.dumps(RESOURCE).encode())[:-12]
    async with gateway(answers(answer(packed, b"Content-Encoding: gzip", status=b"201 Created"), COMPLETED)) as made:
        async with client(made.port) as peer:
            await peer.send(sms())
            with pytest.raises((EOFError, ConnectionError)):
                await peer.message()
        assert len(made.events) == 1
        assert REAL_SID.encode() not in bytes(peer.seen)


async def test_what_is_unpacked_is_not_whole_at_the_client_before_its_outcome_is_recorded(gateway):
    """Guards the last piece where the provider's last bytes bring none: sabotaged (told by the provider's length), a client
    had all of the resource while nothing was recorded."""
    packed = answer(
        gzip.compress(json.dumps(RESOURCE).encode()), JSON, b"Content-Encoding: gzip", status=b"201 Created"
    )
    rest = asyncio.Event()
    async with gateway(following(packed[:-8], rest, packed[-8:])) as made, client(made.port) as peer:
        await peer.send(sms())
        began = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                while True:
                    began += await peer.reader.read(1 << 16)
        before = list(made.order)
        rest.set()
        await soon(peer.reader.readuntil(b"0\r\n\r\n"))

    assert ("outcome" in before, b"}" in began.partition(b"\r\n\r\n")[2]) == (False, False)
    assert "outcome" in made.order


@pytest.mark.parametrize("status", [b"201 Created", b"400 Bad"])
@pytest.mark.parametrize(
    "how", ["an unknown coding", "not as it says", "cut before it was packed", "cut after all that was to be read"]
)
async def test_an_answer_that_can_not_be_looked_into_is_passed_on_to_nobody(gateway, status, how):
    """Guards the order in a failure: looked into before it was closed, a refused message was an unknown one."""
    plain = json.dumps(RESOURCE).encode()
    body, coding = {
        "an unknown coding": (plain, b"compress"),
        "not as it says": (plain, b"gzip"),
        "cut before it was packed": (gzip.compress(plain)[:-12], b"gzip"),
        "cut after all that was to be read": (gzip.compress(plain)[:-4], b"gzip"),
    }[how]
    async with gateway(answers(answer(body, JSON, b"Content-Encoding: " + coding, status=status))) as made:
        async with client(made.port) as peer:
            await peer.send(sms())
            try:
                got = await peer.message()
            except (EOFError, ConnectionError):
                got = None

        assert got is None or not got.whole or (got.status, got["x-tollkeeper-error"]) == (502, "upstream_broke")
        assert REAL_SID.encode() not in bytes(peer.seen)
        if status.startswith(b"201"):
            read = how == "cut after all that was to be read"
            assert [event.quantities for event in made.events] == [{"messages": 1, "segments": 2} if read else {}]
        else:
            assert (made.events, made.closed) == ([], ["status 400"])


@pytest.mark.parametrize("account_sid", ["AC1", REAL_SID + "0123"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("status", [b"201 Created", b"400 Bad"])
async def test_where_the_two_names_differ_in_length_so_does_the_answer(gateway, account_sid, version, status):
    """Guards the length: told as it was, the client waits for bytes that never come, or takes the rest for an answer."""
    body = json.dumps(RESOURCE | {"account_sid": account_sid, "uri": f"/x/{account_sid}"}).encode()
    async with gateway(answers(answer(body, status=status)), account_sid=account_sid) as made:
        got = await made.ask(sms().replace(b" HTTP/1.1\r\n", f" HTTP/{version}\r\n".encode(), 1))

        assert got.whole
        assert got["content-length"] is None
        assert got.body == body.replace(account_sid.encode(), ALIAS.encode())
        assert f"/Accounts/{account_sid}/Messages.json".encode() in made.provider.seen


async def test_an_answer_without_a_body_is_one_under_another_name_too(gateway):
    replies = [
        (b"HTTP/1.1 204 No\r\nContent-Encoding: gzip\r\n\r\n", "DELETE", 204),
        (b"HTTP/1.1 304 Same\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n", "GET", 304),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", 200),
        (answer(b"", b"Content-Encoding: gzip"), "GET", 200),
    ]
    async with gateway(answers(*(reply for reply, _, _ in replies))) as made, client(made.port) as peer:
        made.objects.made("acme", "twilio", SMS_SID)
        for _, method, status in replies:
            await peer.send(sms(f"{MESSAGES}/{SMS_SID}.json", b"", method=method))
            got = await peer.message(bodiless=method == "HEAD")

            assert (got.status, got.body, got.whole) == (status, b"", True)
            assert got["content-length"] == ("5" if method == "HEAD" else None)


async def test_a_tenant_with_an_account_of_its_own_knows_it_by_the_same_name(gateway):
    own = sid_of("own")
    async with gateway(answers(answer(OWN_SID.encode()))) as made:
        got = await made.ask(
            sms(f"/twilio/2010-04-01/Accounts/{own}/IncomingPhoneNumbers.json", b"", key=OWN, method="GET")
        )
        start, lines, _ = sent(made.provider.peers[0])

        assert start == f"GET /2010-04-01/Accounts/{OWN_SID}/IncomingPhoneNumbers.json HTTP/1.1".encode()
        assert basic(OWN_SID, "its-token").encode() in lines
        assert got.body == own.encode()


async def test_an_application_that_brings_its_own_account_sees_it_under_its_own_name(gateway):
    theirs = "AC" + "7f" * 16
    packed = gzip.compress(theirs.encode())
    async with gateway(answers(answer(packed, b"Content-Encoding: gzip"))) as made:
        path = f"/twilio/2010-04-01/Accounts/{theirs}/Keys.json?Of={ALIAS}"
        raw = request(
            path,
            b"",
            basic(theirs, "its-token"),
            f"X-Gateway-Key: {ACME}",
            "Accept-Encoding: gzip",
            key=None,
            method="GET",
        )
        got = await made.ask(raw)
        start, lines, _ = sent(made.provider.peers[0])

        assert start == f"GET {path.removeprefix('/twilio')} HTTP/1.1".encode()
        assert basic(theirs, "its-token").encode() in lines
        assert b"Accept-Encoding: gzip" in lines
        assert (got.body, got["content-encoding"]) == (packed, "gzip")


@pytest.mark.parametrize("authorization", [basic("whoever", ACME), basic("", ACME), f"Authorization: Bearer {ACME}"])
async def test_a_key_is_a_password_or_a_token_and_the_user_name_tells_nothing(gateway, authorization):
    async with gateway(answers(QUEUED)) as made:
        assert (await made.ask(request(MESSAGES, FORM, authorization, key=None))).status == 201
        assert b"tk_" not in made.provider.seen


# ---------------------------------------------------------------------------------------------------------------------
# An account of the tenant's below the platform's


BELOW = "AC" + "be10" * 8
SERVICES = "/twilio/messaging/v1/Services"


def with_account_below(made):
    integration = Integration(twilio_subaccount=BELOW)
    made.publish(TenantRecord(tenant_id="acme", status="active", account_sid=ALIAS, integration=integration))


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "inside", ["/Messages.json", f"/Calls/CA{'0' * 32}.json", "/IncomingPhoneNumbers", "/Keys.json"]
)
async def test_within_its_account_below_the_platforms_a_tenant_has_all_of_it_by_the_platforms_credential(
    gateway, method, inside
):
    body = json.dumps({"account_sid": BELOW, "owner_account_sid": REAL_SID}).encode()
    async with gateway(answers(answer(body, JSON))) as made:
        with_account_below(made)

        got = await made.ask(sms(f"/twilio/2010-04-01/Accounts/{ALIAS}{inside}?From={ALIAS}", b"", method=method))
        start, lines, _ = sent(made.provider.peers[0])

        assert start == f"{method} /2010-04-01/Accounts/{BELOW}{inside}?From={BELOW} HTTP/1.1".encode()
        assert basic(REAL_SID, REAL_TOKEN).encode() in lines
        assert json.loads(got.body) == {"account_sid": ALIAS, "owner_account_sid": ALIAS}
        assert not {BELOW.encode(), REAL_SID.encode()} & set(re.findall(rb"AC[0-9a-f]{32}", shown(made, got)))


@pytest.mark.parametrize(
    "path",
    [
        f"/twilio/2010-04-01/Accounts/{ALIAS}.json",
        f"/twilio/2010-04-01/Accounts/{ALIAS}",
        f"/twilio/2010-04-01/Accounts/{ALIAS}/",
        f"/twilio/2010-04-01/Accounts/{ALIAS}/.json",
        f"/twilio/2010-04-01/Accounts/{ALIAS}/?a=b",
        f"/twilio/2010-04-01/Accounts/{ALIAS}/../{REAL_SID}/Messages.json",
        f"/twilio/2010-04-01/Accounts/{ALIAS}/%2e%2e/{REAL_SID}/Messages.json",
        f"/twilio/2010-04-01/Accounts/{ALIAS}//Messages.json",
        f"/twilio/2010-04-01/Accounts/{ALIAS};/Messages.json",
        f"/twilio/2010-04-01/Accounts/{REAL_SID}/Messages.json",
        f"/twilio/2010-04-01/Accounts/{BELOW}/Messages.json",
        f"/twilio/2010-04-01/Accounts/{sid_of('other')}/Messages.json",
        "/twilio/2010-04-01/Accounts.json",
        SERVICES,
        "/twilio/verify/v2/Services",
        f"/twilio/accounts/v1/Accounts/{ALIAS}/x",
    ],
)
async def test_what_is_not_within_it_stays_what_everybody_shares(gateway, path):
    """Guards the others below the same credential: an account's own name in a path is all that keeps them apart."""
    async with gateway(answers(QUEUED)) as made:
        with_account_below(made)

        got = await made.ask(sms(path, b"", method="GET"))

        assert got.status in (403, 404)
        assert made.provider.peers == []


# ---------------------------------------------------------------------------------------------------------------------
# URLs in answers


OF_PAGE = {
    "meta": {"next_page_url": "https://messaging.twilio.com/v1/Services?Page=1", "key": "services"},
    "services": [{"account_sid": OWN_SID, "url": "https://messaging.twilio.com/v1/Services/MG1"}],
}
LED = json.dumps(OF_PAGE).replace("https://messaging.twilio.com", "http://gateway.example/twilio/messaging")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("brought", [False, True])
async def test_a_page_leads_to_the_next_at_the_gateway_whoevers_credential_it_is(gateway, version, packed, brought):
    """Guards the length of what leaves, and the key: at the provider's own address it is shown to the provider."""
    body = json.dumps(OF_PAGE).encode()
    coding = [b"Content-Encoding: gzip"] if packed else []
    reply = answer(gzip.compress(body) if packed else body, JSON, *coding)
    async with gateway(answers(reply)) as made:
        raw = sms(SERVICES, b"", key=OWN, user=sid_of("own"), method="GET")
        if brought:
            more = f"X-Gateway-Key: {ACME}", "Accept-Encoding: gzip"
            raw = request(SERVICES, b"", basic(OWN_SID, "its"), *more, key=None, method="GET")
        got = await made.ask(raw.replace(b" HTTP/1.1\r\n", f" HTTP/{version}\r\n".encode(), 1))

        assert b"Accept-Encoding: identity" in sent(made.provider.peers[0])[1]
        assert got.whole
        assert got["content-length"] is None
        assert got.body.decode() == LED.replace(OWN_SID, OWN_SID if brought else sid_of("own"))


async def test_wherever_a_page_is_cut_its_urls_lead_here(gateway):
    body = json.dumps(OF_PAGE).encode()
    cuts = range(0, len(body), 7)
    replies = [
        b"HTTP/1.1 200 OK\r\n%b\r\nTransfer-Encoding: chunked\r\n\r\n" % JSON + chunked(body[:cut], body[cut:])
        for cut in cuts
    ]
    async with gateway(answers(*replies)) as made, client(made.port) as peer:
        for _ in cuts:
            await peer.send(sms(SERVICES, b"", key=OWN, method="GET"))

            assert (await peer.message()).body.decode() == LED.replace(OWN_SID, sid_of("own"))


async def test_a_redirect_and_what_was_made_lead_here(gateway):
    location = b"Location: https://messaging.twilio.com/v1/Services/MG1"
    replies = [answer(b"", location, status=status) for status in (b"307 Temporary", b"201 Created")]
    async with gateway(answers(*replies)) as made:
        for _ in replies:
            got = await made.ask(sms(SERVICES, b"", key=OWN, close=True))

            assert got["location"] == "http://gateway.example/twilio/messaging/v1/Services/MG1"


@pytest.mark.parametrize("target", [MESSAGES + ".json", f"{MESSAGES}/{SMS_SID}.json"])
async def test_an_answer_that_holds_no_urls_keeps_its_length(gateway, target):
    async with gateway(answers(QUEUED)) as made:
        made.objects.made("acme", "twilio", SMS_SID)
        got = await made.ask(sms(target))

        assert got["content-length"] == str(len(json.dumps(RESOURCE)))


# ---------------------------------------------------------------------------------------------------------------------
# Messages and calls


async def test_a_message_is_an_intent_and_an_event_without_a_number_in_them(gateway, capfd, caplog):
    """Guards what an intent carries: the search for a call that was lost begins with whom it was for."""
    async with gateway(answers(QUEUED)) as made:
        with caplog.at_level(logging.DEBUG):
            got = await made.ask(sms())

        intent, event = made.records
        parties = {"to": hashed(TO), "from": hashed(FROM)}
        assert (intent.event_type, intent.direction, intent.resource) == ("mms_outbound", "outbound", "US:toll_free")
        assert intent.metadata == parties
        assert (event.event_type, event.direction, event.resource) == ("sms_outbound", "outbound", "US:toll_free")
        assert (event.quantities, event.completeness) == ({"messages": 1, "segments": 2}, Completeness.PENDING)
        assert (event.external_id, event.endpoint, event.status) == (SMS_SID, "messages.create", 201)
        assert event.metadata == parties | {
            "num_segments": "2",
            "num_media": "0",
            "status": "queued",
            "price_unit": "USD",
        }
        kept = shown(made) + "".join((*capfd.readouterr(), caplog.text)).encode()
        for canary in (TO[1:], FROM[1:], REAL_SID, REAL_TOKEN, "Hello"):
            assert canary.encode() not in kept
        assert REAL_SID.encode() not in got.raw


async def test_a_message_that_is_answered_in_xml_is_metered_alike(gateway):
    async with gateway(answers(answer(XML, b"Content-Type: application/xml", status=b"201 Created"))) as made:
        got = await made.ask(sms(MESSAGES))

        assert ET.fromstring(got.body).findtext("Message/AccountSid") == ALIAS
        assert (made.events[0].quantities, made.events[0].external_id) == ({"messages": 1, "segments": 2}, SMS_SID)


async def test_a_message_of_which_no_answer_came_is_unknown_and_can_be_looked_for(gateway):
    async def script(peer):
        await peer.message()

    async with gateway(script) as made:
        got = await made.ask(sms(MESSAGES + ".json", b"To=whatsapp%3A%2B12025550143&From=whatsapp%3A%2B18005550199"))

        assert (got.status, json.loads(got.body)["code"]) == (502, 20502)
        (event,) = made.events
        assert (event.completeness, event.event_type, event.resource) == (
            Completeness.UNKNOWN,
            "whatsapp_outbound",
            "US:whatsapp",
        )
        assert event.metadata == {"to": hashed(f"whatsapp:{TO}"), "from": hashed(f"whatsapp:{FROM}")}
        assert made.provider.seen.count(b"POST ") == 1


async def test_a_call_is_an_event_of_its_own_kind(gateway):
    call = json.dumps({"sid": "CA" + "0a" * 16, "account_sid": REAL_SID, "to": TO, "from": FROM, "status": "queued"})
    async with gateway(answers(answer(call.encode(), JSON, status=b"201 Created"))) as made:
        await made.ask(
            sms(
                f"/twilio/2010-04-01/Accounts/{ALIAS}/Calls.json",
                b"To=%2B12025550143&From=%2B18005550199&Url=https://a",
            )
        )

        intent, event = made.records
        assert (intent.event_type, intent.direction) == ("call_outbound", "outbound")
        assert (event.event_type, event.quantities, event.external_id) == (
            "call_outbound",
            {"requests": 1},
            "CA" + "0a" * 16,
        )


async def test_reading_a_message_back_bills_nothing(gateway):
    async with gateway(answers(QUEUED)) as made:
        await made.ask(sms())
        for method, path in (("GET", f"/{SMS_SID}.json"), ("POST", f"/{SMS_SID}.json"), ("GET", f"/{SMS_SID}/Media")):
            assert (await made.ask(sms(MESSAGES + path, b"", method=method))).status == 201

        assert [event.event_type for event in made.events] == ["sms_outbound", "api_call", "api_call", "api_call"]
        assert all(not event.quantities for event in made.events[1:])


async def test_a_message_of_another_tenant_s_looks_missing_in_the_form_that_was_asked_for(gateway):
    async with gateway(answers(QUEUED)) as made:
        made.objects.made("other", "twilio", OTHER_SID)
        for suffix in (".json", "", ".xml"):
            for name in (OTHER_SID, "SM" + "0c" * 16):
                path = f"{MESSAGES}/{name}{suffix}"
                got = await made.ask(sms(path, b"", method="GET"))

                said = f"The requested resource {path.removeprefix('/twilio')} was not found"
                assert (got.status, got["x-tollkeeper-error"]) == (404, None)
                if suffix == ".json":
                    assert (json.loads(got.body)["code"], json.loads(got.body)["message"]) == (20404, said)
                else:
                    assert got["content-type"] == "application/xml"
                    assert ET.fromstring(got.body).findtext("RestException/Message") == said
        assert made.provider.peers == []
        assert made.records == []


ON_A_SHARED_ACCOUNT = {
    "the account": (sms(f"/twilio/2010-04-01/Accounts/{ALIAS}.json", b"", method="GET"), 403, "not_on_shared_account"),
    "its keys": (sms(f"/twilio/2010-04-01/Accounts/{ALIAS}/Keys.json"), 403, "not_on_shared_account"),
    "subaccounts": (sms("/twilio/2010-04-01/Accounts.json"), 403, "not_on_shared_account"),
    "a number": (sms(f"/twilio/2010-04-01/Accounts/{ALIAS}/IncomingPhoneNumbers.json"), 403, "not_on_shared_account"),
    "a list": (sms(MESSAGES + ".json?PageSize=1", b"", method="GET"), 403, "not_on_shared_account"),
    "a list, by HEAD": (sms(MESSAGES, b"", method="HEAD"), 403, "not_on_shared_account"),
    "an escape": (sms(MESSAGES + "%2Ejson"), 403, "not_on_shared_account"),
    "a room by its name": (sms("/twilio/video/v1/Rooms/daily"), 403, "not_on_shared_account"),
    "no such product": (sms("/twilio/evil/v1/x"), 404, "unknown_product"),
    "a host": (sms("/twilio/api.evil.example/v1/x"), 404, "unknown_product"),
    "an account of another tenant's": (sms(MESSAGES.replace(ALIAS, sid_of("other"))), 404, None),
    "the real account": (sms(MESSAGES.replace(ALIAS, REAL_SID)), 404, None),
    "an application of another tenant's": (sms(body=FORM + f"&ApplicationSid=AP{SMS_SID[2:]}".encode()), 404, None),
    "the same, hidden": (sms(body=FORM + f"&ApplicationSid=%41%50{SMS_SID[2:]}".encode()), 404, None),
    "one in a query": (sms(f"{MESSAGES}?ApplicationSid=AP{SMS_SID[2:]}"), 404, None),
    "one in a query, hidden": (sms(f"{MESSAGES}?ApplicationSid=%41P{SMS_SID[2:]}"), 404, None),
    "a wrong key": (sms(key="tk_wrong_key"), 401, "invalid_key"),
    "no key": (request(MESSAGES, FORM, key=None), 401, "missing_key"),
    "a key of a provider's": (sms(key="0123456789abcdef"), 401, "invalid_key"),
    "compressed nonsense": (sms(MESSAGES, FORM, "Content-Encoding: gzip"), 415, "encoded_body"),
}  # fmt: skip


@pytest.mark.parametrize("what", ON_A_SHARED_ACCOUNT)
async def test_what_a_shared_twilio_account_does_not_do_is_refused_and_nothing_is_sent(gateway, what):
    raw, status, code = ON_A_SHARED_ACCOUNT[what]
    async with gateway(answers(QUEUED)) as made:
        made.objects.made("other", "twilio", "AP" + SMS_SID[2:])
        async with client(made.port) as peer:
            await peer.send(raw)
            got = await peer.message(bodiless=raw.startswith(b"HEAD"))

        assert (got.status, got["x-tollkeeper-error"]) == (status, code)
        if got["content-type"] == "application/json":
            assert json.loads(got.body)["status"] == status
            assert json.loads(got.body)["code"] in (20000 + status, 20003)
        elif got.body:
            assert ET.fromstring(got.body).findtext("RestException/Status") == str(status)
        assert made.provider.peers == []
        assert made.records == []
        assert REAL_SID.encode() not in shown(made, got) or what == "the real account"
        assert TO[1:].encode() not in shown(made, got)


async def test_a_path_without_json_is_refused_in_xml(gateway):
    async with gateway() as made:
        got = await made.ask(sms(MESSAGES, key="tk_wrong_key"))

        error = ET.fromstring(got.body).find("RestException")
        assert (got.status, got["content-type"]) == (401, "application/xml")
        assert (error.findtext("Code"), error.findtext("Status")) == ("20003", "401")
        assert error.findtext("Message").startswith("This gateway key is unknown")


async def test_what_a_tenant_made_by_a_path_that_nobody_listed_is_its_own(gateway):
    service = "VA" + "0a" * 16
    async with gateway(answers(answer(json.dumps({"sid": service}).encode(), JSON, status=b"201 Created"))) as made:
        await made.ask(sms("/twilio/verify/v2/Services", b"FriendlyName=x"))

        for key, status in ((ACME, 201), (OTHER, 404)):
            for path in (
                f"/twilio/verify/v2/Services/{service}/Verifications",
                f"/twilio/verify/v2/Services/{service}",
            ):
                assert (await made.ask(sms(path, b"To=x", key=key))).status == status
        unknown = Completeness.UNKNOWN
        assert [event.completeness for event in made.events] == [unknown, Completeness.REPORTED, unknown]


@pytest.mark.parametrize("byte", [b"\xff", b"\xc3\xa9", b"\xed\xa0\x80"])
@pytest.mark.parametrize("path", ["/openai/v1/x", MESSAGES + "?a", f"{MESSAGES}/{SMS_SID}"])
async def test_a_target_in_no_known_letters_is_refused_or_passes_as_it_came(gateway, path, byte):
    """Guards the form of a target: what is not ASCII must not end in an exception."""
    raw = sms(path.replace(ALIAS, sid_of("own")) + "BYTE", b"", key=OWN).replace(b"BYTE", byte)
    async with gateway(answers(QUEUED)) as made:
        for sent_raw in (raw, raw.replace(basic(ALIAS, OWN).encode(), basic(ALIAS, ACME).encode())):
            got = await made.ask(sent_raw)

            assert got.status in (201, 400, 403, 404)
        assert all(byte in bytes(peer.seen) for peer in made.provider.peers)
