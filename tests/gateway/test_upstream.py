"""The only HTTP client of the path of a call, before a provider that says exactly what the test wants."""

import asyncio
import socket

import pytest

from gateway import http1, upstream
from gateway.upstream import BrokenAnswer, NoAnswer, Origin, TooSlow, Unreachable, Upstream
from tests.gateway.peers import answer, answers, chunked, client, eventually, provider, settled, soon

ASK = b"GET /%d HTTP/1.1\r\nHost: p\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: 2\r\n\r\nhi"


@pytest.fixture
async def pool(monkeypatch):
    monkeypatch.setattr(upstream, "SWEEP_S", 0.01)
    made = Upstream()
    await made.open()
    yield made
    await made.close()


def origin(serving):
    return Origin.parsed(f"http://127.0.0.1:{serving.port}")


async def whole(got):
    """The body of an answer."""
    pieces = []
    while not got.ended:
        pieces.append(await soon(got.read()))
    return b"".join(pieces)


async def asked(pool, serving, request=ASK % 1, method="GET"):
    """Send one request and give the connection back; the status and the body of the answer."""
    connection = await pool.connection(origin(serving))
    try:
        connection.send(request, method=method, whole=True)
        got = await soon(connection.answer())
        return got.head.status, await whole(got)
    finally:
        pool.release(connection)


def closing(reply):
    """A script: answer one request, and end the connection."""

    async def script(peer):
        await peer.message()
        await peer.send(reply)

    return script


# ---------------------------------------------------------------------------------------------------------------------
# Origins


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://api.openai.com", ("api.openai.com", 443, True, "", b"api.openai.com")),
        ("https://api.openai.com:8443/", ("api.openai.com", 8443, True, "", b"api.openai.com:8443")),
        ("http://127.0.0.1:9000/proxy/a/", ("127.0.0.1", 9000, False, "/proxy/a", b"127.0.0.1:9000")),
        ("http://[::1]:9000", ("::1", 9000, False, "", b"[::1]:9000")),
        ("http://host:80", ("host", 80, False, "", b"host")),
        ("https://host:80", ("host", 80, True, "", b"host:80")),
    ],
)
def test_an_origin_is_what_its_base_url_says(base_url, expected):
    assert tuple(Origin.parsed(base_url)) == expected


# ---------------------------------------------------------------------------------------------------------------------
# Connections, used again


async def test_a_connection_is_used_again(pool):
    async with provider(answers(answer(b"one"), answer(b"two"))) as serving:
        assert await asked(pool, serving) == (200, b"one")
        assert await asked(pool, serving) == (200, b"two")

        assert len(serving.peers) == 1


async def test_calls_at_the_same_time_have_connections_of_their_own(pool):
    async with provider(answers(answer(b"x"))) as serving:
        await asyncio.gather(*(asked(pool, serving) for _ in range(5)))
        await asyncio.gather(*(asked(pool, serving) for _ in range(5)))

        assert len(serving.peers) == 5


@pytest.mark.parametrize(
    "reply",
    [
        answer(b"x", b"Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"x"),
    ],
)
async def test_a_connection_that_ends_with_its_answer_is_not_used_again(pool, reply):
    async with provider(closing(reply)) as serving:
        for _ in range(2):
            assert await asked(pool, serving) == (200, b"x")

        assert len(serving.peers) == 2


@pytest.mark.parametrize(
    "reply", [answer(b"x", b"Connection: close"), b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx"]
)
async def test_that_an_answer_ends_a_connection_is_believed_though_the_provider_leaves_it_open(pool, reply):
    async with provider(answers(reply)) as serving:
        for _ in range(2):
            assert await asked(pool, serving) == (200, b"x")

        assert len(serving.peers) == 2


@pytest.mark.parametrize(
    "reply", [answer(b"x" * 100), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"x" * 100)]
)
async def test_a_connection_whose_answer_was_not_read_to_its_end_is_not_used_again(pool, reply):
    """Guards at_eof in rest: what is left of one answer would be the beginning of the next one's."""

    async def slowly(peer):
        await peer.message()
        await peer.send(reply[:-50])
        await peer.ended()

    async with provider(slowly) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(ASK % 1, method="GET", whole=True)
        await soon(connection.answer())
        pool.release(connection)

        assert await pool.connection(origin(serving)) is not connection
        assert connection.transport is None or connection.transport.is_closing()


async def test_a_connection_on_which_nothing_was_answered_is_not_used_again(pool):
    """Guards `answered` in rest: given back before its answer, a connection gives it to whoever is next."""

    async def silent(peer):
        await peer.message()
        await peer.ended()

    async with provider(silent) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(ASK % 1, method="GET", whole=True)
        pool.release(connection)

        assert await pool.connection(origin(serving)) is not connection


async def test_a_connection_whose_request_was_not_sent_whole_is_not_used_again(pool):
    """Guards `_sent` in rest: the next request, another tenant's, would be read as the rest of this one's body."""
    async with provider(answers(answer(b"x"))) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: 100\r\n\r\nabc", method="POST", whole=False)
        pool.release(connection)
        assert await asked(pool, serving) == (200, b"x")

        assert len(serving.peers) == 2
        assert b"GET" not in serving.peers[0].seen


async def test_an_early_answer_does_not_make_half_a_request_whole(pool):
    async def early(peer):
        await peer._until(b"\r\n\r\n")
        await peer.send(answer(b"too large", status=b"413 Too Large"))
        await peer.ended()

    async with provider(early) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: 100\r\n\r\nabc", method="POST", whole=False)
        got = await soon(connection.answer())
        assert (got.head.status, await whole(got)) == (413, b"too large")
        pool.release(connection)

        assert await pool.connection(origin(serving)) is not connection


async def test_a_trailer_becomes_no_header_of_the_next_answer(pool):
    """Guards the new parser after a chunked answer: aiohttp's puts the last trailer into the head of the next one."""
    trailed = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\nSet-Cookie: of=another-tenant\r\n\r\n"
    async with provider(answers(trailed, answer(b"x"))) as serving:
        await asked(pool, serving)
        connection = await pool.connection(origin(serving))
        connection.send(ASK % 2, method="GET", whole=True)
        got = await soon(connection.answer())

        assert got.head.raw_headers == ((b"Content-Length", b"1"),)
        assert len(serving.peers) == 1


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"\r\n", b"x"])
async def test_a_connection_that_speaks_without_having_been_asked_is_closed(pool, said, monkeypatch):
    """Guards the check on an idle connection: its bytes would be the answer to somebody's next request."""
    monkeypatch.setattr(upstream, "IDLE_MAX_S", 3600)
    speak = asyncio.Event()

    async def talkative(peer):
        await peer.message()
        await peer.send(answer(b"x"))
        await speak.wait()
        await peer.send(said)
        await peer.ended()

    async with provider(talkative) as serving:
        await asked(pool, serving)
        (kept,) = pool._idle[origin(serving)]
        speak.set()
        await eventually(lambda: kept.transport is None)
        speak.clear()

        assert await asked(pool, serving) == (200, b"x")
        assert len(serving.peers) == 2


async def test_a_second_answer_is_nobody_s(pool):
    doubled = answer(b"one") + answer(b"two")
    async with provider(answers(doubled, answer(b"three"))) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(ASK % 1, method="GET", whole=True)
        got = await soon(connection.answer())

        assert await whole(got) == b"one"
        pool.release(connection)
        assert await pool.connection(origin(serving)) is not connection


async def test_a_connection_that_lay_too_long_is_not_used_again(pool, monkeypatch):
    async with provider(answers(answer(b"x"))) as serving:
        await asked(pool, serving)
        monkeypatch.setattr(upstream, "IDLE_MAX_S", -1)
        await asked(pool, serving)

        assert len(serving.peers) == 2


async def test_connections_that_nobody_uses_are_closed(pool, monkeypatch):
    monkeypatch.setattr(upstream, "IDLE_MAX_S", 0.02)
    async with provider(answers(answer(b"x"))) as serving:
        await asked(pool, serving)

        await eventually(lambda: not pool._all)
        assert not pool._idle[origin(serving)]


async def test_the_number_of_idle_connections_has_a_bound(pool, monkeypatch):
    monkeypatch.setattr(upstream, "IDLE_CONNECTIONS_MAX", 2)
    async with provider(answers(answer(b"x"))) as serving:
        await asyncio.gather(*(asked(pool, serving) for _ in range(6)))

        assert len(pool._idle[origin(serving)]) == 2
        await eventually(lambda: len(pool._all) == 2)


async def test_a_fresh_connection_is_none_that_was_kept(pool):
    async with provider(answers(answer(b"x"))) as serving:
        await asked(pool, serving)
        connection = await pool.connection(origin(serving), fresh=True)

        assert not connection.used
        assert len(pool._idle[origin(serving)]) == 1


async def test_connections_to_two_origins_are_not_mixed_up(pool):
    async with provider(answers(answer(b"one"))) as one, provider(answers(answer(b"two"))) as two:
        for _ in range(3):
            assert await asked(pool, one) == (200, b"one")
            assert await asked(pool, two) == (200, b"two")

        assert len(one.peers) == len(two.peers) == 1


async def test_closing_ends_every_connection(pool):
    ended = []

    async def waiting(peer):
        await peer.message()
        await peer.send(answer(b"x"))
        ended.append(await peer.ended())

    async with provider(waiting) as serving:
        await asked(pool, serving)
        await pool.close()

        await eventually(lambda: ended == [True])


async def test_the_environment_s_proxies_are_not_asked(pool, monkeypatch):
    async with provider(answers(answer(b"the proxy"))) as proxy, provider(answers(answer(b"the provider"))) as serving:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy.port}")

        assert await asked(pool, serving) == (200, b"the provider")
        assert proxy.peers == []


# ---------------------------------------------------------------------------------------------------------------------
# Answers


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_body_arrives_as_it_was_sent_however_it_is_framed(pool, size, framing):
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    reply = {
        "length": answer(body),
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body[:1000], body[1000:]),
        "close": b"HTTP/1.1 200 OK\r\n\r\n" + body,
    }[framing]
    async with provider(closing(reply)) as serving:
        assert await asked(pool, serving) == (200, body)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_an_answer_without_a_body_ends_with_its_head(pool, reply):
    async with provider(answers(reply, answer(b"x"))) as serving:
        assert (await asked(pool, serving))[1] == b""
        assert await asked(pool, serving) == (200, b"x")


async def test_an_answer_to_head_ends_with_its_head_whatever_its_length_says(pool):
    head = b"HEAD / HTTP/1.1\r\nHost: p\r\n\r\n"
    async with provider(
        answers(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            answer(b"x"),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            answer(b"y"),
        )
    ) as serving:
        assert await asked(pool, serving, head, "HEAD") == (200, b"")
        assert await asked(pool, serving) == (200, b"x")
        assert await asked(pool, serving, head, "HEAD") == (200, b"")
        assert await asked(pool, serving) == (200, b"y")

        assert len(serving.peers) == 1


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3,
        b"HTTP/1.1 102 P\r\n\r\n" * upstream.INTERIM_MAX,
    ],
)
async def test_interim_answers_are_dropped(pool, interim):
    async with provider(answers(interim + answer(b"x"))) as serving:
        for _ in range(2):
            assert await asked(pool, serving) == (200, b"x")


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * (upstream.INTERIM_MAX + 1) + answer(b"x"),
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n" + answer(b"x"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nA: b\0\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * (http1.FIELD_BYTES_MAX + 1) + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (http1.FIELDS_MAX + 1) + b"\r\n",
        b"HTTP/1.1 1000 X\r\n\r\n",
        b"HTTP/2.0 garbage",
        b"220 mail.example ESMTP\r\n",
        b"\x15\x03\x03\x00\x02\x02\x50",
        b"<html>",
    ],
)
async def test_an_answer_that_makes_no_sense_is_broken(pool, reply):
    """Guards http1.framed and INTERIM_MAX: `xchunked` was a 200 with the framing in its body."""
    async with provider(answers(reply)) as serving:
        with pytest.raises(BrokenAnswer):
            await asked(pool, serving)
        await eventually(lambda: not pool._all)


@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n",
    ],
)
@pytest.mark.parametrize("end", ["close", "reset"])
async def test_an_answer_that_is_cut_is_broken(pool, part, end):
    async def cutting(peer):
        await peer.message()
        await peer.send(part)
        await cut.wait()
        if end == "reset":
            peer.reset()

    cut = asyncio.Event()
    async with provider(cutting) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(ASK % 1, method="GET", whole=True)

        async def read():
            got = await soon(connection.answer())
            cut.set()
            await whole(got)

        with pytest.raises(BrokenAnswer):
            await read()
        pool.release(connection)
        assert not pool._all


async def test_a_reset_does_not_end_a_body_that_ends_by_the_close(pool):
    async def resetting(peer):
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        await cut.wait()
        peer.reset()

    cut = asyncio.Event()
    async with provider(resetting) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(ASK % 1, method="GET", whole=True)
        got = await soon(connection.answer())
        assert await soon(got.read()) == b"part"
        cut.set()

        with pytest.raises(BrokenAnswer):
            await whole(got)


@pytest.mark.parametrize("by", ["deadline", "close", "give_up"])
async def test_that_we_end_a_connection_does_not_end_a_body_that_ends_by_the_close(pool, monkeypatch, by):
    """Guards `_aborted`: our own end was taken for the provider's, and half an answer for a whole one."""

    async def stalling(peer):
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        await peer.ended()

    monkeypatch.setattr(upstream, "BODY_IDLE_TIMEOUT_S", 0.05 if by == "deadline" else 600)
    async with provider(stalling) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(ASK % 1, method="GET", whole=True)
        got = await soon(connection.answer())
        assert await soon(got.read()) == b"part"
        reading = asyncio.ensure_future(got.read())
        await asyncio.sleep(0)
        if by == "close":
            await pool.close()
        elif by == "give_up":
            connection.give_up()

        with pytest.raises(BrokenAnswer):
            await soon(reading)


async def test_what_arrived_before_the_break_can_be_read(pool):
    async with provider(closing(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(ASK % 1, method="GET", whole=True)
        got = await soon(connection.answer())
        await eventually(lambda: connection.transport is None)

        assert got.arrived
        assert await got.read() == b"abc"
        with pytest.raises(BrokenAnswer):
            await got.read()


async def test_headers_are_as_they_came(pool):
    lines = (b"X-Odd-CASE: a", b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"x-bytes: \xe9")
    async with provider(answers(answer(b"x", *lines))) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(ASK % 1, method="GET", whole=True)
        got = await soon(connection.answer())

        assert [b": ".join(pair) for pair in got.head.raw_headers] == [*lines, b"Content-Length: 1"]


async def test_a_large_head_is_taken_up_to_its_bound(pool):
    async with provider(answers(answer(b"x", b"A: " + b"b" * 30_000, b"B: " + b"c" * 30_000))) as serving:
        assert await asked(pool, serving) == (200, b"x")


async def test_a_provider_that_is_faster_than_its_reader_is_not_read_ahead_without_end(pool):
    """Guards the bound of what is read ahead: without it, a stalled client costs the whole answer in memory."""
    sent = 0

    async def endless(peer):
        nonlocal sent
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await peer.send(bytes(64 << 10))
            sent += 64 << 10

    async with provider(endless) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(ASK % 1, method="GET", whole=True)
        got = await soon(connection.answer())
        assert await settled(lambda: sent) < 32 << 20
        assert len(await got.read()) <= 4 * http1.READ_BUFFER_BYTES
        for _ in range(100):
            await soon(got.read())
        pool.release(connection)


# ---------------------------------------------------------------------------------------------------------------------
# Requests


async def test_a_body_is_sent_in_pieces_no_faster_than_it_is_taken(pool):
    """Guards waiting in send_more: without it, an upload is as large in memory as on the way."""
    go = asyncio.Event()

    async def slow(peer):
        await peer._until(b"\r\n\r\n")
        await go.wait()
        await peer._exactly(64 << 20)
        await peer.send(answer(b"x"))
        await peer.ended()

    async with provider(slow) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(
            b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n" % (64 << 20), method="POST", whole=False
        )
        sent = 0

        async def upload():
            nonlocal sent
            for piece in range(1024):
                await connection.send_more(bytes(64 << 10), last=piece == 1023)
                sent += 64 << 10

        uploading = asyncio.ensure_future(upload())
        stopped = await settled(lambda: sent)
        go.set()
        await soon(uploading)
        got = await soon(connection.answer())

        assert stopped < 32 << 20
        assert await whole(got) == b"x"
        pool.release(connection)
        assert await pool.connection(origin(serving)) is connection


async def test_an_answer_stops_an_upload_that_nobody_takes(pool):
    """Guards _stop_sending: a provider that answers early and reads no more kept the call waiting for ever."""

    async def early(peer):
        await peer._until(b"\r\n\r\n")
        await asyncio.sleep(0.1)
        await peer.send(answer(b"too large", status=b"413 Too Large"))
        await stay.wait()

    stay = asyncio.Event()
    async with provider(early) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: 900000000\r\n\r\n", method="POST", whole=False)

        async def upload():
            while not connection.answering.done():
                await connection.send_more(bytes(64 << 10), last=False)

        await soon(upload())
        got = await soon(connection.answer())

        assert (got.head.status, await whole(got)) == (413, b"too large")


async def test_after_the_answer_nothing_more_is_sent(pool):
    async with provider(closing(answer(b"x"))) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(POST, method="POST", whole=False)
        got = await soon(connection.answer())

        await connection.send_more(b"more", last=True)

        assert await whole(got) == b"x"
        await eventually(lambda: connection.transport is None)
        assert serving.seen == POST


# ---------------------------------------------------------------------------------------------------------------------
# No answer


async def test_nothing_was_sent_where_nobody_listens(pool):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: the port refuses.
        with pytest.raises(Unreachable) as refused:
            await soon(pool.connection(Origin.parsed(f"http://127.0.0.1:{taken.getsockname()[1]}")))

    assert str(refused.value) == "ConnectionRefusedError"


async def test_nothing_was_sent_where_no_connection_comes_about(pool, monkeypatch):
    """A provider that speaks no TLS: it is told nothing, and the handshake does not last."""
    monkeypatch.setattr(upstream, "CONNECT_TIMEOUT_S", 0.1)

    async def silent(peer):
        await peer.rest()

    async with provider(silent) as serving:
        with pytest.raises(Unreachable):
            await soon(pool.connection(Origin.parsed(f"https://127.0.0.1:{serving.port}")))

        assert b"HTTP" not in serving.seen


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_connection_that_ends_before_an_answer_is_no_answer(pool, end):
    async def ending(peer):
        await peer.message()
        if end == "reset":
            peer.reset()

    async with provider(ending) as serving:
        with pytest.raises(NoAnswer):
            await asked(pool, serving, POST, "POST")

        assert len(serving.peers) == 1
        assert serving.seen == POST


async def test_half_a_head_is_no_answer(pool):
    async with provider(closing(b"HTTP/1.1 200 OK\r\nContent-Le")) as serving:
        with pytest.raises(NoAnswer):
            await asked(pool, serving)


async def test_an_answer_that_does_not_begin_in_time_is_too_slow(pool, monkeypatch):
    monkeypatch.setattr(upstream, "HEAD_TIMEOUT_S", 0.05)

    async def silent(peer):
        await peer.message()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.ended()

    async with provider(silent) as serving:
        with pytest.raises(TooSlow):
            await asked(pool, serving)


async def test_an_answer_that_stops_in_the_middle_is_broken_in_time(pool, monkeypatch):
    monkeypatch.setattr(upstream, "BODY_IDLE_TIMEOUT_S", 0.05)

    async def stalling(peer):
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await peer.ended()

    async with provider(stalling) as serving:
        with pytest.raises(BrokenAnswer):
            await asked(pool, serving)


async def test_an_answer_may_take_as_long_as_it_takes(pool, monkeypatch):
    monkeypatch.setattr(upstream, "HEAD_TIMEOUT_S", 0.7)
    monkeypatch.setattr(upstream, "BODY_IDLE_TIMEOUT_S", 0.7)

    async def slow(peer):
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.1)
            await peer.send(b"x")

    async with provider(slow) as serving:
        assert await asked(pool, serving) == (200, b"x" * 8)


async def test_an_answer_that_has_begun_waits_for_whoever_reads_it(pool, monkeypatch):
    """Guards the end of the head's deadline: a client that is slow to take what came first was cut off."""
    monkeypatch.setattr(upstream, "HEAD_TIMEOUT_S", 0.5)
    go = asyncio.Event()

    async def in_two(peer):
        await peer.message()
        await peer.send(answer(b"onetwo")[:-3])
        await go.wait()
        await peer.send(b"two")
        await peer.ended()

    async with provider(in_two) as serving:
        connection = await pool.connection(origin(serving))
        connection.send(ASK % 1, method="GET", whole=True)
        got = await soon(connection.answer())
        await asyncio.sleep(0.8)
        go.set()

        assert await whole(got) == b"onetwo"


async def test_a_kept_connection_that_the_provider_has_closed_is_not_chosen(pool):
    async with provider(closing(answer(b"x"))) as serving:
        await asked(pool, serving)
        await eventually(lambda: not pool._all)

        assert await asked(pool, serving) == (200, b"x")
        assert len(serving.peers) == 2


async def test_a_request_on_a_connection_that_is_gone_is_not_written(pool):
    async with provider(closing(answer(b"x"))) as serving:
        connection = await pool.connection(origin(serving))
        connection.abort()
        await eventually(lambda: connection.transport is None)
        connection.send(POST, method="POST", whole=True)

        with pytest.raises(NoAnswer):
            await connection.answer()


async def test_errors_name_no_address_and_no_key(pool):
    request = (
        b"POST /?key=sk-secret HTTP/1.1\r\nHost: p\r\nAuthorization: Bearer sk-secret\r\nContent-Length: 0\r\n\r\n"
    )
    async with provider(closing(b"HTTP/1.1 500 X\r\nA: sk-secret\0\r\n\r\n")) as serving:
        with pytest.raises(upstream.UpstreamError) as raised:
            await asked(pool, serving, request, "POST")

    assert "sk-secret" not in repr(raised.value)
    assert str(serving.port) not in repr(raised.value)


async def test_the_peers_of_these_tests_say_what_they_mean():
    async with (
        provider(closing(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")) as serving,
        client(serving.port) as peer,
    ):
        await peer.send(ASK % 1)
        cut = await peer.message()

    assert (cut.body, cut.whole) == (b"abc", False)
