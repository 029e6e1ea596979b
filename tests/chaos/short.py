"""The short form of the suite, for every run of the tests: each named point once, and some kills at random."""

from __future__ import annotations

from statistics import median

from tests.chaos.points import POINTS
from tests.chaos.run import VARIANTS, Kill, Standing, Variant, plan, shares

SEED = 20261121
PROBLEMS_SHOWN = 10
AT_RANDOM = dict(zip(VARIANTS, (3, 2, 9, 9), strict=True))
KILLS = len(POINTS) + sum(AT_RANDOM.values())


def kills_of(variant: Variant, seed: int = SEED) -> list[Kill]:
    """What is killed in one of the installations."""
    return plan(seed, variant, shares(seed)[variant], AT_RANDOM[variant])


async def killed(directory, variant, database):
    """Kill them, and claim that nothing is wrong."""
    kills = kills_of(variant)
    verdict = await Standing(directory, variant, SEED, database, tell=print).run(kills)

    times = [one.serving_s for one in verdict.killed]
    print(f"seed {SEED}: {verdict.figures}; serving again after {median(times):.1f} s, {max(times):.1f} s at most")
    some = "\n".join(verdict.problems[:PROBLEMS_SHOWN])
    assert verdict.problems == [], f"{variant}, seed {SEED}: {len(verdict.problems)} problems, such as\n{some}"
    assert [one.kill for one in verdict.killed] == kills
    # Of nothing, nothing would be wrong.
    assert verdict.figures.seen > 40 * len(kills)
    assert verdict.figures.unknown > 20 * len(kills)
