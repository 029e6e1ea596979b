"""Which form tests take that have two: the short one of `make test`, or the long one of `make outages`."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

LONG_FORM = "LONG_FORM_OF_TESTS"
"""Read here and nowhere else."""

LONG = bool(os.environ.get(LONG_FORM))


def form(short: T, long: T) -> T:
    """What holds in the form that is run."""
    return long if LONG else short
