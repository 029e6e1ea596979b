"""Several processes as one gateway: a back office, and workers that share the proxy's port.

The supervisor starts, watches, replaces and stops, and does nothing else: it has no event loop, no thread and no database,
so that what it forks is whole, and so that nothing but its own few lines can end it. What it starts first it stops last:
workers begin when the back office has published whom they may serve, and it ends when it has booked what they recorded. A
process that dies is started again; what it had recorded is in its spool.

On SIGHUP it reads anew what is to run, and replaces one process after the other: the successor begins first, on the same
sockets, and only when it is ready its predecessor is told to end. If a successor can not begin, all is put back.

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
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, NoReturn

import msgspec

from gateway.telemetry import log

STOP_MARGIN_S = 30
"""So much longer than calls have to end a process has to end itself, and to book; then it is killed."""

READY_S_MAX = 60
"""A successor that is not ready by then is given up."""

RESTART_S_MIN = 0.5
RESTART_S_MAX = 4.0
"""A process that dies is started again after so long; the wait doubles each time it dies young. However often one is killed,
it serves again within 5 s."""

YOUNG_S = 60
"""One that dies before this has not recovered from what killed the one before it."""

REFUSED = 3
"""The exit code of a process that can not start; it has said why."""

SOON = b"s"
"""Written on the leash when the whole gateway is going to stop; what is replaced is let go without a word."""


class StartRefused(Exception):
    """The gateway can not start; the message says why, and what to do."""


class ReloadRefused(Exception):
    """What is to run can not be read, or can not run without a new start. Holds every reason, and no secret."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = tuple(reasons)


class EndedBadly(Exception):
    """The gateway was told to stop, and a process of it did not end well; the message says which."""


class Life:
    """What a process hears of its own end, and how it says that it has begun."""

    def __init__(self, ready: Callable[[], None] = lambda: None) -> None:
        self.ready = ready
        self.stopping = asyncio.Event()
        """Set when it is going to end: it works on, and says so to whoever asks."""
        self.stopped = asyncio.Event()
        """Set when it is to end."""
        self.replaced = False
        """True where it ends alone, and its successor takes what comes."""

    def stop(self) -> None:
        self.stopping.set()
        self.stopped.set()


Main = Callable[[Life], Awaitable[None]]
"""What a process does: it says when it is ready, and ends soon after it was stopped. Raises StartRefused."""


class Role(NamedTuple):
    """One process to be."""

    name: str
    main: Main
    ended: Callable[[], None] = lambda: None
    """Called here when the process has ended, however it did."""


class Plan(NamedTuple):
    """What is to run."""

    stages: Sequence[Sequence[Role]]
    delay_s: float
    """Between the word that all of it will stop and the first that is told to."""
    grace_s: float
    """What calls under way have to end."""
    in_force: Callable[[str], None]
    """Called with an event for the log when all of this is ready: `serving`, `reloaded`."""

    @property
    def roles(self) -> list[tuple[int, Role]]:
        """Each with the number of its stage."""
        return [(number, role) for number, stage in enumerate(self.stages) for role in stage]


class _Duty(Enum):
    KEPT = auto()
    """It is started again when it dies."""
    TRIED = auto()
    """The successor of one that is kept, until it is ready."""
    LEAVING = auto()
    """It has a successor, or is not needed any more, and ends."""


@dataclass(slots=True, eq=False)
class _Process:
    """One process that is, or is to be again."""

    role: Role
    stage: int
    duty: _Duty = _Duty.KEPT
    pid: int = 0
    """0 while it does not run."""
    started: float = 0.0
    due: float = 0.0
    """When it is to be started."""
    over_at: float = float("inf")
    """When it is killed, if it still runs."""
    wait_s: float = RESTART_S_MIN
    heard: bytearray = field(default_factory=bytearray)
    pipe: int = -1
    """What it says is read here; -1 once it has said it."""
    leash: int = -1
    """When it is closed, by us or by our end, the process stops."""
    ready: bool = False


@dataclass(slots=True)
class _Change:
    """A reload under way."""

    plan: Plan
    todo: deque[tuple[int, Role]]
    """Those that do not run yet."""
    undoes: bool = False
    trying: _Process | None = None


class _Said(msgspec.Struct):
    """The one line that a process sends up: that it is ready, or why it can not start."""

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
    """Runs a plan until SIGTERM or SIGINT."""

    def __init__(
        self,
        plan: Plan,
        read: Callable[[], Plan],
        stopping: Callable[[], None],
        new_event_loop: Callable[[], asyncio.AbstractEventLoop] | None,
    ) -> None:
        """`read` reads what is to run from now on, and raises ReloadRefused; `stopping` is called when the first process
        is told to end."""
        self._plan = plan
        self._read = read
        self._stopped_accepting = stopping
        self._new_event_loop = new_event_loop
        self._processes = [_Process(role, stage) for stage, role in plan.roles]
        self._announced = False
        self._told = 0
        """How often we were told to stop."""
        self._asked = False
        """True if we were told to reload, and have not begun to."""
        self._change: _Change | None = None
        self._stopping = False
        self._release_at = 0.0
        """When the first process is told to end."""
        self._released = False
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
        # It may interrupt anything, a line of the log included: what is to be done is done in the loop.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._tell)
        signal.signal(signal.SIGHUP, self._ask)
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
            self._change_what_is_next()
            self._stop_what_is_next()
            self._kill_what_is_late()
        if self._problem is not None:
            raise (EndedBadly if self._announced else StartRefused)(self._problem)

    # -- what there is

    def _over(self) -> bool:
        return self._stopping and not any(process.pid for process in self._processes)

    def _patience(self) -> float | None:
        """How long nothing needs to be done, unless something happens."""
        if self._can_change:
            return 0.0
        until = [process.over_at for process in self._processes if process.pid]
        if not self._stopping:
            until += [process.due for process in self._processes if not process.pid and self._may_start(process)]
        elif not self._released:
            until.append(self._release_at)
        first = min(until, default=float("inf"))
        return None if first == float("inf") else max(0.0, first - time.monotonic())

    def _may_start(self, process: _Process) -> bool:
        """Stages begin one after the other; later, each process is started by itself."""
        return self._announced or all(other.ready for other in self._processes if other.stage < process.stage)

    def _kept(self, name: str) -> _Process | None:
        return next((one for one in self._processes if one.duty is _Duty.KEPT and one.role.name == name), None)

    # -- starting

    def _start_what_is_due(self) -> None:
        for process in tuple(self._processes):
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
            self._ended(process, f"no process can be made: {os.strerror(error.errno or 0)}")
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
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            for process in self._processes:
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
        life = Life(lambda: up.say(_Said()))
        loop = asyncio.get_running_loop()

        def pulled() -> None:
            if os.read(held, 1):
                life.stopping.set()
            else:
                loop.remove_reader(held)
                life.replaced = not life.stopping.is_set()
                life.stop()

        loop.add_reader(held, pulled)
        await role.main(life)

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
        refused = msgspec.json.decode(process.heard, type=_Said).refused
        if refused is None:
            process.ready = True
            self._became_ready(process)
        elif not self._announced:
            self._problem = refused
            self._stop()
        elif process.duty is _Duty.TRIED:
            self._give_up(process, refused)
        else:
            _say("process_refused", process=process.role.name, reason=refused)

    def _became_ready(self, process: _Process) -> None:
        if self._stopping:
            return
        if process.duty is _Duty.TRIED:
            self._take_over(process)
        elif not self._announced and all(other.ready for other in self._processes):
            self._announced = True
            self._plan.in_force("serving")

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            process = next((one for one in self._processes if one.pid == pid), None)
            if process is None:
                continue
            while process.pipe >= 0:
                self._hear(process)
            process.pid = 0
            process.ready = False
            process.role.ended()
            self._release(process)
            process.over_at = float("inf")
            code = os.waitstatus_to_exitcode(status)
            if (self._stopping or process.duty is _Duty.LEAVING) and code in (0, REFUSED):
                self._forget(process)
            else:
                self._ended(process, f"it ended with {code}")

    def _ended(self, process: _Process, reason: str) -> None:
        """One that was not to end, or not so, has ended."""
        name = process.role.name
        if self._stopping or process.duty is _Duty.LEAVING:
            _say("process_ended_badly", process=name, reason=reason)
            if self._stopping:
                self._problem = self._problem or f"{name}: {reason}; the log says why."
            self._forget(process)
        elif not self._announced:
            self._problem = self._problem or f"{name}: {reason} before it was ready; the log says why."
            self._stop()
        elif process.duty is _Duty.TRIED:
            self._give_up(process, f"{reason} before it was ready")
        else:
            now = time.monotonic()
            lived_s = now - process.started
            process.wait_s = RESTART_S_MIN if lived_s > YOUNG_S else min(process.wait_s * 2, RESTART_S_MAX)
            process.due = now + process.wait_s
            _say("process_died", process=name, reason=reason, again_in_s=process.wait_s)

    def _forget(self, process: _Process) -> None:
        if process.duty is not _Duty.KEPT:
            self._processes.remove(process)

    # -- replacing

    def _ask(self, _number: int, _frame: object) -> None:
        self._asked = True

    @property
    def _can_change(self) -> bool:
        """True if a reload is to begin, or to go on. One begins when all that the last one replaced has ended: however
        often it is asked, there are no more than two processes for each role."""
        if self._stopping or not self._announced:
            return False
        if self._change is not None:
            return self._change.trying is None
        return self._asked and not any(one.duty is _Duty.LEAVING for one in self._processes)

    def _change_what_is_next(self) -> None:
        """Begin a reload, try its next successor, or end it: what was planned is then in force."""
        if not self._can_change:
            return
        if self._change is None:
            self._begin_change()
        elif self._change.todo:
            stage, role = self._change.todo.popleft()
            successor = _Process(role, stage, _Duty.TRIED, over_at=time.monotonic() + READY_S_MAX)
            self._change.trying = successor
            self._processes.append(successor)
            self._start(successor)
        else:
            self._end_change(self._change)

    def _begin_change(self) -> None:
        self._asked = False
        _say("reloading", level=logging.INFO)
        try:
            plan = self._read()
        except ReloadRefused as refused:
            _say("reload_refused", reasons=refused.reasons)
        else:
            self._change = _Change(plan, deque(plan.roles))

    def _end_change(self, change: _Change) -> None:
        self._plan, self._change = change.plan, None
        names = {role.name for _, role in change.plan.roles}
        for process in [one for one in self._processes if one.duty is _Duty.KEPT and one.role.name not in names]:
            self._let_go(process)
        self._plan.in_force("reload_undone" if change.undoes else "reloaded")

    def _take_over(self, process: _Process) -> None:
        """A successor is ready: it is kept, and its predecessor goes."""
        predecessor = self._kept(process.role.name)
        process.duty, process.over_at = _Duty.KEPT, float("inf")
        if predecessor is not None:
            self._let_go(predecessor)
        if self._change is not None:
            self._change.trying = None

    def _let_go(self, process: _Process) -> None:
        process.duty = _Duty.LEAVING
        if process.pid:
            self._release(process)
        else:
            self._forget(process)

    def _give_up(self, process: _Process, reason: str) -> None:
        """A successor can not begin: those that were replaced before it are put back."""
        _say("reload_failed", process=process.role.name, reason=reason)
        process.duty = _Duty.LEAVING
        if not process.pid:
            self._forget(process)
        gave_up, self._change = self._change, None
        if gave_up is not None and not gave_up.undoes:
            back = deque(
                (stage, role)
                for stage, role in self._plan.roles
                if (kept := self._kept(role.name)) and kept.role is not role
            )
            self._change = _Change(self._plan, back, undoes=True)

    # -- stopping

    def _tell(self, _number: int, _frame: object) -> None:
        self._told += 1

    def _obey(self) -> None:
        if self._told and not self._stopping:
            self._stop()
        elif self._told > 1:
            # Told twice: whoever asks does not want to wait. What was recorded is shipped at the next start.
            for process in self._processes:
                self._kill(process)

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._release_at = time.monotonic() + (self._plan.delay_s if self._announced else 0)
            for process in self._processes:
                if process.leash >= 0:
                    with suppress(OSError):
                        os.write(process.leash, SOON)
            _say("stopping", level=logging.INFO)

    def _stop_what_is_next(self) -> None:
        """Stop the last stage that runs; when all of it has ended, the one before."""
        if not self._stopping or time.monotonic() < self._release_at:
            return
        if not self._released:
            self._released = True
            self._stopped_accepting()
        last = max((one.stage for one in self._processes if one.pid), default=0)
        for process in self._processes:
            if process.stage == last:
                self._release(process)

    def _release(self, process: _Process) -> None:
        """Tell a process to end."""
        if process.leash >= 0:
            os.close(process.leash)
            process.leash = -1
            process.over_at = time.monotonic() + self._plan.grace_s + STOP_MARGIN_S

    def _kill_what_is_late(self) -> None:
        for process in self._processes:
            if process.pid and time.monotonic() >= process.over_at:
                _say("process_late", process=process.role.name)
                process.over_at = float("inf")
                self._kill(process)

    def _kill(self, process: _Process) -> None:
        if process.pid:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def _say(event: str, *, level: int = logging.ERROR, **facts: object) -> None:
    """Log something, if anybody reads the log: that nobody does must not end the gateway."""
    with suppress(OSError):
        log.log(level, event, **facts)
