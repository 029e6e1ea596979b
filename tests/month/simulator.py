"""`python -m tests.month.simulator …`: the simulated providers, under another time of day."""

from __future__ import annotations

import os

from gateway.simulator.__main__ import main
from tests.month.clock import Clock

if __name__ == "__main__":
    Clock.read(os.environ.pop("MONTH_CLOCK")).rule()
    main()
