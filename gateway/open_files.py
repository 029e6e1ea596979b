"""How many files this process may have open, and so how many connections fit: each is one, and its call another."""

from __future__ import annotations

import fcntl
import os
import resource
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gateway.limits import ClientLimits, UpstreamLimits
from gateway.telemetry import log

OWN_FILES = 128
"""What the ledger, the spool, the log, the control API and the libraries have open, together and at most."""


def granted(clients: ClientLimits, upstream: UpstreamLimits) -> ClientLimits:
    """Raise this process's limit of open files as far as these limits need it, and return what of them fits into it. The
    system is asked for a table of so many now.

    Systems commonly allow 1,024 files, and let a process raise that by itself. Where it can not be raised far enough,
    fewer connections are granted, and the log says so: one that can not be accepted hangs, one beyond the limit is told.
    """
    needed = clients.connections_max + _apart(upstream) + min(clients.calls_max, clients.connections_max)
    allowed = _raised(needed)
    _reserve(min(needed, allowed))
    fitting = fitted(clients, upstream, allowed)
    if fitting != clients:
        log.warning(
            "connections_limited",
            connections_max=fitting.connections_max,
            calls_max=fitting.calls_max,
            open_files_max=allowed,
            open_files_needed=needed,
            cure="raise the hard limit of open files (LimitNOFILE=, --ulimit nofile=), or set fewer connections",
        )
    return fitting


def fitted(clients: ClientLimits, upstream: UpstreamLimits, open_files_max: int) -> ClientLimits:
    """The same limits, with no more connections and calls than can be open with so many files."""
    left = max(2, open_files_max - _apart(upstream))
    if clients.connections_max + min(clients.calls_max, clients.connections_max) <= left:
        return clients
    # A call is a connection on either side. Of what is scarce it gets a third, so that as many clients again may wait.
    calls_max = min(clients.calls_max, max(1, left // 3))
    return replace(clients, connections_max=min(clients.connections_max, left - calls_max), calls_max=calls_max)


def _apart(upstream: UpstreamLimits) -> int:
    """Files that are open besides those of clients and of calls under way: few hosts are busy at one time."""
    return OWN_FILES + upstream.idle_connections_max


def _raised(wanted: int) -> int:
    """The limit of open files, once it was raised towards what is wanted."""
    current, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    if current == resource.RLIM_INFINITY:
        return sys.maxsize
    if current < reachable:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, most))
        except (OSError, ValueError):
            return current  # Some systems stop below the limit that they tell.
    return max(current, reachable)


def _reserve(open_files_max: int) -> None:
    """Have the system's table of this process's files be as large as it may become.

    Linux doubles it when it is full, and lets no thread of the process open a file until every processor has come to rest once
    (`expand_fdtable` in fs/file.c): 5 to 16 ms, in which no call goes on, each time that there are twice as many connections.
    """
    with suppress(OSError), Path(os.devnull).open("rb") as file:
        os.close(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, open_files_max - 1))
