"""Counts the responses of each service, without code on the path of a cached response.

Each service has an iterator that yields true a fixed number of times. `itertools.compress` reads one value of
it for each response that it passes on, so that the number of values that are left is a count of responses:

    next(cache[query]) ──▶ compress ──▶ the responses in the order of the rotation
                              └───────▶ repeat(True, MAX)      shared by all cache entries of the service

All of it runs in C. It adds 20 ns to a response from the cache with 1,000 services, and 90 ns with 10,000,
because their entries exceed the processor's cache (measured). A `Counter` of the entries took 60 to 100 ns.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from zkdns.names import Labels
from zkdns.namespace import DEFAULT_ZONE
from zkdns.table import Service

_MAX_RESPONSES = 1 << 62
_SERVICES_PER_PART = 250  # at up to 5 µs each, if they are new (measured)


class _Count(msgspec.Struct):
    """The responses of one service."""

    left: itertools.repeat[bool]
    service: Service | None = None
    """The service at the last `take`, and its name."""
    name: str = ""
    taken: int = 0
    """The number of responses at the last `take`."""


class ServiceCounts:
    """Counts the responses of each service.

    Args:
        services: the services of the table. Only they are counted, so that the memory is bounded.
        zone: the zone that `take` leaves out of their names.
    """

    def __init__(self, services: Mapping[Labels, Service], zone: Labels = DEFAULT_ZONE) -> None:
        self._services = services
        self._zone = zone
        self._counts: dict[Labels, _Count] = {}

    def counted(self, service: Labels | None, responses: Iterator[bytes]) -> Iterator[bytes]:
        """The same responses; each one that is read counts for the service.

        Args:
            service: a key. Without a service of this key, nothing is counted.
            responses: endless responses.
        """
        count = self._counts.get(service) if service else None
        if count is None:
            if not service or service not in self._services:
                return responses
            count = self._counts[service] = _Count(itertools.repeat(True, _MAX_RESPONSES))
        return itertools.compress(responses, count.left)

    def drop_absent(self, keys: Iterable[Labels]) -> None:
        """Drop the counts of these services if they no longer exist, after their cached responses."""
        for key in keys:
            if key not in self._services:
                self._counts.pop(key, None)

    def take(self) -> Iterator[dict[str, int]]:
        """Yield the names of services with responses since the last call, and their numbers, in parts.

        Other work can be done between two parts, each of which is made from 250 services.
        """
        items = list(self._counts.items())
        for start in range(0, len(items), _SERVICES_PER_PART):
            part = {}
            for key, count in items[start : start + _SERVICES_PER_PART]:
                total = _MAX_RESPONSES - operator.length_hint(count.left)
                service = self._services.get(key)
                if total == count.taken or service is None:
                    continue
                # It is new, or was removed and added again, perhaps in another spelling.
                if service is not count.service:
                    count.service, count.name = service, service.first.name.without(self._zone)
                part[count.name] = total - count.taken
                count.taken = total
            yield part
