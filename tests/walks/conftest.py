"""Fixtures of the walks: one installation for each module, since starting one takes a second."""

from __future__ import annotations

import pytest

from tests.walks.harness import installation, on_postgres


@pytest.fixture(scope="module")
def gateway(request, tmp_path_factory):
    """A gateway on SQLite; on Postgres with two workers where a module asks for both engines (`harness.ON_BOTH`)."""
    settings = {}
    if getattr(request, "param", "sqlite") == "postgres":
        settings = on_postgres(request.getfixturevalue("postgres_server"))
    arguments = getattr(request.module, "SIMULATOR_ARGUMENTS", ("--record-bodies",))
    with installation(tmp_path_factory.mktemp("walk"), *arguments, **settings) as running:
        yield running


@pytest.fixture(name="on_postgres")
def settings_on_postgres(postgres_server):
    return on_postgres(postgres_server)
