"""On which event loops the tests of this folder run."""

import asyncio

import uvloop

ON_SOCKETS = ("test_listener", "test_upstream", "test_proxy", "test_telemetry")
"""What is written against transports runs on both: uvloop serves, asyncio's own is what everybody reads about."""


def pytest_asyncio_loop_factories(item):
    if item.module.__name__.rpartition(".")[2] in ON_SOCKETS:
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
