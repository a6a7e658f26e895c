"""Compares the tables of several servers: their digests, then the members of services that differ.

/api/status      the digests of zones, of each process; servers that agree in them have equal answers
/api/digests     the digests of services
/api/members     the members of the services that differ
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias, TypeVar

import msgspec

from zkdns.admin.api_types import MemberRow
from zkdns.admin.client import ApiClient, RefusedError, UnreachableError
from zkdns.admin.status import Status
from zkdns.plurals import counted

T = TypeVar("T")

MAX_SERVICES: Final = 100
"""Maximum number of services whose members are compared. Further ones are only counted."""
MAX_PARALLEL: Final = 16
"""Maximum number of servers that are queried at a time."""
POLL_SECONDS: Final = 0.5
"""Pause between two comparisons of digests."""
MISSING: Final = "missing"
"""The value at a server without this member or service."""


class Difference(msgspec.Struct, frozen=True):
    """A property that differs between servers."""

    service: str
    """Its DNS name; for a worker, that of the zone."""
    member: str
    """The name of its znode. Empty: the difference concerns the service as a whole."""
    field: str
    """One of `_FIELDS`, or:

    `service`, `member`: missing at some server; `digest`: only settings differ, such as `statuses`;
    `worker`: a worker differs from its watcher.
    """
    values: dict[str, str]
    """The value at each server."""


class Comparison(msgspec.Struct, frozen=True):
    """The result of a comparison."""

    differences: tuple[Difference, ...] = ()
    more: int = 0
    """Further services that differ, whose members were not compared."""


class Comparer:
    """Compares servers.

    Args:
        clients: a client of each server.
        sleep: waits for some seconds.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        clients: Sequence[ApiClient],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clients = clients
        self._servers = [str(client.server) for client in clients]
        self._sleep, self._clock = sleep, clock

    def compare(self, wait: float) -> Comparison:
        """Compare the servers.

        Args:
            wait: seconds for which a difference must last, because a change reaches them one after another.

        Raises:
            UnreachableError: a server does not respond, or cannot do this now.
        """
        deadline = self._clock() + wait
        services: set[str] | None = None
        workers: set[_WorkerDigest] | None = None
        while True:
            statuses = self._from_all(ApiClient.status)
            if _agree(statuses):
                return Comparison()
            workers = _lasting(workers, _differing_workers(self._servers, statuses))
            services = _lasting(services, self._differing_services())
            if not services and not workers:
                return Comparison()
            if self._clock() >= deadline:
                return self._explain(sorted(services), sorted(workers))
            self._sleep(POLL_SECONDS)

    def _differing_services(self) -> set[str]:
        """The services whose digests differ. A service without members differs from an absent one."""
        listed = [{one.service: one for one in each} for each in self._from_all(ApiClient.digests)]
        first, *others = listed
        names = set(first).union(*others)
        return {name for name in names if any(each.get(name) != first.get(name) for each in others)}

    def _explain(self, services: Sequence[str], workers: Sequence[_WorkerDigest]) -> Comparison:
        """Find the differences of services and workers that disagree."""
        compared = services[:MAX_SERVICES]
        differences: list[Difference] = []
        for service in compared:
            found = list(self._compare_members(service))
            differences += found or self._compare_settings(service)
        for server, zone, pid in workers:
            text = f"worker {pid} has another digest than the watcher"
            differences.append(Difference(zone, "", "worker", {server: text}))
        return Comparison(tuple(differences), len(services) - len(compared))

    def _compare_members(self, service: str) -> Iterator[Difference]:
        rows = self._from_all(lambda client: client.members(f"{service}."))
        if len({bool(each) for each in rows}) > 1:
            yield self._difference(service, "", "service", [_count(each) for each in rows])
            return
        by_name = [{row.member: row for row in each} for each in rows]
        for member in sorted({name for each in by_name for name in each}):
            found = [each.get(member) for each in by_name]
            if None in found:
                values = [MISSING if row is None else _endpoint(row) for row in found]
                yield self._difference(service, member, "member", values)
                continue
            for field, text in _FIELDS.items():
                values = [text(row) for row in found if row is not None]
                if len(set(values)) > 1:
                    yield self._difference(service, member, field, values)

    def _compare_settings(self, service: str) -> list[Difference]:
        """The difference of a service whose members are equal: it is missing, or settings differ."""
        listed = [
            {one.service: one for one in each}.get(service) for each in self._from_all(ApiClient.digests)
        ]
        if None in listed:
            values = [MISSING if one is None else "0 members" for one in listed]
            field = "service"
        else:
            values = [one.digest for one in listed if one is not None]
            field = "digest"
        return [self._difference(service, "", field, values)] if len(set(values)) > 1 else []

    def _difference(self, service: str, member: str, field: str, values: Sequence[str]) -> Difference:
        return Difference(service, member, field, dict(zip(self._servers, values, strict=True)))

    def _from_all(self, request: Callable[[ApiClient], T]) -> list[T]:
        """Send a request to all servers, and return the responses in their order."""

        def send(client: ApiClient) -> T:
            try:
                return request(client)
            except RefusedError as error:
                raise UnreachableError(f"{client.server} cannot be compared: {error}") from None

        with ThreadPoolExecutor(min(len(self._clients), MAX_PARALLEL)) as pool:
            return list(pool.map(send, self._clients))


_WorkerDigest: TypeAlias = tuple[str, str, int]
"""The server, the zone and the process id of a worker that disagrees with its watcher."""


def _lasting(before: set[T] | None, now: set[T]) -> set[T]:
    """What differs now and has differed at each comparison before."""
    return now if before is None else before & now


def _agree(statuses: Sequence[Status]) -> bool:
    """Whether all processes of all servers have the same digests, none of which is missing."""
    digests = {status.table.digests if status.table is not None else () for status in statuses}
    digests |= {worker.digests for status in statuses for worker in status.workers}
    return len(digests) == 1 and digests != {()}


def _differing_workers(servers: Sequence[str], statuses: Sequence[Status]) -> set[_WorkerDigest]:
    """The workers with another digest than the watcher of their server."""
    return {
        (server, of_worker.zone, worker.pid)
        for server, status in zip(servers, statuses, strict=True)
        if status.table is not None
        for worker in status.workers
        if worker.pid is not None
        for of_watcher, of_worker in zip(status.table.digests, worker.digests, strict=False)
        if of_watcher != of_worker
    }


def _count(rows: Sequence[MemberRow]) -> str:
    return counted(len(rows), "member") if rows else MISSING


def _endpoint(row: MemberRow) -> str:
    return row.endpoint or "none"


_FIELDS: Final[Mapping[str, Callable[[MemberRow], str]]] = {
    "endpoint": _endpoint,
    "additional": lambda row: (
        " ".join(f"{name}={endpoint}" for name, endpoint in sorted(row.additional.items())) or "none"
    ),
    "status": lambda row: row.status,
    "shard": lambda row: "none" if row.shard is None else str(row.shard),
    "weight": lambda row: f"{row.weight:g}",
    "held": lambda row: "no" if row.held_since is None else "yes",
}
"""The text of each property that is compared."""
