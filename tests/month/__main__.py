"""`python -m tests.month`: a month of ten tenants in a few minutes, and what its ledger has in the end."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests import postgres
from tests.month.run import Month, Shape, problems
from tests.walks.harness import on_postgres


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.month", description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000, help="[default: 20000]")
    parser.add_argument("--calls", type=int, default=3_000, help="[default: 3000]")
    parser.add_argument("--lasts", type=float, default=240.0, help="Seconds that the month takes.  [default: 240]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--sqlite", action="store_true", help="SQLite in one process, instead of Postgres and two workers."
    )
    given = parser.parse_args()
    shape = Shape(given.messages, given.calls, given.lasts, given.seed)
    with tempfile.TemporaryDirectory() as directory:
        if given.sqlite:
            return lived(Path(directory), shape, {})
        with postgres.running() as server:
            return lived(Path(directory), shape, on_postgres(server))


def lived(directory: Path, shape: Shape, settings: dict[str, str]) -> int:
    verdict = asyncio.run(Month(directory, shape, print, **settings).live())
    wrong = problems(verdict)
    print(
        f"seed {shape.seed}: {sum(one.messages for one in verdict.billed.values())} messages billed, {verdict.rows[0]} events"
    )
    print("\n".join(wrong) or "The ledger is the bill, and reconciling it again changed nothing.")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
