"""`TimeOrder`: finds what is due without a look at everything that is not."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class TimeOrder(Generic[K]):
    """Keys with a time each, in the order of these times. Keys can be compared with each other."""

    __slots__ = ("_order", "_times")

    def __init__(self) -> None:
        self._times: dict[K, float] = {}
        self._order: list[tuple[float, Any]] = []  # Any, because K is not known to be comparable

    def __contains__(self, key: object) -> bool:
        return key in self._times

    def __len__(self) -> int:
        return len(self._times)

    @property
    def times(self) -> list[float]:
        """The times of all keys in order."""
        return [when for when, _ in self._order]

    @property
    def first(self) -> float | None:
        """The first time. None: there is no key."""
        return self._order[0][0] if self._order else None

    def set(self, key: K, when: float) -> None:
        """Add a key, or change its time."""
        self.discard(key)
        self._times[key] = when
        insort(self._order, (when, key))

    def discard(self, key: K) -> None:
        """Remove a key, if there is one."""
        when = self._times.pop(key, None)
        if when is not None:
            del self._order[bisect_left(self._order, (when, key))]

    def until(self, when: float) -> list[K]:
        """The keys whose time is not after `when`, in order."""
        return [key for _, key in self._order[: self._count_until(when)]]

    def raise_to(self, when: float) -> list[K]:
        """Change all earlier times to `when`. Returns their keys."""
        keys = self.until(when)
        for key in keys:
            self._times[key] = when
        self._order[: len(keys)] = sorted((when, key) for key in keys)
        return keys

    def discard_until(self, when: float) -> None:
        """Remove the keys whose time is not after `when`."""
        count = self._count_until(when)
        for _, key in self._order[:count]:
            del self._times[key]
        del self._order[:count]

    def _count_until(self, when: float) -> int:
        return bisect_right(self._order, when, key=lambda entry: entry[0])
