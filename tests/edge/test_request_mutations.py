"""Ten thousand requests that are wrong, or nearly: what the provider gets is what was sent, or nothing.

A failure names its seed and number; `python -m tests.edge.fuzz --seed SEED --only NUMBER` sends that one again.
"""

import pytest

from tests.edge.fuzz import round_of

SEEDS = range(1, 6)
ROUND = 2000


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_mutation_of_a_request_is_read_in_two_ways(edge, seed):
    assert await round_of(edge, seed, range(ROUND)) == []
    await edge.recorded()
    assert edge.provider.count > ROUND / 4
