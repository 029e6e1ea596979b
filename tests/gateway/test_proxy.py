"""One call through the gateway: what each side sees, what is recorded, and in which order."""

import asyncio
import base64
import functools
import gzip
import itertools
import json
import logging
import random
import re
from contextlib import suppress
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import msgspec
import pytest

from gateway import proxy, request_body
from gateway.callback_addresses import CallbackAddresses
from gateway.integrations import Integration
from gateway.limits import UpstreamLimits
from gateway.objects import LedgerObjects
from gateway.providers.api import Carried
from gateway.snapshot import TenantRecord
from metering.spool_records import RECORD_BYTES_MAX
from metering.usage import Completeness
from tests.gateway.peers import (
    answer,
    answers,
    chunked,
    client,
    eventually,
    provider,
    settled,
    soon,
    sse,
    stalled_client,
)
from tests.gateway.proxied import (
    ACME,
    ACME_ID,
    ALL_KEYS,
    CHAT,
    COMPLETION,
    EXPIRED,
    OTHER,
    OWN,
    OWN_KEY,
    OWN_MAIL_KEY,
    OWN_SID,
    PLATFORM_KEY,
    PLATFORM_MAIL_KEY,
    QUANTITIES,
    REAL_SID,
    REAL_TOKEN,
    SECRETS,
    SERVICE,
    SUSPENDED,
    UNMETERED,
    USAGE,
    chat,
    hashed,
    proxied,
    request,
    sid_of,
)
from tests.gateway.test_sharing import encodings

RESPONSE = "resp_68af4030592c81938ec0a5fbab4a3e9f05438e46b5f69a3b"
FILE = "file-BK7bzQj3FfZFXr7DbL6xJwfo"
JSON = b"Content-Type: application/json"
WHOLE = json.dumps(COMPLETION).encode()
COMPLETED = answer(WHOLE, JSON)


def event(**fields):
    return b"data: " + json.dumps({"id": "chatcmpl-1", "model": "gpt-4o-2024-08-06"} | fields).encode() + b"\n\n"


WORDS = [event(choices=[{"delta": {"content": word}}]) for word in ("one", "two", "three")]
USAGE_EVENT = event(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAMING = chat(stream=True)
ASKED_FOR_USAGE = chat(stream=True, stream_options={"include_usage": True})


@pytest.fixture
def gateway(tmp_path):
    """Makes a gateway before a provider that follows a script."""
    number = itertools.count()

    class Before:
        def __init__(self, script, **how):
            self.script, self.how = script, how

        async def __aenter__(self):
            self.provider = provider(self.script)
            self.proxied = proxied(tmp_path / str(next(number)), await self.provider.__aenter__(), **self.how)
            return await self.proxied.__aenter__()

        async def __aexit__(self, *error):
            await self.proxied.__aexit__(*error)
            await self.provider.__aexit__(*error)

    def before(script=None, **how):
        return Before(script or answers(COMPLETED), **how)

    return before


def sent(peer):
    """The one request that the provider got on a connection."""
    head, _, body = bytes(peer.seen).partition(b"\r\n\r\n")
    start, *lines = head.split(b"\r\n")
    return start, lines, body


def following(*steps):
    """A script of one connection: bytes are sent; an Event is waited for; a callable is called with the peer."""

    async def script(peer):
        await peer.message()
        for step in steps:
            if isinstance(step, bytes):
                await peer.send(step)
            elif isinstance(step, asyncio.Event):
                await soon(step.wait())
            else:
                step(peer)
        if not steps or isinstance(steps[-1], bytes):
            await peer.ended()

    return script


def frame(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST = b"0\r\n\r\n"


async def whole_answer(peer):
    """True if what a client gets looks like a whole answer to it: all of it, or an orderly end where only that tells."""
    try:
        return (await peer.message()).whole
    except (EOFError, ConnectionError):
        return False


# ---------------------------------------------------------------------------------------------------------------------
# What the provider gets


async def test_the_provider_gets_what_the_client_sent_less_only_what_is_documented(gateway):
    """Guards the list of changes: this names every one."""
    kept = [
        "X-Odd-CASE: a",
        "accept: */*",
        "accept: again",
        "User-Agent: me/1",
        "Cookie: a=b",
        "X-Forwarded-For: 1.2.3.4",
        "x-bytes: \xe9\xff",
    ]
    cut = [
        "X-Gateway-Category: rag",
        "x-gateway-tags: a=b",
        "X-Gateway-Metering: on",
        "X-GATEWAY-Estimate: on",
        "X-Gateway-Something-New: 1",
        "X-Tenant-ID: acme",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Trailer: X-T",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic x",
        "Connection: X-Named, keep-alive",
        "X-Named: 1",
        "Expect: 100-continue",
        "OpenAI-Organization: org-app",
        "OpenAI-Project: proj-app",
    ]
    mixed = [header for pair in itertools.zip_longest(cut, kept, fillvalue="X-Filler: x") for header in pair]
    kept.append("X-Filler: x")
    body = b' {"model": "gpt-4o", "n": 1.0 } '
    async with gateway() as made:
        async with client(made.port) as peer:
            peer.writer.write(request(CHAT + "?a=%62&&", body, *mixed))
            assert (await peer.message()).status == 200
        start, lines, got = sent(made.provider.peers[0])

    assert start == b"POST /v1/chat/completions?a=%62&& HTTP/1.1"
    assert lines == [
        f"Host: 127.0.0.1:{made.provider.port}".encode(),
        *(header.encode("latin-1") for header in mixed if header in kept),
        b"Authorization: Bearer " + PLATFORM_KEY.encode(),
        b"Content-Length: %d" % len(body),
    ]
    assert got == body


@pytest.mark.parametrize(
    "target",
    [
        "/v1/a%2Fb",
        "/v1/a%2f..%2fb",
        "/v1/../b",
        "/v1/./b",
        "/v1//b//",
        "//evil.example/b",
        "/v1/%2e%2e/%2E",
        "/v1/a;b=c;d",
        "/v1/%3b%00%zz%",
        "/v1/a+b%20c",
        "/v1/a?",
        "/v1/a??b=c?d",
        "/v1/a?b=c&&d&=&",
        "/v1/a\\b",
        "/v1/a|b^c`d{e}f<g>\"h'",
        "/v1/a:b@c,d!e*f(g)",
        "/v1/~a$b",
        "/",
        "/?",
        "/v1/http://evil.example/",
    ],
)
async def test_path_and_query_reach_the_provider_byte_for_byte(gateway, target):
    async with gateway() as made:
        got = await made.ask(request("/openai" + target, b"x", key=OWN))

        assert got.status == 200
        assert sent(made.provider.peers[0])[0] == f"POST {target} HTTP/1.1".encode()


@pytest.mark.parametrize(
    "target", ["http://evil.example/openai/v1/x", "evil.example:443", "*", "/openai/v1/x#y", "openai/v1/x"]
)
async def test_no_target_leads_anywhere_else(gateway, target):
    async with gateway() as made:
        got = await made.ask(request(target, b"", method="GET"))

        assert got.status in (400, 404)
        assert made.provider.peers == []


async def test_what_an_application_brings_itself_passes_through(gateway):
    async with gateway() as made:
        await made.ask(
            request(
                CHAT,
                b"{}",
                f"X-Gateway-Key: {ACME}",
                "OpenAI-Organization: org-app",
                "Authorization: Bearer sk-app",
                key=None,
            )
        )
        _, lines, _ = sent(made.provider.peers[0])

    assert b"Authorization: Bearer sk-app" in lines
    assert b"OpenAI-Organization: org-app" in lines
    assert not any(b"tk_" in line or PLATFORM_KEY.encode() in line for line in lines)


async def test_no_key_of_ours_reaches_a_provider(gateway):
    """Guards brings_credential: a gateway key beside X-Gateway-Key went to the provider, whose 401 quotes it."""
    async with gateway() as made:
        await made.ask(request(CHAT, b"{}", f"X-Gateway-Key: {ACME}", key=OTHER))
        await made.ask(request(CHAT, b"{}", f"Authorization: Bearer {OTHER}", key=ACME))
        await made.ask(request(CHAT, b"{}", f"X-Gateway-Key: {ACME}", key=None))
        twice = f"Authorization: Bearer Bearer {ACME}"
        await made.ask(request(CHAT, b"{}", f"X-Gateway-Key: {ACME}", twice, key=None))
        # Where others have theirs: clients that were made for Azure or for Anthropic have it there, too.
        await made.ask(request(CHAT, b"{}", f"api-key: {ACME}", f"x-api-key: {ACME}", "X-Job: build-7", key=ACME))

        assert b"tk_" not in made.provider.seen
        assert b"X-Job: build-7" in made.provider.seen
        assert made.provider.seen.count(b"Bearer " + PLATFORM_KEY.encode()) == 5


async def test_each_tenant_s_calls_carry_its_own_credential(gateway):
    async with gateway() as made:
        for _ in range(5):
            await asyncio.gather(*(made.ask(request(key=key)) for key in (ACME, OWN, OTHER)))
        used = [request_of for peer in made.provider.peers for request_of in bytes(peer.seen).split(b"POST ")[1:]]

    assert sum(b"Bearer " + OWN_KEY.encode() in text for text in used) == 5
    assert sum(b"Bearer " + PLATFORM_KEY.encode() in text for text in used) == 10


@pytest.mark.parametrize("length", ["5", "005", "0000000000000000005"])
async def test_a_length_reaches_the_provider_in_one_form(gateway, length):
    async with gateway() as made:
        head = f"POST /openai/v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OWN}\r\nContent-Length: {length}\r\n\r\n"
        await made.ask(head.encode() + b"hello")
        _, lines, body = sent(made.provider.peers[0])

    assert b"Content-Length: 5" in lines
    assert body == b"hello"


async def test_a_stream_that_did_not_ask_for_its_usage_does_when_it_leaves_and_its_client_does_not_see_it(gateway):
    async with gateway(answers(sse(*WORDS, USAGE_EVENT, DONE))) as made:
        got = await made.ask(request(CHAT, STREAMING, "Accept-Encoding: gzip, br"))
        _, lines, body = sent(made.provider.peers[0])

        assert json.loads(body) == json.loads(STREAMING) | {"stream_options": {"include_usage": True}}
        assert [line for line in lines if line.lower().startswith(b"accept-encoding")] == [b"Accept-Encoding: identity"]
        assert got.body == b"".join((*WORDS, DONE))
        assert made.events[0].quantities == QUANTITIES


async def test_a_stream_that_asked_for_its_usage_is_untouched(gateway):
    async with gateway(answers(sse(*WORDS, USAGE_EVENT, DONE))) as made:
        got = await made.ask(request(CHAT, ASKED_FOR_USAGE, "Accept-Encoding: gzip, br"))
        _, lines, body = sent(made.provider.peers[0])

        assert body == ASKED_FOR_USAGE
        assert b"Accept-Encoding: gzip, br" in lines
        assert got.body == b"".join((*WORDS, USAGE_EVENT, DONE))
        assert made.events[0].quantities == QUANTITIES


# ---------------------------------------------------------------------------------------------------------------------
# What the client gets


async def test_the_client_gets_what_was_answered_less_only_what_is_documented(gateway):
    """Guards the list of changes: this names every one."""
    kept = [
        b"X-Odd-CASE: a",
        b"Set-Cookie: a=1",
        b"Set-Cookie: b=2",
        b"x-request-id: req_1",
        b"x-bytes: \xe9",
        b"Content-Type: application/json",
    ]
    cut = [
        b"openai-organization: org-real",
        b"OpenAI-Project: proj-real",
        b"Keep-Alive: timeout=5",
        b"Connection: keep-alive, X-Named",
        b"x-named: 1",
        b"Proxy-Authenticate: Basic",
        b"Upgrade: h2c",
        b"Trailer: X",
        b"x-tollkeeper-call-id: forged",
        b"X-Tollkeeper-Error: forged",
    ]
    async with gateway(answers(answer(WHOLE, *kept[:3], *cut, *kept[3:], status=b"201 Made so"))) as made:
        got = await made.ask(request())

        head, _, body = got.raw.partition(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        call_id = made.events[0].call_id.encode()
        assert start == b"HTTP/1.1 201 Made so"
        assert lines == [*kept, b"x-tollkeeper-call-id: " + call_id, b"Content-Length: %d" % len(WHOLE)]
        assert body == WHOLE


@pytest.mark.parametrize("headers", [[f"X-Gateway-Key: {ACME}", "Authorization: Bearer sk-app"]])
async def test_whoever_brings_its_own_credential_sees_its_own_account(gateway, headers):
    async with gateway(answers(answer(b"x", b"openai-organization: org-app"))) as made:
        got = await made.ask(request(CHAT, b"{}", *headers, key=None))

        assert got["openai-organization"] == "org-app"


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("size", [0, 1, 300_000, 3_000_000])
async def test_a_body_arrives_as_it_was_sent_however_it_is_framed(gateway, framing, size):
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    reply = {
        "length": answer(body),
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body[:70_000], body[70_000:]),
        "close": b"HTTP/1.1 200 OK\r\n\r\n" + body,
    }[framing]

    async def script(peer):
        await peer.message()
        await peer.send(reply)

    async with gateway(script) as made:
        got = await made.ask(request())

        assert (got.status, got.body, got.whole) == (200, body, True)
        assert got["content-length"] == (str(size) if framing == "length" else None)
        assert len(made.events) == 1


@pytest.mark.parametrize("status", [b"300 Many", b"301 Moved", b"302 Found", b"307 Temporary", b"308 Permanent"])
async def test_redirects_are_relayed_and_not_followed(gateway, status):
    async with gateway(answers(answer(b"", b"Location: http://127.0.0.1:1/elsewhere", status=status))) as made:
        got = await made.ask(request())

        assert (got.status, got["location"]) == (int(status[:3]), "http://127.0.0.1:1/elsewhere")
        assert made.provider.seen.count(b"HTTP/1.1") == 1
        assert made.closed == [f"status {got.status}"]


async def test_cookies_are_not_kept(gateway):
    async with gateway(answers(answer(b"x", b"Set-Cookie: of=acme"))) as made:
        await made.ask(request(key=ACME))
        await made.ask(request(key=OTHER))

        assert b"cookie" not in made.provider.seen.lower()


@pytest.mark.parametrize(
    "status", [b"400 Bad", b"403 No", b"404 No", b"409 No", b"429 Slow", b"500 Oh", b"503 Later", b"599 X"]
)
async def test_a_failure_of_the_provider_s_is_passed_on_and_bills_nothing(gateway, status):
    failure = answer(
        b'{"error":{"message":"no"}}', JSON, b"Retry-After: 7", b"openai-organization: org-real", status=status
    )
    async with gateway(answers(failure)) as made:
        got = await made.ask(request())

        assert (got.status, got.body, got["retry-after"]) == (int(status[:3]), b'{"error":{"message":"no"}}', "7")
        assert got["openai-organization"] is None
        assert got["x-tollkeeper-call-id"] is not None
        assert got["x-tollkeeper-error"] is None
        assert (made.events, made.closed) == ([], [f"status {got.status}"])


async def test_a_refused_credential_of_ours_is_not_quoted_to_the_tenant(gateway):
    """Guards the 401: the provider's text quotes a part of the real key."""
    quoted = answer(
        b'{"error":{"message":"Incorrect API key provided: sk-platf***6789"}}',
        b"x-key: sk-platf",
        status=b"401 Unauthorized",
    )
    async with gateway(answers(quoted)) as made:
        for key in (ACME, OWN):
            got = await made.ask(request(key=key))

            assert (got.status, got["x-tollkeeper-error"], got["x-should-retry"]) == (
                401,
                "upstream_unauthorized",
                "false",
            )
            assert b"sk-platf" not in got.raw
        assert (made.events, made.closed) == ([], ["status 401", "status 401"])


async def test_a_refused_credential_of_the_application_s_own_is_its_own_to_see(gateway):
    quoted = answer(b'{"error":"Incorrect API key provided: sk-app"}', status=b"401 Unauthorized")
    async with gateway(answers(quoted)) as made:
        got = await made.ask(request(CHAT, b"{}", f"X-Gateway-Key: {ACME}", "Authorization: Bearer sk-app", key=None))

        assert (got.status, got.body, got["x-tollkeeper-error"]) == (
            401,
            b'{"error":"Incorrect API key provided: sk-app"}',
            None,
        )


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (b"HTTP/1.1 204 No\r\n\r\n", 204),
        (b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n", 304),
        (answer(b""), 200),
        (b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", 205),
    ],
)
async def test_an_answer_without_a_body_is_an_answer(gateway, reply, status):
    async with gateway(answers(reply)) as made, client(made.port) as peer:
        for _ in range(2):
            await peer.send(request(key=OWN))
            got = await peer.message()

            assert (got.status, got.body) == (status, b"")


async def test_head_gets_the_head(gateway):
    async with gateway(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")) as made, client(made.port) as peer:
        for _ in range(2):
            await peer.send(request("/openai/v1/models/x", b"", key=OWN, method="HEAD"))
            got = await peer.message(bodiless=True)

            assert (got.status, got["content-length"]) == (200, "5")
        assert b"Content-Length" not in made.provider.seen


async def test_a_stream_begins_before_its_first_event(gateway):
    first, go = asyncio.Event(), asyncio.Event()
    script = following(STREAM_HEAD, go, frame(WORDS[0]), first, frame(DONE) + LAST)
    async with gateway(script) as made, client(made.port) as peer:
        await peer.send(request(CHAT, ASKED_FOR_USAGE))
        head = await soon(peer._until(b"\r\n\r\n"))
        go.set()
        event = await soon(peer._until(WORDS[0] + b"\r\n"))
        first.set()

        assert head.startswith(b"HTTP/1.1 200 OK")
        assert WORDS[0] in event
        assert DONE in await soon(peer._until(LAST))


async def test_what_can_not_be_the_last_of_an_answer_is_not_held(gateway):
    """Guards memory: whoever read slowly had two reads kept, up to half a MiB, and with a declared length one is known to go on."""
    rest = asyncio.Event()
    async with gateway(following(COMPLETED[:-1], rest, COMPLETED[-1:])) as made, client(made.port) as peer:
        await peer.send(request())
        begun = await soon(peer._until(WHOLE[-20:-1]))
        rest.set()

        assert (begun + await soon(peer._exactly(1))).endswith(WHOLE)
        assert made.events[0].quantities == QUANTITIES


async def test_a_compressed_answer_is_passed_on_as_it_came_and_metered(gateway):
    packed = gzip.compress(WHOLE)
    async with gateway(answers(answer(packed, JSON, b"Content-Encoding: gzip"))) as made:
        got = await made.ask(request())

        assert (got.body, got["content-encoding"]) == (packed, "gzip")
        assert made.events[0].quantities == QUANTITIES


async def test_a_gateway_is_alive_without_a_key(gateway):
    async with gateway() as made:
        got = await made.ask(request("/healthz", b"", key=None, method="GET"))

        assert (got.status, got.body) == (200, b'{"status":"ok"}')
        assert made.lines == []


# ---------------------------------------------------------------------------------------------------------------------
# In which order


async def test_intent_then_the_provider_then_outcome_then_the_end_of_the_answer(gateway):
    first = asyncio.Event()
    async with gateway() as made:

        async def script(peer):
            await peer.message()
            made.order.append("request upstream")
            await peer.send(STREAM_HEAD + frame(WORDS[0]))
            await soon(first.wait())
            await peer.send(frame(USAGE_EVENT) + frame(DONE) + LAST)
            await peer.ended()

        made.provider.script = script
        async with client(made.port) as peer:
            await peer.send(request(CHAT, ASKED_FOR_USAGE))
            await soon(peer._until(WORDS[0]))
            made.order.append("first event at the client")
            first.set()
            await soon(peer._until(DONE))
            made.order.append("last event at the client")

    assert made.order == [
        "intent",
        "request upstream",
        "first event at the client",
        "outcome",
        "last event at the client",
    ]


ENDINGS = {
    "one piece": (b"{}", COMPLETED, WHOLE),
    "two pieces": (b"{}", COMPLETED[:-5], None),
    "chunked": (b"{}", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(WHOLE), WHOLE),
    "chunked, its end apart": (b"{}", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + frame(WHOLE), WHOLE),
    "no body": (b"{}", b"HTTP/1.1 204 No\r\n\r\n", b""),
    "an empty body": (b"{}", answer(b""), b""),
    "[DONE]": (ASKED_FOR_USAGE, sse(USAGE_EVENT, DONE), DONE),
    "[DONE], and the usage taken out": (STREAMING, sse(USAGE_EVENT, DONE), DONE),
    "[DONE], without an end of the body": (ASKED_FOR_USAGE, STREAM_HEAD + frame(USAGE_EVENT + DONE), DONE),
    "[DONE], without an end of the line": (ASKED_FOR_USAGE, STREAM_HEAD + frame(USAGE_EVENT + b"data: [DONE]"), DONE[:-2]),
    "a stream without [DONE]": (ASKED_FOR_USAGE, sse(WORDS[0], USAGE_EVENT), None),
    "a stream of known length": (ASKED_FOR_USAGE, answer(WORDS[0] + USAGE_EVENT, b"Content-Type: text/event-stream"), None),
    "response.completed": (
        b"{}",
        sse(b'data: {"type":"response.completed","response":{"id":"resp_1","usage":{"input_tokens":1}}}\n\n'),
        b"response.completed",
    ),
    "response.failed": (b"{}", sse(b'data: {"type":"response.failed","response":{"id":"resp_1"}}\n\n'), b"response.failed"),
    "response.incomplete": (b"{}", sse(b'data: {"type":"response.incomplete","response":{"id":"r"}}\n\n'), b"response.incomplete"),
}  # fmt: skip

LATER = {"two pieces": WHOLE[-5:], "chunked, its end apart": b"0\r\n\r\n"}
"""What of an answer comes after a while."""


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_what_can_not_be_recorded_does_not_look_like_success(gateway, ending, version, capfd):
    """Guards the order: written before it is recorded, the end of the answer is at the client all the same."""
    body, reply, mark = ENDINGS[ending]
    if ending in LATER:
        go = asyncio.Event()
        script = following(reply, go, LATER[ending])
        asyncio.get_running_loop().call_later(0.05, go.set)
    else:
        script = answers(reply)
    async with gateway(script) as made:
        made.spool.refusing = {"outcome"}
        async with client(made.port) as peer:
            raw = request(CHAT, body, f"X-Gateway-Category: {'rag'}").replace(
                b" HTTP/1.1\r\n", f" HTTP/{version}\r\n".encode(), 1
            )
            await peer.send(raw)
            looks_whole = await whole_answer(peer)

        assert not looks_whole
        assert mark is None or mark == b"" or mark not in bytes(peer.seen)
        assert made.lines[-1]["error"] == "usage_not_recorded"
    capfd.readouterr()


@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_the_disk_refuses_at_the_end_of_the_turn_does_not_look_like_success(gateway, ending, capfd):
    """As above, where the outcome was taken and is not in the file when it is to be written."""
    body, reply, mark = ENDINGS[ending]
    script = answers(reply)
    if ending in LATER:
        go = asyncio.Event()
        script = following(reply, go, LATER[ending])
        asyncio.get_running_loop().call_later(0.05, go.set)
    async with gateway(script) as made:
        made.spool.refusing_then = {"turn", "write"}
        async with client(made.port) as peer:
            await peer.send(request(CHAT, body))
            looks_whole = await whole_answer(peer)

        assert not looks_whole
        assert mark is None or mark == b"" or mark not in bytes(peer.seen)
    capfd.readouterr()


async def test_an_outcome_is_in_the_file_before_bytes_that_leave_in_a_later_turn(gateway, capfd):
    """Guards answers that are held back when they have concluded: their outcome was refused in a turn in which nothing of them
    was to leave, and the end of them left in the next."""
    whole = answer(WORDS[0] + USAGE_EVENT + b"data: [DONE]\n\n", b"Content-Type: text/event-stream")
    go = asyncio.Event()
    async with gateway(following(whole[:-1], go, whole[-1:])) as made:
        made.spool.refusing_then = {"turn", "write"}
        asyncio.get_running_loop().call_later(0.05, go.set)
        async with client(made.port) as peer:
            await peer.send(request(CHAT, ASKED_FOR_USAGE))
            assert not await whole_answer(peer)
    capfd.readouterr()


async def test_a_call_whose_intent_the_disk_refuses_at_the_end_of_the_turn_is_not_sent(gateway, capfd):
    """Guards the bytes to the provider: held back with their record, and the client told to try again."""
    async with gateway(answers(answer(b"{}"), answer(b"{}"))) as made, client(made.port) as peer:
        await peer.send(request(CHAT))
        first = await peer.message()
        made.spool.refusing = {"turn"}
        await peer.send(request(CHAT))
        second = await peer.message()

        assert (first.status, second.status) == (200, 503)
        assert bytes(made.provider.peers[0].seen).count(b"POST ") == 1
        await eventually(lambda: made.closed == ["unreachable"])
        assert len(made.events) == 1
    capfd.readouterr()


async def test_a_call_whose_intent_is_refused_connects_to_nobody(gateway):
    """Guards the calls for which a connection is made: they leave in a later turn than their intent."""
    async with gateway(answers(answer(b"{}"))) as made:
        made.spool.refusing = {"write"}
        refused = await made.ask(request(CHAT))

        assert refused.status == 503
        assert made.provider.peers == []


@pytest.mark.parametrize("ending", sorted(ENDINGS.keys() - LATER.keys()))
async def test_the_end_of_an_answer_waits_for_the_disk_where_that_is_asked_for(gateway, ending):
    """Guards waiting for durable after the outcome, and before the call leaves."""
    body, reply, mark = ENDINGS[ending]
    async with gateway(answers(reply)) as made:
        made.spool.fsync = True
        made.spool.syncs = asyncio.Semaphore(0)
        async with client(made.port) as peer:
            await peer.send(request(CHAT, body))
            await eventually(lambda: made.order == ["intent"])
            await asyncio.sleep(0.02)
            assert made.provider.peers == []

            made.spool.syncs.release()
            await eventually(lambda: "outcome" in made.order)
            await asyncio.sleep(0.02)
            early = bytes(peer.reader._buffer)
            made.spool.syncs.release()
            if "without an end" in ending:
                await soon(peer._until(mark))
            else:
                got = await peer.message()
                assert got.whole

        assert mark is None or mark == b"" or mark not in early
        assert LAST not in early
        if mark == b"":
            assert early == b""


@pytest.mark.parametrize("why", ["full", "failed"])
async def test_where_a_call_can_not_be_recorded_nothing_is_sent(gateway, why):
    """Guards recorder.begin before the connection."""
    blocked = asyncio.Event()

    async def slow(peer):
        await peer.message()
        await blocked.wait()
        await peer.send(COMPLETED)

    async with gateway(slow, segment_bytes=5 * RECORD_BYTES_MAX) as made:
        under_way = []
        if why == "full":
            for _ in range(3):
                under_way.append(asyncio.ensure_future(made.ask(request())))
                await eventually(lambda: len(made.provider.peers) == len(under_way))
        else:
            made.spool.refusing = {"intent"}
        seen = made.provider.seen

        got = await made.ask(request())

        assert (got.status, got["x-tollkeeper-error"], got["retry-after"], got["x-should-retry"]) == (
            503,
            "usage_not_recordable",
            "1",
            None,
        )
        assert made.provider.seen == seen
        assert len(made.provider.peers) == len(under_way)
        blocked.set()
        assert [(await soon(call)).status for call in under_way] == [200] * len(under_way)
        assert len(made.events) == len(under_way)


async def test_on_a_full_disk_a_call_that_costs_nothing_is_not_sent_either(gateway):
    """Guards the look for room before it is sent: the provider would act, and the client would see a broken connection."""
    blocked = asyncio.Event()

    async def slow(peer):
        await peer.message()
        await blocked.wait()
        await peer.send(COMPLETED)

    async with gateway(slow, segment_bytes=5 * RECORD_BYTES_MAX) as made:
        under_way = []
        for _ in range(3):
            under_way.append(asyncio.ensure_future(made.ask(request())))
            await eventually(lambda: len(made.provider.peers) == len(under_way))

        got = await made.ask(request("/openai/v1/files/file-1", b"", key=OWN, method="DELETE"))

        assert (got.status, got["x-tollkeeper-error"], got["retry-after"]) == (503, "usage_not_recordable", "1")
        assert len(made.provider.peers) == len(under_way)
        blocked.set()
        await soon(asyncio.gather(*under_way))
        assert (await made.ask(request("/openai/v1/files/file-1", b"", key=OWN, method="DELETE"))).status == 200


async def test_a_call_is_one_event_with_what_the_caller_said_of_it(gateway):
    async with gateway() as made:
        await made.ask(request(CHAT, chat(), "X-Gateway-Category: rag", "X-Gateway-Tags: team=a,env=b"))

        (recorded,) = made.events
        assert (recorded.tenant_id, recorded.key_id, recorded.category, recorded.tags) == (
            "acme",
            ACME_ID,
            "rag",
            {"team": "a", "env": "b"},
        )
        assert (recorded.event_type, recorded.endpoint, recorded.resource) == (
            "llm_call",
            "chat.completions",
            "gpt-4o-2024-08-06",
        )
        assert (recorded.quantities, recorded.completeness, recorded.metered) == (
            QUANTITIES,
            Completeness.REPORTED,
            True,
        )
        assert recorded.metadata["usage"] == USAGE


async def test_a_call_that_is_not_metered_is_recorded_as_that(gateway):
    async with gateway() as made:
        await made.ask(request(CHAT, chat(), "X-Gateway-Metering: off", key=UNMETERED))

        assert [record.metered for record in made.records] == [False, False]


async def test_a_path_that_nobody_listed_is_forwarded_and_metered_by_its_answer(gateway):
    async with gateway() as made:
        await made.ask(request("/openai/v1/something/new", b"{}"))

        (recorded,) = made.events
        assert (recorded.endpoint, recorded.event_type, recorded.quantities) == ("unlisted", "llm_call", QUANTITIES)


async def test_where_unlisted_paths_are_denied_they_are(gateway):
    async with gateway(unlisted=False) as made:
        for key in (ACME, OWN):
            got = await made.ask(request("/openai/v1/something/new", b"{}", key=key))

            assert (got.status, got["x-tollkeeper-error"]) == (403, "unlisted_endpoint")
        assert made.provider.peers == []
        assert (await made.ask(request())).status == 200


# ---------------------------------------------------------------------------------------------------------------------
# When the provider fails


async def test_a_provider_that_can_not_be_reached_was_sent_nothing(gateway):
    async with gateway(port=9) as made:
        got = await made.ask(request())

        assert (got.status, got["x-tollkeeper-error"], got["x-should-retry"]) == (502, "upstream_unreachable", None)
        assert (made.events, made.closed) == ([], ["unreachable"])


@pytest.mark.parametrize("how", ["close", "reset", "half a head", "nonsense", "101"])
async def test_a_post_that_got_no_answer_is_sent_once_and_is_unknown(gateway, how):
    """Guards `a POST is never sent twice`."""

    async def script(peer):
        await peer.message()
        if how == "reset":
            peer.reset()
        elif how != "close":
            await peer.send(
                {"half a head": b"HTTP/1.1 200 O", "nonsense": b"<html>", "101": b"HTTP/1.1 101 X\r\n\r\n"}[how]
            )

    async with gateway(script) as made:
        got = await made.ask(request(CHAT, chat()))

        assert (got.status, got["x-tollkeeper-error"], got["x-should-retry"]) == (502, "upstream_broke", "false")
        assert made.provider.seen.count(b"POST ") == 1
        (recorded,) = made.events
        assert (recorded.completeness, recorded.quantities, recorded.resource) == (Completeness.UNKNOWN, {}, "gpt-4o")


async def test_a_post_on_a_stale_connection_is_not_sent_again(gateway):
    """Guards the methods that may be repeated. The provider has acted, and says nothing."""
    acted = []

    async def script(peer):
        await peer.message()
        acted.append(1)
        if len(acted) > 1:
            return
        await peer.send(COMPLETED)
        await peer.message()
        acted.append(2)

    async with gateway(script) as made:
        assert (await made.ask(request())).status == 200
        got = await made.ask(request())

        assert got.status == 502
        assert acted == [1, 2]
        assert [recorded.completeness for recorded in made.events] == [Completeness.REPORTED, Completeness.UNKNOWN]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_read_on_a_stale_connection_is_tried_once_more(gateway, method):
    connections = []

    async def script(peer):
        connections.append(peer)
        await peer.message()
        if len(connections) == 1:
            await peer.send(answer(b"ok") if method == "GET" else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            await peer.message()
            return
        await peer.send(answer(b"again") if method == "GET" else b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        await peer.ended()

    async with gateway(script) as made:
        for length in ("2", "5"):
            got = await made.ask(
                request("/openai/v1/responses/resp_abc", b"", key=OWN, method=method), bodiless=method == "HEAD"
            )

            assert (got.status, got["content-length"]) == (200, length)
        assert len(connections) == 2


async def test_a_read_is_not_tried_for_ever(gateway):
    async def script(peer):
        await peer.message()

    async with gateway(script) as made:
        got = await made.ask(request("/openai/v1/responses/resp_abc", b"", key=OWN, method="GET"))

        assert (got.status, len(made.provider.peers)) == (502, 1)
        assert made.events == []


async def test_a_provider_that_is_too_slow_is_not_asked_again(gateway):
    """Guards TooSlow: as a kind of NoAnswer, a read that had waited for a quarter of an hour waited for another."""

    async def script(peer):
        await peer.message()
        await peer.send(answer(b"ok"))
        await peer.message()
        await peer.ended()

    async with gateway(script, upstream_limits=UpstreamLimits(first_byte_timeout_s=0.5)) as made:
        read = request("/openai/v1/responses/resp_abc", b"", key=OWN, method="GET")
        await made.ask(read)
        got = await made.ask(read)

        assert (got.status, got["x-tollkeeper-error"], len(made.provider.peers)) == (504, "upstream_timeout", 1)


async def test_a_post_that_is_not_answered_in_time_is_unknown(gateway):
    async with gateway(following(asyncio.Event()), upstream_limits=UpstreamLimits(first_byte_timeout_s=0.05)) as made:
        made.provider.script = following()
        got = await made.ask(request())

        assert (got.status, got["x-should-retry"]) == (504, "false")
        assert [recorded.completeness for recorded in made.events] == [Completeness.UNKNOWN]


BREAKS = {
    "a length": (b"{}", answer(WHOLE, JSON)[:-10], {}),
    "a length, nothing yet": (b"{}", answer(WHOLE, JSON)[: -len(WHOLE)], {}),
    "chunks": (b"{}", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + frame(WHOLE), {}),
    "a gzip": (b"{}", answer(WHOLE, b"Content-Encoding: gzip")[:-10], {}),
    "a stream": (ASKED_FOR_USAGE, STREAM_HEAD + frame(WORDS[0]) + frame(WORDS[1]), {}),
    "a stream, the usage taken out": (STREAMING, STREAM_HEAD + frame(WORDS[0]) + frame(b"data: {"), {}),
    "a stream that has told its usage": (
        ASKED_FOR_USAGE,
        STREAM_HEAD + frame(WORDS[0]) + frame(USAGE_EVENT),
        QUANTITIES,
    ),
    "a stream that is done": (ASKED_FOR_USAGE, STREAM_HEAD + frame(USAGE_EVENT) + frame(DONE), QUANTITIES),
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("what", BREAKS)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_an_answer_that_breaks_off_never_looks_whole_and_is_recorded(gateway, what, how, version):
    """Guards the abort: ended in an orderly way, 200 of 200 such answers look whole to somebody."""
    body, part, quantities = BREAKS[what]
    go = asyncio.Event()

    async def script(peer):
        await peer.message()
        await peer.send(part)
        await go.wait()
        if how == "reset":
            peer.reset()

    async with gateway(script) as made, client(made.port) as peer:
        await peer.send(request(CHAT, body).replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
        asyncio.get_running_loop().call_later(0.03, go.set)

        assert not await whole_answer(peer)
        await eventually(lambda: made.events)
        (recorded,) = made.events
        assert recorded.quantities == quantities
        assert recorded.completeness is (Completeness.REPORTED if quantities else Completeness.UNKNOWN)
        assert made.lines[-1]["error"] == "upstream_broke"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 500 Oh\r\nContent-Length: 100\r\n\r\nabc",
        b"HTTP/1.1 429 Slow\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 400 Bad\r\n\r\nabc",
    ],
)
async def test_a_failure_that_breaks_off_does_not_look_whole_either(gateway, part, how):
    go = asyncio.Event()

    async def script(peer):
        await peer.message()
        await peer.send(part)
        await go.wait()
        if how == "reset":
            peer.reset()

    async with gateway(script) as made, client(made.port) as peer:
        await peer.send(request())
        asyncio.get_running_loop().call_later(0.03, go.set)

        # A body that ends by the close has come whole if the close is in order.
        assert await whole_answer(peer) is (how == "close" and b"Content-Length" not in part and b"chunked" not in part)


# ---------------------------------------------------------------------------------------------------------------------
# When the client leaves


async def test_a_client_that_leaves_in_the_middle_of_a_stream_is_still_metered(gateway):
    left = asyncio.Event()
    async with gateway(
        following(STREAM_HEAD + frame(WORDS[0]), left, frame(WORDS[1]) + frame(USAGE_EVENT) + frame(DONE) + LAST)
    ) as made:
        async with client(made.port) as peer:
            await peer.send(request(CHAT, STREAMING))
            await soon(peer._until(WORDS[0]))
        await eventually(lambda: not made.listener.connections)
        left.set()

        await eventually(lambda: made.lines)
        assert made.events[0].quantities == QUANTITIES
        assert made.lines[0]["error"] == "client_gone"


async def test_a_client_that_leaves_before_the_answer_is_still_metered(gateway):
    left = asyncio.Event()
    async with gateway(following(left, COMPLETED)) as made:
        async with client(made.port) as peer:
            await peer.send(request())
            await eventually(lambda: made.provider.peers and made.provider.seen.endswith(b"{}"))
        await eventually(lambda: not made.listener.connections)
        left.set()

        await eventually(lambda: made.lines)
        assert made.events[0].quantities == QUANTITIES
        assert made.events[0].status == 200


async def test_an_answer_that_nobody_waits_for_is_followed_up_to_a_bound(gateway, monkeypatch):
    monkeypatch.setattr(proxy, "DRAIN_BYTES_MAX", 1 << 20)
    left = asyncio.Event()
    ended = []

    async def script(peer):
        await peer.message()
        await peer.send(STREAM_HEAD + frame(WORDS[0]))
        await soon(left.wait())
        try:
            while True:
                await peer.send(frame(bytes(65536)))
        except ConnectionError:
            ended.append(True)

    async with gateway(script) as made:
        async with client(made.port) as peer:
            await peer.send(request(CHAT, STREAMING))
            await soon(peer._until(WORDS[0]))
        await eventually(lambda: not made.listener.connections)
        left.set()

        await eventually(lambda: ended and made.lines)
        assert [recorded.completeness for recorded in made.events] == [Completeness.UNKNOWN]


@pytest.mark.parametrize("begun", [b"", STREAM_HEAD + frame(WORDS[0])])
async def test_where_it_is_asked_for_a_call_ends_with_its_client(gateway, begun):
    """Guards telling the connection: noticed only with the next byte, a call without streaming was never cancelled."""
    ended = []

    async def script(peer):
        await peer.message()
        await peer.send(begun)
        ended.append(await peer.ended())

    async with gateway(script, drain=False) as made:
        async with client(made.port) as peer:
            await peer.send(request(CHAT, STREAMING))
            await eventually(lambda: made.provider.seen.endswith(b"}"))
            if begun:
                await soon(peer._until(WORDS[0]))

        await eventually(lambda: ended and made.lines)
        (recorded,) = made.events
        assert (recorded.completeness, recorded.quantities) == (Completeness.UNKNOWN, {})
        assert made.lines[0]["error"] == "client_gone"


async def test_where_calls_end_with_their_clients_the_next_call_of_a_client_is_not_ended(gateway):
    async with gateway(drain=False) as made, client(made.port) as peer:
        for _ in range(3):
            await peer.send(request())
            assert (await peer.message()).status == 200


@pytest.mark.parametrize(
    ("path", "size", "begun"),
    [
        (CHAT, proxy.BODY_BYTES_MAX, False),
        ("/openai/v1/files", proxy.BRIEF_BYTES_MAX, False),
        ("/openai/v1/files", proxy.BRIEF_BYTES_MAX + 1, True),
    ],
)
async def test_a_client_that_leaves_before_its_request_is_whole_has_used_nothing(gateway, path, size, begun):
    """Guards what the provider hears of a brief body, too: nothing, before all of it is here."""
    async with gateway() as made:
        async with client(made.port) as peer:
            await peer.send(request(path, bytes(size), key=OWN)[:-500])
            if begun:
                await eventually(lambda: made.provider.seen)
        await eventually(lambda: made.lines)

        assert made.lines[0]["error"] == "client_gone"
        assert made.events == []
        assert made.closed == (["request not sent whole"] if begun else [])
        assert bool(made.provider.peers) is begun
        assert (await made.ask(request())).status == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
async def test_half_a_request_is_the_beginning_of_nobody_else_s(gateway, framing):
    """Guards the end of a connection whose request was not sent whole: given back, the next tenant's call was its body."""
    head = b"POST /openai/v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + OWN.encode() + b"\r\n" + framing
    async with gateway() as made:
        async with client(made.port) as peer:
            await peer.send(head + b"\r\n\r\n3e8\r\n" + bytes(500))
            await eventually(lambda: made.provider.peers)
        await eventually(lambda: made.lines)

        got = await made.ask(request(CHAT, chat(), key=OTHER))

        assert got.status == 200
        assert len(made.provider.peers) == 2
        assert b"chat" not in made.provider.peers[0].seen


# ---------------------------------------------------------------------------------------------------------------------
# Large bodies


async def test_a_client_that_does_not_read_stops_the_provider(gateway):
    """Guards the back-pressure from one end to the other."""
    sent_bytes = 0

    async def endless(peer):
        nonlocal sent_bytes
        await peer.message()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        while True:
            await peer.send(frame(bytes(64 << 10)))
            sent_bytes += 64 << 10

    async with gateway(endless) as made:
        with stalled_client(made.port) as end:
            end.sendall(request())
            assert await settled(lambda: sent_bytes) < 32 << 20


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("path", [CHAT, "/openai/v1/new/things"])
async def test_a_large_body_is_forwarded_as_it_comes(gateway, framing, path):
    body = bytes(range(256)) * (40 << 10) + b"end"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ACME}\r\n".encode()
    async with gateway() as made:
        got = []

        async def script(peer):
            message = await peer.message()
            got.append(message)
            await peer.send(COMPLETED)
            await peer.ended()

        made.provider.script = script
        async with client(made.port) as peer:
            if framing == "length":
                peer.writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            else:
                peer.writer.write(
                    head
                    + b"Transfer-Encoding: chunked\r\n\r\n"
                    + chunked(*(body[at : at + 50_000] for at in range(0, len(body), 50_000)))
                )
            assert (await peer.message()).status == 200

        assert got[0].body == body
        assert (got[0]["content-length"], got[0]["transfer-encoding"]) == (
            (str(len(body)), None) if framing == "length" else (None, "chunked")
        )
        assert made.events[0].quantities == QUANTITIES


async def test_a_body_that_the_provider_does_not_take_stops_the_client(gateway):
    """Guards the back-pressure of uploads."""
    go = asyncio.Event()

    async def slow(peer):
        await peer._until(b"\r\n\r\n")
        await go.wait()
        await peer._exactly(100 << 20)
        await peer.send(COMPLETED)
        await peer.ended()

    async with gateway(slow) as made, client(made.port) as peer:
        head = f"POST /openai/v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OWN}\r\nContent-Length: {100 << 20}\r\n\r\n"
        await peer.send(head.encode())
        written = 0

        async def upload():
            nonlocal written
            for _ in range(100):
                peer.writer.write(bytes(1 << 20))
                await peer.writer.drain()
                written += 1

        uploading = asyncio.ensure_future(upload())
        stopped = await settled(lambda: written)
        go.set()
        await soon(uploading)

        assert stopped < 32
        assert (await peer.message()).status == 200


@pytest.mark.parametrize("then", ["reads no more", "closes"])
async def test_an_answer_before_the_end_of_the_request_is_relayed(gateway, then):
    stay = asyncio.Event()

    async def early(peer):
        await peer._until(b"\r\n\r\n")
        await peer.send(answer(b"too large", status=b"413 Too Large"))
        if then == "reads no more":
            await stay.wait()

    async with gateway(early) as made, client(made.port) as peer:
        peer.writer.write(request("/openai/v1/files", bytes(20 << 20), key=OWN))
        got = await peer.message()

        assert (got.status, got.body, got["connection"]) == (413, b"too large", "close")
        assert made.closed == ["status 413"]
        stay.set()
        made.provider.script = answers(COMPLETED)
        assert (await made.ask(request(key=OTHER))).status == 200


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


def keys_cut_and_altered():
    for key in (
        ACME,
        ACME[:-1],
        ACME[1:],
        ACME + "a",
        ACME[:-1] + ("a" if ACME[-1] != "a" else "b"),
        ACME.upper(),
        "tk_" + "0" * 12 + ACME[15:],
    ):
        if key != ACME:
            yield key


REFUSED = {
    "no key": (request(key=None), 401, "missing_key"),
    "a provider's key": (request(key="sk-proj-abc"), 401, "invalid_key"),
    "an expired key": (request(key=EXPIRED), 401, "expired_key"),
    "a suspended tenant": (request(key=SUSPENDED), 403, "tenant_suspended"),
    "another tenant": (request(CHAT, b"{}", "X-Tenant-ID: other"), 403, "tenant_mismatch"),
    "its tenant and another": (request(CHAT, b"{}", "X-Tenant-ID: acme", "X-Tenant-ID: other"), 403, "tenant_mismatch"),
    "a service key alone": (request(key=SERVICE), 403, "tenant_required"),
    "a service key for two": (request(CHAT, b"{}", "X-Tenant-ID: acme", "X-Tenant-ID: other", key=SERVICE), 403, "tenant_required"),
    "a service key for nobody": (request(CHAT, b"{}", "X-Tenant-ID: nobody", key=SERVICE), 403, "tenant_unknown"),
    "a service key for a suspended tenant": (request(CHAT, b"{}", "X-Tenant-ID: suspended", key=SERVICE), 403, "tenant_suspended"),
    "a credential of another tenant's": (request(CHAT, b"{}", "X-Tenant-ID: moved", key=SERVICE), 403, "no_credential"),
    "a category": (request(CHAT, b"{}", "X-Gateway-Category: a b"), 400, "invalid_header"),
    "a tag": (request(CHAT, b"{}", "X-Gateway-Tags: a"), 400, "invalid_header"),
    "metering off": (request(CHAT, b"{}", "X-Gateway-Metering: off"), 403, "scope_missing"),
    "no such provider": (request("/azure/v1/models", b"{}"), 404, "unknown_provider"),
    "an encoded body": (request(CHAT, b"{}", "Content-Encoding: gzip"), 415, "encoded_body"),
    "a body encoded twice": (request(CHAT, b"{}", "Content-Encoding: identity", "Content-Encoding: gzip"), 415, "encoded_body"),
    "a list": (request("/openai/v1/files", b"", method="GET"), 403, "not_on_shared_account"),
    "administration": (request("/openai/v1/organization/users", b"", method="GET"), 403, "not_on_shared_account"),
}  # fmt: skip
REFUSED |= {
    f"a wrong key, {number}": (request(key=key), 401, "invalid_key")
    for number, key in enumerate(keys_cut_and_altered())
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_refusal_has_the_provider_s_shape_and_its_reason_and_nothing_is_sent(gateway, what):
    raw, status, code = REFUSED[what]
    async with gateway() as made:
        got = await made.ask(raw)

        assert (got.status, got["x-tollkeeper-error"], got["x-should-retry"]) == (status, code, "false")
        assert got["content-type"] == "application/json"
        assert got["x-tollkeeper-call-id"] is not None
        error = json.loads(got.body)["error"]
        assert (error["code"], error["message"][-1]) == (code, ".")
        assert made.provider.peers == []
        assert made.records == []
        assert made.lines[0]["error"] == code
        assert not re.search(rb"tk_\w|sk-", got.body)


async def test_without_a_credential_a_call_goes_nowhere(gateway):
    async with gateway(credentials=False) as made:
        got = await made.ask(request())

        assert (got.status, got["x-tollkeeper-error"]) == (403, "no_credential")
        assert made.provider.peers == []
        assert (await made.ask(request(key=OWN))).status == 200


async def test_a_service_key_s_call_is_on_the_account_of_the_tenant_it_names(gateway):
    async with gateway() as made:
        for tenant_id in ("acme", "other", "own"):
            assert (await made.ask(request(CHAT, b"{}", f"X-Tenant-ID: {tenant_id}", key=SERVICE))).status == 200

        assert [recorded.tenant_id for recorded in made.events] == ["acme", "other", "own"]


async def test_on_one_connection_each_request_says_anew_who_is_calling(gateway):
    async with gateway() as made, client(made.port) as peer:
        peer.writer.write(b"".join(request(key=key) for key in (ACME, OTHER, "tk_wrong_key", ACME)))
        statuses = [(await peer.message()).status for _ in range(4)]

        assert statuses == [200, 200, 401, 200]
        assert [recorded.tenant_id for recorded in made.events] == ["acme", "other", "acme"]


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_refusal_of_head_has_no_body(gateway, method):
    async with gateway() as made, client(made.port) as peer:
        await peer.send(request(CHAT, b"", key=None, method=method))
        got = await peer.message(bodiless=method == "HEAD")
        await peer.send(request())

        assert got.status == 401
        assert (await peer.message()).status == 200


# ---------------------------------------------------------------------------------------------------------------------
# An account that is shared


ADMINISTRATION = "/openai/v1/organization/admin_api_keys"


@pytest.mark.parametrize("spelling", list(encodings("/v1/organization"))[:23])
async def test_administration_is_out_of_reach_in_every_spelling(gateway, spelling):
    async with gateway() as made:
        for method in ("GET", "POST"):
            got = await made.ask(request("/openai" + spelling, b"", method=method))

            assert got.status in (400, 403)
        assert made.provider.peers == []


async def test_a_tenant_with_an_account_of_its_own_has_all_of_it(gateway):
    async with gateway() as made:
        for path in (ADMINISTRATION, "/openai/v1/files", f"/openai/v1/responses/{RESPONSE}", "/openai/v1/x%2Fy"):
            assert (await made.ask(request(path, b"", key=OWN, method="GET"))).status == 200
        assert (
            await made.ask(
                request("/openai/v1/responses", json.dumps({"previous_response_id": RESPONSE}).encode(), key=OWN)
            )
        ).status == 200


async def test_an_installation_for_one_tenant_may_open_its_account(gateway):
    async with gateway(shared_reads=True) as made:
        assert (await made.ask(request("/openai/v1/files", b"", method="GET"))).status == 200


async def test_what_a_tenant_made_is_its_own_and_looks_missing_to_everybody_else(gateway):
    made_it = answer(json.dumps({"id": RESPONSE, "usage": {"input_tokens": 1}}).encode(), JSON)
    async with gateway(answers(made_it)) as made:
        await made.ask(request("/openai/v1/responses", b"{}"))
        seen = made.provider.seen

        theirs = await made.ask(request(f"/openai/v1/responses/{RESPONSE}", b"", key=OTHER, method="GET"))
        missing = await made.ask(
            request("/openai/v1/responses/resp_00000000000000000000", b"", key=OTHER, method="GET")
        )
        assert made.provider.seen == seen
        own = await made.ask(request(f"/openai/v1/responses/{RESPONSE}", b"", method="GET"))

        assert (theirs.status, missing.status, own.status) == (404, 404, 200)
        assert theirs.body.replace(RESPONSE.encode(), b"") == missing.body.replace(b"resp_00000000000000000000", b"")
        assert {name for name, _ in theirs.headers} == {name for name, _ in missing.headers}
        assert theirs["x-tollkeeper-error"] is None
        assert [recorded.endpoint for recorded in made.events] == ["responses", "responses.retrieve"]
        assert made.events[1].quantities == {}


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"previous_response_id": RESPONSE}),
        json.dumps({"previous_response_id": RESPONSE}).replace("resp", "\\u0072esp"),
        json.dumps({"tools": [{"file_ids": [FILE]}]}),
        json.dumps({"previous_response_id": RESPONSE}).encode("utf-16").decode("latin-1"),
    ],
)
async def test_what_belongs_to_another_tenant_can_not_be_named_in_a_body_either(gateway, body):
    async with gateway() as made:
        for name in (RESPONSE, FILE):
            made.objects.made("acme", "openai", name)
        raw = body.encode("latin-1")

        theirs = await made.ask(request("/openai/v1/responses", raw, key=OTHER))
        seen = made.provider.seen
        own = await made.ask(request("/openai/v1/responses", raw, key=ACME))

        assert (theirs.status, own.status) == (404, 200)
        assert seen == b""
        assert len([record for record in made.records if getattr(record, "tenant_id", "") == "other"]) == 0


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("hidden", [False, True])
async def test_in_a_body_too_large_to_be_held_it_can_not_be_named_either(gateway, framing, hidden):
    """Guards the search in what is forwarded as it comes: what is refused in the middle is never a whole request."""
    name = "".join(f"\\u{ord(letter):04x}" for letter in RESPONSE) if hidden else RESPONSE
    begin = b'{"padding":"' + b"x" * (9 << 20) + b'","previous_response_id":"'
    end = name.encode() + b'","more":"' + b"y" * 200_000 + b'"}'
    size = len(begin) + len(end)
    head = f"POST /openai/v1/responses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OTHER}\r\n".encode()

    def framed(data):
        return frame(data) if framing == "chunked" else data

    async with gateway() as made:
        made.objects.made("acme", "openai", RESPONSE)
        async with client(made.port) as peer:
            await peer.send(
                head
                + (
                    b"Transfer-Encoding: chunked\r\n\r\n"
                    if framing == "chunked"
                    else b"Content-Length: %d\r\n\r\n" % size
                )
            )
            await peer.send(framed(begin + end[:7]))
            await eventually(lambda: made.provider.seen)
            for at in range(7, 2 * len(name), 5):
                await peer.send(framed(end[at : at + 5]))
            peer.writer.write(framed(end[2 * len(name) + 5 :]) + (LAST if framing == "chunked" else b""))
            got = await peer.message()
        await eventually(lambda: made.lines)
        await asyncio.sleep(0.02)

        assert got.status == 404
        assert b"more" not in made.provider.seen
        assert name[-8:].encode() not in made.provider.seen
        assert (made.events, made.closed) == ([], ["request not sent whole"])


async def test_a_conversation_with_tools_goes_on(gateway):
    body = chat(
        messages=[
            {
                "role": "assistant",
                "tool_calls": [{"id": "call_9sdfUYkj23hjkKJHkjh23kjh", "function": {"name": "run_python_code"}}],
            }
        ]
    )
    async with gateway() as made:
        assert (await made.ask(request(CHAT, body))).status == 200


async def test_where_it_can_not_be_found_out_whose_an_object_is_nothing_is_sent(gateway):
    async with gateway() as made:
        made.objects.unavailable = True
        got = await made.ask(request(f"/openai/v1/responses/{RESPONSE}", b"", method="GET"))

        assert (got.status, got["x-tollkeeper-error"], got["retry-after"]) == (503, "owner_unknown", "1")
        assert made.provider.peers == []
        assert (await made.ask(request())).status == 200


async def test_a_ledger_answers_whose_an_object_is(gateway, database):
    async with gateway() as made:
        made.proxy._objects = LedgerObjects(database, 0)

        assert (await made.ask(request(f"/openai/v1/responses/{RESPONSE}", b"", method="GET"))).status == 404


# ---------------------------------------------------------------------------------------------------------------------
# An account that goes by another name

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


def shown(made, *answers):
    """Everything that a tenant or an operator gets to see of calls, and everything that is kept of them."""
    return made.spooled + str(made.lines).encode() + b"".join(got.raw for got in answers)


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


# ---------------------------------------------------------------------------------------------------------------------
# Mail

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


# ---------------------------------------------------------------------------------------------------------------------
# What is said of it


async def test_a_call_is_one_line_of_the_log(gateway):
    async with gateway() as made:
        got = await made.ask(request(CHAT, chat()))
        await made.ask(request(key=None))

        said, refused = made.lines
        assert said["call_id"] == got["x-tollkeeper-call-id"] == made.events[0].call_id
        assert {
            name: said[name]
            for name in ("status", "method", "provider", "endpoint", "tenant_id", "key_id", "event_type", "usage")
        } == {
            "status": 200,
            "method": "POST",
            "provider": "openai",
            "endpoint": "chat.completions",
            "tenant_id": "acme",
            "key_id": ACME_ID,
            "event_type": "llm_call",
            "usage": QUANTITIES,
        }
        assert said["duration_ms"] >= said["upstream_ms"] >= 0
        assert (refused["status"], refused["error"], refused.get("tenant_id")) == (401, "missing_key", None)


async def test_what_fails_inside_is_told_by_its_type_alone(gateway, capfd, caplog):
    """Guards the last line of defence: the text of an exception holds whatever it was raised with."""

    async def fail(*args):
        raise ZeroDivisionError("sk-secret tk_secret")

    async with gateway() as made:
        made.objects.owns = fail
        with caplog.at_level(logging.DEBUG):
            got = await made.ask(request(f"/openai/v1/responses/{RESPONSE}?key=sk-secret", b"", method="GET"))

        assert (got.status, got["x-tollkeeper-error"]) == (500, "internal")
        shown = "".join((*capfd.readouterr(), caplog.text, got.raw.decode("latin-1"), str(made.lines)))
        assert "ZeroDivisionError" in shown
        assert "test_proxy.py:" in shown
        assert "secret" not in shown


async def test_no_key_and_no_content_is_kept_anywhere(gateway, capfd, caplog):
    canaries = ["the-prompt-canary", "the-answer-canary", "the-header-canary", "the-query-canary", "the-agent-canary"]
    whole = json.dumps(
        COMPLETION | {"choices": [{"message": {"content": canaries[1]}}], "usage": USAGE | {"note": canaries[1]}}
    ).encode()
    said = chat(messages=[{"role": "user", "content": canaries[0]}], user=canaries[0])
    with caplog.at_level(logging.DEBUG):
        async with gateway(answers(answer(whole, JSON, b"X: the-header-canary", b"Connection: close"))) as made:
            for key in (ACME, OWN, EXPIRED, "tk_wrong_key-canary", None):
                await made.ask(
                    request(
                        CHAT + "?q=the-query-canary",
                        said,
                        "X-A: the-header-canary",
                        "User-Agent: the-agent-canary",
                        key=key,
                    )
                )
            made.provider.script = following(
                STREAM_HEAD + frame(event(choices=[{"delta": {"content": canaries[1]}}])), lambda peer: peer.reset()
            )
            async with client(made.port) as peer:
                await peer.send(request(CHAT, STREAMING))
                await peer.rest()
            await eventually(lambda: len(made.lines) == 6)
            kept = made.spooled.decode("latin-1") + str(made.lines) + "".join((*capfd.readouterr(), caplog.text))

    for canary in (*canaries, *ALL_KEYS, "tk_wrong_key-canary", PLATFORM_KEY, OWN_KEY):
        assert canary not in kept, canary
    assert len(made.events) == 3


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


async def test_no_plan_is_kept_for_a_head_that_no_other_call_will_share(gateway):
    """Guards the memory: plans held the whole heads that they were made for, which nothing else bounded."""
    async with gateway(answers(COMPLETED, COMPLETED)) as made:
        await made.ask(request(CHAT, b"{}", "X-Long: " + "a" * 5000))
        assert not made.proxy._plans

        await made.ask(request(CHAT, b"{}"))
        assert len(made.proxy._plans) == 1
