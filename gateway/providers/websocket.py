"""The messages of one direction of a WebSocket, out of bytes that the network cut anywhere. Pure.

Framing by RFC 6455 section 5: messages in fragments, control frames between them, masked or not. Compression by RFC 7692,
permessage-deflate: any window fits into the largest, which is what is inflated with here. Nothing is changed or held back;
whoever passes the bytes on passes them on as they came.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gateway.providers.decoding import PLAIN_BYTES_MAX, RATIO_MAX, STEP_BYTES_MAX

MESSAGE_BYTES_MAX = 8 << 20
"""A larger message is passed over unread. The largest that tells of use, a `response.completed`, repeats the whole answer:
100 KB in recordings."""

BEGINNING_BYTES = 192
"""From so much of a message whoever asks for messages knows whether it wants this one."""

MESSAGE_PLAIN_BYTES = 64 << 10
"""What each message may inflate to beyond what an answer may. Deflate can hold a thousand times its size: silence, as audio
in base64, has that in small messages, and a bomb in large ones."""

_TAIL = b"\x00\x00\xff\xff"
"""What a sender takes off the end of a compressed message (RFC 7692 section 7.2.1)."""

_CLOSE = 8
_FINAL, _CODED, _RESERVED, _OPCODE = 0x80, 0x40, 0x30, 0x0F
_MASKED, _LENGTH = 0x80, 0x7F
_CONTROL_BYTES_MAX = 125
_TEXT_IN_ONE, _LONGER_HEAD_BYTES = 0x81, 4


class Coding(NamedTuple):
    """What both sides agreed on for one direction."""

    known: bool = True
    """False where it is an extension that is not known here, under which frames may mean anything."""
    deflate: bool = False
    keeps_context: bool = True
    """True where a message may refer to what was said before it."""


def agreed(extensions: Iterable[str], *, of_server: bool) -> Coding:
    """Read the server's `Sec-WebSocket-Extensions`, which say what is in use, for what it sends or what it gets."""
    offers = [offer for line in extensions for offer in line.split(",") if offer.strip()]
    if not offers:
        return Coding()
    name, *parameters = [part.strip().lower() for part in offers[0].split(";")]
    if len(offers) > 1 or name != "permessage-deflate":
        return Coding(known=False)
    forgets = "server_no_context_takeover" if of_server else "client_no_context_takeover"
    return Coding(deflate=True, keeps_context=forgets not in parameters)


class Messages:
    """Reads one direction. It never raises; from what is no WebSocket, or was made to cost much, on it reads nothing."""

    __slots__ = (
        "_begun",
        "_coded",
        "_coding",
        "_control",
        "_decoder",
        "_final",
        "_gathered",
        "_in_frame",
        "_in_message",
        "_left",
        "_mask",
        "_plain_bytes_left",
        "_undecided",
        "_wanted",
        "closed",
        "lost",
        "overlong",
    )

    def __init__(self, coding: Coding, wanted: Callable[[bytes], bool]) -> None:
        """`wanted` is shown the beginning of each message, all of a short one; what it does not want is not gathered."""
        self.lost = not coding.known
        """True once nothing more can be read."""
        self.closed = False
        """True once the sender has begun to close (RFC 6455 section 5.5.1)."""
        self.overlong = False
        """True once a message that was wanted was passed over for its size."""
        self._wanted = wanted
        self._coding = coding
        self._decoder = zlib.decompressobj(-zlib.MAX_WBITS) if coding.deflate else None
        self._plain_bytes_left = PLAIN_BYTES_MAX
        self._begun = b""
        """A frame's head that is not whole."""
        self._in_frame = False
        self._left = 0
        """Of the frame's payload, what has not come."""
        self._mask = b""
        """The masking key, turned so that it begins with the next byte; empty where there is none."""
        self._final = self._control = False
        self._in_message = self._coded = False
        self._gathered: bytearray | None = None
        """Of the message, what has come; None where it is not wanted."""
        self._undecided = False

    @property
    def midway(self) -> bool:
        """True in the middle of a message, or of a frame."""
        return self._in_message or self._in_frame or bool(self._begun)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The wanted messages that are whole with this chunk, in their order and their plain form."""
        told: list[bytes] = []
        at = 0
        while not self.lost:
            if not self.midway:
                at = self._whole(chunk, at, told)
                if at == len(chunk):
                    break
            if not self._in_frame:
                if self._begun:
                    chunk, at, self._begun = self._begun + chunk[at:], 0, b""
                after = self._head(chunk, at)
                if after < 0:
                    self._begun = chunk[at:]
                    break
                at = after
                if self.lost:
                    break
            size = min(self._left, len(chunk) - at)
            piece_at, at = at, at + size
            self._left -= size
            if not self._control:
                if size:
                    self._data(chunk, piece_at, at)
                if not self._left and self._final and not self.lost:
                    self._end(told)
            if self._left:
                break
            self._in_frame = False
        return told

    def _whole(self, chunk: bytes, at: int, told: list[bytes]) -> int:
        """Read what most chunks consist of, texts in one plain frame each; where they end."""
        size = len(chunk)
        while size - at >= _LONGER_HEAD_BYTES and chunk[at] == _TEXT_IN_ONE:
            length = chunk[at + 1]
            begin = at + 2
            if length == _LENGTH - 1:
                length = chunk[begin] << 8 | chunk[begin + 1]
                begin += 2
            elif length >= _LENGTH:
                break
            end = begin + length
            if end > size:
                break
            if self._wanted(chunk[begin : min(end, begin + BEGINNING_BYTES)]):
                told.append(chunk[begin:end])
            at = end
        return at

    def _head(self, chunk: bytes, at: int) -> int:
        """Read the head of a frame; where it ends, or -1 where it has not come whole."""
        have = len(chunk) - at
        if have < 2:
            return -1
        first, second = chunk[at], chunk[at + 1]
        length = second & _LENGTH
        more = 0 if length < 126 else 2 if length == 126 else 8
        key = 4 if second & _MASKED else 0
        after = at + 2 + more + key
        if len(chunk) < after:
            return -1
        if more:
            length = int.from_bytes(chunk[at + 2 : at + 2 + more], "big")
        opcode = first & _OPCODE
        self._control = opcode >= _CLOSE
        self._final = bool(first & _FINAL)
        begins = opcode in (1, 2)
        if (
            first & _RESERVED
            or not (begins or opcode in (0, 8, 9, 10))
            or length >> 63
            or (self._control and (not self._final or length > _CONTROL_BYTES_MAX))
            or (first & _CODED and (self._decoder is None or not begins))
            or (not self._control and begins is self._in_message)
        ):
            self.lost = True
            self._gathered = None
            return after
        if opcode == _CLOSE:
            self.closed = True
        if begins:
            self._in_message = self._undecided = True
            self._coded = bool(first & _CODED)
            self._gathered = bytearray()
        self._left = length
        self._mask = chunk[after - 4 : after] if key else b""
        self._in_frame = True
        return after

    def _data(self, chunk: bytes, at: int, end: int) -> None:
        """A piece of a message."""
        if self._coded:
            self._inflate(self._unmasked(chunk[at:end]), MESSAGE_PLAIN_BYTES if self._undecided else 0)
            return
        if self._undecided and not self._gathered:
            # Most messages come in one piece and are not wanted: no more than their beginning is copied.
            beginning = chunk[at : min(end, at + BEGINNING_BYTES)]
            if len(beginning) == BEGINNING_BYTES or (self._final and not self._left):
                self._undecided = False
                if not self._wanted(_xored(beginning, self._mask) if self._mask else beginning):
                    self._gathered = None
        if self._gathered is not None:
            self._gather(self._unmasked(chunk[at:end]))
        elif self._mask:
            self._turn(end - at)

    def _unmasked(self, piece: bytes) -> bytes:
        if not self._mask:
            return piece
        plain = _xored(piece, self._mask)
        self._turn(len(piece))
        return plain

    def _turn(self, size: int) -> None:
        by = size % 4
        self._mask = self._mask[by:] + self._mask[:by]

    def _gather(self, plain: bytes) -> None:
        gathered = self._gathered
        if gathered is None:
            return
        gathered += plain
        if self._undecided and len(gathered) >= BEGINNING_BYTES:
            self._decide(gathered)
        if len(gathered) > MESSAGE_BYTES_MAX and self._gathered is not None:
            self._gathered = None
            self.overlong = True

    def _decide(self, gathered: bytearray) -> None:
        self._undecided = False
        if not self._wanted(bytes(gathered[:BEGINNING_BYTES])):
            self._gathered = None

    def _inflate(self, piece: bytes, allowed: int) -> None:
        """Inflate a piece of a message; also what nobody wants, since what follows may refer to it."""
        self._plain_bytes_left = min(PLAIN_BYTES_MAX, self._plain_bytes_left + RATIO_MAX * len(piece) + allowed)
        decoder = self._decoder
        assert decoder is not None
        try:
            while self._plain_bytes_left > 0:
                plain = decoder.decompress(piece, min(self._plain_bytes_left, STEP_BYTES_MAX))
                self._plain_bytes_left -= len(plain)
                self._gather(plain)
                if decoder.eof:
                    # A last block is not the end here (RFC 7692 section 7.2.3.4). A new beginning costs as much as bytes.
                    self._plain_bytes_left -= MESSAGE_PLAIN_BYTES
                    piece, decoder = decoder.unused_data, zlib.decompressobj(-zlib.MAX_WBITS)
                    self._decoder = decoder
                else:
                    piece = decoder.unconsumed_tail
                if not piece and len(plain) < STEP_BYTES_MAX:
                    return
        except zlib.error:
            pass
        self.lost = True
        self._gathered = None

    def _end(self, told: list[bytes]) -> None:
        """The message is over."""
        if self._coded:
            self._inflate(_TAIL, 0)
            if self.lost:
                return
            if not self._coding.keeps_context:
                self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        gathered, self._gathered = self._gathered, None
        self._in_message = False
        if gathered is not None and self._undecided and not self._wanted(bytes(gathered)):
            gathered = None
        self._undecided = False
        if gathered is not None:
            told.append(bytes(gathered))


def _xored(piece: bytes, mask: bytes) -> bytes:
    size = len(piece)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(piece, "little") ^ key).to_bytes(size, "little")
