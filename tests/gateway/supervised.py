"""A supervisor with roles that only write down what happens to them; run as a program by its tests.

    python -m tests.gateway.supervised JOURNAL ROLE:HOW ROLE:HOW / ROLE:HOW …

A slash begins the next stage. How: `works`; `refuses` to start; `dies` before it is ready; `gives-up` when w0 is, too, the
first time; `deaf` to being told to stop.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

from gateway.supervisor import Role, StartRefused, Supervisor
from gateway.telemetry import configure


async def act(journal, name, how, ready, stopped):
    def note(what):
        with Path(journal).open("a") as file:
            file.write(json.dumps([name, what, os.getpid()]) + "\n")

    def times(role):
        return Path(journal).read_text().count(f'["{role}", "ready"')

    if how == "refuses":
        raise StartRefused(f"{name} has no port")
    if how == "dies":
        raise RuntimeError(name)
    if how == "deaf":
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note("ready")
    ready({name: os.getpid()})
    if how == "gives-up" and times(name) == 1:
        while not times("w0"):  # noqa: ASYNC110  A file has no event.
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        raise StartRefused(f"{name} has no more to do")
    await (asyncio.Event() if how == "deaf" else stopped).wait()
    note("stopping")
    await asyncio.sleep(0.2)
    note("stopped")


def main():
    journal, *wanted = sys.argv[1:]
    stages = [[]]
    for one in wanted:
        if one == "/":
            stages.append([])
        else:
            name, how = one.split(":")
            stages[-1].append(Role(name, partial(act, journal, name, how)))

    def serving(facts):
        sys.stdout.write(json.dumps({"event": "serving", **facts}) + "\n")
        sys.stdout.flush()

    configure(as_json=True, level="info")
    try:
        Supervisor(stages, serving, lambda: None, None).run()
    except StartRefused as error:
        sys.stdout.write(json.dumps({"event": "refused", "reason": str(error)}) + "\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
