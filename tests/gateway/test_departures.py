"""Bytes on their way out."""

import asyncio
import os
import socket

import pytest
import uvloop

from gateway.departures import HELD_BYTES_MAX, Departures, Sender


class Wire(asyncio.Transport):
    """What was written to the system, call by call."""

    def __init__(self):
        super().__init__()
        self.writes = []

    def write(self, data):
        self.writes.append(data)


async def test_what_one_turn_brings_leaves_at_its_end_in_one_piece_for_each():
    departures = Departures()
    one, other = Wire(), Wire()
    first, second = Sender(one, departures), Sender(other, departures)

    first.write(b"a")
    second.write(b"b")
    first.write(b"c")
    before = one.writes + other.writes
    held = first.holds, second.holds
    await asyncio.sleep(0)

    assert (before, held) == ([], (True, True))
    assert (one.writes, other.writes) == ([b"ac"], [b"b"])
    assert (first.holds, second.holds) == (False, False)


async def test_the_next_turn_is_another():
    departures = Departures()
    wire = Wire()
    sender = Sender(wire, departures)
    for piece in (b"a", b"b"):
        sender.write(piece)
        await asyncio.sleep(0)

    assert wire.writes == [b"a", b"b"]


async def test_what_is_written_while_a_turn_ends_leaves_with_the_next():
    departures = Departures()
    wire = Wire()
    sender = Sender(wire, departures)

    class Answering(Wire):
        def write(self, data):
            sender.write(data)

    Sender(Answering(), departures).write(b"a")
    await asyncio.sleep(0)
    at_first = list(wire.writes)
    await asyncio.sleep(0)

    assert (at_first, wire.writes) == ([], [b"a"])


async def test_more_than_its_peer_s_slowness_may_hide_does_not_wait():
    """Guards the bound: a whole answer was read and held before anybody saw that its client takes nothing."""
    wire = Wire()
    sender = Sender(wire, Departures())
    sender.write(b"a" * HELD_BYTES_MAX)
    kept = list(wire.writes)
    sender.write(b"b")
    assert (kept, wire.writes) == ([], [b"a" * HELD_BYTES_MAX + b"b"])

    await asyncio.sleep(0)

    assert len(wire.writes) == 1


async def test_what_is_held_can_be_sent_before_its_time_and_leaves_once():
    wire = Wire()
    sender = Sender(wire, Departures())
    sender.write(b"a")
    sender.flush()
    sender.flush()
    await asyncio.sleep(0)

    assert wire.writes == [b"a"]


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_turn_ends_before_the_loop_waits_for_more(new_loop):
    """Guards the moment: whoever waits for what is held will send nothing until it has come."""

    async def answered():
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        departures = Departures()

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.sender = Sender(transport, departures)

            def data_received(self, data):
                self.sender.write(data)

        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(Echo, ours)
        try:
            async with asyncio.timeout(10):
                for _ in range(3):
                    os.write(theirs.fileno(), b"ping")
                    assert await loop.sock_recv(theirs, 10) == b"ping"
        finally:
            transport.close()
            theirs.close()

    loop = new_loop()
    try:
        loop.run_until_complete(answered())
    finally:
        loop.close()
