"""`Ordered`: values in the order of their keys, kept sorted while single values come and go.

A change of one value among ten thousand takes some microseconds (measured): a binary search, and a move of
the later values in memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Any)
Value = TypeVar("Value")


class Ordered(Generic[Key, Value]):
    """Values by key, in the order of the keys.

    Attributes:
        values: the values in order. Only this object changes the list; a caller that keeps it makes a copy.
    """

    __slots__ = ("_keys", "values")

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self.values: list[Value] = []

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: Key) -> bool:
        at = bisect_left(self._keys, key)
        return at < len(self._keys) and bool(self._keys[at] == key)

    def __iter__(self) -> Iterator[Value]:
        return iter(self.values)

    def add(self, key: Key, value: Value) -> None:
        """Add a value, or replace the value of this key."""
        keys = self._keys
        if not keys or key > keys[-1]:  # the usual case: new members have the highest numbers
            keys.append(key)
            self.values.append(value)
            return
        at = bisect_left(keys, key)
        if keys[at] == key:
            self.values[at] = value
        else:
            keys.insert(at, key)
            self.values.insert(at, value)

    def remove(self, key: Key) -> None:
        """Remove the value of this key, if there is one."""
        at = bisect_left(self._keys, key)
        if at < len(self._keys) and self._keys[at] == key:
            del self._keys[at], self.values[at]
