"""Fixtures of the surface: a provider that notes every request, and a gateway before it, one for each module."""

from __future__ import annotations

import pytest

from tests.surface.upstream import upstream
from tests.surface.ways import ways


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The provider and the ways to it."""
    with upstream() as provider, ways(tmp_path_factory.mktemp("surface"), provider) as made:
        yield made
