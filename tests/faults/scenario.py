"""The environment of a fault test: members in ZooKeeper, a server, a recording client, and a history."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from kazoo.client import KazooClient
from kazoo.retry import KazooRetry

from tests.faults.checker import find_errors, is_marked_stale
from tests.faults.history import Fault, History, MemberLifetime
from tests.faults.recording_client import RATE, RecordingClient
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually

SESSION = 2
"""The session timeout of the server in seconds."""
RECOVERY = SESSION + 4.0
"""Seconds after a fault within which all responses must be up to date."""
SERVICES = ("api", "db", "web")
_MEMBERS = 3  # initial members of each service
_TIMEOUT = 30.0  # seconds, for operations without a guaranteed bound
_MAX_SHOWN = 15  # errors in the message of a failed assertion


class FaultScenario:
    """A server under continuous queries, and the history of ZooKeeper.

    Attributes:
        server: the server under test.
        zk: a ZooKeeper client that is not affected by faults of the connection of the server.
        history: the changes in ZooKeeper.
        client: the client that sends queries.
        services: the queried services.
        killed: the number of processes of the server that the test has killed.
    """

    def __init__(
        self, server: ZkdnsServer, zk: Any, history: History, client: RecordingClient, services: Sequence[str]
    ) -> None:
        self.server = server
        self.zk = zk
        self.history = history
        self.client = client
        self.services = services
        self.killed = 0

    # -- faults --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def fault(self, *, rereads: bool = False) -> Iterator[Fault]:
        """Record a fault for the duration of the block, and check that responses recover in time after it.

        Args:
            rereads: whether to wait until the server has read ZooKeeper again.
        """
        read = self._read_count()
        fault = Fault(time.monotonic())
        self.history.faults.append(fault)
        yield fault
        ended_at = time.monotonic()
        fault.repaired = min(fault.repaired, ended_at)
        if rereads:
            eventually(lambda: self._read_count() > read, RECOVERY)
        self.wait_converged(ended_at + RECOVERY - time.monotonic())
        fault.end = time.monotonic()

    def wait_stale(self, fault: Fault) -> None:
        """Wait until responses are marked as stale. From then on all must be, until `fault.repaired`."""
        eventually(self._is_stale, RECOVERY)
        fault.stale_from = time.monotonic()

    def wait_reachable(self) -> None:
        """Wait until the client of the test is connected to ZooKeeper; there is no time limit to check."""
        eventually(lambda: bool(self.zk.connected and self.zk.exists("/")), _TIMEOUT)

    # -- responses -----------------------------------------------------------------------------------------

    def addresses(self, service: str) -> list[str]:
        """The current A records of a service, in order."""
        response = self.server.query(f"{service}.staging.discovery", tcp=True)
        return [str(record) for rrset in response.answer for record in rrset]

    def matches_history(self, service: str) -> bool:
        """Whether the response has all current members, and otherwise only held ones."""
        addresses, present = set(self.addresses(service)), self.history.present(service)
        held = self.history.held(service)
        return present <= addresses <= present | held and bool(addresses or not held)

    def wait_converged(self, within: float) -> None:
        """Wait at most `within` seconds until responses match ZooKeeper and are not marked as stale."""
        for service in self.services:
            started_at = time.monotonic()
            eventually(partial(self.matches_history, service), within)
            within -= time.monotonic() - started_at
        eventually(lambda: not self._is_stale(), within)

    def check_changes(self) -> MemberLifetime:
        """Register a member and delete another one; wait until both changes are in responses."""
        service = self.services[0]
        added = self.history.register(self.zk, service)
        removed = self.history.members(service)[0]
        self.history.delete(self.zk, removed)
        eventually(partial(self.matches_history, service))
        return added

    def wait_for_answers(self, count: int = 60) -> None:
        """Wait until the client has received `count` more responses."""
        before = len(self.client.answers)
        eventually(lambda: len(self.client.answers) >= before + count)

    def _read_count(self) -> int:
        return len(self.server.events("zookeeper_read"))

    def _is_stale(self) -> bool:
        name = f"{self.services[0]}.staging.discovery"
        return is_marked_stale(self.server.query(name, use_edns=0))

    # -- checks --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check that all responses were correct, and that only killed processes have ended."""
        self.wait_for_answers()
        answers = self.client.stop()
        errors = find_errors(self.history, answers)
        shown = "\n".join(errors[:_MAX_SHOWN])
        assert not errors, f"{len(errors)} errors in {len(answers)} responses:\n{shown}"
        sent = sum(answer.via != "tcp" for answer in answers)
        assert sent >= 0.9 * RATE * (self.client.ended - self.client.started_at)
        assert any(answer.via == "tcp" for answer in answers)
        assert not self.server.ended
        assert len(self.server.events("process_exited")) == self.killed
        assert "Traceback" not in self.server.log


@contextlib.contextmanager
def reconnecting_client(hosts: str) -> Iterator[Any]:
    """A ZooKeeper client that reconnects quickly and without limit."""
    retry = KazooRetry(max_tries=-1, delay=0.05, max_delay=0.2)
    quiet = logging.getLogger("tests.faults.kazoo")
    quiet.setLevel(logging.CRITICAL)
    client = KazooClient(hosts=hosts, connection_retry=retry, logger=quiet)
    try:
        client.start(_TIMEOUT)
        yield client
    finally:
        client.stop()
        client.close()


@contextlib.contextmanager
def fault_scenario(
    hosts: str,
    zk: Any,
    *,
    history: History | None = None,
    services: Sequence[str] = SERVICES,
    workers: int = 1,
    tcp_rate: float = 10.0,
    is_unavailable: bool = False,
    before: Callable[[ZkdnsServer, RecordingClient], None] = lambda _, __: None,
) -> Iterator[FaultScenario]:
    """Run a server under queries, with some members of each service. All responses are checked at the end.

    Args:
        hosts: the ZooKeeper addresses for the server.
        zk: a ZooKeeper client for the test.
        history: the existing services and members; by default they are created.
        services: the services to query.
        workers: the number of workers.
        tcp_rate: TCP queries per second.
        is_unavailable: whether ZooKeeper is unavailable at the start of the server.
        before: called with server and client before the first query.
    """
    if history is None:
        history = History()
        for service in services:
            history.create_service(zk, service)
            for _ in range(_MEMBERS):
                history.register(zk, service)
    arguments = ("--zookeeper", hosts, "--zookeeper-session-timeout", str(SESSION), "--workers", str(workers))
    with ZkdnsServer(*arguments) as server:
        if is_unavailable:
            eventually(lambda: server.rcode(f"{services[0]}.staging.discovery") == "SERVFAIL", _TIMEOUT)
        else:
            server.wait_ready(_TIMEOUT)
        client = RecordingClient(server.addresses[0], services, tcp_rate=tcp_rate)
        before(server, client)
        with client:
            scenario = FaultScenario(server, zk, history, client, services)
            if not is_unavailable:
                scenario.wait_converged(_TIMEOUT)
            scenario.wait_for_answers()
            yield scenario
            scenario.check()
