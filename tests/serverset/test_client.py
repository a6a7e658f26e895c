"""Losing and regaining ZooKeeper: the kazoo client of `make_client`, with a TreeSync."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
from kazoo.client import KazooClient

from tests.serverset.asyncio_helpers import silent_server
from tests.serverset.sync_helpers import FollowedTree, join, join_many, leave_many
from tests.support.waiting import PATIENCE, eventually, in_time, repeated_if_late
from tests.support.zookeeper import Ensemble, ZooKeeperServer, expire_session
from zkdns.address import HostPort
from zkdns.serverset.client import make_client, server_of
from zkdns.serverset.sync import SyncState
from zkdns.table import Table

TEMPLATE = "/discovery/{environment}/{service}"
WEB = "/discovery/staging/web"

LOST_AND_FOUND = [SyncState.LIVE, SyncState.UNREACHABLE, SyncState.LIVE]


@pytest.fixture
def below(zookeeper: ZooKeeperServer, zk_root: str, zk: Any) -> Callable[[], FollowedTree]:
    """Follows TEMPLATE in a chroot of the test."""
    zk.create(zk_root)
    return lambda: FollowedTree(f"{zookeeper.address}{zk_root}", TEMPLATE)


@pytest.fixture
def inside(zookeeper: ZooKeeperServer, zk_root: str, below: object) -> Iterator[Any]:
    """A plain client in the same chroot."""
    assert below
    client = KazooClient(hosts=f"{zookeeper.address}{zk_root}")
    client.start()
    yield client
    client.stop()
    client.close()


@pytest.fixture
def mute() -> Iterator[socket.socket]:
    """A server that accepts connections and never responds."""
    with silent_server() as server:
        yield server


def address(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


Below = Callable[[], FollowedTree]

# -- contents stay, and no change is missed ----------------------------------------------------------------


def test_before_the_first_connection_the_state_is_reading(
    zookeeper: ZooKeeperServer, zk_root: str, zk: Any
) -> None:
    join(zk, f"{zk_root}/staging/web")
    with socket.socket() as nobody:  # bound but not listening, so that connections are refused
        nobody.bind(("127.0.0.1", 0))
        with FollowedTree(address(nobody), f"{zk_root}/{{environment}}/{{service}}") as tree:
            eventually(lambda: tree.client.client_state == "CONNECTING")
            assert tree.state is SyncState.READING
            assert tree.contents == {}
            tree.client.set_hosts(zookeeper.address)
            tree.wait_equal(zk)
            assert tree.states == [SyncState.LIVE]


def test_changes_during_a_disconnect_appear_after_it(inside: Any, below: Below) -> None:
    gone, staying = join_many(inside, WEB, 10), join_many(inside, "/discovery/prod/api", 10)
    join(inside, "/discovery/prod/dropped")
    join(inside, "/discovery/test/dropped")
    with below() as tree:
        tree.wait_live()
        known = tree.contents
        with tree.away():
            eventually(lambda: tree.state is SyncState.UNREACHABLE)
            leave_many(inside, gone)
            join(inside, WEB, "10.0.0.2")
            join(inside, "/discovery/new/web")
            inside.delete("/discovery/prod/dropped", recursive=True)
            inside.delete("/discovery/test", recursive=True)
            inside.delete(staying[0])
            assert tree.contents == known
        tree.wait_equal(inside)
        assert tree.states == LOST_AND_FOUND


@pytest.mark.parametrize("root", ["/discovery", WEB])
def test_sets_created_again_during_a_disconnect_have_the_new_members(
    inside: Any, below: Below, root: str
) -> None:
    join(inside, WEB, "10.0.0.1")
    with below() as tree:
        tree.wait_live()
        with tree.away():
            inside.delete(root, recursive=True)
            join(inside, WEB, "10.0.0.2")
        tree.wait_equal(inside)
        assert tree.contents == {WEB: {"member_0000000000": "10.0.0.2:80"}}


def test_a_set_with_all_members_replaced_never_appears_empty(inside: Any, below: Below) -> None:
    paths = [f"/discovery/staging/s{number}" for number in range(20)]
    old = [member for path in paths for member in join_many(inside, path, 20)]
    with below() as tree:
        tree.wait_live()
        seen = len(tree.changes)
        with tree.away():
            leave_many(inside, old)
            for path in paths:
                join_many(inside, path, 20)
        tree.wait_equal(inside)
        replayed = Table(departed_seconds=0)
        for number, change in enumerate(tree.changes):
            replayed.apply(change)
            if number >= seen:
                least = min(
                    len(s.members) for service in replayed.services.values() for s in service.sets.values()
                )
                assert least > 0


@pytest.mark.parametrize("break_it", [FollowedTree.disconnect, lambda tree: expire_session(tree.client)])
def test_no_change_is_missed_over_many_disconnects(
    inside: Any, below: Below, break_it: Callable[[FollowedTree], None]
) -> None:
    with below() as tree:
        tree.wait_live()
        for number in range(5):
            break_it(tree)
            members = join_many(inside, WEB, 50)
            leave_many(inside, members[:25])
            tree.wait_equal(inside)
            assert max(tree.callbacks().values(), default=0) <= 2, number
        assert set(tree.states) == {SyncState.LIVE, SyncState.UNREACHABLE}
        assert tree.states[-1] is SyncState.LIVE


# -- servers that stop -------------------------------------------------------------------------------------


def test_a_killed_server_removes_nothing_and_is_followed_after_its_restart(
    own_zookeeper: ZooKeeperServer,
) -> None:
    client = KazooClient(hosts=own_zookeeper.address)
    client.start()
    join(client, WEB)
    with FollowedTree(own_zookeeper.address, TEMPLATE) as tree:
        known = tree.wait_live().contents
        own_zookeeper.kill()
        eventually(lambda: tree.state is SyncState.UNREACHABLE)
        assert tree.contents == known
        own_zookeeper.start()
        tree.wait_live()
        assert tree.states == LOST_AND_FOUND
        eventually(lambda: client.connected, 20)
        join(client, WEB, "10.0.0.2")
        tree.wait_equal(client)
    client.stop()
    client.close()


def test_another_member_of_the_ensemble_is_followed(ensemble: Ensemble) -> None:
    with FollowedTree(ensemble.hosts, TEMPLATE) as tree:
        tree.wait_live()
        session = f"sid={tree.client.client_id[0]:#x}"
        (connected,) = [member for member in ensemble.members if session in member.four_letter("cons")]
        others = [member.address for member in ensemble.members if member is not connected]
        client = KazooClient(hosts=",".join(others))
        client.start()
        join_many(client, WEB, 20)
        tree.wait_equal(client)
        connected.kill()
        eventually(lambda: client.retry(join, client, WEB, "10.0.0.2"), 30)
        tree.wait_equal(client)
        assert tree.states == LOST_AND_FOUND
        client.stop()
        client.close()


@repeated_if_late
def test_the_connect_timeout_doubles_after_each_attempt() -> None:
    with silent_server() as mute:
        client = make_client(address(mute), connect_timeout=0.4)
        begun = time.monotonic()
        client.start_async()
        mute.settimeout(PATIENCE)
        accepted: list[tuple[socket.socket, float]] = []
        try:
            # Accept from the start: a connection may arrive before the test expects it.
            for limit in (PATIENCE, 3.0, 4.0):
                waiting_since = time.monotonic()
                accepted.append((mute.accept()[0], time.monotonic() - begun))
                in_time(waiting_since, limit)
            _, second, third = (after for _, after in accepted)
            # In addition to the timeout there is the delay between two attempts: up to 0.14 s, then 0.28 s.
            assert second > 0.35
            assert third > 1.1
        finally:
            mute.close()
            for connection, _ in accepted:
                connection.close()
            client.stop()
            client.close()


@repeated_if_late
def test_a_silent_server_does_not_prevent_connecting_to_another(
    zookeeper: ZooKeeperServer, mute: socket.socket
) -> None:
    client = make_client(f"{address(mute)},{zookeeper.address}")
    client.randomize_hosts = False  # the silent one first
    begun = time.monotonic()
    client.start(timeout=PATIENCE)
    try:
        assert time.monotonic() - begun > 0.9
        in_time(begun, 4.0)
        assert client.exists("/zookeeper")
    finally:
        client.stop()
        client.close()


def test_the_connect_timeout_grows_for_a_slow_server(zookeeper: ZooKeeperServer) -> None:
    with Slow(zookeeper.port, seconds=0.3) as slow:
        client = make_client(slow.address, connect_timeout=0.2)
        try:
            client.start(timeout=PATIENCE)
            assert client.exists("/zookeeper")
        finally:
            client.stop()
            client.close()


class Slow:
    """A proxy that delays the server's first response on each connection."""

    def __init__(self, port: int, *, seconds: float) -> None:
        self._port = port
        self._seconds = seconds
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    @property
    def address(self) -> str:
        return address(self._listening)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        for connection in self._open:
            _shut(connection)
        for thread in self._threads:
            thread.join()
        for connection in (*self._open, self._listening):
            connection.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near = self._listening.accept()[0]
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            self._open += [near, far]
            self._start(self._carry, near, far, 0.0)
            self._start(self._carry, far, near, self._seconds)

    def _carry(self, source: socket.socket, sink: socket.socket, pause: float) -> None:
        try:
            while chunk := source.recv(65536):
                self._ended.wait(pause)
                pause = 0.0
                sink.sendall(chunk)
        except OSError:
            pass
        _shut(sink)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def test_failed_attempts_to_connect_are_reported(own_zookeeper: ZooKeeperServer) -> None:
    failures: list[str] = []
    client = make_client(own_zookeeper.address, on_connect_failed=lambda: failures.append("failed"))
    client.start()
    try:
        assert failures == []
        own_zookeeper.kill()
        eventually(lambda: len(failures) > 1)
        own_zookeeper.start()
        eventually(lambda: client.connected)
        count = len(failures)
        client.get_children("/")
        assert len(failures) == count
    finally:
        client.stop()
        client.close()


# -- several servers ---------------------------------------------------------------------------------------


def test_preferred_servers_are_tried_first_in_random_order() -> None:
    preferred = [HostPort("127.0.0.2", 1), HostPort("127.0.0.3", 1)]
    tried: list[HostPort | None] = []
    client = make_client(
        "127.0.0.1:1,127.0.0.2:1,127.0.0.3:1,127.0.0.4:1",
        preferred=preferred,
        on_connect_failed=lambda: tried.append(server_of(client)),
    )
    client.start_async()
    eventually(lambda: len(tried) >= 60)
    client.stop()
    client.close()
    rounds = [tried[start : start + 4] for start in range(0, 60, 4)]
    assert all(set(one[:2]) == set(preferred) for one in rounds)
    assert {one[0] for one in rounds} == set(preferred)


def test_after_a_lost_connection_the_next_one_waits_for_a_random_time(
    own_zookeeper: ZooKeeperServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the first one of a client, and not further attempts, which have delays of their own."""
    delays: list[tuple[float, float]] = []

    class Dice:
        random = staticmethod(lambda: 0.5)

        @staticmethod
        def uniform(low: float, high: float) -> float:
            delays.append((low, high))
            return 0.3

    monkeypatch.setattr("zkdns.serverset.client._random", Dice)
    failed: list[float] = []
    client = make_client(
        own_zookeeper.address,
        reconnect_spread=2.5,
        on_connect_failed=lambda: failed.append(time.monotonic()),
    )
    client.start()
    assert delays == []
    own_zookeeper.kill()
    killed_at = time.monotonic()
    eventually(lambda: len(failed) >= 3)
    assert delays == [(0, 2.5)]
    assert failed[0] - killed_at > 0.2
    own_zookeeper.start()
    eventually(lambda: client.connected)
    client.stop()
    client.close()
