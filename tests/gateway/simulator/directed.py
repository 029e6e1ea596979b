"""What tests ask of the simulator itself."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.simulator.process import RunningSimulator
from gateway.simulator.truth import Delivered, read_deliveries
from tests.gateway.simulator.simulated import LIVENESS_S_MAX


class Directed:
    """The running simulator, as a test directs it."""

    def __init__(self, running: RunningSimulator, truth_log: Path) -> None:
        self._url = running.control_url
        self._truth_log = truth_log

    def ask(self, path: str, body: object = None, **controls: object) -> Any:
        """The answer, or the status and the message of a refusal."""
        headers = {f"x-simulator-{name.replace('_', '-')}": str(value) for name, value in controls.items()}
        request = urllib.request.Request(
            f"{self._url}{path}", None if body is None else json.dumps(body).encode(), headers
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.status, json.load(refused)["error"]

    async def message(self, controls: Mapping[str, object] | None = None, **given: object) -> Any:
        return await asyncio.to_thread(lambda: self.ask("/twilio/inbound-message", given, **(controls or {})))

    async def call(self, controls: Mapping[str, object] | None = None, **given: object) -> Any:
        return await asyncio.to_thread(lambda: self.ask("/twilio/inbound-call", given, **(controls or {})))

    async def told(self, count: int, *object_ids: str) -> list[Delivered]:
        """What was sent by itself about these, once that is so much."""
        deadline = time.monotonic() + LIVENESS_S_MAX
        while True:
            found = [told for told in read_deliveries(self._truth_log) if told.object_id in object_ids]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.01)
