"""The only HTTP client of the path of a call, before a provider that says exactly what the test wants."""

import asyncio
import socket
from dataclasses import replace

import pytest

from gateway import http1, upstream
from gateway.strand import Strand
from gateway.upstream import BrokenAnswer, NoAnswer, Origin, TooSlow, Unreachable, Upstream
from tests.gateway.peers import answer, answers, chunked, client, eventually, provider, settled, soon

ASK = b"GET /%d HTTP/1.1\r\nHost: p\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: 2\r\n\r\nhi"


class Call:
    """What waits for a connection, as a call does."""

    def __init__(self):
        self._strand = None

    def wake(self):
        if self._strand is not None:
            self._strand.wake()

    def running(self, coroutine):
        """Run a coroutine that parks; what comes of it."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        async def run():
            done.set_result(await coroutine)

        def ended(error):
            if error is not None:
                done.set_exception(error)

        self._strand = Strand(run(), loop, ended)
        self._strand.wake()
        return done

    async def run(self, coroutine):
        return await soon(self.running(coroutine))


@pytest.fixture
async def pools(monkeypatch):
    monkeypatch.setattr(upstream, "SWEEP_S", 0.01)
    made = Upstream()
    await made.open()
    yield made
    await made.close()


def pool_of(pools, serving):
    return pools.pool(Origin.parsed(f"http://127.0.0.1:{serving.port}"))


def grant(pools, serving, **limits):
    pool = pool_of(pools, serving)
    pool.limits = replace(pool.limits, **limits)


async def opened(pools, serving):
    """A call, and a connection for it, kept from before or new."""
    pool = pool_of(pools, serving)
    return Call(), pool.kept() or await pool.connected()


async def read(connection):
    await connection.arrival()
    return connection.take()


async def whole(connection):
    """The body of an answer."""
    pieces = []
    while not connection.ended:
        pieces.append(await read(connection))
    return b"".join(pieces)


async def asked(pools, serving, request=ASK % 1, method="GET", *, upgrading=False):
    """Send one request and give the connection back; the status and the body of the answer."""
    call, connection = await opened(pools, serving)
    try:
        connection.send(request, call, method=method, whole=True, upgrading=upgrading)
        head = await call.run(connection.answer())
        return head.status, await call.run(whole(connection))
    finally:
        pool_of(pools, serving).release(connection)


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


async def test_a_connection_is_used_again(pools):
    async with provider(answers(answer(b"one"), answer(b"two"))) as serving:
        assert await asked(pools, serving) == (200, b"one")
        assert await asked(pools, serving) == (200, b"two")

        assert len(serving.peers) == 1


async def test_a_pool_keeps_the_limits_that_it_was_made_with(pools):
    """Guards calls under way: sabotaged (one pool for each origin), a call would end by limits that it did not begin with."""
    before = pools.pool(Origin.parsed("http://127.0.0.1:9"))
    pools.limits = replace(pools.limits, idle_timeout_s=1)
    after = pools.pool(Origin.parsed("http://127.0.0.1:9"))

    assert before.limits.idle_timeout_s == 600
    assert after.limits.idle_timeout_s == 1
    pools.limits = before.limits
    assert pools.pool(Origin.parsed("http://127.0.0.1:9")) is before


async def test_calls_at_the_same_time_have_connections_of_their_own(pools):
    async with provider(answers(answer(b"x"))) as serving:
        await asyncio.gather(*(asked(pools, serving) for _ in range(5)))
        await asyncio.gather(*(asked(pools, serving) for _ in range(5)))

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
async def test_a_connection_that_ends_with_its_answer_is_not_used_again(pools, reply):
    async with provider(closing(reply)) as serving:
        for _ in range(2):
            assert await asked(pools, serving) == (200, b"x")

        assert len(serving.peers) == 2


@pytest.mark.parametrize(
    "reply", [answer(b"x", b"Connection: close"), b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx"]
)
async def test_that_an_answer_ends_a_connection_is_believed_though_the_provider_leaves_it_open(pools, reply):
    async with provider(answers(reply)) as serving:
        for _ in range(2):
            assert await asked(pools, serving) == (200, b"x")

        assert len(serving.peers) == 2


@pytest.mark.parametrize(
    "reply", [answer(b"x" * 100), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"x" * 100)]
)
async def test_a_connection_whose_answer_was_not_read_to_its_end_is_not_used_again(pools, reply):
    """Guards `ended` in rest: what is left of one answer would be the beginning of the next one's."""

    async def slowly(peer):
        await peer.message()
        await peer.send(reply[:-50])
        await peer.ended()

    async with provider(slowly) as serving:
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True)
        await call.run(connection.answer())
        pool_of(pools, serving).release(connection)

        assert pool_of(pools, serving).kept() is None
        assert connection.transport is None or connection.transport.is_closing()


async def test_a_connection_on_which_nothing_was_answered_is_not_used_again(pools):
    """Guards `ended` in rest: given back before its answer, a connection gives it to whoever is next."""

    async def silent(peer):
        await peer.message()
        await peer.ended()

    async with provider(silent) as serving:
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True)
        pool_of(pools, serving).release(connection)

        assert pool_of(pools, serving).kept() is None


async def test_a_connection_whose_request_was_not_sent_whole_is_not_used_again(pools):
    """Guards `_sent` in rest: the next request, another tenant's, would be read as the rest of this one's body."""
    async with provider(answers(answer(b"x"))) as serving:
        call, connection = await opened(pools, serving)
        connection.send(
            b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: 100\r\n\r\nabc", call, method="POST", whole=False
        )
        pool_of(pools, serving).release(connection)
        assert await asked(pools, serving) == (200, b"x")

        assert len(serving.peers) == 2
        assert b"GET" not in serving.peers[0].seen


async def test_a_connection_with_a_request_on_it_that_has_not_left_is_not_used_again(pools):
    """Guards the look at what is unsent: a provider that answers early may never read it, nor what would come behind."""

    async def early(peer):
        await peer._until(b"\r\n\r\n")
        await peer.send(answer(b"too large", status=b"413 Too Large"))
        await stay.wait()

    stay = asyncio.Event()
    size = 64 << 20
    async with provider(early) as serving:
        request = b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
        assert await asked(pools, serving, request, "POST") == (413, b"too large")

        assert pool_of(pools, serving).kept() is None


async def test_an_early_answer_does_not_make_half_a_request_whole(pools):
    async def early(peer):
        await peer._until(b"\r\n\r\n")
        await peer.send(answer(b"too large", status=b"413 Too Large"))
        await peer.ended()

    async with provider(early) as serving:
        call, connection = await opened(pools, serving)
        connection.send(
            b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: 100\r\n\r\nabc", call, method="POST", whole=False
        )
        head = await call.run(connection.answer())
        assert (head.status, await call.run(whole(connection))) == (413, b"too large")
        pool_of(pools, serving).release(connection)

        assert pool_of(pools, serving).kept() is None


async def test_a_trailer_becomes_no_header_of_the_next_answer(pools):
    """The parser that was here before put the last trailer into the head of the next one."""
    trailed = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\nSet-Cookie: of=another-tenant\r\n\r\n"
    async with provider(answers(trailed, answer(b"x"))) as serving:
        await asked(pools, serving)
        call, connection = await opened(pools, serving)
        connection.send(ASK % 2, call, method="GET", whole=True)
        head = await call.run(connection.answer())

        assert [field.line for field in head.fields] == [b"Content-Length: 1"]
        assert len(serving.peers) == 1


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"\r\n", b"x"])
async def test_a_connection_that_speaks_without_having_been_asked_is_closed(pools, said):
    """Guards the check on an idle connection: its bytes would be the answer to somebody's next request."""
    speak = asyncio.Event()

    async def talkative(peer):
        await peer.message()
        await peer.send(answer(b"x"))
        await speak.wait()
        await peer.send(said)
        await peer.ended()

    async with provider(talkative) as serving:
        grant(pools, serving, keepalive_timeout_s=3600)
        await asked(pools, serving)
        (kept,) = pool_of(pools, serving)._idle
        speak.set()
        await eventually(lambda: kept.transport is None)
        speak.clear()

        assert await asked(pools, serving) == (200, b"x")
        assert len(serving.peers) == 2


async def test_a_second_answer_is_nobody_s(pools):
    doubled = answer(b"one") + answer(b"two")
    async with provider(answers(doubled, answer(b"three"))) as serving:
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True)
        await call.run(connection.answer())

        assert await call.run(whole(connection)) == b"one"
        pool_of(pools, serving).release(connection)
        assert pool_of(pools, serving).kept() is None


async def test_what_comes_behind_an_answer_that_is_still_in_hand_ends_its_connection(pools):
    """Guards the look at what is behind: given back, the connection would give it to whoever is next."""
    speak = asyncio.Event()

    async def talkative(peer):
        await peer.message()
        await peer.send(answer(b"one"))
        await speak.wait()
        await peer.send(answer(b"two"))
        await peer.ended()

    async with provider(talkative) as serving:
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True)
        await call.run(connection.answer())
        assert await call.run(whole(connection)) == b"one"
        speak.set()
        await eventually(lambda: not connection.reusable)
        assert connection.take() == b""
        pool_of(pools, serving).release(connection)

        assert pool_of(pools, serving).kept() is None


async def test_a_kept_connection_that_is_just_ending_is_not_chosen(pools):
    """Guards the look at its transport: between the end and the news of it, a call was lost on such a connection."""
    async with provider(answers(answer(b"x"))) as serving:
        await asked(pools, serving)
        pool = pool_of(pools, serving)
        (connection,) = pool._idle
        connection.abort()
        assert connection.transport is not None

        assert pool.kept() is None


async def test_a_connection_that_lay_too_long_is_not_used_again(pools):
    async with provider(answers(answer(b"x"))) as serving:
        await asked(pools, serving)
        grant(pools, serving, keepalive_timeout_s=-1)
        await asked(pools, serving)

        assert len(serving.peers) == 2


async def test_connections_that_nobody_uses_are_closed(pools):
    async with provider(answers(answer(b"x"))) as serving:
        grant(pools, serving, keepalive_timeout_s=0.02)
        await asked(pools, serving)

        await eventually(lambda: not pool_of(pools, serving)._all)
        assert not pool_of(pools, serving)._idle


async def test_the_number_of_idle_connections_has_a_bound(pools):
    async with provider(answers(answer(b"x"))) as serving:
        grant(pools, serving, idle_connections_max=2)
        await asyncio.gather(*(asked(pools, serving) for _ in range(6)))

        assert len(pool_of(pools, serving)._idle) == 2
        await eventually(lambda: len(pool_of(pools, serving)._all) == 2)


async def test_a_fresh_connection_is_none_that_was_kept(pools):
    async with provider(answers(answer(b"x"))) as serving:
        await asked(pools, serving)
        connection = await pool_of(pools, serving).connected()

        assert not connection.used
        assert len(pool_of(pools, serving)._idle) == 1


async def test_connections_to_two_origins_are_not_mixed_up(pools):
    async with provider(answers(answer(b"one"))) as one, provider(answers(answer(b"two"))) as two:
        for _ in range(3):
            assert await asked(pools, one) == (200, b"one")
            assert await asked(pools, two) == (200, b"two")

        assert len(one.peers) == len(two.peers) == 1


async def test_closing_ends_every_connection(pools):
    ended = []

    async def waiting(peer):
        await peer.message()
        await peer.send(answer(b"x"))
        ended.append(await peer.ended())

    async with provider(waiting) as serving:
        await asked(pools, serving)
        await pools.close()

        await eventually(lambda: ended == [True])


async def test_the_environment_s_proxies_are_not_asked(pools, monkeypatch):
    async with provider(answers(answer(b"the proxy"))) as proxy, provider(answers(answer(b"the provider"))) as serving:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy.port}")

        assert await asked(pools, serving) == (200, b"the provider")
        assert proxy.peers == []


# ---------------------------------------------------------------------------------------------------------------------
# Answers


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_body_arrives_as_it_was_sent_however_it_is_framed(pools, size, framing):
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    reply = {
        "length": answer(body),
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body[:1000], body[1000:]),
        "close": b"HTTP/1.1 200 OK\r\n\r\n" + body,
    }[framing]
    async with provider(closing(reply)) as serving:
        assert await asked(pools, serving) == (200, body)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_an_answer_without_a_body_ends_with_its_head(pools, reply):
    async with provider(answers(reply, answer(b"x"))) as serving:
        assert (await asked(pools, serving))[1] == b""
        assert await asked(pools, serving) == (200, b"x")


async def test_an_answer_to_head_ends_with_its_head_whatever_its_length_says(pools):
    head = b"HEAD / HTTP/1.1\r\nHost: p\r\n\r\n"
    async with provider(
        answers(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            answer(b"x"),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            answer(b"y"),
        )
    ) as serving:
        assert await asked(pools, serving, head, "HEAD") == (200, b"")
        assert await asked(pools, serving) == (200, b"x")
        assert await asked(pools, serving, head, "HEAD") == (200, b"")
        assert await asked(pools, serving) == (200, b"y")

        assert len(serving.peers) == 1


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3,
        b"HTTP/1.1 102 P\r\n\r\n" * upstream.INTERIM_MAX,
    ],
)
async def test_interim_answers_are_dropped(pools, interim):
    async with provider(answers(interim + answer(b"x"))) as serving:
        for _ in range(2):
            assert await asked(pools, serving) == (200, b"x")


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
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * http1.HEAD_BYTES_MAX + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * http1.HEAD_BYTES_MAX,
        b"HTTP/1.1 100 Continue\r\nA: " + b"b" * http1.HEAD_BYTES_MAX + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 999 X\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 1000 X\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/2.0 garbage\r\n\r\n",
        b"220 mail.example ESMTP\r\n\r\n",
        b"220 mail.example ESMTP\n",
        b"\x15\x03\x03\x00\x02\x02\x50",
        b"<html>\n",
    ],
)
async def test_an_answer_that_makes_no_sense_is_broken(pools, reply):
    """Guards the grammar and INTERIM_MAX: `xchunked` was a 200 with the framing in its body."""
    async with provider(answers(reply)) as serving:
        with pytest.raises(BrokenAnswer):
            await asked(pools, serving)
        await eventually(lambda: not pool_of(pools, serving)._all)


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
async def test_an_answer_that_is_cut_is_broken(pools, part, end):
    async def cutting(peer):
        await peer.message()
        await peer.send(part)
        await cut.wait()
        if end == "reset":
            peer.reset()

    cut = asyncio.Event()
    async with provider(cutting) as serving:
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True)

        async def read():
            await call.run(connection.answer())
            cut.set()
            await call.run(whole(connection))

        with pytest.raises(BrokenAnswer):
            await read()
        pool_of(pools, serving).release(connection)
        assert not pool_of(pools, serving)._all


async def test_a_reset_does_not_end_a_body_that_ends_by_the_close(pools):
    async def resetting(peer):
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        await cut.wait()
        peer.reset()

    cut = asyncio.Event()
    async with provider(resetting) as serving:
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True)
        await call.run(connection.answer())
        assert await call.run(read(connection)) == b"part"
        cut.set()

        with pytest.raises(BrokenAnswer):
            await call.run(whole(connection))


@pytest.mark.parametrize("by", ["deadline", "close", "give_up"])
async def test_that_we_end_a_connection_does_not_end_a_body_that_ends_by_the_close(pools, by):
    """Guards eof_received alone ending it: our own end was taken for the provider's, and half an answer for a whole one."""

    async def stalling(peer):
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        await peer.ended()

    async with provider(stalling) as serving:
        grant(pools, serving, idle_timeout_s=0.05 if by == "deadline" else 600)
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True)
        await call.run(connection.answer())
        assert await call.run(read(connection)) == b"part"
        reading = call.running(read(connection))
        await asyncio.sleep(0)
        if by == "close":
            await pools.close()
        elif by == "give_up":
            connection.give_up()

        with pytest.raises(BrokenAnswer):
            await soon(reading)


async def test_what_arrived_before_the_break_can_be_read(pools):
    async with provider(closing(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")) as serving:
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True)
        await call.run(connection.answer())
        await eventually(lambda: connection.transport is None)

        assert connection.arrived
        assert connection.take() == b"abc"
        assert connection.arrived
        with pytest.raises(BrokenAnswer):
            connection.take()


async def test_where_an_answer_is_cut_does_not_matter(pools):
    reply = b"HTTP/1.1 103 H\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello")

    async def cutting(peer):
        for place in range(1, len(reply)):
            await peer.message()
            await peer.send(reply[:place])
            for _ in range(3):
                await asyncio.sleep(0)
            await peer.send(reply[place:])

    async with provider(cutting) as serving:
        for _ in range(1, len(reply)):
            assert await asked(pools, serving) == (200, b"hello")

        assert len(serving.peers) == 1


async def test_headers_are_as_they_came(pools):
    lines = (b"X-Odd-CASE: a", b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"x-bytes: \xe9")
    async with provider(answers(answer(b"x", *lines))) as serving:
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True)
        head = await call.run(connection.answer())

        assert [field.line for field in head.fields] == [*lines, b"Content-Length: 1"]


async def test_a_large_head_is_taken_up_to_its_bound(pools):
    async with provider(answers(answer(b"x", b"A: " + b"b" * 30_000, b"B: " + b"c" * 30_000))) as serving:
        assert await asked(pools, serving) == (200, b"x")


async def test_a_provider_that_is_faster_than_its_reader_is_not_read_ahead_without_end(pools):
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
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True)
        await call.run(connection.answer())
        assert await settled(lambda: sent) < 32 << 20
        assert len(connection.take()) <= upstream.READ_AHEAD_BYTES + (256 << 10)
        # To have taken it is not to want more, which a client that is slow itself does not.
        await asyncio.sleep(0.1)
        assert not connection.arrived
        for _ in range(100):
            await call.run(read(connection))
        pool_of(pools, serving).release(connection)


async def test_a_connection_whose_provider_ends_it_behind_an_answer_that_nobody_takes_serves_no_other_call(pools):
    """Guards the next call: its answer was over when reading had stopped, so that nobody saw the end behind it."""
    whole_size = upstream.READ_AHEAD_BYTES + 1

    async def once(peer):
        await peer.message()
        await peer.send(answer(bytes(whole_size)))
        await go.wait()

    async with provider(once) as serving:
        for calls in (1, 2):
            go = asyncio.Event()
            call, connection = await opened(pools, serving)
            connection.send(ASK % 1, call, method="GET", whole=True)
            await call.run(connection.answer())
            await eventually(lambda connection=connection: connection._framing.ended)
            go.set()
            await eventually(lambda connection=connection: connection.transport is None)
            assert len(connection.take()) == whole_size
            pool_of(pools, serving).release(connection)
            assert len(serving.peers) == calls


async def test_a_connection_is_kept_whose_answer_was_too_large_to_be_read_ahead(pools):
    async with provider(answers(answer(bytes(10 * upstream.READ_AHEAD_BYTES)))) as serving:
        for _ in range(2):
            assert await asked(pools, serving) == (200, bytes(10 * upstream.READ_AHEAD_BYTES))
        assert len(serving.peers) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Requests


async def test_a_body_is_sent_in_pieces_no_faster_than_it_is_taken(pools):
    """Guards waiting for writable: without it, an upload is as large in memory as on the way."""
    go = asyncio.Event()

    async def slow(peer):
        await peer._until(b"\r\n\r\n")
        await go.wait()
        await peer._exactly(64 << 20)
        await peer.send(answer(b"x"))
        await peer.ended()

    async with provider(slow) as serving:
        call, connection = await opened(pools, serving)
        connection.send(
            b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n" % (64 << 20), call, method="POST", whole=False
        )
        sent = 0

        async def upload():
            nonlocal sent
            for piece in range(1024):
                connection.send_more(bytes(64 << 10), last=piece == 1023)
                sent += 64 << 10
                await connection.writable()

        uploading = call.running(upload())
        stopped = await settled(lambda: sent)
        go.set()
        await soon(uploading)
        await call.run(connection.answer())

        assert stopped < 32 << 20
        assert await call.run(whole(connection)) == b"x"
        pool_of(pools, serving).release(connection)
        assert pool_of(pools, serving).kept() is connection


async def test_an_answer_stops_an_upload_that_nobody_takes(pools):
    """Guards the end of waiting for writable: a provider that answers early and reads no more kept the call waiting for ever."""

    async def early(peer):
        await peer._until(b"\r\n\r\n")
        await asyncio.sleep(0.1)
        await peer.send(answer(b"too large", status=b"413 Too Large"))
        await stay.wait()

    stay = asyncio.Event()
    async with provider(early) as serving:
        call, connection = await opened(pools, serving)
        connection.send(
            b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: 900000000\r\n\r\n", call, method="POST", whole=False
        )

        async def upload():
            while not connection.answered:
                connection.send_more(bytes(64 << 10), last=False)
                await connection.writable()

        await call.run(upload())
        head = await call.run(connection.answer())

        assert (head.status, await call.run(whole(connection))) == (413, b"too large")


async def test_a_provider_that_takes_nothing_of_a_request_is_too_slow(pools):
    async def deaf(peer):
        await peer._until(b"\r\n\r\n")
        await stay.wait()

    stay = asyncio.Event()
    async with provider(deaf) as serving:
        grant(pools, serving, idle_timeout_s=0.1)
        call, connection = await opened(pools, serving)
        connection.send(
            b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: 900000000\r\n\r\n", call, method="POST", whole=False
        )

        async def upload():
            while not connection.answered:
                connection.send_more(bytes(64 << 10), last=False)
                await connection.writable()

        await call.run(upload())
        with pytest.raises(TooSlow):
            await call.run(connection.answer())


@pytest.mark.parametrize("whole_at_once", [True, False], ids=["all of it", "a part"])
async def test_a_provider_that_takes_a_request_slowly_and_steadily_is_waited_for(pools, whole_at_once):
    """Guards what may be idle: the time in which a provider takes nothing, not that in which it takes all."""
    size = 8 << 20

    async def steady(peer):
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        await peer._until(b"\r\n\r\n")
        for _ in range(128):
            await peer._exactly(size // 128)
            await asyncio.sleep(0.01)
        await peer.send(answer(b"x"))
        await peer.ended()

    async with provider(steady) as serving:
        grant(pools, serving, idle_timeout_s=0.4, first_byte_timeout_s=0.8)
        call, connection = await opened(pools, serving)
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
        head = b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n" % size
        left = 0 if whole_at_once else 100
        connection.send(head + bytes(size - left), call, method="POST", whole=whole_at_once)
        await call.run(connection.writable())
        if left:
            connection.send_more(bytes(left), last=True)
        answered = await call.run(connection.answer())

        assert (answered.status, await call.run(whole(connection))) == (200, b"x")


async def test_an_answer_is_not_waited_for_before_the_request_was_sent(pools):
    """The client may take its time with the body; only then does the provider's time begin."""
    async with provider(answers(answer(b"x"))) as serving:
        grant(pools, serving, first_byte_timeout_s=0.1)
        call, connection = await opened(pools, serving)
        connection.send(POST[:-2], call, method="POST", whole=False)
        await asyncio.sleep(0.4)
        connection.send_more(b"hi", last=True)
        head = await call.run(connection.answer())

        assert (head.status, await call.run(whole(connection))) == (200, b"x")


# ---------------------------------------------------------------------------------------------------------------------
# WebSockets

SWITCHED = b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def test_a_websocket_that_was_asked_for_goes_on_as_the_bytes_of_its_connection(pools):
    async def echoing(peer):
        await peer.message()
        await peer.send(b"HTTP/1.1 103 H\r\n\r\n" + SWITCHED + b"HTTP/1.1 200 OK\r\n\r\n")
        await peer.send(b"echo " + await peer._exactly(5))

    async with provider(echoing) as serving:
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True, upgrading=True)
        head = await call.run(connection.answer())
        connection.send_more(b"hello", last=False)

        assert head.status == 101
        assert await call.run(whole(connection)) == b"HTTP/1.1 200 OK\r\n\r\necho hello"
        pool_of(pools, serving).release(connection)
        assert pool_of(pools, serving).kept() is None


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 101 S\r\n\r\n",
        b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n",
    ],
)
async def test_what_a_provider_goes_on_with_is_a_websocket_or_nothing(pools, reply):
    async with provider(answers(reply)) as serving:
        with pytest.raises(BrokenAnswer):
            await asked(pools, serving, upgrading=True)


async def test_a_websocket_that_is_refused_is_an_answer_like_others(pools):
    async with provider(answers(answer(b"no", status=b"403 Forbidden"))) as serving:
        for _ in range(2):
            assert await asked(pools, serving, upgrading=True) == (403, b"no")

        assert len(serving.peers) == 1


async def test_leave_to_go_on_as_a_websocket_ends_with_its_request(pools):
    async with provider(answers(answer(b"no", status=b"403 Forbidden"), SWITCHED)) as serving:
        await asked(pools, serving, upgrading=True)

        with pytest.raises(BrokenAnswer):
            await asked(pools, serving)
        assert len(serving.peers) == 1


# ---------------------------------------------------------------------------------------------------------------------
# No answer


async def test_nothing_was_sent_where_nobody_listens(pools):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: the port refuses.
        with pytest.raises(Unreachable) as refused:
            await soon(pools.pool(Origin.parsed(f"http://127.0.0.1:{taken.getsockname()[1]}")).connected())

    assert str(refused.value) == "ConnectionRefusedError"


async def test_nothing_was_sent_where_no_connection_comes_about(pools):
    """A provider that speaks no TLS: it is told nothing, and the handshake does not last."""

    async def silent(peer):
        await peer.rest()

    async with provider(silent) as serving:
        pool = pools.pool(Origin.parsed(f"https://127.0.0.1:{serving.port}"))
        pool.limits = replace(pool.limits, connect_timeout_s=0.1)
        with pytest.raises(Unreachable):
            await soon(pool.connected())

        assert b"HTTP" not in serving.seen


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_connection_that_ends_before_an_answer_is_no_answer(pools, end):
    async def ending(peer):
        await peer.message()
        if end == "reset":
            peer.reset()

    async with provider(ending) as serving:
        with pytest.raises(NoAnswer):
            await asked(pools, serving, POST, "POST")

        assert len(serving.peers) == 1
        assert serving.seen == POST


async def test_half_a_head_is_no_answer(pools):
    async with provider(closing(b"HTTP/1.1 200 OK\r\nContent-Le")) as serving:
        with pytest.raises(NoAnswer):
            await asked(pools, serving)


async def test_an_answer_that_does_not_begin_in_time_is_too_slow(pools):
    async def silent(peer):
        await peer.message()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.ended()

    async with provider(silent) as serving:
        grant(pools, serving, first_byte_timeout_s=0.05)
        with pytest.raises(TooSlow):
            await asked(pools, serving)


async def test_an_answer_that_stops_in_the_middle_is_broken_in_time(pools):
    async def stalling(peer):
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await peer.ended()

    async with provider(stalling) as serving:
        grant(pools, serving, idle_timeout_s=0.05)
        with pytest.raises(BrokenAnswer):
            await asked(pools, serving)


async def test_an_answer_may_take_as_long_as_it_takes(pools):
    async def slow(peer):
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.1)
            await peer.send(b"x")

    async with provider(slow) as serving:
        grant(pools, serving, first_byte_timeout_s=0.7, idle_timeout_s=0.7)
        assert await asked(pools, serving) == (200, b"x" * 8)


async def test_an_answer_that_has_begun_waits_for_whoever_reads_it(pools):
    """Guards the end of the head's deadline: a client that is slow to take what came first was cut off."""
    go = asyncio.Event()

    async def in_two(peer):
        await peer.message()
        await peer.send(answer(b"onetwo")[:-3])
        await go.wait()
        await peer.send(b"two")
        await peer.ended()

    async with provider(in_two) as serving:
        grant(pools, serving, first_byte_timeout_s=0.5, idle_timeout_s=0.5)
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True)
        await call.run(connection.answer())
        await asyncio.sleep(0.8)
        go.set()

        assert await call.run(whole(connection)) == b"onetwo"


async def test_an_answer_that_was_waited_for_and_has_come_waits_for_whoever_reads_on(pools):
    """Guards the end of the wait's deadline: a client that is slow to take a piece was cut off from a provider in good order."""
    told, go = asyncio.Event(), asyncio.Event()

    async def in_three(peer):
        await peer.message()
        await peer.send(answer(b"onetwo")[:-6])
        await told.wait()
        await peer.send(b"one")
        await go.wait()
        await peer.send(b"two")
        await peer.ended()

    async with provider(in_three) as serving:
        grant(pools, serving, first_byte_timeout_s=0.5, idle_timeout_s=0.5)
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True)
        await call.run(connection.answer())
        waiting = asyncio.ensure_future(call.run(connection.arrival()))
        await asyncio.sleep(0)
        told.set()
        await waiting
        assert connection.take() == b"one"
        await asyncio.sleep(0.8)
        go.set()

        assert await call.run(whole(connection)) == b"two"


async def test_a_kept_connection_that_the_provider_has_closed_is_not_chosen(pools):
    async with provider(closing(answer(b"x"))) as serving:
        await asked(pools, serving)
        await eventually(lambda: not pool_of(pools, serving)._all)

        assert await asked(pools, serving) == (200, b"x")
        assert len(serving.peers) == 2


async def test_a_request_on_a_connection_that_is_gone_is_not_written(pools):
    async with provider(closing(answer(b"x"))) as serving:
        call, connection = await opened(pools, serving)
        connection.abort()
        await eventually(lambda: connection.transport is None)
        connection.send(POST, call, method="POST", whole=True)

        with pytest.raises(NoAnswer):
            await connection.answer()


async def test_errors_name_no_address_and_no_key(pools):
    request = (
        b"POST /?key=sk-secret HTTP/1.1\r\nHost: p\r\nAuthorization: Bearer sk-secret\r\nContent-Length: 0\r\n\r\n"
    )
    async with provider(closing(b"HTTP/1.1 500 X\r\nA: sk-secret\0\r\n\r\n")) as serving:
        with pytest.raises(upstream.UpstreamError) as raised:
            await asked(pools, serving, request, "POST")

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


@pytest.mark.parametrize(
    ("begun", "error"),
    [(b"", upstream.NoAnswer), (b"HTTP/1.1 413 No\r\nContent-Length: 9\r\n\r\n1", upstream.BrokenAnswer)],
)
async def test_a_provider_that_ends_while_our_request_waits_to_leave_is_noticed_at_once(pools, begun, error):
    """Guards eof_received: a transport that has bytes to send does not end, and nobody was told for ten minutes."""

    async def script(peer):
        await peer.reader.readexactly(1)
        await peer.send(begun)
        peer.writer.write_eof()
        await noticed.wait()

    async def answered():
        await call.run(connection.answer())
        await call.run(whole(connection))

    noticed = asyncio.Event()
    async with provider(script) as serving:
        call, connection = await opened(pools, serving)
        connection.send(b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", call, method="POST", whole=False)
        connection.send_more(bytes(50_000_000), last=False)

        with pytest.raises(error):
            await soon(answered())
        noticed.set()


# ---------------------------------------------------------------------------------------------------------------------
# What has not left yet


async def test_a_connection_is_not_used_again_while_a_part_of_the_request_has_not_left(pools):
    """Guards early answers: the next request stood behind the rest of a body that waited for the end of the turn."""
    async with provider(answers(answer(b"early"))) as serving:
        call, connection = await opened(pools, serving)
        connection.send(b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: 2\r\n\r\n", call, method="POST", whole=False)
        connection.data_received(answer(b"early"))
        assert await call.run(whole(connection)) == b"early"
        connection.send_more(b"hi", last=True)
        pool_of(pools, serving).release(connection)

        assert pool_of(pools, serving).kept() is None


async def test_what_waits_for_the_end_of_a_turn_leaves_before_the_connection_is_closed(pools):
    came = asyncio.get_running_loop().create_future()

    async def script(peer):
        came.set_result(await peer.reader.read())

    async with provider(script) as serving:
        call, connection = await opened(pools, serving)
        connection.send(ASK % 1, call, method="GET", whole=True)
        connection.send_more(b"more", last=True)
        connection.close()

        assert await soon(came) == ASK % 1 + b"more"


async def test_what_has_not_left_when_a_call_is_given_up_never_leaves(pools):
    """Guards the provider: a request of which the caller had been told that it failed was sent when it was given up."""
    async with provider(answers(answer(b"one"), answer(b"two"))) as serving:
        call, connection = await opened(pools, serving)
        connection.send(POST, call, method="POST", whole=True)
        connection.expire()
        with pytest.raises(TooSlow):
            await call.run(connection.answer())
        await asyncio.sleep(0.05)

        assert all(bytes(peer.seen) == b"" for peer in serving.peers)


async def test_what_waits_for_the_end_of_a_turn_leaves_before_a_connection_whose_provider_has_ended_its_side(pools):
    async with provider(answers(answer(b"one"))) as serving:
        _, connection = await opened(pools, serving)
        connection._waiting = False
        connection._framing = http1.UntilClose()
        written = []
        connection._sender = upstream.Sender(Written(written), pool_of(pools, serving).departures, lambda: None)
        connection.send_more(b"last words", last=False)
        connection.eof_received()

        assert written == [b"last words"]


class Written:
    """A transport that has sent all, and what is written to it."""

    def __init__(self, written):
        self.write = written.append

    def get_write_buffer_size(self):
        return 0


async def test_a_provider_that_answers_leaves_and_reads_no_more_is_cut_off(pools, monkeypatch):
    """Guards the deadline of a connection that closes already when it is released: what of the request was not taken kept it
    open, and the memory with it, for ever."""
    monkeypatch.setattr(upstream, "CLOSE_S", 0.1)
    over = asyncio.Event()

    async def script(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(answer(b"enough"))
        await peer.writer.drain()
        peer.writer.transport.pause_reading()
        peer.writer.write_eof()
        await over.wait()

    async with provider(script) as serving:
        call, connection = await opened(pools, serving)
        connection.send(
            b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: 99999999\r\n\r\n", call, method="POST", whole=False
        )
        connection.send_more(bytes(30 << 20), last=False)
        await call.run(connection.answer())
        await eventually(connection.transport.is_closing)
        pool_of(pools, serving).release(connection)

        await eventually(lambda: pool_of(pools, serving).connections == 0)
        over.set()
