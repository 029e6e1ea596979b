"""`tollkeeper serve` with its worker and its back office under a sampler: run by `tests.bench.profile`.

    python -m tests.bench.profiled DIRECTORY

Nothing of the gateway changes but that, in these processes, a timer of their own CPU time looks at the stack; each writes
what was seen into the directory when it ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from gateway import app
from gateway.cli import cli

EACH_S = 0.001
"""Of CPU time; systems tick slower than that, so as often as they can."""


class Sampler:
    """Counts where the program is."""

    def __init__(self) -> None:
        self.samples = 0
        self._own: Counter[tuple[str, int, str]] = Counter()
        self._within: Counter[tuple[str, int, str]] = Counter()
        self._lines: Counter[tuple[str, int, str]] = Counter()

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._look)
        signal.siginterrupt(signal.SIGPROF, False)
        signal.setitimer(signal.ITIMER_PROF, EACH_S, EACH_S)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _look(self, _number, frame):
        self.samples += 1
        if frame is None:
            return
        code, line = frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno
        # A signal that came in the midst of C is seen when that calls a function of Python, at its very beginning.
        entered = line == code.co_firstlineno and code.co_name != "<lambda>"
        name = f"C code that calls {code.co_qualname}" if entered else code.co_qualname
        self._own[code.co_filename, code.co_firstlineno, name] += 1
        self._lines[code.co_filename, line, name] += 1
        within = {(code.co_filename, code.co_firstlineno, name)}
        while frame is not None:
            code = frame.f_code
            within.add((code.co_filename, code.co_firstlineno, code.co_qualname))
            frame = frame.f_back
        self._within.update(within)

    def write(self, path: Path) -> None:
        counted = {"own": self._own, "within": self._within, "lines": self._lines}
        found = {name: [[*place, number] for place, number in one.most_common()] for name, one in counted.items()}
        path.write_text(json.dumps({"samples": self.samples, **found}))


def sampled(main, name, directory):
    """The same, sampled from when it is ready until it is told to stop."""

    async def run(*arguments):
        *given, life = arguments
        sampler, ready = Sampler(), life.ready

        def ready_and_sampled():
            ready()
            sampler.start()

        life.ready = ready_and_sampled
        try:
            await main(*given, life)
        finally:
            sampler.stop()
            sampler.write(directory / f"{name}-{os.getpid()}.json")

    return run


if __name__ == "__main__":
    written_to = Path(sys.argv[1])
    app._worker = sampled(app._worker, "worker", written_to)
    app._backoffice = sampled(app._backoffice, "back office", written_to)
    cli.main(["serve"])
