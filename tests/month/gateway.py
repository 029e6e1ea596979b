"""`python -m tests.month.gateway …`: the command line of the gateway, under another time of day."""

from __future__ import annotations

import os

from gateway import app, office  # noqa: F401 - all is imported before the clock is another
from gateway.cli import cli
from tests.month.clock import Clock

if __name__ == "__main__":
    clock = Clock.read(os.environ.pop("MONTH_CLOCK"))
    clock.rule()
    office.now = clock.now
    cli()
