"""What worlds are made of, once for all of them."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from pricing.catalogue import load_books
from tests.simulation.world import live

MEMORY = Path("/dev/shm")
"""Worlds write much and keep nothing: a disk that is none is the right one, where there is one."""

STEPS = 80


@pytest.fixture(scope="module")
def lived(sqlite_ledgers):
    """Live the worlds of some seeds; gives what they came to."""
    image = asyncio.run(sqlite_ledgers.migrated()).read_bytes()
    books = load_books()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield lambda seeds, *, power: [live(seed, STEPS, Path(directory), image, books, power=power) for seed in seeds]
