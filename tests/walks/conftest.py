"""Fixtures of the walks: one installation for each module, since starting one takes a second."""

from __future__ import annotations

import pytest

from tests.walks.harness import installation


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with installation(tmp_path_factory.mktemp("walk"), "--record-bodies") as running:
        yield running
