"""The simulator at its sockets: every fault, every framing, and a truth log that knows of each."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import zlib

import brotli
import pytest
from backports import zstd

from tests.gateway.simulator.simulated import CHAT, KEY, Simulated, parsed, request

STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
RESPONSE_STREAM = {"model": "gpt-4o", "input": "hello", "stream": True}


async def test_an_answer_has_a_length_and_a_stream_has_chunks(simulated: Simulated) -> None:
    plain = await simulated.ask("/chat/completions", CHAT)
    stream = await simulated.ask("/chat/completions", STREAM)
    assert int(plain.headers["content-length"]) == len(plain.body)
    assert plain.headers["content-type"] == "application/json"
    assert stream.headers["transfer-encoding"] == "chunked"
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.whole
    assert stream.body.endswith(b"data: [DONE]\n\n")
    assert [exchange.bytes_sent for exchange in await simulated.settled(2)] == [len(plain.body), len(stream.body)]


async def test_a_responses_stream_names_its_events_and_never_says_done(simulated: Simulated) -> None:
    stream = await simulated.ask("/responses", RESPONSE_STREAM)
    *events, nothing = stream.body.split(b"\n\n")
    assert nothing == b""
    for event in events:
        name, data = event.split(b"\n")
        assert name == b"event: " + json.loads(data.removeprefix(b"data: "))["type"].encode()
    assert events[-1].startswith(b"event: response.completed\n")
    assert b"[DONE]" not in stream.body


async def test_one_connection_serves_one_call_after_another(simulated: Simulated) -> None:
    async with simulated.connection() as (reader, writer):
        for _ in range(3):
            writer.write(request("/chat/completions", CHAT))
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(parsed(head).headers["content-length"]))
    assert [exchange.completed for exchange in await simulated.settled(3)] == [True] * 3


async def test_the_truth_log_has_the_request_exactly_as_it_came(simulated: Simulated) -> None:
    body = json.dumps(CHAT).encode()
    async with simulated.connection() as (reader, writer):
        target = b"/openai/v1/../v1/%63hat//completions;x?To%3E=%2b&%C3%a7=1&&|"
        writer.write(
            b"POST " + target + b" HTTP/1.1\r\nHOST: Gate\r\nX-Odd:  \xe9t\xe9 \r\nx-odd: again\r\n"
            b"authorization: Bearer " + KEY.encode() + b"\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\n" + body[:5] + b"\r\n%x\r\n" % (len(body) - 5) + body[5:] + b"\r\n0\r\n\r\n"
        )
        await reader.read(-1)
    (exchange,) = await simulated.settled()
    assert exchange.target == target.decode("latin-1")
    assert [name for name, _ in exchange.headers][:4] == ["HOST", "X-Odd", "x-odd", "authorization"]
    assert exchange.header("x-odd") == "été"
    assert exchange.body == body
    assert (exchange.body_bytes, exchange.body_sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert exchange.status == 404


async def test_a_coded_body_is_understood_and_logged_as_it_came(simulated: Simulated) -> None:
    coded = gzip.compress(json.dumps(CHAT).encode())
    answer = await simulated.ask("/chat/completions", coded, "Content-Encoding: gzip")
    refused = await simulated.ask("/chat/completions", coded[:-9], "Content-Encoding: gzip")
    assert (answer.status, refused.status) == (200, 400)
    first, _ = await simulated.settled(2)
    assert first.body == coded


async def test_a_client_that_waits_for_100_continue_is_told_to_go_on(simulated: Simulated) -> None:
    whole = request("/chat/completions", CHAT, "Expect: 100-continue", "Connection: close")
    head, _, body = whole.partition(b"\r\n\r\n")
    async with simulated.connection() as (reader, writer):
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert parsed(await reader.read(-1)).status == 200


async def test_a_path_outside_every_provider_is_nobody_s(simulated: Simulated) -> None:
    async with simulated.connection() as (reader, writer):
        writer.write(b"GET /elsewhere HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nConnection: close\r\n\r\n")
        assert parsed(await reader.read(-1)).status == 404
    (exchange,) = await simulated.settled()
    assert (exchange.provider, exchange.credential) == (None, None)
    assert "Bearer secret" not in str(exchange.headers)


async def test_an_old_client_gets_a_body_that_ends_with_the_connection(simulated: Simulated) -> None:
    answer = await simulated.ask("/chat/completions", STREAM, version="1.0")
    assert "transfer-encoding" not in answer.headers
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_a_head_request_gets_a_head(simulated: Simulated) -> None:
    answer = await simulated.ask("/models", b"", method="HEAD")
    assert int(answer.headers["content-length"]) > 0
    assert answer.body == b""


# Faults.


async def test_reset_before_head_reads_the_request_and_resets_the_connection(simulated: Simulated) -> None:
    with pytest.raises(ConnectionResetError):
        await simulated.ask("/chat/completions", CHAT, "x-simulator-fault: reset-before-head")
    (exchange,) = await simulated.settled()
    assert exchange.body == json.dumps(CHAT).encode()
    assert (exchange.status, exchange.usage, exchange.object_id) == (None, None, None)
    assert (exchange.completed, exchange.bytes_sent) == (False, 0)
    assert exchange.fault == "reset-before-head"


async def test_hang_never_answers_and_is_over_when_the_client_goes(simulated: Simulated) -> None:
    async with simulated.connection() as (reader, writer):
        writer.write(request("/chat/completions", CHAT, "x-simulator-fault: hang"))
        exchange = await simulated.begun()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        assert simulated.truth()[0].completed is None
    (exchange,) = await simulated.settled()
    assert (exchange.status, exchange.completed, exchange.bytes_sent) == (None, False, 0)


async def test_cut_body_promises_a_length_and_sends_half_of_it(simulated: Simulated) -> None:
    answer = await simulated.ask("/chat/completions", CHAT, "x-simulator-fault: cut-body")
    assert len(answer.body) == int(answer.headers["content-length"]) // 2
    (exchange,) = await simulated.settled()
    assert (exchange.completed, exchange.bytes_sent, exchange.status) == (False, len(answer.body), 200)
    assert exchange.usage is not None


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_cut_chunked_never_sends_the_last_chunk(simulated: Simulated, body: object) -> None:
    whole = await simulated.ask("/chat/completions", body)
    answer = await simulated.ask("/chat/completions", body, "x-simulator-fault: cut-chunked")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert not answer.whole
    assert len(answer.body) == len(whole.body) // 2
    assert (await simulated.settled(2))[1].completed is False


@pytest.mark.parametrize(("path", "body"), [("/chat/completions", STREAM), ("/responses", RESPONSE_STREAM)])
async def test_cut_stream_breaks_off_in_the_middle_of_an_event(simulated: Simulated, path: str, body: object) -> None:
    answer = await simulated.ask(path, body, "x-simulator-fault: cut-stream")
    whole = await simulated.ask(path, body)
    assert not answer.whole
    assert not answer.body.endswith(b"\n\n")
    assert answer.body.count(b"\n\n") == whole.body.count(b"\n\n") // 2
    assert [exchange.completed for exchange in await simulated.settled(2)] == [False, True]


@pytest.mark.parametrize(
    ("path", "body", "closing", "usage"),
    [("/chat/completions", STREAM, b"[DONE]", True), ("/responses", RESPONSE_STREAM, b"response.completed", False)],
)
async def test_no_done_ends_in_good_order_without_saying_so(
    simulated: Simulated, path: str, body: object, closing: bytes, *, usage: bool
) -> None:
    answer = await simulated.ask(path, body, "x-simulator-fault: no-done")
    assert answer.whole
    assert answer.body.endswith(b"\n\n")
    assert closing not in answer.body
    (exchange,) = await simulated.settled()
    assert exchange.completed
    assert (exchange.usage is not None) == usage


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_close_delimited_has_neither_length_nor_chunks(simulated: Simulated, body: object) -> None:
    answer = await simulated.ask("/chat/completions", body, "x-simulator-fault: close-delimited")
    assert not {"content-length", "transfer-encoding"} & set(answer.headers)
    assert answer.headers["connection"] == "close"
    assert b'"usage":{' in answer.body
    (exchange,) = await simulated.settled()
    assert (exchange.completed, exchange.bytes_sent) == (True, len(answer.body))


async def test_stall_stream_goes_silent_half_way_until_the_client_goes(simulated: Simulated) -> None:
    events = (await simulated.ask("/chat/completions", STREAM)).body.count(b"\n\n")
    async with simulated.connection() as (reader, writer):
        writer.write(request("/chat/completions", STREAM, "x-simulator-fault: stall-stream"))
        got = b""
        while got.count(b"\n\n") < events // 2:
            got += await reader.read(1 << 16)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
    assert not parsed(got).whole
    assert parsed(got).body.count(b"\n\n") == events // 2
    _, exchange = await simulated.settled(2)
    assert (exchange.completed, exchange.bytes_sent) == (False, len(parsed(got).body))


@pytest.mark.parametrize("fault", ["cut-stream", "no-done", "stall-stream", "response-failed"])
async def test_a_fault_that_the_answer_cannot_have_is_refused(simulated: Simulated, fault: str) -> None:
    answer = await simulated.ask("/chat/completions", CHAT, f"x-simulator-fault: {fault}")
    assert answer.status == 400
    assert fault in json.loads(answer.body)["error"]["message"]


async def test_a_client_that_leaves_mid_answer_is_in_the_truth_log(simulated: Simulated) -> None:
    async with simulated.connection() as (reader, writer):
        writer.write(request("/chat/completions", STREAM, "x-simulator-words: 1000", "x-simulator-chunk-ms: 20"))
        await reader.readuntil(b"data: ")
        writer.transport.abort()
        (exchange,) = await simulated.settled()
        assert exchange.completed is False
        assert exchange.bytes_sent is not None
        assert exchange.bytes_sent > 0


async def test_a_client_that_reads_slowly_still_gets_everything(simulated: Simulated) -> None:
    async with simulated.connection() as (reader, writer):
        writer.write(request("/chat/completions", CHAT, "Connection: close", "x-simulator-words: 5000000"))
        await simulated.begun()
        await asyncio.sleep(0.1)
        assert simulated.truth()[0].completed is None, "it cannot all be in the socket while nobody reads"
        answer = parsed(await reader.read(-1))
    assert answer.whole
    (exchange,) = await simulated.settled()
    assert (exchange.completed, exchange.bytes_sent) == (True, len(answer.body))


# Framing.


async def test_json_in_chunks_comes_in_more_than_one(simulated: Simulated) -> None:
    answer = await simulated.ask("/chat/completions", CHAT, "x-simulator-framing: chunked")
    assert len(answer.chunks) == 2
    assert json.loads(answer.body)["object"] == "chat.completion"


async def test_a_stream_can_have_a_length(simulated: Simulated) -> None:
    answer = await simulated.ask("/chat/completions", STREAM, "x-simulator-framing: length")
    assert int(answer.headers["content-length"]) == len(answer.body)


async def test_events_come_one_by_one_or_byte_by_byte_or_all_at_once(simulated: Simulated) -> None:
    plain = await simulated.ask("/responses", RESPONSE_STREAM)
    crlf = await simulated.ask("/responses", RESPONSE_STREAM, "x-simulator-sse: crlf")
    bytewise = await simulated.ask("/responses", RESPONSE_STREAM, "x-simulator-sse: byte-by-byte")
    at_once = await simulated.ask("/responses", RESPONSE_STREAM, "x-simulator-sse: one-write")
    assert all(chunk.endswith(b"\n\n") for chunk in plain.chunks)
    assert crlf.body.count(b"\r\n") == crlf.body.count(b"\n") == plain.body.count(b"\n")
    assert {len(chunk) for chunk in bytewise.chunks} == {1}
    assert len(at_once.chunks) == 1
    assert at_once.body.count(b"\n\n") == bytewise.body.count(b"\n\n") == len(plain.chunks)


DECODERS = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "br": brotli.decompress,
    "zstd": zstd.decompress,
}


@pytest.mark.parametrize("coding", DECODERS)
async def test_long_json_is_coded_as_the_client_likes_it(simulated: Simulated, coding: str) -> None:
    accept = f"Accept-Encoding: {coding}"
    long = await simulated.ask("/chat/completions", CHAT, accept, "x-simulator-words: 500")
    short = await simulated.ask("/chat/completions", CHAT, accept, "x-simulator-words: 1")
    told = await simulated.ask(
        "/chat/completions", CHAT, accept, "x-simulator-words: 500", "x-simulator-encoding: identity"
    )
    stream = await simulated.ask("/chat/completions", STREAM, accept)
    assert long.headers["content-encoding"] == coding
    assert json.loads(DECODERS[coding](long.body))["object"] == "chat.completion"
    for answer in (short, told, stream):
        assert "content-encoding" not in answer.headers
    assert (await simulated.settled(4))[0].bytes_sent == len(long.body)


@pytest.mark.parametrize("coding", DECODERS)
@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_any_coding_can_be_forced(simulated: Simulated, coding: str, body: object) -> None:
    answer = await simulated.ask("/chat/completions", body, f"x-simulator-encoding: {coding}")
    assert answer.headers["content-encoding"] == coding
    assert b'"usage":{' in DECODERS[coding](answer.body)


async def test_a_coded_stream_can_be_read_event_by_event(simulated: Simulated) -> None:
    answer = await simulated.ask("/chat/completions", STREAM, "x-simulator-encoding: gzip")
    inflate = zlib.decompressobj(wbits=31)
    events = [inflate.decompress(chunk) for chunk in answer.chunks]
    assert all(event.endswith(b"\n\n") for event in events[:-1])
    assert events[-2:] == [b"data: [DONE]\n\n", b""]


# Controls.


async def test_a_latency_comes_before_the_head_and_after_the_record(simulated: Simulated) -> None:
    loop = asyncio.get_running_loop()
    async with simulated.connection() as (reader, writer):
        begun = loop.time()
        writer.write(request("/chat/completions", CHAT, "Connection: close", "x-simulator-latency-ms: 300"))
        assert (await simulated.begun()).status == 200
        assert parsed(await reader.read(-1)).status == 200
        assert loop.time() - begun >= 0.3


async def test_events_come_at_the_pace_that_is_asked_for(simulated: Simulated) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    answer = await simulated.ask("/chat/completions", STREAM, "x-simulator-words: 5", "x-simulator-chunk-ms: 20")
    assert loop.time() - begun >= 0.02 * (len(answer.chunks) - 1)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("x-simulator-flaut: hang", "x-simulator-fault"),
        ("x-simulator-fault: hnag", "hang"),
        ("x-simulator-status: 200", "400 to 599"),
        ("x-simulator-latency-ms: soon", "whole number"),
        ("x-simulator-usage: {", "JSON"),
    ],
)
async def test_a_misspelt_control_is_refused_and_says_what_is_allowed(
    simulated: Simulated, line: str, says: str
) -> None:
    answer = await simulated.ask("/chat/completions", CHAT, line)
    assert answer.status == 400
    assert says in json.loads(answer.body)["error"]["message"]
    assert (await simulated.settled())[0].fault is None


async def test_a_fault_can_befall_an_error_too(simulated: Simulated) -> None:
    answer = await simulated.ask("/chat/completions", CHAT, "x-simulator-status: 500", "x-simulator-fault: cut-body")
    assert answer.status == 500
    assert not answer.whole
    (exchange,) = await simulated.settled()
    assert (exchange.status, exchange.usage, exchange.completed) == (500, None, False)
