"""Several processes as one gateway: a back office, and workers that share the proxy's port.

The supervisor starts, watches and stops, and does nothing else: it has no event loop, no thread and no database, so that
what it forks is whole, and so that nothing but its own few lines can end it. What it starts first it stops last: workers
begin when the back office has published whom they may serve, and it ends when it has booked what they recorded. A process
that dies is started again; what it had recorded is in its spool.

Why forked and not started anew: the workers then share the memory of what was imported once.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import msgspec

from gateway.telemetry import log

STOP_S_MAX = 60
"""A process that was told to stop and has not by then is killed; calls under way have 30 s of it."""

RESTART_S_MIN = 0.5
RESTART_S_MAX = 30.0
"""A process that dies is started again after so long; the wait doubles each time it dies young."""

YOUNG_S = 60
"""One that dies before this has not recovered from what killed the one before it."""

REFUSED = 3
"""The exit code of a process that can not start; it has said why."""

Facts = Mapping[str, object]
"""What a process says of itself when it is ready: the port it found."""

Main = Callable[[Callable[[Facts], None], asyncio.Event], Awaitable[None]]
"""What a process does: it says that it is ready, and ends soon after the event is set. Raises StartRefused."""


class StartRefused(Exception):
    """The gateway can not start; the message says why, and what to do."""


class Role(NamedTuple):
    """One process to be."""

    name: str
    main: Main


@dataclass(slots=True)
class _Process:
    """One process that is, or is to be again."""

    role: Role
    pid: int = 0
    """0 while it does not run."""
    started: float = 0.0
    due: float = 0.0
    """When it is to be started."""
    wait_s: float = RESTART_S_MIN
    heard: bytearray = field(default_factory=bytearray)
    pipe: int = -1
    ready: bool = False


class _Said(msgspec.Struct):
    """The one line that a process sends up: its facts, or why it can not start."""

    ready: dict[str, object] | None = None
    refused: str | None = None


class _Up:
    """The way up from a process to its supervisor, on which it says one thing."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.said = False

    def say(self, what: _Said) -> None:
        self.said = True
        os.write(self._fd, msgspec.json.encode(what))
        os.close(self._fd)


class Supervisor:
    """Runs roles in stages until SIGTERM or SIGINT."""

    def __init__(
        self,
        stages: Sequence[Sequence[Role]],
        serving: Callable[[Facts], None],
        stopping: Callable[[], None],
        new_event_loop: Callable[[], asyncio.AbstractEventLoop] | None,
    ) -> None:
        """`serving` is told, once, what all processes said when the last of them became ready; `stopping` is called when
        the first of them is told to end."""
        self._stages = [[_Process(role) for role in stage] for stage in stages]
        self._serving = serving
        self._stopped_accepting = stopping
        self._new_event_loop = new_event_loop
        self._facts: dict[str, object] = {}
        self._announced = False
        self._stopping = False
        self._told_at = 0.0
        self._refusal: str | None = None
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        # Nobody writes to it: when it ends, there is no supervisor any more.
        self._alive_read, self._alive = os.pipe()

    def run(self) -> None:
        """Raises StartRefused if a process can not start."""
        for end in (self._woken, self._wake):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_stop)
        # What was imported stays where it is, and is not copied for being counted.
        gc.collect()
        gc.freeze()
        while not self._over():
            self._start_what_is_due()
            for key, _ in self._selector.select(self._patience()):
                if key.data is None:
                    self._woken.recv(4096)
                else:
                    self._hear(key.data)
            self._reap()
            self._stop_what_is_next()
        if self._refusal is not None:
            raise StartRefused(self._refusal)

    # -- what there is

    @property
    def _all(self) -> list[_Process]:
        return [process for stage in self._stages for process in stage]

    def _over(self) -> bool:
        return self._stopping and not any(process.pid for process in self._all)

    def _patience(self) -> float | None:
        """How long nothing needs to be done, unless something happens."""
        now = time.monotonic()
        if self._stopping:
            return max(0.05, self._told_at + STOP_S_MAX - now)
        dues = [process.due for process in self._all if not process.pid and self._may_start(process)]
        return max(0.0, min(dues) - now) if dues else None

    def _may_start(self, process: _Process) -> bool:
        """Stages begin one after the other; later, each process is started by itself."""
        for stage in self._stages:
            if process in stage:
                return True
            if not self._announced and not all(other.ready for other in stage):
                return False
        return False

    # -- starting

    def _start_what_is_due(self) -> None:
        for process in self._all:
            if not self._stopping and not process.pid and process.due <= time.monotonic() and self._may_start(process):
                self._start(process)

    def _start(self, process: _Process) -> None:
        reading, writing = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            self._be(process.role, writing)
        os.close(writing)
        process.pid, process.pipe, process.started = pid, reading, time.monotonic()
        process.heard.clear()
        process.ready = False
        self._selector.register(reading, selectors.EVENT_READ, process)

    def _be(self, role: Role, writing: int) -> NoReturn:
        """Be this process from here on."""
        code, up = 1, _Up(writing)
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # A Ctrl-C reaches every process of the terminal; only the supervisor is to act on it.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(self._alive)
            for process in self._all:
                if process.pipe >= 0:
                    os.close(process.pipe)
            self._woken.close()
            self._wake.close()
            self._selector.close()
            with asyncio.Runner(loop_factory=self._new_event_loop) as runner:
                runner.run(self._life(role, up))
            code = 0
        except StartRefused as error:
            if up.said:
                log.critical("process_gave_up", process=role.name, reason=str(error))
            else:
                up.say(_Said(refused=str(error)))
            code = REFUSED
        except Exception as error:  # noqa: BLE001  The last line of defence of this process.
            log.critical("process_failed", process=role.name, error=type(error).__name__, exc_info=True)
        finally:
            with suppress(OSError):
                sys.stdout.flush()
            # No handler of the supervisor's may run here a second time.
            os._exit(code)

    async def _life(self, role: Role, up: _Up) -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        loop.add_reader(self._alive_read, self._orphaned, stopped)
        await role.main(lambda facts: up.say(_Said(ready=dict(facts))), stopped)

    def _orphaned(self, stopped: asyncio.Event) -> None:
        asyncio.get_running_loop().remove_reader(self._alive_read)
        stopped.set()

    # -- watching

    def _hear(self, process: _Process) -> None:
        """Take what a process sends up; when it has said all, act on it."""
        said = os.read(process.pipe, 4096)
        process.heard += said
        if said:
            return
        self._selector.unregister(process.pipe)
        os.close(process.pipe)
        process.pipe = -1
        if not process.heard:
            return
        # One line, and shorter than what a pipe takes at once.
        told = msgspec.json.decode(process.heard, type=_Said)
        if told.refused is not None and not self._announced:
            self._refusal = told.refused
            self._stop()
        elif told.refused is not None:
            log.error("process_refused", process=process.role.name, reason=told.refused)
        elif told.ready is not None:
            process.ready = True
            self._facts |= told.ready
            if not self._announced and all(other.ready for other in self._all):
                self._announced = True
                self._serving(self._facts)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            process = next((one for one in self._all if one.pid == pid), None)
            if process is None:
                continue
            while process.pipe >= 0:
                self._hear(process)
            process.pid = 0
            process.ready = False
            self._ended(process, os.waitstatus_to_exitcode(status))

    def _ended(self, process: _Process, code: int) -> None:
        name = process.role.name
        if self._stopping:
            if code not in (0, REFUSED, -signal.SIGTERM):
                log.error("process_ended_badly", process=name, code=code)
                self._refusal = self._refusal or f"{name} ended with {code}; the log says why."
        elif not self._announced:
            self._refusal = f"{name} ended with {code} before it was ready; the log says why."
            self._stop()
        else:
            lived_s = time.monotonic() - process.started
            process.wait_s = RESTART_S_MIN if lived_s > YOUNG_S else min(process.wait_s * 2, RESTART_S_MAX)
            process.due = time.monotonic() + process.wait_s
            log.error("process_died", process=name, code=code, again_in_s=process.wait_s)

    # -- stopping

    def _told_to_stop(self, _number: int, _frame: object) -> None:
        if self._stopping:
            # Told twice: whoever asks does not want to wait. What was recorded is shipped at the next start.
            for process in self._all:
                self._signal(process, signal.SIGKILL)
        self._stop()

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._told_at = time.monotonic()
            log.info("stopping")
            self._stopped_accepting()

    def _stop_what_is_next(self) -> None:
        """Stop the last stage that runs; when all of it has ended, the one before."""
        if not self._stopping:
            return
        running = next((stage for stage in reversed(self._stages) if any(one.pid for one in stage)), ())
        late = time.monotonic() > self._told_at + STOP_S_MAX
        for process in running:
            self._signal(process, signal.SIGKILL if late else signal.SIGTERM)

    def _signal(self, process: _Process, number: signal.Signals) -> None:
        if process.pid:
            try:
                os.kill(process.pid, number)
            except OSError as error:
                if error.errno != errno.ESRCH:
                    raise
