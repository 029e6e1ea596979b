"""`python -m tests.chaos.gateway …`: the command line of the gateway, in processes that die where they are told to.

What it changes besides: segments are small, so that they are changed under load; each back office makes a month more than
the one before it; and who dies young is started again as soon as who does not, since here everybody does. Then either what
was booked is discarded after seconds; or nothing is, and how far spools were read is never kept, so that each back office
reads and books again all that is there.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from gateway import app, back_office, shipper, supervisor, worker
from gateway.cli import cli
from metering import ledger, months
from tests.chaos import points

DIRECTORY, SEGMENT_BYTES, FORGETS = "CHAOS_DIRECTORY", "CHAOS_SEGMENT_BYTES", "CHAOS_FORGETS"
"""What the environment says: the last is there, and empty, where positions are kept."""

BEGUN, READY = "begun", "ready"
"""Where processes write their ids, each under the name of its role: when they begin, and when they are ready."""


def role(directory, name, main, *more):
    """A role of the supervisor's that says which process it is."""

    async def begun(life):
        (directory / BEGUN / name).write_text(str(os.getpid()))
        if name.startswith("worker"):
            points.passed("worker-begun")
        else:
            with (directory / "offices").open("a") as lives:
                lives.write(".")
                months.AHEAD += lives.tell()

        ready = life.ready

        def told():
            ready()
            (directory / READY / name).write_text(str(os.getpid()))

        life.ready = told
        await main(life)

    return supervisor.Role(name, begun, *more)


async def forget(connection, moved, at):
    """Keep no position."""


if __name__ == "__main__":
    directory = Path(os.environ.pop(DIRECTORY))
    os.setpgid(0, 0)
    if os.environ.pop(FORGETS):
        ledger.move = forget
    else:
        back_office.Shipper = partial(back_office.Shipper, retention_s=2)
    points.install(directory)
    app.Role = partial(role, directory)
    worker.Spool = partial(worker.Spool, segment_bytes=int(os.environ.pop(SEGMENT_BYTES)))
    supervisor.YOUNG_S = 0
    shipper.HOUSEKEEPING_S = 1
    cli.main()
