"""Shares the places of queries that wait for upstreams, by client and by forward zone.

    no free place ──▶ the client and forward zone that together hold the most ──▶ its oldest query gives way

A client that asks for thousands of names of dead servers, or a forward zone whose upstreams are dead, would
hold all places for seconds. As long as there are free places, it may have them. Without free ones, each new
query takes the place of the oldest query of the pair of client and zone with the largest product

    (queries of the client in the zone) x (queries in the zone)

so that a greedy client of a zone that works gives way, and so do polite clients in a dead zone. The oldest
query of such a pair is also the one that is least likely to be answered in time. No I/O, no clock.

Few queries wait as long as upstreams are quick, and then only their order is kept. The queries are counted by
client and zone when there are more. All steps take constant time, apart from the number of zones, which the
operator sets, and the start of the counting, which takes 0.3 ms (measured).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from zkdns.transport.local_addresses import unmapped

Waiter = TypeVar("Waiter", bound=Hashable)
Item = TypeVar("Item", bound=Hashable)

_MIN_COUNTED = 256
"""Queries are counted by client and zone when more than this wait, until only half of it wait."""
_IPV6, _IPV6_NETWORK = 16, 8  # bytes: a host may use all addresses of its /64


def client_key(address: bytes) -> bytes:
    """The client of an address in 4 or 16 bytes: an IPv4 address, or the /64 network of an IPv6 address."""
    if len(address) != _IPV6:
        return address
    address = unmapped(address)
    return address[:_IPV6_NETWORK] if len(address) == _IPV6 else address


class WaitingPlaces(Generic[Waiter]):
    """The waiting queries.

    Args:
        max_waiting: maximum number of them.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._min_counted = min(max_waiting, _MIN_COUNTED)
        self._owners: dict[Waiter, tuple[bytes, Hashable]] = {}  # client and zone, the oldest query first
        self._zones: dict[Hashable, _Zone[Waiter]] = {}  # empty if the queries are not counted

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, waiter: Waiter, client: bytes, zone: Hashable) -> Waiter | None:
        """Give a query a place, and return the query that loses its place for it. None: there was a free one.

        Args:
            waiter: the query.
            client: its client, as of `client_key`.
            zone: its forward zone.
        """
        owners = self._owners
        owners[waiter] = client, zone
        if self._zones:
            self._count(waiter, client, zone)
        elif len(owners) > self._min_counted:
            for each, owner in owners.items():
                self._count(each, *owner)
        if len(owners) <= self._max_waiting:
            return None
        greediest = max(self._zones.values(), key=_Zone.weight)
        oldest = greediest.oldest_of_greediest()
        self.remove(oldest)
        return oldest

    def remove(self, waiter: Waiter) -> None:
        """Free the place of a query, if it has one."""
        owner = self._owners.pop(waiter, None)
        if owner is None or not self._zones:
            return
        client, zone = owner
        self._zones[zone].remove(waiter, client)
        if len(self._owners) <= self._min_counted // 2:
            self._zones.clear()

    def _count(self, waiter: Waiter, client: bytes, zone: Hashable) -> None:
        in_zone = self._zones.get(zone)
        if in_zone is None:
            in_zone = self._zones[zone] = _Zone()
        in_zone.add(waiter, client)


class TurnQueue(Generic[Item]):
    """A queue in which clients take turns, so that the items of one do not delay those of others."""

    def __init__(self) -> None:
        self._items: dict[bytes, dict[Item, None]] = {}  # the next client first, its oldest item first

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, client: bytes, item: Item) -> None:
        """Add an item of a client."""
        self._items.setdefault(client, {})[item] = None

    def remove(self, client: bytes, item: Item) -> None:
        """Remove an item of a client, if it is still in the queue."""
        items = self._items.get(client, {})
        if item in items:
            del items[item]
            if not items:
                del self._items[client]

    def pop(self) -> Item:
        """Remove and return the oldest item of the next client. There must be one."""
        client = next(iter(self._items))
        items = self._items.pop(client)
        item = next(iter(items))
        del items[item]
        if items:
            self._items[client] = items
        return item


class _Zone(Generic[Waiter]):
    """The queries of a forward zone.

    Attributes:
        count: number of them.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiters: dict[bytes, dict[Waiter, None]] = {}  # by client, the oldest first
        self._clients: dict[int, dict[bytes, None]] = {}  # with at least two queries, by their number
        self._most = 1

    def weight(self) -> int:
        """The largest product of the number of a client's queries and of all queries."""
        return self._most * self.count

    def oldest_of_greediest(self) -> Waiter:
        """The oldest query of the client that has the most."""
        client = next(iter(self._clients[self._most] if self._most > 1 else self._waiters))
        return next(iter(self._waiters[client]))

    def add(self, waiter: Waiter, client: bytes) -> None:
        """Add a query."""
        self.count += 1
        waiters = self._waiters.get(client)
        if waiters is None:
            self._waiters[client] = {waiter: None}
        else:
            waiters[waiter] = None
            self._move(client, len(waiters) - 1, len(waiters))

    def remove(self, waiter: Waiter, client: bytes) -> None:
        """Remove a query."""
        self.count -= 1
        waiters = self._waiters[client]
        del waiters[waiter]
        if waiters:
            self._move(client, len(waiters) + 1, len(waiters))
        else:
            del self._waiters[client]

    def _move(self, client: bytes, before: int, now: int) -> None:
        """Note that the number of a client's queries has changed by one; both numbers are positive."""
        if before > 1:
            del self._clients[before][client]
            if not self._clients[before]:
                del self._clients[before]
        if now > 1:
            self._clients.setdefault(now, {})[client] = None
        if now > self._most or (before == self._most and before not in self._clients):
            self._most = now
