"""The provider of the system tests: chat completions after as long as it is told, and large files either way, hashed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

import uvloop

from tests.bench.upstream import HEADERS, chat

FILES = "/v1/files"
SPEECH = "/v1/audio/speech"

DELAY = "x-system-delay-ms"
"""So long a chat completion takes."""
BYTES = "x-system-bytes"
"""How large an answer is to be."""
STALL = "x-system-stall-s"
"""So long the provider stops reading an upload, once a quarter of it has come."""

READ_AHEAD_BYTES = 1 << 18
GET_BYTES = 1 << 19
"""What every GET is answered with: more than the buffers of a connection hold whose client takes nothing."""

PIECE_BYTES = 1 << 20
_PIECE = random.Random("system").randbytes(PIECE_BYTES - 8)

_HEAD = b"HTTP/1.1 200 OK\r\n" + HEADERS + b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n"
_numbers = count(1)


def pieces(size: int) -> Iterator[bytes]:
    """A file of that size; no two of its pieces are the same."""
    for number in range(-(-size // PIECE_BYTES)):
        yield (number.to_bytes(8, "big") + _PIECE)[: size - number * PIECE_BYTES]


_EVERY_GET = b"".join(pieces(GET_BYTES))
"""Made once: what the provider takes for a thousand of them at the same time, another client waits for."""


def digest(size: int) -> str:
    """The SHA-256 of that file."""
    sha256 = hashlib.sha256()
    for piece in pieces(size):
        sha256.update(piece)
    return sha256.hexdigest()


def _told(head: bytes, name: str) -> int:
    found = re.search(rb"\r\n%b: *(\d+)" % name.encode(), head, re.IGNORECASE)
    return 0 if found is None else int(found[1])


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection: requests with a Content-Length or without a body, one after another."""
    with suppress(EOFError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await _answer(head, reader, writer)
    writer.close()


async def _answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    length = _told(head, "content-length")
    if head.startswith(b"POST " + FILES.encode()):
        sha256, came, stall_s = hashlib.sha256(), 0, _told(head, STALL)
        while came < length:
            data = await reader.read(min(1 << 18, length - came))
            if not data:
                raise EOFError
            sha256.update(data)
            came += len(data)
            if stall_s and came > length // 4:
                await asyncio.sleep(stall_s)
                stall_s = 0
        found = {"id": f"file-{next(_numbers)}", "object": "file", "bytes": came, "filename": sha256.hexdigest()}
        body = json.dumps(found).encode()
        writer.write(_HEAD % (b"application/json", len(body)) + body)
    elif head.startswith((b"GET ", b"POST " + SPEECH.encode())):
        await reader.readexactly(length)
        size = _told(head, BYTES) or GET_BYTES
        writer.write(_HEAD % (b"audio/mpeg", size))
        for piece in (_EVERY_GET,) if size == GET_BYTES else pieces(size):
            writer.write(piece)
            await writer.drain()
    else:
        await reader.readexactly(length)
        if delay_ms := _told(head, DELAY):
            await asyncio.sleep(delay_ms / 1e3)
        body = chat(next(_numbers))
        writer.write(_HEAD % (b"application/json", len(body)) + body)


async def main() -> None:
    server = await asyncio.start_server(converse, "127.0.0.1", 0, backlog=4096, limit=READ_AHEAD_BYTES)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
