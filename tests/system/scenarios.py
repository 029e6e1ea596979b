"""The system tests: each starts what it needs, does what it says, and tells what it found of each promise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.processes import Failed, started, tree_rss_mib, watched_mib
from tests.bench.world import World
from tests.system import order, provider
from tests.system.installed import OPENAI, Gateway, Job, gateway, program

ATTACKERS = 1000
CLOSED_S = 15
"""So long after it began, no connection of a slow client is open any more."""
ATTACK_S = 30
"""So long an attack lasts if nobody ends it."""

VICTIM_RATE, VICTIM_CONNECTIONS = 100, 8
OTHERS_MAX = VICTIM_CONNECTIONS + 2
"""Connections that are no attacker's: the other client's, and those by which slowhttptest looks how the server does."""
P99_TIMES = 2.0
P99_FLOOR_MS = 5.0
"""Below this a percentile says more about the machine than about the gateway: twice 0.8 ms is no harm to anybody."""

IDLE = 10_000
IDLE_MIB = 100.0
KNOCKS = 200
HUNG_S = 5

FILE_BYTES = 1 << 30
FILE_MIB = 64.0
STALL_S = 5
FILE_S = 300

OVER_TIMES = 5
OVER_CALLS_MAX, OVER_DELAY_MS = 100, 250
"""What the provider is made to take, and the calls under way that are allowed: 400 calls a second, on any machine."""
PEAK_S, OVER_S = 5, 20
GOODPUT_MIN = 0.8
SHED_P99_MS = 100.0
RECOVERY_S = 5.0

FLOODERS = 256
FLOOD_S = 15


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise, and what was found."""

    promise: str
    found: str
    kept: bool | None
    """None for a figure that nothing is promised of."""


Findings = Iterator[Finding]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scenario takes place, and how much of it there is."""

    directory: Path
    world: World
    scale: int
    """Divides sizes and numbers; 1 is what the promises are about."""

    def gateway(self, **settings: object) -> Any:
        return gateway(self.directory / "gateway", self.world, **settings)


def no_more_than(promise: str, most: float, found: float | None, unit: str) -> Finding:
    if found is None:
        return Finding(f"{promise} ≤ {most:g} {unit}", "nothing was measured", kept=False)
    return Finding(f"{promise} ≤ {most:g} {unit}", f"{found:.1f} {unit}", found <= most)


def none_failed(promise: str, report: dict[str, Any]) -> Finding:
    """Of a client none of whose calls may go wrong or be refused."""
    wrong = dict(report["failed"]) | ({"503": report["shed"]} if report["shed"] else {})
    found = ", ".join(f"{count} x {what}" for what, count in wrong.items())
    return Finding(promise, found or f"{report['ok']} calls, all answered", not wrong and report["ok"] > 0)


def unharmed(normal: dict[str, Any], meanwhile: dict[str, Any]) -> Findings:
    """What another client notices of an attack."""
    yield none_failed("another client: no call fails", meanwhile)
    if normal["ok_p99_ms"] is None or meanwhile["ok_p99_ms"] is None:
        yield Finding("another client: p99", "nothing was measured", kept=False)
        return
    most = max(P99_TIMES * normal["ok_p99_ms"], P99_FLOOR_MS)
    found = f"{meanwhile['ok_p99_ms']:.1f} ms, normally {normal['ok_p99_ms']:.1f} ms"
    yield Finding(
        f"another client: p99 within {P99_TIMES:g} times its normal, or {P99_FLOOR_MS:g} ms",
        found,
        meanwhile["ok_p99_ms"] <= most,
    )


def victim(serving: Gateway, seconds: float) -> Job:
    return serving.calling(seconds, rate=VICTIM_RATE, connections=VICTIM_CONNECTIONS)


def normally(serving: Gateway) -> dict[str, Any]:
    with victim(serving, 3) as warming:
        warming.report()
    with victim(serving, CLOSED_S) as job:
        return job.report()


# ---------------------------------------------------------------------------------------------------------------------
# Slow clients

ATTACKS = {
    "slow heads": ["-H", "-i", "1"],
    "slow bodies": ["-B", "-i", "1", "-s", "8192", "-t", "POST"],
    "slow readers": ["-X", "-n", "1", "-w", "8", "-y", "16", "-z", "8"],
}


def slow(what: str, place: Place) -> Findings:
    """Slow clients by slowhttptest, 1,000 at a time, each with a key, against the default limits."""
    tool = program("slowhttptest")
    attackers = ATTACKERS // place.scale
    with place.gateway() as serving:
        normal = normally(serving)
        # A key in a header that it lets one choose: without it, the slow would be refused before they are slow. It
        # brings a credential of its own, so that any path is open to it.
        cookie = f"a=b\r\nX-Gateway-Key: {serving.key}\r\nAuthorization: Bearer sk-of-its-own"
        # It gets what the others leave of the processor: an attacker would have one of its own.
        command = ["nice", "-n", "19", tool, *ATTACKS[what]]
        command += ["-c", str(attackers), "-r", str(attackers), "-l", str(ATTACK_S), "-p", "10"]
        command += ["-j", cookie, "-u", f"http://127.0.0.1:{serving.port}{OPENAI}/v1/files/file-1/content"]
        most, over_s = 0, None
        with victim(serving, CLOSED_S) as job:
            with started(command, place.directory / "slowhttptest.log"):
                began = time.monotonic()
                while time.monotonic() - began < ATTACK_S and over_s is None:
                    # Counted on this side: a slow reader notices the end only when it has read what had come before.
                    found = serving.open_connections()
                    most = max(most, found)
                    if most >= attackers and found <= OTHERS_MAX:
                        over_s = time.monotonic() - began
                    time.sleep(1)
            meanwhile = job.report()
        yield Finding("slow clients that there were", f"{most:,} connections", most >= attackers)
        told = f"{found:,} are open after {ATTACK_S} s" if over_s is None else f"after {over_s:.1f} s"
        yield Finding(f"all are closed within {CLOSED_S} s", told, over_s is not None and over_s <= CLOSED_S)
        yield from unharmed(normal, meanwhile)


def handshakes(place: Place) -> Findings:
    """Clients that begin a TLS handshake and do not go on with it."""
    attackers = ATTACKERS // place.scale
    certificate = place.world.certificate
    settings = {"proxy__tls_cert": certificate, "proxy__tls_key": certificate.with_name("key.pem")}
    with (
        place.gateway(**settings) as serving,
        Job("handshakes", serving.port, {"connections": attackers, "seconds": ATTACK_S}) as job,
    ):
        report = job.report()
    found = f"{report['ended']:,} of {attackers:,} in {report['took_s']:.1f} s"
    kept = report["ended"] == attackers and report["took_s"] <= CLOSED_S
    yield Finding(f"all are closed within {CLOSED_S} s", found, kept)


# ---------------------------------------------------------------------------------------------------------------------
# Many clients


def idle(place: Place) -> Findings:
    """Connections that made one call each and then do nothing, up to the limit and beyond it."""
    count = IDLE // place.scale
    with place.gateway(proxy__connections_max=count + KNOCKS // 2) as serving:
        with serving.calling(3, connections=32) as warming:
            warming.report()
        before_mib = tree_rss_mib(serving.pid)
        options = {"key": serving.key, "prefix": OPENAI, "connections": count, "within": FILE_S}
        with Job("idle", serving.port, options, "tests.bench.heavy") as job:
            if job.line() != "open":
                raise Failed(f"{count:,} connections could not be opened")
            time.sleep(1)
            yield no_more_than(
                f"memory of {count:,} idle connections", IDLE_MIB, tree_rss_mib(serving.pid) - before_mib, "MiB"
            )
            with serving.calling(2, rate=20, connections=2) as one_more:
                yield none_failed("a new client is served", one_more.report())
            options = {"key": serving.key, "connections": KNOCKS, "seconds": HUNG_S}
            with Job("knocks", serving.port, options) as knocking:
                knocked = knocking.report()
            told = ", ".join(f"{number} {what}" for what, number in sorted(knocked.items()))
            kept = (
                not knocked.get("hung") and knocked.get("closed", 0) >= KNOCKS // 4 and knocked.get("answered", 0) > 0
            )
            yield Finding(f"of {KNOCKS} more, half of them over the limit, none hangs", told, kept)
            found = job.report()
        yield Finding("those that are idle stay open", f"{found['open']:,} of {count:,}", found["open"] == count)


def overload(place: Place) -> Findings:
    """Five times as many calls as may be under way, of a provider that takes its time for each."""
    capacity = OVER_CALLS_MAX * 1000 / OVER_DELAY_MS
    seconds = OVER_S / place.scale
    with place.gateway(proxy__calls_max=OVER_CALLS_MAX) as serving:
        with serving.calling(PEAK_S, connections=OVER_CALLS_MAX, delay=OVER_DELAY_MS) as job:
            peak = job.report()
        yield Finding("peak", f"{peak['ok_per_s']:.0f} of {capacity:.0f} calls/s", kept=None)
        options = {"connections": 4 * OVER_CALLS_MAX, "delay": OVER_DELAY_MS}
        with serving.calling(seconds, rate=OVER_TIMES * capacity, **options) as job:
            over = job.report()
        over_at = time.monotonic()
        recovered_s = None
        again: dict[str, Any] = {}
        last = [over, peak]
        while time.monotonic() - over_at < 2 * RECOVERY_S and recovered_s is None:
            asked_at = time.monotonic()
            with serving.calling(1, rate=capacity / 4, **options) as job:
                again = job.report()
            last.append(again)
            if not again["failed"] and not again["shed"]:
                recovered_s = asked_at - over_at
        yield Finding(
            "what is too much is told to come back, with 503 and Retry-After",
            f"{over['shed']:,} of {over['asked']:,}" + "".join(f", {n} x {what}" for what, n in over["failed"].items()),
            over["shed"] > 0 and not over["failed"],
        )
        yield no_more_than("p99 of being told", SHED_P99_MS, over["shed_p99_ms"], "ms")
        share = over["ok_per_s"] / peak["ok_per_s"]
        yield Finding(f"goodput ≥ {GOODPUT_MIN:.0%} of peak", f"{share:.0%}", share >= GOODPUT_MIN)
        yield no_more_than("calls succeed again after", RECOVERY_S, recovered_s, "s")
        answered = sum(report["ok"] for report in last)
        booked = serving.booked(answered)
        yield Finding(
            "every success is metered, once", f"{answered:,} calls, {booked} events", booked == (answered,) * 4
        )


def flood(place: Place) -> Findings:
    """One tenant makes as many calls as it can, over many connections; another makes a few."""
    with place.gateway() as serving:
        normal = normally(serving)
        flooding = Job(
            "calls",
            serving.port,
            {"key": serving.tenant("flooding"), "connections": FLOODERS, "seconds": FLOOD_S / place.scale},
        )
        with flooding, serving.calling(FLOOD_S / place.scale, rate=10, connections=2) as job:
            meanwhile = job.report()
            flooded = flooding.report()
        wrong = sum(flooded["failed"].values())
        yield Finding("the flood", f"{flooded['ok_per_s']:.0f} calls/s, {flooded['shed']:,} told to wait", kept=None)
        yield Finding("the flood too is answered, or told to wait", f"{wrong} calls failed", wrong == 0)
        yield none_failed("the other tenant: no call fails", meanwhile)
        found = f"{meanwhile['ok_p99_ms'] or 0:.1f} ms, normally {normal['ok_p99_ms'] or 0:.1f} ms"
        yield Finding("the other tenant: p99", found, kept=None)


# ---------------------------------------------------------------------------------------------------------------------
# Large bodies


def large(job: str, path: str, place: Place) -> Findings:
    """One file of 1 GiB; whoever takes it stops for a while in the middle."""
    size = FILE_BYTES // place.scale
    with place.gateway() as serving:
        with serving.calling(3, connections=32) as warming:
            warming.report()
        before_mib = tree_rss_mib(serving.pid)
        options = {"key": serving.key, "path": OPENAI + path, "bytes": size, "stall": STALL_S, "seconds": FILE_S}
        with watched_mib(lambda: tree_rss_mib(serving.pid)) as seen, Job(job, serving.port, options) as client:
            report = client.report()
    yield no_more_than(f"memory, {size >> 20:,} MiB", FILE_MIB, max(seen) - before_mib, "MiB")
    right = (report["bytes"], report["sha256"]) == (size, provider.digest(size))
    yield Finding("every byte arrives", "sha256 equal" if right else "it is another file", right)


# ---------------------------------------------------------------------------------------------------------------------
# The order of a call's steps


def recorded_first(place: Place) -> Findings:
    """Calls of every kind, traced: what is recorded, and synced, before which bytes leave."""
    each = order.CALLS // place.scale
    for durability, recorded in (("flush", "written"), ("fsync", "on the disk")):
        found = order.observed(place.directory / durability, durability, each)
        for what, late, then in (
            ("intent", found.intents_late, "the call leaves"),
            ("outcome", found.outcomes_late, "the client can conclude success"),
        ):
            told = f"{found.calls:,} calls" + (f", {len(late)} not: {', '.join(late[:3])}" if late else "")
            yield Finding(f"{durability}: the {what} is {recorded} before {then}", told, not late)
        yield Finding(f"{durability}: segments", f"{found.segments}", found.segments > 1)
    # A check that finds nothing where there is something would find nothing above either.
    for defect, durability in (("outcomes late", "flush"), ("nothing awaited", "fsync")):
        found = order.observed(place.directory / defect, durability, max(1, each // 10), defect)
        told = f"{len(found.outcomes_late)} of {found.calls} calls"
        yield Finding(f"with a defect it is found: {defect}", told, len(found.outcomes_late) == found.calls)


Scenario = Callable[[Place], Findings]

SCENARIOS: dict[str, Scenario] = {
    **{what: lambda place, what=what: slow(what, place) for what in ATTACKS},  # type: ignore[misc]
    "slow handshakes": handshakes,
    "idle": idle,
    "upload": lambda place: large("upload", provider.FILES, place),
    "download": lambda place: large("download", provider.SPEECH, place),
    "overload": overload,
    "flood": flood,
    "order": recorded_first,
}


def names(only: Sequence[str]) -> list[str]:
    return [name for name in SCENARIOS if not only or name in only]
