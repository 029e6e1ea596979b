"""`python -m tests.walks.hurried_gateway …`: the command line of the gateway, to which an hour is a few seconds.

The time of day goes by faster, and the pauses between attempts to deliver with it. What else waits waits as long as ever: an
application and a provider have the time that they have.
"""

from __future__ import annotations

import os

from gateway import app, deliverer, inbox, office  # noqa: F401 - all is imported before the clock is another
from gateway.cli import cli
from tests.month.clock import Clock

if __name__ == "__main__":
    clock = Clock.read(os.environ.pop("MONTH_CLOCK"))
    clock.rule()
    office.now = clock.now
    deliverer.FIRST_WAIT_S /= clock.speed
    deliverer.WAIT_S_MAX /= clock.speed
    # Files have the time of the system's clock: by ours, what is being written would have been left there an hour ago.
    inbox.DRAFT_S = float("inf")
    cli()
