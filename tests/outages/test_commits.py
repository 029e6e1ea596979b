"""The ledger's Postgres dies, or its line breaks, at the very moment of a commit: whether it was done, nobody can know."""

from __future__ import annotations

import threading

import pytest

from tests.forms import LONG, form
from tests.outages.line import Commit
from tests.outages.load import Load, check, drained, was_away
from tests.postgres import PATIENCE_S
from tests.walks.harness import eventually

pytestmark = pytest.mark.timeout(form(180, 600))

TIMES = 10


def between(line):
    """In the short form something is booked between two outages: in a row, each is waited for longer than the one before."""
    if not LONG:
        before = line.committed
        eventually(lambda: line.committed > before, "a commit that is heard of")


def test_a_server_that_is_killed_at_ten_commits_in_a_row_loses_and_doubles_nothing(on_postgres, server, line):
    """Guards that a batch is kept until its commit was confirmed, that it is known again by its keys, and that the spool's
    position moves in the same transaction."""
    killed = threading.Event()

    def kill() -> None:
        server.kill()
        killed.set()

    befalls = [Commit(before=kill), Commit(passed=kill), Commit(answered=kill)]
    with on_postgres(line.port) as gateway, Load(gateway, gateway.tenant("acme")) as load:
        for number in range(TIMES):
            killed.clear()
            line.commits.append(befalls[number % len(befalls)])
            assert killed.wait(PATIENCE_S)
            load.goes_on()
            server.start()
            between(line)
        load.stop()
        drained(gateway, load)
        check(gateway, load)
        assert was_away(gateway)


def test_commits_whose_answers_never_come_are_booked_once(on_postgres, line):
    """Guards the keys: what was committed unheard is booked again, and has to be known for the same."""
    with on_postgres(line.port) as gateway, Load(gateway, gateway.tenant("acme")) as load:
        lost = threading.Semaphore(0)
        for _ in range(TIMES):
            line.commits.append(Commit(answered=lost.release))
            assert lost.acquire(timeout=PATIENCE_S)
            between(line)
        load.stop()
        drained(gateway, load)
        check(gateway, load)
        assert was_away(gateway)
