"""What only whole processes, many connections and large files can show: `make system`.

Each scenario starts a provider and a gateway of its own, with the default limits unless it is about another, and tells
what it found of each promise. What a scenario needs and the machine does not have is skipped with the line that installs
it; the exit code is 1 if a promise was not kept.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.bench.processes import Failed
from tests.bench.recipes import Missing
from tests.system import installed
from tests.system.scenarios import SCENARIOS, Finding, Place, names

QUICK = 10
"""`--quick` divides sizes and numbers by so much: to see that it works, not what it shows."""

SIGNS = {True: "yes", False: "NO", None: "-"}


def run(name: str, scale: int) -> tuple[list[Finding], str | None]:
    """What was found, and the line that installs what was missing."""
    found: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="tollkeeper-system-") as made:
        directory = Path(made)
        try:
            with installed.world(directory) as world:
                found.extend(SCENARIOS[name](Place(directory, world, scale)))
        except Missing as how:
            return found, str(how)
        except (Failed, OSError) as error:
            found.append(Finding("it can be carried out", f"{type(error).__name__}: {error}", kept=False))
    return found, None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system", description=__doc__)
    parser.add_argument("--only", action="append", choices=SCENARIOS, default=[], help="may be repeated")
    parser.add_argument("--quick", action="store_true", help=f"a {QUICK}th of everything")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there as well")
    given = parser.parse_args()

    def stop(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    status, console = Console(stderr=True), Console(width=120)
    table = Table("scenario", "promise", "found", "kept", box=SIMPLE_HEAD)
    everything: dict[str, object] = {}
    broken = False
    for name in names(given.only):
        status.print(f"[dim]{name}", highlight=False)
        found, missing = run(name, QUICK if given.quick else 1)
        for number, one in enumerate(found):
            table.add_row("" if number else name, one.promise, one.found, SIGNS[one.kept])
            broken |= one.kept is False
        if missing is not None:
            table.add_row(name, "skipped", missing, SIGNS[None])
        table.add_section()
        everything[name] = missing or [{"promise": one.promise, "found": one.found, "kept": one.kept} for one in found]
    console.print(table)
    if given.json is not None:
        given.json.write_text(json.dumps(everything, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
