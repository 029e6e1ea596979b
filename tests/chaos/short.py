"""The short form of the suite, for every run of the tests: each named point once, and some kills at random."""

from __future__ import annotations

from tests.chaos.points import POINTS
from tests.chaos.run import Kill, Standing, plan, shares

SEED = 20261121
AT_RANDOM = {"sqlite": (3, 2), "postgres": (9, 9)}
"""In each engine's installations, without fsync and with it."""
KILLS = len(POINTS) + sum(map(sum, AT_RANDOM.values()))


def kills_of(engine: str, fsync: bool, seed: int = SEED) -> list[Kill]:
    """What is killed in one of the four installations."""
    at_points = shares(seed)[engine, fsync]
    return plan(seed, engine, fsync=fsync, at_points=at_points, at_random=AT_RANDOM[engine][fsync])


async def killed(directory, engine, fsync, database):
    """Kill them, and claim that nothing is wrong."""
    kills = kills_of(engine, fsync)
    standing = Standing(directory, engine, fsync, SEED, database, tell=print)
    verdict = await standing.run(kills)

    times = sorted(one.serving_s for one in verdict.killed)
    print(
        f"seed {SEED}: {verdict.figures}; serving again after {times[len(times) // 2]:.1f} s, {times[-1]:.1f} s at most"
    )
    assert verdict.problems == [], f"seed {SEED}, {len(verdict.problems)} problems"
    assert len(verdict.killed) == len(kills)
    # Of nothing, nothing would be wrong.
    assert verdict.figures.seen > 40 * len(kills)
    assert verdict.figures.unknown > 20 * len(kills)
