"""Whether names have come to a directory or gone from it, by one question to the file system instead of a list of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

SETTLED_NS = 100_000_000
"""File systems take the time of a change from a clock that ticks a few hundred times a second: what changed so lately may
change once more without its showing."""


class DirectoryChanges:
    """Changes of one directory. What is in its files does not count."""

    def __init__(self, directory: Path, again_s: float) -> None:
        """`again_s`: so long after the last time it counts as changed all the same, since not every file system tells the
        time of a change as finely, and since what is done about a change may have failed."""
        self._directory = directory
        self._again_s = again_s
        self._again_at_s = float("-inf")
        self._changed_ns: int | None = None

    def any(self) -> bool:
        """True if there are any since this was True the last time, or may be."""
        try:
            changed_ns = os.stat(self._directory).st_mtime_ns  # noqa: PTH116  Asked several times a second for ever.
        except OSError:
            changed_ns = 0  # Whoever lists it hears what is wrong.
        now_s = time.monotonic()
        if changed_ns == self._changed_ns and now_s < self._again_at_s:
            return False
        self._changed_ns = changed_ns if time.time_ns() - changed_ns > SETTLED_NS else None
        self._again_at_s = now_s + self._again_s
        return True
