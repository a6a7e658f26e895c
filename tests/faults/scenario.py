"""The environment of a fault test: members in ZooKeeper, a server, a recording client, and a history."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.retry import KazooRetry

from tests.faults.checker import find_errors, is_marked_stale
from tests.faults.history import Fault, History, MemberLifetime
from tests.faults.member_process import MemberProcess
from tests.faults.recording_client import DOMAIN, RATE, RecordingClient
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually

_T = TypeVar("_T")

SESSION = 2
"""The session timeout of the server in seconds."""
_READ = 4.0  # seconds to connect and to read everything
RECOVERY = SESSION + _READ
"""Seconds after a fault within which all responses must be up to date."""
SERVICES = ("api", "db", "web")
_MEMBERS = 3  # initial members of each service
_TIMEOUT = 30.0  # seconds, for operations without a guaranteed bound
_MAX_LOGGED = 40  # log lines in the message of a failed test
_NOTICED = 0.5  # seconds from a log entry of the watcher to the responses, on a busy machine
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
        recovery: seconds after a fault within which all responses must be up to date.
    """

    def __init__(
        self,
        server: ZkdnsServer,
        zk: Any,
        history: History,
        client: RecordingClient,
        services: Sequence[str],
        *,
        domain: str = DOMAIN,
        recovery: float = RECOVERY,
        entered: contextlib.ExitStack | None = None,
    ) -> None:
        self.server = server
        self.zk = zk
        self.history = history
        self.client = client
        self.services = services
        self.killed = 0
        self.recovery = recovery
        self._domain = domain
        self._entered = entered or contextlib.ExitStack()

    def start_members(self, hosts: str, counts: Mapping[str, int]) -> MemberProcess:
        """Start a process with members, which ends after the scenario has been checked."""
        return self.enter(MemberProcess(self.history, hosts, counts))

    def enter(self, context: contextlib.AbstractContextManager[_T]) -> _T:
        """Enter a context, which is left after the scenario has been checked."""
        return self._entered.enter_context(context)

    # -- faults --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def fault(self, *, rereads: bool = False) -> Iterator[Fault]:
        """Record a fault for the duration of the block, and check that responses recover in time after it.

        When it begins, responses are up to date. Until it ends they may remain as they are.

        Args:
            rereads: whether to wait until the server has read ZooKeeper again.
        """
        confirmed = time.monotonic()
        for service in self.services:
            eventually(partial(self.matches_history, service), self.recovery)
        read = self.reads
        fault = Fault(time.monotonic(), confirmed=confirmed)
        self.history.faults.append(fault)
        yield fault
        ended_at = time.monotonic()
        fault.repaired = min(fault.repaired, ended_at)
        if rereads:
            eventually(lambda: self.reads > read, self.recovery)
        self.wait_converged(ended_at + self.recovery - time.monotonic())
        fault.end = time.monotonic()

    def wait_stale(self, fault: Fault) -> None:
        """Wait until responses are marked as stale. From then on all must be, until `fault.repaired`."""
        eventually(self._is_stale, self.recovery)
        fault.stale_from = time.monotonic()

    def wait_reachable(self) -> None:
        """Wait until the client of the test is connected to ZooKeeper; there is no time limit to check."""
        eventually(lambda: bool(self.zk.connected and self.zk.exists("/")), _TIMEOUT)

    # -- responses -----------------------------------------------------------------------------------------

    def addresses(self, service: str) -> list[str]:
        """The current A records of a service, in order."""
        response = self.server.query(f"{service}.{self._domain}", tcp=True)
        return [str(record) for rrset in response.answer for record in rrset]

    def matches_history(self, service: str) -> bool:
        """Whether the response has all current members, and otherwise only held ones."""
        addresses, present = set(self.addresses(service)), self.history.present(service)
        held = self.history.held(service)
        must_be_there = any(
            member.held_until > time.monotonic()
            for member in self.history.all_members
            if member.address in held
        )
        return present <= addresses <= present | held and bool(addresses or not must_be_there)

    def matches_zookeeper(self, service: str) -> bool:
        """Whether the SRV records are those of a fresh read, and otherwise only those of held members."""
        response = self.server.query(f"{service}.{self._domain}", "SRV", tcp=True)
        found: dict[int, set[int]] = {0: set(), 1: set()}
        for record in (record for rrset in response.answer for record in rrset):
            found[record.priority].add(record.port)
        held = self.history.held(service)
        held_ports = {member.port for member in self.history.all_members if member.address in held}
        return found[0] == self.registered_ports(service) and found[1] <= held_ports

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

    def znodes(self) -> set[str]:
        """The paths of all members that ZooKeeper has now."""
        root = self.history.root
        return {
            f"{service}/{name}"
            for service in self.services
            for name in self.zk.get_children(f"{root}/{service}")
        }

    def registered_ports(self, service: str) -> set[int]:
        """The ports of the valid members that ZooKeeper has now, by a fresh read."""
        path, ports = f"{self.history.root}/{service}", set()
        with contextlib.suppress(NoNodeError):
            self.zk.sync(path)
            for name in self.zk.get_children(path):
                with contextlib.suppress(NoNodeError, ValueError):  # it has left meanwhile, or is not valid
                    ports.add(int(json.loads(self.zk.get(f"{path}/{name}")[0])["serviceEndpoint"]["port"]))
        return ports

    def wait_registered(self, within: float = _TIMEOUT) -> None:
        """Wait until ZooKeeper has all current members of the history, and no others."""

        def is_registered(service: str) -> bool:
            return self.registered_ports(service) == {member.port for member in self.history.members(service)}

        for service in self.services:
            eventually(partial(is_registered, service), within)

    def wait_for_answers(self, count: int = 60) -> None:
        """Wait until the client has received `count` more responses."""
        before = len(self.client.answers)
        eventually(lambda: len(self.client.answers) >= before + count)

    @property
    def reads(self) -> int:
        """How often the server has read all of ZooKeeper."""
        return len(self.server.events("zookeeper_read"))

    def _outages(self) -> Iterator[tuple[float, float]]:
        """When the server was disconnected from ZooKeeper, with the time that the workers need to notice."""
        offset = time.time() - time.monotonic()
        times = {
            event: [
                datetime.fromisoformat(entry["timestamp"]).timestamp() - offset
                for entry in self.server.events(event)
            ]
            for event in ("zookeeper_disconnected", "zookeeper_read")
        }
        for begin in times["zookeeper_disconnected"]:
            end = min((read for read in times["zookeeper_read"] if read > begin), default=math.inf)
            yield begin - _NOTICED, end + _NOTICED

    def _is_stale(self) -> bool:
        name = f"{self.services[0]}.{self._domain}"
        return is_marked_stale(self.server.query(name, use_edns=0))

    # -- checks --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check that all responses were correct, and that only killed processes have ended."""
        self.wait_reachable()
        for service in self.services:
            eventually(partial(self.matches_zookeeper, service), self.recovery)
        self.wait_for_answers()
        self.check_answers()

    def check_answers(self) -> None:
        """As `check`, without a last comparison with ZooKeeper."""
        answers = self.client.stop()
        self.history.outages += self._outages()
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
def _with_log(server: ZkdnsServer) -> Iterator[None]:
    """Add the end of the server's log to an exception of the block."""
    try:
        yield
    except BaseException as error:
        error.add_note("\n".join(server.log.splitlines()[-_MAX_LOGGED:]))
        raise


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
    session: int = SESSION,
    arguments: Sequence[str] = (),
    domain: str = DOMAIN,
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
        session: the session timeout of the server in seconds.
        arguments: additional arguments of the server.
        domain: the domain of the services.
        before: called with server and client before the first query.
    """
    if history is None:
        history = History()
        for service in services:
            history.create_service(zk, service)
            for _ in range(_MEMBERS):
                history.register(zk, service)
    own = ("--zookeeper", hosts, "--zookeeper-session-timeout", str(session), "--workers", str(workers))
    with ZkdnsServer(*own, *arguments) as server, _with_log(server):
        if is_unavailable:
            eventually(lambda: server.rcode(f"{services[0]}.{domain}") == "SERVFAIL", _TIMEOUT)
        else:
            server.wait_ready(_TIMEOUT)
        client = RecordingClient(server.addresses[0], services, tcp_rate=tcp_rate, domain=domain)
        before(server, client)
        with contextlib.ExitStack() as entered, client:
            scenario = FaultScenario(
                server,
                zk,
                history,
                client,
                services,
                domain=domain,
                recovery=session + _READ,
                entered=entered,
            )
            if not is_unavailable:
                scenario.wait_converged(_TIMEOUT)
            scenario.wait_for_answers()
            yield scenario
            scenario.check()
