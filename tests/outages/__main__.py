"""What the ledger's database can do to a gateway, in the long form: `make outages`.

The same tests as in `make test`, with outages of a minute and every event of the replay. `--short` runs the short form.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from tests.forms import LONG_FORM

TESTS = ("tests/outages", "tests/pricing/test_replay.py")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.outages", description=__doc__)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--long", action="store_true", help="the default")
    form.add_argument("--short", action="store_true", help="as in `make test`")
    given, more = parser.parse_known_args()
    environment = {**os.environ, LONG_FORM: "" if given.short else "1"}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:randomly", *TESTS, *more]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
