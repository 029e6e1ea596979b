"""Clients that weigh on memory: one large upload, one large download, thousands of connections that do nothing.

A process of its own, one job at a time; it reports in one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import sys
import time

import uvloop

from tests.bench import upstream
from tests.bench.load import body_of, request

AT_A_TIME = 32
_PIECE = bytes(1 << 18)


def upload(given: argparse.Namespace) -> dict[str, object]:
    """Send a file of so many bytes, to an upstream that stops reading for a while if it is told to."""
    head = (
        f"POST {given.prefix}{upstream.UPLOAD_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {given.key}\r\n"
        f"Content-Type: application/octet-stream\r\n{upstream.STALL_HEADER}: {given.stall}\r\n"
        f"Content-Length: {given.bytes}\r\n\r\n"
    )
    with _connected(given) as line:
        line.sendall(head.encode())
        left = given.bytes
        while left:
            piece = _PIECE[:left]
            line.sendall(piece)
            left -= len(piece)
        answer = b""
        while body_of(answer) is None:
            if not (data := line.recv(1 << 16)):
                raise ConnectionError("no whole answer")
            answer += data
    document = json.loads(body_of(answer) or b"")
    assert document["bytes"] == given.bytes
    return {}


def download(given: argparse.Namespace) -> dict[str, object]:
    """Take an answer of so many bytes, and stop reading for a while if told to."""
    body = b'{"model":"tts-1","voice":"alloy","input":"As much as there is."}'
    head = (
        f"POST {given.prefix}{upstream.DOWNLOAD_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {given.key}\r\nContent-Type: application/json\r\n"
        f"{upstream.DOWNLOAD_HEADER}: {given.bytes}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with _connected(given) as line:
        line.sendall(head.encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            if not (data := line.recv(1 << 16)):
                raise ConnectionError("no answer")
            answer += data
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(answer[:400].decode("utf-8", "replace"))
        came = len(answer) - answer.index(b"\r\n\r\n") - 4
        buffer = bytearray(1 << 18)
        stall = given.stall
        while came < given.bytes:
            if stall and came > given.bytes // 4:
                time.sleep(stall)
                stall = 0
            got = line.recv_into(buffer)
            if not got:
                raise ConnectionError(f"ended after {came} of {given.bytes} bytes")
            came += got
    return {}


def _connected(given: argparse.Namespace) -> socket.socket:
    return socket.create_connection(("127.0.0.1", given.port), timeout=given.within)


class Idle(asyncio.Protocol):
    """A connection that makes one call, and nothing after it."""

    def __init__(self, asked: bytes) -> None:
        self._asked = asked
        self._received = b""
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open = True

    def connection_made(self, transport):
        transport.write(self._asked)

    def data_received(self, data):
        self._received += data
        if body_of(self._received) is not None and not self.answered.done():
            self._received = b""
            self.answered.set_result(None)

    def connection_lost(self, exc):
        self.open = False
        if not self.answered.done():
            self.answered.set_exception(ConnectionError("closed without an answer"))


async def idle(given: argparse.Namespace) -> dict[str, object]:
    """Open connections, make a call on each, say so, and wait for a line before closing them."""
    asked = request(f"{given.prefix}/v1/chat/completions", f"127.0.0.1:{given.port}", given.key, stream=False)
    loop = asyncio.get_running_loop()
    places = asyncio.Semaphore(AT_A_TIME)

    async def one() -> Idle:
        async with places:
            _, connection = await loop.create_connection(lambda: Idle(asked), "127.0.0.1", given.port)
            await connection.answered
            return connection

    async with asyncio.timeout(given.within):
        connections = await asyncio.gather(*(one() for _ in range(given.connections)))
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return {"open": sum(one.open for one in connections)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=["upload", "download", "idle"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--stall", type=int, default=0, metavar="SECONDS")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--within", type=float, required=True, metavar="SECONDS")
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    began = time.monotonic()
    try:
        if given.job == "idle":
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                report = runner.run(idle(given))
        else:
            report = {"upload": upload, "download": download}[given.job](given)
    except Exception as error:  # noqa: BLE001  Whatever it was, it is the report.
        report = {"failed": f"{type(error).__name__}: {error}"}
    print(json.dumps({**report, "wall_s": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    main()
