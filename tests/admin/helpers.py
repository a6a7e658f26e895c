"""An admin address for tests, served as in the supervisor with a fake backend."""

import asyncio
import contextlib
import http.client
import json
import queue
import socket
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from zkdns.address import HostPort
from zkdns.admin.api_types import (
    Explanation,
    Flushed,
    HistoryEntry,
    HistoryPage,
    LossesAccepted,
    MemberCount,
    Names,
    Reloaded,
    ServiceDigest,
    ServiceDigests,
    ServiceLine,
    ServiceListing,
    UnreadZnode,
)
from zkdns.admin.backend import NotReloadedError
from zkdns.admin.client import ApiClient, ServerAddress
from zkdns.admin.server import AdminServer
from zkdns.admin.status import (
    RequestError,
    ServedNamespace,
    StatsReading,
    Status,
    TableStatus,
    TrafficReading,
    WorkerReading,
    WorkerStatus,
    ZooKeeperStatus,
)
from zkdns.admin.timing import Timing
from zkdns.serverset.service_counts import Listing, ServiceCount
from zkdns.telemetry.stats import LATENCY_BUCKETS, WorkerStats, ZoneDigest

SECONDS = 4.0  # less than the server's idle timeout
_STREAM_SECONDS = 20.0  # a real server loads aiohttp first
QUICK = Timing(check=0.02, status=0.2, changes=0.05, restart=0.1)
"""Short intervals, with the usual time limits for clients."""
LOOPBACK = HostPort("127.0.0.1", 0)
DIGESTS = (ZoneDigest("discovery", 3, "0123456789abcdef"),)
DIGEST = {"zone": "discovery", "members": 3, "digest": "0123456789abcdef"}
"""The same as JSON."""

STATUS = Status(
    version="1",
    ready=True,
    zones=("discovery",),
    namespaces=(ServedNamespace("/discovery/{environment}/{service}", "discovery"),),
    listening=("127.0.0.1:53",),
    source="zookeeper",
    zookeeper=ZooKeeperStatus("zk:2181", "live", 0.0),
    table=TableStatus(1, 3, 0, 0, 0, DIGESTS),
    workers=(WorkerStatus(7, True, DIGESTS),),
    upstreams=(),
    started=1.0,
    now=2.0,
)
AWAY = RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "it is away")


def entry(number: int, service: str = "web.staging") -> HistoryEntry:
    return HistoryEntry(number, number / 1e6, service, "member_1", "joined", "10.0.0.1:80", "/d/web/member_1")


@dataclass
class FakeBackend:
    """A backend with values that a test sets. `done` lists the calls that change something."""

    is_ready: bool = True
    names: Sequence[str] = ("dns1.example.com",)
    token_file: str | None = None
    unresponsive: Sequence[HostPort] = ()
    entries: list[HistoryEntry] = field(default_factory=list)
    lines: Sequence[ServiceLine] = ()
    unread: Sequence[UnreadZnode] = ()
    listed: list[int] = field(default_factory=list)
    """The value of `after` of each request for services."""
    current: Status = STATUS
    workers: Mapping[int, WorkerStats] = field(default_factory=dict)
    clock: float = 3.0
    traffic_counts: dict[str, int] = field(default_factory=dict)
    metrics_text: str = "zkdns_services 1\n"
    explanation: Explanation | None = None
    is_away: bool = False
    is_holding: bool = False
    """Whether requests for services wait."""
    running: int = 0
    """Requests for services that have not been answered."""
    done: list[tuple[str, object]] = field(default_factory=list)
    checks: int = 0
    pieces: Iterable[bytes] = (b'{"a":1}\n', b'{"a":2}\n')
    """Pieces of the lines of all members."""
    is_breaking: bool = False
    """Whether these lines end with an error."""
    sent: int = 0
    closed: int = 0
    reload_errors: tuple[str, ...] = ()

    def status(self) -> Status:
        return self.current

    def stats(self) -> StatsReading:
        return StatsReading(
            version=self.current.version,
            started=self.current.started,
            now=self.current.now,
            clock=self.clock,
            latency_buckets=LATENCY_BUCKETS,
            zookeeper=self.current.zookeeper,
            table=self.current.table,
            workers=tuple(
                WorkerReading(pid=pid, **msgspec.structs.asdict(each)) for pid, each in self.workers.items()
            ),
        )

    def traffic(self) -> TrafficReading:
        return TrafficReading(
            started=self.current.started,
            now=self.current.now,
            clock=self.clock,
            services=self.traffic_counts,
            top=None,
        )

    def worker_stats(self) -> Mapping[int, WorkerStats]:
        return self.workers

    def metrics(self, openmetrics: bool) -> str:
        return "# EOF\n" if openmetrics else self.metrics_text

    async def unresponsive_addresses(self) -> Sequence[HostPort]:
        self.checks += 1
        return self.unresponsive

    async def services(self, after: int) -> ServiceListing:
        self._check()
        self.running += 1
        while self.is_holding:  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)
        self.running -= 1
        self.listed.append(after)
        if not after:
            return ServiceListing(
                tuple(self.lines), last=self.last, unread=tuple(self.unread), unread_count=len(self.unread)
            )
        changed = {one.service for one in self.entries if one.number > after}
        lines = tuple(one for one in self.lines if one.name in changed)
        gone = tuple(sorted(changed - {one.name for one in lines}))
        return ServiceListing(lines, gone, self.last, tuple(self.unread), len(self.unread))

    @property
    def last(self) -> int:
        """The number of the newest entry."""
        return max((one.number for one in self.entries), default=0)

    async def explain(self, name: str) -> Explanation:
        self._check()
        self.done.append(("explain", name))
        assert self.explanation is not None
        return self.explanation

    async def history(self, service: str | None, after: int, limit: int) -> HistoryPage:
        self._check()
        known = [one for one in self.entries if service in (None, one.service)]
        found = [one for one in known if one.number > after][:limit] if after else known[-limit:]
        last = (
            found[-1].number if len(found) == limit else max((one.number for one in self.entries), default=0)
        )
        return HistoryPage(tuple(found), last)

    async def count(self, service: str) -> MemberCount:
        self.done.append(("count", service))
        return MemberCount(3, 1, exists=True, ready=True)

    async def service_names(self, beginning: str, *, only_held: bool) -> Names:
        self.done.append(("names", (beginning, only_held)))
        return Names(("web.staging.discovery",))

    async def similar_names(self, text: str) -> Names:
        self.done.append(("near", text))
        return Names(("web.staging",))

    async def sets(self, environment: str | None) -> Listing:
        self.done.append(("sets", environment))
        row = ServiceCount("staging", "web", 3, "/discovery/staging/web")
        return Listing((row,), empty=(), denied=(), exists=True)

    async def table_lines(self) -> AsyncGenerator[bytes]:
        for piece in self.pieces:
            yield piece

    async def digests(self) -> ServiceDigests:
        self._check()
        return ServiceDigests((ServiceDigest("web.staging.discovery", 3, "0123456789abcdef"),))

    async def member_lines(self, service: str | None = None) -> AsyncGenerator[bytes]:
        self._check()
        if service is not None:
            self.done.append(("members", service))
        try:
            for piece in self.pieces:
                self.sent += 1
                yield piece
            if self.is_breaking:
                raise AWAY
        finally:
            self.closed += 1

    async def accept(self, service: str | None) -> LossesAccepted:
        self.done.append(("accept", service))
        return LossesAccepted(())

    async def flush(self, name: str | None) -> Flushed:
        self.done.append(("flush", name))
        return Flushed(1, 1)

    async def reload(self, *, replace_all: bool = False) -> Reloaded:
        self.done.append(("reload", replace_all))
        if self.reload_errors:
            raise NotReloadedError(self.reload_errors)
        return Reloaded((), (), 0.1)

    def _check(self) -> None:
        if self.is_away:
            raise AWAY


@contextlib.contextmanager
def serving(
    backend: FakeBackend | None = None, address: HostPort = LOOPBACK, timing: Timing = QUICK
) -> Iterator[HostPort]:
    """Serve a backend at this address."""
    with running(AdminServer(address, timing=timing), backend) as bound:
        assert isinstance(bound, HostPort)
        yield bound


@contextlib.contextmanager
def serving_at(path: Path, backend: FakeBackend | None = None, timing: Timing = QUICK) -> Iterator[ApiClient]:
    """Serve a backend at a Unix socket; yield a client."""
    with running(AdminServer(path, timing=timing), backend):
        yield ApiClient(ServerAddress(path=str(path)))


@contextlib.contextmanager
def running(server: AdminServer, backend: FakeBackend | None = None) -> Iterator[HostPort | Path]:
    """Run a server in a thread; yield its address."""
    begun: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.SimpleQueue()

    async def run() -> None:
        ready, over = asyncio.Event(), asyncio.Event()
        ready.set()
        server.start(lambda: backend or FakeBackend(), ready)
        begun.put((asyncio.get_running_loop(), over))
        await over.wait()
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    loop, over = begun.get()
    try:
        yield server.address
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


@dataclass
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json"
        return json.loads(self.text)

    @property
    def error(self) -> str:
        return str(self.json["error"])


def ask(at: HostPort, path: str, method: str = "GET", *, seconds: float = SECONDS, **headers: str) -> Answer:
    """Send a request. An underscore in a header's name stands for a hyphen."""
    connection = http.client.HTTPConnection(at.host, at.port, timeout=seconds)
    with contextlib.closing(connection):
        connection.request(method, path, headers={n.replace("_", "-"): v for n, v in headers.items()})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read().decode())


def raw(at: HostPort, request: bytes) -> bytes:
    """Send bytes, and return all bytes that the server sends until it closes."""
    with socket.create_connection((at.host, at.port), timeout=SECONDS) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while more := sock.recv(65536):
            answer += more
        return answer


class Reader:
    """A client of an event stream."""

    def __init__(self, at: HostPort, **headers: str) -> None:
        self._connection = http.client.HTTPConnection(at.host, at.port, timeout=_STREAM_SECONDS)
        self._connection.request(
            "GET", "/api/events", headers={n.replace("_", "-"): v for n, v in headers.items()}
        )
        self.response = self._connection.getresponse()

    def __iter__(self) -> Iterator[tuple[str, str, Any]]:
        """Yield kind, id and data of each event, without comments."""
        fields: dict[str, str] = {}
        while line := self.response.readline().decode():
            if line == "\n":
                if "data" in fields:
                    yield fields["event"], fields.get("id", ""), json.loads(fields["data"])
                fields = {}
            else:
                name, _, value = line.rstrip("\n").partition(": ")
                fields[name] = value

    def next(self, kind: str) -> tuple[str, Any]:
        """Return id and data of the next event of this kind."""
        return next((ident, data) for found, ident, data in self if found == kind)

    def close(self) -> None:
        self.response.close()
        self._connection.close()


@contextlib.contextmanager
def reading(at: HostPort, **headers: str) -> Iterator[Reader]:
    with contextlib.closing(Reader(at, **headers)) as reader:
        yield reader
