"""The gateway's command with small segments, and with a defect that the check of the order must find.

As a process: `python -m tests.system.misordered DEFECT serve`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from gateway.__main__ import main
from gateway.recorder import Recorder
from metering.spool import Spool

SEGMENT_BYTES = 7 << 16
"""With twenty calls under way, some eighty of them fill a segment: many are begun."""

LATE_S = 0.004
"""So late that the last byte has left, and so little that the room of a segment is not full of calls that wait for it."""


def outcomes_late() -> None:
    """The outcome of a call is written when its client has had the last byte for a while."""
    settle = Spool.settle

    def later(spool: Spool, *arguments: Any) -> None:
        asyncio.get_running_loop().call_later(LATE_S, settle, spool, *arguments)

    Spool.settle = later  # type: ignore[method-assign]


def nothing_awaited() -> None:
    """What is written is not waited for until it is synced."""

    async def at_once(recorder: Recorder) -> None:
        asyncio.ensure_future(recorder._spool.durable())  # noqa: RUF006  Nobody waits for it: that is the defect.

    Recorder.durable = at_once  # type: ignore[method-assign]


DEFECTS = {"none": lambda: None, "outcomes late": outcomes_late, "nothing awaited": nothing_awaited}

if __name__ == "__main__":
    assert Spool.__init__.__kwdefaults__ is not None
    Spool.__init__.__kwdefaults__["segment_bytes"] = SEGMENT_BYTES
    DEFECTS[sys.argv.pop(1)]()
    main()
