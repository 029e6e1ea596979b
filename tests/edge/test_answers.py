"""What a provider answers is relayed right if it can be read in one way; everything else looks whole to nobody."""

import asyncio
import gzip
import random
from contextlib import suppress

import pytest

from metering.usage import Completeness
from tests.edge.upstreams import (
    CALLS,
    JSON,
    READ,
    WHOLE,
    Telling,
    as_http10,
    asked,
    before,
    billed,
    completion,
    ended_once,
    expect,
    got,
    marked,
    read,
)
from tests.gateway.peers import answer, chunked, client, eventually, provider, soon
from tests.gateway.proxied import ACME, OTHER, OWN, QUANTITIES, USAGE, proxied, request

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"Content-Length: %d" % len(WHOLE)
BILLABLE = [name for name in CALLS if name != "a read"]


def head(*lines, start=b"HTTP/1.1 200 OK"):
    return b"\r\n".join((start, JSON, *lines)) + b"\r\n\r\n"


def frame(data, size=None, end=b"\r\n"):
    return (b"%x" % len(data) if size is None else size) + b"\r\n" + data + end


async def is_relayed(directory, reply, *, status=200, body=WHOLE, then="stay"):
    script = Telling([reply], then)
    async with before(directory, script) as made:
        for call in CALLS.values():
            answered = await asked(made, call())

            assert answered is not None
            assert (answered.status, answered.body, answered.whole) == (status, body, True)
        assert ended_once(made, len(BILLABLE))
        if body == WHOLE:
            assert (made.events[0].quantities, made.events[0].completeness) == (QUANTITIES, Completeness.REPORTED)


async def is_refused(directory, *pieces, then="stay", with_head=False):
    """No call takes this for an answer; `with_head` if the fault comes so late that its head may have been passed on."""
    script = Telling(pieces, then)
    async with before(directory, script) as made:
        for call in CALLS.values():
            answered = await asked(made, call())

            if with_head:
                assert answered is None or answered.refused or not answered.whole
            else:
                assert answered is not None
                assert answered.refused
        await script.ended()
        assert script.calls == len(CALLS)
        assert script.misused == 0
        assert ended_once(made, len(BILLABLE))
        assert (made.events[0].completeness, made.events[0].quantities) == (Completeness.UNKNOWN, {})


async def is_refused_or_read_as(directory, reply, *, status=200, body=WHOLE, then="stay"):
    """Each call is refused, or gets the one reading of this answer."""
    script = Telling([reply], then)
    async with before(directory, script) as made:
        for call in CALLS.values():
            answered = await asked(made, call())

            assert answered is not None
            if not answered.refused:
                assert (answered.status, answered.body, answered.whole) == (status, body, True)
        assert script.calls == len(CALLS)
        assert ended_once(made, len(BILLABLE))


# ---------------------------------------------------------------------------------------------------------------------
# Before the answer

INTERIM = {
    "100": b"HTTP/1.1 100 Continue\r\n\r\n",
    "102": b"HTTP/1.1 102 Processing\r\n\r\n",
    "103": b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\nX-Early: yes\r\n\r\n",
    "199": b"HTTP/1.1 199 Odd\r\n\r\n",
}


@pytest.mark.parametrize("number", [1, 2, 15, 16])
@pytest.mark.parametrize("status", INTERIM)
async def test_interim_answers_are_dropped_and_the_final_one_is_relayed(tmp_path, status, number):
    for place, pieces in enumerate(
        ([INTERIM[status] * number + answer(WHOLE, JSON)], [*[INTERIM[status]] * number, answer(WHOLE, JSON)])
    ):
        script = Telling(pieces)
        async with before(tmp_path / str(place), script) as made:
            for call in CALLS.values():
                answered = await asked(made, call())

                assert answered is not None
                assert (answered.status, answered.body, answered.whole) == (200, WHOLE, True)
                assert answered.head["x-early"] is None
            assert len(made.provider.peers) <= 2
            assert made.events[0].quantities == QUANTITIES


@pytest.mark.parametrize("number", [17, 100, 2000])
@pytest.mark.parametrize("status", INTERIM)
async def test_a_provider_that_says_too_much_before_its_answer_makes_no_sense(tmp_path, status, number):
    await is_refused(tmp_path, INTERIM[status] * number + answer(WHOLE, JSON))


@pytest.mark.parametrize("upgrade", [b"", b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"Content-Length: 5\r\n"])
@pytest.mark.parametrize("after", [b"", b"hello", answer(WHOLE, JSON)])
async def test_a_change_of_protocol_that_nobody_asked_for_is_refused(tmp_path, upgrade, after):
    await is_refused(tmp_path, b"HTTP/1.1 101 Switching Protocols\r\n" + upgrade + b"\r\n" + after)


# ---------------------------------------------------------------------------------------------------------------------
# Heads

PLAIN_STATUS_LINES = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200 ",
    b"HTTP/1.1 200",
    b"HTTP/1.1 200 \xe9t\xe9",
    b"HTTP/1.1 200 a\tb c",
]

NO_STATUS_LINES = [
    b"HTTP/0.9 200 OK",
    b"HTTP/2.0 200 OK",
    b"HTTP/2 200",
    b"HTTP/1 200 OK",
    b"HTTP/1.10 200 OK",
    b"HTTP/11 200 OK",
    b"HTTP/1.x 200 OK",
    b"http/1.1 200 OK",
    b"HTTX/1.1 200 OK",
    b"ICY 200 OK",
    b"200 OK",
    b" HTTP/1.1 200 OK",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1\t200 OK",
    b"HTTP /1.1 200 OK",
    b"HTTP/1.1 99 No",
    b"HTTP/1.1 099 No",
    b"HTTP/1.1 000 No",
    b"HTTP/1.1 20 No",
    b"HTTP/1.1 1000 No",
    b"HTTP/1.1 2000 No",
    b"HTTP/1.1 abc No",
    b"HTTP/1.1 2x0 No",
    b"HTTP/1.1 -20 No",
    b"HTTP/1.1 +200 No",
    b"HTTP/1.1 200OK",
    b"HTTP/1.1 200.0 OK",
    b"HTTP/1.1",
    b"HTTP/1.1 ",
    b"HTTP/1.1 200 O\0K",
    b"HTTP/1.1 200 OK\rX: y",
    b"HTTP/1.1 200 O\x7fK",
    b"GET / HTTP/1.1",
    b"\0\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80",
    b"\x15\x03\x03\0\x02\x02\x0a",
    b"<html>",
    b"",
]


@pytest.mark.parametrize("start", PLAIN_STATUS_LINES)
async def test_a_reason_may_be_anything_or_nothing(tmp_path, start):
    await is_relayed(tmp_path, head(LENGTH, start=start) + WHOLE)


@pytest.mark.parametrize("start", NO_STATUS_LINES)
async def test_what_does_not_begin_as_an_answer_is_none(tmp_path, start):
    # Closed, since some of them could still be the beginning of something.
    await is_refused(tmp_path, head(LENGTH, start=start) + WHOLE, then="close")


@pytest.mark.parametrize("status", [600, 777, 999])
async def test_a_status_that_nobody_defined_is_passed_on_or_refused_and_is_no_success(tmp_path, status):
    await is_refused_or_read_as(tmp_path, head(LENGTH, start=b"HTTP/1.1 %d Odd" % status) + WHOLE, status=status)


BAD_FIELDS = {
    "NUL in a value": b"X: a\0b",
    "NUL in a name": b"X\0: b",
    "a control in a value": b"X: a\x01b",
    "DEL in a value": b"X: a\x7fb",
    "a bare CR": b"X: a\rb",
    "a bare CR and a length": b"X: a\rContent-Length: 1",
    "a bare CR at the end": b"X: a\r",
    "no colon": b"X",
    "no name": b": a",
    "a blank before the colon": b"X : a",
    "a blank before the colon of a length": b"Content-Length : 1",
    "a blank in a name": b"X Y: a",
    "a letter of no alphabet in a name": b"X\xe9: a",
    "a parenthesis in a name": b"X(: a",
}


@pytest.mark.parametrize("what", BAD_FIELDS)
@pytest.mark.parametrize("place", ["first", "last"])
async def test_a_head_that_is_not_well_formed_is_refused(tmp_path, what, place):
    lines = [LENGTH, BAD_FIELDS[what]] if place == "last" else [BAD_FIELDS[what], LENGTH]
    await is_refused(tmp_path, head(*lines) + WHOLE)


async def test_a_head_that_begins_with_a_folded_line_is_refused(tmp_path):
    await is_refused(tmp_path, b"HTTP/1.1 200 OK\r\n X: y\r\n" + LENGTH + b"\r\n\r\n" + WHOLE)


ODD_HEADS = {
    "lines that end by LF alone": (head(b"X: a", LENGTH).replace(b"\r\n", b"\n"), None),
    "one line that ends by LF alone": (head(b"X: a\nY: b", LENGTH), None),
    "a last line that ends by LF alone": (head(b"X: a", LENGTH)[:-2] + b"\n", None),
    "a folded line": (head(b"X: a\r\n b", LENGTH), "a b"),
    "a line folded with a tab": (head(b"X: a\r\n\tb", LENGTH), "a b"),
    "an empty line first": (b"\r\n" + head(LENGTH), None),
    "a version nobody knows yet": (head(LENGTH, start=b"HTTP/1.2 200 OK"), None),
}


@pytest.mark.parametrize("what", ODD_HEADS)
async def test_a_head_that_is_well_formed_only_by_leniency_has_one_reading_or_is_refused(tmp_path, what):
    """RFC 9112 sections 2.2 and 5.2 leave a recipient the choice; what was lenient is passed on to nobody."""
    reply, folded = ODD_HEADS[what]
    await is_refused_or_read_as(tmp_path / "all", reply + WHOLE)
    async with before(tmp_path / "one", Telling([reply + WHOLE])) as made:
        answered = await asked(made, read())

        assert answered is not None
        assert answered.refused or folded is None or " ".join((answered.head["x"] or "").split()) == folded


@pytest.mark.parametrize("size", [8 << 10, 30 << 10])
async def test_a_large_header_is_relayed(tmp_path, size):
    large = bytes(random.Random(size).choices(b"abcdefgh", k=size))
    async with before(tmp_path, Telling([answer(WHOLE, b"X: " + large)])) as made:
        for call in CALLS.values():
            answered = await asked(made, call())

            assert answered is not None
            assert (answered.head["x"], answered.body, answered.whole) == (large.decode(), WHOLE, True)


def with_large(where, size):
    large = b"a" * size
    return {
        "value": head(b"X: " + large, LENGTH),
        "name": head(large + b": x", LENGTH),
        "reason": head(LENGTH, start=b"HTTP/1.1 200 " + large),
        "lines": head(LENGTH, *[b"X: " + b"a" * 1000] * (size // 1000)),
    }[where] + WHOLE


@pytest.mark.parametrize("where", ["value", "name", "reason", "lines"])
async def test_a_header_near_the_bounds_is_relayed_or_refused(tmp_path, where):
    await is_refused_or_read_as(tmp_path, with_large(where, 64 << 10))


@pytest.mark.parametrize("size", [256 << 10, 1 << 20])
@pytest.mark.parametrize("where", ["value", "name", "reason", "lines"])
async def test_a_header_beyond_all_bounds_is_refused(tmp_path, size, where):
    await is_refused(tmp_path, with_large(where, size))


@pytest.mark.parametrize("number", [129, 200])
async def test_many_headers_are_relayed(tmp_path, number):
    lines = [b"X-%d: %d" % (place, place) for place in range(number)]
    async with before(tmp_path, Telling([answer(WHOLE, *lines)])) as made:
        for call in CALLS.values():
            answered = await asked(made, call())

            assert answered is not None
            assert [answered.head[f"x-{place}"] for place in range(number)] == [str(place) for place in range(number)]
            assert answered.body == WHOLE


@pytest.mark.parametrize("number", [300, 1000])
async def test_very_many_headers_are_relayed_or_refused(tmp_path, number):
    await is_refused_or_read_as(tmp_path, answer(WHOLE, *(b"X-%d: 1" % place for place in range(number))))


async def test_headers_beyond_all_numbers_are_refused(tmp_path):
    await is_refused(tmp_path, answer(WHOLE, *(b"X-%d: 1" % place for place in range(30_000))))


@pytest.mark.parametrize("line", [b"X: y\r\n", b"X: " + b"a" * 1000 + b"\r\n", b"x", b"\r\n"])
async def test_a_head_without_end_is_given_up(tmp_path, line):
    """Guards the bound on a head: what comes without end ends here, and not with the memory."""
    sent = 0

    async def script(peer):
        nonlocal sent
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n" if line != b"\r\n" else b"")
        block = line * (16384 // len(line))
        while sent < 64 << 20:
            await peer.send(block)
            sent += len(block)

    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        answered = await made.ask(completion())

        assert (answered.status, answered["x-tollkeeper-error"]) == (502, "upstream_broke")
        assert sent < 32 << 20
        assert [event.completeness for event in made.events] == [Completeness.UNKNOWN]


# ---------------------------------------------------------------------------------------------------------------------
# How long it is

BAD_LENGTHS = {
    "a sign": [b"Content-Length: +%d" % len(WHOLE)],
    "less than nothing": [b"Content-Length: -1"],
    "empty": [b"Content-Length:"],
    "blank": [b"Content-Length:  "],
    "hexadecimal": [b"Content-Length: 0x%x" % len(WHOLE)],
    "with a stroke": [b"Content-Length: 1_0"],
    "two numbers": [b"Content-Length: 5 5"],
    "a list of different ones": [b"Content-Length: %d, 5" % len(WHOLE)],
    "a list with nothing in it": [b"Content-Length: ,%d" % len(WHOLE)],
    "a fraction": [b"Content-Length: 5.0"],
    "an exponent": [b"Content-Length: 1e1"],
    "2^64": [b"Content-Length: %d" % 2**64],
    "2^64 and its length": [b"Content-Length: %d" % (2**64 + len(WHOLE))],
    "letters": [b"Content-Length: abc"],
    "digits of another script": [b"Content-Length: \xd9\xa5"],
    "two different ones": [LENGTH, b"Content-Length: 5"],
    "two different ones, the longer last": [b"Content-Length: 5", LENGTH],
    "three": [LENGTH, LENGTH, b"Content-Length: 5"],
    "a length and chunks": [LENGTH, b"Transfer-Encoding: chunked"],
    "chunks and a length": [b"Transfer-Encoding: chunked", LENGTH],
    "chunks and a length of nothing": [b"Transfer-Encoding: chunked", b"Content-Length: 0"],
    "xchunked": [b"Transfer-Encoding: xchunked"],
    "chunkedx": [b"Transfer-Encoding: chunkedx"],
    "gzip, chunked": [b"Transfer-Encoding: gzip, chunked"],
    "chunked, gzip": [b"Transfer-Encoding: chunked, gzip"],
    "chunked, chunked": [b"Transfer-Encoding: chunked, chunked"],
    "chunked twice": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    "chunked, identity": [b"Transfer-Encoding: chunked, identity"],
    "identity": [b"Transfer-Encoding: identity"],
    "identity and chunked": [b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"],
    "identity and a length": [b"Transfer-Encoding: identity", LENGTH],
    "no coding": [b"Transfer-Encoding:"],
    "no coding and a length": [b"Transfer-Encoding:", LENGTH],
    "a quoted coding": [b'Transfer-Encoding: "chunked"'],
    "a coding with a parameter": [b"Transfer-Encoding: chunked;q=1"],
    "a coding after a control": [b"Transfer-Encoding: \x0bchunked"],
    "a folded coding": [b"Transfer-Encoding:\r\n chunked"],
    "a coding behind a blank": [b"Transfer-Encoding : chunked"],
}


@pytest.mark.parametrize("what", BAD_LENGTHS)
@pytest.mark.parametrize("body", ["as it is", "in chunks"])
async def test_an_answer_whose_end_is_told_in_no_one_way_is_refused(tmp_path, what, body):
    await is_refused(tmp_path, head(*BAD_LENGTHS[what]) + (WHOLE if body == "as it is" else chunked(WHOLE)))


ODD_LENGTHS = {
    "the same twice": [LENGTH, LENGTH],
    "a list of the same": [b"Content-Length: %d, %d" % (len(WHOLE), len(WHOLE))],
    "zeros first": [b"Content-Length: 000%d" % len(WHOLE)],
    "blanks around": [b"Content-Length: \t %d \t" % len(WHOLE)],
}


@pytest.mark.parametrize("what", ODD_LENGTHS)
async def test_a_length_that_is_told_oddly_is_that_length_or_refused(tmp_path, what):
    await is_refused_or_read_as(tmp_path, head(*ODD_LENGTHS[what]) + WHOLE)


@pytest.mark.parametrize(
    "line", [b"Transfer-Encoding: Chunked", b"transfer-encoding:chunked", b"TRANSFER-ENCODING: CHUNKED "]
)
async def test_chunks_may_be_announced_in_any_case(tmp_path, line):
    await is_relayed(tmp_path, head(line) + chunked(WHOLE[:9], WHOLE[9:]))


async def test_chunks_of_an_older_version_are_chunks_or_refused_and_end_the_connection(tmp_path):
    reply = head(b"Transfer-Encoding: chunked", start=b"HTTP/1.0 200 OK") + chunked(WHOLE)
    await is_refused_or_read_as(tmp_path / "all", reply)
    script = Telling([reply])
    async with before(tmp_path / "one", script) as made:
        await asked(made, read())
        await script.ended()

        assert script.misused == 0


# ---------------------------------------------------------------------------------------------------------------------
# Chunks

HALF, REST = WHOLE[:40], WHOLE[40:]
LAST = b"0\r\n\r\n"

BAD_SIZES = [
    b"",
    b"g",
    b"0x28",
    b"x28",
    b"+28",
    b"-28",
    b" 28",
    b"\t28",
    b"28 ",
    b"28\t",
    b"2 8",
    b"28,28",
    b"2_8",
    b"28h",
    b"28.0",
    b"28\0",
    b"28\x0b",
    b"\xef\xbc\x92\xef\xbc\x98",
    b"10000000000000028",
    b"fffffffffffffffff",
    b"fffffffffffffffffffffffffffffffffffffffffffffff",
    b"28\r",
    b"28\rX",
    b"28;a\0b",
    b"28;a\rb",
    b"28 a",
    b"28=a",
]


@pytest.mark.parametrize("size", BAD_SIZES)
@pytest.mark.parametrize("place", ["first", "second", "second, apart"])
async def test_a_chunk_whose_size_is_none_is_the_end_of_the_connection(tmp_path, size, place):
    bad = frame(WHOLE[:40], size) + frame(REST) + LAST
    good = frame(b"  ")
    pieces = {"first": [CHUNKED + bad], "second": [CHUNKED + good + bad], "second, apart": [CHUNKED + good, bad]}[place]
    await is_refused(tmp_path, *pieces, with_head=True)


BAD_CHUNKS = {
    "no line end after the data": frame(HALF, end=b"") + frame(REST) + LAST,
    "LF alone after the data": frame(HALF, end=b"\n") + frame(REST) + LAST,
    "CR alone after the data": frame(HALF, end=b"\r") + frame(REST) + LAST,
    "LF alone after the size": b"%x\n" % len(HALF) + HALF + b"\r\n" + frame(REST) + LAST,
    "LF alone after an extension": b"%x;a\n" % len(HALF) + HALF + b"\r\n" + frame(REST) + LAST,
    "LF alone everywhere": (frame(HALF) + frame(REST) + LAST).replace(b"\r\n", b"\n"),
    "less data than was told": frame(HALF, b"%x" % (len(HALF) + 1)) + frame(REST) + LAST,
    "more data than was told": frame(HALF, b"%x" % (len(HALF) - 1)) + frame(REST) + LAST,
    "a last chunk of less than nothing": frame(HALF) + frame(REST) + b"-0\r\n\r\n",
    "a last chunk of 0x0": frame(HALF) + frame(REST) + b"0x0\r\n\r\n",
    "a last chunk that ends by LF": frame(HALF) + frame(REST) + b"0\n\n",
    "a trailer without a colon": frame(HALF) + frame(REST) + b"0\r\nX\r\n\r\n",
    "a trailer with a NUL": frame(HALF) + frame(REST) + b"0\r\nX: a\0b\r\n\r\n",
    "a trailer with a bare CR": frame(HALF) + frame(REST) + b"0\r\nX: a\rb\r\n\r\n",
    "a trailer with a blank before its colon": frame(HALF) + frame(REST) + b"0\r\nX : a\r\n\r\n",
    "a megabyte of a trailer": frame(HALF) + frame(REST) + b"0\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
    "ten thousand trailers": frame(HALF) + frame(REST) + b"0\r\n" + b"X: a\r\n" * 10_000 + b"\r\n",
}


@pytest.mark.parametrize("what", BAD_CHUNKS)
@pytest.mark.parametrize("cut", [False, True])
async def test_chunks_that_are_framed_wrongly_are_the_end_of_the_connection(tmp_path, what, cut):
    bad = BAD_CHUNKS[what]
    pieces = [CHUNKED + frame(b" "), bad] if cut else [CHUNKED + bad]
    await is_refused(tmp_path, *pieces, with_head=True)


UNENDING_CHUNKS = {
    "a size of nearly 2^64": frame(WHOLE, b"ffffffffffffffff"),
    "a size of 2^63": frame(WHOLE, b"8000000000000000"),
    "no last chunk": frame(WHOLE),
    "half a last chunk": frame(WHOLE) + b"0",
    "a last chunk without its end": frame(WHOLE) + b"0\r\n",
    "a last chunk with half its end": frame(WHOLE) + b"0\r\n\r",
    "a trailer without its end": frame(WHOLE) + b"0\r\nX: y\r\n",
    "no line end after the data": frame(WHOLE, end=b""),
}


@pytest.mark.parametrize("what", UNENDING_CHUNKS)
@pytest.mark.parametrize("then", ["close", "reset"])
async def test_chunks_that_do_not_end_are_not_whole(tmp_path, what, then):
    await is_refused(tmp_path, CHUNKED + UNENDING_CHUNKS[what], then=then, with_head=True)


@pytest.mark.parametrize("size", [b"fffffffffffff", b"0000000000028;" + b"a" * 70_000, b"28" + b";a=b" * 100_000])
async def test_nobody_waits_for_ever_for_a_chunk_that_is_said_to_be_large(tmp_path, size):
    """What is announced is not held: the gateway goes on with whoever is next."""
    await is_refused(tmp_path, CHUNKED + size + b"\r\n" + HALF, then="close", with_head=True)


GOOD_CHUNKS = {
    "one": chunked(WHOLE),
    "of one byte each": b"".join(frame(WHOLE[place : place + 1]) for place in range(len(WHOLE))) + LAST,
    "capital letters": frame(HALF, b"%X" % len(HALF)) + frame(REST, b"%X" % len(REST)) + LAST,
    "zeros first": frame(HALF, b"000000%x" % len(HALF)) + frame(REST) + LAST,
    "a last chunk of many zeros": frame(WHOLE) + b"0000\r\n\r\n",
    "an extension": frame(HALF, b"28;a=b") + frame(REST, b"%x;c" % len(REST)) + b"0;d=e\r\n\r\n",
    "a quoted extension": frame(HALF, b'28;a="b;c d"') + frame(REST) + LAST,
    "a trailer": frame(WHOLE) + b"0\r\nX-Trailer: yes\r\n\r\n",
    "two trailers": frame(WHOLE) + b"0\r\nX-Trailer: yes\r\nSet-Cookie: of=acme\r\n\r\n",
}


@pytest.mark.parametrize("what", GOOD_CHUNKS)
async def test_chunks_that_are_well_formed_are_relayed(tmp_path, what):
    await is_relayed(tmp_path, CHUNKED + GOOD_CHUNKS[what])


async def test_trailers_that_speak_of_framing_or_are_many_change_no_answer(tmp_path):
    many = b"0\r\n" + b"X-Trailer: a\r\n" * 1000 + b"\r\n"
    await is_refused_or_read_as(tmp_path / "many", CHUNKED + frame(WHOLE) + many)
    trailer = b"0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    await is_refused_or_read_as(tmp_path / "framing", CHUNKED + frame(WHOLE) + trailer)


@pytest.mark.parametrize("what", ["a trailer", "two trailers"])
async def test_trailers_reach_nobody(tmp_path, what):
    script = Telling([CHUNKED + GOOD_CHUNKS[what]])
    async with before(tmp_path, script) as made, client(made.port) as peer:
        for _ in range(3):
            await peer.send(read())
            answered = await got(peer, method="GET")
            await peer.send(request(READ, b"", "X-Marker: m", key=OWN, method="GET"))
            marker = await got(peer, method="GET")

            assert answered is not None
            assert marker is not None
            assert (answered.body, marker.body) == (WHOLE, b"m")
            for one in (answered, marker):
                assert b"Set-Cookie" not in one.head.raw
                assert b"X-Trailer" not in one.head.raw


# ---------------------------------------------------------------------------------------------------------------------
# Broken off

STREAM = b"".join(
    (
        b'data: {"id":"chatcmpl-1","model":"gpt-4o-2024-08-06","choices":[{"delta":{"content":"Hi"}}]}\n\n',
        b'data: {"id":"chatcmpl-1","model":"gpt-4o-2024-08-06","choices":[],"usage":{"prompt_tokens":7,',
        b'"completion_tokens":2,"total_tokens":9}}\n\n',
        b"data: [DONE]\n\n",
    )
)
assert USAGE == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}

STREAMS = {"include_usage": True}


def in_framing(framing, body, kind, coding):
    lines = [b"Content-Type: " + kind, *([b"Content-Encoding: gzip"] if coding == "gzip" else [])]
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
        return b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body
    lines.append(b"Transfer-Encoding: chunked")
    pieces = [body[place : place + 50] for place in range(0, len(body), 50)]
    return b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + chunked(*pieces)


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize("kind", ["json", "sse"])
async def test_wherever_an_answer_breaks_off_it_never_looks_whole_and_is_one_event(
    tmp_path, kind, coding, framing, version, then
):
    """Guards the abort of an answer that broke off: at each of its bytes, and 0 of all look whole."""
    body = WHOLE if kind == "json" else STREAM
    body = gzip.compress(body, mtime=0) if coding == "gzip" else body
    whole = in_framing(framing, body, b"application/json" if kind == "json" else b"text/event-stream", coding)
    begins = whole.index(b"\r\n\r\n") + 4
    # A close says nothing that a reset does not; where few bytes differ, few cuts do.
    cuts = range(len(whole)) if (then, version) == ("close", "1.1") else range(3, len(whole), 11)
    call = completion(stream=True, stream_options=STREAMS) if kind == "sse" else completion()
    call = as_http10(call) if version == "1.0" else call
    script = Telling([], then)
    seemed_whole = []
    async with before(tmp_path, script) as made:
        for cut in cuts:
            script.pieces = [whole[:cut]] if cut else []
            async with client(made.port) as peer:
                peer.writer.write(call)
                answered = await got(peer, version=version)
                if answered is not None and answered.whole and not answered.refused:
                    seemed_whole.append(cut)
                if cut < begins:
                    assert answered is not None
                    assert answered.refused, cut
        assert seemed_whole == []
        await eventually(lambda: ended_once(made, len(cuts)))
        for recorded in made.events:
            assert recorded.completeness is (Completeness.REPORTED if recorded.quantities else Completeness.UNKNOWN)
            assert recorded.quantities in ({}, QUANTITIES if kind == "sse" else {})


# ---------------------------------------------------------------------------------------------------------------------
# Bodies that are none, and bodies that end by the close

NO_BODY = {
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
    "204 with a length of nothing": (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204),
    "304": (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", 304),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n", 304),
    "304 in chunks": (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304),
}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("what", NO_BODY)
async def test_an_answer_without_a_body_ends_with_its_head(tmp_path, what, version):
    reply, status = NO_BODY[what]
    async with before(tmp_path, Telling([reply])) as made:
        for call in (*(make() for make in CALLS.values()), read("If-None-Match: x")):
            answered = await asked(made, as_http10(call) if version == "1.0" else call)

            assert answered is not None
            assert (answered.status, answered.whole) == (status, True)
        assert ended_once(made, len(BILLABLE))


@pytest.mark.parametrize("coding", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
async def test_bytes_after_an_answer_that_has_no_body_are_nobody_s(tmp_path, coding):
    """A 204 has no body, whatever it says: what comes after it is no part of any answer."""
    body = b"hello" if b"Length" in coding else chunked(b"hello")
    for number, pieces in enumerate(
        (
            [b"HTTP/1.1 204 No Content\r\n" + coding + b"\r\n\r\n" + body],
            [b"HTTP/1.1 204 No Content\r\n" + coding + b"\r\n\r\n", body],
        )
    ):
        script = Telling(pieces)
        async with before(tmp_path / str(number), script) as made:
            for call in CALLS.values():
                answered = await asked(made, call())

                assert answered is not None
                assert answered.refused or (answered.status, answered.whole) == (204, True)
            await script.ended()
            assert script.misused == 0


HEADS = {
    "a length": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "neither": b"HTTP/1.1 200 OK\r\n\r\n",
    "a length of an older version": b"HTTP/1.0 200 OK\r\nContent-Length: 500\r\n\r\n",
    "404": b"HTTP/1.1 404 No\r\nContent-Length: 500\r\n\r\n",
    "404 in chunks": b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("what", HEADS)
async def test_an_answer_to_head_ends_with_its_head(tmp_path, what, version):
    async with before(tmp_path, Telling([HEADS[what]])) as made:
        for _ in range(3):
            call = read(method="HEAD")
            answered = await asked(made, as_http10(call) if version == "1.0" else call)

            assert answered is not None
            assert (answered.status, answered.whole) == (404 if "404" in what else 200, True)
            if "a length" in what:
                assert answered.head["content-length"] == "500"


async def test_a_body_in_an_answer_to_head_is_nobody_s(tmp_path):
    script = Telling([answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")])
    async with before(tmp_path, script) as made:
        for _ in range(3):
            answered = await asked(made, read(method="HEAD"))

            assert answered is not None
            assert answered.refused or (answered.status, answered.whole) == (200, True)
        await script.ended()
        assert script.misused == 0


UNTIL_THE_CLOSE = {
    "1.1": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n",
    "1.1 that says so": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
    "1.0": b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n",
    "1.0 that says otherwise": b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nConnection: keep-alive\r\n\r\n",
}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("what", UNTIL_THE_CLOSE)
async def test_a_body_that_ends_by_the_close_is_framed_for_its_reader(tmp_path, what, version):
    for number, pieces in enumerate(([UNTIL_THE_CLOSE[what] + WHOLE], [UNTIL_THE_CLOSE[what], HALF, REST])):
        script = Telling(pieces, "close")
        async with before(tmp_path / str(number), script) as made:
            for call in CALLS.values():
                answered = await asked(made, as_http10(call()) if version == "1.0" else call())

                assert answered is not None
                assert (answered.status, answered.body, answered.whole) == (200, WHOLE, True)
                assert answered.head["transfer-encoding"] == ("chunked" if version == "1.1" else None)
            assert made.events[0].quantities == QUANTITIES
            assert ended_once(made, len(BILLABLE))


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("what", UNTIL_THE_CLOSE)
async def test_a_reset_is_not_the_close_by_which_a_body_ends(tmp_path, what, version):
    script = Telling([UNTIL_THE_CLOSE[what] + HALF], "reset")
    async with before(tmp_path, script) as made:
        for call in CALLS.values():
            answered = await asked(made, as_http10(call()) if version == "1.0" else call())

            assert answered is None or answered.refused or not answered.whole
        assert ended_once(made, len(BILLABLE))


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_an_answer_in_chunks_is_framed_for_its_reader(tmp_path, version):
    async with before(tmp_path, Telling([CHUNKED + chunked(HALF, REST)])) as made:
        for call in CALLS.values():
            answered = await asked(made, as_http10(call()) if version == "1.0" else call())

            assert answered is not None
            assert (answered.body, answered.whole) == (WHOLE, True)


# ---------------------------------------------------------------------------------------------------------------------
# Before the request was whole


class Early:
    """A script: read so much of a body, answer, take no more of it until told to go on, and see how it ends."""

    def __init__(self, reply, *, taken):
        self.reply, self.taken = reply, taken
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, peer):
        asking = await peer._message(bodiless=True)
        if asking["x-marker"] is not None:
            await peer.send(answer(asking["x-marker"].encode()))
            await peer.ended()
            return
        await peer._exactly(self.taken)
        await peer.send(self.reply)
        await self.go_on.wait()
        await peer.rest()
        self.ended.set()


EARLY = {
    "a length": answer(b"too large", status=b"413 Too Large"),
    "a length and a close": answer(b"too large", b"Connection: close", status=b"413 Too Large"),
    "chunks": b"HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"too large"),
}
UPLOADS = {
    "held": request("/openai/v1/chat/completions", b"{" + b" " * (6 << 20) + b"}", "Content-Type: application/json"),
    "as it comes": request("/openai/v1/files", bytes(20 << 20), key=OWN),
}


@pytest.mark.parametrize("upload", UPLOADS)
@pytest.mark.parametrize("what", EARLY)
@pytest.mark.parametrize("taken", [0, 1000])
async def test_an_answer_during_an_upload_is_relayed_and_ends_the_connection(tmp_path, upload, what, taken):
    """Guards what is still to be written of a request: the next one, another tenant's, would wait behind it."""
    script = Early(EARLY[what], taken=taken)
    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        async with client(made.port) as peer:
            peer.writer.write(UPLOADS[upload])
            answered = await got(peer)

            assert answered is not None
            assert (answered.status, answered.body, answered.whole) == (413, b"too large", True)
            if upload == "as it comes":
                assert answered.head["connection"] == "close"
        async with client(made.port) as peer:
            peer.writer.write(marked("next"))
            await expect(peer, "next")
        script.go_on.set()
        await soon(script.ended.wait())
        assert b"X-Marker" not in serving.peers[0].seen
        assert billed(made) == []
        assert made.closed == ["status 413"]


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upload_that_was_answered_early_does_not_become_the_next_request(tmp_path, framing):
    smuggled = b"GET /openai/v1/models HTTP/1.1\r\nHost: x\r\nX-Smuggled: yes\r\n\r\n"
    begun = request("/openai/v1/files", b"", key=OWN).replace(
        b"Content-Length: 0", b"Content-Length: 9000000" if framing == "length" else b"Transfer-Encoding: chunked"
    )
    script = Early(EARLY["a length"], taken=10)
    async with provider(script) as serving, proxied(tmp_path, serving) as made, client(made.port) as peer:
        body = smuggled * 4
        await peer.send(begun + (body if framing == "length" else frame(body)))
        answered = await got(peer)

        assert answered is not None
        assert (answered.status, answered.whole, answered.head["connection"]) == (413, True, "close")
        with suppress(ConnectionError):
            await peer.send(smuggled * 10)
        assert await peer.rest() == b""
        script.go_on.set()
        await soon(script.ended.wait())
        assert [bytes(one.seen).count(b"POST ") for one in serving.peers] == [1]
        assert len(made.lines) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Beyond the answer

EXTRAS = {
    "a blank line": b"\r\n",
    "a byte": b"x",
    "a second answer": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "a second answer in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n",
    "an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "a last chunk": b"0\r\n\r\n",
    "a megabyte": b"evil" * (1 << 18),
}
ANSWERS = {
    "a length": answer(WHOLE, JSON),
    "chunks": CHUNKED + chunked(WHOLE),
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
}


@pytest.mark.parametrize("how", ["at once", "apart"])
@pytest.mark.parametrize("what", EXTRAS)
@pytest.mark.parametrize("framing", ANSWERS)
async def test_what_comes_after_an_answer_reaches_nobody(tmp_path, framing, what, how):
    reply, extra = ANSWERS[framing], EXTRAS[what]
    script = Telling([reply + extra] if how == "at once" else [reply, extra])
    async with before(tmp_path, script) as made:
        for call in (read, completion, read, CALLS["a mail"]):
            answered = await asked(made, call())

            assert answered is not None
            if not answered.refused:
                assert answered.whole
                assert (answered.status, answered.body) == ((204, b"") if framing == "nothing" else (200, WHOLE))
            assert b"evil" not in answered.body
        if what != "a blank line":
            await script.ended()
            assert script.misused == 0
        assert ended_once(made, 2)


# ---------------------------------------------------------------------------------------------------------------------
# Elsewhere


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", CALLS)
async def test_wherever_an_answer_points_nobody_goes(tmp_path, status, call):
    """Guards the credential: another origin, and another path of the same one, get no request and no connection."""
    elsewhere: list[object] = []

    async def other(peer):
        elsewhere.append(peer)

    async with provider(other) as second:
        for number, location in enumerate((f"http://127.0.0.1:{second.port}/x", "/elsewhere", "//127.0.0.1/x", READ)):
            reply = answer(b"moved", b"Location: " + location.encode(), status=b"%d Moved" % status)
            script = Telling([reply])
            async with before(tmp_path / str(number), script) as made:
                answered = await asked(made, CALLS[call]())

                assert answered is not None
                assert (answered.status, answered.head["location"], answered.body) == (status, location, b"moved")
                assert script.calls == 1
                assert b"elsewhere" not in made.provider.seen
                assert billed(made) == []
    assert elsewhere == []


@pytest.mark.parametrize("reply", ["200 OK", "404 No", "302 Found", "103 Early"])
async def test_a_cookie_of_one_tenant_s_is_not_sent_for_the_next(tmp_path, reply):
    cookies = [b"Set-Cookie: of=acme; Path=/", b"Set-Cookie: session=1; HttpOnly"]
    told = answer(b"x", *cookies, status=reply.encode())
    if reply.startswith("103"):
        told = b"HTTP/1.1 103 Early\r\n" + b"\r\n".join(cookies) + b"\r\n\r\n" + answer(b"x", *cookies)
    async with before(tmp_path, Telling([told])) as made:
        for key in (ACME, OTHER, ACME, OWN):
            answered = await asked(made, request(key=key))

            assert answered is not None
            assert answered.head.all("set-cookie") == ["of=acme; Path=/", "session=1; HttpOnly"]
        assert b"cookie" not in made.provider.seen.lower()
