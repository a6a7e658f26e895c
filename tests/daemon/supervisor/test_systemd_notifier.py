"""Notices to systemd: readiness, the watchdog and status lines."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.daemon.ipc.feed_helpers import until
from tests.daemon.supervisor.service_manager import Manager
from zkdns.config import Config, load_config
from zkdns.daemon.ipc.child import Task
from zkdns.daemon.supervisor.children import ChildProcess
from zkdns.daemon.supervisor.listeners import Listeners
from zkdns.daemon.supervisor.server_state import Generation, ServerState
from zkdns.daemon.supervisor.systemd_notifier import SystemdNotifier, describe
from zkdns.telemetry.sd_notify import Notifier
from zkdns.telemetry.stats import WatcherStats

NOW = 10_000.0
TABLE = "212 services, 1,034 members"
WAITING = "loading the table; names in the zones get SERVFAIL until then"


def stats(state: str | None, stale: float | None = None, **others: int) -> WatcherStats:
    since = None if stale is None else NOW - stale
    return WatcherStats(state=state, stale_since=since, **{"services": 212, "alive": 1034, **others})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reported", "sentence"),
    [
        (stats("live"), f"live: {TABLE}; ZooKeeper connected"),
        (stats("live", services=1, alive=1), "live: 1 service, 1 member; ZooKeeper connected"),
        (stats("live", held=7), f"live: {TABLE}, 7 held; ZooKeeper connected"),
        (stats("unreachable", 4), f"ZooKeeper unreachable; serving the last table: {TABLE}"),
        (stats("unreachable", 47), f"ZooKeeper unreachable for 40s; serving the last table: {TABLE}"),
        (
            stats("unreachable", 119),
            f"ZooKeeper unreachable for 1m; serving the last table: {TABLE}",
        ),
        (
            stats("unreachable", 7200),
            f"ZooKeeper unreachable for 2h; serving the last table: {TABLE}",
        ),
        (
            stats("readonly", 60),
            f"ZooKeeper without a quorum for 1m; serving its read-only data: {TABLE}",
        ),
        (
            msgspec.structs.replace(stats("live"), problem="the znode /discovery does not exist"),
            f"live: {TABLE}; ZooKeeper connected; the znode /discovery does not exist",
        ),
        (
            msgspec.structs.replace(stats("readonly", 60), problem="the server has no quorum"),
            f"ZooKeeper without a quorum for 1m; serving its read-only data: {TABLE}",
        ),
        (
            stats("reading", 3),
            f"serving the snapshot until ZooKeeper has been read: {TABLE}",
        ),
        (stats(None), f"live: {TABLE}"),
        (None, WAITING),
    ],
)
def test_status_line_of_each_state(reported: WatcherStats | None, sentence: str) -> None:
    assert describe(reported, is_ready=True, now=NOW) == sentence


def test_the_table_is_loading_until_every_worker_has_it() -> None:
    assert describe(stats("live"), is_ready=False, now=NOW) == WAITING


# -- readiness and the watchdog -----------------------------------------------------------------------------


class Server:
    """The sockets and the state of a server. It answers with SERVFAIL while `responds` is true."""

    def __init__(self, config: Config) -> None:
        self.responds = True
        self.listeners = Listeners().changed(config.listen, 1)
        self.worker = ChildProcess(Task("worker", config, ""), lambda: None)
        self.watcher = ChildProcess(Task("watcher", config, ""), lambda: None)
        self.state = ServerState(config)
        self.state.set(Generation(config, self.listeners, self.watcher, (self.worker,)))
        self._sock, _ = self.listeners.each[0].pairs[0].each

    async def run(self) -> None:
        self._sock.setblocking(False)
        loop = asyncio.get_running_loop()
        while True:
            query, client = await loop.sock_recvfrom(self._sock, 512)
            if self.responds:
                response = query[:2] + b"\x80\x02" + query[4:]
                await loop.sock_sendto(self._sock, response, client)


@contextlib.asynccontextmanager
async def reporting(manager: Manager, *, watchdog: float | None = None) -> AsyncIterator[Server]:
    """A server that reports to this service manager, and waits 0.2 s for its table."""
    server = Server(load_config(flags={"listen": ("127.0.0.1:0",)}, environment={}, file=None))
    notifier = SystemdNotifier(
        Notifier(manager.path, watchdog), server.state, table_seconds=0.2, response_seconds=0.1
    )
    tasks = [asyncio.create_task(server.run()), asyncio.create_task(notifier.run())]
    try:
        yield server
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        server.listeners.close()


@pytest.fixture
def manager(short_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(short_path)) as manager:
        yield manager


def test_a_server_becomes_ready_without_a_table_after_a_while(manager: Manager) -> None:
    async def scenario() -> None:
        started_at = asyncio.get_running_loop().time()
        async with reporting(manager):
            await until(lambda: "READY=1" in manager.notices)
            assert asyncio.get_running_loop().time() - started_at >= 0.2
            assert manager.notices[0] == f"STATUS={WAITING}"

    asyncio.run(scenario())


def test_a_server_with_a_table_becomes_ready_when_it_responds(manager: Manager) -> None:
    async def scenario() -> None:
        async with reporting(manager) as server:
            server.responds, server.worker.ready, server.watcher.stats = False, True, stats("live")
            await until(lambda: manager.notices)
            await asyncio.sleep(0.3)  # longer than the wait for a table, and some checks
            assert "READY=1" not in manager.notices
            server.responds = True
            await until(lambda: "READY=1" in manager.notices)

    asyncio.run(scenario())


def test_the_watchdog_gets_notices_only_while_the_server_responds(manager: Manager) -> None:
    async def scenario() -> None:
        async with reporting(manager, watchdog=0.2) as server:
            server.worker.ready = True
            await until(lambda: manager.notices.count("WATCHDOG=1") > 2)
            server.responds = False
            await until(lambda: f"STATUS=no response at {server.state.addresses[0]}" in manager.notices)
            manager.clear()
            await asyncio.sleep(0.5)  # some checks
            assert manager.notices == []
            server.responds = True
            await until(lambda: "WATCHDOG=1" in manager.notices)

    asyncio.run(scenario())


def test_a_server_without_a_watchdog_sends_no_such_notices(manager: Manager) -> None:
    async def scenario() -> None:
        async with reporting(manager) as server:
            server.worker.ready, server.watcher.stats = True, stats("live")
            await until(lambda: f"STATUS=live: {TABLE}; ZooKeeper connected" in manager.notices)
            assert "WATCHDOG=1" not in manager.notices

    asyncio.run(scenario())
