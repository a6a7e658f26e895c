"""What a test of a fault is made of: members in ZooKeeper, a whole server, an asker, and the history."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from kazoo.client import KazooClient
from kazoo.retry import KazooRetry

from tests.faults.asker import RATE, Asker
from tests.faults.checker import is_told_stale, objections
from tests.faults.history import Disturbance, Entry, History
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually

SESSION = 2
"""Seconds; what the servers are told."""
BACK = SESSION + 2.0
"""Seconds after a fault within which everything is as it should be."""
SERVICES = ("api", "db", "web")
_MEMBERS = 3  # of each service, at first
_PATIENCE = 30.0  # seconds, for what no bound is claimed of
_SHOWN = 15  # objections; more say nothing new


class Scene:
    """A server that is asked all the time, and what is true meanwhile.

    Attributes:
        server: that is under test.
        zk: a client that reaches ZooKeeper whatever is done to the server's own way there.
        history: what was made true.
        services: those that are asked for.
        ended: how many of the server's processes have been killed.
    """

    def __init__(
        self, server: ZkdnsServer, zk: Any, history: History, asker: Asker, services: Sequence[str]
    ) -> None:
        self.server = server
        self.zk = zk
        self.history = history
        self.asker = asker
        self.services = services
        self.ended = 0

    # -- faults --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def fault(self, *, rereads: bool = False) -> Iterator[Disturbance]:
        """A fault, which is over at the block's end; in time the answers are as they should be again.

        Args:
            rereads: whether the server reads ZooKeeper again, which may not have begun at the block's end.
        """
        read = self._readings()
        disturbance = Disturbance(time.monotonic())
        self.history.disturbances.append(disturbance)
        yield disturbance
        over = time.monotonic()
        disturbance.repaired = min(disturbance.repaired, over)
        if rereads:
            eventually(lambda: self._readings() > read, BACK)
        self.converges(over + BACK - time.monotonic())
        disturbance.end = time.monotonic()

    def wait_stale(self, disturbance: Disturbance) -> None:
        """Wait until answers say that they are stale; from now on all must, until `disturbance.repaired`."""
        eventually(self._is_stale, BACK)
        disturbance.told_from = time.monotonic()

    def wait_reachable(self) -> None:
        """Wait until the test's own client can ask ZooKeeper, of which nothing is claimed."""
        eventually(lambda: bool(self.zk.connected and self.zk.exists("/")), _PATIENCE)

    # -- answers -------------------------------------------------------------------------------------------

    def addresses(self, service: str) -> list[str]:
        """What is answered now, in its order."""
        response = self.server.query(f"{service}.staging.discovery", tcp=True)
        return [str(record) for rrset in response.answer for record in rrset]

    def is_answered(self, service: str) -> bool:
        """Whether all who are there are answered, and beside them none but those who are held."""
        told, present = set(self.addresses(service)), self.history.present(service)
        held = self.history.held(service)
        return present <= told <= present | held and bool(told or not held)

    def converges(self, within: float) -> None:
        """Within this time the answers are what ZooKeeper holds, and none says to be stale."""
        for service in self.services:
            begun = time.monotonic()
            eventually(partial(self.is_answered, service), within)
            within -= time.monotonic() - begun
        eventually(lambda: not self._is_stale(), within)

    def changes_flow(self) -> Entry:
        """One member comes and another goes, as on any day."""
        service = self.services[0]
        came = self.history.register(self.zk, service)
        went = self.history.members(service)[0]
        self.history.delete(self.zk, went)
        eventually(partial(self.is_answered, service))
        return came

    def goes_on(self, answers: int = 60) -> None:
        """Answers come for a while."""
        count = len(self.asker.answers)
        eventually(lambda: len(self.asker.answers) >= count + answers)

    def _readings(self) -> int:
        return len(self.server.events("zookeeper_read"))

    def _is_stale(self) -> bool:
        name = f"{self.services[0]}.staging.discovery"
        return is_told_stale(self.server.query(name, use_edns=0))

    # -- the end -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """All that was answered was right, enough was asked, and nothing ended that was not killed."""
        self.goes_on()
        answers = self.asker.stop()
        wrong = objections(self.history, answers)
        told = "\n".join(wrong[:_SHOWN])
        assert not wrong, f"{len(wrong)} of {len(answers)} answers were wrong:\n{told}"
        asked = sum(answer.via != "tcp" for answer in answers)
        assert asked >= 0.9 * RATE * (self.asker.ended - self.asker.begun)
        assert any(answer.via == "tcp" for answer in answers)
        assert not self.server.ended
        assert len(self.server.events("process_exited")) == self.ended
        assert "Traceback" not in self.server.log


@contextlib.contextmanager
def patient_client(hosts: str) -> Iterator[Any]:
    """A client that comes back soon, however often ZooKeeper goes."""
    retry = KazooRetry(max_tries=-1, delay=0.05, max_delay=0.2)
    quiet = logging.getLogger("tests.faults.kazoo")
    quiet.setLevel(logging.CRITICAL)
    client = KazooClient(hosts=hosts, connection_retry=retry, logger=quiet)
    try:
        client.start(_PATIENCE)
        yield client
    finally:
        client.stop()
        client.close()


@contextlib.contextmanager
def playing(
    hosts: str,
    zk: Any,
    *,
    history: History | None = None,
    services: Sequence[str] = SERVICES,
    workers: int = 1,
    tcp_rate: float = 10.0,
    is_away: bool = False,
    before: Callable[[ZkdnsServer, Asker], None] = lambda _, __: None,
) -> Iterator[Scene]:
    """A scene with some members of each service, whose answers are checked at the block's end.

    Args:
        hosts: how the server reaches ZooKeeper.
        zk: how the test does.
        history: what is there already; else the members are registered here.
        services: of which the asker asks.
        workers: processes that answer.
        tcp_rate: how often a second is asked over TCP.
        is_away: whether ZooKeeper is, so that nothing can be read yet.
        before: called with server and asker before anything is asked.
    """
    if history is None:
        history = History()
        for service in services:
            history.make_service(zk, service)
            for _ in range(_MEMBERS):
                history.register(zk, service)
    arguments = ("--zookeeper", hosts, "--zookeeper-session-timeout", str(SESSION), "--workers", str(workers))
    with ZkdnsServer(*arguments) as server:
        if is_away:
            eventually(lambda: server.rcode(f"{services[0]}.staging.discovery") == "SERVFAIL", _PATIENCE)
        else:
            server.wait_ready(_PATIENCE)
        asker = Asker(server.addresses[0], services, tcp_rate=tcp_rate)
        before(server, asker)
        with asker:
            scene = Scene(server, zk, history, asker, services)
            if not is_away:
                scene.converges(_PATIENCE)
            scene.goes_on()
            yield scene
            scene.check()
