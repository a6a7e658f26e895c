"""The SOA serial: equal on all servers of an ensemble, and newer after each change."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.serverset.sync_helpers import content_zxid, delete_at_once, join, join_many
from tests.support.server import ZkdnsServer
from tests.support.waiting import PATIENCE, eventually
from tests.support.zookeeper import Ensemble
from tests.support.zookeeper_clients import client_of
from zkdns.daemon.ipc.zone_serial import version_of_zxid
from zkdns.dns.serial import is_newer

pytestmark = pytest.mark.processes

TEMPLATE = "/discovery/{environment}/{service}"
WEB = "/discovery/staging/web"


@pytest.fixture
def client(hosts: str) -> Iterator[Any]:
    with client_of(hosts) as found:
        found.ensure_path("/discovery")
        yield found


def serial_of(server: ZkdnsServer) -> int:
    (answer,) = server.query("discovery", "SOA").answer
    return int(answer[0].serial)


def wait_equal(client: Any, *servers: ZkdnsServer) -> int:
    """Wait until all servers have the serial of the present contents, and return it."""
    expected = version_of_zxid(content_zxid(client, TEMPLATE))
    eventually(lambda: [serial_of(server) for server in servers] == [expected] * len(servers), PATIENCE)
    return expected


def started(stack: ExitStack, hosts: str, *arguments: str) -> ZkdnsServer:
    return stack.enter_context(ZkdnsServer("--zookeeper", hosts, *arguments)).wait_ready()


def test_dns_15_two_servers_have_the_same_serial(hosts: str, client: Any, tmp_path: Path) -> None:
    """After each change, after restarts with and without a snapshot, and with a new watcher."""
    snapshot = ("--snapshot", str(tmp_path / "table"))
    join(client, WEB, "10.0.0.1")
    with ExitStack() as stack:
        first = started(stack, hosts, *snapshot)
        second = started(stack, hosts)
        member = join(client, WEB, "10.0.0.2")
        changes: list[Callable[[], object]] = [
            lambda: join_many(client, "/discovery/prod/api", 300),
            lambda: client.set(member, b'{"serviceEndpoint":{"host":"10.0.0.3","port":80},"status":"ALIVE"}'),
            lambda: client.delete(member),
            lambda: delete_at_once(client, "/discovery/prod/api"),
            lambda: client.delete("/discovery/prod"),
            lambda: client.create("/discovery/staging/empty"),
        ]
        serials = [wait_equal(client, first, second)]
        for change in changes:
            change()
            serials.append(wait_equal(client, first, second))
            assert is_newer(serials[-1], serials[-2])

        os.kill(first.pid_of("watcher"), signal.SIGKILL)
        eventually(lambda: len(first.events("zookeeper_read")) == 2, PATIENCE)
        assert wait_equal(client, first, second) == serials[-1]

        assert first.terminate() == 0
        assert wait_equal(client, started(stack, hosts, *snapshot), second) == serials[-1]
        third = started(stack, hosts)
        assert serial_of(third) == serials[-1]
        join(client, WEB, "10.0.0.4")
        assert is_newer(wait_equal(client, second, third), serials[-1])


def test_dns_15_changes_while_a_server_is_down_give_it_the_serial_of_the_others(
    hosts: str, client: Any, tmp_path: Path
) -> None:
    snapshot = ("--snapshot", str(tmp_path / "table"))
    members = join_many(client, WEB, 50)
    join(client, "/discovery/staging/gone")
    with ExitStack() as stack:
        other = started(stack, hosts)
        first = started(stack, hosts, *snapshot)
        before = wait_equal(client, first, other)
        assert first.terminate() == 0
        for path in members[:3]:
            client.delete(path)
        delete_at_once(client, "/discovery/staging/gone")
        again = started(stack, hosts, *snapshot)
        assert is_newer(wait_equal(client, again, other), before)


def test_dns_15_an_election_makes_later_serials_newer(ensemble: Ensemble) -> None:
    with client_of(ensemble.hosts) as client, ExitStack() as stack:
        join(client, WEB, "10.0.0.1")
        first, second = (started(stack, ensemble.hosts) for _ in range(2))
        before = wait_equal(client, first, second)
        leader = ensemble.leader()
        leader.kill()
        eventually(lambda: join(client, WEB, "10.0.0.2"), PATIENCE)
        after = wait_equal(client, first, second)
        assert after - before > 2**27
        leader.start()
        assert serial_of(started(stack, ensemble.hosts)) == after
