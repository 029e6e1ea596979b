"""HTTP/1.1 framing by aiohttp's C parsers, used underneath that library's public interface.

Why underneath: its request, response and session objects cost several times what parsing costs, and rewrite what we
must pass on as it came. This is the only module that touches those interfaces; the dependency is pinned to one minor
line, and tests/gateway/test_http1.py fails when they move.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import base_protocol, http_parser
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_writer import HttpVersion10, HttpVersion11
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

__all__ = [
    "NEVER",
    "NO_BODY",
    "BaseProtocol",
    "Body",
    "BrokenBody",
    "Malformed",
    "available",
    "check_parsers",
    "framed",
    "plain",
    "readable",
    "request_parser",
    "response_parser",
]


class BaseProtocol(base_protocol.BaseProtocol):
    """What the parsers need of a connection: flow control in both directions."""

    __slots__ = ()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002  The interface is aiohttp's.
        """Read on after a pause. Bodies ask for it at every reading of theirs; where there was no pause, nothing waits."""
        if self._reading_paused:
            super().resume_reading(resume_parser)


Body = StreamReader
"""A body as it arrives: `await readany()` gives what is there, or waits; `at_eof()` when all was read."""

NO_BODY: Body = EMPTY_PAYLOAD

Malformed = HttpProcessingError
"""What parsers raise. It quotes what it could not parse, so it is never shown or logged."""

NEVER = float("inf")
"""The deadline of a connection that waits for nothing of its peer's."""

READ_BUFFER_BYTES = 128 << 10
"""Twice so much of a body is kept that its reader has not taken; then the peer is no longer read from."""

LINE_BYTES_MAX = 16 << 10
"""The longest request target, or status line."""

FIELD_BYTES_MAX = 32 << 10
"""The longest header field. OpenAI documents 64 KiB for all headers of a request together."""

FIELDS_MAX = 256


class BrokenBody(Exception):
    """A body that ended before its framing said so, or that was framed wrongly."""


def check_parsers() -> None:
    """Raise RuntimeError unless the strict C parsers are there: the pure Python ones accept other messages."""
    for parser in (http_parser.HttpRequestParser, http_parser.HttpResponseParser):
        if not parser.__module__.endswith("_http_parser"):
            raise RuntimeError(
                "aiohttp's C parsers are missing: unset AIOHTTP_NO_EXTENSIONS and install a binary wheel"
            )


def plain(message: Any) -> bool:
    """True for a request head that can be read in one way only; the parser takes more than may be forwarded.

    What it takes besides: versions 0.9 and 2.0, whole URLs and authorities as targets, a fragment, a body that is coded
    for transfer in further ways than by chunks, and chunks in HTTP/1.0, which does not know them.
    """
    coding = message.headers.get("Transfer-Encoding")
    return (
        message.version in _VERSIONS
        and message.method not in _NOT_FORWARDED
        and message.path.startswith("/")
        and "#" not in message.path
        and (coding is None or (coding.lower() == "chunked" and message.version == HttpVersion11))
    )


_NOT_FORWARDED = frozenset({"CONNECT", "TRACE"})

_VERSIONS = (HttpVersion11, HttpVersion10)


def framed(message: Any) -> bool:
    """False for an answer whose body is coded for transfer in a way that is not undone here."""
    coding = message.headers.get("Transfer-Encoding")
    return coding is None or coding.lower() == "chunked"


def request_parser(protocol: BaseProtocol, loop: asyncio.AbstractEventLoop, queue_max: int) -> Any:
    return http_parser.HttpRequestParser(
        protocol,
        loop,
        READ_BUFFER_BYTES,
        max_line_size=LINE_BYTES_MAX,
        max_field_size=FIELD_BYTES_MAX,
        max_headers=FIELDS_MAX,
        payload_exception=BrokenBody,
        auto_decompress=False,
        max_msg_queue_size=queue_max,
    )


def response_parser(protocol: BaseProtocol, loop: asyncio.AbstractEventLoop, *, with_body: bool) -> Any:
    return http_parser.HttpResponseParser(
        protocol,
        loop,
        READ_BUFFER_BYTES,
        max_line_size=LINE_BYTES_MAX,
        max_field_size=FIELD_BYTES_MAX,
        max_headers=FIELDS_MAX,
        payload_exception=BrokenBody,
        response_with_body=with_body,
        read_until_eof=True,
        auto_decompress=False,
    )


def available(body: Body) -> bytes:
    """What has arrived of a body and was not read yet; empty if nothing has."""
    return body._read_nowait(-1) if body is not NO_BODY and body._buffer else b""  # noqa: SLF001


def readable(body: Body) -> bool:
    """True if reading the body would not wait: something has arrived, or nothing more will."""
    return body.at_eof() or bool(body._buffer)  # noqa: SLF001
