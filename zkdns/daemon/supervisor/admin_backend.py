"""The backend of the HTTP API in the supervisor.

Status and stats come from the reports of the processes. Everything else comes from the watcher, by requests
over a socket in the server's private directory.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TypeVar

import msgspec

from zkdns import __version__
from zkdns.address import HostPort
from zkdns.admin.api_types import (
    Explanation,
    Flushed,
    HistoryPage,
    LossesAccepted,
    MemberCount,
    Names,
    Reloaded,
    ServiceDigest,
    ServiceDigests,
    ServiceLine,
    ServiceList,
    ServiceListing,
)
from zkdns.admin.backend import NotReloadedError
from zkdns.admin.status import (
    NamespaceStatus,
    PrimaryStatus,
    RequestError,
    ServedNamespace,
    Source,
    StatsReading,
    Status,
    TableStatus,
    TrafficReading,
    TransferReading,
    WorkerReading,
    WorkerStatus,
    ZoneStatus,
    ZooKeeperStatus,
)
from zkdns.clock import elapsed_seconds
from zkdns.config import Config
from zkdns.daemon.ipc.request_messages import (
    AcceptLosses,
    CountMembers,
    Explain,
    FlushCaches,
    Lines,
    ListDigests,
    ListMembers,
    ListNames,
    ListServices,
    ListSets,
    ListSimilar,
    ReadHistory,
    ReadTable,
    Request,
)
from zkdns.daemon.ipc.requests import (
    RequestFailedError,
    RequestRefusedError,
    requests_path,
    send_request,
    stream_responses,
)
from zkdns.daemon.supervisor.children import ChildProcess
from zkdns.daemon.supervisor.reload import NotReloaded, Reloader
from zkdns.daemon.supervisor.self_check import unresponsive_addresses
from zkdns.daemon.supervisor.server_state import Generation, ServerState
from zkdns.names import to_text
from zkdns.serverset.service_counts import Listing, ServiceCount
from zkdns.telemetry.process_stats import ProcessStats, read_process_stats
from zkdns.telemetry.stats import LATENCY_BUCKETS, ServerStats, WatcherStats, WorkerStats, combine_upstreams
from zkdns.telemetry.traffic import merge

_RESPONSE_SECONDS = 1.0
_START_SECONDS = 2.0  # to wait for a watcher that is starting
_STATUSES = {
    "invalid": HTTPStatus.BAD_REQUEST,
    "not_found": HTTPStatus.NOT_FOUND,
    "busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "failed": HTTPStatus.INTERNAL_SERVER_ERROR,
}
_MAX_NAME = 4096  # characters; more than any name and nearly any znode path

T = TypeVar("T")


class AdminBackend:
    """Implements `zkdns.admin.backend.Backend`.

    Args:
        state: state of the server.
        reloader: reloads the configuration.
    """

    def __init__(self, state: ServerState, reloader: Reloader) -> None:
        self._state = state
        self._reloader = reloader

    # -- from the reports of the processes -------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """True if every worker has a table."""
        return self._state.is_ready

    @property
    def names(self) -> Sequence[str]:
        """The machine's host name, and the names of the setting `admin.names`."""
        return (os.uname().nodename.lower(), *self._state.config.admin.names)

    @property
    def token_file(self) -> str | None:
        """Path of the token file."""
        return self._state.config.admin.token

    def worker_stats(self) -> Mapping[int, WorkerStats]:
        """Return the stats of each worker by process id."""
        return {
            child.pid: child.stats
            for child in self._state.workers
            if child.pid is not None and isinstance(child.stats, WorkerStats)
        }

    def status(self) -> Status:
        """Return the current state."""
        config, watcher = self._state.config, self._state.watcher_stats
        return Status(
            version=__version__,
            ready=self.is_ready,
            zones=tuple(map(to_text, config.zones)),
            namespaces=tuple(ServedNamespace(one.template, to_text(one.zone)) for one in config.namespaces),
            listening=tuple(map(str, self._state.addresses)),
            listening_tls=tuple(map(str, self._state.tls_addresses)),
            source=_source(config),
            zookeeper=_zookeeper(config, watcher),
            primary=_primary(config, watcher),
            table=_table(watcher),
            workers=tuple(map(_worker, self._state.workers)),
            upstreams=combine_upstreams(self.worker_stats().values()),
            transfer=self._transfer(),
            restarts=self._state.generation.restarts,
            started=self._state.started,
            now=time.time(),
        )

    def stats(self) -> StatsReading:
        """Return the current counters and gauges."""
        watcher = self._state.watcher_stats
        return StatsReading(
            version=__version__,
            started=self._state.started,
            now=time.time(),
            clock=time.monotonic(),
            latency_buckets=LATENCY_BUCKETS,
            zookeeper=_zookeeper(self._state.config, watcher),
            primary=_primary(self._state.config, watcher),
            table=_table(watcher),
            workers=tuple(
                WorkerReading(pid=pid, **msgspec.structs.asdict(stats))
                for pid, stats in self.worker_stats().items()
            ),
            transfer=self._transfer(),
        )

    def _transfer(self) -> TransferReading | None:
        stats = self._state.transfer_stats
        return None if stats is None else TransferReading(**msgspec.structs.asdict(stats))

    def traffic(self) -> TrafficReading:
        """Return the responses by service, and the most frequent names and clients."""
        reports = [child.top for child in self._state.workers if child.top is not None]
        return TrafficReading(
            started=self._state.started,
            now=time.time(),
            clock=time.monotonic(),
            services=self._state.service_totals.counts,
            top=merge(reports) if self._state.config.top_names else None,
        )

    def metrics(self, openmetrics: bool) -> str:
        """Render all metrics for Prometheus, or as OpenMetrics. Other threads may call this."""
        # Imported here because prometheus-client loads slowly and no other request needs it.
        from zkdns.telemetry.prometheus import render  # noqa: PLC0415

        watcher, generation = self._state.watcher, self._state.generation
        server = ServerStats(
            version=__version__,
            started=self._state.started,
            restarts=generation.restarts,
            reloads=self._reloader.outcomes,
            processes=dict(_processes(generation)),
            members=watcher.members,
            responses=dict(self._state.service_totals.named),
            all_responses=self._state.service_totals.total,
            max_services=self._state.config.admin.service_metrics,
        )
        return render(
            watcher.stats,
            [child.stats for child in generation.workers],
            server,
            self._state.transfer_stats,
            openmetrics=openmetrics,
        )

    async def unresponsive_addresses(self) -> Sequence[HostPort]:
        """Return the DNS addresses that do not respond within a second. Any response counts."""
        config = self._state.config
        return await unresponsive_addresses(
            self._state.addresses, config.zones[0], config.workers, _RESPONSE_SECONDS
        )

    # -- requests to the watcher -----------------------------------------------------------------------------

    async def services(self, after: int) -> ServiceListing:
        """Return a line for each service. The watcher sends them in parts."""
        lines: list[ServiceLine] = []
        async with contextlib.aclosing(self._stream(ListServices(after), ServiceList)) as parts:
            part = await anext(parts)
            while part.services:
                lines += part.services
                part = await anext(parts)
        return ServiceListing(tuple(lines), part.gone, part.last, part.unread, part.unread_count)

    async def explain(self, name: str) -> Explanation:
        """Explain a name and its responses."""
        return await self._request(Explain(_checked_name(name)), Explanation)

    async def history(self, service: str | None, after: int, limit: int) -> HistoryPage:
        """Return changes of members."""
        return await self._request(ReadHistory(_checked_or_none(service), after, limit), HistoryPage)

    async def count(self, service: str) -> MemberCount:
        """Count the members in the responses for a service."""
        return await self._request(CountMembers(_checked_name(service)), MemberCount)

    async def service_names(self, beginning: str, *, only_held: bool) -> Names:
        """Return names of services with this beginning, all of them or those with held members."""
        return await self._request(ListNames(beginning[:_MAX_NAME], only_held), Names)

    async def similar_names(self, text: str) -> Names:
        """Return the names of services that are most similar to an unknown one."""
        return await self._request(ListSimilar(_checked_name(text)), Names)

    async def sets(self, environment: str | None) -> Listing:
        """Return a row for each server set. The watcher sends them in parts."""
        rows: list[ServiceCount] = []
        async with contextlib.aclosing(self._stream(ListSets(environment), Listing)) as parts:
            part = await anext(parts)
            while part.services:
                rows += part.services
                part = await anext(parts)
        return msgspec.structs.replace(part, services=tuple(rows))

    async def table_lines(self) -> AsyncGenerator[bytes]:
        """Yield the lines of a copy of the table, several in each piece."""
        async with contextlib.aclosing(self._lines(ReadTable())) as pieces:
            async for piece in pieces:
                yield piece

    async def digests(self) -> ServiceDigests:
        """Return the digest of each service. The watcher sends them in parts."""
        services: list[ServiceDigest] = []
        async with contextlib.aclosing(self._stream(ListDigests(), ServiceDigests)) as parts:
            while part := (await anext(parts)).services:
                services += part
        return ServiceDigests(tuple(services))

    async def member_lines(self, service: str | None = None) -> AsyncGenerator[bytes]:
        """Yield a line for each member of one service or of all, several in each piece."""
        request = ListMembers(_checked_or_none(service))
        async with contextlib.aclosing(self._lines(request)) as pieces:
            async for piece in pieces:
                yield piece

    async def accept(self, service: str | None) -> LossesAccepted:
        """Drop held members."""
        return await self._request(AcceptLosses(_checked_or_none(service)), LossesAccepted)

    async def flush(self, name: str | None) -> Flushed:
        """Flush the workers' forward caches."""
        return await self._request(FlushCaches(_checked_or_none(name)), Flushed)

    async def reload(self, *, replace_all: bool = False) -> Reloaded:
        """Read the configuration again and apply it."""
        result = await self._reloader.request(replace_all=replace_all)
        if isinstance(result, NotReloaded):
            raise NotReloadedError(result.errors)
        return result

    @property
    def _socket(self) -> str:
        return requests_path(self._state.watcher.task.feed)

    async def _request(self, request: Request, response: type[T]) -> T:
        with _as_request_errors():
            return await send_request(self._socket, request, response, wait=_START_SECONDS)

    async def _stream(self, request: Request, response: type[T]) -> AsyncGenerator[T]:
        responses = stream_responses(self._socket, request, response, wait=_START_SECONDS)
        with _as_request_errors():
            async with contextlib.aclosing(responses) as parts:
                async for part in parts:
                    yield part

    async def _lines(self, request: Request) -> AsyncGenerator[bytes]:
        async with contextlib.aclosing(self._stream(request, Lines)) as parts:
            async for part in parts:
                if not part.data:
                    return
                yield part.data


@contextlib.contextmanager
def _as_request_errors() -> Iterator[None]:
    """Turn failures of a request to the watcher into errors for the client.

    Failures between the processes are temporary and no fault of the client (503).
    """
    try:
        yield
    except RequestRefusedError as error:
        raise RequestError(_STATUSES[error.refused.reason], str(error)) from None
    except RequestFailedError:
        raise RequestError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the watcher does not respond; if it has ended, it is being replaced, so try again",
        ) from None


def _checked_or_none(name: str | None) -> str | None:
    return None if name is None else _checked_name(name)


def _checked_name(name: str) -> str:
    """Return a name that may be sent to the watcher.

    Raises:
        RequestError: it is empty or too long.
    """
    if not name or len(name) > _MAX_NAME:
        raise RequestError(
            HTTPStatus.BAD_REQUEST, f"a name has 1 to {_MAX_NAME} characters, such as web.staging"
        )
    return name


def _source(config: Config) -> Source:
    if config.zookeeper.hosts:
        return "zookeeper"
    if config.is_secondary:
        return "primary"
    if config.offline:
        return "snapshot"
    return "demo" if config.demo else "static"


def _zookeeper(config: Config, stats: WatcherStats | None) -> ZooKeeperStatus | None:
    if not config.zookeeper.hosts:
        return None
    if stats is None:
        return ZooKeeperStatus(config.zookeeper.hosts, None, 0.0)
    namespaces = tuple(
        NamespaceStatus(
            one.namespace,
            one.state,
            _seconds_since(one.stale_since),
            one.held,
            one.unread,
            one.digest,
            one.server,
        )
        for one in stats.namespaces
    )
    stale = _seconds_since(stats.stale_since)
    return ZooKeeperStatus(config.zookeeper.hosts, stats.state, stale, stats.problem, namespaces)


def _primary(config: Config, stats: WatcherStats | None) -> PrimaryStatus | None:
    if not config.is_secondary:
        return None
    servers = tuple(map(str, config.primary.servers))
    if stats is None:
        return PrimaryStatus(servers, None, 0.0)
    zones = tuple(
        ZoneStatus(one.zone, one.state, one.serial, one.primary, one.problem) for one in stats.zones
    )
    return PrimaryStatus(servers, stats.state, _seconds_since(stats.stale_since), stats.problem, zones)


def _seconds_since(when: float | None) -> float:
    return 0.0 if when is None else round(max(0.0, elapsed_seconds() - when), 3)


def _table(stats: WatcherStats | None) -> TableStatus | None:
    if stats is None:
        return None
    return TableStatus(
        stats.services,
        stats.alive,
        stats.hidden,
        stats.held,
        stats.bad,
        stats.digests,
        stats.serial,
        stats.changed,
    )


def _processes(generation: Generation) -> Iterator[tuple[str, ProcessStats]]:
    """The resources of each process."""
    pids = {"supervisor": os.getpid(), "watcher": generation.watcher.pid}
    pids |= {f"worker-{number}": child.pid for number, child in enumerate(generation.workers)}
    if generation.transfer is not None:
        pids["transfer"] = generation.transfer.pid
    for name, pid in pids.items():
        if pid is not None and (stats := read_process_stats(pid)) is not None:
            yield name, stats


def _worker(child: ChildProcess) -> WorkerStatus:
    digests = child.stats.digests if isinstance(child.stats, WorkerStats) else ()
    return WorkerStatus(child.pid, child.ready, digests)
