"""Watching a set: changes, bad members, and members that stay while ZooKeeper is unreachable."""

import asyncio
import gc
import json
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from kazoo.security import make_acl
from structlog.testing import capture_logs

from tests.serverset.session_helpers import expire_latest_session
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import PATIENCE, eventually, in_time, repeated_if_late
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import client_of
from zkdns import ServerSet, UnreachableError, Watch, ZooKeeperError
from zkdns.balance import LeastRequest, RoundRobin

pytestmark = pytest.mark.usefixtures("leaves_nothing")

Sets = Callable[..., ServerSet]


def data_of(host: str, port: int = 1) -> bytes:
    return f'{{"serviceEndpoint":{{"host":"{host}","port":{port}}},"status":"ALIVE"}}'.encode()


def add(zk: Any, web: ServerSet, data: bytes, name: str = "member_", **options: Any) -> str:
    zk.ensure_path(web.path)
    return str(zk.create(f"{web.path}/{name}", data, sequence=name == "member_", **options))


def sees(watch: Watch, *endpoints: str) -> None:
    """Wait for these endpoints."""
    eventually(lambda: watch.endpoints == endpoints)


def counts(watch: Watch, number: int) -> None:
    """Wait for this number of endpoints."""
    eventually(lambda: len(watch.endpoints) == number)


def test_the_first_set_is_available_at_once(zk: Any, server_set: Sets) -> None:
    web = server_set()
    for host in ("c", "a", "b"):
        add(zk, web, data_of(host))
    with web.watch() as watch:
        assert watch.endpoints == ("a:1", "b:1", "c:1")
        assert [member.name for member in watch.members] == [f"member_000000000{n}" for n in range(3)]
        assert watch.event_count == 1
        assert watch.last_error is None


def test_the_outcome_of_the_first_read_stays_while_a_later_one_runs(
    zookeeper: ZooKeeperServer, zk_root: str
) -> None:
    with FaultProxy(zookeeper.port) as proxy:
        web = ServerSet("test", "web", proxy.address + zk_root, session_timeout=8.0)
        with web.watch(timeout=None) as watch:
            eventually(lambda: "the chroot" in str(watch.last_error))
            proxy.stall()
            time.sleep(1.5)  # after 1 s it is read again, without a response
            with pytest.raises(ZooKeeperError, match="the chroot"):
                watch.wait_for_outcome(10.0)
            proxy.resume()


def test_members_have_all_their_fields(server_set: Sets) -> None:
    web = server_set()
    with (
        web.register("a", 1, additional={"admin": 9990}, shard=3, metadata={"zone": "x"}) as registration,
        web.watch() as watch,
    ):
        (member,) = watch.members
        assert f"{web.path}/{member.name}" == registration.path
        assert (member.shard, member.metadata) == (3, {"zone": "x"})
        assert member.additional["admin"].port == 9990


def test_it_follows_joining_and_leaving_members(server_set: Sets) -> None:
    web = server_set()
    with web.watch() as watch:
        assert watch.endpoints == ()
        first = web.register("a", 1)
        eventually(lambda: watch.endpoints == ("a:1",))
        second = web.register("b", 2)
        eventually(lambda: watch.endpoints == ("a:1", "b:2"))
        first.close()
        eventually(lambda: watch.endpoints == ("b:2",))
        second.close()
        eventually(lambda: watch.endpoints == ())


def test_a_set_may_be_created_later_and_deleted_and_created_again(zk: Any, server_set: Sets) -> None:
    web = server_set()
    with web.watch() as watch:
        assert (watch.endpoints, watch.event_count) == ((), 1)
        for turn in range(5):
            path = add(zk, web, data_of(f"h{turn}"))
            assert path.endswith("member_0000000000")  # the same name each time, with other data
            sees(watch, f"h{turn}:1")
            zk.delete(web.path, recursive=True)
            if turn % 2:
                eventually(lambda: watch.endpoints == ())


def test_children_that_are_no_members_are_counted_and_logged_once(zk: Any, server_set: Sets) -> None:
    web = server_set()
    add(zk, web, data_of("a"))
    add(zk, web, b"{}", "vector_0000000000")
    add(zk, web, b"", "10.0.0.1:80")
    with capture_logs() as logs, web.watch() as watch:
        assert (watch.passed_over.count, watch.passed_over.examples) == (1, ("10.0.0.1:80",))
        add(zk, web, b"", "leader")
        eventually(lambda: watch.passed_over.count == 2)
        zk.delete(web.path, recursive=True)
        eventually(lambda: watch.passed_over.count == 0)
    assert [entry for entry in logs if entry["event"] == "children_passed_over"] == [
        {
            "event": "children_passed_over",
            "log_level": "info",
            "path": web.path,
            "count": 1,
            "example": "10.0.0.1:80",
            "format": "host:port",
        }
    ]


def test_a_set_of_another_format_is_a_warning(zk: Any, server_set: Sets) -> None:
    web = server_set()
    add(zk, web, b"", "server_0000000001")
    with capture_logs() as logs, web.watch() as watch:
        assert (watch.endpoints, watch.passed_over.count) == ((), 1)
    (entry,) = (entry for entry in logs if entry["event"] == "children_passed_over")
    assert (entry["log_level"], entry["example"]) == ("warning", "server_0000000001")


def test_a_name_without_a_sequence_may_return_with_other_data(zk: Any, server_set: Sets) -> None:
    web = server_set()
    add(zk, web, data_of("old"), "member_one")
    with web.watch() as watch:
        for turn in range(20):
            change = zk.transaction()  # at once, so that no listing shows it missing
            change.delete(f"{web.path}/member_one")
            change.create(f"{web.path}/member_one", data_of(f"new{turn}"))
            change.commit()
            sees(watch, f"new{turn}:1")


def test_data_changed_in_place_is_read_again(zk: Any, server_set: Sets) -> None:
    web = server_set()
    path = add(zk, web, data_of("a"))
    with web.watch() as watch:
        for host in ("b", "c"):
            zk.set(path, data_of(host))
            sees(watch, f"{host}:1")
        zk.set(path, data_of("c").replace(b"ALIVE", b"DEAD"))
        eventually(lambda: watch.endpoints == ())
        zk.set(path, b"garbage")
        eventually(lambda: watch.bad_members["json"] == 1)
        zk.set(path, data_of("d"))
        sees(watch, "d:1")


def test_data_changed_during_a_disconnect_is_read_again(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    with FaultProxy(zookeeper.port) as proxy:
        web = ServerSet(
            "test",
            "web",
            proxy.address,
            namespace=f"{zk_root}/{{environment}}/{{service}}",
            session_timeout=4.0,
        )
        path = add(zk, web, data_of("a"))
        with web.watch() as watch:
            sees(watch, "a:1")
            proxy.go_down()
            zk.set(path, data_of("b"))
            proxy.come_up()
            sees(watch, "b:1")


BAD = {
    "empty": b"",
    "json": b'["member"]',
    "thrift": b"\x0c\x00\x01",
    "host": b'{"serviceEndpoint":{"port":1},"status":"ALIVE"}',
    "port": b'{"serviceEndpoint":{"host":"a","port":70000},"status":"ALIVE"}',
    "status": b'{"serviceEndpoint":{"host":"a","port":1},"status":"GONE"}',
}


def test_a_bad_member_does_not_affect_the_others(zk: Any, server_set: Sets) -> None:
    web = server_set()
    for data in BAD.values():
        add(zk, web, data)
    add(zk, web, BAD["json"], "member_one")
    add(zk, web, data_of("good"))
    add(zk, web, b"what other tools keep here", "other")
    add(zk, web, data_of("dead").replace(b"ALIVE", b"DEAD"))
    with web.watch() as watch:
        assert watch.endpoints == ("good:1",)
        expected = {**dict.fromkeys(BAD, 1), "json": 2}
        assert watch.bad_members == expected
        add(zk, web, data_of("next"))
        eventually(lambda: watch.endpoints == ("good:1", "next:1"))
        assert watch.bad_members == expected  # each is counted and logged once


def test_an_invalid_optional_field_costs_only_itself(
    zk: Any, server_set: Sets, caplog: pytest.LogCaptureFixture
) -> None:
    web = server_set()
    data = data_of("a")[:-1] + b',"shard":"x","additionalEndpoints":3}'
    member = add(zk, web, data)
    with caplog.at_level("WARNING"), web.watch() as watch:
        assert watch.endpoints == ("a:1",)
        assert watch.members[0].shard is None
        assert not watch.bad_members
        zk.set(member, data)  # it is read again, but has the same fields
        add(zk, web, data_of("b"))
        eventually(lambda: watch.endpoints == ("a:1", "b:1"))
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == 2
    assert all(text.startswith("zkdns: member_field_ignored ") for text in found)


def test_an_unreadable_member_does_not_affect_the_others(zk: Any, server_set: Sets) -> None:
    web = server_set()
    secret = add(zk, web, data_of("secret"), acl=[make_acl("world", "anyone", admin=True)])
    add(zk, web, data_of("good"))
    with web.watch() as watch:
        assert watch.endpoints == ("good:1",)
        assert watch.bad_members == {"denied": 1}
    zk.set_acls(secret, [make_acl("world", "anyone", all=True)])


def test_it_needs_only_read_permission(zk: Any, server_set: Sets) -> None:
    web = server_set()
    add(zk, web, data_of("a"))
    read_only = [make_acl("world", "anyone", read=True, admin=True)]
    zk.set_acls(web.path, read_only)
    with web.watch() as watch:
        assert watch.endpoints == ("a:1",)
    zk.set_acls(web.path, [make_acl("world", "anyone", all=True)])


def test_it_reports_denied_access_and_reads_as_soon_as_it_may(zk: Any, server_set: Sets) -> None:
    web = server_set()
    add(zk, web, data_of("a"))
    zk.set_acls(web.path, [make_acl("world", "anyone", create=True, admin=True)])
    with pytest.raises(ZooKeeperError, match=f"cannot watch {web.path}: .*its ACL") as caught:
        web.watch()
    assert not isinstance(caught.value, UnreachableError)
    with web.watch(timeout=None) as watch:
        eventually(lambda: watch.last_error is not None)
        received: list[object] = []
        watch.subscribe(lambda: received.append(watch.last_error))
        zk.set_acls(web.path, [make_acl("world", "anyone", all=True)])
        eventually(lambda: watch.endpoints == ("a:1",) and received)
        assert received == [None]  # the error is cleared before subscribers see the members


@repeated_if_late
def test_an_unreachable_zookeeper_is_reported_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(
        UnreachableError, match=r"cannot watch /discovery/test/web: ZooKeeper at 127\.0\.0\.1:1 "
    ):
        ServerSet("test", "web", "127.0.0.1:1", session_timeout=2.0).watch(timeout=0.3)
    in_time(began, 2.0)


def test_members_stay_while_zookeeper_is_unreachable(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    with FaultProxy(zookeeper.port) as proxy:
        web = ServerSet("test", "web", proxy.address + zk_root, session_timeout=2.0)
        zk.ensure_path(f"{zk_root}{web.path}")
        path = f"{zk_root}{web.path}/member_"
        first = zk.create(path, data_of("a"), sequence=True)
        with web.watch() as watch:
            proxy.go_down()
            eventually(lambda: not web.is_connected)
            zk.delete(first)
            zk.create(path, data_of("b"), sequence=True)
            assert not watch.wait(0.3)
            assert watch.endpoints == ("a:1",)
            proxy.come_up()
            eventually(lambda: watch.endpoints == ("b:1",))
            proxy.stall()
            zk.create(path, data_of("c"), sequence=True)
            assert not watch.wait(0.3)
            proxy.resume()
            eventually(lambda: watch.endpoints == ("b:1", "c:1"))


def test_it_follows_over_resets_and_expired_sessions(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    with FaultProxy(zookeeper.port) as proxy:
        web = ServerSet("test", "web", proxy.address + zk_root, session_timeout=2.0)
        zk.ensure_path(f"{zk_root}{web.path}")
        with web.watch() as watch:
            for turn in range(20):
                if turn % 5:
                    proxy.reset()
                else:
                    eventually(lambda: web.is_connected)
                    expire_latest_session(proxy)
                zk.create(f"{zk_root}{web.path}/member_", data_of("a", turn + 1), sequence=True)
                counts(watch, turn + 1)


def test_five_thousand_members_and_a_burst(zk: Any, server_set: Sets) -> None:
    web = server_set()
    zk.ensure_path(web.path)

    def create(first: int, last: int) -> list[str]:
        data = [data_of("h", port) for port in range(first, last + 1)]
        requested = [zk.create_async(f"{web.path}/member_", each, sequence=True) for each in data]
        return [answer.get(timeout=PATIENCE) for answer in requested]

    made = [path for first in range(1, 5000, 1000) for path in create(first, first + 999)]
    with web.watch(timeout=PATIENCE) as watch:
        assert len(watch.endpoints) == 5000
        made += create(5001, 5500)
        eventually(lambda: len(watch.endpoints) == 5500, 60.0)
        assert watch.event_count < 502
        assert watch.bad_members == {}
        for answer in [zk.delete_async(path) for path in made]:
            answer.get(timeout=30.0)
        eventually(lambda: watch.endpoints == (), 60.0)


def test_after_a_burst_of_registrations_the_members_are_current(server_set: Sets) -> None:
    web = server_set()
    with web.watch() as watch:
        seen = list[tuple[str, ...]]()
        iterating = threading.Thread(target=lambda: seen.extend(watch))
        iterating.start()
        registrations = [web.register("a", port) for port in range(1, 31)]
        for registration in registrations[:20]:
            registration.close()
        expected = tuple(sorted(f"a:{port}" for port in range(21, 31)))
        eventually(lambda: watch.endpoints == expected)
    iterating.join()
    assert seen[-1] == expected
    for registration in registrations[20:]:
        registration.close()


def test_a_closed_watch_receives_no_changes(zookeeper: ZooKeeperServer, zk: Any, server_set: Sets) -> None:
    with client_of(zookeeper.address) as client:
        web = server_set(client=client)
        with web.watch() as watch:
            closed = [web.watch() for _ in range(9)]
            for each in closed:
                each.close()
            path = add(zk, web, data_of("a"))
            eventually(lambda: watch.endpoints == ("a:1",))
            assert all(each.endpoints == () for each in closed)
            zk.delete(path)
            eventually(lambda: watch.endpoints == ())
            references = [weakref.ref(each) for each in closed]
            del closed, each
            gc.collect()
            # Neither the session nor the client keeps a callback of a closed watch.
            assert [reference() for reference in references] == [None] * 9


def test_a_subscriber_that_exits_does_not_stop_the_watch(
    zk: Any, server_set: Sets, caplog: pytest.LogCaptureFixture
) -> None:
    web = server_set()
    with web.watch() as watch:
        exits = [SystemExit(1), KeyboardInterrupt(), RuntimeError()]

        def leave() -> None:
            if exits:
                raise exits.pop()

        watch.subscribe(leave)
        for number in range(5):
            add(zk, web, data_of(f"h{number}"))
            counts(watch, number + 1)
    caplog.clear()  # they were logged as errors


def test_a_subscriber_that_exits_at_a_deletion_does_not_hide_the_next_set(
    zk: Any, server_set: Sets, caplog: pytest.LogCaptureFixture
) -> None:
    web = server_set()
    add(zk, web, data_of("a"))
    with web.watch() as watch:
        unsubscribe = watch.subscribe(lambda: sys.exit(1))
        zk.delete(web.path, recursive=True)
        sees(watch)
        eventually(lambda: any("subscriber_failed" in each for each in caplog.messages))
        unsubscribe()
        add(zk, web, data_of("b"))
        sees(watch, "b:1")
    caplog.clear()  # it was logged as an error


def test_watch_async_awaits_the_first_set(zk: Any, server_set: Sets) -> None:
    web = server_set()
    add(zk, web, data_of("a"))

    async def program() -> list[tuple[str, ...]]:
        watch = await web.watch_async()
        seen = []
        async for endpoints in watch:
            seen.append(endpoints)
            if len(seen) == 1:
                await asyncio.to_thread(add, zk, web, data_of("b"))
            else:
                await asyncio.to_thread(watch.close)
        return seen

    assert asyncio.run(program()) == [("a:1",), ("a:1", "b:1")]


# -- weights -----------------------------------------------------------------------------------------------


def vector(*entries: tuple[str, float]) -> bytes:
    written = [{"select": select, "weight": weight, "priority": 1} for select, weight in entries]
    return json.dumps({"vector": written}).encode()


def weighs(watch: Watch, **weights: float) -> None:
    """Wait for members with these weights, by host."""
    eventually(lambda: {one.service.host: one.weight for one in watch.members if one.service} == weights)


def test_members_have_the_weights_of_the_vectors(zk: Any, server_set: Sets) -> None:
    web = server_set()
    for host in "abc":
        add(zk, web, data_of(host))
    path = add(zk, web, vector(("inet=a:1", 2.0), ("member=member_0000000001", 0.0)), "vector_0000000001")
    with web.watch() as watch:
        weighs(watch, a=2.0, b=0.0, c=1.0)
        before = watch.event_count
        zk.set(path, vector(("inet=a:1", 3.0)))  # changed in place
        weighs(watch, a=3.0, b=1.0, c=1.0)
        add(zk, web, vector(("inet=a:1", 0.5), ("inet=c:1", -1.0)), "vector_0000000002")
        weighs(watch, a=1.5, b=1.0, c=-1.0)
        add(zk, web, b"not a vector", "vector_0000000003")
        add(zk, web, data_of("d"))
        weighs(watch, a=1.5, b=1.0, c=-1.0, d=1.0)
        assert watch.bad_members == {"vector": 1}
        zk.delete(path)
        weighs(watch, a=0.5, b=1.0, c=-1.0, d=1.0)
        zk.delete(f"{web.path}/vector_0000000002")
        weighs(watch, a=1.0, b=1.0, c=1.0, d=1.0)
        assert watch.event_count > before


def test_balancers_honour_the_weights_of_a_watch(zk: Any, server_set: Sets) -> None:
    web = server_set()
    for host in "abc":
        add(zk, web, data_of(host))
    path = add(zk, web, vector(("inet=a:1", 2.0), ("inet=b:1", 0.0)), "vector_0000000001")
    with web.watch() as watch:
        rotation, least = RoundRobin(watch), LeastRequest(watch)
        assert Counter(rotation.pick() for _ in range(30)).keys() == {"a:1", "c:1"}
        assert Counter(least.acquire() for _ in range(30)) == {"a:1": 20, "c:1": 10}
        zk.set(path, vector(("inet=a:1", -1.0), ("inet=b:1", 1.0)))
        weighs(watch, a=-1.0, b=1.0, c=1.0)
        assert Counter(rotation.pick() for _ in range(30)) == {"b:1": 15, "c:1": 15}
        assert {least.acquire() for _ in range(5)} <= {"b:1", "c:1"}
