"""A ledger that is restored from a backup taken under load: a replay of the spools makes it whole, and adds nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.walks.harness import PATIENCE_S, REPOSITORY, Installation, eventually, installation

CLIENTS = 24


async def load(gateway: Installation, key: str, calls: int, meanwhile: Any = None) -> None:
    """So many calls, and more while what is to happen meanwhile happens in a thread; calls may fail once it is over."""
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]})
    done, over = 0, asyncio.Event()

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal done
        while done < calls or (meanwhile is not None and not over.is_set()):
            try:
                async with session.post(
                    f"{gateway.openai}/chat/completions", data=body, headers={"Authorization": f"Bearer {key}"}
                ) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
            except (aiohttp.ClientError, OSError):
                if meanwhile is None:
                    raise
                return
            done += 1

    async def happens() -> None:
        if meanwhile is not None:
            await asyncio.to_thread(meanwhile)
            over.set()

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(happens(), *(client(session) for _ in range(CLIENTS)))


def back_up(ledger: Path, backup: Path) -> None:
    with closing(sqlite3.connect(ledger)) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)


@contextmanager
def without_ledger(gateway: Installation) -> Iterator[Path]:
    """The gateway stopped, its ledger taken away; it is started at the end."""
    assert gateway.gateway.stop() == 0
    ledger = gateway.data_dir / "ledger.db"
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (gateway.data_dir / name).unlink(missing_ok=True)
    yield ledger
    gateway.start_gateway()


def command(gateway: Installation, *arguments: str) -> Any:
    """What the real command answers, as its own process beside the server that runs, or without one."""
    environment = {
        **os.environ,
        **gateway.gateway.environment,
        "PYTHONPATH": str(REPOSITORY),
        "TOLLKEEPER_CONTROL__PORT": gateway.control_url.rpartition(":")[2],
    }
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 4,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def identities(gateway: Installation) -> dict[str, tuple[str, str | None]]:
    events = gateway.events()
    found = {event["event_id"]: (event["completeness"], event["external_id"]) for event in events}
    assert len(found) == len(events) == gateway.ask("GET", "/v1/usage/summary")["total"]["events"]
    return found


def everything_booked(gateway: Installation) -> bool:
    spools = gateway.ask("GET", "/v1/spools")
    return not spools["unbooked_bytes"] and sum(not one["finished"] for one in spools["data"]) == 1


@pytest.mark.timeout(300)
def test_a_restored_ledger_is_what_the_provider_says_after_a_replay_under_load(tmp_path):
    """A22. Guards the way back from a backup: what came after it is in the spools alone."""
    with installation(tmp_path) as gateway:
        key, backup = gateway.tenant("acme"), tmp_path / "backup.db"
        asyncio.run(load(gateway, key, 120, lambda: back_up(gateway.data_dir / "ledger.db", backup)))
        asyncio.run(load(gateway, key, 120, gateway.gateway.kill))
        gateway.start_gateway()
        asyncio.run(load(gateway, key, 50))
        eventually(lambda: everything_booked(gateway), "all of it in the ledger")
        before = identities(gateway)
        with without_ledger(gateway) as ledger:
            backup.rename(ledger)
        restored = identities(gateway)
        replayed: list[Any] = []

        asyncio.run(load(gateway, key, 50, lambda: replayed.append(command(gateway, "spool", "replay", "--all"))))
        eventually(lambda: everything_booked(gateway), "all of it in the ledger")
        after = identities(gateway)
        again = command(gateway, "spool", "replay", "--all")

        truth = {exchange.object_id for exchange in gateway.truth() if exchange.status == 200}
        unknown = [event for event, (completeness, _) in after.items() if completeness == "unknown"]
        assert set(restored) < set(before)
        assert before.items() <= after.items()
        assert replayed[0]["total"]["new"] >= len(before) - len(restored) > 100
        assert replayed[0]["total"]["conflicting"] == replayed[0]["total"]["unreadable"] == 0
        # What the kill cut off is unknown, and the provider's log may have it.
        booked = {external_id for _, external_id in after.values() if external_id is not None}
        assert booked <= truth
        assert len(truth - booked) <= len(unknown) <= CLIENTS
        assert (again["total"]["new"], again["total"]["known"]) == (0, len(after))
        assert identities(gateway) == after
        assert command(gateway, "spool", "status", "--check")["wrong"] == []

        with without_ledger(gateway):
            alone = command(gateway, "spool", "replay", "--all")
        assert alone["total"]["new"] == len(after)
        assert identities(gateway) == after
