"""Live worlds, one for each seed, and stop at the first in which something is wrong.

`python -m tests.simulation --seed 7 --steps 500 --seeds 10000 --power`
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from pricing.catalogue import load_books
from tests.ledgers import SqliteLedgers
from tests.simulation.world import live

MEMORY = Path("/dev/shm")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--steps", type=int, default=100, help="of each world, before all is well again")
    parser.add_argument("--power", action="store_true", help="the power may fail, and some workers sync")
    parser.add_argument("--keep-on", action="store_true", help="do not stop at the first")
    arguments = parser.parse_args()
    books = load_books()
    found, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        root = Path(directory) / "spool"
        root.mkdir()
        image = asyncio.run(SqliteLedgers(lambda: Path(directory)).migrated()).read_bytes()
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            try:
                world = live(seed, arguments.steps, root, image, books, power=arguments.power)
            except AssertionError as error:
                found += 1
                lines = str(error).split("\n")
                print(f"seed {seed}:", *lines[0 if arguments.seeds == 1 else -2 :], sep="\n", flush=True)
                if not arguments.keep_on:
                    break
            else:
                if arguments.seeds == 1:
                    print("\n".join(world.trace))
                    print(f"{world.digest:08x}")
    print(f"{arguments.seeds} worlds from seed {arguments.seed}, {found} wrong, {time.monotonic() - began:.0f} s")
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main())
