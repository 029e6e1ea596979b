"""The named points at which the gateway is killed: where in a call's way, and in the way of its records, each of them is.

The product has no hook for this. `install` wraps the functions that a point is before or after, and a process dies by its
own SIGKILL when it passes a point for which there is an order. An order is a file, and is taken by renaming it: one process
dies of it, once, and whoever comes after it lives on.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from functools import wraps
from importlib import import_module
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

WORKER, OFFICE = "worker-0", "backoffice"

BOTH = ("sqlite", "postgres")


class Comes(StrEnum):
    """What has to happen so that a point is passed."""

    UNDER_LOAD = "under load"
    AFTER_A_KILL = "when another takes the place of one that was killed"
    FIRST = "at the first start"
    AT_STOP = "when the gateway is told to stop"
    WITH_A_CHANGE = "when a key is made"


class Wrap(NamedTuple):
    """A function of the gateway's, or of the system's as the gateway calls it, and on which side of it the point is."""

    place: str
    """`module:name`, or `module:Class.name`."""
    after: bool
    only: Callable[..., bool] = lambda *_: True
    """Of its calls, those with such arguments."""
    within: str | None = None
    """Only while this other function runs."""
    torn: bool = False
    """It writes: half of that is written first."""
    later_s: float = 0.0
    """So much later: what was written to a connection leaves at the end of the loop's turn."""


class Point(NamedTuple):
    """One of them."""

    wrap: Wrap | None
    """None where `_in_transactions`, or the launcher, knows it."""
    comes: Comes = Comes.UNDER_LOAD
    kill: str = WORKER
    """Which of several processes is killed first, where it comes after a kill."""
    engines: tuple[str, ...] = BOTH
    fsync: bool = False
    """True where it is only passed in installations with fsync (`run.Variant`)."""
    passages_max: int = 1
    """The process dies at a passage that is drawn among so many."""


def before(place: str, only: Callable[..., bool] = lambda *_: True, *, within: str | None = None) -> Wrap:
    return Wrap(place, after=False, only=only, within=within)


def after(
    place: str, only: Callable[..., bool] = lambda *_: True, *, within: str | None = None, later_s: float = 0.0
) -> Wrap:
    return Wrap(place, after=True, only=only, within=within, later_s=later_s)


def torn(kind: int) -> Wrap:
    """In the middle of writing a record of this kind: its fourth byte says so (`metering/spool_records.py`)."""
    return Wrap("os:pwrite", after=False, only=lambda _fd, data, *_: data[3] == kind, torn=True)


def moving(suffix: str) -> Callable[..., bool]:
    return lambda source, *_: str(source).endswith(suffix)


OPEN, CLOSE = "metering.spool:Spool.open", "metering.spool:Spool.close"
DISCARD, MONTHS = "metering.spool_reader:discard", "metering.months:Months.ensure"

POINTS: dict[str, Point] = {
    # The path of a call.
    "before-intent": Point(before("gateway.recorder:Recorder.begin"), passages_max=50),
    "intent-torn": Point(torn(1), passages_max=50),
    "intent-written": Point(after("metering.spool:Spool.admit"), passages_max=50),
    "being-synced": Point(before("os:fdatasync"), fsync=True, passages_max=50),
    "intent-synced": Point(after("gateway.recorder:Recorder.begin"), fsync=True, passages_max=50),
    "before-connecting": Point(before("gateway.upstream:Pool.connected")),
    "request-sent": Point(after("gateway.upstream:Connection.send", later_s=0.005), passages_max=50),
    "answer-begun": Point(after("gateway.upstream:Connection.answer"), passages_max=50),
    "answer-in-part": Point(after("gateway.listener:Exchange.send"), passages_max=100),
    "before-outcome": Point(before("gateway.recorder:Recorder.outcome"), passages_max=50),
    "outcome-torn": Point(torn(2), passages_max=50),
    "outcome-written": Point(after("gateway.recorder:Recorder.outcome"), passages_max=50),
    "outcome-synced": Point(after("gateway.proxy:Proxy._outcome"), fsync=True, passages_max=50),
    "before-last-byte": Point(before("gateway.listener:Exchange.finish"), passages_max=50),
    "after-last-byte": Point(after("gateway.listener:Exchange.finish", later_s=0.005), passages_max=50),
    "refusal-recorded": Point(after("gateway.recorder:Recorder.nothing"), passages_max=3),
    # The life of a spool.
    "spool-locked": Point(before("os:posix_fallocate", within=OPEN), Comes.AFTER_A_KILL),
    "segment-made": Point(before("os:rename", moving(".new"))),
    "segment-named": Point(after("os:rename", moving(".new"))),
    "segment-before-cut": Point(before("os:ftruncate")),
    # The shipper.
    "records-read": Point(before("gateway.shipper:Shipper._booked", lambda _, facts, *__: bool(facts)), passages_max=5),
    "transaction-begun": Point(before("gateway.shipper:book"), passages_max=5),
    "booked": Point(after("gateway.shipper:book"), passages_max=5),
    "position-moved": Point(after("metering.ledger:move"), passages_max=5),
    "committed": Point(None, passages_max=5),
    "spool-read-to-its-end": Point(before("metering.spool_reader:finish"), Comes.AFTER_A_KILL),
    "spool-cut": Point(before("os:rename", moving(".lock")), Comes.AFTER_A_KILL),
    "spools-half-discarded": Point(after("os:unlink", within=DISCARD), Comes.AFTER_A_KILL, fsync=True),
    "months-looked-up": Point(None, Comes.AFTER_A_KILL, kill=OFFICE),
    "months-made": Point(None, Comes.AFTER_A_KILL, kill=OFFICE, engines=("postgres",)),
    # Tenants and keys.
    "change-committed": Point(before("gateway.accounts:write"), Comes.WITH_A_CHANGE),
    "snapshot-written": Point(before("os:rename", moving(".draft")), Comes.WITH_A_CHANGE),
    # Starting and stopping.
    "schema-made": Point(after("gateway.schema:_upgrade"), Comes.FIRST),
    "worker-begun": Point(None, Comes.AFTER_A_KILL, engines=("postgres",)),
    "worker-before-listening": Point(before("gateway.listener:Listener.open"), Comes.AFTER_A_KILL),
    "stopping": Point(before("gateway.listener:Listener.close"), Comes.AT_STOP),
    "stopping-spool-cut": Point(after("os:ftruncate", within=CLOSE), Comes.AT_STOP),
}


# ---------------------------------------------------------------------------------------------------------------------
# Orders

ORDERS, TAKEN = "orders", "taken"

_rename, _exists = os.rename, os.path.exists  # As they were before `install`.
_directory = ""
_passages: Counter[str] = Counter()
_running: Counter[str] = Counter()
"""How often each function that points are within is running."""


def give_order(directory: Path, name: str, passage: int) -> None:
    """Have the process die that passes this point for the so-manieth time from now on."""
    draft = directory / f"{name}.draft"
    draft.write_text(str(passage))
    _rename(draft, directory / ORDERS / name)


def victim(directory: Path, name: str) -> int | None:
    """The id of the process that has obeyed the order, if one has; it may take another moment to be gone."""
    taken = directory / TAKEN / name
    return int(taken.read_text()) if taken.exists() else None


def passed(name: str) -> None:
    """This point is passed: die here if that was ordered."""
    if _due(name):
        _die()


def _due(name: str) -> bool:
    order = f"{_directory}/{ORDERS}/{name}"
    if not _exists(order):
        return False
    _passages[name] += 1
    mine = f"{order}.{os.getpid()}"
    try:
        if _passages[name] < int(Path(order).read_text()):
            return False
        _rename(order, mine)
    except (FileNotFoundError, ValueError):
        return False  # Another process has taken it; what was opened before may be empty by now.
    Path(mine).write_text(str(os.getpid()))
    _rename(mine, f"{_directory}/{TAKEN}/{name}")
    return True


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("alive")


# ---------------------------------------------------------------------------------------------------------------------
# Wrapping


def install(directory: Path) -> None:
    """Make every point one at which this process, and those that it forks, obey the orders in a directory."""
    global _directory  # noqa: PLW0603
    _directory = str(directory)
    for place in {point.wrap.within for point in POINTS.values() if point.wrap is not None and point.wrap.within}:
        _replace(place, lambda function, place=place: _counted(function, place))
    for name, point in POINTS.items():
        if point.wrap is not None:
            _replace(point.wrap.place, lambda function, name=name, wrap=point.wrap: _wrapped(function, name, wrap))
    _replace(MONTHS, lambda function: _counted(function, MONTHS))
    _replace("gateway.shipper:book", lambda function: _counted(function, "booking", back=False))
    for database in ("metering.database_sqlite:SqliteDatabase", "metering.database_postgres:PostgresDatabase"):
        _replace(f"{database}.transaction", _in_transactions)
        _replace(f"{database}.reading", _before_questions)


def _replace(place: str, wrapping: Callable[[Any], Any]) -> None:
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = import_module(module)
    for one in owners:
        owner = getattr(owner, one)
    setattr(owner, name, wrapping(getattr(owner, name)))


def _wrapped(function: Any, name: str, wrap: Wrap) -> Any:
    def here(arguments: tuple[Any, ...]) -> bool:
        return (wrap.within is None or _running[wrap.within] > 0) and wrap.only(*arguments)

    if iscoroutinefunction(function):

        @wraps(function)
        async def waiting(*arguments: Any, **named: Any) -> Any:
            if not wrap.after and here(arguments):
                passed(name)
            result = await function(*arguments, **named)
            if wrap.after and here(arguments):
                passed(name)
            return result

        return waiting

    @wraps(function)
    def calling(*arguments: Any, **named: Any) -> Any:
        if wrap.torn and here(arguments) and _due(name):
            fd, data, *where = arguments
            function(fd, data[: len(data) // 2], *where)
            _die()
        if not wrap.torn and not wrap.after and here(arguments):
            passed(name)
        result = function(*arguments, **named)
        if wrap.after and here(arguments):
            if wrap.later_s:
                asyncio.get_running_loop().call_later(wrap.later_s, passed, name)
            else:
                passed(name)
        return result

    return calling


def _counted(function: Any, place: str, *, back: bool = True) -> Any:
    """Count how often a function is running; without `back`, how often it ran since somebody looked."""
    if iscoroutinefunction(function):

        @wraps(function)
        async def waiting(*arguments: Any, **named: Any) -> Any:
            _running[place] += 1
            try:
                return await function(*arguments, **named)
            finally:
                _running[place] -= back

        return waiting

    @wraps(function)
    def calling(*arguments: Any, **named: Any) -> Any:
        _running[place] += 1
        try:
            return function(*arguments, **named)
        finally:
            _running[place] -= back

    return calling


def _in_transactions(transaction: Any) -> Any:
    @asynccontextmanager
    async def watched(self: Any) -> Any:
        async with transaction(self) as connection:
            yield connection
            if _running[MONTHS]:
                passed("months-made")
        if _running.pop("booking", 0):
            passed("committed")

    return watched


def _before_questions(reading: Any) -> Any:
    @wraps(reading)
    def watched(self: Any) -> Any:
        if _running[MONTHS]:
            passed("months-looked-up")
        return reading(self)

    return watched
