"""A registration is one znode, as go.serversets writes it, for as long as it is wanted."""

import asyncio
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from kazoo.security import ACL, Id, make_acl

from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer, expire_session
from tests.support.zookeeper_clients import MembershipMonitor, client_of
from zkdns import BadValueError, Registration, ServerSet, UnreachableError, ZooKeeperError

pytestmark = pytest.mark.usefixtures("leaves_nothing")

Sets = Callable[..., ServerSet]


def is_idle(server_set: ServerSet) -> bool:
    """Whether its session has nothing to do but to look after its client."""
    session = server_set._session
    return all(job == session._look for _, _, job in list(session._jobs))


def members(zk: Any, server_set: ServerSet) -> list[str]:
    """The paths of all members there are."""
    if zk.exists(server_set.path) is None:
        return []
    return sorted(f"{server_set.path}/{name}" for name in zk.get_children(server_set.path))


def wait_for_another(zk: Any, registration: Registration, old: str) -> None:
    """Wait until it is a znode again, and another one."""
    eventually(lambda: registration.path not in (old, None) and zk.exists(registration.path))


# -- what is written -----------------------------------------------------------------------------------------

# The first two are go.serversets' own examples; its struct gives the order, Finagle the field shard.
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
def test_writes_what_go_serversets_writes(
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


def test_registers_below_a_chroot_that_does_not_exist_yet(
    zk: Any, zookeeper: ZooKeeperServer, zk_root: str
) -> None:
    web = ServerSet("test", "web", zookeeper.address + zk_root)
    with web.register("a", 1) as registration:
        assert registration.path == "/discovery/test/web/member_0000000000"
        assert zk.get_children(f"{zk_root}/discovery/test/web") == ["member_0000000000"]
        zk.delete(f"{zk_root}/discovery/test/web/member_0000000000")
        eventually(lambda: zk.get_children(f"{zk_root}/discovery/test/web") == ["member_0000000001"])


# -- for as long as it is wanted -----------------------------------------------------------------------------


def test_close_returns_when_the_znode_is_gone(zk: Any, server_set: Sets) -> None:
    web = server_set()
    keeper = web.register("keeper", 1)  # so that it does not simply go with the session
    for _ in range(20):
        registration = web.register("a", 1)
        path = registration.path
        assert path is not None
        assert zk.exists(path) is not None
        registration.close()
        assert zk.exists(path) is None
        assert (registration.is_registered, registration.is_closed) == (False, True)
        assert registration.last_error is None
        registration.close()  # once more changes nothing
    assert members(zk, web) == [keeper.path]
    keeper.close()


@pytest.mark.parametrize("count", [1, 20])
def test_comes_back_when_deleted_from_outside(
    zk: Any, zookeeper: ZooKeeperServer, server_set: Sets, count: int
) -> None:
    web = server_set()
    with web.register("a", 1) as registration, MembershipMonitor(zookeeper.address, web.path) as witness:
        for _ in range(count):
            path = registration.path
            assert path is not None
            zk.delete(path)
            wait_for_another(zk, registration, path)
        assert witness.max_present <= 1
        assert witness.longest_gap < 2.0
        client = web._session._client
        assert client is not None
        eventually(lambda: is_idle(web))  # the last one is there, and may not be watched yet
        eventually(lambda: sum(len(watchers) for watchers in client._data_watchers.values()) == 1)


def test_comes_back_when_the_whole_set_is_deleted_from_outside(
    zk: Any, zk_root: str, server_set: Sets
) -> None:
    web = server_set()
    with web.register("a", 1) as registration:
        before = zk.exists(registration.path).czxid
        change = zk.transaction()  # at once, so that it is not back before its parents are gone
        for path in (str(registration.path), web.path, f"{zk_root}/test", zk_root):
            change.delete(path)
        change.commit()
        eventually(lambda: zk.exists(registration.path).czxid > before and len(members(zk, web)) == 1)


def test_does_not_delete_a_znode_that_is_anothers_by_now(zk: Any, server_set: Sets) -> None:
    web = server_set()
    registration = web.register("a", 1)
    setattr(registration, "_fired", lambda _event: None)  # noqa: B010 - as where it is heard too late
    eventually(lambda: is_idle(web))
    path = registration.path
    with web._session._lock:  # the worker cannot find out
        zk.delete(path)
        zk.create(path, b"another's")
        closing = threading.Thread(target=registration.close)
        closing.start()
    closing.join()
    assert zk.get(path)[0] == b"another's"


@pytest.mark.parametrize("attempt", range(5))
def test_comes_back_within_moments_when_its_session_is_expired(
    zk: Any, zookeeper: ZooKeeperServer, server_set: Sets, attempt: int
) -> None:
    web = server_set()
    with web.register("a", 1, shard=attempt) as registration:
        with MembershipMonitor(zookeeper.address, web.path) as witness:
            old = witness.wait_for_one()
            expire_session(web._session._client)
            eventually(lambda: witness.wait_for_one() != old, 4.0)
            eventually(lambda: members(zk, web) == [registration.path])
            assert registration.last_error is None
        assert witness.max_present == 1
        assert witness.longest_gap < 4.0


# -- many ----------------------------------------------------------------------------------------------------


def sessions(server: ZooKeeperServer) -> set[str]:
    """Those with a connection. One that was closed just now may be among them, so count only new ones."""
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


def test_many_sets_share_the_callers_client_which_stays_the_callers(
    zk: Any, zookeeper: ZooKeeperServer, server_set: Sets
) -> None:
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


def test_a_callers_client_may_be_started_later_and_stopped_sooner(
    zk: Any, zookeeper: ZooKeeperServer, server_set: Sets
) -> None:
    with client_of(zookeeper.address) as client:
        client.stop()
        registration = server_set(client=client).register("a", 1, timeout=None)
        client.start()
        assert registration.wait(10.0)
        client.stop()
        began = time.monotonic()
        registration.close(0.1)
        assert time.monotonic() - began < 2.0
        assert members(zk, server_set()) == []


@pytest.mark.parametrize("_again", range(3))
def test_opens_and_closes_from_many_threads_at_once(zk: Any, server_set: Sets, _again: int) -> None:
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
    assert not web._session._jobs
    assert not web._session.claimed


def test_closes_from_a_callback_of_a_watch(zk: Any, server_set: Sets) -> None:
    web = server_set(session_timeout=8.0)  # so long would each wait where nobody can do what it waits for
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


def test_registers_from_a_callback_of_a_watch(server_set: Sets) -> None:
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


def test_awaits(zk: Any, server_set: Sets) -> None:
    web = server_set()

    async def program() -> str | None:
        async with await web.register_async("a", 1) as registration:
            assert members(zk, web) == [registration.path]
        registration = await web.register_async("b", 1)
        await registration.close_async()
        return registration.path

    assert asyncio.run(program()) is None
    assert members(zk, web) == []


# -- what cannot be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["create", "make the path"])
def test_says_that_it_may_not(zk: Any, zookeeper: ZooKeeperServer, zk_root: str, way: str) -> None:
    web = ServerSet(
        "test",
        "web",
        zookeeper.address,
        namespace=f"{zk_root}/{{environment}}/{{service}}",
        session_timeout=2,
    )
    closed = web.path if way == "create" else zk_root
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
    assert waiting.wait(10.0)  # it may now
    waiting.close()
    assert members(zk, web) == []


def test_who_may_do_nothing_there_need_not_wait_for_closing(zk: Any, server_set: Sets) -> None:
    web = server_set(session_timeout=8.0)
    zk.ensure_path(web.path)
    zk.set_acls(web.path, [make_acl("world", "anyone", admin=True)])
    with web.watch(timeout=None):  # so that the znode would not simply go with the session
        began = time.monotonic()
        with pytest.raises(ZooKeeperError, match=r"its ACL"):
            web.register("a", 1)
        assert time.monotonic() - began < 4.0
    zk.set_acls(web.path, [make_acl("world", "anyone", all=True)])


def test_what_is_too_large_is_refused_before_anything_is_asked() -> None:
    web = ServerSet("test", "web", "127.0.0.1:1")
    with pytest.raises(BadValueError, match=r"takes 1000105 bytes; ZooKeeper accepts less than 1 MB"):
        web.register("a", 1, metadata={"key": "x" * 1_000_000})


def test_the_largest_that_is_accepted_is_registered(zk: Any, server_set: Sets) -> None:
    with server_set().register("a", 1, metadata={"key": "x" * 999_880}) as registration:
        assert len(zk.get(registration.path)[0]) > 999_900


def test_unreachable_with_a_timeout_leaves_nothing() -> None:
    web = ServerSet("test", "web", "127.0.0.1:1", session_timeout=2.0)
    for ping in (None, lambda: True, lambda: False):
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"ZooKeeper at 127\.0\.0\.1:1 cannot be reached"):
            web.register("a", 1, ping=ping, timeout=0.3)
        assert time.monotonic() - began < 2.0


def test_unreachable_without_a_timeout_is_registered_when_zookeeper_appears() -> None:
    server = ZooKeeperServer()
    try:
        web = ServerSet("test", "web", server.address, session_timeout=2.0)
        registration = web.register("a", 1, timeout=None)
        assert not registration.wait(0.1)
        server.start()
        assert registration.wait(15.0)
        registration.close()
    finally:
        server.close()
