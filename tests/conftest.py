"""Fixtures of all tests: a ledger of this release's schema, copied for each test from one that was migrated once."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from gateway import schema
from metering.database import Database


@pytest.fixture(scope="session")
def migrated(tmp_path_factory) -> Path:
    """The file of an empty ledger, closed. Copy it."""

    async def migrate(path: Path) -> None:
        database = Database(path)
        await database.open()
        try:
            await schema.prepare(database)
        finally:
            await database.close()

    path = tmp_path_factory.mktemp("migrated") / "ledger.db"
    asyncio.run(migrate(path))
    return path


@pytest.fixture
async def database(migrated, tmp_path):
    """An empty ledger, open."""
    path = tmp_path / "ledger.db"
    shutil.copyfile(migrated, path)
    database = Database(path)
    await database.open()
    yield database
    await database.close()
