"""After a mixed run of thousands of calls, the ledger holds what the providers' own log says, and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import aiohttp
import pytest

from gateway.simulator.truth import Exchange
from tests.walks.harness import Installation, eventually

CALLS = 2_400
TENANTS = 5
AT_ONCE = 64
SEED = 20261120

BROKEN = ("cut-body", "cut-chunked", "cut-stream")
LOST = ("reset-before-head",)


def mixed_call(dice: random.Random, number: int) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Path, body and headers of one call out of the mix."""
    headers = {"x-walk-call": str(number), "x-simulator-words": str(dice.randint(1, 60))}
    text = " ".join(dice.choices(["river", "stone", "köprü", "👋", "ledger"], k=dice.randint(1, 40)))
    kind = dice.choice(["chat", "chat", "response", "completion", "embedding"])
    model = dice.choice(["gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-4.1"])
    body: dict[str, Any] = {"model": model}
    if kind == "chat":
        path, body["messages"] = "chat/completions", [{"role": "user", "content": text}]
    elif kind == "response":
        path, body["input"] = "responses", text
    elif kind == "completion":
        path, body["prompt"], body["model"] = "completions", text, "gpt-3.5-turbo-instruct"
    else:
        path, body["input"], body["model"] = "embeddings", text, "text-embedding-3-small"
    streamed = kind != "embedding" and dice.random() < 0.5
    if streamed:
        body["stream"] = True
        if kind in ("chat", "completion") and dice.random() < 0.3:
            body["stream_options"] = {"include_usage": True}
        headers["x-simulator-sse"] = dice.choice(["crlf", "one-write", "byte-by-byte"])
    chance = dice.random()
    if chance < 0.08:
        headers["x-simulator-status"] = dice.choice(["400", "429", "500", "503"])
    elif chance < 0.14:
        headers["x-simulator-fault"] = "cut-stream" if streamed else dice.choice(["cut-body", "cut-chunked"])
    elif chance < 0.16:
        headers["x-simulator-fault"] = "reset-before-head"
    elif chance < 0.20:
        body["model"] = "no-such-model"
    return path, body, headers


async def run_calls(gateway: Installation, keys: dict[str, str]) -> dict[int, tuple[str, str | None, bool]]:
    """Make the calls; for each its tenant, the call id that the client was told, and whether it saw a whole success."""
    dice = random.Random(SEED)
    seen: dict[int, tuple[str, str | None, bool]] = {}
    places = asyncio.Semaphore(AT_ONCE)

    async def one(session: aiohttp.ClientSession, number: int, tenant: str, call: Any) -> None:
        path, body, headers = call
        headers["Authorization"] = f"Bearer {keys[tenant]}"
        call_id, whole = None, False
        async with places:
            try:
                async with session.post(f"{gateway.openai}/{path}", data=json.dumps(body), headers=headers) as answer:
                    call_id = answer.headers["x-tollkeeper-call-id"]
                    await answer.read()
                    whole = answer.status == 200
            except (aiohttp.ClientError, OSError):
                pass
        seen[number] = (tenant, call_id, whole)

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session,
        asyncio.TaskGroup() as group,
    ):
        for number in range(CALLS):
            call = mixed_call(dice, number)
            group.create_task(one(session, number, dice.choice(sorted(keys)), call))
    return seen


def expected_quantities(usage: dict[str, Any] | None) -> dict[str, int]:
    """What a usage object means, worked out here by other means than the gateway's."""
    if usage is None:
        return {}
    if "prompt_tokens" in usage:
        whole_in, whole_out = usage["prompt_tokens"], usage.get("completion_tokens")
        inner, outer = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    else:
        whole_in, whole_out = usage["input_tokens"], usage["output_tokens"]
        inner, outer = usage.get("input_tokens_details") or {}, usage.get("output_tokens_details") or {}
    parts = {
        "input_tokens_cached": inner.get("cached_tokens", 0),
        "input_tokens_cache_write": inner.get("cache_write_tokens", 0),
        "input_tokens_audio": inner.get("audio_tokens", 0),
        "input_tokens_image": inner.get("image_tokens", 0),
        "output_tokens_reasoning": outer.get("reasoning_tokens", 0),
        "output_tokens_audio": outer.get("audio_tokens", 0),
    }
    found = {name: amount for name, amount in parts.items() if amount}
    found["input_tokens"] = whole_in - sum(amount for name, amount in found.items() if name.startswith("input"))
    if whole_out is not None:
        found["output_tokens"] = whole_out - sum(amount for name, amount in found.items() if name.startswith("output"))
    return found


@pytest.fixture(scope="module")
def run(gateway):
    keys = {f"tenant-{n}": gateway.tenant(f"tenant-{n}", plan="starter") for n in range(TENANTS)}
    seen = asyncio.run(run_calls(gateway, keys))
    truth = {int(exchange.header("x-walk-call")): exchange for exchange in gateway.truth()}
    billed = [number for number, exchange in truth.items() if happened(exchange)]
    eventually(lambda: len(gateway.events()) >= len(billed), f"{len(billed)} events in the ledger")
    return seen, truth, gateway.events()


def happened(exchange: Exchange) -> bool:
    """The provider did something that it may bill: it began to answer with success, or nobody knows."""
    return exchange.status is None or 200 <= exchange.status < 300


@pytest.mark.timeout(300)
def test_every_success_is_one_event_of_its_tenant_and_every_failure_none(run):
    seen, truth, events = run

    by_call = {event["call_id"]: event for event in events}
    expected = Counter()
    for number, exchange in truth.items():
        if happened(exchange):
            expected[seen[number][0]] += 1

    assert len(truth) == CALLS
    assert len(by_call) == len(events)
    assert Counter(event["tenant_id"] for event in events) == expected
    for number, (tenant, call_id, whole) in seen.items():
        if whole:
            assert by_call[call_id]["tenant_id"] == tenant
        if not happened(truth[number]):
            assert call_id not in by_call


def test_every_event_has_the_quantities_that_the_provider_reported(run):
    seen, truth, events = run

    by_call = {event["call_id"]: event for event in events}
    compared = Counter()
    for number, exchange in truth.items():
        _, call_id, whole = seen[number]
        if not happened(exchange) or call_id is None:
            continue
        event = by_call[call_id]
        if whole:
            assert event["completeness"] == "reported"
            assert event["quantities"] == expected_quantities(exchange.usage)
            assert event["external_id"] == exchange.object_id
            assert event["resource"] == exchange.model
            compared["whole"] += 1
        else:
            assert exchange.fault in (*BROKEN, *LOST)
            # What broke off before its usage is unknown, never zero.
            assert event["completeness"] == "unknown" or event["quantities"] == expected_quantities(exchange.usage)
            compared["broken"] += 1

    assert compared["whole"] > CALLS / 2
    assert compared["broken"] > 50


def test_a_break_at_the_provider_never_looks_like_a_whole_answer(run):
    seen, truth, _ = run

    broken = [number for number, exchange in truth.items() if exchange.fault in (*BROKEN, *LOST)]

    assert len(broken) > 50
    assert not [number for number in broken if seen[number][2]]


def test_the_summary_is_the_sum_of_the_events(gateway, run):
    _, _, events = run

    summary = gateway.ask("GET", "/v1/usage/summary?from=2020-01-01&to=2100-01-01&group_by=tenant_id,resource")

    sums: dict[tuple[str, str | None], list[int]] = {}
    for event in events:
        amounts = sums.setdefault((event["tenant_id"], event["resource"]), [0, 0, 0, 0])
        amounts[0] += 1
        amounts[1] += event["units"] or 0
        amounts[2] += nano(event["charge"]["amount"])
        amounts[3] += nano(event["cost"]["amount"])
    found = {
        (group["tenant_id"], group["resource"]): [
            group["events"],
            group["units"] or 0,
            nano(group["charge"]["amount"]),
            nano(group["cost"]["amount"]),
        ]
        for group in summary["groups"]
    }
    assert found == sums
    assert summary["total"]["events"] == len(events)


def nano(amount: str | None) -> int:
    whole, _, fraction = (amount or "0").partition(".")
    return int(whole) * 10**9 + int(fraction.ljust(9, "0"))
