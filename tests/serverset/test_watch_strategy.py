"""The choice of the watch strategy, the fallback, and the audit that detects lost events."""

import gc
import random
import struct
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.serverset.sync_helpers import FollowedTree, Locked, RandomActions, data, join
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns.serverset.kazoo_ext import AddWatch, MultiRead, send_request
from zkdns.serverset.sync.one_shot import OneShotStrategy
from zkdns.serverset.sync.recursive import RecursiveStrategy
from zkdns.serverset.sync.tree import SetNode

Follow = Callable[..., FollowedTree]


@pytest.fixture
def follow(zookeeper: ZooKeeperServer, zk_root: str) -> Follow:
    """Makes a FollowedTree below the test's root."""

    def make(**options: Any) -> FollowedTree:
        return FollowedTree(zookeeper.address, f"{zk_root}/{{environment}}/{{service}}", **options)

    return make


def refusals(logs: list[Any]) -> list[str]:
    """The reasons for one-shot watches."""
    return [entry["reason"] for entry in logs if entry["event"] == "recursive_watch_refused"]


def strategies(logs: list[Any]) -> list[str]:
    """The strategies that were started, without repetitions."""
    return [entry["strategy"] for entry in logs if entry["event"] == "zookeeper_watch_started"]


class RemoveWatches(AddWatch):
    """Remove the watches of a znode, as if the server had lost them."""

    type = 18

    def serialize(self) -> bytes:
        any_type = struct.pack("!i", 3)
        return super().serialize()[: -len(any_type)] + any_type


def remove_watches(tree: FollowedTree, path: str) -> None:
    """Remove the tree's watches of a znode from the server. No event reports that."""
    done: Future[None] = Future()

    def on_response(_: object, error: BaseException | None) -> None:
        done.set_exception(error) if error else done.set_result(None)

    send_request(tree.client, RemoveWatches(path), on_response)
    done.result(10.0)


def test_the_recursive_strategy_is_used_if_possible(follow: Follow) -> None:
    with capture_logs() as logs, follow() as tree:
        tree.wait_live()
        tree.restart()
        tree.wait_live()
    assert strategies(logs) == [RecursiveStrategy.name]
    assert refusals(logs) == []


def test_a_large_tree_costs_one_watch(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, follow: Follow
) -> None:
    for number in range(200):
        join(zk, f"{zk_root}/staging/web{number}")
    before = zookeeper.count_watches()
    with follow() as tree:
        tree.wait_live().wait_equal(zk)
        assert zookeeper.count_watches() - before == 1


def test_a_failed_self_test_leads_to_one_shot_watches(
    zk: Any, zk_root: str, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(zk, f"{zk_root}/staging/web")
    deserialize = MultiRead.deserialize

    def lose_children(self: MultiRead, data: bytes, offset: int) -> list[Any]:
        return [[] if isinstance(found, list) else found for found in deserialize(self, data, offset)]

    monkeypatch.setattr(MultiRead, "deserialize", lose_children)
    with capture_logs() as logs, follow() as tree:
        tree.wait_live().wait_equal(zk)
    assert strategies(logs) == [OneShotStrategy.name]
    assert refusals(logs) == ["multiRead and single reads return different results"]


def test_events_of_other_paths_lead_to_one_shot_watches(zk: Any, zk_root: str, follow: Follow) -> None:
    join(zk, f"{zk_root}/staging/web")
    other = f"{zk_root}-other"
    with capture_logs() as logs, follow() as tree:
        tree.wait_live()
        known = tree.contents
        tree.client.exists(other, watch=lambda _: None)
        zk.create(other, ephemeral=True)
        eventually(lambda: strategies(logs) == [RecursiveStrategy.name, OneShotStrategy.name])
        assert tree.contents == known
        join(zk, f"{zk_root}/staging/web", "10.0.0.2")
        tree.wait_equal(zk)
    assert refusals(logs) == [f"ZooKeeper sent an event for '{other}', which is not below {zk_root}"]


# -- the audit -----------------------------------------------------------------------------------------------


def test_an_audit_repairs_and_counts_changes_without_events(zk: Any, zk_root: str, follow: Follow) -> None:
    web = f"{zk_root}/staging/web"
    members = [join(zk, web, f"10.0.0.{number}") for number in range(3)]
    with capture_logs() as logs, follow(audit_seconds=0.2) as tree:
        tree.wait_live()
        remove_watches(tree, zk_root)
        change = zk.transaction()  # at once, so that no audit sees a part of it
        change.delete(members[0])
        change.set_data(members[1], data("10.0.0.8"))
        change.create(f"{web}/member_", data("10.0.0.9"), sequence=True)
        for path in (f"{zk_root}/prod", f"{zk_root}/prod/web"):
            change.create(path)
        change.create(f"{zk_root}/prod/web/member_", data(), sequence=True)
        assert not [result for result in change.commit() if isinstance(result, Exception)]
        tree.wait_equal(zk)
        # A member has left, one has changed, one has joined, and an environment was created.
        assert tree.sync.repairs == 4
    assert {entry["path"] for entry in logs if entry["log_level"] == "error"} == {zk_root, web}


@pytest.mark.parametrize("recursive", [True, False])
def test_an_audit_during_changes_counts_nothing(
    zk: Any, zk_root: str, follow: Follow, recursive: bool
) -> None:
    with follow(recursive=recursive, audit_seconds=0.02) as tree:
        act = RandomActions(zk, zk_root, tree, random.Random(7))
        for _ in range(300):
            act()
        tree.wait_equal(zk)
        assert tree.sync.repairs == 0


def test_an_audit_does_not_count_unreadable_znodes(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, follow: Follow
) -> None:
    web = f"{zk_root}/staging/web"
    members = [join(zk, web, f"10.0.0.{number}") for number in range(3)]
    join(zk, f"{zk_root}/staging/api")
    with Locked(zookeeper.address, members[0], f"{zk_root}/staging/api"), follow(audit_seconds=0.05) as tree:
        tree.wait_live()
        eventually(lambda: tree.listed[web] > 5)
        assert tree.sync.repairs == 0


# -- the one-shot strategy -----------------------------------------------------------------------------------


def set_nodes(root: str) -> set[str]:
    """The paths of all sets below a znode that anything in this process still refers to."""
    gc.collect()
    return {
        found.path
        for found in gc.get_objects()
        if isinstance(found, SetNode) and found.path.startswith(f"{root}/")
    }


def test_watches_of_deleted_sets_are_forgotten(zk: Any, zk_root: str, follow: Follow) -> None:
    join(zk, f"{zk_root}/staging/web")
    with follow(recursive=False) as tree:
        tree.wait_live()
        for number in range(20):
            join(zk, f"{zk_root}/staging/web{number}")
            zk.create(f"{zk_root}/staging/web{number}/vector_", b"{}")
            tree.wait_equal(zk)
            zk.delete(f"{zk_root}/staging/web{number}", recursive=True)
            tree.wait_equal(zk)
        eventually(lambda: set_nodes(zk_root) == {f"{zk_root}/staging/web"}, interval=0.1)
