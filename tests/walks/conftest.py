"""Fixtures of the walks: one installation for each module, since starting one takes a second."""

from __future__ import annotations

import pytest

from tests.postgres import OWNER
from tests.walks.harness import installation


@pytest.fixture(scope="module")
def gateway(request, tmp_path_factory):
    """A gateway on SQLite; on Postgres with two workers where a module asks for both engines (`harness.ON_BOTH`)."""
    settings = {}
    if getattr(request, "param", "sqlite") == "postgres":
        server = request.getfixturevalue("postgres_server")
        database = server.create()
        settings = {
            "database_url": server.url(database),
            "database_migrate_url": server.url(database, OWNER),
            "workers": "2",
        }
    arguments = getattr(request.module, "SIMULATOR_ARGUMENTS", ("--record-bodies",))
    with installation(tmp_path_factory.mktemp("walk"), *arguments, **settings) as running:
        yield running
