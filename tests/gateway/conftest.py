"""On which event loops the tests of this folder run, and the books they rate with."""

import asyncio

import pytest
import uvloop

from pricing.catalogue import load_books

ON_SOCKETS = ("test_acceptor", "test_listener", "test_upstream", "test_proxy", "test_telemetry")
"""What is written against transports runs on both: uvloop serves, asyncio's own is what everybody reads about."""


def pytest_asyncio_loop_factories(item):
    if item.module.__name__.rpartition(".")[2] in ON_SOCKETS:
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def books():
    return load_books()
