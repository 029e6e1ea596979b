"""Doubts: each is taken once, however often it was left, and none of it can go wrong."""

from __future__ import annotations

from gateway.doubts import Doubts


def test_a_doubt_is_taken_once_however_often_it_was_left(tmp_path):
    worker, office = Doubts(tmp_path / "doubts"), Doubts(tmp_path / "doubts")
    assert office.take() == frozenset()

    for tenant_id in ("acme", "globex", "acme", "A.b_c-1"):
        worker.leave(tenant_id)

    assert [path.stat().st_size for path in (tmp_path / "doubts").iterdir()] == [0, 0, 0]
    assert office.take() == {"acme", "globex", "A.b_c-1"}
    assert office.take() == frozenset()


def test_where_nothing_can_be_left_or_taken_nothing_is(tmp_path):
    (tmp_path / "doubts").write_bytes(b"")
    doubts = Doubts(tmp_path / "doubts")

    doubts.leave("acme")

    assert doubts.take() == frozenset()


def test_what_can_not_be_taken_away_is_not_taken(tmp_path):
    """Guards the provider: a doubt that stays would be a new one with each look."""
    doubts = Doubts(tmp_path)
    (tmp_path / "acme").mkdir()

    assert doubts.take() == frozenset()
