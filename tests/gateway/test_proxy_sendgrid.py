"""SendGrid through the gateway: mails are counted out of their requests, and passed on as they came."""

import asyncio
import base64
import functools
import gzip
import json
import logging
import random

import pytest

from gateway import proxy, request_body
from metering.usage import Completeness
from tests.gateway.peers import answer, answers, client, eventually
from tests.gateway.proxied import (
    ACME,
    JSON,
    LAST,
    OTHER,
    OWN,
    OWN_MAIL_KEY,
    PLATFORM_MAIL_KEY,
    frame,
    hashed,
    request,
    sent,
    shown,
)

MAIL_PATH = "/sendgrid/v3/mail/send"
MAIL = {
    "personalizations": [
        {"to": [{"email": "ada@example.com"}, {"email": "bob@example.com"}], "cc": [{"email": "cc@example.com"}]},
        {"to": [{"email": "eve@example.com"}], "bcc": [{"email": "bcc@example.com"}]},
    ],
    "from": {"email": "toll@example.com", "name": "Toll"},
    "subject": "the-subject-canary",
    "content": [{"type": "text/plain", "value": 'the-content-canary "{[' * 5}],
}
ACCEPTED = answer(b"", b"X-Message-Id: 14c5d75ce93.dfd.64b469", status=b"202 Accepted")
TEMPLATE = "d-" + "0a" * 16


def mail(body=None, *headers, key=ACME, **fields):
    return request(MAIL_PATH, json.dumps(MAIL | fields).encode() if body is None else body, *headers, key=key)


@functools.cache
def large_mail():
    """A mail with an attachment, in gzip larger than what is held of a body."""
    some = random.Random(1)
    attached = [{"content": base64.b64encode(some.randbytes(9 << 20)).decode(), "filename": "a.bin"}]
    packed = gzip.compress(json.dumps(MAIL | {"attachments": attached}).encode(), 1)
    assert len(packed) > proxy.BODY_BYTES_MAX
    return packed


def taking(*replies):
    """A script that reads requests whole, whatever their size, and keeps their bodies."""
    bodies = []

    async def script(peer):
        for reply in replies:
            bodies.append((await peer.message()).body)
            await peer.send(reply)
        await peer.ended()

    return script, bodies


@pytest.mark.parametrize("key", [ACME, OWN])
async def test_a_mail_is_metered_by_its_request_and_its_addresses_are_not_kept(gateway, key, capfd, caplog):
    async with gateway(answers(ACCEPTED)) as made:
        with caplog.at_level(logging.DEBUG):
            got = await made.ask(mail(key=f"SG.{key}"))
        _, lines, body = sent(made.provider.peers[0])

        assert (got.status, got.body, got["x-message-id"]) == (202, b"", "14c5d75ce93.dfd.64b469")
        assert body == json.dumps(MAIL).encode()
        assert b"Authorization: Bearer " + (PLATFORM_MAIL_KEY if key == ACME else OWN_MAIL_KEY).encode() in lines
        intent, event = made.records
        assert (intent.event_type, intent.direction, intent.resource) == ("email_outbound", "outbound", "transactional")
        assert (event.event_type, event.direction, event.resource) == ("email_outbound", "outbound", "transactional")
        assert (event.quantities, event.completeness) == ({"recipients": 5}, Completeness.REPORTED)
        assert (event.external_id, event.metadata) == ("14c5d75ce93.dfd.64b469", {"from": hashed("toll@example.com")})
        kept = shown(made) + "".join((*capfd.readouterr(), caplog.text)).encode()
        assert b"example.com" not in kept
        assert b"canary" not in kept


@pytest.mark.parametrize("key", [ACME, OWN])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("packed", [False, True])
async def test_recipients_are_counted_wherever_the_mail_is_cut(gateway, key, framing, packed):
    """Guards the watch between chunks, through the sockets."""
    body = gzip.compress(json.dumps(MAIL).encode()) if packed else json.dumps(MAIL).encode()
    head = f"POST {MAIL_PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n".encode()
    head += b"Content-Encoding: gzip\r\n" if packed else b""
    head += b"Content-Length: %d\r\n\r\n" % len(body) if framing == "length" else b"Transfer-Encoding: chunked\r\n\r\n"
    async with gateway(answers(ACCEPTED)) as made:
        async with client(made.port) as peer:
            await peer.send(head)
            for start in range(0, len(body), 19):
                piece = body[start : start + 19]
                await peer.send(frame(piece) if framing == "chunked" else piece)
                await asyncio.sleep(0.001)
            await peer.send(LAST if framing == "chunked" else b"")
            assert (await peer.message()).status == 202

        assert made.events[0].quantities == {"recipients": 5}


async def test_a_mail_that_is_only_tried_out_bills_nothing(gateway):
    async with gateway(answers(answer(b""))) as made:
        await made.ask(mail(mail_settings={"sandbox_mode": {"enable": True}}))

        (event,) = made.events
        assert (event.event_type, event.quantities, event.direction) == ("api_call", {}, None)
        assert (event.completeness, event.metadata["sandbox"]) == (Completeness.REPORTED, True)


async def test_a_mail_that_is_refused_bills_nothing(gateway):
    async with gateway(answers(answer(b'{"errors":[]}', JSON, status=b"400 Bad"))) as made:
        assert (await made.ask(mail())).body == b'{"errors":[]}'
        assert (made.events, made.closed) == ([], ["status 400"])


@pytest.mark.parametrize("key", [ACME, OWN])
async def test_a_compressed_mail_larger_than_what_is_held_is_counted_and_passes_as_it_came(gateway, key):
    """Guards the watch over what is forwarded as it comes: the figures stand in the request, and nowhere else."""
    script, bodies = taking(ACCEPTED)
    async with gateway(script) as made:
        got = await made.ask(mail(large_mail(), "Content-Encoding: gzip", key=key))

        assert got.status == 202
        assert bodies == [large_mail()]
        assert made.events[0].quantities == {"recipients": 5}
        assert made.events[0].metadata == {"from": hashed("toll@example.com")}


@pytest.mark.parametrize(("reply", "status"), [(ACCEPTED, 202), (answer(b"{}", status=b"413 Too Large"), 413)])
async def test_a_mail_that_is_answered_before_it_was_whole_is_not_known(gateway, reply, status):
    """Guards `whole`: the recipients that were seen so far are not all that there are."""
    stay = asyncio.Event()

    async def early(peer):
        await peer._until(b"\r\n\r\n")
        await peer.send(reply)
        await stay.wait()

    async with gateway(early) as made:
        async with client(made.port) as peer:
            peer.writer.write(mail(large_mail(), "Content-Encoding: gzip", key=OWN))
            got = await peer.message()
        stay.set()
        await eventually(lambda: made.lines)

        assert got.status == status
        assert [event.completeness for event in made.events] == ([Completeness.UNKNOWN] if status == 202 else [])
        assert made.closed == ([] if status == 202 else ["status 413"])


BOMB = gzip.compress(b'{"personalizations":[' + bytes(48 << 20), 1)
UNREADABLE = {
    "a bomb": BOMB,
    "a wrong checksum": gzip.compress(json.dumps(MAIL).encode())[:-8] + bytes(8),
    "no gzip": json.dumps(MAIL).encode(),
    "nothing yet": b"\x1f\x8b",
}


@pytest.mark.parametrize("what", sorted(UNREADABLE.keys() - {"nothing yet"}))
async def test_on_a_shared_account_a_mail_that_can_not_be_looked_into_is_refused(gateway, what):
    async with gateway(answers(ACCEPTED)) as made:
        got = await made.ask(mail(UNREADABLE[what], "Content-Encoding: gzip"))

        assert (got.status, got["x-tollkeeper-error"]) == (415, "encoded_body")
        assert json.loads(got.body)["errors"][0]["error_id"] == "encoded_body"
        assert made.provider.peers == []
        assert made.records == []


@pytest.mark.parametrize("what", UNREADABLE)
async def test_on_an_account_of_its_own_such_a_mail_passes_and_is_not_known(gateway, what):
    script, bodies = taking(ACCEPTED)
    async with gateway(script) as made:
        got = await made.ask(mail(UNREADABLE[what], "Content-Encoding: gzip", key=OWN))

        assert got.status == 202
        assert bodies == [UNREADABLE[what]]
        assert [event.completeness for event in made.events] == [Completeness.UNKNOWN]


async def test_a_mail_that_turns_out_to_be_a_bomb_after_it_began_to_leave_is_never_a_whole_request(
    gateway, monkeypatch
):
    """Guards the refusal in the middle: nothing was sent, says the record, since half a mail is none."""
    monkeypatch.setattr(proxy, "BODY_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(request_body, "RATIO_MAX", 4)
    body = gzip.compress(random.Random(2).randbytes(2 << 20)) + BOMB
    script, bodies = taking(ACCEPTED)
    async with gateway(script) as made:
        async with client(made.port) as peer:
            await peer.send(mail(body, "Content-Encoding: gzip"))
            got = await peer.message()
        await eventually(lambda: made.lines)

        assert (got.status, got["x-tollkeeper-error"]) == (415, "encoded_body")
        assert (made.events, made.closed) == ([], ["request not sent whole"])
        assert bodies in ([], [b""]) or len(bodies[0]) < len(body)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("spaces", [0, 100_000])
async def test_a_template_of_another_tenant_s_can_not_be_sent(gateway, packed, spaces):
    """Guards the references under gzip, and with more space before them than is looked at twice."""
    body = json.dumps(MAIL)[:-1] + f', "template_id": {" " * spaces}"{TEMPLATE}"}}'
    raw = gzip.compress(body.encode()) if packed else body.encode()
    headers = ["Content-Encoding: gzip"] if packed else []
    async with gateway(answers(ACCEPTED)) as made:
        made.objects.made("acme", "sendgrid", TEMPLATE)

        theirs = await made.ask(mail(raw, *headers, key=OTHER))
        seen = made.provider.seen
        own = await made.ask(mail(raw, *headers))

        assert (theirs.status, own.status) == (404, 202)
        assert json.loads(theirs.body)["errors"][0]["message"] == "resource not found"
        assert seen == b""


async def test_a_template_is_its_maker_s(gateway):
    async with gateway(answers(answer(json.dumps({"id": TEMPLATE}).encode(), JSON, status=b"201 Created"))) as made:
        await made.ask(request("/sendgrid/v3/templates", b'{"name":"x"}'))

        for key, status in ((ACME, 201), (OTHER, 404)):
            assert (
                await made.ask(request(f"/sendgrid/v3/templates/{TEMPLATE}", b"", key=key, method="GET"))
            ).status == status
        assert [event.quantities for event in made.events] == [{}, {}]


@pytest.mark.parametrize("header", ["On-Behalf-Of: subuser", "ON-BEHALF-OF: subuser"])
async def test_on_a_shared_account_nobody_sends_on_behalf_of_another(gateway, header):
    async with gateway(answers(ACCEPTED)) as made:
        refused = await made.ask(mail(None, header))
        sent_it = await made.ask(mail(None, header, key=OWN))

        assert (refused.status, refused["x-tollkeeper-error"]) == (403, "not_on_shared_account")
        assert sent_it.status == 202
        assert len(made.provider.peers) == 1
        assert header.encode() in made.provider.seen
