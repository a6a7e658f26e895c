"""Sets with equal settings share a session, and none of its users disturbs another one."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kazoo.security import make_acl

from tests.serverset.session_helpers import expire_latest_session, session_threads
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns import Registration, ServerSet
from zkdns.serverset.auth import Access, Secret
from zkdns.serverset.set_watch import SetWatch

pytestmark = pytest.mark.usefixtures("leaves_nothing")

Sets = Callable[..., ServerSet]
Opened = Registration | SetWatch

SLACK = 4.0  # seconds that a busy machine may take longer; without a limit it would be the session timeout


@pytest.fixture
def proxy(zookeeper: ZooKeeperServer) -> Iterator[FaultProxy]:
    with FaultProxy(zookeeper.port) as started:
        yield started


def names(zk: Any, web: ServerSet) -> list[str]:
    return [f"{web.path}/{name}" for name in sorted(zk.get_children(web.path))]


def test_sixty_sets_share_a_session_and_its_threads(proxy: FaultProxy, server_set: Sets) -> None:
    before = threading.active_count()
    sets = [server_set(f"s{number}", hosts=proxy.address) for number in range(60)]
    with sets[0].watch():
        of_one = threading.active_count() - before
    opened: list[Opened] = [each.register("a", 1) for each in sets]
    opened += [each.watch() for each in sets]
    eventually(lambda: proxy.connections == 1)
    assert threading.active_count() - before == of_one
    assert all(each.is_connected for each in sets)
    for each in opened[:-1]:
        each.close()
    assert (proxy.connections, len(session_threads())) == (1, 1)
    opened[-1].close()
    assert not session_threads()
    eventually(lambda: not proxy.connections)


def test_a_set_may_have_its_own_session(proxy: FaultProxy, server_set: Sets) -> None:
    sets = [server_set(hosts=proxy.address, own_session=True) for _ in range(2)]
    with sets[0].watch(), sets[0].register("a", 1), sets[1].watch(), server_set(hosts=proxy.address).watch():
        eventually(lambda: proxy.connections == 3)


def test_a_session_that_gets_no_thread_starts_with_the_next_user(
    server_set: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to keep a thread that never started, so that later users waited in vain."""
    web, start = server_set(own_session=True), threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "zkdns session":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for begin in (web.watch, lambda: web.register("a", 1)):
            with pytest.raises(RuntimeError):
                begin()
    with web.register("a", 1), web.watch() as watch:
        assert watch.endpoints == ("a:1",)


def test_other_timeouts_and_credentials_have_other_sessions(proxy: FaultProxy, server_set: Sets) -> None:
    def access(digest: str) -> Access:
        return Access(digests=(Secret(digest),))

    sets = [
        server_set(hosts=proxy.address),
        server_set(hosts=proxy.address, session_timeout=3.0),
        server_set(hosts=proxy.address, access=access("ann:a")),
        server_set(hosts=proxy.address, access=access("bob:b")),
    ]
    equal = [
        server_set(hosts=proxy.address, session_timeout=3),
        server_set(hosts=proxy.address, access=access("ann:a")),
    ]
    watches = [each.watch() for each in (*sets, *equal)]
    eventually(lambda: proxy.connections == len(sets))
    for watch in watches:
        watch.close()


def test_a_subscriber_that_blocks_delays_no_one_else(zk: Any, server_set: Sets) -> None:
    web, other = server_set("web"), server_set("other")
    entered, goes_on, calls = threading.Event(), threading.Event(), []

    def block() -> None:
        entered.set()
        goes_on.wait(60.0)

    with web.watch() as watch, other.watch() as elsewhere:
        watch.subscribe(block)
        watch.subscribe(lambda: calls.append(watch.endpoints))
        with web.register("a", 1):
            assert entered.wait(20.0)
            eventually(lambda: calls == [("a:1",)])  # of the same watch
            with web.register("b", 2), other.register("c", 3) as registration:
                eventually(lambda: watch.endpoints == ("a:1", "b:2"))
                eventually(lambda: elsewhere.endpoints == ("c:3",))
                zk.delete(registration.path)
                eventually(lambda: registration.path in names(zk, other))  # registered again
        goes_on.set()


def test_subscribers_are_called_once_a_thread_is_available_again(
    zk: Any, server_set: Sets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    web, start, calls = server_set(), threading.Thread.start, set[str]()

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "zkdns callbacks":
            raise RuntimeError("can't start new thread")
        start(thread)

    with web.register("a", 1) as registration, web.watch() as watch:
        path = registration.path
        watch.subscribe(lambda: calls.add("watch"))
        registration.subscribe(lambda: calls.add("registration"))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            zk.delete(path)
            eventually(lambda: caplog.text.count("subscriber_delayed") >= 2)
            eventually(lambda: registration.path not in (None, path))
            assert not calls
        eventually(lambda: calls == {"registration", "watch"})
    assert "subscriber_failed" not in caplog.text


def test_a_subscriber_that_unsubscribes_gets_no_waiting_calls(server_set: Sets) -> None:
    web = server_set()
    entered, goes_on, calls = threading.Event(), threading.Event(), []

    def block() -> None:
        calls.append(1)
        entered.set()
        goes_on.wait(60.0)

    with web.watch() as watch:
        unsubscribe = watch.subscribe(block)
        with web.register("a", 1), web.register("b", 2):
            assert entered.wait(20.0)
            eventually(lambda: watch.endpoints == ("a:1", "b:2"))
        eventually(lambda: watch.endpoints == ())
        unsubscribe()
        goes_on.set()
        eventually(lambda: not [one for one in threading.enumerate() if one.name == "zkdns callbacks"])
    assert calls == [1]


def test_a_subscriber_that_exits_at_the_end_does_not_keep_the_session(server_set: Sets) -> None:
    watch = server_set().watch()

    def leave() -> None:
        raise SystemExit

    watch.subscribe(leave)
    with pytest.raises(SystemExit):
        watch.close()
    assert not session_threads()


def test_a_refused_user_does_not_delay_the_others(zk: Any, server_set: Sets) -> None:
    refused, web = server_set("refused"), server_set("web")
    zk.ensure_path(refused.path)
    zk.set_acls(refused.path, [make_acl("world", "anyone", admin=True)])
    opened: list[Opened] = [refused.register("a", 1, timeout=None), refused.watch(timeout=None)]
    with web.register("b", 2) as registration, web.watch() as watch:
        eventually(lambda: all(each.last_error for each in opened))
        zk.delete(registration.path)
        eventually(lambda: registration.path in names(zk, web))
        eventually(lambda: watch.endpoints == ("b:2",))
        for each in opened:
            each.close()
        assert registration.is_registered
        assert not watch.is_closed
    zk.set_acls(refused.path, [make_acl("world", "anyone", all=True)])


def test_each_user_recovers_from_an_expired_session(proxy: FaultProxy, zk: Any, server_set: Sets) -> None:
    sets = [server_set(f"s{number}", hosts=proxy.address) for number in range(5)]
    with contextlib.ExitStack() as stack:
        watches = [stack.enter_context(each.watch()) for each in sets]
        registrations = [stack.enter_context(each.register("a", 1)) for each in sets]
        before = [each.path for each in registrations]
        registrations.pop().close()  # it must not come back
        expire_latest_session(proxy)
        for each, own, path in zip(sets, registrations, before, strict=False):
            eventually(lambda: own.path != path and names(zk, each) == [own.path])  # noqa: B023 - called at once
        for own, watch in zip(registrations, watches, strict=False):
            eventually(lambda: [one.name for one in watch.members] == [str(own.path)[-17:]])  # noqa: B023
        assert names(zk, sets[-1]) == []
        assert len({zk.exists(own.path).ephemeralOwner for own in registrations}) == 1


def test_registrations_do_not_mistake_the_znode_of_another_one_for_theirs(zk: Any, server_set: Sets) -> None:
    """When a service is deleted, its numbers begin again, so a path is soon that of another registration."""
    with contextlib.ExitStack() as stack:
        sets = [server_set("web") for _ in range(3)]
        opened = [stack.enter_context(one.register(f"10.0.0.{at}", 80)) for at, one in enumerate(sets)]
        paths = set(names(zk, sets[0]))
        for _ in range(3):
            transaction = zk.transaction()
            for path in reversed(names(zk, sets[0])):  # so that the last one is the first to register again
                transaction.delete(path)
            transaction.delete(sets[0].path)
            transaction.commit()
            eventually(lambda: len(names(zk, sets[0])) == 3 and {one.path for one in opened} == paths)
            data = [zk.get(one.path)[0] for one in opened]
            assert [b"10.0.0.%d" % at in found for at, found in enumerate(data)] == [True] * 3
    assert not zk.get_children(sets[0].path)


@pytest.mark.parametrize("is_last", [True, False])
def test_close_returns_in_time_while_zookeeper_is_paused(
    own_zookeeper: ZooKeeperServer, is_last: bool
) -> None:
    """With the last user the session ends too, which takes kazoo a session timeout."""
    web = ServerSet("test", "web", own_zookeeper.address, session_timeout=20.0)
    other = ServerSet("test", "other", own_zookeeper.address, session_timeout=20.0, own_session=is_last)
    with other.watch(timeout=None):
        registration, watch = (
            web.register("a", 1),
            ServerSet(
                "test", "web", own_zookeeper.address, session_timeout=20.0, own_session=is_last
            ).watch(),
        )
        own_zookeeper.pause()
        try:
            began = time.monotonic()
            watch.close()
            assert time.monotonic() - began < 1.0 + SLACK
            began = time.monotonic()
            registration.close(0.5)
            assert time.monotonic() - began < 0.5 + SLACK
        finally:
            own_zookeeper.resume()
        eventually(own_zookeeper.is_serving)
        eventually(lambda: len(session_threads()) == 1)
