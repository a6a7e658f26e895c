"""The deletion of thousands of services at once: the watcher stays responsive, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serverset.sync_helpers import content_zxid
from tests.support.background import Background
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper_clients import client_of
from zkdns.admin.api_types import LossesAccepted
from zkdns.admin.client import ApiClient, ServerAddress
from zkdns.daemon.ipc.zone_serial import version_of_zxid
from zkdns.errors import ZkdnsError

pytestmark = pytest.mark.processes

SERVICES = [f"/discovery/staging/s{number}" for number in range(2000)]
MEMBER = "member_0000000001"
DATA = b'{"serviceEndpoint":{"host":"10.0.0.1","port":80},"status":"ALIVE"}'
TEMPLATE = "/discovery/{environment}/{service}"
_PER_TRANSACTION = 200
_SECONDS = 60.0


def commit(client: Any, operations: list[tuple[Any, ...]]) -> None:
    """Commit operations in large transactions, all of them sent at once."""
    results = []
    for start in range(0, len(operations), _PER_TRANSACTION):
        transaction = client.transaction()
        for name, *arguments in operations[start : start + _PER_TRANSACTION]:
            getattr(transaction, name)(*arguments)
        results.append(transaction.commit_async())
    failures = [one for result in results for one in result.get() if isinstance(one, Exception)]
    assert failures == []


@pytest.fixture
def client(hosts: str) -> Iterator[Any]:
    with client_of(hosts) as found:
        found.ensure_path("/discovery/staging")
        commit(found, [("create", path) for path in SERVICES])
        commit(found, [("create", f"{path}/{MEMBER}", DATA) for path in SERVICES])
        yield found


class Poller(Background):
    """Sends requests for the watcher's data without a pause, until the end of the context."""

    def __init__(self, server: ZkdnsServer) -> None:
        super().__init__("poller")
        self.answers = 0
        self.failures: list[str] = []
        self._api = ApiClient(ServerAddress(path=server.api))

    def _run(self) -> None:
        while not self._has_ended.is_set():
            try:
                self._api.names("s19", only_held=True)
                self.answers += 1
            except ZkdnsError as error:
                self.failures.append(str(error))
            time.sleep(0.005)


def serial_of(server: ZkdnsServer) -> int:
    (answer,) = server.query("discovery", "SOA").answer
    return int(answer[0].serial)


def test_the_api_answers_while_thousands_of_services_are_deleted_held_and_accepted(
    hosts: str, client: Any
) -> None:
    with ZkdnsServer("--zookeeper", hosts) as server:
        server.wait_ready().wait_api()
        api = ApiClient(ServerAddress(path=server.api))

        def held() -> int:
            return sum(line.held for line in api.services().services)

        assert len(api.services().services) == len(SERVICES)
        with Poller(server) as poller:
            commit(client, [("delete", f"{path}/{MEMBER}") for path in SERVICES])
            commit(client, [("delete", path) for path in SERVICES])
            eventually(lambda: held() == len(SERVICES), _SECONDS)
            serial = version_of_zxid(content_zxid(client, TEMPLATE))
            eventually(lambda: serial_of(server) == serial, _SECONDS)
            assert poller.answers > 1
            assert server.lookup("s1999.staging.discovery") == {"10.0.0.1"}
            accepted = api.post("/api/accept", LossesAccepted, all="1")
            assert len(accepted.members) == len(SERVICES)
            assert not api.services().services
        assert poller.failures == []
        assert server.rcode("s1999.staging.discovery") == "NXDOMAIN"
        more = eventually(lambda: server.events("more_members_held"))
        lines = server.events("members_held")
        eventually(lambda: len(lines) + sum(one["sets"] for one in more) == len(SERVICES))
        assert len(lines) < len(SERVICES) // 4
