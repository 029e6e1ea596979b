"""What a simulated provider remembers: the newest objects, within bounds. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

OBJECTS_MAX = 10_000
BYTES_MAX = 64 << 20


class Newest(Generic[Item]):
    """Objects by id, oldest first. Beyond either bound the oldest are forgotten, as if they had been deleted."""

    def __init__(
        self, size: Callable[[Item], int], *, objects_max: int = OBJECTS_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._size = size
        self._objects_max = objects_max
        self._bytes_max = bytes_max
        self._items: dict[str, Item] = {}
        self._bytes = 0

    def put(self, key: str, item: Item) -> None:
        """Remember an object; one of the same id is replaced, and keeps its place."""
        if key in self._items:
            self._bytes -= self._size(self._items[key])
        self._items[key] = item
        self._bytes += self._size(item)
        while len(self._items) > self._objects_max or self._bytes > self._bytes_max:
            self._bytes -= self._size(self._items.pop(next(iter(self._items))))

    def get(self, key: str) -> Item | None:
        return self._items.get(key)

    def pop(self, key: str) -> Item | None:
        item = self._items.pop(key, None)
        if item is not None:
            self._bytes -= self._size(item)
        return item

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def __len__(self) -> int:
        return len(self._items)
