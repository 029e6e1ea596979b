"""What the tests of this folder run on: the loop that serves, and a gateway before a provider that notes every byte."""

import pytest
import uvloop

from tests.edge.between import standing


def pytest_asyncio_loop_factories(item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def edge(tmp_path):
    """A gateway between raw clients and a recording provider."""
    async with standing(tmp_path) as edge:
        yield edge
