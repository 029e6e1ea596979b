"""One call through the gateway: what each side sees, what is recorded, and in which order."""

import asyncio
import gzip
import itertools
import json
import logging
import re

import pytest

from gateway import proxy
from gateway.limits import UpstreamLimits
from gateway.objects import LedgerObjects
from metering.spool_records import RECORD_BYTES_MAX
from metering.usage import Completeness
from tests.gateway.peers import answer, answers, chunked, client, eventually, settled, soon, sse, stalled_client
from tests.gateway.proxied import (
    ACME,
    ACME_ID,
    ALL_KEYS,
    CHAT,
    COMPLETED,
    COMPLETION,
    EXPIRED,
    JSON,
    LAST,
    OTHER,
    OWN,
    OWN_KEY,
    PLATFORM_KEY,
    QUANTITIES,
    SERVICE,
    SUSPENDED,
    UNMETERED,
    USAGE,
    WHOLE,
    chat,
    following,
    frame,
    request,
    sent,
)
from tests.gateway.test_sharing import encodings

RESPONSE = "resp_68af4030592c81938ec0a5fbab4a3e9f05438e46b5f69a3b"
FILE = "file-BK7bzQj3FfZFXr7DbL6xJwfo"


def event(**fields):
    return b"data: " + json.dumps({"id": "chatcmpl-1", "model": "gpt-4o-2024-08-06"} | fields).encode() + b"\n\n"


WORDS = [event(choices=[{"delta": {"content": word}}]) for word in ("one", "two", "three")]
USAGE_EVENT = event(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAMING = chat(stream=True)
ASKED_FOR_USAGE = chat(stream=True, stream_options={"include_usage": True})


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


async def test_no_plan_is_kept_for_a_head_that_no_other_call_will_share(gateway):
    """Guards the memory: plans held the whole heads that they were made for, which nothing else bounded."""
    async with gateway(answers(COMPLETED, COMPLETED)) as made:
        await made.ask(request(CHAT, b"{}", "X-Long: " + "a" * 5000))
        assert not made.proxy._plans

        await made.ask(request(CHAT, b"{}"))
        assert len(made.proxy._plans) == 1
