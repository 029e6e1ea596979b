"""Runs the simulator as a process of its own, for as long as somebody needs it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

READY_S_MAX = 30
"""How long it may take to listen, on a machine that is busy with other things."""
STOP_S_MAX = 10
"""How long it may take to stop by itself. Answers that have begun get a moment to end."""

PACKAGES = Path(__file__).resolve().parents[2]


class SimulatorError(Exception):
    """The simulator did not come up; what it had to say is on standard error."""


class RunningSimulator(NamedTuple):
    """A simulator that listens."""

    base_urls: Mapping[str, str]
    """By provider; they hold no version."""
    credentials: Mapping[str, Mapping[str, str]]
    """By provider, what a client must hold, by the names that the gateway's settings have for it."""
    pid: int
    control_url: str
    """Where tests ask the simulator itself, see :mod:`gateway.simulator.director`."""


class Ready(msgspec.Struct, tag_field="event", tag="simulator_listening"):
    """The one line that a simulator prints."""

    base_urls: dict[str, str]
    credentials: dict[str, dict[str, str]]
    control_url: str


@asynccontextmanager
async def simulator(truth_log: Path, *arguments: str) -> AsyncIterator[RunningSimulator]:
    """Run a simulator while the context is open; the arguments are those of its command line.

    It ends with the context, and with this process, however that ends: its standard input closes then.
    """
    # It runs the code that this module belongs to, wherever the current directory is.
    paths = [str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "gateway.simulator"),
        *("--truth-log", str(truth_log), "--until-stdin-closes", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        # A Ctrl-C is for whoever runs this one: calls in flight there still need their provider.
        start_new_session=True,
    )
    try:
        said = await ready(process)
        yield RunningSimulator(said.base_urls, said.credentials, process.pid, said.control_url)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def ready(process: asyncio.subprocess.Process) -> Ready:
    """Wait for the line that says where it listens."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_S_MAX):
            line = await process.stdout.readline()
        return msgspec.json.decode(line, type=Ready)
    except (TimeoutError, msgspec.DecodeError) as error:
        raise SimulatorError(f"no simulator came up within {READY_S_MAX} s") from error
