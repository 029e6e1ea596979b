"""The order of events on a connection, and its limits, by a transport and a clock of the test's own."""

import asyncio
import itertools

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway import listener
from gateway.http1 import RequestHeads
from gateway.limits import ClientLimits
from gateway.listener import REFUSALS, ClientGone, Connection, Listener
from gateway.strand import PARK
from tests.gateway.peers import chunked, eventually

GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"


class Wire(asyncio.Transport):
    """A client that is there in full: what it sends arrives when it is said to, and it takes what it is told to take."""

    HIGH_BYTES = 1000

    def __init__(self, handler, **limits):
        super().__init__()
        loop = asyncio.get_running_loop()
        self.listener = Listener(handler, ClientLimits(**limits))
        self.listener.heads = RequestHeads(loop)
        self.clock = self.listener.now = 1000.0
        self.taken = b""
        self.stalled = False
        self.reading = True
        self.ended = None
        self._unsent = b""
        self._paused = False
        self._arriving = []
        self.connection = Connection(self.listener, loop)
        self.connection.now = lambda: self.clock
        self.connection.connection_made(self)

    # -- what the client does

    def arrive(self, data):
        """Let bytes of the client arrive, as soon as they are read."""
        self._arriving.append(data)
        self.deliver()

    def deliver(self):
        while self._arriving and self.reading and self.ended is None:
            self.connection.data_received(self._arriving.pop(0))
        self.listener.departures.leave()

    def take(self, size=1 << 30):
        """Take so many bytes of what waits."""
        self.taken += self._unsent[:size]
        self._unsent = self._unsent[size:]
        if self._paused and not self._unsent:
            self._paused = False
            self.connection.resume_writing()
        if self.ended == "closing" and not self._unsent:
            self._lose("closed")
        self.deliver()

    def leave(self):
        self._lose("left")

    def pass_s(self, seconds):
        """Let time pass, as the sweep sees it."""
        for _ in range(10):
            self.clock += seconds / 10
            self.listener.now = self.clock
            if self.connection in self.listener.connections and self.connection.deadline <= self.clock:
                self.connection.expired(self.clock)
                self.listener.departures.leave()

    # -- what a transport is

    def write(self, data):
        assert self.ended is None or self.ended == "left", "written to what is closed"
        self._unsent += data
        if not self.stalled:
            self.take()
        elif len(self._unsent) > self.HIGH_BYTES and not self._paused:
            self._paused = True
            self.connection.pause_writing()

    def get_write_buffer_size(self):
        return len(self._unsent)

    def can_write_eof(self):
        return False

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def is_closing(self):
        return self.ended is not None

    def close(self):
        if self.ended is None:
            self.ended = "closing"
            if not self._unsent:
                self._lose("closed")

    def abort(self):
        if self.ended in (None, "closing"):
            self._lose("aborted")

    def _lose(self, how):
        self.ended = how
        self._arriving.clear()
        asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)


def on_both_sides(number, body):
    """A request with this body, and the answer to it that is made below."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) + 600) + body + b"%d" % (number % 10) * 600
    head = b"POST /%d HTTP/1.1\r\nHost: x\r\n" % number
    if not body:
        return GET % number, answer
    if number % 2:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, answer
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body[:3], body[3:]), answer


BODIES = st.lists(
    st.sampled_from([b"", b"x", GET % 66, b"0\r\n\r\n", b"\r\n\r\nGET / HTTP/1.1\r\n"]), min_size=1, max_size=6
)
STEPS = st.lists(st.sampled_from(["arrive", "release", "stall", "take"]), max_size=40)


@given(bodies=BODIES, cuts=st.lists(st.integers(0, 2000), max_size=12), steps=STEPS)
@example([b"", b"", GET % 66], [], ["stall", "arrive", *["release"] * 9])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_in_whatever_order_things_happen_each_request_gets_its_answer(bodies, cuts, steps):
    """Guards what waits behind an answer that is not taken: it was lost when more came, and the next bytes, the rest of a
    body, were read as a request."""
    permits = 0
    strands = []

    async def handler(exchange):
        nonlocal permits
        strands.append(exchange.strand)
        number = int(exchange.head.target[1:])
        body = b""
        while not exchange.body_read:
            body += await exchange.read()
        while not permits:
            await PARK
        permits -= 1
        exchange.answer(200, b"OK", b"", body + b"%d" % (number % 10) * 600)

    def release(count):
        nonlocal permits
        permits += count
        if strands:
            strands[-1].wake()

    pairs = [on_both_sides(number, body) for number, body in enumerate(bodies)]
    data = b"".join(request for request, _ in pairs)
    marks = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(marks) if start < end]
    wire = Wire(handler)
    for step in steps:
        match step:
            case "arrive" if pieces:
                wire.arrive(pieces.pop(0))
            case "release":
                release(1)
            case "stall":
                wire.stalled = True
            case "take":
                wire.stalled = False
                wire.take()
    for piece in pieces:
        wire.arrive(piece)
    wire.stalled = False
    for _ in pairs:
        release(1)
        wire.take()

    assert wire.taken == b"".join(answer for _, answer in pairs)
    assert (wire.ended, wire.listener.busy) == (None, set())


async def answering(exchange):
    exchange.answer(200, b"OK", b"", b"a" * 3000)


async def reading(exchange):
    try:
        while not exchange.body_read:
            await exchange.read()
    except ClientGone:
        exchange.abort()
    else:
        exchange.answer(200, b"OK", b"", b"")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_a_head_may_come_in_pieces_of_any_size(size):
    """Guards the byte before a piece: a head that came line by line was refused."""
    wire = Wire(answering)
    data = b"\r\n\r\n" + b"GET / HTTP/1.1\r\nHost: x\r\nX: y\r\n\r\n" * 2
    for start in range(0, len(data), size):
        wire.arrive(data[start : start + size])

    assert wire.taken.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("lines", range(4))
async def test_a_head_may_come_line_by_line(lines):
    wire = Wire(answering)
    data = [line + b"\r\n" for line in (b"GET / HTTP/1.1", b"Host: x", b"X: y", b"")]
    wire.arrive(b"".join(data[:lines]) or b"\r\n")
    for line in data[lines:]:
        wire.arrive(line)

    assert wire.taken.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("size", [1 << 10, 256 << 10])
async def test_a_head_that_is_too_large_is_refused_in_how_many_pieces_it_comes(size):
    wire = Wire(answering)
    data = b"GET / HTTP/1.1\r\nHost: x\r\n" + (b"X: " + b"y" * 30_000 + b"\r\n") * 5 + b"\r\n"
    for start in range(0, len(data), size):
        wire.arrive(data[start : start + size])

    assert wire.taken == REFUSALS[400]


@pytest.mark.parametrize("behind", [b"0\r\n\r\n", b"2\r\nab\r\n0\r\n\r\n"])
async def test_nothing_makes_a_malformed_body_whole(behind):
    """Guards the end of reading it: what came behind could be its end, for a handler that was not waiting just then."""
    let = asyncio.get_running_loop().create_future()
    found = []

    async def handler(exchange):
        await let
        try:
            while not exchange.body_read:
                found.append(await exchange.read())
        except ClientGone:
            found.append(exchange.malformed)
            exchange.refuse()

    wire = Wire(handler)
    wire.arrive(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    wire.arrive(b"zz\r\n")
    wire.arrive(behind)
    let.set_result(None)
    await eventually(lambda: wire.taken)

    assert found == [b"ab", True]
    assert wire.taken == REFUSALS[400]


async def test_requests_behind_the_last_one_are_not_handled_however_slowly_its_answer_is_taken():
    """Guards the end after `Connection: close`: what was sent behind was handled when the client had taken the answer,
    and its own answer went nowhere."""
    targets = []

    async def handler(exchange):
        targets.append(exchange.head.target)
        exchange.answer(200, b"OK", b"", b"a" * 3000)

    wire = Wire(handler)
    wire.stalled = True
    wire.arrive(b"GET /1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + GET % 2)
    wire.take()

    assert (targets, wire.ended) == (["/1"], "closed")


@pytest.mark.parametrize("when", ["with the head", "before the answer", "after it"])
async def test_what_a_client_sends_ahead_on_a_websocket_is_the_first_that_is_read_of_it(when):
    """Guards what came while the provider was asked: it was dropped, and with it the sense of all that followed."""
    let = asyncio.get_running_loop().create_future()
    got = []

    async def handler(exchange):
        assert exchange.websocket
        await let
        exchange.switch(b"\r\nConnection: Upgrade\r\nUpgrade: websocket")
        while not exchange.gone:
            if exchange.readable:
                got.append(await exchange.read())
                exchange.send(got[-1].upper())
            else:
                await PARK

    wire = Wire(handler)
    head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    early = [b"one", b"two"]
    wire.arrive(head + b"one" if when == "with the head" else head)
    if when == "before the answer":
        wire.arrive(b"one")
    if when != "after it":
        wire.arrive(b"two")
    let.set_result(None)
    await eventually(lambda: wire.taken)
    if when == "after it":
        for piece in early:
            wire.arrive(piece)
    wire.arrive(GET % 2)

    switched, _, echoed = wire.taken.partition(b"\r\n\r\n")
    assert switched == b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket"
    assert echoed == b"ONETWO" + (GET % 2).upper()
    wire.leave()
    await eventually(lambda: not wire.listener.busy)


LARGE = b"GET /7 HTTP/1.1\r\nHost: x\r\n" + (b"X: " + b"y" * 20_000 + b"\r\n") * 5 + b"\r\n"


@pytest.mark.parametrize("waits_for", ["the call", "the client"])
@pytest.mark.parametrize("ahead", [GET % 7 * 10_000, LARGE], ids=["many", "large"])
async def test_what_is_sent_ahead_is_kept_up_to_a_bound_and_goes_on_behind_what_it_waits_for(waits_for, ahead):
    """Guards the bound behind an answer that is not taken, where nothing had one, and reading on afterwards."""
    release = asyncio.get_running_loop().create_future()

    async def handler(exchange):
        if waits_for == "the call" and not release.done():
            await release
        exchange.answer(200, b"OK", b"", b"x")

    wire = Wire(handler)
    wire.HIGH_BYTES = 0
    wire.stalled = waits_for == "the client"
    wire.arrive(GET % 1)
    for start in range(0, len(ahead), 7000):
        wire.arrive(ahead[start : start + 7000])
    stopped, kept = not wire.reading, len(wire.connection._received)
    wire.stalled = False
    wire.take()
    release.set_result(None)
    while wire._arriving or wire.listener.busy or wire.connection._received:
        await asyncio.sleep(0)
        wire.deliver()

    assert stopped
    assert kept <= listener.READ_AHEAD_BYTES + 7000
    assert wire.taken.count(b"HTTP/1.1 200 OK") == 1 + ahead.count(b"GET")


async def test_a_body_that_nobody_reads_is_kept_up_to_a_bound_and_goes_on_when_it_is_read():
    release = asyncio.get_running_loop().create_future()
    size = 0

    async def handler(exchange):
        nonlocal size
        await release
        while not exchange.body_read:
            size += len(await exchange.read())
        exchange.answer(200, b"OK", b"", b"")

    wire = Wire(handler)
    wire.arrive(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    for _ in range(100):
        wire.arrive(bytes(10_000))
    kept = 1_000_000 - len(b"".join(wire._arriving))
    release.set_result(None)
    while not wire.taken:
        await asyncio.sleep(0)
        wire.deliver()

    assert kept <= listener.READ_AHEAD_BYTES + 10_000
    assert size == 1_000_000


POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "limit_s"),
    [(b"", 10), (b"GET / HTTP/1.1\r\nHost", 10), (GET % 1, 75), (GET % 1 + b"GET", 10), (POST % 10 + b"abc", 8)],
)
async def test_what_is_waited_for_has_a_time_of_its_own(sent, limit_s):
    wire = Wire(reading, head_timeout_s=10, keepalive_timeout_s=75, body_idle_timeout_s=8)
    if sent:
        wire.arrive(sent)

    wire.pass_s(limit_s * 0.9)
    assert wire.ended is None
    wire.pass_s(limit_s * 0.3)
    assert wire.ended == "aborted"


async def test_bytes_of_a_head_do_not_put_its_end_off():
    wire = Wire(reading, head_timeout_s=10)
    for byte in (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200)[:11]:
        wire.arrive(bytes([byte]))
        wire.pass_s(1)

    assert wire.ended == "aborted"


@pytest.mark.parametrize(("piece", "ends"), [(100, None), (3, "aborted")])
async def test_a_body_comes_at_the_least_rate_or_not_at_all(piece, ends):
    """A body of 30 bytes in each 10 s is under the least rate here, one of 1000 bytes is above it."""
    wire = Wire(reading, body_idle_timeout_s=10, body_rate_min=10)
    wire.arrive(POST % 1_000_000)
    for _ in range(50):
        wire.pass_s(1)
        if wire.ended is None:
            wire.arrive(b"x" * piece)
    await asyncio.sleep(0)

    assert wire.ended == ends


async def test_time_in_which_nobody_waits_for_a_body_is_not_its_sender_s():
    """A client that is not read from, because the provider takes no more, is not slow."""
    let = [asyncio.get_running_loop().create_future() for _ in range(3)]

    async def handler(exchange):
        for busy in let:
            await exchange.read()
            await busy

    wire = Wire(handler, body_idle_timeout_s=10)
    wire.arrive(POST % 1000)
    for busy in let:
        wire.pass_s(4 if busy is let[0] else 0)
        wire.arrive(b"x")
        wire.pass_s(100)
        busy.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await eventually(lambda: not wire.listener.busy)

    assert wire.ended is None


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize(("each_s", "ends"), [(150, (None, "closed")), (50, ("aborted", "aborted"))])
async def test_an_answer_is_taken_at_the_least_rate_or_cut(close, each_s, ends):
    """Guards the end of a connection too: one that was closed was waited for without end, if its client took nothing."""
    wire = Wire(answering, write_idle_timeout_s=10, body_rate_min=100, linger_s=1)
    wire.stalled = True
    wire.arrive(b"GET / HTTP/1.1\r\nHost: x\r\n" + close + b"\r\n")
    for _ in range(30):
        wire.pass_s(1)
        if wire.ended in (None, "closing"):
            wire.take(each_s)

    assert wire.ended == ends[bool(close)]


async def test_an_answer_that_fits_into_the_buffer_is_taken_at_that_rate_too_before_the_end():
    async def small(exchange):
        exchange.answer(200, b"OK", b"", b"a" * 500)

    wire = Wire(small, write_idle_timeout_s=10)
    wire.stalled = True
    wire.arrive(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert wire.ended == "closing"
    wire.pass_s(12)

    assert wire.ended == "aborted"


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_client_that_was_refused_is_listened_to_for_a_while(stalled):
    """Guards the time of it: a client that took the refusal late was listened to as if it might ask again."""

    async def refusing(exchange):
        exchange.answer(401, b"Unauthorized", b"", b"n" * 3000)

    wire = Wire(refusing, linger_s=2, write_idle_timeout_s=10, keepalive_timeout_s=75)
    wire.stalled = stalled
    wire.arrive(POST % 1000 + b"abc")
    wire.stalled = False
    wire.take()
    wire.arrive(b"x" * 900)
    assert wire.ended is None
    wire.pass_s(12)

    assert wire.ended == "aborted"
    assert len(wire.taken) > 3000


async def test_a_client_that_leaves_is_noticed_while_its_call_goes_on():
    let = asyncio.get_running_loop().create_future()
    told = []

    async def handler(exchange):
        exchange.call_when_gone(lambda: told.append(exchange.gone))
        await let
        exchange.answer(200, b"OK", b"", b"nobody gets this")
        told.append("done")

    wire = Wire(handler)
    wire.arrive(GET % 1 + GET % 2)
    wire.leave()
    await asyncio.sleep(0)
    assert (told, wire.listener.connections, len(wire.listener.busy)) == ([True], set(), 1)
    let.set_result(None)
    await eventually(lambda: not wire.listener.busy)

    assert told == [True, "done"]
    assert wire.taken == b""


async def test_a_client_that_has_left_and_takes_nothing_is_cut_off():
    """Guards the deadline of a connection that closes already when its answer ends: there was none, so that clients which
    ended their side and read no more kept as many connections as are granted, for ever."""
    let = asyncio.get_running_loop().create_future()

    async def handler(exchange):
        await let
        exchange.answer(200, b"OK", b"", b"x" * 100)

    wire = Wire(handler, write_idle_timeout_s=10)
    wire.stalled = True
    wire.arrive(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    wire._unsent = b"what was sent before"
    wire.close()
    let.set_result(None)
    await eventually(lambda: not wire.listener.busy)
    assert wire.ended == "closing"

    wire.pass_s(30)

    assert wire.ended == "aborted"


async def test_whoever_sends_thousands_of_requests_at_once_leaves_others_their_turn():
    """Guards TURN_REQUESTS_MAX: without it one read of one client's kept every other waiting for a fifth of a second,
    and there were thirty-two reads to a turn."""
    answered = 0

    async def handler(exchange):
        nonlocal answered
        answered += 1
        exchange.answer(200, b"OK", b"", b"")

    wire = Wire(handler)
    wire.arrive(GET % 1 * 1000)
    at_once = answered
    wire.arrive(GET % 1 * 1000)
    assert (at_once, answered) == (listener.TURN_REQUESTS_MAX, listener.TURN_REQUESTS_MAX)

    while answered < 2000:
        before = answered
        await asyncio.sleep(0)
        wire.deliver()
        assert answered - before <= 2 * listener.TURN_REQUESTS_MAX

    assert wire.taken.count(b"HTTP/1.1 200 OK") == 2000


async def test_empty_lines_that_come_bit_by_bit_give_a_head_no_more_time():
    """Guards that the time for a head begins once: each carriage return began it anew, and held a connection for ever."""
    wire = Wire(answering, head_timeout_s=10)
    for _ in range(12):
        wire.arrive(b"\r")
        wire.pass_s(0.5)
        wire.arrive(b"\n")
        wire.pass_s(0.5)

    assert wire.ended is not None


async def test_an_answer_that_is_begun_anew_is_framed_as_the_second_one_says():
    """Guards start: what the first had set stayed, and a body in chunks came under a length."""

    async def handler(exchange):
        exchange.start(200, b"OK", b"", length=None)
        exchange.answer(502, b"Bad Gateway", b"", b"sorry")

    wire = Wire(handler)
    wire.arrive(GET % 1)

    assert wire.taken == b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nsorry"


class OrderedWire(Wire):
    """A client that knows in which order the system was told things, and can close its side alone."""

    def __init__(self, handler):
        self.told = []
        super().__init__(handler)

    def write(self, data):
        self.told.append("bytes")
        super().write(data)

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.told.append("end of bytes")

    def close(self):
        self.told.append("closed")
        super().close()

    def abort(self):
        self.told.append("aborted")
        super().abort()


async def breaking_off(exchange):
    exchange.start(200, b"OK", b"", length=100)
    exchange.send(b"a part")
    exchange.abort()


@pytest.mark.parametrize(
    ("handler", "request_bytes", "told"),
    [
        (answering, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", ["bytes", "closed"]),
        (breaking_off, GET % 1, ["bytes", "aborted"]),
        (answering, b"GET / HTTP/1.1\r\n\r\n", ["bytes", "end of bytes"]),
    ],
    ids=["the last answer", "a part of an answer", "a refusal"],
)
async def test_what_waits_for_the_end_of_a_turn_leaves_before_its_connection_ends(handler, request_bytes, told):
    """Guards what was written last: held until the turn was over, it was written to a connection that had ended."""
    wire = OrderedWire(handler)
    wire.connection.data_received(request_bytes)

    assert wire.told[:2] == told


async def test_an_answer_leaves_before_a_client_that_has_ended_its_side_is_closed():
    """As above, where the system closes: on what `eof_received` returns."""
    wire = Wire(answering)
    wire.connection.data_received(GET % 1)
    before = wire.taken
    wire.connection.eof_received()

    assert before == b""
    assert wire.taken.startswith(b"HTTP/1.1 200 OK")


async def test_what_waits_for_the_end_of_a_turn_is_not_sent_to_a_client_that_is_gone():
    """Guards the end of a connection: a provider's last words for it were written to what had ended."""
    wire = Wire(answering)
    wire.connection.data_received(GET % 1)
    wire.ended = "closed"
    wire.connection.connection_lost(None)
    with capture_logs() as said:
        wire.listener.departures.leave()

    assert (wire.taken, said) == (b"", [])


async def sending_much(exchange):
    while not exchange.body_read:
        await exchange.read()
    exchange.answer(200, b"OK", b"", b"a" * 700)


async def test_a_client_that_is_to_be_waited_for_has_its_next_request_begun_when_it_has_taken_the_last_answer():
    """Guards the time for a body: told to wait at the end of the turn, the listener forgot what the next request had begun."""
    wire = Wire(sending_much, body_idle_timeout_s=10, body_rate_min=100)
    wire.stalled = True
    wire.arrive(GET % 1)
    assert not wire.connection.writing_paused

    wire.arrive(GET % 1 + b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
    assert wire.connection.writing_paused
    wire.stalled = False
    wire.take()
    for _ in range(3):
        wire.pass_s(10)

    assert wire.ended == "aborted"


async def test_whether_a_client_is_to_be_waited_for_is_known_when_something_was_sent():
    """Guards the rate of slow clients: one chunk more was written behind the count of what they had not taken."""
    looked = []

    async def handler(exchange):
        exchange.start(200, b"OK", b"", length=2000)
        for _ in range(3):
            exchange.send(b"a" * 600)
            looked.append(exchange.writing_paused)

    wire = Wire(handler)
    wire.stalled = True
    wire.connection.write(b"b" * 10)
    wire.listener.departures.leave()
    wire.connection.data_received(GET % 1)

    assert looked == [False, True, True]
