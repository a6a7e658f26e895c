"""Searches of the whole table, for names that do not exist and for names above services.

They take up to some ten milliseconds for 10,000 services, so they run in pieces, with other work of the event
loop in between. A classifier that needs a result raises `SearchNeeded`. The search is then run, and the
classifier starts again, with the result.
"""

from __future__ import annotations

import asyncio
import difflib
import heapq
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

from zkdns.names import Labels
from zkdns.serverset.member import Member
from zkdns.table import Service

MAX_SUGGESTIONS: Final = 3
MAX_COMPARED: Final = 2_000
"""Names that are fully compared with an unknown one, at 10 to 70 µs each."""
_PIECE_SECONDS = 0.0005
_CUTOFF = 0.6  # the least similarity of a suggestion, as in `difflib.get_close_matches`

Item = TypeVar("Item")
Result = TypeVar("Result")


class Search(Generic[Item, Result]):
    """A search over items.

    Args:
        items: the items.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)

    def add(self, item: Item) -> bool:
        """Examine an item; return whether to continue with the next one."""
        raise NotImplementedError

    def result(self) -> Result:
        """The result, when all items were examined."""
        raise NotImplementedError

    async def run(self) -> Result:
        """Search in pieces, and return the result."""
        end = time.perf_counter() + _PIECE_SECONDS
        for item in self._items:
            if not self.add(item):
                break
            if time.perf_counter() >= end:
                await asyncio.sleep(0)
                end = time.perf_counter() + _PIECE_SECONDS
        return self.result()


class SimilarNames(Search[Item, tuple[str, ...]]):
    """The names that are most similar to a text, as `difflib.get_close_matches` finds them.

    Most names are ruled out by an upper bound of their similarity, which takes 1 to 3 µs.

    Args:
        text: the text.
        items: they have the names, of which at most `MAX_COMPARED` are fully compared.
        name_of: returns the name of an item. None: it is not compared.
    """

    def __init__(self, text: str, items: Iterable[Item], name_of: Callable[[Item], str | None]) -> None:
        super().__init__(items)
        self._name_of = name_of
        self._matcher = difflib.SequenceMatcher()
        self._matcher.set_seq2(text)
        self._found: list[tuple[float, str]] = []
        self._compared = 0

    def add(self, item: Item) -> bool:
        """Compare the name of an item."""
        name = self._name_of(item)
        if name is None:
            return True
        matcher = self._matcher
        matcher.set_seq1(name)
        least = self._found[0][0] if len(self._found) == MAX_SUGGESTIONS else _CUTOFF
        if matcher.real_quick_ratio() < least or matcher.quick_ratio() < least:  # the cheaper one first
            return True
        if (similarity := matcher.ratio()) >= least:
            heapq.heappush(self._found, (similarity, name))
            if len(self._found) > MAX_SUGGESTIONS:
                heapq.heappop(self._found)
        self._compared += 1
        return self._compared < MAX_COMPARED

    def result(self) -> tuple[str, ...]:
        """The best ones, the most similar one first."""
        return tuple(name for _, name in sorted(self._found, reverse=True))


class ServicesBelow(Search[Labels, tuple[int, tuple[Labels, ...]]]):
    """The number of services below a name, and the first ones in order.

    Args:
        name: the name.
        keys: the keys of all services.
    """

    def __init__(self, name: Labels, keys: Iterable[Labels]) -> None:
        super().__init__(keys)
        self._name = name
        self._count = 0
        self._first: list[Labels] = []

    def add(self, item: Labels) -> bool:
        """Count a service if it is below the name."""
        if item[-len(self._name) :] == self._name:
            self._count += 1
            if len(self._first) < MAX_SUGGESTIONS or item < self._first[-1]:
                self._first = sorted((*self._first, item))[:MAX_SUGGESTIONS]
        return True

    def result(self) -> tuple[int, tuple[Labels, ...]]:
        """The number, and the first ones."""
        return self._count, tuple(self._first)


class AddressUsers(Search[Service, list[tuple[Labels, Member]]]):
    """The members with an IP address, with the keys of their services.

    Args:
        address: the address.
        services: all services.
    """

    def __init__(self, address: str, services: Iterable[Service]) -> None:
        super().__init__(services)
        self._address = address
        self._users: list[tuple[Labels, Member]] = []

    def add(self, item: Service) -> bool:
        """Find the members of a service."""
        self._users += (
            (item.key, member)
            for owner in item.sets.values()
            for member in owner.members.values()
            if self._address in member.addresses
        )
        return True

    def result(self) -> list[tuple[Labels, Member]]:
        """All of them."""
        return self._users


class SearchNeeded(Exception):  # noqa: N818 - it is no error
    """A classification needs the result of a search.

    Attributes:
        key: identifies the result.
        search: the search.
    """

    def __init__(self, key: Hashable, search: Search[Any, Any]) -> None:
        super().__init__(key)
        self.key = key
        self.search = search


class Findings:
    """The results of searches so far. The methods raise `SearchNeeded` if there is none."""

    def __init__(self) -> None:
        self._results: dict[Hashable, Any] = {}

    async def add(self, needed: SearchNeeded) -> None:
        """Run a search, and keep its result."""
        self._results[needed.key] = await needed.search.run()

    def similar(
        self, text: str, items: Iterable[Item], name_of: Callable[[Item], str | None]
    ) -> tuple[str, ...]:
        """As `SimilarNames`."""
        found: tuple[str, ...] = self._find(("similar", text), SimilarNames(text, items, name_of))
        return found

    def below(self, name: Labels, keys: Iterable[Labels]) -> tuple[int, tuple[Labels, ...]]:
        """As `ServicesBelow`."""
        found: tuple[int, tuple[Labels, ...]] = self._find(("below", name), ServicesBelow(name, keys))
        return found

    def users(self, address: str, services: Iterable[Service]) -> list[tuple[Labels, Member]]:
        """As `AddressUsers`."""
        found: list[tuple[Labels, Member]] = self._find(("users", address), AddressUsers(address, services))
        return found

    def _find(self, key: Hashable, search: Search[Any, Any]) -> Any:  # noqa: ANN401 - as the search defines it
        if key not in self._results:
            raise SearchNeeded(key, search)
        return self._results[key]
