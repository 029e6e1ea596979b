"""Clients that call steadily and notice everything, and what the ledger must say of their calls afterwards."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from decimal import Decimal
from typing import Any, Self

import aiohttp

from tests.walks.harness import Installation, eventually

CLIENTS = 8
PAUSE_S = 0.1
"""Between an answer and its client's next call: some 70 calls a second in all."""

CALL_S_MAX = 20
"""A call that takes longer has failed."""

UNAVAILABLE = "ledger_unavailable"
BEHIND = "ledger_behind"
"""Said once of what is a minute old."""
SERIOUS = ("error", "critical")

DRAINED_S_MAX = 60
"""So long after the database's return the ledger has everything."""


class Load:
    """Calls from kept connections until told to stop. A context manager."""

    def __init__(self, gateway: Installation, key: str) -> None:
        self._url = f"{gateway.openai}/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}", "x-simulator-latency-ms": "5"}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        self.succeeded: list[str] = []
        """The provider's name for what each call made, where its client saw a whole success."""
        self.errors: list[str] = []
        self.took_s: list[float] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Have calls under way end, and begin no more."""
        self._stopping.set()
        self._thread.join()

    def goes_on(self, calls: int = 20) -> None:
        """Wait until so many more calls have come to an end."""
        wanted = len(self.succeeded) + len(self.errors) + calls
        eventually(lambda: len(self.succeeded) + len(self.errors) >= wanted, f"{calls} more calls")

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=CALL_S_MAX)
        async with aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session:
            await asyncio.gather(*(self._client(session, streamed=bool(number % 2)) for number in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession, *, streamed: bool) -> None:
        body = json.dumps({"model": "gpt-4o", "stream": streamed, "messages": [{"role": "user", "content": "Hi"}]})
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                async with session.post(self._url, data=body) as answer:
                    text = await answer.text()
                if answer.status != 200 or (streamed and "[DONE]" not in text):
                    self.errors.append(f"{answer.status}: {text[-200:]}")
                else:
                    first = text.partition("data: ")[2].partition("\n")[0] if streamed else text
                    self.succeeded.append(json.loads(first)["id"])
            except (aiohttp.ClientError, OSError) as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            self.took_s.append(time.monotonic() - began)
            await asyncio.sleep(PAUSE_S)


def drained(gateway: Installation, load: Load) -> float:
    """Wait until the ledger has as many events as there were calls; how long that took."""
    began = time.monotonic()
    calls = len(load.succeeded)

    def events() -> bool:
        return total(gateway)["events"] >= calls

    eventually(events, f"{calls} events in the ledger", within_s=DRAINED_S_MAX)
    return time.monotonic() - began


def total(gateway: Installation) -> dict[str, Any]:
    return gateway.ask("GET", "/v1/usage/summary?from=2020-01-01&to=2100-01-01")["total"]


def check(gateway: Installation, load: Load) -> None:
    """No client saw an error; what the provider did, the clients saw, and the ledger says, are the same, each once.

    Nothing was set aside either: that the ledger can not be written, and how far it is behind, is all that the gateway tells of.
    """
    assert load.errors == []
    serious = [line for line in gateway.logged() if line.get("level") in SERIOUS]
    assert [line for line in serious if line["event"] not in (UNAVAILABLE, BEHIND)] == [], serious
    done = Counter(exchange.object_id for exchange in gateway.truth())
    events = gateway.events()
    booked = Counter(event["external_id"] for event in events)
    assert Counter(load.succeeded) == done
    assert booked == done
    assert {event["completeness"] for event in events} == {"reported"}
    sums = total(gateway)
    assert sums["events"] == len(events)
    assert Decimal(sums["charge"]["amount"]) == sum(Decimal(event["charge"]["amount"]) for event in events) > 0


def was_away(gateway: Installation) -> int:
    """How often the gateway has said that it could not write its ledger."""
    return sum(line["event"] == UNAVAILABLE for line in gateway.logged())
