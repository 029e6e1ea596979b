"""The short form of the month, for every run of the tests."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.month.run import Month, Shape, problems
from tests.walks.harness import REPOSITORY, on_postgres

SHORT = Shape(messages=300, calls=45, lasts_s=15, seed=20261122, days=5)
IMPORTED_S = 2.0
"""So long it takes at most to import the gateway, where a month is lived in those seconds."""


def slowness() -> float:
    """How many times as long as that it takes just now: two crashes have their place in a month on any machine."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import gateway.app"], cwd=REPOSITORY, check=True)
    return max(1.0, (time.monotonic() - began) / IMPORTED_S)


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_after_a_month_with_crashes_and_traffic_around_the_gateway_the_ledger_is_the_bill(
    tmp_path, engine, request
):
    """Guards the promise of reconciliation: to the last message, segment and second of each tenant, whatever callbacks were
    lost, doubled and shuffled; and a second reconciliation books nothing."""
    settings = on_postgres(request.getfixturevalue("postgres_server")) if engine == "postgres" else {}

    shape = SHORT._replace(lasts_s=SHORT.lasts_s * slowness())

    verdict = await Month(tmp_path, shape, print, **settings).live()

    assert problems(verdict) == []
    # Of nothing, nothing would be wrong. Where it takes long to start anew, more is not sent that was to be.
    assert sum(one.messages for one in verdict.billed.values()) > 100
    assert sum(one.seconds for one in verdict.billed.values()) > 2_000
    assert verdict.found["crashes"] == 2
    assert verdict.found["told status"] > 10
    assert verdict.found["told sms"] > 5
