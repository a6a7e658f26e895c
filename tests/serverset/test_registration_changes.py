"""A registration reports changes of its state, and its end."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.serverset.session_helpers import expire_latest_session
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns import Registration, ServerSet

pytestmark = pytest.mark.usefixtures("leaves_nothing")

Sets = Callable[..., ServerSet]


class States:
    """The states of a registration at each call of the subscriber."""

    def __init__(self, registration: Registration) -> None:
        self.registration = registration
        self.seen: list[tuple[str | None, str | None, bool]] = []
        self.unsubscribe = registration.subscribe(self._append)

    def _append(self) -> None:
        each = self.registration
        error = None if each.last_error is None else str(each.last_error)
        self.seen.append((each.path, error, each.is_closed))


def test_a_lost_znode_and_its_successor_are_reported(zk: Any, server_set: Sets) -> None:
    with server_set().register("a", 1) as registration:
        states, first = States(registration), registration.path
        zk.delete(first)
        eventually(lambda: states.seen and states.seen[-1][0] not in (None, first))
        second = registration.path
        assert zk.exists(second)
        assert states.seen[-1] == (second, None, False)
        zk.delete(second)
        eventually(lambda: states.seen[-1][0] not in (None, first, second))


def test_an_expired_session_is_reported(zookeeper: ZooKeeperServer, server_set: Sets) -> None:
    with (
        FaultProxy(zookeeper.port) as proxy,
        server_set(hosts=proxy.address).register("a", 1) as registration,
    ):
        states, first = States(registration), registration.path
        expire_latest_session(proxy)
        eventually(lambda: states.seen and states.seen[-1][0] not in (None, first))


def test_each_result_of_the_ping_that_changes_is_reported(server_set: Sets) -> None:
    answers: list[object] = [True]

    def ping() -> object:
        if isinstance(answer := answers[-1], Exception):
            raise answer
        return answer

    with server_set().register("a", 1, ping=ping, ping_interval=0.01) as registration:
        states = States(registration)
        answers.append(False)
        refused = "the ping returned False: the service cannot serve"
        eventually(lambda: states.seen and states.seen[-1] == (None, refused, False))
        answers.append(RuntimeError("full"))
        eventually(lambda: states.seen[-1] == (None, "the ping failed: RuntimeError('full')", False))
        answers.append(RuntimeError("full"))  # the same state, although it is another exception
        answers.append(True)
        eventually(lambda: registration.is_registered and states.seen[-1][:2] == (registration.path, None))
        assert len(set(states.seen)) == len(states.seen)  # nothing is reported twice


def test_a_refusal_is_reported(zk: Any, zk_root: str, server_set: Sets) -> None:
    """A chroot that does not exist; `timeout=None` lets the registration try again."""
    zk.ensure_path(zk_root)
    hosts = ",".join(f"{host}:{port}" for host, port, *_ in zk.hosts) + f"{zk_root}/below"
    with server_set(hosts=hosts).register("a", 1, timeout=None) as registration:
        states = States(registration)
        eventually(lambda: registration.last_error)
        eventually(lambda: states.seen and str(states.seen[-1][1]).startswith("cannot register in "))


def test_the_end_is_reported_and_can_be_waited_for(zk: Any, server_set: Sets) -> None:
    web = server_set()
    registration = web.register("a", 1)
    states = States(registration)
    assert not registration.wait_closed(0.01)
    remaining: list[list[str]] = []

    def wait() -> None:
        assert registration.wait_closed()
        remaining.append(zk.get_children(web.path))

    waiting = threading.Thread(target=wait)
    waiting.start()
    registration.close()
    waiting.join(20.0)
    assert remaining == [[]]
    assert registration.wait_closed(0)
    assert states.seen[-1] == (None, None, True)


def test_a_subscriber_may_close_the_registration(zk: Any, server_set: Sets) -> None:
    web = server_set()
    registration = web.register("a", 1)
    registration.subscribe(registration.close)
    zk.delete(registration.path)
    assert registration.wait_closed(20.0)
    assert zk.get_children(web.path) == []


def test_each_subscription_ends_by_itself(zk: Any, server_set: Sets) -> None:
    calls: list[None] = []

    def count() -> None:
        calls.append(None)

    with server_set().register("a", 1) as registration:
        ends = registration.subscribe(count), registration.subscribe(count)
        ends[0]()
        ends[0]()
        states, first = States(registration), registration.path  # called after `count`
        zk.delete(first)
        eventually(lambda: states.seen and states.seen[-1][0] not in (None, first))
        ends[1]()
        before = len(calls)
    assert before
    assert len(calls) == before
    assert states.seen[-1][2]


def test_a_failing_subscriber_does_not_affect_the_others(
    zk: Any, server_set: Sets, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("out of order")

    with server_set().register("a", 1) as registration:
        registration.subscribe(fail)
        states, first = States(registration), registration.path
        zk.delete(first)
        eventually(lambda: states.seen and states.seen[-1][0] not in (None, first))
    assert states.seen[-1] == (None, None, True)
    assert "subscriber_failed" in caplog.text
    caplog.clear()  # the fixture accepts no other error
