"""A provider that notes every request as it came and answers as it was told, over a real socket, in threads of its own.

It knows nothing of OpenAI but how a stream's usage is asked for. A call is known by its header `x-call`, so that one call
made in several ways gets the same answers each time, byte for byte.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Literal, NamedTuple

CALL = b"x-call"

Headers = tuple[tuple[bytes, bytes], ...]

ODD: Headers = (
    (b"Date", b"Sun, 22 Nov 2026 00:00:00 GMT"),
    (b"x-request-id", b"req_0123456789abcdef"),
    (b"openai-organization", b"org-real"),
    (b"OpenAI-Project", b"proj-real"),
    (b"openai-processing-ms", b"17"),
    (b"openai-version", b"2020-10-01"),
    (b"X-RateLimit-Limit-Requests", b"10000"),
    (b"x-ratelimit-reset-tokens", b"6m0s"),
    (b"Set-Cookie", b"__cf_bm=abc.def-1; path=/; expires=Sun, 22-Nov-26 00:30:00 GMT; HttpOnly; Secure"),
    (b"set-cookie", b'_cfuvid="a b"; path=/; Secure'),
    (b"X-Empty", b""),
    (b"X-Latin", b"caf\xe9 \xfc\xdf"),
    (b"X-Spaced", b"a  b\tc"),
    (b"x-LONG", b"l" * 3000),
    (b"x!#$%&'*+.^_`|~9", b"a name of every character that a name may have"),
    (b"Vary", b"Accept-Encoding"),
    (b"vary", b"Origin"),
    (b"Alt-Svc", b'h3=":443"; ma=86400'),
    (b"CF-RAY", b"8f0-FRA"),
    (b"Server", b"cloudflare"),
    (b"Via", b"1.1 edge"),
    (b"ETag", b'W/"5eed"'),
    (b"Cache-Control", b"no-store"),
    (b"Connection", b"keep-alive, X-Of-This-Connection"),
    (b"X-Of-This-Connection", b"goes no further"),
    (b"Keep-Alive", b"timeout=60"),
)
"""What is legal and seldom, beside what OpenAI's own answers carry."""


class Seen(NamedTuple):
    """A request, as it came."""

    line: bytes
    """Method, target and version."""
    headers: Headers
    body: bytes
    chunked: bool

    @property
    def asks_for_usage(self) -> bool:
        """True where the answer's stream is to say what it used."""
        try:
            told = json.loads(self.body)
            return told["stream_options"]["include_usage"] is True
        except (ValueError, TypeError, KeyError):
            return False


class Answer(NamedTuple):
    """What a call is answered with."""

    body: bytes
    media_type: bytes = b"application/json"
    status: bytes = b"200 OK"
    headers: Headers = ODD
    framing: Literal["length", "chunked", "close", "none"] = "length"
    usage_event: bytes = b""
    """What a stream says of its usage before its end, where it is asked to."""
    after_s: float = 0


DONE = b"data: [DONE]"


class Upstream:
    """What is to be answered, and what was seen, by call."""

    def __init__(self) -> None:
        self.port = 0
        self.answers: dict[bytes, list[Answer]] = {}
        """One after the other, the last one again and again."""
        self._seen: dict[bytes, list[Seen]] = {}

    def taken(self, call: bytes) -> list[Seen]:
        """What was seen of a call since it was last asked for."""
        return self._seen.pop(call, [])

    def take(self, seen: Seen) -> Answer:
        call = next((value for name, value in seen.headers if name.lower() == CALL), b"")
        before = self._seen.setdefault(call, [])
        before.append(seen)
        answers = self.answers.get(call) or [Answer(b"{}")]
        return answers[min(len(before), len(answers)) - 1]


@contextmanager
def upstream(made: Upstream | None = None) -> Iterator[Upstream]:
    """A provider that listens."""
    made = made or Upstream()

    class Connection(socketserver.StreamRequestHandler):
        disable_nagle_algorithm = True

        def handle(self) -> None:
            with suppress(ConnectionError):
                while (seen := _request(self.rfile)) is not None:
                    keys = [value for name, value in seen.headers if name.lower() == b"sec-websocket-key"]
                    if keys:
                        self.wfile.write(_websocket(keys[0]))
                        made.take(seen)
                        self.rfile.read1(1024)  # Its agreement to end.
                        return
                    answer = made.take(seen)
                    time.sleep(answer.after_s)
                    for piece in _written(answer, seen):
                        self.wfile.write(piece)
                    if answer.framing == "close":
                        return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Connection) as server:
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def _request(stream: BinaryIO) -> Seen | None:
    line = stream.readline().rstrip(b"\r\n")
    if not line:
        return None
    headers = []
    while field := stream.readline().rstrip(b"\r\n"):
        name, _, value = field.partition(b":")
        headers.append((name, value.strip(b" \t")))
    told = {name.lower(): value for name, value in headers}
    chunked = told.get(b"transfer-encoding") == b"chunked"
    body = b"".join(_chunks(stream)) if chunked else stream.read(int(told.get(b"content-length", b"0")))
    return Seen(line, tuple(headers), body, chunked)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while size := int(stream.readline(), 16):
        yield stream.read(size)
        stream.readline()
    stream.readline()


def _written(answer: Answer, seen: Seen) -> Iterator[bytes]:
    body = answer.body
    if answer.usage_event and seen.asks_for_usage:
        end = body.rindex(DONE)
        body = body[:end] + answer.usage_event + body[end:]
    lines = [b"HTTP/1.1 " + answer.status]
    if answer.media_type:
        lines.append(b"Content-Type: " + answer.media_type)
    lines += [b"%b: %b" % header for header in answer.headers]
    if answer.framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    if answer.framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    if answer.framing != "chunked":
        yield head + body
        return
    yield head
    pieces = [body[start : start + 1500] for start in range(0, len(body), 1500)]
    for piece in pieces:
        yield b"%x;odd=1\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\nX-Trailer: not relayed\r\n\r\n"


_GREETING = (
    b'{"type": "session.created", "event_id": "event_1", "session": {"id": "sess_1", "object": "realtime.session"}}'
)


def _websocket(key: bytes) -> bytes:
    """An agreement, one event, and an end in order (RFC 6455)."""
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    frames = bytes((0x81, len(_GREETING))) + _GREETING + b"\x88\x05\x03\xe8bye"
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\nx-request-id: req_ws\r\n\r\n" + frames
    )
