"""Killed with -9 in the middle of a load and started again: what clients saw succeed is in the ledger, once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import aiohttp
import pytest

from tests.walks.harness import Installation, eventually, installation

KILLS = 3
CLIENTS = 48


async def load_until_killed(gateway: Installation, key: str, answers_before: int) -> list[str]:
    """Call from many clients at once, kill the gateway in the middle; return the object ids of whole successes."""
    succeeded: list[str] = []
    killed = asyncio.Event()

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        streamed = bool(number % 2)
        body = json.dumps({"model": "gpt-4o", "stream": streamed, "messages": [{"role": "user", "content": "Hi"}]})
        while not killed.is_set():
            try:
                headers = {"Authorization": f"Bearer {key}", "x-simulator-latency-ms": str(number % 7)}
                async with session.post(f"{gateway.openai}/chat/completions", data=body, headers=headers) as answer:
                    text = await answer.text()
                if answer.status != 200 or (streamed and "[DONE]" not in text):
                    continue
                first = text.partition("data: ")[2].partition("\n")[0] if streamed else text
                succeeded.append(json.loads(first)["id"])
            except (aiohttp.ClientError, OSError):
                if killed.is_set():
                    return
                raise
            if len(succeeded) >= answers_before and not killed.is_set():
                gateway.gateway.kill()
                killed.set()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CLIENTS)) as session:
        await asyncio.gather(*(client(session, number) for number in range(CLIENTS)))
    return succeeded


@pytest.mark.timeout(300)
def test_what_clients_saw_succeed_is_in_the_ledger_once_after_every_kill(tmp_path):
    with installation(tmp_path) as gateway:
        key = gateway.tenant("acme")
        seen: list[str] = []

        for number in range(KILLS):
            seen += asyncio.run(load_until_killed(gateway, key, 150 + 100 * number))
            gateway.start_gateway()

        done = {exchange.object_id for exchange in gateway.truth() if exchange.status == 200}
        # A call whose outcome the kill cut off is an event too, of unknown completeness: the provider has acted.
        asked = len(gateway.truth())
        eventually(
            lambda: len(gateway.events("acme")) >= len(done) and not open_spools(gateway), "all events in the ledger"
        )
        events = gateway.events("acme")
        booked = Counter(event["external_id"] for event in events if event["external_id"] is not None)
        unknown = [event for event in events if event["external_id"] is None]

        assert len(seen) == len(set(seen)) > KILLS * 100
        assert set(seen) <= set(booked)
        assert set(booked.values()) == {1}
        assert set(booked) <= done
        assert {event["completeness"] for event in unknown} <= {"unknown"}
        assert len({event["event_id"] for event in events}) == len(events)
        # Every call that reached the provider is there, by name or as unknown. More may be: an intent is written before
        # the call leaves, and the kill may fall in between.
        assert asked - len(booked) <= len(unknown) <= KILLS * CLIENTS


def open_spools(gateway: Installation) -> bool:
    """True while the spool of a life that has ended is not wholly in the ledger."""
    return len(list((gateway.data_dir / "spool").glob("*.lock"))) > 1
