"""Fixtures of the outages: a Postgres of their own, which they may kill, and a gateway that books into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import postgres
from tests.outages.line import Line
from tests.postgres import OWNER, Server
from tests.walks.harness import Installation, installation


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Other tests have another."""
    with postgres.running() as server:
        yield server


@pytest.fixture
def line(server):
    with Line(server.port) as line:
        yield line


@pytest.fixture
def on_postgres(server, tmp_path):
    """Start a gateway with two workers on a new database, reached at a port."""

    @contextmanager
    def start(port: int | None = None) -> Iterator[Installation]:
        name = server.create()
        settings = {
            "database_url": server.url(name, port=port),
            "database_migrate_url": server.url(name, OWNER),
            "workers": "2",
        }
        with installation(tmp_path, **settings) as gateway:
            yield gateway

    return start
