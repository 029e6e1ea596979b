"""HTTP/1.1 (RFC 9112) between bytes and messages: the heads, and the framing of bodies. It does no I/O.

Here bytes become requests, and here alone. Their heads are read by the strict parser of aiohttp, which is llhttp in C,
and judged once: applications send the same head again and again, but for the length of the body, so that a head which
was read before is known by its bytes. Answers are read by the grammar of RFC 9112 to the letter, since the lenient parser that
the library has for them takes what could be read in two ways. What is not well-formed raises `Malformed`, which holds no byte of it.

This is the only module that touches the library's private interface; the dependency is pinned to one minor line, and
tests/gateway/test_http1.py fails when it moves.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import Any, Final

from aiohttp import base_protocol, http_parser
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_writer import HttpVersion10, HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.messages import Field, RequestHead, ResponseHead

HEAD_BYTES_MAX: Final = 128 << 10
"""The largest head, of a request or an answer. OpenAI documents 64 KiB for all headers of a request together."""

LINE_BYTES_MAX: Final = 16 << 10
"""The longest request target."""

FIELD_BYTES_MAX: Final = 32 << 10
"""The longest header field of a request."""

FIELDS_MAX: Final = 256

HEAD_END: Final = b"\r\n\r\n"

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"


class Malformed(Exception):
    """A message that can not be read in one way only."""

    def __init__(self, status: int = 400) -> None:
        """`status` is what the sender of a request is told."""
        super().__init__("not well-formed HTTP/1.1")
        self.status = status


# ---------------------------------------------------------------------------------------------------------------------
# Heads of requests


class Request:
    """A request's head, and what it says of the message and of the connection."""

    __slots__ = ("chunked", "expects_continue", "head", "http10", "persistent", "websocket")

    def __init__(
        self,
        head: RequestHead,
        *,
        chunked: bool,
        http10: bool,
        persistent: bool,
        expects_continue: bool,
        websocket: bool,
    ) -> None:
        self.head = head
        self.chunked = chunked
        """True where the body comes in chunks; else it has the length that is told beside this."""
        self.http10 = http10
        self.persistent = persistent
        """True where the client may send another request after this one (RFC 9112 section 9.3)."""
        self.expects_continue = expects_continue
        self.websocket = websocket
        """True where it asks for the connection to go on as a WebSocket (RFC 6455 section 4.1)."""


LENGTH_DIGITS_MAX: Final = 15

_DIGIT_0: Final = 0x30
_DIGIT_9: Final = 0x39

_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,%d})\r\n" % LENGTH_DIGITS_MAX)

_STRAY: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
"""What no head holds, whatever else is still to come of it."""

_TARGET: Final = re.compile(r"/(?!/)[!\"$-~]*")
"""Origin-form (RFC 9112 section 3.2.1). A second slash would make it name a host, a # is never sent."""

_REQUEST_LINE: Final = re.compile(rb"(?:\r\n)*+[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^ \r\n]+ HTTP/[0-9.]+\r\n")

_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")

_NOT_FORWARDED: Final = frozenset({"CONNECT", "TRACE"})

REMEMBERED_MAX: Final = 1024
REMEMBERED_BYTES_MAX: Final = 4 << 10
"""So many heads are remembered, none of them longer: more than that are read each time they come."""


def check_parser() -> None:
    """Raise RuntimeError unless the strict parser is there: the one in pure Python accepts other messages."""
    if not http_parser.HttpRequestParser.__module__.endswith("_http_parser"):
        raise RuntimeError("aiohttp's C parser is missing: unset AIOHTTP_NO_EXTENSIONS and install a binary wheel")


class RequestHeads:
    """Reads heads of requests. One for each worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._nobody = base_protocol.BaseProtocol(loop)
        self._known: dict[bytes, Request] = {}

    def read(self, data: bytes) -> tuple[Request, int]:
        """The request whose head this is, with the empty line that ends it, and the length of its body. Raises Malformed."""
        told = _LENGTH.search(data)
        if told is None:
            known = self._known.get(data)
            return (known, 0) if known is not None else self._learnt(data, data)
        # What the parser makes of a head does not depend on the digits of its one length.
        start, end = told.span(1)
        # And no head ends as the key does, so that it stands for none but those that have a length there.
        key = data[:start] + data[end:-2]
        known = self._known.get(key)
        return (known, int(told[1])) if known is not None else self._learnt(key, data)

    def _learnt(self, key: bytes, data: bytes) -> tuple[Request, int]:
        request, length = self._parsed(data, found=key is not data)
        if request.head.remembered:
            if len(self._known) >= REMEMBERED_MAX:
                del self._known[next(iter(self._known))]
            self._known[key] = request
        return request, length

    def _parsed(self, data: bytes, *, found: bool) -> tuple[Request, int]:
        """`found` is True where the length stands where it was looked for; else it belongs to this one head."""
        if len(data) > HEAD_BYTES_MAX:
            raise Malformed
        # One of its own for each head: what it makes of one then depends on nothing that came before.
        parser: Any = http_parser.HttpRequestParser(
            self._nobody,
            self._loop,
            1,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=FIELD_BYTES_MAX,
            max_headers=FIELDS_MAX,
            auto_decompress=False,
        )
        try:
            messages, _, _ = parser.feed_data(data)
        except HttpProcessingError:
            # It quotes what it could not read.
            raise Malformed from None
        if len(messages) != 1:
            raise Malformed
        message = messages[0][0]
        http10 = message.version == HttpVersion10
        if not http10 and message.version != HttpVersion11:
            raise Malformed(505)
        # The parser speaks RTSP as well, and overlooks ends of lines before the first one.
        if not _REQUEST_LINE.match(data):
            raise Malformed
        if message.method in _NOT_FORWARDED or not _TARGET.fullmatch(message.path):
            raise Malformed
        headers = CIMultiDict(message.headers)
        _check_host(headers.getall("Host", ()), http10=http10)
        codings = headers.getall("Transfer-Encoding", None)
        if codings is not None and (http10 or len(codings) != 1 or codings[0].lower() != "chunked"):
            raise Malformed(501)
        if any(value.lower() != "100-continue" for value in headers.getall("Expect", ())):
            raise Malformed(417)
        length = headers.popone("Content-Length", None)
        options = {option.strip().lower() for value in headers.getall("Connection", ()) for option in value.split(",")}
        upgrades = "Upgrade" in headers and not http10
        websocket = (
            upgrades
            and [name.lower() for name in headers.getall("Upgrade")] == ["websocket"]
            and "upgrade" in options
            and message.method == "GET"
            and length is None
            and codings is None
        )
        fields = message.raw_headers
        if length is not None:
            fields = tuple([pair for pair in fields if pair[0].lower() != b"content-length"])
        return Request(
            RequestHead(
                message.method,
                message.path,
                CIMultiDictProxy(headers),
                fields,
                remembered=len(data) <= REMEMBERED_BYTES_MAX and (found or not length),
            ),
            chunked=codings is not None,
            http10=http10,
            # A client that means to go on in another protocol may have begun to.
            persistent="close" not in options and (not http10 or "keep-alive" in options) and not upgrades,
            expects_continue=not http10 and "Expect" in headers,
            websocket=websocket,
        ), int(length or 0)


class Alike:
    """The head of a request that had a length, in two parts: before the digits and behind them. A client's next request
    commonly differs in these alone."""

    __slots__ = ("_before", "_behind", "request")

    def __init__(self, before: bytes, behind: bytes, request: Request) -> None:
        self._before = before
        self._behind = behind
        self.request = request

    @classmethod
    def of(cls, head: bytes, request: Request) -> Alike | None:
        """The parts of a head; None for one that is long, or has no length where it is looked for."""
        told = _LENGTH.search(head) if len(head) <= REMEMBERED_BYTES_MAX else None
        return None if told is None else cls(head[: told.start(1)], head[told.end(1) :], request)

    def found(self, data: bytes) -> tuple[int, int] | None:
        """The length of the body, and where it begins, if this begins with such a head."""
        if not data.startswith(self._before):
            return None
        start = end = len(self._before)
        last = min(len(data), start + LENGTH_DIGITS_MAX)
        length = 0
        while end < last and _DIGIT_0 <= data[end] <= _DIGIT_9:
            length = 10 * length + data[end] - _DIGIT_0
            end += 1
        return (length, end + len(self._behind)) if end > start and data.startswith(self._behind, end) else None


def _check_host(told: list[str] | tuple[str, ...], *, http10: bool) -> None:
    """Raise Malformed unless there is one Host (RFC 9112 section 3.2) and it names a host."""
    if not told and http10:
        return
    found = _HOST.fullmatch(told[0]) if len(told) == 1 else None
    if found is None or int(found[1] or 0) > 65535:
        raise Malformed


def check_begun(data: bytes | bytearray, *, checked: int = 0) -> None:
    """Raise Malformed for the beginning of a head that can not become a whole one; so many bytes of it were checked before."""
    if len(data) > HEAD_BYTES_MAX or _STRAY.search(data, max(0, checked - 1)):
        raise Malformed


# ---------------------------------------------------------------------------------------------------------------------
# Framing of bodies (RFC 9112 section 6)


class Counted:
    """A body of a declared length."""

    __slots__ = ("_left", "ended", "rest")
    ends_by_close = False
    """True where the end of the connection is the end of the body."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.ended = length == 0
        """True once the whole body was fed."""
        self.rest = b""
        """What was fed behind its end."""

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body among these. Raises Malformed, if this is a body in chunks."""
        size = len(data)
        if size < self._left:
            self._left -= size
            return data
        body, self.rest = (data, b"") if size == self._left else (data[: self._left], data[self._left :])
        self._left = 0
        self.ended = True
        return body


class UntilClose:
    """A body that ends with the connection."""

    __slots__ = ("ended", "rest")
    ends_by_close = True

    def __init__(self) -> None:
        self.ended = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        return data


def chunks(data: bytes, *, last: bool) -> bytes:
    """These bytes of a body as a chunk, if there are any, and what ends the body if they are its last."""
    if data:
        size = len(data)
        if size < len(_chunk_begins):
            data = b"%b%b\r\n" % (_chunk_begins[size], data)
        else:
            # Uncompiled, to format much takes many times as long as this.
            data = b"".join((b"%x\r\n" % size, data, b"\r\n"))
    return data + b"0\r\n\r\n" if last else data


_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
_CHUNK_LINE_BYTES_MAX: Final = 1024
"""A chunk's size, and extensions that nobody is known to use (RFC 9112 section 7.1.1): read over, never passed on."""

_TRAILER_LINE: Final = re.compile(rb"%b:[\t\x20-\x7e\x80-\xff]*+\r\n" % _TOKEN)
_TRAILER_BYTES_MAX: Final = 16 << 10
"""The section behind the last chunk is read over; RFC 9110 section 6.5.1 lets intermediaries discard it."""


class Chunked:
    """A body in chunks."""

    __slots__ = ("_begun", "_in_trailer", "_left", "_trailer_bytes", "ended", "rest")
    ends_by_close = False

    def __init__(self) -> None:
        self._begun = b""
        """The beginning of a line that has not come whole."""
        self._left = 0
        """What is still to come of a chunk, with the two bytes that end it."""
        self._in_trailer = False
        self._trailer_bytes = 0
        self.ended = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        if self._begun:
            data = self._begun + data
            self._begun = b""
        elif not self._left and not self._in_trailer:
            # Most events of a stream are one chunk, and come by themselves.
            length, at = _hexadecimal(data, 0)
            if (
                length
                and len(data) == at + length + 4
                and data[at] == _CR
                and data[at + 1] == _LF
                and data.endswith(b"\r\n")
            ):
                return data[at + 2 : -2]
        pieces: list[bytes] = []
        at, end = 0, len(data)
        while at < end:
            if self._left:
                here = min(self._left, end - at)
                body = max(0, min(here, self._left - 2))
                if data[at + body : at + here] != b"\r\n"[max(0, 2 - self._left) :][: here - body]:
                    raise Malformed
                if body:
                    pieces.append(data[at : at + body])
                self._left -= here
                at += here
            elif self._in_trailer:
                self._end(data[at:])
                break
            else:
                begins = data.find(b"\r\n", at) + 2
                if begins < 2:
                    self._begun = _line_begun(data[at:])
                    break
                length, digits_end = _hexadecimal(data, at)
                if digits_end == at or digits_end + 2 != begins:
                    length = _chunk_size(data[at:begins])
                at = begins
                if not length:
                    self._in_trailer = True
                    self._end(data[at:])
                    break
                chunk_end = at + length
                if data[chunk_end : chunk_end + 2] == b"\r\n":
                    # Most chunks come in one piece.
                    pieces.append(data[at:chunk_end])
                    at = chunk_end + 2
                else:
                    self._left = length + 2
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _end(self, data: bytes) -> None:
        """Read over the lines behind the last chunk, up to the empty one."""
        while not data.startswith(b"\r\n"):
            end = data.find(b"\r\n") + 2
            if end < 2:
                if len(data) > _CHUNK_LINE_BYTES_MAX or _STRAY.search(data):
                    raise Malformed
                self._begun = data
                return
            self._trailer_bytes += end
            if end > _CHUNK_LINE_BYTES_MAX or self._trailer_bytes > _TRAILER_BYTES_MAX:
                raise Malformed
            if _TRAILER_LINE.fullmatch(data, 0, end) is None:
                raise Malformed
            data = data[end:]
        self.ended = True
        self.rest = data[2:]


Framing = Counted | UntilClose | Chunked
"""Where a body ends in the bytes of a connection."""


def _hexadecimal(data: bytes, at: int) -> tuple[int, int]:
    """The number that stands here in hexadecimal digits, of which four are read at most, and where it ends."""
    number, end = 0, min(at + 4, len(data))
    while at < end and (digit := _HEXADECIMAL[data[at]]) < 16:
        number = 16 * number + digit
        at += 1
    return number, at


def _chunk_size(line: bytes) -> int:
    """The size that a line says. Raises Malformed."""
    said = _CHUNK_SIZE.fullmatch(line)
    if said is None or len(line) > _CHUNK_LINE_BYTES_MAX:
        raise Malformed
    return int(said[1], 16)


_CR: Final = 0x0D
_LF: Final = 0x0A
_HEXADECIMAL: Final = bytes(b"0123456789abcdef".find(bytes((one,)).lower()) & 0xFF for one in range(256))
"""What each byte is as a digit; 255 where it is none."""

_chunk_begins: Final = [b"%x\r\n" % size for size in range(2048)]
"""Events are small."""

_LINE_BEGUN: Final = re.compile(rb"(?:[0-9A-Fa-f]{1,15}(?:[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r?)?)?")


def _line_begun(data: bytes) -> bytes:
    """The beginning of the line of a chunk's size. Raises Malformed where it can not become one."""
    if len(data) > _CHUNK_LINE_BYTES_MAX or _LINE_BEGUN.fullmatch(data) is None:
        raise Malformed
    return data


# ---------------------------------------------------------------------------------------------------------------------
# Heads of answers

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*+))?")

_FIELD_LINE: Final = re.compile(rb"(%b):[\t\x20-\x7e\x80-\xff]*+" % _TOKEN)
"""RFC 9112 section 5, without the folding of lines that it tells servers not to send."""

_LENGTH_DIGITS_MAX: Final = 18

FIELDS_REMEMBERED_MAX: Final = 4096
FIELD_REMEMBERED_BYTES_MAX: Final = 128
"""So many fields of answers are remembered, none of them longer; then all of them are forgotten."""

_fields: Final[dict[bytes, Field]] = {}
"""Header lines that were seen to be well-formed."""

_READ_OF_RESPONSES: Final = frozenset(
    {b"content-length", b"transfer-encoding", b"connection", b"content-type", b"content-encoding", b"upgrade"}
)
"""The fields that matter here."""

_OF_THE_CONNECTION: Final = frozenset({b"keep-alive", b"close", b"upgrade", b""})

_KEPT_ALIVE: Final = frozenset({b"keep-alive", b"Keep-Alive"})

BODILESS: Final = frozenset({204, 304})
"""The statuses of answers that have no body (RFC 9112 section 6.3)."""


class Response:
    """An answer's head, and what it says of the message and of the connection."""

    __slots__ = ("framing", "head", "persistent", "websocket")

    def __init__(self, head: ResponseHead, framing: Framing, *, persistent: bool, websocket: bool) -> None:
        self.head = head
        self.framing = framing
        self.persistent = persistent
        """True where the provider will take another request after this one."""
        self.websocket = websocket
        """True for a 101 that makes the connection a WebSocket."""


def response(data: bytes, before: list[Field], *, to_head: bool) -> Response:
    """The answer whose head this is, with the empty line that ends it; `to_head` if HEAD was asked. Raises Malformed.

    `before` are the fields of the answer that came before it: most of them are commonly the same again, in the same place."""
    if len(data) > HEAD_BYTES_MAX or not data.endswith(HEAD_END):
        raise Malformed
    lines = data[:-4].split(b"\r\n")
    status, reason, http10 = _status_line(lines[0])
    fields: list[Field] = []
    length: int | None = None
    coding: bytes | None = None
    connection: bytes | None = None
    media_type: bytes | None = None
    encoding: bytes | None = None
    upgrade: bytes | None = None
    for place in range(len(lines) - 1):
        line = lines[place + 1]
        field = before[place] if place < len(before) else None
        if field is None or field.line != line:
            field = _fields.get(line) or _field(line)
        fields.append(field)
        value = field.value
        if value is None:
            continue
        name = field.name
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX:
                raise Malformed
            length = int(value)
        elif name == b"content-type":
            media_type = media_type or value
        elif name == b"connection":
            connection = value if connection is None else connection + b"," + value
        elif name == b"transfer-encoding":
            if coding is not None or value.lower() != b"chunked":
                raise Malformed
            coding = value
        elif name == b"content-encoding":
            encoding = value if encoding is None else encoding + b", " + value
        else:
            upgrade = value
    if coding is not None and (length is not None or http10):
        raise Malformed
    options: list[bytes] = []
    if connection is None:
        persistent = not http10
    elif connection in _KEPT_ALIVE:
        persistent = True
    else:
        options = [option.strip() for option in connection.lower().split(b",")]
        persistent = b"keep-alive" in options if http10 else b"close" not in options
    framing: Framing
    if to_head or status < 200 or status in BODILESS:
        framing = Counted(0)
        if status == 204 and (coding is not None or length):
            persistent = False  # A body that it announces all the same may be about to come.
    elif coding is not None:
        framing = Chunked()
    elif length is not None:
        framing = Counted(length)
    else:
        framing = UntilClose()
        persistent = False
    head = ResponseHead(
        status,
        reason,
        fields,
        length,
        "" if media_type is None else _media_type(media_type),
        "" if encoding is None else _encoding(encoding),
        [option for option in options if option not in _OF_THE_CONNECTION] if options else (),
    )
    websocket = status == 101 and upgrade is not None and upgrade.lower() == b"websocket" and b"upgrade" in options
    return Response(head, framing, persistent=persistent, websocket=websocket)


@lru_cache(maxsize=64)
def _status_line(line: bytes) -> tuple[int, bytes, bool]:
    """The status, the reason, and whether it is of HTTP/1.0. Raises Malformed."""
    told = _STATUS_LINE.fullmatch(line)
    if told is None:
        raise Malformed
    version, status, reason = told.groups(b"")
    return int(status), reason, version == b"0"


def _field(line: bytes) -> Field:
    """A header line, read and remembered. Raises Malformed."""
    told = _FIELD_LINE.fullmatch(line)
    if told is None:
        raise Malformed
    name = told[1].lower()
    field = Field(name, line, line[len(name) + 1 :].strip(b" \t") if name in _READ_OF_RESPONSES else None)
    if len(line) <= FIELD_REMEMBERED_BYTES_MAX:
        if len(_fields) >= FIELDS_REMEMBERED_MAX:
            # The most are other ones each time, such as dates.
            _fields.clear()
        _fields[line] = field
    return field


@lru_cache(maxsize=64)
def _media_type(value: bytes) -> str:
    return value.partition(b";")[0].strip().lower().decode("latin-1")


def _encoding(value: bytes) -> str:
    codings = [coding.strip().lower() for coding in value.decode("latin-1").split(",")]
    return ", ".join(coding for coding in codings if coding not in ("", "identity"))
