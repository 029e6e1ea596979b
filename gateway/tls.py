"""TLS on a connection, on either side of the gateway: between the bytes of the network and whoever speaks over it.

Event loops bring their own, which costs a call more than the ciphers do, and uvloop's keeps a buffer of a quarter of a MiB
for each connection. Here a connection is given what has come as often as something has come, and nothing else is done.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

RECORD_BYTES_MAX: Final = 16 << 10
"""The most that one record holds (RFC 8446 section 5.1)."""

SILENT_RECORDS_MAX: Final = 256
"""A peer that sends so many more records with nothing in them for whoever speaks above than with something is let go of:
messages of TLS itself (new keys, as often as one likes: RFC 8446 section 4.6.3) cost us more than they cost their sender.
BoringSSL, which Envoy speaks, bears 32 in a row. How long records are says nothing: they may be padded."""

HEADER_BYTES: Final = 5
"""With which each record begins; the last two say how long what follows is (RFC 8446 section 5.1)."""

UNTAKEN_BYTES_MAX: Final = 64 << 10
"""A peer that gives TLS more than this to say and takes nothing of what it was sent is let go of: what TLS says waits for
nobody."""

UNSENT_BYTES_HIGH: Final = 80 << 10
"""With more that the network has not taken, whoever writes is asked to wait: asyncio's 64 KiB, and what records add to them."""


class Tls(asyncio.Protocol):
    """Below it is a TCP connection, whose protocol it is; above it who speaks in clear, whose transport it is."""

    __slots__ = (
        "_above",
        "_error",
        "_incoming",
        "_outgoing",
        "_over",
        "_record_begun",
        "_record_left",
        "_shaken",
        "_silent_records",
        "_tcp",
        "_tls",
        "_untaken_bytes",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        above: asyncio.Protocol,
        over: Callable[[Tls, Exception | None], None],
        *,
        server_hostname: str | None = None,
    ) -> None:
        """`server_hostname` is whom a client wants to reach; without it this is a server.

        `over` is called once, when the handshake is over: just before `above` is given its connection, or with what went
        wrong (an OSError, as each ssl.SSLError is one)."""
        self._above = above
        self._over = over
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_hostname is None, server_hostname=server_hostname
        )
        self._tcp: asyncio.Transport | None = None
        self._shaken = False
        self._record_begun = b""
        """Of the header of a record that has not come whole."""
        self._record_left = 0
        """So much is still to come of a record."""
        self._silent_records = 0
        """So many more records brought nothing for whoever speaks above than brought something."""
        self._untaken_bytes = 0
        """So much TLS had to say since the peer took what it was sent."""
        self._error: Exception | None = None

    # -- the protocol of a TCP connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast("asyncio.Transport", transport)  # uvloop's are none by name.
        self._tcp.set_write_buffer_limits(UNSENT_BYTES_HIGH)
        self._advance(b"")

    def data_received(self, data: bytes) -> None:
        self._advance(data)

    def eof_received(self) -> bool:
        # Without the peer's word that this is the end anybody could have cut it off (RFC 8446 section 6.1).
        self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._shaken:
            self._above.connection_lost(self._error or exc)
        else:
            self._over(self, self._error or exc or ConnectionResetError())

    def pause_writing(self) -> None:
        if self._shaken:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        self._untaken_bytes = 0
        if self._shaken:
            self._above.resume_writing()

    def _advance(self, data: bytes) -> None:
        """Take what has come, and give on what of it is in clear."""
        size = len(data)
        # A lot of it in pieces: within one read, OpenSSL stops at no message that is its own.
        pieces = (
            (data,)
            if size <= RECORD_BYTES_MAX
            else [data[start : start + RECORD_BYTES_MAX] for start in range(0, size, RECORD_BYTES_MAX)]
        )
        chunks: list[bytes] = []
        ended = False
        wrong: ssl.SSLError | None = None
        try:
            for piece in pieces:
                ended = self._read(piece, chunks)
                if ended:
                    break
        except ssl.SSLError as error:
            wrong = error
        if self.is_closing():
            return
        if wrong is None and self._outgoing.pending:
            self._untaken_bytes = self._untaken_bytes + self._outgoing.pending if self.get_write_buffer_size() else 0
            if self._untaken_bytes > UNTAKEN_BYTES_MAX:
                wrong = ssl.SSLError("it is to say more and more to a peer that takes nothing")
            else:
                self._send()
        if chunks:
            # Also what came before something that is wrong: how the network cut it makes no difference.
            self._above.data_received(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if wrong is not None:
            self._fail(wrong)
        elif ended:
            self._above.eof_received()
            self.close()

    def _read(self, data: bytes, chunks: list[bytes]) -> bool:
        """Take a piece of what has come, and add what is in clear by it to the chunks; True where the peer says that this is
        the end. Raises ssl.SSLError."""
        incoming, tls, spoken = self._incoming, self._tls, 0
        incoming.write(data)
        try:
            if not self._shaken:
                self._shake_hands()
            # A record is read whole: of what was taken out of `incoming`, nothing is left that could be read.
            while incoming.pending:
                chunk = tls.read(RECORD_BYTES_MAX)
                if not chunk:
                    return True
                chunks.append(chunk)
                spoken += 1
        except ssl.SSLWantReadError:
            pass
        # Of each that brought something, one that did not is borne besides.
        self._silent_records = max(0, self._silent_records + self._begun(data) - 2 * spoken)
        if self._silent_records > SILENT_RECORDS_MAX:
            raise ssl.SSLError("much came, and nothing by it")
        return False

    def _begun(self, data: bytes) -> int:
        """How many records' headers end in this piece of what has come."""
        if self._record_begun:
            data = self._record_begun + data
            self._record_begun = b""
        at, size, records = self._record_left, len(data), 0
        while at + HEADER_BYTES <= size:
            at += HEADER_BYTES + (data[at + 3] << 8 | data[at + 4])
            records += 1
        if at < size:
            self._record_begun, at = data[at:], size
        self._record_left = at - size
        return records

    def _shake_hands(self) -> None:
        """Go on with the handshake. Raises ssl.SSLError; ssl.SSLWantReadError where the peer has to."""
        self._tls.do_handshake()
        self._shaken = True
        self._over(self, None)
        self._above.connection_made(cast("asyncio.Transport", self))

    def _fail(self, error: ssl.SSLError) -> None:
        """What came, or what is to be sent, is wrong: end here; a peer that shakes hands is told why."""
        # Without the frames that lead here, which hold this connection in a cycle.
        self._error = error.with_traceback(None)
        tcp = self._tcp
        assert tcp is not None
        if self._shaken:
            tcp.abort()
        else:
            self._send()
            tcp.close()

    def _send(self) -> None:
        tcp = self._tcp
        assert tcp is not None
        tcp.write(self._outgoing.read())

    # -- the transport of whoever speaks over it

    def write(self, data: bytes) -> None:
        if not self.is_closing():
            try:
                self._tls.write(data)
            except ssl.SSLError as error:
                self._fail(error)
            else:
                self._send()

    def get_write_buffer_size(self) -> int:
        return 0 if self._tcp is None else self._tcp.get_write_buffer_size()

    def pause_reading(self) -> None:
        if self._tcp is not None:
            self._tcp.pause_reading()

    def resume_reading(self) -> None:
        if self._tcp is not None:
            self._tcp.resume_reading()

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self._tcp is None or self._tcp.is_closing()

    def close(self) -> None:
        """Send what was written and that nothing more will come, and end."""
        if not self.is_closing():
            with suppress(ssl.SSLError):  # Which says that the peer has not said it yet.
                self._tls.unwrap()
            self._send()
            assert self._tcp is not None
            self._tcp.close()

    def abort(self) -> None:
        """End at once."""
        if self._tcp is not None:
            self._tcp.abort()

    def get_extra_info(self, name: str) -> Any:
        return None if self._tcp is None else self._tcp.get_extra_info(name)
