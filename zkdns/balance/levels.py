"""`Levels`: endpoints by their number of active requests, with the least active ones at hand.

Each number of requests is a level, and each level a queue. A request moves its endpoint one level up when it
starts and one down when it ends, so the lowest level changes by at most one, and is known without a search.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator


class Levels:
    """A set of endpoints in order of their active requests. Equal ones are in the order of their last move.

    The owner passes the present count of an endpoint, which it also has for endpoints that are not here.
    """

    def __init__(self) -> None:
        # An OrderedDict finds its first key in constant time; a plain dict does not.
        self._levels: dict[int, OrderedDict[str, None]] = {}
        self.lowest = 0
        """The fewest active requests of any endpoint. 0 if there is none."""

    def __bool__(self) -> bool:
        return bool(self._levels)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """All endpoints with their counts, the least active first."""
        for endpoint in self._levels.get(self.lowest, ()):
            yield endpoint, self.lowest
        for count in sorted(self._levels):  # reached only if the whole lowest level is excluded
            if count != self.lowest:
                for endpoint in self._levels[count]:
                    yield endpoint, count

    @property
    def lowest_size(self) -> int:
        """The number of endpoints with the fewest active requests."""
        return len(self._levels.get(self.lowest, ()))

    def first(self, without: Collection[str]) -> tuple[str, int] | None:
        """The least active endpoint that is not excluded, and its count."""
        for endpoint, count in self:
            if endpoint not in without:
                return endpoint, count
        return None

    def add(self, endpoint: str, count: int) -> None:
        """Add an endpoint."""
        self.lowest = min(self.lowest, count) if self._levels else count
        self._levels.setdefault(count, OrderedDict())[endpoint] = None

    def remove(self, endpoint: str, count: int) -> None:
        """Remove an endpoint. Unlike the other operations, this may search all levels."""
        self._leave(endpoint, count)
        if count == self.lowest and count not in self._levels:
            self.lowest = min(self._levels, default=0)

    def move(self, endpoint: str, count: int, by: int) -> None:
        """Move an endpoint one level up (`by=1`) or down (-1), to the end of its queue."""
        self._leave(endpoint, count)
        self._levels.setdefault(count + by, OrderedDict())[endpoint] = None
        if by < 0:
            self.lowest = min(self.lowest, count + by)
        elif count == self.lowest and count not in self._levels:
            self.lowest = count + by

    def _leave(self, endpoint: str, count: int) -> None:
        level = self._levels[count]
        del level[endpoint]
        if not level:
            del self._levels[count]
