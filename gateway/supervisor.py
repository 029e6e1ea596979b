"""Several processes as one gateway: a back office, and workers that share the proxy's port.

The supervisor starts, watches and stops, and does nothing else: it has no event loop, no thread and no database, so that
what it forks is whole, and so that nothing but its own few lines can end it. What it starts first it stops last: workers
begin when the back office has published whom they may serve, and it ends when it has booked what they recorded. A process
that dies is started again; what it had recorded is in its spool.

Why forked and not started anew: the workers then share the memory of what was imported once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
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


class EndedBadly(Exception):
    """The gateway was told to stop, and a process of it did not end well; the message says which."""


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
    """What it says is read here; -1 once it has said it."""
    leash: int = -1
    """Nothing is ever written to it. When it is closed, by us or by our end, the process stops."""
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
        self._told = 0
        """How often we were told to stop."""
        self._stopping = False
        self._stage_stops_at = 0.0
        self._problem: str | None = None
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()

    def run(self) -> None:
        """Raises StartRefused if a process can not start, and EndedBadly."""
        for end in (self._woken, self._wake):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            # It may interrupt anything, a line of the log included: what is to be done is done in the loop.
            signal.signal(number, self._tell)
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
            self._obey()
            self._stop_what_is_next()
        if self._problem is not None:
            raise (EndedBadly if self._announced else StartRefused)(self._problem)

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
            return max(0.05, self._stage_stops_at - now)
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
        process.started = time.monotonic()
        reading, writing = os.pipe()
        held, leash = os.pipe()
        with suppress(OSError):
            sys.stdout.flush()
        try:
            pid = os.fork()
        except OSError as error:
            for fd in (reading, writing, held, leash):
                os.close(fd)
            self._again_later(process, f"no process can be made: {os.strerror(error.errno or 0)}")
            return
        if pid == 0:
            for fd in (reading, leash):
                os.close(fd)
            self._be(process.role, writing, held)
        for fd in (writing, held):
            os.close(fd)
        process.pid, process.pipe, process.leash = pid, reading, leash
        process.heard.clear()
        process.ready = False
        self._selector.register(reading, selectors.EVENT_READ, process)

    def _be(self, role: Role, writing: int, held: int) -> NoReturn:
        """Be this process from here on."""
        code, up = 1, _Up(writing)
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # A Ctrl-C reaches every process of the terminal, a service manager's signal every one of the service: only the
            # supervisor is to act on them, in its order.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            for process in self._all:
                for fd in (process.pipe, process.leash):
                    if fd >= 0:
                        os.close(fd)
            self._woken.close()
            self._wake.close()
            self._selector.close()
            with asyncio.Runner(loop_factory=self._new_event_loop) as runner:
                runner.run(self._life(role, up, held))
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

    async def _life(self, role: Role, up: _Up, held: int) -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()

        def released() -> None:
            loop.remove_reader(held)
            stopped.set()

        loop.add_reader(held, released)
        await role.main(lambda facts: up.say(_Said(ready=dict(facts))), stopped)

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
            self._problem = told.refused
            self._stop()
        elif told.refused is not None:
            _say("process_refused", process=process.role.name, reason=told.refused)
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
            self._release(process)
            self._ended(process, os.waitstatus_to_exitcode(status))

    def _ended(self, process: _Process, code: int) -> None:
        name = process.role.name
        if self._stopping:
            if code not in (0, REFUSED):
                _say("process_ended_badly", process=name, code=code)
                self._problem = self._problem or f"{name} ended with {code}; the log says why."
        elif not self._announced:
            self._problem = self._problem or f"{name} ended with {code} before it was ready; the log says why."
            self._stop()
        else:
            self._again_later(process, f"it ended with {code}")

    def _again_later(self, process: _Process, reason: str) -> None:
        now = time.monotonic()
        lived_s = now - process.started
        process.wait_s = RESTART_S_MIN if lived_s > YOUNG_S else min(process.wait_s * 2, RESTART_S_MAX)
        process.due = now + process.wait_s
        _say("process_died", process=process.role.name, reason=reason, again_in_s=process.wait_s)

    # -- stopping

    def _tell(self, _number: int, _frame: object) -> None:
        self._told += 1

    def _obey(self) -> None:
        if self._told and not self._stopping:
            self._stop()
        elif self._told > 1:
            # Told twice: whoever asks does not want to wait. What was recorded is shipped at the next start.
            for process in self._all:
                self._kill(process)

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._stopped_accepting()
            _say("stopping", level=logging.INFO)

    def _stop_what_is_next(self) -> None:
        """Stop the last stage that runs; when all of it has ended, the one before."""
        if not self._stopping:
            return
        running = next((stage for stage in reversed(self._stages) if any(one.pid for one in stage)), ())
        for process in running:
            if process.leash >= 0:
                self._release(process)
                self._stage_stops_at = time.monotonic() + STOP_S_MAX
            elif time.monotonic() > self._stage_stops_at:
                self._kill(process)

    def _release(self, process: _Process) -> None:
        if process.leash >= 0:
            os.close(process.leash)
            process.leash = -1

    def _kill(self, process: _Process) -> None:
        if process.pid:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def _say(event: str, *, level: int = logging.ERROR, **facts: object) -> None:
    """Log something, if anybody reads the log: that nobody does must not end the gateway."""
    with suppress(OSError):
        log.log(level, event, **facts)
