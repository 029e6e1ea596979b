"""A supervisor with roles that only write down what happens to them; run as a program by its tests.

    python -m tests.gateway.supervised JOURNAL ROLE:HOW ROLE:HOW / ROLE:HOW …

A slash begins the next stage. How: `works`; `refuses` to start; `dies` before it is ready; `hangs` and never is; `gives-up`
when w0 is ready, too, the first time; `crashes` once it is ready, and the first time w0, too; `marks` that it is; `lingers` for a while when told to stop; `deaf` to that.
What is to run after SIGHUP stands in the file JOURNAL.next in the same form, or is what ran before.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from functools import partial
from pathlib import Path

from gateway import supervisor
from gateway.supervisor import Plan, ReloadRefused, Role, StartRefused, Supervisor
from gateway.telemetry import configure

LINGERS_S = 1.5


def write(journal, name, what):
    with Path(journal).open("a") as file:
        file.write(json.dumps([name, what, os.getpid()]) + "\n")


async def act(journal, name, how, life):
    def note(what):
        write(journal, name, what)

    def times(role):
        return Path(journal).read_text().count(f'["{role}", "ready"')

    if how == "refuses":
        raise StartRefused(f"{name} has no port")
    if how == "dies":
        raise RuntimeError(name)
    if how == "hangs":
        await asyncio.Event().wait()
    note("ready")
    life.ready()
    if how == "marks":
        note("marked")
    if how in ("crashes", "gives-up") and times(name) == 1:
        while not times("w0"):  # noqa: ASYNC110  A file has no event.
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
    if how == "crashes":
        raise RuntimeError(name)
    if how == "gives-up" and times(name) == 1:
        raise StartRefused(f"{name} has no more to do")
    await life.stopping.wait()
    note("replaced" if life.replaced else "stopping soon")
    await (asyncio.Event() if how == "deaf" else life.stopped).wait()
    note("stopping")
    await asyncio.sleep(LINGERS_S if how == "lingers" else 0.2)
    note("stopped")


def say(**facts):
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def planned(journal, wanted, delay_s):
    stages = [[]]
    for one in wanted:
        if one == "/":
            stages.append([])
        else:
            name, how = one.split(":")
            stages[-1].append(Role(name, partial(act, journal, name, how), partial(write, journal, name, "over")))
    return Plan(stages, delay_s, 1, lambda event: say(event=event, roles=wanted))


def main():
    journal, *wanted = sys.argv[1:]
    delay_s = float(os.environ.get("DELAY_S", "0"))
    supervisor.READY_S_MAX = float(os.environ.get("READY_S_MAX", "60"))
    supervisor.STOP_MARGIN_S = float(os.environ.get("STOP_MARGIN_S", "30"))

    def read():
        following = Path(journal + ".next")
        found = following.read_text().split() if following.exists() else wanted
        if not found:
            raise ReloadRefused(["nothing is to run", "and nobody knows why"])
        return planned(journal, found, delay_s)

    configure(as_json=True, level="info")
    try:
        Supervisor(planned(journal, wanted, delay_s), read, lambda: say(event="closing"), None).run()
    except StartRefused as error:
        say(event="refused", reason=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
