"""The order of a call's steps as the operating system saw it: records are written, and synced, before bytes leave.

A gateway runs under `strace`. Clients count the bytes of their connections, so that the system call is known that sent the
byte from which each concludes that its call has succeeded. What was written into a segment is still there to be looked at, and
tells the calls' ids, which are in the answers.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

from tests.bench.processes import Failed
from tests.bench.recipes import Missing
from tests.system.installed import program
from tests.walks.harness import Installation, basic, gateway_process, simulated, simulator_process

CALLS = 50
"""Of each kind, one after the other, and so many again at once."""
AT_ONCE = 20
LARGE_WORDS = 190_000
"""An answer of more than 1 MiB."""
ANSWER_S = 60

NUMBER = "x-system-call"
"""The header by which a call is known on its way to the provider."""

STRING_BYTES = 512
"""So much of what is sent the trace has: a request's head is at the beginning."""


# ---------------------------------------------------------------------------------------------------------------------
# The clients


class Kind(NamedTuple):
    """What is asked, and the text that ends in the byte from which a client concludes success; else its last one."""

    name: str
    target: str
    body: bytes
    headers: Mapping[str, str] = {}
    concludes: bytes = b""


class Call(NamedTuple):
    """A call that was answered, and where to find it in the trace."""

    kind: str
    number: int
    call_id: str
    port: int
    """The client's."""
    concluded_at: int
    """The number of that byte, of all that came over the connection."""


CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
MAIL = {
    "personalizations": [{"to": [{"email": "to@example.com"}]}],
    "from": {"email": "from@example.com"},
    "subject": "Hi",
    "content": [{"type": "text/plain", "value": "Hi"}],
}
CHATS, RESPONSES = "/openai/v1/chat/completions", "/openai/v1/responses"


def kinds(key: str, account: str) -> list[Kind]:
    chat = json.dumps(CHAT).encode()
    streamed = json.dumps(CHAT | {"stream": True}).encode()
    responses = json.dumps({"model": "gpt-4o", "input": "Hi", "stream": True}).encode()
    form = b"To=%2B15005550006&From=%2B15005550006&Body=Hi"
    openai = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    sendgrid = {**openai, "Authorization": f"Bearer SG.{key}"}
    twilio = {"Authorization": basic(account, key), "Content-Type": "application/x-www-form-urlencoded"}
    messages = f"/twilio/2010-04-01/Accounts/{account}/Messages.json"
    return [
        Kind("small", CHATS, chat, openai),
        Kind("1 MiB", CHATS, chat, {**openai, "x-simulator-words": str(LARGE_WORDS)}),
        Kind("chunked", CHATS, chat, {**openai, "x-simulator-framing": "chunked"}),
        Kind("chat events", CHATS, streamed, openai, b"data: [DONE]"),
        Kind("response events", RESPONSES, responses, openai, b"event: response.completed"),
        Kind("mail", "/sendgrid/v3/mail/send", json.dumps(MAIL).encode(), sendgrid),
        Kind("message", messages, form, twilio),
    ]


class Client:
    """One connection, on which calls are made one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._port: int = writer.get_extra_info("sockname")[1]
        self._received = 0

    async def call(self, kind: Kind, number: int) -> Call:
        """Make a call, and read its answer. Raises Failed."""
        headers = {"Host": "gateway", NUMBER: f"{number};", "Content-Length": str(len(kind.body)), **kind.headers}
        lines = [f"POST {kind.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self._writer.write("\r\n".join(lines).encode() + kind.body)
        head = await self._read_head()
        call_id = re.search(rb"\r\nx-tollkeeper-call-id: (\S+)", head)
        if head[9:10] != b"2" or call_id is None:
            raise Failed(f"{kind.name}: {head[:60]!r}")
        begins, body = self._received, b""
        places: list[tuple[int, int]] = []
        """Of each chunk, where it begins in the body and on the connection."""
        if (length := re.search(rb"\r\ncontent-length: (\d+)", head.lower())) is not None:
            places.append((0, begins))
            body = await self._read(int(length[1]))
        else:
            while size := int(await self._read_line(), 16):
                places.append((len(body), self._received))
                body += await self._read(size)
                await self._read_line()
            await self._read_line()
        # Spaces at the end tell nobody anything.
        needed = body.index(kind.concludes) + len(kind.concludes) if kind.concludes else len(body.rstrip())
        last = needed - 1
        place = max((place for place in places if place[0] <= last), default=(0, begins))
        return Call(kind.name, number, call_id[1].decode(), self._port, place[1] + last - place[0])

    async def _read_head(self) -> bytes:
        return self._count(await self._reader.readuntil(b"\r\n\r\n"))

    async def _read_line(self) -> bytes:
        return self._count(await self._reader.readuntil(b"\r\n"))

    async def _read(self, size: int) -> bytes:
        return self._count(await self._reader.readexactly(size))

    def _count(self, data: bytes) -> bytes:
        self._received += len(data)
        return data


async def made(port: int, asked: Sequence[Kind], each: int) -> list[Call]:
    """So many calls of each kind one after the other, and so many again at once. Raises Failed."""
    calls: list[Call] = []
    waiting = [(kind, number * len(asked) + place) for number in range(2 * each) for place, kind in enumerate(asked)]
    waiting.reverse()

    async def client(until: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        connection = Client(reader, writer)
        while len(waiting) > until:
            calls.append(await connection.call(*waiting.pop()))
        writer.close()

    try:
        async with asyncio.timeout(ANSWER_S * each):
            await client(until=len(waiting) // 2)
            await asyncio.gather(*(client(until=0) for _ in range(AT_ONCE)))
    except (OSError, EOFError, ValueError, TimeoutError) as error:
        raise Failed(f"an answer did not come whole: {type(error).__name__}: {error}") from error
    return calls


# ---------------------------------------------------------------------------------------------------------------------
# The gateway


def tracer() -> str:
    """Where strace is. Raises Missing."""
    found = program("strace")
    if subprocess.run([found, "-qq", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        raise Missing("strace may trace nothing here; in a container: docker run --cap-add SYS_PTRACE")
    return found


TRACED = "pwrite64,write,writev,sendto,sendmsg,fdatasync,fsync,?rename,?renameat,?renameat2"


@contextmanager
def traced(directory: Path, trace: Path, durability: str, defect: str) -> Iterator[Installation]:
    """A gateway on SQLite whose system calls go to that file, and the simulator behind it. Raises Failed, Missing."""
    simulator = simulator_process(directory / "truth.jsonl")
    simulator.start()
    try:
        providers = simulated(simulator)
        gateway = gateway_process(directory / "data", providers, durability=durability)
        strace = [tracer(), "-f", "--seccomp-bpf", "-qq", "-yy", "-s", str(STRING_BYTES), "-e", f"trace={TRACED}"]
        strace += ["-e", "signal=none", "-o", str(trace)]
        gateway.command = [*strace, sys.executable, "-m", "tests.system.misordered", defect, "serve"]
        running = Installation(directory, simulator, gateway, providers)
        running.start_gateway()
        try:
            yield running
        finally:
            assert gateway.popen is not None
            # strace itself listens to no signal.
            for process in psutil.Process(gateway.popen.pid).children():
                process.send_signal(signal.SIGTERM)
            gateway.popen.wait(ANSWER_S)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        raise Failed(str(error)[-300:]) from error
    finally:
        simulator.stop()


# ---------------------------------------------------------------------------------------------------------------------
# The trace


@dataclass
class SystemCall:
    """One system call; times are lines of the trace."""

    name: str
    began: int
    arguments: str
    ended: int = -1
    result: int = -1

    @property
    def file(self) -> str:
        """The path that its first argument stands for; a segment that is being made has that which it will have."""
        found = _FILE.match(self.arguments)
        return "" if found is None else found[1].removesuffix(".new")

    @property
    def peer_port(self) -> int | None:
        """The port of the other side, where it was sent over a connection."""
        found = _CONNECTION.match(self.arguments)
        return None if found is None else int(found[1])


_FILE = re.compile(r"\d+<(/.*?)>(?=,|\)|$)")
_CONNECTION = re.compile(r"\d+<TCP:\[[\d.]+:\d+->[\d.]+:(\d+)\]>")
_LINE = re.compile(r"(\d+) +(?:(\w+)\(|<\.\.\. (\w+) resumed>)(.*)")
_UNFINISHED = " <unfinished ...>"
_RESULT = re.compile(r"\)? += (-?\d+)[^=]*$")


def system_calls(trace: Path) -> list[SystemCall]:
    """All of them, in the order in which they began."""
    found: list[SystemCall] = []
    under_way: dict[str, SystemCall] = {}
    with trace.open(encoding="latin-1") as lines:
        for number, line in enumerate(lines):
            said = _LINE.match(line)
            if said is None:
                continue
            thread, begun, _, rest = said.groups()
            if begun is not None:
                call = under_way[thread] = SystemCall(begun, number, rest.removesuffix(_UNFINISHED))
                found.append(call)
            if not rest.endswith(_UNFINISHED):
                call = under_way.pop(thread)
                call.ended = number
                result = _RESULT.search(rest)
                call.result = -1 if result is None else int(result[1])
    return found


@dataclass
class Trace:
    """What a gateway did, arranged to be asked."""

    calls: list[SystemCall]
    upstream_port: int
    records: dict[tuple[str, str], list[SystemCall]] = field(default_factory=dict)
    """What wrote them, by kind and call: a new segment has copies of what the one before may not have."""
    syncs: dict[str, list[SystemCall]] = field(default_factory=dict)
    """Those that went well, by file or directory."""
    renames: dict[str, SystemCall] = field(default_factory=dict)
    """By the segment that was there from then on."""
    forwarded: dict[int, SystemCall] = field(default_factory=dict)
    """The first bytes to the provider, by the call's number."""
    to_client: dict[int, list[SystemCall]] = field(default_factory=dict)
    """By the client's port."""

    def __post_init__(self) -> None:
        for call in self.calls:
            if call.name == "pwrite64" and call.file.endswith(".spool"):
                for kind, call_id in _RECORD.findall(self._written(call)):
                    self.records.setdefault((kind.decode(), call_id.decode()), []).append(call)
            elif call.name in ("fdatasync", "fsync") and call.result == 0:
                self.syncs.setdefault(call.file, []).append(call)
            elif (renamed := _RENAMED.search(call.arguments)) is not None:
                self.renames[renamed[1]] = call
            elif (port := call.peer_port) is not None and call.result > 0:
                if port != self.upstream_port:
                    self.to_client.setdefault(port, []).append(call)
                elif (number := re.search(rf"{NUMBER}: (\d+);", call.arguments)) is not None:
                    self.forwarded.setdefault(int(number[1]), call)

    @staticmethod
    def _written(call: SystemCall) -> bytes:
        """What a write to a segment wrote: nothing is ever written there twice."""
        place = _PLACE.search(call.arguments)
        if place is None or call.result <= 0:
            return b""
        return Path(call.file).read_bytes()[int(place[1]) :][: call.result]

    def concluding(self, call: Call) -> SystemCall | None:
        """What sent the byte from which a client concludes success."""
        sent = 0
        for one in self.to_client.get(call.port, ()):
            sent += one.result
            if sent > call.concluded_at:
                return one
        return None

    def in_time(self, record: tuple[str, str], before: SystemCall | None, *, fsync: bool) -> bool:
        """Whether a record was written, and is to survive the death of the machine if that is asked, before that began."""
        return before is not None and any(
            written.ended < before.began and (not fsync or self._safe(written, before))
            for written in self.records.get(record, ())
        )

    def _safe(self, written: SystemCall, before: SystemCall) -> bool:
        """Whether that was on the disk, in a segment whose name was there too."""
        renamed = self.renames.get(written.file)
        return (
            renamed is not None
            and self._synced(written.file, written, before)
            and self._synced(written.file.rpartition("/")[0], renamed, before)
        )

    def _synced(self, file: str, after: SystemCall, before: SystemCall) -> bool:
        return any(after.ended < sync.began and sync.ended < before.began for sync in self.syncs.get(file, ()))


_RECORD = re.compile(rb'\{"(call_id|event_id)":"([0-9a-f-]+)"')
"""How the payload of an intent begins, and that of an outcome."""
_PLACE = re.compile(r", (\d+)(?:\) += -?\d+)?$")
_RENAMED = re.compile(r'"([^"]+\.spool)"\) += 0$')


class Order(NamedTuple):
    """What was found of one gateway."""

    calls: int
    intents_late: list[str]
    outcomes_late: list[str]
    segments: int


def observed(directory: Path, durability: str, each: int, defect: str = "none") -> Order:
    """Make calls of a gateway, and look in which order it did things. Raises Failed, Missing."""
    directory.mkdir()
    file = directory / "trace"
    with traced(directory, file, durability, defect) as gateway:
        key = gateway.tenant("acme")
        asked = kinds(key, gateway.account_sid("acme"))
        calls = asyncio.run(made(urlsplit(gateway.proxy_url).port or 0, asked, each))
        upstream_port = urlsplit(gateway.providers.base_urls["openai"]).port or 0
    trace, fsync = Trace(system_calls(file), upstream_port), durability == "fsync"
    intents_late, outcomes_late = [], []
    for call in calls:
        if not trace.in_time(("call_id", call.call_id), trace.forwarded.get(call.number), fsync=fsync):
            intents_late.append(f"{call.kind} {call.number}")
        if not trace.in_time(("event_id", call.call_id), trace.concluding(call), fsync=fsync):
            outcomes_late.append(f"{call.kind} {call.number}")
    return Order(len(calls), intents_late, outcomes_late, len(trace.renames))
