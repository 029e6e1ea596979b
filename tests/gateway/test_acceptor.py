"""Who takes which connection, seen from sockets. That processes see each other's is in `tests/walks/test_life.py`."""

import asyncio
import errno
import gc
import itertools
import os
import resource
import socket
from contextlib import AsyncExitStack, contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway import acceptor
from gateway.acceptor import AHEAD_MAX, Acceptor, Balance, bound
from tests.gateway.peers import client, eventually, soon


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Taking:
    """One of those that share a socket, and what it has taken."""

    def __init__(self, listening, share, *, most=1000, made=Echo):
        self.share = share
        self.taken = []
        self._most = most
        self._made = made
        self.acceptor = Acceptor(listening.dup(), share, self.new)

    def new(self):
        if len(self.taken) == self._most:
            return None
        self.taken.append(self._made())
        self.share.tell(len(self.taken))
        return self.taken[-1]


@pytest.fixture
async def sharing():
    """Makes those that share one socket; gives its port, too."""
    listening, all_of_them = bound("127.0.0.1", 0), []

    def sharing(share, **how):
        all_of_them.append(Taking(listening, share, **how))
        return all_of_them[-1]

    sharing.port = listening.getsockname()[1]
    yield sharing
    for one in all_of_them:
        one.acceptor.close()
        for protocol in one.taken:
            with suppress(AttributeError):
                protocol.transport.abort()
    listening.close()
    await asyncio.sleep(0)


async def opened(ends, port, count):
    return [await ends.enter_async_context(client(port)) for _ in range(count)]


async def answered(peer):
    await peer.send(b"hello")
    return await soon(peer.reader.readexactly(5)) == b"hello"


async def test_each_gets_about_as_many(sharing):
    """Guards the balance: sabotaged (nobody is ever ahead), who asks first has all."""
    balance = Balance(3)
    them = [sharing(balance.share(number)) for number in range(3)]
    async with AsyncExitStack() as ends:
        peers = await opened(ends, sharing.port, 60)
        await eventually(lambda: sum(len(one.taken) for one in them) == 60)

        # As many as come while one of them leaves them to the others can make a difference.
        assert min(len(one.taken) for one in them) >= 15
        assert all([await answered(peer) for peer in peers])


async def test_one_that_hangs_keeps_no_connection_waiting(sharing):
    """Guards the end of the wait: sabotaged (what was left to others is not taken), nobody takes them."""
    balance = Balance(2)
    balance.share(1).tell(0)
    alone = sharing(balance.share(0))
    async with AsyncExitStack() as ends:
        peers = await opened(ends, sharing.port, 10)

        assert all([await answered(peer) for peer in peers])
        assert len(alone.taken) == 10


async def test_one_that_takes_no_more_is_not_waited_for(sharing):
    balance = Balance(2)
    leaves, stays = sharing(balance.share(0)), sharing(balance.share(1))
    stays.share.tell(10)
    assert stays.share.ahead

    leaves.acceptor.close()
    leaves.share.tell(0)  # A connection that it still had has ended.
    assert not stays.share.ahead
    async with client(sharing.port) as peer:
        assert await answered(peer)
    assert not leaves.taken


@given(st.lists(st.integers(0, 9), min_size=2, max_size=6))
def test_there_is_always_one_that_is_not_ahead(connections):
    """Else all would wait for one another, and take each connection late."""
    balance = Balance(len(connections))
    shares = [balance.share(number) for number in range(len(connections))]
    for share, count in zip(shares, connections, strict=True):
        share.tell(count)

    assert [share.ahead for share in shares] == [count - min(connections) > AHEAD_MAX for count in connections]


async def test_those_that_come_together_are_taken_one_in_each_turn(sharing):
    """Guards the turns of others: sabotaged (what has come is taken to its end), all are taken in one."""
    async with AsyncExitStack() as ends:
        peers = [await ends.enter_async_context(client(sharing.port)) for _ in range(20)]
        taking, turns = sharing(Balance(1).share(0)), [0]
        while len(taking.taken) < len(peers):
            await soon(asyncio.sleep(0))
            turns.append(len(taking.taken))

        assert max(after - before for before, after in itertools.pairwise(turns)) == 1
        assert all([await answered(peer) for peer in peers])


async def test_one_too_many_is_closed_at_once(sharing):
    taking = sharing(Balance(1).share(0), most=1)
    async with client(sharing.port) as first, client(sharing.port) as second:
        assert await soon(second.reader.read()) == b""
        assert await answered(first)
    assert len(taking.taken) == 1


async def test_one_that_is_full_leaves_connections_to_one_that_is_slow(sharing, monkeypatch):
    """Guards the longer pause: sabotaged (a full one closes what comes as ever), all are closed before the other one
    looks. But one by one each is told, if nobody ever has room."""
    monkeypatch.setattr(acceptor, "FULL_S", 1.0)
    balance = Balance(2)
    full = sharing(balance.share(0), most=0)
    full.share.tell(5)
    balance.share(1).tell(0)
    async with AsyncExitStack() as ends:
        peers = await opened(ends, sharing.port, 5)
        waiting = [asyncio.ensure_future(closed_or_answered(peer)) for peer in peers]
        await soon(asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED))
        await asyncio.sleep(0.1)
        slow = sharing(balance.share(1))

        assert sorted(await asyncio.gather(*waiting)) == [False, True, True, True, True]
        assert len(slow.taken) == 4


async def closed_or_answered(peer):
    """True where it is answered."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        return await answered(peer)
    return False


@contextmanager
def no_files_left():
    """This process can open no further file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.dup(0)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_connections_wait_while_there_is_no_file_for_them(sharing, monkeypatch):
    """Guards the pause: sabotaged (it goes on asking), the system says so in every turn, and so does the log."""
    monkeypatch.setattr(acceptor, "AGAIN_S", 0.05)
    taking = sharing(Balance(1).share(0))
    async with client(sharing.port) as first:
        assert await answered(first)
        with socket.socket() as end, capture_logs() as logs:
            end.setblocking(False)
            with no_files_left():
                with suppress(BlockingIOError):
                    end.connect(("127.0.0.1", sharing.port))
                await eventually(lambda: logs)
                assert await answered(first)
                assert len(taking.taken) == 1
            await eventually(lambda: len(taking.taken) == 2)
    assert {log["event"] for log in logs} == {"connections_not_taken"}
    assert logs[0]["reason"] == os.strerror(errno.EMFILE)
    assert len(logs) < 100


async def test_answers_wait_for_no_acknowledgement(sharing):
    """TCP_NODELAY (tcp(7)): an event loop sets it where it made the socket, and not always where it was given one."""
    taking = sharing(Balance(1).share(0))
    async with client(sharing.port) as peer:
        assert await answered(peer)
        end = taking.taken[0].transport.get_extra_info("socket")

        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


class Refusing(asyncio.Protocol):
    def connection_made(self, transport):
        transport.abort()


@pytest.mark.filterwarnings("error::ResourceWarning")
async def test_a_connection_that_ends_as_it_begins_closes_no_other(sharing):
    """Guards files that two own: the loop and the socket that it was given. Where both close one, the second close is
    that of another connection, which has its number by then."""
    taking = sharing(Balance(1).share(0), made=Refusing)
    async with AsyncExitStack() as ends:
        for _ in range(50):
            (peer,) = await opened(ends, sharing.port, 1)
            with suppress(ConnectionError):
                assert await soon(peer.reader.read()) == b""
        taking._made = Echo
        kept = await opened(ends, sharing.port, 10)
        assert all([await answered(peer) for peer in kept])
        gc.collect()
        assert all([await answered(peer) for peer in kept])


async def test_a_connection_that_can_not_begin_is_given_back(sharing, monkeypatch):
    lost = []

    class Lost(Echo):
        def connection_lost(self, error):
            lost.append(self)

    async def refused(*_):
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(Acceptor, "_connect", refused)
    sharing(Balance(1).share(0), made=Lost)
    with capture_logs() as logs:
        async with client(sharing.port):
            await eventually(lambda: lost)
    assert [log["event"] for log in logs] == ["connection_not_begun"]
