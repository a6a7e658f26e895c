"""Types of `/api/status` and `/api/stats`, and the interface of the backend that the supervisor provides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Literal, Protocol, TypeAlias

import msgspec

from zkdns.address import HostPort
from zkdns.errors import ZkdnsError
from zkdns.telemetry.stats import TransferStats, UpstreamStatus, WorkerStats, ZoneDigest
from zkdns.telemetry.traffic import TopReport

Source: TypeAlias = Literal["zookeeper", "primary", "snapshot", "static", "demo"]
"""`primary`: zone transfers; `snapshot`: a snapshot without ZooKeeper; `static`: a static file; `demo`: the
embedded example."""


class RequestError(ZkdnsError):
    """A request failed. The text is a sentence for the client, `status` the HTTP status."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        self.status = status
        super().__init__(sentence)


# -- GET /api/status ----------------------------------------------------------------------------------------


class NamespaceStatus(msgspec.Struct, frozen=True):
    """State of one namespace in ZooKeeper."""

    namespace: str
    """Its template."""
    state: str
    """One of `zkdns.telemetry.stats.STATES`."""
    stale_seconds: float
    """Time since its members were last known to be current; 0 while they are."""
    held: int
    """Held members."""
    unread: int
    """Znodes above the services that cannot be listed."""
    digest: str | None = None
    """As `ZoneDigest.digest`, of its services. None: not computed yet."""
    server: str = ""
    """The ZooKeeper server of the connection. Empty: there is none."""


class ZooKeeperStatus(msgspec.Struct, frozen=True):
    """State of the ZooKeeper connection."""

    hosts: str
    state: str | None
    """The worst state of all namespaces. None: the watcher has not reported yet."""
    stale_seconds: float
    """The longest time of all namespaces."""
    problem: str = ""
    """Why services are missing or may be out of date, as a sentence. Empty: no problem is known."""
    namespaces: tuple[NamespaceStatus, ...] = ()


class ZoneStatus(msgspec.Struct, frozen=True):
    """State of one zone of a secondary."""

    zone: str
    state: str
    """One of `zkdns.telemetry.stats.STATES`, without `readonly`."""
    serial: int | None
    """None: it was not transferred yet."""
    primary: str
    """The address of the primary that was used last. Empty: none yet."""
    problem: str
    """Why its services are missing or may be out of date. Empty: no problem is known."""


class PrimaryStatus(msgspec.Struct, frozen=True):
    """State of the zone transfers of a secondary."""

    servers: tuple[str, ...]
    """The primaries, in the order in which they are tried."""
    state: str | None
    """The worst state of all zones. None: the watcher has not reported yet."""
    stale_seconds: float
    """The longest time of all namespaces."""
    problem: str = ""
    """Why services are missing or may be out of date, as a sentence. Empty: no problem is known."""
    zones: tuple[ZoneStatus, ...] = ()


class ServedNamespace(msgspec.Struct, frozen=True):
    """A namespace, from ZooKeeper or a static file."""

    template: str
    """Path of its services in ZooKeeper."""
    zone: str


class TableStatus(msgspec.Struct, frozen=True):
    """Number of services and of members by state."""

    services: int
    alive: int
    hidden: int
    held: int
    bad: int | None
    """None: not counted, because nothing is read from ZooKeeper."""
    digests: tuple[ZoneDigest, ...] = ()
    """The digest of each zone. Empty: not computed yet."""
    serial: int = 0
    """The SOA serial of the zones."""
    changed: float | None = None
    """Unix time of the last change. None: there was none since the start."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """State of a worker process."""

    pid: int | None
    """None: the process has ended and its replacement is starting."""
    ready: bool
    """True if it has a table."""
    digests: tuple[ZoneDigest, ...] = ()
    """As `TableStatus.digests`. They differ from those for a moment after a change."""


class TransferReading(TransferStats, frozen=True, kw_only=True, tag=False):
    """Zone transfers: counters since the start of the transfer process, and the versions of the zones."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """State of the server. Times are Unix times."""

    version: str
    ready: bool
    """True if every worker has a table."""
    zones: tuple[str, ...]
    namespaces: tuple[ServedNamespace, ...]
    """Names without a zone are tried in this order."""
    listening: tuple[str, ...]
    listening_tls: tuple[str, ...] = ()
    """Addresses for DNS over TLS."""
    source: Source
    """Source of the services."""
    zookeeper: ZooKeeperStatus | None
    """None: nothing is read from ZooKeeper."""
    primary: PrimaryStatus | None = None
    """None: this server is no secondary."""
    table: TableStatus | None
    """None: the watcher has not reported yet."""
    workers: tuple[WorkerStatus, ...]
    upstreams: tuple[UpstreamStatus, ...]
    """Combined from all workers."""
    transfer: TransferReading | None = None
    """None: zone transfers are not configured, or the transfer process has not reported yet."""
    restarts: dict[str, int] = {}
    """Processes replaced after they ended unexpectedly, by role."""
    started: float
    now: float


# -- GET /api/stats -----------------------------------------------------------------------------------------


class WorkerReading(WorkerStats, frozen=True, kw_only=True, tag=False):
    """Counters and gauges of one worker. Counters never fall while the process id stays the same."""

    pid: int


class StatsReading(msgspec.Struct, frozen=True, kw_only=True):
    """Counters and gauges of the server at one moment.

    A client computes rates from two readings: the growth of each worker's counters, divided by the difference
    of `clock`. A worker with a new process id started at 0.
    """

    version: str
    started: float
    """Unix time of the server's start. If it differs between two readings, the server was restarted."""
    now: float
    """Unix time."""
    clock: float
    """Seconds by the server's monotonic clock."""
    latency_buckets: tuple[float, ...]
    """Upper bounds in seconds of the buckets in the workers' `latencies`."""
    zookeeper: ZooKeeperStatus | None
    primary: PrimaryStatus | None = None
    table: TableStatus | None
    workers: tuple[WorkerReading, ...]
    """Workers that have reported. They report at most once a second."""
    transfer: TransferReading | None = None
    """As in `Status`."""


# -- GET /api/traffic --------------------------------------------------------------------------------------


class TrafficReading(msgspec.Struct, frozen=True, kw_only=True):
    """Responses by service, and the most frequent names and clients, at one moment.

    A client computes rates of services from two readings: the growth of a count, divided by the difference of
    `clock`.
    """

    started: float
    """Unix time of the server's start. If it differs between two readings, the server was restarted."""
    now: float
    """Unix time."""
    clock: float
    """Seconds by the server's monotonic clock."""
    services: dict[str, int]
    """Responses by service since the start, of all workers. Services without any are absent."""
    top: TopReport | None
    """The most frequent names and clients of all workers. None: the setting `top_names` is off."""


# -- the backend --------------------------------------------------------------------------------------------


class Entry(Protocol):
    """An entry of the history, which can be encoded as JSON."""

    @property
    def number(self) -> int:
        """Greater than the number of every earlier entry."""


class History(Protocol):
    """Entries, oldest first."""

    @property
    def entries(self) -> Sequence[Entry]:
        """The entries."""

    @property
    def last(self) -> int:
        """Number after which the next request continues."""


class Explanation(Protocol):
    """Explanation of a name, which can be encoded as JSON."""

    @property
    def kind(self) -> str:
        """`absent` if the name does not exist."""

    @property
    def rule(self) -> str:
        """Meaning of the name, in a sentence."""


class Backend(Protocol):
    """The server behind the admin address. Methods that query its processes raise `RequestError`."""

    @property
    def is_ready(self) -> bool:
        """True if every worker has a table."""

    @property
    def names(self) -> Sequence[str]:
        """Host names that browsers may use besides addresses and localhost, in lower case."""

    @property
    def token_file(self) -> str | None:
        """Path of the file with the token for requests that change something. None: these are disabled."""

    def status(self) -> Status:
        """Return the current state."""

    def stats(self) -> StatsReading:
        """Return the current counters and gauges."""

    def traffic(self) -> TrafficReading:
        """Return the responses by service, and the most frequent names and clients."""

    def worker_stats(self) -> Mapping[int, WorkerStats]:
        """Return the stats of each worker by process id."""

    def metrics(self, openmetrics: bool) -> str:
        """Render all metrics for Prometheus, or as OpenMetrics. Other threads may call this."""

    async def unresponsive_addresses(self) -> Sequence[HostPort]:
        """Return the server's DNS addresses that do not respond within a second."""

    async def explain(self, name: str) -> Explanation:
        """Explain a name and its responses."""

    async def history(self, service: str | None, after: int, limit: int) -> History:
        """Return changes of members, of one service or of all.

        Args:
            service: name or znode's path of the service. None: all services.
            after: only entries with a greater number, the oldest of them. 0: the newest entries.
            limit: maximum number of entries.
        """

    async def accept(self, service: str | None) -> object:
        """Drop held members of one service or of all."""

    async def flush(self, name: str | None) -> object:
        """Flush the forward cache for a name and the names below it, or completely."""

    async def reload(self) -> object:
        """Read the configuration again and apply it.

        Raises:
            RequestError: it has errors or cannot be applied.
        """
