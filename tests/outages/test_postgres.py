"""The ledger's Postgres is away or slow while calls go on: no client notices, and nothing is lost or doubled."""

from __future__ import annotations

import time
from statistics import median

import pytest

from tests.forms import form
from tests.outages.load import Load, check, drained, was_away

pytestmark = pytest.mark.timeout(form(120, 600))

CUT_EACH_S = 0.02

SLOW_S = 0.5
"""For each answer of the database."""


def test_a_server_that_is_down_is_waited_for_and_the_backlog_drains_by_itself(on_postgres, server):
    """Guards that a batch which could not be booked is kept and tried again, for as long as it takes."""
    with on_postgres() as gateway, Load(gateway, gateway.tenant("acme")) as load:
        server.stop()
        down_until = time.monotonic() + form(5, 60)
        gateway.gateway.said("ledger_unavailable")
        while time.monotonic() < down_until:
            load.goes_on()
        server.start()
        gateway.gateway.said("ledger_available_again")
        load.stop()
        drained(gateway, load)
        check(gateway, load)


def test_a_line_that_is_cut_again_and_again_loses_and_doubles_nothing(on_postgres, line):
    """Guards that a batch is kept whatever it was in the middle of. So many cuts, so close together, fall everywhere."""
    with on_postgres(line.port) as gateway, Load(gateway, gateway.tenant("acme")) as load:
        until = time.monotonic() + form(3, 60)
        while time.monotonic() < until:
            line.cut()
            time.sleep(CUT_EACH_S)
        load.stop()
        drained(gateway, load)
        check(gateway, load)
        assert was_away(gateway)


@pytest.mark.parametrize("slow", [(SLOW_S, None), (0.0, 64 << 10)], ids=["answers", "line"])
def test_a_database_that_is_slow_keeps_no_call_waiting(on_postgres, line, slow):
    """Guards that no call waits for the ledger: with one that did, each would take half a second."""
    with on_postgres(line.port) as gateway, Load(gateway, gateway.tenant("acme")) as load:
        line.answer_delay_s, line.bytes_per_s = slow
        before = len(load.took_s)
        time.sleep(form(5, 60))
        load.stop()
        assert median(load.took_s[before:]) < SLOW_S
        line.answer_delay_s, line.bytes_per_s = 0.0, None
        drained(gateway, load)
        check(gateway, load)


def test_a_statement_that_waits_for_another_session_is_waited_for_or_given_up(on_postgres, server):
    """The long form lasts beyond what a lock is waited for. Guards that what was given up is booked later."""
    with on_postgres() as gateway, Load(gateway, gateway.tenant("acme")) as load:
        database = f"test_{server.made}"
        held_s = form(3, 30)
        server.execute(
            "BEGIN", "LOCK TABLE usage_events IN EXCLUSIVE MODE", f"SELECT pg_sleep({held_s})", database=database
        )
        load.stop()
        drained(gateway, load)
        check(gateway, load)
        assert bool(was_away(gateway)) == form(short=False, long=True)
