"""Writers that book the same events over and over, each in an order of its own; a program, so that they do not take turns.

    python -m tests.pricing.replays URL EVENTS TIMES SEED…

A writer for each seed, with a connection of its own. Says how many of the bookings were new and how many repeated.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Iterator, Sequence

from metering.database import Database
from metering.database_postgres import PostgresDatabase
from metering.facts import Fact
from metering.pieces import Pieces
from metering.usage import Completeness, event_id_of
from pricing.catalogue import Books, load_books
from pricing.ledger import book
from tests.builders import DAY_MS, NOON, NOON_MS, call_id, fact, usage_event

TENANTS, KEYS, DAYS = 50, 3, 11
MODELS = ("gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18", "a-model-without-a-price")
BATCH_MAX = 500


def facts(count: int) -> list[Fact]:
    """Events of many tenants, keys and days in two months; every fifth is a fact without a call."""
    return [_fact(number) for number in range(count)]


def _fact(number: int) -> Fact:
    known_by = {"event_id": call_id(number)}
    if number % 5 == 0:
        key = f"object-{number}:final"
        known_by = {"event_id": event_id_of(key), "dedupe_key": key, "call_id": None}
    return fact(
        usage_event(
            tenant_id=f"tenant-{number % TENANTS}",
            key_id=f"k{number % KEYS}",
            resource=MODELS[number % len(MODELS)],
            occurred_at_ms=NOON_MS + number % DAYS * DAY_MS,
            quantities={"input_tokens": number % 997, "output_tokens": number % 89},
            completeness=Completeness.UNKNOWN if number % 23 == 0 else Completeness.REPORTED,
            **known_by,
        )
    )


async def replay(database: Database, books: Books, given: Sequence[Fact], times: int, seed: int) -> tuple[int, int]:
    """Book all of it so many times, shuffled and in batches of any size; how many were new, and how many repeated."""
    chance = random.Random(seed)
    new = repeated = 0
    for _ in range(times):
        for batch in batches(chance.sample(given, len(given)), chance):
            async with database.transaction() as connection:
                appended = await book(connection, batch, books, NOON, any_pieces(chance))
            assert not appended.conflicting
            new += len(appended.new)
            repeated += appended.repeated
    return new, repeated


def any_pieces(chance: random.Random) -> Pieces:
    """In half of all cases the whole at once."""
    return Pieces(chance.choice([1, 1, 2, 7]), facts_min=chance.choice([1, 20]))


def batches(given: Sequence[Fact], chance: random.Random) -> Iterator[Sequence[Fact]]:
    start = 0
    while start < len(given):
        end = start + chance.randrange(1, BATCH_MAX)
        yield given[start:end]
        start = end


async def _writers(url: str, events: int, times: int, seeds: Sequence[int]) -> list[tuple[int, int]]:
    given, books = facts(events), load_books()

    async def writer(seed: int) -> tuple[int, int]:
        database = PostgresDatabase(url)
        await database.open()
        try:
            return await replay(database, books, given, times, seed)
        finally:
            await database.close()

    return await asyncio.gather(*map(writer, seeds))


def main() -> None:
    url, events, times, *seeds = sys.argv[1:]
    found = asyncio.run(_writers(url, int(events), int(times), list(map(int, seeds))))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
