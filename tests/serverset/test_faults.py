"""Registrations under network and server faults: there is at most one znode, and soon exactly one."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kazoo.security import make_acl

from tests.serverset.session_helpers import session_threads
from tests.serverset.session_internals import claimed_paths, unfinished_count
from tests.support.fault_proxy import CREATE, DELETE, FaultProxy
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import MembershipMonitor, client_of
from zkdns import Registration, ServerSet

pytestmark = pytest.mark.usefixtures("leaves_nothing")

SESSION = 2.0  # seconds
BACK = SESSION + 2.0  # the time limit for registering again, once ZooKeeper is reachable
SET = "/discovery/test/web"


@pytest.fixture(scope="module")
def server() -> Iterator[ZooKeeperServer]:
    """This module's server, which tests pause and kill. Each leaves it running."""
    with ZooKeeperServer() as started:
        yield started


@pytest.fixture
def proxy(server: ZooKeeperServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as started:
        yield started


@pytest.fixture
def zk(server: ZooKeeperServer) -> Iterator[Any]:
    """A client without faults. The set exists and is empty."""
    with client_of(server.address, timeout=4.0) as client:
        if client.exists("/discovery"):
            client.delete("/discovery", recursive=True)
        client.ensure_path(SET)
        yield client


@pytest.fixture
def witness(server: ZooKeeperServer, zk: Any) -> Iterator[MembershipMonitor]:
    del zk  # first it empties the set
    with MembershipMonitor(server.address, SET) as monitor:
        yield monitor


def web_through(zookeeper: FaultProxy | ZooKeeperServer, *, own_session: bool = False) -> ServerSet:
    return ServerSet("test", "web", zookeeper.address, session_timeout=SESSION, own_session=own_session)


def assert_one(
    registration: Registration, witness: MembershipMonitor, timeout: float = BACK, *, holds: float = 0.3
) -> None:
    """Wait until exactly one znode exists for `holds` seconds. There are never two."""

    def is_one() -> bool:
        return witness.present == {str(registration.path).rpartition("/")[2]}

    deadline = time.monotonic() + timeout + holds
    while True:
        eventually(is_one, deadline - holds - time.monotonic())
        changes, until = witness.changes, time.monotonic() + holds
        while time.monotonic() < until and is_one():
            time.sleep(0.005)
        if is_one() and witness.changes == changes:
            break
    assert witness.max_present == 1


# -- lost responses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("_again", range(20))
def test_a_create_with_a_lost_response_is_found(
    proxy: FaultProxy, witness: MembershipMonitor, _again: int
) -> None:
    proxy.lose_reply_of(CREATE)
    with web_through(proxy).register("a", 1) as registration:
        assert proxy.lost_replies == 1
        assert_one(registration, witness)
        assert len(witness.seen) == 1


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_responses_may_be_lost_while_parents_are_created(
    proxy: FaultProxy, zk: Any, witness: MembershipMonitor, lost: int
) -> None:
    zk.delete("/discovery", recursive=True)
    web = web_through(proxy)
    with web.watch():  # so that the session exists, and failures are counted from the first create
        for _ in range(lost):
            proxy.lose_reply_of(CREATE)
            registration = web.register("a", 1)
            assert_one(registration, witness)
            registration.close()
            zk.delete("/discovery", recursive=True)
    assert proxy.lost_replies == lost


def test_two_equal_registrations_keep_their_own_znodes(proxy: FaultProxy, zk: Any) -> None:
    web = web_through(proxy)
    with web.register("a", 1) as first:
        proxy.lose_reply_of(CREATE)
        with web.register("a", 1) as second:
            assert proxy.lost_replies == 1
            names = {str(each.path).rpartition("/")[2] for each in (first, second)}
            assert set(zk.get_children(SET)) == names
            assert len(names) == 2
        eventually(lambda: first.is_registered)
        assert zk.get_children(SET) == [str(first.path).rpartition("/")[2]]


def test_an_equal_znode_of_another_session_is_not_adopted(proxy: FaultProxy, zk: Any) -> None:
    with web_through(proxy).register("a", 1) as first:
        proxy.lose_reply_of(CREATE)
        with web_through(proxy, own_session=True).register("a", 1) as second:
            assert proxy.lost_replies == 1
            assert first.path != second.path
            assert len(zk.get_children(SET)) == 2


def test_an_unreadable_member_does_not_hide_a_created_one(proxy: FaultProxy, zk: Any) -> None:
    secret = zk.create(f"{SET}/member_", b"", sequence=True, acl=[make_acl("world", "anyone", admin=True)])
    proxy.lose_reply_of(CREATE)
    with web_through(proxy).register("a", 1) as registration:
        assert proxy.lost_replies == 1
        assert sorted(zk.get_children(SET)) == [secret[-17:], str(registration.path)[-17:]]
    zk.set_acls(secret, [make_acl("world", "anyone", all=True)])


@pytest.mark.parametrize("_again", range(10))
def test_a_delete_with_a_lost_response_is_complete(proxy: FaultProxy, zk: Any, _again: int) -> None:
    web = web_through(proxy)
    with web.register("keeper", 1) as keeper:
        registration = web.register("a", 1)
        proxy.lose_reply_of(DELETE)
        registration.close()
        assert proxy.lost_replies == 1
        assert not registration.is_registered
        assert zk.get_children(SET) == [str(keeper.path).rpartition("/")[2]]


# -- connections that are reset or stalled -------------------------------------------------------------------


def test_many_resets_do_no_harm(proxy: FaultProxy, witness: MembershipMonitor) -> None:
    with web_through(proxy).register("a", 1) as registration:
        witness.wait_for_one()
        for turn in range(30):
            proxy.reset()
            if turn % 3 == 0:  # otherwise during the handshake
                eventually(lambda: proxy.connections)
        assert_one(registration, witness)
        assert len(witness.seen) == 1
        assert witness.longest_gap == 0


def test_an_ended_client_is_replaced_in_the_same_session(
    proxy: FaultProxy, zk: Any, witness: MembershipMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    sets = registering, watching = web_through(proxy), web_through(proxy, own_session=True)

    def replaced() -> int:
        return sum("zookeeper_client_replaced" in message for message in caplog.messages)

    with registering.register("10.0.0.1", 80) as registration, watching.watch() as watch:
        path = registration.path
        for turn in (1, 2):
            proxy.send_reply(12345, 0)  # a response without a request: kazoo's connection thread ends
            eventually(lambda: replaced() == turn * len(sets))  # noqa: B023 - called at once
            eventually(lambda: all(each.is_connected for each in sets))
            assert_one(registration, witness)
        assert registration.path == path
        zk.delete(path)  # a new client follows and repairs it
        assert_one(registration, witness)
        eventually(lambda: len(watch.members) == 1 and watch.members[0].name not in str(path))


@pytest.mark.parametrize("seconds", [0.3, 1.5, 4.0])
def test_a_stalled_connection_leaves_one_member(
    proxy: FaultProxy, witness: MembershipMonitor, seconds: float
) -> None:
    with web_through(proxy).register("a", 1) as registration:
        name = witness.wait_for_one()
        proxy.stall()
        if seconds > SESSION:
            eventually(lambda: not witness.present, seconds + SESSION)  # ZooKeeper has expired it
        else:
            time.sleep(seconds)  # the length of the fault is the test case
        proxy.resume()
        assert_one(registration, witness)
        assert (len(witness.seen) == 1) == (seconds < SESSION)
        assert name in witness.seen


def test_a_stalled_create_is_executed_once(proxy: FaultProxy, zk: Any, witness: MembershipMonitor) -> None:
    web = web_through(proxy)
    with web.register("a", 1) as registration:
        for _ in range(3):
            name = witness.wait_for_one()
            proxy.stall()
            zk.delete(f"{SET}/{name}")  # it arrives when the stall ends, as all pending requests do
            eventually(lambda: not witness.present)
            proxy.resume()
            proxy.lose_reply_of(CREATE)
            assert_one(registration, witness)


@pytest.mark.parametrize("seed", range(4))
def test_any_sequence_of_faults_leaves_one_member(
    proxy: FaultProxy, zk: Any, witness: MembershipMonitor, seed: int
) -> None:
    web, chance = web_through(proxy), random.Random(seed)

    def delete_it() -> None:
        for name in zk.get_children(SET):
            with contextlib.suppress(Exception):
                zk.delete(f"{SET}/{name}")

    def expire_it() -> None:
        with (
            contextlib.suppress(Exception),  # there may be no session to expire at that time
            client_of(proxy.upstream, client_id=proxy.sessions[-1], timeout=SESSION),
        ):
            pass  # resumes the session and closes it

    def stall_it() -> None:
        proxy.stall()
        time.sleep(chance.uniform(0.05, 0.4))
        proxy.resume()

    def go_down_and_up() -> None:
        proxy.go_down()
        time.sleep(0.05)
        proxy.come_up()

    faults: list[Callable[[], None]] = [
        delete_it,
        expire_it,
        stall_it,
        proxy.reset,
        lambda: proxy.lose_reply_of(CREATE),
        lambda: proxy.lose_reply_of(DELETE),
        go_down_and_up,
    ]
    serves = True
    with web.register("a", 1, ping=lambda: serves, ping_interval=0.02) as registration:
        for _ in range(40):
            chance.choice(faults)()
            serves = chance.random() < 0.8
            time.sleep(chance.uniform(0, 0.1))
        serves = True
        assert_one(registration, witness, timeout=BACK + 4.0)  # kazoo may be waiting for up to 4.9 s
    assert zk.get_children(SET) == []
    assert len(witness.seen) > 3


# -- servers that stop ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("_again", range(3))
def test_zookeeper_paused_longer_than_the_session(
    server: ZooKeeperServer, witness: MembershipMonitor, _again: int
) -> None:
    with web_through(server).register("a", 1) as registration:
        witness.wait_for_one()
        server.pause()
        time.sleep(SESSION + 1.0)  # the length of the pause is the test case
        server.resume()
        eventually(server.is_serving)
        assert_one(registration, witness, holds=1.2)  # the old session expires at a tick, of 0.5 s
        assert witness.longest_gap < BACK


def test_zookeeper_killed_and_restarted(server: ZooKeeperServer, zk: Any, witness: MembershipMonitor) -> None:
    web = web_through(server)
    with web.register("a", 1) as registration:
        for _ in range(2):
            witness.wait_for_one()
            server.kill()
            eventually(lambda: not web.is_connected)
            server.start()
            # A connection during the start gets no response, until its own limit of 2 s.
            eventually(lambda: web.is_connected and zk.connected, 15.0)
            assert_one(registration, witness)


# -- closing while ZooKeeper is unreachable ------------------------------------------------------------------


@contextlib.contextmanager
def away(server: ZooKeeperServer, how: str) -> Iterator[None]:
    """ZooKeeper is paused or killed, and serves again afterwards."""
    server.pause() if how == "paused" else server.kill()
    try:
        yield
    finally:
        server.resume() if how == "paused" else server.start()
        eventually(server.is_serving)


def assert_none_left(zk: Any, *others: Registration) -> None:
    """Check that within the session timeout only the other members exist."""

    def expected() -> list[str]:  # they may have new sessions by now
        return sorted(str(each.path).rpartition("/")[2] for each in others)

    eventually(lambda: sorted(zk.get_children(SET)) == expected(), 15.0)


@pytest.mark.parametrize("how", ["paused", "killed"])
def test_the_last_user_closes_in_bounded_time(server: ZooKeeperServer, zk: Any, how: str) -> None:
    registration = web_through(server).register("a", 1)
    with away(server, how):
        began = time.monotonic()
        registration.close(0.2)
        assert time.monotonic() - began < 3 * SESSION
    assert_none_left(zk)


@pytest.mark.parametrize("how", ["paused", "killed"])
def test_one_of_two_users_closes_in_bounded_time_and_is_removed_later(
    server: ZooKeeperServer, zk: Any, how: str
) -> None:
    web = web_through(server)
    with web.register("keeper", 1) as keeper:
        registration = web.register("a", 1)
        with away(server, how):
            began = time.monotonic()
            registration.close(0.2)
            assert time.monotonic() - began < SESSION
        assert_none_left(zk, keeper)
        eventually(lambda: not unfinished_count(web))
        assert claimed_paths(web) == {keeper.path}


def test_with_the_callers_client_it_is_removed_later_without_a_thread(
    server: ZooKeeperServer, zk: Any
) -> None:
    with client_of(server.address, timeout=10.0) as client:
        registration = ServerSet("test", "web", client=client, session_timeout=SESSION).register("a", 1)
        with away(server, "paused"):
            began = time.monotonic()
            registration.close(0.2)
            assert time.monotonic() - began < SESSION
            assert session_threads()
        assert_none_left(zk)
        eventually(lambda: not session_threads())
        assert client.connected


def test_after_the_caller_stops_its_client_close_does_not_wait(server: ZooKeeperServer, zk: Any) -> None:
    with client_of(server.address, timeout=4.0) as client:
        registration = ServerSet("test", "web", client=client, session_timeout=SESSION).register("a", 1)
        with away(server, "paused"):
            registration.close(0.2)
            client.stop()
            eventually(lambda: not session_threads())
    assert_none_left(zk)


def test_close_after_a_create_with_a_lost_response_leaves_nothing(proxy: FaultProxy, zk: Any) -> None:
    web = web_through(proxy)
    with web.register("keeper", 1) as keeper:
        proxy.lose_reply_of(CREATE)
        registration = web.register("a", 1, timeout=None)
        eventually(lambda: proxy.lost_replies)
        registration.close()
        assert_none_left(zk, keeper)
        assert zk.exists(str(keeper.path)) is not None
