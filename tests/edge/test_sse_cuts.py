"""Where the network cuts a stream changes nothing: not for the client, not in the ledger.

That the meter alone is indifferent to cuts is in tests/gateway/providers/test_openai.py; this is the whole gateway, and
the cuts go through heads and chunk sizes as well.
"""

import json

import pytest

from metering.usage import Completeness
from tests.edge.upstreams import Telling, before, completion, got
from tests.gateway.peers import chunked, client
from tests.gateway.proxied import QUANTITIES, USAGE, chat, request

NAMED = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o-2024-08-06"}


def lines(*items, end=b"\n"):
    """Events, each of the lines that are given."""
    return b"".join(b"".join(line + end for line in item) + end for item in items)


def data(**fields):
    return b"data: " + json.dumps(NAMED | fields, ensure_ascii=False).encode()


def said(text):
    return data(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}], usage=None)


LAST = data(choices=[], usage=USAGE)
DONE = b"data: [DONE]"


def words(number):
    return [[said(f"word {place} of a long answer")] for place in range(number)]


UNUSUAL = [
    [b": a comment"],
    [b":"],
    [b"event: message", b"id: 7", b"retry: 100", said("one")],
    [b'data: {"id":"chatcmpl-1",', b'data: "model":"gpt-4o-2024-08-06","choices":[{"delta":{"content":"in lines"}}]}'],
    [said("caf\u00e9 \u20ac \U0001f600")],
    [b"data: \xff\xfe not in UTF-8 \xc3"],
    [b"data"],
    [b"data: not JSON"],
    [said(" [DONE] "), b"unknown: field"],
]

STREAMS = {
    "a stream of two kilobytes": lines(*words(9), [LAST], [DONE]),
    "CRLF": lines(*words(2), [LAST], [DONE], end=b"\r\n"),
    "CR": lines(*words(2), [LAST], [DONE], end=b"\r"),
    "a byte order mark": b"\xef\xbb\xbf" + lines(*words(2), [LAST], [DONE]),
    "all that is unusual": lines(*UNUSUAL, [LAST], [DONE]),
    "all that is unusual, CRLF": lines(*UNUSUAL, [LAST], [DONE], end=b"\r\n"),
    "no end mark": lines(*words(2), [LAST]),
    "no blank line at the end": lines(*words(2), [LAST]) + DONE,
    "usage in several lines": lines(
        *words(1), [b'data: {"id":"chatcmpl-1","model":"gpt-4o-2024-08-06","choices":[],', b'data: "usage":' + json.dumps(USAGE).encode() + b"}"], [DONE]
    ),
}  # fmt: skip

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nX-Request-Id: r\r\n"


def in_pieces(body, size):
    return [body[place : place + size] for place in range(0, len(body), size)]


FRAMINGS = {
    "a chunk for each event": lambda body: (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*(event + b"\n\n" for event in body.split(b"\n\n") if event))
    ),
    "chunks of 61 bytes": lambda body: HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*in_pieces(body, 61)),
    "one chunk with an extension": lambda body: (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    ),
    "a length": lambda body: HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body,
    "the close": lambda body: HEAD + b"\r\n" + body,
}  # fmt: skip

ASKED = {
    "asked for": completion(stream=True, stream_options={"include_usage": True}),
    "taken out": completion(stream=True),
}


async def streamed(made, call):
    """What the client gets: status, headers, body, and whether it is whole."""
    async with client(made.port) as peer:
        peer.writer.write(call)
        answered = await got(peer)
    assert answered is not None
    headers = [(name, value) for name, value in answered.head.headers if name != "x-tollkeeper-call-id"]
    return answered.status, headers, answered.body, answered.whole


def used(event):
    return (event.quantities, event.completeness, event.resource, event.external_id, event.metadata, event.event_type)


async def is_the_same_however_cut(directory, raw, call, cuts, then="stay"):
    """Give the answer whole, and then in pieces; each time client and ledger get the same. Returns the body."""
    script = Telling([raw], then)
    async with before(directory, script) as made:
        expected = await streamed(made, call)
        assert expected[0] == 200
        assert expected[3]
        count = 0
        for pieces in cuts:
            script.pieces = pieces
            assert await streamed(made, call) == expected, [len(piece) for piece in pieces[:3]]
            count += 1
        events = made.events
        assert len(events) == count + 1
        assert {repr(used(event)) for event in events} == {repr(used(events[0]))}
        assert (events[0].quantities, events[0].completeness) == (QUANTITIES, Completeness.REPORTED)
    return expected[2]


@pytest.mark.parametrize("usage", ASKED)
@pytest.mark.parametrize("stream", STREAMS)
async def test_a_stream_cut_in_two_at_any_byte_is_the_same_stream(tmp_path, stream, usage):
    """Guards the reading of heads, chunk sizes and events over the border of two segments: at each byte there is."""
    body = STREAMS[stream]
    raw = FRAMINGS["chunks of 61 bytes"](body)
    cuts = ([raw[:place], raw[place:]] for place in range(1, len(raw)))

    passed = await is_the_same_however_cut(tmp_path, raw, ASKED[usage], cuts)

    assert passed == body if usage == "asked for" else b'"usage": {' not in passed


@pytest.mark.parametrize("usage", ASKED)
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_stream_cut_in_two_is_the_same_stream_in_each_framing(tmp_path, framing, usage):
    body = STREAMS["CRLF" if framing == "one chunk with an extension" else "no end mark"]
    raw = FRAMINGS[framing](body)
    cuts = ([raw[:place], raw[place:]] for place in range(1, len(raw)))
    then = "close" if framing == "the close" else "stay"

    await is_the_same_however_cut(tmp_path, raw, ASKED[usage], cuts, then)


@pytest.mark.parametrize("usage", ASKED)
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("stream", STREAMS)
async def test_a_stream_of_single_bytes_is_the_same_stream(tmp_path, stream, framing, usage):
    raw = FRAMINGS[framing](STREAMS[stream])
    then = "close" if framing == "the close" else "stay"

    await is_the_same_however_cut(tmp_path, raw, ASKED[usage], [in_pieces(raw, 1), in_pieces(raw, 2)], then)


@pytest.mark.parametrize("usage", ASKED)
@pytest.mark.parametrize("segment", [1460, 16_384, 65_537, 300_001])
async def test_an_event_of_a_megabyte_is_the_same_in_any_segments(tmp_path, segment, usage):
    large = b'data: {"type":"image","b64_json":"' + b"x" * (1 << 20) + b'"}\n\n'
    body = large + STREAMS["a stream of two kilobytes"]
    raw = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*in_pieces(body, 40_000))
    script = Telling(in_pieces(raw, segment))
    async with before(tmp_path, script) as made:
        status, _, passed, whole = await streamed(made, ASKED[usage])

        assert (status, whole) == (200, True)
        assert passed == (body if usage == "asked for" else body.replace(LAST + b"\n\n", b""))
        assert [event.quantities for event in made.events] == [QUANTITIES]


@pytest.mark.parametrize("stream", STREAMS)
async def test_a_stream_that_nobody_knew_would_be_one_passes_as_it_came(tmp_path, stream):
    """A request that asked for no stream and gets one: metered by what came."""
    raw = FRAMINGS["chunks of 61 bytes"](STREAMS[stream])
    call = request(body=chat())

    passed = await is_the_same_however_cut(tmp_path, raw, call, [in_pieces(raw, size) for size in (3, 17, 61, 67)])

    assert passed == STREAMS[stream]
