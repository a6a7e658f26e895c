"""A registration is one znode, as go.serversets writes it, for as long as it is open."""

import asyncio
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from kazoo.security import ACL, Id, make_acl

from tests.serverset.session_helpers import expire_latest_session, is_waiting, session_threads
from tests.serverset.session_internals import claimed_paths
from tests.serverset.sync_helpers import join
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import PATIENCE, eventually, in_time, repeated_if_late
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import MembershipMonitor, client_of
from zkdns import BadValueError, Registration, ServerSet, UnreachableError, ZooKeeperError

pytestmark = pytest.mark.usefixtures("leaves_nothing")

Sets = Callable[..., ServerSet]


def members(zk: Any, server_set: ServerSet) -> list[str]:
    """The paths of all members."""
    if zk.exists(server_set.path) is None:
        return []
    return sorted(f"{server_set.path}/{name}" for name in zk.get_children(server_set.path))


def wait_for_another(zk: Any, registration: Registration, old: str) -> None:
    """Wait until it is registered with another znode."""
    eventually(lambda: registration.path not in (old, None) and zk.exists(registration.path))


# -- the data ------------------------------------------------------------------------------------------------

# The first two are go.serversets' own examples. Its struct gives the order, Finagle the field shard.
JSON = [
    (
        {"host": "myhost", "port": 8080},
        b'{"serviceEndpoint":{"host":"myhost","port":8080},"additionalEndpoints":{},"status":"ALIVE"}',
    ),
    (
        {"host": "foo", "port": 1000, "additional": {"http": 8080}, "shard": 42},
        (
            b'{"serviceEndpoint":{"host":"foo","port":1000},'
            b'"additionalEndpoints":{"http":{"host":"foo","port":8080}},"status":"ALIVE","shard":42}'
        ),
    ),
    (
        {"host": "10.0.0.1", "port": 1, "additional": {"b": "other:2", "a": ("::1", 3)}, "shard": 0},
        (
            b'{"serviceEndpoint":{"host":"10.0.0.1","port":1},"additionalEndpoints":{"a":{"host":"::1",'
            b'"port":3},"b":{"host":"other","port":2}},"status":"ALIVE","shard":0}'
        ),
    ),
    (
        {"host": "[::ffff:10.0.0.1]", "port": 0, "additional": {"admin": 9990}, "metadata": {"zone": "ä"}},
        (
            b'{"serviceEndpoint":{"host":"","port":0},"additionalEndpoints":{"admin":{"host":"10.0.0.1",'
            b'"port":9990}},"status":"ALIVE","metadata":{"zone":"\xc3\xa4"}}'
        ),
    ),
]


@pytest.mark.parametrize(("arguments", "data"), JSON)
def test_the_data_is_that_of_go_serversets(
    zk: Any, server_set: Sets, arguments: dict[str, Any], data: bytes
) -> None:
    with server_set().register(**arguments) as registration:
        assert registration.path is not None
        assert zk.get(registration.path)[0] == data


def test_the_znode_is_ephemeral_and_its_parents_are_persistent_and_empty(
    zk: Any, zk_root: str, server_set: Sets
) -> None:
    web = server_set()
    with web.register("a", 1) as registration:
        assert registration.path == f"{zk_root}/test/web/member_0000000000"
        acls, status = zk.get_acls(registration.path)
        assert acls == [ACL(31, Id("world", "anyone"))]
        assert status.ephemeralOwner != 0
        for parent in (zk_root, f"{zk_root}/test", web.path):
            data, status = zk.get(parent)
            assert (data, status.ephemeralOwner) == (b"", 0)
    assert zk.exists(web.path) is not None
    with web.register("a", 1) as registration:
        assert registration.path == f"{web.path}/member_0000000001"


def test_the_znode_has_the_member_prefix(zk: Any, server_set: Sets) -> None:
    nodes, others = server_set(member_prefix="node-"), server_set()
    with others.register("b", 1), nodes.watch() as watch, nodes.register("a", 1) as registration:
        assert registration.path == f"{nodes.path}/node-0000000001"
        eventually(lambda: watch.endpoints == ("a:1",))
        assert [(member.name, member.sequence) for member in watch.members] == [("node-0000000001", 1)]
        zk.delete(registration.path)
        wait_for_another(zk, registration, registration.path)
        assert str(registration.path).startswith(f"{nodes.path}/node-")
    assert members(zk, nodes) == []


@pytest.mark.parametrize("prefix", ["", "a/b", "vector_", "v", "\x00"])
def test_a_wrong_member_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(BadValueError, match=r"^member_prefix is "):
        ServerSet("test", "web", member_prefix=prefix)


def test_the_parents_below_a_chroot_are_created(zk: Any, zookeeper: ZooKeeperServer, zk_root: str) -> None:
    zk.ensure_path(zk_root)
    web = ServerSet("test", "web", zookeeper.address + zk_root)
    with web.register("a", 1) as registration:
        assert registration.path == "/discovery/test/web/member_0000000000"
        assert zk.get_children(f"{zk_root}/discovery/test/web") == ["member_0000000000"]
        zk.delete(f"{zk_root}/discovery/test/web/member_0000000000")
        eventually(lambda: zk.get_children(f"{zk_root}/discovery/test/web") == ["member_0000000001"])


def test_a_missing_chroot_is_named_and_not_created(zk: Any, zookeeper: ZooKeeperServer, zk_root: str) -> None:
    web = ServerSet("test", "web", zookeeper.address + zk_root)
    cause = f": the chroot {zk_root} does not exist on {zookeeper.address}"
    with pytest.raises(ZooKeeperError, match=f"cannot register in {web.path}{re.escape(cause)}"):
        web.register("a", 1)
    with pytest.raises(ZooKeeperError, match=f"cannot watch {web.path}{re.escape(cause)}"):
        web.watch()
    assert zk.exists(zk_root) is None


def test_a_chroot_that_is_created_later_is_used(zk: Any, zookeeper: ZooKeeperServer, zk_root: str) -> None:
    web = ServerSet("test", "web", zookeeper.address + zk_root)
    with web.register("a", 1, timeout=None) as registration, web.watch(timeout=None) as watch:
        eventually(lambda: "the chroot" in str(registration.last_error))
        eventually(lambda: "the chroot" in str(watch.last_error))
        zk.ensure_path(zk_root)
        assert registration.wait(PATIENCE)
        eventually(lambda: len(watch.members) == 1)
        eventually(lambda: watch.last_error is None)


def test_a_watch_goes_on_after_its_chroot_was_deleted(
    zk: Any, zookeeper: ZooKeeperServer, zk_root: str
) -> None:
    zk.ensure_path(zk_root)
    web = ServerSet("test", "web", zookeeper.address + zk_root)
    with web.watch() as watch:
        assert watch.last_error is None
        join(zk, f"{zk_root}{web.path}")
        eventually(lambda: len(watch.members) == 1)
        zk.delete(zk_root, recursive=True)
        eventually(lambda: watch.members == ())
        join(zk, f"{zk_root}{web.path}")
        eventually(lambda: len(watch.members) == 1 and watch.last_error is None)


# -- staying registered --------------------------------------------------------------------------------------


def test_close_returns_when_the_znode_is_gone(zk: Any, server_set: Sets) -> None:
    web = server_set()
    keeper = web.register("keeper", 1)  # so that the member is not removed with the session
    for _ in range(20):
        registration = web.register("a", 1)
        path = registration.path
        assert path is not None
        assert zk.exists(path) is not None
        registration.close()
        assert zk.exists(path) is None
        assert (registration.is_registered, registration.is_closed) == (False, True)
        assert registration.last_error is None
        registration.close()  # closing twice is allowed
    assert members(zk, web) == [keeper.path]
    keeper.close()


@pytest.mark.parametrize("count", [1, 20])
def test_it_registers_again_after_a_deletion(
    zk: Any, zookeeper: ZooKeeperServer, server_set: Sets, count: int
) -> None:
    web = server_set()
    watches = zookeeper.count_watches()
    with web.register("a", 1) as registration, MembershipMonitor(zookeeper.address, web.path) as witness:
        for _ in range(count):
            path = registration.path
            assert path is not None
            zk.delete(path)
            wait_for_another(zk, registration, path)
        assert witness.max_present <= 1
        assert witness.longest_gap < 2.0
        eventually(lambda: zookeeper.count_watches() == watches + 1)  # only the last znode is watched


def test_it_registers_again_after_the_set_is_deleted(zk: Any, zk_root: str, server_set: Sets) -> None:
    web = server_set()
    with web.register("a", 1) as registration:
        before = zk.exists(registration.path).czxid
        change = zk.transaction()  # at once, so that it is not registered again before its parents are gone
        for path in (str(registration.path), web.path, f"{zk_root}/test", zk_root):
            change.delete(path)
        change.commit()
        eventually(lambda: zk.exists(registration.path).czxid > before and len(members(zk, web)) == 1)


def test_a_znode_of_another_session_is_not_deleted(
    zk: Any, zookeeper: ZooKeeperServer, server_set: Sets
) -> None:
    with FaultProxy(zookeeper.port) as proxy:
        web = server_set(hosts=proxy.address)
        with web.watch():  # so that the session does not end with the registration
            registration = web.register("a", 1)
            path = registration.path
            proxy.stall()  # so that the registration does not receive the changes
            zk.delete(path)
            zk.create(path, b"another's")
            closing = threading.Thread(target=registration.close)
            closing.start()
            eventually(lambda: is_waiting(closing))
            proxy.resume()
            closing.join()
            assert not registration.is_registered
            assert zk.get(path)[0] == b"another's"


@pytest.mark.parametrize("attempt", range(5))
def test_it_registers_again_soon_after_an_expired_session(
    zk: Any, zookeeper: ZooKeeperServer, server_set: Sets, attempt: int
) -> None:
    with FaultProxy(zookeeper.port) as proxy:
        web = server_set(hosts=proxy.address)
        with (
            web.register("a", 1, shard=attempt) as registration,
            MembershipMonitor(zookeeper.address, web.path) as witness,
        ):
            old = witness.wait_for_one()
            expire_latest_session(proxy)
            eventually(lambda: witness.wait_for_one() != old, 4.0)
            eventually(lambda: members(zk, web) == [registration.path])
            assert registration.last_error is None
            assert witness.max_present == 1
            assert witness.longest_gap < 4.0


# -- many at once --------------------------------------------------------------------------------------------


def sessions(server: ZooKeeperServer) -> set[str]:
    """The sessions with a connection. Some may have been closed recently, so only new ones are counted."""
    return set(re.findall(r"sid=(0x[0-9a-f]+)", server.four_letter("cons")))


def test_a_hundred_registrations_share_one_session(
    zk: Any, zookeeper: ZooKeeperServer, server_set: Sets
) -> None:
    web = server_set()
    before = sessions(zookeeper)
    assert before  # the test's own client has one
    registrations = [web.register("a", port) for port in range(1, 101)]
    (own,) = sessions(zookeeper) - before
    owners = {zk.exists(path).ephemeralOwner for path in members(zk, web)}
    assert (len(members(zk, web)), len(owners)) == (100, 1)
    for registration in registrations:
        registration.close()
    assert members(zk, web) == []
    eventually(lambda: own not in sessions(zookeeper))


def test_many_sets_share_the_callers_client(zk: Any, zookeeper: ZooKeeperServer, server_set: Sets) -> None:
    with client_of(zookeeper.address) as client:
        before = sessions(zookeeper)
        threads = threading.active_count()
        for _ in range(2):
            sets = [server_set(f"s{number}", client=client) for number in range(20)]
            opened = [each.register("a", 1) for each in sets] + [each.watch() for each in sets]
            assert sessions(zookeeper) <= before
            assert threading.active_count() == threads + 1
            owners = {zk.exists(members(zk, each)[0]).ephemeralOwner for each in sets}
            assert owners == {client.client_id[0]}
            for each in opened:
                each.close()
            assert client.connected
            assert [members(zk, each) for each in sets] == [[]] * 20
            eventually(lambda: threading.active_count() == threads)
            assert not client.state_listeners


@repeated_if_late
def test_the_callers_client_may_start_later_and_stop_earlier(
    zk: Any, zookeeper: ZooKeeperServer, server_set: Sets
) -> None:
    with client_of(zookeeper.address) as client:
        client.stop()
        registration = server_set(client=client).register("a", 1, timeout=None)
        client.start()
        assert registration.wait(PATIENCE)
        client.stop()
        began = time.monotonic()
        registration.close(0.1)
        in_time(began, 2.0)
        assert members(zk, server_set()) == []


@pytest.mark.parametrize("_again", range(3))
def test_many_threads_may_register_and_close_at_once(zk: Any, server_set: Sets, _again: int) -> None:
    web, left = server_set(), []

    def work(number: int) -> None:
        for turn in range(10):
            registration = web.register(f"h{number}", turn + 1)
            twin = threading.Thread(target=registration.close)
            twin.start()
            registration.close()
            twin.join()
            if zk.exists(f"{registration.path}") or registration.is_registered:
                left.append(registration)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not left
    assert members(zk, web) == []
    assert not session_threads()
    assert not claimed_paths(web)


def test_a_watch_callback_may_close_it(zk: Any, server_set: Sets) -> None:
    web = server_set(session_timeout=8.0)  # each would wait that long if no thread could run the jobs
    registration, watch = web.register("a", 1), web.watch()
    took: list[float] = []

    def close_all() -> None:
        began = time.monotonic()
        registration.close()
        watch.close()
        took.append(time.monotonic() - began)

    unsubscribe = watch.subscribe(close_all)
    zk.create(f"{web.path}/member_", b"", sequence=True)
    zk.create(f"{web.path}/member_", zk.get(registration.path)[0], ephemeral=True, sequence=True)
    assert eventually(lambda: took)[-1] < 4.0
    unsubscribe()
    assert not registration.is_registered
    assert zk.exists(f"{web.path}/member_0000000000") is None


def test_a_watch_callback_may_register(server_set: Sets) -> None:
    web = server_set()
    opened: list[Registration] = []
    with web.watch() as watch:
        watch.subscribe(
            lambda: opened.append(web.register("b", 2, ping=lambda: True)) if not opened else None
        )
        with web.register("a", 1):
            eventually(lambda: watch.endpoints == ("a:1", "b:2"))
            for registration in opened:
                registration.close()
            eventually(lambda: watch.endpoints == ("a:1",))
    assert len(opened) == 1


def test_register_async_awaits_the_outcome(zk: Any, server_set: Sets) -> None:
    web = server_set()

    async def program() -> str | None:
        async with await web.register_async("a", 1) as registration:
            assert members(zk, web) == [registration.path]
        registration = await web.register_async("b", 1)
        await registration.close_async()
        return registration.path

    assert asyncio.run(program()) is None
    assert members(zk, web) == []


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", ["create", "make the path"])
def test_denied_access_is_reported(zk: Any, zk_root: str, server_set: Sets, request_: str) -> None:
    web = server_set()
    closed = web.path if request_ == "create" else zk_root
    zk.ensure_path(closed)
    zk.set_acls(closed, [make_acl("world", "anyone", read=True, admin=True)])
    try:
        with pytest.raises(ZooKeeperError, match=f"cannot register in {web.path}: .*its ACL") as caught:
            web.register("a", 1)
        assert not isinstance(caught.value, UnreachableError)
        waiting = web.register("a", 1, timeout=None)
        eventually(lambda: isinstance(waiting.last_error, ZooKeeperError))
        assert not waiting.is_registered
    finally:
        zk.set_acls(closed, [make_acl("world", "anyone", all=True)])
    assert waiting.wait(PATIENCE)  # it may now
    waiting.close()
    assert members(zk, web) == []


@repeated_if_late
def test_close_without_permissions_does_not_wait(zk: Any, server_set: Sets) -> None:
    web = server_set(session_timeout=8.0)
    zk.ensure_path(web.path)
    zk.set_acls(web.path, [make_acl("world", "anyone", admin=True)])
    with web.watch(timeout=None):  # so that the znode would not be removed with the session
        began = time.monotonic()
        with pytest.raises(ZooKeeperError, match=r"its ACL"):
            web.register("a", 1)
    zk.set_acls(web.path, [make_acl("world", "anyone", all=True)])
    in_time(began, 4.0)


def test_too_large_data_is_rejected_before_any_request() -> None:
    web = ServerSet("test", "web", "127.0.0.1:1")
    with pytest.raises(BadValueError, match=r"takes 100105 bytes; readers accept at most 65536"):
        web.register("a", 1, metadata={"key": "x" * 100_000})


def test_too_many_additional_endpoints_are_rejected() -> None:
    web = ServerSet("test", "web", "127.0.0.1:1")
    with pytest.raises(BadValueError, match=r"101 additional endpoints; readers accept at most 100"):
        web.register("a", 1, additional={f"e{number}": 1 for number in range(101)})


def test_the_largest_accepted_data_is_registered(zk: Any, server_set: Sets) -> None:
    with server_set().register("a", 1, metadata={"key": "x" * 65_400}) as registration:
        assert len(zk.get(registration.path)[0]) > 65_450


@repeated_if_late
def test_an_unreachable_zookeeper_with_a_timeout_leaves_nothing() -> None:
    web = ServerSet("test", "web", "127.0.0.1:1", session_timeout=2.0)
    for ping in (None, lambda: True, lambda: False):
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"ZooKeeper at 127\.0\.0\.1:1 is unreachable"):
            web.register("a", 1, ping=ping, timeout=0.3)
        in_time(began, 2.0)


def test_without_a_timeout_it_registers_when_zookeeper_appears() -> None:
    server = ZooKeeperServer()
    try:
        web = ServerSet("test", "web", server.address, session_timeout=2.0)
        registration = web.register("a", 1, timeout=None)
        assert not registration.wait(0.1)
        server.start()
        assert registration.wait(PATIENCE)
        registration.close()
    finally:
        server.close()
