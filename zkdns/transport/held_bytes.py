"""The memory that connections hold, and which of them must be closed when they hold too much.

A client that sends queries and does not read makes its connections hold unsent responses. A connection that
holds much is not read, but a client may open many. So each client and all clients together have a bound.
Beyond it, the client that holds the most loses its connection that holds the most. No I/O here.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

MAX_BYTES_PER_CLIENT: Final = 8 << 20
"""Room for the largest possible responses to all queries that one connection may await."""
MAX_BYTES: Final = 32 << 20
"""Bytes that all connections of a worker may hold."""

Owner = TypeVar("Owner", bound=Hashable)


class HeldBytes(Generic[Owner]):
    """The bytes that each owner holds, by client.

    Attributes:
        total: bytes of all owners.

    Args:
        max_per_client: maximum number of bytes of one client.
        max_total: maximum of `total`.
    """

    def __init__(self, max_per_client: int = MAX_BYTES_PER_CLIENT, max_total: int = MAX_BYTES) -> None:
        self.total = 0
        self._max_per_client = max_per_client
        self._max_total = max_total
        self._by_client: dict[str, int] = {}
        self._owners: dict[str, dict[Owner, int]] = {}

    def of(self, client: str) -> int:
        """The bytes of one client."""
        return self._by_client.get(client, 0)

    def set(self, client: str, owner: Owner, size: int) -> Owner | None:
        """Set the bytes of an owner, and return an owner that must give up all of its bytes, if any must.

        The caller closes that one, sets its bytes to 0, and thereby gets the next one that must.
        """
        owners = self._owners.setdefault(client, {})
        more = size - owners.get(owner, 0)
        self.total += more
        of_client = self._by_client.get(client, 0) + more
        if size:
            owners[owner] = size
        else:
            owners.pop(owner, None)
        if owners:
            self._by_client[client] = of_client
        else:
            del self._owners[client]
            self._by_client.pop(client, None)
        if of_client > self._max_per_client:
            return self._largest(client)
        if self.total > self._max_total:
            return self._largest(max(self._by_client, key=self._by_client.__getitem__))
        return None

    def _largest(self, client: str) -> Owner:
        owners = self._owners[client]
        return max(owners, key=owners.__getitem__)
