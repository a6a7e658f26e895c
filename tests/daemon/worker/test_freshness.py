"""No response is older than the last change that the worker had applied before the query was sent."""

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import dns.message

from tests.daemon.ipc.feed_helpers import health_of, member, put, running_publisher, until
from tests.support.waiting import PATIENCE
from zkdns.config import Config
from zkdns.daemon.ipc.feed import Subscriber
from zkdns.daemon.ipc.feed_messages import SourceHealth
from zkdns.dns.authority import Authority
from zkdns.namespace import parse_namespace
from zkdns.table import Table
from zkdns.transport.codecs import UdpCodec
from zkdns.transport.event_loop import ServingLoop
from zkdns.transport.udp import UdpServer

NAMESPACE = parse_namespace("/discovery/{environment}/{service}")
VERSIONS = 300
SECONDS = PATIENCE


class Clients:
    """Threads that send queries as fast as they can, and compare each response with the applied version.

    The version is the one address of the service: 10.0.1.2 is version 258.

    Attributes:
        applied: the last version that the worker has applied.
        stale: pairs of the version that was applied when a query was sent, and the older one of its response.
    """

    def __init__(self, port: int, count: int) -> None:
        self.applied = 0
        self.responses = 0
        self.stale: list[tuple[int, int]] = []
        self.versions: set[int] = set()
        self._port = port
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        query = dns.message.make_query(
            "web.staging.discovery", "A", use_edns=0 if number % 2 else None
        ).to_wire()
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.settimeout(SECONDS)
            sock.connect(("127.0.0.1", self._port))
            while not self._stopped.is_set():
                applied = self.applied
                sock.send(query)
                (rrset,) = dns.message.from_wire(sock.recv(2000)).answer
                version = int.from_bytes(socket.inet_aton(str(rrset[0]))[1:])
                self.responses += 1
                self.versions.add(version)
                if version < applied:
                    self.stale.append((applied, version))

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(2 * SECONDS)
            assert not thread.is_alive()


def _has_other_serial(table: Table, serial: int) -> Callable[[], bool]:
    return lambda: table.serial != serial


def _has_more_responses(clients: Clients, count: int) -> Callable[[], bool]:
    return lambda: clients.responses > count


def test_no_response_is_older_than_the_change_applied_before_its_query(short_path: Path) -> None:
    async def main() -> Clients:
        path = str(short_path / "feed")
        table = Table()
        errors: list[Exception] = []
        authority = Authority(
            table, Config(listen=(), namespaces=(NAMESPACE,)), lambda _, error: errors.append(error)
        )
        datagrams = authority.make_cache(UdpCodec, stream=False, max_bytes=1 << 20)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
            server = UdpServer(sock, datagrams)

            def on_health(health: SourceHealth) -> None:
                authority.set_health(ready=health.ready, stale=health.stale_since is not None)

            async with running_publisher(path) as publisher:
                publisher.publish([put("web", member(0, "10.0.0.0")), put("db", member(0, "10.1.1.1"))])
                publisher.set_health(health_of(ready=True, stale=False))
                follower = asyncio.create_task(Subscriber(path, table, authority.refresh, on_health).run())
                await until(lambda: authority.freshness.is_ready)
                server.start()
                clients = Clients(sock.getsockname()[1], 2)
                for version in range(1, VERSIONS):
                    serial = table.serial
                    publisher.publish([put("web", member(version, f"10.0.{version >> 8}.{version & 255}"))])
                    await until(_has_other_serial(table, serial))
                    clients.applied = version
                    await until(_has_more_responses(clients, clients.responses + 2))
                await asyncio.to_thread(clients.stop)
                server.stop()
                follower.cancel()
                await asyncio.wait([follower])
        assert errors == []
        return clients

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        clients = runner.run(main())
    assert clients.stale == []
    assert len(clients.versions) > VERSIONS * 0.9
    assert clients.responses > len(clients.versions)
