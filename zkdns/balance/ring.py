"""Consistent hashing with the points of go.serversets' mcset, so that both choose the same servers.

Each endpoint has 150 points on a ring of 2**32 positions: `murmur3_32(str(i) + endpoint)` for i from 0 to
149, with seed 0, unsigned. A key belongs to the endpoint of the first point at or after `murmur3_32(key)`, or
of the first point of all if there is none. So if one of n endpoints leaves, only its keys move, about one in
n.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from zkdns.balance.balancer import no_endpoints_error
from zkdns.errors import BadValueError, MissingExtraError

try:
    import mmh3
except ImportError:
    raise MissingExtraError("zkdns.balance.ring needs mmh3: pip install 'zkdns[memcache]'") from None

__all__ = ["Ring"]

POINTS: Final = 150  # as in mcset.go; any other number would move keys


class Ring:
    """Endpoints on a ring of hashes. `pick` returns the endpoint of a key.

    If two endpoints have the same point, it belongs to the one that sorts last: go.serversets adds endpoints
    in sorted order, and a later one replaces an earlier one. With 100 endpoints, one set in 40 has such a
    point.

    Thread-safe. `pick` takes no lock: a change replaces the whole ring at once.

    Args:
        endpoints: `host:port` each, hashed as they are spelled.
    """

    def __init__(self, endpoints: Iterable[str] = ()) -> None:
        self.set_endpoints(endpoints)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints, sorted and without duplicates."""
        return self._endpoints

    def set_endpoints(self, endpoints: Iterable[str]) -> None:
        """Replace the endpoints, which takes about 0.1 ms for each.

        Raises:
            BadValueError: an endpoint is not valid Unicode. Nothing has changed then.
        """
        ordered = tuple(sorted(set(endpoints)))
        # Later endpoints replace earlier ones at shared points. Python sorts by code points, which equals
        # Go's order of UTF-8 bytes.
        owners = {_hash(f"{i}{endpoint}"): endpoint for endpoint in ordered for i in range(POINTS)}
        points = sorted(owners)
        # The first owner is repeated at the end, since it also owns the keys after the last point.
        self._circle = points, [owners[point] for point in [*points, *points[:1]]]
        self._endpoints = ordered

    def pick(self, key: str | bytes) -> str:
        """The endpoint of a key.

        Args:
            key: text is hashed as UTF-8.

        Raises:
            NoEndpointsError: the ring is empty.
            BadValueError: the text is not valid Unicode.
        """
        points, owners = self._circle
        if not points:
            raise no_endpoints_error(())
        return owners[bisect_left(points, _hash(key))]


def key_bytes(key: str | bytes) -> bytes:
    """The bytes of a key that are hashed.

    Raises:
        BadValueError: the key is neither text nor bytes, or not valid Unicode.
    """
    if isinstance(key, bytes):
        return key
    if not isinstance(key, str):
        raise BadValueError(f"the key {key!r} is of the type {type(key).__name__}; a key is str or bytes")
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise BadValueError(f"{key!r} cannot be hashed: it is not valid Unicode; pass bytes") from None


def _hash(key: str | bytes) -> int:
    # As bytes: mmh3 5.3.1 also accepts text, but crashes the process if it cannot be encoded.
    return mmh3.hash(key_bytes(key), 0, signed=False)
