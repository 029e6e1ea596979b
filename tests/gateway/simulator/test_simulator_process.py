"""The simulator as a process: how it starts, how it is told things, and that it always ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from openai import AsyncOpenAI, AuthenticationError

from gateway.simulator.process import PACKAGES, SimulatorError, simulator
from gateway.simulator.server import PROVIDERS
from gateway.simulator.truth import read_truth
from tests.gateway.simulator.simulated import CHAT, KEY, LIVENESS_S_MAX, Simulated, parsed


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def start(truth_log: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.simulator", "--truth-log", str(truth_log), *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=PACKAGES,
    )


async def test_it_says_in_one_line_where_it_listens(tmp_path: Path) -> None:
    process = await start(tmp_path / "truth.jsonl")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIVENESS_S_MAX):
            ready = json.loads(await process.stdout.readline())
    finally:
        process.terminate()
    async with asyncio.timeout(LIVENESS_S_MAX):
        rest = await process.stdout.read()
        assert await process.wait() == 0
    port = ready["port"]
    assert ready == {
        "event": "simulator_listening",
        "host": "127.0.0.1",
        "port": port,
        "base_urls": {provider.name: f"http://127.0.0.1:{port}/{provider.mount}" for provider in PROVIDERS},
        "control_url": f"http://127.0.0.1:{port}/_simulator",
        "credentials": {provider.name: dict(provider.default_credential) for provider in PROVIDERS},
    }
    assert ready["base_urls"]["openai"] == f"http://127.0.0.1:{port}/openai"
    assert ready["credentials"]["sendgrid"] == {"api_key": "SG.simulator.sendgrid-key"}
    assert rest == b""


async def test_it_ends_with_the_context_that_runs_it(tmp_path: Path) -> None:
    async with simulator(tmp_path / "truth.jsonl") as running:
        assert is_alive(running.pid)
    assert not is_alive(running.pid)


async def test_it_ends_even_while_an_answer_hangs(tmp_path: Path) -> None:
    truth_log = tmp_path / "truth.jsonl"
    async with simulator(truth_log) as running, simulator(tmp_path / "other.jsonl") as other:
        assert running.pid != other.pid
        simulated = Simulated(running, truth_log)
        asking = asyncio.create_task(simulated.ask("/chat/completions", CHAT, "x-simulator-fault: hang"))
        await simulated.begun()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    (exchange,) = read_truth(truth_log)
    assert exchange.completed is False


async def test_it_ends_when_nobody_is_left_to_end_it(tmp_path: Path) -> None:
    process = await start(tmp_path / "truth.jsonl", "--until-stdin-closes")
    assert process.stdout is not None
    assert process.stdin is not None
    async with asyncio.timeout(LIVENESS_S_MAX):
        await process.stdout.readline()
        process.stdin.close()
        assert await process.wait() == 0


async def test_one_that_cannot_start_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError):
        async with simulator(tmp_path / "no such folder" / "truth.jsonl"):
            pass


async def test_it_accepts_the_keys_that_it_is_given_and_no_other(tmp_path: Path) -> None:
    async with simulator(tmp_path / "truth.jsonl", "--key", "first", "--key", "second") as running:
        for key in ("first", "second", KEY):
            url = f"{running.base_urls['openai']}/v1"
            async with AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
                if key == KEY:
                    with pytest.raises(AuthenticationError):
                        await client.models.list()
                else:
                    await client.models.list()


async def test_what_the_command_line_says_holds_for_every_answer(tmp_path: Path) -> None:
    truth_log = tmp_path / "truth.jsonl"
    ids = []
    for _ in range(2):
        async with simulator(truth_log, "--seed", "7", "--latency-ms", "100") as running:
            simulated = Simulated(running, truth_log)
            begun = asyncio.get_running_loop().time()
            ids.append(json.loads((await simulated.ask("/chat/completions", CHAT)).body)["id"])
            assert asyncio.get_running_loop().time() - begun >= 0.1
    assert ids[0] == ids[1]
    first, second = read_truth(truth_log)
    assert (first.n, second.n) == (1, 1)
    assert first.run != second.run
    with pytest.raises(LookupError):
        _ = first.body


async def test_what_it_wrote_before_it_was_killed_is_the_truth(tmp_path: Path) -> None:
    truth_log = tmp_path / "truth.jsonl"
    async with simulator(truth_log) as running:
        simulated = Simulated(running, truth_log)
        answer = await simulated.ask("/chat/completions", CHAT)
        await simulated.settled()
        asking = asyncio.create_task(simulated.ask("/chat/completions", CHAT, "x-simulator-latency-ms: 60000"))
        await simulated.begun(2)
        os.kill(running.pid, signal.SIGKILL)
        await asyncio.gather(asking, return_exceptions=True)
    first, second = read_truth(truth_log)
    assert first.object_id == json.loads(answer.body)["id"]
    assert first.completed
    assert (second.status, second.completed) == (200, None)


async def test_a_long_upload_leaves_memory_flat(tmp_path: Path) -> None:
    boundary, piece, pieces = "gate", bytes(1 << 20), 256
    opening = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="long.bin"\r\n\r\n'
    ).encode()
    closing = f"\r\n--{boundary}--\r\n".encode()
    length = len(opening) + len(piece) * pieces + len(closing)
    truth_log = tmp_path / "truth.jsonl"
    async with simulator(truth_log) as running:
        simulated = Simulated(running, truth_log)
        async with simulated.connection() as (reader, writer):
            writer.write(
                f"POST /openai/v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
                f"Content-Type: multipart/form-data; boundary={boundary}\r\nContent-Length: {length}\r\n\r\n".encode()
            )
            writer.write(opening)
            for _ in range(pieces):
                writer.write(piece)
                await writer.drain()
            writer.write(closing)
            answer = parsed(await reader.read(-1))
        (exchange,) = await simulated.settled()
        assert peak_mib(running.pid) < 256
    assert json.loads(answer.body)["bytes"] == len(piece) * pieces
    assert exchange.body_bytes == length


def peak_mib(pid: int) -> int:
    """The most memory that a process has ever held; zero where the system does not say."""
    status = Path(f"/proc/{pid}/status")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) >> 10 if status.exists() else 0


def test_it_shares_nothing_with_the_gateway() -> None:
    listing = "import sys, gateway.simulator.__main__, gateway.simulator.process; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", listing], cwd=PACKAGES, capture_output=True, text=True, check=True)
    ours = {name for name in modules.stdout.split() if name.partition(".")[0] in ("gateway", "metering", "pricing")}
    assert ours - {"gateway"} == {name for name in ours if f"{name}.".startswith("gateway.simulator.")}
