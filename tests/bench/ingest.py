"""How fast the ledger takes what workers have recorded: from spools on the disk into Postgres, by the real shipper.

Events, charges and daily sums, in the process that the back office is. Nothing else runs meanwhile but the server.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from gateway import schema
from gateway.call_ids import new_call_id
from gateway.office import now, settle_apart
from gateway.shipper import APART, Pace, Shipper
from metering.database_postgres import PostgresDatabase
from metering.intents import Intent
from metering.record_texts import OutcomeText
from metering.spool import Spool
from metering.spool_records import RecordKind
from metering.usage import Completeness
from pricing.catalogue import load_books

SPOOLS = 4
UNDER_WAY = 50
"""Calls of one worker between whose intents and outcomes others come."""
TENANTS = 50
KEYS = 3
"""Of each tenant."""
MODELS = ("gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18", "gpt-4.1-2025-04-14", "o4-mini-2025-04-16")
CATEGORIES = ("rag", "support", "drafting")
TAGS = ("search", "mail", "mobile", "reports")

_encode = msgspec.json.encode


def write(directory: Path, events: int) -> int:
    """Fill the spools of workers that have ended; returns the bytes of one event."""
    chance = random.Random(1)
    size_bytes = 0
    for worker in range(SPOOLS):
        spool = Spool(directory, f"w{worker}-{new_call_id()}", fsync=False)
        spool.open()
        under_way: list[tuple[int, Intent]] = []
        for _ in range(events // SPOOLS):
            intent = _intent(chance)
            under_way.append((spool.admit(_encode(intent)), intent))
            if len(under_way) > UNDER_WAY:
                size_bytes = _settle(spool, *under_way.pop(chance.randrange(UNDER_WAY)), chance)
        for one in under_way:
            size_bytes = _settle(spool, *one, chance)
        spool.close()
    return size_bytes


def _intent(chance: random.Random) -> Intent:
    tenant = chance.randrange(TENANTS)
    return Intent(
        call_id=new_call_id(),
        tenant_id=f"tenant-{tenant:02}",
        source="openai",
        event_type="llm_call",
        endpoint="chat.completions",
        occurred_at_ms=time.time_ns() // 1_000_000,
        resource=chance.choice(MODELS)[: -len("-2024-08-06")],
        category=chance.choice(CATEGORIES),
        tags={"feature": chance.choice(TAGS), "user": f"u-{chance.randrange(10_000)}"},
        key_id=f"01a1f8d3-0000-7000-8000-{tenant * KEYS + chance.randrange(KEYS):012x}",
    )


def _settle(spool: Spool, sequence: int, intent: Intent, chance: random.Random) -> int:
    """End a streamed chat completion, as its outcome is recorded."""
    tokens, cached, told, thought = (chance.randrange(1, most) for most in (4000, 1000, 900, 300))
    resource = next(model for model in MODELS if model.startswith(str(intent.resource)))
    description = f"{intent.resource} chat completion"
    like = msgspec.structs.replace(intent.unknown(), resource=resource, description=description)
    payload = OutcomeText(like).of(
        event_id=intent.call_id,
        call_id=intent.call_id,
        occurred_at_ms=intent.occurred_at_ms,
        status=200,
        duration_ms=chance.randrange(300, 9000),
        completeness=Completeness.REPORTED,
        quantities={
            "input_tokens": tokens,
            "input_tokens_cached": cached,
            "output_tokens": told,
            "output_tokens_reasoning": thought,
        },
        external_id=f"chatcmpl-{chance.getrandbits(160):030x}",
        metadata={
            "stream": True,
            "service_tier": "default",
            "finish_reason": "stop",
            "usage": {
                "prompt_tokens": tokens + cached,
                "completion_tokens": told + thought,
                "total_tokens": tokens + cached + told + thought,
                "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
                "completion_tokens_details": {
                    "reasoning_tokens": thought,
                    "audio_tokens": 0,
                    "accepted_prediction_tokens": 0,
                    "rejected_prediction_tokens": 0,
                },
            },
        },
    )
    spool.settle(sequence, RecordKind.OUTCOME, payload)
    return len(payload)


async def prepare(url: str, owner_url: str) -> None:
    database, owner = PostgresDatabase(url), PostgresDatabase(owner_url, statement_s_max=None)
    for one in (database, owner):
        await one.open()
    await schema.prepare(database, owner)
    for one in (database, owner):
        await one.close()


async def ship(directory: Path, url: str, pace: Pace) -> tuple[float, float]:
    """Book all of it; wall time and CPU time."""
    database = PostgresDatabase(url)
    await database.open()
    try:
        shipper = Shipper(directory, database, load_books(), now, pace)
        settle_apart()
        began, cpu = time.perf_counter(), time.process_time()
        shipper.stop()
        await shipper.run()
        if shipper.failing is not None:
            raise SystemExit(f"the ledger can not be written: {shipper.failing}")
        return time.perf_counter() - began, time.process_time() - cpu
    finally:
        await database.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ingest", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--owner-url", required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--batch", type=int, default=APART.batch_events_max)
    parser.add_argument("--at-once", type=int, default=APART.batches_at_once)
    given = parser.parse_args()
    event_bytes = write(given.directory, given.events)
    uvloop.run(prepare(given.url, given.owner_url))
    print("ready", flush=True)
    sys.stdin.readline()
    wall_s, cpu_s = uvloop.run(ship(given.directory, given.url, Pace(given.batch, given.at_once)))
    found = {"wall_s": wall_s, "cpu_s": cpu_s, "event_bytes": event_bytes}
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
