"""What callers notice while the ledger's database is slow, silent or gone: latency at a fixed rate, in turns, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.candidates import RATE
from tests.bench.gateways import tollkeeper
from tests.bench.measuring import sample
from tests.bench.recipes import running
from tests.bench.world import World
from tests.outages.line import DOWN, UP, Line

CALLS_PER_S = 500
"""What one worker has ample time for, so that what is measured is waiting."""

LASTS_S = 20
"""Less than what is asked of the product to survive, which tests/outages shows; enough for a p99 of 10,000 calls."""

SLOW_S = 0.5

WARMING_S = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """What callers noticed while the database was as `what` says."""

    what: str
    calls: int
    p50_ms: float
    p99_ms: float
    drained_s: float
    """From the database's return until the ledger had everything."""


def outages(directory: Path, world: World, *, scale: int, rounds: int, tell: Callable[[str], None]) -> Iterator[Outage]:
    """A worker, a back office and a ledger in Postgres; what the calls took, once for each kind and round. Raises Failed."""
    with ExitStack() as ends:
        line = ends.enter_context(Line(world.postgres.port))
        recipe = tollkeeper(directory, world, workers=1, database_port=line.port)
        found = ends.enter_context(running(recipe, directory / "output"))
        answered = 1

        def latencies(what: str, lasts_s: float) -> Outage:
            nonlocal answered

            def back(calls: int) -> None:
                line.swallows, line.answer_delay_s, line.refuses = (), 0.0, False
                recipe.settle(calls)

            calls = int(CALLS_PER_S * lasts_s)
            returning = replace(found, recipe=replace(recipe, settle=back))
            one = sample(RATE, calls, returning, answered, world, rate=CALLS_PER_S)
            answered += calls
            return Outage(what=what, calls=calls, p50_ms=one.p50_ms, p99_ms=one.p99_ms, drained_s=one.settle_s)

        latencies("warming", WARMING_S)
        for number in range(1, rounds + 1):
            tell(f"round {number} of {rounds}: outages")
            yield latencies("it answers", LASTS_S / scale)
            line.answer_delay_s = SLOW_S
            yield latencies(f"each answer {SLOW_S * 1e3:.0f} ms late", LASTS_S / scale)
            line.swallows = (UP, DOWN)
            yield latencies("it is silent", LASTS_S / scale)
            line.refuses = True
            line.cut()
            yield latencies("it is gone", LASTS_S / scale)
    recipe.verify(answered)
