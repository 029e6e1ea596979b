"""How many connections are granted where the system lets a process open only so many files."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from gateway.limits import ClientLimits, UpstreamLimits
from gateway.open_files import OWN_FILES, fitted

UPSTREAM = UpstreamLimits(idle_connections_max=72)
APART = OWN_FILES + 72

TOLD = """
import json, resource, sys
from gateway.limits import ClientLimits, UpstreamLimits
from gateway.open_files import granted
from gateway.telemetry import configure

soft, hard, connections_max, calls_max = map(int, sys.argv[1:])
configure(as_json=True, level="info")
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
found = granted(ClientLimits(connections_max=connections_max, calls_max=calls_max), UpstreamLimits())
print(json.dumps([found.connections_max, found.calls_max, resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))
"""

TABLE = (
    TOLD
    + """
with open("/proc/self/status") as told:
    print(next(line.split()[1] for line in told if line.startswith("FDSize:")))
"""
)


def said(program: str, *numbers: int) -> list[Any]:
    """What a process says of itself that is given these limits of open files, and asked for so much."""
    command = [sys.executable, "-c", program, *map(str, numbers)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return list(map(json.loads, result.stdout.splitlines()))


def granted(soft: int, hard: int, *, connections_max: int, calls_max: int) -> tuple[list[int], list[dict[str, object]]]:
    """What a process with these limits of open files grants: connections, calls, its limit then; and what it logs."""
    *logged, found = said(TOLD, soft, hard, connections_max, calls_max)
    return found, logged


@pytest.mark.parametrize("open_files_max", [0, 3, APART, APART + 5, 1024, 4096, 20_000, 65_536])
@pytest.mark.parametrize("limits", [(16_384, 4_096), (4_096, 16_384), (1, 1), (100_000, 1), (50, 1_000_000)])
def test_what_is_granted_fits_and_is_never_more_than_was_asked_for(open_files_max, limits):
    asked = ClientLimits(connections_max=limits[0], calls_max=limits[1])

    found = fitted(asked, UPSTREAM, open_files_max)

    open_at_most = APART + found.connections_max + min(found.calls_max, found.connections_max)
    assert open_at_most <= max(open_files_max, APART + 2)
    assert 1 <= found.connections_max <= asked.connections_max
    assert 1 <= found.calls_max <= asked.calls_max


def test_what_fits_is_granted_as_it_was_asked_for():
    asked = ClientLimits(connections_max=1000, calls_max=400, head_timeout_s=3)

    assert fitted(asked, UPSTREAM, APART + 1400) is asked
    assert fitted(asked, UPSTREAM, APART + 1399) == ClientLimits(connections_max=999, calls_max=400, head_timeout_s=3)


def test_the_limit_of_open_files_is_raised_as_far_as_is_needed_and_no_further():
    (connections_max, calls_max, open_files_max), logged = granted(256, 4096, connections_max=1000, calls_max=200)

    assert (connections_max, calls_max, logged) == (1000, 200, [])
    assert 1200 < open_files_max < 4096


def test_a_limit_that_is_high_enough_stays_as_it_is():
    (_, _, open_files_max), logged = granted(3000, 4096, connections_max=100, calls_max=100)

    assert (open_files_max, logged) == (3000, [])


def test_where_the_system_allows_too_few_files_fewer_connections_are_granted_and_the_log_says_so():
    (connections_max, calls_max, open_files_max), (line,) = granted(256, 1024, connections_max=16_384, calls_max=4096)

    assert open_files_max == 1024
    assert connections_max + calls_max + OWN_FILES + UpstreamLimits().idle_connections_max <= 1024
    assert (line["event"], line["level"]) == ("connections_limited", "warning")
    assert (line["connections_max"], line["calls_max"]) == (connections_max, calls_max)
    assert line["open_files_needed"] > line["open_files_max"] == 1024


@pytest.mark.parametrize(("hard", "files"), [(4096, 3000), (1024, 1024)])
def test_the_system_s_table_of_open_files_is_as_large_as_it_becomes_before_the_first_call(hard, files):
    """To make it larger stops the whole process for as long as a dozen calls take, each time that it is doubled."""
    *_, size = said(TABLE, 256, hard, files - 900, 500)

    assert size >= files
