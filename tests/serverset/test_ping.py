"""The ping of a registration: while it fails, the member is not registered."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.waiting import PATIENCE, eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import MembershipMonitor
from zkdns import BadValueError, Registration, ServerSet, UnreachableError, ZkdnsError
from zkdns.serverset.ping import Pinger

pytestmark = pytest.mark.usefixtures("leaves_nothing")

Sets = Callable[..., ServerSet]


class Service:
    """A ping with a result that the test sets."""

    def __init__(self, answer: object = True) -> None:
        self.answer = answer
        self.calls = 0
        self.goes_on = threading.Event()
        self.goes_on.set()

    def __call__(self) -> object:
        self.calls += 1
        answer = self.answer
        self.goes_on.wait(20.0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def wait_for_a_call(self) -> None:
        """Wait until the next call."""
        calls = self.calls
        eventually(lambda: self.calls > calls)


def names(zk: Any, web: ServerSet) -> list[str]:
    return sorted(zk.get_children(web.path)) if zk.exists(web.path) else []


def test_it_is_called_before_registering(zk: Any, server_set: Sets) -> None:
    web = server_set()
    found: list[list[str]] = []
    with web.register("a", 1, ping=lambda: found.append(names(zk, web)), ping_interval=30.0):
        assert found == [[]]  # None, as from a function without a return value, counts as success
        assert len(names(zk, web)) == 1


@pytest.mark.parametrize("answer", [False, RuntimeError("out of order"), SystemExit(1)])
def test_failure_unregisters_and_success_registers_again(zk: Any, server_set: Sets, answer: object) -> None:
    web, service = server_set(), Service()
    with web.register("a", 1, ping=service, ping_interval=0.02) as registration:
        first = registration.path
        service.answer = answer
        eventually(lambda: not registration.is_registered and not names(zk, web))
        assert isinstance(registration.last_error, ZkdnsError)
        service.answer = True
        eventually(lambda: names(zk, web))
        assert registration.wait(PATIENCE)
        assert registration.path != first
        assert registration.last_error is None


def test_the_reason_of_a_failure_is_available(server_set: Sets) -> None:
    web = server_set()
    for answer, reason in [
        (False, "the ping returned False: the service cannot serve"),
        (RuntimeError("out of order"), "the ping failed: RuntimeError('out of order')"),
    ]:
        with web.register("a", 1, ping=Service(answer), ping_interval=0.02) as registration:
            assert not registration.is_registered
            assert str(registration.last_error) == reason


def test_register_returns_after_a_failed_first_ping(zk: Any, server_set: Sets) -> None:
    web, service = server_set(), Service(answer=False)
    with web.register("a", 1, ping=service, ping_interval=0.02) as registration:
        assert not registration.is_registered
        assert names(zk, web) == []
        eventually(lambda: service.calls > 3)
        assert names(zk, web) == []
        service.answer = True
        assert registration.wait(PATIENCE)
        assert names(zk, web) == ["member_0000000000"]  # there was no other one in between


def test_a_hanging_ping_counts_as_failed_until_it_returns(zk: Any, server_set: Sets) -> None:
    web, service = server_set(), Service()
    with web.register("a", 1, ping=service, ping_interval=0.02, ping_timeout=0.1) as registration:
        service.goes_on.clear()
        eventually(lambda: not names(zk, web) and not registration.is_registered)
        assert str(registration.last_error) == "the ping has not returned within 0.1 s"
        service.goes_on.set()
        eventually(lambda: names(zk, web) and registration.is_registered)


def test_register_does_not_wait_for_a_hanging_first_ping(zk: Any, server_set: Sets) -> None:
    web, service = server_set(), Service()
    service.goes_on.clear()
    began = time.monotonic()
    with web.register("a", 1, ping=service, ping_timeout=0.1) as registration:
        assert not registration.is_registered
        assert time.monotonic() - began < 5.0
        service.goes_on.set()
        assert registration.wait(PATIENCE)
        assert len(names(zk, web)) == 1


def test_a_slow_first_ping_registers_later(server_set: Sets) -> None:
    service = Service()
    service.goes_on.clear()
    web = server_set()
    with (
        web.watch(),  # so that it has connected to ZooKeeper
        web.register("a", 1, ping=service, ping_timeout=20.0, timeout=0.3) as registration,
    ):
        assert not registration.is_registered  # ZooKeeper is reachable, so there is no error
        service.goes_on.set()
        assert registration.wait(PATIENCE)


def test_a_ping_that_returns_just_in_time_is_the_last_result() -> None:
    received: list[ZkdnsError | None] = []
    goes_on, returned = threading.Event(), threading.Event()

    def on_result(error: ZkdnsError | None) -> None:
        if error is None:
            returned.set()
        else:
            goes_on.set()
            returned.wait(0.3)  # a result reported in the meantime would be reported now
        received.append(error)

    pinger = Pinger(on_result, goes_on.wait, interval=60.0, timeout=0.05)
    pinger.start()
    eventually(lambda: len(received) == 2)
    assert received[-1] is None
    pinger.stop()


def test_close_does_not_wait_for_a_hanging_ping(zk: Any, server_set: Sets) -> None:
    web, service = server_set(), Service()
    registration = web.register("a", 1, ping=service, ping_interval=0.02, ping_timeout=30.0)
    service.goes_on.clear()
    service.wait_for_a_call()
    began = time.monotonic()
    registration.close()
    assert time.monotonic() - began < 10.0  # it would hang for 20 s
    assert names(zk, web) == []
    service.goes_on.set()  # its success comes too late, and its thread ends (the fixture checks that)


def test_a_ping_may_close_its_registration(zk: Any, server_set: Sets) -> None:
    web = server_set()
    opened: list[Registration] = []

    def close_it() -> None:
        for registration in opened:
            registration.close()

    opened.append(web.register("a", 1, ping=close_it, ping_interval=0.02))
    eventually(lambda: opened[0].is_closed and names(zk, web) == [])


@pytest.mark.parametrize("_again", range(3))
def test_a_flapping_ping_never_creates_two_members(
    zookeeper: ZooKeeperServer, zk: Any, server_set: Sets, _again: int
) -> None:
    web, service = server_set(), Service()
    with web.register("a", 1, ping=service, ping_interval=0.001) as registration:
        with MembershipMonitor(zookeeper.address, web.path) as witness:
            for turn in range(150):
                service.answer = turn % 3 != 0
                service.wait_for_a_call()
            service.answer = True
            assert registration.wait(PATIENCE)
            eventually(lambda: witness.present and names(zk, web) == [str(registration.path)[-17:]])
        assert witness.max_present == 1
        assert len(witness.seen) > 1
    assert names(zk, web) == []


def test_a_changed_interval_takes_effect_at_once(server_set: Sets) -> None:
    service = Service()
    with server_set().register("a", 1, ping=service, ping_interval=3600.0) as registration:
        assert registration.ping_interval == 3600.0
        assert service.calls == 1
        registration.ping_interval = 0.02
        assert registration.ping_interval == 0.02
        eventually(lambda: service.calls > 3)


@pytest.mark.parametrize("wrong", [0, -1.0, float("inf"), float("nan"), "1"])
def test_an_invalid_interval_changes_nothing(server_set: Sets, wrong: Any) -> None:
    with server_set().register("a", 1, ping=Service(), ping_interval=2.0) as registration:
        with pytest.raises(BadValueError, match="is a time in seconds, greater than 0"):
            registration.ping_interval = wrong
        assert registration.ping_interval == 2.0


def test_without_a_ping_the_interval_cannot_be_set(server_set: Sets) -> None:
    with (
        server_set().register("a", 1) as registration,
        pytest.raises(BadValueError, match="this registration has no ping, so ping_interval cannot be set"),
    ):
        registration.ping_interval = 2.0


def test_a_failed_ping_does_not_hide_an_unreachable_zookeeper() -> None:
    service = Service(answer=False)
    web = ServerSet("test", "web", "127.0.0.1:1", session_timeout=2.0)
    with pytest.raises(UnreachableError):
        web.register("a", 1, ping=service, timeout=0.3)


@pytest.mark.parametrize("wrong", [{"ping_interval": 0}, {"ping_interval": -1.0}, {"ping_timeout": 0.0}])
def test_times_must_be_positive(server_set: Sets, wrong: dict[str, float]) -> None:
    with pytest.raises(
        BadValueError, match=f"{next(iter(wrong))} is .*; it is a time in seconds, greater than 0"
    ):
        server_set().register("a", 1, ping=lambda: True, **wrong)  # type: ignore[arg-type]
