"""Which build of the product the tests start: the wheel as it is shipped, compiled, where `make compiled` has built it.

What a test imports is the source all the same, unless TESTED_BUILD=compiled says that `pythonpath` leads to the other, as
the second run of `make test` does. TESTED_BUILD=source has the source started, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
COMPILED = Path(sys.prefix) / "compiled"
TESTED = os.environ.get("TESTED_BUILD", "")


def has_compiled() -> bool:
    """True where there is a compiled build, and it is what shall be started."""
    return (COMPILED / "gateway").is_dir() and TESTED != "source"


def environment_of(command: Sequence[str]) -> dict[str, str]:
    """What has a command find the product, and the tests. A program of the tests that changes the product takes the source,
    since what is compiled can not be changed."""
    is_product = list(command[1:3]) == ["-m", "gateway"] or Path(command[0]).name == "tollkeeper"
    places = [str(COMPILED)] if is_product and has_compiled() else []
    # Safe: else the folder that the tests run in would come first.
    return {"PYTHONPATH": os.pathsep.join([*places, str(REPOSITORY)]), "PYTHONSAFEPATH": "1"}
