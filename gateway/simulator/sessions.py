"""A session over a WebSocket, carried out: what the client says is heard, and what the provider says leaves."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable

from aiohttp import WSMsgType, web

from gateway.simulator.api import Bill, BreakOff, Close, Message, Session, Silence, Step
from gateway.simulator.controls import Controls

SUBPROTOCOLS = ("realtime",)
"""Those that are agreed to where a client offers them."""
MESSAGE_BYTES_MAX = 32 << 20
"""Of a message of the client's; far more than the largest piece of audio that may be sent at once."""
CLOSE_S_MAX = 10.0
"""How long the client may take to answer a close."""
TEXT_FRAME = 0x81


class WebSocket:
    """One session's use of a connection."""

    def __init__(
        self, request: web.BaseRequest, transport: asyncio.Transport, bill: Callable[[Bill], None], *, compressed: bool
    ) -> None:
        """`compressed` agrees to permessage-deflate where the client offers it."""
        self._request = request
        self._transport = transport
        self._bill = bill
        self._socket = web.WebSocketResponse(
            protocols=SUBPROTOCOLS,
            timeout=CLOSE_S_MAX,
            autoclose=False,
            compress=compressed,
            max_msg_size=MESSAGE_BYTES_MAX,
        )
        self.bytes_sent = 0
        """The texts of the messages that left."""
        self.close_code: int | None = None
        """The code that whoever closed the session first gave; None as long as nobody has."""

    async def carry_out(self, session: Session, headers: Iterable[tuple[str, str]], controls: Controls) -> None:
        """Open the session, and hold it until it is closed or broken off. Cancelled when the client goes."""
        for name, value in headers:
            self._socket.headers.add(name, value)
        await self._socket.prepare(self._request)
        await self._say(session.opened())
        receiving = asyncio.ensure_future(self._socket.receive())
        try:
            while not self._socket.closed:
                # Between two events of what is being said, the client is listened to, so that it can interrupt.
                step = None if receiving.done() else session.goes_on()
                if step is not None:
                    await self._say((step,))
                    await asyncio.wait((receiving,), timeout=controls.chunk_ms / 1000)
                    continue
                message = await receiving
                match message.type:
                    case WSMsgType.TEXT:
                        await self._say(session.heard(message.data))
                    case WSMsgType.BINARY:
                        await self._say(session.heard(message.data.decode("utf-8", "replace")))
                    case WSMsgType.CLOSE:
                        self.close_code = message.data or 1005
                        await self._socket.close(code=message.data or 1000)
                    case _:
                        return
                receiving = asyncio.ensure_future(self._socket.receive())
        finally:
            receiving.cancel()

    async def _say(self, steps: Iterable[Step]) -> None:
        for step in steps:
            match step:
                case Message():
                    if step.bill is not None:
                        self._bill(step.bill)
                    await self._socket.send_str(step.text.decode())
                    self.bytes_sent += len(step.text)
                case Close():
                    self.close_code = step.code
                    await self._socket.close(code=step.code, message=step.reason.encode())
                case BreakOff():
                    await self._break_off(step.text)
                case Silence():
                    await asyncio.Event().wait()
            if self._socket.closed:
                return

    async def _break_off(self, text: bytes) -> None:
        """Send half of a frame, and end the connection behind it."""
        frame = struct.pack("!BBQ", TEXT_FRAME, 127, len(text)) + text
        self._transport.write(frame[: len(frame) // 2])
        await self._request.writer.drain()
        self._transport.abort()
        raise ConnectionResetError("broken off, as it was asked for")
