"""The load generator: so many calls over so many connections, each as soon as the one before it is answered, or at a
fixed rate: then each has its time, and from that time it is measured, whether or not a connection was free. With a
control, the provider itself is asked besides, a tenth as often: what its callers wait then is what this machine and this
process cost everybody at that time.

A process of its own. It connects, says `ready`, waits for a line on its standard input, makes exactly the calls it was
told to, and reports in one JSON line. Every answer's status and every byte of its body are checked (of peers that write
answers anew: whether the upstream's words are there); the first that is not as it should be ends the run.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import re
import struct
import sys
import time
from array import array
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import uvloop

from tests.bench import upstream

CONNECT_S = 10

PATH = "/v1/chat/completions"

CONTROL = 10
"""For so many calls of a candidate at a fixed rate, the provider itself is asked once."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
"""The end of a body in chunks; nothing that the upstream writes holds it elsewhere."""


class Wrong(Exception):
    """An answer is not what it should be, or there is none."""


def request(
    path: str,
    host: str,
    key: str,
    *,
    stream: bool,
    model: str = "gpt-4o",
    headers: Sequence[str] = (),
    encodings: str = "gzip, deflate",
) -> bytes:
    """A chat completion as the official SDK sends it."""
    asked = {
        "messages": [
            {"role": "system", "content": "You answer in one paragraph, plainly, and never say more than was asked."},
            {"role": "user", "content": "Explain in three sentences what a metering gateway does. " * 4},
        ],
        "model": model,
        "temperature": 0.2,
        **({"stream": True} if stream else {}),
    }
    body = json.dumps(asked, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: {encodings}\r\nConnection: keep-alive\r\n"
        f"Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: OpenAI/Python 3.52.0\r\n"
        "X-Stainless-Lang: python\r\nX-Stainless-Package-Version: 3.52.0\r\nX-Stainless-OS: Linux\r\n"
        "X-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\nX-Stainless-Runtime-Version: 3.11.7\r\n"
        "X-Stainless-Async: false\r\nx-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n"
        + "".join(f"{header}\r\n" for header in headers)
        + "\r\n"
    )
    return head.encode() + body


def body_of(answer: bytes) -> bytes | None:
    """The body of a successful answer; None while it is not whole. Raises Wrong."""
    end = answer.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise Wrong("answered: " + repr(answer[:400]))
    length = _LENGTH.search(answer, 0, end)
    if length is not None:
        if len(answer) > end + int(length[1]):
            raise Wrong("more bytes came than the answer's length")
        return answer[end:] if len(answer) == end + int(length[1]) else None
    if _CHUNKED.search(answer, 0, end) is None:
        raise Wrong("the answer has neither a length nor chunks")
    return _joined(answer, end) if answer.endswith(_LAST_CHUNK) else None


def _joined(answer: bytes, at: int) -> bytes:
    pieces = []
    while True:
        line_end = answer.index(b"\r\n", at)
        size = int(answer[at:line_end], 16)
        at = line_end + 2
        if size == 0:
            return b"".join(pieces)
        pieces.append(answer[at : at + size])
        at += size + 2


class Run:
    """What is asked, how often it still will be, and what came of it."""

    def __init__(self, asked: bytes, calls: int, *, stream: bool, verbatim: bool) -> None:
        self.asked = asked
        self.stream = stream
        self.verbatim = verbatim
        self.left = calls
        self.unanswered = calls
        self.reads = 0
        self.latencies_s = array("d")
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def free(self, client: Client) -> None:
        """A connection has nothing under way."""
        if self.left:
            self.left -= 1
            client.ask(time.monotonic())

    def check(self, body: bytes) -> None:
        """Raises Wrong."""
        if self.verbatim:
            if not upstream.answered(body, streamed=self.stream):
                raise Wrong("the body is not what the upstream sent: " + repr(body[-300:]))
        elif b"metered metered" not in body:
            raise Wrong("the upstream's words are not in the body: " + repr(body[-300:]))

    def failed(self, reason: str) -> None:
        if not self.over.done():
            self.over.set_exception(Wrong(reason))


class Paced(Run):
    """The same at a fixed rate."""

    def __init__(self, asked: bytes, calls: int, rate: float, *, verbatim: bool) -> None:
        super().__init__(asked, calls, stream=False, verbatim=verbatim)
        self._each_s = 1 / rate
        self._free: deque[Client] = deque()
        self._due: deque[float] = deque()
        self._next = 0.0
        self._ticks = -1

    def begin(self) -> None:
        self._next = time.monotonic()
        self._ticks = ticking(self._each_s)
        asyncio.get_running_loop().add_reader(self._ticks, self._tick)

    def free(self, client: Client) -> None:
        if self._due:
            client.ask(self._due.popleft())
        else:
            self._free.append(client)

    def _tick(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._ticks, 8)
        now = time.monotonic()
        while self.left and self._next <= now:
            self.left -= 1
            if self._free:
                self._free.popleft().ask(self._next)
            else:
                self._due.append(self._next)
            self._next += self._each_s
        if not self.left:
            asyncio.get_running_loop().remove_reader(self._ticks)
            os.close(self._ticks)


def ticking(each_s: float) -> int:
    """A file that can be read from each time so long has passed (timerfd_create(2)). The clocks of event loops have whole
    milliseconds, but for that of select, which costs several times as much as the calls: processor time that the candidate
    and the upstream then lack."""
    system = ctypes.CDLL(None, use_errno=True)
    fd: int = system.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    seconds, nanoseconds = divmod(round(each_s * 1e9), 1_000_000_000)
    often = struct.pack("@4q", seconds, nanoseconds, seconds, nanoseconds)
    if fd < 0 or system.timerfd_settime(fd, 0, often, None) != 0:
        raise OSError(ctypes.get_errno(), "no timer")
    return fd


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._received = b""
        self._asked_at = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport):
        self._transport = transport

    def ask(self, since: float) -> None:
        self._asked_at = since
        self._transport.write(self._run.asked)

    def data_received(self, data):
        run = self._run
        run.reads += 1
        self._received += data
        if run.stream and not self._received.endswith(_LAST_CHUNK) and self._received.startswith(b"HTTP/1.1 200 "):
            return
        try:
            body = body_of(self._received)
            if body is None:
                return
            run.latencies_s.append(time.monotonic() - self._asked_at)
            run.check(body)
        except Wrong as error:
            run.failed(str(error))
            return
        self._received = b""
        run.unanswered -= 1
        if run.unanswered == 0 and not run.over.done():
            run.over.set_result(None)
        run.free(self)

    def connection_lost(self, exc):
        if self._run.unanswered:
            self._run.failed("a connection was closed")


async def main(given: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    asked = request(
        given.path,
        f"127.0.0.1:{given.port}",
        given.key,
        stream=given.stream,
        model=given.model,
        headers=given.header,
        # Who writes answers anew may compress them: spared, and so readable here.
        encodings="gzip, deflate" if given.verbatim else "identity",
    )
    if given.rate is None:
        run = Run(asked, given.calls, stream=given.stream, verbatim=given.verbatim)
    else:
        run = Paced(asked, given.calls, given.rate, verbatim=given.verbatim)
    runs: list[tuple[Run, int]] = [(run, given.port)]
    if given.control_port is not None:
        plain = request(PATH, f"127.0.0.1:{given.control_port}", "key-of-the-control", stream=False)
        rare = Paced(plain, max(1, given.calls // CONTROL), given.rate / CONTROL, verbatim=True)
        runs.append((rare, given.control_port))
    clients = []
    async with asyncio.timeout(CONNECT_S):
        for one, port in runs:
            for _ in range(given.connections):
                _, client = await loop.create_connection(lambda one=one: Client(one), "127.0.0.1", port)
                clients.append((one, client))
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    began, cpu = time.monotonic(), time.process_time()
    for one, client in clients:
        one.free(client)
    for one, _ in runs:
        if isinstance(one, Paced):
            one.begin()
    report: dict[str, object] = {}
    try:
        async with asyncio.timeout(given.within):
            await run.over
            wall_s = time.monotonic() - began
            for one, _ in runs:
                await one.over
    except Wrong as error:
        report["failed"] = str(error)
    except TimeoutError:
        report["failed"] = f"{run.unanswered} of {given.calls} calls were not answered within {given.within:.0f} s"
    else:
        report["wall_s"] = wall_s
        report["cpu_s"] = time.process_time() - cpu
        report["reads"] = run.reads
        for (one, _), whose in zip(runs, ("", "control_"), strict=False):
            latencies = sorted(one.latencies_s)
            report[f"{whose}p50_ms"] = latencies[len(latencies) // 2] * 1e3
            report[f"{whose}p99_ms"] = latencies[len(latencies) * 99 // 100] * 1e3
    print(json.dumps(report), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--header", action="append", default=[], help="one more, as `name: value`")
    parser.add_argument("--model", default="gpt-4o")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--rate", type=float, metavar="CALLS_PER_SECOND")
    parser.add_argument("--control-port", type=int, metavar="PORT", help="of the provider; with --rate")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument(
        "--rewritten", dest="verbatim", action="store_false", help="answers are not the upstream's bytes"
    )
    parser.add_argument("--within", type=float, required=True, metavar="SECONDS")
    return parser.parse_args()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(arguments()))
