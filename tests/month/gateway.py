"""`python -m tests.month.gateway …`: the command line of the gateway, under another time of day."""

from __future__ import annotations

import os

from gateway import office
from gateway.cli import cli
from tests.month.clock import Clock

if __name__ == "__main__":
    clock = Clock.read(os.environ.pop("MONTH_CLOCK"))
    clock.rule()
    office.now = clock.now
    cli()
