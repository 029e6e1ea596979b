"""Send mutated requests through a gateway for as long as asked, and stop at what should not be: `make fuzz`.

Exit status 1 if anything was found; each finding is printed with what sends it again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import uvloop

from tests.edge.between import Edge, marker, problem, standing
from tests.edge.mutations import mutation

ROUND = 5000
"""So many requests share a gateway and its spool."""

QUIET_S = 2.0
"""A gateway that waits for more where the reader of these tests has read enough is left after so long; it has done nothing
wrong by waiting."""


async def round_of(edge: Edge, seed: int, numbers: Iterable[int]) -> list[str]:
    """Send these mutations; gives what was found."""

    async def one(number: int) -> str | None:
        data = mutation(seed, number)
        try:
            found = problem(edge, await edge.tell(data + marker(), quiet_s=QUIET_S))
        except AssertionError as error:
            found = str(error)
        return found and f"--seed {seed} --only {number}: {found}; sent {data!r}"

    told = await asyncio.gather(*map(one, numbers))
    return [found for found in told if found is not None]


async def _fuzz(seed: int, seconds: float, only: int | None) -> int:
    until = time.monotonic() + seconds
    sent = forwarded = 0
    while True:
        numbers = range(ROUND) if only is None else (only,)
        with tempfile.TemporaryDirectory() as directory:
            async with standing(Path(directory)) as edge:
                found = await round_of(edge, seed, numbers)
                try:
                    await edge.recorded()
                except AssertionError as error:
                    found.append(f"--seed {seed}: what was recorded is not what the provider answered: {error}")
                sent += edge.told
                forwarded += edge.provider.count
        print(f"seed {seed}: {sent} sent, {forwarded} forwarded, {len(found)} found", flush=True)
        for line in found:
            print(line)
        if found:
            return 1
        if only is not None or time.monotonic() > until:
            return 0
        seed += 1


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.edge.fuzz", description=__doc__.partition(":")[0])
    options.add_argument("--seconds", type=float, default=3600, help="how long; a round begun is ended")
    options.add_argument("--seed", type=int, default=1, help="of the first round; each further one has the next")
    options.add_argument("--only", type=int, help="send this one of the seed, and no other")
    asked = options.parse_args()
    logging.disable(logging.WARNING)
    return uvloop.run(_fuzz(asked.seed, asked.seconds, asked.only))


if __name__ == "__main__":
    sys.exit(main())
