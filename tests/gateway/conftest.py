"""On which event loops the tests of this folder run, and the books they rate with."""

import asyncio
import itertools

import pytest
import uvloop

from pricing.catalogue import load_books
from tests.gateway.peers import answers, provider
from tests.gateway.proxied import COMPLETED, proxied

ON_SOCKETS = (
    "test_acceptor",
    "test_listener",
    "test_listener_order",
    "test_upstream",
    "test_proxy",
    "test_proxy_sendgrid",
    "test_proxy_twilio",
    "test_telemetry",
)
"""What is written against transports runs on both: uvloop serves, asyncio's own is what everybody reads about."""


def pytest_asyncio_loop_factories(item):
    if item.module.__name__.rpartition(".")[2] in ON_SOCKETS:
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def books():
    return load_books()


@pytest.fixture
def gateway(tmp_path):
    """Makes a gateway before a provider that follows a script."""
    number = itertools.count()

    class Before:
        def __init__(self, script, **how):
            self.script, self.how = script, how

        async def __aenter__(self):
            self.provider = provider(self.script)
            self.proxied = proxied(tmp_path / str(next(number)), await self.provider.__aenter__(), **self.how)
            return await self.proxied.__aenter__()

        async def __aexit__(self, *error):
            await self.proxied.__aexit__(*error)
            await self.provider.__aexit__(*error)

    def before(script=None, **how):
        return Before(script or answers(COMPLETED), **how)

    return before
