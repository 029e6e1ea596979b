"""Bytes on their way out."""

import asyncio
import os
import socket

import pytest
import uvloop
from structlog.testing import capture_logs

from gateway.departures import HELD_BYTES_MAX, Departures, Sender
from metering.spool import SpoolFailed


class Wire(asyncio.Transport):
    """What was written to the system, call by call."""

    def __init__(self):
        super().__init__()
        self.writes = []
        self.unsent = 0
        self.refused = False

    def get_write_buffer_size(self):
        return self.unsent

    def refuse(self):
        self.refused = True

    def write(self, data):
        self.writes.append(data)


async def test_what_one_turn_brings_leaves_at_its_end_in_one_piece_for_each():
    departures = Departures()
    one, other = Wire(), Wire()
    first, second = Sender(one, departures, one.refuse), Sender(other, departures, other.refuse)

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
    sender = Sender(wire, departures, wire.refuse)
    for piece in (b"a", b"b"):
        sender.write(piece)
        await asyncio.sleep(0)

    assert wire.writes == [b"a", b"b"]


async def test_what_is_written_while_a_turn_ends_leaves_with_the_next():
    departures = Departures()
    wire = Wire()
    sender = Sender(wire, departures, wire.refuse)

    class Answering(Wire):
        def write(self, data):
            sender.write(data)

    Sender(Answering(), departures, wire.refuse).write(b"a")
    await asyncio.sleep(0)
    at_first = list(wire.writes)
    await asyncio.sleep(0)

    assert (at_first, wire.writes) == ([], [b"a"])


async def test_more_than_its_peer_s_slowness_may_hide_does_not_wait():
    """Guards the bound: a whole answer was read and held before anybody saw that its client takes nothing."""
    wire = Wire()
    sender = Sender(wire, Departures(), wire.refuse)
    sender.write(b"a" * HELD_BYTES_MAX)
    kept = list(wire.writes)
    sender.write(b"b")
    assert (kept, wire.writes) == ([], [b"a" * HELD_BYTES_MAX + b"b"])

    await asyncio.sleep(0)

    assert len(wire.writes) == 1


async def test_to_a_peer_that_has_not_taken_what_was_sent_before_nothing_waits():
    """Guards whoever looks whether to wait: told only at the end of the turn, it had read and sent more by then."""
    wire = Wire()
    sender = Sender(wire, Departures(), wire.refuse)
    wire.unsent = 1
    sender.write(b"a")

    assert wire.writes == [b"a"]


async def test_a_connection_that_has_ended_keeps_no_other_one_waiting():
    """Guards those behind it: a transport raises for what is written to it after its end, and they were never sent to."""
    departures = Departures()

    class Ended(Wire):
        def write(self, data):
            raise RuntimeError("the handler is closed")

    ended, wire = Ended(), Wire()
    Sender(ended, departures, ended.refuse).write(b"a")
    behind = Sender(wire, departures, wire.refuse)
    behind.write(b"b")
    with capture_logs() as said:
        await asyncio.sleep(0)
    behind.write(b"c")
    await asyncio.sleep(0)

    assert wire.writes == [b"b", b"c"]
    assert [(line["event"], line["error"]) for line in said] == [("not_sent", "RuntimeError")]


async def test_what_is_held_for_a_connection_that_has_ended_is_dropped():
    wire = Wire()
    sender = Sender(wire, Departures(), wire.refuse)
    sender.write(b"a")
    sender.drop()
    await asyncio.sleep(0)

    assert (wire.writes, wire.refused) == ([], False)


async def test_what_is_held_can_be_sent_before_its_time_and_leaves_once():
    wire = Wire()
    sender = Sender(wire, Departures(), wire.refuse)
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
                self.sender = Sender(transport, departures, transport.abort)

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


class Records:
    """What is recorded in a turn, on a disk that may refuse it."""

    def __init__(self):
        self.departures = Departures(self.write)
        self.refuses = False
        self.written = []

    def write(self):
        self.written.append("records")
        if self.refuses:
            self.departures.refuse("refused by the test")
            raise SpoolFailed("refused by the test")


async def test_records_are_written_before_the_bytes_that_depend_on_them():
    records, wire = Records(), Wire()
    wire.writes = records.written
    sender = Sender(wire, records.departures, wire.refuse)
    sender.write(b"a")
    await asyncio.sleep(0)

    assert records.written == ["records", b"a"]


async def test_records_alone_are_written_at_the_end_of_their_turn():
    records = Records()
    records.departures.begin()
    records.departures.begin()
    await asyncio.sleep(0)

    assert records.written == ["records"]


@pytest.mark.parametrize("size", [1, HELD_BYTES_MAX + 1])
async def test_nothing_leaves_whose_records_are_refused_and_the_next_turn_goes_on(size):
    records, one, other = Records(), Wire(), Wire()
    departures = records.departures
    first, second = Sender(one, departures, one.refuse), Sender(other, departures, other.refuse)
    records.refuses = True
    first.write(b"a")
    second.write(b"b" * size)
    with capture_logs() as said:
        await asyncio.sleep(0)
        first.flush()
    assert (one.refused, other.refused, one.writes + other.writes) == (True, True, [])
    assert size > 1 or [line["connections"] for line in said] == [2]

    records.refuses = False
    first.write(b"c")
    await asyncio.sleep(0)

    assert one.writes == [b"c"]


async def test_what_is_said_after_a_turn_was_refused_leaves():
    """Guards the answer to a call that could not be recorded: it depends on no record, and was held back as all before it."""
    records, one, other = Records(), Wire(), Wire()
    first, second = Sender(one, records.departures, one.refuse), Sender(other, records.departures, other.refuse)
    first.write(b"a")
    records.departures.refuse("found out by somebody")
    second.write(b"503")
    await asyncio.sleep(0)

    assert (one.refused, one.writes) == (True, [])
    assert (other.refused, other.writes) == (False, [b"503"])
