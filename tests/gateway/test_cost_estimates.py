"""What an application that asks is told of a call at once, and that nobody else is."""

import asyncio
import gzip
import json

import pytest

from gateway.cost_estimates import HELD_BYTES_MAX, CostEstimates, EndingInComment
from gateway.providers.free import NothingToMeter
from metering.usage import Completeness
from pricing.book_files import BookError
from pricing.catalogue import load_books
from tests.builders import usage_event
from tests.gateway.peers import answer, answers, client, provider, soon, sse
from tests.gateway.proxied import CHAT, COMPLETION, UNMETERED, USAGE, chat, proxied, request

ON = "X-Gateway-Estimate: on"
JSON = b"Content-Type: application/json"
WHOLE = json.dumps(COMPLETION).encode()
TOLD = {
    # gpt-4o: 2.50 dollars a million tokens in, 10 out, and 20 % on top: (7 * 2.5 + 2 * 10) * 1.2 / 1e6.
    "x-tollkeeper-cost-estimate": "0.000045 USD",
    "x-tollkeeper-tokens-input": "7",
    "x-tollkeeper-tokens-output": "2",
}
COMMENT = b': tollkeeper {"cost_estimate":"0.000045","unit":"USD","tokens_input":7,"tokens_output":2}\n\n'


def event(**fields):
    return b"data: " + json.dumps({"id": "chatcmpl-1", "model": "gpt-4o-2024-08-06"} | fields).encode() + b"\n\n"


WORD, USAGE_EVENT, DONE = event(choices=[{"delta": {}}]), event(choices=[], usage=USAGE), b"data: [DONE]\n\n"


def told(message):
    return {name: message[name] for name in TOLD if message[name] is not None}


async def asked(tmp_path, reply, *headers, body=None, path=CHAT, **how):
    async with provider(answers(reply)) as upstream, proxied(tmp_path, upstream) as gateway:
        message = await gateway.ask(request(path, body or chat(), *headers, **how))
    assert len(gateway.events) == (message.status == 200)
    return message


async def test_who_asks_is_told_in_the_head_and_gets_the_same_body(tmp_path):
    message = await asked(tmp_path, answer(WHOLE, JSON), ON)

    assert told(message) == TOLD
    assert (message.body, message["content-length"]) == (WHOLE, str(len(WHOLE)))


@pytest.mark.parametrize("headers", [(), ("X-Gateway-Estimate: off",)])
async def test_who_does_not_ask_is_told_nothing(tmp_path, headers):
    assert told(await asked(tmp_path, answer(WHOLE, JSON), *headers)) == {}
    stream = await asked(tmp_path / "stream", sse(WORD, USAGE_EVENT, DONE), *headers, body=chat(stream=True))
    assert stream.body == WORD + DONE


async def test_a_compressed_answer_stays_as_it_is(tmp_path):
    packed = gzip.compress(WHOLE)

    message = await asked(tmp_path, answer(packed, JSON, b"Content-Encoding: gzip"), ON)

    assert told(message) == TOLD
    assert message.body == packed


async def test_what_the_provider_says_in_our_name_is_not_believed(tmp_path):
    message = await asked(tmp_path, answer(b"{}", JSON, b"X-Tollkeeper-Cost-Estimate: 9 USD"), ON)

    assert told(message) == {}


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(("more", "known"), [(0, True), (1, False)])
async def test_an_answer_of_more_than_64_kib_is_not_held(tmp_path, framing, more, known):
    body = json.dumps(COMPLETION | {"x": ""}).encode()
    body = body[:-2] + b"x" * (HELD_BYTES_MAX + more - len(body)) + body[-2:]
    chunks = sse(body[:1000], body[1000:]).replace(b"text/event-stream; charset=utf-8", b"application/json")

    message = await asked(tmp_path, chunks if framing == "chunked" else answer(body, JSON), ON)

    assert told(message) == (TOLD if known else {})
    assert message.body == body


async def test_a_large_answer_leaves_before_it_is_over(tmp_path):
    arrived = asyncio.Event()

    async def script(peer):
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.send(b"11170\r\n" + b" " * 0x11170 + b"\r\n")
        # One chunk is always held, so there must be a next.
        while not arrived.is_set():
            await peer.send(b"1\r\n \r\n")
            await asyncio.sleep(0.02)
        await peer.send(b"0\r\n\r\n")

    async with provider(script) as upstream, proxied(tmp_path, upstream) as gateway, client(gateway.port) as peer:
        peer.writer.write(request(CHAT, chat(), ON))
        assert b"200" in await soon(peer.reader.readline())
        arrived.set()


async def test_an_answer_that_breaks_off_looks_broken(tmp_path):
    async def script(peer):
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{}")

    async with provider(script) as upstream, proxied(tmp_path, upstream) as gateway:
        message = await gateway.ask(request(CHAT, chat(), ON))

    assert not message.whole
    assert told(message) == {}
    assert [found.completeness for found in gateway.events] == [Completeness.UNKNOWN]


@pytest.mark.parametrize("asks_for_usage", [True, False])
async def test_a_stream_ends_in_a_comment(tmp_path, asks_for_usage):
    body = chat(stream=True, **({"stream_options": {"include_usage": True}} if asks_for_usage else {}))

    message = await asked(tmp_path, sse(WORD, USAGE_EVENT, DONE), ON, body=body)

    assert message.body == WORD + (USAGE_EVENT if asks_for_usage else b"") + DONE + COMMENT
    assert message.whole


async def test_a_stream_of_known_length_ends_in_a_comment_too(tmp_path):
    reply = answer(WORD + USAGE_EVENT + DONE, b"Content-Type: text/event-stream")
    body = chat(stream=True, stream_options={"include_usage": True})

    message = await asked(tmp_path, reply, ON, body=body)

    assert message.body == WORD + USAGE_EVENT + DONE + COMMENT
    assert message.whole


@pytest.mark.parametrize("sent", [WORD + b"data: [DONE]", WORD + b"data: [DONE]\n", b"data: x\r\n"])
async def test_a_comment_comes_after_whole_events_alone(tmp_path, sent):
    """Guards the last event: sabotaged (always), a client reads a half event as a whole one."""
    body = chat(stream=True, stream_options={"include_usage": True})

    assert (await asked(tmp_path, sse(sent), ON, body=body)).body == sent


def test_a_comment_follows_each_way_to_end_an_event_wherever_it_is_cut():
    for end in (b"\n\n", b"\r\n\r\n", b"\r\r"):
        meter = EndingInComment(NothingToMeter(), lambda usage: b": told\n\n")
        for byte in b"data: x" + end:
            meter.feed(bytes((byte,)))
        assert meter.finish(whole=True)[0] == b": told\n\n"
        assert meter.finish(whole=False)[0] == b""


async def test_a_wrong_wish_is_refused_by_name(tmp_path):
    message = await asked(tmp_path, answer(WHOLE, JSON), "X-Gateway-Estimate: yes")

    assert message.status == 400
    assert b"X-Gateway-Estimate: on or off." in message.body


async def test_a_call_outside_of_the_totals_comes_to_nothing(tmp_path):
    message = await asked(tmp_path, answer(WHOLE, JSON), ON, "X-Gateway-Metering: off", key=UNMETERED)

    assert told(message) == TOLD | {"x-tollkeeper-cost-estimate": "0 USD"}


async def ready(load=load_books):
    estimates = CostEstimates(load)
    await estimates.ready()
    return estimates


async def test_an_estimate_is_by_the_book_of_the_tenant_s_plan():
    estimates = await ready()
    chat_event = usage_event()

    assert estimates.of([chat_event], None)[:2] == ("0.000837", "USD")
    assert estimates.of([chat_event], "starter") == ("0.000837", "USD", 117, 46)
    assert estimates.of([chat_event, chat_event], "credits") == ("4", "credits", 234, 92)
    assert estimates.of([usage_event(resource="no-such-model")], "starter") == (None, None, 117, 46)
    assert estimates.of([chat_event], "a plan of tomorrow") == (None, None, 117, 46)
    unknown = usage_event(completeness=Completeness.UNKNOWN, quantities={})
    assert estimates.of([unknown], None).fields == []


async def test_without_books_there_are_tokens():
    def broken():
        raise BookError(["costs-v1.toml: not there"])

    assert (await ready(broken)).of([usage_event()], None) == (None, None, 117, 46)
