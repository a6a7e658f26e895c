"""The highest transaction of a namespace's contents, from which the SOA serial is computed."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.serverset.sync_helpers import (
    FollowedTree,
    content_zxid,
    data,
    delete_at_once,
    join,
    join_many,
    remake,
)
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import client_of
from zkdns.serverset.changes import SetChanged
from zkdns.serverset.sync import SyncState

Follow = Callable[..., FollowedTree]


@pytest.fixture(params=["recursive", "one-shot"])
def follow(request: pytest.FixtureRequest, zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> Follow:
    """Follow all services below the test's root, with one of the strategies."""
    zk.create(zk_root)

    def make() -> FollowedTree:
        template = f"{zk_root}/{{environment}}/{{service}}"
        return FollowedTree(zookeeper.address, template, recursive=request.param == "recursive")

    return make


def test_each_change_is_followed_by_its_transaction(follow: Follow, zk: Any, zk_root: str) -> None:
    web, api = f"{zk_root}/staging/web", f"{zk_root}/prod/api"
    with follow() as tree:
        tree.wait_live()
        member = join(zk, web)
        changes: list[Callable[[], object]] = [
            lambda: zk.set(member, data("10.0.0.2")),
            lambda: join(zk, web),
            lambda: zk.create(f"{web}/other"),
            lambda: zk.create(f"{web}/vector_0000000001", b'{"vector":[]}'),
            lambda: zk.set(f"{web}/vector_0000000001", b'{"vector":[{"select":"shard=1","weight":0.5}]}'),
            lambda: zk.delete(member),
            lambda: join(zk, api),
            lambda: remake(zk, web),
            lambda: delete_at_once(zk, api),
            lambda: zk.delete(f"{zk_root}/prod"),
            lambda: remake(zk, f"{zk_root}/staging"),
            lambda: remake(zk, zk_root),
        ]
        reported = [tree.wait_zxid(zk)]
        for change in changes:
            change()
            reported.append(tree.wait_zxid(zk))
            with follow() as other:
                other.wait_live()
                assert other.zxids == [reported[-1]]
        assert reported == sorted(set(reported))


def test_data_outside_the_contents_changes_nothing(follow: Follow, zk: Any, zk_root: str) -> None:
    web = f"{zk_root}/staging/web"
    join(zk, web)
    zk.create(f"{web}/other")
    with follow() as tree:
        before = tree.wait_live().wait_zxid(zk)
        for path in (web, f"{web}/other", f"{zk_root}/staging", zk_root):
            zk.set(path, b"text")
        zk.create(f"{web}/other/below")
        zk.create(f"{zk_root}-outside", ephemeral=True)
        assert content_zxid(zk, f"{zk_root}/{{environment}}/{{service}}") == before
        join(zk, web)
        assert tree.wait_zxid(zk) > before
        assert len(tree.zxids) == 2


@pytest.mark.parametrize("count", [3, 1500])
def test_one_transaction_is_reported_once_after_all_its_changes(
    follow: Follow, zookeeper: ZooKeeperServer, zk: Any, zk_root: str, count: int
) -> None:
    """The members of one session leave in one transaction, but not in one event."""
    web = f"{zk_root}/staging/web"
    join(zk, web, "10.9.9.9")
    with follow() as tree:
        tree.wait_live()
        with client_of(zookeeper.address) as owner:
            requested = [
                owner.create_async(
                    f"{web}/member_", data(f"10.1.{n // 250}.{n % 250}"), ephemeral=True, sequence=True
                )
                for n in range(count)
            ]
            assert all(result.get(30.0) for result in requested)
            tree.wait_zxid(zk)
            seen = tree.read(lambda: len(tree.log))
        tree.wait_zxid(zk)
        log = tree.read(lambda: tree.log[seen:])
    removed = [len(entry.removed) for entry in log if isinstance(entry, SetChanged)]
    assert sum(removed) == count
    assert isinstance(log[-1], int)
    assert len([entry for entry in log if type(entry) is int]) == 1


def test_a_transaction_is_reported_once_after_a_reconnect(follow: Follow, zk: Any, zk_root: str) -> None:
    web = f"{zk_root}/staging/web"
    paths = join_many(zk, web, 20)
    with follow() as tree:
        before = tree.wait_live().wait_zxid(zk)
        with tree.away():
            for path in paths[:10]:
                zk.delete(path)
            last = content_zxid(zk, f"{zk_root}/{{environment}}/{{service}}")
        tree.wait_equal(zk)
        assert eventually(lambda: tree.zxids[1:]) == [last]
        tree.disconnect()
        assert eventually(lambda: tree.zxids[2:]) == [last]
        assert tree.zxids[0] == before


def test_events_and_the_transaction_wait_while_a_publication_lasts(
    follow: Follow, zk: Any, zk_root: str
) -> None:
    web, api = f"{zk_root}/staging/web", f"{zk_root}/staging/api"
    join(zk, web)
    with follow() as tree:
        tree.wait_live()
        before = tree.wait_zxid(zk)
        tree.is_slow = True
        join(zk, web)
        eventually(lambda: tree.is_busy)
        called: list[int] = []
        log = len(tree.log)
        join(zk, api)
        tree.sync.queue.post_after_batch(lambda: called.append(len(tree.log)))
        eventually(lambda: tree.read(lambda: not tree.sync.is_settled))
        assert tree.read(lambda: (len(tree.log), called, tree.zxids[-1])) == (log, [], before)
        tree.is_slow = False
        tree.finish()
        tree.wait_equal(zk)
        assert tree.wait_zxid(zk) > before
        eventually(lambda: called)
        assert tree.read(lambda: tree.sync.is_settled)
        assert tree.states == [SyncState.LIVE]
