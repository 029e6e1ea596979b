"""HTTP/1.1 as these tests read it: a strict reader of requests and of answers, that shares nothing with the gateway.

What the reader of requests takes is the most that may be forwarded (RFC 9112, and stricter where that leaves a choice). The
gateway may take less. It may never see a request where this reader sees none, nor another one than this reader sees.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(%b) +(/[^\x00-\x20\x7f-\xff#]*) +HTTP/1\.([01])" % TOKEN)
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
_FIELD = re.compile(rb"(%b):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*" % TOKEN)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::([0-9]{0,5}))?")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")

LINE_ENDS = b"\r\n"


class Malformed(Exception):
    """Bytes that are no message, whatever follows them."""


class Request(NamedTuple):
    """One request, as it came."""

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    """Names as they were spelt, values without the space around them."""
    body: bytes
    last: bool
    """True if nothing that follows on the connection is a request."""

    def all(self, name: bytes) -> list[bytes]:
        """The values of one header; the name in lower case."""
        return [value for found, value in self.headers if found.lower() == name]


class Answer(NamedTuple):
    """One answer that is not an interim one."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    whole: bool
    """False if the connection ended before the framing said so."""

    def get(self, name: bytes) -> bytes | None:
        """The value of a header; the name in lower case."""
        return next((value for found, value in self.headers if found.lower() == name), None)


class Reading(NamedTuple):
    """What a connection's bytes say."""

    requests: tuple[Request, ...]
    malformed: bool
    """True if something that is no request comes after these."""
    waiting: bool
    """True if another has begun, and is neither whole nor wrong yet."""


def read_requests(data: bytes) -> Reading:
    """Read what a client sent on one connection."""
    requests: list[Request] = []
    start = 0
    while True:
        try:
            read = read_request(data, start)
        except Malformed:
            return Reading(tuple(requests), True, False)
        if read is None:
            return Reading(tuple(requests), False, bool(data[start:].strip(LINE_ENDS)))
        request, start = read
        requests.append(request)
        if request.last:
            return Reading(tuple(requests), False, False)


def read_request(data: bytes, start: int = 0) -> tuple[Request, int] | None:
    """Read a request and where it ends; None where more is to come. Raises Malformed."""
    while data[start : start + 1] in (b"\r", b"\n"):
        start += 1  # RFC 9112 section 2.2: line ends before a request are nothing.
    end = data.find(b"\r\n\r\n", start)
    if end < 0:
        return None
    line, *lines = data[start:end].split(b"\r\n")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None or found[1] in (b"CONNECT", b"TRACE"):
        raise Malformed("request line")
    headers = _fields(lines)
    request = Request(found[1], found[2], headers, b"", False)
    newer = found[3] == b"1"
    hosts = request.all(b"host")
    if len(hosts) > 1 or (newer and not hosts) or not all(_is_host(host) for host in hosts):
        raise Malformed("host")
    if any(value.lower() != b"100-continue" for value in request.all(b"expect")):
        raise Malformed("expectation")
    codings, lengths = request.all(b"transfer-encoding"), request.all(b"content-length")
    if codings and (not newer or lengths):
        raise Malformed("two framings")
    read = _body(data, end + 4, codings, lengths)
    if read is None:
        return None
    body, after = read
    options = {option.strip().lower() for value in request.all(b"connection") for option in value.split(b",")}
    upgraded = newer and b"upgrade" in options and request.all(b"upgrade")
    kept = b"close" not in options and (newer or b"keep-alive" in options) and not upgraded
    return request._replace(body=body, last=not kept), after


def _fields(lines: list[bytes]) -> tuple[tuple[bytes, bytes], ...]:
    headers = []
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise Malformed("field")
        headers.append((found[1], found[2]))
    return tuple(headers)


def _is_host(value: bytes) -> bool:
    found = _HOST.fullmatch(value)
    return found is not None and int(found[1] or 0) <= 65535


def _body(data: bytes, start: int, codings: list[bytes], lengths: list[bytes]) -> tuple[bytes, int] | None:
    if codings:
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise Malformed("coding")
        return _chunks(data, start)
    if not lengths:
        return b"", start
    if len(lengths) > 1 or not lengths[0].isdigit() or int(lengths[0]) >= 1 << 63:
        raise Malformed("length")
    end = start + int(lengths[0])
    return None if end > len(data) else (data[start:end], end)


def _chunks(data: bytes, start: int) -> tuple[bytes, int] | None:
    pieces = []
    while True:
        end = data.find(b"\r\n", start)
        if end < 0:
            return None
        found = _CHUNK.fullmatch(data[start:end])
        if found is None:
            raise Malformed("chunk size")
        size, start = int(found[1], 16), end + 2
        if size == 0:
            break
        if start + size + 2 > len(data):
            return None
        if data[start + size : start + size + 2] != b"\r\n":
            raise Malformed("chunk")
        pieces.append(data[start : start + size])
        start += size + 2
    if data.startswith(b"\r\n", start):
        return b"".join(pieces), start + 2
    end = data.find(b"\r\n\r\n", start)
    if end < 0:
        if b"\r\n" in data[start:]:
            _fields(data[start : data.rfind(b"\r\n")].split(b"\r\n"))
        return None
    _fields(data[start:end].split(b"\r\n"))
    return b"".join(pieces), end + 4


def read_answers(data: bytes, methods: tuple[bytes, ...]) -> list[Answer]:
    """Read all that a client got before its connection ended, in answer to requests of these methods.

    Raises Malformed for what is no sequence of answers.
    """
    answers: list[Answer] = []
    start = 0
    while start < len(data):
        end = data.find(b"\r\n\r\n", start)
        if end < 0:
            raise Malformed("cut head")
        line, *lines = data[start:end].split(b"\r\n")
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise Malformed("status line")
        answer = Answer(int(found[1]), _fields(lines), b"", True)
        start = end + 4
        if answer.status < 200:
            continue
        method = methods[len(answers)] if len(answers) < len(methods) else b""
        if method == b"HEAD" or answer.status in (204, 304):
            if answer.get(b"connection") == b"close" and answer.status >= 400:
                # What is no request for the gateway has no method, whatever it looks like.
                return [*answers, answer._replace(body=data[start:])]
            answers.append(answer)
            continue
        coding, length = answer.get(b"transfer-encoding"), answer.get(b"content-length")
        read = _body(data, start, [coding] if coding else [], [length] if length else [])
        if coding is None and length is None:
            read = data[start:], len(data)
        if read is None:
            return [*answers, answer._replace(body=data[start:], whole=False)]
        body, start = read
        answers.append(answer._replace(body=body))
    return answers
