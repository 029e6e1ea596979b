"""The line to the ledger's Postgres swallows what is sent, and says nothing: noticed within a bound, and got over."""

from __future__ import annotations

import time

import pytest

from metering.database_postgres import ANSWER_S_GRACE, CONNECT_S_MAX, IDLE_IN_TRANSACTION_S_MAX, STATEMENT_S_MAX
from tests.forms import form
from tests.outages.line import DOWN, UP
from tests.outages.load import Load, check, drained
from tests.walks.harness import PATIENCE_S, eventually

NOTICED_S_MAX = STATEMENT_S_MAX + ANSWER_S_GRACE + CONNECT_S_MAX + PATIENCE_S

pytestmark = pytest.mark.timeout(form(180, 600))


@pytest.mark.parametrize("swallows", [(UP, DOWN), (DOWN,)], ids=["both-ways", "answers"])
def test_a_line_that_swallows_is_given_up_within_a_bound_and_found_again(on_postgres, line, swallows):
    """Guards the bound on every answer: without it, a connection that is dead and does not know it is waited for for ever.
    Where only answers are lost, the server has done what it was asked, and holds the locks of what it was not told to end."""
    with on_postgres(line.port) as gateway, Load(gateway, gateway.tenant("acme")) as load:
        line.swallows = swallows
        until = time.monotonic() + form(5, IDLE_IN_TRANSACTION_S_MAX)
        while time.monotonic() < until:
            load.goes_on()
        line.swallows = ()
        eventually(
            lambda: any(line["event"] == "ledger_available_again" for line in gateway.logged()),
            "the ledger is written again",
            within_s=NOTICED_S_MAX,
        )
        load.stop()
        drained(gateway, load)
        check(gateway, load)
