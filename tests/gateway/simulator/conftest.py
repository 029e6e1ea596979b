"""One simulator for all these tests, in a process of its own, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI

from gateway.simulator.process import RunningSimulator, simulator
from tests.gateway.simulator.simulated import KEY, Simulated


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[RunningSimulator, Path]]:
    truth_log = tmp_path_factory.mktemp("simulator") / "truth.jsonl"
    async with simulator(truth_log, "--record-bodies") as process:
        yield process, truth_log


@pytest.fixture
def simulated(running: tuple[RunningSimulator, Path]) -> Simulated:
    return Simulated(*running)


@pytest.fixture
def client(simulated: Simulated) -> Iterator[OpenAI]:
    with OpenAI(base_url=simulated.base_url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest_asyncio.fixture
async def async_client(simulated: Simulated) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=simulated.base_url, api_key=KEY, max_retries=0) as client:
        yield client
