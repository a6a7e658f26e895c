"""What has been delivered is what is answered: no answer is older than the last change that arrived."""

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import dns.message
import pytest
from zkdns.transport.codecs import UdpCodec
from zkdns.transport.event_loop import ServingLoop

from tests.daemon.ipc.feed_helpers import member, publishing, put, until
from zkdns.config import Config
from zkdns.daemon.ipc.feed import SourceHealth, Subscriber
from zkdns.dns.authority import Authority
from zkdns.namespace import parse_namespace
from zkdns.table import Table
from zkdns.transport.udp import UdpServer

NAMESPACE = parse_namespace("/discovery/{environment}/{service}")
VERSIONS = 300
SECONDS = 5.0


class Askers:
    """Threads that ask as fast as they can, each noting what it was told before and after what was delivered.

    A version is told by the one address of the service: 10.0.1.2 is number 258.
    """

    def __init__(self, port: int, count: int) -> None:
        self.delivered = 0
        self.answers = 0
        self.stale: list[tuple[int, int]] = []
        """Versions that had been delivered when the question was sent, and older ones that were answered."""
        self.seen: set[int] = set()
        self._port = port
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        query = dns.message.make_query(
            "web.staging.discovery", "A", use_edns=0 if number % 2 else None
        ).to_wire()
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.settimeout(SECONDS)
            sock.connect(("127.0.0.1", self._port))
            while not self._ended.is_set():
                before = self.delivered
                sock.send(query)
                (rrset,) = dns.message.from_wire(sock.recv(2000)).answer
                told = int.from_bytes(socket.inet_aton(str(rrset[0]))[1:])
                self.answers += 1
                self.seen.add(told)
                if told < before:
                    self.stale.append((before, told))

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(2 * SECONDS)
            assert not thread.is_alive()


def _is_another(table: Table, serial: int) -> Callable[[], bool]:
    return lambda: table.serial != serial


def _has_told_more(askers: Askers, than: int) -> Callable[[], bool]:
    return lambda: askers.answers > than


@pytest.mark.punctual
def test_no_answer_is_older_than_what_was_delivered_before_it_was_asked_for(short_path: Path) -> None:
    async def main() -> Askers:
        path = str(short_path / "feed")
        table = Table()
        errors: list[Exception] = []
        authority = Authority(
            table, Config(listen=(), namespaces=(NAMESPACE,)), lambda _, error: errors.append(error)
        )
        datagrams = authority.answers(UdpCodec, stream=False, most_bytes=1 << 20)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
            server = UdpServer(sock, datagrams)

            def heard(health: SourceHealth) -> None:
                authority.set_health(ready=health.ready, stale=health.stale)

            async with publishing(path) as publisher:
                publisher.publish([put("web", member(0, "10.0.0.0")), put("db", member(0, "10.1.1.1"))])
                publisher.set_health(ready=True, stale=False)
                follower = asyncio.create_task(Subscriber(path, table, authority.refresh, heard).run())
                await until(lambda: authority.responder.ready)
                server.start()
                askers = Askers(sock.getsockname()[1], 2)
                for version in range(1, VERSIONS):
                    serial = table.serial
                    publisher.publish([put("web", member(version, f"10.0.{version >> 8}.{version & 255}"))])
                    await until(_is_another(table, serial))
                    askers.delivered = version
                    told = askers.answers
                    await until(_has_told_more(askers, told + 2))
                await asyncio.to_thread(askers.stop)
                server.stop()
                follower.cancel()
                await asyncio.wait([follower])
        assert errors == []
        return askers

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        askers = runner.run(main())
    assert askers.stale == []
    assert len(askers.seen) > VERSIONS * 0.9
    assert askers.answers > len(askers.seen)
