"""The clients of the system tests: each a process that does one job, and reports in one JSON line.

`calls` makes chat completions at a fixed rate, each from its time on whether or not the one before it was answered; or,
without a rate, on every connection as soon as the last was answered, waiting where a 503 says so. What is answered
otherwise is counted, not fatal. `upload` and `download` move one large file, `handshakes` begins many of TLS and ends none.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import resource
import socket
import time
from collections import Counter, deque

import uvloop

from tests.bench import upstream
from tests.bench.load import body_of, request
from tests.system import provider

ANSWER_S = 20
"""An answer that has not come so long after the last call is a failure."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)


def p(latencies_s: list[float], share: float) -> float | None:
    """A percentile, in milliseconds."""
    return sorted(latencies_s)[int(len(latencies_s) * share)] * 1e3 if latencies_s else None


class Calls:
    """What is asked, and what came of it."""

    def __init__(self, given: argparse.Namespace) -> None:
        headers = [f"{provider.DELAY}: {given.delay}"] if given.delay else []
        self.asked = request(given.path, f"127.0.0.1:{given.port}", given.key, stream=False, headers=headers)
        self.given = given
        self.ok_s: list[float] = []
        self.shed_s: list[float] = []
        self.failed: Counter[str] = Counter()
        self.under_way = 0
        self.asked_in_all = 0
        self.connections = 0
        self.over = False
        self.free: deque[Line] = deque()
        self.due: deque[float] = deque()

    def call(self, since: float) -> None:
        """Make a call on a free connection, on a new one, or as soon as there is one."""
        self.under_way += 1
        self.asked_in_all += 1
        while self.free:
            line = self.free.popleft()
            if line.open:
                line.ask(since)
                return
        if self.connections < self.given.connections:
            self.connections += 1
            asyncio.ensure_future(self._connect(since))  # noqa: RUF006  It ends with the connection or with a failure.
        else:
            self.due.append(since)

    async def _connect(self, since: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, line = await loop.create_connection(lambda: Line(self), "127.0.0.1", self.given.port)
        except OSError as error:
            self.connections -= 1
            self.ended(f"no connection: {error.strerror}")
            return
        line.ask(since)

    def ended(self, failure: str | None = None) -> None:
        self.under_way -= 1
        if failure is not None:
            self.failed[failure] += 1
        if self.given.rate is None and not self.over:
            self.call(time.monotonic())

    async def run(self) -> dict[str, object]:
        began = time.monotonic()
        if self.given.rate is None:
            for _ in range(self.given.connections):
                self.call(began)
            await asyncio.sleep(self.given.seconds)
        else:
            for number in range(int(self.given.rate * self.given.seconds)):
                at = began + number / self.given.rate
                if at > time.monotonic():
                    await asyncio.sleep(at - time.monotonic())
                self.call(at)
        self.over = True
        took_s = time.monotonic() - began
        deadline = time.monotonic() + ANSWER_S
        while self.under_way and time.monotonic() < deadline:  # noqa: ASYNC110  A pause in which nothing is timed.
            await asyncio.sleep(0.01)
        if self.under_way:
            self.failed[f"not answered {ANSWER_S} s later"] += self.under_way
        return {
            "asked": self.asked_in_all,
            "ok": len(self.ok_s),
            "ok_per_s": len(self.ok_s) / took_s,
            "ok_p50_ms": p(self.ok_s, 0.5),
            "ok_p99_ms": p(self.ok_s, 0.99),
            "shed": len(self.shed_s),
            "shed_p99_ms": p(self.shed_s, 0.99),
            "failed": dict(self.failed),
        }


class Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._received = b""
        self._since: float | None = None
        self.open = True
        self._transport: asyncio.Transport

    def connection_made(self, transport):
        self._transport = transport

    def ask(self, since: float) -> None:
        self._since = since
        self._transport.write(self._calls.asked)

    def data_received(self, data):
        self._received += data
        end = self._received.find(b"\r\n\r\n") + 4
        if end < 4 or self._since is None:
            return
        length = _LENGTH.search(self._received, 0, end)
        if length is None or len(self._received) < end + int(length[1]):
            return
        head, body, self._received = self._received[:end], self._received[end:], b""
        took_s, self._since = time.monotonic() - self._since, None
        calls = self._calls
        failure, wait_s = None, 0
        if head.startswith(b"HTTP/1.1 200 "):
            if upstream.answered(body, streamed=False):
                calls.ok_s.append(took_s)
            else:
                failure = "a 200 that is not what the provider sent"
        elif head.startswith(b"HTTP/1.1 503 ") and (retry := _RETRY_AFTER.search(head)) is not None:
            calls.shed_s.append(took_s)
            wait_s = int(retry[1])
        else:
            failure = head.split(b"\r\n")[0].decode("latin-1")
        if _CLOSE.search(head) is not None:
            self._close()
        if wait_s and calls.given.rate is None:
            asyncio.get_running_loop().call_later(wait_s, self._next, failure)
        else:
            self._next(failure)

    def _next(self, failure: str | None) -> None:
        calls = self._calls
        if self.open:
            calls.free.append(self)
        if calls.due:
            calls.under_way -= 1
            calls.asked_in_all -= 1
            calls.call(calls.due.popleft())
        calls.ended(failure)

    def connection_lost(self, exc):
        if self.open:
            self._close()
        if self._since is not None:
            self._since = None
            self._next("the connection ended without an answer")

    def _close(self) -> None:
        self.open = False
        self._calls.connections -= 1
        self._transport.close()


# ---------------------------------------------------------------------------------------------------------------------


def upload(given: argparse.Namespace) -> dict[str, object]:
    """Send a file to a provider that stops reading for a while; its hash is what the provider makes of it."""
    with socket.create_connection(("127.0.0.1", given.port), timeout=given.seconds) as line:
        line.sendall(
            f"POST {given.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {given.key}\r\n"
            f"Content-Type: application/octet-stream\r\n{provider.STALL}: {given.stall}\r\n"
            f"Content-Length: {given.bytes}\r\n\r\n".encode()
        )
        for piece in provider.pieces(given.bytes):
            line.sendall(piece)
        answer = b""
        while (body := body_of(answer)) is None:
            if not (data := line.recv(1 << 16)):
                raise ConnectionError("no whole answer")
            answer += data
    document = json.loads(body)
    return {"bytes": document["bytes"], "sha256": document["filename"]}


def download(given: argparse.Namespace) -> dict[str, object]:
    """Take a file, and stop reading for a while after a quarter of it."""
    asked = b'{"model":"tts-1","voice":"alloy","input":"As much as there is."}'
    sha256, came, stall_s = hashlib.sha256(), 0, given.stall
    with socket.create_connection(("127.0.0.1", given.port), timeout=given.seconds) as line:
        line.sendall(
            f"POST {given.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {given.key}\r\n"
            f"Content-Type: application/json\r\n{provider.BYTES}: {given.bytes}\r\n"
            f"Content-Length: {len(asked)}\r\n\r\n".encode()
            + asked
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            if not (data := line.recv(1 << 16)):
                raise ConnectionError("no answer")
            answer += data
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(answer[:400].decode("utf-8", "replace"))
        data = answer.partition(b"\r\n\r\n")[2]
        while True:
            sha256.update(data)
            came += len(data)
            if came >= given.bytes:
                break
            if stall_s and came > given.bytes // 4:
                time.sleep(stall_s)
                stall_s = 0
            if not (data := line.recv(1 << 18)):
                raise ConnectionError(f"ended after {came} of {given.bytes} bytes")
    return {"bytes": came, "sha256": sha256.hexdigest()}


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""How a TLS handshake begins."""


async def handshakes(given: argparse.Namespace) -> dict[str, object]:
    """Begin handshakes, and wait until the other side has ended all of them; how long the last one took."""

    async def one() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", given.port)
        writer.write(HELLO)
        try:
            async with asyncio.timeout(given.seconds):
                while await reader.read(1 << 16):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        finally:
            writer.close()
        return True

    began = time.monotonic()
    ended = await asyncio.gather(*(one() for _ in range(given.connections)))
    return {"ended": sum(ended), "took_s": time.monotonic() - began}


async def knocks(given: argparse.Namespace) -> dict[str, object]:
    """Open connections, make a call on each and keep it; how many were answered, and how many closed."""
    asked = request(given.path, f"127.0.0.1:{given.port}", given.key, stream=False)
    kept = []

    async def one() -> str:
        try:
            async with asyncio.timeout(given.seconds):
                reader, writer = await asyncio.open_connection("127.0.0.1", given.port)
                writer.write(asked)
                answered = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            return "hung"
        except (OSError, EOFError):
            return "closed"
        # Until all have come: one that is closed makes room for the next.
        kept.append(writer)
        return "answered" if answered.startswith(b"HTTP/1.1 200 ") else "refused"

    return dict(Counter(await asyncio.gather(*(one() for _ in range(given.connections)))))


def main() -> None:
    jobs = {"calls": lambda given: Calls(given).run(), "handshakes": handshakes, "knocks": knocks}
    plain_jobs = {"upload": upload, "download": download}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=[*jobs, *plain_jobs])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/openai/v1/chat/completions")
    parser.add_argument("--key", default="")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=float, metavar="CALLS_PER_SECOND")
    parser.add_argument("--delay", type=int, default=0, metavar="MS", help="so long the provider takes")
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--stall", type=int, default=0, metavar="SECONDS")
    parser.add_argument("--seconds", type=float, required=True, help="calls: for so long; else: at most so long")
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        if given.job in jobs:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                report = runner.run(jobs[given.job](given))
        else:
            report = plain_jobs[given.job](given)
    except Exception as error:  # noqa: BLE001  Whatever it was, it is the report.
        report = {"broken": f"{type(error).__name__}: {error}"}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
