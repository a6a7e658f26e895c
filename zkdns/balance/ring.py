"""Consistent hashing, point for point that of go.serversets' mcset, so that both agree on every key.

Each endpoint has 150 points on a ring of 2**32: `murmur3_32(str(i) + endpoint)` for i from 0 to 149, with
seed 0, unsigned. A key belongs to the endpoint of the first point at or after `murmur3_32(key)`, and past the
last point to that of the first. So when one of n endpoints leaves, its own keys move, about one in n, and no
others do.
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

POINTS: Final = 150  # as mcset.go has it; any other number would move keys


class Ring:
    """Endpoints on a ring of hashes; `pick` says whose a key is.

    Where two endpoints share a point, it belongs to the one whose text is the greater, in whatever order they
    were given: go.serversets adds them sorted, and the last one takes the point. Among 100 endpoints such a
    point is to be expected in one set of 40.

    It is safe to use from any thread, and picking waits for nobody: a change replaces the whole ring at once.

    Args:
        endpoints: `host:port` each, hashed as they are spelled.
    """

    def __init__(self, endpoints: Iterable[str] = ()) -> None:
        self.set_endpoints(endpoints)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints, sorted, each once."""
        return self._endpoints

    def set_endpoints(self, endpoints: Iterable[str]) -> None:
        """Replace the endpoints; takes about 0.1 ms for each.

        Raises:
            BadValueError: an endpoint that is not valid Unicode; nothing has changed then.
        """
        ordered = tuple(sorted(set(endpoints)))
        # Later ones take the points they share. Python sorts by code points, which is Go's order of UTF-8.
        owners = {_hash(f"{i}{endpoint}"): endpoint for endpoint in ordered for i in range(POINTS)}
        points = sorted(owners)
        # The first owner stands once more behind the last one: for the keys past the last point.
        self._circle = points, [owners[point] for point in [*points, *points[:1]]]
        self._endpoints = ordered

    def pick(self, key: str | bytes) -> str:
        """The endpoint that the key belongs to.

        Args:
            key: text is hashed as UTF-8, bytes as they are.

        Raises:
            NoEndpointsError: the ring is empty.
            BadValueError: text that is not valid Unicode.
        """
        points, owners = self._circle
        if not points:
            raise no_endpoints_error(())
        return owners[bisect_left(points, _hash(key))]


def key_bytes(key: str | bytes) -> bytes:
    """What of a key is hashed.

    Raises:
        BadValueError: text that is not valid Unicode.
    """
    if isinstance(key, bytes):
        return key
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise BadValueError(f"{key!r} cannot be hashed: it is not valid Unicode; give bytes") from None


def _hash(key: str | bytes) -> int:
    # As bytes: mmh3 5.3.1 takes text too, and crashes the process on what cannot be encoded.
    return mmh3.hash(key_bytes(key), 0, signed=False)
