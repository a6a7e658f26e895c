"""The backend of the admin address in the supervisor.

Status and stats come from the reports of the processes. Everything else comes from the watcher, by requests
over a control socket in the server's private directory, which works without the setting `control`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TypeVar

import msgspec

from zkdns import __version__
from zkdns.address import HostPort
from zkdns.admin.status import (
    RequestError,
    Source,
    StatsReading,
    Status,
    TableStatus,
    WorkerReading,
    WorkerStatus,
    ZooKeeperStatus,
)
from zkdns.clock import elapsed_seconds
from zkdns.config import Config
from zkdns.daemon.ipc.control import ControlError, private_control_path, send_request, stream_responses
from zkdns.daemon.ipc.control_messages import (
    AcceptLosses,
    Explain,
    Explanation,
    FlushCaches,
    Flushed,
    HistoryPage,
    ListServices,
    LossesAccepted,
    NotReloaded,
    ReadHistory,
    Refused,
    Request,
    Response,
    ServiceLine,
    ServiceList,
)
from zkdns.daemon.supervisor.reload import Reloader
from zkdns.daemon.supervisor.self_check import unresponsive_addresses
from zkdns.daemon.supervisor.server_state import ServerState
from zkdns.names import to_text
from zkdns.telemetry.stats import LATENCY_BUCKETS, ServerStats, WatcherStats, WorkerStats, combine_upstreams

_RESPONSE_SECONDS = 1.0
_MAX_NAME = 4096  # characters; more than any name and nearly any znode path

T = TypeVar("T", bound=Response)


class AdminBackend:
    """Implements `zkdns.admin.status.Backend`.

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
            listening=tuple(map(str, self._state.addresses)),
            source=_source(config),
            zookeeper=_zookeeper(config, watcher),
            table=_table(watcher),
            workers=tuple(WorkerStatus(child.pid, child.ready) for child in self._state.workers),
            upstreams=combine_upstreams(self.worker_stats().values()),
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
            table=_table(watcher),
            workers=tuple(
                WorkerReading(pid=pid, **msgspec.structs.asdict(stats))
                for pid, stats in self.worker_stats().items()
            ),
        )

    def metrics(self, openmetrics: bool) -> str:
        """Render all metrics for Prometheus, or as OpenMetrics. Other threads may call this."""
        # Imported here because prometheus-client loads slowly and no other request needs it.
        from zkdns.telemetry.prometheus import render  # noqa: PLC0415

        watcher, workers = self._state.watcher, self._state.workers
        server = ServerStats(
            version=__version__,
            started=self._state.started,
            restarts={"watcher": watcher.deaths, "worker": sum(child.deaths for child in workers)},
            reloads=self._reloader.outcomes,
        )
        return render(watcher.stats, [child.stats for child in workers], server, openmetrics=openmetrics)

    async def unresponsive_addresses(self) -> Sequence[HostPort]:
        """Return the DNS addresses that do not respond within a second. Any response counts."""
        config = self._state.config
        return await unresponsive_addresses(
            self._state.addresses, config.zones[0], config.workers, _RESPONSE_SECONDS
        )

    # -- requests to the watcher -----------------------------------------------------------------------------

    async def services(self) -> Sequence[ServiceLine]:
        """Return a line for each service. The watcher sends them in parts."""
        lines: list[ServiceLine] = []
        with _control_errors_as_request_errors():
            async with contextlib.aclosing(stream_responses(self._control(), ListServices())) as parts:
                async for part in parts:
                    listed = _checked(part, ServiceList).services
                    if not listed:
                        break
                    lines += listed
        return lines

    async def explain(self, name: str) -> Explanation:
        """Explain a name and its responses."""
        return await self._request(Explain(_checked_name(name)), Explanation)

    async def history(self, service: str | None, after: int, limit: int) -> HistoryPage:
        """Return changes of members."""
        wanted = None if service is None else _checked_name(service)
        return await self._request(ReadHistory(wanted, after, limit), HistoryPage)

    async def accept(self, service: str | None) -> Mapping[str, object]:
        """Drop held members."""
        wanted = None if service is None else _checked_name(service)
        return {"members": (await self._request(AcceptLosses(wanted), LossesAccepted)).members}

    async def flush(self, name: str | None) -> Mapping[str, object]:
        """Flush the workers' forward caches."""
        wanted = None if name is None else _checked_name(name)
        flushed = await self._request(FlushCaches(wanted), Flushed)
        return {"flushed_workers": flushed.flushed_workers, "workers": flushed.workers}

    async def reload(self) -> Mapping[str, object]:
        """Read the configuration again and apply it."""
        result = await self._reloader.request()
        if isinstance(result, NotReloaded):
            errors = "; ".join(result.errors)
            raise RequestError(HTTPStatus.CONFLICT, f"the old configuration stays in force: {errors}")
        return {"changed": result.changed, "replaced": result.replaced, "seconds": result.seconds}

    def _control(self) -> str:
        return private_control_path(self._state.watcher.task.feed)

    async def _request(self, request: Request, wanted: type[T]) -> T:
        with _control_errors_as_request_errors():
            return _checked(await send_request(self._control(), request), wanted)


@contextlib.contextmanager
def _control_errors_as_request_errors() -> Iterator[None]:
    """Turn failures between the processes into 503, because they are temporary and no fault of the client."""
    try:
        yield
    except ControlError:
        raise RequestError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the watcher does not respond; if it has ended, it is being replaced, so try again",
        ) from None


def _checked(response: Response, wanted: type[T]) -> T:
    """Return the response if it has the expected type.

    Raises:
        RequestError: the watcher refused the request.
        ControlError: it has another type.
    """
    if isinstance(response, Refused):
        is_invalid = response.reason == "invalid"
        raise RequestError(HTTPStatus.BAD_REQUEST if is_invalid else HTTPStatus.NOT_FOUND, response.message)
    if not isinstance(response, wanted):
        raise ControlError("unexpected type of response")
    return response


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
    if config.offline:
        return "snapshot"
    return "demo" if config.demo else "static"


def _zookeeper(config: Config, stats: WatcherStats | None) -> ZooKeeperStatus | None:
    if not config.zookeeper.hosts:
        return None
    if stats is None:
        return ZooKeeperStatus(config.zookeeper.hosts, None, 0.0)
    since = stats.stale_since
    stale = 0.0 if since is None else round(max(0.0, elapsed_seconds() - since), 3)
    return ZooKeeperStatus(config.zookeeper.hosts, stats.state, stale)


def _table(stats: WatcherStats | None) -> TableStatus | None:
    if stats is None:
        return None
    return TableStatus(stats.services, stats.alive, stats.hidden, stats.held, stats.bad)
