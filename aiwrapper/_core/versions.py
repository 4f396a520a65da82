"""An append-only sequence whose versions are values and share what they have in common.

The fold makes a new value at every entry, so a plain tuple would copy the whole conversation for every
message and the whole turn for every delta: quadratic. A chain of pairs would be linear, but comparing,
copying and freeing it recurse as deep as it is long. Here all versions of one history share one storage and
each sees only its first `len(self)` items:

1. An item of the storage is written once and never changed, so a version never changes.
2. Appending claims the next place with `dict.setdefault`, a single atomic operation: of two threads that go
   on from the same version one gets the place, the other sees that it did not, and copies.
3. So going on from the newest version costs O(1), and from an older one O(n), once.

An old version keeps the later items of its history alive. That is the price.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Versions(Generic[T]):
    """A version of an append-only sequence. Items may have keys, each of them once.

    Args:
        items: what it begins with, without keys.
    """

    __slots__ = ("_items", "_length", "_places")

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items: dict[int, T] = dict(enumerate(items))
        self._places: dict[Hashable, int] = {}
        self._length = len(self._items)

    def appended(self, item: T, key: Hashable = None) -> "Versions[T]":
        """The version with one more item.

        Args:
            item: the item.
            key: finds it again with `get`; it must not be in use. None is no key.
        """
        place = self._length
        items, places = self._items, self._places
        if items.setdefault(place, item) is not item:
            # Somebody went on from this version before: this is a branch, with a storage of its own.
            items = {index: items[index] for index in range(place)}
            items[place] = item
            # copy(): another thread may be appending to the storage we leave, and copying is one operation.
            places = {known: index for known, index in places.copy().items() if index < place}
        if key is not None:
            places[key] = place
        longer: Versions[T] = Versions.__new__(Versions)
        longer._items, longer._places, longer._length = items, places, place + 1
        return longer

    def place(self, key: Hashable) -> int | None:
        """The index of the item with this key, or None."""
        place = self._places.get(key)
        # A key beyond our length belongs to a later version.
        return place if place is not None and place < self._length else None

    def get(self, key: Hashable) -> T | None:
        """The item with this key, or None."""
        place = self.place(key)
        return None if place is None else self._items[place]

    def __contains__(self, key: Hashable) -> bool:
        """Whether there is an item with this *key*."""
        return self.place(key) is not None

    def __getitem__(self, index: int) -> T:
        if not 0 <= index < self._length:
            raise IndexError(f"index {index!r} is not in 0..{self._length - 1}")
        return self._items[index]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        items = self._items
        return (items[index] for index in range(self._length))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Versions):
            return NotImplemented
        if self._length != other._length:
            return False
        return self._items is other._items or all(
            self._items[index] == other._items[index] for index in range(self._length)
        )

    def __hash__(self) -> int:
        return hash((Versions, self._length, self._items[self._length - 1] if self._length else None))

    def __repr__(self) -> str:
        return f"Versions({list(self)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        keys = {place: key for key, place in self._places.copy().items() if place < self._length}
        return (_restored, ([(item, keys.get(place)) for place, item in enumerate(self)],))


def _restored(pairs: list[tuple[T, Hashable]]) -> Versions[T]:
    restored: Versions[T] = Versions()
    for item, key in pairs:
        restored = restored.appended(item, key)
    return restored
