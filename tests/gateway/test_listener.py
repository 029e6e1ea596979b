"""Where requests arrive and answers leave: seen from sockets, and where the order of events matters, from a transport."""

import asyncio
import itertools
import json
import logging
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

import pytest

from gateway import listener
from gateway.acceptor import bound
from gateway.listener import REFUSALS, ClientGone, Listener
from tests.certificates import made_certificate
from tests.gateway.peers import PATIENCE_S, client, eventually, sending_without_end, settled, soon, stalled_client

GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"


class Serving:
    """A listener, and what its handler has seen."""

    def __init__(self):
        self.listener = Listener(self.handle)
        self.port = 0
        self.targets = []
        self.bodies = []
        self.gone = 0
        self.act = self.echo

    def grant(self, **limits):
        """Grant this to the connections that are made from now on."""
        self.listener.limits = replace(self.listener.limits, **limits)

    async def handle(self, exchange):
        self.targets.append(exchange.head.target)
        try:
            await self.act(exchange)
        except ClientGone:
            self.gone += 1
            if exchange.malformed:
                exchange.refuse()
            else:
                exchange.abort()

    async def body(self, exchange):
        pieces = []
        while not exchange.body_read:
            pieces.append(await exchange.read())
        self.bodies.append(b"".join(pieces))
        return self.bodies[-1]

    async def echo(self, exchange):
        exchange.answer(200, b"OK", b"\r\nX-Target: " + exchange.head.target.encode(), await self.body(exchange))

    async def refuse(self, exchange):
        exchange.answer(401, b"Unauthorized", b"", b"no")


@pytest.fixture
async def serving(monkeypatch):
    monkeypatch.setattr(listener, "SWEEP_S", 0.01)
    made = Serving()
    listening = bound("127.0.0.1", 0)
    made.port = listening.getsockname()[1]
    await made.listener.open(listening, None)
    yield made
    await made.listener.close(0)


async def write(exchange, chunk):
    """Send as the proxy does: no faster than it is taken."""
    exchange.send(chunk)
    if exchange.writing_paused:
        await exchange.writable()


async def send_on(peer, data, pause_s=0.0):
    """Send the same again and again; ends by the connection's end, in a minute at most."""
    async with asyncio.timeout(60):
        while True:
            await peer.send(data)
            await asyncio.sleep(pause_s)


# ---------------------------------------------------------------------------------------------------------------------
# Requests one after another


async def test_a_request_is_answered_and_the_connection_kept(serving):
    async with client(serving.port) as peer:
        for number in range(3):
            await peer.send(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" % number)
            answer = await peer.message()

            assert (answer.start, answer["x-target"], answer.body) == (b"HTTP/1.1 200 OK", f"/{number}", b"hi")
            assert answer["connection"] is None


async def test_where_a_request_is_cut_does_not_matter(serving):
    raw = b"POST /1?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
    async with client(serving.port) as peer:
        for place in range(1, len(raw)):
            await peer.send(raw[:place])
            await asyncio.sleep(0)
            await peer.send(raw[place:])
            answer = await peer.message()

            assert (answer.status, answer["x-target"], answer.body) == (200, "/1?a=b", b"hi"), place


async def test_pipelined_requests_are_answered_in_order(serving):
    async with client(serving.port) as peer:
        for size in (1, 7, 8, 9, 20, 60):
            serving.targets.clear()
            await peer.send(GET % 0)
            await peer.send(b"".join(GET % number for number in range(1, size)))

            assert [(await peer.message())["x-target"] for _ in range(size)] == [f"/{number}" for number in range(size)]


async def test_requests_that_come_while_one_is_under_way_are_all_answered(serving):
    async def slow(exchange):
        await started.wait()
        await serving.echo(exchange)

    serving.act = slow
    for size in range(1, 20):
        started = asyncio.Event()
        async with client(serving.port) as peer:
            await peer.send(GET % 0)
            await eventually(lambda: serving.targets)
            await peer.send(b"".join(GET % number for number in range(1, size)))
            started.set()

            assert [(await peer.message())["x-target"] for _ in range(size)] == [f"/{number}" for number in range(size)]
        serving.targets.clear()


async def test_a_client_that_sends_ahead_without_end_is_read_no_further_than_the_bound(serving):
    """Guards the pause: without it, what one client sends ahead fills the memory."""
    blocked = asyncio.Event()
    serving.act = lambda exchange: blocked.wait()
    with stalled_client(serving.port) as end:
        async with sending_without_end(end, (GET % 1) * 100) as taken:
            sent = await settled(taken)
            (connection,) = serving.listener.connections

            assert sent < 32 << 20
            assert len(connection._received) < 1 << 20
    blocked.set()


async def test_answers_that_a_client_does_not_take_stop_its_requests(serving):
    """Guards waiting before the next request: answers were written without end to a client that sends and never reads."""

    async def large(exchange):
        exchange.answer(200, b"OK", b"", bytes(64 << 10))

    serving.act = large
    with stalled_client(serving.port) as end:
        async with sending_without_end(end, GET % 1):
            answered = await settled(lambda: len(serving.targets))
            (connection,) = serving.listener.connections

            assert connection.transport.get_write_buffer_size() < 1 << 20
            assert answered < 500


@pytest.mark.parametrize(
    ("request_head", "kept"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", False),
        (b"GET / HTTP/1.0\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", True),
    ],
)
async def test_a_connection_is_kept_or_closed_as_the_client_asks(serving, request_head, kept):
    async with client(serving.port) as peer:
        await peer.send(request_head + b"\r\n")
        answer = await peer.message()

        if kept:
            assert answer["connection"] in (None, "keep-alive")
            await peer.send(GET % 2)
            assert (await peer.message())["x-target"] == "/2"
        else:
            assert answer["connection"] == "close"
            assert await peer.ended()


@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_a_chunked_body_arrives_and_the_connection_is_kept(serving, piece):
    body = bytes(range(256)) * 10
    async with client(serving.port) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(body), piece):
            peer.writer.write(b"%x\r\n%b\r\n" % (len(body[start : start + piece]), body[start : start + piece]))
        await peer.send(b"0\r\n\r\n")
        answer = await peer.message()

        assert (answer.body, answer["connection"]) == (body, None)
        await peer.send(GET % 2)
        assert (await peer.message())["x-target"] == "/2"


async def test_a_trailer_becomes_no_header_of_any_request(serving):
    """The parser that read bodies before put the last trailer into the head of the next request, which may be another
    client's where a proxy in front of us shares connections."""
    seen = []

    async def looking(exchange):
        await serving.body(exchange)
        seen.append(list(exchange.head.raw_headers))
        exchange.answer(200, b"OK", b"", b"")

    serving.act = looking
    trailed = b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\nX-Gateway-Key: tk_evil\r\n\r\n"
    async with client(serving.port) as peer:
        await peer.send(b"POST /1 HTTP/1.1\r\nHost: x\r\n" + trailed + GET % 2)
        for _ in range(2):
            assert (await peer.message()).status == 200

    assert seen == [[(b"Host", b"x"), (b"Transfer-Encoding", b"chunked")], [(b"Host", b"x")]]


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"foo"])
async def test_another_protocol_is_not_spoken_unless_the_handler_goes_on_in_it(serving, protocol):
    """Guards ending the connection: what follows an upgrade was answered with a second answer, or never."""
    async with client(serving.port) as peer:
        await peer.send(
            b"GET /1 HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n" + GET % 2
        )
        answer = await peer.message()

        assert (answer.status, answer["x-target"], answer["connection"]) == (200, "/1", "close")
        assert await peer.ended()
        assert serving.targets == ["/1"]


# ---------------------------------------------------------------------------------------------------------------------
# Request bodies


@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
async def test_a_body_arrives_as_it_was_sent(serving, size):
    body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    async with client(serving.port) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + body)

        assert (await peer.message()).body == body


async def test_a_client_that_waits_for_leave_to_send_gets_it_when_the_body_is_wanted(serving):
    async with client(serving.port) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n")

        assert (await peer.message(bodiless=True)).start == b"HTTP/1.1 100 Continue"
        await peer.send(b"hi")
        assert (await peer.message()).body == b"hi"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_nobody_gets_leave_to_send_what_is_not_wanted(serving, version):
    serving.act = serving.refuse
    async with client(serving.port) as peer:
        await peer.send(b"POST / HTTP/" + version + b"\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")

        assert (await peer.message()).status == 401


async def test_an_old_client_is_not_told_to_continue(serving):
    async with client(serving.port) as peer:
        await peer.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        await eventually(lambda: serving.targets)
        await peer.send(b"hi")

        assert (await peer.message()).status == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 50000000", b"Transfer-Encoding: chunked"])
async def test_a_refusal_reaches_a_client_that_is_still_sending(serving, framing):
    """Guards lingering: closed at once, the connection is reset and the refusal with it."""
    serving.act = serving.refuse
    async with client(serving.port) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
        await peer.send(b"%x\r\n" % (4 << 20) + bytes(4 << 20))
        answer = await peer.message()

        assert (answer.status, answer.body, answer["connection"]) == (401, b"no", "close")


async def test_what_was_not_read_of_a_body_is_not_read_as_a_request(serving):
    serving.act = serving.refuse
    async with client(serving.port) as peer:
        await peer.send(b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + GET % 2)

        assert (await peer.message()).status == 401
        await peer.send(GET % 3)
        assert await peer.ended()
        assert serving.targets == ["/1"]


async def test_a_body_that_has_come_whole_and_was_not_read_does_not_cost_the_connection(serving):
    serving.act = serving.refuse
    async with client(serving.port) as peer:
        for _ in range(2):
            await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")

            assert (await peer.message())["connection"] is None


async def test_lingering_has_an_end(serving):
    serving.grant(linger_s=0.05)
    serving.act = serving.refuse
    async with client(serving.port) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        await peer.message()
        await eventually(lambda: not serving.listener.connections)


async def test_what_is_dropped_while_lingering_has_a_bound(serving, monkeypatch):
    serving.grant(linger_s=60)
    monkeypatch.setattr(listener, "LINGER_BYTES_MAX", 1 << 20)
    serving.act = serving.refuse
    async with client(serving.port) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        await peer.message()
        with pytest.raises(ConnectionError):
            await send_on(peer, bytes(1 << 20))


@pytest.mark.parametrize(
    "begun",
    [
        b"Content-Length: 100\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"Content-Length: 100\r\n\r\n",
    ],
)
async def test_a_client_that_goes_in_the_middle_of_its_body_is_gone(serving, begun):
    async with client(serving.port) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + begun)
        await eventually(lambda: serving.targets)

    await eventually(lambda: serving.gone)
    assert serving.bodies == []


@pytest.mark.parametrize(
    "bad", [b"zz\r\nab\r\n", b"2\r\nabc\r\n", b"-1\r\n", b"2;\x00\r\nab\r\n", b"0x2\r\nab\r\n", b"2 \r\nab\r\n"]
)
async def test_a_chunk_that_makes_no_sense_ends_the_request(serving, bad):
    async with client(serving.port) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await eventually(lambda: serving.targets)
        await peer.send(bad)

        assert b"200" not in await peer.rest()
    assert serving.bodies == []


# ---------------------------------------------------------------------------------------------------------------------
# Requests that are none

SECRET = b"tk_0123456789ab_this-must-not-be-seen-anywhere-at-all-0"
MALFORMED = {
    "a NUL after a key": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + SECRET + b"\0\r\n\r\n",
    "a key that is too long": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: " + SECRET * 1500 + b"\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\nAuthorization: Bearer " + SECRET + b"\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: " + SECRET + b"\r\n\r\n",
    "an expectation": b"POST / HTTP/1.1\r\nHost: x\r\nExpect: " + SECRET + b"\r\nContent-Length: 2\r\n\r\nhi",
    "two lengths": b"POST /?" + SECRET + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    "a carriage return in a head that does not end": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + SECRET + b"\rY",
    "a head without end": b"GET / HTTP/1.1\r\nHost: x\r\n" + (b"X: " + SECRET + b"\r\n") * 2500,
    "a bare line feed": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + SECRET + b"\n\r\n",
    "a key in the query of a bad line": b"GET /?key=" + SECRET + b" HTTP/9.9\r\nHost: x\r\n\r\n",
    "a key in the target of a bad line": b"GET /?key=" + SECRET + b"\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a key, then a bad header": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + SECRET + b"\r\nX : y\r\n\r\n",
    "a bad length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + SECRET + b"\r\n\r\n",
    "a method that is none": SECRET + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00" + SECRET,
    "a whole URL": b"GET http://evil.example/" + SECRET + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT " + SECRET + b":443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "no version": b"GET /" + SECRET + b"\r\n\r\n",
    "another version": b"GET /" + SECRET + b" HTTP/2.0\r\nHost: x\r\n\r\n",
    "a fragment": b"GET /#" + SECRET + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nA: " + SECRET + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings": b"POST / HTTP/1.1\r\nHost: x\r\nA: "
    + SECRET
    + b"\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
}
STATUSES = {
    "no version": 505,
    "another version": 505,
    "an expectation": 417,
    "chunks in HTTP/1.0": 501,
    "two codings": 501,
}
FIXED = {what: REFUSALS[STATUSES.get(what, 400)] for what in MALFORMED}


@pytest.mark.parametrize("what", MALFORMED)
async def test_what_is_no_request_gets_a_fixed_answer_and_no_byte_of_it_is_seen(serving, what, capfd, caplog):
    """Guards the fixed answers: those of the library quote the request, in the body and in a traceback."""
    with caplog.at_level(logging.DEBUG):
        async with client(serving.port) as peer:
            await peer.send(MALFORMED[what])
            answer = await peer.rest()

    assert answer == FIXED[what]
    assert serving.targets == []
    shown = "".join((*capfd.readouterr(), caplog.text))
    assert "this-must-not-be-seen" not in shown


async def test_a_malformed_chunk_shows_nothing_either(serving, capfd, caplog):
    with caplog.at_level(logging.DEBUG):
        async with client(serving.port) as peer:
            await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            await eventually(lambda: serving.targets)
            await peer.send(SECRET + b"\r\n")

            assert await peer.rest() == REFUSALS[400]

    assert "this-must-not-be-seen" not in "".join((*capfd.readouterr(), caplog.text))


async def test_the_fixed_answer_is_well_formed_json_with_a_code(serving):
    async with client(serving.port) as peer:
        await peer.send(b"\0\r\n\r\n")
        answer = await peer.message()

        assert (answer.status, answer["connection"], answer["x-tollkeeper-error"]) == (
            400,
            "close",
            "malformed_request",
        )
        assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("what", MALFORMED)
async def test_after_what_is_no_request_nothing_is_a_request(serving, what):
    async with client(serving.port) as peer:
        await peer.send(MALFORMED[what] + GET % 2)
        await peer.send(GET % 3)

        assert await peer.rest() == FIXED[what]
    assert serving.targets == []


@pytest.mark.parametrize("what", ["a NUL after a key", "a whole URL", "a fragment", "two codings"])
async def test_where_a_malformed_request_is_cut_does_not_matter(serving, what):
    request = MALFORMED[what]
    for place in range(1, len(request), 9):
        async with client(serving.port) as peer:
            await peer.send(request[:place])
            await asyncio.sleep(0)
            await peer.send(request[place:])

            assert await peer.rest() == FIXED[what]


async def test_the_fixed_answer_reaches_a_client_that_is_still_sending(serving):
    """Guards lingering after a malformed request."""
    async with client(serving.port) as peer:
        peer.writer.write(b"GET /\x01 HTTP/1.1\r\n\r\n" + bytes(8 << 20))

        assert await peer.rest() == REFUSALS[400]


async def test_a_request_before_a_malformed_one_is_answered_first(serving):
    release = asyncio.Event()

    async def slow(exchange):
        await release.wait()
        await serving.echo(exchange)

    serving.act = slow
    async with client(serving.port) as peer:
        await peer.send(GET % 1)
        await eventually(lambda: serving.targets)
        await peer.send(b"\0\0\0\r\n\r\n")
        await asyncio.sleep(0.02)
        release.set()

        assert (await peer.message())["x-target"] == "/1"
        assert await peer.rest() == REFUSALS[400]


# ---------------------------------------------------------------------------------------------------------------------
# Answers


async def streamed(exchange, *pieces, status=200, length=None):
    exchange.start(status, b"Any", b"\r\nX-A: b", length=length)
    for piece in pieces:
        await write(exchange, piece)
    exchange.finish()


async def test_an_answer_of_unknown_length_is_chunked(serving):
    serving.act = lambda exchange: streamed(exchange, b"one", b"", b"two")
    async with client(serving.port) as peer:
        await peer.send(GET % 1)
        answer = await peer.message()

        assert answer.raw.partition(b"\r\n\r\n")[2] == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        assert answer["transfer-encoding"] == "chunked"
        await peer.send(GET % 2)
        assert (await peer.message()).body == b"onetwo"


async def test_an_old_client_is_told_the_end_of_an_answer_by_the_end_of_the_connection(serving):
    serving.act = lambda exchange: streamed(exchange, b"one", b"two")
    async with client(serving.port) as peer:
        await peer.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = await peer.message()

        assert (answer["transfer-encoding"], answer["connection"], answer.body) == (None, "close", b"onetwo")


@pytest.mark.parametrize(
    ("status", "length", "declared"), [(204, None, None), (204, 0, None), (304, None, None), (304, 7, "7")]
)
async def test_an_answer_that_has_no_body_by_its_status_has_none(serving, status, length, declared):
    """Guards 204: with a length or a coding, it is not well-formed (RFC 9110 section 8.6)."""
    serving.act = lambda exchange: streamed(exchange, status=status, length=length)
    async with client(serving.port) as peer:
        await peer.send(GET % 1 + GET % 2)
        for _ in range(2):
            answer = await peer.message()

            assert (answer.status, answer["content-length"], answer["transfer-encoding"]) == (status, declared, None)


@pytest.mark.parametrize("length", [None, 7])
async def test_an_answer_to_head_has_the_head_alone(serving, length):
    serving.act = lambda exchange: streamed(exchange, length=length)
    async with client(serving.port) as peer:
        await peer.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await peer.message(bodiless=True)

        assert (answer["content-length"], answer["transfer-encoding"]) == (length and str(length), None)
        serving.act = serving.echo
        await peer.send(GET % 2)
        assert (await peer.message()).status == 200


async def test_a_whole_answer_to_head_has_its_length_and_no_body(serving):
    serving.act = serving.refuse
    async with client(serving.port) as peer:
        await peer.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        await peer.send(GET % 2)

        assert (await peer.message(bodiless=True))["content-length"] == "2"
        assert (await peer.message()).body == b"no"


@pytest.mark.parametrize(("length", "version"), [(None, b"1.1"), (10, b"1.1")])
async def test_an_answer_that_is_broken_off_does_not_look_whole(serving, length, version):
    async def broken(exchange):
        exchange.start(200, b"OK", b"", length=length)
        await write(exchange, b"one")
        await asyncio.sleep(0.05)
        exchange.abort()

    serving.act = broken
    async with client(serving.port) as peer:
        await peer.send(b"GET / HTTP/" + version + b"\r\nHost: x\r\n\r\n")
        answer = await peer.message()

        assert (answer.body, answer.whole) == (b"one", False)


async def test_an_old_client_gets_a_reset_where_an_answer_breaks_off(serving):
    """Where only the close tells the end, an orderly one would make the part look whole."""

    async def broken(exchange):
        exchange.start(200, b"OK", b"", length=None)
        await write(exchange, b"one")
        await asyncio.sleep(0.05)
        exchange.abort()

    serving.act = broken
    async with client(serving.port) as peer:
        await peer.send(b"GET / HTTP/1.0\r\n\r\n")
        assert not await peer.ended_in_order()


async def test_a_client_that_does_not_read_stops_the_one_who_writes(serving):
    """Guards waiting in write: without it, a gigabyte of answer is a gigabyte of memory."""
    written = 0

    async def endless(exchange):
        nonlocal written
        exchange.start(200, b"OK", b"", length=None)
        while not exchange.gone:
            await write(exchange, bytes(64 << 10))
            written += 64 << 10

    serving.act = endless
    with stalled_client(serving.port) as end:
        end.sendall(GET % 1)
        assert await settled(lambda: written) < 32 << 20


async def test_a_handler_outlives_its_client(serving):
    finished = asyncio.Event()

    async def long(exchange):
        exchange.start(200, b"OK", b"", length=None)
        await write(exchange, b"x")
        await asyncio.ensure_future(eventually(lambda: exchange.gone))
        await write(exchange, b"nobody gets this")
        exchange.finish(b"nor this")
        finished.set()

    serving.act = long
    async with client(serving.port) as peer:
        await peer.send(GET % 1)
        await peer._until(b"x\r\n")

    await soon(finished.wait())


async def test_who_asks_is_told_that_the_client_goes_and_only_during_its_own_exchange(serving):
    told = []
    release = asyncio.Event()

    async def watching(exchange):
        target = exchange.head.target
        if target != "/2":
            exchange.call_when_gone(lambda: told.append(target))
        if target == "/3":
            await release.wait()
            exchange.call_when_gone(lambda: told.append("at once"))
        elif target == "/2":
            await asyncio.ensure_future(eventually(lambda: exchange.gone))
        exchange.answer(200, b"OK", b"", b"")

    serving.act = watching
    for second in (2, 3):
        async with client(serving.port) as peer:
            await peer.send(GET % 1)
            await peer.message()
            await peer.send(GET % second)
            await eventually(lambda second=second: f"/{second}" in serving.targets)

    await eventually(lambda: told)
    release.set()
    await eventually(lambda: len(told) == 2)
    assert told == ["/3", "at once"]


async def test_a_handler_that_fails_costs_its_own_connection_and_no_other(serving, caplog):
    async def failing(exchange):
        raise ZeroDivisionError

    serving.act = failing
    async with client(serving.port) as one:
        await one.send(GET % 1)
        assert await one.ended()
    serving.act = serving.echo
    async with client(serving.port) as other:
        await other.send(GET % 2)
        assert (await other.message()).status == 200


# ---------------------------------------------------------------------------------------------------------------------
# Deadlines


async def test_a_head_that_comes_drop_by_drop_is_given_up(serving):
    """Guards that a byte does not put the deadline off: each of these does."""
    serving.grant(head_timeout_s=0.3)
    async with client(serving.port) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        with pytest.raises(ConnectionError):
            await send_on(peer, b"x", pause_s=0.01)
    assert serving.targets == []


async def test_a_connection_without_a_request_is_closed(serving):
    serving.grant(head_timeout_s=0.5, keepalive_timeout_s=0.5)
    async with client(serving.port) as fresh, client(serving.port) as used:
        await used.send(GET % 1)
        await used.message()

        assert await fresh.ended()
        assert await used.ended()


async def test_a_body_that_does_not_come_is_given_up(serving):
    serving.grant(body_idle_timeout_s=0.05)
    async with client(serving.port) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")

        assert await peer.ended()
    await eventually(lambda: serving.gone)


async def gone_by_turns(there):
    """Wait until all of those have gone; tells how many did in each turn of the loop, from the first in which one did."""
    turns, left = [], len(there)
    while left:
        await asyncio.sleep(0)
        gone, left = left - len(there), len(there)
        if gone or turns:
            turns.append(gone)
    return turns


@pytest.mark.parametrize("turns_max", [listener.CLOSING_TURNS_MAX, 2])
@pytest.mark.parametrize("shaken", [True, False], ids=["connections", "handshakes"])
async def test_those_that_are_late_together_are_closed_a_few_at_a_time(certificate, monkeypatch, shaken, turns_max):
    """Guards the others' turns: to close a thousand in one go takes as long as some hundred calls, and a call of theirs that
    met a few in each turn would wait as long. But ten thousand are closed in as many turns as a thousand."""
    monkeypatch.setattr(listener, "CLOSING_TURNS_MAX", turns_max)
    made = Serving()
    listening = bound("127.0.0.1", 0)
    await made.listener.open(listening, None if shaken else certificate.served())
    there = made.listener.connections if shaken else made.listener._handshakes
    async with AsyncExitStack() as open_ends:
        open_ends.push_async_callback(made.listener.close, 0)
        for _ in range(4 * listener.CLOSED_AT_ONCE):
            await open_ends.enter_async_context(client(listening.getsockname()[1]))
        await eventually(lambda: len(there) == 4 * listener.CLOSED_AT_ONCE)
        for one in there:
            if shaken:
                one.deadline = made.listener.now
            else:
                there[one] = made.listener.now

        turns = await soon(gone_by_turns(there))
        assert max(turns) == max(listener.CLOSED_AT_ONCE, 4 * listener.CLOSED_AT_ONCE // turns_max)
        assert not any(one and other for one, other in itertools.pairwise(turns))


async def test_a_byte_now_and_then_does_not_save_a_late_body_from_its_sweep(monkeypatch):
    """Guards the time that each few are compared with: a byte moves a deadline that has passed to its own moment, which is
    after the sweep began, and slow bodies outlived one sweep after another."""
    made, count = Serving(), 4 * listener.CLOSED_AT_ONCE
    there, late = made.listener.connections, False

    def no_second_sweep(_):
        return 3600 if late and len(there) < count else 0.01

    monkeypatch.setattr(listener, "until_tick_s", no_second_sweep)
    monkeypatch.setattr(listener, "CLOSING_PAUSE_S", 0.05)
    listening = bound("127.0.0.1", 0)
    await made.listener.open(listening, None)
    async with AsyncExitStack() as open_ends:
        open_ends.push_async_callback(made.listener.close, 0)
        peers = [await open_ends.enter_async_context(client(listening.getsockname()[1])) for _ in range(count)]
        for peer in peers:
            await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        await eventually(lambda: len(made.targets) == count)
        for connection in there:
            connection.deadline = made.listener.now
        late = True
        await eventually(lambda: len(there) < count)
        for peer in peers:
            with suppress(OSError):
                await peer.send(b"x")

        await eventually(lambda: not there)


async def test_a_client_that_takes_nothing_of_its_answer_is_given_up(serving):
    serving.grant(write_idle_timeout_s=0.05)
    finished = asyncio.Event()

    async def endless(exchange):
        exchange.start(200, b"OK", b"", length=None)
        while not exchange.gone:
            await write(exchange, bytes(64 << 10))
        finished.set()

    serving.act = endless
    with stalled_client(serving.port) as end:
        end.sendall(GET % 1)

        await soon(finished.wait())


async def test_an_answer_may_take_longer_than_every_deadline(serving):
    serving.grant(head_timeout_s=0.5, keepalive_timeout_s=0.5, body_idle_timeout_s=0.5, write_idle_timeout_s=0.5)

    async def slow(exchange):
        await serving.body(exchange)
        await asyncio.sleep(0.7)
        exchange.start(200, b"OK", b"", length=None)
        await write(exchange, b"one")
        await asyncio.sleep(0.7)
        exchange.finish(b"two")

    serving.act = slow
    async with client(serving.port) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")

        assert (await peer.message()).body == b"onetwo"


# ---------------------------------------------------------------------------------------------------------------------
# The end


async def test_closing_lets_calls_under_way_end_and_says_that_it_is_the_last(serving):
    release = asyncio.Event()

    async def slow(exchange):
        await release.wait()
        await serving.echo(exchange)

    serving.act = slow
    async with client(serving.port) as busy, client(serving.port) as idle:
        await busy.send(GET % 1)
        await eventually(lambda: serving.targets and len(serving.listener.connections) == 2)
        closing = asyncio.ensure_future(serving.listener.close(20))

        assert await idle.ended()
        release.set()
        answer = await busy.message()

        assert (answer["x-target"], answer["connection"]) == ("/1", "close")
        assert await busy.ended()
        assert await soon(closing)


async def test_after_the_grace_what_is_under_way_is_cut(serving):
    serving.act = lambda exchange: asyncio.Event().wait()
    async with client(serving.port) as peer:
        await peer.send(GET % 1)
        await eventually(lambda: serving.targets)

        assert not await serving.listener.close(0.05)
        assert await peer.ended()


async def test_a_call_whose_client_has_left_is_waited_for(serving):
    release = asyncio.Event()
    serving.act = lambda exchange: release.wait()
    async with client(serving.port) as peer:
        await peer.send(GET % 1)
        await eventually(lambda: serving.targets)
    await eventually(lambda: not serving.listener.connections)

    closing = asyncio.ensure_future(serving.listener.close(20))
    await asyncio.sleep(0.05)
    waited = not closing.done()
    release.set()

    assert waited
    assert await soon(closing)


async def test_nobody_new_is_taken_while_closing(serving):
    await serving.listener.close(0)

    with pytest.raises(ConnectionError):
        async with client(serving.port):
            pass


async def test_a_request_that_was_sent_ahead_is_answered_within_the_grace(serving):
    """Guards looking again: the end of one call was taken for the end of all, and what came next was cut off at once."""
    release = [asyncio.Event(), asyncio.Event()]

    async def slow(exchange):
        exchange.start(200, b"OK", b"", length=2)
        await release[len(serving.targets) - 1].wait()
        exchange.finish(b"ok")

    serving.act = slow
    async with client(serving.port) as peer:
        await peer.send(GET % 1 + GET % 2)
        await eventually(lambda: serving.targets)
        closing = asyncio.ensure_future(serving.listener.close(20))
        await asyncio.sleep(0.01)
        release[0].set()
        await eventually(lambda: len(serving.targets) == 2)
        await asyncio.sleep(0.01)
        release[1].set()

        assert [(await peer.message()).body for _ in range(2)] == [b"ok", b"ok"]
        assert await soon(closing)


async def test_a_replaced_one_answers_one_more_request_on_each_connection_and_says_that_it_is_the_last(serving):
    """Guards requests that are on their way: sabotaged (what is idle is closed at once), they would find nobody."""
    async with client(serving.port) as used, client(serving.port) as fresh, client(serving.port) as silent:
        await used.send(GET % 1)
        await used.message()
        await eventually(lambda: len(serving.listener.connections) == 3)

        closing = asyncio.ensure_future(serving.listener.close(20, next_within_s=3))
        await asyncio.sleep(0.1)
        for peer in (used, fresh):
            await peer.send(GET % 2)
            answer = await peer.message()

            assert (answer["x-target"], answer["connection"]) == ("/2", "close")
            assert await peer.ended()
        # Who brings none is not waited for without end.
        assert await silent.ended()
        assert await soon(closing)


async def test_a_replaced_one_waits_for_the_next_request_behind_a_stream_that_had_begun(serving):
    """Guards the answer that could not say it: sabotaged (its connection is closed at its end), the next request fails."""
    release = asyncio.Event()

    async def slow(exchange):
        exchange.start(200, b"OK", b"", length=2)
        exchange.send(b"o")
        await release.wait()
        exchange.finish(b"k")

    serving.act = slow
    async with client(serving.port) as peer:
        await peer.send(GET % 1)
        await eventually(lambda: serving.targets)
        closing = asyncio.ensure_future(serving.listener.close(20, next_within_s=20))
        await asyncio.sleep(0.1)
        release.set()
        answer = await peer.message()
        assert (answer.body, answer["connection"]) == (b"ok", None)

        serving.act = serving.echo
        await peer.send(GET % 2)

        assert (await peer.message())["connection"] == "close"
        assert await soon(closing)


async def test_a_replaced_one_cuts_what_has_not_ended_after_the_grace(serving):
    serving.act = lambda exchange: asyncio.Event().wait()
    async with client(serving.port) as peer:
        await peer.send(GET % 1)
        await eventually(lambda: serving.targets)

        assert not await soon(serving.listener.close(0.3, next_within_s=0.1))
        assert await peer.ended()


async def test_what_begins_after_a_change_is_handled_by_the_new_handler_within_the_new_limits(serving):
    """Guards both: sabotaged (a connection keeps the limits that it was made with), the body is given up at once."""
    release = asyncio.Event()

    async def slow(exchange):
        await release.wait()
        await serving.echo(exchange)

    async def other(exchange):
        exchange.answer(200, b"OK", b"\r\nX-Target: other", await serving.body(exchange))

    serving.act = slow
    serving.grant(body_idle_timeout_s=0.05)
    async with client(serving.port) as busy, client(serving.port) as kept:
        await busy.send(GET % 1)
        await eventually(lambda: serving.targets and len(serving.listener.connections) == 2)
        serving.listener.change(other, replace(serving.listener.limits, body_idle_timeout_s=PATIENCE_S))
        release.set()

        assert (await busy.message())["x-target"] == "/1"
        await busy.send(GET % 2)
        assert (await busy.message())["x-target"] == "other"
        await kept.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        await asyncio.sleep(0.5)
        await kept.send(b"def")
        assert (await kept.message()).body == b"abcdef"


async def test_whether_calls_are_under_way_is_told_within_the_time_that_was_given(serving):
    release = asyncio.Event()
    serving.act = lambda exchange: release.wait()
    assert await serving.listener.quiet(0)
    async with client(serving.port) as peer:
        await peer.send(GET % 1)
        await eventually(lambda: serving.targets)
        assert not await serving.listener.close(0)
        assert not await serving.listener.quiet(0.01)
        release.set()

        assert await serving.listener.quiet(20)


# ---------------------------------------------------------------------------------------------------------------------
# More than can be done


async def test_connections_beyond_the_number_are_closed_at_once_and_room_is_made_by_those_that_end(serving):
    serving.grant(connections_max=2, head_timeout_s=600)
    async with client(serving.port) as kept:
        await kept.send(GET % 1)
        await kept.message()
        async with client(serving.port) as other:
            await other.send(GET % 2)
            await other.message()
            for _ in range(3):
                async with client(serving.port) as beyond:
                    assert await beyond.ended()
        await eventually(lambda: len(serving.listener.connections) == 1)
        async with client(serving.port) as later:
            await later.send(GET % 3)
            assert (await later.message())["x-target"] == "/3"


async def test_a_call_beyond_the_number_is_told_that_it_should_be_refused(serving):
    serving.grant(calls_max=2)
    release = asyncio.Event()
    told = []

    async def asking(exchange):
        told.append(exchange.overloaded)
        await release.wait()
        exchange.answer(200, b"OK", b"", b"")

    serving.act = asking
    async with client(serving.port) as one, client(serving.port) as two, client(serving.port) as three:
        for number, peer in enumerate((one, two, three)):
            await peer.send(GET % number)
            await eventually(lambda number=number: len(told) == number + 1)
        release.set()
        for peer in (one, two, three):
            await peer.message()
        await one.send(GET % 4)
        await one.message()

    assert told == [False, False, True, False]


@asynccontextmanager
async def under_way(serving):
    """A call that is not answered yet, by a handler of its own."""
    release = asyncio.Event()

    async def waiting(exchange):
        await release.wait()
        exchange.answer(200, b"OK", b"", b"")

    serving.act = waiting
    async with client(serving.port) as peer:
        await peer.send(GET % 1)
        await eventually(lambda: serving.listener.busy)
        yield
        release.set()
        await peer.message()


async def test_a_worker_that_stays_behind_is_overloaded_until_it_has_caught_up(serving):
    serving.grant(lag_max_s=0.1)
    async with under_way(serving):
        assert not serving.listener.overloaded

        async with asyncio.timeout(PATIENCE_S):
            while not serving.listener.overloaded:
                time.sleep(0.2)  # noqa: ASYNC251  What makes a worker late.
                for _ in range(3):
                    await asyncio.sleep(0)

        await eventually(lambda: not serving.listener.overloaded)


async def test_a_worker_that_stays_behind_with_calls_that_end_at_once_is_overloaded(serving):
    """Guards the measure where no call is under way when it is taken."""
    serving.grant(lag_max_s=0.1)

    async def slow(exchange):
        time.sleep(0.2)  # noqa: ASYNC251  As above.
        exchange.answer(200, b"OK", b"", b"")

    serving.act = slow
    async with client(serving.port) as peer, asyncio.timeout(PATIENCE_S):
        while not serving.listener.overloaded:
            await peer.send(GET % 1)
            await peer.message()

    await eventually(lambda: not serving.listener.overloaded)


async def test_one_pause_is_no_overload(serving):
    """Guards the second measure: after a pause of the whole process, calls were refused that could be answered at once."""
    serving.grant(lag_max_s=1)
    async with under_way(serving):
        time.sleep(1.2)  # noqa: ASYNC251  As above.

        for _ in range(10):
            await asyncio.sleep(listener.LAG_TICK_S / 5)
            assert not serving.listener.overloaded


async def test_a_worker_without_calls_is_not_woken_to_see_whether_it_is_late(serving):
    async with under_way(serving):
        assert serving.listener._turn is not None

    await eventually(lambda: serving.listener._turn is None)


# ---------------------------------------------------------------------------------------------------------------------
# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return made_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def secure(certificate):
    made = Serving()
    listening = bound("127.0.0.1", 0)
    made.port = listening.getsockname()[1]
    await made.listener.open(listening, certificate.served())
    yield made
    await made.listener.close(0)


async def test_the_same_is_spoken_over_tls(secure, certificate):
    secure.act = secure.refuse
    reader, writer = await asyncio.open_connection("127.0.0.1", secure.port, ssl=certificate.trusted())

    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(100))
    answer = await soon(reader.readuntil(b"no"))
    writer.close()

    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_handshake_that_fails_leaves_nothing_behind(secure):
    """Guards counting a connection when it is one: a failed handshake was waited for at every stop, and never forgotten."""
    for _ in range(5):
        async with client(secure.port) as peer:
            await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await peer.rest()

    assert await soon(secure.listener.close(10))
    assert not secure.listener.connections


async def test_a_replaced_one_answers_whoever_was_shaking_hands(secure, certificate):
    """Guards connections that have not begun: sabotaged (only those that have are waited for), this one is dropped."""
    trusting = certificate.trusted()
    with socket.create_connection(("127.0.0.1", secure.port)) as end:
        await asyncio.sleep(0.1)
        closing = asyncio.ensure_future(secure.listener.close(20, next_within_s=3))
        await asyncio.sleep(0.2)
        reader, writer = await asyncio.open_connection(sock=end, ssl=trusting, server_hostname="127.0.0.1")
        writer.write(GET % 1)

        answer = await soon(reader.readuntil(b"\r\n\r\n"))

        assert b"Connection: close" in answer
        writer.close()
        assert await soon(closing)


async def test_a_handshake_that_does_not_come_is_given_up(certificate):
    """Guards the handshake's own limit: no connection counts before it, and a minute was the least that one took."""
    made = Serving()
    made.grant(head_timeout_s=0.1)
    listening = bound("127.0.0.1", 0)
    await made.listener.open(listening, certificate.served())
    async with client(listening.getsockname()[1]) as peer:
        await peer.send(b"\x16\x03\x01")

        assert await peer.ended()
    await made.listener.close(0)


@pytest.mark.parametrize("status", REFUSALS)
def test_the_fixed_answers_hold_their_own_length(status):
    head, _, body = REFUSALS[status].partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Length: %d" % len(body) in head
    assert b"Connection: close" in head
    assert json.loads(body)["error"]["message"]
