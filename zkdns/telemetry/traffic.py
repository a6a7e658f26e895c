"""Queries by service, and the most frequent names and clients.

    worker                                     supervisor
    ServiceCounts ──growth, each second──▶ ServiceTotals ──▶ /api/traffic
    TopQueries ────the whole, each second──▶ the last one of each worker

The names and clients are opt-in (`top_names`). Both have 200 counters in each worker, whatever the number of
names and clients.
"""

from __future__ import annotations

import heapq
import math
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Final

import msgspec

from zkdns.names import MAX_LABEL, to_text

TOP_SIZE: Final = 200
"""Number of names, and of clients, that are counted at a time."""
TOP_SECONDS: Final = 10.0
"""Time constant of the rates of names and clients: queries of this age count for a third of new ones."""
MAX_SERVICES: Final = 65_536
"""Maximum number of services with a total, including former ones."""
MAX_NAMED: Final = 10_000
"""Maximum number of services with a metric of their own."""

_MAX_PENDING = 1024  # queries that are counted together, in 2 ms if all differ (measured)
_NAME_AT = 10  # offset of the name in a query without its id
_IPV4_BYTES = 4


class TopRow(msgspec.Struct, frozen=True):
    """A frequent name or client."""

    name: str
    """A domain name without a trailing dot, or an address."""
    rate: float
    """Queries per second: an average over some ten seconds. The true rate is at most this much."""
    error: float
    """The true rate is at most this much lower."""


class TopReport(msgspec.Struct, frozen=True):
    """The most frequent names and clients, each with the highest rate first."""

    names: tuple[TopRow, ...]
    clients: tuple[TopRow, ...]


class Traffic(msgspec.Struct, frozen=True, tag="traffic"):
    """Report of a worker about its queries."""

    services: dict[str, int] = {}
    """Responses by service since the last such report."""
    top: TopReport | None = None
    """None: not part of this report."""


# -- in a worker --------------------------------------------------------------------------------------------


class SpaceSaving:
    """The most frequent keys of a stream, with a fixed number of counters.

    The algorithm SpaceSaving (Metwally, Agrawal, El Abbadi 2005) on batches: a new key starts with the lowest
    count, which is its error, and the lowest counts are dropped. A count is never too low, and too high by at
    most the sum of all counts divided by the number of counters.

    Args:
        size: number of counters.
    """

    def __init__(self, size: int = TOP_SIZE) -> None:
        self._size = size
        self._counts: dict[bytes, float] = {}
        self._errors: dict[bytes, float] = {}

    def add(self, batch: Mapping[bytes, int]) -> None:
        """Count the keys of a batch."""
        counts, errors = self._counts, self._errors
        lowest = min(counts.values()) if len(counts) >= self._size else 0.0
        for key, count in batch.items():
            if key in counts:
                counts[key] += count
            else:
                counts[key] = lowest + count
                errors[key] = lowest
        if len(counts) > self._size:
            self._counts = dict(heapq.nlargest(self._size, counts.items(), key=itemgetter(1)))
            self._errors = {key: errors[key] for key in self._counts}

    def scale(self, factor: float) -> None:
        """Multiply all counts, so that older keys weigh less than newer ones."""
        self._counts = {key: count * factor for key, count in self._counts.items()}
        self._errors = {key: error * factor for key, error in self._errors.items()}

    def items(self) -> list[tuple[bytes, float, float]]:
        """Return the keys with their counts and errors, the highest count first."""
        rows = sorted(self._counts.items(), key=lambda row: (-row[1], row[0]))
        return [(key, count, self._errors[key]) for key, count in rows]


class TopQueries:
    """Counts names and clients. Implements `zkdns.transport.contract.QueryCounter`.

    Args:
        now: time by a monotonic clock.
    """

    def __init__(self, now: float) -> None:
        self._names, self._clients = SpaceSaving(), SpaceSaving()
        self._queries: list[bytes] = []
        self._addresses: list[bytes] = []
        self._started_at = self._scaled_at = now

    def add(self, queries: Sequence[bytes], addresses: Iterable[bytes]) -> None:
        """Count queries without their ids, and the addresses of their clients in 4 or 16 bytes."""
        self._queries += queries
        self._addresses += addresses
        if len(self._queries) >= _MAX_PENDING:
            self._count()

    def read(self, now: float) -> TopReport:
        """Return the rates.

        Args:
            now: time by the clock of the constructor.
        """
        self._count()
        factor = math.exp((self._scaled_at - now) / TOP_SECONDS)
        self._scaled_at = now
        for sketch in (self._names, self._clients):
            sketch.scale(factor)
        # The sum of the weights of all moments since the start.
        seconds = TOP_SECONDS * -math.expm1((self._started_at - now) / TOP_SECONDS) or 1.0
        return TopReport(
            _rows(self._names, _name_text, seconds), _rows(self._clients, _address_text, seconds)
        )

    def _count(self) -> None:
        names: Counter[bytes] = Counter()
        for query, count in Counter(self._queries).items():
            if (end := query.find(0, _NAME_AT)) >= 0:
                names[query[_NAME_AT:end].lower()] += count
        self._names.add(names)
        self._clients.add(Counter(self._addresses))
        self._queries.clear()
        self._addresses.clear()


def _rows(sketch: SpaceSaving, text: Callable[[bytes], str | None], seconds: float) -> tuple[TopRow, ...]:
    rows = ((text(key), count, error) for key, count, error in sketch.items())
    return tuple(
        TopRow(name, round(count / seconds, 3), round(error / seconds, 3))
        for name, count, error in rows
        if name is not None
    )


def _name_text(wire: bytes) -> str | None:
    """Return the text of a name in wire format without its root. None: it is malformed."""
    labels, at = [], 0
    while at < len(wire):
        end = at + 1 + wire[at]
        labels.append(wire[at + 1 : end])
        if wire[at] > MAX_LABEL or end > len(wire):
            return None
        at = end
    return to_text(tuple(labels)) or "."


def _address_text(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == _IPV4_BYTES else socket.AF_INET6, packed)


# -- in the supervisor --------------------------------------------------------------------------------------


class ServiceTotals:
    """Responses by service since the server's start, of all workers. They outlive the workers.

    Attributes:
        counts: the totals by service. The service that has had no response for the longest time comes first.
        named: those of the services that had the first responses, in this order, for metrics. A service
            keeps its place, so that no counter falls.
        total: all responses for services.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.named: dict[str, int] = {}
        self.total = 0

    def add(self, growth: Mapping[str, int]) -> None:
        """Add what a worker has counted. Drops services without recent responses if there are too many."""
        counts = self.counts
        for service, count in growth.items():
            counts[service] = counts.pop(service, 0) + count
            self.total += count
            if service in self.named or len(self.named) < MAX_NAMED:
                self.named[service] = self.named.get(service, 0) + count
        while len(counts) > MAX_SERVICES:
            del counts[next(iter(counts))]


def merge(reports: Iterable[TopReport]) -> TopReport:
    """Add the rates of all workers up."""
    names: dict[str, TopRow] = {}
    clients: dict[str, TopRow] = {}
    for report in reports:
        for total, rows in ((names, report.names), (clients, report.clients)):
            for row in rows:
                known = total.get(row.name)
                total[row.name] = row if known is None else _sum(known, row)
    return TopReport(_highest(names.values()), _highest(clients.values()))


def _sum(one: TopRow, other: TopRow) -> TopRow:
    return TopRow(one.name, round(one.rate + other.rate, 3), round(one.error + other.error, 3))


def _highest(rows: Iterable[TopRow]) -> tuple[TopRow, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.rate, row.name))[:TOP_SIZE])
