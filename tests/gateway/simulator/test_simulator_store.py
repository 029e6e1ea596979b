"""What a simulated provider remembers: the newest, within bounds."""

from __future__ import annotations

from gateway.simulator.store import Newest


def test_beyond_a_number_of_objects_the_oldest_are_forgotten() -> None:
    store = Newest[str](len, objects_max=2)
    for key in ("a", "b", "c"):
        store.put(key, key)
    assert list(store) == ["b", "c"]
    assert store.get("a") is None


def test_beyond_a_number_of_bytes_the_oldest_are_forgotten() -> None:
    store = Newest[str](len, bytes_max=10)
    store.put("a", "x" * 6)
    store.put("b", "x" * 4)
    store.put("b", "x" * 5)
    assert list(store) == ["x" * 5]
    store.put("c", "x" * 11)
    assert len(store) == 0


def test_what_is_deleted_makes_room() -> None:
    store = Newest[str](len, bytes_max=10)
    store.put("a", "x" * 6)
    assert store.pop("a") == "x" * 6
    assert store.pop("a") is None
    store.put("b", "x" * 6)
    store.put("c", "x" * 4)
    assert len(store) == 2
