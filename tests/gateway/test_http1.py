"""What the path of a call takes from aiohttp beneath its public interface; when that moves, this is where it shows."""

import asyncio
import subprocess
import sys

import pytest

from gateway import http1

HOST = b"Host: x\r\n"


class Connection(http1.BaseProtocol):
    """Parses what it is given."""

    def __init__(self, *, request: bool, queue_max: int = 8, with_body: bool = True):
        loop = asyncio.get_running_loop()
        super().__init__(loop)
        self.messages = []
        self._parser = (
            http1.request_parser(self, loop, queue_max)
            if request
            else http1.response_parser(self, loop, with_body=with_body)
        )

    def data_received(self, data):
        messages, self.upgraded, _ = self._parser.feed_data(data)
        self.messages.extend(messages)


def requests(*pieces, queue_max=8):
    connection = Connection(request=True, queue_max=queue_max)
    for piece in pieces:
        connection.data_received(piece)
    return connection.messages


def answers(*pieces, with_body=True):
    connection = Connection(request=False, with_body=with_body)
    for piece in pieces:
        connection.data_received(piece)
    return connection.messages


async def test_the_parsers_are_the_strict_ones_written_in_c():
    http1.check_parsers()


def test_without_the_c_parsers_the_gateway_says_so():
    """Guards check_parsers: without its comparison, this prints nothing."""
    script = "from gateway import http1\ntry: http1.check_parsers()\nexcept RuntimeError as error: print(error)"

    said = subprocess.run(
        [sys.executable, "-c", script], env={"AIOHTTP_NO_EXTENSIONS": "1"}, capture_output=True, text=True, check=True
    )

    assert "C parsers are missing" in said.stdout


async def test_a_request_head_has_the_attributes_that_are_read_of_it():
    ((message, body),) = requests(b"POST /a?b HTTP/1.1\r\nHost: x\r\nX-Odd-CASE: \xe9\r\nContent-Length: 2\r\n\r\nhi")

    assert (message.method, message.path, tuple(message.version)) == ("POST", "/a?b", (1, 1))
    assert message.raw_headers == ((b"Host", b"x"), (b"X-Odd-CASE", b"\xe9"), (b"Content-Length", b"2"))
    assert message.headers["host"] == "x"
    assert (message.should_close, message.upgrade, message.chunked) == (False, False, False)
    assert body.is_eof()
    assert http1.available(body) == b"hi"
    assert body.at_eof()


async def test_an_answer_head_has_the_attributes_that_are_read_of_it():
    ((message, body),) = answers(b"HTTP/1.1 201 Made\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")

    assert (message.code, message.reason) == (201, "Made")
    assert message.raw_headers == ((b"X", b"y"), (b"Transfer-Encoding", b"chunked"))
    assert (message.should_close, message.chunked) == (False, True)
    assert http1.available(body) == b"hi"
    assert body.at_eof()


async def test_a_body_stays_as_it_was_coded():
    coded = bytes.fromhex("1f8b08000000000000034bcecf2d284a2d2e4e4d0100a2a4fe5f0a000000")

    ((_, body),) = answers(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(coded) + coded
    )

    assert http1.available(body) == coded


async def test_what_has_not_come_is_neither_there_nor_the_end():
    ((_, body),) = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")

    assert http1.available(body) == b""
    assert not http1.readable(body)
    assert http1.available(http1.NO_BODY) == b""
    assert http1.readable(http1.NO_BODY)


async def test_an_answer_to_head_has_no_body_whatever_its_length_says():
    ((_, body),) = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", with_body=False)

    assert body is http1.NO_BODY


async def test_a_parser_stops_at_its_bound_and_goes_on_when_a_request_is_consumed():
    connection = Connection(request=True, queue_max=2)

    connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
    before = len(connection.messages)
    connection._parser.message_consumed()
    connection.data_received(b"")

    assert (before, len(connection.messages)) == (2, 3)


async def test_a_body_that_nobody_reads_stops_the_peer():
    connection = Connection(request=False)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n")

    connection.data_received(bytes(2 * http1.READ_BUFFER_BYTES + 1))
    stopped = connection._reading_paused
    http1.available(connection.messages[0][1])

    assert stopped
    assert not connection._reading_paused


async def test_the_rest_of_what_is_used_is_there():
    connection = Connection(request=True)

    assert not connection.writing_paused
    assert connection._drain_waiter is None
    assert connection._buffer_paused is False
    assert connection._loop is asyncio.get_running_loop()
    for name in (
        "_drain_helper",
        "_pause_reading_for_buffer",
        "_pause_transport_reading",
        "_resume_reading_for_buffer",
        "_resume_transport_reading",
    ):
        assert callable(getattr(connection, name)), name
    assert callable(connection._parser.feed_eof)


async def test_a_body_that_breaks_off_raises_what_is_caught():
    ((_, body),) = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    body.set_exception(http1.BrokenBody(), ConnectionResetError())

    with pytest.raises(http1.BrokenBody):
        await body.readany()


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.9\r\nHost: x\r\n\r\n",
        b"GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nabcde",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * http1.LINE_BYTES_MAX),
        b"GET / HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (b"a" * (http1.FIELD_BYTES_MAX + 1)),
        b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n" % (b"X: y\r\n" * http1.FIELDS_MAX),
    ],
)
async def test_a_request_that_has_no_one_meaning_is_malformed(head):
    with pytest.raises(http1.Malformed):
        requests(head)


@pytest.mark.parametrize(
    "head",
    [
        b"GET http://evil.example/p HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a\r\n\r\n",
        b"GET /a HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\nContent-Length: 1\r\n\r\na",
    ],
)
async def test_what_the_parser_lets_through_and_must_not_be_forwarded_is_not_plain(head):
    """Guards each condition of http1.plain: the parser itself takes all of these."""
    ((message, _),) = requests(head)

    assert not http1.plain(message)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET //x/../%2e%2e;a=b?c=d?e&& HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_an_ordinary_request_is_plain(head):
    ((message, _),) = requests(head)

    assert http1.plain(message)


@pytest.mark.parametrize(
    ("coding", "understood"),
    [(b"chunked", True), (b"CHUNKED", True), (b"xchunked", False), (b"gzip, chunked", False), (b"identity", False)],
)
async def test_an_answer_is_understood_only_if_it_is_framed_by_chunks_alone(coding, understood):
    """Guards http1.framed: the parser gives the chunks of `xchunked` as the body of a 200."""
    ((message, _),) = answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n")

    assert http1.framed(message) is understood
