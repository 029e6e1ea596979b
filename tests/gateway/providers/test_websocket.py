from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.providers.websocket import (
    BEGINNING_BYTES,
    MESSAGE_BYTES_MAX,
    PLAIN_BYTES_MAX,
    Coding,
    Messages,
    agreed,
)
from tests.frames import BINARY, CLOSE, CONTINUED, PING, PONG, TEXT, close, frame

PLAIN = Coding()
DEFLATE = Coding(deflate=True)


def anything(beginning: bytes) -> bool:
    return True


def read(data: bytes, coding: Coding = PLAIN, cuts: list[int] | None = None) -> tuple[list[bytes], Messages]:
    """The messages in this, fed in pieces of these sizes, over and over."""
    messages, found, at, turn = Messages(coding, anything), [], 0, 0
    while at < len(data):
        size = cuts[turn % len(cuts)] if cuts else len(data)
        found += messages.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    return found, messages


def deflated(encoder: zlib._Compress, plain: bytes) -> bytes:
    return (encoder.compress(plain) + encoder.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[bytes], bytes, Coding]:
    """Messages, and the frames that carry them: in fragments, with control frames between, compressed, masked."""
    coding = draw(st.sampled_from([Coding(), DEFLATE, Coding(deflate=True, keeps_context=False)]))
    bits = draw(st.integers(9, 15))
    encoder = zlib.compressobj(wbits=-bits)
    messages, wire = [], b""
    for _ in range(draw(st.integers(0, 6))):
        message = draw(st.binary(max_size=300)) * draw(st.sampled_from([1, 1, 1, 3, 500]))
        messages.append(message)
        coded = coding.deflate and draw(st.booleans())
        if coded and not coding.keeps_context:
            encoder = zlib.compressobj(wbits=-bits)
        rest = deflated(encoder, message) if coded else message
        kind, first = draw(st.sampled_from([TEXT, BINARY])), True
        for size in draw(st.lists(st.integers(0, 200), max_size=3)):
            wire += frame(rest[:size], kind, last=False, masked=draw(st.booleans()), coded=coded and first)
            wire += frame(draw(st.binary(max_size=20)), PING) if draw(st.booleans()) else b""
            kind, first, rest = CONTINUED, False, rest[size:]
        wire += frame(rest, kind, masked=draw(st.booleans()), coded=coded and first)
    return messages, wire, coding


@given(conversations(), st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_what_was_said_is_read_whole_wherever_the_network_cuts(conversation, cuts):
    said, wire, coding = conversation

    found, messages = read(wire, coding, cuts)

    assert not messages.lost
    assert found == said


@given(conversations())
def test_a_byte_at_a_time_is_read_too(conversation):
    said, wire, coding = conversation

    assert read(wire, coding, [1])[0] == said


@given(st.binary(max_size=2000), st.sampled_from([Coding(), DEFLATE]), st.lists(st.integers(1, 50), min_size=1))
def test_no_bytes_make_it_raise_and_where_they_are_cut_does_not_matter(data, coding, cuts):
    found, whole = read(data, coding)
    in_pieces, pieces = read(data, coding, cuts)

    assert (in_pieces, pieces.lost, pieces.closed) == (found, whole.lost, whole.closed)


@given(conversations(), st.data())
def test_what_was_damaged_on_the_way_never_makes_it_raise(conversation, data):
    _, wire, coding = conversation
    damaged = bytearray(wire)
    for _ in range(data.draw(st.integers(1, 4)) if wire else 0):
        damaged[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))

    read(bytes(damaged), coding, [7, 100])


@pytest.mark.parametrize(
    "wire",
    [
        frame(b"x", 3, masked=False),
        frame(b"x", 11, masked=False),
        bytes([0x91, 1]) + b"x",
        frame(b"x", coded=True, masked=False),
        frame(b"x", CONTINUED, masked=False),
        frame(b"x", last=False, masked=False) + frame(b"y", masked=False),
        frame(b"x", PING, last=False, masked=False),
        frame(b"x" * 126, PING, masked=False),
        bytes([0x81, 127]) + (1 << 63).to_bytes(8, "big"),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=[
        "opcode-3",
        "opcode-11",
        "reserved-bit",
        "coded-without-leave",
        "goes-on-from-nothing",
        "begins-inside-another",
        "control-in-fragments",
        "control-too-long",
        "longer-than-63-bits",
        "http",
    ],
)
def test_from_what_is_no_websocket_on_nothing_is_read(wire):
    found, messages = read(frame(b"before", masked=False) + wire + frame(b"after", masked=False))

    assert messages.lost
    assert found == [b"before"]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
def test_every_form_of_a_length_is_read(size, masked):
    payload = random.Random(size).randbytes(size)

    assert read(frame(payload, BINARY, masked=masked))[0] == [payload]


def test_it_is_known_when_the_sender_closes():
    assert not read(frame(b"", PONG) + frame(b"x"))[1].closed
    assert read(frame(b"x") + close(1000, masked=False))[1].closed
    assert read(frame(b"x", last=False) + frame(b"", CLOSE))[1].closed


@pytest.mark.parametrize("fragments", [1, 5])
@pytest.mark.parametrize("coded", [False, True])
def test_of_what_is_not_wanted_nothing_is_kept_and_what_comes_next_is_read(coded, fragments):
    encoder, shown = zlib.compressobj(wbits=-15), []

    def wanted(beginning: bytes) -> bool:
        shown.append(beginning)
        return beginning.startswith(b"wanted")

    def framed(message: bytes) -> bytes:
        payload = deflated(encoder, message) if coded else message
        size = -(-len(payload) // fragments)
        pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
        return b"".join(
            frame(piece, CONTINUED if n else TEXT, last=n == len(pieces) - 1, coded=coded and not n, masked=False)
            for n, piece in enumerate(pieces)
        )

    audio = b"audio" + random.Random(1).randbytes(100_000)
    messages = Messages(DEFLATE if coded else Coding(), wanted)
    wire = framed(audio) + framed(b"wanted " * 100) + framed(audio) + framed(b"wanted")
    found = [message for at in range(0, len(wire), 1000) for message in messages.feed(wire[at : at + 1000])]

    assert found == [b"wanted " * 100, b"wanted"]
    assert [beginning[:5] for beginning in shown] == [b"audio", b"wante", b"audio", b"wante"]
    assert all(len(beginning) <= BEGINNING_BYTES for beginning in shown)


def test_a_message_over_the_bound_is_passed_over_and_the_next_is_read():
    large = frame(b"x" * (MESSAGE_BYTES_MAX + 1), masked=False)

    found, messages = read(large + frame(b"next", masked=False), cuts=[1 << 16])

    assert (found, messages.overlong, messages.lost) == ([b"next"], True, False)


def test_a_bomb_costs_a_bounded_amount_and_nothing_is_read_after_it():
    """Guards the worker: sabotaged (no bound), a mebibyte of frames is inflated to a gibibyte."""
    encoder = zlib.compressobj(9, wbits=-15)
    bomb = frame(deflated(encoder, bytes(4 * PLAIN_BYTES_MAX)), coded=True, masked=False)

    found, messages = read(bomb + frame(b"after", masked=False), DEFLATE, cuts=[4096])

    assert (found, messages.lost) == ([], True)


def test_a_bomb_of_many_ends_is_one_too():
    payload = b"\x03\x00" * 100_000

    assert read(frame(payload, coded=True, masked=False), DEFLATE)[1].lost


def test_an_hour_of_silence_is_no_bomb():
    """Guards against taking for a bomb what only says the same again and again, which compresses as well."""
    encoder = zlib.compressobj(wbits=-15)
    messages = Messages(DEFLATE, lambda beginning: False)
    silence = b'{"type":"response.output_audio.delta","delta":"%b"}' % (b"A" * 8_000)
    for _ in range(30_000):
        messages.feed(frame(deflated(encoder, silence), coded=True, masked=False))

    assert not messages.lost


@settings(max_examples=50)
@given(st.binary(min_size=1, max_size=200), st.binary(max_size=200))
def test_a_compressor_that_ends_its_last_block_is_understood(first, second):
    """RFC 7692 section 7.2.3.4: a block with BFINAL set, and an empty one behind it."""
    payloads = []
    for message in (first, second):
        encoder = zlib.compressobj(wbits=-15)
        payloads.append(encoder.compress(message) + encoder.flush() + b"\x00")

    wire = b"".join(frame(payload, coded=True, masked=False) for payload in payloads)

    assert read(wire, Coding(deflate=True, keeps_context=False))[0] == [first, second]


@pytest.mark.parametrize(
    ("lines", "of_server", "coding"),
    [
        ([], True, Coding()),
        (["permessage-deflate"], True, DEFLATE),
        (["Permessage-Deflate; server_max_window_bits=10; client_no_context_takeover"], True, DEFLATE),
        (["permessage-deflate; server_no_context_takeover"], True, Coding(deflate=True, keeps_context=False)),
        (["permessage-deflate; server_no_context_takeover"], False, DEFLATE),
        (["permessage-deflate; client_no_context_takeover"], False, Coding(deflate=True, keeps_context=False)),
        (["x-webkit-deflate-frame"], True, Coding(known=False)),
        (["permessage-deflate, permessage-bzip"], True, Coding(known=False)),
        (["permessage-deflate", "another"], True, Coding(known=False)),
    ],
)
def test_what_was_agreed_on_is_read_from_the_servers_answer(lines, of_server, coding):
    assert agreed(lines, of_server=of_server) == coding


def test_under_an_extension_that_is_not_known_nothing_is_read():
    found, messages = read(frame(b"x", masked=False), Coding(known=False))

    assert (found, messages.lost) == ([], True)
