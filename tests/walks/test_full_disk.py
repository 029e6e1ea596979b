"""The spool's disk fills up or fails under a load: what was accepted is recorded, the rest is refused before it is sent.

The disk is a file system of its own, mounted where only the gateway sees it. Where nothing can be mounted, a limit on the
size of the gateway's files stands in: it refuses new segments, and takes what goes into those that are there.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import aiohttp
import psutil
import pytest

from gateway.simulator.truth import Exchange
from metering.spool_reader import spools
from metering.spool_records import RecordKind
from tests.metering.workers import read_to_end
from tests.walks import faulty_disk
from tests.walks.harness import (
    PATIENCE_S,
    Answered,
    Installation,
    Process,
    eventually,
    gateway_process,
    on_postgres,
    simulated,
    simulator_process,
)
from tests.walks.wire import FORM, JSON, Reply, Tenant, ask, in_the_shape_of_the_provider, new_tenant

CLIENTS = 60
SEGMENT_BYTES = 5 << 18
"""A quarter more than is kept for the outcomes of so many calls."""
DISK_BYTES = 24 << 20
PAUSE_S = 0.02
"""Between two calls of a client that was refused."""
BOOKED_S = 3
"""Within that, what was written is booked, its segment gone, and the disk asked for another one."""
REFUSALS = 1000
REFUSALS_BYTES_MAX = 4 << 20
"""What so many may cost at most: a leak of 4 KiB for each would be more."""
NUMBER = "x-walk-call"
"""The header by which the simulator's truth log tells which call it was asked."""

TAGS = {"X-Gateway-Tags": ",".join(f"{number}={number:064}" for number in range(10))}
"""Records become more than twice as large by them, and the disk is full sooner."""

NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount")
MOUNT = ("sh", "-c", 'mount -t tmpfs -o "mode=700,size=$1" none "$2" && shift 2 && exec "$@"', "sh")

COMPLAINTS = {
    "spool_damaged",
    "spool_unreadable",
    "records_missing",
    "record_not_bookable",
    "event_not_bookable",
    "event_conflict",
}
"""What the log says of records that are set aside."""

CHAT = "/openai/v1/chat/completions"
MAIL = "/sendgrid/v3/mail/send"


# ---------------------------------------------------------------------------------------------------------------------
# The disk


@dataclass
class Disk:
    """Where a gateway has its spool, which can be filled."""

    gateway: Process
    mounted: bool
    spool: Path
    """As the gateway names it."""
    ballast: Path
    """The same."""

    def seen(self, path: Path) -> Path:
        """A path of the gateway's as it is reached from here."""
        assert self.gateway.popen is not None
        return Path(f"/proc/{self.gateway.popen.pid}/root{path}") if self.mounted else path

    def fill(self) -> None:
        """Leave no room."""
        if not self.mounted:
            self._limit(SEGMENT_BYTES - 1)
            return
        with self.seen(self.ballast).open("wb", buffering=0) as file:
            for size in (1 << 16, 1):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def free(self) -> None:
        if not self.mounted:
            self._limit(resource.RLIM_INFINITY)
            return
        self.seen(self.ballast).unlink()

    def _limit(self, soft: int) -> None:
        for process in family(self.gateway):
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (soft, hard))


def family(gateway: Process) -> list[psutil.Process]:
    assert gateway.popen is not None
    parent = psutil.Process(gateway.popen.pid)
    return [parent, *parent.children(recursive=True)]


def mounts_work(directory: Path) -> bool:
    with suppress(FileNotFoundError):
        tried = [*NAMESPACES, "mount", "-t", "tmpfs", "none", str(directory)]
        return subprocess.run(tried, capture_output=True, check=False).returncode == 0
    return False


@contextmanager
def on_a_small_disk(directory: Path, what: str = "data/spool", **settings: str) -> Iterator[tuple[Installation, Disk]]:
    """A gateway of which this is on a disk of its own. It is stopped at the end, which must go well."""
    place, spool, faults = directory / what, directory / "data" / "spool", directory / "faults"
    place.mkdir(parents=True)
    faults.mkdir()
    simulator = simulator_process(directory / "truth.jsonl")
    simulator.start()
    try:
        providers = simulated(simulator)
        gateway = gateway_process(directory / "data", providers, **settings)
        gateway.command = [sys.executable, "-m", "tests.walks.faulty_disk", "serve"]
        gateway.environment |= {faulty_disk.SEGMENT_BYTES: str(SEGMENT_BYTES), faulty_disk.FAULTS: str(faults)}
        mounted = mounts_work(place)
        if mounted:
            gateway.command = [*NAMESPACES, *MOUNT, str(DISK_BYTES), str(place), *gateway.command]
        running = Installation(directory, simulator, gateway, providers)
        running.start_gateway()
        try:
            yield running, Disk(gateway, mounted, spool, place / "ballast")
        finally:
            code = gateway.stop()
        assert code == 0, gateway.lines[-20:]
    finally:
        simulator.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request) -> dict[str, str]:
    """SQLite in one process, or Postgres with two workers."""
    if request.param == "sqlite":
        return {}
    return on_postgres(request.getfixturevalue("postgres_server"))


# ---------------------------------------------------------------------------------------------------------------------
# The load


@dataclass
class Load:
    """Clients that call one after the other, streamed and not, until the load is over; and what they saw, by call."""

    gateway: Installation
    key: str
    whole: dict[int, str] = field(default_factory=dict)
    """The object ids of whole successes."""
    refused: set[int] = field(default_factory=set)
    """Told 503, that their usage can not be recorded, and to come again."""
    broken: set[int] = field(default_factory=set)
    otherwise: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @contextmanager
    def running(self) -> Iterator[Load]:
        thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(PATIENCE_S)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CLIENTS), timeout=timeout) as session:
            await asyncio.gather(*(self._client(session) for _ in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._over.is_set():
            number = next(self._numbers)
            try:
                if not await self._call(session, number):
                    await asyncio.sleep(PAUSE_S)
            except (aiohttp.ClientError, OSError, TimeoutError):
                self.broken.add(number)

    async def _call(self, session: aiohttp.ClientSession, number: int) -> bool:
        streamed = bool(number % 2)
        body = json.dumps({"model": "gpt-4o", "stream": streamed, "messages": [{"role": "user", "content": "Hi"}]})
        headers = {"Authorization": f"Bearer {self.key}", NUMBER: str(number), "x-simulator-latency-ms": "30", **TAGS}
        async with session.post(self.gateway.proxy_url + CHAT, data=body, headers=headers) as answer:
            text = await answer.text()
        if answer.status == 200 and (not streamed or "[DONE]" in text):
            first = text.partition("data: ")[2].partition("\n")[0] if streamed else text
            self.whole[number] = json.loads(first)["id"]
            return True
        told = (answer.status, answer.headers.get("x-tollkeeper-error"), "Retry-After" in answer.headers)
        if told == (503, "usage_not_recordable", True):
            self.refused.add(number)
        else:
            self.otherwise.append(f"{answer.status} {text[-200:]}")
        return False

    def only_refused(self) -> None:
        """Wait until the gateway takes no call any more, and none is under way: a segment that is booked makes room again."""
        taken = -1
        while taken < len(self.whole) + len(self.broken):
            taken = len(self.whole) + len(self.broken)
            self.more(self.refused, 5 * CLIENTS)
            time.sleep(BOOKED_S)

    def more(self, what: dict[int, str] | set[int], number: int) -> None:
        """Wait until so many more calls have ended so."""
        goal = len(what) + number
        eventually(lambda: len(what) >= goal, f"{number} more of such calls; else {self.otherwise[-3:]}")


def numbers(exchanges: list[Exchange]) -> set[int]:
    """The calls of a load that reached the provider."""
    return {int(number) for exchange in exchanges if (number := exchange.header(NUMBER)) is not None}


def number_booked(gateway: Installation) -> int:
    return int(gateway.ask("GET", "/v1/usage/summary?from=2020-01-01&to=2100-01-01")["total"]["events"])


def all_is_booked_once(gateway: Installation, disk: Disk) -> set[str]:
    """The objects of all events, which must be those that the provider made, each once."""
    done = {str(exchange.object_id) for exchange in gateway.truth() if exchange.method == "POST"}
    eventually(lambda: number_booked(gateway) >= len(done), f"{len(done)} events in the ledger")
    events = gateway.events("acme")
    assert Counter(event["external_id"] for event in events) == Counter(done)
    assert nothing_is_damaged(gateway, disk)
    return done


def nothing_is_damaged(gateway: Installation, disk: Disk) -> bool:
    """Whether each record can be read, each intent is ended once, and nobody complained."""
    directory = disk.seen(disk.spool)
    assert spools(directory)
    for spool_id in spools(directory):
        reading = read_to_end(directory, spool_id)
        assert reading.damages == []
        records = {record.sequence: record for record in reading.records}.values()
        # Segments that the ledger has are let go of where there is so little room, and what they held is no intent here.
        first = min((record.sequence for record in records), default=0)
        intents = {record.sequence for record in records if record.kind == RecordKind.INTENT}
        assert Counter(record.intent for record in records if record.intent >= max(1, first)) == Counter(intents)
    assert not list(directory.glob("*.new"))
    said = {json.loads(line)["event"] for line in list(gateway.gateway.lines) if line.startswith("{")}
    return not said & COMPLAINTS


def ready(gateway: Installation) -> bool:
    with suppress(Answered):
        return bool(gateway.ask("GET", "/readyz"))
    return False


def rss_bytes(gateway: Installation) -> int:
    return sum(process.memory_info().rss for process in family(gateway.gateway))


def number_of_files(gateway: Installation) -> int:
    """Open files, connections left out."""
    return sum(len(process.open_files()) for process in family(gateway.gateway))


def calls_of_every_provider(gateway: Installation, tenant: Tenant) -> Iterator[tuple[str, Reply]]:
    """One billable call of each; yields its target and its answer."""
    messages = f"/twilio/2010-04-01/Accounts/{tenant.account}/Messages"
    chat = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    mail = {
        "personalizations": [{"to": [{"email": "to@example.com"}]}],
        "from": {"email": "from@example.com"},
        "subject": "s",
        "content": [{"type": "text/plain", "value": "v"}],
    }
    form = b"To=%2B15005550006&From=%2B15005550006&Body=Hi"
    for target, body, kind in (
        (CHAT, json.dumps(chat).encode(), JSON),
        (CHAT, json.dumps(chat | {"stream": True}).encode(), JSON),
        (MAIL, json.dumps(mail).encode(), JSON),
        (f"{messages}.json", form, FORM),
        (messages, form, FORM),
    ):
        yield target, ask(gateway, tenant, "POST", target, body, kind)


# ---------------------------------------------------------------------------------------------------------------------
# A full disk


@pytest.mark.timeout(300)
def test_on_a_full_disk_accepted_calls_are_recorded_and_new_ones_refused_before_they_are_sent(tmp_path, engine):
    """A08. Guards the room that is kept for the outcome of every call under way, that nothing is sent whose intent was not
    taken, and that a disk with room again is found by itself."""
    with on_a_small_disk(tmp_path, **engine) as (gateway, disk):
        tenant = new_tenant(gateway, "acme")
        with Load(gateway, tenant.key).running() as load:
            load.more(load.whole, 200)
            disk.fill()
            load.only_refused()
            sent = len(gateway.truth())
            before_bytes = rss_bytes(gateway)
            files = number_of_files(gateway)

            load.more(load.refused, REFUSALS)
            for target, reply in calls_of_every_provider(gateway, tenant):
                assert (reply.status, reply.code) == (503, "usage_not_recordable")
                assert reply.headers["Retry-After"] == "1"
                assert in_the_shape_of_the_provider(reply, target)

            assert len(gateway.truth()) == sent
            assert rss_bytes(gateway) - before_bytes < REFUSALS_BYTES_MAX
            assert number_of_files(gateway) <= files
            disk.free()
            load.more(load.whole, 200)
        assert (load.broken, load.otherwise) == (set(), [])
        assert numbers(gateway.truth()) == set(load.whole)
        assert all_is_booked_once(gateway, disk) == set(load.whole.values())


@pytest.mark.timeout(300)
def test_with_the_ledger_on_the_same_full_disk_nothing_is_lost_and_all_goes_on_by_itself(tmp_path):
    """Guards what is booked late: the ledger's own failure costs no call, no event and no restart."""
    with on_a_small_disk(tmp_path, "data") as (gateway, disk):
        tenant = new_tenant(gateway, "acme")
        with Load(gateway, tenant.key).running() as load:
            load.more(load.whole, 200)
            disk.fill()
            eventually(lambda: not ready(gateway), "not ready")
            load.only_refused()
            disk.free()
            load.more(load.whole, 200)
        eventually(lambda: ready(gateway), "ready again")
        assert (load.broken, load.otherwise) == (set(), [])
        assert numbers(gateway.truth()) == set(load.whole)
        assert all_is_booked_once(gateway, disk) == set(load.whole.values())
        later = new_tenant(gateway, "later")
        assert [reply.status for _, reply in calls_of_every_provider(gateway, later)] == [200, 200, 202, 201, 201]


# ---------------------------------------------------------------------------------------------------------------------
# A disk that fails


@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", ["pwrite", "fdatasync"])
def test_one_error_of_the_disk_is_noticed_by_no_client(tmp_path, engine, what):
    """A13. Guards the new segment, which gets what the failed one may not have."""
    with on_a_small_disk(tmp_path, durability="fsync", **engine) as (gateway, disk):
        with Load(gateway, gateway.tenant("acme")).running() as load:
            load.more(load.whole, 100)
            fault = tmp_path / "faults" / f"{what}.once"
            fault.touch()
            eventually(lambda: not fault.exists(), "the fault")
            load.more(load.whole, 200)
        assert (load.refused, load.broken, load.otherwise) == (set(), set(), [])
        assert all_is_booked_once(gateway, disk) == set(load.whole.values())


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("durability", "failing"), [("flush", ("pwrite",)), ("fsync", ("fdatasync", "fsync"))])
def test_while_the_disk_fails_no_answer_is_whole_and_no_call_is_sent(tmp_path, engine, durability, failing):
    """Guards the answer that is broken off: its client must not believe in what is not recorded."""
    with on_a_small_disk(tmp_path, durability=durability, **engine) as (gateway, disk):
        with Load(gateway, gateway.tenant("acme")).running() as load:
            load.more(load.whole, 100)
            for name in failing:
                (tmp_path / "faults" / name).touch()
            load.only_refused()
            seen, sent = len(load.whole), len(gateway.truth())
            load.more(load.refused, 5 * CLIENTS)
            assert (len(load.whole), len(gateway.truth())) == (seen, sent)
            for name in failing:
                (tmp_path / "faults" / name).unlink()
            load.more(load.whole, 200)
        assert load.broken
        assert load.otherwise == []
        assert numbers(gateway.truth()) == set(load.whole) | load.broken
        assert all_is_booked_once(gateway, disk) >= set(load.whole.values())
