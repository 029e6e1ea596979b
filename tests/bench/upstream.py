"""The provider of the bench: answers chat completions from prepared bytes, and costs as little as Python can.

Every answer has an id of its own; all else is fixed, so that the load generator can check every byte. A stream leaves in
one write per event, with a pause between them, because events that leave together would be relayed together. Besides, it
takes files of any size, and makes as large an answer as it is asked for; both only pass through it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import ssl
from itertools import count

import uvloop

from gateway.tls import Tls

ANSWER_BYTES = 1024
EVENTS = 100
"""What a client that did not ask for usage gets of one stream, `[DONE]` counted."""

PAUSE_S = 0.003
"""Between two events of a stream. So many leave in a second from 32 streams that a core is busy and keeps up."""

ID_CHARACTERS = 24
ID = re.compile(rb"chatcmpl-\d{24}")

HEADERS = (
    b"Date: Fri, 20 Nov 2026 12:00:00 GMT\r\n"
    b"openai-organization: org-of-the-bench\r\n"
    b"openai-processing-ms: 412\r\n"
    b"openai-version: 2020-10-01\r\n"
    b"x-ratelimit-limit-requests: 10000\r\n"
    b"x-ratelimit-limit-tokens: 30000000\r\n"
    b"x-ratelimit-remaining-requests: 9999\r\n"
    b"x-ratelimit-remaining-tokens: 29999820\r\n"
    b"x-ratelimit-reset-requests: 6ms\r\n"
    b"x-ratelimit-reset-tokens: 0s\r\n"
    b"x-request-id: req_5f1c0f4a8d1e4b0d9a6f3c2b7e8d9a01\r\n"
)

_NAMED = b'"created":1795176000,"model":"gpt-4o-2024-08-06","service_tier":"default",'
_USAGE = (
    b'{"prompt_tokens":117,"completion_tokens":46,"total_tokens":163,'
    b'"prompt_tokens_details":{"cached_tokens":44,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,'
    b'"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
)

_BEFORE = b'{"id":"chatcmpl-'
_AFTER = (
    b'","object":"chat.completion",' + _NAMED + b'"choices":[{"index":0,"message":{"role":"assistant","content":"%b",'
    b'"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":' + _USAGE
) + b',"system_fingerprint":"fp_5104a70d1e"}'
_FILLING = b"metered " * 128
_AFTER = _AFTER % _FILLING[: ANSWER_BYTES - len(_BEFORE) - ID_CHARACTERS - len(_AFTER) + len(b"%b")]

_EVENT = (
    b'data: {"id":"chatcmpl-%024d","object":"chat.completion.chunk",'
    + _NAMED
    + b'"system_fingerprint":"fp_5104a70d1e","choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]%b}\n\n'
)
_USAGE_EVENT = (
    b'data: {"id":"chatcmpl-%024d","object":"chat.completion.chunk",'
    + _NAMED
    + b'"system_fingerprint":"fp_5104a70d1e","choices":[],"usage":'
    + _USAGE
    + b"}\n\n"
)
DONE = b"data: [DONE]\n\n"

USAGE_NULL = b',"usage":null'
"""Stands in every event of a stream whose usage was asked for."""


def chat(number: int) -> bytes:
    """The body of a chat completion."""
    return _BEFORE + b"%024d" % number + _AFTER


def events(number: int, *, usage: bool) -> list[bytes]:
    """The events of a streamed one: a role, words, an end, the usage if it was asked for, `[DONE]`."""
    null = USAGE_NULL if usage else b""
    words = EVENTS - 3
    found = [_EVENT % (number, b'{"role":"assistant","content":"","refusal":null}', b"null", null)]
    found += [_EVENT % (number, b'{"content":" metered"}', b"null", null)] * words
    found.append(_EVENT % (number, b"{}", b'"stop"', null))
    if usage:
        found.append(_USAGE_EVENT % number)
    return [*found, DONE]


def answered(body: bytes, *, streamed: bool) -> bool:
    """True if this is, byte for byte, what a client that did not ask for usage is to get."""
    found = ID.search(body)
    if found is None:
        return False
    number = int(found[0].removeprefix(b"chatcmpl-"))
    if streamed:
        # The gateway asks for the usage on its own account, takes its event out again and leaves these in their places.
        return body.replace(USAGE_NULL, b"") == b"".join(events(number, usage=False))
    return body == chat(number)


UPLOAD_PATH = "/v1/files"
DOWNLOAD_PATH = "/v1/audio/speech"
DOWNLOAD_HEADER = "x-bench-bytes"
"""How many bytes the answer is to have."""
STALL_HEADER = "x-bench-stall-s"
"""So long the upstream stops reading a large body, once a quarter of it has come."""

_PIECE = bytes(1 << 18)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_JSON_HEAD = b"HTTP/1.1 200 OK\r\n" + HEADERS + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\n" + HEADERS + b"Content-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_LENGTH_REQUIRED = b"HTTP/1.1 411 Length Required\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_FILE = b'{"id":"file-%024d","object":"file","bytes":%d,"created_at":1795176000,"filename":"a","purpose":"batch"}'
_BINARY_HEAD = b"HTTP/1.1 200 OK\r\n" + HEADERS + b"Content-Type: audio/mpeg\r\nContent-Length: %d\r\n\r\n"
_numbers = count(1)


def _told(head: bytes, name: str) -> int:
    """The whole number in a header; 0 without it."""
    found = re.search(rb"\r\n%b: *(\d+)" % name.encode(), head, re.IGNORECASE)
    return 0 if found is None else int(found[1])


class Connection(asyncio.Protocol):
    """One connection: requests with a Content-Length, one after another."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._received = b""
        self._size = 0
        self._swallowing = 0
        """What is still to come of a body that nobody keeps."""
        self._stall_s = 0
        self._answer_left = 0
        self._writable = True
        self._transport: asyncio.Transport

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        if self._swallowing:
            self._swallow(len(data))
            return
        self._received += data
        end = self._received.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = _LENGTH.search(self._received, 0, end)
        if length is None:
            self._transport.write(_LENGTH_REQUIRED)
            self._transport.close()
            return
        if self._received.startswith(b"POST " + UPLOAD_PATH.encode()):
            head, came = self._received[:end], len(self._received) - end
            self._received = b""
            self._size = self._swallowing = int(length[1])
            self._stall_s = _told(head, STALL_HEADER)
            self._swallow(came)
            return
        if len(self._received) < end + int(length[1]):
            return
        if self._received.startswith(b"POST " + DOWNLOAD_PATH.encode()):
            self._answer_left = _told(self._received[:end], DOWNLOAD_HEADER)
            self._received = b""
            self._transport.write(_BINARY_HEAD % self._answer_left)
            self._more()
            return
        body = self._received[end:]
        self._received = b""
        if b'"stream":true' in body:
            self._next(_STREAM_HEAD, events(next(_numbers), usage=b'"include_usage":true' in body), 0)
        else:
            answer = chat(next(_numbers))
            self._transport.write(_JSON_HEAD % len(answer) + answer)

    def _swallow(self, came: int) -> None:
        self._swallowing -= came
        if self._stall_s and self._size - self._swallowing > self._size // 4:
            self._transport.pause_reading()
            self._loop.call_later(self._stall_s, self._transport.resume_reading)
            self._stall_s = 0
        if self._swallowing <= 0:
            answer = _FILE % (next(_numbers), self._size)
            self._transport.write(_JSON_HEAD % len(answer) + answer)

    def _more(self) -> None:
        while self._answer_left and self._writable and not self._transport.is_closing():
            piece = _PIECE[: self._answer_left]
            self._answer_left -= len(piece)
            self._transport.write(piece)

    def pause_writing(self):
        self._writable = False

    def resume_writing(self):
        self._writable = True
        self._more()

    def _next(self, before: bytes, told: list[bytes], at: int) -> None:
        if self._transport.is_closing():
            return
        event = told[at]
        at += 1
        last = at == len(told)
        self._transport.write(b"%b%x\r\n%b\r\n%b" % (before, len(event), event, b"0\r\n\r\n" if last else b""))
        if not last:
            self._loop.call_later(PAUSE_S, self._next, b"", told, at)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    given = parser.parse_args()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(given.certificate, given.key)
    loop = asyncio.get_running_loop()
    plain = await loop.create_server(lambda: Connection(loop), "127.0.0.1", 0, backlog=1024)
    # Event loops' own costs twice as much, and what a call costs is less to be seen beside it.
    secure = await loop.create_server(
        lambda: Tls(tls, Connection(loop), lambda _, error: None), "127.0.0.1", 0, backlog=1024
    )
    ports = {"port": plain.sockets[0].getsockname()[1], "tls_port": secure.sockets[0].getsockname()[1]}
    print(json.dumps(ports), flush=True)
    await plain.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
