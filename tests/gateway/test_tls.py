"""TLS on a connection: whatever pieces its bytes come in, who speaks over it sees the same, and no end that nobody said."""

from __future__ import annotations

import asyncio
import re
import ssl
import struct
from contextlib import suppress
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway import tls, upstream
from gateway.acceptor import bound
from gateway.departures import HELD_BYTES_MAX
from gateway.strand import Strand
from gateway.tls import RECORD_BYTES_MAX, Tls
from gateway.upstream import BrokenAnswer, ConnectTimeout, Origin, Unreachable, Upstream
from tests.certificates import made_certificate
from tests.gateway.peers import answer, answers, client, eventually, provider, soon
from tests.gateway.test_listener import GET, Serving
from tests.gateway.test_upstream import ASK, whole


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return made_certificate(tmp_path_factory.mktemp("tls"))


class Network:
    """A TCP connection without a network: what was written to it, and what it was told."""

    def __init__(self):
        self.written = bytearray()
        self.told = []
        self.closing = False

    def set_write_buffer_limits(self, high):
        self.told.append(("high", high))

    def write(self, data):
        assert not self.closing
        self.written += data

    def is_closing(self):
        return self.closing

    def close(self):
        self.told.append("close")
        self.closing = True

    def abort(self):
        self.told.append("abort")
        self.closing = True

    def pause_reading(self):
        self.told.append("pause")

    def resume_reading(self):
        self.told.append("resume")

    def get_write_buffer_size(self):
        return 7

    def get_extra_info(self, name):
        return f"the {name}"

    def taken(self):
        data, self.written = bytes(self.written), bytearray()
        return data


class Above(asyncio.Protocol):
    """Who speaks in clear: what it was told, in order."""

    def __init__(self):
        self.told = []
        self.received = b""
        self.transport = None
        self.act = lambda data: None

    def connection_made(self, transport):
        self.transport = transport
        self.told.append("made")

    def data_received(self, data):
        self.received += data
        if self.told[-1] != "data":
            self.told.append("data")
        self.act(data)

    def eof_received(self):
        self.told.append("eof")

    def connection_lost(self, exc):
        self.told.append(("lost", type(exc)))

    def pause_writing(self):
        self.told.append("pause")

    def resume_writing(self):
        self.told.append("resume")


class Side:
    """One end of a connection, driven by hand."""

    def __init__(self, context, **to):
        self.above = Above()
        self.network = Network()
        self.over = []
        self.tls = Tls(context, self.above, lambda _, error: self.over.append(error), **to)

    def begin(self):
        self.tls.connection_made(self.network)

    def arrive(self, data, sizes=(1 << 20,)):
        """Bytes come in pieces of these sizes, over and over."""
        at = piece = 0
        while at < len(data):
            if self.network.closing:
                return
            self.tls.data_received(data[at : at + sizes[piece % len(sizes)]])
            at += sizes[piece % len(sizes)]
            piece += 1


class Pair:
    """A client and a server of ours, before one another."""

    def __init__(self, certificate, *, trusted=None, name="localhost", sizes=(1 << 20,), shaken=True):
        """Unless it is `shaken`, the client's last word of the handshake is on its way."""
        self.client = Side(trusted or certificate.trusted(), server_hostname=name)
        self.server = Side(certificate.served())
        self.sizes = sizes
        self.client.begin()
        self.server.begin()
        self.server.arrive(self.client.network.taken(), self.sizes)
        self.client.arrive(self.server.network.taken(), self.sizes)
        if shaken:
            self.deliver()

    def deliver(self):
        """What has been written arrives, until nothing is left to."""
        while self.client.network.written or self.server.network.written:
            self.server.arrive(self.client.network.taken(), self.sizes)
            self.client.arrive(self.server.network.taken(), self.sizes)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=5),
    asked=st.lists(st.binary(min_size=1, max_size=300) | st.integers(1, 70_000).map(bytes), max_size=4),
    told=st.lists(st.binary(min_size=1, max_size=300) | st.integers(1, 70_000).map(bytes), max_size=4),
)
def test_whatever_pieces_it_comes_in_both_sides_read_what_was_written(certificate, sizes, asked, told):
    """Guards the loop that reads records: sabotaged (one record each time), whoever waits for the rest waits for ever."""
    pair = Pair(certificate, sizes=sizes)

    for data in asked:
        pair.client.tls.write(data)
    for data in told:
        pair.server.tls.write(data)
    pair.deliver()

    assert (pair.client.over, pair.server.over) == ([None], [None])
    assert pair.server.above.received == b"".join(asked)
    assert pair.client.above.received == b"".join(told)


@pytest.mark.parametrize("size", [RECORD_BYTES_MAX - 1, RECORD_BYTES_MAX, RECORD_BYTES_MAX + 1, 5 * RECORD_BYTES_MAX])
def test_what_came_at_once_is_given_on_at_once(certificate, size):
    pair = Pair(certificate)
    seen = []
    pair.client.above.act = seen.append

    pair.server.tls.write(b"x" * size)
    pair.server.tls.write(b"y")
    pair.deliver()

    assert seen == [b"x" * size + b"y"]


def test_with_the_last_bytes_of_the_handshake_the_first_of_a_request_may_come(certificate):
    """Guards what is read right behind the handshake: sabotaged (only with the next bytes), the request waits for ever."""
    pair = Pair(certificate, shaken=False)

    pair.client.tls.write(b"GET")
    pair.server.arrive(pair.client.network.taken())

    assert pair.server.above.told == ["made", "data"]
    assert pair.server.above.received == b"GET"


def test_the_end_that_a_peer_tells_of_comes_behind_its_bytes(certificate):
    pair = Pair(certificate)

    pair.server.tls.write(b"all of it")
    pair.server.tls.close()
    pair.deliver()

    assert pair.client.above.received == b"all of it"
    assert pair.client.above.told == ["made", "data", "eof"]
    assert pair.server.network.told[-1] == pair.client.network.told[-1] == "close"


def test_an_end_that_nobody_told_of_is_a_loss(certificate):
    """Guards against whoever cuts an answer off: sabotaged (the end of TCP passed on as one), a part looks whole."""
    pair = Pair(certificate)

    pair.server.tls.write(b"a part")
    pair.deliver()
    assert not pair.client.tls.eof_received()
    pair.client.tls.connection_lost(None)

    assert pair.client.above.told == ["made", "data", ("lost", type(None))]
    assert pair.client.network.told[-1] == "abort"


@pytest.mark.parametrize("at", [0, 1, 3, 5, 8, -1])
def test_a_record_that_was_changed_on_its_way_ends_the_connection(certificate, at):
    pair = Pair(certificate)
    pair.server.tls.write(b"10 dollars")
    record = bytearray(pair.server.network.taken())
    record[at] ^= 0x40

    pair.client.tls.data_received(bytes(record))
    if not pair.client.network.closing:
        assert at in (3, 4)  # It says to be longer than it is.
        pair.client.tls.data_received(bytes(1 << 16))
    pair.client.tls.connection_lost(None)

    assert pair.client.above.received == b""
    assert pair.client.above.told == ["made", ("lost", ssl.SSLError)]


class OfRecords:
    """A client that makes its records itself, under the keys of a pair's: what no library would send."""

    def __init__(self, certificate, tmp_path):
        trusted = certificate.trusted()
        trusted.minimum_version = ssl.TLSVersion.TLSv1_3
        trusted.keylog_filename = str(tmp_path / "keys")
        self.server = Pair(certificate, trusted=trusted).server
        secrets = dict(re.findall(r"^(\w+) \w+ (\w+)$", (tmp_path / "keys").read_text(), re.MULTILINE))
        self._next(bytes.fromhex(secrets["CLIENT_TRAFFIC_SECRET_0"]))
        self.server.network.taken()

    def _next(self, secret):
        """The keys of the cipher that OpenSSL prefers, TLS_AES_256_GCM_SHA384 (RFC 8446 section 7.3)."""
        self.secret, self.sent = secret, 0
        self.key, self.nonce = self._expanded(b"key", 32), self._expanded(b"iv", 12)

    def _expanded(self, label, length):
        told = b"tls13 " + label
        info = struct.pack("!HB", length, len(told)) + told + b"\0"
        return HKDFExpand(hashes.SHA384(), length, info).derive(self.secret)

    def _record(self, content, kind):
        head = b"\x17\x03\x03" + struct.pack("!H", len(content) + len(kind) + 16)
        nonce = int.from_bytes(self.nonce, "big") ^ self.sent
        self.sent += 1
        return head + AESGCM(self.key).encrypt(nonce.to_bytes(12, "big"), content + kind, head)

    def update(self, *, asked=False):
        """A change of key (sections 4.6.3 and 7.2), which may ask the other side for its own."""
        record = self._record(b"\x18\0\0\x01" + bytes((asked,)), b"\x16")
        self._next(self._expanded(b"traffic upd", 48))
        return record

    def said(self, content, padding=0):
        return self._record(content, b"\x17" + bytes(padding))

    def send(self, records):
        """How many of them arrived while there was a connection."""
        for number, record in enumerate(records):
            if self.server.network.closing:
                return number
            self.server.tls.data_received(record)
        return None


@pytest.mark.parametrize(("count", "kept"), [(100, True), (100_000, False)])
@pytest.mark.parametrize("says", [0, 1], ids=["nothing", "a-byte-now-and-then"])
def test_a_peer_that_does_little_but_change_its_key_is_let_go_of(certificate, tmp_path, count, kept, says):
    """Guards everybody's turns: each costs us ten times what it costs its sender, and there may be ten thousand in a read."""
    peer = OfRecords(certificate, tmp_path)

    taken = peer.send(peer.said(b".") if says and number % 100 == 0 else peer.update() for number in range(count))

    assert peer.server.network.closing is not kept
    assert kept or taken <= 2 * tls.SILENT_RECORDS_MAX


def test_a_peer_may_change_its_key_as_often_as_it_says_something(certificate, tmp_path):
    peer = OfRecords(certificate, tmp_path)

    peer.send(peer.said(b".") if number % 2 else peer.update() for number in range(10 * tls.SILENT_RECORDS_MAX))

    assert not peer.server.network.closing


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 30) | st.integers(1, 70_000), min_size=1, max_size=5),
    paddings=st.lists(st.integers(0, 300), min_size=1, max_size=3),
)
@example(sizes=[1 << 18], paddings=[4096, 16_000])
def test_a_peer_that_says_a_byte_at_a_time_is_heard_however_it_pads_them(certificate, tmp_path, sizes, paddings):
    """Guards the count of records over the cuts of the network: one that is off takes content for the beginning of a header."""
    peer = OfRecords(certificate, tmp_path)
    count = 2 * tls.SILENT_RECORDS_MAX
    padded = (peer.said(b".", paddings[number % len(paddings)]) for number in range(count))

    peer.server.arrive(b"".join(padded), sizes)

    counted = [peer.server.tls._silent_records]
    peer.server.arrive(b"".join(peer.update() for _ in range(100)), sizes)
    counted.append(peer.server.tls._silent_records)

    assert peer.server.above.received == b"." * count
    assert counted == [0, 100]


@pytest.mark.parametrize(
    ("unsent", "takes", "kept"), [(0, False, True), (1, False, False), (1, True, True)], ids=["all", "nothing", "some"]
)
def test_a_peer_that_asks_for_new_keys_and_takes_none_is_let_go_of(
    certificate, tmp_path, monkeypatch, unsent, takes, kept
):
    """Guards memory: what TLS says for itself waits for nobody, and whoever says enough besides may ask as often."""
    peer = OfRecords(certificate, tmp_path)
    monkeypatch.setattr(peer.server.network, "get_write_buffer_size", lambda: unsent)

    for number in range(10_000):
        peer.send([peer.update(asked=True), peer.said(b".")])
        if takes and number % 1000 == 0:
            peer.server.tls.resume_writing()

    assert peer.server.network.closing is not kept
    assert kept or len(peer.server.network.written) <= 2 * tls.UNTAKEN_BYTES_MAX


def test_what_came_before_something_wrong_is_given_on_all_the_same(certificate):
    """Guards usage that is told just before a connection breaks: whether it counts was a matter of how the network cut it."""
    pair = Pair(certificate)
    pair.server.tls.write(b"10 dollars")
    good = pair.server.network.taken()
    pair.server.tls.write(b"and 20 more")
    wrong = bytearray(pair.server.network.taken())
    wrong[-1] ^= 1

    pair.client.tls.data_received(good + bytes(wrong))
    pair.client.tls.connection_lost(None)

    assert pair.client.above.received == b"10 dollars"
    assert pair.client.above.told == ["made", "data", ("lost", ssl.SSLError)]


def test_as_much_as_leaves_at_the_end_of_a_turn_makes_nobody_wait(certificate):
    """Guards what is written while nobody looks whether it is to wait: records make more of it than it was."""
    pair = Pair(certificate)

    pair.client.tls.write(bytes(HELD_BYTES_MAX))

    assert HELD_BYTES_MAX < len(pair.client.network.written) <= tls.UNSENT_BYTES_HIGH < 2 * HELD_BYTES_MAX


@pytest.mark.parametrize(("name", "trusts"), [("localhost", False), ("other.example", True)])
def test_whom_a_client_does_not_trust_it_does_not_speak_to(certificate, name, trusts):
    trusted = certificate.trusted() if trusts else ssl.create_default_context()
    pair = Pair(certificate, trusted=trusted, name=name)
    for side in (pair.client, pair.server):
        side.tls.connection_lost(None)

    assert [type(error) for error in pair.client.over] == [ssl.SSLCertVerificationError]
    assert "ALERT" in str(pair.server.over[0])  # Which the client has told.
    assert pair.client.above.told == pair.server.above.told == []
    assert pair.client.network.told[-1] == "close"


def test_a_peer_that_leaves_during_the_handshake_is_told_of(certificate):
    side = Side(certificate.served())
    side.begin()
    side.tls.eof_received()
    side.tls.connection_lost(None)

    assert [type(error) for error in side.over] == [ConnectionResetError]
    assert side.above.told == []


def test_what_would_be_a_connection_too_many_is_not_read(certificate):
    """Guards whoever ends a connection as it begins: sabotaged, it is given what came with the handshake all the same."""
    pair = Pair(certificate, shaken=False)
    pair.server.above.connection_made = lambda transport: transport.abort()
    pair.client.tls.write(b"GET")

    pair.server.arrive(pair.client.network.taken())

    assert pair.server.above.received == b""


def test_after_its_end_nothing_is_written(certificate):
    pair = Pair(certificate)
    pair.client.tls.close()
    pair.client.network.taken()

    pair.client.tls.write(b"more")
    pair.client.tls.close()

    assert pair.client.network.taken() == b""
    assert pair.client.network.told[1:] == ["close"]


def test_the_pace_of_the_network_is_that_of_who_speaks_over_it(certificate):
    pair = Pair(certificate)
    shaking = Side(certificate.served())
    shaking.begin()
    shaking.tls.pause_writing()
    shaking.tls.resume_writing()
    pair.client.tls.pause_writing()
    pair.client.tls.resume_writing()
    pair.client.tls.pause_reading()
    pair.client.tls.resume_reading()

    assert shaking.above.told == []
    assert pair.client.above.told == ["made", "pause", "resume"]
    assert pair.client.network.told == [("high", tls.UNSENT_BYTES_HIGH), "pause", "resume"]
    assert pair.client.tls.get_write_buffer_size() == 7
    assert pair.client.tls.get_extra_info("socket") == "the socket"
    assert not pair.client.tls.can_write_eof()


# ---------------------------------------------------------------------------------------------------------------------
# Before a provider


@pytest.fixture
async def pools(certificate, monkeypatch):
    monkeypatch.setattr(upstream, "SWEEP_S", 0.01)
    made = Upstream(tls=certificate.trusted())
    await made.open()
    yield made
    await made.close()


def pool_of(pools, serving):
    return pools.pool(Origin.parsed(f"https://127.0.0.1:{serving.port}"))


def body_of(pool, number=1):
    """The whole body of an answer, as a call reads it."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    async def call():
        connection = pool.kept() or await pool.connected()
        try:
            connection.send(ASK % number, strand, method="GET", whole=True)
            await connection.answer()
            done.set_result(await whole(connection))
        finally:
            pool.release(connection)

    strand = Strand(call(), loop, lambda error: None if error is None else done.set_exception(error))
    strand.wake()
    return soon(done)


async def test_a_provider_is_spoken_to_over_one_connection(pools, certificate):
    async with provider(answers(answer(b"x" * 100_000)), certificate.served()) as serving:
        pool = pool_of(pools, serving)
        for number in range(3):
            assert await body_of(pool, number) == b"x" * 100_000

        assert len(serving.peers) == 1


async def cut_off(peer):
    await peer.message()
    await peer.send(b"HTTP/1.1 200 OK\r\n\r\na part of it")
    peer.writer.transport.get_extra_info("socket").shutdown(2)


async def ended(peer):
    await peer.message()
    await peer.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")


async def test_an_answer_that_ends_by_the_close_is_whole_where_the_provider_says_so(pools, certificate):
    """RFC 9112 section 9.8. Guards incomplete closes: event loops' own TLS gives both alike."""
    async with provider(ended, certificate.served()) as serving:
        assert await body_of(pool_of(pools, serving)) == b"all of it"

    async with provider(cut_off, certificate.served()) as serving:
        with pytest.raises(BrokenAnswer):
            await body_of(pool_of(pools, serving))


async def test_a_provider_that_is_not_trusted_is_unreachable(certificate):
    pools = Upstream()
    async with provider(answers(answer(b"hi")), certificate.served()) as serving:
        with pytest.raises(Unreachable, match="SSLCertVerificationError"):
            await pool_of(pools, serving).connected()

        assert serving.seen == b""


async def test_a_provider_that_does_not_shake_hands_in_time_is_left(pools):
    async def silent(peer):
        with suppress(EOFError):
            await peer.reader.readuntil(b"never")

    async with provider(silent) as serving:
        pool = pool_of(pools, serving)
        pool.limits = replace(pool.limits, connect_timeout_s=0.1)
        with pytest.raises(ConnectTimeout):
            await pool.connected()

        await eventually(lambda: serving.peers and serving.peers[0].reader.at_eof())
        assert pool.connections == 0


# ---------------------------------------------------------------------------------------------------------------------
# Before clients


async def test_handshakes_count_among_the_connections_that_are_granted(certificate):
    """Guards the limit: sabotaged (only connections count), whoever begins handshakes holds as many as the system has."""
    made = Serving()
    made.grant(connections_max=3, head_timeout_s=3600)
    listening = bound("127.0.0.1", 0)
    await made.listener.open(listening, certificate.served())
    port = listening.getsockname()[1]
    async with client(port) as one, client(port) as two, client(port) as three:
        for peer in (one, two, three):
            await peer.send(b"\x16\x03\x01")
        await asyncio.sleep(0.05)
        async with client(port) as fourth:
            assert await fourth.ended()
        one.close()
        two.close()
        await asyncio.sleep(0.05)

        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=certificate.trusted())
        writer.write(GET % 1)
        assert (await soon(reader.readline())).startswith(b"HTTP/1.1 200")
        writer.close()
    await made.listener.close(0)
